//! The bodies and queries of the daemon's API, for its server and its client.
//!
//! Not here: answers about drives and their entries (`answers/`).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use hypermount_drive::DriveFormat;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of the API; raised when a client of the former could misunderstand the server.
pub const API: &str = "1";
/// Header in every request and answer: the number of the API.
pub const API_HEADER: &str = "hypermount-api";
/// Header in every answer: the version of the program.
pub const VERSION_HEADER: &str = "hypermount-version";

/// What to mount and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    /// `hyper://KEY[+VERSION]`, the name of a drive of the store, or `-` for the store's only one;
    /// absent with `all`.
    #[serde(default)]
    pub drive: String,
    /// Mount all drives: the store's drives by their names, and in `Network` any other by its key.
    #[serde(default)]
    pub all: bool,
    /// Absolute path of a directory. It is made if it does not exist, and removed after the unmount; its
    /// parent has to exist.
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    /// Peers to fetch from, `HOST:PORT` each.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Where other peers are looked for.
    #[serde(default)]
    pub find: Find,
    /// Longest wait for one block: `10s`, `0` (do not wait for peers), `forever`.
    #[serde(default)]
    pub wait: Option<String>,
    /// Answer peers at this `ADDR:PORT` too.
    #[serde(default)]
    pub listen: Option<String>,
    #[serde(default)]
    pub read_only: bool,
    #[serde(default)]
    pub allow_other: bool,
    /// Mount it again whenever the daemon starts.
    #[serde(default)]
    pub save: bool,
}

/// Limits in bytes per second, for all peers together; `null` for no limit. Lost when the daemon
/// restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Sent.
    #[serde(default)]
    pub up: Option<u64>,
    /// Received.
    #[serde(default)]
    pub down: Option<u64>,
}

/// A drive that has limits of its own.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DriveLimits {
    pub url: String,
    pub name: Option<String>,
    /// For its index and its content, each.
    pub limits: Limits,
}

/// Where peers are looked for; nowhere by default. All requests to one daemon that look for peers must
/// have the same value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Find {
    /// On the local network.
    #[serde(default)]
    pub lan: bool,
    /// In the network that these nodes belong to: `HOST:PORT` in the DHT, `hyperdht:HOST:PORT` in the
    /// HyperDHT.
    #[serde(default)]
    pub bootstrap: Vec<String>,
}

/// A mount as it is now.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MountInfo {
    /// `null` for a mount of all drives.
    pub url: Option<String>,
    /// The name the drive was created with, where this store has it.
    pub name: Option<String>,
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    /// The version that is shown; 0 of a mount of all drives.
    pub version: u64,
    /// URL of the drive that it has moved to, if a note in it says so.
    #[serde(default)]
    pub moved_to: Option<String>,
    /// Of a mount of all drives: those that are open now.
    pub drives: Vec<MountedDrive>,
    pub read_only: bool,
    /// Where peers are answered, if this mount asked for that.
    pub address: Option<String>,
    /// The process that serves it.
    pub pid: u32,
    #[serde(with = "crate::path_text::optional", default)]
    #[schemars(with = "Option<String>")]
    pub log: Option<PathBuf>,
    /// Whether it comes back when the daemon starts.
    pub saved: bool,
    /// Requests of programs that wait for the network now.
    pub waiting: usize,
    /// Files and directories that programs have open.
    pub open: usize,
    /// Files whose content is being stored in their drive.
    #[serde(default)]
    pub storing: Vec<StoringFile>,
    /// Calls that failed, of those still remembered.
    pub failures: usize,
}

/// A file whose content is being stored in its drive.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StoringFile {
    /// Within the mount.
    pub path: String,
    /// Bytes that are to be stored, and those of them that are stored.
    pub bytes: u64,
    pub bytes_stored: u64,
}

/// A drive in a mount of all drives.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MountedDrive {
    /// Within the mount.
    pub path: String,
    pub url: String,
    pub name: Option<String>,
    pub version: u64,
    pub read_only: bool,
}

