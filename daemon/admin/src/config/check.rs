//! Whether the parts of a configuration fit each other, and the machine. Each refusal names the key
//! and ends with the remedy.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;

use super::cidr::Cidr;
use super::cores::{Cores, format_core_list};
use super::error::ConfigError;
use super::limits;
use super::stack::{KERNEL, Kind, StackConfig};
use super::values::Name;
use super::{Config, PortConfig};

type Checked = Result<(), ConfigError>;

/// Checks everything that needs no look at the machine.
pub(super) fn fits_together(config: &Config) -> Checked {
    let socket = config.socket.as_os_str().as_bytes();
    if !config.socket.is_absolute() || socket.len() > limits::SOCKET_PATH_BYTES_MAX {
        let max = limits::SOCKET_PATH_BYTES_MAX;
        return unfit("socket", format!("write an absolute path of at most {max} bytes"));
    }
    if config.stacks.is_empty() {
        return unfit("stacks", "there is none: configure at least one");
    }
    count("ports", config.ports.len(), limits::PORTS_MAX)?;
    count("wires", config.wires.len(), limits::WIRES_MAX)?;
    count("stacks", config.stacks.len(), limits::STACKS_MAX)?;
    unique_names("ports", config.ports.iter().map(|port| &port.name))?;
    unique_names("wires", config.wires.iter().map(|wire| &wire.name))?;
    unique_names("stacks", config.stacks.iter().map(|stack| &stack.name))?;
    for (i, port) in config.ports.iter().enumerate() {
        check_port(config, &format!("ports[{i}]"), port)?;
    }
    unique_devices(config)?;
    check_wires(config)?;
    check_rings(config)?;
    for (i, stack) in config.stacks.iter().enumerate() {
        check_stack(config, &format!("stacks[{i}]"), stack)?;
    }
    let instances = config.stacks.iter().map(|stack| usize::from(stack.instance_count())).sum();
    count("stacks[*].cores", instances, limits::INSTANCES_MAX)?;
    unique_stack_ports(config)?;
    unique_addresses(config)?;
    check_quotas(config)
}

/// Checks that the cores exist and may be used, and that users and groups are known.
pub(super) fn fits_machine(config: &Config, cores: &Cores) -> Checked {
    for (i, stack) in config.stacks.iter().enumerate() {
        for (j, core) in stack.cores.iter().enumerate() {
            let key = format!("stacks[{i}].cores[{j}]");
            let allowed = format_core_list(&cores.allowed);
            if !cores.online.contains(core) {
                return unfit(key, format!("core {core} does not exist: use some of {allowed}"));
            }
            if !cores.allowed.contains(core) {
                return unfit(
                    key,
                    format!(
                        "the affinity mask forbids core {core}: use some of {allowed}, or widen \
                         the mask (taskset(1), CPUAffinity= or AllowedCPUs= of the service)"
                    ),
                );
            }
        }
    }
    config.clients.uids()?;
    config.clients.gids()?;
    Ok(())
}

fn unfit(key: impl Into<String>, problem: impl Into<String>) -> Checked {
    Err(ConfigError::Unfit { key: key.into(), problem: problem.into() })
}

fn count(key: &str, count: usize, max: usize) -> Checked {
    if count > max {
        return unfit(key, format!("{count} entries are too many: at most {max} are possible"));
    }
    Ok(())
}

fn range<T: PartialOrd + std::fmt::Display>(
    key: String,
    value: T,
    allowed: RangeInclusive<T>,
) -> Checked {
    if !allowed.contains(&value) {
        let (min, max) = (allowed.start(), allowed.end());
        return unfit(key, format!("{value} is out of range: write a number from {min} to {max}"));
    }
    Ok(())
}

fn unique_names<'a>(list: &str, names: impl Iterator<Item = &'a Name>) -> Checked {
    let mut seen = BTreeMap::new();
    for (i, name) in names.enumerate() {
        if let Some(first) = seen.insert(name, i) {
            return unfit(
                format!("{list}[{i}].name"),
                format!("{list}[{first}] is called \"{name}\" already: choose another name"),
            );
        }
    }
    Ok(())
}

