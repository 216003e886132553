//! The network as configured: own addresses, subnets, routes.
//!
//! Owns: the answers to "is this address ours?", "from which address do we reach that one?" and
//! "over which neighbour?". Called for each received segment and each new connection. Must never:
//! change after it was made.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::config::{Prefix, Route, StackConfig};
use crate::kinds::BuildError;

/// How long the lists of a configuration may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Own addresses.
    pub(crate) addresses: usize,
    /// Routes.
    pub(crate) routes: usize,
    /// Static neighbours.
    pub(crate) neighbours: usize,
}

/// Own addresses and routes.
#[derive(Clone)]
pub(crate) struct Net {
    addresses: Vec<Prefix>,
    routes: Vec<Route>,
    static_neighbours: usize,
}

impl Net {
    /// The network of `config`, checked.
    pub(crate) fn new(config: &StackConfig, limits: Limits) -> Result<Self, BuildError> {
        for (what, count, most) in [
            ("addresses", config.addresses.len(), limits.addresses),
            ("routes", config.routes.len(), limits.routes),
            ("static neighbours", config.neighbours.len(), limits.neighbours),
        ] {
            if count > most {
                return Err(BuildError::TooMany { what, count, most });
            }
        }
        for prefix in config.addresses.iter().chain(config.routes.iter().map(|route| &route.to)) {
            if prefix.len > bits(prefix.address) {
                return Err(BuildError::Address { address: prefix.address, len: prefix.len });
            }
        }
        if let Some(prefix) = config.addresses.iter().find(|prefix| !is_unicast(prefix.address)) {
            return Err(BuildError::Address { address: prefix.address, len: prefix.len });
        }
        let net = Self {
            addresses: config.addresses.clone(),
            routes: config.routes.clone(),
            static_neighbours: config.neighbours.len(),
        };
        for Route { to, via } in &net.routes {
            if to.address.is_ipv4() != via.is_ipv4() || net.on_link(*via).is_none() {
                return Err(BuildError::Gateway { via: *via });
            }
        }
        for neighbour in &config.neighbours {
            let group = neighbour.mac[0] & 1 == 1;
            if group || !is_unicast(neighbour.address) || net.on_link(neighbour.address).is_none() {
                return Err(BuildError::Neighbour { address: neighbour.address });
            }
        }
        Ok(net)
    }

    /// The own addresses.
    pub(crate) fn addresses(&self) -> &[Prefix] {
        &self.addresses
    }

    /// The routes.
    pub(crate) fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// How many neighbours are known without asking.
    pub(crate) const fn static_neighbours(&self) -> usize {
        self.static_neighbours
    }