/// A drive that is shared permanently, and fetched whole if another publisher writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct SeedInfo {
    pub url: String,
    pub name: Option<String>,
    /// The newest version known here; 0 while nothing is.
    pub version: u64,
    /// Blocks of index and content together, and those of them on this disk.
    pub blocks: u64,
    pub blocks_here: u64,
    /// Whether every block of the newest version known is on this disk.
    pub complete: bool,
    /// Whether it is written here.
    pub own: bool,
    /// What keeps it from being fetched, if anything does.
    pub trouble: Option<String>,
}

/// How a drive is to be seeded.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SeedRequest {
    /// Peers to fetch it from, `HOST:PORT` each.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Where other peers are looked for, and the drive is announced.
    #[serde(default)]
    pub find: Find,
    /// Answer peers at this `ADDR:PORT` too.
    #[serde(default)]
    pub listen: Option<String>,
}

/// `--format` of `create`: the release of Hyperdrive whose format a new drive has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NewFormat {
    #[serde(rename = "10")]
    Hyperdrive10,
    #[serde(rename = "13")]
    Hyperdrive13,
}

/// That of a drive that is made without `--format`.
pub const DEFAULT_FORMAT: NewFormat = NewFormat::Hyperdrive10;

impl Default for NewFormat {
    fn default() -> Self {
        DEFAULT_FORMAT
    }
}

impl NewFormat {
    pub fn format(self) -> DriveFormat {
        match self {
            Self::Hyperdrive10 => DriveFormat::Hyperdrive10,
            Self::Hyperdrive13 => DriveFormat::Hyperdrive11,
        }
    }
}

impl fmt::Display for NewFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hyperdrive10 => "10",
            Self::Hyperdrive13 => "13",
        })
    }
}

impl FromStr for NewFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "10" => Ok(Self::Hyperdrive10),
            "13" => Ok(Self::Hyperdrive13),
            _ => Err("expected 10 or 13".into()),
        }
    }
}

/// A new drive.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateRequest {
    pub name: String,
    /// The release of Hyperdrive whose format it has: `10`, the default, or `13`.
    #[serde(default)]
    pub format: NewFormat,
    /// Whether its blocks are encrypted, with a key that stays in the store; of format `13` only.
    #[serde(default)]
    pub encrypted: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConnectedPeer {
    pub address: String,
    /// Whether it connected to us.
    pub incoming: bool,
    /// `tcp` or `hyperdht`.
    pub transport: String,
    /// How it was found: `lan`, `dht`, `hyperdht`, `told` by itself over another connection, `given`
    /// by name, or `incoming`.
    pub found: String,
    /// Cores that both sides have open.
    pub cores: usize,
    /// Bytes since it connected.
    pub received: u64,
    pub sent: u64,
    /// Bytes a second, over the last seconds.
    pub receive_rate: u64,
    pub send_rate: u64,
}

/// Bytes on the wire since the daemon started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TrafficTotal {
    pub received: u64,
    pub sent: u64,
    pub receive_rate: u64,
    pub send_rate: u64,
}

/// The daemon and everything it does.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: u64,
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub store: PathBuf,
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub socket: PathBuf,
    #[serde(with = "crate::path_text::optional", default)]
    #[schemars(with = "Option<String>")]
    pub log: Option<PathBuf>,
    /// Whether it stays when there is nothing left to do.
    pub kept: bool,
    /// Where peers are answered.
    pub listening: Vec<String>,
    pub mounts: Vec<MountInfo>,
    pub seeds: Vec<SeedInfo>,
    pub peers: Vec<ConnectedPeer>,
    pub traffic: TrafficTotal,
    /// For all drives together.
    pub limits: Limits,
    /// Of drives that have some of their own.
    pub drive_limits: Vec<DriveLimits>,
    /// What is wrong, one sentence each.
    pub troubles: Vec<String>,
}

/// What one peer has of a drive.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrivePeer {
    #[serde(flatten)]
    pub peer: ConnectedPeer,
    /// Blocks of the newest version known here that the peer reports to hold.
    pub blocks: u64,
    /// Whether these are all.
    pub complete: bool,
}

