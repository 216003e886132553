//! Whether the configuration is valid and the daemon answers.

use std::path::Path;

use dmm_admin::Admin;
use dmm_admin::config::{Config, Origin};
use dmm_admin::control::AdminError;

use super::Check;

/// Checks the configuration, and returns what it says if it is valid.
pub(super) fn configuration(origin: &Origin) -> (Check, Option<Config>) {
    const NAME: &str = "configuration";
    match origin.load() {
        Ok(config) => {
            let found = format!("{origin} is valid, {} stacks", config.stacks.len());
            (Check::ok(NAME, found), Some(config))
        }
        // The message names the key and ends with what to do about it.
        Err(e) => (Check::fail(NAME, e.to_string(), "dmmd refuses it until then"), None),
    }
}

/// What the configuration allows and cannot mean.
pub(super) fn warnings(config: &Config) -> Vec<Check> {
    let warnings = config.warnings().into_iter();
    warnings.map(|warning| Check::warn("configuration", warning.problem, warning.remedy)).collect()
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
        Err(error) => failed(&error),
    }
}

/// Why it could not be asked.
fn failed(error: &AdminError) -> Check {
    const NAME: &str = "daemon";
    match error {
        AdminError::NotRunning { path } => Check::warn(
            NAME,
            format!("none answers on {}", path.display()),
            "start dmmd, or set DMM_SOCKET if it listens elsewhere",
        ),
        // Only the file mode forbids the connection itself (unix(7)); the list would be asked next.
        AdminError::Forbidden { path } => Check::warn(
            NAME,
            format!("the file mode of {} keeps this user out", path.display()),
            "run this as root, or write \"mode\": \"0666\" in clients and add the user to \
             clients.users",
        ),
        AdminError::Refused(why) => Check::warn(
            NAME,
            format!("it refuses: {why}"),
            "run this as root, or change its configuration and restart it",
        ),
        e => Check::fail(NAME, e.to_string(), "restart dmmd if it does not recover"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_whom_the_file_mode_keeps_out_is_told_both_keys() {
        let check = failed(&AdminError::Forbidden { path: "/run/s".into() });
        assert!(check.found.contains("file mode of /run/s"), "{check:?}");
        let remedy = check.remedy.unwrap();
        assert!(
            remedy.contains("\"mode\": \"0666\"") && remedy.contains("clients.users"),
            "{remedy}"
        );
    }
}
