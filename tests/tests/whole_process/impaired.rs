//! A bad cable: what it loses, repeats and reorders, TCP mends. 20 MiB each way, with the kernel and with
//! another daemon (CI; `DMM_TEST_LOSS_MIB` for more).

use dmm_tests::lab::{FAMILIES, Lab, PortKind, ROLES};

use crate::matrix::{size, with_one_and_two_instances};

with_one_and_two_instances!(data_survives_a_bad_cable);

fn data_survives_a_bad_cable(instances: usize) {
    data_survives(PortKind::AfPacket, instances);
}

/// A cable between two daemons has one queue pair, so that one instance is all there can be.
#[test]
fn data_survives_a_bad_cable_between_two_daemons_over_vhost_user() {
    data_survives(PortKind::Vhost, 1);
}

#[test]
fn data_survives_a_bad_cable_between_two_daemons_over_memif() {
    data_survives(PortKind::Memif, 1);
}

fn data_survives(kind: PortKind, instances: usize) {
    let bytes = size("DMM_TEST_LOSS_MIB", 20) << 20;
    let options = "--loss 0.02 --reorder 0.01 --duplicate 0.01 --seed 11";
    let mut lab = Lab::on_cable(kind, options, instances);
    // One direction at a time, so that acknowledgements and data are lost in turn.
    let both = |family| ROLES.map(|role| (family, role));
    for (family, role) in FAMILIES.into_iter().flat_map(both) {
        for (server, client) in [(bytes, 0), (0, bytes)] {
            let server = format!("exchange --bytes {server}");
            let client = format!("exchange --bytes {client}");
            let pair = lab.pair(family, role, &server, &client);
            let (client, server) = (pair.client.outcome(), pair.server.outcome());
            for (from, to) in [(&client, &server), (&server, &client)] {
                assert_eq!((&from.error, &to.error), (&None, &None), "{family:?} {role:?}");
                assert_eq!(to.received_sha256, from.sent_sha256);
            }
            assert_eq!(client.received + server.received, bytes);
        }
    }
    let counters = lab.cable.take().expect("the lab is on a cable").end();
    for direction in ["left_to_right", "right_to_left"] {
        for harm in ["lost", "duplicated", "reordered"] {
            let count = counters[direction][harm].as_u64();
            assert!(count.is_some_and(|count| count > 0), "{direction} {harm}: {counters}");
        }
    }
}
