//! `hypermount limit`: how fast the daemon's bytes may flow.

use hyper::Method;

use super::print_json;
use crate::cli::LimitRates;
use crate::client::{self, ANSWER_LIMIT};
use crate::config::RateLimit;
use crate::daemon::model::Limits;
use crate::failure::{Context, Failure, Result};
use crate::mounted::find;
use crate::reach::Wanted;
use crate::session::store_or_default;
use crate::terminal::{self, size};

pub async fn run(args: &LimitRates) -> Result {
    let (store, path) = match &args.what {
        None => (store_or_default(args.store.as_deref())?, "/limits".to_owned()),
        Some(what) => {
            let (target, source) = find(what, args.store.clone())?;
            let wanted = Wanted::of_target(&target, &source)?;
            (wanted.store, client::plain(&["drives", &wanted.drive, "limits"]))
        }
    };
    let client = client::find(&store).await?.ok_or_else(|| {
        Failure::failed("limit", format!("no daemon runs for {}", store.display()))
            .hint("mount or seed a drive first; `serve` takes --up and --down itself")
    })?;
    let mut limits: Limits = client.ask(Method::GET, &path, &(), Some(ANSWER_LIMIT)).await?;
    if args.rates.up.is_some() || args.rates.down.is_some() {
        let changed = |said: Option<RateLimit>, now| said.map_or(now, |RateLimit(rate)| rate);
        limits.up = changed(args.rates.up, limits.up);
        limits.down = changed(args.rates.down, limits.down);
        limits = client.ask(Method::PUT, &path, &limits, Some(ANSWER_LIMIT)).await?;
    }
    if args.json {
        return print_json(&limits);
    }
    let text = format!("up    {}\ndown  {}", rate(limits.up), rate(limits.down));
    terminal::print_line(&text).context(|| "print")
}

/// A limit for people.
pub fn rate(limit: Option<u64>) -> String {
    limit.map_or_else(|| "none".to_owned(), |rate| format!("{}/s", size(rate)))
}
