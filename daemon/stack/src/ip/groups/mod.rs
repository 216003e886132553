//! The groups that sockets are members of, and what is said of that to routers: IGMPv3 (RFC 3376) and MLDv2
//! (RFC 3810), or what an older querier of the link understands.
//!
//! Owns: the memberships and the times of reports. Called when a socket joins or leaves, for each message of a
//! router, and on each poll. Must never: answer at once, or more often than its timers allow, whoever asks.
//!
//! ```text
//!   join ─▶ [member] ─ said now, and again within 1 s ─▶ [member] ◀─ query: said within what it allows
//!              │ last socket leaves
//!              ▼
//!           [left] ─ said now, and again within 1 s ─▶ (nothing)
//! ```
#![forbid(unsafe_code)]

mod message;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use dmm_port::Instant;
use dmm_port::flow::Message;
use nix::errno::Errno;
use siphasher::sip::SipHasher13;

use super::discovery::Mac;
use super::net::{Net, is_link_local};
use super::{Sent, Write};
use message::{Heard, Query, Record, Say, Version, kind};

/// Groups of a family at most.
const GROUPS_MAX: usize = 256;

/// How often a change is said, unless a querier says otherwise (RFC 3376 section 8.1, RFC 3810 section 9.1).
const ROBUSTNESS: u8 = 2;

/// A change is said again within this time (RFC 3376 section 8.11, RFC 3810 section 9.11).
const REPEATED_WITHIN: Duration = Duration::from_secs(1);

/// The same in older versions (RFC 2236 section 8.10, RFC 2710 section 7.10).
const REPEATED_WITHIN_OLDER: Duration = Duration::from_secs(10);

/// Between two general questions, unless a querier says otherwise (RFC 3376 section 8.2, RFC 3810 section
/// 9.2).
const QUERY_INTERVAL: Duration = Duration::from_secs(125);

/// An answer may take this long at least, whatever is asked: who asks without end is answered in measure.
const WITHIN_MIN: Duration = Duration::from_millis(100);

/// The memberships of an instance.
pub(crate) struct Groups {
    net: Net,
    /// Where MLD speaks from if no link-local address is configured.
    stand_in: IpAddr,
    mtu: usize,
    v4: Host,
    v6: Host,
    random: Random,
    /// When there is something to say.
    next: Option<Instant>,
    dropped: Dropped,
}

/// What was dropped of others' messages, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dropped {
    /// No router or station of the link may send them.
    pub(crate) unsound: u64,
    /// They are for routers, or of groups that concern nobody here.
    pub(crate) others: u64,
}

/// One family's.
struct Host {
    groups: BTreeMap<IpAddr, Group>,
    /// When a general question is answered.
    answer_at: Option<Instant>,
    /// What the oldest querier understands that was heard lately, and until when that counts.
    older: Option<(Version, Instant)>,
    robustness: u8,
    interval: Duration,
}

/// A group, of which a socket is a member or was lately.
#[derive(Debug, Default)]
struct Group {
    members: u32,
    /// What changed is said so many times more, next then.
    changes: u8,
    change_at: Option<Instant>,
    /// When a question about it is answered, and for which sources; none for all.
    answer_at: Option<Instant>,
    sources: Vec<IpAddr>,
    /// In older versions: we were the last that said to be a member.
    spoke_last: bool,
}

/// Numbers that nobody else can predict.
struct Random {
    key: u64,
    count: u64,
}

impl Random {
    /// A time within a span.
    fn within(&mut self, span: Duration) -> Duration {
        self.count += 1;
        let mut hasher = SipHasher13::new_with_keys(self.key, 1);
        hasher.write_u64(self.count);
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(hasher.finish() % nanos)
    }
}

impl Host {
    const fn new() -> Self {
        Self {
            groups: BTreeMap::new(),
            answer_at: None,
            older: None,
            robustness: ROBUSTNESS,
            interval: QUERY_INTERVAL,
        }
    }

    fn version(&self, now: Instant) -> Version {
        self.older.filter(|(_, until)| now < *until).map_or(Version::Newest, |(version, _)| version)
    }

    fn next(&self) -> Option<Instant> {
        let times = self.groups.values().flat_map(|group| [group.change_at, group.answer_at]);
        times.chain([self.answer_at]).flatten().min()
    }
}

impl Groups {
    /// No memberships yet.
    pub(crate) fn new(net: &Net, mac: Mac, mtu: u16, seed: u64) -> Self {
        let [a, b, c, d, e, f] = mac;
        // RFC 4291 appendix A.
        let stand_in = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        Self {
            net: net.clone(),
            stand_in: Ipv6Addr::from(stand_in).into(),
            mtu: mtu.into(),
            v4: Host::new(),
            v6: Host::new(),
            random: Random { key: seed, count: 0 },
            next: None,
            dropped: Dropped::default(),
        }
    }

