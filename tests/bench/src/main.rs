//! `bench` measures mounts: hypermount, the reference, a bare FUSE passthrough and the disk, in
//! one run, in turns. It is started by `scripts/bench`, which builds what it needs.
//!
//! It needs root (to empty the page cache and to mount), /dev/fuse, Node and git.

mod candidate;
mod data;
mod goals;
mod modern;
mod net;
mod process;
mod report;
mod session;
mod tools;
mod workload;

use candidate::{Candidate, Workshop};
use clap::Parser;
use data::{Data, DataSet};
use net::Net;
use report::{Machine, Results};
use session::{SESSIONS, Sample, Session, Turn};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tools::Tools;

#[derive(Parser)]
#[command(
    about = "Measure hypermount against the reference, a bare passthrough and the disk",
    after_help = "\
Examples:
  scripts/bench --quick                                    Everything once, 5 s a cell
  scripts/bench --only seek10 --only lsr_cold --net 20:100
  scripts/bench --modern                                   Hyperdrive 13 alone
  scripts/bench --repetitions 5 --document docs/benchmarks.md
  scripts/bench --from target/bench/results.json           Show the tables of a run again"
)]
struct Options {
    /// Only these measures (and those that must precede them)
    #[arg(long, value_name = "MEASURE")]
    only: Vec<String>,
    /// Only over these links
    #[arg(long, value_name = "NET", value_enum)]
    net: Vec<Net>,
    /// Only drives of Hyperdrive 13
    #[arg(long, conflicts_with = "net")]
    modern: bool,
    /// Only these candidates [default: all but hypermount-from-reference]
    #[arg(long, value_name = "CANDIDATE", value_enum)]
    candidates: Vec<Candidate>,
    /// How often everything is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    repetitions: u64,
    /// Seconds after which a workload is cut off and its figure marked with ~
    #[arg(long, value_name = "S", default_value_t = 15.0)]
    limit: f64,
    /// One repetition and a limit of 5 s
    #[arg(long)]
    quick: bool,
    /// Where data sets, scratch files, logs and results go
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    work: PathBuf,
    /// The program under test
    #[arg(long, value_name = "FILE", default_value = "target/release/hypermount")]
    hypermount: PathBuf,
    /// The directory of the reference's program, its packages installed
    #[arg(long, value_name = "DIR", default_value = "tests/bench/reference")]
    reference: PathBuf,
    /// Where all single figures go [default: results.json in the work directory]
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Write the document, too
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// Measure nothing; write the document without figures
    #[arg(long, requires = "document", conflicts_with = "from")]
    unmeasured: bool,
    /// Measure nothing; take the results of an earlier run
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

impl Options {
    fn wants(&self, measure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == measure)
    }

    fn wants_session(&self, session: &Session) -> bool {
        let derived = session.steps[0].name == "ttfb_cold"
            && ["mount", "cold_start"].iter().any(|measure| self.wants(measure));
        derived || session.steps.iter().any(|step| self.wants(step.name))
    }

    fn nets(&self) -> Vec<Net> {
        if self.modern {
            return Net::MODERN.to_vec();
        }
        if self.net.is_empty() { Net::ALL.to_vec() } else { self.net.clone() }
    }

    fn candidates(&self) -> Vec<Candidate> {
        if !self.candidates.is_empty() {
            return self.candidates.clone();
        }
        let usual = |candidate: &Candidate| *candidate != Candidate::HypermountFromReference;
        Candidate::ALL.into_iter().filter(usual).collect()
    }

    /// Every turn of the run, candidates next to each other, so that a disturbance affects all of them.
    fn turns(&self) -> Vec<Turn<'static>> {
        let (repetitions, limit) =
            if self.quick { (1, self.limit.min(5.0)) } else { (self.repetitions, self.limit) };
        let mut turns = Vec::new();
        for repetition in 0..repetitions {
            for session in SESSIONS.iter().filter(|session| self.wants_session(session)) {
                for net in self.nets().into_iter().filter(|net| session.nets.contains(net)) {
                    for candidate in self.candidates().into_iter().filter(|c| c.runs_on(net)) {
                        let limit = Duration::from_secs_f64(limit);
                        turns.push(Turn { session, net, candidate, repetition, limit });
                    }
                }
            }
        }
        turns
    }
}

