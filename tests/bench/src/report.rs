//! Medians, tables and the document.

use crate::candidate::Candidate;
use crate::goals::{Bound, GOALS};
use crate::net::Net;
use crate::session::Sample;
use crate::workload::median;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;

/// All results of one run, as they are kept in a file.
#[derive(Deserialize, Serialize)]
pub struct Results {
    pub machine: Machine,
    /// The command line.
    pub command: Vec<String>,
    pub repetitions: u64,
    pub limit_seconds: f64,
    pub samples: Vec<Sample>,
}

#[derive(Deserialize, Serialize)]
pub struct Machine {
    pub processor: String,
    pub processors: usize,
    pub memory_gib: f64,
    pub kernel: String,
    /// Load average of a minute before and after.
    pub load: [String; 2],
}

impl Machine {
    pub fn here() -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        let kernel = nix::sys::utsname::uname().map(|name| name.release().display().to_string());
        Machine {
            processor: model.unwrap_or("unknown").into(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: kib.unwrap_or(0.0) / (1 << 20) as f64,
            kernel: kernel.unwrap_or_default(),
            load: [load(), String::new()],
        }
    }
}

/// The load average of the last minute.
pub fn load() -> String {
    let line = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    line.split(' ').next().unwrap_or_default().into()
}

/// The result of one candidate in one measure: the median over the repetitions.
struct Cell {
    median: Option<f64>,
    cut: bool,
    fault: bool,
}

/// Further figures of a measure: the end of the name, and the unit.
const ASPECTS: &[(&str, &str)] = &[
    ("wire_mb", "MB on the wire"),
    ("turns", "turns"),
    ("least_share", "of the bytes"),
    ("peak_mib", "MiB"),
    ("cpu_s", "CPU s"),
    ("server_cpu_s", "CPU s"),
];

fn aspect(sample: &Sample, name: &str) -> Option<f64> {
    let traffic = sample.traffic;
    match name {
        "wire_mb" => traffic.map(|t| (t.to_server_bytes + t.to_client_bytes) as f64 / 1e6),
        "turns" => traffic.map(|t| t.turns as f64),
        "least_share" => sample.least_share,
        "peak_mib" => sample.peak_mib,
        "cpu_s" => sample.cpu_seconds,
        "server_cpu_s" => sample.server_seconds,
        _ => None,
    }
}

impl Results {
    /// A measure's name may end in the name of an aspect.
    fn cell(&self, net: &str, measure: &str, candidate: Candidate) -> Option<Cell> {
        let (measure, aspect_name) = measure.split_once('.').unwrap_or((measure, ""));
        let samples: Vec<_> = self
            .samples
            .iter()
            .filter(|s| s.net == net && s.measure == measure && s.candidate == candidate.name())
            .collect();
        let value = |sample: &&Sample| match aspect_name {
            "" => sample.value,
            name => sample.value.and_then(|_| aspect(sample, name)),
        };
        let mut values: Vec<f64> = samples.iter().filter_map(value).collect();
        if samples.is_empty() || (values.is_empty() && !aspect_name.is_empty()) {
            return None;
        }
        Some(Cell {
            median: (!values.is_empty()).then(|| median(&mut values)),
            cut: samples.iter().any(|sample| sample.cut),
            fault: samples.iter().any(|sample| sample.fault.is_some()),
        })
    }

