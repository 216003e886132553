//! The kinds of stack that come with the daemon, by the name that a configuration uses.
//!
//! Owns: [`build`] and what can be wrong with a [`StackConfig`]. Called by the daemon for each
//! instance, and by simulations. Must never: open a port or read a file.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use crate::config::StackConfig;
use crate::{Stack, ip, native, smoltcp, sockets, test};

/// Names of all kinds, for messages and schemas.
pub const KINDS: [&str; 3] = ["native", "smoltcp", "test"];

/// The name and the meaning of each counter of the kind `kind`, so far as it says.
pub fn meanings(kind: &str) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
    let lists: &[&[_]] = match kind {
        "native" => &[ip::MEANINGS, sockets::MEANINGS, native::MEANINGS],
        "smoltcp" => &[ip::MEANINGS, sockets::MEANINGS, smoltcp::MEANINGS],
        _ => &[],
    };
    lists.iter().copied().flatten()
}

/// The least MTU of a path that carries IPv4 (RFC 791 section 3.2: 576 bytes must be accepted).
pub const MTU_MIN_V4: u16 = 576;
/// The least MTU of a link that carries IPv6 (RFC 8200 section 5).
pub const MTU_MIN_V6: u16 = 1280;

/// Why a stack could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// No kind has this name.
    #[error("kind {0:?} is unknown: use one of {KINDS:?}")]
    Kind(String),
    /// The Ethernet address cannot be a station's own.
    #[error("Ethernet address {0:02x?} is not unicast: give the port's own address")]
    Mac([u8; 6]),
    /// The MTU is too small for the addresses.
    #[error("MTU {mtu} is too small: {least} bytes are needed for these addresses")]
    Mtu {
        /// As configured, in bytes.
        mtu: u16,
        /// The least that will do, in bytes.
        least: u16,
    },
    /// A VLAN that cannot be, or that the kind cannot be in.
    #[error("VLAN {vlan} cannot be: use 1 to 4094, with kind native")]
    Vlan {
        /// As configured.
        vlan: u16,
    },
    /// A list is longer than the kind can hold.
    #[error("{count} {what} are too many: at most {most}")]
    TooMany {
        /// Which list.
        what: &'static str,
        /// Its length.
        count: usize,
        /// The most that fit.
        most: usize,
    },
    /// An own address is not unicast, or its prefix longer than an address.
    #[error("address {address}/{len} is no unicast address with a prefix")]
    Address {
        /// The address.
        address: IpAddr,
        /// The prefix's length in bits.
        len: u8,
    },
    /// A route whose two ends differ in family, or whose gateway is not on a link of ours.
    #[error("gateway {via} is not in a subnet of the stack's addresses")]
    Gateway {
        /// The gateway.
        via: IpAddr,
    },
    /// A static neighbour that is not on a link of ours, or has an impossible Ethernet address.
    #[error("neighbour {address} is not in a subnet of the stack's addresses, or not unicast")]
    Neighbour {
        /// Its address.
        address: IpAddr,
    },
    /// A buffer size that TCP or UDP cannot work with.
    #[error("{what} of {bytes} bytes is out of range: {least} to {most} bytes")]
    Buffer {
        /// Which buffer.
        what: &'static str,
        /// As configured.
        bytes: u32,
        /// The least that will do.
        least: u32,
        /// The most that will do.
        most: u32,
    },
    /// A congestion control that the kind does not have.
    #[error(
        "this kind has no such congestion control: use cubic, reno or none, or the kind native"
    )]
    Congestion,
    /// A time of 0 seconds.
    #[error("user timeout of 0 seconds: connections would end at once; 30 is usual")]
    UserTimeout,
}

/// Makes an instance of the stack that `kind` names.
///
/// # Errors
/// If there is no such kind, or the configuration does not suit it.
pub fn build(kind: &str, config: &StackConfig) -> Result<Box<dyn Stack>, BuildError> {
    check(config)?;
    // IEEE 802.1Q table 9-2: 0 is none, 4095 is reserved.
    if let Some(vlan) = config.vlan.filter(|vlan| kind != "native" || !(1..=4094).contains(vlan)) {
        return Err(BuildError::Vlan { vlan });
    }
    match kind {
        "native" => Ok(Box::new(native::NativeStack::new(config)?)),
        "smoltcp" => Ok(Box::new(smoltcp::SmoltcpStack::new(config)?)),
        "test" => Ok(Box::new(test::TestStack::new(config))),
        _ => Err(BuildError::Kind(kind.to_owned())),
    }
}

/// What every kind needs.
fn check(config: &StackConfig) -> Result<(), BuildError> {
    // IEEE 802 clause 8.2: the lowest bit of the first octet marks a group address.
    if config.mac[0] & 1 == 1 || config.mac == [0; 6] {
        return Err(BuildError::Mac(config.mac));
    }
    let v6 = config.addresses.iter().any(|prefix| prefix.address.is_ipv6());
    let least = if v6 { MTU_MIN_V6 } else { MTU_MIN_V4 };
    if config.mtu < least {
        return Err(BuildError::Mtu { mtu: config.mtu, least });
    }
    // RFC 7323 section 2.3: a window is at most 2^30 bytes.
    for (what, bytes) in
        [("TCP receive buffer", config.tcp.rx_buffer), ("TCP send buffer", config.tcp.tx_buffer)]
    {
        let (least, most) = (2048, 1 << 30);
        if !(least..=most).contains(&bytes) {
            return Err(BuildError::Buffer { what, bytes, least, most });
        }
    }
    if config.tcp.user_timeout_s == 0 {
        return Err(BuildError::UserTimeout);
    }
    Ok(())
}
