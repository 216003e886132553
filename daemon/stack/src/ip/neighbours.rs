//! The neighbours: which Ethernet address each has, and whom to ask next.
//!
//! Owns: the table, static entries included, and the questions under way. Called before a frame
//! goes out, for each ARP and neighbour discovery message, and when a question is due. Must never:
//! let the network change a static entry, learn of whom nobody asked, or let questions for one
//! address hold up those for another.
//!
//! ```text
//!            used                      answer
//!  (nothing) ────▶ asked, 3 × 1 s ─────────────▶ known ─ 30 s, used ─▶ known, asked 3 × 1 s
//!                   │     ▲                        ▲      alone          │        │
//!          no answer▼     │ used                   └───── answer ────────┘        │ no answer
//!                  given up ◀─────────────────────────────────────────────────────┘
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use dmm_port::Instant;

use crate::config::StackConfig;
use crate::ip::discovery::{self, Frame, Heard, Mac, Message};
use crate::ip::net::{Net, is_unicast};

/// Between two questions for the same address (RFC 4861 section 10, RFC 1122 section 2.3.2.1).
const QUESTION_INTERVAL: Duration = Duration::from_secs(1);

/// Questions before an address is given up (RFC 4861 section 10: MAX_MULTICAST_SOLICIT and
/// MAX_UNICAST_SOLICIT).
const QUESTIONS: u8 = 3;

/// How long an answer is believed without asking again (RFC 4861 section 10: REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);

/// Between two searches for entries that nobody needs.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Entries at most, besides the static ones. At about 100 bytes each they take 100 KiB.
const ENTRIES_MAX: usize = 1024;

/// The table of neighbours.
pub(crate) struct Neighbours {
    mac: Mac,
    net: Net,
    /// In order of address, so that what happens does not depend on a random hash.
    entries: BTreeMap<IpAddr, Entry>,
    /// No question is due before this.
    question_at: Option<Instant>,
    dropped: Dropped,
    /// When strangers' entries were last thrown out.
    swept_at: Option<Instant>,
}

/// What a way is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// To answer whoever sent something.
    Answer,
    /// A socket has something to send.
    Socket,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Option<Mac>,
    is_static: bool,
    /// When one of our sockets last had something to send there.
    used_at: Option<Instant>,
    /// When it began.
    since: Instant,
    /// From when on its use makes us ask whether it is still there.
    verify_at: Instant,
    /// Questions asked without answer.
    questions: u8,
    /// When to ask, or to give up.
    ask_at: Option<Instant>,
}

/// How a frame gets to where it is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To many stations, or to none: no neighbour is concerned.
    Many,
    /// Over this neighbour.
    Known(IpAddr, Mac),
    /// Over this neighbour, who must first say its Ethernet address.
    Unknown(IpAddr),
}

/// What was dropped of the neighbours' messages, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// They contradict a static neighbour.
    pub(crate) contradiction: u64,
    /// Nobody asked for them.
    pub(crate) unasked: u64,
    /// No station of the link may send them.
    pub(crate) unsound: u64,
    /// Others claim to have one of our addresses.
    pub(crate) conflict: u64,
    /// Router advertisements, solicitations and redirects.
    pub(crate) router: u64,
    /// Questions about addresses that are not ours.
    pub(crate) not_ours: u64,
}

/// What comes of a neighbour's message.
#[derive(Default)]
pub(crate) struct Reaction {
    /// What to answer.
    pub(crate) answer: Option<Frame>,
    /// Whose Ethernet address is known now, or another one.
    pub(crate) learned: Option<IpAddr>,
}

impl Neighbours {
    /// The neighbours of `config`, each on a link of `net`.
    pub(crate) fn new(config: &StackConfig, net: &Net) -> Self {
        let known = |mac| Entry { mac: Some(mac), is_static: true, ..Entry::new(Instant::ZERO) };
        Self {
            mac: config.mac,
            net: net.clone(),
            entries: config.neighbours.iter().map(|n| (n.address, known(n.mac))).collect(),
            question_at: None,
            dropped: Dropped::default(),
            swept_at: None,
        }
    }

