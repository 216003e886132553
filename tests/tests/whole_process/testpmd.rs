//! `dpdk-testpmd` as the peer: what it counts, and what we count, is the same to the packet.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use dmm::{Client, UdpSocket};
use dmm_tests::command::{output, program};
use dmm_tests::daemon::Daemon;
use dmm_tests::deadline::eventually;
use dmm_tests::namespace::Namespace;
use dmm_tests::testpmd::Testpmd;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Makes a test of each of these functions, over vhost-user and over memif.
macro_rules! on_both_wires {
    ($($scenario:ident),* $(,)?) => {
        $(mod $scenario {
            #[test]
            fn vhost_user() {
                super::$scenario(super::Wire::VhostUser);
            }

            #[test]
            fn memif() {
                super::$scenario(super::Wire::Memif);
            }
        })*
    };
}

on_both_wires!(
    pings_are_answered,
    datagrams_come_back_unchanged,
    a_flood_is_accounted_for_to_the_packet,
    what_is_sent_is_counted_there,
    a_killed_peer_comes_back,
);

const OURS: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 2);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);
const THEIR_MAC: &str = "02:00:00:00:80:01";
/// UDP ports of the flood: from and to.
const FLOOD_PORTS: (u16, u16) = (9, 4000);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wire {
    VhostUser,
    Memif,
}

/// A daemon whose port waits for testpmd.
struct Ground {
    wire: Wire,
    daemon: Daemon,
    folder: TempDir,
}

impl Ground {
    fn new(wire: Wire) -> Self {
        let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().expect("writable");
        let socket = folder.path().join("port").display().to_string();
        let device = match wire {
            Wire::VhostUser => format!("net_vhost0,iface={socket}"),
            Wire::Memif => format!("net_memif0,role=server,socket={socket},socket-abstract=no"),
        };
        // 5tswap and txonly answer no ARP.
        let config = json!({
            "ports": [{"name": "p0", "device": device}],
            "stacks": [{
                "name": "s0", "kind": "native", "port": "p0", "addresses": [format!("{OURS}/24")],
                "neighbours": [{"address": THEIRS, "mac": THEIR_MAC}],
                "udp": {"rx_buffer": 1 << 22, "tx_buffer": 1 << 22},
            }],
            "memory": {"hugepages": "never"},
        });
        let daemon = Daemon::start(&Arc::new(Namespace::new("home")), &config);
        Self { wire, daemon, folder }
    }

    /// testpmd at the other end, once the link is up.
    fn testpmd(&self, mode: &str, options: &[&str]) -> Testpmd {
        let socket = self.folder.path().join("port").display().to_string();
        let device = match self.wire {
            Wire::VhostUser => format!("net_virtio_user0,path={socket},mac={THEIR_MAC}"),
            Wire::Memif => {
                format!("net_memif0,role=client,socket={socket},socket-abstract=no,mac={THEIR_MAC}")
            }
        };
        let testpmd = Testpmd::start(&device, mode, options);
        self.wait_for_link(true);
        testpmd
    }

    fn wait_for_link(&self, up: bool) {
        eventually("a change of the link", || {
            let port = &self.daemon.status().ports[0];
            if port.link_up == up { Ok(()) } else { Err(format!("up: {}", port.link_up)) }
        });
    }

