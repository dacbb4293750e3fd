//! Reports of a host: its status, the peers of a drive, failed calls and their remedies; and the events of
//! what changes without a request.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use hypermount_core::Wait;
use hypermount_drive::Drive;
use hypermount_drive::unescape_path;
use hypermount_swarm::PeerInfo;

use super::Host;
use super::mounts::within;
use super::seeds::{completeness, cores};
use crate::answers;
use crate::failure::Result;
use crate::model::{
    Activity, ConnectedPeer, DriveActivity, DrivePeer, DrivePeers, FailedCall, FileActivity, Find,
    Happening, ProcessActivity, Status, TrafficTotal,
};
use crate::values::{drive_url, short_url};

/// Pause between two looks for changes.
const LOOK: Duration = Duration::from_millis(500);
/// The most sentences about troubles in a status.
const MAX_TROUBLES: usize = 20;

impl Host {
    pub fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            store: self.directory.clone(),
            socket: self.socket.clone(),
            log: self.log.clone(),
            kept: self.life.is_kept(),
            listening: self.listening().iter().map(ToString::to_string).collect(),
            mounts: self.mounts(),
            seeds: self.seeds(),
            peers: self.peers(),
            traffic: self.traffic(),
            limits: self.limits(),
            drive_limits: self.drive_limits(),
            troubles: self.troubles(),
        }
    }

    pub fn traffic(&self) -> TrafficTotal {
        let total = self.network.traffic();
        let (receive_rate, send_rate) = self.rates.lock().total();
        TrafficTotal { received: total.received, sent: total.sent, receive_rate, send_rate }
    }

    pub fn peers(&self) -> Vec<ConnectedPeer> {
        let mut peers = self.network.peers();
        peers.sort_by_key(|peer| peer.id);
        peers.iter().map(|peer| self.describe_peer(peer)).collect()
    }

    fn describe_peer(&self, peer: &PeerInfo) -> ConnectedPeer {
        let (receive_rate, send_rate) = self.rates.lock().of(peer.id);
        ConnectedPeer {
            address: peer.address.to_string(),
            incoming: peer.incoming,
            transport: peer.transport.to_string(),
            found: peer.found_by.to_string(),
            cores: peer.cores,
            received: peer.traffic.received,
            sent: peer.traffic.sent,
            receive_rate,
            send_rate,
        }
    }

    fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        for (mountpoint, pending) in self.pending.lock().iter() {
            troubles.push(format!("saved mount {}: {}", mountpoint.display(), pending.trouble));
        }
        for mount in self.mounts() {
            if mount.waiting > 0 {
                let (at, count) = (mount.mountpoint.display(), mount.waiting);
                troubles.push(format!("{at}: {count} calls wait for the network"));
            }
            if let Some(new) = &mount.moved_to {
                let at = mount.mountpoint.display();
                troubles.push(format!("{at}: the drive has moved to {new}"));
            }
            if mount.failures > 0 {
                let (at, count) = (mount.mountpoint.display(), mount.failures);
                troubles.push(format!("{at}: {count} calls failed; hypermount why {at}"));
            }
        }
        for seed in self.seeds() {
            let name = seed.name.as_deref().unwrap_or(&seed.url);
            let moved = self.moved_to(&seed.url).map(|new| format!("it has moved to {new}"));
            let found = seed.trouble.iter().chain(&moved);
            troubles.extend(found.map(|why| format!("seeding {name}: {why}")));
        }
        for core in self.store.cores() {
            if let Some(why) = self.store.known_damage(&core) {
                let name = core.discovery_key();
                troubles.push(format!("core {name}: damaged: {why}; see hypermount check"));
            }
        }
        troubles.extend(self.network.troubles().into_iter().map(|why| format!("peer {why}")));
        troubles.truncate(MAX_TROUBLES);
        troubles
    }

    /// Looks whether a note in a drive says that it has moved, and logs that.
    pub(super) async fn look_for_note(&self, drive: &Drive, wait: Wait) {
        let url = drive_url(drive.key(), drive.frozen_version());
        let new = match answers::moved_to(drive, wait).await {
            Ok(Some(new)) => new,
            Ok(None) => return drop(self.moved.lock().remove(&url)),
            Err(error) => return log::debug!("{}: no look for a note: {error}", short_url(&url)),
        };
        let known = self.moved.lock().insert(url.clone(), new.clone());
        if known.as_ref() != Some(&new) {
            log::warn!("{} has moved to {new}", short_url(&url));
        }
    }

    /// Where a drive that is mounted or seeded has moved to.
    pub(super) fn moved_to(&self, url: &str) -> Option<String> {
        self.moved.lock().get(url).cloned()
    }

    /// How much of a drive each peer has.
    pub async fn drive_peers(&self, drive: &str) -> Result<DrivePeers> {
        let session = self.session(drive, &[], Some("0"), &Find::default()).await?;
        let drive = &session.drive;
        let (blocks, blocks_here) = completeness(drive);
        let version = drive.snapshot().version();
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        for core in cores(drive) {
            for holding in self.network.holdings(core.discovery_key()).await {
                *held.entry(holding.peer).or_default() += holding.blocks;
            }
        }
        let connected: HashMap<u64, PeerInfo> =
            self.network.peers().into_iter().map(|peer| (peer.id, peer)).collect();
        let peers: Vec<DrivePeer> = held
            .into_iter()
            .filter_map(|(id, has)| {
                let peer = self.describe_peer(connected.get(&id)?);
                Some(DrivePeer { peer, blocks: has, complete: blocks > 0 && has >= blocks })
            })
            .collect();
        let complete = peers.iter().filter(|peer| peer.complete).count();
        let verdict = verdict(complete, peers.len(), version, blocks == blocks_here);
        Ok(DrivePeers {
            url: session.url(),
            version,
            blocks,
            blocks_here,
            peers,
            complete,
            verdict,
        })
    }

    /// The calls that failed at a path, or anywhere, oldest first. If none failed at the path itself, those at
    /// the directories above it.
    pub fn failures(&self, path: Option<&Path>) -> Vec<FailedCall> {
        let mounts: Vec<_> = match path {
            Some(path) => self.mount_of(path).into_iter().collect(),
            None => self.mounts.lock().iter().map(|(at, m)| (at.clone(), m.clone())).collect(),
        };
        let mut failures = Vec::new();
        for (mountpoint, mounted) in mounts {
            let known = mounted.mount.journal().failures();
            failures.extend(known.into_iter().map(|failed| describe_failure(&mountpoint, failed)));
        }
        let Some(path) = path else {
            failures.sort_by_key(|failure: &FailedCall| failure.time);
            return failures;
        };
        let below = |failure: &FailedCall| place_of(failure).starts_with(path);
        if failures.iter().any(below) {
            failures.retain(below);
            return failures;
        }
        // A name that could not be looked up is a failure of its directory.
        failures.retain(|failure| path.starts_with(place_of(failure)));
        let nearest = failures.iter().map(|failure| failure.path.len()).max();
        failures.retain(|failure| Some(failure.path.len()) == nearest);
        failures
    }

    pub fn activity(&self) -> Activity {
        let mut activity = Activity { traffic: self.traffic(), ..Activity::default() };
        let mounts: Vec<_> = self.mounts.lock().values().cloned().collect();
        for mounted in mounts {
            let mountpoint = &mounted.record.mountpoint;
            let fetched = mounted.mount.journal().fetched_so_far();
            activity.processes.extend(fetched.processes.into_iter().map(|(process, fetched)| {
                let drivefs::Process { pid, program } = process;
                ProcessActivity { pid, program, mountpoint: mountpoint.clone(), fetched }
            }));
            activity.files.extend(fetched.files.into_iter().map(|(path, fetched)| FileActivity {
                mountpoint: mountpoint.clone(),
                path,
                fetched,
            }));
            let open = mounted.mount.open();
            activity.drives.extend(open.iter().map(|fs| {
                let url = drive_url(fs.drive().key(), fs.drive().frozen_version());
                let charged = fetched.drives.iter().find(|(prefix, _)| prefix == fs.prefix());
                let fetched = charged.map_or(0, |(_, bytes)| *bytes);
                DriveActivity { url, mountpoint: within(mountpoint, fs.prefix()), fetched }
            }));
        }
        activity.processes.sort_by_key(|process| std::cmp::Reverse(process.fetched));
        activity.files.sort_by_key(|file| std::cmp::Reverse(file.fetched));
        activity.drives.sort_by_key(|drive| std::cmp::Reverse(drive.fetched));
        activity
    }
}

