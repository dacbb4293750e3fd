//! The commands of README.md's `console` blocks run as they stand, in their order, on a machine that
//! finds the publisher of `KEY` on its local network.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::finders::{our_drive, serve};
use common::living::{binary, finish, root};
use common::namespaces::Machines;

/// The lines after `$ ` of all blocks.
fn commands(document: &str) -> Vec<&str> {
    let blocks = document.split("```console\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap_or_default().lines());
    lines.filter_map(|line| line.strip_prefix("$ ")).collect()
}

#[test]
fn every_command_of_the_readme_runs_as_it_stands() {
    let Some(machines) = Machines::on_one_cable(2) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (store, key) = our_drive(directory.path());
    let _publisher = serve(&machines, 0, &store, &["--network", "lan"]);
    let document = fs::read_to_string(root().join("README.md")).expect("it is there");
    let commands = commands(&document);
    assert!(commands.len() > 15, "{commands:?}");
    assert!(commands.contains(&"hypermount mount hyper://KEY ~/drive"), "{commands:?}");
    let mut script = String::from("set -e\n");
    for command in &commands {
        let command = command.replace("KEY", &key).replace("FILE", "hello.txt");
        script.push_str(&format!("echo \"README: {}\"\n{command}\n", command.replace('"', "'")));
    }
    let home = directory.path().join("home");
    fs::create_dir(&home).expect("make a directory");
    let path = std::env::var("PATH").expect("a search path");
    let bin = Path::new(binary()).parent().expect("a directory").display();
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(&home).env("HOME", &home);
    shell.env("PATH", format!("{bin}:{path}")).env("HYPERMOUNT_NETWORK", "lan");
    for name in ["XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"] {
        shell.env_remove(name);
    }
    let ran = finish(&mut machines.on(1, &mut shell));
    let said = String::from_utf8_lossy(&ran.stdout);
    let errors = String::from_utf8_lossy(&ran.stderr);
    let mut stop = Command::new(binary());
    stop.args(["daemon", "stop"]).env("HOME", &home).env_remove("XDG_DATA_HOME");
    stop.env_remove("XDG_STATE_HOME").env_remove("XDG_RUNTIME_DIR");
    finish(&mut machines.on(1, &mut stop));
    assert!(ran.status.success(), "{said}\n{errors}");
    assert!(said.contains("hello.txt"), "{said}");
    for mounted in ["drive", "old", "notes"] {
        assert!(!home.join(mounted).exists(), "~/{mounted} was made by a mount and stayed");
    }
}
