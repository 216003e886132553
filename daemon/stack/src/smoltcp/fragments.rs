//! Which ports a fragmented packet is for.
//!
//! Owns: the ports of packets whose first fragment was seen. Called for each fragment, since the
//! library puts packets together but must be told whom they are for when the last piece arrives.
//! Must never: grow; a flood of first fragments pushes out the oldest.
#![forbid(unsafe_code)]

use dmm_port::flow::{FragmentKey, Ports};

/// Packets remembered: twice what the library reassembles at a time, since complete ones stay.
const REMEMBERED: usize = 2 * ::smoltcp::config::REASSEMBLY_BUFFER_COUNT;

/// The ports of recent fragmented packets.
#[derive(Default)]
pub(super) struct Fragments {
    known: Vec<(FragmentKey, Ports)>,
    next: usize,
}

impl Fragments {
    /// The ports of the packet that a fragment belongs to, if its first one came, now or before.
    pub(super) fn ports(&mut self, key: FragmentKey, seen: Option<Ports>) -> Option<Ports> {
        let place = self.known.iter().position(|(known, _)| *known == key);
        match (place, seen) {
            (Some(at), Some(seen)) => self.known[at].1 = seen,
            (Some(at), None) => return Some(self.known[at].1),
            (None, Some(seen)) if self.known.len() < REMEMBERED => self.known.push((key, seen)),
            (None, Some(seen)) => {
                self.known[self.next] = (key, seen);
                self.next = (self.next + 1) % REMEMBERED;
            }
            (None, None) => {}
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fragment_tells_and_the_oldest_is_forgotten() {
        let address = "10.0.0.1".parse().unwrap();
        let key = |id| FragmentKey { local: address, remote: address, id, protocol: 17 };
        let ports = |local| Some(Ports { local, remote: 9 });
        let mut fragments = Fragments::default();
        assert_eq!(fragments.ports(key(1), None), None);
        assert_eq!(fragments.ports(key(1), ports(7)), ports(7));
        assert_eq!(fragments.ports(key(1), None), ports(7));
        assert_eq!(fragments.ports(key(1), ports(8)), ports(8));
        for id in 2..=REMEMBERED as u32 + 1 {
            fragments.ports(key(id), ports(9));
        }
        assert_eq!(fragments.ports(key(1), None), None);
        assert_eq!(fragments.known.len(), REMEMBERED);
    }
}
