//! Seeding, publishing, and which drives are served to which peers.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use hypermount_drive::DriveFormat;
use serde_json::Value;

use crate::common::{Home, KEY, eventually, in_each_format, key_of};
use crate::steps::*;

fn seed_of(home: &Home, url: &str) -> Value {
    let status = json(home.run(["status", "--json"]));
    let seeds = status["seeds"].as_array().cloned().unwrap_or_default();
    seeds.into_iter().find(|seed| seed["url"] == url).unwrap_or(Value::Null)
}

fn address(home: &Home) -> String {
    let status = json(home.run(["status", "--json"]));
    status["listening"][0].as_str().expect("it listens").to_owned()
}

/// Sentence 90. "`seed` keeps every block of every version that it learns of, of a drive of another
/// publisher, and continues after a restart of the daemon. Nested drives are separate drives."
#[test]
fn a_seed_is_whole_follows_and_survives_a_restart() {
    let (author, keeper) = (Home::new(), Home::new());
    let url = create(&author, "notes");
    author.make("in");
    fs::write(author.path("in/one"), noise(2_000_000)).unwrap();
    author.run(["import", "in", "notes"]).must_succeed();
    author.run(["seed", "notes", "--listen", "127.0.0.1:0"]).must_succeed();
    let peer = address(&author);

    keeper.run(["seed", &url, "--peer", &peer]).must_succeed();
    eventually("the copy is whole", || seed_of(&keeper, &url)["complete"] == true);
    let first = seed_of(&keeper, &url)["version"].as_u64();
    fs::write(author.path("in/two"), noise(500_000)).unwrap();
    author.run(["import", "in", "notes"]).must_succeed();
    eventually("the new version is here whole", || {
        let seed = seed_of(&keeper, &url);
        seed["version"].as_u64() > first && seed["complete"] == true
    });
    kill_daemon(&default_store(&keeper));
    keeper.run(["daemon", "start"]).must_succeed();
    eventually("it is whole again", || seed_of(&keeper, &url)["complete"] == true);
    author.run(["unseed", "notes"]).must_succeed();
    eventually("nothing is left to do", || !has_daemon(&default_store(&author)));
    let read = keeper.command().args(["cat", &format!("{url}/one")]).output().unwrap();
    assert_eq!(read.stdout, noise(2_000_000), "it is here without its author");
    let listed = json(keeper.run(["list", "--json"]));
    assert_eq!(
        (&listed[0]["seeded"], &listed[0]["blocks_here"]),
        (&true.into(), &listed[0]["blocks"])
    );
    keeper.run(["unseed", &url]).must_succeed();
    keeper.run(["unseed", &url]).must_fail(1, "not seeded");
    keeper.run(["daemon", "stop"]).must_succeed();
}

/// Sentence 91. "`publish --wait N` returns 0 when N connected peers say that they hold every block of
/// the newest version here, and otherwise 3, after `--timeout`."
#[test]
fn publish_waits_until_the_peers_hold_every_block() {
    let (author, keeper) = (Home::new(), Home::new());
    let url = create(&author, "notes");
    author.make("in");
    fs::write(author.path("in/one"), noise(1_000_000)).unwrap();
    author.run(["import", "in", "notes"]).must_succeed();
    let publish = ["publish", "notes", "--listen", "127.0.0.1:0", "--timeout", "300ms"];
    author.run(publish).must_fail(3, "0 of 1").hints("seeding continues");
    let peer = address(&author);
    assert!(author.run(["peers", "notes"]).must_succeed().stdout.contains("no peer is connected"));
    keeper.run(["seed", &url, "--peer", &peer]).must_succeed();
    let published = author.run(["publish", "notes", "--wait", "1"]).must_succeed();
    assert_eq!(published.stdout.trim(), url);
    assert!(published.stderr.contains("safe to go offline"), "{published:?}");
    let peers = json(author.run(["peers", "notes", "--json"]));
    assert_eq!((&peers["complete"], &peers["peers"][0]["complete"]), (&1.into(), &true.into()));
    assert_eq!(seed_of(&keeper, &url)["complete"], true, "the keeper does hold all of it");
    for home in [author, keeper] {
        home.run(["daemon", "stop"]).must_succeed();
    }
}

/// Sentence 89. "A daemon serves to peers the drives that are mounted, seeded or shared, and no
/// others of the store."
#[test]
fn a_drive_that_is_not_shared_is_not_served() {
    in_each_format(only_what_is_shared_is_served);
}

