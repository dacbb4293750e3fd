//! `hypermount cat`.

use drive::core::demand::Urgency;

use crate::cli::Cat;
use crate::failure::{Context, Failure, Result};
use crate::session::{Place, Session};
use crate::terminal;

/// How much is read at once, and how far ahead peers are asked, in bytes.
const CHUNK: u64 = 1024 * 1024;
const AHEAD: u64 = 4 * CHUNK;

pub async fn run(args: &Cat) -> Result {
    let session = Session::open(&args.target, &args.source).await?;
    if args.paths.is_empty() && session.path.is_root() {
        return Err(Failure::usage("cat", "no file named")
            .hint("hypermount cat hyper://KEY/path, or hypermount cat DIR path"));
    }
    let own = [String::new()];
    let paths = if args.paths.is_empty() { &own[..] } else { &args.paths[..] };
    for path in paths {
        let place = session.find(path).await?;
        place.must_be_file()?;
        print(&session, &place).await?;
    }
    Ok(())
}

async fn print(session: &Session, place: &Place) -> Result {
    let extent = place.entry.stat.extent;
    let terminal = terminal::stdout_is_terminal();
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
            let shown = if terminal { terminal::escaped_content(&piece).into() } else { piece };
            terminal::print(&shown).context(|| "print")?;
        }
        at = end;
    }
    Ok(())
}
