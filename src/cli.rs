//! The grammar of the command line and its help texts. No behaviour: the commands are in `commands/`.

mod running;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::model::NewFormat;
use crate::source::{Finding, Source};
use crate::target::{Target, TargetPath};
use crate::values::{BootstrapAddress, parse_peer};

pub use running::*;

const EXAMPLES: &str = "\
Examples:
  hypermount mount hyper://KEY ~/drive --peer example.org:3282
      A drive becomes a folder; only what you touch is fetched, and every byte is verified.
  hypermount unmount ~/drive
  hypermount create notes                  Make a drive of your own, to be mounted and written
  hypermount mount ./my-drive ~/drive      Mount a drive that is on this disk already
  hypermount ls -l hyper://KEY/photos      Look without mounting
  hypermount share ~/drive                 Print its URL, and give it to others
  hypermount status                        Show mounts, seeds, peers and problems";

const CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no peer or none in time, 4 store in use by
another process, 5 verification failed.

Data goes to stdout, messages to stderr. RUST_LOG and NO_COLOR are honoured.";

/// Mount a Hyperdrive by its key: a folder that fetches and verifies only the bytes you touch.
#[derive(Debug, Parser)]
#[command(name = "hypermount", version, before_help = EXAMPLES, after_help = CODES)]
#[command(propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// Log more to stderr: -v info, -vv debug, -vvv trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// This process was started in the background, and reports to the command that started it
    #[arg(long, hide = true)]
    pub detached: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Create(Create),
    Mount(Mount),
    Unmount(Unmount),
    Ls(Ls),
    Cat(Cat),
    Stat(Stat),
    Info(Info),
    List(List),
    Import(Import),
    Export(Export),
    Convert(Convert),
    Adopt(Adopt),
    Check(Check),
    Recover(Recover),
    Share(Share),
    Seed(Seed),
    Unseed(Unseed),
    Publish(Publish),
    Status(Status),
    Peers(Peers),
    Why(Why),
    Watch(Watch),
    Top(Top),
    Limit(LimitRates),
    Daemon(Daemon),
    Service(Service),
    Serve(Serve),
    Bootstrap(Bootstrap),
    Completions(Completions),
    Man(Man),
}

/// Make a drive of your own and print its URL
///
/// Its keys derive from the store's master key and the name, so nothing else has to be kept.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount create notes
  hypermount mount notes ~/notes
  hypermount create site --format 13            Read by every program of Hyperdrive 11 to 13
  hypermount create diary --encrypted           Read only with its encryption key")]
pub struct Create {
    /// Its name on this machine; peers do not see the name
    #[arg(value_name = "NAME")]
    pub name: String,

    /// The release of Hyperdrive whose format it has: 10, or 13, which programs of today read [default: 10; 13 with
    /// --encrypted]
    #[arg(long, value_name = "RELEASE")]
    pub format: Option<NewFormat>,

    /// Encrypt it with a random key that stays in the store; peers without the key can keep and pass on the drive, and
    /// read nothing
    #[arg(long)]
    pub encrypted: bool,

    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

/// Mount a drive and return when it is usable
///
/// The mount stays in the background until `hypermount unmount`. A drive that is in the store
/// already needs no peer. Your own drives can be written.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount mount hyper://KEY ~/drive --peer example.org:3282
  hypermount mount hyper://KEY+120 ~/old       Version 120, frozen
  hypermount mount notes ~/notes --listen 0.0.0.0:3282
      A drive made by `hypermount create notes`, read by others as it is written
  hypermount mount ./my-drive ~/drive          The drive of a store directory
  hypermount mount --all                       Every drive by a path:
      ~/Hyperdrive/notes, ~/Hyperdrive/Network/KEY+120/photos")]
pub struct Mount {
    /// hyper://KEY, with +VERSION after it if wanted, the name of a drive in the store, or the
    /// directory of a store
    #[arg(value_name = "URL|NAME|DIR", required_unless_present = "all")]
    pub target: Option<Target>,

