//! Each scenario on each kind of port, with one instance and with two.

use std::env;

/// Makes a test of each of these functions, which take a [`dmm_tests::lab::Lab`], for each kind of
/// port and number of instances.
macro_rules! on_every_port {
    ($($scenario:ident),* $(,)?) => {
        $(mod $scenario {
            use dmm_tests::lab::{Lab, PortKind};

            #[test]
            fn tap() {
                super::$scenario(&Lab::new(PortKind::Tap, 1));
            }

            #[test]
            fn tap_two_instances() {
                super::$scenario(&Lab::new(PortKind::Tap, 2));
            }

            #[test]
            fn af_packet() {
                super::$scenario(&Lab::new(PortKind::AfPacket, 1));
            }

            #[test]
            fn af_packet_two_instances() {
                super::$scenario(&Lab::new(PortKind::AfPacket, 2));
            }

            #[test]
            fn vhost() {
                super::$scenario(&Lab::new(PortKind::Vhost, 1));
            }

            #[test]
            fn virtio_user_two_instances() {
                super::$scenario(&Lab::new(PortKind::VirtioUser, 2));
            }

            #[test]
            fn memif() {
                super::$scenario(&Lab::new(PortKind::Memif, 1));
            }

            #[test]
            fn memif_two_instances() {
                super::$scenario(&Lab::new(PortKind::Memif, 2));
            }
        })*
    };
}

/// Makes two tests of each of these functions, which take the number of instances.
macro_rules! with_one_and_two_instances {
    ($($scenario:ident),* $(,)?) => {
        $(mod $scenario {
            #[test]
            fn one_instance() {
                super::$scenario(1);
            }

            #[test]
            fn two_instances() {
                super::$scenario(2);
            }
        })*
    };
}

pub(crate) use {on_every_port, with_one_and_two_instances};

/// A size that the long tests raise by an environment variable.
pub fn size(variable: &str, default: u64) -> u64 {
    let Ok(text) = env::var(variable) else { return default };
    text.parse().unwrap_or_else(|_| panic!("{variable}={text:?} is no number"))
}
