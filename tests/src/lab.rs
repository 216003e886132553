//! A daemon with stacks, its peers on the other side of its ports, and a place for its clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cable::Cable;
use crate::command::program;
use crate::daemon::Daemon;
use crate::deadline::eventually;
pub use crate::link::{FAMILIES, Family, Link, PortKind};
use crate::namespace::{LinkCounters, Namespace};
use crate::program::Program;

/// Which side's program connects; the other's listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The client of the daemon under test connects to the peer's server.
    LibraryConnects,
    /// The peer's client connects to the server of the daemon under test.
    PeerConnects,
}

/// Both roles.
pub const ROLES: [Role; 2] = [Role::LibraryConnects, Role::PeerConnects];

/// A daemon and its surroundings; all of it goes when dropped.
pub struct Lab {
    /// First, so that it ends before the namespaces do.
    pub daemon: Daemon,
    /// The links, in the order of the stacks, which are called `s0`, `s1`, ...
    pub links: Vec<Link>,
    /// The bad cable, if there is one.
    pub cable: Option<Cable>,
    /// The other daemon, if that is the peer, and not the kernel.
    pub far: Option<Daemon>,
    /// Where the daemon is.
    pub home: Arc<Namespace>,
    peer: Namespace,
    clients: Namespace,
    _sockets: TempDir,
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
        let ground = Ground::new();
        for link in links.iter().filter(|link| link.kind == PortKind::AfPacket) {
            let (near, far) = (link.near_interface(), link.kernel_interface());
            ground.home.join(&near, &ground.peer, &far);
        }
        let config = ground.config(&links, instances);
        Self::start(links, &config, ground, instances)
    }

    /// As [`Lab::new`], with packet memory in huge pages and nowhere else.
    ///
    /// # Panics
    /// If there are too few, among other things.
    #[must_use]
    pub fn in_huge_pages(kind: PortKind, instances: usize) -> Self {
        let links = vec![Link::new(0, kind)];
        let ground = Ground::new();
        let mut config = ground.config(&links, instances);
        config["memory"]["hugepages"] = json!("require");
        Self::start(links, &config, ground, instances)
    }

    /// As [`Lab::new`], with `tcp` tuned so, and nothing that the kernel does to packets of several segments at
    /// once.
    ///
    /// # Panics
    /// If any of it cannot be set up.
    #[must_use]
    pub fn with_tcp(kind: PortKind, instances: usize, tcp: &Value) -> Self {
        let link = Link::new(0, kind);
        let ground = Ground::new();
        if kind == PortKind::AfPacket {
            ground.home.join(&link.near_interface(), &ground.peer, &link.kernel_interface());
        }
        let mut config = ground.config(&[link], instances);
        config["stacks"][0]["tcp"] = tcp.clone();
        let lab = Self::start(vec![link], &config, ground, instances);
        let (kernel, interface) = (lab.kernel(), link.kernel_interface());
        kernel.without_offloads(&interface);
        // Its TCP makes packets of several segments for any device, which the firewall would take as one.
        kernel.ip(&format!("link set {interface} gso_max_segs 1"));
        lab
    }

    /// A daemon with one stack, joined with its peer by a `dmm-wire` with these options: by a packet
    /// socket with the kernel, or by any port with another daemon.
    #[must_use]
    pub fn on_cable(kind: PortKind, options: &str, instances: usize) -> Self {
        Self::on_cable_with_tcp(kind, options, instances, &json!({}))
    }

    /// As [`Lab::on_cable`], with `tcp` tuned so.
    #[must_use]
    pub fn on_cable_with_tcp(kind: PortKind, options: &str, instances: usize, tcp: &Value) -> Self {
        let link = Link::new(0, kind);
        let ground = Ground::new();
        let mut config = ground.config(&[link], instances);
        config["stacks"][0]["tcp"] = tcp.clone();
        if kind.joins_daemons() {
            let daemon = Daemon::start(&ground.home, &config);
            let far = ground.far_config(&[link], instances, true);
            let far = Daemon::start(&ground.home, &far);
            let [left, right] = link.cable_ends(ground.sockets.path());
            let cable = Cable::between(&left, &right, options);
            let lab = Self::put_together(vec![link], daemon, ground, Some(far), Some(cable));
            lab.wait_for_links();
            return lab;
        }
        let (near, far) = (link.near_interface(), link.kernel_interface());
        let cable = Cable::join((&ground.home, &near), (&ground.peer, &far), options);
        ground.home.ip(&format!("link set {near} up"));
        let daemon = Daemon::start(&ground.home, &config);
        let lab = Self::put_together(vec![link], daemon, ground, None, Some(cable));
        lab.configure(link);
        lab
    }

    fn start(links: Vec<Link>, config: &Value, ground: Ground, instances: usize) -> Self {
        if !links.iter().any(|link| link.kind.joins_daemons()) {
            let daemon = Daemon::start(&ground.home, config);
            let lab = Self::put_together(links, daemon, ground, None, None);
            lab.links.iter().for_each(|link| lab.configure(*link));
            return lab;
        }
        let far = ground.far_config(&links, instances, false);
        let start = |config| Daemon::start(&ground.home, config);
        // Who listens, starts first.
        let (daemon, far) = if links.iter().any(|link| link.kind.needs_its_peer()) {
            let far = start(&far);
            (start(config), far)
        } else {
            (start(config), start(&far))
        };
        let lab = Self::put_together(links, daemon, ground, Some(far), None);
        lab.wait_for_links();
        lab
    }

    fn put_together(
        links: Vec<Link>,
        daemon: Daemon,
        ground: Ground,
        far: Option<Daemon>,
        cable: Option<Cable>,
    ) -> Self {
        let Ground { home, peer, sockets } = ground;
        let clients = Namespace::new("clients");
        Self { daemon, links, cable, far, home, peer, clients, _sockets: sockets }
    }

    /// Waits until both daemons' ports are joined.
    pub fn wait_for_links(&self) {
        eventually("links between the daemons", || {
            let daemons = [Some(&self.daemon), self.far.as_ref()].into_iter().flatten();
            let ports = daemons.flat_map(|daemon| daemon.status().ports);
            match ports.filter(|port| !port.link_up).map(|port| port.device).next() {
                Some(down) => Err(format!("{down} is down")),
                None => Ok(()),
            }
        });
    }

    /// The first link.
    #[must_use]
    pub fn link(&self) -> Link {
        self.links[0]
    }

    /// Gives the kernel's side of a link its addresses: at the start, and when a TAP is new.
    pub fn configure(&self, link: Link) {
        let [v4, v6] = FAMILIES.map(|family| link.peer(family));
        let interface = link.kernel_interface();
        self.kernels_end(link).configure(&interface, &format!("{v4}/24"), &format!("{v6}/64"));
    }

    /// A program at the other end of `link`, on the sockets of the kernel or of the other daemon.
    #[must_use]
    pub fn peer(&self, link: Link, arguments: &str) -> Program {
        if let Some(far) = &self.far {
            return self.client_of(far, arguments);
        }
        let mut command = self.kernels_end(link).command(program("dmm-peer"));
        command.args(["--via", "kernel"]).args(arguments.split(' '));
        Program::start(command)
    }

    /// A program on the library's sockets.
    #[must_use]
    pub fn library(&self, arguments: &str) -> Program {
        self.client_of(&self.daemon, arguments)
    }

    fn client_of(&self, daemon: &Daemon, arguments: &str) -> Program {
        let mut command = self.clients.command(program("dmm-peer"));
        command.env("DMM_SOCKET", daemon.socket());
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
                let mut server = self.peer(link, &listen(link.peer(family)));
                let client = self.library(&connect(server.ready()));
                Pair { server, client }
            }
            Role::PeerConnects => {
                let mut server = self.library(&listen(link.stack(family)));
                let client = self.peer(link, &connect(server.ready()));
                Pair { server, client }
            }
        }
    }

    /// The peer's counters of its end of a link.
    #[must_use]
    pub fn peer_counters(&self, link: Link) -> LinkCounters {
        match &self.far {
            Some(far) => link_counters(far, self.index_of(link)),
            None => self.kernels_end(link).link_counters(&link.kernel_interface()),
        }
    }

    /// The daemon's counters of its end of a link.
    #[must_use]
    pub fn daemon_counters(&self, link: Link) -> LinkCounters {
        link_counters(&self.daemon, self.index_of(link))
    }

    fn index_of(&self, link: Link) -> usize {
        self.links.iter().position(|l| l.number() == link.number()).expect("a link of this lab")
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

    /// The namespace of the kernel that is the peer on the first link.
    #[must_use]
    pub fn kernel(&self) -> &Namespace {
        self.kernels_end(self.link())
    }

    fn kernels_end(&self, link: Link) -> &Namespace {
        match link.kind {
            PortKind::AfPacket => &self.peer,
            _ => &self.home,
        }
    }
}

