//! Both halves against each other, in virtual time: segments one way, acknowledgements the other, on a
//! path that loses and delays as a scenario says.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use dmm_port::Instant;

use super::position::number;
use super::receiver::Receiver;
use super::sender::{Acknowledgement, Piece, Repairs, Sender};
use crate::SocketId;
use crate::config::Congestion;
use crate::native::congestion::Algorithm;
use crate::native::segment::Sacks;
use crate::pair::{Client, End, Quota, byte_at};

const MSS: u64 = 1000;
const FIFO_BYTES: u32 = 1 << 18;
/// Close to the end of the numbers, so that they wrap early.
const INITIAL: u32 = u32::MAX - 5_000;
/// One way.
const DELAY: Duration = Duration::from_millis(10);

/// What is on its way.
enum Packet {
    Segment { piece: Piece, number: u32, payload: Vec<u8>, stamp: Instant },
    Question,
    Answer { number: u32, window: u16, sacks: Sacks, echo: Instant },
}

/// Whether the `count`th segment arrives, and how much later than others.
type Fate = Box<dyn FnMut(u64, &Piece) -> Option<Duration>>;

struct Path {
    now: Instant,
    quota: Quota,
    sender: Sender,
    receiver: Receiver,
    writer: Client,
    reader: Client,
    sack: bool,
    fate: Fate,
    under_way: BTreeMap<(Instant, u64), Packet>,
    /// Between these nothing arrives; what would have, does at the end.
    pause: Option<(Instant, Instant)>,
    packets: u64,
    segments: u64,
    repairs: Repairs,
    reading: bool,
    /// When what came in order last was sent.
    recent: Instant,
    written: u64,
    read: u64,
    closed: bool,
}

impl Path {
    fn new(sack: bool, congestion: Congestion, fate: Fate) -> Self {
        let quota = Quota::new(64);
        let (near, writer) = quota.open(End::Left, SocketId(0), FIFO_BYTES);
        let (far, reader) = quota.open(End::Right, SocketId(0), FIFO_BYTES);
        let now = Instant::from_micros(1_000_000);
        let algorithm = Algorithm::new(congestion, 1);
        let mut sender = Sender::new(now, INITIAL, Some(near.tx), MSS, algorithm);
        let mut receiver = Receiver::new(Some(far.rx), 3);
        // The handshake, with nothing lost.
        let syn = sender.next_piece(false).expect("a SYN");
        assert!(syn.syn && syn.len == 0);
        sender.sent(now, &syn);
        receiver.synchronize(INITIAL);
        let window = receiver.advertise(MSS, true).unwrap();
        sender.sack = sack;
        sender.first_window(0, window);
        sender.synchronized(MSS);
        let ack = Acknowledgement {
            position: 1,
            sequence: 0,
            window,
            sacks: &[],
            echo: None,
            bare: false,
            marked: false,
        };
        assert!(sender.acknowledge(now + 2 * DELAY, &ack).progress);
        sender.shift = 3;
        if let Some(fifo) = &mut sender.fifo {
            fifo.grant();
        }
        Self {
            now: now + 2 * DELAY,
            quota,
            sender,
            receiver,
            writer,
            reader,
            sack,
            fate,
            under_way: BTreeMap::new(),
            pause: None,
            packets: 0,
            segments: 0,
            repairs: Repairs::default(),
            reading: true,
            recent: now,
            written: 0,
            read: 0,
            closed: false,
        }
    }

    fn post(&mut self, at: Instant, packet: Packet) {
        self.packets += 1;
        let held = self.pause.filter(|(from, until)| (*from..*until).contains(&at));
        self.under_way.insert((held.map_or(at, |(_, until)| until), self.packets), packet);
    }

