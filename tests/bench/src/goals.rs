//! The performance goals of hypermount; no other file states them.

use crate::candidate::Candidate;

/// A bound on one figure of hypermount, absolute or relative to another candidate in the same run.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    Floor(f64),
    Ceiling(f64),
    FloorTimes(f64, Candidate),
    CeilingTimes(f64, Candidate),
}

pub struct Goal {
    pub measure: &'static str,
    pub net: &'static str,
    pub bound: Bound,
}

const fn goal(measure: &'static str, net: &'static str, bound: Bound) -> Goal {
    Goal { measure, net, bound }
}

use Bound::{Ceiling, CeilingTimes, Floor, FloorTimes};
use Candidate::{Disk, Passthrough, Reference};

/// Units are those of the measures; `wire_mb` is in 10^6 bytes.
pub const GOALS: &[Goal] = &[
    goal("seq_warm", "lo", FloorTimes(0.95, Passthrough)),
    goal("seq_cold", "lo", Floor(300.0)),
    goal("seq_cold", "lo", FloorTimes(4.0, Reference)),
    goal("seq_cold", "20:100", Floor(11.4)),
    goal("seq_cold", "100:20", Floor(2.25)),
    goal("ttfb_cold", "20:100", Ceiling(65.0)),
    goal("ttfb_cold", "100:20", Ceiling(310.0)),
    goal("cold_start", "100:20", Ceiling(750.0)),
    goal("cold_start", "lo", Ceiling(40.0)),
    goal("ttfb_warm", "lo", Ceiling(0.20)),
    goal("rand4k_warm", "lo", FloorTimes(0.9, Passthrough)),
    goal("rand4k_cold", "lo", CeilingTimes(3.5, Passthrough)),
    goal("rand4k_cold", "20:100", Ceiling(28_000.0)),
    goal("rand4k_cold", "100:20", Ceiling(135_000.0)),
    goal("seek10.wire_mb", "lo", Ceiling(14.0)),
    goal("seek10", "20:100", Ceiling(1.5)),
    goal("seek10", "100:20", Ceiling(6.5)),
    goal("lsr_cold", "lo", Floor(40_000.0)),
    goal("lsr_cold", "20:100", Floor(16_000.0)),
    goal("lsr_cold", "100:20", Floor(4_500.0)),
    goal("lsr_1k", "200:0", Ceiling(6.0)),
    goal("open_first", "200:0", Ceiling(3.0)),
    goal("tar_1k", "200:0", Ceiling(0.05)),
    goal("tar_cold", "20:100", Floor(2_500.0)),
    goal("tar_cold", "100:20", Floor(700.0)),
    goal("tar_cold", "lo", FloorTimes(0.6, Passthrough)),
    goal("tar_warm", "lo", FloorTimes(0.95, Passthrough)),
    goal("lsr_warm", "lo", FloorTimes(0.95, Passthrough)),
    goal("stat_warm", "lo", FloorTimes(0.9, Disk)),
    goal("three_peers", "3x10", Floor(25.0)),
    goal("stalled_peer", "3x10", Ceiling(1.0)),
    goal("seqwrite", "local", FloorTimes(0.75, Passthrough)),
    goal("untar", "local", FloorTimes(0.8, Passthrough)),
    goal("rmrf", "local", FloorTimes(0.8, Passthrough)),
    goal("gitclone", "local", CeilingTimes(1.5, Passthrough)),
    goal("append", "local", Ceiling(5.0)),
    goal("seqwrite", "13:local", FloorTimes(0.75, Passthrough)),
    goal("untar", "13:local", FloorTimes(0.8, Passthrough)),
    goal("rmrf", "13:local", FloorTimes(0.8, Passthrough)),
    goal("gitclone", "13:local", CeilingTimes(1.5, Passthrough)),
    goal("append", "13:local", Ceiling(5.0)),
    goal("import", "import", Floor(12_000.0)),
    goal("import", "13:import", Floor(12_000.0)),
    goal("import", "13:import", FloorTimes(5.0, Reference)),
    goal("seq_cold.peak_mib", "lo", Ceiling(32.0)),
    goal("lsr_cold.peak_mib", "lo", Ceiling(24.0)),
    goal("seq_cold.cpu_s", "lo", Ceiling(0.80)),
    goal("cold_start", "13:lo", CeilingTimes(0.25, Reference)),
    goal("ttfb_cold", "13:lo", CeilingTimes(0.25, Reference)),
    goal("list", "13:lo", CeilingTimes(0.25, Reference)),
    goal("readdir", "13:lo", CeilingTimes(0.25, Reference)),
    goal("stream", "13:lo", Floor(150.0)),
    goal("stream", "13:lo", FloorTimes(4.0, Reference)),
    goal("middle", "13:lo", CeilingTimes(0.25, Reference)),
    goal("middle.wire_mb", "13:lo", Ceiling(1.2)),
    goal("files", "13:lo", FloorTimes(4.0, Reference)),
    goal("ttfb_cold", "13:50:100", Ceiling(200.0)),
    goal("list", "13:50:100", Ceiling(600.0)),
    goal("readdir", "13:50:100", Ceiling(300.0)),
    goal("middle.wire_mb", "13:50:100", Ceiling(1.2)),
    // 0.8 of the link's payload, which the index has to share.
    goal("files", "13:50:100", Floor(9.65)),
];

impl Bound {
    /// The bound as a number, given the figure of the candidate it relates to.
    pub fn resolve(self, figure: impl Fn(Candidate) -> Option<f64>) -> Option<f64> {
        match self {
            Floor(bound) | Ceiling(bound) => Some(bound),
            FloorTimes(factor, other) | CeilingTimes(factor, other) => {
                Some(factor * figure(other)?)
            }
        }
    }

    pub fn is_met(self, value: f64, resolved: f64) -> bool {
        match self {
            Floor(_) | FloorTimes(..) => value >= resolved,
            Ceiling(_) | CeilingTimes(..) => value <= resolved,
        }
    }

    pub fn sign(self) -> char {
        match self {
            Floor(_) | FloorTimes(..) => '≥',
            Ceiling(_) | CeilingTimes(..) => '≤',
        }
    }

    /// The other candidate and the factor, of a relative bound.
    pub fn relation(self) -> Option<(f64, Candidate)> {
        match self {
            Floor(_) | Ceiling(_) => None,
            FloorTimes(factor, other) | CeilingTimes(factor, other) => Some((factor, other)),
        }
    }
}
