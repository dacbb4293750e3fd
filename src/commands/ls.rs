//! `hypermount ls`.

use std::fmt::Write;

use drive::stat::TYPE_MASK;
use drive::{Entry, Kind, Name};

use super::print_json;
use super::stat::Described;
use crate::cli::Ls;
use crate::failure::{Context, Result};
use crate::session::{Place, Session};
use crate::terminal::{self, date, escaped};

pub async fn run(args: &Ls) -> Result {
    let session = Session::open(&args.target, &args.source).await?;
    let place = session.find(&args.path).await?;
    let entries = entries(&session, &place).await?;
    if args.json {
        let described: Vec<_> =
            entries.iter().map(|(name, entry)| Described::new(name, entry)).collect();
        return print_json(&described);
    }
    let mut out = String::new();
    for (name, entry) in &entries {
        match (args.zero, args.long) {
            (true, _) => {
                out.push_str(name);
                out.push('\0');
            }
            (false, true) => out.push_str(&long_line(name, entry)),
            (false, false) => {
                out.push_str(&escaped(name));
                out.push('\n');
            }
        }
    }
    terminal::print(out.as_bytes()).context(|| "print")
}

/// The children of a directory in the order of their names; of anything else, itself.
async fn entries(session: &Session, place: &Place) -> Result<Vec<(String, Entry)>> {
    if place.entry.kind != Kind::Directory {
        let name = place.path.name().unwrap_or_default().to_owned();
        return Ok(vec![(name, place.entry.clone())]);
    }
    let listed = place.snapshot.list(&place.path, session.wait).await;
    let mut listed: Vec<(Name, Entry)> = listed.context(|| place.path.to_string())?;
    listed.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(listed.into_iter().map(|(name, entry)| (name.as_str().to_owned(), entry)).collect())
}

/// `-rw-r--r-- 1000 1000     204800 2020-09-13T12:26:40Z name -> target`
fn long_line(name: &str, entry: &Entry) -> String {
    let stat = &entry.stat;
    let size = if entry.kind == Kind::File { stat.extent.size } else { 0 };
    let mut line = format!(
        "{} {:>5} {:>5} {size:>12} {} {}",
        mode_text(entry),
        stat.uid,
        stat.gid,
        date(stat.mtime),
        escaped(name)
    );
    if let Some(target) = stat.linkname.as_deref().filter(|_| entry.kind == Kind::Symlink) {
        let _ = write!(line, " -> {}", escaped(target)); // a String takes everything
    }
    if let Some(mount) = &stat.mount {
        let _ = write!(line, " => {}", crate::session::drive_url(&mount.key, mount.version));
    }
    line.push('\n');
    line
}

/// `drwxr-xr-x`, as ls(1) shows it.
pub fn mode_text(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::File => '-',
        Kind::Directory | Kind::Mount => 'd',
        Kind::Symlink => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharacterDevice => 'c',
        Kind::BlockDevice => 'b',
    };
    let mode = entry.stat.mode & !TYPE_MASK;
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
    use drive::Stat;

    fn entry(kind: Kind, mode: u32) -> Entry {
        Entry { kind, stat: Stat { mode, ..Stat::default() }, explicit: true }
    }

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
            assert_eq!(mode_text(&entry(kind, mode)), text);
        }
    }

    #[test]
    fn a_long_line_shows_where_a_link_points_and_nothing_raw() {
        let mut link = entry(Kind::Symlink, 0o120777);
        link.stat.linkname = Some("a\u{1b}]0;x".into());
        let line = long_line("l", &link);
        assert_eq!(
            line,
            "lrwxrwxrwx     0     0            0 1970-01-01T00:00:00Z l -> a\\x1b]0;x\n"
        );
    }
}
