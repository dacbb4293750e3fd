//! `hypermount create`: a new, empty drive whose keys derive from its name.

use drive::Drive;
use serde_json::json;

use super::print_json;
use crate::cli::Create;
use crate::failure::{Context, Failure, Result};
use crate::session::{drive_url, open_at, store_or_default};
use crate::target::Target;
use crate::terminal;

pub fn run(args: &Create) -> Result {
    let what = || format!("create {}", args.name);
    // A name that `mount` would take for something else could never be used.
    if !matches!(args.name.parse(), Ok(Target::Name(_))) {
        return Err(Failure::usage(what(), "that would be taken for a URL or a directory")
            .hint("a name is one word without slashes that is no directory here"));
    }
    let directory = store_or_default(args.store.as_deref())?;
    let store = open_at(&directory, true)?;
    if let Some(key) = store.named_key(args.name.as_bytes()).context(what)? {
        return Err(Failure::failed(what(), "there is one of that name already")
            .hint(format!("it is {}", drive_url(&key, None))));
    }
    let drive = Drive::create(&store, &args.name).context(what)?;
    drive.sync().context(what)?;
    let url = drive_url(drive.key(), None);
    if args.json {
        return print_json(&json!({ "url": url, "name": args.name, "store": directory }));
    }
    terminal::print_line(&url).context(|| "print")
}
