//! `scripts/nic` on a machine of its own: a tree in place of /sys, a namespace with a default route, and
//! a program that notes what it is asked in place of the one that binds.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dmm_tests::command::output;
use dmm_tests::namespace::Namespace;
use tempfile::TempDir;

use crate::c_api::repository;

struct Machine {
    folder: TempDir,
    namespace: Namespace,
}

impl Machine {
    /// Two cards of the kernel, one of which carries the default route; one of DPDK; and a disk.
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("dmm-tests-").tempdir().expect("writable");
        let machine = Self { folder, namespace: Namespace::new("nic") };
        // One end each; the default route may lead nowhere.
        machine.namespace.ip("link add up0 type veth peer name spare0");
        for name in ["up0", "spare0"] {
            machine.namespace.ip(&format!("link set {name} up"));
        }
        machine.namespace.ip("address add 10.80.0.1/24 dev up0");
        machine.namespace.ip("route add default via 10.80.0.254");
        machine.card("0000:03:00.0", "0x020000", "ixgbe", Some("up0"));
        machine.card("0000:03:00.1", "0x020000", "ixgbe", Some("spare0"));
        machine.card("0000:04:00.0", "0x020000", "vfio-pci", None);
        machine.card("0000:05:00.0", "0x010802", "nvme", None);
        fs::create_dir_all(machine.sys().join("kernel/iommu_groups/1")).expect("ours");
        let devbind = machine.folder.path().join("dpdk-devbind.py");
        let note = format!("#!/bin/sh\necho \"$@\" >>{}\n", machine.notes().display());
        fs::write(&devbind, note).expect("ours");
        fs::set_permissions(&devbind, fs::Permissions::from_mode(0o755)).expect("ours");
        machine
    }

    fn sys(&self) -> PathBuf {
        self.folder.path().join("sys")
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("notes")
    }

    fn card(&self, address: &str, class: &str, driver: &str, interface: Option<&str>) {
        let (device, pci) = (self.device(address), self.sys().join("bus/pci"));
        fs::create_dir_all(&device).expect("ours");
        let driver = pci.join("drivers").join(driver);
        fs::create_dir_all(&driver).expect("ours");
        symlink(driver, device.join("driver")).expect("ours");
        fs::write(device.join("class"), format!("{class}\n")).expect("ours");
        fs::write(device.join("driver_override"), "vfio-pci\n").expect("ours");
        fs::write(pci.join("drivers_probe"), "").expect("ours");
        if let Some(interface) = interface {
            fs::create_dir_all(device.join("net").join(interface)).expect("ours");
        }
    }

    fn device(&self, address: &str) -> PathBuf {
        self.sys().join("bus/pci/devices").join(address)
    }

    /// Runs it. Returns whether it went well, and what it said.
    fn nic(&self, words: &[&str]) -> (bool, String) {
        let mut command = self.namespace.command(repository().join("scripts/nic"));
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", self.folder.path().display()));
        let output = output(command.args(words).env("DMM_SYSFS", self.sys()));
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn cards_are_listed_bound_and_given_back() {
    let machine = Machine::new();
    let (good, list) = machine.nic(&["list"]);
    assert!(good, "{list}");
    let lines: Vec<Vec<&str>> = list.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "{list}");
    assert_eq!(lines[1][..4], ["0000:03:00.0", "ixgbe", "up0", "carries"]);
    assert_eq!(lines[2][..4], ["0000:03:00.1", "ixgbe", "spare0", "the"]);
    assert_eq!(lines[3][..4], ["0000:04:00.0", "vfio-pci", "-", "DPDK's:"]);

    assert!(machine.nic(&["bind", "03:00.1"]).0);
    assert_eq!(read(&machine.notes()), "--bind=vfio-pci 0000:03:00.1\n");
    assert!(machine.nic(&["unbind", "0000:04:00.0"]).0);
    assert_eq!(read(&machine.notes()).lines().last(), Some("--unbind 0000:04:00.0"));
    assert_eq!(read(&machine.sys().join("bus/pci/drivers_probe")), "0000:04:00.0\n");
    assert_eq!(read(&machine.device("0000:04:00.0").join("driver_override")), "\n");
}

#[test]
fn the_card_of_the_default_route_is_refused_and_so_is_nonsense() {
    let machine = Machine::new();
    let refusals = [
        (&["bind", "0000:03:00.0"][..], "up0, which carries the default route"),
        (&["bind", "0000:04:00.0"], "bound to vfio-pci already"),
        (&["bind", "0000:05:00.0"], "no network card"),
        (&["bind", "0000:09:00.0"], "no PCI device 0000:09:00.0"),
        (&["bind", "eth0"], "no PCI address"),
        (&["unbind", "0000:03:00.1"], "not bound to a driver for DPDK"),
        (&["bind"], "use: nic"),
        (&["reboot"], "use: nic"),
        (&[], "use: nic"),
    ];
    for (words, part) in refusals {
        let (good, text) = machine.nic(words);
        assert!(!good && text.contains(part), "{words:?}: {text}");
    }
    // Over IPv6 alone, too.
    machine.namespace.ip("route del default");
    machine.namespace.ip("-6 address add fd00:80::1/64 dev up0 nodad");
    machine.namespace.ip("-6 route add default via fd00:80::254");
    assert!(machine.nic(&["bind", "0000:03:00.0"]).1.contains("carries the default route"));
    fs::remove_dir_all(machine.sys().join("kernel")).expect("ours");
    assert!(machine.nic(&["bind", "0000:03:00.1"]).1.contains("no IOMMU"));
    assert_eq!(read(&machine.notes()), "", "nothing was bound");
}