fn check_port(config: &Config, at: &str, port: &PortConfig) -> Checked {
    range(format!("{at}.mtu"), port.mtu, limits::MTU_MIN..=limits::MTU_MAX)?;
    if let Some(queues) = port.queues {
        range(format!("{at}.queues"), queues, 1..=limits::QUEUES_MAX)?;
        if let Some(stack) = config.stacks.iter().find(|stack| stack.port == port.name) {
            let needed = stack.instance_count();
            // A queue without an instance would fill up with frames that nobody reads.
            if queues != needed {
                return unfit(
                    format!("{at}.queues"),
                    format!(
                        "{queues} queues do not fit the {needed} instances of stack \"{}\", which \
                         take one each: write {needed} or leave the key out",
                        stack.name
                    ),
                );
            }
        }
    }
    Ok(())
}

/// A device has one owner, except that both ends of a wire or of rings are called alike.
fn unique_devices(config: &Config) -> Checked {
    let mut seen = BTreeMap::new();
    for (i, port) in config.ports.iter().enumerate() {
        if port.device.wire().is_some() || port.device.ring().is_some() {
            continue;
        }
        // DPDK tells virtual devices apart by their name, which ends at the first comma.
        let device = port.device.to_string();
        let device = device.split(',').next().unwrap_or_default().to_owned();
        if let Some(first) = seen.insert(device.clone(), i) {
            return unfit(
                format!("ports[{i}].device"),
                format!("ports[{first}] uses {device} already: give each port its own device"),
            );
        }
    }
    Ok(())
}

/// What one end sends by a queue, the other receives by the same.
fn check_rings(config: &Config) -> Checked {
    for (i, port) in config.ports.iter().enumerate() {
        let Some(name) = port.device.ring() else { continue };
        let at = format!("ports[{i}].device");
        let ends: Vec<_> = config.ports.iter().filter(|p| p.device.ring() == Some(name)).collect();
        let [one, other] = ends[..] else {
            let count = ends.len();
            return unfit(
                at,
                format!("ring:{name} has {count} ends: let exactly two ports have it"),
            );
        };
        if one.mtu != other.mtu || config.queues(one) != config.queues(other) {
            let (one, other) = (&one.name, &other.name);
            return unfit(
                at,
                format!("\"{one}\" and \"{other}\" differ: give both the same mtu and queues"),
            );
        }
    }
    Ok(())
}

fn check_wires(config: &Config) -> Checked {
    for (i, port) in config.ports.iter().enumerate() {
        if let Some(name) = port.device.wire()
            && !config.wires.iter().any(|wire| wire.name == *name)
        {
            return unfit(
                format!("ports[{i}].device"),
                format!("there is no wire \"{name}\": add it to wires"),
            );
        }
    }
    for (i, wire) in config.wires.iter().enumerate() {
        let at = format!("wires[{i}]");
        range(format!("{at}.delay_us"), wire.delay_us, 0..=limits::WIRE_DELAY_US_MAX)?;
        range(format!("{at}.rate_mbps"), wire.rate_mbps, 0..=limits::WIRE_RATE_MBPS_MAX)?;
        let ends: Vec<_> =
            config.ports.iter().filter(|p| p.device.wire() == Some(&wire.name)).collect();
        if ends.len() != 2 {
            return unfit(
                format!("{at}.name"),
                format!(
                    "wire \"{}\" has {} ends: let exactly two ports have \"device\": \"wire:{0}\"",
                    wire.name,
                    ends.len()
                ),
            );
        }
        if ends[0].mtu != ends[1].mtu {
            return unfit(
                format!("{at}.name"),
                format!(
                    "its ends \"{}\" and \"{}\" have MTUs {} and {}: give both the same",
                    ends[0].name, ends[1].name, ends[0].mtu, ends[1].mtu
                ),
            );
        }
    }
    Ok(())
}