    /// Writes the pattern up to `until`, and sends what may be sent.
    fn send(&mut self, until: u64) {
        while self.written < until {
            let len = usize::try_from((until - self.written).min(4096)).unwrap();
            let bytes: Vec<u8> = (self.written..).take(len).map(byte_at).collect();
            let written = self.writer.writer.write(&[&bytes], false);
            self.written += written as u64;
            if written < len {
                self.writer.writer.want_room();
                break;
            }
        }
        self.sender.finishing |= self.closed && self.written == until;
        self.sender.refresh().unwrap();
        while let Some(piece) = self.sender.next_piece(true) {
            assert!(piece.len as u64 <= MSS);
            let mut payload = vec![0; piece.len];
            self.sender.copy(&piece, &mut payload);
            self.sender.sent(self.now, &piece);
            self.segments += 1;
            let packet = Packet::Segment {
                piece,
                number: self.sender.number(piece.start),
                payload,
                stamp: self.now,
            };
            if let Some(late) = (self.fate)(self.segments, &piece) {
                self.post(self.now + DELAY + late, packet);
            }
        }
        if self.sender.asks_for_window() {
            self.sender.asked_for_window(self.now);
            self.post(self.now + DELAY, Packet::Question);
        }
        self.sender.watch(self.now);
    }

    fn read(&mut self) {
        self.receiver.publish();
        let mut bytes = [0; 4096];
        while self.reading {
            let len = self.reader.reader.read(&mut bytes);
            if len == 0 {
                break;
            }
            for byte in &bytes[..len] {
                assert_eq!(*byte, byte_at(self.read), "byte {}", self.read);
                self.read += 1;
            }
        }
    }

