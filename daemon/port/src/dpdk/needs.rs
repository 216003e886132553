//! What drivers of virtual devices want to be told, and what memory they want, beyond what the
//! configuration says.
//!
//! Called by `attach` once per device. Must never: override an argument that was configured.
#![forbid(unsafe_code)]

use super::pool::L2_OVERHEAD;

/// The least frame slot of a packet socket: the kernel puts IPv4 fragments together before they
/// come (`PACKET_FANOUT_FLAG_DEFRAG`, packet(7), which the driver always asks for) and cuts what
/// exceeds a slot, so that a slot must hold more than the MTU: here, datagrams of 16,000 bytes.
const PACKET_SOCKET_SLOT_MIN: u32 = 16 << 10;

/// The driver's own default, which stays where a block size was configured without a slot size.
const PACKET_SOCKET_SLOT_DEFAULT: u32 = 2 << 10;

/// What the kernel writes into a slot beside the packet: `struct tpacket2_hdr`,
/// `struct sockaddr_ll` and the Ethernet header, each aligned, and some to spare.
const PACKET_SOCKET_HEADERS: u32 = 128;

/// Descriptors in each ring, which the front end decides for both sides: the driver's own 256 are fewer
/// than the frames of two full windows (256 KiB each), and what a sender finds no room for is lost.
const VIRTIO_QUEUE_SIZE: u32 = 512;

/// What a device needs to carry some number of queues and an MTU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    /// Its arguments, completed.
    pub(super) arguments: String,
    /// Bytes of the longest frame that it may put into one mbuf.
    pub(super) frame_bytes: u32,
    /// Whether its rings hold mbufs; a driver that copies keeps none.
    pub(super) holds_mbufs: bool,
}

impl Needs {
    /// What the device `name` with the configured `arguments` needs.
    pub(super) fn of(name: &str, arguments: &str, queues: u16, mtu: u16) -> Self {
        let mut needs = Self {
            arguments: arguments.to_owned(),
            frame_bytes: u32::from(mtu) + L2_OVERHEAD,
            holds_mbufs: true,
        };
        let queue_argument = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "net_af_packet" => {
                needs.packet_socket(mtu);
                "qpairs"
            }
            "net_af_xdp" => "queue_count",
            "net_vhost" => "queues",
            "net_virtio_user" => {
                needs.tell("queue_size", VIRTIO_QUEUE_SIZE);
                "queues"
            }
            _ => return needs,
        };
        if queues > 1 {
            needs.tell(queue_argument, u32::from(queues));
        }
        needs
    }

    fn packet_socket(&mut self, mtu: u16) {
        self.holds_mbufs = false;
        let slot = match (self.argument("framesz"), self.argument("blocksz")) {
            (Some(slot), _) => slot.parse().unwrap_or(PACKET_SOCKET_SLOT_DEFAULT),
            (None, Some(_)) => PACKET_SOCKET_SLOT_DEFAULT,
            (None, None) => {
                let slot = (u32::from(mtu) + PACKET_SOCKET_HEADERS).next_power_of_two();
                let slot = slot.max(PACKET_SOCKET_SLOT_MIN);
                self.tell("framesz", slot);
                // One slot a block: the kernel allocates each block in one piece.
                self.tell("blocksz", slot);
                slot
            }
        };
        self.frame_bytes = self.frame_bytes.max(slot);
    }

    fn argument(&self, key: &str) -> Option<&str> {
        let words = self.arguments.split(',');
        words.filter_map(|word| word.split_once('=')).find_map(|(k, v)| (k == key).then_some(v))
    }

    fn tell(&mut self, key: &str, value: u32) {
        if self.argument(key).is_some() {
            return;
        }
        if !self.arguments.is_empty() {
            self.arguments.push(',');
        }
        self.arguments.push_str(&format!("{key}={value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, arguments: &str, queues: u16) -> String {
        Needs::of(name, arguments, queues, 1500).arguments
    }

    #[test]
    fn drivers_that_must_be_told_their_queues_are_told_once() {
        assert_eq!(told("net_vhost0", "iface=/run/v", 2), "iface=/run/v,queues=2");
        assert_eq!(told("net_vhost0", "iface=/run/v,queues=4", 2), "iface=/run/v,queues=4");
        assert_eq!(told("net_vhost0", "iface=/run/v", 1), "iface=/run/v");
        assert_eq!(told("net_af_xdp1", "iface=v0", 2), "iface=v0,queue_count=2");
        assert_eq!(told("net_virtio_user0", "", 2), "queue_size=512,queues=2");
        assert_eq!(told("net_virtio_user0", "queue_size=256", 1), "queue_size=256");
        assert_eq!(told("net_tap0", "iface=t0", 2), "iface=t0");
        assert_eq!(told("0000:03:00.0", "", 2), "");
    }

    #[test]
    fn a_packet_socket_has_slots_beyond_the_mtu_unless_told() {
        let slots = |arguments, mtu| {
            let needs = Needs::of("net_af_packet0", arguments, 1, mtu);
            assert!(!needs.holds_mbufs);
            (needs.arguments, needs.frame_bytes)
        };
        let expected = ("iface=v,framesz=16384,blocksz=16384".to_owned(), 16384);
        assert_eq!(slots("iface=v", 1500), expected);
        assert_eq!(slots("iface=v", 9000), expected);
        let expected = ("iface=v,framesz=32768,blocksz=32768".to_owned(), 32768);
        assert_eq!(slots("iface=v", 16300), expected);
        for arguments in ["iface=v,framesz=4096", "framesz=4096,blocksz=8192"] {
            assert_eq!(slots(arguments, 1500), (arguments.to_owned(), 4096));
        }
        let arguments = "iface=v,blocksz=8192";
        assert_eq!(slots(arguments, 1500), (arguments.to_owned(), 2048));
    }
}
