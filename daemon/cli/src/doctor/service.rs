//! Whether the configuration is valid and the daemon answers.

use std::path::Path;

use dmm_admin::control::AdminError;
use dmm_admin::{Admin, Config};

use super::Check;

/// Checks the configuration file, and returns what it says if it is valid.
pub(super) fn configuration(path: &Path) -> (Check, Option<Config>) {
    const NAME: &str = "configuration";
    if matches!(path.try_exists(), Ok(false)) {
        let found = format!("there is no {}: dmmd uses its embedded default", path.display());
        return (Check::ok(NAME, found), Some(Config::embedded()));
    }
    match Config::load(path) {
        Ok(config) => {
            let found = format!("{} is valid, {} stacks", path.display(), config.stacks.len());
            (Check::ok(NAME, found), Some(config))
        }
        // The message names the key and ends with what to do about it.
        Err(e) => (Check::fail(NAME, e.to_string(), "dmmd refuses it until then"), None),
    }
}

/// Checks that the daemon answers.
pub(super) fn daemon(socket: &Path) -> Check {
    const NAME: &str = "daemon";
    match Admin::connect(socket).and_then(|admin| admin.status()) {
        Ok(status) => {
            let found = format!("dmmd {} answers on {}", status.version, socket.display());
            let ours = env!("CARGO_PKG_VERSION");
            if status.version == ours {
                return Check::ok(NAME, found);
            }
            Check::warn(NAME, found, format!("this dmm is {ours}: install the same version"))
        }
        Err(AdminError::NotRunning { path }) => Check::warn(
            NAME,
            format!("none answers on {}", path.display()),
            "start dmmd, or set DMM_SOCKET if it listens elsewhere",
        ),
        Err(AdminError::Forbidden { path }) => Check::warn(
            NAME,
            format!("this user may not use {}", path.display()),
            "run this as root, or add the user to clients.users",
        ),
        Err(e) => Check::fail(NAME, e.to_string(), "restart dmmd if it does not recover"),
    }
}
