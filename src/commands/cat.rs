//! `hypermount cat`.

use hypermount_core::hypercore::demand::Urgency;

use crate::access::Access;
use crate::cli::Cat;
use crate::failure::{Context, Failure, Result};
use crate::session::{Place, Session};
use crate::terminal;

/// Bytes that are read at once, and bytes that are requested ahead of the output.
const CHUNK: u64 = 1024 * 1024;
const AHEAD: u64 = 4 * CHUNK;

pub async fn run(args: &Cat) -> Result {
    let reached = Access::open(&args.target, &args.source).await?;
    let within = match &reached {
        Access::Local(session) => &session.path,
        Access::Remote(remote) => &remote.path,
    };
    if args.paths.is_empty() && within.is_root() {
        return Err(Failure::usage("cat", "no file named")
            .hint("hypermount cat hyper://KEY/path, or hypermount cat DIR path"));
    }
    let own = [String::new()];
    let paths = if args.paths.is_empty() { &own[..] } else { &args.paths[..] };
    for path in paths {
        match &reached {
            Access::Local(session) => {
                let place = session.find(path).await?;
                place.must_be_file()?;
                print(session, &place).await?;
            }
            Access::Remote(remote) => {
                remote.client.pieces(&remote.about(&["content"], path)?, show).await?;
            }
        }
    }
    Ok(())
}

async fn print(session: &Session, place: &Place) -> Result {
    let extent = place.entry.stat.extent;
    let mut at = 0;
    while at < extent.size {
        let end = at.saturating_add(CHUNK).min(extent.size);
        place.drive.prefetch(
            &extent,
            end..end.saturating_add(AHEAD).min(extent.size),
            Urgency::Ahead,
        );
        let pieces = place.drive.read(&extent, at..end, session.wait).await;
        for piece in pieces.context(|| place.path.to_string())? {
            show(&piece)?;
        }
        at = end;
    }
    Ok(())
}

/// Prints the bytes as they are; on a terminal, escapes control characters.
fn show(piece: &[u8]) -> Result {
    if terminal::stdout_is_terminal() {
        return terminal::print(&terminal::escaped_content(piece)).context(|| "print");
    }
    terminal::print(piece).context(|| "print")
}
