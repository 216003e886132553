//! Who may be a client.
#![forbid(unsafe_code)]

use std::ffi::CString;

use dmm_admin::config::{ClientsConfig, ConfigError};
use nix::unistd::{Gid, Uid, User, getgrouplist};

/// The users and groups that may attach, by number.
pub struct Access {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Access {
    /// Looks the configured names up.
    pub fn new(config: &ClientsConfig) -> Result<Self, ConfigError> {
        let mut users = vec![0, Uid::effective().as_raw()];
        users.extend(config.uids()?);
        let groups = config.gids()?;
        Ok(Self { users, groups })
    }

    /// Whether a process of this user and group may attach.
    pub fn allows(&self, uid: u32, gid: u32) -> bool {
        if self.users.contains(&uid) || self.groups.contains(&gid) {
            return true;
        }
        !self.groups.is_empty() && supplementary(uid).iter().any(|gid| self.groups.contains(gid))
    }
}

/// The groups that the user's entry in the group database gives.
fn supplementary(uid: u32) -> Vec<u32> {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return Vec::new() };
    let Ok(name) = CString::new(user.name) else { return Vec::new() };
    let groups = getgrouplist(&name, user.gid).unwrap_or_default();
    groups.into_iter().map(Gid::as_raw).collect()
}

#[cfg(test)]
mod tests {
    use dmm_admin::config::Principal;

    use super::*;

    #[test]
    fn root_may_and_a_stranger_may_not() {
        let access = Access::new(&ClientsConfig::default()).unwrap();
        assert!(access.allows(0, 0));
        assert!(!access.allows(4_000_000, 4_000_000));
    }

    #[test]
    fn listed_users_and_groups_may() {
        let config = ClientsConfig {
            users: vec![Principal::Id(4_000_000)],
            groups: vec![Principal::Id(4_000_001)],
            ..ClientsConfig::default()
        };
        let access = Access::new(&config).unwrap();
        assert!(access.allows(4_000_000, 1) && access.allows(5_000_000, 4_000_001));
        assert!(!access.allows(4_000_001, 4_000_000));
    }

    #[test]
    fn an_unknown_name_is_named() {
        let config = ClientsConfig {
            users: vec![Principal::Name("nobody-of-this-name".into())],
            ..ClientsConfig::default()
        };
        let error = Access::new(&config).err().unwrap().to_string();
        assert!(error.contains("nobody-of-this-name"), "{error}");
    }
}