/// Where daemons are put.
struct Ground {
    home: Arc<Namespace>,
    peer: Namespace,
    /// Where daemons that are joined meet.
    sockets: TempDir,
}

impl Ground {
    fn new() -> Self {
        let sockets = tempfile::Builder::new().prefix("dmm-tests-").tempdir();
        Self {
            home: Arc::new(Namespace::new("home")),
            peer: Namespace::new("peer"),
            sockets: sockets.expect("the temporary folder can be written"),
        }
    }

    /// The configuration of the daemon under test, with a stack for each link.
    fn config(&self, links: &[Link], instances: usize) -> Value {
        config_in(links, instances, self.sockets.path())
    }

    /// The other daemon's.
    fn far_config(&self, links: &[Link], instances: usize, on_cable: bool) -> Value {
        // From the other end, so that two daemons with one instance each need not share a core.
        let cores: Vec<usize> = allowed_cores().into_iter().rev().cycle().take(instances).collect();
        let port = |link: &Link| link.far_port(self.sockets.path(), on_cable);
        json!({
            "ports": links.iter().map(port).collect::<Vec<_>>(),
            "stacks": links.iter().map(|link| link.far_stack(&cores)).collect::<Vec<_>>(),
            "memory": {"hugepages": "never"},
        })
    }
}

fn link_counters(daemon: &Daemon, port: usize) -> LinkCounters {
    let stats = daemon.status().ports[port].stats;
    LinkCounters {
        rx_packets: stats.rx_frames,
        rx_bytes: stats.rx_bytes,
        tx_packets: stats.tx_frames,
        tx_bytes: stats.tx_bytes,
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

/// A configuration with a stack for each link, which the kernel joins. Its instances go to as many
/// cores as there are, and share them if there are too few.
#[must_use]
pub fn config(links: &[Link], instances: usize) -> Value {
    config_in(links, instances, Path::new(""))
}

fn config_in(links: &[Link], instances: usize, sockets: &Path) -> Value {
    let cores = cores_for(instances);
    json!({
        "ports": links.iter().map(|link| link.near_port(sockets)).collect::<Vec<_>>(),
        "stacks": links.iter().map(|link| link.near_stack(&cores)).collect::<Vec<_>>(),
        "memory": {"hugepages": "never"},
    })
}

fn cores_for(instances: usize) -> Vec<usize> {
    allowed_cores().into_iter().cycle().take(instances).collect()
}

fn allowed_cores() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).expect("our own affinity");
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}
