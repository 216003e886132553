//! How bytes, datagrams and FINs get from one socket of the loopback world to the other.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use dmm_proto::fifo::datagram::Header;
use dmm_proto::fifo::{State, TxFifo};
use nix::errno::Errno;

use super::world::{Fifos, Held, Key, Kind, Peer, Stream, World, tell};

impl World {
    /// Moves bytes, datagrams and FINs as far as room allows. Returns whether anything moved.
    pub fn pump(&mut self) -> bool {
        let mut moved = false;
        for key in self.sockets.keys().copied().collect::<Vec<_>>() {
            // Taken out, so that its peer can be borrowed beside it.
            let Some(mut held) = self.sockets.remove(&key) else { continue };
            let before = held.fifos().map(|fifos| {
                fifos.tx.refresh().unwrap();
                fifos.tx.queued()
            });
            match &mut held.kind {
                Kind::Stream(stream) => moved |= self.pump_stream(key, stream),
                Kind::Datagram { fifos, peer, troubled } => {
                    moved |= self.pump_datagrams(held.local, fifos, (*peer, troubled));
                }
                Kind::Listener { .. } | Kind::Nowhere => {}
            }
            let mut look = false;
            if let Kind::Datagram { troubled, .. } = &mut held.kind {
                look = std::mem::take(troubled);
            }
            if let (Some(fifos), Some(before)) = (held.fifos(), before) {
                let granted = fifos.tx.grant();
                let room = granted || fifos.tx.queued() < before;
                look |= room && fifos.tx.take_wanted();
            }
            self.sockets.insert(key, held);
            if look {
                self.look(key);
            }
        }
        for (mut tx, peer) in std::mem::take(&mut self.lingering) {
            moved |= self.move_bytes(&mut tx, peer);
            if tx.queued() > 0 && self.sockets.contains_key(&peer) {
                self.lingering.push((tx, peer));
            } else {
                self.finish(peer);
            }
        }
        moved
    }

    fn pump_stream(&mut self, key: Key, stream: &mut Stream) -> bool {
        match stream.peer {
            Peer::Awaited => false,
            Peer::Linked(peer) => {
                let moved = self.move_bytes(&mut stream.fifos.tx, peer);
                if stream.finishing && !stream.finished && stream.fifos.tx.queued() == 0 {
                    stream.finished = true;
                    self.finish(peer);
                }
                moved
            }
            Peer::Gone => {
                let queued = usize::try_from(stream.fifos.tx.queued()).unwrap();
                if queued > 0 {
                    // Bytes for a socket that is gone are answered with a reset.
                    stream.fifos.tx.consume(queued);
                    stream.fifos.daemon.error.store(Errno::ECONNRESET as u32, Ordering::Relaxed);
                    stream.fifos.daemon.raise(State::BROKEN);
                    tell(&mut self.completions, key, stream.socket, &stream.fifos);
                }
                queued > 0
            }
        }
    }

    fn move_bytes(&mut self, tx: &mut TxFifo, peer: Key) -> bool {
        let reader = self.sockets.get_mut(&peer);
        let hears =
            |held: &&mut Held| !matches!(&held.kind, Kind::Stream(Stream { deaf: true, .. }));
        let Some(rx) = reader.filter(hears).and_then(Held::fifos) else {
            let queued = usize::try_from(tx.queued()).unwrap();
            tx.consume(queued);
            return false;
        };
        if rx.stalled {
            return false;
        }
        rx.rx.refresh().unwrap();
        let mut buffer = vec![0; usize::try_from(tx.queued()).unwrap().min(256 * 1024)];
        let there = tx.copy_out(0, &mut buffer);
        let mut written = rx.rx.write(&buffer[..there]);
        if written < there {
            rx.rx.stall();
            rx.rx.refresh().unwrap();
            written += rx.rx.write(&buffer[written..there]);
            rx.stalled = written < there;
        }
        tx.consume(written);
        if rx.rx.publish() {
            self.look(peer);
        }
        written > 0
    }

    fn pump_datagrams(
        &mut self,
        from: SocketAddr,
        fifos: &mut Fifos,
        (peer, troubled): (Option<SocketAddr>, &mut bool),
    ) -> bool {
        let mut moved = false;
        while let Some(header) = fifos.tx.next_datagram().unwrap() {
            moved = true;
            let mut payload = vec![0; header.len];
            fifos.tx.copy_payload(&mut payload);
            fifos.tx.consume_datagram(&header);
            let Some(to) = header.peer.map(|peer| peer.0).or(peer) else { continue };
            let found = self.sockets.iter_mut().find_map(|(key, held)| match &mut held.kind {
                Kind::Datagram { fifos, peer, .. }
                    if held.local.port() == to.port() && peer.is_none_or(|peer| peer == from) =>
                {
                    Some((*key, &mut fifos.rx))
                }
                _ => None,
            });
            let Some((key, rx)) = found else {
                // Nobody is there, as the network says of a connected socket's datagrams.
                if peer == Some(to) {
                    fifos.daemon.report(Errno::ECONNREFUSED as u32);
                    *troubled = true;
                }
                continue;
            };
            rx.refresh().unwrap();
            let header =
                Header { len: payload.len(), peer: Some(from.into()), local: Some(to.into()) };
            if rx.write_datagram(&header, &payload) && rx.publish() {
                self.look(key);
            }
        }
        moved
    }
}
