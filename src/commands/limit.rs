//! `hypermount limit`: the rate limits of the daemon.

use hyper::Method;

use super::print_json;
use crate::cli::LimitRates;
use crate::client::{self, ANSWER_LIMIT};
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::Limits;
use crate::target::{Location, drive_or_mount};
use crate::terminal::{self, size};
use crate::values::RateLimit;

pub async fn run(args: &LimitRates) -> Result {
    let (store, path) = match &args.what {
        None => (directories::store(args.store.as_deref())?, "/limits".to_owned()),
        Some(what) => {
            let (target, source) = drive_or_mount(what, args.store.clone())?;
            let location = Location::of(&target, &source)?;
            (location.store, client::plain(&["drives", &location.drive, "limits"]))
        }
    };
    let client = client::find(&store).await?.ok_or_else(|| {
        Failure::failed("limit", format!("no daemon runs for {}", store.display()))
            .hint("mount or seed a drive first; `serve` takes --up and --down itself")
    })?;
    let mut limits: Limits = client.ask(Method::GET, &path, &(), Some(ANSWER_LIMIT)).await?;
    if args.rates.up.is_some() || args.rates.down.is_some() {
        let changed = |given: Option<RateLimit>, now| given.map_or(now, |RateLimit(rate)| rate);
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
