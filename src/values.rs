//! Directories, limits and defaults: read from the environment and the arguments once, validated
//! here, and passed on as values that cannot be wrong any more.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use hypermount_core::Wait;
use hypermount_swarm::network::{DiscoveryOptions, PUBLIC_HYPERDHT};

use crate::cli::Finding;
use crate::daemon::presence;
use crate::failure::{Context, Failure, Result};

/// How long a read waits for a peer when `--wait` does not say, per block.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// The longest `--wait` that is not `forever`.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);
const APP: &str = "hypermount";

/// `--wait`: how long one block may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitLimit {
    Each(Duration),
    Forever,
}

impl Default for WaitLimit {
    fn default() -> Self {
        WaitLimit::Each(DEFAULT_WAIT)
    }
}

impl WaitLimit {
    pub fn wait(self) -> Wait {
        match self {
            WaitLimit::Each(Duration::ZERO) => Wait::Local,
            WaitLimit::Each(limit) => Wait::Each(limit),
            WaitLimit::Forever => Wait::Forever,
        }
    }

    pub fn limit(self) -> Option<Duration> {
        match self {
            WaitLimit::Each(limit) => Some(limit),
            WaitLimit::Forever => None,
        }
    }
}

/// As it is parsed.
impl fmt::Display for WaitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitLimit::Forever => f.write_str("forever"),
            WaitLimit::Each(Duration::ZERO) => f.write_str("0"),
            WaitLimit::Each(limit) => write!(f, "{}", humantime::format_duration(*limit)),
        }
    }
}

impl FromStr for WaitLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let limit = match text {
            "forever" => return Ok(WaitLimit::Forever),
            "0" => Duration::ZERO,
            text => humantime::parse_duration(text)
                .map_err(|why| format!("{why} (expected for example 10s, 2min or forever)"))?,
        };
        if limit > MAX_WAIT {
            return Err("longer than a year; say forever".into());
        }
        Ok(WaitLimit::Each(limit))
    }
}

/// The slowest limit: below it peers would take each other for gone.
pub const SLOWEST: u64 = 1000;

/// `--up`, `--down`: bytes per second; `None` for as many as there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit(pub Option<u64>);

impl FromStr for RateLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let wrong = || format!("expected bytes per second, like 500k or 2M, or none; got {text:?}");
        let (digits, unit) = match text.char_indices().last().ok_or_else(wrong)? {
            (at, 'k' | 'K') => (&text[..at], 1000),
            (at, 'M') => (&text[..at], 1_000_000),
            (at, 'G') => (&text[..at], 1_000_000_000),
            _ => (text, 1),
        };
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        match number.checked_mul(unit) {
            Some(rate) if rate >= SLOWEST => Ok(Self(Some(rate))),
            Some(_) => Err(format!("less than {SLOWEST} bytes per second")),
            None => Err(wrong()),
        }
    }
}

/// Where the DHT is entered when nobody says otherwise: the original's own nodes.
const PUBLIC_BOOTSTRAP: [&str; 3] = [
    "bootstrap1.hyperdht.org:49737",
    "bootstrap2.hyperdht.org:49737",
    "bootstrap3.hyperdht.org:49737",
];

/// `--bootstrap`: a node to begin with, of either network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootstrapAddress {
    Dht(String),
    HyperDht(String),
}

impl FromStr for BootstrapAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("hyperdht", address)) => parse_peer(address).map(Self::HyperDht),
            Some(("dht", address)) if address.contains(':') => parse_peer(address).map(Self::Dht),
            _ => parse_peer(text).map(Self::Dht),
        }
    }
}

/// As it is parsed.
impl fmt::Display for BootstrapAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dht(address) => f.write_str(address),
            Self::HyperDht(address) => write!(f, "hyperdht:{address}"),
        }
    }
}

impl BootstrapAddress {
    /// The nodes of both networks as they are written on the command line.
    pub fn names(options: DiscoveryOptions) -> Vec<String> {
        let hyperdht = options.hyperdht.into_iter().map(Self::HyperDht);
        let all = options.bootstrap.into_iter().map(Self::Dht).chain(hyperdht);
        all.map(|one| one.to_string()).collect()
    }

    /// The inverse.
    pub fn options(lan: bool, names: &[String]) -> Result<DiscoveryOptions> {
        let all = names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|why| Failure::usage("the nodes to begin with", why))?;
        let (bootstrap, hyperdht) = Self::by_network(&all);
        Ok(DiscoveryOptions { lan, bootstrap, hyperdht })
    }

    /// Those of the DHT, and those of the HyperDHT.
    pub fn by_network(all: &[Self]) -> (Vec<String>, Vec<String>) {
        let (mut dht, mut hyperdht) = (Vec::new(), Vec::new());
        for one in all {
            match one {
                Self::Dht(address) => dht.push(address.clone()),
                Self::HyperDht(address) => hyperdht.push(address.clone()),
            }
        }
        (dht, hyperdht)
    }
}

/// `--network`: where peers are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLevel {
    Full,
    Lan,
    Off,
}

impl FromStr for NetworkLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "full" => Ok(Self::Full),
            "lan" => Ok(Self::Lan),
            "off" => Ok(Self::Off),
            _ => Err("expected full, lan or off".into()),
        }
    }
}

