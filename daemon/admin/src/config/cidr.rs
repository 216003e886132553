//! An address with its prefix length.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::values::{ValueError, json_string};

/// An address and the length of its subnet's prefix, such as `10.1.0.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// The address, with its host bits.
    pub address: IpAddr,
    /// Bits of the prefix: 0 to 32, or to 128.
    pub prefix_len: u8,
}

impl Cidr {
    /// Whether `other` lies in this prefix.
    #[must_use]
    pub const fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = mask_u32(self.prefix_len);
                a.to_bits() & mask == b.to_bits() & mask
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = mask_u128(self.prefix_len);
                a.to_bits() & mask == b.to_bits() & mask
            }
            _ => false,
        }
    }

    /// The first address of the prefix: all host bits zero.
    #[must_use]
    pub const fn network(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                IpAddr::V4(std::net::Ipv4Addr::from_bits(a.to_bits() & mask_u32(self.prefix_len)))
            }
            IpAddr::V6(a) => {
                IpAddr::V6(std::net::Ipv6Addr::from_bits(a.to_bits() & mask_u128(self.prefix_len)))
            }
        }
    }
}

const fn mask_u32(prefix_len: u8) -> u32 {
    if prefix_len == 0 { 0 } else { u32::MAX << (32 - prefix_len) }
}

const fn mask_u128(prefix_len: u8) -> u128 {
    if prefix_len == 0 { 0 } else { u128::MAX << (128 - prefix_len) }
}

impl FromStr for Cidr {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refuse = |why: &str| {
            Err(ValueError(format!("{text:?} {why}: write it as 10.1.0.2/24 or fd00:1::2/64")))
        };
        let Some((address, prefix)) = text.split_once('/') else {
            return refuse("has no prefix length");
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return refuse("is no address with a prefix length");
        };
        let bits = if address.is_ipv4() { 32 } else { 128 };
        match prefix.parse::<u8>() {
            Ok(prefix_len) if prefix_len <= bits && prefix.bytes().all(|b| b.is_ascii_digit()) => {
                Ok(Self { address, prefix_len })
            }
            _ => refuse(&format!("has no prefix length from 0 to {bits}")),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

json_string!(Cidr, r"^[0-9a-fA-F.:]+/[0-9]{1,3}$", "An address with its prefix length.");

#[cfg(test)]
mod tests {
    use super::super::values::refuses;
    use super::*;

    #[test]
    fn prefixes_contain_their_hosts() {
        let net: Cidr = "10.1.0.2/24".parse().unwrap();
        assert!(net.contains("10.1.0.255".parse().unwrap()));
        assert!(!net.contains("10.1.1.2".parse().unwrap()));
        assert!(!net.contains("::".parse().unwrap()));
        assert_eq!(net.network().to_string(), "10.1.0.0");
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        let six: Cidr = "fd00:1::2/64".parse().unwrap();
        assert!(six.contains("fd00:1::ffff".parse().unwrap()));
        assert!(!six.contains("fd00:1:0:1::1".parse().unwrap()));
        let any: Cidr = "::/0".parse().unwrap();
        assert_eq!(any.network().to_string(), "::");
        refuses::<Cidr>(
            &["10.0.0.1", "10.0.0/8", "10.0.0.1/33", "::1/129", "::1/+1"],
            "write it as",
        );
    }
}
