//! What an operator gives to the daemon and gets from it: configuration, reports, and the
//! requests that fetch them.
//!
//! Owns: the configuration file's format and its checks ([`config`]), the documents that the daemon
//! reports ([`report`]), and how they travel over the daemon's socket ([`control`]). Called by
//! `dmmd`, which obeys and answers, and by `dmm`, which asks. Must never: open a port, run a stack,
//! or know how either works.

#![deny(unsafe_code)]

pub mod config;
pub mod control;
mod message;
pub mod report;

pub use config::{Config, ConfigError};
pub use control::{Admin, Request};
pub use message::in_one_line;

/// Where the configuration is read from unless a flag says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/dmm/dmmd.json";

/// The environment variable that names the configuration, in place of [`DEFAULT_CONFIG`].
pub const CONFIG_ENV: &str = "DMM_CONFIG";

/// Where the daemon listens unless the configuration says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/dmm/dmmd.sock";

/// The environment variable that names the daemon's socket to clients, in place of
/// [`DEFAULT_SOCKET`].
pub const SOCKET_ENV: &str = "DMM_SOCKET";
