//! A connection whose SYN carries payload (RFC 7413).
//!
//! Owns: how far that is. Called before a SYN and for its answer. Must never: let payload go where no cookie
//! says that it is welcome.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use dmm_port::Instant;
use dmm_proto::Breach;

use super::{Connection, Parameters, State};
use crate::native::fast_open::Known;
use crate::native::segment::Cookie;

/// Bytes of options at most, which a SYN's payload leaves room for.
const OPTIONS_MAX: u16 = 40;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Fast {
    /// Nobody thinks of it.
    Off,
    /// The peer's cookie is known, should the owner ask for it.
    Possible(Known),
    /// Our SYN asks for a cookie.
    Asks,
    /// Our SYN waits for what its owner writes first.
    Waits(Known),
    /// Our SYN brings a cookie, and what was written.
    Carries(Known),
    /// Our answer brings a cookie.
    Offers(Cookie),
    /// All of the SYN's payload was taken.
    Taken,
}

impl Parameters {
    /// Payload of a SYN at most, to a peer that takes `mss` bytes in a segment.
    pub(in super::super) fn syn_room(&self, remote: IpAddr, mss: u16) -> u16 {
        syn_room(self.mss(remote), mss)
    }
}

/// Payload of a SYN at most, between ends that take so many bytes in a segment.
fn syn_room(ours: u16, theirs: u16) -> u16 {
    ours.min(theirs).saturating_sub(OPTIONS_MAX)
}

impl Connection {
    /// What is known of the peer, before the owner may ask for it.
    pub(in super::super) fn knows(&mut self, known: Option<Known>) {
        self.fast = known.map_or(Fast::Off, Fast::Possible);
    }

    /// The owner asks for it, before the SYN is sent.
    pub(super) fn ask_fast(&mut self) {
        if self.state != State::SynSent || self.sender.next > 0 {
            return;
        }
        match self.fast {
            Fast::Off => self.fast = Fast::Asks,
            Fast::Possible(known) => {
                self.fast = Fast::Waits(known);
                self.sender.open_with(u64::from(syn_room(self.mss, known.mss)));
            }
            _ => {}
        }
    }

    /// Whether our SYN waits for its owner.
    pub(super) const fn waits_for_owner(&self) -> bool {
        matches!((self.state, self.fast), (State::SynSent, Fast::Waits(_)))
    }

    /// Our SYN waits no longer.
    pub(super) const fn go_fast(&mut self) {
        if let Fast::Waits(known) = self.fast {
            self.fast = Fast::Carries(known);
        }
    }

    /// Whether our SYN, which was to wait, has not been sent.
    pub(super) const fn is_held(&self) -> bool {
        let held = matches!(self.fast, Fast::Waits(_) | Fast::Carries(_));
        held && matches!(self.state, State::SynSent) && self.sender.next == 0
    }

    /// Whether the answer to our SYN is to be remembered.
    pub(in super::super) const fn is_fast(&self) -> bool {
        matches!(self.fast, Fast::Asks | Fast::Carries(_) | Fast::Taken)
    }

    /// Our SYN-ACK brings a cookie.
    pub(in super::super) const fn offer_cookie(&mut self, cookie: Cookie) {
        self.fast = Fast::Offers(cookie);
    }

    /// Takes the payload of a SYN whose cookie was right. It is established then, but for the peer's
    /// acknowledgement of our SYN.
    pub(in super::super) fn take_fast(
        &mut self,
        now: Instant,
        payload: &[u8],
    ) -> Result<(), Breach> {
        self.fast = if payload.is_empty() { Fast::Off } else { Fast::Taken };
        self.receiver.announce();
        self.receiver.take(1, payload, false)?;
        self.establish();
        self.heard_at = now;
        Ok(())
    }

    /// The answer to our SYN acknowledged what lies before `position`: what else it carried goes out again
    /// at once.
    pub(super) fn conclude_fast(&mut self, position: u64) {
        if position < self.sender.next {
            self.sender.repeat_all();
        } else if matches!(self.fast, Fast::Carries(_)) && position > 1 {
            self.fast = Fast::Taken;
        }
    }

    /// The Fast Open option of a SYN, which stands on the first alone: where it is lost, the option may be
    /// why.
    pub(super) const fn cookie(&self, again: bool) -> Option<Cookie> {
        match self.fast {
            _ if again => None,
            Fast::Asks => Some(Cookie::REQUEST),
            Fast::Carries(known) => Some(known.cookie),
            Fast::Offers(cookie) => Some(cookie),
            Fast::Off | Fast::Possible(_) | Fast::Waits(_) | Fast::Taken => None,
        }
    }
}
