//! The network interfaces of this machine that have an IPv4 address.

use std::net::{IpAddr, Ipv4Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// One address of an interface that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Interface {
    pub address: Ipv4Addr,
    pub mask: Ipv4Addr,
    pub loopback: bool,
}

impl Interface {
    /// Whether `other` is in the network of this interface.
    pub(crate) fn reaches(&self, other: Ipv4Addr) -> bool {
        let masked = |address: Ipv4Addr| u32::from(address) & u32::from(self.mask);
        masked(self.address) == masked(other)
    }
}

/// The interfaces that are up now. The loopback is among them only if there is no other.
pub(crate) fn usable() -> Vec<Interface> {
    let mut all = up();
    if all.iter().any(|one| !one.loopback) {
        all.retain(|one| !one.loopback);
    }
    all
}

/// All IPv4 and IPv6 addresses of this machine.
pub(crate) fn addresses() -> Vec<IpAddr> {
    let Ok(addresses) = getifaddrs() else { return Vec::new() };
    let ip = |one: nix::ifaddrs::InterfaceAddress| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    addresses.filter_map(ip).collect()
}

fn up() -> Vec<Interface> {
    let Ok(addresses) = getifaddrs() else { return Vec::new() };
    let found = addresses.filter_map(|one| {
        let (address, mask) = (one.address?, one.netmask?);
        let loopback = one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let usable = one.flags.contains(InterfaceFlags::IFF_UP)
            && (loopback || one.flags.contains(InterfaceFlags::IFF_MULTICAST));
        usable.then_some(Interface {
            address: address.as_sockaddr_in()?.ip(),
            mask: mask.as_sockaddr_in()?.ip(),
            loopback,
        })
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_shares_the_masked_part_of_the_address() {
        let one = Interface {
            address: Ipv4Addr::new(192, 168, 7, 9),
            mask: Ipv4Addr::new(255, 255, 252, 0),
            loopback: false,
        };
        assert!(one.reaches(Ipv4Addr::new(192, 168, 4, 1)));
        assert!(!one.reaches(Ipv4Addr::new(192, 168, 8, 1)));
    }

    #[test]
    fn this_machine_has_an_interface() {
        assert!(!usable().is_empty());
    }
}
