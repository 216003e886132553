//! From a device string to an ethdev: parsing, the checks that make errors clear, and the hot-plug.
//!
//! Called by `port` at start. Must never: take over an interface or a port that exists.

use std::ffi::{CStr, CString};
use std::path::Path;

use nix::net::if_::if_nametoindex;

use super::eal::{Eal, LogLevel};
use super::error::{Errno, Error};
use super::interface::Interface;
use super::meeting::Meeting;
use super::needs::Needs;
use super::packet_socket::{PacketSockets, Seen};
use super::port::DpdkPortConfig;
use super::signals::OccupiedSignals;

/// A device on its bus, as the EAL's hot-plug names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BusDevice {
    pub(super) bus: &'static CStr,
    pub(super) name: CString,
    arguments: CString,
}

impl BusDevice {
    /// The network interface that the device makes or uses, if it was named.
    fn interface(&self) -> Option<&str> {
        let arguments = self.arguments.to_str().ok()?;
        arguments.split(',').find_map(|word| word.strip_prefix("iface="))
    }

    fn is_tap(&self) -> bool {
        let name = self.name.to_bytes();
        name.starts_with(b"net_tap") || name.starts_with(b"net_tun")
    }

    /// The first argument that the TAP driver would ignore, all others with it, if the device is one.
    fn unknown_tap_argument(&self) -> Option<String> {
        const KNOWN: [&str; 4] = ["iface", "mac", "remote", "persist"];
        let arguments =
            self.arguments.to_str().ok().filter(|text| self.is_tap() && !text.is_empty())?;
        let key = |word: &str| word.split_once('=').map_or(word, |(key, _)| key).to_owned();
        arguments.split(',').map(key).find(|key| !KNOWN.contains(&key.as_str()))
    }

    /// Where it meets its peer, if it does.
    fn meeting(&self) -> Option<Meeting> {
        Meeting::of(self.name.to_str().ok()?, self.arguments.to_str().ok()?)
    }

    fn is_packet_socket(&self) -> bool {
        let name = self.name.to_bytes();
        name.starts_with(b"net_af_packet") || name.starts_with(b"net_af_xdp")
    }
}

/// An ethdev that was attached.
pub(super) struct Attached {
    /// DPDK's number for it.
    pub(super) port: u16,
    pub(super) address: BusDevice,
    pub(super) needs: Needs,
    pub(super) kernel: KernelSide,
}

/// What the kernel has behind a device that uses one of its interfaces; else nothing.
#[derive(Debug, Default)]
pub(super) struct KernelSide {
    pub(super) interface: Option<Interface>,
    pub(super) sockets: PacketSockets,
}

/// Attaches the device that `config` names.
pub(super) fn attach(eal: &Eal, config: &DpdkPortConfig) -> Result<Attached, Error> {
    let device = &config.device;
    let (address, needs) = complete(parse(device)?, config)?;
    match address.bus.to_bytes() {
        b"pci" => check_pci(eal, &address)?,
        _ => check_vdev(device, &address)?,
    }
    // A PCI device on the allow-list was probed when the environment started.
    if let Some(port) = port_of(&address.name) {
        return Ok(Attached { port, address, needs, kernel: KernelSide::default() });
    }
    let kernel = match address.interface() {
        Some(name) if address.is_packet_socket() => attach_to(eal, device, &address, name)?,
        _ => {
            hot_plug(eal, device, &address)?;
            KernelSide::default()
        }
    };
    match port_of(&address.name) {
        Some(port) => Ok(Attached { port, address, needs, kernel }),
        None => {
            detach(&address);
            Err(Error::Attach { device: device.to_owned(), reason: Errno(libc::ENODEV) })
        }
    }
}

/// The ethdev `port` that `name` of the virtual bus already is.
pub(super) fn adopt(port: u16, name: &CStr, mtu: u16) -> Attached {
    // As rte_eth_from_rings calls what it makes.
    let name = format!("net_ring_{}", name.to_string_lossy());
    let needs = Needs::of(&name, "", 1, mtu);
    let name = CString::new(name).unwrap_or_default();
    let address = BusDevice { bus: c"vdev", name, arguments: CString::default() };
    Attached { port, address, needs, kernel: KernelSide::default() }
}

