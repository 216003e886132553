//! Stacks: a kind of stack on a port, its addresses, routes and tuning.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::cidr::Cidr;
use super::limits;
use super::values::{FastOpenKey, Mac, Name};

/// What stands for the kernel's own stack wherever a stack is named; no stack is called so.
pub const KERNEL: &str = "kernel";

/// A stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// What policies and reports call it: any name but `kernel`, which is the kernel's own stack.
    #[schemars(schema_with = "any_name_but_the_kernels")]
    pub name: Name,
    /// Which code runs it.
    pub kind: Kind,
    /// The port that it alone uses.
    pub port: Name,
    /// The cores of its instances, one entry each; a core may stand several times. Default: one
    /// instance on the first core that the daemon may use.
    #[serde(default)]
    #[schemars(length(max = limits::INSTANCES_MAX))]
    pub cores: Vec<u16>,
    /// The VLAN that its frames are in (IEEE 802.1Q), of kind `native`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(default)]
    #[schemars(range(min = 1, max = limits::VLAN_MAX))]
    pub vlan: Option<u16>,
    /// Its addresses with their prefix lengths.
    #[schemars(length(min = 1, max = limits::ADDRESSES_MAX))]
    pub addresses: Vec<Cidr>,
    /// Its default router: an address, or a list of one per family. Default: none.
    #[serde(default)]
    pub gateway: Gateways,
    /// Further routes. Default: none.
    #[serde(default)]
    #[schemars(length(max = limits::ROUTES_MAX))]
    pub routes: Vec<Route>,
    /// Neighbours that are not to be asked for their Ethernet address. Default: none.
    #[serde(default)]
    #[schemars(length(max = limits::NEIGHBOURS_MAX))]
    pub neighbours: Vec<Neighbour>,
    /// Tuning of TCP.
    #[serde(default)]
    pub tcp: TcpConfig,
    /// Tuning of UDP.
    #[serde(default)]
    pub udp: UdpConfig,
}

impl StackConfig {
    /// The core of each instance; `first` is the first core that the daemon may use.
    #[must_use]
    pub fn instance_cores(&self, first: u16) -> Vec<u16> {
        if self.cores.is_empty() { vec![first] } else { self.cores.clone() }
    }

    /// Whether a subnet or route of the stack leads to `address`.
    #[must_use]
    pub fn reaches(&self, address: IpAddr) -> bool {
        let mut prefixes = self.addresses.iter().chain(self.routes.iter().map(|route| &route.to));
        let mut gateways = self.gateway.0.iter();
        prefixes.any(|prefix| prefix.contains(address))
            || gateways.any(|gateway| gateway.is_ipv4() == address.is_ipv4())
    }

    /// How many instances the stack has; at most [`limits::INSTANCES_MAX`] in a checked
    /// configuration.
    #[must_use]
    pub fn instance_count(&self) -> u16 {
        u16::try_from(self.cores.len().max(1)).unwrap_or(u16::MAX)
    }
}

fn any_name_but_the_kernels(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = generator.subschema_for::<Name>();
    schema.insert("not".to_owned(), serde_json::json!({"const": KERNEL}));
    schema
}

/// Which code runs a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The project's own TCP/IP.
    Native,
    /// The smoltcp library.
    Smoltcp,
    /// A small stack for tests.
    Test,
}

/// The kinds that this build has, as the configuration writes them.
const KINDS: [(&str, Kind); 3] =
    [("native", Kind::Native), ("smoltcp", Kind::Smoltcp), ("test", Kind::Test)];

/// Kinds that the project names but this build does not have.
const KINDS_ABSENT: [&str; 3] = ["kernel", "plugin", "sctp"];

impl Kind {
    /// The kind as the configuration writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Smoltcp => "smoltcp",
            Self::Test => "test",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        if let Some((_, kind)) = KINDS.iter().find(|(name, _)| *name == text) {
            return Ok(*kind);
        }
        let why = if KINDS_ABSENT.contains(&text.as_str()) {
            "is not available in this build"
        } else {
            "is unknown"
        };
        Err(de::Error::custom(format!(
            "kind {text:?} {why}: use \"native\", \"smoltcp\" or \"test\""
        )))
    }
}

impl JsonSchema for Kind {
    fn schema_name() -> Cow<'static, str> {
        "Kind".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "enum": KINDS.map(|(name, _)| name)})
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Where it leads, without host bits.
    pub to: Cidr,
    /// The router: a neighbour of the stack.
    pub via: IpAddr,
}

/// A static entry of the neighbour table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its address on one of the stack's subnets.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
}

/// Which congestion control TCP runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// CUBIC (RFC 9438).
    #[default]
    Cubic,
    /// Reno (RFC 5681).
    Reno,
    /// DCTCP (RFC 8257), for networks that mark packets instead of dropping them; of the kind `native`.
    Dctcp,
    /// BBR, version 3 (draft-ietf-ccwg-bbr); of the kind `native`.
    Bbr,
    /// No congestion window: only the receiver's holds the sender back.
    None,
}

