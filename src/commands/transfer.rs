//! `hypermount import` and `hypermount export`: opening the drive, saying what will happen and what
//! did. The copying itself is `drive::transfer`.

use std::io::{IsTerminal, stderr};

use drive::transfer::{
    ExportOptions, ImportOptions, Observer, Report, Step, export as copy_out, import as copy_in,
    measure,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::print_json;
use crate::cli::{Export, Import};
use crate::failure::{Code, Context, Failure, Result};
use crate::session::Session;
use crate::terminal::{escaped, is_dumb, size};

/// Bytes of an index entry and its share of the tree, about; for the forecast only.
const ENTRY_BYTES: u64 = 400;

pub async fn run_import(args: &Import) -> Result {
    let session = Session::open_named(&args.drive, args.store.as_deref(), None).await?;
    let what = || format!("import {} into {}", args.directory.display(), args.drive);
    let options = ImportOptions {
        checksum: args.checksum,
        delete: args.delete,
        dry_run: args.dry_run,
        estimate: false,
        ignore_files: args.ignore_file.clone(),
    };
    let expected = forecast(&session, args, &options).await?;
    let mut shown = Shown::new(args.dry_run, expected);
    let report =
        copy_in(&args.directory, &session.drive, &session.path, &options, &mut shown).await;
    shown.finish();
    conclude(&report.context(what)?, args.dry_run, args.json, "import")
}

/// Looks what there is to do without reading any content: says how much the store will grow, and
/// refuses what cannot fit. The bytes to go through.
async fn forecast(session: &Session, args: &Import, options: &ImportOptions) -> Result<u64> {
    let what = || format!("look at {}", args.directory.display());
    let options = ImportOptions { dry_run: true, estimate: true, ..options.clone() };
    let mut counted = Counted(0);
    let (drive, path) = (&session.drive, &session.path);
    let report =
        copy_in(&args.directory, drive, path, &options, &mut counted).await.context(what)?;
    let entries = report.files + report.updated + report.directories + report.symlinks;
    let growth = report.bytes + entries * ENTRY_BYTES;
    let space = session.store.space().context(what)?;
    if !report.is_idle() && !args.json {
        eprintln!(
            "up to {} more in the store ({} free): {} files with new content, {} other changes",
            size(growth),
            size(space.available),
            report.files,
            report.updated + report.directories + report.symlinks + report.deleted
        );
    }
    if growth > space.available && !args.dry_run {
        let why = format!("it takes up to {} and {} are free", size(growth), size(space.available));
        return Err(Failure::failed(what(), why));
    }
    Ok(report.bytes.saturating_add(counted.0))
}

pub async fn run_export(args: &Export) -> Result {
    let source = &args.source;
    let session = Session::open_named(&args.drive, source.store.as_deref(), Some(source)).await?;
    let what = || format!("export {} to {}", args.drive, args.directory.display());
    let (drive, path) = (&session.drive, &session.path);
    let mut expected = 0;
    // Only a bar needs to know beforehand.
    if stderr().is_terminal() && !args.dry_run {
        expected = measure(drive, path, session.wait).await.context(what)?.bytes;
    }
    let options =
        ExportOptions { checksum: args.checksum, delete: args.delete, dry_run: args.dry_run };
    let mut shown = Shown::new(args.dry_run, expected);
    let report = copy_out(drive, path, &args.directory, &options, session.wait, &mut shown).await;
    shown.finish();
    conclude(&report.context(what)?, args.dry_run, args.json, "export")
}

/// Says what was done, and fails if not everything was.
fn conclude(report: &Report, dry_run: bool, as_json: bool, what: &str) -> Result {
    if as_json {
        let troubles: Vec<_> = report
            .troubles
            .iter()
            .map(|t| json!({ "path": t.path, "why": t.why, "missing": t.missing }))
            .collect();
        print_json(&json!({
            "dry_run": dry_run, "files": report.files, "bytes": report.bytes,
            "updated": report.updated, "directories": report.directories,
            "symlinks": report.symlinks, "deleted": report.deleted,
            "unchanged": report.unchanged, "troubles": troubles,
            "trouble_count": report.trouble_count, "missing_count": report.missing_count,
        }))?;
    } else {
        for trouble in &report.troubles {
            let sign = if trouble.missing { "missing" } else { "not copied" };
            eprintln!("{sign}: {}: {}", escaped(&trouble.path), escaped(&trouble.why));
        }
        eprintln!(
            "{}{} files ({}) copied, {} updated, {} directories and {} links made, {} removed, \
             {} unchanged",
            if dry_run { "would be: " } else { "" },
            report.files,
            size(report.bytes),
            report.updated,
            report.directories,
            report.symlinks,
            report.deleted,
            report.unchanged
        );
    }
    if report.missing_count > 0 {
        let why = format!("{} entries are not here and no peer sent them", report.missing_count);
        return Err(Failure::new(Code::Unavailable, what, why)
            .hint("name a peer that has them with --peer HOST:PORT, and run this again"));
    }
    if report.trouble_count > 0 {
        let why = format!("{} entries were not copied", report.trouble_count);
        return Err(Failure::failed(what, why));
    }
    Ok(())
}

/// Counts the bytes that need no copying.
struct Counted(u64);

impl Observer for Counted {
    fn step(&mut self, _: &str, _: Step) {}

    fn bytes(&mut self, count: u64) {
        self.0 = self.0.saturating_add(count);
    }
}

/// A bar on a terminal; the list of what would be done in a dry run.
struct Shown {
    bar: ProgressBar,
    list: bool,
}

impl Shown {
    fn new(dry_run: bool, bytes: u64) -> Self {
        if dry_run || !stderr().is_terminal() || is_dumb() {
            return Self { bar: ProgressBar::hidden(), list: dry_run };
        }
        let bar = ProgressBar::new(bytes);
        let template = "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {wide_msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, list: false }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Shown {
    fn step(&mut self, path: &str, step: Step) {
        self.bar.set_message(escaped(path).into_owned());
        let what = match step {
            Step::Content(_) => "copy",
            Step::Metadata => "update",
            Step::Directory => "make",
            Step::Symlink => "link",
            Step::Delete => "remove",
            Step::Unchanged => return,
        };
        if self.list {
            eprintln!("would {what} {}", escaped(path));
        }
    }

    fn bytes(&mut self, count: u64) {
        self.bar.inc(count);
    }
}
