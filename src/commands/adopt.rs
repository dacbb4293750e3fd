//! `hypermount adopt`.

use std::path::Path;

use hypermount_core::{StopReason, Store};

use crate::cli::Adopt;
use crate::directories;
use crate::failure::{Context, Result};
use crate::stored::{identity, open_store};
use crate::terminal::escaped;

pub fn run(args: &Adopt) -> Result {
    let directory = directories::store(args.store.as_deref())?;
    let store = open_store(&directory, false)?;
    let what = || format!("adopt {}", directory.display());
    if store.is_foreign() {
        // Its lock is taken for writing next, which the one for reading would keep out.
        drop(store);
        return adopt_from_program(&directory).context(what);
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

/// Makes the drives of a store of Corestore 6 writable here.
fn adopt_from_program(directory: &Path) -> hypermount_core::Result<()> {
    eprintln!(
        "{} is a store of another program (Corestore 6, as `drives` has it). Adopting makes its drives writable here \
         too, in their own format. That program can still use the store, but not while hypermount has it open. \
         Do not write to another copy of this store.",
        escaped(&directory.display().to_string())
    );
    Store::adopt_from_program(directory, &identity())?;
    eprintln!("adopted; the drives can be written from now on");
    Ok(())
}
