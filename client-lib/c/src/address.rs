//! `struct sockaddr` and its kinds, in and out.
#![allow(unsafe_code, reason = "C passes addresses by pointers")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use libc::{c_int, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use nix::errno::Errno;

use crate::errors::os;

/// Reads an address of `len` bytes.
///
/// # Safety
/// `address` must be null or point to `len` readable bytes.
pub(crate) unsafe fn read(address: *const sockaddr, len: socklen_t) -> io::Result<SocketAddr> {
    if address.is_null() {
        return Err(os(Errno::EFAULT));
    }
    let len = len as usize;
    if len < size_of::<sa_family_t>() {
        return Err(os(Errno::EINVAL));
    }
    // SAFETY: long enough for the family, which stands first; it need not be aligned.
    let family = unsafe { address.cast::<sa_family_t>().read_unaligned() };
    match c_int::from(family) {
        libc::AF_INET if len >= size_of::<sockaddr_in>() => {
            // SAFETY: as long as the caller promised, and any bytes are a value of it.
            let v4 = unsafe { address.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from_octets(v4.sin_addr.s_addr.to_ne_bytes());
            Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 if len >= size_of::<sockaddr_in6>() => {
            // SAFETY: as above.
            let v6 = unsafe { address.cast::<sockaddr_in6>().read_unaligned() };
            let ip = Ipv6Addr::from_octets(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Ok(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        libc::AF_INET | libc::AF_INET6 => Err(os(Errno::EINVAL)),
        _ => Err(os(Errno::EAFNOSUPPORT)),
    }
}

/// Writes an address to where it is wanted, if it is, cut to the room there; `len` is room before, and
/// the address's size after.
///
/// # Safety
/// `address` must be null, or `len` point to the number of bytes that may be written to it.
pub(crate) unsafe fn write(
    from: SocketAddr,
    address: *mut sockaddr,
    len: *mut socklen_t,
) -> io::Result<()> {
    if address.is_null() {
        return Ok(());
    }
    if len.is_null() {
        return Err(os(Errno::EFAULT));
    }
    match from {
        SocketAddr::V4(v4) => {
            // SAFETY: zeros are a value of it.
            let mut raw: sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as sa_family_t;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            // SAFETY: as the caller promised.
            unsafe { put(&raw, address, len) };
        }
        SocketAddr::V6(v6) => {
            // SAFETY: as above.
            let mut raw: sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as sa_family_t;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_flowinfo = v6.flowinfo();
            raw.sin6_scope_id = v6.scope_id();
            // SAFETY: as the caller promised.
            unsafe { put(&raw, address, len) };
        }
    }
    Ok(())
}

/// # Safety
/// `len` must point to the number of bytes that may be written to `address`.
unsafe fn put<T>(raw: &T, address: *mut sockaddr, len: *mut socklen_t) {
    // SAFETY: as the caller promised; it need not be aligned.
    let room = unsafe { len.read_unaligned() } as usize;
    let bytes = std::ptr::from_ref(raw).cast::<u8>();
    // SAFETY: within both, which do not overlap: one is ours.
    unsafe { address.cast::<u8>().copy_from_nonoverlapping(bytes, room.min(size_of::<T>())) };
    // SAFETY: as above.
    unsafe { len.write_unaligned(size_of::<T>() as socklen_t) };
}