    /// How frames get to `remote`. To ask, if need be, is left to [`Neighbours::ask`].
    pub(crate) fn way(&mut self, now: Instant, remote: IpAddr, purpose: Purpose) -> Way {
        let Some(hop) = self.net.next_hop(remote) else { return Way::Many };
        if purpose == Purpose::Socket && !self.entries.contains_key(&hop) {
            self.make_room();
            self.entries.insert(hop, Entry::new(now));
        }
        let Some(entry) = self.entries.get_mut(&hop) else { return Way::Unknown(hop) };
        if purpose == Purpose::Socket {
            entry.used_at = Some(now);
        }
        if entry.is_due(now, purpose) {
            entry.ask_at = Some(now);
            self.question_at = Some(now);
        }
        entry.mac.map_or(Way::Unknown(hop), |mac| Way::Known(hop, mac))
    }

    /// The Ethernet address of frames to `remote`, if it is known.
    pub(crate) fn mac_of(&self, remote: IpAddr) -> Option<Mac> {
        match (self.net.next_hop(remote), remote) {
            (Some(hop), _) => self.entries.get(&hop)?.mac,
            (None, IpAddr::V6(group)) => Some(discovery::group_mac(group)),
            (None, IpAddr::V4(_)) => None,
        }
    }

    /// What was dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// An answer to `remote` was lost because the neighbour is unknown: the next one shall not be.
    pub(crate) fn answer_lost(&mut self, now: Instant, remote: IpAddr) {
        let Some(hop) = self.net.next_hop(remote) else { return };
        if !self.entries.contains_key(&hop) && self.has_room_for_stranger(now) {
            self.entries.insert(hop, Entry::new(now));
        }
        if let Some(entry) = self.entries.get_mut(&hop)
            && entry.is_due(now, Purpose::Socket)
        {
            entry.ask_at = Some(now);
            self.question_at = Some(now);
        }
    }

    /// When a question is due.
    pub(crate) const fn question_at(&self) -> Option<Instant> {
        self.question_at
    }

    /// Puts the questions that are due, through `send`, which says whether there was a slot. Returns
    /// whether any was.
    pub(crate) fn ask(&mut self, now: Instant, mut send: impl FnMut(&[u8]) -> bool) -> bool {
        if self.question_at.is_none_or(|at| at > now) {
            return false;
        }
        self.question_at = None;
        let mut slots_left = true;
        for (&address, entry) in &mut self.entries {
            if entry.ask_at.is_some_and(|at| at <= now) && slots_left {
                if entry.questions == QUESTIONS {
                    (entry.mac, entry.ask_at, entry.questions) = (None, None, 0);
                    continue;
                }
                let own = self.net.source_for(address);
                let question =
                    own.and_then(|own| discovery::ask(self.mac, own, address, entry.mac));
                slots_left = question.is_none_or(|question| send(question.bytes()));
                if slots_left {
                    entry.questions += 1;
                    entry.ask_at = Some(now + QUESTION_INTERVAL);
                }
            }
            self.question_at = [self.question_at, entry.ask_at].into_iter().flatten().min();
        }
        true
    }

    /// Takes an ARP or neighbour discovery frame.
    pub(crate) fn hear(&mut self, now: Instant, frame: &[u8]) -> Reaction {
        let message = match discovery::read(frame) {
            Heard::Neighbour(message) => message,
            Heard::Router => {
                self.dropped.router += 1;
                return Reaction::default();
            }
            Heard::Unsound => {
                self.dropped.unsound += 1;
                return Reaction::default();
            }
        };
        let question = message.question.filter(|question| self.net.is_own(question.target));
        let announces = message.question.is_some_and(|q| Some(q.target) == message.speaker);
        if message.question.is_some() && question.is_none() && !announces {
            self.dropped.not_ours += 1;
        }
        let news = self.learn(now, &message, question.is_some());
        let learned = message.speaker.filter(|_| news);
        let answer = question.and_then(|asked| discovery::answer(self.mac, asked, message.speaker));
        Reaction { answer, learned }
    }

