//! `hypermount import` and `hypermount export`: print the forecast, the progress and the result. The
//! process that has the store open does the copying.

use std::io::{IsTerminal, stderr};
use std::path::Path;

use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::print_json;
use crate::access::{Access, Remote};
use crate::answers::{self, Progress, StepKind, Summary};
use crate::cli::{Export, Import};
use crate::client;
use crate::failure::{Code, Context, Failure, Result};
use crate::source::Source;
use crate::terminal::{escaped, is_dumb, size};

pub async fn run_import(args: &Import) -> Result {
    let source = Source::of_store(args.store.clone());
    let mut asked = answers::Import {
        directory: args.directory.clone(),
        path: String::new(),
        checksum: args.checksum,
        delete: args.delete,
        dry_run: args.dry_run,
        ignore_files: args.ignore_file.clone(),
    };
    let mut shown = Shown::new(args.dry_run, args.json);
    let summary = match Access::open_path(&args.drive, &source).await? {
        Access::Local(session) => {
            answers::import(&session, &asked, &mut |progress| shown.tell(&progress)).await
        }
        Access::Remote(remote) => {
            asked.directory = absolute(&args.directory)?;
            asked.path = remote.path.as_str().to_owned();
            asked.ignore_files =
                args.ignore_file.iter().map(|file| absolute(file)).collect::<Result<_>>()?;
            copy(&remote, "import", &asked, &mut shown).await
        }
    };
    shown.finish();
    conclude(&summary?, args.json, "import")
}

pub async fn run_export(args: &Export) -> Result {
    let source: &Source = &args.source;
    let mut asked = answers::Export {
        directory: args.directory.clone(),
        path: String::new(),
        checksum: args.checksum,
        delete: args.delete,
        devices: args.devices,
        dry_run: args.dry_run,
        // Only a bar needs to know beforehand.
        measure: stderr().is_terminal(),
        peers: source.peers.clone(),
        wait: source.wait.map(|wait| wait.to_string()),
        find: Default::default(),
    };
    let mut shown = Shown::new(args.dry_run, args.json);
    let summary = match Access::open_path(&args.drive, source).await? {
        Access::Local(session) => {
            answers::export(&session, &asked, &mut |progress| shown.tell(&progress)).await
        }
        Access::Remote(remote) => {
            asked.directory = absolute(&args.directory)?;
            if !asked.dry_run {
                // Made here, because the daemon does not know this user's permissions for new directories.
                let what = || format!("make {}", args.directory.display());
                std::fs::create_dir_all(&asked.directory).context(what)?;
            }
            asked.path = remote.path.as_str().to_owned();
            asked.find = remote.find.clone();
            copy(&remote, "export", &asked, &mut shown).await
        }
    };
    shown.finish();
    conclude(&summary?, args.json, "export")
}

/// Makes the daemon copy, and shows the progress that it reports.
async fn copy(
    remote: &Remote,
    what: &str,
    asked: &impl Serialize,
    shown: &mut Shown,
) -> Result<Summary> {
    let path = client::plain(&["drives", &remote.drive, what]);
    let mut ended = None;
    let take = |progress: Progress| {
        match progress {
            Progress::Done { summary } => ended = Some(Ok(summary)),
            Progress::Failed { failure } => ended = Some(Err(failure)),
            progress => shown.tell(&progress),
        }
        Ok(true)
    };
    remote.client.lines(Method::POST, &path, asked, take).await?;
    ended.unwrap_or_else(|| Err(Failure::failed(what, "the daemon ended before it was done")))
}

fn absolute(path: &Path) -> Result<std::path::PathBuf> {
    std::path::absolute(path).context(|| format!("find {}", path.display()))
}

/// Prints what was done, and fails if not everything was.
fn conclude(summary: &Summary, as_json: bool, what: &str) -> Result {
    match as_json {
        true => print_json(summary)?,
        false => describe(summary),
    }
    outcome(summary, what)
}

/// Prints what was done.
pub(super) fn describe(summary: &Summary) {
    for trouble in &summary.troubles {
        let sign = if trouble.missing { "missing" } else { "not wholly copied" };
        eprintln!("{sign}: {}: {}", escaped(&trouble.path), escaped(&trouble.why));
    }
    eprintln!(
        "{}{} files ({}) copied, {} updated, {} directories and {} links made{}, {} removed, \
             {} unchanged",
        if summary.dry_run { "would be: " } else { "" },
        summary.files,
        size(summary.bytes),
        summary.updated,
        summary.directories,
        summary.symlinks,
        specials(summary.specials),
        summary.deleted,
        summary.unchanged
    );
}

/// Fails if not everything was done.
pub(super) fn outcome(summary: &Summary, what: &str) -> Result {
    if summary.missing_count > 0 {
        let why = format!("{} entries are not here and no peer sent them", summary.missing_count);
        return Err(Failure::new(Code::Unavailable, what, why)
            .hint("name a peer that has them with --peer HOST:PORT, and run this again"));
    }
    if summary.trouble_count > 0 {
        let why = format!("{} entries were not copied, or not wholly", summary.trouble_count);
        return Err(Failure::failed(what, why));
    }
    Ok(())
}

/// The number of fifos, sockets and devices that were made, if any were.
fn specials(count: u64) -> String {
    if count == 0 { String::new() } else { format!(", {count} special files") }
}

/// A bar on a terminal; the list of what would be done in a dry run.
pub(super) struct Shown {
    bar: ProgressBar,
    list: bool,
    /// Only JSON is printed.
    quiet: bool,
}

impl Shown {
    pub(super) fn new(dry_run: bool, quiet: bool) -> Self {
        if dry_run || !stderr().is_terminal() || is_dumb() {
            return Self { bar: ProgressBar::hidden(), list: dry_run, quiet };
        }
        let bar = ProgressBar::new(0);
        let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, list: false, quiet }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    pub(super) fn tell(&mut self, progress: &Progress) {
        match progress {
            Progress::Forecast { growth, available, files, others } if !self.quiet => self.say(&format!(
                "up to {} more in the store ({} free): {files} files with new content, {others} \
                 other changes",
                size(*growth),
                size(*available),
            )),
            Progress::Expected { bytes } => self.bar.set_length(*bytes),
            Progress::Bytes { count } => self.bar.inc(*count),
            Progress::Step { path, step } => self.step(path, *step),
            Progress::Forecast { .. } | Progress::Done { .. } | Progress::Failed { .. } => {}
        }
    }

    /// Above the bar, if there is one.
    fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    fn step(&mut self, path: &str, step: StepKind) {
        self.bar.set_message(escaped(path).into_owned());
        let what = match step {
            StepKind::Copy => "copy",
            StepKind::Update => "update",
            StepKind::Make => "make",
            StepKind::Link => "link",
            StepKind::Remove => "remove",
            StepKind::Unchanged => return,
        };
        if self.list {
            self.say(&format!("would {what} {}", escaped(path)));
        }
    }
}
