//! The kernel's network interface behind a device that is a packet or an XDP socket.
//!
//! Owns: what the kernel is asked and told about it. Called by `attach`, `configure` and `port`.
//! Must never: take another interface for it that was given its name later, or change what stays
//! when the process ends.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An interface of the network namespace that it was found in.
#[derive(Debug)]
pub(super) struct Interface {
    /// Its number: other than the name, it does not come back when the interface is gone.
    index: libc::c_int,
    /// A packet socket for protocol 0, which receives nothing (packet(7)).
    socket: OwnedFd,
    was_promiscuous: bool,
}

impl Interface {
    /// The interface called `name` in the calling thread's namespace.
    pub(super) fn find(name: &str) -> io::Result<Self> {
        let index = if_nametoindex(name)?.cast_signed();
        let (domain, kind) = (AddressFamily::Packet, SockType::Datagram);
        let socket = socket(domain, kind, SockFlag::SOCK_CLOEXEC, None)?;
        let mut this = Self { index, socket, was_promiscuous: false };
        this.was_promiscuous = this.has_flag(libc::IFF_PROMISC);
        Ok(this)
    }

    /// Whether the operator had made it accept frames for any address before it was found.
    pub(super) fn was_promiscuous(&self) -> bool {
        self.was_promiscuous
    }

    /// Whether frames can pass: it exists, is up and has a carrier.
    pub(super) fn is_running(&self) -> bool {
        self.has_flag(libc::IFF_RUNNING)
    }

    fn has_flag(&self, flag: libc::c_int) -> bool {
        // SAFETY: all of it is integers, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = self.index;
        // Asked by the name that it has now.
        if !self.ask(libc::SIOCGIFNAME, &mut request) || !self.ask(libc::SIOCGIFFLAGS, &mut request)
        {
            return false;
        }
        // SAFETY: SIOCGIFFLAGS writes this field (netdevice(7)).
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        libc::c_int::from(flags) & flag != 0
    }

    /// Has the kernel fill `request` in; false if there is no such interface any more.
    fn ask(&self, code: libc::Ioctl, request: &mut libc::ifreq) -> bool {
        let request: *mut libc::ifreq = request;
        // SAFETY: an open socket; both requests read and write one `struct ifreq`.
        let returned = unsafe { libc::ioctl(self.socket.as_raw_fd(), code, request) };
        returned == 0
    }

    /// Lets frames for any address in, multicast ones included, until this value is dropped or the
    /// process dies. Drivers set the interface's own flag, which would stay.
    pub(super) fn accept_all_addresses(&self) -> io::Result<()> {
        let membership = libc::packet_mreq {
            mr_ifindex: self.index,
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: an open socket; the kernel reads one `struct packet_mreq`, a local.
        let returned = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast::<c_void>(),
                size_of_val(&membership) as libc::socklen_t,
            )
        };
        if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
