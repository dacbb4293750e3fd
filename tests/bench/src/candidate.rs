//! The candidates: how each is served, mounted and unmounted.

use crate::data::{Data, DataSet, remove_tree};
use crate::net::Net;
use crate::process::{Logs, Service, Usage, run, signal};
use crate::tools::Tools;
use hypermount_bench::counters::Traffic;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a server or a mount may take to be usable.
const START: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Candidate {
    /// Our mount, served by our server.
    Hypermount,
    /// Our mount, served by the reference.
    HypermountFromReference,
    /// The reference's mount, served by the reference.
    Reference,
    /// A bare FUSE passthrough to the local disk.
    Passthrough,
    /// The local disk itself.
    Disk,
}

impl Candidate {
    pub const ALL: [Candidate; 5] = [
        Candidate::Hypermount,
        Candidate::HypermountFromReference,
        Candidate::Reference,
        Candidate::Passthrough,
        Candidate::Disk,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Candidate::Hypermount => "hypermount",
            Candidate::HypermountFromReference => "hypermount from reference",
            Candidate::Reference => "reference",
            Candidate::Passthrough => "passthrough",
            Candidate::Disk => "disk",
        }
    }

    /// Whether there is anything to measure: a local directory has no link in between.
    pub fn runs_on(self, net: Net) -> bool {
        match self {
            Candidate::Hypermount => true,
            Candidate::HypermountFromReference if net.is_modern() => false,
            // Its program mounts from one peer.
            // It has no mount of Hyperdrive 13.
            Candidate::Reference => !matches!(net, Net::Three | Net::ModernLocal | Net::Import),
            Candidate::HypermountFromReference => {
                !(net.is_written() || net.is_import() || net == Net::Three)
            }
            Candidate::Passthrough => net.is_written() || net == Net::Loopback,
            Candidate::Disk => net.is_written() || net.is_import() || net == Net::Loopback,
        }
    }
}

/// The tools, data and directories that every mount needs.
pub struct Workshop {
    pub tools: Tools,
    pub data: Data,
    pub logs: Logs,
    /// Scratch: client stores, mount points, directories to write to.
    pub scratch: PathBuf,
}

/// A candidate at work. Dropping it unmounts and ends every process.
pub struct Mounted {
    /// Where the data set is mounted; empty for a reader without a mount.
    pub root: PathBuf,
    /// From the start of the client to a usable mount.
    pub took: Duration,
    mountpoint: Option<PathBuf>,
    /// The client is a reader that takes tasks on its standard input.
    pub takes_tasks: bool,
    // Dropped in this order: the client first, then its peers.
    client: Option<Service>,
    relays: Vec<Service>,
    servers: Vec<Service>,
}

impl Mounted {
    /// Shows a data set through a candidate, over a net; or on the local net an almost empty,
    /// writable place. The client knows nothing of the data yet.
    pub fn new(
        shop: &Workshop,
        candidate: Candidate,
        net: Net,
        set: DataSet,
    ) -> io::Result<Mounted> {
        let mountpoint = shop.scratch.join("mnt");
        let store = shop.scratch.join("store");
        remove_store(&store)?;
        fs::create_dir_all(&mountpoint)?;
        fs::create_dir_all(&store)?;
        match candidate {
            _ if net.is_import() => Ok(Mounted::bare(shop.data.plain(set))),
            Candidate::Disk | Candidate::Passthrough => {
                let source = if net.is_written() { store } else { shop.data.plain(set) };
                if candidate == Candidate::Disk {
                    return Ok(Mounted::bare(source));
                }
                let mut command = Command::new(&shop.tools.passthrough);
                command.arg(source).arg(&mountpoint);
                Mounted::bare(PathBuf::new()).attach(&mut command, mountpoint, &shop.logs)
            }
            _ if net.is_written() => {
                let mut command = own_drive(shop, candidate, net, &store, &mountpoint)?;
                Mounted::bare(PathBuf::new()).attach(&mut command, mountpoint, &shop.logs)
            }
            _ => remote_drive(shop, candidate, net, set, &store, mountpoint),
        }
    }

    fn bare(root: PathBuf) -> Mounted {
        let took = Duration::ZERO;
        Mounted {
            root,
            took,
            mountpoint: None,
            takes_tasks: false,
            client: None,
            relays: Vec::new(),
            servers: Vec::new(),
        }
    }

