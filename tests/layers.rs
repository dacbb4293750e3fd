//! `scripts/layers.sh` finds what it is there to find, and this source tree passes it.

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
        ("drive/lib.rs", "pub mod error;\npub mod core;\npub mod store;\n"),
        ("drive/error.rs", "//! No errno here, only words about it.\n"),
        (
            "drive/core/mod.rs",
            "pub mod merkle;\npub mod layout;\n// Methods of Core.\nmod append;\nuse crate::error::Error;\n",
        ),
        ("drive/core/append.rs", "use super::{Core, layout};\nimpl Core {\n}\n"),
        ("drive/core/merkle.rs", "use crate::{error::Error};\n"),
        ("drive/core/layout.rs", "use super::merkle::Proof;\nuse crate::core::merkle;\n"),
        ("drive/store.rs", "use crate::core::Core;\n"),
        ("fs/lib.rs", "use drive::Drive;\n"),
        ("src/main.rs", "fn main() {}\n"),
    ];
    for (file, text) in sound.into_iter().chain([(name, text)]) {
        let path = root.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

#[test]
fn this_tree_keeps_to_its_rooms() {
    assert_eq!(breaches(Path::new(env!("CARGO_MANIFEST_DIR"))), (true, String::new()));
}

#[test]
fn a_sound_tree_passes() {
    assert_eq!(breaches(tree_with("fs/errno.rs", "").path()), (true, String::new()));
}

#[test]
fn every_kind_of_breach_is_named() {
    for (file, text, complaint) in [
        ("drive/error.rs", "use crate::store::Store;", "error may not use store"),
        ("drive/error.rs", "fn f() { crate::core::g() }", "error may not use core"),
        ("drive/error.rs", "use crate::{\n    core::Core,\n};", "error may not use core"),
        ("drive/core/merkle.rs", "use super::layout::X;", "merkle may not use layout"),
        ("drive/core/merkle.rs", "use crate::core::{layout::{A, B}};", "merkle may not use layout"),
        ("drive/core/merkle.rs", "use super::Core;", "merkle may not use Core"),
        ("drive/core/stray.rs", "use super::Core;", "stray is not declared"),
        ("drive/stray.rs", "", "stray is not declared"),
        ("drive/store.rs", "fn f() -> i32 { libc::ENOENT }", "may not name libc::ENOENT"),
        ("drive/store.rs", "use fuser::Request;", "may not name fuser"),
        ("drive/error.rs", "use nix::errno::Errno;", "may not name errno"),
        ("fs/lib.rs", "// as the trie has it", "may not say \"trie\""),
        ("fs/lib.rs", "use tokio::net::TcpListener;", "may not use tokio::net"),
        ("fs/lib.rs", "use std::sync::{Arc, Mutex};", "std's Mutex outside drive/sync.rs"),
        ("src/lib.rs", "static A: std::sync::RwLock<()> = f();", "std's RwLock outside"),
        ("drive/store.rs", "lock.unwrap_or_else(PoisonError::into_inner)", "PoisonError outside"),
        ("src/main.rs", &"\n".repeat(60), "60 lines, not under 60"),
        ("src/long.rs", &"\n".repeat(801), "more than 800"),
    ] {
        let (passed, complaints) = breaches(tree_with(file, text).path());
        assert!(!passed && complaints.contains(complaint), "{file}: {text:?}: {complaints:?}");
    }
}

#[test]
fn the_longest_allowed_files_pass() {
    assert!(breaches(tree_with("src/main.rs", &"\n".repeat(59)).path()).0);
    assert!(breaches(tree_with("src/long.rs", &"\n".repeat(800)).path()).0);
}

#[test]
fn unit_tests_may_reach_anywhere() {
    let text = "#[cfg(test)]\nmod tests {\n    use crate::store::Store;\n}\n";
    assert!(breaches(tree_with("drive/error.rs", text).path()).0);
}
