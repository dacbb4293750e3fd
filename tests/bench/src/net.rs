//! The links the candidates are measured over.

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Net {
    /// No delay, no limit.
    #[value(name = "lo")]
    Loopback,
    /// 20 ms round trip, 100 Mbit/s.
    #[value(name = "20:100")]
    Near,
    /// 100 ms round trip, 20 Mbit/s.
    #[value(name = "100:20")]
    Far,
    /// 200 ms round trip without a limit: counts round trips.
    #[value(name = "200:0")]
    Distant,
    /// Three peers, each behind 40 ms and 10 Mbit/s of its own.
    #[value(name = "3x10")]
    Three,
    /// As `Loopback`, to a drive of Hyperdrive 13.
    #[value(name = "13:lo")]
    ModernLoopback,
    /// 50 ms round trip, 100 Mbit/s, to a drive of Hyperdrive 13.
    #[value(name = "13:50:100")]
    ModernFar,
    /// No link: a writable mount on this machine.
    #[value(name = "local")]
    Local,
    /// As `Local`, of a drive in the format of Hyperdrive 13.
    #[value(name = "13:local")]
    ModernLocal,
    /// No link and no mount: a directory is imported.
    #[value(name = "import")]
    Import,
    /// As `Import`, into a drive in the format of Hyperdrive 13.
    #[value(name = "13:import")]
    ModernImport,
}

impl Net {
    pub const ALL: [Net; 11] = [
        Net::Loopback,
        Net::Near,
        Net::Far,
        Net::Distant,
        Net::Three,
        Net::Local,
        Net::ModernLocal,
        Net::Import,
        Net::ModernImport,
        Net::ModernLoopback,
        Net::ModernFar,
    ];
    /// The links to drives of Hyperdrive 13.
    pub const MODERN: [Net; 2] = [Net::ModernLoopback, Net::ModernFar];

    pub fn is_modern(self) -> bool {
        Net::MODERN.contains(&self)
    }

    /// Whether drives are written through a mount.
    pub fn is_written(self) -> bool {
        matches!(self, Net::Local | Net::ModernLocal)
    }

    /// Whether a directory is imported.
    pub fn is_import(self) -> bool {
        matches!(self, Net::Import | Net::ModernImport)
    }

    /// The release of Hyperdrive in whose format drives are made here.
    pub fn format(self) -> &'static str {
        if matches!(self, Net::ModernLocal | Net::ModernImport) { "13" } else { "10" }
    }

    pub fn name(self) -> &'static str {
        match self {
            Net::Loopback => "lo",
            Net::Near => "20:100",
            Net::Far => "100:20",
            Net::Distant => "200:0",
            Net::Three => "3x10",
            Net::Local => "local",
            Net::ModernLocal => "13:local",
            Net::Import => "import",
            Net::ModernImport => "13:import",
            Net::ModernLoopback => "13:lo",
            Net::ModernFar => "13:50:100",
        }
    }

    pub fn title(self) -> &'static str {
        match self {
            Net::Loopback => "Loopback",
            Net::Near => "20 ms round trip, 100 Mbit/s",
            Net::Far => "100 ms round trip, 20 Mbit/s",
            Net::Distant => "200 ms round trip, no limit",
            Net::Three => "Three peers, each 40 ms round trip and 10 Mbit/s",
            Net::Local => "Writing, no network",
            Net::ModernLocal => "Writing in the format of Hyperdrive 13, no network",
            Net::Import => "Importing, no network",
            Net::ModernImport => "Importing in the format of Hyperdrive 13, no network",
            Net::ModernLoopback => "Hyperdrive 13, loopback",
            Net::ModernFar => "Hyperdrive 13, 50 ms round trip, 100 Mbit/s",
        }
    }

    /// Seconds.
    pub fn round_trip(self) -> f64 {
        self.numbers().0 / 1000.0
    }

    /// How many peers have the data, each behind a link of its own.
    pub fn peers(self) -> usize {
        if self == Net::Three { 3 } else { 1 }
    }

    pub fn relay_options(self) -> [String; 4] {
        let (rtt, mbit) = self.numbers();
        ["--rtt".into(), rtt.to_string(), "--mbit".into(), mbit.to_string()]
    }

    /// Milliseconds and 10^6 bit/s.
    fn numbers(self) -> (f64, f64) {
        match self {
            Net::Loopback | Net::ModernLoopback => (0.0, 0.0),
            Net::Local | Net::ModernLocal | Net::Import | Net::ModernImport => (0.0, 0.0),
            Net::ModernFar => (50.0, 100.0),
            Net::Near => (20.0, 100.0),
            Net::Far => (100.0, 20.0),
            Net::Distant => (200.0, 0.0),
            Net::Three => (40.0, 10.0),
        }
    }
}