fn only_what_is_shared_is_served(format: DriveFormat) {
    let (home, other) = (Home::new(), Home::new());
    let url = format!("hyper://{}", key_of(format));
    home.golden_store_of(format, "store");
    home.run(["create", "mine", "--store", "store"]).must_succeed();
    let arguments = ["seed", "mine", "--store", "store", "--listen", "127.0.0.1:0"];
    home.run(arguments).must_succeed();
    // After a command read it, the drive is open in the daemon, and still not served.
    home.run(["cat", &url, "hello.txt", "--store", "store"]).must_succeed();
    home.run(["list", "--store", "store"]).must_succeed();
    let status = json(home.run(["status", "--json", "--store", "store"]));
    let peer = status["listening"][0].as_str().unwrap().to_owned();
    let file = format!("{url}/hello.txt");
    let ask = ["cat", file.as_str(), "--peer", &peer, "--wait", "2s"];
    other.run(ask).must_fail(3, "open hyper://");
    home.run(["seed", &url, "--store", "store"]).must_succeed();
    let read = other.run(["cat", &file, "--peer", &peer]).must_succeed();
    assert_eq!(read.stdout, "hello again, overwritten");
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}

#[test]
fn lists_of_drives_and_mount_points_can_be_seeded() {
    let home = Home::new();
    let (one, two) = (create(&home, "one"), create(&home, "two"));
    fs::write(home.path("list.txt"), format!("# all of mine\none\n{two}\n")).unwrap();
    home.run(["seed", "--from", "list.txt"]).must_succeed();
    assert_eq!(seed_of(&home, &one)["own"], true);
    assert_eq!(seed_of(&home, &two)["name"], "two");
    home.run(["unseed", "one", "two"]).must_succeed();
    eventually("nothing is left to do", || !has_daemon(&default_store(&home)));
    home.run(["seed", "absent"]).must_fail(1, "no drive of that name");
    if can_mount() {
        home.make("mnt");
        home.run(["mount", "one", "mnt"]).must_succeed();
        let shared = home.run(["share", "mnt"]).must_succeed();
        assert_eq!(shared.stdout, format!("{one}\n"), "no QR code without a terminal");
        home.run(["unmount", "mnt"]).must_succeed();
        assert_eq!(seed_of(&home, &one)["own"], true, "shared is seeded");
        home.run(["unseed", "one"]).must_succeed();
    }
    eventually("nothing is left to do", || !has_daemon(&default_store(&home)));
}

/// A nested drive that was entered through a mount counts as mounted, so it is served.
#[test]
fn a_nested_drive_is_served_after_a_program_entered_it() {
    if !can_mount() {
        return;
    }
    let (home, other) = (Home::new(), Home::new());
    home.golden_store("store");
    let mnt = home.make("mnt");
    home.run(["mount", "store", "mnt", "--listen", "127.0.0.1:0"]).must_succeed();
    let status = json(home.run(["status", "--json", "--store", "store"]));
    let peer = status["listening"][0].as_str().unwrap().to_owned();
    assert_eq!(fs::read_to_string(mnt.join("mnt/inside.txt")).unwrap(), "mount changed");
    let file = format!("hyper://{KEY}/mnt/inside.txt");
    let read = other.run(["cat", &file, "--peer", &peer]).must_succeed();
    assert_eq!(read.stdout, "mount changed");
    home.run(["unmount", "mnt"]).must_succeed();
}

/// Sentence 103. "`limit` changes the transfer rate at once, of all drives together or, with a drive, of its
/// index and of its content; the limit ends with the daemon."
#[test]
fn a_rate_limit_applies_to_one_drive_only() {
    if can_mount() {
        in_each_format(a_rate_limit_applies);
    }
}

fn a_rate_limit_applies(format: DriveFormat) {
    let home = Home::new();
    home.golden_store_of(format, "theirs");
    home.make("in");
    fs::write(home.path("in/large"), noise(5_000_000)).unwrap();
    let other = home.run(["create", "other", "--store", "theirs"]).must_succeed().stdout;
    home.run(["import", "in", "other", "--store", "theirs"]).must_succeed();
    let (_serve, peer) = serve(&home, "theirs");
    let (slow, fast) = (home.make("slow"), home.make("fast"));
    let golden = format!("hyper://{}", key_of(format));
    let [own, golden] = [(other.trim(), "large", 5_000_000), (golden.as_str(), "big.bin", 204_800)];
    // A file of one block would come at once.
    let (limited, unlimited) = match format {
        DriveFormat::Hyperdrive10 => (own, golden),
        DriveFormat::Hyperdrive11 => (golden, own),
    };
    home.run(["mount", unlimited.0, "fast", "--peer", &peer]).must_succeed();
    home.run(["mount", limited.0, "slow", "--peer", &peer]).must_succeed();
    home.run(["limit", "slow/dir", "--down", "5k"]).must_succeed();
    let said = json(home.run(["limit", limited.0, "--json"]));
    assert_eq!((&said["up"], &said["down"]), (&Value::Null, &5_000.into()));
    assert_eq!(home.run(["limit", "fast"]).must_succeed().stdout, "up    none\ndown  none\n");
    let status = home.run(["status"]).must_succeed().stdout;
    assert!(status.lines().any(|l| l.starts_with("limits") && l.contains("4.9 KiB/s")), "{status}");

    let file = slow.join(limited.1);
    let reader = std::thread::spawn(move || fs::read(file).unwrap());
    assert_eq!(fs::read(fast.join(unlimited.1)).unwrap().len(), unlimited.2);
    assert!(!reader.is_finished(), "200 KB take 40 s at this limit");
    home.run(["limit", limited.0, "--down", "none"]).must_succeed();
    assert_eq!(reader.join().unwrap().len(), limited.2);
    let status = home.run(["status", "--json"]);
    assert_eq!(json(status)["drive_limits"].as_array().unwrap().len(), 0);
    home.run(["limit", "--up", "500k"]).must_succeed();
    let status = home.run(["status"]).must_succeed().stdout;
    assert!(status.contains("limits   all  up"), "{status}");
    home.run(["unmount", "slow"]).must_succeed();
    home.run(["unmount", "fast"]).must_succeed();
    home.run(["limit"]).must_fail(1, "no daemon runs");
}

