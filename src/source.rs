//! Where a command finds the data of a drive: the options that several commands share, and what they
//! mean together with the environment.
//!
//! Not here: which drive is meant (`target/`).

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use hypermount_swarm::{DiscoveryOptions, PUBLIC_HYPERDHT};

use crate::failure::{Failure, Result};
use crate::model::Find;
use crate::values::{BootstrapAddress, NetworkLevel, WaitLimit, parse_peer};

/// The bootstrap nodes of the Hyperswarm 2 DHT that are used by default.
const PUBLIC_BOOTSTRAP: [&str; 3] = [
    "bootstrap1.hyperdht.org:49737",
    "bootstrap2.hyperdht.org:49737",
    "bootstrap3.hyperdht.org:49737",
];

/// Where a drive's data is stored, and where it is fetched from.
#[derive(Clone, Debug, Default, Args)]
pub struct Source {
    /// Directory of the store, which keeps fetched data [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Peer to fetch from; may be given several times
    #[arg(long = "peer", value_name = "HOST:PORT", value_parser = parse_peer)]
    pub peers: Vec<String>,

    /// Longest wait for one block: 10s, 2min, 0 (do not wait for peers), forever
    /// [default: 30s; in a mount 10s for the entry of a name, 30s for a block of a file]
    #[arg(long, value_name = "D")]
    pub wait: Option<WaitLimit>,

    /// Ask for the drive's encryption key (64 hex digits), on the terminal without showing it, else as one
    /// line of standard input, and keep it in the store
    #[arg(long)]
    pub encryption_key: bool,

    #[command(flatten)]
    pub finding: Finding,
}

/// How peers are found that the command line does not name.
#[derive(Clone, Debug, Default, Args)]
pub struct Finding {
    /// Where to look for peers: full is the local network, the Hyperswarm 2 DHT and the HyperDHT 6
    /// [default: full; off with --peer, for a drive on this disk, and for a --listen address that only
    /// this machine reaches; or HYPERMOUNT_NETWORK]
    #[arg(long, value_name = "full|lan|off")]
    pub network: Option<NetworkLevel>,

    /// Bootstrap node, instead of all the public ones: of the HyperDHT 6 with hyperdht: before it, else
    /// of the Hyperswarm 2 DHT; may be given several times [or HYPERMOUNT_BOOTSTRAP, separated by
    /// commas]
    #[arg(long, value_name = "[hyperdht:]HOST:PORT")]
    pub bootstrap: Vec<BootstrapAddress>,
}

impl Source {
    /// The source of a command that names only a store.
    pub fn of_store(store: Option<PathBuf>) -> Self {
        Self { store, ..Self::default() }
    }

    /// The longest wait for one block.
    pub fn limit(&self) -> WaitLimit {
        self.wait.unwrap_or_default()
    }

    /// How peers are looked for. `by_key`: the command names a drive by its key alone, and so needs
    /// peers unless it names some or excludes them by `--wait 0`.
    pub fn discovery(&self, by_key: bool) -> Result<DiscoveryOptions> {
        self.finding.discovery(by_key && self.peers.is_empty() && !self.is_offline())
    }

    /// As [`Source::discovery`], as a value of the API.
    pub fn find(&self, by_key: bool) -> Result<Find> {
        self.discovery(by_key).map(find_of)
    }

    /// As [`Source::find`], for a mount, which also announces the drive if it listens at an address
    /// that other machines can reach.
    pub fn find_for_mount(&self, by_key: bool, listen: Option<SocketAddr>) -> Result<Find> {
        let announces = listen.is_some_and(|address| !address.ip().is_loopback());
        let needed = announces || (by_key && !self.is_offline());
        self.finding.discovery(needed && self.peers.is_empty()).map(find_of)
    }

    /// Whether peers are asked for data that is not on this disk.
    pub fn asks_peers(&self, by_key: bool) -> Result<bool> {
        Ok(!self.peers.is_empty() || !self.discovery(by_key)?.is_off())
    }

    fn is_offline(&self) -> bool {
        self.wait.is_some_and(|wait| wait.wait().is_local())
    }
}

/// Where a daemon is to look for peers.
pub fn find_of(options: DiscoveryOptions) -> Find {
    Find { lan: options.lan, bootstrap: BootstrapAddress::names(options) }
}

