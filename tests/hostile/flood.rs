//! The cost of a flood of announcements for a reader. A measurement: no time is asserted.

use std::fs;

use bytes::Bytes;
use hypermount_core::{Sharing, SharingOptions, Store};
use hypermount_drive::Drive;

use crate::common::Home;
use crate::fixture::{Watched, cat, noise, put, runtime};
use crate::liar::{Liar, Lie};

const BLOCKS: usize = 4000;
const BLOCK: usize = 4096;
/// Bytes of Have and Unhave a second.
const RATE: u64 = 500_000;

/// Processor time of the children that have ended, in milliseconds (proc(5), in ticks of 10 ms).
fn spent_by_children() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("proc is mounted");
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields = after_name.split_whitespace().skip(13).take(2);
    fields.map(|field| field.parse::<u64>().expect("a number") * 10).sum()
}

fn measured(name: &str, sync: impl FnOnce() -> Watched) -> Watched {
    let before = spent_by_children();
    let told = sync();
    let (spent, took) = (spent_by_children() - before, told.took.as_millis());
    println!("{name}: {took} ms, {spent} ms of processor time, {} KiB", told.peak);
    told
}

/// `cargo test --test hostile -- --ignored --nocapture flood_of_have`
#[test]
#[ignore = "a measurement for docs/threats.md"]
fn a_flood_of_have_and_unhave_beside_an_honest_peer() {
    let runtime = runtime();
    let store = Store::memory();
    let drive = Drive::create(&store, "flooded").expect("is made");
    let bytes = noise(5, BLOCKS * BLOCK);
    let blocks: Vec<Bytes> = bytes.chunks(BLOCK).map(Bytes::copy_from_slice).collect();
    put(&runtime, &drive, "big", &blocks);
    let (_swarm, honest) = runtime.block_on(async {
        let swarm = Sharing::new(&store, SharingOptions::default()).expect("the network starts");
        let address = swarm.listen("127.0.0.1:0").await.expect("listens");
        (swarm, address.to_string())
    });
    let url = format!("hyper://{}/big", drive.key().to_hex());
    for _ in 0..3 {
        let alone = measured("alone", || cat(&Home::new(), &url, &[&honest], "30s"));
        let liar = Liar::new(Lie::AnnouncesAtRate(RATE), &store, 0);
        let peers = [liar.address.as_str(), honest.as_str()];
        let flooded = measured("flooded", || cat(&Home::new(), &url, &peers, "30s"));
        for told in [alone, flooded] {
            assert_eq!(told.code, Some(0), "{}", told.stderr);
            assert!(told.stdout == bytes, "other bytes");
        }
    }
}
