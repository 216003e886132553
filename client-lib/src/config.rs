//! What the environment says about how to attach: `DMM_SOCKET` and `DMM_SPIN_US`.
//!
//! Read once per attachment by [`crate::Client`]. Must never fall back silently on a value that
//! does not parse.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Error;

/// Where the daemon listens unless `DMM_SOCKET` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/dmm/dmmd.sock";

/// How long a call spins before it sleeps unless `DMM_SPIN_US` says otherwise: about what waking
/// a sleeping thread costs, so that spinning at most doubles the cost of a wait.
pub const DEFAULT_SPIN: Duration = Duration::from_micros(20);

/// Spinning for longer is [`crate::Client::set_polling`]'s business.
const SPIN_US_MAX: u64 = 1_000_000;

/// How a client attaches and waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The daemon's unix socket.
    pub socket: PathBuf,
    /// How long a call spins before it sleeps.
    pub spin: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: PathBuf::from(DEFAULT_SOCKET), spin: DEFAULT_SPIN }
    }
}

impl Config {
    /// The defaults, overridden by `DMM_SOCKET` (a path) and `DMM_SPIN_US` (0 to 1,000,000).
    ///
    /// # Errors
    /// [`Error::Environment`] if a variable does not parse.
    pub fn from_env() -> Result<Self, Error> {
        Self::parse(env::var_os("DMM_SOCKET"), env::var_os("DMM_SPIN_US"))
    }

    fn parse(socket: Option<OsString>, spin_us: Option<OsString>) -> Result<Self, Error> {
        let mut config = Self::default();
        if let Some(socket) = socket.filter(|path| !path.is_empty()) {
            config.socket = PathBuf::from(socket);
        }
        if let Some(value) = spin_us.filter(|value| !value.is_empty()) {
            let micros = value.to_str().and_then(|text| text.parse().ok());
            let micros = micros.filter(|&micros: &u64| micros <= SPIN_US_MAX);
            let micros = micros.ok_or_else(|| Error::Environment {
                variable: "DMM_SPIN_US",
                value: value.to_string_lossy().into_owned(),
                remedy: "give microseconds from 0 to 1000000",
            })?;
            config.spin = Duration::from_micros(micros);
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_and_empty_variables_leave_the_defaults() {
        assert_eq!(Config::parse(None, None).unwrap(), Config::default());
        assert_eq!(Config::parse(Some("".into()), Some("".into())).unwrap(), Config::default());
    }

    #[test]
    fn variables_override_and_nonsense_is_named() {
        let config = Config::parse(Some("/tmp/d.sock".into()), Some("0".into())).unwrap();
        assert_eq!(config.socket, PathBuf::from("/tmp/d.sock"));
        assert_eq!(config.spin, Duration::ZERO);
        for nonsense in ["fast", "-1", "1000001", "20us"] {
            let error = Config::parse(None, Some(nonsense.into())).unwrap_err().to_string();
            assert!(error.contains("DMM_SPIN_US") && error.contains(nonsense), "{error}");
        }
    }
}