/// Explicit congestion notification (RFC 3168): marks where packets would be dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ecn {
    /// Not at all.
    Off,
    /// Where the peer asks for it.
    #[default]
    Passive,
    /// Connections from here ask for it as well.
    On,
}

/// Parts of TCP that can be left out, to see what they are good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[allow(clippy::struct_excessive_bools, reason = "each stands for a standard of its own")]
pub struct Features {
    /// Selective acknowledgements (RFC 2018). Default: true.
    pub sack: bool,
    /// Timestamps (RFC 7323 section 3). Default: true.
    pub timestamps: bool,
    /// Segments older than what was received are dropped (RFC 7323 section 5). Default: true.
    pub paws: bool,
    /// Loss by time, and probes of the tail (RFC 8985). Default: true.
    pub rack: bool,
    /// Retransmissions in proportion to what arrives (RFC 6937). Default: true.
    pub prr: bool,
    /// Whether a timeout was needed (RFC 5682). Default: true.
    pub frto: bool,
    /// Segments become shorter where long ones never arrive (RFC 4821). Default: true.
    pub black_holes: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            sack: true,
            timestamps: true,
            paws: true,
            rack: true,
            prr: true,
            frto: true,
            black_holes: true,
        }
    }
}

/// Tuning of TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TcpConfig {
    /// Congestion control. Default: `cubic`.
    pub congestion: Congestion,
    /// Bytes that a socket may hold received and unread. Default: 262144.
    #[schemars(range(min = limits::BUFFER_BYTES_MIN, max = limits::BUFFER_BYTES_MAX))]
    pub rx_buffer: u32,
    /// Bytes that a socket may hold written and not acknowledged. Default: 262144.
    #[schemars(range(min = limits::BUFFER_BYTES_MIN, max = limits::BUFFER_BYTES_MAX))]
    pub tx_buffer: u32,
    /// Longest backlog that listen(2) is granted. Default: 1024.
    #[schemars(range(min = 1, max = limits::BACKLOG_MAX))]
    pub backlog_max: u32,
    /// Seconds without traffic before a keep-alive is sent, on sockets that ask for none
    /// themselves. Default: no keep-alives.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = limits::KEEPALIVE_S_MAX))]
    pub keepalive_s: Option<u32>,
    /// Explicit congestion notification, of the kind `native`. Default: `passive`.
    pub ecn: Ecn,
    /// Parts of TCP that can be left out, of the kind `native`. Default: all are in.
    pub features: Features,
    /// The key of the cookies of TCP Fast Open (RFC 7413), of the kind `native`: hosts that share an address
    /// behind a balancer need the same. Default: one that nobody knows, new at each start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_open_key: Option<FastOpenKey>,
}

impl TcpConfig {
    /// The first key set here that only the kind `native` has.
    #[must_use]
    pub fn native_key(&self) -> Option<&'static str> {
        match self {
            _ if self.ecn != Ecn::default() => Some("ecn"),
            _ if self.features != Features::default() => Some("features"),
            _ if self.fast_open_key.is_some() => Some("fast_open_key"),
            _ => None,
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            congestion: Congestion::Cubic,
            rx_buffer: 256 << 10,
            tx_buffer: 256 << 10,
            backlog_max: 1024,
            keepalive_s: None,
            ecn: Ecn::default(),
            features: Features::default(),
            fast_open_key: None,
        }
    }
}

/// Tuning of UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UdpConfig {
    /// Bytes of datagrams that a socket may hold received and unread. Default: 262144.
    #[schemars(range(min = limits::BUFFER_BYTES_MIN, max = limits::BUFFER_BYTES_MAX))]
    pub rx_buffer: u32,
    /// Bytes of datagrams that a socket may hold written and unsent. Default: 262144.
    #[schemars(range(min = limits::BUFFER_BYTES_MIN, max = limits::BUFFER_BYTES_MAX))]
    pub tx_buffer: u32,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self { rx_buffer: 256 << 10, tx_buffer: 256 << 10 }
    }
}

/// The default routers of a stack: none, or one per family. In JSON an address or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Gateways(pub Vec<IpAddr>);

impl<'de> Deserialize<'de> for Gateways {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct OneOrMany;

        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Gateways;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address such as \"10.1.0.1\" or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Gateways, E> {
                Ok(Gateways(vec![address(text)?]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Gateways, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = seq.next_element::<String>()? {
                    all.push(address(&text)?);
                }
                Ok(Gateways(all))
            }
        }

        fn address<E: de::Error>(text: &str) -> Result<IpAddr, E> {
            text.parse().map_err(|_| {
                E::custom(format!("{text:?} is no address: write it as 10.1.0.1 or fd00:1::1"))
            })
        }

        input.deserialize_any(OneOrMany)
    }
}

impl JsonSchema for Gateways {
    fn schema_name() -> Cow<'static, str> {
        "Gateways".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let address = json_schema!({"type": "string", "pattern": "^[0-9a-fA-F.:]+$"});
        json_schema!({
            "description": "An address, or a list of one per family.",
            "anyOf": [address, {"type": "array", "items": address, "maxItems": 2}]
        })
    }
}