/// 104. A command that inspects a drive that is already in the store, and has a peer to ask, shows
///      the newest version that a peer reports within 1.5 s.
#[test]
fn a_repeated_command_shows_the_newest_version() {
    if !can_mount() {
        return;
    }
    let (writer, reader, served) = (Home::new(), Home::new(), Home::new());
    let url = create(&writer, "notes");
    let mnt = writer.make("mnt");
    let mounted = json(writer.run(["mount", "--json", "notes", "mnt", "--listen", "127.0.0.1:0"]));
    let peer = mounted["address"].as_str().unwrap().to_owned();
    let through_a_daemon = ["daemon", "start"];
    served.run(through_a_daemon).must_succeed();
    for turn in 0..5 {
        let text = format!("text of {turn}");
        fs::write(mnt.join("file"), &text).unwrap();
        fs::write(mnt.join(format!("file {turn}")), "").unwrap();
        // Peers are shown data only once it is on the device.
        fs::File::open(mnt.join("file")).unwrap().sync_all().unwrap();
        for home in [&reader, &served] {
            let cat = home.run(["cat", &url, "file", "--peer", &peer]).must_succeed();
            assert_eq!(cat.stdout, text);
            let names = home.run(["ls", &url, "--peer", &peer]).must_succeed().stdout;
            assert_eq!(names.lines().count(), turn + 2, "{names}");
            let told = json(home.run(["stat", &url, "file", "--json", "--peer", &peer]));
            assert_eq!(told["size"], text.len());
        }
        let frozen = format!("{url}+2");
        assert_eq!(reader.run(["ls", &frozen, "--peer", &peer]).must_succeed().stdout, "file\n");
    }
    // With no peer, and with a peer that does not answer, the data in the store is shown.
    assert_eq!(reader.run(["cat", &url, "file"]).must_succeed().stdout, "text of 4");
    let unreachable = ["cat", &url, "file", "--peer", "127.0.0.1:9"];
    assert_eq!(reader.run(unreachable).must_succeed().stdout, "text of 4");
    served.run(["daemon", "stop"]).must_succeed();
    writer.run(["unmount", "mnt"]).must_succeed();
}

/// A change by another command is in the mounts of the drive when the command returns, and later
/// writes apply to the newest version.
#[test]
fn an_import_is_in_every_mount_before_it_returns() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let (mount, source) = (home.make("mnt"), home.make("in"));
    home.run(["mount", "notes", "mnt"]).must_succeed();
    let file = |name: &str| mount.join(name);
    for round in 0..14 {
        for name in ["a", "b"] {
            fs::write(source.join(name), format!("{name} of round {round}\n")).unwrap();
        }
        home.run(["import", "in", "notes"]).must_succeed();
        let mut log = fs::OpenOptions::new().append(true).open(file("a")).unwrap();
        log.write_all(b"appended\n").unwrap();
        drop(log);
        let read = |name: &str| fs::read_to_string(file(name)).unwrap();
        assert_eq!(read("a"), format!("a of round {round}\nappended\n"));
        assert_eq!(read("b"), format!("b of round {round}\n"));
    }
    fs::remove_file(source.join("b")).unwrap();
    home.run(["import", "--delete", "in", "notes"]).must_succeed();
    assert!(!file("b").exists());

    // The path leads to the new file, also while programs have the old one open. Bytes written to
    // the old one can no longer be stored: the program gets an error, and the bytes are kept.
    let mut open = fs::OpenOptions::new().append(true).open(file("a")).unwrap();
    open.write_all(b"before\n").unwrap();
    fs::write(source.join("a"), "replaced\n").unwrap();
    home.run(["import", "in", "notes"]).must_succeed();
    assert_eq!(fs::read_to_string(file("a")).unwrap(), "replaced\n");
    open.write_all(b"after\n").unwrap();
    let failed = open.sync_all().unwrap_err();
    assert_eq!(failed.raw_os_error(), Some(nix::libc::ESTALE), "{failed}");
    drop(open);
    assert_eq!(fs::read_to_string(file("a")).unwrap(), "replaced\n");
    home.run(["unmount", "mnt"]).must_succeed();
    eventually("the daemon has ended", || !has_daemon(&default_store(&home)));
    let kept = home.run(["recover"]).must_succeed();
    assert!(kept.stdout.contains('a'), "{kept:?}");
}

