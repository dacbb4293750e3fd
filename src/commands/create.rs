//! `hypermount create`: a new, empty drive whose keys derive from its name.

use hyper::Method;

use super::print_json;
use crate::answers::{self, Created};
use crate::cli::Create;
use crate::client::{self, ANSWER_LIMIT};
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::{CreateRequest, DEFAULT_FORMAT, NewFormat};
use crate::stored::open_store;
use crate::target::ONLY;
use crate::target::Target;
use crate::terminal;

pub async fn run(args: &Create) -> Result {
    // `mount` would take such a name for a URL or a directory, so the drive could not be named.
    if !matches!(args.name.parse(), Ok(Target::Name(_))) || args.name == ONLY {
        let what = format!("create {}", args.name);
        return Err(Failure::usage(what, "that would be taken for a URL or a directory")
            .hint("a name is one word without slashes that is no directory here"));
    }
    let format = args.format.unwrap_or(if args.encrypted {
        NewFormat::Hyperdrive13
    } else {
        DEFAULT_FORMAT
    });
    let asked = CreateRequest { name: args.name.clone(), format, encrypted: args.encrypted };
    let directory = directories::store(args.store.as_deref())?;
    let created: Created = match client::find(&directory).await? {
        Some(client) => client.ask(Method::POST, "/drives", &asked, Some(ANSWER_LIMIT)).await?,
        None => {
            let store = open_store(&directory, true)?;
            answers::create(&store, &directory, &asked)?
        }
    };
    if args.json {
        return print_json(&created);
    }
    terminal::print_line(&created.url).context(|| "print")?;
    if args.encrypted {
        eprintln!(
            "peers need its encryption key as well: hypermount share --with-key {}",
            args.name
        );
    }
    Ok(())
}