fn check_stack(config: &Config, at: &str, stack: &StackConfig) -> Checked {
    if stack.name.as_str() == KERNEL {
        return unfit(
            format!("{at}.name"),
            format!("\"{KERNEL}\" means the kernel's own stack everywhere: choose another name"),
        );
    }
    let Some(port) = config.port(&stack.port) else {
        let known: Vec<_> = config.ports.iter().map(|port| port.name.as_str()).collect();
        return unfit(
            format!("{at}.port"),
            format!("there is no port \"{}\": use one of [{}]", stack.port, known.join(", ")),
        );
    };
    count(&format!("{at}.cores"), stack.cores.len(), limits::INSTANCES_MAX)?;
    count(&format!("{at}.addresses"), stack.addresses.len(), limits::ADDRESSES_MAX)?;
    count(&format!("{at}.neighbours"), stack.neighbours.len(), limits::NEIGHBOURS_MAX)?;
    let routes = stack.routes.len() + stack.gateway.0.len();
    count(&format!("{at}.routes"), routes, limits::ROUTES_MAX)?;
    if stack.addresses.is_empty() {
        return unfit(format!("{at}.addresses"), "there is none: give the stack an address");
    }
    for (i, cidr) in stack.addresses.iter().enumerate() {
        let key = format!("{at}.addresses[{i}]");
        if let Some(why) = unusable(cidr) {
            return unfit(key, format!("{cidr} {why}: use an address of a host"));
        }
        if cidr.address.is_ipv6() && port.mtu < limits::MTU_IPV6_MIN {
            return unfit(
                key,
                format!(
                    "port \"{}\" has an MTU of {}, and IPv6 needs {}: raise it or drop the address",
                    port.name,
                    port.mtu,
                    limits::MTU_IPV6_MIN
                ),
            );
        }
    }
    check_routes(at, stack)?;
    check_tuning(at, stack)
}

/// Why an interface cannot have this address.
fn unusable(cidr: &Cidr) -> Option<&'static str> {
    let address = cidr.address;
    if cidr.prefix_len == 0 {
        return Some("has an empty prefix");
    }
    if address.is_unspecified() || address.is_multicast() {
        return Some("is no unicast address");
    }
    if address.is_loopback() {
        return Some("is a loopback address, which stays with the kernel");
    }
    if let IpAddr::V4(v4) = address {
        if v4.is_broadcast() {
            return Some("is no unicast address");
        }
        // RFC 3021: a /31 has no network and no broadcast address; nor has a /32.
        let host_mask = u32::MAX.checked_shr(u32::from(cidr.prefix_len)).unwrap_or(0);
        let host = v4.to_bits() & host_mask;
        if cidr.prefix_len < 31 && (host == 0 || host == host_mask) {
            return Some("is the network or broadcast address of its subnet");
        }
    }
    None
}

fn check_routes(at: &str, stack: &StackConfig) -> Checked {
    let mut families = BTreeSet::new();
    for (i, gateway) in stack.gateway.0.iter().enumerate() {
        let key = format!("{at}.gateway[{i}]");
        neighbour(&key, stack, *gateway)?;
        if !families.insert(gateway.is_ipv4()) {
            return unfit(key, format!("{gateway} is the second of its family: keep one"));
        }
    }
    let mut destinations = BTreeSet::new();
    for (i, route) in stack.routes.iter().enumerate() {
        let key = format!("{at}.routes[{i}]");
        let to = route.to;
        if to.network() != to.address {
            return unfit(
                format!("{key}.to"),
                format!("{to} has host bits: write {}/{}", to.network(), to.prefix_len),
            );
        }
        if to.address.is_ipv4() != route.via.is_ipv4() {
            return unfit(
                format!("{key}.via"),
                format!("{} is not of the family of {to}: use a router of that family", route.via),
            );
        }
        if to.prefix_len == 0 {
            return unfit(format!("{key}.to"), "this is a default route: use the key gateway");
        }
        if !destinations.insert(to) {
            return unfit(format!("{key}.to"), format!("{to} has a route already: keep one"));
        }
        neighbour(&format!("{key}.via"), stack, route.via)?;
    }
    let mut known = BTreeSet::new();
    for (i, entry) in stack.neighbours.iter().enumerate() {
        let key = format!("{at}.neighbours[{i}]");
        neighbour(&format!("{key}.address"), stack, entry.address)?;
        if !known.insert(entry.address) {
            return unfit(format!("{key}.address"), "it is listed already: keep one entry");
        }
        // The lowest bit of the first byte marks a group address (IEEE 802-2014 section 8.2).
        if entry.mac.0[0] & 1 == 1 || entry.mac.0 == [0; 6] {
            return unfit(
                format!("{key}.mac"),
                format!("{} is not the address of one station: use the neighbour's own", entry.mac),
            );
        }
    }
    Ok(())
}

