//! Many programs at once on the same few files.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use crate::own::{FORMATS, Own, can_mount};

/// Opening, writing, closing, changing modes and renaming the same files from several threads: every
/// line that was appended is there in the end, once, as on a local disk.
#[test]
fn appended_lines_survive_others_closing_renaming_and_changing_modes() {
    for format in FORMATS {
        const LINES: usize = 150;
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let (log, aside, renamed) = (own.path("log"), own.path("aside"), own.path("renamed"));
        fs::write(&log, "").expect("writes");
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let log = &log;
                scope.spawn(move || {
                    for line in 0..LINES {
                        let mut file = OpenOptions::new().append(true).open(log).expect("opens");
                        file.write_all(format!("{writer} {line}\n").as_bytes()).expect("appends");
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..LINES as u32 {
                    let mode = 0o600 | (round & 0o77);
                    fs::set_permissions(&log, fs::Permissions::from_mode(mode)).expect("is ours");
                    drop(fs::read(&log).expect("reads"));
                }
            });
            scope.spawn(|| {
                for round in 0..LINES {
                    fs::write(&aside, vec![1; round * 100]).expect("writes");
                    fs::rename(&aside, &renamed).expect("renames");
                    drop(fs::remove_file(&renamed));
                }
            });
        });
        for _ in 0..2 {
            let text = fs::read_to_string(&log).expect("reads");
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            let mut expected: Vec<String> =
                (0..4).flat_map(|w| (0..LINES).map(move |line| format!("{w} {line}"))).collect();
            expected.sort_unstable();
            assert_eq!(lines, expected);
            let mode = fs::metadata(&log).expect("exists").permissions().mode();
            assert_eq!(mode & 0o777, 0o600 | (LINES as u32 - 1) & 0o77);
            own.remount();
        }
    }
}
