//! Addresses of bootstrap nodes.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a name may take to be resolved, and how many of its addresses are used.
const RESOLVE_WITHIN: Duration = Duration::from_secs(5);
const MAX_ADDRESSES: usize = 4;

/// Addresses of `names`, each `HOST:PORT` or `ADDRESS@HOST:PORT`; names without address are left out. A
/// name with a known address is resolved only if `again`: that address did not answer.
pub(crate) async fn resolve(names: Vec<String>, again: bool) -> Vec<SocketAddrV4> {
    let mut all = Vec::new();
    for name in names {
        let (known, name) = match name.split_once('@') {
            Some((address, host)) => (address.parse::<Ipv4Addr>().ok(), host),
            None => (None, name.as_str()),
        };
        let port = name.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let known = known.zip(port).map(|(ip, port)| SocketAddrV4::new(ip, port));
        all.extend(known);
        if known.is_some() && !again {
            continue;
        }
        match timeout(RESOLVE_WITHIN, lookup_host(name)).await {
            Ok(Ok(found)) => all.extend(found.filter_map(ipv4).take(MAX_ADDRESSES)),
            Ok(Err(error)) => log::info!("bootstrap node {name}: {error}"),
            Err(_) => log::info!("bootstrap node {name}: not resolved within {RESOLVE_WITHIN:?}"),
        }
    }
    all
}

fn ipv4(address: SocketAddr) -> Option<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Some(address),
        SocketAddr::V6(_) => None,
    }
}

/// Resolves to the result of a resolving task; never if there is none.
pub(crate) async fn joined(task: &mut Option<JoinHandle<Vec<SocketAddrV4>>>) -> Vec<SocketAddrV4> {
    match task {
        Some(task) => task.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::PUBLIC_HYPERDHT;

    #[tokio::test]
    async fn a_name_is_looked_up_where_the_known_address_led_nowhere() {
        let names = ["192.0.2.1@localhost:7", "127.0.0.1:8"].map(str::to_owned).to_vec();
        let at = |text: &str| text.parse::<SocketAddrV4>().unwrap();
        let (first, named, second) = (at("192.0.2.1:7"), at("127.0.0.1:7"), at("127.0.0.1:8"));
        assert_eq!(resolve(names.clone(), false).await, [first, second]);
        assert_eq!(resolve(names, true).await, [first, named, second]);
        let public = PUBLIC_HYPERDHT.map(str::to_owned).to_vec();
        assert_eq!(resolve(public, false).await.len(), PUBLIC_HYPERDHT.len());
    }
}
