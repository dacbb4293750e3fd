//! `scripts/layers.sh` finds planted violations, and this source tree passes it.

use std::fs;
use std::path::Path;
use std::process::Command;

fn breaches(root: &Path) -> (bool, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/layers.sh");
    let output = Command::new(script).arg(root).output().expect("run scripts/layers.sh");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A tree that keeps the rules, with `text` in the file `name` added or replaced.
fn tree_with(name: &str, text: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let sound = [
        ("drive/swarm/lib.rs", "pub mod sync;\npub mod dht;\npub mod network;\n"),
        ("drive/swarm/sync.rs", "pub struct Mutex(std::sync::Mutex<()>);\n"),
        ("drive/swarm/dht/mod.rs", "mod node;\nmod walk;\nuse crate::sync::Mutex;\n"),
        ("drive/swarm/dht/node.rs", "use super::walk::Walk;\n"),
        ("drive/swarm/dht/walk.rs", "use crate::sync::{Mutex, Rank};\n"),
        (
            "drive/swarm/network/mod.rs",
            "mod place;\nmod hyperdht;\nmod finding;\npub use finding::Found;\npub struct Inner;\n",
        ),
        ("drive/swarm/network/place.rs", "use super::Inner;\n"),
        ("drive/swarm/network/hyperdht/mod.rs", "mod socket_stream;\nuse super::place::Place;\n"),
        (
            "drive/swarm/network/hyperdht/socket_stream.rs",
            "use crate::network::{Inner, place::Place};\n",
        ),
        ("drive/swarm/network/finding.rs", "use super::{hyperdht::Link, place};\n"),
        (
            "drive/core/lib.rs",
            "pub mod error;\npub mod hypercore;\npub mod store;\npub mod sharing;\n",
        ),
        ("drive/core/error.rs", "//! No errno here, only words about it.\n"),
        (
            "drive/core/hypercore/mod.rs",
            "pub mod merkle;\npub mod layout;\nmod legacy;\nmod dialect;\n// Methods of Core.\nmod append;\nuse crate::error::Error;\n",
        ),
        ("drive/core/hypercore/legacy/mod.rs", "mod hash;\n"),
        ("drive/core/hypercore/legacy/hash.rs", "use super::super::merkle::Node;\n"),
        ("drive/core/hypercore/dialect.rs", "use super::legacy::{self, hash};\n"),
        ("drive/drive/index/trie.rs", "use super::super::path::Name;\n"),
        ("drive/core/hypercore/append.rs", "use super::{Core, layout};\nimpl Core {\n}\n"),
        ("drive/core/hypercore/merkle.rs", "use crate::{error::Error};\n"),
        (
            "drive/core/hypercore/layout.rs",
            "use super::merkle::Proof;\nuse crate::hypercore::merkle;\n",
        ),
        ("drive/core/store.rs", "use crate::hypercore::Core;\nuse hypermount_swarm::sync;\n"),
        ("drive/core/sharing/mod.rs", "mod hints;\nmod connection;\npub struct Inner;\n"),
        ("drive/core/sharing/hints.rs", "use crate::{error::Error, hypercore::Core};\n"),
        ("drive/core/sharing/connection.rs", "use super::hints::Hints;\nuse super::Inner;\n"),
        ("drive/drive/lib.rs", "pub mod index;\npub mod hyperdrive;\n"),
        ("drive/drive/index/mod.rs", "mod trie;\nuse hypermount_core::hypercore::Core;\n"),
        ("drive/drive/hyperdrive.rs", "use crate::index::Index; // not the trie\n"),
        ("fs/lib.rs", "mod errno;\nmod inode;\nmod file;\nuse hypermount_drive::Drive;\n"),
        ("fs/file.rs", "use crate::inode::Inode;\n"),
        ("fs/inode.rs", "//! Numbers.\n"),
        (
            "src/main.rs",
            "mod failure;\nmod model;\nmod target;\nmod daemon;\nmod commands;\nfn main() {}\n",
        ),
        ("src/failure.rs", "//! Why a command failed.\n"),
        ("src/model.rs", "use crate::failure::Failure;\n"),
        ("src/target/mod.rs", "mod path;\nmod store;\nuse crate::model::Find;\n"),
        ("src/target/path.rs", "use super::store::Store;\nuse super::Target;\n"),
        ("src/target/store.rs", "use crate::failure::Failure;\n"),
        ("src/daemon/mod.rs", "mod life;\nmod host;\nmod api;\nuse crate::target::Target;\n"),
        ("src/daemon/life.rs", "use crate::model::Status;\n"),
        ("src/daemon/host/mod.rs", "mod mounts;\nuse super::life::Life;\n"),
        ("src/daemon/host/mounts.rs", "use super::Host;\nuse crate::daemon::life::Life;\n"),
        ("src/daemon/api.rs", "use super::host::Host;\n"),
        ("src/commands.rs", "use crate::{daemon::run, failure::Failure};\n"),
    ];
    for (file, text) in sound.into_iter().chain([(name, text)]) {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn this_source_tree_passes_layers_sh() {
    assert_eq!(breaches(Path::new(env!("CARGO_MANIFEST_DIR"))), (true, String::new()));
}

#[test]
fn a_sound_tree_passes() {
    assert_eq!(breaches(tree_with("fs/errno.rs", "").path()), (true, String::new()));
}

#[test]
fn every_kind_of_breach_is_named() {
    let circle = "use each other in a circle";
    for (file, text, complaint) in [
        // Between the packages.
        ("drive/swarm/sync.rs", "use hypermount_core::Core;", "may not name hypermount_core"),
        ("drive/swarm/dht/node.rs", "fn f(_: hypermount_drive::Drive) {}", "name hypermount_drive"),
        ("drive/core/store.rs", "use hypermount_drive::Drive;", "may not name hypermount_drive"),
        ("drive/core/sharing/hints.rs", "use drivefs::Fs;", "may not name drivefs"),
        ("drive/drive/index/mod.rs", "use drivefs::Fs;", "may not name drivefs"),
        ("fs/file.rs", "use hypermount_core::Core;", "may not name hypermount_core"),
        ("fs/file.rs", "use hypermount_swarm::Swarm;", "may not name hypermount_swarm"),
        // Inside them.
        ("drive/swarm/sync.rs", "use crate::network::Swarm;", "sync may not use network"),
        ("drive/swarm/dht/walk.rs", "use crate::network::Swarm;", "dht may not use network"),
        ("drive/core/error.rs", "use crate::store::Store;", "error may not use store"),
        ("drive/core/error.rs", "fn f() { crate::hypercore::g() }", "error may not use hypercore"),
        (
            "drive/core/error.rs",
            "use crate::{\n    hypercore::Core,\n};",
            "error may not use hypercore",
        ),
        (
            "drive/drive/index/mod.rs",
            "use crate::hyperdrive::Drive;",
            "index may not use hyperdrive",
        ),
        ("drive/core/stray.rs", "", "stray is not declared"),
        // Inside their rooms.
        ("drive/core/hypercore/merkle.rs", "use super::layout::X;", "merkle may not use layout"),
        (
            "drive/core/hypercore/merkle.rs",
            "use crate::hypercore::{layout::{A, B}};",
            "merkle may not use layout",
        ),
        ("drive/core/hypercore/merkle.rs", "use super::Core;", "merkle may not use Core"),
        ("drive/core/hypercore/stray.rs", "use super::Core;", "stray is not declared"),
        // Across the seams.
        (
            "drive/core/hypercore/append.rs",
            "use super::{Core, legacy::hash};",
            "only hypercore/dialect",
        ),
        ("drive/core/store.rs", "use crate::hypercore::legacy::hash;", "only hypercore/dialect"),
        (
            "drive/core/hypercore/legacy/hash.rs",
            "use super::super::Core;",
            "legacy may not use Core",
        ),
        (
            "drive/core/hypercore/legacy/hash.rs",
            "use super::super::dialect::Dialect;",
            "legacy may not use dialect",
        ),
        (
            "drive/core/hypercore/legacy/hash.rs",
            "use super::super::modern::hash;",
            "legacy may not use modern",
        ),
        (
            "drive/core/hypercore/modern/hash.rs",
            "use super::super::Core;",
            "modern may not use Core",
        ),
        (
            "drive/core/hypercore/modern/hash.rs",
            "use crate::hypercore::dialect::Dialect;",
            "modern may not use dialect",
        ),
        (
            "drive/core/hypercore/modern/hash.rs",
            "use super::super::{legacy::hash, merkle};",
            "modern may not use legacy",
        ),
        ("drive/core/store.rs", "use crate::hypercore::modern::hash;", "only hypercore/dialect"),
        ("drive/drive/hyperdrive.rs", "use crate::index::trie;", "only drive/drive/index may name"),
        ("drive/drive/hyperdrive.rs", "use crate::index::TrieKey;", "only drive/drive/index may"),
        ("drive/swarm/network/place.rs", "use super::finding::A;", "place may not use finding"),
        (
            "drive/swarm/network/hyperdht/socket_stream.rs",
            "use crate::network::finding::A;",
            "hyperdht may not use finding",
        ),
        (
            "drive/core/sharing/hints.rs",
            "use super::connection::A;",
            "hints may not use connection",
        ),
        // Inside fs.
        ("fs/inode.rs", "use crate::{file::File};", "inode may not use file, which comes after it"),
        ("fs/stray.rs", "", "fs/stray.rs: module stray is not declared"),
        // Inside src.
        ("src/model.rs", "use crate::commands::Ending;", "model may not use commands"),
        ("src/failure.rs", "use crate::{model::Find};", "failure may not use model"),
        ("src/target/store.rs", "use crate::daemon::run;", "target may not use daemon"),
        ("src/stray.rs", "", "stray is not declared"),
        ("src/daemon/life.rs", "use super::api::route;", "life may not use api"),
        ("src/daemon/host/mod.rs", "use super::api::route;", "host may not use api"),
        ("src/daemon/host/mounts.rs", "use crate::daemon::api::route;", "host may not use api"),
        // Circles between files.
        (
            "src/target/store.rs",
            "use super::path::Path;",
            "src/target: path, store use each other in a circle",
        ),
        ("src/daemon/life.rs", "use super::host::Host;", circle),
        ("drive/swarm/dht/walk.rs", "use super::node::Node;", circle),
        ("drive/swarm/dht/walk.rs", "use crate::{dht::{self, node::Node}, sync};", circle),
        ("drive/core/hypercore/merkle.rs", "fn f() { super::layout::g() }", circle),
        ("drive/swarm/network/hyperdht/socket_stream.rs", "use super::super::finding::A;", circle),
        ("fs/inode.rs", "use crate::file::File;", "fs: file, inode use each other in a circle"),
        // Names that belong to other files.
        ("drive/core/store.rs", "fn f() -> i32 { libc::ENOENT }", "may not name libc::ENOENT"),
        ("drive/core/store.rs", "use fuser::Request;", "may not name fuser"),
        ("drive/core/error.rs", "use nix::errno::Errno;", "may not name errno"),
        ("fs/lib.rs", "// as the trie has it", "may not say \"trie\""),
        ("fs/lib.rs", "use tokio::net::TcpListener;", "may not use tokio::net"),
        ("fs/lib.rs", "use std::sync::{Arc, Mutex};", "std's Mutex outside swarm/sync.rs"),
        ("src/failure.rs", "static A: std::sync::RwLock<()> = f();", "std's RwLock outside"),
        (
            "drive/core/store.rs",
            "lock.unwrap_or_else(PoisonError::into_inner)",
            "PoisonError outside",
        ),
        ("src/main.rs", &"\n".repeat(60), "60 lines, not under 60"),
        ("src/commands.rs", &"\n".repeat(801), "more than 800"),
    ] {
        let (passed, complaints) = breaches(tree_with(file, text).path());
        assert!(!passed && complaints.contains(complaint), "{file}: {text:?}: {complaints:?}");
    }
}

#[test]
fn the_longest_allowed_files_pass() {
    let main = "mod failure;\nmod model;\nmod target;\nmod daemon;\nmod commands;\n".to_owned();
    assert!(breaches(tree_with("src/main.rs", &(main + &"\n".repeat(54))).path()).0);
    assert!(breaches(tree_with("src/commands.rs", &"\n".repeat(800)).path()).0);
}

#[test]
fn unit_tests_may_reach_anywhere() {
    let text = "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}\n";
    assert!(breaches(tree_with("drive/core/error.rs", text).path()).0);
}