/// Checks that `address` can be reached without a router.
fn neighbour(key: &str, stack: &StackConfig, address: IpAddr) -> Checked {
    if stack.addresses.iter().any(|own| own.address == address) {
        return unfit(key, format!("{address} is the stack's own address: name another host"));
    }
    // Every IPv6 link has the link-local prefix, configured or not (RFC 4291 section 2.5.6).
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    if !link_local && !stack.addresses.iter().any(|own| own.contains(address)) {
        return unfit(
            key,
            format!(
                "{address} is on no subnet of stack \"{}\": use an address inside one of [{}]",
                stack.name,
                stack.addresses.iter().map(Cidr::to_string).collect::<Vec<_>>().join(", ")
            ),
        );
    }
    Ok(())
}

fn check_tuning(at: &str, stack: &StackConfig) -> Checked {
    let (tcp, udp) = (&stack.tcp, &stack.udp);
    let buffers = limits::BUFFER_BYTES_MIN..=limits::BUFFER_BYTES_MAX;
    range(format!("{at}.tcp.rx_buffer"), tcp.rx_buffer, buffers.clone())?;
    range(format!("{at}.tcp.tx_buffer"), tcp.tx_buffer, buffers.clone())?;
    range(format!("{at}.tcp.backlog_max"), tcp.backlog_max, 1..=limits::BACKLOG_MAX)?;
    if let Some(seconds) = tcp.keepalive_s {
        range(format!("{at}.tcp.keepalive_s"), seconds, 1..=limits::KEEPALIVE_S_MAX)?;
    }
    if let (true, Some(key)) = (stack.kind != Kind::Native, tcp.native_key()) {
        return unfit(
            format!("{at}.tcp.{key}"),
            format!(
                "the kind \"{}\" has no such tuning: remove the key, or use \"native\"",
                stack.kind
            ),
        );
    }
    if let Some(vlan) = stack.vlan {
        range(format!("{at}.vlan"), vlan, 1..=limits::VLAN_MAX)?;
        if stack.kind != Kind::Native {
            return unfit(
                format!("{at}.vlan"),
                format!("the kind \"{}\" has no VLANs: remove it, or use \"native\"", stack.kind),
            );
        }
    }
    range(format!("{at}.udp.rx_buffer"), udp.rx_buffer, buffers.clone())?;
    range(format!("{at}.udp.tx_buffer"), udp.tx_buffer, buffers)
}

fn unique_stack_ports(config: &Config) -> Checked {
    let mut seen = BTreeMap::new();
    for (i, stack) in config.stacks.iter().enumerate() {
        if let Some(first) = seen.insert(&stack.port, i) {
            return unfit(
                format!("stacks[{i}].port"),
                format!(
                    "stacks[{first}] uses port \"{}\" already: give each stack a port of its own",
                    stack.port
                ),
            );
        }
    }
    Ok(())
}

fn unique_addresses(config: &Config) -> Checked {
    let mut seen = BTreeMap::new();
    for (i, stack) in config.stacks.iter().enumerate() {
        for (j, cidr) in stack.addresses.iter().enumerate() {
            let key = format!("stacks[{i}].addresses[{j}]");
            if let Some(first) = seen.insert(cidr.address, key.clone()) {
                return unfit(
                    key,
                    format!("{} is at {first} already: one stack owns an address", cidr.address),
                );
            }
        }
    }
    Ok(())
}

fn check_quotas(config: &Config) -> Checked {
    let clients = &config.clients;
    count("clients.users", clients.users.len(), limits::PRINCIPALS_MAX)?;
    count("clients.groups", clients.groups.len(), limits::PRINCIPALS_MAX)?;
    range("clients.max_sessions".into(), clients.max_sessions, 1..=limits::SESSIONS_MAX)?;
    range("clients.sockets".into(), clients.sockets, 1..=limits::SOCKETS_MAX)?;
    let arena = limits::ARENA_BYTES_MIN..=limits::ARENA_BYTES_MAX;
    range("clients.bytes".into(), clients.bytes, arena)?;
    range("clients.contexts".into(), clients.contexts, 1..=limits::CONTEXTS_MAX)?;
    range("workers.spin_us".into(), config.workers.spin_us, 0..=limits::SPIN_US_MAX)?;
    let mempool = limits::MEMPOOL_MB_MIN..=limits::MEMPOOL_MB_MAX;
    range("memory.mempool_mb".into(), config.memory.mempool_mb, mempool)
}
