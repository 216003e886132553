//! A daemon with stacks, the kernel on the other side of its ports, and a place for its clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cable::Cable;
use crate::command::program;
use crate::daemon::Daemon;
use crate::deadline::eventually;
use crate::namespace::{LinkCounters, Namespace};
use crate::program::Program;

/// What joins a stack's port with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A TAP device, whose other side is in the daemon's namespace.
    Tap,
    /// A packet socket on a veth pair, whose other end is in a namespace of its own.
    AfPacket,
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

/// Which side's program connects; the other's listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The library's client connects to the kernel's server.
    LibraryConnects,
    /// The kernel's client connects to the library's server.
    KernelConnects,
}

/// Both roles.
pub const ROLES: [Role; 2] = [Role::LibraryConnects, Role::KernelConnects];

/// A subnet with the kernel at its one end and a stack at the other.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    /// Makes the subnets differ.
    number: u8,
    /// What the link is made of.
    pub kind: PortKind,
}

/// A daemon and its surroundings; all of it goes when dropped.
pub struct Lab {
    /// First, so that it ends before the namespaces do.
    pub daemon: Daemon,
    /// The links, in the order of the stacks, which are called `s0`, `s1`, ...
    pub links: Vec<Link>,
    /// The bad cable, if there is one.
    pub cable: Option<Cable>,
    /// Where the daemon is.
    pub home: Arc<Namespace>,
    peer: Namespace,
    clients: Namespace,
}

impl Link {
    /// Link `number` of a lab.
    #[must_use]
    pub const fn new(number: u8, kind: PortKind) -> Self {
        Self { number, kind }
    }

    /// The address of the kernel.
    #[must_use]
    pub fn kernel(self, family: Family) -> IpAddr {
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
    fn kernel_interface(self) -> String {
        match self.kind {
            PortKind::Tap => format!("tap{}", self.number),
            PortKind::AfPacket => format!("far{}", self.number),
        }
    }

    /// The interface that the daemon's port uses.
    fn daemon_interface(self) -> String {
        match self.kind {
            PortKind::Tap => format!("tap{}", self.number),
            PortKind::AfPacket => format!("near{}", self.number),
        }
    }

    fn device(self) -> String {
        let (number, interface) = (self.number, self.daemon_interface());
        match self.kind {
            PortKind::Tap => format!("net_tap{number},iface={interface}"),
            PortKind::AfPacket => format!("net_af_packet{number},iface={interface}"),
        }
    }

    fn port(self) -> Value {
        json!({"name": format!("p{}", self.number), "device": self.device()})
    }

    fn stack_config(self, cores: &[usize]) -> Value {
        let prefixes = [(Family::V4, 24), (Family::V6, 64)];
        let addresses = prefixes.map(|(family, bits)| format!("{}/{bits}", self.stack(family)));
        json!({
            "name": format!("s{}", self.number), "kind": "smoltcp",
            "port": format!("p{}", self.number), "cores": cores, "addresses": addresses,
        })
    }
}

impl Lab {
    /// A daemon with one stack of `instances` instances on one port.
    #[must_use]
    pub fn new(kind: PortKind, instances: usize) -> Self {
        Self::with_links(&[kind], instances)
    }

    /// A daemon with a stack of `instances` instances on each of these ports.
    ///
    /// # Panics
    /// If any of it cannot be set up.
    #[must_use]
    pub fn with_links(kinds: &[PortKind], instances: usize) -> Self {
        let links: Vec<Link> =
            (0..).zip(kinds).map(|(number, &kind)| Link::new(number, kind)).collect();
        let (home, peer) = (Namespace::new("home"), Namespace::new("peer"));
        for link in links.iter().filter(|link| link.kind == PortKind::AfPacket) {
            home.join(&link.daemon_interface(), &peer, &link.kernel_interface());
        }
        let config = config(&links, instances);
        Self::start(links, &config, home, peer, None)
    }

    /// As [`Lab::new`], with packet memory in huge pages and nowhere else.
    ///
    /// # Panics
    /// If there are too few, among other things.
    #[must_use]
    pub fn in_huge_pages(kind: PortKind, instances: usize) -> Self {
        let links = vec![Link::new(0, kind)];
        let mut config = config(&links, instances);
        config["memory"]["hugepages"] = json!("require");
        Self::start(links, &config, Namespace::new("home"), Namespace::new("peer"), None)
    }

    /// A daemon with one stack, whose packet socket is joined with the kernel by a
    /// `dmm-wire` with these options.
    #[must_use]
    pub fn on_cable(options: &str, instances: usize) -> Self {
        let link = Link::new(0, PortKind::AfPacket);
        let (home, peer) = (Namespace::new("home"), Namespace::new("peer"));
        let (near, far) = (link.daemon_interface(), link.kernel_interface());
        let cable = Cable::join((&home, &near), (&peer, &far), options);
        home.ip(&format!("link set {near} up"));
        let config = config(&[link], instances);
        Self::start(vec![link], &config, home, peer, Some(cable))
    }