    /// Notes what a message says of its speaker. Returns whether it is news.
    fn learn(&mut self, now: Instant, message: &Message, asks_us: bool) -> bool {
        let Some(speaker) = message.speaker else { return false };
        if self.net.is_own(speaker) {
            self.dropped.conflict += u64::from(message.mac != Some(self.mac));
            return false;
        }
        if !is_unicast(speaker) || self.net.next_hop(speaker) != Some(speaker) {
            self.dropped.unasked += 1;
            return false;
        }
        let room = asks_us && self.has_room_for_stranger(now);
        match (self.entries.get_mut(&speaker), message.mac) {
            (Some(entry), mac) if entry.is_static => {
                self.dropped.contradiction += u64::from(mac.is_some() && mac != entry.mac);
                false
            }
            (Some(entry), _) => entry.hear(now, message),
            // RFC 826: who asks for us is about to talk to us.
            (None, Some(mac)) if room => {
                self.entries.insert(speaker, Entry { mac: Some(mac), ..Entry::new(now) });
                false
            }
            (None, _) => {
                let asks = message.question.is_some_and(|question| question.target != speaker);
                self.dropped.unasked += u64::from(!asks);
                false
            }
        }
    }

    fn has_room(&self) -> bool {
        self.entries.len() < ENTRIES_MAX + self.net.static_neighbours()
    }

    /// Whether there is room for an entry that no socket needs. It takes nobody's place but that of
    /// others like it, and those are looked for once a second only: their number is the attacker's.
    fn has_room_for_stranger(&mut self, now: Instant) -> bool {
        if !self.has_room() && self.swept_at.is_none_or(|at| now >= at + SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.entries.retain(|_, entry| entry.is_static || entry.worth() >= (2, Instant::ZERO));
        }
        self.has_room()
    }

    /// Makes room for an entry that a socket needs, at the cost of the one that is needed least.
    fn make_room(&mut self) {
        if self.has_room() {
            return;
        }
        let learned = self.entries.iter().filter(|(_, entry)| !entry.is_static);
        let least = learned.min_by_key(|(_, entry)| entry.worth()).map(|(&address, _)| address);
        if let Some(address) = least {
            self.entries.remove(&address);
        }
    }
}

impl Entry {
    const fn new(now: Instant) -> Self {
        Self {
            mac: None,
            is_static: false,
            used_at: None,
            since: now,
            verify_at: now,
            questions: 0,
            ask_at: None,
        }
    }

    /// Whether its use makes us ask: an address that is not known, if a socket needs it, or one that
    /// was not heard of for long.
    fn is_due(&self, now: Instant, purpose: Purpose) -> bool {
        let needed = match self.mac {
            Some(_) => !self.is_static && self.verify_at <= now,
            None => purpose == Purpose::Socket,
        };
        needed && self.ask_at.is_none()
    }

    /// RFC 4861 section 7.2.5, which suits ARP too. Returns whether it is news.
    fn hear(&mut self, now: Instant, message: &Message) -> bool {
        // What was not asked for is no proof that the neighbour hears us.
        let answers = message.solicited && self.ask_at.is_some();
        let news = match (self.mac, message.mac) {
            (None, None) => return false,
            (None, Some(_)) => true,
            (Some(known), Some(said)) if said != known => {
                if !message.overrides {
                    self.verify_at = now;
                    return false;
                }
                true
            }
            _ => false,
        };
        if news {
            self.mac = message.mac;
            // Usable at once, and to be verified when used.
            (self.verify_at, self.questions, self.ask_at) = (now, 0, None);
        }
        if answers {
            (self.verify_at, self.questions, self.ask_at) = (now + REACHABLE, 0, None);
        }
        news
    }

    /// The less, the sooner it makes way: what did not answer, what no socket used, what has not
    /// answered yet, what is in use; and of each kind the oldest.
    fn worth(&self) -> (u8, Instant) {
        match (self.mac, self.used_at) {
            (None, _) if self.ask_at.is_none() => (0, self.since),
            (_, None) => (1, self.since),
            (None, Some(_)) => (2, self.since),
            (Some(_), Some(used_at)) => (3, used_at),
        }
    }
}
