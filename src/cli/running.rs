//! The grammar of the commands about running things: the daemon, seeds, and reports of their state.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::source::Finding;
use crate::target::Target;
use crate::values::{RateLimit, WaitLimit, parse_peer};

/// Start, stop or look at the daemon of a store
///
/// It starts by itself with the first mount, and ends when there is nothing left to do.
#[derive(Debug, Args)]
pub struct Daemon {
    #[command(subcommand)]
    pub command: DaemonCommand,
}

#[derive(Debug, Subcommand)]
pub enum DaemonCommand {
    /// Start it, to run until `daemon stop`; saved mounts and seeds come back
    Start(DaemonStart),
    /// Unmount everything and end it; saved mounts and seeds come back with the next start
    Stop(DaemonStop),
    /// Show whether it runs, its process, socket and log
    Status(DaemonStatus),
    /// Print its log
    Logs(DaemonLogs),
    /// Run in the foreground, for supervisors; prints `ready` to stderr
    Run(DaemonRun),
}

#[derive(Debug, Args)]
pub struct DaemonStart {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DaemonStop {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct DaemonStatus {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DaemonLogs {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Continue to print lines that are added
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct DaemonRun {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Make the store if there is none
    #[arg(long)]
    pub create: bool,

    /// End when there is nothing left to do
    #[arg(long)]
    pub while_needed: bool,
}

/// Seed a drive, print its URL, and show it as a QR code on a terminal
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount share ~/notes
  hypermount share notes --listen 0.0.0.0:3282
  hypermount share diary --with-key             An encrypted drive, and the key that opens it")]
pub struct Share {
    /// A mount point, a drive's name or URL, or the directory of a store
    #[arg(value_name = "MNT|NAME|URL|DIR")]
    pub what: PathBuf,

    #[command(flatten)]
    pub seeding: Seeding,

    /// No QR code
    #[arg(long)]
    pub no_qr: bool,

    /// Also print the encryption key of an encrypted drive; a reader that has it can read all versions, past and future
    #[arg(long)]
    pub with_key: bool,
}

/// How a drive is seeded.
#[derive(Clone, Debug, Args)]
pub struct Seeding {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Peer to fetch from and to serve; may be given several times
    #[arg(long = "peer", value_name = "HOST:PORT", value_parser = parse_peer)]
    pub peers: Vec<String>,

    /// Answer peers at this address; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,

    #[command(flatten)]
    pub finding: Finding,

    #[arg(long)]
    pub json: bool,
}

/// Share drives permanently, and keep drives of other publishers complete and up to date
///
/// Continues in the background and after a restart of the daemon. A drive of another publisher is fetched
/// completely, every new version included.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount seed notes --listen 0.0.0.0:3282
  hypermount seed hyper://KEY --peer example.org:3282
  hypermount seed --from list.txt           One URL or name a line")]
pub struct Seed {
    /// hyper://KEY, the name of a drive in the store, or the directory of a store
    #[arg(value_name = "URL|NAME|DIR", required_unless_present = "from")]
    pub drives: Vec<Target>,

    /// File with one drive a line; a # begins a comment
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    #[command(flatten)]
    pub seeding: Seeding,
}

/// Stop seeding drives; fetched blocks stay
#[derive(Debug, Args)]
pub struct Unseed {
    #[arg(value_name = "URL|NAME|DIR", required = true)]
    pub drives: Vec<Target>,

    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

/// Seed a drive and wait until others hold all of its current version
#[derive(Debug, Args)]
pub struct Publish {
    #[arg(value_name = "URL|NAME|DIR")]
    pub drive: Target,

    /// How many other peers must hold it
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub wait: usize,

    /// Timeout: 10s, 2min, forever
    #[arg(long, value_name = "D", default_value = "forever")]
    pub timeout: WaitLimit,

    #[command(flatten)]
    pub seeding: Seeding,
}

/// Show the state of the daemon, its mounts, seeds and peers on one screen
#[derive(Debug, Args)]
pub struct Status {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

/// Show how much of a drive each peer has, and whether it is safe to go offline
#[derive(Debug, Args)]
pub struct Peers {
    /// A mount point, a drive's name or URL, or the directory of a store
    #[arg(value_name = "MNT|NAME|URL|DIR")]
    pub what: PathBuf,

    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

/// Explain the last failure at a path of a mount
#[derive(Debug, Args)]
pub struct Why {
    #[arg(value_name = "PATH")]
    pub path: PathBuf,

    /// All remembered failures, oldest first
    #[arg(long)]
    pub all: bool,

    #[arg(long)]
    pub json: bool,
}

/// Print events as they happen, one JSON object a line
#[derive(Debug, Args)]
pub struct Watch {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

/// Show or change the rate limits of the daemon, at once and until it ends
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount limit --up 500k --down 2M
  hypermount limit --up none
  hypermount limit notes --up 100k             One drive; what holds for all holds too")]
pub struct LimitRates {
    /// A path in a mount, a drive's name or URL, or the directory of a store [default: all drives
    /// together]
    #[arg(value_name = "PATH|NAME|URL|DIR")]
    pub what: Option<PathBuf>,

    #[command(flatten)]
    pub rates: Rates,

    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

/// Rate limits, for all peers together.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Rates {
    /// Bytes to send per second at most: 500k, 2M, none
    #[arg(long, value_name = "RATE")]
    pub up: Option<RateLimit>,

    /// Bytes to receive per second at most
    #[arg(long, value_name = "RATE")]
    pub down: Option<RateLimit>,
}

/// Show live which drive, file and process fetches how much
#[derive(Debug, Args)]
pub struct Top {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Print it once and end
    #[arg(long)]
    pub once: bool,

    /// Print it once as JSON
    #[arg(long)]
    pub json: bool,
}

/// Have the system start the daemon when you log in
#[derive(Debug, Args)]
pub struct Service {
    #[command(subcommand)]
    pub command: ServiceCommand,
}

#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Write the unit (systemd) or agent (launchd), enable and start it
    Install(ServiceInstall),
    /// Stop, disable and remove it
    Uninstall(ServiceInstall),
}

#[derive(Debug, Args)]
pub struct ServiceInstall {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Only write or remove the file
    #[arg(long)]
    pub no_start: bool,
}
