//! `wal-archive` of one segment against `barman-cloud-wal-archive` and `cp`, and the start of the programs.
//!
//! PostgreSQL runs `archive_command` once for each segment, so all that a program does before its work counts.

use std::path::{Path, PathBuf};
use std::process::Command;

use barman_snap_tests::barman::Peer;
use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::command::as_server_user;
use barman_snap_tests::load;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::s3::MotoServer;
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::skip::Missing;
use barman_snap_tests::user;

use crate::measure::measured;
use crate::report::{Report, Series};

/// A start takes milliseconds and an archiving not many more, so there can be more of them.
const TIMES: usize = 5;

/// Measures all of it; leaves out peers that are not here.
pub(crate) fn measure(report: &mut Report, postgres: &Installation, program: &BarmanSnap, runs: usize) {
    let times = runs * TIMES;
    eprintln!("wal: making {times} segments");
    let scratch = Scratch::new();
    let segments = segments(postgres, &scratch, times);
    start_up(report, program, times);
    to_directory(report, program, &scratch, &segments);
    if let Err(missing) = to_s3(report, program, &segments) {
        eprintln!("skipped: needs {}: {}", missing.need, missing.reason);
    }
}

/// Segments of a server that had something to write, copied away from it.
fn segments(postgres: &Installation, scratch: &Scratch, count: usize) -> Vec<PathBuf> {
    let cluster = Cluster::builder(postgres).setting("wal_keep_size", "4GB").setting("max_wal_size", "4GB").start();
    // A unit of scale writes most of a segment.
    load::fill(&cluster, 2 * u32::try_from(count).expect("a handful"));
    let place = scratch.dir("segments");
    let names = cluster.sql(
        "SELECT name FROM pg_ls_waldir() WHERE name < pg_walfile_name(pg_current_wal_lsn()) \
         AND name ~ '^[0-9A-F]{24}$' ORDER BY name DESC",
    );
    let copied = names.lines().take(count).map(|name| {
        let path = place.join(name);
        std::fs::copy(cluster.data().join("pg_wal").join(name), &path).expect("a segment can be copied");
        user::give(&path);
        path
    });
    let copied: Vec<_> = copied.collect();
    assert_eq!(copied.len(), count, "the server kept too few segments");
    copied
}

fn start_up(report: &mut Report, program: &BarmanSnap, times: usize) {
    let (mut ours, mut theirs) = (Series::of("barman-snap"), Series::of("barman-cloud-backup"));
    let peer = Peer::found();
    for _ in 0..times {
        once(&mut ours, &mut program.command(["--version"]));
        if let Ok(peer) = &peer {
            once(&mut theirs, peer.command("backup").arg("--version"));
        }
    }
    report.add("start (--version)", ours, peer.map(|_| theirs).into_iter().collect());
}

fn to_directory(report: &mut Report, program: &BarmanSnap, scratch: &Scratch, segments: &[PathBuf]) {
    let (mut ours, mut theirs) = (Series::of("barman-snap"), Series::of("cp, sync"));
    let (catalog, plain) = (scratch.dir("catalog"), scratch.dir("plain"));
    // The first one makes the directories.
    let (first, rest) = segments.split_first().expect("there are some");
    once(&mut Series::default(), program.command(["wal-archive"]).arg(&catalog).arg("main").arg(first));
    for segment in rest {
        once(&mut ours, program.command(["wal-archive"]).arg(&catalog).arg("main").arg(segment));
        once(&mut theirs, &mut copy(segment, &plain));
    }
    report.add("archive 16 MiB to a directory", ours, vec![theirs]);
}

/// The example of PostgreSQL's manual, made durable.
fn copy(segment: &Path, to: &Path) -> Command {
    let mut command = as_server_user(Path::new("/bin/sh"), Path::new("/bin"));
    command.args(["-c", "test ! -f \"$2/$3\" && cp \"$1\" \"$2/$3\" && sync \"$2/$3\" \"$2\"", "sh"]);
    command.arg(segment).arg(to).arg(segment.file_name().unwrap_or_default());
    command
}

fn to_s3(report: &mut Report, program: &BarmanSnap, segments: &[PathBuf]) -> Result<(), Missing> {
    let (server, peer) = (MotoServer::start()?, Peer::found()?);
    for (how, codec) in [("", None), (", gzip", Some("--gzip"))] {
        let (mut ours, mut theirs) = (Series::of("barman-snap"), Series::of("barman-cloud-wal-archive"));
        let url = |who: &str| server.url(&format!("{who}{}", codec.unwrap_or("-plain")));
        for segment in segments {
            let mut command = program.command(["wal-archive"]);
            once(&mut ours, command.envs(server.env()).args(codec).arg(url("ours")).arg("main").arg(segment));
            let mut command = peer.command("wal-archive");
            command.envs(server.env()).args(["--endpoint-url", &server.endpoint()]);
            once(&mut theirs, command.args(codec).arg(url("theirs")).arg("main").arg(segment));
        }
        report.add(format!("archive 16 MiB to S3{how}"), ours, vec![theirs]);
    }
    Ok(())
}

fn once(series: &mut Series, command: &mut Command) {
    let measured = measured(command);
    series.wall.push(measured.wall);
    series.peak_kib = series.peak_kib.max(measured.peak_kib);
}
