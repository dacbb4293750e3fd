//! The command as a person or a script uses it, without a kernel mount: help, exit codes, messages.

mod common;

use common::{Home, KEY, Running, UNKNOWN_KEY};
use nix::sys::signal::Signal;

#[test]
fn help_begins_with_examples() {
    let home = Home::new();
    for arguments in [["--help", "--"], ["mount", "--help"]] {
        let help = home.run(arguments).must_succeed();
        assert_eq!(help.stderr, "");
        let examples = help.stdout.find("Examples:").expect("examples");
        assert!(examples < help.stdout.find("Usage:").expect("usage"), "{}", help.stdout);
        assert!(help.stdout.contains("hypermount mount hyper://KEY"));
    }
}

#[test]
fn every_command_has_help_of_its_own() {
    let home = Home::new();
    for command in ["mount", "unmount", "ls", "cat", "stat", "info", "serve", "completions", "man"]
    {
        let help = home.run([command, "--help"]).must_succeed();
        assert!(help.stdout.contains(&format!("hypermount {command}")), "{}", help.stdout);
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let home = Home::new();
    for arguments in [
        &["frobnicate"][..],
        &["mount"],
        &["ls", "hyper://abc"],
        &["ls", "https://example.org/"],
        &["ls", "dir", "--peer", "nowhere"],
        &["ls", "dir", "--wait", "soon"],
        &["unmount", "x", "--lazy", "--force"],
        &["serve", "--listen", "example"],
    ] {
        let output = home.command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("error: "), "{arguments:?}");
    }
}

#[test]
fn an_unknown_drive_without_a_peer_is_exit_code_3_at_once() {
    let home = Home::new();
    let url = format!("hyper://{UNKNOWN_KEY}");
    home.run(["ls", &url]).must_fail(3, "no peer").hints("--peer");
    assert!(!home.path("data").exists(), "looking for a drive makes no store");
    home.make("mnt");
    home.run(["mount", &url, "mnt"]).must_fail(3, "no peer").hints("--peer");
}

#[test]
fn an_unknown_drive_in_a_known_store_is_exit_code_3() {
    let home = Home::new();
    let store = home.golden_store("store");
    let url = format!("hyper://{UNKNOWN_KEY}");
    home.run(["ls", &url, "--store", store.to_str().unwrap()]).must_fail(3, "open hyper://");
}

#[test]
fn a_directory_without_a_store_is_reported() {
    let home = Home::new();
    home.make("empty");
    home.run(["ls", "empty"]).must_fail(1, "empty").hints("master_key");
    home.run(["ls", "absent"]).must_fail(1, "absent");
}

#[test]
fn a_drive_is_mounted_whole() {
    let home = Home::new();
    home.make("mnt");
    let url = format!("hyper://{KEY}/dir");
    home.run(["mount", &url, "mnt"]).must_fail(2, "whole").hints("mnt/dir");
}

#[test]
fn a_mount_point_must_be_a_directory() {
    let home = Home::new();
    let url = format!("hyper://{KEY}");
    home.run(["mount", &url, "absent/mnt"]).must_fail(1, "absent").hints("mkdir -p absent");
    std::fs::write(home.path("file"), "").unwrap();
    home.run(["mount", &url, "file"]).must_fail(1, "not a directory");
}

#[test]
fn unmounting_a_plain_directory_fails() {
    let home = Home::new();
    home.make("mnt");
    home.run(["unmount", "mnt"]).must_fail(1, "not a mount");
}

#[test]
fn completions_and_manual_are_generated() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(["completions", shell]).must_succeed().stdout;
        assert!(script.contains("hypermount") && script.contains("unmount"), "{shell}");
    }
    assert!(home.run(["man"]).must_succeed().stdout.contains(".TH hypermount 1"));
    home.run(["man", "pages"]).must_succeed();
    for page in ["hypermount.1", "hypermount-mount.1", "hypermount-serve.1"] {
        assert!(home.path("pages").join(page).is_file(), "{page}");
    }
}