    /// Starts the client and waits for the line that says that the mount is usable.
    fn attach(
        mut self,
        client: &mut Command,
        mountpoint: PathBuf,
        logs: &Logs,
    ) -> io::Result<Mounted> {
        let started = Instant::now();
        // Set before anything can fail, so that a mount of a failed client is removed as well.
        self.mountpoint = Some(mountpoint.clone());
        let service = self.client.insert(Service::start(client, logs)?);
        service.line(START)?;
        self.took = started.elapsed();
        self.root = mountpoint;
        Ok(self)
    }

    /// Starts a reader without a mount and waits for the line that says that the drive is open.
    fn open(mut self, client: &mut Command, logs: &Logs) -> io::Result<Mounted> {
        let started = Instant::now();
        let service = self.client.insert(Service::start(client, logs)?);
        service.line(START)?;
        self.took = started.elapsed();
        self.takes_tasks = true;
        Ok(self)
    }

    /// Gives the reader a task and returns the line that it answers within the limit.
    pub fn ask(&self, task: &str, limit: Duration) -> io::Result<String> {
        let client = self.client.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        client.say(task)?;
        client.line(limit)
    }

    pub fn client_pid(&self) -> Option<u32> {
        self.client.as_ref().map(Service::pid)
    }

    pub fn usage(&self) -> Usage {
        self.client.as_ref().map(Service::usage).unwrap_or_default()
    }

    /// Processor time of all servers so far, seconds.
    pub fn server_seconds(&self) -> f64 {
        self.servers.iter().map(|server| server.usage().cpu).sum()
    }

    pub fn reset_traffic(&mut self) -> io::Result<()> {
        self.relays.iter_mut().try_for_each(|relay| relay.say("reset"))
    }

    /// The traffic of each link.
    pub fn traffic(&mut self) -> io::Result<Vec<Traffic>> {
        let mut traffic = Vec::new();
        for relay in &mut self.relays {
            // Continues a stopped relay, which could not report otherwise.
            signal(relay.pid(), Signal::SIGCONT);
            relay.say("report")?;
            traffic.push(serde_json::from_str(&relay.line(START)?)?);
        }
        Ok(traffic)
    }

