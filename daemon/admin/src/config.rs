//! The daemon's configuration: one JSON file, typed.
//!
//! Owns: the file's shape, its defaults, its checks and its schema. Called by `dmmd` at start and by
//! `dmm schema` and `dmm doctor`. Must never: open a device or guess at a key that it does not know.
//!
//! ```text
//!   text --parse--> Config (each value, and the values together)  --validate--> fits this machine
//! ```

#![forbid(unsafe_code)]

mod check;
mod cidr;
mod clients;
mod cores;
mod device;
mod error;
pub mod limits;
mod origin;
mod port;
mod stack;
#[cfg(test)]
mod tests;
mod values;
mod workers;

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

pub use cidr::Cidr;
pub use clients::{ClientsConfig, Principal, Warning};
pub use cores::{Cores, format_core_list, parse_core_list};
pub use device::Device;
pub use error::ConfigError;
pub use origin::Origin;
pub use port::{PortConfig, WireConfig};
pub use stack::{
    Congestion, Ecn, Features, Gateways, KERNEL, Kind, Neighbour, Route, StackConfig, TcpConfig,
    UdpConfig,
};
pub use values::{FastOpenKey, FileMode, Mac, Name, Probability, ValueError};
pub use workers::{Hugepages, Idle, MemoryConfig, WorkersConfig};

/// The text behind [`Config::embedded`]: also the shortest example of a configuration.
pub const EMBEDDED_JSON: &str = include_str!("config/embedded.json");

/// A whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "DMM daemon configuration")]
pub struct Config {
    /// Where the daemon listens: a path of at most 107 bytes. Default: `/run/dmm/dmmd.sock`.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    /// The ports that the daemon owns.
    #[schemars(length(max = limits::PORTS_MAX))]
    pub ports: Vec<PortConfig>,
    /// In-memory wires between two ports each, for tests. Default: none.
    #[serde(default)]
    #[schemars(length(max = limits::WIRES_MAX))]
    pub wires: Vec<WireConfig>,
    /// The stacks, each on a port of its own.
    #[schemars(length(min = 1, max = limits::STACKS_MAX))]
    pub stacks: Vec<StackConfig>,
    /// Who may be a client, and how much a client may use.
    #[serde(default)]
    pub clients: ClientsConfig,
    /// What the workers do when there is nothing to do.
    #[serde(default)]
    pub workers: WorkersConfig,
    /// The memory of packet buffers.
    #[serde(default)]
    pub memory: MemoryConfig,
}

impl Config {
    /// Reads, parses and validates the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, is longer than [`limits::FILE_BYTES_MAX`], or is refused by
    /// [`Config::parse`] or [`Config::validate`]; the message names the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let in_file = |e: ConfigError| e.in_file(path);
        let unreadable = |error| ConfigError::Read { path: path.to_owned(), error };
        let mut text = String::new();
        File::open(path)
            .map_err(unreadable)?
            .take(limits::FILE_BYTES_MAX as u64 + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        let config = Self::parse(&text).map_err(in_file)?;
        config.validate().map_err(in_file)?;
        Ok(config)
    }

    /// Parses a configuration and checks that its parts fit each other; asks nothing of this machine.
    ///
    /// # Errors
    /// With line, column and key for what is wrong in the text itself; with the key for parts that
    /// do not fit each other.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if text.len() > limits::FILE_BYTES_MAX {
            return Err(ConfigError::TooLong { bytes: text.len() });
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let Root(config) = serde_path_to_error::deserialize(&mut reader)
            .map_err(|e| ConfigError::in_text(e.path().to_string(), e.inner(), text))?;
        reader.end().map_err(|e| ConfigError::in_text(String::new(), &e, text))?;
        check::fits_together(&config)?;
        Ok(config)
    }

    /// What the daemon runs without a file: a TAP device `dmm0`, whose host side is meant to be
    /// 10.111.0.1, and one stack `default` at 10.111.0.2 and fd00:111::2 behind it.
    ///
    /// # Panics
    /// Never: the text is part of the program, and a test parses it.
    #[must_use]
    pub fn embedded() -> Self {
        Self::parse(EMBEDDED_JSON).expect("the embedded configuration is valid")
    }

    /// Checks that the parts fit each other and this machine: the cores exist and this process may
    /// run on them, and the names of users and groups are known.
    ///
    /// # Errors
    /// With the key of the first value that does not fit.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_on(&Cores::of_this_process()?)
    }

    /// [`Config::validate`] against stated cores.
    ///
    /// # Errors
    /// With the key of the first value that does not fit.
    pub fn validate_on(&self, cores: &Cores) -> Result<(), ConfigError> {
        check::fits_together(self)?;
        check::fits_machine(self, cores)
    }

    /// What is allowed and yet cannot be meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        self.clients.warning().into_iter().collect()
    }

    /// MiB of packet memory that the daemon takes at its start for all ports together; 0 if no port
    /// is DPDK's. Wires keep their frames in ordinary memory.
    #[must_use]
    pub fn packet_memory_mb(&self) -> u32 {
        let devices = self.ports.iter().filter(|port| port.device.wire().is_none()).count();
        if devices == 0 {
            return 0;
        }
        // Twice what the pools take: drivers need rings and buffers of their own.
        let twice = u32::try_from(2 * devices).unwrap_or(u32::MAX);
        twice.saturating_mul(self.memory.mempool_mb).max(limits::PACKET_MEMORY_MB_MIN)
    }

    /// The JSON Schema of the configuration.
    #[must_use]
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }

    /// The port of this name.
    #[must_use]
    pub fn port(&self, name: &Name) -> Option<&PortConfig> {
        self.ports.iter().find(|port| port.name == *name)
    }

    /// How many queue pairs a port gets: what it asks for, else one per instance of its stack, and
    /// one if no stack uses it.
    #[must_use]
    pub fn queues(&self, port: &PortConfig) -> u16 {
        let needed = || {
            let stack = self.stacks.iter().find(|stack| stack.port == port.name);
            stack.map_or(1, StackConfig::instance_count)
        };
        port.queues.unwrap_or_else(needed)
    }
}

fn default_socket() -> PathBuf {
    crate::DEFAULT_SOCKET.into()
}

/// A configuration out of an object only: what serde derives would take a list as well.
struct Root(Config);

impl<'de> Deserialize<'de> for Root {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Config;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Config, A::Error> {
                Config::deserialize(MapAccessDeserializer::new(map))
            }
        }

        input.deserialize_map(Object).map(Self)
    }
}
