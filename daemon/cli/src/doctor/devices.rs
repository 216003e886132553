//! What the configured devices need: /dev/net/tun for TAP devices, vfio for PCI ones.

use std::fs::{self, OpenOptions};
use std::path::Path;

use dmm_admin::Config;
use dmm_admin::config::Device;

use super::Check;

/// Checks that TAP devices can be made.
pub(super) fn tun(root: &Path, config: &Config) -> Check {
    const NAME: &str = "tap devices";
    let path = root.join("dev/net/tun");
    let needed = config
        .ports
        .iter()
        .any(|port| matches!(&port.device, Device::Vdev(device) if device.starts_with("net_tap")));
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => Check::ok(NAME, format!("{} opens", path.display())),
        Err(e) if !needed => {
            Check::ok(NAME, format!("{} does not open ({e}); no port needs it", path.display()))
        }
        Err(e) => Check::fail(
            NAME,
            format!("{} does not open ({e})", path.display()),
            "modprobe tun as root; in a container also allow the device",
        ),
    }
}

/// Checks that PCI devices can be driven from user space.
pub(super) fn vfio(root: &Path, config: &Config) -> Check {
    const NAME: &str = "vfio";
    let iommu = fs::read_dir(root.join("sys/class/iommu")).is_ok_and(|mut d| d.next().is_some());
    let vfio = root.join("dev/vfio/vfio").exists();
    let unsafe_mode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    let no_iommu = fs::read_to_string(root.join(unsafe_mode)).is_ok_and(|text| text.trim() == "Y");
    let found = match (iommu, vfio) {
        (true, true) => "an IOMMU and vfio",
        (true, false) => "an IOMMU, no vfio",
        (false, true) => "vfio, no IOMMU",
        (false, false) => "no IOMMU, no vfio",
    };
    if !config.ports.iter().any(|port| matches!(port.device, Device::Pci(_))) {
        return Check::ok(NAME, format!("{found}; no port needs it"));
    }
    match (iommu, vfio) {
        (true, true) => Check::ok(NAME, found),
        (_, false) => Check::fail(NAME, found, "modprobe vfio-pci as root"),
        (false, true) if no_iommu => Check::warn(
            NAME,
            "vfio without an IOMMU",
            "a device can write to all memory: enable the IOMMU (intel_iommu=on or amd_iommu=on)",
        ),
        (false, true) => Check::fail(
            NAME,
            found,
            "enable the IOMMU in the firmware and with intel_iommu=on or amd_iommu=on on the \
             kernel command line",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn config(device: &str) -> Config {
        let mut config = Config::embedded();
        config.ports[0].device = device.parse().unwrap();
        config
    }

    #[test]
    fn tun_matters_to_tap_ports() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(tun(root.path(), &config("net_tap0")).level, Level::Fail);
        assert_eq!(tun(root.path(), &config("net_null0")).level, Level::Ok);
        fs::create_dir_all(root.path().join("dev/net")).unwrap();
        fs::write(root.path().join("dev/net/tun"), "").unwrap();
        assert_eq!(tun(root.path(), &config("net_tap0")).level, Level::Ok);
    }

    #[test]
    fn vfio_matters_to_pci_ports() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let pci = config("0000:03:00.0");
        assert_eq!(vfio(root.path(), &config("net_tap0")).level, Level::Ok);
        assert_eq!(vfio(root.path(), &pci).level, Level::Fail);
        file("dev/vfio/vfio", "");
        assert!(vfio(root.path(), &pci).remedy.unwrap().contains("intel_iommu=on"));
        file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        assert_eq!(vfio(root.path(), &pci).level, Level::Warn);
        file("sys/class/iommu/dmar0", "");
        assert_eq!(vfio(root.path(), &pci).level, Level::Ok);
    }
}
