//! Backups against `pg_basebackup`, restores against `cp -a`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::command::{as_server_user, run};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::Installation;
use serde::Deserialize;

use crate::cluster::{Bench, size_of};
use crate::measure::measured;
use crate::report::{Report, Series};

/// What `backup --format json` says, as far as it is wanted here.
#[derive(Deserialize)]
struct Summary {
    backup_id: String,
    backup_mode_ms: u64,
    cut_ms: u64,
    bytes_copied: Option<u64>,
}

/// Measures both on one kind of file system.
pub(crate) fn measure(
    report: &mut Report,
    postgres: &Installation,
    program: &BarmanSnap,
    kind: Kind,
    scale: u32,
    runs: usize,
) {
    eprintln!("{}: filling a cluster", kind.name());
    let bench = Bench::start(postgres, program, kind, scale);
    let method = match kind {
        Kind::Btrfs => "snapshot",
        Kind::XfsReflink => "reflink",
        Kind::Ext4 => "copy",
        Kind::Zfs => "zfs",
    };
    let (mut ours, mut peer) = (Series::of(&format!("barman-snap ({method})")), Series::of("pg_basebackup"));
    for number in 1..=runs {
        eprintln!("{}: backup {number} of {runs}", kind.name());
        let last = number == runs;
        let id = our_backup(&bench, &mut ours);
        if !last {
            run(bench.ours("delete").args(["--backup-id", &id]));
        }
        basebackup(&bench, &mut peer);
        if !last {
            remove(&bench.place("base"));
            remove(&bench.place("base-extra"));
        }
    }
    report.add(format!("backup, {}", kind.name()), ours, vec![peer]);

    let (mut ours, mut peer) = (Series::of(&format!("barman-snap ({method})")), Series::of("cp -a, sync"));
    for number in 1..=runs {
        eprintln!("{}: restore {number} of {runs}", kind.name());
        our_restore(&bench, &mut ours);
        copy(&bench, &mut peer);
    }
    report.add(format!("restore, {}", kind.name()), ours, vec![peer]);
}

fn our_backup(bench: &Bench<'_>, series: &mut Series) -> String {
    bench.settle();
    let measured = measured(bench.ours("backup").args(["--immediate-checkpoint", "--format", "json"]));
    let summary: Summary = serde_json::from_str(&measured.ran.stdout).expect("the summary is JSON");
    series.wall.push(measured.wall);
    series.backup_mode.push(Duration::from_millis(summary.backup_mode_ms));
    series.cut.push(Duration::from_millis(summary.cut_ms));
    series.bytes_copied = summary.bytes_copied;
    series.peak_kib = series.peak_kib.max(measured.peak_kib);
    for (name, time) in steps(&measured.ran.stderr) {
        series.steps.entry(name).or_default().push(time);
    }
    summary.backup_id
}

/// The lines `  ✓ take the snapshots (0.012 s)`.
fn steps(stderr: &str) -> BTreeMap<String, Duration> {
    let step = |line: &str| {
        let (name, time) = line.trim().strip_prefix('✓')?.rsplit_once(" (")?;
        let seconds: f64 = time.strip_suffix(" s)")?.parse().ok()?;
        Some((name.trim().to_owned(), Duration::from_secs_f64(seconds)))
    };
    stderr.lines().filter_map(step).collect()
}

/// Tells how long PostgreSQL streams a backup: from the return of the start to that of the stop, as seen from outside
/// every two milliseconds.
const WATCH: &str = "DO $$
DECLARE begun timestamptz; now_in text;
BEGIN
  LOOP
    PERFORM pg_stat_clear_snapshot();
    SELECT phase INTO now_in FROM pg_stat_progress_basebackup;
    IF now_in IN ('estimating backup size', 'streaming database files') THEN
      begun := coalesce(begun, clock_timestamp());
    ELSIF begun IS NOT NULL THEN
      RAISE NOTICE 'ms:%', extract(epoch FROM clock_timestamp() - begun) * 1000;
      EXIT;
    END IF;
    PERFORM pg_sleep(0.002);
  END LOOP;
END $$";

fn basebackup(bench: &Bench<'_>, series: &mut Series) {
    bench.settle();
    let mut watch = bench.cluster.command("psql");
    watch.args(["-XAqt", "-c", WATCH]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let watch = watch.spawn().expect("psql is part of the installation");
    let (target, extra) = (bench.place("base"), bench.place("base-extra"));
    let mut command = bench.cluster.command("pg_basebackup");
    command.args(["-Fp", "-X", "none", "--checkpoint=fast", "-D"]).arg(&target);
    let (_, space) = &bench.cluster.tablespaces()[0];
    command.arg("-T").arg(format!("{}={}", space.display(), extra.display()));
    let measured = measured(&mut command);
    let said = watch.wait_with_output().expect("psql ends when the backup does");
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let mode: f64 = said.split("ms:").nth(1).and_then(|rest| rest.trim().parse().ok()).expect("it was seen to stream");
    series.wall.push(measured.wall);
    series.backup_mode.push(Duration::from_secs_f64(mode / 1000.0));
    series.bytes_copied = Some(size_of(&target) + size_of(&extra));
    series.peak_kib = series.peak_kib.max(measured.peak_kib);
}

fn our_restore(bench: &Bench<'_>, series: &mut Series) {
    bench.settle();
    let (target, extra) = (bench.place("restored"), bench.place("restored-extra"));
    let mut command = bench.ours("restore");
    command.arg("last").arg(&target).arg("--tablespace").arg(format!("extra:{}", extra.display()));
    let measured = measured(&mut command);
    series.wall.push(measured.wall);
    series.peak_kib = series.peak_kib.max(measured.peak_kib);
    remove(&target);
    remove(&extra);
}

/// What a person would do with the directories of `pg_basebackup`. `cp` shares blocks too, where the file system can.
fn copy(bench: &Bench<'_>, series: &mut Series) {
    bench.settle();
    let (target, extra) = (bench.place("copied"), bench.place("copied-extra"));
    let mut command = as_server_user(Path::new("/bin/sh"), Path::new("/bin"));
    command.args(["-c", "cp -a \"$1\" \"$2\" && cp -a \"$3\" \"$4\" && sync -f \"$2\"", "sh"]);
    command.args([&bench.place("base"), &target, &bench.place("base-extra"), &extra]);
    series.wall.push(measured(&mut command).wall);
    remove(&target);
    remove(&extra);
}

fn remove(path: &Path) {
    run(Command::new("rm").arg("-rf").arg(path));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_what_is_told_to_people() {
        let read = steps("backup x: 2 volumes\n  … publish\n  ✓ take the snapshots (0.012 s)\n");
        assert_eq!(
            read.into_iter().collect::<Vec<_>>(),
            [("take the snapshots".to_owned(), Duration::from_millis(12))]
        );
    }
}
