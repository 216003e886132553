//! Datagrams with what goes beside them: recvmsg(2) and sendmsg(2).
#![allow(unsafe_code, reason = "C passes messages by pointers")]

use std::ffi::c_int;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::AssertUnwindSafe;

use libc::{in_pktinfo, in6_pktinfo, msghdr, socklen_t, ssize_t};
use nix::errno::Errno;

use crate::address;
use crate::calls::{all, readable, received, writable};
use crate::errors::{call, os};
use crate::handles;

/// The number of the one link of a stack, where Linux has the interface's.
const LINK: u8 = 1;

/// Bytes of a datagram at most: a UDP length has 16 bits.
const DATAGRAM_MAX: usize = 65_535;

/// As recvmsg(2), with the flags of dmm_recv. Of datagrams the address that they were sent to is told if
/// `IP_PKTINFO` or `IPV6_RECVPKTINFO` was set (ip(7), ipv6(7)): `ipi_ifindex` is 1 for the stack's link, and
/// `ipi_spec_dst` is an address to answer from, or 0.0.0.0 for one of the stack's choice.
///
/// Errors: those of recvmsg(2); `EOPNOTSUPP` for other flags.
///
/// # Safety
/// `message` must point to a message whose parts are as recvmsg(2) has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_recvmsg(handle: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    call(AssertUnwindSafe(|| {
        const KNOWN: c_int = libc::MSG_DONTWAIT | libc::MSG_PEEK | libc::MSG_TRUNC;
        let socket = handles::socket(handle)?;
        if flags & !KNOWN != 0 {
            return Err(os(Errno::EOPNOTSUPP));
        }
        let is = |flag| flags & flag != 0;
        let (peek, wait) = (is(libc::MSG_PEEK), !is(libc::MSG_DONTWAIT));
        // SAFETY: as the caller promised.
        let message = unsafe { message.as_mut() }.ok_or_else(|| os(Errno::EFAULT))?;
        // SAFETY: as the caller promised.
        let mut slices = unsafe { writables(message) }?;
        message.msg_flags = 0;
        if socket.kind.stream {
            let stream = socket.stream()?;
            (message.msg_namelen, message.msg_controllen) = (0, 0);
            if !peek && wait {
                return received((&stream).read_vectored(&mut slices));
            }
            let first = slices.iter_mut().find(|slice| !slice.is_empty());
            let bytes = first.map_or(&mut [][..], |slice| &mut slice[..]);
            return received(match (peek, wait) {
                (false, _) => stream.try_read(bytes),
                (true, true) => stream.peek(bytes),
                (true, false) => stream.try_peek(bytes),
            });
        }
        let datagram = socket.datagram()?;
        // One buffer is used as it is.
        let mut joined = Vec::new();
        let bytes = match &mut slices[..] {
            [one] => &mut one[..],
            many => {
                // No datagram is longer.
                let room =
                    many.iter().fold(0_usize, |room, slice| room.saturating_add(slice.len()));
                joined.resize(room.min(DATAGRAM_MAX), 0);
                &mut joined[..]
            }
        };
        let arrival = match (peek, wait) {
            (false, true) => datagram.recv_arrival(bytes),
            (true, true) => datagram.peek_arrival(bytes),
            (peek, false) => datagram.try_recv_arrival(bytes, peek),
        }?;
        let mut rest = &joined[..arrival.len.min(joined.len())];
        for slice in &mut slices {
            let (now, later) = rest.split_at(rest.len().min(slice.len()));
            slice[..now.len()].copy_from_slice(now);
            rest = later;
        }
        let room: *mut socklen_t = &raw mut message.msg_namelen;
        // SAFETY: as the caller promised.
        unsafe { address::write(arrival.from, message.msg_name.cast(), room) }?;
        if arrival.whole > arrival.len {
            message.msg_flags |= libc::MSG_TRUNC;
        }
        let info = socket.choices().datagrams.packet_info;
        // SAFETY: as the caller promised.
        unsafe { tell(message, info.then_some(arrival.to.ip())) };
        received(Ok(if is(libc::MSG_TRUNC) { arrival.whole } else { arrival.len }))
    }))
}