    /// Directory to mount on; made if it does not exist, and removed after the unmount
    #[arg(value_name = "MNT", required_unless_present = "all")]
    pub mountpoint: Option<PathBuf>,

    /// Mount all drives: those of the store by their names, and in the directory Network any other
    /// by its key [default: ~/Hyperdrive]
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    #[arg(conflicts_with_all = ["target", "mountpoint", "listen"])]
    pub all: Option<Option<PathBuf>>,

    #[command(flatten)]
    pub source: Source,

    /// Answer peers at this address while mounted, and announce it; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,

    /// Refuse writes, even to your own drive
    #[arg(long)]
    pub read_only: bool,

    /// Stay in the foreground, with no daemon; print one line when the mount is usable
    #[arg(long)]
    pub foreground: bool,

    /// Let other users see the mount
    #[arg(long)]
    pub allow_other: bool,

    /// Mount it again whenever the daemon starts, until it is unmounted
    #[arg(long, conflicts_with = "foreground")]
    pub save: bool,

    /// Print what was mounted as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// Unmount, and wait until the store is free again
///
/// Names the processes that keep the mount busy.
#[derive(Debug, Args)]
pub struct Unmount {
    #[arg(value_name = "MNT")]
    pub mountpoint: PathBuf,

    /// Detach the mount at once; processes keep the files that they have open until they close them
    #[arg(long, conflicts_with = "force")]
    pub lazy: bool,

    /// Also end requests that hang; for a mount whose process died or does not answer
    #[arg(long)]
    pub force: bool,
}

/// List a directory of a drive, without mounting
///
/// One name a line; characters that could drive a terminal are written as escapes.
#[derive(Debug, Args)]
pub struct Ls {
    /// hyper://KEY/path, with +VERSION after the key if wanted, or the directory of a store
    #[arg(value_name = "URL|DIR")]
    pub target: Target,

    /// Path inside the drive
    #[arg(value_name = "PATH", default_value = "")]
    pub path: String,

    /// Mode, owner, size, time (UTC) and link target too
    #[arg(short)]
    pub long: bool,

    /// A JSON array with everything known of each entry
    #[arg(long, conflicts_with_all = ["long", "zero"])]
    pub json: bool,

    /// Names as they are, each followed by NUL
    #[arg(short = '0', conflicts_with = "long")]
    pub zero: bool,

    #[command(flatten)]
    pub source: Source,
}

/// Print files of a drive, without mounting
#[derive(Debug, Args)]
pub struct Cat {
    /// hyper://KEY/path, with +VERSION after the key if wanted, or the directory of a store
    #[arg(value_name = "URL|DIR")]
    pub target: Target,

    /// Paths inside the drive
    #[arg(value_name = "PATH")]
    pub paths: Vec<String>,

    #[command(flatten)]
    pub source: Source,
}

/// Show one entry of a drive, without mounting
#[derive(Debug, Args)]
pub struct Stat {
    /// hyper://KEY/path, with +VERSION after the key if wanted, or the directory of a store
    #[arg(value_name = "URL|DIR")]
    pub target: Target,

    /// Path inside the drive
    #[arg(value_name = "PATH", default_value = "")]
    pub path: String,

    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub source: Source,
}

/// Show a drive's key and version and how much of it is here, or the drives of a store
#[derive(Debug, Args)]
pub struct Info {
    /// hyper://KEY, with +VERSION after it if wanted, the directory of a store, or a path in a mount
    #[arg(value_name = "URL|DIR|PATH")]
    pub target: Target,

    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub source: Source,
}

/// List the drives of a store
///
/// Key, name, size of all files, version, whether it can be written and how much of its content is
/// here. A size that is not known here is a question mark.
#[derive(Debug, Args)]
pub struct List {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    #[arg(long)]
    pub json: bool,
}

/// Copy a directory into a drive of your own
///
/// Moves only what changed; may be interrupted and run again. Names matched by a .hypermountignore
/// (gitignore syntax, in any directory) stay out. Owners, modes, times to the millisecond, links,
/// user extended attributes and empty directories are kept.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount import ~/photos photos             Into the drive you created as `photos`
  hypermount import ~/photos photos/2020 --dry-run
  hypermount import . ./my-store --delete       Into the drive of a store directory")]
pub struct Import {
    /// Directory to copy
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// NAME, hyper://KEY or the directory of a store, with /PATH after it if wanted
    #[arg(value_name = "DRIVE[/PATH]")]
    pub drive: TargetPath,

    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Compare the content of files that look unchanged too
    #[arg(long)]
    pub checksum: bool,

