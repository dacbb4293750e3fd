//! `hypermount ls`.

use std::fmt::Write;

use hypermount_drive::TYPE_MASK;

use super::print_json;
use crate::access::Access;
use crate::answers::{self, Described, EntryKind};
use crate::cli::Ls;
use crate::failure::{Context, Result};
use crate::terminal::{self, date, escaped};

pub async fn run(args: &Ls) -> Result {
    let entries: Vec<Described> = match Access::open(&args.target, &args.source).await? {
        Access::Local(session) => answers::entries(&session, &args.path).await?,
        Access::Remote(remote) => {
            remote.client.ask_patiently(&remote.about(&["entries"], &args.path)?).await?
        }
    };
    if args.json {
        return print_json(&entries);
    }
    let mut out = String::new();
    for entry in &entries {
        match (args.zero, args.long) {
            (true, _) => {
                out.push_str(&entry.name);
                out.push('\0');
            }
            (false, true) => out.push_str(&long_line(entry)),
            (false, false) => {
                out.push_str(&escaped(&entry.name));
                out.push('\n');
            }
        }
    }
    terminal::print(out.as_bytes()).context(|| "print")
}

/// `-rw-r--r-- 1000 1000     204800 2020-09-13T12:26:40Z name -> target`
fn long_line(entry: &Described) -> String {
    let size = entry.size.unwrap_or(0);
    let mut line = format!(
        "{} {:>5} {:>5} {size:>12} {} {}",
        mode_text(entry.kind, entry.mode),
        entry.uid,
        entry.gid,
        date(entry.mtime),
        escaped(&entry.name)
    );
    if let Some(target) = entry.target.as_deref().filter(|_| entry.kind == EntryKind::Symlink) {
        let _ = write!(line, " -> {}", escaped(target)); // a String takes everything
    }
    if let Some(mount) = &entry.mount {
        let _ = write!(line, " => {mount}");
    }
    line.push('\n');
    line
}

/// `drwxr-xr-x`, as ls(1) shows it.
pub fn mode_text(kind: EntryKind, mode: u32) -> String {
    let kind = match kind {
        EntryKind::File => '-',
        EntryKind::Directory | EntryKind::Mount => 'd',
        EntryKind::Symlink => 'l',
        EntryKind::Fifo => 'p',
        EntryKind::Socket => 's',
        EntryKind::CharacterDevice => 'c',
        EntryKind::BlockDevice => 'b',
    };
    let mode = mode & !TYPE_MASK;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypermount_drive::{Entry, Kind, Stat};

    #[test]
    fn modes_look_as_ls_shows_them() {
        for (kind, mode, text) in [
            (Kind::File, 0o100644, "-rw-r--r--"),
            (Kind::Directory, 0o40755, "drwxr-xr-x"),
            (Kind::Mount, 0o40755, "drwxr-xr-x"),
            (Kind::File, 0o104755, "-rwsr-xr-x"),
            (Kind::File, 0o102644, "-rw-r-Sr--"),
            (Kind::Directory, 0o41777, "drwxrwxrwt"),
        ] {
            assert_eq!(mode_text(kind.into(), mode), text);
        }
    }

    #[test]
    fn a_long_line_shows_where_a_link_points_and_nothing_raw() {
        let linkname = Some("a\u{1b}]0;x".into());
        let stat = Stat { mode: 0o120777, linkname, ..Stat::default() };
        let link = Entry { kind: Kind::Symlink, stat, explicit: true };
        let line = long_line(&Described::new("l", &link));
        assert_eq!(
            line,
            "lrwxrwxrwx     0     0            0 1970-01-01T00:00:00Z l -> a\\x1b]0;x\n"
        );
    }
}