/// The peers that have a drive.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrivePeers {
    pub url: String,
    pub version: u64,
    /// Blocks of index and content of that version, and those of them on this disk.
    pub blocks: u64,
    pub blocks_here: u64,
    pub peers: Vec<DrivePeer>,
    /// How many of them hold all of it.
    pub complete: usize,
    /// The result in words.
    pub verdict: String,
}

/// A call of a program on a mount that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FailedCall {
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    /// Within the mount.
    pub path: String,
    pub operation: String,
    /// What the program got, such as `ETIMEDOUT`.
    pub errno: String,
    pub why: String,
    pub remedy: Option<String>,
    /// Milliseconds since the epoch.
    pub time: u64,
    /// The process that asked, while it is known.
    pub pid: Option<u32>,
    pub program: Option<String>,
}

/// How much each process, file and drive fetched through the mounts, largest first.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Activity {
    pub processes: Vec<ProcessActivity>,
    pub files: Vec<FileActivity>,
    pub drives: Vec<DriveActivity>,
    pub traffic: TrafficTotal,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProcessActivity {
    pub pid: u32,
    pub program: String,
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    /// Bytes it read that were not on this disk.
    pub fetched: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FileActivity {
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    pub path: String,
    pub fetched: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DriveActivity {
    pub url: String,
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    pub fetched: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Happening {
    /// The first line: from here on nothing is missed.
    Listening {
        pid: u32,
    },
    Mounted {
        /// `null` of all drives.
        url: Option<String>,
        #[serde(with = "crate::path_text")]
        #[schemars(with = "String")]
        mountpoint: PathBuf,
        version: u64,
    },
    Unmounted {
        url: Option<String>,
        #[serde(with = "crate::path_text")]
        #[schemars(with = "String")]
        mountpoint: PathBuf,
    },
    /// A mounted or seeded drive has a new version.
    Version {
        url: String,
        version: u64,
    },
    Seeded {
        url: String,
    },
    Unseeded {
        url: String,
    },
    /// Every block of the newest version known is on this disk.
    Complete {
        url: String,
        version: u64,
    },
    PeerConnected {
        address: String,
        incoming: bool,
    },
    PeerLeft {
        address: String,
    },
    /// A call of a program on a mount failed.
    Failure {
        failure: FailedCall,
    },
    /// This listener was too slow and missed this many events.
    Missed {
        count: u64,
    },
}

/// Which drive, seen how.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DriveQuery {
    /// Within the drive.
    #[serde(default)]
    pub path: String,
    /// Peers to fetch from, `HOST:PORT` each, with commas between them.
    #[serde(default)]
    pub peers: String,
    /// Longest wait for one block: `10s`, `0` (do not wait for peers), `forever`.
    pub wait: Option<String>,
    /// Look for peers on the local network.
    #[serde(default)]
    pub lan: bool,
    /// Look for peers in the network that these nodes belong to: `HOST:PORT` in the DHT,
    /// `hyperdht:HOST:PORT` in the HyperDHT, with commas between them.
    #[serde(default)]
    pub bootstrap: String,
    /// Of `GET /drives/{drive}`: the rest of the store too.
    #[serde(default)]
    pub whole_store: bool,
}

/// Which mount is to go.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnmountQuery {
    /// Absolute path of the mount point.
    #[serde(with = "crate::path_text")]
    #[schemars(with = "String")]
    pub mountpoint: PathBuf,
    /// `normal` (the default), `lazy` or `force`.
    #[serde(default)]
    pub how: How,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// Fails if a process uses the mount.
    #[default]
    Normal,
    /// Removes the mount from the tree now; processes keep the files that they have open.
    Lazy,
    /// Removes the mount now; processes that have files open get errors.
    Force,
}

/// Which failures.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FailuresQuery {
    /// Absolute path in a mount: only what concerns it. Without it: all.
    #[serde(with = "crate::path_text::optional", default)]
    #[schemars(with = "Option<String>")]
    pub path: Option<PathBuf>,
}

/// The answer to a request that was done and has no result.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Done {}