/// Hot-plugs a device that uses the kernel's interface `name`.
fn attach_to(
    eal: &Eal,
    device: &str,
    address: &BusDevice,
    name: &str,
) -> Result<KernelSide, Error> {
    let unknown = |reason| Error::KernelSide { device: device.to_owned(), reason };
    let interface = Interface::find(name).map_err(unknown)?;
    let before = Seen::now().map_err(unknown)?;
    hot_plug(eal, device, address)?;
    let sockets = PacketSockets::since(&before).map_err(|reason| {
        detach(address);
        unknown(reason)
    })?;
    Ok(KernelSide { interface: Some(interface), sockets })
}

/// `address` with the arguments that its driver wants beside those that were configured.
fn complete(mut address: BusDevice, config: &DpdkPortConfig) -> Result<(BusDevice, Needs), Error> {
    let (name, arguments) = (address.name.to_string_lossy(), address.arguments.to_string_lossy());
    let needs = Needs::of(&name, &arguments, config.queues, config.mtu);
    address.arguments = text(&needs.arguments)?;
    Ok((address, needs))
}

fn text(text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::Nul { value: text.to_owned() })
}

/// Takes the device off its bus; its ethdev must be closed.
pub(super) fn detach(address: &BusDevice) {
    // SAFETY: both strings end in NUL and are only read. That it fails for a device that is gone
    // already does no harm.
    unsafe { dpdk_sys::rte_eal_hotplug_remove(address.bus.as_ptr(), address.name.as_ptr()) };
}

fn parse(device: &str) -> Result<BusDevice, Error> {
    let bad = || Error::BadDevice { device: device.to_owned() };
    if let Some(address) = pci_address(device) {
        return Ok(BusDevice { bus: c"pci", name: text(&address)?, arguments: text("")? });
    }
    let (name, arguments) = device.split_once(',').unwrap_or((device, ""));
    let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.contains('_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if !is_name {
        return Err(bad());
    }
    Ok(BusDevice { bus: c"vdev", name: text(name)?, arguments: text(arguments)? })
}

/// `03:00.0` and `0000:03:00.0`, as `0000:03:00.0` in lower case.
fn pci_address(device: &str) -> Option<String> {
    let (rest, function) = device.rsplit_once('.')?;
    let (rest, slot) = rest.rsplit_once(':')?;
    let (domain, bus) = rest.split_once(':').unwrap_or(("0000", rest));
    let is_hex = |text: &str, len| text.len() == len && text.chars().all(|c| c.is_ascii_hexdigit());
    let fits = is_hex(domain, 4) && is_hex(bus, 2) && is_hex(slot, 2) && is_hex(function, 1);
    fits.then(|| format!("{domain}:{bus}:{slot}.{function}").to_ascii_lowercase())
}

fn check_pci(eal: &Eal, address: &BusDevice) -> Result<(), Error> {
    let device = address.name.to_string_lossy().into_owned();
    let folder = Path::new("/sys/bus/pci/devices").join(&device);
    if !folder.exists() {
        return Err(Error::NoSuchPci { device });
    }
    if !eal.allows_pci(&device) {
        return Err(Error::NotAllowed { device });
    }
    if port_of(&address.name).is_some() {
        return Ok(());
    }
    let driver = std::fs::read_link(folder.join("driver"));
    let driver = driver.ok().and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
    match driver.as_deref() {
        Some("vfio-pci" | "igb_uio" | "uio_pci_generic" | "mlx4_core" | "mlx5_core") => Ok(()),
        other => {
            let driver = other.unwrap_or("none").to_owned();
            Err(Error::WrongKernelDriver { device, driver })
        }
    }
}

fn check_vdev(device: &str, address: &BusDevice) -> Result<(), Error> {
    if port_of(&address.name).is_some() {
        return Err(Error::Busy { device: device.to_owned() });
    }
    if let Some(argument) = address.unknown_tap_argument() {
        return Err(Error::TapArgument { device: device.to_owned(), argument });
    }
    if let Some(meeting) = address.meeting() {
        return meeting.prepare(device);
    }
    let Some(interface) = address.interface() else { return Ok(()) };
    // Other drivers may call something else so.
    if !address.is_tap() && !address.is_packet_socket() {
        return Ok(());
    }
    // `struct ifreq` of netdevice(7).
    if interface.is_empty() || interface.len() >= libc::IFNAMSIZ {
        let (device, interface) = (device.to_owned(), interface.to_owned());
        return Err(Error::InterfaceName { device, interface });
    }
    let exists = if_nametoindex(interface).is_ok();
    let (device, interface) = (device.to_owned(), interface.to_owned());
    if address.is_tap() {
        // A persistent TAP would be joined rather than made, one of another kind refused.
        if exists {
            return Err(Error::InterfaceExists { device, interface });
        }
    } else if !exists {
        return Err(Error::NoSuchInterface { device, interface });
    }
    Ok(())
}

