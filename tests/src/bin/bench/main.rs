//! `make bench`: how long backups, restores and WAL archiving take, each beside a peer that does the same work on the same
//! machine, the same data and the same file system, in turns.
//!
//! The peers: `pg_basebackup` for backups, `barman-cloud-backup` for those on clouds, `cp -a` for restores,
//! `barman-cloud-wal-archive` and `cp` for WAL. What counts
//! is the ratio to the peer; the absolute numbers belong to the machine. It measures only: it decides nothing and fails
//! only when something cannot be done at all. What has been measured last is in `docs/benchmarks.md`.
//!
//! ```text
//! bench [2G|10G|<pgbench scale>] [--runs N] [--only btrfs,xfs,ext4,clouds,wal] [--json FILE]
//! ```
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the table goes to stdout, progress to stderr")]

mod archive;
mod backups;
mod clouds;
mod cluster;
mod measure;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::skip::Missing;

use crate::report::Report;

/// What was asked for.
struct Options {
    size: String,
    scale: u32,
    runs: usize,
    only: Vec<String>,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { size: "2G".to_owned(), scale: 110, runs: 3, only: Vec::new(), json: None };
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--runs" => options.runs = value()?.parse().map_err(|_| "--runs needs a number")?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                "--json" => options.json = Some(value()?.into()),
                // A unit of pgbench's scale is 16 MB with its index; the tablespace adds a twentieth.
                "2G" => (options.size, options.scale) = (arg, 110),
                "10G" => (options.size, options.scale) = (arg, 600),
                scale => {
                    options.scale = scale.parse().map_err(|_| format!("not 2G, 10G or a scale of pgbench: {scale}"))?;
                    options.size = format!("scale {scale}");
                }
            }
        }
        if options.runs == 0 || options.scale == 0 { Err("nothing to do".to_owned()) } else { Ok(options) }
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(3);
        }
    };
    match run(&options) {
        Ok(report) => {
            print!("{}", report.markdown());
            ExitCode::SUCCESS
        }
        Err(missing) => {
            eprintln!("error: needs {}: {}", missing.need, missing.reason);
            ExitCode::from(1)
        }
    }
}

fn run(options: &Options) -> Result<Report, Missing> {
    // 17 rather than the newest, so that numbers of different days can be compared.
    let postgres = Installation::of(17).or_else(|_| Installation::newest())?;
    let program = BarmanSnap::found()?;
    let mut report = Report::new(&postgres, &options.size, options.runs);
    for kind in Kind::ALL.into_iter().filter(|kind| options.wants(kind.name())) {
        match kind.available() {
            Ok(()) => backups::measure(&mut report, &postgres, &program, kind, options.scale, options.runs),
            Err(missing) => eprintln!("skipped: needs {}: {}", missing.need, missing.reason),
        }
        save(options, &report);
    }
    if options.wants("clouds") {
        clouds::measure(&mut report, &postgres, options.runs);
        save(options, &report);
    }
    if options.wants("wal") {
        archive::measure(&mut report, &postgres, &program, options.runs);
        save(options, &report);
    }
    Ok(report)
}

/// After each part: what has been measured for minutes is not lost when the next part fails.
fn save(options: &Options, report: &Report) {
    if let Some(path) = &options.json {
        std::fs::write(path, report.json()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        eprintln!("wrote {}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_scales_of_pgbench() {
        let parse = |args: &[&str]| Options::parse(args.iter().map(|arg| (*arg).to_owned()));
        assert_eq!(parse(&[]).map(|o| o.scale), Ok(110));
        assert_eq!(parse(&["10G", "--runs", "1"]).map(|o| (o.scale, o.runs)), Ok((600, 1)));
        assert_eq!(parse(&["7"]).map(|o| o.scale), Ok(7));
        assert!(parse(&["2T"]).is_err() && parse(&["--runs"]).is_err() && parse(&["0"]).is_err());
        let only = parse(&["--only", "btrfs,wal"]).expect("it is understood");
        assert!(only.wants("wal") && !only.wants("xfs"));
    }
}
