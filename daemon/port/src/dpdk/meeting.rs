//! The socket file at which a device meets its peer: one side listens there, the other comes.
//!
//! ```text
//!   net_vhost        iface=PATH   listens, with client=1 comes (and comes again)
//!   net_virtio_user  path=PATH    comes once, with server=1 listens
//!   net_memif        socket=PATH  listens with role=server, else comes (and comes again); with
//!                                 socket-abstract=no, else there is no file
//! ```
//!
//! Called by `attach` around the hot-plug: drivers neither remove the file of a process that died nor
//! say clearly what is wrong, and net_vhost reports success all the same. Must never: remove a file
//! that somebody listens at, or that is no socket.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::error::Error;

/// Bytes in a socket's path: `sun_path` has 108 with the NUL at its end (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Where a device meets its peer, and in which role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Meeting {
    path: PathBuf,
    role: Role,
    kind: SockType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Listens,
    /// If nobody listens, it fails at once.
    Comes,
    /// If nobody listens, it tries again for ever.
    ComesAgain,
}

/// What is at a path.
enum Found {
    Nothing,
    /// A socket that nobody listens at any more.
    Abandoned,
    Listener,
    Other,
}

impl Meeting {
    /// Where the device `name` with these `arguments` meets its peer, if it does so at a file.
    pub(super) fn of(name: &str, arguments: &str) -> Option<Self> {
        let argument = |key: &str| {
            let words = arguments.split(',').filter_map(|word| word.split_once('='));
            words.filter(|(k, _)| *k == key).map(|(_, value)| value).next_back()
        };
        let is_set = |key: &str| argument(key).is_some_and(|value| value != "0");
        let (path, role, kind) = match name.trim_end_matches(|c: char| c.is_ascii_digit()) {
            "net_vhost" | "eth_vhost" => {
                let role = if is_set("client") { Role::ComesAgain } else { Role::Listens };
                (argument("iface")?, role, SockType::Stream)
            }
            "net_virtio_user" => {
                let path = argument("path").filter(|path| !path.starts_with("/dev/"))?;
                let role = if is_set("server") { Role::Listens } else { Role::Comes };
                (path, role, SockType::Stream)
            }
            "net_memif" => {
                let has_file = argument("socket-abstract") == Some("no");
                let listens = matches!(argument("role"), Some("server" | "master"));
                let role = if listens { Role::Listens } else { Role::ComesAgain };
                let path = argument("socket").unwrap_or("/run/memif.sock");
                (has_file.then_some(path)?, role, SockType::SeqPacket)
            }
            _ => return None,
        };
        Some(Self { path: path.into(), role, kind })
    }

    /// Removes what a process that died left where `device` is to listen, and refuses where it
    /// could not.
    pub(super) fn prepare(&self, device: &str) -> Result<(), Error> {
        let refuse = |reason: &'static str| {
            let (device, path) = (device.to_owned(), self.path.clone());
            Err(Error::Meeting { device, path, reason })
        };
        if self.path.as_os_str().len() > PATH_BYTES_MAX {
            return refuse("is longer than 107 bytes: choose a shorter one");
        }
        if self.path.parent().is_some_and(|folder| folder != "" && !folder.is_dir()) {
            return refuse("is in a folder that does not exist: make it");
        }
        if self.role != Role::Listens {
            return Ok(());
        }
        match self.look() {
            Ok(Found::Nothing) => Ok(()),
            Ok(Found::Abandoned) => match std::fs::remove_file(&self.path) {
                Ok(()) => Ok(()),
                Err(_) => refuse("was left by a process that died: remove it"),
            },
            Ok(Found::Listener) => refuse("is listened at by another process: stop that one"),
            Ok(Found::Other) => refuse("is in the way and no socket: remove it"),
            Err(_) => refuse("cannot be looked at: check its folder's permissions"),
        }
    }

    /// Why a hot-plug of `device` failed, if its peer's absence is the reason.
    pub(super) fn explain(&self, device: &str) -> Option<Error> {
        let absent = matches!(self.look(), Ok(Found::Nothing | Found::Abandoned));
        (self.role == Role::Comes && absent).then(|| Error::Meeting {
            device: device.to_owned(),
            path: self.path.clone(),
            reason: "is not listened at: start the peer first, or let this side listen (server=1) \
                     and the peer come (client=1)",
        })
    }

    fn look(&self) -> io::Result<Found> {
        match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
            Ok(file) if !file.file_type().is_socket() => return Ok(Found::Other),
            Ok(_) => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let visitor = socket(AddressFamily::Unix, self.kind, flags, None)?;
        match connect(visitor.as_raw_fd(), &UnixAddr::new(&self.path)?) {
            Err(Errno::ECONNREFUSED) => Ok(Found::Abandoned),
            // A full queue, or another type of socket: somebody is there.
            Ok(()) | Err(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(Found::Listener),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn roles(name: &str, arguments: &str) -> Option<(String, Role)> {
        let meeting = Meeting::of(name, arguments)?;
        Some((meeting.path.to_string_lossy().into_owned(), meeting.role))
    }

    #[test]
    fn each_driver_has_its_own_words() {
        let at = |role| Some(("/run/x".to_owned(), role));
        assert_eq!(roles("net_vhost0", "iface=/run/x"), at(Role::Listens));
        assert_eq!(roles("net_vhost12", "iface=/run/x,client=1"), at(Role::ComesAgain));
        assert_eq!(roles("net_virtio_user0", "path=/run/x,queues=2"), at(Role::Comes));
        assert_eq!(roles("net_virtio_user0", "path=/run/x,server=1"), at(Role::Listens));
        assert_eq!(roles("net_virtio_user0", "path=/dev/vhost-net"), None);
        let memif = "socket=/run/x,socket-abstract=no";
        assert_eq!(roles("net_memif0", memif), at(Role::ComesAgain));
        assert_eq!(roles("net_memif0", &format!("role=server,{memif}")), at(Role::Listens));
        assert_eq!(roles("net_memif0", "role=server"), None);
        assert_eq!(roles("net_tap0", "iface=/run/x"), None);
    }

    #[test]
    fn only_what_the_dead_left_is_removed() {
        let folder = std::env::temp_dir().join(format!("dmm-meeting-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("fresh");
        let path = folder.join("socket");
        let listens = Meeting::of("net_vhost0", &format!("iface={}", path.display())).unwrap();
        let refusal = || listens.prepare("net_vhost0").expect_err("refused").to_string();

        listens.prepare("net_vhost0").expect("nothing is there");
        let listener = UnixListener::bind(&path).expect("nothing is there");
        assert!(refusal().contains("listened at by another process"));
        drop(listener);
        assert!(path.exists());
        listens.prepare("net_vhost0").expect("the dead one's is removed");
        assert!(!path.exists());
        std::fs::write(&path, "precious").expect("ours");
        assert!(refusal().contains("no socket"));
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");

        std::fs::remove_file(&path).expect("ours");
        let comes = Meeting::of("net_virtio_user0", &format!("path={}", path.display())).unwrap();
        let why = comes.explain("net_virtio_user0").expect("nobody listens").to_string();
        assert!(why.contains("server=1"), "{why}");
        std::fs::remove_dir_all(&folder).expect("ours");
        assert!(refusal().contains("a folder that does not exist"));
    }
}