/// How peers are found: what the command line says, else the environment, else `full` if the command
/// has nobody to ask without (`needed`), else not at all.
pub fn discovery(finding: &Finding, needed: bool) -> Result<DiscoveryOptions> {
    let said = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
    choose(finding, needed, said("HYPERMOUNT_NETWORK"), said("HYPERMOUNT_BOOTSTRAP"))
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

/// `--peer`: an address to dial, checked for shape only; names are resolved when dialling.
pub fn parse_peer(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT")?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_ipv6 {
        return Err("expected HOST:PORT, an IPv6 address as [ADDR]:PORT".into());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(text.to_owned()),
        _ => Err(format!("{port:?} is not a port (1 to 65535)")),
    }
}

/// The store used when neither a directory nor `--store` is given.
pub fn default_store() -> Result<PathBuf> {
    base_directory("XDG_DATA_HOME", ".local/share")
}

/// Where is kept what outlives a restart of the machine; made if absent, for this user only.
pub fn state_directory() -> Result<PathBuf> {
    let directory = base_directory("XDG_STATE_HOME", ".local/state")?;
    let what = || format!("keep state in {}", directory.display());
    let hint = "set XDG_STATE_HOME to a directory that this user can write";
    if let Some(owner) = other_owner(&directory) {
        let why = format!("it belongs to another user (uid {owner}), and this is root");
        return Err(Failure::failed(what(), why).hint(hint));
    }
    hypermount_core::private::directory(&directory)
        .context(what)
        .map_err(|failure| failure.hint(hint))?;
    Ok(directory)
}

/// Where logs and records of mounts are: in the state directory, or, for a user who has none that can be
/// written, beside the sockets of daemons.
pub fn records_directory() -> Result<PathBuf> {
    let refused = match state_directory() {
        Ok(directory) => return Ok(directory),
        Err(refused) => refused,
    };
    let Ok(runtime) = presence::runtime_directory() else { return Err(refused) };
    let directory = runtime.join("state");
    private_directory(&directory)?;
    Ok(directory)
}

/// The owner of the directory, or of what it would be made in, if this is root and that is another user:
/// what root makes there the other user could not use.
fn other_owner(directory: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let there = directory.ancestors().find_map(|above| fs::metadata(above).ok())?;
    (nix::unistd::geteuid().is_root() && there.uid() != 0).then_some(there.uid())
}

/// Makes `directory` and its parents, readable by this user only where they are new.
pub fn private_directory(directory: &Path) -> Result {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .context(|| format!("make {}", directory.display()))
}

/// Where other programs look for what a user configures.
pub fn config_home() -> Result<PathBuf> {
    let named = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    match named.filter(|base| base.is_absolute()) {
        Some(base) => Ok(base),
        None => Ok(home()?.join(".config")),
    }
}

pub fn home() -> Result<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    // mount(8) at boot has no such variable.
    let listed = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    home.or_else(|| listed().map(|user| user.dir)).ok_or_else(|| {
        Failure::failed("find the home directory", "HOME is not set").hint("say --store DIR")
    })
}

/// The XDG base directory, macOS's one place for both, each with our name appended.
fn base_directory(variable: &str, below_home: &str) -> Result<PathBuf> {
    // The specification says to ignore relative values.
    if let Some(base) = env::var_os(variable).map(PathBuf::from).filter(|base| base.is_absolute()) {
        return Ok(base.join(APP));
    }
    let home = home()?;
    let below_home =
        if cfg!(target_os = "macos") { "Library/Application Support" } else { below_home };
    Ok(home.join(below_home).join(APP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_durations_or_forever() {
        assert_eq!("10s".parse(), Ok(WaitLimit::Each(Duration::from_secs(10))));
        assert_eq!("0".parse(), Ok(WaitLimit::Each(Duration::ZERO)));
        assert_eq!("forever".parse(), Ok(WaitLimit::Forever));
        assert_eq!("365days".parse(), Ok(WaitLimit::Each(MAX_WAIT)));
        for wrong in ["366days", "10", "-1s", "soon", ""] {
            assert!(wrong.parse::<WaitLimit>().is_err(), "{wrong:?}");
        }
        assert!(WaitLimit::Each(Duration::ZERO).wait().is_local());
    }

    #[test]
    fn rates_are_bytes_per_second() {
        let rate = |text: &str| text.parse::<RateLimit>().map(|RateLimit(rate)| rate);
        assert_eq!(rate("none"), Ok(None));
        assert_eq!(rate("1000"), Ok(Some(1000)));
        assert_eq!(rate("500k"), Ok(Some(500_000)));
        assert_eq!(rate("2M"), Ok(Some(2_000_000)));
        for wrong in ["", "k", "999", "-1", "1.5M", "20000000000G", "2 M", "2é"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn peers_are_looked_for_where_it_was_said() {
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

    #[test]
    fn waits_are_written_as_they_are_read() {
        for text in ["10s", "0", "forever", "1h 30m"] {
            let limit: WaitLimit = text.parse().unwrap();
            assert_eq!(limit.to_string().parse(), Ok(limit), "{text}");
        }
    }

    #[test]
    fn a_peer_is_host_and_port() {
        for right in ["localhost:1", "192.0.2.1:65535", "[::1]:3282"] {
            assert_eq!(parse_peer(right).as_deref(), Ok(right));
        }
        for wrong in ["localhost", ":80", "host:0", "host:65536", "host:", "::1:80", "host:x"] {
            assert!(parse_peer(wrong).is_err(), "{wrong:?}");
        }
    }
}