fn hot_plug(eal: &Eal, device: &str, address: &BusDevice) -> Result<(), Error> {
    let _signals = OccupiedSignals::new();
    let _quiet = QuietTap::new(eal.log_level());
    // SAFETY: three strings that end in NUL and are only read.
    let returned = unsafe {
        dpdk_sys::rte_eal_hotplug_add(
            address.bus.as_ptr(),
            address.name.as_ptr(),
            address.arguments.as_ptr(),
        )
    };
    let failed = |reason| Error::Attach { device: device.to_owned(), reason: Errno(reason) };
    match returned.saturating_neg() {
        0 => check_interface(device, address),
        libc::EEXIST => Err(Error::Busy { device: device.to_owned() }),
        // What the EAL says when no driver's name begins the device's.
        libc::EFAULT => Err(failed(libc::ENODEV)),
        _ => {
            let reason = Errno::of(returned);
            detach(address);
            let explained = address.meeting().and_then(|meeting| meeting.explain(device));
            Err(explained.unwrap_or_else(|| failed(reason.0)))
        }
    }
}

/// `net_tap` given an argument that it does not know ignores them all, and makes `dtap0`.
fn check_interface(device: &str, address: &BusDevice) -> Result<(), Error> {
    match address.interface() {
        Some(interface) if address.is_tap() && if_nametoindex(interface).is_err() => {
            detach(address);
            Err(Error::Attach { device: device.to_owned(), reason: Errno(libc::EINVAL) })
        }
        _ => Ok(()),
    }
}

fn port_of(name: &CStr) -> Option<u16> {
    let mut port = 0;
    // SAFETY: the name ends in NUL, the number is written to a local.
    let returned = unsafe { dpdk_sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut port) };
    (returned == 0).then_some(port)
}

/// Keeps the TAP driver from complaining of what is as it should be, unless someone wants to read
/// its log: that no signal is free ([`OccupiedSignals`]), that no secondary process listens, and
/// that the kernel lacks the multiq qdisc, which only its flow rules need. What fails is returned
/// as an error all the same.
#[derive(Debug)]
pub(super) struct QuietTap(Option<LogLevel>);

impl QuietTap {
    pub(super) fn new(level: LogLevel) -> Self {
        if level > LogLevel::Warning {
            return Self(None);
        }
        set_tap_log_level(dpdk_sys::RTE_LOG_CRIT);
        Self(Some(level))
    }
}

impl Drop for QuietTap {
    fn drop(&mut self) {
        if let Some(level) = self.0 {
            set_tap_log_level(level as u32);
        }
    }
}

fn set_tap_log_level(level: u32) {
    // SAFETY: the pattern ends in NUL and is copied.
    unsafe { dpdk_sys::rte_log_set_level_pattern(c"pmd.net.tap".as_ptr(), level) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(device: &str) -> String {
        match parse(device) {
            Ok(BusDevice { bus, name, arguments }) => format!("{bus:?} {name:?} {arguments:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn pci_addresses_are_completed() {
        assert_eq!(show("0000:03:00.0"), r#""pci" "0000:03:00.0" """#);
        assert_eq!(show("AF:1f.7"), r#""pci" "0000:af:1f.7" """#);
    }

    #[test]
    fn vdev_strings_are_split_once() {
        assert_eq!(show("net_tap0,iface=x,mac=fixed"), r#""vdev" "net_tap0" "iface=x,mac=fixed""#);
        assert_eq!(show("eth_af_packet1"), r#""vdev" "eth_af_packet1" """#);
    }

    #[test]
    fn other_strings_are_refused() {
        for device in ["", "eth0", "0000:03:00", "net tap,iface=x", ",x", "net_tap0\n", "g0:00.0"] {
            assert!(show(device).contains("is neither a PCI address"), "{device}");
        }
        assert!(show("net_tap0,iface=\0").contains("NUL"));
    }
}
