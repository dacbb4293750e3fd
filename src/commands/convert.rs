//! `hypermount convert`: shows the plan, asks, and shows the progress. The process that has the store open converts.

use std::io::{IsTerminal, stderr, stdin};

use hyper::Method;

use super::print_json;
use super::transfer::{Shown, describe, outcome};
use crate::access::Access;
use crate::answers::{self, Convert as Asked, Converting, Moved, Note, Plan, Progress};
use crate::cli::Convert;
use crate::client;
use crate::failure::{Context, Failure, Result};
use crate::target::{Target, drive_of_mount};
use crate::terminal::{self, escaped, size};

/// Entries without a place in the new format that are named; further ones are counted.
const MAX_NAMED: usize = 20;

pub async fn run(args: &Convert) -> Result {
    let (mut target, mut source) = (args.target.clone(), args.source.clone());
    if let Target::Directory(path) = &target
        && let Some((mounted, from)) = drive_of_mount(path)?
    {
        (target, source.store) = (mounted, from.store);
    }
    let access = Access::open(&target, &source).await?;
    let mut asked = Asked {
        to: args.to,
        name: args.name.clone(),
        dry_run: true,
        no_note: args.no_note,
        peers: source.peers.clone(),
        wait: source.wait.map(|wait| wait.to_string()),
        find: Default::default(),
    };
    if let Access::Remote(remote) = &access {
        asked.find = remote.find.clone();
        if !remote.path.is_root() {
            let what = format!("convert {target}");
            return Err(Failure::usage(what, "a drive is converted whole")
                .hint("leave the path off the URL"));
        }
    }
    let mut planned = None;
    let keep = &mut |progress| {
        if let Converting::Planned { plan } = progress {
            planned = Some(plan);
        }
    };
    carry_out(&access, &asked, keep).await?;
    let plan = planned.ok_or_else(|| Failure::failed("convert", "the daemon sent no plan"))?;
    match args.json {
        true if args.dry_run => return print_json(&plan),
        true => {}
        false => show(&plan),
    }
    if args.dry_run {
        return Ok(());
    }
    if !args.yes && !plan.is_idle() {
        confirm(&plan)?;
    }
    asked.dry_run = false;
    // What was shown is done, also if the daemon finds another name now.
    asked.name = Some(plan.name.clone());
    let mut shown = Shown::new(false, args.json);
    shown.tell(&Progress::Expected { bytes: plan.bytes });
    let show = &mut |progress| match progress {
        Converting::Step { path, step } => shown.tell(&Progress::Step { path, step }),
        Converting::Bytes { count } => shown.tell(&Progress::Bytes { count }),
        Converting::Planned { .. } | Converting::Done { .. } | Converting::Failed { .. } => {}
    };
    let moved = carry_out(&access, &asked, show).await;
    shown.finish();
    let moved =
        moved?.ok_or_else(|| Failure::failed("convert", "the daemon ended before it was done"))?;
    report(&moved, args.json)
}

/// Has the conversion done, or planned, where the store is open.
async fn carry_out(
    access: &Access,
    asked: &Asked,
    tell: answers::TellConverting<'_>,
) -> Result<Option<Moved>> {
    let remote = match access {
        Access::Local(session) => return answers::convert(session, asked, tell).await,
        Access::Remote(remote) => remote,
    };
    let path = client::plain(&["drives", &remote.drive, "convert"]);
    let mut ended = Ok(None);
    let take = |progress: Converting| {
        match progress {
            Converting::Done { moved } => ended = Ok(Some(*moved)),
            Converting::Failed { failure } => ended = Err(failure),
            progress => tell(progress),
        }
        Ok(true)
    };
    remote.client.lines(Method::POST, &path, asked, take).await?;
    ended
}

/// Says what the conversion will do, before it begins.
fn show(plan: &Plan) {
    let name = escaped(&plan.name);
    match (&plan.url, plan.finished) {
        _ if plan.is_idle() => {
            eprintln!("{name} has all of version {} of {}", plan.version, plan.from);
            return;
        }
        (None, _) => eprintln!(
            "{} (version {}) becomes a new drive of Hyperdrive {}, {name}. It has a new key and a new URL: readers of \
             the old URL have to be told.",
            plan.from, plan.version, plan.to
        ),
        (Some(url), false) => eprintln!(
            "resumes: {name} ({url}) has a part of {} (version {})",
            plan.from, plan.version
        ),
        (Some(url), true) => eprintln!(
            "{name} ({url}) gets what has changed in {} (version {})",
            plan.from, plan.version
        ),
    }
    eprintln!(
        "{} files ({}) and {} other changes are copied, which takes up to {} in the store ({} free); drives cannot share \
         blocks.",
        plan.files,
        size(plan.bytes),
        plan.others,
        size(plan.growth),
        size(plan.available),
    );
    if plan.fetched > 0 {
        eprintln!(
            "{} of that are not on this disk, and are fetched from peers.",
            size(plan.fetched)
        );
    }
    if plan.note {
        eprintln!(
            "In the end a note in the old drive tells its readers the new URL (--no-note: none)."
        );
    }
    left_out(&plan.left_out, plan.left_out_count);
}

fn left_out(entries: &[answers::TroubleFound], count: u64) {
    for entry in entries.iter().take(MAX_NAMED) {
        eprintln!("left out: /{}: {}", escaped(&entry.path), escaped(&entry.why));
    }
    if count > 0 {
        eprintln!(
            "{count} entries, or parts of them, have no place in the new format and are left out"
        );
    }
}

/// Asks on the terminal; without one it fails.
fn confirm(plan: &Plan) -> Result {
    let what = || format!("convert {}", plan.from);
    if !stdin().is_terminal() || !stderr().is_terminal() {
        let why = "it was not confirmed, and there is no terminal to ask on";
        return Err(Failure::usage(what(), why).hint("add --yes to do what is said above"));
    }
    eprint!("Convert it? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).context(what)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::failed(what(), "not confirmed; nothing was changed")),
    }
}

/// Prints the URL of the new drive, and what became of the old one; fails if something was not copied.
fn report(moved: &Moved, as_json: bool) -> Result {
    if as_json {
        print_json(moved)?;
        return outcome(&moved.copied, "convert");
    }
    describe(&moved.copied);
    if moved.others > 0 {
        eprintln!("{} further names of files, fifos, sockets and devices", moved.others);
    }
    if moved.kept > 0 {
        eprintln!(
            "{} entries were changed in the new drive, and stay as they are there",
            moved.kept
        );
    }
    left_out(&[], moved.left_out_count);
    match moved.note {
        Note::Written => eprintln!("a note in the old drive names the new one (MOVED.txt)"),
        Note::WithoutFile => eprintln!(
            "a note in the old drive names the new one, to hypermount only: MOVED.txt there is a file of your own"
        ),
        Note::ReadOnly => eprintln!(
            "no note: the old drive cannot be written here. Tell its readers the new URL yourself."
        ),
        Note::Unfinished => {
            eprintln!("no note in the old drive, because not everything was copied")
        }
        Note::None => {}
    }
    terminal::print_line(&moved.url).context(|| "print")?;
    outcome(&moved.copied, "convert")
}
