//! Every file of a store damaged in every way: the command then shows the right bytes or reports
//! the damage. It never shows other bytes, and never a drive with entries missing as if it were
//! complete.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::common::{Home, KEY, Running, copy_tree};
use crate::fixture::{Watched, watch};

const FILES: [&str; 3] = ["big.bin", "hello.txt", "dir/f1.txt"];
/// Stores looked at at once.
const AT_ONCE: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit, at this position; from the end if negative.
    Flip(i64),
    FlipInTheMiddle,
    CutTo(u64),
    CutHalf,
    CutLast,
    Delete,
    Zero,
    Lengthen(u8),
}

const DAMAGES: [Damage; 15] = [
    Damage::Flip(0),
    Damage::Flip(4),
    Damage::Flip(33),
    Damage::Flip(70),
    Damage::Flip(300),
    Damage::FlipInTheMiddle,
    Damage::Flip(-1),
    Damage::CutTo(0),
    Damage::CutTo(31),
    Damage::CutHalf,
    Damage::CutLast,
    Damage::Delete,
    Damage::Zero,
    Damage::Lengthen(0),
    Damage::Lengthen(0xff),
];

impl Damage {
    /// Returns false if this file cannot have the damage.
    fn inflict(self, path: &Path) -> bool {
        let mut bytes = fs::read(path).expect("reads");
        let length = bytes.len();
        let flip = |bytes: &mut Vec<u8>, at: usize| match bytes.get_mut(at) {
            Some(byte) => {
                *byte ^= 0x10;
                true
            }
            None => false,
        };
        let done = match self {
            Damage::Flip(at) if at < 0 => flip(&mut bytes, length.wrapping_add_signed(at as isize)),
            Damage::Flip(at) => flip(&mut bytes, at as usize),
            Damage::FlipInTheMiddle => flip(&mut bytes, length / 2),
            Damage::CutTo(to) => {
                bytes.truncate(to as usize);
                bytes.len() < length
            }
            Damage::CutHalf => {
                bytes.truncate(length / 2);
                length > 0
            }
            Damage::CutLast => bytes.pop().is_some(),
            Damage::Delete => {
                fs::remove_file(path).expect("is removed");
                return true;
            }
            Damage::Zero => {
                bytes.fill(0);
                length > 0
            }
            Damage::Lengthen(with) => {
                bytes.resize(length + 5000, with);
                true
            }
        };
        if done {
            fs::write(path, bytes).expect("writes");
        }
        done
    }
}

/// The output for a sound store.
struct Right {
    contents: Vec<u8>,
    listing: Vec<u8>,
}

