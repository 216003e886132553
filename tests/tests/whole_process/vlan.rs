//! A stack in a virtual LAN, on a veth pair whose other end is a packet socket: the kernel here has no VLAN
//! devices.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dmm::Client;
use dmm_tests::command::run;
use dmm_tests::daemon::Daemon;
use dmm_tests::lab::{Family, Link, PortKind, config};
use dmm_tests::namespace::Namespace;
use serde_json::json;

use crate::matrix::with_one_and_two_instances;

with_one_and_two_instances!(a_stack_hears_and_speaks_in_its_vlan_alone);

fn a_stack_hears_and_speaks_in_its_vlan_alone(instances: usize) {
    let (home, peer) = (Arc::new(Namespace::new("home")), Namespace::new("peer"));
    let link = Link::new(0, PortKind::AfPacket);
    home.join(&link.near_interface(), &peer, &link.kernel_interface());
    let mut config = config(&[link], instances);
    config["stacks"][0]["vlan"] = json!(42);
    let daemon = Daemon::start(&home, &config);
    let client = Client::attach(daemon.socket()).unwrap();
    let socket = client.bind_udp(None, "0.0.0.0:4000").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let answer = std::thread::spawn(move || {
        let mut bytes = [0; 16];
        let (len, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!(&bytes[..len], b"datagram");
        socket.send_to(b"answer", from).unwrap();
        // The other end may ask again before it hears.
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        while socket.recv_from(&mut bytes).is_ok() {}
    });
    let mut station = peer.command("python3");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/whole_process/vlan.py");
    station.arg(script).arg(link.kernel_interface());
    let [own, stack] = [link.peer(Family::V4), link.stack(Family::V4)].map(|ip| ip.to_string());
    let told = run(station.args([&own, &stack, "42", "4000"]));
    let expected = "arp 42\necho 42 behind a tag\ndatagram 42 answer\nother None\nother None\n";
    assert_eq!(told, expected);
    answer.join().unwrap();
    let counters = daemon.stats().counters;
    let count = |name: &str| counters.iter().find(|(n, _)| n.ends_with(name)).map(|(_, c)| *c);
    assert!(count("drop.other_vlan") >= Some(4), "{counters:?}");
    assert_eq!(count("drop.vlan"), Some(0));
}
