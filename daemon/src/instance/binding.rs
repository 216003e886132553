//! Which ports of a stack are taken, across all its shards.
//!
//! One table a stack, locked for the moment of a bind or a close, never on the data path. UDP ports
//! additionally name their home shard in plain words that the steering reads for each datagram.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, Ordering};

use dmm_port::flow::{Flow, Transport, lands_on};
use nix::errno::Errno;

use crate::session::SessionId;

/// First and last port that the stack chooses by itself (Linux's `ip_local_port_range`).
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Who holds a port: the same on all shards of one listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The client.
    pub session: SessionId,
    /// Its socket.
    pub slot: u32,
    /// The slot's generation.
    pub generation: u32,
}

/// What binding found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The address, with the port chosen.
    Here(SocketAddr),
    /// The UDP port's home is another shard.
    Elsewhere(usize),
}

struct Binding {
    address: IpAddr,
    holder: Holder,
    /// The user whose other sockets may have the same, if it lets them.
    sharer: Option<u32>,
    /// Shards that hold it.
    shards: u32,
}

/// The ports of one stack.
pub struct Bindings {
    taken: Mutex<HashMap<(Transport, u16), Vec<Binding>>>,
    /// Home shard plus one of each UDP port, 0 for none.
    udp_homes: Box<[AtomicU8]>,
}

impl Default for Bindings {
    fn default() -> Self {
        Self {
            taken: Mutex::default(),
            udp_homes: (0..=u16::MAX).map(|_| AtomicU8::new(0)).collect(),
        }
    }
}

