//! What the library is told of the network.
//!
//! Owns: [`configure`] and the limits of the library's tables. Called once for each stack. Must never: let
//! the library take an address for ours that is not.
#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

use ::smoltcp::config::{IFACE_MAX_ADDR_COUNT, IFACE_MAX_ROUTE_COUNT, IFACE_NEIGHBOR_CACHE_COUNT};
use ::smoltcp::iface::{Interface, Route as LibraryRoute};
use ::smoltcp::wire::IpCidr;

use crate::config::{Prefix, Route};
use crate::ip::discovery::Mac;
use crate::ip::net::{self, Limits, Net};

/// Bits of the link-local prefix `fe80::/10` (RFC 4291 section 2.4).
const LINK_LOCAL_BITS: u8 = 10;

/// What the library's tables hold: one address is for the link-local prefix, and half of the
/// neighbours are left to those that are learned.
pub(super) const LIMITS: Limits = Limits {
    addresses: IFACE_MAX_ADDR_COUNT - 1,
    routes: IFACE_MAX_ROUTE_COUNT,
    neighbours: IFACE_NEIGHBOR_CACHE_COUNT / 2,
};

/// Tells the library of the network.
pub(super) fn configure(iface: &mut Interface, net: &Net, mac: Mac) {
    iface.update_ip_addrs(|addresses| {
        for prefix in net.addresses().iter().chain(&link_local(net, mac)) {
            addresses.push(cidr(prefix)).expect("the count was checked");
        }
    });
    iface.routes_mut().update(|routes| {
        for Route { to, via } in net.routes() {
            let (cidr, via_router) = (cidr(to), (*via).into());
            let route = LibraryRoute { cidr, via_router, preferred_until: None, expires_at: None };
            routes.push(route).expect("the count was checked");
        }
    });
}

/// What tells the library that the link-local prefix is on the link. If we have no address in
/// it, the one that RFC 4291 appendix A makes of the Ethernet address stands in; it is not one
/// of ours, and packets to it do not get as far as the library.
fn link_local(net: &Net, mac: Mac) -> Option<Prefix> {
    let mut v6 = net.addresses().iter().filter(|prefix| prefix.address.is_ipv6()).peekable();
    v6.peek()?;
    let own = v6.map(|prefix| prefix.address).find(|address| net::is_link_local(*address));
    let [a, b, c, d, e, f] = mac;
    let stand_in = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let address = own.unwrap_or_else(|| Ipv6Addr::from(stand_in).into());
    Some(Prefix { address, len: LINK_LOCAL_BITS })
}

fn cidr(prefix: &Prefix) -> IpCidr {
    IpCidr::new(prefix.address.into(), prefix.len)
}