    fn host(&mut self, like: IpAddr) -> &mut Host {
        if like.is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// Whether a socket is a member of a group.
    pub(crate) fn has(&self, group: IpAddr) -> bool {
        let host = if group.is_ipv4() { &self.v4 } else { &self.v6 };
        host.groups.get(&group).is_some_and(|group| group.members > 0)
    }

    /// One more socket is a member of a group.
    pub(crate) fn join(&mut self, now: Instant, address: IpAddr) -> Result<(), Errno> {
        if !address.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if self.net.any_like(address).is_none() {
            return Err(Errno::ENODEV);
        }
        let host = self.host(address);
        if host.groups.len() >= GROUPS_MAX && !host.groups.contains_key(&address) {
            return Err(Errno::ENOBUFS);
        }
        let robustness = host.robustness;
        let group = host.groups.entry(address).or_default();
        group.members += 1;
        if group.members == 1 {
            group.change(now, robustness, address);
            self.plan();
        }
        Ok(())
    }

    /// One socket fewer is.
    pub(crate) fn leave(&mut self, now: Instant, address: IpAddr) {
        let host = self.host(address);
        let (robustness, version) = (host.robustness, host.version(now));
        let Some(group) = host.groups.get_mut(&address) else { return };
        group.members = group.members.saturating_sub(1);
        if group.members > 0 {
            return;
        }
        (group.answer_at, group.sources) = (None, Vec::new());
        group.change(now, robustness, address);
        // RFC 2236 section 3: who did not speak last need not say that it leaves; once is enough.
        group.changes = match version {
            Version::Newest => group.changes,
            Version::Second if group.spoke_last => group.changes.min(1),
            _ => 0,
        };
        if group.changes == 0 {
            host.groups.remove(&address);
        }
        self.plan();
    }

    /// Notes when there is something to say next.
    fn plan(&mut self) {
        self.next = Instant::earliest(self.v4.next(), self.v6.next());
    }

    /// When [`Groups::poll`] has something to do.
    pub(crate) const fn next(&self) -> Option<Instant> {
        self.next
    }

    /// What was dropped since the last call.
    pub(crate) fn take_dropped(&mut self) -> Dropped {
        std::mem::take(&mut self.dropped)
    }

    /// Takes a message of IGMP or MLD.
    pub(crate) fn hear(&mut self, now: Instant, frame: &[u8], message: &Message<'_>) {
        match message::read(frame, message) {
            Heard::Query(query) => self.asked(now, query, message.source),
            Heard::Report(group) => {
                // RFC 2236 section 3, RFC 2710 section 4: one member's word is enough, in older versions.
                let host = self.host(group);
                let older = host.version(now) != Version::Newest;
                match host.groups.get_mut(&group).filter(|group| older && group.members > 0) {
                    Some(group) => {
                        (group.answer_at, group.changes, group.change_at) = (None, 0, None);
                        group.spoke_last = false;
                        self.plan();
                    }
                    None => self.dropped.others += 1,
                }
            }
            Heard::Other => self.dropped.others += 1,
            Heard::Unsound => self.dropped.unsound += 1,
        }
    }

    /// RFC 3376 section 5.2, RFC 3810 section 6.2.
    fn asked(&mut self, now: Instant, query: Query, from: IpAddr) {
        let within = query.within.max(WITHIN_MIN);
        let at = now + self.random.within(within);
        let (host, random) = match from {
            IpAddr::V4(_) => (&mut self.v4, &mut self.random),
            IpAddr::V6(_) => (&mut self.v6, &mut self.random),
        };
        if let Some(robustness) = query.robustness {
            host.robustness = robustness;
        }
        if let Some(interval) = query.interval.filter(|interval| !interval.is_zero()) {
            host.interval = interval;
        }
        if query.version < Version::Newest {
            host.heard_older(now, &query);
        }
        let older = host.version(now) < Version::Newest;
        match query.group {
            // RFC 2236 section 3, RFC 2710 section 4: each group has a time of its own, since another station's
            // word may spare us one.
            None if older => {
                for (address, group) in &mut host.groups {
                    if group.members > 0 && !message::is_silent(*address) {
                        group.asked(now + random.within(within), Vec::new());
                    }
                }
            }
            None => host.answer_at = Some(host.answer_at.map_or(at, |before| before.min(at))),
            Some(address) => {
                let soon = host.answer_at.is_some_and(|general| general <= at);
                let group = host.groups.get_mut(&address).filter(|group| group.members > 0);
                match group.filter(|_| !message::is_silent(address)) {
                    // What is said of all is said of this one.
                    Some(_) if soon => {}
                    Some(group) => group.asked(at, query.sources),
                    None => self.dropped.others += 1,
                }
            }
        }
        self.plan();
    }

    /// Says what is due, through `send`, which says what became of it.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        mut send: impl FnMut((IpAddr, usize), Write<'_>) -> Sent,
    ) {
        if self.next.is_none_or(|at| at > now) {
            return;
        }
        for v4 in [true, false] {
            while let Some((say, of)) = self.due(now, v4) {
                let Some(to) = message::destination(&say) else { break };
                let Some(from) = self.source(to) else { break };
                let payload = message::payload(&say, from, to);
                let len = message::frame_bytes(to, &payload);
                let write = |frame: &mut [u8], macs: (Mac, Mac)| {
                    message::write((from, to), &payload, macs, frame);
                };
                if send((to, len), &write) != Sent::Frame {
                    return;
                }
                self.said(now, v4, &of);
            }
        }
        self.plan();
    }

