//! The device behind a port, told apart by how it is written.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::limits::DEVICE_BYTES_MAX;
use super::values::{Name, ValueError, json_string};

/// The device behind a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// A PCI address such as `0000:03:00.0`, always with its domain.
    Pci(String),
    /// A DPDK virtual device and its arguments, such as `net_tap0,iface=dmm0`.
    Vdev(String),
    /// One end of the in-memory wire of this name.
    Wire(Name),
    /// One end of a pair of DPDK's rings of this name.
    Ring(Name),
}

impl Device {
    /// The wire that this is an end of, if it is one.
    #[must_use]
    pub const fn wire(&self) -> Option<&Name> {
        match self {
            Self::Wire(name) => Some(name),
            Self::Pci(_) | Self::Vdev(_) | Self::Ring(_) => None,
        }
    }

    /// The pair of rings that this is an end of, if it is one.
    #[must_use]
    pub const fn ring(&self) -> Option<&Name> {
        match self {
            Self::Ring(name) => Some(name),
            Self::Pci(_) | Self::Vdev(_) | Self::Wire(_) => None,
        }
    }
}

impl FromStr for Device {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(name) = text.strip_prefix("wire:") {
            return name.parse().map(Self::Wire);
        }
        if let Some(name) = text.strip_prefix("ring:") {
            return name.parse().map(Self::Ring);
        }
        if text.len() > DEVICE_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(ValueError(format!(
                "device {text:?} has blanks or more than {DEVICE_BYTES_MAX} characters: write it \
                 without"
            )));
        }
        if let Some(pci) = parse_pci(text) {
            return Ok(Self::Pci(pci));
        }
        // DPDK finds a virtual device's driver by the prefix of its name: net_ or eth_.
        let driver = text.split(',').next().unwrap_or_default();
        if driver.len() > "net_".len() && (driver.starts_with("net_") || driver.starts_with("eth_"))
        {
            return Ok(Self::Vdev(text.to_owned()));
        }
        Err(ValueError(format!(
            "{text:?} is no device: write a PCI address (0000:03:00.0), a DPDK virtual device \
             (net_tap0,iface=dmm0), wire:NAME or ring:NAME"
        )))
    }
}

/// `[DDDD:]BB:DD.F` in hexadecimal, brought to the form with a domain and in lower case.
fn parse_pci(text: &str) -> Option<String> {
    let hex = |s: &str, digits: usize| {
        (s.len() == digits && s.bytes().all(|b| b.is_ascii_hexdigit())).then_some(())
    };
    let (head, function) = text.rsplit_once('.')?;
    let mut parts = head.rsplit(':');
    hex(parts.next()?, 2)?;
    hex(parts.next()?, 2)?;
    let domain = parts.next();
    if let Some(domain) = domain {
        hex(domain, 4)?;
    }
    if parts.next().is_some()
        || function.len() != 1
        || !matches!(function.as_bytes()[0], b'0'..=b'7')
    {
        return None;
    }
    let full = if domain.is_some() { text.to_owned() } else { format!("0000:{text}") };
    Some(full.to_ascii_lowercase())
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(text) | Self::Vdev(text) => f.write_str(text),
            Self::Wire(name) => write!(f, "wire:{name}"),
            Self::Ring(name) => write!(f, "ring:{name}"),
        }
    }
}

json_string!(
    Device,
    r"^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$|^(net|eth)_[!-~]+$|^(wire|ring):[a-z0-9_-]+$",
    "A PCI address, a DPDK virtual device with its arguments, wire:NAME or ring:NAME."
);

#[cfg(test)]
mod tests {
    use super::super::values::refuses;
    use super::*;

    #[test]
    fn devices_are_told_apart() {
        let parse = |text: &str| text.parse::<Device>().unwrap();
        assert_eq!(parse("03:00.1"), Device::Pci("0000:03:00.1".into()));
        assert_eq!(parse("0000:AF:1f.7"), Device::Pci("0000:af:1f.7".into()));
        assert_eq!(parse("net_tap0,iface=dmm0"), Device::Vdev("net_tap0,iface=dmm0".into()));
        assert_eq!(parse("wire:lab").wire().unwrap().as_str(), "lab");
        assert_eq!(parse("wire:lab").to_string(), "wire:lab");
        assert_eq!(parse("ring:lab").ring().unwrap().as_str(), "lab");
        assert_eq!(
            (parse("ring:lab").to_string(), parse("ring:lab").wire()),
            ("ring:lab".into(), None)
        );
        refuses::<Device>(&["", "eth0", "net_", "0000:03:00.8", "1:2:03:00.0", "03:00"], "PCI");
        refuses::<Device>(&["net_tap0, iface=x", &format!("net_{}", "x".repeat(255))], "without");
        refuses::<Device>(&["wire:"], "use 1 to 31 characters");
    }
}
