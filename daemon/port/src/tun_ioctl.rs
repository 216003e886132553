//! The two ioctls that a TAP needs.
//!
//! Owns: `struct ifreq` as these two use it. Called by `relay::tap`. Must never: keep a descriptor.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;

/// Bytes of an interface's name, with the 0 at its end (`IFNAMSIZ`).
pub(crate) const NAME_BYTES: usize = libc::IFNAMSIZ;

/// `struct ifreq` of netdevice(7): a name, and a union of which the first bytes matter here.
#[repr(C)]
pub(crate) struct InterfaceRequest {
    name: [u8; NAME_BYTES],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

mod raw {
    //! The wrappers that `nix` generates.

    use super::{InterfaceRequest, c_int};

    // `TUNSETIFF` is numbered as if it took an int, and takes a `struct ifreq`.
    nix::ioctl_write_ptr_bad!(
        set_tun_interface,
        nix::request_code_write!(b'T', 202, size_of::<c_int>()),
        InterfaceRequest
    );
    nix::ioctl_read_bad!(get_mtu, nix::libc::SIOCGIFMTU, InterfaceRequest);
}

/// Makes `tun`, an open `/dev/net/tun`, the other side of the TAP called `name`, which is created
/// if there is none.
pub(crate) fn attach_tap(tun: BorrowedFd<'_>, name: &[u8; NAME_BYTES]) -> io::Result<()> {
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    let mut request = InterfaceRequest { name: *name, value: [0; 24] };
    request.value[..2].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: the descriptor is open, and the kernel reads and writes one `struct ifreq`, whose
    // size the assertion above pins.
    unsafe { raw::set_tun_interface(tun.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// The MTU of the interface called `name` in the network namespace of `socket`, in bytes.
pub(crate) fn mtu(socket: BorrowedFd<'_>, name: &[u8; NAME_BYTES]) -> io::Result<u16> {
    let mut request = InterfaceRequest { name: *name, value: [0; 24] };
    // SAFETY: the descriptor is open, and the kernel reads and writes one `struct ifreq`, whose
    // size the assertion above pins.
    unsafe { raw::get_mtu(socket.as_raw_fd(), &raw mut request) }?;
    let [a, b, c, d, ..] = request.value;
    Ok(u16::try_from(c_int::from_ne_bytes([a, b, c, d])).unwrap_or(u16::MAX))
}
