//! What can go wrong with DPDK, each with its remedy, and the reading of DPDK's error numbers.

use std::ffi::CStr;
use std::fmt;

use thiserror::Error;

/// An error number of DPDK or of the system, shown as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The calling thread's `rte_errno`.
    pub(super) fn last() -> Self {
        // SAFETY: reads a thread-local variable.
        Self(unsafe { dpdk_sys::dpdk_sys_errno() })
    }

    /// The number in a negative return value; `rte_errno` where a function returns a bare -1.
    pub(super) fn of(returned: i32) -> Self {
        match (returned, Self::last()) {
            (-1, last) if last.0 > 0 => last,
            _ => Self(returned.saturating_abs()),
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: any number is allowed; the text is a thread-local buffer.
        let text = unsafe { dpdk_sys::rte_strerror(self.0) };
        // SAFETY: the text ends in NUL and stays until this thread's next rte_strerror.
        let text = unsafe { CStr::from_ptr(text) };
        write!(f, "{}", text.to_string_lossy())
    }
}

/// Why DPDK, or one of its ports, could not start.
#[derive(Debug, Error)]
pub enum Error {
    /// A second `Eal::init` in one process, or one after a failed one.
    #[error("dpdk was initialised before in this process: share that one `Eal`")]
    AlreadyInitialised,
    /// `rte_eal_init` failed.
    #[error("dpdk's environment did not start ({reason}): {remedy}")]
    Init {
        /// What DPDK says.
        reason: Errno,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A string that cannot be handed to C.
    #[error("{value:?} holds a NUL byte: take it out")]
    Nul {
        /// The string.
        value: String,
    },
    /// The process's CPU mask could not be read.
    #[error("the allowed CPUs cannot be read ({0}): check that /proc and cpusets are intact")]
    Cpus(String),
    /// No slot for another thread.
    #[error(
        "this thread cannot register with dpdk ({reason}): it is registered already, or more \
             than {limit} threads are"
    )]
    Thread {
        /// What DPDK says.
        reason: Errno,
        /// The most threads that DPDK was built for.
        limit: u32,
    },
    /// A device string that is neither a PCI address nor a virtual device.
    #[error(
        "device {device:?} is neither a PCI address (0000:03:00.0) nor a virtual device \
             (net_tap0,iface=dmm0): correct it"
    )]
    BadDevice {
        /// As configured.
        device: String,
    },
    /// No such PCI address.
    #[error("no PCI device {device} on this machine: list them with dpdk-devbind.py --status")]
    NoSuchPci {
        /// The address.
        device: String,
    },
    /// The EAL was started without this address.
    #[error(
        "PCI device {device} is not on the allow-list that dpdk was started with: add it there"
    )]
    NotAllowed {
        /// The address.
        device: String,
    },
    /// The kernel still has it.
    #[error(
        "PCI device {device} is bound to the kernel driver {driver}: bind it to vfio-pci with \
             dpdk-devbind.py --bind=vfio-pci {device}"
    )]
    WrongKernelDriver {
        /// The address.
        device: String,
        /// The driver, or `none`.
        driver: String,
    },
    /// The device runs already.
    #[error("device {device} is in use by another port of this process: give each port its own")]
    Busy {
        /// As configured.
        device: String,
    },
    /// An argument that the TAP driver does not know.
    #[error("net_tap does not know {argument:?} of device {device}: use iface, mac or remote")]
    TapArgument {
        /// As configured.
        device: String,
        /// The argument's name.
        argument: String,
    },
    /// A name that no network interface can have.
    #[error(
        "interface {interface:?} of device {device} cannot exist: a name has 1 to {} bytes",
        libc::IFNAMSIZ - 1
    )]
    InterfaceName {
        /// As configured.
        device: String,
        /// The interface's name.
        interface: String,
    },
    /// A network interface of the name that a TAP was to get.
    #[error(
        "interface {interface} of device {device} exists: remove it with \
             `ip link delete {interface}` or choose another name"
    )]
    InterfaceExists {
        /// As configured.
        device: String,
        /// The interface's name.
        interface: String,
    },
    /// The network interface that a virtual device is to use does not exist.
    #[error("no interface {interface} for device {device}: create it, or start in its namespace")]
    NoSuchInterface {
        /// As configured.
        device: String,
        /// The interface's name.
        interface: String,
    },
    /// The socket file at which the device meets its peer is of no use.
    #[error("the socket {} of device {device} {reason}", path.display())]
    Meeting {
        /// As configured.
        device: String,
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong, and what to do.
        reason: &'static str,
    },
    /// No driver took the device.
    #[error(
        "device {device} was taken by no driver ({reason}): check the driver's name and \
             arguments, and that its librte_net_*.so is installed"
    )]
    Attach {
        /// As configured.
        device: String,
        /// What DPDK says.
        reason: Errno,
    },
    /// Too many queues, or none.
    #[error("device {device} cannot have {queues} queue pairs: choose 1 to {limit}")]
    Queues {
        /// As configured.
        device: String,
        /// As configured.
        queues: u16,
        /// The device's limit.
        limit: u16,
    },
    /// An MTU outside of the device's range.
    #[error("device {device} cannot have an MTU of {mtu} bytes: choose {min} to {max}")]
    Mtu {
        /// As configured.
        device: String,
        /// As configured.
        mtu: u16,
        /// The device's limit.
        min: u16,
        /// The device's limit.
        max: u16,
    },
    /// Not enough memory for the frame buffers.
    #[error(
        "no memory for {buffers} buffers of {bytes} bytes for device {device} ({reason}): give \
             dpdk more (huge pages, or memory_mb), or use fewer queues"
    )]
    Memory {
        /// As configured.
        device: String,
        /// Buffers wanted.
        buffers: u32,
        /// Bytes in each.
        bytes: u32,
        /// What DPDK says.
        reason: Errno,
    },
    /// A set-up step that the device refused.
    #[error(
        "device {device} refused to {step} ({reason}): dpdk's own lines at log level notice say more"
    )]
    Setup {
        /// As configured.
        device: String,
        /// What was asked of it.
        step: &'static str,
        /// What DPDK says.
        reason: Errno,
    },
    /// The kernel does not say what it has behind a device.
    #[error(
        "the kernel's side of device {device} cannot be found ({reason}): check that /proc is \
             mounted, and raise the open files limit"
    )]
    KernelSide {
        /// As configured.
        device: String,
        /// What the system says.
        reason: std::io::Error,
    },
    /// The descriptors behind a wake-up could not be made.
    #[error("no descriptor for wake-ups of device {device} ({reason}): raise the open files limit")]
    Wake {
        /// As configured.
        device: String,
        /// What the system says.
        reason: std::io::Error,
    },
}