    fn dmm(&self, words: &str) -> Value {
        let mut command = Command::new(program("dmm"));
        command.arg("--json").arg("--socket").arg(self.daemon.socket()).args(words.split(' '));
        let output = output(&mut command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "dmm {words}: {stderr}{:?}", self.drops());
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// All reasons for which something was dropped.
    fn drops(&self) -> BTreeMap<String, u64> {
        let admin = dmm_admin::Admin::connect(&self.daemon.socket()).expect("the daemon listens");
        let drops = admin.drops().expect("the daemon answers").drops;
        assert!(drops.iter().all(|drop| !drop.meaning.is_empty()), "{drops:?}");
        drops.into_iter().filter(|d| d.count > 0).map(|d| (d.name, d.count)).collect()
    }

    fn socket(&self, port: u16) -> UdpSocket {
        let client = Client::attach(self.daemon.socket()).expect("the daemon runs");
        client.bind_udp(None, SocketAddr::new(IpAddr::V4(OURS), port)).expect("a free port")
    }
}

fn pings_are_answered(wire: Wire) {
    let ground = Ground::new(wire);
    let mut testpmd = ground.testpmd("icmpecho", &[]);
    testpmd.forward();
    let summary = ground.dmm(&format!("ping {THEIRS} --count 100 --interval 0 --size 1400"));
    assert_eq!((&summary["sent"], &summary["received"]), (&json!(100), &json!(100)));
    let counted = testpmd.stop();
    assert_eq!((counted.rx, counted.tx, counted.tx_dropped), (100, 100, 0));
}

fn datagrams_come_back_unchanged(wire: Wire) {
    const DATAGRAMS: u64 = 100_000;
    let ground = Ground::new(wire);
    let mut testpmd = ground.testpmd("5tswap", &[]);
    testpmd.forward();
    // It checks every byte of what comes back.
    let report = ground
        .dmm(&format!("echo client --udp {THEIRS}:7 --size 512 --depth 16 --count {DATAGRAMS}"));
    for (key, value) in [("messages", DATAGRAMS), ("errors", 0), ("lost", 0)] {
        assert_eq!(report[key], json!(value), "{report}: {:?}", ground.drops());
    }
    let counted = testpmd.stop();
    assert!(counted.rx >= DATAGRAMS, "{counted:?}");
    assert_eq!((counted.tx, counted.tx_dropped), (counted.rx, 0));
}

fn a_flood_is_accounted_for_to_the_packet(wire: Wire) {
    const ENOUGH: u64 = 500_000;
    let ground = Ground::new(wire);
    let socket = ground.socket(FLOOD_PORTS.1);
    socket.set_nonblocking(true).expect("always possible");
    let mac = ground.daemon.status().ports[0].mac.clone();
    let options = [
        "--txpkts=64".to_owned(),
        format!("--eth-peer=0,{mac}"),
        format!("--tx-ip={THEIRS},{OURS}"),
        format!("--tx-udp={},{}", FLOOD_PORTS.0, FLOOD_PORTS.1),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let mut testpmd = ground.testpmd("txonly", &options);
    let before = ground.drops();
    testpmd.forward();
    let mut received = 0;
    while ground.daemon.status().ports[0].stats.rx_frames < ENOUGH {
        received += receive_some(&socket);
    }
    let sent = testpmd.stop().tx;

    // The rest is on its way: to the socket, or to a counter.
    let dropped = || -> u64 {
        let drops = ground.drops();
        drops.iter().map(|(name, count)| count - before.get(name).copied().unwrap_or(0)).sum()
    };
    eventually("the last packet", || {
        received += receive_some(&socket);
        match received + dropped() {
            all if all == sent => Ok(()),
            found => Err(format!("{found} of {sent}: {received} and {:?}", ground.drops())),
        }
    });
    assert!(received > 0 && sent >= ENOUGH, "{received} of {sent}");
    println!("{sent} sent, {received} received, dropped: {:?}", ground.drops());
}

/// Receives some datagrams of the flood, none perhaps.
fn receive_some(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 64];
    for received in 0..4096 {
        match socket.recv_from(&mut buffer) {
            // 64 bytes of frame, less the headers.
            Ok(got) => assert_eq!(got, (22, SocketAddr::new(THEIRS.into(), FLOOD_PORTS.0))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return received,
            Err(error) => panic!("{error}"),
        }
    }
    4096
}

fn what_is_sent_is_counted_there(wire: Wire) {
    const DATAGRAMS: u64 = 50_000;
    let ground = Ground::new(wire);
    let socket = ground.socket(0);
    let mut testpmd = ground.testpmd("rxonly", &[]);
    testpmd.forward();
    for number in 0..DATAGRAMS {
        let sent = socket.send_to(&number.to_be_bytes(), (THEIRS, 9)).expect("there is a route");
        assert_eq!(sent, 8);
    }
    let sent = || ground.daemon.stats().counters["stack.s0.0.tx.udp_datagrams"];
    eventually("the last datagram", || match sent() {
        DATAGRAMS => Ok(()),
        fewer => Err(format!("{fewer}")),
    });
    let lost = ground.drops().get("drop.tx_ring_full").copied().unwrap_or(0);
    let ours = ground.daemon.status().ports[0].stats.tx_frames;
    assert_eq!(ours + lost, DATAGRAMS);
    eventually("the same count there", || match testpmd.so_far() {
        counted if counted.rx == ours => Ok(()),
        counted => Err(format!("{counted:?}, not {ours}")),
    });
    assert_eq!(testpmd.stop().rx, ours);
}

fn a_killed_peer_comes_back(wire: Wire) {
    let ground = Ground::new(wire);
    for round in 0..3 {
        let mut testpmd = ground.testpmd("icmpecho", &[]);
        testpmd.forward();
        let summary = ground.dmm(&format!("ping {THEIRS} --count 3 --interval 0"));
        assert_eq!(summary["received"], json!(3), "round {round}");
        testpmd.kill();
        ground.wait_for_link(false);
    }
}
