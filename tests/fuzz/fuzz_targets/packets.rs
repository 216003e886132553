//! A native stack, and IP packets of any content: ICMP, fragments, neighbour discovery, UDP, TCP. The sum of an
//! IPv4 header is made right, so that there is more to find than wrong ones.
#![no_main]

use dmm_fuzz::World;
use libfuzzer_sys::fuzz_target;

/// Bytes of the Ethernet and the IPv4 header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;

fuzz_target!(|packets: Vec<(u8, Vec<u8>)>| {
    let mut world = World::new();
    for (kind, packet) in packets.iter().take(64) {
        let ethertype: [u8; 2] = match kind % 4 {
            0 => [0x08, 0x00],
            1 => [0x86, 0xdd],
            2 => [0x08, 0x06],
            _ => [kind ^ 0x55, *kind],
        };
        let to: [u8; 6] = if kind & 0x80 == 0 { [2, 0, 0, 0, 0, 2] } else { [0xff; 6] };
        let mut frame = [&to[..], &[2, 0, 0, 0, 0, 1], &ethertype, packet].concat();
        match kind % 4 {
            0 if packet.len() >= IPV4 => {
                let header = &mut frame[ETHERNET..ETHERNET + IPV4];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&(packet.len() as u16).to_be_bytes());
                // One in two to our address, the others to all stations, as a router's questions.
                let to = if kind & 0x40 == 0 { [10, 0, 0, 2] } else { [224, 0, 0, 1] };
                header[16..20].copy_from_slice(&to);
                header[10..12].fill(0);
                let sum = !dmm_port::checksum::fold(dmm_port::checksum::sum(header));
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            1 if packet.len() >= 40 => {
                let header = &mut frame[ETHERNET..];
                header[0] = 0x60 | header[0] & 0x0f;
                header[4..6].copy_from_slice(&(packet.len() as u16 - 40).to_be_bytes());
                let (first, last) = if kind & 0x40 == 0 { ([0xfd, 0], 2) } else { ([0xff, 2], 1) };
                header[24..40].fill(0);
                header[24..26].copy_from_slice(&first);
                header[39] = last;
            }
            _ => {}
        }
        world.receive(&frame);
    }
    world.play(&[]);
});
