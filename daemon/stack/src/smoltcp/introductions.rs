//! What the library is told of the neighbours.
//!
//! Owns: whom the library has heard of. Called before a frame goes out through it. Must never: let the
//! library ask for a neighbour by itself.
//!
//! The library's own table is private, asks one question a second for all addresses together,
//! learns whatever it is told and forgets it after a minute. So it hears nothing of the network's
//! messages: each neighbour is introduced to it, by the message that the neighbour itself would
//! have sent, just before a frame goes there.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ::smoltcp::config::IFACE_NEIGHBOR_CACHE_COUNT;
use dmm_port::Instant;

use crate::ip::discovery::{self, Frame, Mac};
use crate::ip::neighbours::Purpose;
use crate::ip::net::Net;

/// How long the library is trusted to remember: half of its minute.
const INTRODUCED: Duration = Duration::from_secs(30);

/// The introductions made.
pub(super) struct Introductions {
    mac: Mac,
    net: Net,
    /// Whom the library knows, as whom, and since when.
    known: BTreeMap<IpAddr, (Mac, Instant)>,
    /// Introductions since it forgot all: entries in its table at most.
    made: usize,
    /// The way that was last found open: frames come in bursts.
    open: Option<(IpAddr, Instant, Purpose)>,
}

/// What the library is to be told.
pub(super) struct Introduction {
    /// The message.
    pub(super) frame: Frame,
    /// Its table is full: let it forget all before.
    pub(super) forget: bool,
}

impl Introductions {
    /// None yet.
    pub(super) fn new(mac: Mac, net: &Net) -> Self {
        Self { mac, net: net.clone(), known: BTreeMap::new(), made: 0, open: None }
    }

    /// Whether the way to `remote` was found open in this very moment.
    pub(super) fn is_open(&self, now: Instant, remote: IpAddr, purpose: Purpose) -> bool {
        self.open.is_some_and(|(to, at, of)| to == remote && at == now && of >= purpose)
    }

    /// The way to `remote` is open.
    pub(super) fn opened(&mut self, now: Instant, remote: IpAddr, purpose: Purpose) {
        self.open = Some((remote, now, purpose));
    }

    /// A neighbour may have changed.
    pub(super) fn unsettle(&mut self) {
        self.open = None;
    }

    /// How to introduce the neighbour `hop`, if the library does not know it as that.
    pub(super) fn of(&mut self, now: Instant, hop: IpAddr, mac: Mac) -> Option<Introduction> {
        let fresh = |&(known, at): &(Mac, Instant)| known == mac && now < at + INTRODUCED;
        if self.known.get(&hop).is_some_and(fresh) {
            return None;
        }
        let introduction = self.make(mac, hop)?;
        self.known.insert(hop, (mac, now));
        Some(introduction)
    }

    /// How to make the library believe in a neighbour that is not known, so that it does not ask for
    /// it: what it then answers must not go out.
    pub(super) fn stand_in(&mut self, hop: IpAddr) -> Option<Introduction> {
        self.known.remove(&hop);
        self.make(self.mac, hop)
    }

    fn make(&mut self, mac: Mac, hop: IpAddr) -> Option<Introduction> {
        let own = self.net.source_for(hop)?;
        let frame = discovery::introduce((mac, hop), (self.mac, own))?;
        let forget = self.made == IFACE_NEIGHBOR_CACHE_COUNT;
        if forget {
            self.known.clear();
            (self.made, self.open) = (0, None);
        }
        self.made += 1;
        Some(Introduction { frame, forget })
    }
}