    fn measures(&self, net: &str) -> Vec<(String, String)> {
        let mut measures = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.net == net) {
            let measure = (sample.measure.clone(), sample.unit.clone());
            if !measures.contains(&measure) {
                measures.push(measure);
            }
        }
        measures
    }

    /// All tables, in the order of the nets.
    pub fn tables(&self) -> String {
        let mut out = String::new();
        for net in Net::ALL {
            if !self.measures(net.name()).is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "### {} (`{}`)\n", net.title(), net.name());
                self.table(&mut out, net);
            }
        }
        out.push_str(&self.faults());
        out
    }

    fn table(&self, out: &mut String, net: Net) {
        let compared = net.is_modern();
        let net = net.name();
        let candidates: Vec<_> = Candidate::ALL
            .into_iter()
            .filter(|c| self.samples.iter().any(|s| s.net == net && s.candidate == c.name()))
            .collect();
        let mut names: Vec<_> = candidates.iter().map(|candidate| candidate.name()).collect();
        names.extend(compared.then_some("times as good"));
        let _ = writeln!(out, "| measure | unit | {} | goal | met |", names.join(" | "));
        let _ = writeln!(out, "|---|---|{}---|---|", "---:|".repeat(names.len()));
        for (measure, unit) in self.measures(net) {
            self.row(out, net, &measure, &unit, &candidates, compared);
            if measure.ends_with("_warm") {
                // Nothing passes the link, and the client was hardly asked.
                continue;
            }
            for (name, unit) in ASPECTS {
                self.row(out, net, &format!("{measure}.{name}"), unit, &candidates, compared);
            }
        }
        out.push('\n');
    }

    fn row(
        &self,
        out: &mut String,
        net: &str,
        measure: &str,
        unit: &str,
        of: &[Candidate],
        compared: bool,
    ) {
        let cells: Vec<_> =
            of.iter().map(|candidate| self.cell(net, measure, *candidate)).collect();
        if cells.iter().all(Option::is_none) {
            return;
        }
        let mut cells: Vec<_> = cells.iter().map(Cell::show).collect();
        cells.extend(compared.then(|| self.times_as_good(net, measure, unit)));
        let (goal, met) = self.judge(net, measure);
        let _ = writeln!(out, "| {measure} | {unit} | {} | {goal} | {met} |", cells.join(" | "));
    }

    /// The advantage of hypermount over the reference: of rates ours by theirs, of all else theirs by ours.
    fn times_as_good(&self, net: &str, measure: &str, unit: &str) -> String {
        let median = |candidate| self.cell(net, measure, candidate).and_then(|cell| cell.median);
        let (ours, theirs) = (median(Candidate::Hypermount), median(Candidate::Reference));
        let times = ours
            .zip(theirs)
            .map(|(ours, theirs)| if unit.ends_with("/s") { ours / theirs } else { theirs / ours });
        times.filter(|times| times.is_finite()).map_or("-".into(), figure)
    }

    /// The goals of a measure and whether hypermount meets them.
    fn judge(&self, net: &str, measure: &str) -> (String, String) {
        let goals = GOALS.iter().filter(|goal| goal.net == net && goal.measure == measure);
        let figure = |candidate| self.cell(net, measure, candidate).and_then(|cell| cell.median);
        let ours = self.cell(net, measure, Candidate::Hypermount);
        let (mut texts, mut verdicts) = (Vec::new(), Vec::new());
        for goal in goals {
            let resolved = goal.bound.resolve(figure);
            texts.push(describe(goal.bound, resolved));
            let value = ours.as_ref().filter(|cell| !cell.fault).and_then(|cell| cell.median);
            verdicts.push(match (value, resolved) {
                (Some(value), Some(bound)) if goal.bound.is_met(value, bound) => "yes",
                (None, _) if ours.is_none() => "-",
                (_, None) => "-",
                _ => "**no**",
            });
        }
        (texts.join("; "), verdicts.join("; "))
    }

    fn faults(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for sample in &self.samples {
            if let Some(fault) = &sample.fault {
                let line = format!(
                    "* {} {} over {}: {fault}",
                    sample.candidate, sample.measure, sample.net
                );
                if !lines.contains(&line) {
                    lines.push(line);
                }
            }
        }
        if lines.is_empty() {
            return lines.concat();
        }
        format!("Faults (`!` above):\n\n{}\n", lines.join("\n"))
    }

    /// The document: the method, and the results of this run.
    pub fn document(&self) -> String {
        let machine = &self.machine;
        let mut found = String::new();
        let _ = writeln!(
            found,
            "{} × {}, {:.0} GiB, Linux {}; load average {} before and {} after. \
             Medians of {} runs; limit {} s a cell.\n",
            machine.processors,
            machine.processor,
            machine.memory_gib,
            machine.kernel,
            machine.load[0],
            machine.load[1],
            self.repetitions,
            self.limit_seconds
        );
        found.push_str(&self.tables());
        document(&found)
    }
}

