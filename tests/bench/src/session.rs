//! Sessions: a fresh mount and the workloads that run on it, one after the other.

use crate::candidate::{self, Candidate, Mounted, Workshop};
use crate::data::DataSet;
use crate::modern;
use crate::net::Net;
use crate::process::Watchdog;
use crate::workload::{self as work, Bench, Outcome, Step};
use hypermount_bench::counters::Traffic;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::time::Duration;

const LINKS: &[Net] = &[Net::Loopback, Net::Near, Net::Far];
const WRITTEN: &[Net] = &[Net::Local, Net::ModernLocal];

/// The first step begins with an empty store and an empty page cache, each further step with the
/// state that the steps before it left.
pub struct Session {
    pub set: DataSet,
    pub nets: &'static [Net],
    pub steps: &'static [Step],
}

pub const SESSIONS: &[Session] = &[
    Session { set: DataSet::Tree10k, nets: LINKS, steps: &[work::TTFB_COLD, work::TTFB_WARM] },
    Session {
        set: DataSet::Tree10k,
        nets: LINKS,
        steps: &[work::LSR_COLD, work::LSR_WARM, work::FIND_WARM, work::STAT_WARM],
    },
    Session { set: DataSet::Tree10k, nets: LINKS, steps: &[work::FIND_COLD] },
    Session { set: DataSet::Tree10k, nets: LINKS, steps: &[work::TAR_COLD, work::TAR_WARM] },
    Session {
        set: DataSet::Large,
        nets: LINKS,
        steps: &[work::SEQ_COLD, work::SEQ_WARM, work::RAND4K_WARM],
    },
    Session { set: DataSet::Large, nets: LINKS, steps: &[work::RAND4K_COLD] },
    Session { set: DataSet::Large, nets: LINKS, steps: &[work::SEEK10] },
    Session { set: DataSet::Tree1k, nets: &[Net::Distant], steps: &[work::OPEN_FIRST] },
    Session { set: DataSet::Tree1k, nets: &[Net::Distant], steps: &[work::LSR_1K] },
    Session { set: DataSet::Tree1k, nets: &[Net::Distant], steps: &[work::TAR_1K] },
    Session { set: DataSet::Shared, nets: &[Net::Three], steps: &[work::THREE_PEERS] },
    Session { set: DataSet::Shared, nets: &[Net::Three], steps: &[work::STALLED_PEER] },
    Session { set: DataSet::Seedling, nets: WRITTEN, steps: &[work::SEQWRITE] },
    Session { set: DataSet::Seedling, nets: WRITTEN, steps: &[work::UNTAR, work::RMRF] },
    Session { set: DataSet::Seedling, nets: WRITTEN, steps: &[work::GITCLONE] },
    Session { set: DataSet::Seedling, nets: WRITTEN, steps: &[work::APPEND] },
    Session {
        set: DataSet::Tree10k,
        nets: &[Net::Import, Net::ModernImport],
        steps: &[work::IMPORT],
    },
    Session { set: DataSet::Tree13, nets: &Net::MODERN, steps: &[modern::TTFB_COLD] },
    Session { set: DataSet::Tree13, nets: &Net::MODERN, steps: &[modern::LIST] },
    Session { set: DataSet::Tree13, nets: &Net::MODERN, steps: &[modern::READDIR] },
    Session { set: DataSet::Large13, nets: &Net::MODERN, steps: &[modern::STREAM] },
    Session { set: DataSet::Large13, nets: &Net::MODERN, steps: &[modern::MIDDLE] },
    Session { set: DataSet::Tree13, nets: &Net::MODERN, steps: &[modern::FILES] },
];

/// One figure of one candidate, with its cost.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
    pub net: String,
    pub candidate: String,
    pub measure: String,
    pub unit: String,
    pub repetition: u64,
    /// None if the workload could not be done at all.
    pub value: Option<f64>,
    pub cut: bool,
    pub fault: Option<String>,
    /// The traffic at the middle of the link during the workload.
    pub traffic: Option<Traffic>,
    /// Share of the bytes over several links that came over the link with the fewest.
    #[serde(default)]
    pub least_share: Option<f64>,
    /// Largest resident size of the client so far, MiB.
    pub peak_mib: Option<f64>,
    /// Processor time of the client during the workload, seconds.
    pub cpu_seconds: Option<f64>,
    /// Processor time of the server, seconds. Both candidates have one server only over the links to Hyperdrive 13.
    #[serde(default)]
    pub server_seconds: Option<f64>,
}

/// One candidate's turn at one session.
pub struct Turn<'a> {
    pub session: &'a Session,
    pub net: Net,
    pub candidate: Candidate,
    pub repetition: u64,
    /// How long a workload may take.
    pub limit: Duration,
}

