//! `hypermount serve`.

use serde_json::json;

use super::print_json;
use crate::cli::Serve;
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::network::Network;
use crate::process::Ending;
use crate::stored::{drives, open_store};
use crate::terminal::{self, escaped};
use crate::values::RateLimit;
use crate::values::drive_url;

pub async fn run(args: &Serve) -> Result {
    let directory = directories::store(args.store.as_deref())?;
    let mut ending = Ending::new()?;
    let store = open_store(&directory, false)?;
    let found = drives(&store).await.context(|| "read the store")?;
    if found.is_empty() && args.peers.is_empty() {
        return Err(Failure::failed(
            format!("serve {}", directory.display()),
            "there is no drive in it",
        ));
    }
    let network = Network::for_serving(&store)?;
    let rate = |given: Option<RateLimit>| given.and_then(|RateLimit(rate)| rate);
    network.limit(rate(args.rates.up), rate(args.rates.down));
    let address = network.listen(args.listen).await?;
    if args.json {
        let urls: Vec<_> = found.iter().map(|key| drive_url(key, None)).collect();
        print_json(&json!({ "address": address, "drives": urls }))?;
    } else {
        terminal::print_line(&address.to_string()).context(|| "print")?;
        for key in &found {
            eprintln!("serving {}", escaped(&drive_url(key, None)));
        }
    }
    network.dial(&args.peers);
    let needed = args.peers.is_empty() && !address.ip().is_loopback();
    let discovery = args.finding.discovery(needed)?;
    network.discover(&discovery).await?;
    for key in &found {
        network.announce(key)?;
    }
    ending.wait().await;
    let traffic = network.traffic();
    network.close();
    if args.json {
        return print_json(&traffic);
    }
    eprintln!("served: {traffic}");
    Ok(())
}