    /// Whether `address` is one of the stack's own.
    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| prefix.address == address)
    }

    /// Whether packets to `address` are for this host: its own addresses, groups, and broadcasts of
    /// its subnets (RFC 1122 section 3.3.6).
    pub(crate) fn takes(&self, address: IpAddr) -> bool {
        self.is_own(address) || is_group(address) || self.is_subnet_broadcast(address)
    }

    /// Whether `address` stands for all stations of a link of ours (RFC 1122 section 3.3.6).
    pub(crate) fn is_broadcast(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.is_broadcast()) || self.is_subnet_broadcast(address)
    }

    /// Whether another station can have `address`.
    pub(crate) fn may_be_another(&self, address: IpAddr) -> bool {
        is_unicast(address)
            && !stays_at_home(address)
            && !self.is_own(address)
            && !self.is_subnet_broadcast(address)
    }

    /// Whether `address` stands for several stations: a group, or all of a link of ours.
    pub(crate) fn is_many(&self, address: IpAddr) -> bool {
        is_group(address) || self.is_subnet_broadcast(address)
    }

    fn is_subnet_broadcast(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|prefix| match (prefix.address, address) {
            (IpAddr::V4(own), IpAddr::V4(to)) if prefix.len < 31 => {
                let hosts = u32::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
                to.to_bits() == own.to_bits() | hosts
            }
            _ => false,
        })
    }

    /// The neighbour to which packets for `remote` go, if they go to one and not to many.
    pub(crate) fn next_hop(&self, remote: IpAddr) -> Option<IpAddr> {
        if !is_unicast(remote) || self.is_subnet_broadcast(remote) {
            return None;
        }
        match self.on_link(remote) {
            Some(_) => Some(remote),
            None if stays_at_home(remote) => None,
            None => self.route(remote).map(|route| route.via),
        }
    }

    /// An own address of the same family as `other`.
    pub(crate) fn any_like(&self, other: IpAddr) -> Option<IpAddr> {
        let like = |prefix: &&Prefix| prefix.address.is_ipv4() == other.is_ipv4();
        self.addresses.iter().find(like).map(|prefix| prefix.address)
    }

    /// The address to come from when talking to `remote`: that of the subnet it is in, else that
    /// of the subnet its gateway is in, else (RFC 6724 rule 2) one of wider scope.
    pub(crate) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        if let Some(prefix) = self.on_link(remote) {
            return Some(prefix.address);
        }
        if is_group(remote) {
            return self.any_like(remote);
        }
        if stays_at_home(remote) {
            return None;
        }
        let near = self.on_link(self.route(remote)?.via)?.address;
        if !is_link_local(near) {
            return Some(near);
        }
        let wide = |prefix: &&Prefix| prefix.address.is_ipv6() && !is_link_local(prefix.address);
        Some(self.addresses.iter().find(wide).map_or(near, |prefix| prefix.address))
    }

    /// The longest of our subnets that holds `address`, the first of several. RFC 4861 section 5.1: link-local addresses
    /// are on the link even if we have none; any of IPv6 will do to reach them.
    fn on_link(&self, address: IpAddr) -> Option<&Prefix> {
        let holds = |prefix: &&Prefix| contains(prefix, address);
        let subnet = self.addresses.iter().filter(holds).min_by_key(|prefix| Reverse(prefix.len));
        let mut v6 = self.addresses.iter().filter(|prefix| prefix.address.is_ipv6());
        subnet.or_else(|| is_link_local(address).then(|| v6.next()).flatten())
    }

    /// The most special of the routes to `remote`.
    fn route(&self, remote: IpAddr) -> Option<&Route> {
        let leads = |route: &&Route| contains(&route.to, remote);
        self.routes.iter().filter(leads).max_by_key(|route| route.to.len)
    }
}

/// Whether one station can have the address.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    !address.is_unspecified() && !is_group(address)
}

/// Whether packets to the address must not leave the host (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3), or
/// nobody has it (RFC 1112 section 4).
fn stays_at_home(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => matches!(v4.octets()[0], 0 | 127 | 240..),
        IpAddr::V6(v6) => v6.is_loopback(),
    }
}

/// Whether the address stands for several stations.
fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn contains(prefix: &Prefix, address: IpAddr) -> bool {
    let number = |address| match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let differ = number(prefix.address) ^ number(address);
    prefix.address.is_ipv4() == address.is_ipv4() && differ.leading_zeros() >= u32::from(prefix.len)
}

const fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::config;

    const LIMITS: Limits = Limits { addresses: 15, routes: 16, neighbours: 16 };

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefix(text: &str, len: u8) -> Prefix {
        Prefix { address: ip(text), len }
    }

    #[test]
    fn sources_follow_subnets_and_routes() {
        let mut config = config(1);
        config.addresses =
            vec![prefix("10.0.0.1", 8), prefix("10.9.0.1", 16), prefix("fe80::1", 64)];
        config.routes = vec![
            Route { to: prefix("0.0.0.0", 0), via: ip("10.9.0.254") },
            Route { to: prefix("192.168.0.0", 16), via: ip("10.0.0.254") },
        ];
        let net = Net::new(&config, LIMITS).unwrap();
        assert_eq!(net.source_for(ip("10.9.4.4")), Some(ip("10.9.0.1")));
        assert_eq!(net.source_for(ip("10.4.4.4")), Some(ip("10.0.0.1")));
        assert_eq!(net.source_for(ip("1.1.1.1")), Some(ip("10.9.0.1")));
        assert_eq!(net.source_for(ip("192.168.1.1")), Some(ip("10.0.0.1")));
        assert_eq!(net.source_for(ip("2001:db8::1")), None);
        for nowhere in ["127.0.0.1", "0.1.2.3", "240.0.0.1"] {
            assert_eq!((net.source_for(ip(nowhere)), net.next_hop(ip(nowhere))), (None, None));
        }
        assert_eq!(net.source_for(ip("fe80::2")), Some(ip("fe80::1")));
        config.addresses = vec![prefix("10.9.0.7", 16), prefix("10.9.0.1", 16)];
        config.routes.truncate(1);
        let net = Net::new(&config, LIMITS).unwrap();
        assert_eq!(net.source_for(ip("10.9.4.4")), Some(ip("10.9.0.7")), "the first of two");
    }

    #[test]
    fn the_next_hop_is_the_station_itself_or_its_gateway() {
        let mut config = config(1);
        config.addresses = vec![prefix("10.0.0.1", 24), prefix("fd00::1", 64)];
        config.routes = vec![
            Route { to: prefix("0.0.0.0", 0), via: ip("10.0.0.254") },
            Route { to: prefix("::", 0), via: ip("fe80::1") },
        ];
        let net = Net::new(&config, LIMITS).unwrap();
        for (remote, hop) in [
            ("10.0.0.9", Some("10.0.0.9")),
            ("10.0.1.9", Some("10.0.0.254")),
            ("10.0.0.255", None),
            ("255.255.255.255", None),
            ("224.0.0.1", None),
            ("fd00::9", Some("fd00::9")),
            ("fe80::9", Some("fe80::9")),
            ("2001:db8::1", Some("fe80::1")),
            ("ff02::1", None),
        ] {
            assert_eq!(net.next_hop(ip(remote)), hop.map(ip), "{remote}");
        }
        assert_eq!(net.source_for(ip("fe80::9")), Some(ip("fd00::1")));
        assert_eq!(net.source_for(ip("2001:db8::1")), Some(ip("fd00::1")));
    }

    #[test]
    fn link_local_needs_an_address_of_ipv6() {
        let mut config = config(1);
        config.addresses = vec![prefix("10.0.0.1", 24)];
        config.routes = vec![Route { to: prefix("::", 0), via: ip("fe80::1") }];
        assert_eq!(
            Net::new(&config, LIMITS).err(),
            Some(BuildError::Gateway { via: ip("fe80::1") })
        );
    }

    #[test]
    fn wrong_networks_are_refused() {
        let refusal = |change: &dyn Fn(&mut StackConfig)| {
            let mut config = config(1);
            change(&mut config);
            Net::new(&config, LIMITS).err()
        };
        assert_eq!(refusal(&|_| ()), None);
        let far = ip("172.16.0.1");
        assert_eq!(
            refusal(&|c| c.routes = vec![Route { to: prefix("0.0.0.0", 0), via: far }]),
            Some(BuildError::Gateway { via: far })
        );
        assert!(matches!(
            refusal(&|c| c.addresses = vec![prefix("10.0.0.1", 33)]),
            Some(BuildError::Address { len: 33, .. })
        ));
        assert!(matches!(
            refusal(&|c| c.addresses = vec![prefix("224.0.0.1", 8)]),
            Some(BuildError::Address { .. })
        ));
        assert!(matches!(
            refusal(&|c| c.addresses = vec![prefix("10.0.0.1", 8); 17]),
            Some(BuildError::TooMany { count: 17, most: 15, .. })
        ));
    }
}
