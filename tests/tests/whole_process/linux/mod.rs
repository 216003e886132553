//! The native stack's TCP with Linux's as its peer, over a TAP device and a veth pair, in both roles: what they agree on,
//! and what it comes to, seen on the wire.
//!
//! A test holds both ends of its connections itself: ours by the library, the kernel's in the namespace where the
//! interface is.

mod ecn;
mod fast_open;
mod keepalive;
mod loss;
mod options;
mod records;
mod sack;
mod windows;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use dmm::{Client, ConnectOptions};
use dmm_tests::firewall::Firewall;
use dmm_tests::lab::{Family, Lab, PortKind, Role};
use dmm_tests::sniffer::{Packet, Sniffer};
use serde_json::Value;

/// How long a read may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a test of each of these functions, which take a kind of port, for a TAP device and a veth pair.
macro_rules! over_tap_and_veth {
    ($($scenario:ident),* $(,)?) => {
        $(mod $scenario {
            use dmm_tests::lab::PortKind;

            #[test]
            fn over_tap() {
                super::$scenario(PortKind::Tap);
            }

            #[test]
            fn over_veth() {
                super::$scenario(PortKind::AfPacket);
            }
        })*
    };
}

use over_tap_and_veth;

/// A daemon, its client, the kernel, and what passes between them.
struct World {
    sniffer: Sniffer,
    client: Client,
    /// The kernel's.
    interface: String,
    lab: Lab,
}

/// A connection, whose ends are both the test's.
struct Joined {
    ours: dmm::TcpStream,
    theirs: TcpStream,
    /// Our address.
    us: SocketAddr,
    /// The kernel's.
    them: SocketAddr,
}

impl World {
    /// With `tcp` in the stack's configuration.
    fn new(kind: PortKind, tcp: &Value) -> Self {
        Self::of(Lab::with_tcp(kind, 1, tcp))
    }

    fn of(lab: Lab) -> Self {
        let client = Client::attach(lab.daemon.socket()).expect("the daemon listens");
        let interface = lab.link().kernel_interface();
        Self { sniffer: Sniffer::start(lab.kernel()), client, interface, lab }
    }

    /// What the kernel does to packets on their way.
    fn firewall(&self) -> Firewall<'_> {
        Firewall::new(self.lab.kernel(), &self.interface)
    }

    /// Any port of ours.
    fn us(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.lab.link().stack(family), 0)
    }

    /// Any port of the kernel's.
    fn them(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.lab.link().peer(family), 0)
    }

    /// A listener of the kernel's.
    fn kernel_listens(&self, family: Family) -> TcpListener {
        let at = self.them(family);
        self.lab.kernel().within(|| TcpListener::bind(at)).expect("its address")
    }

    /// A listener of ours.
    fn we_listen(&self, family: Family) -> dmm::TcpListener {
        self.client.listen(None, self.us(family)).expect("our address")
    }

    fn joined(&self, family: Family, role: Role) -> Joined {
        match role {
            Role::LibraryConnects => {
                self.connect(&self.kernel_listens(family), &ConnectOptions::default())
            }
            Role::PeerConnects => self.accept(&self.we_listen(family)),
        }
    }

    /// We connect.
    fn connect(&self, to: &TcpListener, options: &ConnectOptions) -> Joined {
        let them = to.local_addr().expect("it listens");
        let ours = self.client.start_connect_with(None, them, options).expect("it is reachable");
        ours.wait_connected(Some(PATIENCE)).expect("it listens");
        let (theirs, us) = to.accept().expect("somebody connected");
        Joined::new(ours, theirs, us, them)
    }

    /// The kernel connects.
    fn accept(&self, by: &dmm::TcpListener) -> Joined {
        let us = by.local_addr().expect("it listens");
        let theirs = self.lab.kernel().within(|| TcpStream::connect(us)).expect("we listen");
        let (ours, them) = by.accept().expect("somebody connected");
        Joined::new(ours, theirs, us, them)
    }

    /// The SYN and its answer.
    fn handshake(&self, of: &Joined) -> (Packet, Packet) {
        self.sniffer.wait("the handshake", |packets| {
            let syn = |answers: bool| {
                let mut all = packets.iter().filter(|packet| of.has(packet));
                all.find(|packet| packet.flags.syn && packet.flags.ack == answers).cloned()
            };
            syn(false).zip(syn(true))
        })
    }

    /// All segments of a connection so far.
    fn packets(&self, of: &Joined) -> Vec<Packet> {
        let mut packets = self.sniffer.packets();
        packets.retain(|packet| of.has(packet));
        packets
    }
}

impl Joined {
    fn new(ours: dmm::TcpStream, theirs: TcpStream, us: SocketAddr, them: SocketAddr) -> Self {
        ours.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        theirs.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        Self { ours, theirs, us, them }
    }

    /// Whether a packet is this connection's.
    fn has(&self, packet: &Packet) -> bool {
        let ends = (packet.from, packet.to);
        ends == (self.us, self.them) || ends == (self.them, self.us)
    }

    /// Whether a packet is ours.
    fn is_ours(&self, packet: &Packet) -> bool {
        packet.from == self.us
    }

    /// So many bytes of ours arrive as they are.
    fn we_send(&self, bytes: usize) {
        pass(&self.ours, &self.theirs, bytes);
    }

    /// So many bytes of the kernel's.
    fn kernel_sends(&self, bytes: usize) {
        pass(&self.theirs, &self.ours, bytes);
    }
}

/// Bytes that repeat with no power of two.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ (at / 251)) as u8).collect()
}

fn pass(mut from: impl Write + Send, mut to: impl Read, bytes: usize) {
    let sent = pattern(bytes);
    let mut received = vec![0; bytes];
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| from.write_all(&sent));
        to.read_exact(&mut received).expect("all bytes arrive");
        sending.join().expect("it does not panic").expect("all bytes can be sent");
    });
    assert!(sent == received, "what arrived is not what was sent");
}

/// How far a number is ahead of another.
fn ahead(number: u32, of: u32) -> i64 {
    i64::from(number.wrapping_sub(of).cast_signed())
}
