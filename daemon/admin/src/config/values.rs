//! The small values of a configuration, parsed: names, Ethernet addresses, file modes,
//! probabilities. Each refuses what it cannot mean, with the remedy, while the file is read.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::limits::NAME_BYTES_MAX;

/// What is wrong with a value, in words that end with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ValueError(pub(super) String);

/// The name of a port, wire or stack: 1 to 31 bytes of `[a-z0-9_-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// An Ethernet address, written as six pairs of hexadecimal digits with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Permission bits of a file, written in octal, such as `0660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileMode(pub u32);

/// The key of TCP Fast Open's cookies, written as Linux's `net.ipv4.tcp_fastopen_key`: four words of 32 bits in
/// hexadecimal digits with hyphens. A secret: it is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FastOpenKey(pub [u8; 16]);

/// A probability from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct Probability(f64);

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(allowed) {
            return Err(ValueError(format!(
                "{text:?} is no name: use 1 to {NAME_BYTES_MAX} characters of a-z, 0-9, _ and -"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Mac {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut bytes = [0; 6];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            *byte = pairs
                .next()
                .filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(|| refuse_mac(text))?;
        }
        if pairs.next().is_some() {
            return Err(refuse_mac(text));
        }
        Ok(Self(bytes))
    }
}

fn refuse_mac(text: &str) -> ValueError {
    ValueError(format!("{text:?} is no Ethernet address: write it as 02:00:00:00:00:01"))
}

impl FromStr for FileMode {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777 && text.bytes().all(|b| b.is_ascii_digit()))
            .map(Self)
            .ok_or_else(|| {
                ValueError(format!("{text:?} is no file mode: write octal digits such as \"0660\""))
            })
    }
}

impl FromStr for FastOpenKey {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        // Of a secret, nothing is repeated.
        let refuse = || {
            ValueError(
                "this is no key of TCP Fast Open: write four words of 1 to 8 hexadecimal digits, such as \
                 00112233-44556677-8899aabb-ccddeeff"
                    .to_owned(),
            )
        };
        let mut bytes = [0; 16];
        let mut words = text.split('-');
        for place in bytes.chunks_mut(4) {
            let word = words
                .next()
                .filter(|word| word.len() <= 8 && word.bytes().all(|b| b.is_ascii_hexdigit()))
                .and_then(|word| u32::from_str_radix(word, 16).ok())
                .ok_or_else(refuse)?;
            place.copy_from_slice(&word.to_le_bytes());
        }
        if words.next().is_some() { Err(refuse()) } else { Ok(Self(bytes)) }
    }
}

impl Probability {
    /// The probability as a number from 0 to 1.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }
}

impl TryFrom<f64> for Probability {
    type Error = ValueError;

    fn try_from(value: f64) -> Result<Self, ValueError> {
        if (0.0..=1.0).contains(&value) {
            return Ok(Self(value));
        }
        Err(ValueError(format!("{value} is no probability: write a number from 0 to 1")))
    }
}

impl From<Probability> for f64 {
    fn from(value: Probability) -> Self {
        value.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Display for FileMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

impl fmt::Display for FastOpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.as_chunks::<4>().0.iter().enumerate() {
            let hyphen = if at > 0 { "-" } else { "" };
            write!(f, "{hyphen}{:08x}", u32::from_le_bytes(*word))?;
        }
        Ok(())
    }
}

impl fmt::Debug for FastOpenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FastOpenKey(..)")
    }
}

/// Makes a `FromStr + Display` type a string in JSON, with this pattern in the schema.
macro_rules! json_string {
    ($type:ident, $pattern:expr, $description:literal) => {
        impl TryFrom<String> for $type {
            type Error = ValueError;

            fn try_from(text: String) -> Result<Self, ValueError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "pattern": $pattern, "description": $description})
            }
        }
    };
}

pub(super) use json_string;

json_string!(
    Name,
    format!("^[a-z0-9_-]{{1,{NAME_BYTES_MAX}}}$"),
    "A name: lower-case letters, digits, _ and -."
);
json_string!(Mac, r"^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$", "An Ethernet address.");
json_string!(
    FastOpenKey,
    r"^[0-9a-fA-F]{1,8}(-[0-9a-fA-F]{1,8}){3}$",
    "A key of TCP Fast Open, as net.ipv4.tcp_fastopen_key has it."
);
json_string!(FileMode, r"^[0-7]{1,4}$", "Permission bits in octal.");

impl JsonSchema for Probability {
    fn schema_name() -> Cow<'static, str> {
        "Probability".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "maximum": 1})
    }
}

/// Asserts that each text is refused, with the remedy in the message.
#[cfg(test)]
pub(super) fn refuses<T: FromStr<Err = ValueError> + fmt::Debug>(texts: &[&str], remedy: &str) {
    for text in texts {
        let error = text.parse::<T>().expect_err(text).to_string();
        assert!(error.contains(remedy), "{text:?}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_lower_case() {
        assert_eq!("a_b-9".parse::<Name>().unwrap().as_str(), "a_b-9");
        "a".repeat(31).parse::<Name>().unwrap();
        refuses::<Name>(&["", "A", "a b", "ä", &"a".repeat(32)], "use 1 to 31 characters");
    }

    #[test]
    fn ethernet_addresses_and_modes() {
        let mac: Mac = "02:00:00:AB:00:01".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:00:ab:00:01");
        refuses::<Mac>(&["", "2:0:0:0:0:1", "02:00:00:00:00", "02:00:00:00:00:01:02"], "write it");
        assert_eq!("0660".parse::<FileMode>().unwrap(), FileMode(0o660));
        assert_eq!(FileMode(0o60).to_string(), "0060");
        refuses::<FileMode>(&["", "rw", "0888", "01777", "+7"], "octal");
    }

    #[test]
    fn keys_are_linuxs_and_not_shown() {
        let key: FastOpenKey = "a1a1a1a1-b2-C3C3C3C3-d4d4d4d4".parse().unwrap();
        assert_eq!(key.0[..8], [0xa1, 0xa1, 0xa1, 0xa1, 0xb2, 0, 0, 0]);
        assert_eq!(key.to_string(), "a1a1a1a1-000000b2-c3c3c3c3-d4d4d4d4");
        assert_eq!(format!("{key:?}"), "FastOpenKey(..)");
        let texts = ["", "1-2-3", "1-2-3-4-5", "1-2-3-", "1-2-3-x", "1-2-3-123456789", "1-2-3-+4"];
        refuses::<FastOpenKey>(&texts, "write four words");
    }

    #[test]
    fn probabilities_end_at_one() {
        assert_eq!(Probability::try_from(0.5).unwrap().get(), 0.5);
        for value in [-0.1, 1.1, f64::NAN] {
            assert!(Probability::try_from(value).is_err(), "{value}");
        }
    }
}