    fn start(
        links: Vec<Link>,
        config: &Value,
        home: Namespace,
        peer: Namespace,
        cable: Option<Cable>,
    ) -> Self {
        let home = Arc::new(home);
        let daemon = Daemon::start(&home, config);
        let clients = Namespace::new("clients");
        let lab = Self { daemon, links, cable, home, peer, clients };
        for link in &lab.links {
            lab.configure(*link);
        }
        lab
    }

    /// The first link.
    #[must_use]
    pub fn link(&self) -> Link {
        self.links[0]
    }

    /// Gives the kernel's side of a link its addresses: at the start, and when a TAP is new.
    pub fn configure(&self, link: Link) {
        let [v4, v6] = FAMILIES.map(|family| link.kernel(family));
        let interface = link.kernel_interface();
        self.kernel_side(link).configure(&interface, &format!("{v4}/24"), &format!("{v6}/64"));
    }

    /// A program on the kernel's sockets, at the other end of `link`.
    #[must_use]
    pub fn kernel(&self, link: Link, arguments: &str) -> Program {
        let mut command = self.kernel_side(link).command(program("dmm-peer"));
        command.args(["--via", "kernel"]).args(arguments.split(' '));
        Program::start(command)
    }

    /// A program on the library's sockets.
    #[must_use]
    pub fn library(&self, arguments: &str) -> Program {
        let mut command = self.clients.command(program("dmm-peer"));
        command.env("DMM_SOCKET", self.daemon.socket());
        command.args(["--via", "dmm"]).args(arguments.split(' '));
        Program::start(command)
    }

    /// Starts a server and then a client that connects to it, on the first link.
    #[must_use]
    pub fn pair(&self, family: Family, role: Role, server: &str, client: &str) -> Pair {
        let link = self.link();
        let listen = |address: IpAddr| format!("--listen {} {server}", SocketAddr::new(address, 0));
        let connect = |to: SocketAddr| format!("--connect {to} {client}");
        match role {
            Role::LibraryConnects => {
                let mut server = self.kernel(link, &listen(link.kernel(family)));
                let client = self.library(&connect(server.ready()));
                Pair { server, client }
            }
            Role::KernelConnects => {
                let mut server = self.library(&listen(link.stack(family)));
                let client = self.kernel(link, &connect(server.ready()));
                Pair { server, client }
            }
        }
    }

    /// The kernel's counters of its end of a link.
    #[must_use]
    pub fn kernel_counters(&self, link: Link) -> LinkCounters {
        self.kernel_side(link).link_counters(&link.kernel_interface())
    }

    /// What the daemon holds for clients.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let status = self.daemon.status();
        Holdings {
            sessions: status.sessions,
            client_sockets: status.sockets,
            stack_sockets: status.stacks.iter().map(|stack| stack.sockets).sum(),
            orphans: status.orphans,
            chunks: status.chunks_used,
        }
    }

    /// Waits until the daemon holds exactly this again.
    pub fn wait_for_holdings(&self, wanted: &Holdings) {
        self.wait_for_holdings_ignoring(wanted, |_| ());
    }

    /// As [`Lab::wait_for_holdings`], but for what `ignore` makes equal in both.
    pub fn wait_for_holdings_ignoring(&self, wanted: &Holdings, ignore: impl Fn(&mut Holdings)) {
        let seen = |mut holdings: Holdings| {
            ignore(&mut holdings);
            holdings
        };
        let wanted = seen(wanted.clone());
        eventually("the return of what clients held", || {
            let now = seen(self.holdings());
            if now == wanted { Ok(()) } else { Err(format!("{now:?}, not {wanted:?}")) }
        });
    }

    /// The counters of the daemon whose value is not 0, for messages.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.daemon.stats().counters;
        counters.retain(|_, value| *value > 0);
        counters
    }

    fn kernel_side(&self, link: Link) -> &Namespace {
        match link.kind {
            PortKind::Tap => &self.home,
            PortKind::AfPacket => &self.peer,
        }
    }
}

/// A server and its client.
pub struct Pair {
    /// The program that listens.
    pub server: Program,
    /// The program that connects.
    pub client: Program,
}

/// What the daemon holds for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Sessions.
    pub sessions: u64,
    /// Sockets of clients.
    pub client_sockets: u64,
    /// Sockets of stacks, those included that no client has any more (TIME-WAIT among them).
    pub stack_sockets: u64,
    /// Connections without a client.
    pub orphans: u64,
    /// Chunks.
    pub chunks: u64,
}

/// A configuration with a stack for each link. Its instances go to as many cores as there are, and
/// share them if there are too few.
#[must_use]
pub fn config(links: &[Link], instances: usize) -> Value {
    let allowed = allowed_cores();
    let cores: Vec<usize> = allowed.iter().copied().cycle().take(instances).collect();
    json!({
        "ports": links.iter().map(|link| link.port()).collect::<Vec<_>>(),
        "stacks": links.iter().map(|link| link.stack_config(&cores)).collect::<Vec<_>>(),
        "memory": {"hugepages": "never"},
    })
}

fn allowed_cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("our own affinity");
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}
