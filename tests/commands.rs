//! `docs/commands.md` is a terminal session: its commands are run one after the other in one shell,
//! and must print what the document shows. The document has every command. To rewrite the outputs:
//! `HYPERMOUNT_WRITE_COMMANDS=1 cargo test --test commands`.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::Home;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/commands.md");
/// Marks the start of each command's output.
const MARK: char = '\u{1}';

/// The document in pieces: text as it is, and commands with their answers.
#[derive(Debug)]
enum Piece {
    Text(String),
    Command { typed: String, answer: String },
}

fn pieces(document: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut inside = false;
    for line in document.split_inclusive('\n') {
        match (line.strip_prefix("$ "), pieces.last_mut()) {
            (Some(typed), _) if inside => {
                let (typed, answer) = (typed.trim_end().to_owned(), String::new());
                pieces.push(Piece::Command { typed, answer });
            }
            (_, Some(Piece::Command { answer, .. })) if inside && !line.starts_with("```") => {
                answer.push_str(line);
            }
            _ => {
                inside = line.starts_with("```console") || (inside && !line.starts_with("```"));
                pieces.push(Piece::Text(line.to_owned()));
            }
        }
    }
    pieces
}

fn typed(pieces: &[Piece]) -> Vec<&str> {
    let typed = pieces.iter().filter_map(|piece| match piece {
        Piece::Command { typed, .. } => Some(typed.as_str()),
        Piece::Text(_) => None,
    });
    typed.collect()
}

/// Runs all commands in one shell. Returns the output of each, errors included.
fn run(home: &Home, commands: &[&str]) -> Vec<String> {
    let mut script = String::from("umask 022\n");
    for command in commands {
        script.push_str(&format!("printf '{MARK}'\n{{ {command}\n}} 2>&1\n"));
    }
    let program = Path::new(env!("CARGO_BIN_EXE_hypermount"));
    let path = std::env::var("PATH").expect("a search path");
    let prepared = home.command();
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null());
    for (name, value) in prepared.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("XDG_CONFIG_HOME", home.path("config"));
    shell.env("PATH", format!("{}:{path}", program.parent().expect("a directory").display()));
    let ran = shell.current_dir(home.directory.path()).output().expect("bash runs");
    let printed = String::from_utf8(ran.stdout).expect("text");
    printed.split(MARK).skip(1).map(str::to_owned).collect()
}

/// Replaces values that differ from run to run by names.
fn normal(home: &Home, printed: &str) -> String {
    let here = home.directory.path().display().to_string();
    let program = Path::new(env!("CARGO_BIN_EXE_hypermount")).display().to_string();
    let text = printed.replace(&program, "/usr/bin/hypermount").replace(&here, "/home/me");
    let mut lines = String::new();
    for line in text.lines().filter(|line| !line.starts_with("[20")) {
        let words = line.split_inclusive(|c: char| !c.is_ascii_alphanumeric());
        let mut normal: String = words.map(word).collect();
        for (unit, name) in [
            (" KiB", "SIZE"),
            (" MiB", "SIZE"),
            (" GiB", "SIZE"),
            (" B", "SIZE"),
            (" bytes", "SIZE"),
        ] {
            normal = quantities(&normal, unit, name);
        }
        for (before, name) in [("pid ", "PID"), ("pid\":", "PID"), ("127.0.0.1:", "PORT")] {
            normal = numbers_after(&normal, before, name);
        }
        normal = numbers_after(&normal, "pid:     ", "PID");
        if normal.starts_with("owner: ") {
            normal = "owner: UID:GID".to_owned();
        }
        lines.push_str(columns(&dated(&times(&normal))).trim_end());
        lines.push('\n');
    }
    lines
}

/// Two spaces between columns, since the widths depend on replaced values.
fn columns(line: &str) -> String {
    let start = line.len() - line.trim_start().len();
    let (mut normal, mut blanks) = (line[..start].to_owned(), 0);
    for c in line[start..].chars() {
        blanks = if c == ' ' { blanks + 1 } else { 0 };
        if blanks <= 2 {
            normal.push(c);
        }
    }
    normal
}

/// A key, a hash or anything else.
fn word(word: &str) -> String {
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let name = match digits.len() {
        64 if hex => "KEY",
        12 if hex => "KEY",
        16 if hex => "HASH",
        _ => return word.to_owned(),
    };
    word.replacen(digits, name, 1)
}

fn quantities(line: &str, unit: &str, name: &str) -> String {
    let parts: Vec<&str> = line.split(unit).collect();
    let mut normal = String::new();
    for (number, part) in parts.iter().enumerate() {
        let last = number + 1 == parts.len();
        let kept = part.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        normal.push_str(if last || kept == *part { part } else { kept });
        if !last {
            normal.push_str(if kept == *part { unit } else { name });
        }
    }
    normal
}

