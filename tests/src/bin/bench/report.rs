//! What was measured, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use barman_snap_tests::command::{attempt, run};
use barman_snap_tests::pg::Installation;
use serde::Serialize;

use crate::measure::{ratio, spread};

/// One way to do a piece of work, measured some times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    /// Who did it: `barman-snap`, `pg_basebackup`.
    pub(crate) who: String,
    /// The whole work.
    pub(crate) wall: Vec<Duration>,
    /// How long PostgreSQL was in backup mode.
    pub(crate) backup_mode: Vec<Duration>,
    /// From the first create call until the last snapshot was cut.
    pub(crate) cut: Vec<Duration>,
    /// Bytes written for it, of the last time.
    pub(crate) bytes_copied: Option<u64>,
    /// The most memory of its process, in KiB, of all times.
    pub(crate) peak_kib: u64,
    /// Single steps by their names.
    pub(crate) steps: BTreeMap<String, Vec<Duration>>,
}

impl Series {
    /// Nothing measured yet.
    pub(crate) fn of(who: &str) -> Self {
        Self { who: who.to_owned(), ..Self::default() }
    }
}

/// Ours and the peers that did the same; the ratios are to the first peer.
struct Comparison {
    work: String,
    ours: Series,
    peers: Vec<Series>,
}

/// Everything that was measured.
pub(crate) struct Report {
    machine: BTreeMap<&'static str, String>,
    comparisons: Vec<Comparison>,
}

impl Report {
    /// An empty report of this machine.
    pub(crate) fn new(postgres: &Installation, size: &str, runs: usize) -> Self {
        Self { machine: machine(postgres, size, runs), comparisons: Vec::new() }
    }

    /// Takes in what has been measured of a piece of work.
    pub(crate) fn add(&mut self, work: impl Into<String>, ours: Series, peers: Vec<Series>) {
        self.comparisons.push(Comparison { work: work.into(), ours, peers });
    }

    /// A table. Times are medians, with the shortest and the longest.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            // Writing to a string does not fail.
            let _ = writeln!(text, "- {name}: {value}");
        }
        text.push_str(
            "\n| work | by | total | the peer's is | in backup mode | the peer's is | cut | written | memory |\n",
        );
        text.push_str("|---|---|---:|---:|---:|---:|---:|---:|---:|\n");
        for one in &self.comparisons {
            let peer = one.peers.first();
            for series in std::iter::once(&one.ours).chain(&one.peers) {
                let is_ours = std::ptr::eq(series, &one.ours);
                let times = |ours: &[Duration], theirs: fn(&Series) -> &Vec<Duration>| {
                    peer.filter(|_| is_ours).and_then(|peer| ratio(ours, theirs(peer))).map(factor).unwrap_or_default()
                };
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    if is_ours { &one.work } else { "" },
                    series.who,
                    median(&series.wall),
                    times(&series.wall, |peer| &peer.wall),
                    median(&series.backup_mode),
                    times(&series.backup_mode, |peer| &peer.backup_mode),
                    median(&series.cut),
                    series.bytes_copied.map(bytes).unwrap_or_default(),
                    if series.peak_kib > 0 { bytes(series.peak_kib << 10) } else { String::new() },
                );
            }
        }
        for one in self.comparisons.iter().filter(|one| !one.ours.steps.is_empty()) {
            let steps: Vec<_> = one.ours.steps.iter().map(|(name, times)| format!("{name} {}", short(times))).collect();
            let _ = writeln!(text, "\nSteps of {}: {}.", one.work, steps.join(", "));
        }
        text
    }

    /// All single measurements.
    pub(crate) fn json(&self) -> String {
        let comparisons = self.comparisons.iter().map(|one| JsonComparison {
            work: &one.work,
            ours: JsonSeries::of(&one.ours),
            peers: one.peers.iter().map(JsonSeries::of).collect(),
        });
        let document = JsonReport { machine: &self.machine, comparisons: comparisons.collect() };
        serde_json::to_string_pretty(&document).expect("strings and numbers are JSON") + "\n"
    }
}

