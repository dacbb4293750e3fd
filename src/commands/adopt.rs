//! `hypermount adopt`.

use hypermount_core::StopReason;

use crate::cli::Adopt;
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::stored::open_store;
use crate::terminal::escaped;

pub fn run(args: &Adopt) -> Result {
    let directory = directories::store(args.store.as_deref())?;
    let store = open_store(&directory, false)?;
    let what = || format!("adopt {}", directory.display());
    if store.is_foreign() {
        let why = "it is a store of another program (Corestore 6), which is only read here";
        return Err(Failure::failed(what(), why)
            .hint("write its drives with that program; `hypermount export` copies them out"));
    }
    let reasons = store.stop_reasons().context(what)?;
    if reasons.is_clear() {
        eprintln!("nothing to adopt: the drives of this store can be written");
        return Ok(());
    }
    if let Some(stop) = reasons.store {
        eprintln!("{}: {}", escaped(&directory.display().to_string()), stop.reason());
    }
    for (core, stop) in &reasons.cores {
        eprintln!("core {}: {}", core.to_hex(), stop.reason());
        if let StopReason::Behind { length } = stop {
            eprintln!("  that history has {length} blocks");
        }
    }
    eprintln!(
        "Adopting makes this copy of the store the writable one. If another copy was or will be \
        written, its drives are forked: readers keep the history that they saw first and refuse the other."
    );
    store.adopt(args.force).context(what).map_err(|failure| {
        failure.hint("fetch the rest first: hypermount export URL DIR --peer HOST:PORT; or --force")
    })?;
    eprintln!("adopted; the drives can be written from now on");
    Ok(())
}