    /// Remove entries of the drive that are not in the directory; ignored entries stay
    #[arg(long)]
    pub delete: bool,

    /// Only print what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// File with more patterns to ignore; may be given several times
    #[arg(long, value_name = "FILE")]
    pub ignore_file: Vec<PathBuf>,

    /// Print what was done as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// Copy a drive, or a part of it, into a directory
///
/// Moves only what changed; may be interrupted and run again. Files appear when they are whole;
/// nothing outside the directory is changed, regardless of the drive's content. Entries that are neither on
/// this disk nor sent by a peer are named, and the exit code is 3.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount export hyper://KEY/photos ./photos --peer example.org:3282
  hypermount export photos /backup/photos --delete")]
pub struct Export {
    /// NAME, hyper://KEY or the directory of a store, with /PATH after it if wanted
    #[arg(value_name = "DRIVE[/PATH]")]
    pub drive: TargetPath,

    /// Directory to write to; made if absent
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    #[command(flatten)]
    pub source: Source,

    /// Compare the content of files that look unchanged too
    #[arg(long)]
    pub checksum: bool,

    /// Remove entries of the directory that are not in the drive
    #[arg(long)]
    pub delete: bool,

    /// Make devices too, as root; otherwise they are left out and named
    #[arg(long)]
    pub devices: bool,

    /// Only print what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Print what was done as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// Make a new drive of another format with the tree of a drive
///
/// The new drive has a new key: readers of the old one have to be told its URL. A note in the old drive does that: `info` and
/// `mount` show it, and other programs a file MOVED.txt. Everything that hypermount keeps of a file is copied. Blocks
/// cannot be shared, so it takes the space again; how much is said first. May be interrupted and run again, and takes
/// over what has changed in the old drive since. What was changed in the new drive meanwhile stays.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount convert notes --to 13              Into a new drive, notes-13
  hypermount convert notes --to 13 --dry-run    How much there is to copy
  hypermount convert hyper://KEY --to 13 --name mine --peer example.org:3282")]
pub struct Convert {
    /// hyper://KEY, the name of a drive, the directory of a store, or a path in a mount
    #[arg(value_name = "URL|NAME|DIR")]
    pub target: Target,

    /// The release of Hyperdrive whose format the new drive has: 13 or 10
    #[arg(long, value_name = "RELEASE")]
    pub to: NewFormat,

    /// Name of the new drive [default: that of the old one and the release, as notes-13]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,

    /// Leave no note in the old drive, and take back one that is there
    #[arg(long)]
    pub no_note: bool,

    /// Only print what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub source: Source,