/// As sendmsg(2), with the flags of dmm_send. Datagrams may carry `IP_PKTINFO` or `IPV6_PKTINFO`, whose
/// `ipi_spec_dst` or `ipi6_addr` is the address to come from.
///
/// Errors: those of sendmsg(2); `EOPNOTSUPP` for other flags.
///
/// # Safety
/// `message` must point to a message whose parts are as sendmsg(2) has them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dmm_sendmsg(
    handle: c_int,
    message: *const msghdr,
    flags: c_int,
) -> ssize_t {
    call(|| {
        let socket = handles::socket(handle)?;
        if flags & !(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) != 0 {
            return Err(os(Errno::EOPNOTSUPP));
        }
        let wait = flags & libc::MSG_DONTWAIT == 0;
        // SAFETY: as the caller promised.
        let message = unsafe { message.as_ref() }.ok_or_else(|| os(Errno::EFAULT))?;
        // SAFETY: as the caller promised.
        let slices = unsafe { readables(message) }?;
        if socket.kind.stream {
            let stream = socket.stream().map_err(|_| os(Errno::EPIPE))?;
            if wait {
                return received((&stream).write_vectored(&slices));
            }
            let first = slices.iter().find(|slice| !slice.is_empty());
            return received(stream.try_write(first.map_or(&[], |slice| &slice[..])));
        }
        let name: *const libc::sockaddr = message.msg_name.cast();
        // SAFETY: as the caller promised.
        let read = || unsafe { address::read(name, message.msg_namelen) };
        let to: Option<SocketAddr> = if name.is_null() { None } else { Some(read()?) };
        // SAFETY: as the caller promised.
        let from = unsafe { source(message, socket.kind.v6) }?;
        let datagram = socket.datagram()?;
        let joined;
        let bytes = match &slices[..] {
            [one] => &one[..],
            many => {
                let len = many.iter().fold(0_usize, |len, slice| len.saturating_add(slice.len()));
                if len > DATAGRAM_MAX {
                    return Err(os(Errno::EMSGSIZE));
                }
                joined = many.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>();
                &joined[..]
            }
        };
        received(datagram.send_message(bytes, (from, to), wait))
    })
}

/// # Safety
/// As of [`dmm_recvmsg`].
unsafe fn writables<'a>(message: &msghdr) -> io::Result<Vec<IoSliceMut<'a>>> {
    let count = c_int::try_from(message.msg_iovlen).map_err(|_| os(Errno::EMSGSIZE))?;
    // SAFETY: as the caller promised.
    let vectors = unsafe { all(message.msg_iov, count) }?;
    let slice = |vector: &libc::iovec| {
        // SAFETY: as the caller promised.
        unsafe { writable(vector.iov_base, vector.iov_len) }.map(IoSliceMut::new)
    };
    vectors.iter().map(slice).collect()
}

/// # Safety
/// As of [`dmm_sendmsg`].
unsafe fn readables<'a>(message: &msghdr) -> io::Result<Vec<IoSlice<'a>>> {
    let count = c_int::try_from(message.msg_iovlen).map_err(|_| os(Errno::EMSGSIZE))?;
    // SAFETY: as the caller promised.
    let vectors = unsafe { all(message.msg_iov, count) }?;
    let slice = |vector: &libc::iovec| {
        // SAFETY: as the caller promised.
        unsafe { readable(vector.iov_base, vector.iov_len) }.map(IoSlice::new)
    };
    vectors.iter().map(slice).collect()
}

