//! Captures of a wire, read back by an independent reader.

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::*;
use crate::Port;
use crate::wire::{WireConfig, WirePort};

/// A writer that others can read, and that fails beyond a limit.
#[derive(Clone)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl Shared {
    fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = self.bytes.lock().unwrap();
        if all.len() + bytes.len() > self.limit {
            return Err(io::ErrorKind::StorageFull.into());
        }
        all.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Interface, time in nanoseconds, direction flag, bytes.
type Packet = (u32, u64, u32, Vec<u8>);

fn read_back(bytes: &[u8]) -> (Vec<String>, Vec<Packet>) {
    let mut reader = PcapNgReader::new(bytes).unwrap();
    let (mut names, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                names.push(format!("{:?}", interface.options))
            }
            Block::EnhancedPacket(packet) => {
                let [EnhancedPacketOption::Flags(way)] = packet.options[..] else {
                    panic!("options {:?}", packet.options)
                };
                let nanos = packet.timestamp.as_nanos() as u64;
                packets.push((packet.interface_id, nanos, way, packet.data.to_vec()));
            }
            other => panic!("unexpected block {other:?}"),
        }
    }
    (names, packets)
}

/// Sends `frames` over a wire of which both ends are captured, a microsecond each.
fn exchange(capture: &Capture<Shared>, frames: &[&[u8]]) {
    let (mut left, mut right) = WirePort::pair(&WireConfig::default()).unwrap();
    let (rx, tx) = left.queue_pair(0).unwrap();
    let (_, mut tx) = capture.tee("left", rx, tx).unwrap();
    let (rx, tx_back) = right.queue_pair(0).unwrap();
    let (mut rx, _) = capture.tee("right", rx, tx_back).unwrap();
    for (at, frame) in frames.iter().enumerate() {
        tx.burst().next(frame.len()).unwrap().copy_from_slice(frame);
        tx.flush(Instant::from_micros(at as u64));
        tx.flush(Instant::from_micros(at as u64));
        let arrived = rx.burst(Instant::from_micros(at as u64 + 1));
        assert_eq!(arrived.iter().map(|frame| frame.bytes).collect::<Vec<_>>(), [*frame]);
    }
}

#[test]
fn both_directions_are_there_with_time_and_padding() {
    let out = Shared::new(usize::MAX);
    let capture = Capture::new(out.clone(), Duration::from_secs(1_700_000_000)).unwrap();
    exchange(&capture, &[b"four", b"fives", b"sixsix", b"sevenss"]);
    capture.flush().unwrap();
    let (names, packets) = read_back(&out.bytes.lock().unwrap());
    assert_eq!(names.len(), 2);
    assert!(names[0].contains("left") && names[1].contains("right"), "{names:?}");
    assert!(names[0].contains("IfTsResol(9)"), "{names:?}");
    let origin = 1_700_000_000_000_000_000;
    let mut expected: Vec<Packet> = Vec::new();
    for (at, frame) in [&b"four"[..], b"fives", b"sixsix", b"sevenss"].iter().enumerate() {
        let sent = origin + at as u64 * 1000;
        expected.push((0, sent, 2, frame.to_vec()));
        expected.push((1, sent + 1000, 1, frame.to_vec()));
    }
    assert_eq!(packets, expected);
    assert_eq!(capture.missed(), 0);
}

#[test]
fn a_full_disk_stops_the_capture_but_no_frame() {
    let out = Shared::new(500);
    let capture = Capture::new(out.clone(), Duration::ZERO).unwrap();
    // The second does not fit; the third would, after half a block perhaps.
    exchange(&capture, &[b"one", &[2; 1000], b"three"]);
    let (_, packets) = read_back(&out.bytes.lock().unwrap());
    let bytes: Vec<_> = packets.into_iter().map(|(_, _, _, bytes)| bytes).collect();
    assert_eq!(bytes, [b"one", b"one"]);
    assert_eq!(capture.missed(), 4);
}
