//! The process that serves a mount is killed while programs write, rename and remove files.

use std::fs::{self, OpenOptions};
use std::io::Write;

use crate::common::living::{hypermount, succeed};
use crate::own::{FORMATS, Own, alone, can_mount, has_reference, tree};

const ROUNDS: usize = 20;

/// Sentence 48. "After kill -9 every file has its content from before or from after the interrupted
/// change, and every file whose close(2) returned 0 has its new content."
#[test]
fn a_mount_killed_repeatedly_keeps_every_closed_file() {
    for format in FORMATS {
        if !alone("crash::a_mount_killed_repeatedly_keeps_every_closed_file") {
            return;
        }
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let content = |round: usize, n: usize| vec![(round * 10 + n) as u8; 50_000 * (n + 1)];
        for round in 0..ROUNDS {
            fs::create_dir_all(own.path("dir")).expect("makes");
            for n in 0..4 {
                fs::write(own.path(&format!("dir/{n}")), content(round, n)).expect("writes");
            }
            // Files of earlier rounds are renamed, cut, appended to and removed.
            let grown = own.path("dir/grown");
            let mut log = OpenOptions::new().append(true).create(true).open(&grown).expect("opens");
            log.write_all(&[round as u8; 3000]).expect("appends");
            drop(log);
            fs::create_dir_all(own.path("old/deep")).expect("makes");
            fs::rename(own.path("dir/1"), own.path("old/deep/1")).expect("renames");
            fs::write(own.path("dir/1"), content(round, 1)).expect("writes");
            fs::rename(own.path("old"), own.path(&format!("moved {round}"))).expect("renames");
            let cut = OpenOptions::new().write(true).open(own.path("dir/2")).expect("opens");
            cut.set_len(10_000).expect("cuts");
            drop(cut);
            if round >= 2 {
                fs::remove_dir_all(own.path(&format!("moved {}", round - 2))).expect("removes");
            }
            // Under way when it happens: written and never closed, and a writer that does not stop.
            let mut open = OpenOptions::new().write(true).open(own.path("dir/0")).expect("opens");
            open.write_all(&[0xff; 1000]).expect("writes");
            let busy = own.path("dir/busy");
            std::thread::scope(|scope| {
                let writer = scope.spawn(move || {
                    for version in 0..u8::MAX {
                        let next = busy.with_extension("next");
                        let done = fs::write(&next, vec![version; 200_000])
                            .and_then(|()| fs::rename(&next, &busy));
                        if done.is_err() {
                            return;
                        }
                    }
                });
                own.kill();
                writer.join().expect("no panic");
            });
            drop(open);
            for n in 0..4 {
                let read = fs::read(own.path(&format!("dir/{n}"))).expect("reads");
                let mut expected = content(round, n);
                expected.truncate(if n == 2 { 10_000 } else { usize::MAX });
                assert!(read == expected, "round {round}, file {n}: {} bytes", read.len());
            }
            let log: Vec<u8> = (0..=round).flat_map(|round| [round as u8; 3000]).collect();
            assert!(fs::read(own.path("dir/grown")).expect("reads") == log, "round {round}");
            for (moved, there) in [(round.checked_sub(2), false), (Some(round), true)] {
                let moved = moved.map(|round| own.path(&format!("moved {round}/deep/1")));
                assert!(moved.is_none_or(|path| path.exists() == there), "round {round}");
            }
            if let Ok(busy) = fs::read(own.path("dir/busy")) {
                assert!(busy.len() == 200_000 && busy.iter().all(|byte| *byte == busy[0]), "torn");
            }
            let left =
                hypermount_drive::scratch::leftovers(&own.store().join("scratch")).expect("lists");
            let zero = left.iter().find(|left| left.origin.path.as_str() == "dir/0");
            let zero = zero.expect("what was written and not closed is kept in scratch");
            assert_eq!(fs::read(&zero.data).expect("reads")[..1000], [0xff; 1000]);
            assert_eq!((zero.written.len(), zero.written.next(0)), (1, Some(0..1000)));
            for left in left {
                fs::remove_file(&left.data).expect("removes");
                fs::remove_file(&left.record).expect("removes");
            }
        }
        if has_reference() {
            let ours = own.told_to_others(tree(&own.root(), false));
            own.unmount();
            assert_eq!(own.read_by_reference(), ours);
        }
    }
}

/// Sentence 75. "`recover` shows the data that sentence 50 describes; `--to` saves each file as the
/// process last saw it, `--forget` removes it."
#[test]
fn changes_of_a_killed_mount_are_recovered() {
    for format in FORMATS {
        if !alone("crash::changes_of_a_killed_mount_are_recovered") {
            return;
        }
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let old: Vec<u8> = (0..300_000u32).map(|n| n as u8).collect();
        fs::write(own.path("notes.txt"), &old).expect("writes");
        let mut open = OpenOptions::new().write(true).open(own.path("notes.txt")).expect("opens");
        open.write_all(b"unsaved").expect("writes");
        own.kill();
        drop(open);
        own.unmount();

        let store = own.store().display().to_string();
        let recover = |options: &[&str]| {
            let mut command = hypermount();
            succeed(command.args(["recover", "--store", store.as_str()]).args(options))
        };
        let listed = recover(&[]);
        assert!(listed.contains("/notes.txt") && listed.contains("300000"), "{listed}");
        let to = own.beside("saved");
        recover(&["--to", &to.display().to_string(), "--forget"]);
        let mut expected = old;
        expected[..7].copy_from_slice(b"unsaved");
        assert!(fs::read(to.join("notes.txt")).expect("saved") == expected);
        assert_eq!(recover(&["--json"]).trim(), "[]");
    }
}