#[test]
fn a_store_on_disk_is_listed_without_a_mount() {
    let home = Home::new();
    home.golden_store("store");
    let names = home.run(["ls", "store"]).must_succeed().stdout;
    for name in ["hello.txt", "big.bin", "dir", "abs-link", "mnt", "ünï"] {
        assert!(names.lines().any(|line| line == name), "{name} not in {names}");
    }
    let long = home.run(["ls", "-l", "store"]).must_succeed().stdout;
    assert!(long.lines().any(|line| line.ends_with("abs-link -> /hello.txt")), "{long}");
    assert!(long.lines().any(|l| l.starts_with("-rwxr-xr-x") && l.contains(" 204800 ")), "{long}");
    let url = format!("hyper://{KEY}/dir/nested");
    let nested = home.run(["ls", &url, "--store", "store"]).must_succeed().stdout;
    assert_eq!(nested, "a.txt\nb.txt\n");
    assert_eq!(
        home.run(["ls", "-0", "store", "dir/nested"]).must_succeed().stdout,
        "a.txt\0b.txt\0"
    );
    home.run(["ls", "store", "nothing"]).must_fail(1, "/nothing: no such file");
}

#[test]
fn listings_are_json_for_programs() {
    let home = Home::new();
    home.golden_store("store");
    let ran = home.run(["ls", "--json", "store"]).must_succeed();
    let entries: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    let find = |name: &str| {
        entries.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap()
    };
    assert_eq!(find("big.bin")["size"], 204800);
    assert_eq!(find("big.bin")["kind"], "file");
    assert_eq!(find("abs-link")["target"], "/hello.txt");
    assert_eq!(find("mnt")["kind"], "mount");
}

#[test]
fn files_are_printed_as_they_are() {
    let home = Home::new();
    home.golden_store("store");
    let text = home.run(["cat", "store", "hello.txt", "dir/f1.txt"]).must_succeed().stdout;
    assert_eq!(text, "hello again, overwrittenfile 1\n");
    let inside = home.run(["cat", "store", "mnt/inside.txt"]).must_succeed().stdout;
    assert_eq!(inside, "mount changed");
    let url = format!("hyper://{KEY}+1/hello.txt");
    home.run(["cat", &url, "--store", "store"]).must_fail(1, "no such file");
    home.run(["cat", "store", "dir"]).must_fail(1, "it is a directory");
    home.run(["cat", "store", "abs-link"]).must_fail(1, "symbolic link").hints("/hello.txt");
}

#[test]
fn stat_and_info_tell_what_is_known() {
    let home = Home::new();
    home.golden_store("store");
    let ran = home.run(["stat", "--json", "store", "big.bin"]).must_succeed();
    let stat: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&stat["size"], &stat["mode"]), (&204800.into(), &0o100755.into()));
    let ran = home.run(["info", "--json", "store"]).must_succeed();
    let info: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(info["key"], KEY);
    assert_eq!(info["version"], 28);
    assert_eq!(info["cores"][0]["blocks_here"], 28);
    assert!(home.run(["info", "store"]).must_succeed().stdout.contains(KEY));
}

#[test]
fn serve_says_where_it_listens_and_ends_politely() {
    let home = Home::new();
    home.golden_store("store");
    let mut serve = Running::start(home.command().args([
        "serve",
        "--store",
        "store",
        "--listen",
        "127.0.0.1:0",
    ]));
    let address: std::net::SocketAddr = serve.line().parse().expect("an address");
    assert_ne!(address.port(), 0);
    home.run(["ls", "store"]).must_fail(4, "in use").hints("--store");
    serve.signal(Signal::SIGTERM);
    assert_eq!(serve.ended(), Some(0));
    home.run(["ls", "store"]).must_succeed();
}

#[test]
fn a_drive_is_read_from_a_peer() {
    let home = Home::new();
    home.golden_store("origin");
    let serve = Running::start(home.command().args([
        "serve",
        "--store",
        "origin",
        "--listen",
        "127.0.0.1:0",
    ]));
    let peer = serve.line();
    let url = format!("hyper://{KEY}/dir/nested/a.txt");
    let read = home.run(["cat", &url, "--store", "copy", "--peer", &peer]).must_succeed();
    assert_eq!(read.stdout, "a");
    drop(serve);
    let again = home.run(["cat", &url, "--store", "copy"]).must_succeed();
    assert_eq!(again.stdout, "a", "what was fetched is here without a peer");
    let other = format!("hyper://{KEY}/big.bin");
    home.run(["cat", &other, "--store", "copy"]).must_fail(3, "/big.bin").hints("--peer");
}

#[test]
fn a_peer_that_does_not_answer_costs_the_wait_and_exit_code_3() {
    let home = Home::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = silent.local_addr().unwrap().to_string();
    let url = format!("hyper://{KEY}");
    home.run(["ls", &url, "--store", "s", "--peer", &peer, "--wait", "300ms"])
        .must_fail(3, "open hyper://");
}