impl Finding {
    /// How peers are found: as the command line says, else the environment, else `full` if the command
    /// needs peers and has none (`needed`), else not at all.
    pub fn discovery(&self, needed: bool) -> Result<DiscoveryOptions> {
        let set = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
        choose(self, needed, set("HYPERMOUNT_NETWORK"), set("HYPERMOUNT_BOOTSTRAP"))
    }
}

fn choose(
    finding: &Finding,
    needed: bool,
    network: Option<String>,
    bootstrap: Option<String>,
) -> Result<DiscoveryOptions> {
    let wrong = |variable: &'static str| {
        move |why: String| Failure::usage(format!("the environment's {variable}"), why)
    };
    let level = match (finding.network, network) {
        (Some(level), _) => level,
        (None, _) if !finding.bootstrap.is_empty() => NetworkLevel::Full,
        (None, Some(text)) => text.parse().map_err(wrong("HYPERMOUNT_NETWORK"))?,
        (None, None) if needed => NetworkLevel::Full,
        (None, None) => NetworkLevel::Off,
    };
    let (bootstrap, hyperdht) = match bootstrap {
        _ if level != NetworkLevel::Full => Default::default(),
        _ if !finding.bootstrap.is_empty() => BootstrapAddress::by_network(&finding.bootstrap),
        Some(text) => {
            let names = text.split(',').map(|name| name.trim().parse());
            let names = names.collect::<Result<Vec<_>, _>>();
            BootstrapAddress::by_network(&names.map_err(wrong("HYPERMOUNT_BOOTSTRAP"))?)
        }
        None => {
            let owned = |all: [&str; 3]| all.map(str::to_owned).to_vec();
            (owned(PUBLIC_BOOTSTRAP), owned(PUBLIC_HYPERDHT))
        }
    };
    Ok(DiscoveryOptions { lan: level != NetworkLevel::Off, bootstrap, hyperdht })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_environment_choose_where_peers_are_looked_for() {
        let flags = |network: Option<NetworkLevel>, bootstrap: &[&str]| Finding {
            network,
            bootstrap: bootstrap.iter().map(|name| name.parse().unwrap()).collect(),
        };
        let none = flags(None, &[]);
        let both = |lan, bootstrap: &[&str], hyperdht: &[&str]| DiscoveryOptions {
            lan,
            bootstrap: bootstrap.iter().map(|name| name.to_string()).collect(),
            hyperdht: hyperdht.iter().map(|name| name.to_string()).collect(),
        };
        let options = |lan, bootstrap: &[&str]| both(lan, bootstrap, &[]);
        let chosen = |finding: &Finding, needed, network: Option<&str>, bootstrap: Option<&str>| {
            choose(finding, needed, network.map(str::to_owned), bootstrap.map(str::to_owned))
                .unwrap()
        };
        let public = both(true, &PUBLIC_BOOTSTRAP, &PUBLIC_HYPERDHT);
        assert_eq!(chosen(&none, true, None, None), public);
        let names = BootstrapAddress::names(public.clone());
        assert_eq!(BootstrapAddress::options(true, &names).unwrap(), public);
        let private = flags(None, &["hyperdht:c:3", "dht:d:4", "dht:5"]);
        assert_eq!(chosen(&private, true, None, None), both(true, &["d:4", "dht:5"], &["c:3"]));
        let said = Some("hyperdht:a:1,b:2");
        assert_eq!(chosen(&none, true, None, said), both(true, &["b:2"], &["a:1"]));
        assert_eq!(chosen(&none, false, None, None), options(false, &[]));
        assert_eq!(chosen(&none, true, Some("off"), None), options(false, &[]));
        assert_eq!(chosen(&none, false, Some("lan"), None), options(true, &[]));
        assert_eq!(chosen(&none, true, None, Some("a:1, b:2")), options(true, &["a:1", "b:2"]));
        let own = flags(None, &["c:3"]);
        assert_eq!(chosen(&own, false, Some("off"), Some("a:1")), options(true, &["c:3"]));
        let lan = flags(Some(NetworkLevel::Lan), &[]);
        assert_eq!(chosen(&lan, true, Some("full"), None), options(true, &[]));
        for (network, bootstrap) in [(Some("on"), None), (None, Some("a"))] {
            let wrong =
                choose(&none, true, network.map(str::to_owned), bootstrap.map(str::to_owned));
            assert!(wrong.is_err());
        }
    }
}