/// The document around the results.
pub fn document(found: &str) -> String {
    include_str!("document.md").replace("{found}", found.trim_end())
}

fn describe(bound: Bound, resolved: Option<f64>) -> String {
    let sign = bound.sign();
    let number = resolved.map(figure);
    match (bound.relation(), number) {
        (None, number) => format!("{sign} {}", number.unwrap_or_default()),
        (Some((factor, other)), None) => format!("{sign} {factor} × {}", other.name()),
        (Some((factor, other)), Some(number)) => {
            format!("{sign} {factor} × {} ({number})", other.name())
        }
    }
}

impl Cell {
    fn show(cell: &Option<Cell>) -> String {
        let Some(cell) = cell else { return "-".into() };
        let mut text = cell.median.map(figure).unwrap_or_default();
        text.push_str(if cell.cut { "~" } else { "" });
        text.push_str(if cell.fault { "!" } else { "" });
        text
    }
}

/// Three significant digits, all of those before the point.
fn figure(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        medium if medium >= 10.0 => 1,
        small if small >= 0.1 => 2,
        _ => 4,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::Candidate;

    fn sample(candidate: Candidate, value: f64, fault: Option<&str>) -> Sample {
        Sample {
            net: "lo".into(),
            candidate: candidate.name().into(),
            measure: "seq_warm".into(),
            unit: "MB/s".into(),
            repetition: 0,
            value: Some(value),
            cut: false,
            fault: fault.map(str::to_owned),
            traffic: None,
            least_share: None,
            peak_mib: Some(10.0),
            cpu_seconds: None,
            server_seconds: None,
        }
    }

    fn results(samples: Vec<Sample>) -> Results {
        let machine = Machine::here();
        Results { machine, command: vec![], repetitions: 1, limit_seconds: 15.0, samples }
    }

    #[test]
    fn a_relative_goal_is_judged_against_the_same_run() {
        let met = [(96.0, "yes"), (94.0, "**no**")];
        for (ours, verdict) in met {
            let ours = sample(Candidate::Hypermount, ours, None);
            let found = results(vec![ours, sample(Candidate::Passthrough, 100.0, None)]);
            assert_eq!(found.judge("lo", "seq_warm").1, verdict);
        }
    }

    #[test]
    fn a_fault_meets_no_goal_and_is_named() {
        let listing = |candidate, value, fault| Sample {
            measure: "lsr_cold".into(),
            unit: "entries/s".into(),
            ..sample(candidate, value, fault)
        };
        let ours = listing(Candidate::Hypermount, 90_000.0, Some("99 entries, expected 100"));
        let found = results(vec![ours, listing(Candidate::Passthrough, 100.0, None)]);
        assert_eq!(found.judge("lo", "lsr_cold").1, "**no**");
        let tables = found.tables();
        assert!(tables.contains("| lsr_cold | entries/s | 90000! | 100 |"), "{tables}");
        // The cost of a failed run is not valid either.
        assert!(tables.contains("| lsr_cold.peak_mib | MiB | 10.0! | 10.0 |"), "{tables}");
        assert!(tables.contains("99 entries, expected 100"), "{tables}");
    }

    #[test]
    fn every_goal_has_a_measure() {
        use crate::session::SESSIONS;
        let aspects: Vec<_> = ASPECTS.iter().map(|(name, _)| *name).collect();
        for goal in GOALS {
            let (measure, aspect) = goal.measure.split_once('.').unwrap_or((goal.measure, ""));
            let measured = SESSIONS.iter().any(|session| {
                let derived = measure == "cold_start" && session.steps[0].name == "ttfb_cold";
                session.nets.iter().any(|net| net.name() == goal.net)
                    && (derived || session.steps.iter().any(|step| step.name == measure))
            });
            assert!(measured, "{} over {}", goal.measure, goal.net);
            assert!(aspect.is_empty() || aspects.contains(&aspect), "{}", goal.measure);
        }
    }
}
