//! Why a call failed, beyond what an errno can say.
//!
//! Calls on sockets return [`io::Error`]s that carry Linux's errno. Where a program needs words (no
//! daemon, no such stack), the error wraps an [`Error`], whose [`Error::errno`] describes it best;
//! [`errno`] finds the number in either kind.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use dmm_proto::hello::AttachError;
use nix::errno::Errno;

/// What needs words.
#[derive(thiserror::Error)]
pub enum Error {
    /// Nobody answers at the daemon's socket.
    #[error("cannot reach dmmd at {}: start dmmd or set DMM_SOCKET ({source})", path.display())]
    Unreachable {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon's socket is there, and this user may not use it.
    #[error(
        "not allowed to use dmmd's socket {}: its mode (clients.mode) and clients.users and \
         clients.groups of the daemon's configuration decide, or run as root ({source})",
        path.display()
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody listens, and does not answer.
    #[error(
        "dmmd at {} did not answer within {} s: see its log, restart it if it is stuck",
        path.display(), patience.as_secs_f64()
    )]
    Timeout {
        /// Where the daemon was found.
        path: PathBuf,
        /// How long was waited.
        patience: Duration,
    },
    /// Somebody answers, but no session came of it.
    #[error("cannot attach to dmmd at {}: {source}", path.display())]
    Attach {
        /// Where the daemon was found.
        path: PathBuf,
        /// Why not.
        source: AttachError,
    },
    /// The daemon has no stack of that name.
    #[error("no stack named {name:?}: this daemon has {}", known.join(", "))]
    UnknownStack {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A variable of the environment does not parse.
    #[error("{variable}={value:?} makes no sense: {remedy}")]
    Environment {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What to write instead.
        remedy: &'static str,
    },
    /// The session was opened by the parent process; using it here would garble the parent's rings.
    #[error("this session belongs to process {owner}: open sockets of your own after fork")]
    Inherited {
        /// The process that attached.
        owner: u32,
    },
    /// A socket and a poll, or the sockets in a poll, belong to different sessions.
    #[error("the poll watches sockets of another session: deregister those first")]
    OtherSession,
}

/// As [`Display`](fmt::Display): what a program's `main` returns is printed so, and should say what to do.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// The errno that describes the error best.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Unreachable { source, .. } | Self::Forbidden { source, .. } => errno(source),
            Self::Timeout { .. } => Errno::ETIMEDOUT as i32,
            Self::Attach { source: AttachError::Refused { errno, .. }, .. } => *errno,
            Self::Attach { source: AttachError::Io(source), .. } => errno(source),
            Self::Attach { .. } => Errno::EPROTO as i32,
            Self::UnknownStack { .. } => Errno::ENODEV as i32,
            Self::Environment { .. } => Errno::EINVAL as i32,
            Self::Inherited { .. } => Errno::EBADF as i32,
            Self::OtherSession => Errno::EXDEV as i32,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = Self::from_raw_os_error(error.errno()).kind();
        Self::new(kind, error)
    }
}

/// The errno of any error that this library returned; `EIO` for one from elsewhere that has none.
#[must_use]
pub fn errno(error: &io::Error) -> i32 {
    let inner = || error.get_ref()?.downcast_ref::<Error>().map(Error::errno);
    error.raw_os_error().or_else(inner).unwrap_or(Errno::EIO as i32)
}

/// An error that is only an errno.
pub(crate) fn os(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

/// An error that is only an errno which came from the daemon.
pub(crate) fn from_daemon(errno: u32) -> io::Error {
    io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(Errno::EPROTO as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_survives_the_wrapping() {
        let error = Error::UnknownStack { name: "x".into(), known: vec!["fast".into()] };
        let error = io::Error::from(error);
        assert_eq!(errno(&error), Errno::ENODEV as i32);
        assert!(error.to_string().contains("fast"));
        assert_eq!(errno(&os(Errno::EPIPE)), Errno::EPIPE as i32);
        assert_eq!(errno(&io::Error::other("?")), Errno::EIO as i32);
    }
}