/// Every file below a directory, relative to it.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).expect("lists") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                left.push(path);
            } else if path.file_name().is_some_and(|name| name != "hypermount.lock") {
                found.push(path.strip_prefix(directory).expect("is below").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn run(home: &Home, arguments: &[&str]) -> Watched {
    watch(home.command().args(arguments))
}

fn cat(home: &Home, from: &[&str], more: &[&str]) -> Watched {
    run(home, &[&["cat"], from, &FILES, more].concat())
}

impl Right {
    fn of(home: &Home, from: &[&str], more: &[&str]) -> Self {
        let (contents, listing) =
            (cat(home, from, more), run(home, &[&["ls"], from, more].concat()));
        assert_eq!((contents.code, listing.code), (Some(0), Some(0)), "{contents:?}{listing:?}");
        Self { contents: contents.stdout, listing: listing.stdout }
    }

    fn judge(&self, what: &str, contents: &Watched, listing: &Watched) {
        for (told, right) in [(contents, &self.contents), (listing, &self.listing)] {
            assert!(!told.stderr.contains("panicked"), "{what}: {}", told.stderr);
            assert!(right.starts_with(&told.stdout), "{what}: something else is shown");
            match told.code {
                Some(0) => assert!(told.stdout == *right, "{what}: less is shown, and no error"),
                Some(1 | 3 | 5) => {
                    assert!(told.stderr.contains("error: "), "{what}: {}", told.stderr);
                }
                code => panic!("{what}: ended with {code:?}: {}", told.stderr),
            }
        }
    }
}

/// Runs `look` on a copy of the store for each damage to each of its files.
fn for_each_damage(store: &Path, look: impl Fn(&str, &Path, &Home) + Sync) {
    let mut cases: Vec<(PathBuf, Damage)> = Vec::new();
    for file in files_below(store) {
        cases.extend(DAMAGES.map(|damage| (file.clone(), damage)));
    }
    let share = cases.len().div_ceil(AT_ONCE);
    thread::scope(|scope| {
        for cases in cases.chunks(share) {
            let look = &look;
            scope.spawn(move || {
                for (file, damage) in cases {
                    let home = Home::new();
                    copy_tree(store, &home.path("store"));
                    if damage.inflict(&home.path("store").join(file)) {
                        look(&format!("{damage:?} of {}", file.display()), file, &home);
                    }
                }
            });
        }
    });
}

#[test]
fn t34_t35_t39_a_damaged_store_of_ones_own_shows_no_wrong_byte() {
    let home = Home::new();
    home.golden_store("store");
    let right = Right::of(&home, &["store"], &[]);
    let sound = Home::new();
    sound.golden_store("store");
    for_each_damage(&sound.path("store"), |what, _, home| {
        let contents = cat(home, &["store"], &[]);
        let listing = run(home, &["ls", "store"]);
        right.judge(what, &contents, &listing);
    });
}

#[test]
fn t34_t35_a_damaged_copy_shows_no_wrong_byte_and_a_peer_heals_it() {
    let publisher = Home::new();
    publisher.golden_store("store");
    let arguments = ["serve", "--store", "store", "--listen", "127.0.0.1:0"];
    let server = Running::start(publisher.command().args(arguments));
    let peer = server.line();
    let url = format!("hyper://{KEY}");
    let with_peer = ["--store", "store", "--peer", &peer, "--wait", "20s"];
    let alone = ["--store", "store"];
    let fetched = Home::new();
    let right = Right::of(&fetched, &[&url], &with_peer);
    for_each_damage(&fetched.path("store"), |what, file, home| {
        let contents = cat(home, &[&url], &alone);
        let listing = run(home, &[&["ls", &url], &alone[..]].concat());
        right.judge(&format!("{what}, alone"), &contents, &listing);
        let contents = cat(home, &[&url], &with_peer);
        let listing = run(home, &[&["ls", &url], &with_peer[..]].concat());
        right.judge(&format!("{what}, with a peer"), &contents, &listing);
        // The right content of these files cannot be determined: if damaged, they are refused, not
        // replaced.
        if file != Path::new("master_key") && !file.ends_with("key") {
            assert_eq!(contents.code, Some(0), "{what} is not healed: {}", contents.stderr);
            assert_eq!(listing.code, Some(0), "{what} is not healed: {}", listing.stderr);
        }
    });
}

/// Deadlines use the monotonic clock and times are shown as stored, so the date of this machine does
/// not matter. Needs `faketime`; prints a message where it is not installed.
#[test]
fn t40_the_wall_clock_does_not_matter() {
    let program = "faketime";
    if std::process::Command::new(program).arg("--version").output().is_err() {
        eprintln!("SKIPPED: {program} is not installed");
        return;
    }
    for date in ["1970-01-02 00:00:00", "2038-01-20 00:00:00", "2100-01-01 00:00:00"] {
        let home = Home::new();
        home.golden_store("store");
        let mut command = std::process::Command::new(program);
        command.args([date, env!("CARGO_BIN_EXE_hypermount"), "ls", "-l", "store"]);
        command.current_dir(home.directory.path()).env("HOME", home.directory.path());
        let told = watch(&mut command);
        let usual = run(&home, &["ls", "-l", "store"]);
        assert_eq!((told.code, told.stdout), (usual.code, usual.stdout), "{date}");
    }
}