#[derive(Serialize)]
struct JsonReport<'a> {
    machine: &'a BTreeMap<&'static str, String>,
    comparisons: Vec<JsonComparison<'a>>,
}

#[derive(Serialize)]
struct JsonComparison<'a> {
    work: &'a str,
    ours: JsonSeries<'a>,
    peers: Vec<JsonSeries<'a>>,
}

#[derive(Serialize)]
struct JsonSeries<'a> {
    by: &'a str,
    wall_ms: Vec<f64>,
    backup_mode_ms: Vec<f64>,
    cut_ms: Vec<f64>,
    bytes_copied: Option<u64>,
    peak_kib: u64,
    steps_ms: BTreeMap<&'a str, Vec<f64>>,
}

impl<'a> JsonSeries<'a> {
    fn of(series: &'a Series) -> Self {
        Self {
            by: &series.who,
            wall_ms: ms(&series.wall),
            backup_mode_ms: ms(&series.backup_mode),
            cut_ms: ms(&series.cut),
            bytes_copied: series.bytes_copied,
            peak_kib: series.peak_kib,
            steps_ms: series.steps.iter().map(|(name, times)| (name.as_str(), ms(times))).collect(),
        }
    }
}

fn ms(times: &[Duration]) -> Vec<f64> {
    times.iter().map(|time| (time.as_secs_f64() * 1e6).round() / 1e3).collect()
}

fn median(times: &[Duration]) -> String {
    match spread(times) {
        Some([median, least, most]) if times.len() > 1 => format!("{} ({}–{})", time(median), time(least), time(most)),
        Some([median, ..]) => time(median),
        None => String::new(),
    }
}

fn short(times: &[Duration]) -> String {
    spread(times).map(|[median, ..]| time(median)).unwrap_or_default()
}

/// Three digits, in milliseconds below a second.
fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        _ if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ if seconds < 10.0 => format!("{seconds:.2} s"),
        _ => format!("{seconds:.1} s"),
    }
}

fn factor(ratio: f64) -> String {
    if ratio < 10.0 { format!("{ratio:.2} ×") } else { format!("{ratio:.0} ×") }
}

fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let mib = count as f64 / f64::from(1 << 20);
    match mib {
        _ if count == 0 => "0".to_owned(),
        _ if mib < 1024.0 => format!("{mib:.0} MiB"),
        _ => format!("{:.2} GiB", mib / 1024.0),
    }
}

fn machine(postgres: &Installation, size: &str, runs: usize) -> BTreeMap<&'static str, String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let value =
            text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':')).map(|(_, value)| value.trim());
        value.unwrap_or("unknown").to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let date = attempt(std::process::Command::new("date").arg("+%F"));
    let load = read("/proc/loadavg").split(' ').take(2).collect::<Vec<_>>().join(" ");
    BTreeMap::from([
        ("date", date.text().to_owned()),
        ("data", size.to_owned()),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("load before", load),
        ("memory", field(&read("/proc/meminfo"), "MemTotal")),
        ("PostgreSQL", run(postgres.command("postgres").arg("--version")).text().to_owned()),
        ("processors", format!("{processors} × {}", field(&read("/proc/cpuinfo"), "model name"))),
        ("runs", runs.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_ratio_of_ours_to_the_first_peer() {
        let times = |numbers: [u64; 3]| numbers.map(Duration::from_millis).to_vec();
        let ours =
            Series { wall: times([100, 90, 110]), bytes_copied: Some(0), peak_kib: 10 << 10, ..Series::of("we") };
        let peer = Series { wall: times([5000, 4500, 5500]), ..Series::of("they") };
        let report = Report { machine: BTreeMap::new(), comparisons: Vec::new() };
        let mut report = report;
        report.add("backup", ours, vec![peer]);
        let text = report.markdown();
        assert!(text.contains("| backup | we | 100 ms (90 ms–110 ms) | 50 × |  |  |  | 0 | 10 MiB |"), "{text}");
        assert!(text.contains("|  | they | 5.00 s (4.50 s–5.50 s) |  |"), "{text}");
    }
}
