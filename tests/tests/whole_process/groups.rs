//! Groups, with a bridge of the kernel's at the other end, which passes on what goes to a group to those
//! alone that said to be members, and asks again and again (RFC 4541).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmm::{Client, errno};
use dmm_tests::command::run;
use dmm_tests::daemon::Daemon;
use dmm_tests::deadline::eventually;
use dmm_tests::lab::{FAMILIES, Family, Link, PortKind, config};
use dmm_tests::namespace::Namespace;
use nix::errno::Errno;

use crate::matrix::with_one_and_two_instances;
use crate::udp_like_linux::{PATIENCE, until_it_comes, within};

with_one_and_two_instances!(the_kernel_passes_on_what_our_sockets_are_members_of);

const PORT: u16 = 4000;
const V4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const V6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 3);

/// A daemon whose link ends in a port of a bridge.
struct Ground {
    daemon: Daemon,
    link: Link,
    bridge: Namespace,
}

impl Ground {
    fn new(instances: usize) -> Self {
        let (home, bridge) = (Arc::new(Namespace::new("home")), Namespace::new("bridge"));
        let link = Link::new(0, PortKind::AfPacket);
        home.join(&link.near_interface(), &bridge, &link.kernel_interface());
        // A membership ends 3 s after the last word of it; it asks every second, for an answer within half of
        // one. All of it in hundredths.
        bridge.ip(
            "link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_igmp_version 3 \
             mcast_mld_version 2 mcast_query_interval 100 mcast_query_response_interval 50 \
             mcast_membership_interval 300 mcast_startup_query_interval 100 \
             mcast_last_member_interval 20",
        );
        bridge.ip(&format!("link set {} master br0", link.kernel_interface()));
        let [v4, v6] = FAMILIES.map(|family| link.peer(family));
        bridge.configure("br0", &format!("{v4}/24"), &format!("{v6}/64"));
        bridge.ip("-6 route add ff05::/16 dev br0 table local");
        let daemon = Daemon::start(&home, &config(&[link], instances));
        Self { daemon, link, bridge }
    }

    /// Whether the bridge passes a group on to our port.
    fn is_passed_on(&self, group: IpAddr) -> bool {
        let mut command = Command::new("bridge");
        let text = run(command.args(["-n", self.bridge.name(), "mdb", "show", "dev", "br0"]));
        let port = format!("port {} grp {group} ", self.link.kernel_interface());
        text.lines().any(|line| line.contains(&port))
    }

    fn wait_until(&self, group: IpAddr, passed_on: bool) {
        eventually("a change at the bridge", || match self.is_passed_on(group) == passed_on {
            true => Ok(()),
            false => Err(format!("{group} passed on: {}", !passed_on)),
        });
    }

    fn kernel_socket(&self, at: SocketAddr) -> UdpSocket {
        within(self.bridge.name(), move || UdpSocket::bind(at).unwrap())
    }
}

fn the_kernel_passes_on_what_our_sockets_are_members_of(instances: usize) {
    let ground = Ground::new(instances);
    let client = Client::attach(ground.daemon.socket()).unwrap();
    for (family, group) in [(Family::V4, IpAddr::from(V4)), (Family::V6, V6.into())] {
        let to = SocketAddr::new(group, PORT);
        let any = if group.is_ipv4() { "0.0.0.0" } else { "::" };
        let ours = client.bind_udp(None, SocketAddr::new(any.parse().unwrap(), PORT)).unwrap();
        ours.set_read_timeout(PATIENCE).unwrap();
        let own = ground.link.stack(family);
        let set = |joins: bool| match (group, own) {
            (IpAddr::V4(group), IpAddr::V4(own)) if joins => ours.join_multicast_v4(&group, &own),
            (IpAddr::V4(group), IpAddr::V4(own)) => ours.leave_multicast_v4(&group, &own),
            (IpAddr::V6(group), _) if joins => ours.join_multicast_v6(&group, 1),
            (IpAddr::V6(group), _) => ours.leave_multicast_v6(&group, 1),
            _ => unreachable!("of one family"),
        };
        assert_eq!(errno(&set(false).unwrap_err()), Errno::EADDRNOTAVAIL as i32);
        assert!(!ground.is_passed_on(group));
        set(true).unwrap();
        assert_eq!(errno(&set(true).unwrap_err()), Errno::EADDRINUSE as i32);
        ground.wait_until(group, true);

        let theirs = ground.kernel_socket(SocketAddr::new(ground.link.peer(family), 0));
        theirs.set_read_timeout(PATIENCE).unwrap();
        let send = || theirs.send_to(b"stream", to);
        let arrival = until_it_comes(send, || ours.recv_arrival(&mut [0; 16]));
        assert_eq!((arrival.from, arrival.to), (theirs.local_addr().unwrap(), to));
        // It asks every second, and forgets within three who does not answer.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(8) {
            assert!(ground.is_passed_on(group), "after {:?}", began.elapsed());
            std::thread::sleep(Duration::from_millis(200));
        }

        // The other way, from the address chosen.
        let member = ground.kernel_socket(SocketAddr::new(any.parse().unwrap(), PORT + 1));
        member.set_read_timeout(PATIENCE).unwrap();
        match (group, ground.link.peer(family)) {
            (IpAddr::V4(group), IpAddr::V4(peer)) => {
                member.join_multicast_v4(&group, &peer).unwrap()
            }
            (IpAddr::V6(group), _) => {
                let index = ground.bridge.ip("-o link show dev br0");
                let index = index.split(':').next().and_then(|number| number.parse().ok());
                member.join_multicast_v6(&group, index.expect("a number")).unwrap();
            }
            _ => unreachable!("of one family"),
        }
        if let IpAddr::V4(own) = own {
            ours.set_multicast_if_v4(&own).unwrap();
            let foreign = ours.set_multicast_if_v4(&Ipv4Addr::new(10, 80, 0, 77)).unwrap_err();
            assert_eq!(errno(&foreign), Errno::EADDRNOTAVAIL as i32);
        }
        let send = || ours.send_to(b"back", SocketAddr::new(group, PORT + 1));
        let (len, from) = until_it_comes(send, || member.recv_from(&mut [0; 16]));
        assert_eq!((len, from), (4, SocketAddr::new(own, PORT)));

        set(false).unwrap();
        ground.wait_until(group, false);
        // A socket that is closed leaves as well.
        set(true).unwrap();
        ground.wait_until(group, true);
        drop(ours);
        ground.wait_until(group, false);
    }
}
