//! The shared object, loaded as packetdrill loads it.

use std::ffi::{CString, c_int, c_longlong};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dmm_packetdrill::Interface;

/// A stack that has played nothing.
pub struct Stack {
    table: Interface,
}

impl Stack {
    /// Loads the object that was built beside this test: a stack without the part of TCP named.
    pub fn load(without: &str) -> Result<Self> {
        let folder = std::env::current_exe()?;
        let folder = folder.parent().context("a program lies in a folder")?;
        let path = folder.join("libdmm_packetdrill.so");
        ensure!(path.exists(), "{} is missing", path.display());
        let path = CString::new(path.to_str().context("a path of text")?)?;
        // SAFETY: a path that ends with zero; our own object, whose start does nothing.
        let object = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NODELETE) };
        ensure!(!object.is_null(), "the object cannot be loaded");
        // SAFETY: an object that is loaded, and a name.
        let init = unsafe { libc::dlsym(object, c"packetdrill_interface_init".as_ptr()) };
        ensure!(!init.is_null(), "the object does not export packetdrill's entry");
        // SAFETY: the export has this type, by packetdrill's header.
        let init: unsafe extern "C" fn(*const i8, *mut Interface) =
            unsafe { std::mem::transmute(init) };
        let flags = CString::new(without)?;
        let mut table = MaybeUninit::uninit();
        // SAFETY: the entry fills the whole table.
        unsafe { init(flags.as_ptr(), table.as_mut_ptr()) };
        // SAFETY: as above.
        let table = unsafe { table.assume_init() };
        Ok(Self { table })
    }

    /// A call's result, or errno.
    fn result(value: i64) -> Result<i64, i32> {
        let errno = || io::Error::last_os_error().raw_os_error().unwrap_or(0);
        if value < 0 { Err(errno()) } else { Ok(value) }
    }

    pub fn socket(&self) -> Result<i64, i32> {
        Self::result(
            (self.table.socket)(self.table.userdata, libc::AF_INET, libc::SOCK_STREAM, 0).into(),
        )
    }

    fn address(ip: [u8; 4], port: u16) -> libc::sockaddr_in {
        libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: port.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
            sin_zero: [0; 8],
        }
    }

    pub fn bind(&self, fd: c_int, ip: [u8; 4], port: u16) -> Result<i64, i32> {
        let address = Self::address(ip, port);
        let len = size_of_val(&address) as u32;
        // SAFETY: an address and its length.
        let result =
            unsafe { (self.table.bind)(self.table.userdata, fd, (&raw const address).cast(), len) };
        Self::result(result.into())
    }

    pub fn connect(&self, fd: c_int, ip: [u8; 4], port: u16) -> Result<i64, i32> {
        let address = Self::address(ip, port);
        let len = size_of_val(&address) as u32;
        // SAFETY: as above.
        let result = unsafe {
            (self.table.connect)(self.table.userdata, fd, (&raw const address).cast(), len)
        };
        Self::result(result.into())
    }

    pub fn listen(&self, fd: c_int, backlog: c_int) -> Result<i64, i32> {
        Self::result((self.table.listen)(self.table.userdata, fd, backlog).into())
    }

    pub fn accept(&self, fd: c_int) -> Result<i64, i32> {
        // SAFETY: no address is asked for.
        let result = unsafe {
            (self.table.accept)(self.table.userdata, fd, ptr::null_mut(), ptr::null_mut())
        };
        Self::result(result.into())
    }

    pub fn read(&self, fd: c_int, len: usize) -> Result<i64, i32> {
        let mut bytes = vec![0_u8; len];
        // SAFETY: so many writable bytes.
        let result =
            unsafe { (self.table.read)(self.table.userdata, fd, bytes.as_mut_ptr().cast(), len) };
        Self::result(result as i64)
    }

    pub fn send(&self, fd: c_int, len: usize, flags: c_int) -> Result<i64, i32> {
        let bytes = vec![0x5a_u8; len];
        // SAFETY: so many readable bytes.
        let result = unsafe {
            (self.table.send)(self.table.userdata, fd, bytes.as_ptr().cast(), len, flags)
        };
        Self::result(result as i64)
    }

    pub fn sendto(
        &self,
        fd: c_int,
        len: usize,
        flags: c_int,
        (ip, port): ([u8; 4], u16),
    ) -> Result<i64, i32> {
        let (bytes, address) = (vec![0x5a_u8; len], Self::address(ip, port));
        let (bytes, address_len) = (bytes.as_ptr().cast(), size_of_val(&address) as u32);
        let address = (&raw const address).cast();
        // SAFETY: so many readable bytes, and an address.
        let result = unsafe {
            (self.table.sendto)(self.table.userdata, fd, bytes, len, flags, address, address_len)
        };
        Self::result(result as i64)
    }

    pub fn close(&self, fd: c_int) -> Result<i64, i32> {
        Self::result((self.table.close)(self.table.userdata, fd).into())
    }

    pub fn shutdown(&self, fd: c_int, how: c_int) -> Result<i64, i32> {
        Self::result((self.table.shutdown)(self.table.userdata, fd, how).into())
    }

    pub fn fcntl(&self, fd: c_int, command: c_int, value: i64) -> Result<i64, i32> {
        Self::result((self.table.fcntl)(self.table.userdata, fd, command, value).into())
    }

    pub fn setsockopt(
        &self,
        fd: c_int,
        level: c_int,
        name: c_int,
        value: &[c_int],
    ) -> Result<i64, i32> {
        let len = size_of_val(value) as u32;
        // SAFETY: a value and its length.
        let result = unsafe {
            (self.table.setsockopt)(
                self.table.userdata,
                fd,
                level,
                name,
                value.as_ptr().cast(),
                len,
            )
        };
        Self::result(result.into())
    }

    /// The time.
    pub fn now(&self) -> Duration {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        // SAFETY: a place for the time.
        unsafe { (self.table.gettimeofday)(self.table.userdata, &raw mut time, ptr::null_mut()) };
        let seconds = Duration::from_secs(time.tv_sec.cast_unsigned());
        seconds + Duration::from_micros(time.tv_usec.cast_unsigned())
    }

    /// Lets time pass.
    pub fn sleep(&self, span: Duration) {
        (self.table.usleep)(
            self.table.userdata,
            u32::try_from(span.as_micros()).unwrap_or(u32::MAX),
        );
    }

    /// Gives it a packet.
    pub fn give(&self, packet: &[u8]) {
        // SAFETY: a packet and its length.
        unsafe {
            (self.table.netdev_send)(self.table.userdata, packet.as_ptr().cast(), packet.len())
        };
    }

    /// Waits for a packet. None if it sends none for long.
    pub fn take(&self) -> Option<(Duration, Vec<u8>)> {
        let (mut bytes, mut time): (Vec<u8>, c_longlong) = (vec![0; 4096], 0);
        let mut len = bytes.len();
        // SAFETY: a buffer, its length, and a place for the time.
        let result = unsafe {
            (self.table.netdev_receive)(
                self.table.userdata,
                bytes.as_mut_ptr().cast(),
                &raw mut len,
                &raw mut time,
            )
        };
        bytes.truncate(len);
        (result == 0).then(|| (Duration::from_micros(time.cast_unsigned()), bytes))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        (self.table.free)(self.table.userdata);
    }
}
