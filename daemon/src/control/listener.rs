//! The socket that clients and operators connect to, and its file.
//!
//! Owned by the control thread from the start to the end. Must never: remove a file that is neither
//! this daemon's own socket nor one that a dead daemon left behind.
#![forbid(unsafe_code)]

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept4, bind, connect, listen, socket,
};
use thiserror::Error;

const FLAGS: SockFlag = SockFlag::SOCK_CLOEXEC.union(SockFlag::SOCK_NONBLOCK);

/// Bytes in a socket's path: `sun_path` has 108 with the NUL at its end (unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// Connections that wait to be accepted at most.
const BACKLOG: i32 = 128;

/// A listening socket. Its file goes with it.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    file: FileId,
}

/// Why the daemon cannot listen at a path.
#[derive(Debug, Error)]
pub enum ListenError {
    /// A path that no socket can have.
    #[error("{path:?} is no socket path: {reason} (--socket)")]
    NoSocketPath {
        /// As configured.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// Another daemon listens there.
    #[error(
        "another dmmd answers on {}: stop it, or give this one a socket of its own (--socket)",
        path.display()
    )]
    Answered {
        /// As configured.
        path: PathBuf,
    },
    /// Something that is not a dead daemon's socket.
    #[error(
        "{} is in the way ({what}): remove it, or choose another path (--socket)",
        path.display()
    )]
    InTheWay {
        /// As configured.
        path: PathBuf,
        /// What it is.
        what: String,
    },
    /// A dead daemon's socket that cannot be removed.
    #[error(
        "the socket that an earlier dmmd left at {} cannot be removed ({reason}): remove it, or \
         choose another path (--socket)",
        path.display()
    )]
    Replace {
        /// As configured.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The path's folder cannot be had.
    #[error(
        "the folder {} cannot be made or read ({reason}): make it, as a folder that this user may \
         write in, or choose another path (--socket)",
        folder.display()
    )]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
    /// The system refuses a socket there.
    #[error(
        "cannot listen on {} ({reason}): choose a path in a folder that this user may write in \
         (--socket)",
        path.display()
    )]
    Refused {
        /// As configured.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
}

impl Listener {
    /// Listens at `path`, whose file gets the permission bits `mode`. A socket left behind by a
    /// daemon that died is replaced; nothing else is.
    ///
    /// # Errors
    /// [`ListenError`]; what was at the path is there as before.
    pub fn bind(path: &Path, mode: u32) -> Result<Self, ListenError> {
        let address = address_of(path)?;
        make_way(path, &address)?;
        let refused = |reason: io::Error| ListenError::Refused { path: path.to_owned(), reason };
        let socket = seqpacket().map_err(|errno| refused(errno.into()))?;
        bind(socket.as_raw_fd(), &address).map_err(|errno| refused(errno.into()))?;
        let file = FileId::of(&fs::symlink_metadata(path).map_err(refused)?);
        let this = Self { socket, path: path.to_owned(), file };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(refused)?;
        // Nobody gets through before this, so not with other permission bits either.
        Backlog::new(BACKLOG)
            .and_then(|backlog| listen(&this.socket, backlog))
            .map_err(|errno| refused(errno.into()))?;
        Ok(this)
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes its file, and returns the socket: whoever closes it closes the connections that
    /// wait at it as well.
    pub fn retire(self) -> io::Result<OwnedFd> {
        self.socket.try_clone()
    }

    /// The next connection, if one waits (`EAGAIN`).
    pub fn accept(&self) -> nix::Result<OwnedFd> {
        accept4(self.socket.as_raw_fd(), FLAGS).map(crate::descriptor::own)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A file that cannot be removed is a dead daemon's socket to the next one.
        let _ = self.file.remove(&self.path);
    }
}

/// What tells a file from another that took its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// Removes the file if it is still what `path` names.
    fn remove(self, path: &Path) -> io::Result<()> {
        match fs::symlink_metadata(path) {
            Ok(metadata) if Self::of(&metadata) == self => fs::remove_file(path),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn seqpacket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, FLAGS, None)
}

fn address_of(path: &Path) -> Result<UnixAddr, ListenError> {
    let unfit = |reason| ListenError::NoSocketPath { path: path.to_owned(), reason };
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        return Err(unfit("it holds a NUL byte: take it out"));
    }
    if bytes.len() > PATH_BYTES_MAX {
        return Err(unfit("it is longer than 107 bytes (unix(7)): shorten it"));
    }
    if bytes.ends_with(b"/") || path.file_name().is_none() {
        return Err(unfit("it names a folder: add the name of a file in it"));
    }
    UnixAddr::new(path).map_err(|_| unfit("the system does not take it: choose another"))
}

/// Removes a dead daemon's socket, and makes the folder if there is none.
fn make_way(path: &Path, address: &UnixAddr) -> Result<(), ListenError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let no_folder = |reason| ListenError::Folder { folder: folder.to_owned(), reason };
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return fs::create_dir_all(folder).map_err(no_folder);
        }
        Err(error) => return Err(no_folder(error)),
    };
    let in_the_way = |what| Err(ListenError::InTheWay { path: path.to_owned(), what });
    // To connect to anything else is refused (ECONNREFUSED, unix(7)) as if a daemon had died there.
    let kind = metadata.file_type();
    if !kind.is_socket() {
        let kinds = [
            (kind.is_dir(), "a folder"),
            (kind.is_symlink(), "a symbolic link"),
            (kind.is_file(), "a regular file"),
            (kind.is_fifo(), "a FIFO"),
        ];
        let known = kinds.iter().find_map(|&(is, name)| is.then_some(name));
        return in_the_way(known.unwrap_or("a device").to_owned());
    }
    let answer = seqpacket().and_then(|probe| connect(probe.as_raw_fd(), address));
    match answer {
        // A daemon whose queue of connections is full lives as well.
        Ok(()) | Err(Errno::EAGAIN) => Err(ListenError::Answered { path: path.to_owned() }),
        Err(Errno::ECONNREFUSED) => FileId::of(&metadata)
            .remove(path)
            .map_err(|reason| ListenError::Replace { path: path.to_owned(), reason }),
        Err(errno) => in_the_way(format!("a socket: {}", errno.desc())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_no_socket_can_have_are_told_apart() {
        for (path, word) in [
            ("", "names a folder"),
            ("/", "names a folder"),
            ("/tmp/..", "names a folder"),
            ("/tmp/", "names a folder"),
            ("/tmp/a\0b", "NUL"),
            ("\0abstract", "NUL"),
        ] {
            let error = Listener::bind(Path::new(path), 0o600).unwrap_err().to_string();
            assert!(error.contains(word), "{path:?}: {error}");
        }
        let longest = |bytes: usize| format!("/{}", "x".repeat(bytes - 1));
        assert!(address_of(Path::new(&longest(107))).is_ok());
        let error = address_of(Path::new(&longest(108))).unwrap_err().to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }
}
