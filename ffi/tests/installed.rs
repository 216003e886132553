//! The bindings are those of the DPDK that is installed, and link against it.

use std::ffi::CStr;
use std::process::Command;

#[test]
fn headers_library_and_package_are_one_release() {
    let output = Command::new("pkg-config").args(["--modversion", "libdpdk"]).output();
    let package = String::from_utf8(output.expect("pkg-config").stdout).expect("UTF-8");
    assert_eq!(dpdk_sys::PKG_VERSION, package.trim());
    // SAFETY: returns a static string.
    let version = unsafe { dpdk_sys::rte_version() };
    // SAFETY: it ends in NUL.
    let version = unsafe { CStr::from_ptr(version) }.to_str().expect("ASCII");
    assert_eq!(version, format!("DPDK {}", package.trim()));
}

#[test]
fn an_mbuf_is_two_cache_lines() {
    // "struct rte_mbuf ... must fit into two cache lines" (rte_mbuf_core.h).
    assert_eq!(size_of::<dpdk_sys::rte_mbuf>(), 128);
}

#[test]
fn the_errno_shim_reads_what_a_library_call_left() {
    // SAFETY: any number is allowed; there is no such port.
    assert_eq!(unsafe { dpdk_sys::rte_eth_dev_socket_id(u16::MAX) }, dpdk_sys::SOCKET_ID_ANY);
    // SAFETY: reads a thread-local variable.
    assert_eq!(unsafe { dpdk_sys::dpdk_sys_errno() }, 22, "EINVAL");
}

#[test]
fn bit_macros_and_inline_functions_are_bound() {
    assert_eq!(dpdk_sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM, 1 << 1);
    let burst: unsafe extern "C" fn(u16, u16, *mut *mut dpdk_sys::rte_mbuf, u16) -> u16 =
        dpdk_sys::rte_eth_rx_burst;
    assert_ne!(burst as usize, 0);
}