fn workshop(options: &Options, sets: &[DataSet]) -> io::Result<Workshop> {
    fs::create_dir_all(&options.work)?;
    // Children work in other directories.
    let work = fs::canonicalize(&options.work)?;
    let (scratch, data) = (work.join("run"), work.join("data"));
    fs::create_dir_all(&scratch)?;
    fs::create_dir_all(&data)?;
    let reference = fs::canonicalize(&options.reference).map_err(|error| {
        io::Error::new(error.kind(), format!("{}: {error}", options.reference.display()))
    })?;
    let hypermount = std::path::absolute(&options.hypermount)?;
    let shop = Workshop {
        tools: Tools::find(hypermount, reference, &work)?,
        data: Data::new(data),
        logs: process::Logs::new(work.join("log"))?,
        scratch,
    };
    for set in sets {
        shop.data.make(*set, &shop.tools, &shop.logs)?;
    }
    if sets.contains(&DataSet::Seedling) {
        shop.data.make_archive(&shop.logs)?;
        shop.data.make_repository(&shop.logs)?;
    }
    Ok(shop)
}

/// The data sets of the turns, and those the archive and the repository are made of.
fn data_sets(turns: &[Turn]) -> Vec<DataSet> {
    let used = |set: DataSet| turns.iter().any(|turn| turn.session.set == set);
    let writes = used(DataSet::Seedling);
    let trees = [DataSet::Tree10k, DataSet::Tree1k];
    DataSet::ALL.into_iter().filter(|set| used(*set) || writes && trees.contains(set)).collect()
}

fn measure(options: &Options, stop: &AtomicBool) -> io::Result<Results> {
    let turns = options.turns();
    if turns.is_empty() {
        return Err(io::Error::other("no measure of that name exists there"));
    }
    let shop = workshop(options, &data_sets(&turns))?;
    let machine = Machine::here();
    let mut samples = Vec::new();
    for (number, turn) in turns.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let found = turn.run(&shop, |measure| options.wants(measure));
        found.iter().for_each(|sample| tell(sample, number + 1, turns.len()));
        samples.extend(found);
    }
    eprintln!("the output of the processes is in {}", shop.logs.path().display());
    let repetitions = turns.last().map_or(0, |turn| turn.repetition + 1);
    let limit_seconds = turns.first().map_or(0.0, |turn| turn.limit.as_secs_f64());
    let machine = Machine { load: [machine.load[0].clone(), report::load()], ..machine };
    let command = std::env::args().skip(1).collect();
    Ok(Results { machine, command, repetitions, limit_seconds, samples })
}

fn tell(sample: &Sample, number: usize, of: usize) {
    let value = sample.value.map_or("-".into(), |value| format!("{value:.3}"));
    let (cut, fault) = (if sample.cut { "~" } else { "" }, sample.fault.as_deref().unwrap_or(""));
    eprintln!(
        "[{number}/{of}] {} {} {}: {value}{cut} {} {fault}",
        sample.net, sample.candidate, sample.measure, sample.unit
    );
}

fn keep(results: &Results, options: &Options) -> io::Result<()> {
    let path = options.results.clone().unwrap_or_else(|| options.work.join("results.json"));
    fs::write(&path, serde_json::to_string_pretty(results)?)?;
    eprintln!("results are in {}", path.display());
    Ok(())
}

/// The first SIGINT or SIGTERM lets the run end in good order, the second ends it at once. Handlers,
/// not a signal mask: children would inherit that.
fn stop_on_signals(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(())
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    if let (true, Some(path)) = (options.unmeasured, &options.document) {
        return fs::write(path, report::document("No run has been recorded yet."));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let results = match &options.from {
        Some(path) => serde_json::from_str(&fs::read_to_string(path)?)?,
        None => {
            stop_on_signals(&stop)?;
            let results = measure(&options, &stop)?;
            keep(&results, &options)?;
            results
        }
    };
    print!("{}", results.tables());
    if let Some(path) = &options.document {
        fs::write(path, results.document())?;
    }
    Ok(())
}