/// Answers the question: can this machine go offline?
fn verdict(complete: usize, peers: usize, version: u64, all_here: bool) -> String {
    let holds = |count: usize| match count {
        1 => "1 peer holds".to_owned(),
        count => format!("{count} peers hold"),
    };
    match (complete, peers) {
        (0, 0) => "no peer is connected, so none is known to hold it".to_owned(),
        (0, _) if all_here => {
            format!("no connected peer holds all of version {version}: stay online")
        }
        (0, _) => format!("no connected peer holds all of version {version}"),
        (complete, _) => {
            format!("{} all of version {version}: safe to go offline", holds(complete))
        }
    }
}

fn describe_failure(mountpoint: &Path, failed: drivefs::FailedCall) -> FailedCall {
    let remedy = remedy(&failed.errno).map(str::to_owned);
    FailedCall {
        mountpoint: mountpoint.to_owned(),
        path: failed.path,
        operation: failed.operation.to_owned(),
        errno: failed.errno,
        why: failed.why,
        remedy,
        time: failed.time,
        pid: failed.process.as_ref().map(|process| process.pid),
        program: failed.process.map(|process| process.program),
    }
}

/// Where in the file system a call failed.
fn place_of(failure: &FailedCall) -> PathBuf {
    failure.mountpoint.join(OsStr::from_bytes(&unescape_path(&failure.path)))
}