    /// Print what was done as JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// Make a copied or restored store writable, or one of the `drives` program
///
/// A drive has one writer. A store that was copied, moved to another disk or machine, or restored
/// from a backup opens read-only until you confirm here that no other copy of it is written.
///
/// A store of Corestore 6, as the `drives` program keeps it (~/.drives/corestore), opens read-only too. After `adopt`,
/// hypermount writes its drives in their own format. The `drives` program can still use the store, but not while
/// hypermount has it open.
#[derive(Debug, Args)]
pub struct Adopt {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Also if a peer holds a longer history than this store; this forks those drives
    #[arg(long)]
    pub force: bool,
}

/// Verify the data on this disk, and name the damaged files and versions
///
/// Reads and hashes every block that is here, of one drive or of all drives of the store, verifies the
/// signature of every version, and names each damaged file and version. Key files, names, tree nodes and
/// signatures that follow from sound data are repaired; with --repair, blocks are fetched again from
/// peers, and --peer, --wait, --network and --bootstrap select the peers and the timeout per block. Exit
/// code 5 if something stays damaged.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount check                              All drives of the store
  hypermount check notes
  hypermount check notes --repair --peer backup.example:4977
  hypermount check --store /backup/hypermount --json")]
pub struct Check {
    /// NAME, hyper://KEY or the directory of a store [default: all drives of the store]
    #[arg(value_name = "DRIVE")]
    pub drive: Option<TargetPath>,

    /// Fetch damaged blocks, and the lost blocks of your own drives, from peers
    #[arg(long)]
    pub repair: bool,

    #[command(flatten)]
    pub source: Source,

    /// Print the results for each drive as a JSON array
    #[arg(long)]
    pub json: bool,
}

/// Show, save or forget changes that a killed mount left uncommitted
///
/// Data that was written and neither closed nor synced when a mount was killed is not part of the drive.
/// It is kept in the store until this command removes it.
#[derive(Debug, Args)]
pub struct Recover {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Save each file, as it was last seen, in this directory
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,

    /// Remove the changes from the store, after saving them if --to is given
    #[arg(long)]
    pub forget: bool,

    /// A JSON array on stdout
    #[arg(long)]
    pub json: bool,
}

/// Answer peers for the drives of a store, until interrupted
///
/// The drives are announced, so that peers with the key find them; see --network.
/// The first line on stdout is the address it listens on.
#[derive(Debug, Args)]
pub struct Serve {
    /// Directory of the store [default: the XDG data directory]
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,

    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:3282")]
    pub listen: std::net::SocketAddr,

    /// Peer to connect to as well; may be given several times
    #[arg(long = "peer", value_name = "HOST:PORT", value_parser = parse_peer)]
    pub peers: Vec<String>,

    #[command(flatten)]
    pub finding: Finding,

    #[command(flatten)]
    pub rates: Rates,

    /// The address, and the traffic at the end, as JSON lines
    #[arg(long)]
    pub json: bool,
}

/// Run a bootstrap node of a hash table, until interrupted
///
/// A network of your own needs nothing else: every node and peer names it with --bootstrap. The first line on
/// stdout is the address. It stores no drives and learns no keys, only which peer announces which topic.
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  hypermount bootstrap --listen 192.0.2.7:49737
  hypermount serve --bootstrap 192.0.2.7:49737
  hypermount mount hyper://KEY ~/drive --bootstrap 192.0.2.7:49737")]
pub struct Bootstrap {
    /// UDP address of a node of the Hyperswarm 2 DHT; port 0 takes a free one [default:
    /// 0.0.0.0:49737, without --hyperdht]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<std::net::SocketAddr>,

    /// UDP address of a node of the HyperDHT 6; the one that other machines see, not 0.0.0.0
    #[arg(long, value_name = "ADDR:PORT")]
    pub hyperdht: Option<std::net::SocketAddr>,

    /// Other node of the same network; may be given several times
    #[arg(long, value_name = "[hyperdht:]HOST:PORT")]
    pub bootstrap: Vec<BootstrapAddress>,

    /// The addresses as a JSON line
    #[arg(long)]
    pub json: bool,
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub struct Completions {
    pub shell: Shell,
}

/// Print the manual page, or write the pages of all commands to a directory
#[derive(Debug, Args)]
pub struct Man {
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Prints clap's message: help and version are answers, the rest is wrong usage.
pub fn explain(error: &clap::Error) -> ExitCode {
    // It fails if stdout or stderr is closed.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_shows_examples_before_options() {
        let help = Cli::command().render_long_help().to_string();
        assert!(help.find("Examples:").unwrap() < help.find("Usage:").unwrap(), "{help}");
    }
}
