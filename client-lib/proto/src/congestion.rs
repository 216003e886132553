//! Algorithms of congestion control, by number and name.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// Algorithms that a socket may ask for, as far as its stack has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum CongestionControl {
    /// RFC 5681 and RFC 6582.
    Reno = 1,
    /// RFC 9438.
    Cubic = 2,
    /// RFC 8257.
    Dctcp = 3,
    /// draft-ietf-ccwg-bbr.
    Bbr = 4,
}

impl CongestionControl {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Reno, Self::Cubic, Self::Dctcp, Self::Bbr];

    /// Linux's name of it (tcp(7), `TCP_CONGESTION`).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reno => "reno",
            Self::Cubic => "cubic",
            Self::Dctcp => "dctcp",
            Self::Bbr => "bbr",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|control| control.name() == name)
    }

    /// The one with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|control| u32::from(*control as u8) == number)
    }
}