impl Bindings {
    /// Takes `local` for `holder` on `shard`; port 0 means any free one, searched from `start` on.
    /// `EADDRINUSE` as bind(2) says it: the same port on the same address, or on all, unless the user `sharer`
    /// has both and lets both share it (`SO_REUSEPORT` in socket(7)).
    pub fn bind(
        &self,
        transport: Transport,
        (local, sharer): (SocketAddr, Option<u32>),
        holder: Holder,
        shard: usize,
        start: u16,
    ) -> Result<Bound, Errno> {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if local.port() != 0 {
            return self.take(&mut taken, transport, (local, sharer), holder, shard);
        }
        for port in ephemeral_from(start) {
            let mut local = local;
            local.set_port(port);
            let free = !taken.contains_key(&(transport, port));
            if free {
                return self.take(&mut taken, transport, (local, sharer), holder, shard);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    fn take(
        &self,
        taken: &mut HashMap<(Transport, u16), Vec<Binding>>,
        transport: Transport,
        (local, sharer): (SocketAddr, Option<u32>),
        holder: Holder,
        shard: usize,
    ) -> Result<Bound, Errno> {
        let home = &self.udp_homes[usize::from(local.port())];
        let shard_word = u8::try_from(shard + 1).expect("shards are few");
        if transport == Transport::Udp {
            match home.load(Ordering::Acquire) {
                0 => {}
                word if word == shard_word => {}
                word => return Ok(Bound::Elsewhere(usize::from(word) - 1)),
            }
        }
        let bindings = taken.entry((transport, local.port())).or_default();
        for binding in bindings.iter_mut() {
            if binding.holder == holder && binding.address == local.ip() {
                binding.shards += 1;
                return Ok(Bound::Here(local));
            }
            let shared = sharer.is_some() && binding.sharer == sharer;
            if collide(binding.address, local.ip()) && !shared {
                return Err(Errno::EADDRINUSE);
            }
        }
        bindings.push(Binding { address: local.ip(), holder, sharer, shards: 1 });
        if transport == Transport::Udp {
            home.store(shard_word, Ordering::Release);
        }
        Ok(Bound::Here(local))
    }

    /// Gives back what [`Bindings::bind`] took on one shard.
    pub fn release(&self, transport: Transport, local: SocketAddr, holder: Holder) {
        let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = (transport, local.port());
        let Some(bindings) = taken.get_mut(&key) else { return };
        for binding in bindings.iter_mut() {
            if binding.holder == holder && binding.address == local.ip() {
                binding.shards -= 1;
            }
        }
        bindings.retain(|binding| binding.shards > 0);
        if bindings.is_empty() {
            taken.remove(&key);
            if transport == Transport::Udp {
                self.udp_homes[usize::from(local.port())].store(0, Ordering::Release);
            }
        }
    }

    /// The home shard of a UDP port, if a socket is bound to it.
    pub fn udp_home(&self, port: u16) -> Option<usize> {
        usize::from(self.udp_homes[usize::from(port)].load(Ordering::Acquire)).checked_sub(1)
    }

    /// A port for a connection from `source` to `remote` whose flow lands on `shard` of `shards`,
    /// searched from `start` on; `in_use` says which local addresses a connection to `remote` has.
    pub fn ephemeral(
        &self,
        source: IpAddr,
        remote: SocketAddr,
        (shard, shards): (usize, usize),
        start: u16,
        in_use: impl Fn(SocketAddr) -> bool,
    ) -> Option<SocketAddr> {
        let taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ephemeral_from(start).map(|port| SocketAddr::new(source, port)).find(|&local| {
            lands_on(&Flow { local, remote }, shard, shards)
                && !taken.contains_key(&(Transport::Tcp, local.port()))
                && !in_use(local)
        })
    }
}

fn collide(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
}

fn ephemeral_from(start: u16) -> impl Iterator<Item = u16> {
    let (first, count) = (*EPHEMERAL.start(), EPHEMERAL.end() - EPHEMERAL.start() + 1);
    (0..count).map(move |step| {
        let offset = (u32::from(start) + u32::from(step)) % u32::from(count);
        first + u16::try_from(offset).expect("below count")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(slot: u32) -> Holder {
        Holder { session: SessionId(1), slot, generation: 1 }
    }

    fn bind(bindings: &Bindings, local: &str, slot: u32) -> Result<Bound, Errno> {
        bindings.bind(Transport::Tcp, (local.parse().unwrap(), None), holder(slot), 0, 0)
    }

    #[test]
    fn wildcard_and_specific_addresses_collide() {
        let bindings = Bindings::default();
        assert!(bind(&bindings, "10.0.0.1:80", 1).is_ok());
        assert!(bind(&bindings, "10.0.0.2:80", 2).is_ok());
        assert!(bind(&bindings, "[fd00::1]:80", 3).is_ok());
        assert_eq!(bind(&bindings, "10.0.0.1:80", 4), Err(Errno::EADDRINUSE));
        assert_eq!(bind(&bindings, "0.0.0.0:80", 4), Err(Errno::EADDRINUSE));
        assert!(bind(&bindings, "0.0.0.0:81", 4).is_ok());
    }

    #[test]
    fn a_listener_holds_its_port_until_the_last_shard_lets_go() {
        let bindings = Bindings::default();
        let local = "0.0.0.0:80".parse().unwrap();
        for shard in 0..2 {
            let bound = bindings.bind(Transport::Tcp, (local, None), holder(1), shard, 0);
            assert_eq!(bound, Ok(Bound::Here(local)));
        }
        bindings.release(Transport::Tcp, local, holder(1));
        assert_eq!(bind(&bindings, "0.0.0.0:80", 2), Err(Errno::EADDRINUSE));
        bindings.release(Transport::Tcp, local, holder(1));
        assert!(bind(&bindings, "0.0.0.0:80", 2).is_ok());
    }

    #[test]
    fn who_shares_is_of_one_user_and_said_so() {
        let bindings = Bindings::default();
        let local: SocketAddr = "10.0.0.1:53".parse().unwrap();
        let any = "0.0.0.0:53".parse().unwrap();
        let bind = |local, sharer, slot| {
            bindings.bind(Transport::Udp, (local, sharer), holder(slot), 0, 0).map(drop)
        };
        assert_eq!(bind(local, Some(7), 1), Ok(()));
        assert_eq!(bind(local, Some(7), 2), Ok(()));
        assert_eq!(bind(any, Some(7), 3), Ok(()));
        assert_eq!(bind(local, Some(8), 4), Err(Errno::EADDRINUSE), "another user");
        assert_eq!(bind(local, None, 4), Err(Errno::EADDRINUSE), "who did not say so");
        for (at, slot) in [(local, 1), (any, 3), (local, 2)] {
            bindings.release(Transport::Udp, at, holder(slot));
        }
        assert_eq!(bind(local, None, 4), Ok(()));
        assert_eq!(bind(local, Some(7), 5), Err(Errno::EADDRINUSE), "the first did not");
    }

    #[test]
    fn a_udp_port_has_one_home() {
        let bindings = Bindings::default();
        let local: SocketAddr = "10.0.0.1:53".parse().unwrap();
        let bound = bindings.bind(Transport::Udp, (local, None), holder(1), 1, 0);
        assert_eq!((bound, bindings.udp_home(53)), (Ok(Bound::Here(local)), Some(1)));
        let other = "10.0.0.2:53".parse().unwrap();
        let bound = bindings.bind(Transport::Udp, (other, None), holder(2), 0, 0);
        assert_eq!(bound, Ok(Bound::Elsewhere(1)));
        bindings.release(Transport::Udp, local, holder(1));
        assert_eq!(bindings.udp_home(53), None);
    }

    #[test]
    fn chosen_ports_are_free_and_land_on_the_shard() {
        let bindings = Bindings::default();
        let remote = "10.0.0.9:80".parse().unwrap();
        let source = "10.0.0.1".parse().unwrap();
        for shard in 0..2 {
            let local = bindings.ephemeral(source, remote, (shard, 2), 7, |_| false).unwrap();
            assert!(lands_on(&Flow { local, remote }, shard, 2));
            let next = bindings.ephemeral(source, remote, (shard, 2), 7, |l| l == local).unwrap();
            assert_ne!(next, local);
        }
        let any = ("0.0.0.0:0".parse().unwrap(), None);
        let any = bindings.bind(Transport::Tcp, any, holder(1), 0, 28_231);
        let Ok(Bound::Here(any)) = any else { panic!("{any:?}") };
        assert!(EPHEMERAL.contains(&any.port()));
    }
}