/// Writes where a datagram was sent to beside it, if that is wanted.
///
/// # Safety
/// The message's control buffer must be null or have room for as many bytes as it says.
unsafe fn tell(message: &mut msghdr, to: Option<IpAddr>) {
    let len = match to {
        None => 0,
        // SAFETY: as the caller promised.
        Some(IpAddr::V4(to)) => unsafe {
            // Who answers comes from where it was asked, unless that were many.
            let many = to.is_broadcast() || to.is_multicast();
            let answer = if many { Ipv4Addr::UNSPECIFIED } else { to };
            let bits = |v4: Ipv4Addr| libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
            let info = in_pktinfo {
                ipi_ifindex: c_int::from(LINK),
                ipi_spec_dst: bits(answer),
                ipi_addr: bits(to),
            };
            put(message, (libc::IPPROTO_IP, libc::IP_PKTINFO), info)
        },
        // SAFETY: as the caller promised.
        Some(IpAddr::V6(to)) => unsafe {
            let info = in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: to.octets() },
                ipi6_ifindex: LINK.into(),
            };
            put(message, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), info)
        },
    };
    message.msg_controllen = len;
}

/// Writes the one control message. Returns how many bytes that took; none, if there is not room for all.
///
/// # Safety
/// As of [`tell`].
unsafe fn put<T>(message: &mut msghdr, (level, kind): (c_int, c_int), value: T) -> usize {
    // SAFETY: it looks at the two fields alone.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    let size = size_of::<T>() as u32;
    // SAFETY: it computes.
    let space = unsafe { libc::CMSG_SPACE(size) } as usize;
    // SAFETY: it computes.
    let len = unsafe { libc::CMSG_LEN(size) } as usize;
    if first.is_null() || message.msg_controllen < len {
        message.msg_flags |= libc::MSG_CTRUNC;
        return 0;
    }
    let head = libc::cmsghdr { cmsg_len: len, cmsg_level: level, cmsg_type: kind };
    // SAFETY: there is room for the head and the value, which need not be aligned.
    unsafe { first.write_unaligned(head) };
    // SAFETY: it computes.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: as above.
    unsafe { data.cast::<T>().write_unaligned(value) };
    space.min(message.msg_controllen)
}

/// Where a datagram is to come from, as what stands beside it says.
///
/// # Safety
/// The message's control buffer must be null or hold as many bytes as it says.
unsafe fn source(message: &msghdr, v6: bool) -> io::Result<Option<IpAddr>> {
    let mut from = None;
    // SAFETY: it looks at the two fields alone.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    let end = message.msg_control as usize + message.msg_controllen;
    while !next.is_null() {
        // SAFETY: the walk gives places with room for a head.
        let head = unsafe { next.read_unaligned() };
        // SAFETY: it computes.
        let data = unsafe { libc::CMSG_DATA(next) };
        let start = data as usize - next as usize;
        if head.cmsg_len < start || head.cmsg_len > end - next as usize {
            return Err(os(Errno::EINVAL));
        }
        let bytes = head.cmsg_len - start;
        match (head.cmsg_level, head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if !v6 && bytes >= size_of::<in_pktinfo>() => {
                // SAFETY: long enough; it need not be aligned.
                let info = unsafe { data.cast::<in_pktinfo>().read_unaligned() };
                check_link(info.ipi_ifindex)?;
                let own = Ipv4Addr::from_octets(info.ipi_spec_dst.s_addr.to_ne_bytes());
                from = Some(IpAddr::V4(own));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if v6 && bytes >= size_of::<in6_pktinfo>() => {
                // SAFETY: as above.
                let info = unsafe { data.cast::<in6_pktinfo>().read_unaligned() };
                check_link(c_int::try_from(info.ipi6_ifindex).unwrap_or(-1))?;
                from = Some(IpAddr::V6(Ipv6Addr::from_octets(info.ipi6_addr.s6_addr)));
            }
            // As ip_cmsg_send() and ip6_datagram_send_ctl() have it.
            (libc::IPPROTO_IP, _) if !v6 => return Err(os(Errno::EINVAL)),
            (libc::IPPROTO_IPV6, _) if v6 => return Err(os(Errno::EINVAL)),
            _ => {}
        }
        // SAFETY: this one lies within the buffer.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
    Ok(from)
}

/// There is one link, and 0 leaves the choice.
fn check_link(number: c_int) -> io::Result<()> {
    if number == 0 || number == c_int::from(LINK) { Ok(()) } else { Err(os(Errno::ENODEV)) }
}
