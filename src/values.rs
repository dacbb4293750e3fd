//! Values of the command line, the environment and the API: parsed and validated once, and passed on
//! in types that exclude invalid values.
//!
//! Not here: which options there are (`cli.rs`), and what they mean together (`source.rs`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hypermount_core::Wait;
use hypermount_swarm::{DiscoveryOptions, PublicKey};

use crate::failure::{Failure, Result};

/// How long a read waits for a block without `--wait`.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// The longest `--wait` that is not `forever`.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

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

/// In the form that is parsed.
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
            return Err("longer than a year; use forever".into());
        }
        Ok(WaitLimit::Each(limit))
    }
}

/// The lowest limit, in bytes per second: below it peers would time out.
pub const SLOWEST: u64 = 1000;

/// `--up`, `--down`: bytes per second; `None` for no limit.
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

/// `--bootstrap`: a bootstrap node of the Hyperswarm 2 DHT or of the HyperDHT 6.
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

/// In the form that is parsed.
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

    /// The inverse of [`BootstrapAddress::names`].
    pub fn options(lan: bool, names: &[String]) -> Result<DiscoveryOptions> {
        let all = names.iter().map(|name| name.parse()).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|why| Failure::usage("the bootstrap nodes", why))?;
        let (bootstrap, hyperdht) = Self::by_network(&all);
        Ok(DiscoveryOptions { lan, bootstrap, hyperdht })
    }

    /// The nodes of the Hyperswarm 2 DHT, and those of the HyperDHT 6.
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

/// `hyper://KEY[+VERSION]`.
pub fn drive_url(key: &PublicKey, version: Option<u64>) -> String {
    match version {
        Some(version) => format!("hyper://{}+{version}", key.to_hex()),
        None => format!("hyper://{}", key.to_hex()),
    }
}

/// Bytes of a drive's URL that identify the drive but cannot open it, for logs.
const SHORT_URL: usize = "hyper://".len() + 12;

/// A drive's URL cut so that it identifies the drive but cannot open it.
pub fn short_url(url: &str) -> String {
    format!("{}…", url.get(..SHORT_URL.min(url.len())).unwrap_or(url))
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
