//! What joins a stack of the daemon under test with its peer: the kernel, or another daemon.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde_json::{Value, json};

/// What joins a stack's port with its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A TAP device, whose other side is in the daemon's namespace.
    Tap,
    /// A packet socket on a veth pair, whose other end is in a namespace of its own.
    AfPacket,
    /// The back end of vhost-user; the front end is another daemon's.
    Vhost,
    /// The front end of vhost-user; the back end is another daemon's.
    VirtioUser,
    /// The server's end of a memif connection; the client's is another daemon's.
    Memif,
}

impl PortKind {
    /// Whether the peer is another daemon, and not the kernel.
    #[must_use]
    pub const fn joins_daemons(self) -> bool {
        matches!(self, Self::Vhost | Self::VirtioUser | Self::Memif)
    }

    /// Whether the daemon under test can only start once its peer listens.
    #[must_use]
    pub const fn needs_its_peer(self) -> bool {
        matches!(self, Self::VirtioUser)
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both address families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A subnet with the peer at its one end and a stack at the other.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Makes the subnets differ.
    number: u8,
    /// What the link is made of.
    pub kind: PortKind,
}

impl Link {
    /// Link `number` of a lab.
    #[must_use]
    pub const fn new(number: u8, kind: PortKind) -> Self {
        Self { number, kind }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.number
    }

    /// The peer's address.
    #[must_use]
    pub fn peer(self, family: Family) -> IpAddr {
        self.host(family, 1)
    }

    /// The address of the stack.
    #[must_use]
    pub fn stack(self, family: Family) -> IpAddr {
        self.host(family, 2)
    }

    /// An address that nobody has.
    #[must_use]
    pub fn nobody(self, family: Family) -> IpAddr {
        self.host(family, 77)
    }

    /// The address of all stations of its IPv4 subnet.
    #[must_use]
    pub fn broadcast(self) -> IpAddr {
        self.host(Family::V4, 255)
    }

    fn host(self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 80, self.number, host).into(),
            Family::V6 => {
                let subnet = 0x80 + u16::from(self.number);
                Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, u16::from(host)).into()
            }
        }
    }

    /// The interface by which the kernel reaches the stack.
    #[must_use]
    pub fn kernel_interface(self) -> String {
        match self.kind {
            PortKind::AfPacket => format!("far{}", self.number),
            _ => format!("tap{}", self.number),
        }
    }

    /// The veth interface that the daemon's packet socket uses.
    #[must_use]
    pub fn near_interface(self) -> String {
        format!("near{}", self.number)
    }

    /// The port of the daemon under test. Sockets are in `folder`.
    #[must_use]
    pub fn near_port(self, folder: &Path) -> Value {
        let number = self.number;
        self.port(match self.kind {
            PortKind::Tap => format!("net_tap{number},iface=tap{number}"),
            PortKind::AfPacket => format!("net_af_packet{number},iface=near{number}"),
            PortKind::Vhost | PortKind::Memif => self.listening(number, &folder.join("near")),
            PortKind::VirtioUser => self.coming(number, &folder.join("near")),
        })
    }

    /// The port of the other daemon, which meets the first one's or, on a cable, the cable's.
    #[must_use]
    pub fn far_port(self, folder: &Path, on_cable: bool) -> Value {
        let number = self.number;
        self.port(match self.kind {
            _ if on_cable => self.listening(number, &folder.join("far")),
            PortKind::VirtioUser => self.listening(number, &folder.join("near")),
            _ => self.coming(number, &folder.join("near")),
        })
    }

    /// The two devices of a cable between the daemons.
    #[must_use]
    pub fn cable_ends(self, folder: &Path) -> [String; 2] {
        [self.coming(0, &folder.join("near")), self.coming(1, &folder.join("far"))]
    }

    /// The device that listens, as number `number` of its process.
    fn listening(self, number: u8, socket: &Path) -> String {
        let socket = socket.display();
        match self.kind {
            PortKind::Memif => memif(number, "server", socket),
            _ => format!("net_vhost{number},iface={socket}"),
        }
    }

    /// The device that connects to where the other listens.
    fn coming(self, number: u8, socket: &Path) -> String {
        let socket = socket.display();
        match self.kind {
            PortKind::Memif => memif(number, "client", socket),
            // The driver would draw an address of its own at each start.
            _ => format!("net_virtio_user{number},path={socket},mac=02:00:00:00:80:{number:02x}"),
        }
    }

    fn port(self, device: String) -> Value {
        json!({"name": format!("p{}", self.number), "device": device})
    }

    /// The stack at the link's near end.
    #[must_use]
    pub fn near_stack(self, cores: &[usize]) -> Value {
        self.stack_config(cores, Self::stack)
    }

    /// The stack of the other daemon.
    #[must_use]
    pub fn far_stack(self, cores: &[usize]) -> Value {
        self.stack_config(cores, Self::peer)
    }

    fn stack_config(self, cores: &[usize], address: impl Fn(Self, Family) -> IpAddr) -> Value {
        let prefixes = [(Family::V4, 24), (Family::V6, 64)];
        let addresses = prefixes.map(|(family, bits)| format!("{}/{bits}", address(self, family)));
        json!({
            "name": format!("s{}", self.number), "kind": stack_kind(),
            "port": format!("p{}", self.number), "cores": cores, "addresses": addresses,
        })
    }
}

/// The kind of every stack: `native`, or what `DMM_TEST_STACK` says.
fn stack_kind() -> String {
    std::env::var("DMM_TEST_STACK").unwrap_or_else(|_| "native".to_owned())
}

fn memif(number: u8, role: &str, socket: impl Display) -> String {
    format!("net_memif{number},role={role},socket={socket},socket-abstract=no")
}