    fn answer(&mut self) {
        let echo = self.recent;
        self.read();
        let most = if self.sack { 3 } else { 0 };
        let window = self.receiver.advertise(MSS, false).unwrap();
        let (sacks, number) = (self.receiver.take_sacks(most), self.receiver.acknowledgement());
        self.post(self.now + DELAY, Packet::Answer { number, window, sacks, echo });
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Segment { piece, number, payload, stamp } => {
                let start = self.receiver.position(number).expect("a position");
                assert_eq!(start, piece.start);
                // RFC 7323 section 4.3: what is out of order is not echoed.
                if start <= self.receiver.next {
                    self.recent = stamp;
                }
                let numbers = payload.len() as u64 + u64::from(piece.fin);
                if self.receiver.accepts(start, numbers) {
                    self.receiver.take(start, &payload, piece.fin).unwrap();
                } else {
                    let end = start + payload.len() as u64;
                    self.receiver.note_duplicate(start..end.min(self.receiver.next));
                }
                self.answer();
            }
            Packet::Question => self.answer(),
            Packet::Answer { number, window, sacks, echo } => {
                let position = self.sender.position(number).expect("a position");
                assert!(position <= self.sender.next);
                let ack = Acknowledgement {
                    position,
                    sequence: 1,
                    window,
                    sacks: sacks.as_slice(),
                    echo: Some(echo),
                    bare: true,
                    marked: false,
                };
                if position >= self.sender.una {
                    self.sender.acknowledge(self.now, &ack);
                }
                if let Some(fifo) = &mut self.sender.fifo {
                    fifo.grant();
                    let _ = fifo.take_wanted();
                }
            }
        }
        let new = self.sender.take_repairs();
        self.repairs.again += new.again;
        self.repairs.timeouts += new.timeouts;
        self.repairs.recoveries += new.recoveries;
        self.repairs.probes += new.probes;
        self.repairs.undone += new.undone;
    }

    /// Lets time pass until `done`, writing up to `until`.
    fn run(&mut self, until: u64, span: Duration, done: impl Fn(&Self) -> bool) {
        let end = self.now + span;
        loop {
            self.send(until);
            if done(self) {
                return;
            }
            let packet = self.under_way.first_key_value().map(|((at, _), _)| *at);
            let next = [packet, self.sender.deadline()].into_iter().flatten().min();
            let next = next.unwrap_or_else(|| self.stuck("nothing is due"));
            if next > end {
                self.stuck("it takes too long");
            }
            self.now = self.now.max(next);
            if self.sender.deadline().is_some_and(|at| at <= self.now) {
                self.sender.expire(self.now);
            }
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= self.now
            {
                let packet = entry.remove();
                self.arrive(packet);
            }
        }
    }

    fn stuck(&self, why: &str) -> ! {
        panic!(
            "{why} at {:?}: written {}, read {}, una {}, next {}, {} segments, {:?}",
            self.now,
            self.written,
            self.read,
            self.sender.una,
            self.sender.next,
            self.segments,
            self.repairs
        )
    }

    /// Sends `bytes`, ends the stream, and checks that nothing is left.
    fn transfer(&mut self, bytes: u64, span: Duration) -> Duration {
        let began = self.now;
        self.closed = true;
        self.run(bytes, span, |path| path.sender.is_done());
        assert_eq!(self.read, bytes);
        assert!(self.receiver.has_ended() && !self.receiver.has_ranges());
        assert_eq!((self.sender.deadline(), self.sender.is_busy()), (None, false));
        let took = self.now.since(began);
        self.sender.fifo = None;
        self.receiver.discard();
        assert_eq!(self.quota.pool.used(), 0);
        took
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A number for each segment, the same in each run of a seed (SplitMix64).
fn chance(seed: u64, count: u64) -> f64 {
    let mixed =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count.wrapping_mul(0xd1b5_4a32_d192_ed03);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
}

#[test]
fn without_loss_nothing_is_sent_twice() {
    for congestion in [Congestion::None, Congestion::Reno, Congestion::Cubic] {
        for sack in [true, false] {
            let mut path = Path::new(sack, congestion, Box::new(|_, _| Some(Duration::ZERO)));
            path.transfer(500_000, secs(10));
            assert_eq!(path.repairs, Repairs::default(), "{congestion:?}");
            // Where the writer stops short, a segment may be short as well.
            assert!((500..510).contains(&path.segments), "{} segments", path.segments);
        }
    }
}

/// RFC 8985 section 6.2: one retransmission, a round trip later, without a timeout.
#[test]
fn one_loss_is_repaired_by_one_segment() {
    for sack in [true, false] {
        let fate = |count, _: &Piece| (count != 40).then_some(Duration::ZERO);
        let mut path = Path::new(sack, Congestion::Cubic, Box::new(fate));
        path.transfer(500_000, secs(10));
        let expected = Repairs { again: 1, recoveries: 1, ..Repairs::default() };
        assert_eq!(path.repairs, expected, "sack {sack}");
    }
}

/// RFC 3522: only what was sent before the retransmission, and is acknowledged, shows that it was needless.
#[test]
fn what_is_lost_is_not_taken_back() {
    for sack in [true, false] {
        for seed in 0..20 {
            let fate =
                move |count, _: &Piece| (chance(seed, count) > 0.02).then_some(Duration::ZERO);
            let mut path = Path::new(sack, Congestion::Cubic, Box::new(fate));
            path.transfer(500_000, secs(100));
            assert!(path.repairs.recoveries > 0);
            assert_eq!(path.repairs.undone, 0, "seed {seed}, sack {sack}: {:?}", path.repairs);
        }
    }
}

/// RFC 8985 section 7: the last segments are lost, and no timeout is needed.
#[test]
fn a_lost_tail_is_probed() {
    let fate = |count, _: &Piece| (!(98..=100).contains(&count)).then_some(Duration::ZERO);
    let mut path = Path::new(true, Congestion::Cubic, Box::new(fate));
    path.transfer(100_000, secs(10));
    assert_eq!((path.repairs.timeouts, path.repairs.probes), (0, 1));
    assert_eq!(path.repairs.again, 3);
}

/// RFC 6298: when all is lost, only time tells.
#[test]
fn a_dead_path_is_tried_less_and_less_often() {
    let fate = |count, _: &Piece| (!(20..=66).contains(&count)).then_some(Duration::ZERO);
    let mut path = Path::new(true, Congestion::Cubic, Box::new(fate));
    path.transfer(100_000, secs(3600));
    assert!(path.repairs.timeouts > 4, "{:?}", path.repairs);
}

/// RFC 5682: a pause of the path, in which nothing is lost, is found out, and what it cost taken back.
#[test]
fn a_pause_is_no_loss() {
    for sack in [true, false] {
        let mut path = Path::new(sack, Congestion::Cubic, Box::new(|_, _| Some(Duration::ZERO)));
        let from = path.now + Duration::from_millis(95);
        path.pause = Some((from, from + Duration::from_millis(700)));
        path.transfer(600_000, secs(20));
        assert!(path.repairs.timeouts > 0 && path.repairs.undone > 0, "{:?}", path.repairs);
        assert!(path.repairs.again <= 4, "sack {sack}: {:?}", path.repairs);
    }
}

/// RFC 8985 section 6.2, step 4: after the first, reordering by less than a quarter of a round trip is
/// not taken for a loss.
#[test]
fn reordering_is_not_taken_for_loss() {
    let fate = |count, _: &Piece| {
        Some(if count % 50 == 20 { Duration::from_millis(4) } else { Duration::ZERO })
    };
    let mut path = Path::new(true, Congestion::Cubic, Box::new(fate));
    path.transfer(500_000, secs(20));
    assert!(path.repairs.again <= 2 && path.repairs.timeouts == 0, "{:?}", path.repairs);
}

/// RFC 9293 section 3.8.6.1.
#[test]
fn a_closed_window_is_probed_until_it_opens() {
    let mut path = Path::new(true, Congestion::Cubic, Box::new(|_, _| Some(Duration::ZERO)));
    path.reading = false;
    let total = 3 * u64::from(FIFO_BYTES);
    let sent = path.now + secs(10);
    path.run(total, secs(100), |path| path.now >= sent);
    assert!(path.sender.peer_window() < 8 && path.read == 0);
    assert_eq!(path.repairs.recoveries, 0);
    path.reading = true;
    path.transfer(total, secs(200));
}

#[test]
fn bytes_arrive_whatever_is_lost_or_late() {
    for seed in 0..100 {
        for sack in [true, false] {
            let loss = 0.001 * (1 << (seed % 8)) as f64;
            let fate = move |count, _: &Piece| {
                let late = if chance(seed + 1000, count) < 0.05 { 15.0 } else { 1.0 };
                let late = Duration::from_secs_f64(late * chance(seed + 2000, count) / 1000.0);
                (chance(seed, count) >= loss).then_some(late)
            };
            let mut path = Path::new(sack, Congestion::Cubic, Box::new(fate));
            path.transfer(300_000, secs(3600));
        }
    }
}

/// RFC 2018 section 4: what came last is told first; RFC 2883 section 4: before that, what came twice.
#[test]
fn ranges_are_told_in_the_order_of_their_coming() {
    let quota = Quota::new(8);
    let (fifos, _client) = quota.open(End::Right, SocketId(0), 1 << 16);
    let mut receiver = Receiver::new(Some(fifos.rx), 0);
    receiver.synchronize(INITIAL);
    receiver.advertise(MSS, false).unwrap();
    for start in [2001, 6001, 4001] {
        let taken = receiver.take(start, &[7; 100], false).unwrap();
        assert!(taken.at_once && taken.bytes == 0);
    }
    let told = |starts: &[(u64, u64)]| -> Vec<(u32, u32)> {
        starts.iter().map(|(a, b)| (number(INITIAL, *a), number(INITIAL, *b))).collect()
    };
    let expected = told(&[(4001, 4101), (6001, 6101), (2001, 2101)]);
    assert_eq!(receiver.take_sacks(4).as_slice(), expected);
    receiver.take(6001, &[7; 100], false).unwrap();
    let expected = told(&[(6001, 6101), (6001, 6101), (4001, 4101)]);
    assert_eq!(receiver.take_sacks(3).as_slice(), expected);
    // The hole is filled: all up to the next is in order at once.
    let taken = receiver.take(1, &[7; 2000], false).unwrap();
    assert_eq!((taken.bytes, taken.at_once, receiver.next), (2100, true, 2101));
}
