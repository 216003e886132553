//! The daemon's half: parse a request, reply with a document or an error.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufWriter, IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::Serialize;

use super::{DOCUMENT_BYTES_MAX, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, ReplyPacket, Request};

/// Why a reply did not go out. The connection should be closed.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The document could not be built in memory.
    #[error("cannot build the report: {0}")]
    Build(io::Error),
    /// The peer does not read, or is gone.
    #[error("cannot send the reply: {0}")]
    Send(io::Error),
}

/// Whether a first packet is a request of this protocol rather than a client's hello.
#[must_use]
pub const fn is_request(packet: &[u8]) -> bool {
    matches!(packet, [b'{', ..])
}

/// Parses a request packet.
///
/// # Errors
/// With a message for [`reply`].
pub fn parse_request(packet: &[u8]) -> Result<Request, String> {
    if packet.len() > REQUEST_BYTES_MAX {
        return Err(format!("a request has at most {REQUEST_BYTES_MAX} bytes"));
    }
    serde_json::from_slice(packet).map_err(|error| {
        let mut message = error.to_string();
        message.truncate(message.floor_char_boundary(MALFORMED_BYTES_MAX));
        format!("malformed request: {message}")
    })
}

/// Bytes of what is wrong with a request, which may quote from it.
const MALFORMED_BYTES_MAX: usize = 200;

/// Answers a request on `socket` with a document or an error message. Never blocks.
///
/// # Errors
/// If the document cannot be built, in which case the peer is told so if possible, or if the peer
/// does not take the reply.
pub fn reply(
    socket: BorrowedFd<'_>,
    result: Result<&impl Serialize, String>,
) -> Result<(), ReplyError> {
    match result {
        Err(message) => send_error(socket, message),
        Ok(document) => match sealed(document) {
            Ok(memfd) => send(socket, &ReplyPacket { ok: Some(true), error: None }, Some(&memfd)),
            Err(e) => {
                // The first failure is the one to report, whether or not the peer still listens.
                let _ = send_error(socket, format!("cannot build the report: {e}"));
                Err(ReplyError::Build(e))
            }
        },
    }
}

/// Answers a request on `socket` with the read end of a pipe. Never blocks.
///
/// # Errors
/// If the peer does not take the reply.
pub fn reply_with_pipe(socket: BorrowedFd<'_>, pipe: &OwnedFd) -> Result<(), ReplyError> {
    send(socket, &ReplyPacket { ok: Some(true), error: None }, Some(pipe))
}

/// Room that a reply packet leaves for the message: JSON writes a byte as six at most.
const MESSAGE_BYTES_MAX: usize = (REPLY_BYTES_MAX - 64) / 6;

fn send_error(socket: BorrowedFd<'_>, mut message: String) -> Result<(), ReplyError> {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    send(socket, &ReplyPacket { ok: None, error: Some(message) }, None)
}

/// A memfd that holds the document and can never change again.
fn sealed(document: &impl Serialize) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut out = BufWriter::new(File::from(memfd_create(c"dmm-report", flags)?));
    serde_json::to_writer(&mut out, document)?;
    out.flush()?;
    let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
    if file.metadata()?.len() > DOCUMENT_BYTES_MAX {
        return Err(io::Error::other(format!("it is beyond {DOCUMENT_BYTES_MAX} bytes")));
    }
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

/// The seals of a document: contents and size are final.
pub(super) fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

fn send(
    socket: BorrowedFd<'_>,
    packet: &ReplyPacket,
    memfd: Option<&OwnedFd>,
) -> Result<(), ReplyError> {
    let bytes = serde_json::to_vec(packet).map_err(|e| ReplyError::Build(e.into()))?;
    let fds: Vec<_> = memfd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &[] } else { &rights[..] };
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(ReplyError::Send(e.into())),
        }
    }
}