    /// Where we speak from (RFC 3810 section 5.2.13: an address of the link).
    fn source(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.net.any_like(to),
            IpAddr::V6(_) => {
                let mut own = self.net.addresses().iter().map(|prefix| prefix.address);
                Some(own.find(|own| is_link_local(*own)).unwrap_or(self.stand_in))
            }
        }
    }

    /// What is to be said now, and of which groups.
    fn due(&mut self, now: Instant, v4: bool) -> Option<(Say, Vec<IpAddr>)> {
        // Headers with their options, and the report's own (RFC 3376 section 4.2, RFC 3810 section 5.2).
        let room = self.mtu - if v4 { 24 + 8 } else { 40 + 8 + 8 };
        let address_bytes = if v4 { 4 } else { 16 };
        let host = if v4 { &mut self.v4 } else { &mut self.v6 };
        let version = host.version(now);
        if host.answer_at.is_some_and(|at| at <= now) {
            host.answer_at = None;
            let spoken = |group: &&mut Group| group.members > 0;
            let groups =
                host.groups.iter_mut().filter(|(address, _)| !message::is_silent(**address));
            for group in groups.map(|(_, group)| group).filter(spoken) {
                (group.answer_at, group.sources) = (Some(now), Vec::new());
            }
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let due = host.groups.iter().filter(|(_, g)| is_due(g.change_at) || is_due(g.answer_at));
        if version < Version::Newest {
            let (address, group) = { due }.next()?;
            let say = match group.members {
                0 => Say::Left(*address),
                _ => Say::Member(version, *address),
            };
            return Some((say, vec![*address]));
        }
        let (mut records, mut of, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (address, group) in due {
            let record = group.record(*address, is_due(group.change_at));
            bytes += 4 + (1 + record.sources.len()) * address_bytes;
            if bytes > room {
                break;
            }
            records.push(record);
            of.push(*address);
        }
        (!of.is_empty()).then_some((Say::Records(records), of))
    }

    /// It was said of these groups.
    fn said(&mut self, now: Instant, v4: bool, of: &[IpAddr]) {
        let (host, random) = match v4 {
            true => (&mut self.v4, &mut self.random),
            false => (&mut self.v6, &mut self.random),
        };
        let again_within = match host.version(now) {
            Version::Newest => REPEATED_WITHIN,
            _ => REPEATED_WITHIN_OLDER,
        };
        for address in of {
            let Some(group) = host.groups.get_mut(address) else { continue };
            group.spoke_last = true;
            if group.change_at.is_some_and(|at| at <= now) {
                group.changes -= 1;
                let again = group.changes > 0;
                group.change_at = again.then(|| now + random.within(again_within));
            } else {
                (group.answer_at, group.sources) = (None, Vec::new());
            }
            // In older versions there is but one thing to say of it.
            if again_within == REPEATED_WITHIN_OLDER {
                group.answer_at = None;
            }
            if group.members == 0 && group.changes == 0 {
                host.groups.remove(address);
            }
        }
    }
}

impl Host {
    /// A querier of an older version is here (RFC 3376 section 7.2.1, RFC 3810 section 8.2.1).
    fn heard_older(&mut self, now: Instant, query: &Query) {
        let before = self.version(now);
        let stays = self.interval * u32::from(self.robustness) + query.within;
        self.older = Some((before.min(query.version), now + stays));
        if before > query.version {
            self.answer_at = None;
            self.groups.retain(|_, group| group.members > 0);
            for group in self.groups.values_mut() {
                (group.answer_at, group.changes, group.change_at) = (None, 0, None);
            }
        }
    }
}

impl Group {
    fn change(&mut self, now: Instant, robustness: u8, address: IpAddr) {
        if message::is_silent(address) {
            return;
        }
        (self.changes, self.change_at) = (robustness, Some(now));
    }

    /// A question about it is to be answered then at the latest (RFC 3376 section 5.2, rules 3 to 5).
    fn asked(&mut self, at: Instant, sources: Vec<IpAddr>) {
        let all = self.answer_at.is_some() && self.sources.is_empty() || sources.is_empty();
        if all {
            self.sources.clear();
        } else {
            self.sources.extend(sources);
            self.sources.sort_unstable();
            self.sources.dedup();
            if self.sources.len() > message::SOURCES_MAX {
                self.sources.clear();
            }
        }
        self.answer_at = Some(self.answer_at.map_or(at, |before| before.min(at)));
    }

    fn record(&self, group: IpAddr, changed: bool) -> Record {
        let (kind, sources) = match (changed, self.members) {
            (true, 0) => (kind::TO_INCLUDE, Vec::new()),
            (true, _) => (kind::TO_EXCLUDE, Vec::new()),
            (false, _) if self.sources.is_empty() => (kind::IS_EXCLUDE, Vec::new()),
            // RFC 3376 section 5.2: all of them are wanted.
            (false, _) => (kind::IS_INCLUDE, self.sources.clone()),
        };
        Record { kind, group, sources }
    }
}