fn numbers_after(line: &str, before: &str, name: &str) -> String {
    let mut parts = line.split(before);
    let mut normal = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        let name = if rest == part { "" } else { name };
        normal.push_str(&format!("{before}{name}{rest}"));
    }
    normal
}

/// `up 3s,` and `"time":1234`.
fn times(line: &str) -> String {
    let line = match line.split_once(", up ").and_then(|(a, b)| Some((a, b.split_once(',')?.1))) {
        Some((before, after)) => format!("{before}, up TIME,{after}"),
        None => line.to_owned(),
    };
    numbers_after(&line, "\"time\":", "TIME")
}

/// `2026-01-31 23:59:59`, with what belongs to it.
fn dated(line: &str) -> String {
    let shape = |text: &str| {
        text.bytes().zip(b"0000-00-00".iter()).all(|(byte, model)| match model {
            b'0' => byte.is_ascii_digit(),
            _ => byte == *model,
        })
    };
    let found = (0..line.len()).find(|at| line.get(*at..at + 10).is_some_and(shape));
    let Some(at) = found else { return line.to_owned() };
    let rest =
        line[at + 10..].trim_start_matches(|c: char| c.is_ascii_digit() || " T:.Z".contains(c));
    let gap = if rest.is_empty() { "" } else { " " };
    format!("{}DATE{gap}{rest}", &line[..at])
}

#[test]
fn the_documented_session_prints_what_the_document_shows() {
    if !Path::new("/dev/fuse").exists() {
        eprintln!("SKIPPED: there is no /dev/fuse here");
        return;
    }
    let document = fs::read_to_string(DOCUMENT).expect("it is there");
    let pieces = pieces(&document);
    let home = Home::new();
    let commands = typed(&pieces);
    let mut answers = run(&home, &commands).into_iter();
    let mut happened = String::new();
    for piece in &pieces {
        match piece {
            Piece::Text(text) => happened.push_str(text),
            Piece::Command { typed, answer: _ } => {
                let answer = answers.next().expect("the shell ran to its end");
                happened.push_str(&format!("$ {typed}\n{}", normal(&home, &answer)));
            }
        }
    }
    if std::env::var_os("HYPERMOUNT_WRITE_COMMANDS").is_some() {
        fs::write(DOCUMENT, &happened).expect("it is written");
        return;
    }
    for (said, is) in document.lines().zip(happened.lines()) {
        assert_eq!(said, is, "docs/commands.md says otherwise; in full:\n{happened}");
    }
    assert_eq!(document.lines().count(), happened.lines().count(), "{happened}");
}

/// The names under `Commands:` in a help text.
fn subcommands(home: &Home, of: &[&str]) -> Vec<String> {
    let help = home.command().args(of).arg("--help").output().expect("it runs").stdout;
    let help = String::from_utf8(help).expect("text");
    let Some((_, listed)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let listed = listed.lines().take_while(|line| !line.is_empty());
    // A name is indented by two columns; the continuation of a long description by more.
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn no_command_is_left_out() {
    let document = fs::read_to_string(DOCUMENT).expect("it is there");
    let pieces = pieces(&document);
    let typed = typed(&pieces);
    let home = Home::new();
    let commands = subcommands(&home, &[]);
    assert!(commands.len() > 20, "{commands:?}");
    let shown = |words: &str| {
        typed.iter().any(|line| {
            let mut at = line.match_indices(words);
            at.any(|(start, _)| {
                !line[start + words.len()..].starts_with(|c: char| c.is_ascii_alphanumeric())
            })
        })
    };
    for command in &commands {
        assert!(shown(&format!("hypermount {command}")), "no session of `{command}`");
        assert!(document.contains(&format!("\n## {command}\n")), "no heading of `{command}`");
        for nested in subcommands(&home, &[command]) {
            assert!(
                shown(&format!("hypermount {command} {nested}")),
                "none of `{command} {nested}`"
            );
        }
    }
}

#[test]
fn values_that_differ_between_runs_are_replaced_by_names() {
    let home = Home::new();
    let normal = |line: &str| normal(&home, line).trim_end().to_owned();
    let key = "ab".repeat(32);
    assert_eq!(normal(&format!("hyper://{key}+3/a")), "hyper://KEY+3/a");
    assert_eq!(normal("hyper://0123456789ab…  x"), "hyper://KEY…  x");
    assert_eq!(normal("daemon   pid 12, up 1m 3s, stays"), "daemon  pid PID, up TIME, stays");
    assert_eq!(normal("at 127.0.0.1:4567 and 2"), "at 127.0.0.1:PORT and 2");
    assert_eq!(normal("received 1.2 KiB (0 B/s), 3 files"), "received SIZE (SIZE/s), 3 files");
    assert_eq!(normal("failed at 2026-11-21 16:43:11\n"), "failed at DATE");
    assert_eq!(normal("-rw 2026-11-21 16:43 a.txt"), "-rw DATE a.txt");
    assert_eq!(normal("version 12 of file7"), "version 12 of file7");
}