impl Turn<'_> {
    /// Mounts, runs the steps that are asked for and takes everything away again.
    pub fn run(&self, shop: &Workshop, wanted: impl Fn(&str) -> bool) -> Vec<Sample> {
        shop.logs.note(&format!("{} over {}", self.candidate.name(), self.net.name()));
        let mut samples = Vec::new();
        if let Err(error) = self.run_steps(shop, &wanted, &mut samples) {
            let done = samples.len();
            let steps = self.session.steps.iter();
            let missed = steps.filter(|step| !samples.iter().any(|s| s.measure == step.name));
            let mut failed: Vec<_> = missed.map(|step| self.failed(step, &error)).collect();
            // Only the first of them failed; the others were not started.
            failed.truncate(usize::from(done < self.session.steps.len()));
            samples.append(&mut failed);
        }
        samples.retain(|sample| wanted(&sample.measure));
        samples
    }

    fn run_steps(
        &self,
        shop: &Workshop,
        wanted: &impl Fn(&str) -> bool,
        samples: &mut Vec<Sample>,
    ) -> io::Result<()> {
        let mut mounted = Mounted::new(shop, self.candidate, self.net, self.session.set)?;
        drop_caches()?;
        let last = self.session.steps.iter().rposition(|step| wanted(step.name)).unwrap_or(0);
        for step in self.session.steps.iter().take(last + 1) {
            let sample = self.measure(step, &mut mounted, shop)?;
            let stopped = sample.cut || sample.fault.is_some();
            if step.name == work::TTFB_COLD.name {
                samples.extend(self.start(&mounted, &sample));
            }
            samples.push(sample);
            if stopped {
                // The next steps would not be warm.
                break;
            }
        }
        Ok(())
    }

    fn measure(&self, step: &Step, mounted: &mut Mounted, shop: &Workshop) -> io::Result<Sample> {
        let (archive, repository) = (shop.data.archive(), shop.data.repository());
        mounted.reset_traffic()?;
        let (before, served) = (mounted.usage(), mounted.server_seconds());
        let patience = 2 * self.limit + Duration::from_secs(20);
        let _guard = Watchdog::arm(mounted.client_pid(), patience);
        let ask = |task: &str| mounted.ask(task, patience);
        let store = shop.scratch.join("store");
        let import = || candidate::import(shop, self.candidate, self.net, &mounted.root);
        let outcome = (step.run)(&Bench {
            root: &mounted.root,
            set: self.session.set,
            net: self.net,
            repetition: self.repetition,
            limit: self.limit,
            archive: &archive,
            repository: &repository,
            store: &store,
            import: &import,
            logs: &shop.logs,
            stall: &|| mounted.stall_one_link(),
            ask: mounted.takes_tasks.then_some(&ask),
        })?;
        let after = mounted.usage();
        let has_client = mounted.client_pid().is_some();
        let served = mounted.server_seconds() - served;
        let traffic = mounted.traffic()?;
        Ok(Sample {
            traffic: sum(&traffic),
            least_share: least_share(&traffic),
            peak_mib: has_client.then_some(after.peak as f64 / (1 << 20) as f64),
            cpu_seconds: has_client.then_some(after.cpu - before.cpu),
            server_seconds: self.net.is_modern().then_some(served),
            ..self.sample(step.name, step.unit, &outcome)
        })
    }

    /// The times until the mount is usable, and until the first byte is read.
    fn start(&self, mounted: &Mounted, first_byte: &Sample) -> Vec<Sample> {
        let mount = mounted.took.as_secs_f64() * 1000.0;
        let figure = |measure, value| {
            let outcome = Outcome { value, cut: false, fault: first_byte.fault.clone() };
            self.sample(measure, "ms", &outcome)
        };
        let whole = mount + first_byte.value.unwrap_or(f64::NAN);
        vec![figure("mount", mount), figure("cold_start", whole)]
    }

    fn sample(&self, measure: &str, unit: &str, outcome: &Outcome) -> Sample {
        Sample {
            net: self.net.name().into(),
            candidate: self.candidate.name().into(),
            measure: measure.into(),
            unit: unit.into(),
            repetition: self.repetition,
            value: outcome.value.is_finite().then_some(outcome.value),
            cut: outcome.cut,
            fault: outcome.fault.clone(),
            traffic: None,
            least_share: None,
            peak_mib: None,
            cpu_seconds: None,
            server_seconds: None,
        }
    }

    fn failed(&self, step: &Step, error: &io::Error) -> Sample {
        let fault = Some(error.to_string());
        self.sample(step.name, step.unit, &Outcome { value: f64::NAN, cut: false, fault })
    }
}

/// The traffic of all links together; `None` without a link.
fn sum(links: &[Traffic]) -> Option<Traffic> {
    links.iter().copied().reduce(|a, b| Traffic {
        to_server_bytes: a.to_server_bytes + b.to_server_bytes,
        to_client_bytes: a.to_client_bytes + b.to_client_bytes,
        turns: a.turns + b.turns,
        connections: a.connections + b.connections,
    })
}

fn least_share(links: &[Traffic]) -> Option<f64> {
    let all: u64 = links.iter().map(|link| link.to_client_bytes).sum();
    let least = links.iter().map(|link| link.to_client_bytes).min()?;
    (links.len() > 1).then_some(least as f64 / all as f64)
}

/// Empties the kernel's caches of names, attributes and data, of earlier mounts and of the disk.
fn drop_caches() -> io::Result<()> {
    nix::unistd::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
}