/// Sentence 122. "A change through one mount of a drive, or by `import`, is shown by every other mount of
/// that drive on this machine before the call or the command returns, unless the kernel takes longer than
/// 5 s to drop what it has cached, or the other mount is waiting for this one."
#[test]
fn a_change_through_one_mount_is_in_the_other_before_the_call_returns() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let (written, shown) = (home.make("rw"), home.make("ro"));
    home.run(["mount", "notes", "rw"]).must_succeed();
    home.run(["mount", "notes", "ro", "--read-only"]).must_succeed();
    for round in 0..20 {
        let text = format!("text of round {round}\n");
        fs::write(written.join("file"), &text).unwrap();
        assert_eq!(fs::read_to_string(shown.join("file")).unwrap(), text);
        let mode = 0o600 + (round & 7);
        fs::set_permissions(written.join("file"), fs::Permissions::from_mode(mode)).unwrap();
        let there = fs::metadata(shown.join("file")).unwrap().permissions().mode();
        assert_eq!(there & 0o777, mode);
        fs::create_dir(written.join("directory")).unwrap();
        assert!(shown.join("directory").is_dir(), "round {round}");
        fs::rename(written.join("file"), written.join("directory/moved")).unwrap();
        assert!(!shown.join("file").exists(), "round {round}");
        assert_eq!(fs::read_to_string(shown.join("directory/moved")).unwrap(), text);
        symlink("moved", written.join("directory/link")).unwrap();
        assert_eq!(fs::read_to_string(shown.join("directory/link")).unwrap(), text);
        fs::remove_dir_all(written.join("directory")).unwrap();
        assert_eq!(fs::read_dir(&shown).unwrap().count(), 0, "round {round}");
    }
    home.run(["unmount", "ro"]).must_succeed();
    home.run(["unmount", "rw"]).must_succeed();
}

/// An import that changes only the mode of a file that a program has open for writing: the file
/// keeps that mode and the bytes that the program writes.
#[test]
fn an_imported_mode_outlives_a_program_that_has_the_file_open() {
    if !can_mount() {
        return;
    }
    let home = Home::new();
    create(&home, "notes");
    let (mount, source) = (home.make("mnt"), home.make("in"));
    home.run(["mount", "notes", "mnt"]).must_succeed();
    fs::write(source.join("a"), "text\n").unwrap();
    home.run(["import", "in", "notes"]).must_succeed();
    let mut open = fs::OpenOptions::new().append(true).open(mount.join("a")).unwrap();
    // Nothing is written before the import, since starting a program flushes written bytes.
    fs::set_permissions(source.join("a"), fs::Permissions::from_mode(0o751)).unwrap();
    home.run(["import", "in", "notes"]).must_succeed();
    let mode = || fs::metadata(mount.join("a")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o751);
    open.write_all(b"after\n").unwrap();
    open.sync_all().unwrap();
    drop(open);
    assert_eq!(mode(), 0o751);
    assert_eq!(fs::read_to_string(mount.join("a")).unwrap(), "text\nafter\n");
    home.run(["unmount", "mnt"]).must_succeed();
}

/// 106. A daemon dials a peer given with `--peer` while a mount, a seed or a command needs it, and for 10 s from the
///      start of the command.
#[test]
fn a_peer_that_was_named_stays_dialled_as_long_as_a_command_reads_from_it() {
    let (author, reader) = (Home::new(), Home::new());
    let url = create(&author, "notes");
    author.make("in");
    fs::write(author.path("in/one"), noise(2_000_000)).unwrap();
    author.run(["import", "in", "notes"]).must_succeed();
    author.run(["seed", "notes", "--listen", "127.0.0.1:0"]).must_succeed();
    let peer = address(&author);
    // More than the 10 s that a peer stays dialled after a short command.
    author.run(["limit", "--up", "150k"]).must_succeed();
    reader.run(["daemon", "start"]).must_succeed();
    reader.run(["export", &url, "out", "--peer", &peer, "--wait", "5s"]).must_succeed();
    assert_eq!(fs::read(reader.path("out/one")).unwrap(), noise(2_000_000));
    author.run(["unseed", "notes"]).must_succeed();
    reader.run(["daemon", "stop"]).must_succeed();
}
