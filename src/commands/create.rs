//! `hypermount create`: a new, empty drive whose keys derive from its name.

use drive::{Drive, Store};
use serde_json::json;

use super::print_json;
use crate::cli::Create;
use crate::config;
use crate::failure::{Context, Failure, Result};
use crate::session::drive_url;
use crate::target::Target;
use crate::terminal;

pub fn run(args: &Create) -> Result {
    let what = || format!("create {}", args.name);
    // A name that `mount` would take for something else could never be used.
    if !matches!(args.name.parse(), Ok(Target::Name(_))) {
        return Err(Failure::usage(what(), "that would be taken for a URL or a directory")
            .hint("a name is one word without slashes that is no directory here"));
    }
    let directory = args.store.clone().map_or_else(config::default_store, Ok)?;
    let store = Store::open(&directory, true)
        .context(|| format!("open the store {}", directory.display()))?;
    let key = store.key_named(args.name.as_bytes());
    let known = store.find(&key.discovery_key()).context(what)?;
    if known.is_some_and(|core| core.head().length > 0) {
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
