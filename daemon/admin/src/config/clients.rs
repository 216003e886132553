//! Who may be a client of the daemon, and how much a client may use.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

use nix::unistd::{Group, User};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::error::ConfigError;
use super::limits;
use super::values::FileMode;

/// Who may be a client, and the quotas of one client.
///
/// A user needs both: write permission on the socket file, and to be root, the daemon's own user,
/// one of `users`, or in one of `groups`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClientsConfig {
    /// Permission bits of the socket file in octal. Default: `0600`, which keeps out all but root,
    /// whoever is listed: write `0666` and have `users` and `groups` decide.
    pub mode: FileMode,
    /// Users that may be clients, by name or number. Default: none besides root.
    #[schemars(length(max = limits::PRINCIPALS_MAX))]
    pub users: Vec<Principal>,
    /// Groups whose members may be clients, by name or number. Default: none.
    #[schemars(length(max = limits::PRINCIPALS_MAX))]
    pub groups: Vec<Principal>,
    /// Client sessions at a time. Default: 256.
    #[schemars(range(min = 1, max = limits::SESSIONS_MAX))]
    pub max_sessions: u32,
    /// Sockets of one client. Default: 16384.
    #[schemars(range(min = 1, max = limits::SOCKETS_MAX))]
    pub sockets: u32,
    /// Bytes of one client's arena, which is sparse: only what its buffers hold takes memory.
    /// Default: 1073741824, which is 2048 sockets with both default buffers full.
    #[schemars(range(min = limits::ARENA_BYTES_MIN, max = limits::ARENA_BYTES_MAX))]
    pub bytes: u64,
    /// Contexts (threads or event loops with rings of their own) of one client. Default: 16.
    #[schemars(range(min = 1, max = limits::CONTEXTS_MAX))]
    pub contexts: u32,
}

impl Default for ClientsConfig {
    fn default() -> Self {
        Self {
            mode: FileMode(0o600),
            users: Vec::new(),
            groups: Vec::new(),
            max_sessions: 256,
            sockets: 16_384,
            bytes: 1 << 30,
            contexts: 16,
        }
    }
}

impl ClientsConfig {
    /// The numbers of `users`, by the user database of this machine (getpwnam(3)).
    ///
    /// # Errors
    /// With the key of the first name that it does not know.
    pub fn uids(&self) -> Result<Vec<u32>, ConfigError> {
        let of_name = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        numbers("clients.users", "user", &self.users, of_name)
    }

    /// The numbers of `groups`, by the group database of this machine (getgrnam(3)).
    ///
    /// # Errors
    /// With the key of the first name that it does not know.
    pub fn gids(&self) -> Result<Vec<u32>, ConfigError> {
        let of_name = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        numbers("clients.groups", "group", &self.groups, of_name)
    }

    /// Says so if some are listed whom the socket's file mode keeps out.
    pub(super) fn warning(&self) -> Option<Warning> {
        // connect(2) needs write permission on the socket file, which is the daemon's own (unix(7)).
        let others_may_write = self.mode.0 & 0o022 != 0;
        let is_root = |user: &Principal| match user {
            Principal::Id(id) => *id == 0,
            Principal::Name(name) => name == "root",
        };
        let listed = !self.groups.is_empty() || !self.users.iter().all(is_root);
        (listed && !others_may_write).then(|| Warning {
            problem: format!(
                "clients.users and clients.groups are of no use: clients.mode {} keeps all but \
                 the daemon's own user from its socket",
                self.mode
            ),
            remedy: "write \"mode\": \"0666\", so that users and groups decide".to_owned(),
        })
    }
}

/// Something in a configuration that is allowed and yet cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What will be.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

fn numbers(
    key: &str,
    what: &str,
    principals: &[Principal],
    of_name: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<Vec<u32>, ConfigError> {
    let number = |(i, principal): (usize, &Principal)| {
        let name = match principal {
            Principal::Id(id) => return Ok(*id),
            Principal::Name(name) => name,
        };
        let problem = match of_name(name) {
            Ok(Some(id)) => return Ok(id),
            Ok(None) => format!("there is no {what} \"{name}\": correct the name"),
            Err(e) => format!("{what} \"{name}\" cannot be looked up ({e}): write the number"),
        };
        Err(ConfigError::Unfit { key: format!("{key}[{i}]"), problem })
    };
    principals.iter().enumerate().map(number).collect()
}

/// A user or a group: by name, or by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Principal {
    /// The uid or gid.
    Id(u32),
    /// The name, looked up by the daemon at start.
    Name(String),
}

/// Bytes in a user's or group's name (useradd(8): at most 32).
const PRINCIPAL_NAME_BYTES_MAX: usize = 32;

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{id}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for Principal {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct NameOrId;

        impl Visitor<'_> for NameOrId {
            type Value = Principal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name or a number")
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<Principal, E> {
                // The highest number stands for "no such user" in chown(2) and its kind.
                match u32::try_from(id) {
                    Ok(id) if id < u32::MAX => Ok(Principal::Id(id)),
                    _ => Err(E::custom(format!("{id} is no uid or gid: it is below 4294967295"))),
                }
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Principal, E> {
                let graphic = name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
                if name.is_empty() || name.len() > PRINCIPAL_NAME_BYTES_MAX || !graphic {
                    return Err(E::custom(format!(
                        "{name:?} is no name of a user or group: write one that getent(1) knows"
                    )));
                }
                Ok(Principal::Name(name.to_owned()))
            }
        }

        input.deserialize_any(NameOrId)
    }
}

impl JsonSchema for Principal {
    fn schema_name() -> Cow<'static, str> {
        "Principal".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A user or a group, by name or number.",
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": PRINCIPAL_NAME_BYTES_MAX},
                {"type": "integer", "minimum": 0, "maximum": u32::MAX - 1}
            ]
        })
    }
}
