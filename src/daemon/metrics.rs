//! The host's state as Prometheus reads it (text exposition format 0.0.4). No label has a whole key.

use std::fmt::Write;

use super::host::Host;
use crate::values::short_url;

/// Media type of [`render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub fn render(host: &Host) -> String {
    let status = host.status();
    let activity = host.activity();
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        // A String takes everything.
        let _ = writeln!(text, "# HELP hypermount_{name} {help}\n# TYPE hypermount_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "hypermount_{name}{labels} {value}");
        }
    };
    let one = |value: u64| vec![(String::new(), value)];
    family("up", "gauge", "The daemon answers.", one(1));
    family("uptime_seconds", "counter", "Since it started.", one(status.uptime_seconds));
    family("peers", "gauge", "Peers connected now.", one(status.peers.len() as u64));
    let traffic = status.traffic;
    family("received_bytes_total", "counter", "Bytes received.", one(traffic.received));
    family("sent_bytes_total", "counter", "Bytes sent.", one(traffic.sent));
    family("troubles", "gauge", "Problems at present.", one(status.troubles.len() as u64));
    let at = |path: &std::path::Path| {
        format!("{{mountpoint=\"{}\"}}", label(&crate::path_text::encode(path)))
    };
    let mounts = |value: fn(&crate::model::MountInfo) -> u64| {
        status.mounts.iter().map(|mount| (at(&mount.mountpoint), value(mount))).collect::<Vec<_>>()
    };
    family("mount_version", "gauge", "Version that is shown.", mounts(|m| m.version));
    family("mount_waiting", "gauge", "Calls that wait for peers.", mounts(|m| m.waiting as u64));
    family("mount_open", "gauge", "Open files and directories.", mounts(|m| m.open as u64));
    family("mount_failures", "gauge", "Failed calls remembered.", mounts(|m| m.failures as u64));
    let fetched = activity.drives.iter().map(|d| (at(&d.mountpoint), d.fetched)).collect();
    family("mount_fetched_bytes_total", "counter", "Bytes read that had to be fetched.", fetched);
    let seeds = |value: fn(&crate::model::SeedInfo) -> u64| {
        let drive = |url: &str| format!("{{drive=\"{}\"}}", label(&short_url(url)));
        status.seeds.iter().map(|seed| (drive(&seed.url), value(seed))).collect::<Vec<_>>()
    };
    family("seed_blocks", "gauge", "Blocks of the newest version known.", seeds(|s| s.blocks));
    family(
        "seed_blocks_here",
        "gauge",
        "Blocks of that version on this disk.",
        seeds(|s| s.blocks_here),
    );
    text
}

fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
