//! `hypermount bootstrap`.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::json;

use super::print_json;
use crate::cli::Bootstrap;
use crate::failure::{Context, Result};
use crate::network::{bootstrap_node, hyperdht_node};
use crate::process::Ending;
use crate::terminal;
use crate::values::BootstrapAddress;

/// The port on which the original's nodes listen, on every address.
const USUAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 49737);

pub async fn run(args: &Bootstrap) -> Result {
    let mut ending = Ending::new()?;
    let (dht_others, hyperdht_others) = BootstrapAddress::by_network(&args.bootstrap);
    let listen = args.listen.or_else(|| args.hyperdht.is_none().then_some(USUAL));
    let dht = match listen {
        Some(address) => Some(bootstrap_node(address, &dht_others).await?),
        None => None,
    };
    let mut hyperdht = match args.hyperdht {
        Some(address) => Some(hyperdht_node(address, &hyperdht_others).await?),
        None => None,
    };
    let addresses =
        (dht.as_ref().map(|node| node.address()), hyperdht.as_ref().map(|node| node.address()));
    if args.json {
        print_json(&json!({ "address": addresses.0, "hyperdht": addresses.1 }))?;
    } else {
        let hyperdht = addresses.1.map(|address| format!("hyperdht:{address}"));
        for line in addresses.0.map(|address| address.to_string()).into_iter().chain(hyperdht) {
            terminal::print_line(&line).context(|| "print")?;
        }
    }
    let running = async {
        match (&dht, &mut hyperdht) {
            (Some(dht), None) => dht.run().await,
            (None, Some(hyperdht)) => hyperdht.run().await,
            (dht, hyperdht) => {
                let dht = async {
                    if let Some(dht) = dht {
                        dht.run().await
                    }
                };
                let hyperdht = async {
                    if let Some(node) = hyperdht {
                        node.run().await
                    }
                };
                tokio::join!(dht, hyperdht);
            }
        }
    };
    tokio::select! {
        () = running => (),
        () = ending.wait() => (),
    }
    if let Some(node) = dht {
        log::info!("{} nodes were known", node.nodes());
    }
    if let Some(node) = hyperdht {
        log::info!("{} nodes of the HyperDHT were known", node.nodes().await);
    }
    Ok(())
}