/// What to do about an errno.
fn remedy(errno: &str) -> Option<&'static str> {
    Some(match errno {
        "ETIMEDOUT" => {
            "it is not on this disk: `hypermount peers DRIVE` lists the peers that have it; mount with another \
             --peer, or a longer --wait"
        }
        "EROFS" => "mount without --read-only; a drive of another publisher cannot be written",
        "EIO" => {
            "stored or published data does not verify; the log names it \
             (`hypermount daemon logs`)"
        }
        "ENOSPC" | "EDQUOT" => "make room on the disk that holds the store (`hypermount status`)",
        "ENOTCONN" => "the mount was going away; mount it again",
        "EFBIG" => "the format holds no file that large",
        "EPERM" => "the format cannot store it, or it belongs to another drive",
        "ENFILE" => {
            "leave some of the drives that are open there; they are closed when no program uses them"
        }
        _ => return None,
    })
}

/// The state at the previous look.
#[derive(Default)]
struct Seen {
    versions: HashMap<String, u64>,
    complete: HashMap<String, u64>,
    peers: HashMap<u64, String>,
    failures: HashMap<PathBuf, u64>,
}

/// Sends events of what changes without a request, until the host is gone.
pub async fn watch(host: Weak<Host>) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(host) = host.upgrade() else { return };
        host.look(&mut seen);
    }
}

impl Host {
    fn look(self: &Arc<Self>, seen: &mut Seen) {
        let peers = self.network.peers();
        self.rates.lock().sample(Instant::now(), self.network.traffic(), &peers);
        // A program may have entered a nested drive.
        self.choose_shared();
        self.look_at_peers(&peers, seen);
        let (mut shown, mut drives) = (HashMap::new(), HashMap::new());
        let mounts: Vec<_> = self.mounts.lock().values().cloned().collect();
        let mut failures = HashMap::new();
        for mounted in &mounts {
            for fs in mounted.mount.open() {
                let url = drive_url(fs.drive().key(), fs.drive().frozen_version());
                drives.insert(url.clone(), fs.drive().clone());
                shown.insert(url, fs.version());
            }
            let at = &mounted.record.mountpoint;
            let before = seen.failures.get(at).copied().unwrap_or(0);
            let (count, new) = mounted.mount.journal().failures_after(before);
            for failed in new {
                self.events.tell(Happening::Failure { failure: describe_failure(at, failed) });
            }
            failures.insert(at.clone(), count);
        }
        seen.failures = failures;
        let mut complete = HashMap::new();
        for drive in self.seeds.lock().values().filter_map(|seeding| seeding.drive()) {
            let (url, version) = (drive_url(drive.key(), None), drive.snapshot().version());
            shown.insert(url.clone(), version);
            drives.insert(url.clone(), drive.clone());
            if is_complete(&drive) {
                if seen.complete.get(&url) != Some(&version) {
                    self.events.tell(Happening::Complete { url: url.clone(), version });
                }
                complete.insert(url, version);
            }
        }
        seen.complete = complete;
        for (url, version) in &shown {
            if seen.versions.get(url).is_some_and(|before| before != version) {
                self.events.tell(Happening::Version { url: url.clone(), version: *version });
            }
            if seen.versions.get(url) != Some(version)
                && let Some(drive) = drives.remove(url)
            {
                let host = self.clone();
                tokio::spawn(async move { host.look_for_note(&drive, Wait::Local).await });
            }
        }
        let gone = |url: &String| seen.versions.contains_key(url) && !shown.contains_key(url);
        self.moved.lock().retain(|url, _| !gone(url));
        seen.versions = shown;
    }

    fn look_at_peers(&self, peers: &[PeerInfo], seen: &mut Seen) {
        let now: HashMap<u64, String> =
            peers.iter().map(|peer| (peer.id, peer.address.to_string())).collect();
        for (id, address) in &seen.peers {
            if !now.contains_key(id) {
                self.events.tell(Happening::PeerLeft { address: address.clone() });
            }
        }
        for peer in peers.iter().filter(|peer| !seen.peers.contains_key(&peer.id)) {
            let (address, incoming) = (peer.address.to_string(), peer.incoming);
            self.events.tell(Happening::PeerConnected { address, incoming });
        }
        seen.peers = now;
    }
}

fn is_complete(drive: &Drive) -> bool {
    let (blocks, here) = completeness(drive);
    blocks > 0 && blocks == here
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_whether_going_offline_is_safe() {
        assert_eq!(verdict(2, 3, 812, true), "2 peers hold all of version 812: safe to go offline");
        assert_eq!(verdict(1, 1, 5, true), "1 peer holds all of version 5: safe to go offline");
        assert!(verdict(0, 2, 5, true).contains("stay online"));
        assert!(!verdict(0, 2, 5, false).contains("stay online"), "it is not all here either");
        assert!(verdict(0, 0, 5, true).contains("no peer is connected"));
    }
}
