//! Which addresses a node may name to us.

use std::net::Ipv4Addr;

/// The scope of an address; machines outside the scope cannot know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    /// This machine.
    Own,
    /// Private networks and those of one cable.
    Private,
    Everywhere,
}

fn scope(address: Ipv4Addr) -> Option<Scope> {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    match address {
        _ if address.is_loopback() => Some(Scope::Own),
        _ if first == 0 || address.is_multicast() || first >= 240 => None,
        _ if address.is_private() || address.is_link_local() || shared => Some(Scope::Private),
        _ => Some(Scope::Everywhere),
    }
}

/// Whether a node at `from` can know `named`: a remote node must not make us dial our own machine
/// or our local network.
pub(crate) fn may_name(from: Ipv4Addr, named: Ipv4Addr) -> bool {
    match (scope(from), scope(named)) {
        (Some(from), Some(named)) => from <= named,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_cannot_name_addresses_nearer_to_us_than_itself() {
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let (own, near, world) = (
            ["127.0.0.1", "127.9.9.9"],
            ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1"],
            ["192.0.2.1", "8.8.8.8", "100.128.0.1", "172.32.0.1"],
        );
        let may = |from: &str, named: &[&str]| {
            named.iter().map(|named| may_name(address(from), address(named))).collect::<Vec<_>>()
        };
        for from in own {
            assert!(
                [may(from, &own), may(from, &near), may(from, &world)]
                    .concat()
                    .iter()
                    .all(|may| *may)
            );
        }
        for from in near {
            assert!(may(from, &own).iter().all(|may| !may), "{from}");
            assert!([may(from, &near), may(from, &world)].concat().iter().all(|may| *may));
        }
        for from in world {
            assert!([may(from, &own), may(from, &near)].concat().iter().all(|may| !may), "{from}");
            assert!(may(from, &world).iter().all(|may| *may));
        }
        for invalid in ["0.0.0.0", "0.1.2.3", "224.0.0.251", "240.0.0.1", "255.255.255.255"] {
            assert_eq!(may("127.0.0.1", &[invalid]), [false], "{invalid}");
            assert_eq!(may(invalid, &["8.8.8.8"]), [false], "{invalid}");
        }
    }
}