    /// From now on no byte passes one of the links, and neither end is notified.
    pub fn stall_one_link(&self) {
        if let Some(relay) = self.relays.first() {
            signal(relay.pid(), Signal::SIGSTOP);
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(client) = &mut self.client {
            client.end();
        }
        if let Some(mountpoint) = &self.mountpoint {
            unmount(mountpoint);
        }
    }
}

/// Unmounts a mount that a client left behind because it did not end by itself.
fn unmount(mountpoint: &Path) {
    while is_mounted(mountpoint) {
        let detached = umount2(mountpoint, MntFlags::MNT_DETACH).is_ok()
            || Command::new("fusermount3")
                .args(["-u", "-z"])
                .arg(mountpoint)
                .status()
                .is_ok_and(|status| status.success());
        if !detached {
            eprintln!("could not unmount {}", mountpoint.display());
            return;
        }
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}

fn own_drive(
    shop: &Workshop,
    candidate: Candidate,
    net: Net,
    store: &Path,
    mountpoint: &Path,
) -> io::Result<Command> {
    if net == Net::ModernLocal {
        let name = new_drive(shop, net, store)?;
        let mut command = ours(shop, store);
        command.args(["mount", name]).arg(mountpoint).arg("--foreground");
        command.arg("--store").arg(store);
        return Ok(command);
    }
    if candidate == Candidate::Reference {
        let mut command = shop.tools.reference("mount-own");
        command.arg(store).arg(mountpoint);
        return Ok(command);
    }
    // A writable drive made by the reference: its store holds the secret keys.
    copy_tree(&shop.data.store(DataSet::Seedling), store)?;
    let mut command = ours(shop, store);
    command.arg("mount").arg(store).arg(mountpoint).arg("--foreground");
    Ok(command)
}

/// Our program, for a store of the benchmark.
fn ours(shop: &Workshop, store: &Path) -> Command {
    let mut command = Command::new(&shop.tools.hypermount);
    // With the user's state directory, the marks would show that this is an old copy of the store.
    command.env("XDG_STATE_HOME", store.with_extension("state"));
    command
}

/// Removes a store, and what our program knows of it: the next one would be a copy.
fn remove_store(store: &Path) -> io::Result<()> {
    remove_tree(store)?;
    remove_tree(&store.with_extension("state"))
}

/// Makes an empty drive of ours; its name.
fn new_drive(shop: &Workshop, net: Net, store: &Path) -> io::Result<&'static str> {
    let name = "bench";
    let mut create = ours(shop, store);
    create.args(["create", name, "--format", net.format(), "--store"]).arg(store);
    run(&mut create, &shop.logs)?;
    Ok(name)
}

/// The command that copies a directory into a new drive in the scratch directory, or for the disk into a new directory.
pub fn import(shop: &Workshop, candidate: Candidate, net: Net, tree: &Path) -> io::Result<Command> {
    let store = shop.scratch.join("store");
    remove_store(&store)?;
    if candidate == Candidate::Disk {
        let mut command = Command::new("cp");
        command.arg("-r").arg(tree).arg(store);
        return Ok(command);
    }
    if candidate == Candidate::Reference {
        let mut command = shop.tools.modern("import");
        command.arg(store).arg(tree);
        return Ok(command);
    }
    let name = new_drive(shop, net, &store)?;
    let mut command = ours(shop, &store);
    command.arg("import").arg(tree).args([name, "--store"]).arg(store);
    Ok(command)
}

/// A server of the data set and a link to it, for one of the peers; the address of the link.
fn peer(
    shop: &Workshop,
    candidate: Candidate,
    net: Net,
    set: DataSet,
    number: usize,
) -> io::Result<(Service, Service, String)> {
    let key = shop.data.key(set)?;
    let mut store = shop.data.store(set);
    if net.peers() > 1 {
        // One store has one process; a copy serves as well as the original.
        let copy = shop.scratch.join(format!("peer-{number}"));
        remove_tree(&copy)?;
        copy_tree(&store, &copy)?;
        store = copy;
    }
    let mut serve = match candidate {
        _ if set.is_modern() => shop.tools.modern("serve"),
        Candidate::Hypermount => Command::new(&shop.tools.hypermount),
        _ => shop.tools.reference("serve"),
    };
    match candidate {
        Candidate::Hypermount if !set.is_modern() => {
            serve.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(&store);
            serve.env("XDG_STATE_HOME", shop.scratch.join(format!("state-{number}")))
        }
        _ => serve.arg(&store).arg(&key),
    };
    let server = Service::start(&mut serve, &shop.logs)?;
    let address = server.line(START)?;
    let mut relay = Command::new(&shop.tools.relay);
    relay.args(["--to", address.trim()]).args(net.relay_options());
    let relay = Service::start(&mut relay, &shop.logs)?;
    let address = relay.line(START)?;
    Ok((server, relay, address))
}

fn remote_drive(
    shop: &Workshop,
    candidate: Candidate,
    net: Net,
    set: DataSet,
    store: &Path,
    mountpoint: PathBuf,
) -> io::Result<Mounted> {
    let key = shop.data.key(set)?;
    let mut served = Mounted::bare(PathBuf::new());
    let mut peers = Vec::new();
    for number in 0..net.peers() {
        let (server, relay, address) = peer(shop, candidate, net, set, number)?;
        served.servers.push(server);
        served.relays.push(relay);
        peers.push(address);
    }
    let mut client = match candidate {
        Candidate::Reference if set.is_modern() => {
            let mut command = shop.tools.modern("read");
            command.arg(store).arg(&key).args(&peers).arg(shop.data.plain(set));
            return served.open(&mut command, &shop.logs);
        }
        Candidate::Reference => {
            let mut command = shop.tools.reference("mount");
            command.arg(store).arg(&key).args(&peers).arg(&mountpoint);
            command
        }
        _ => {
            let mut command = Command::new(&shop.tools.hypermount);
            command.arg("mount").arg(format!("hyper://{key}")).arg(&mountpoint);
            command.args(["--foreground", "--store"]).arg(store);
            for peer in &peers {
                command.args(["--peer", peer]);
            }
            command
        }
    };
    served.attach(&mut client, mountpoint, &shop.logs)
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
