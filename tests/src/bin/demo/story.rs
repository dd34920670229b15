//! The story, act by act. Each act gives the sentence that it has proven.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ExitCode};
use std::sync::atomic::Ordering;
use std::time::Duration;

use barman_snap_tests::checks::pgbench_balanced;
use barman_snap_tests::load::Load;
use barman_snap_tests::pg::Cluster;
use barman_snap_tests::wait::{pass, timed, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::screen::{Screen, seconds};
use crate::stage::{INTERRUPTED, SERVER, Stage, Stop, interrupted, must};

/// About 16 MB each.
const SCALE: u32 = 10;
/// Connections that write all the time.
const CLIENTS: u32 = 4;

/// Tells the story. The exit code: 0 if all was as claimed, 1 if not, 130 if it was interrupted.
pub(crate) fn tell() -> ExitCode {
    watch_for_interrupts();
    // Helpers of the test bed panic when something is not as it should be; unwinding cleans up.
    let result = catch_unwind(AssertUnwindSafe(|| timed(story)));
    let screen = Screen::new();
    if INTERRUPTED.load(Ordering::Relaxed) {
        screen.failed("interrupted");
        return ExitCode::from(130);
    }
    match result {
        Ok((Ok(()), time)) => {
            screen.title(&format!("All of this took {}.", seconds(time)));
            ExitCode::SUCCESS
        }
        Ok((Err(Stop::Failed(why)), _)) => {
            screen.failed(&why);
            ExitCode::FAILURE
        }
        Ok((Err(Stop::Interrupted), _)) => ExitCode::from(130),
        Err(_) => {
            screen.failed("the demo stopped: see above");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM comes from the process that watches over this one.
fn watch_for_interrupts() {
    std::thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            if let Ok(mut terminate) = signal(SignalKind::terminate()) {
                terminate.recv().await;
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    });
}

fn story() -> Result<(), Stop> {
    let mut stage = Stage::set(Screen::new(), SCALE)?;
    interrupted()?;
    let load = Load::start(&stage.cluster, CLIENTS);
    stage.screen.say(&format!("pgbench writes with {CLIENTS} clients from here to the end"));
    let proven = [back_up_twice(&stage)?, kill_the_third(&stage)?, go_back_in_time(&mut stage)?, prove(&stage)?];
    // Panics if the clients had stopped by themselves: then there was no load.
    load.stop();
    stage.screen.title("What was proven");
    for sentence in proven {
        stage.screen.proven(&sentence);
    }
    Ok(())
}

fn back_up_twice(stage: &Stage) -> Result<String, Stop> {
    stage.screen.title("1. Two backups while it is being written to");
    let options = stage.disk.options();
    stage.sh(&format!("barman-snap check $CATALOG shop{options}"))?;
    let (before, begin) = (ticks(&stage.cluster), now(&stage.cluster));
    stage.sh(&format!("barman-snap backup $CATALOG shop --name morning --immediate-checkpoint -v{options}"))?;
    stage.sh(&format!("barman-snap backup $CATALOG shop --name noon --immediate-checkpoint{options}"))?;
    let written = ticks(&stage.cluster).saturating_sub(before);
    let rate = written as f64 / (now(&stage.cluster) - begin).max(0.001);
    stage.sh("barman-snap list $CATALOG shop")?;
    stage.sh("barman-snap show $CATALOG shop noon | grep -E 'Status|method|backup mode|copied'")?;
    let done: Vec<Value> = backups(stage)?.into_iter().filter(|backup| backup["status"] == "DONE").collect();
    must(done.len() == 2, format!("2 backups should be DONE, {} are", done.len()))?;
    must(written > 0, "nothing was written during the backups")?;
    let record = &done[1]["copy_stats"]["barman_snap"];
    let (mode, method) = (&record["timings"]["backup_mode_s"], &record["snapshots"][0]["ticket"]["method"]);
    let (Some(mode), Some(method)) = (mode.as_f64(), method.as_str()) else {
        return Err(Stop::Failed(format!("the metadata of the second backup lacks its times: {record}")));
    };
    Ok(format!(
        "2 backups by {method} while {rate:.0} transactions a second wrote; the second one kept PostgreSQL {mode:.2} s in backup mode"
    ))
}

fn kill_the_third(stage: &Stage) -> Result<String, Stop> {
    stage.screen.title("2. A third backup, killed in the middle");
    let options = stage.disk.options();
    let snapshots_before = stage.disk.snapshots();
    let mut attempt = 1;
    let (id, last_event) = loop {
        let known = sessions(stage);
        let child =
            stage.start(&format!("barman-snap backup $CATALOG shop --name evening --immediate-checkpoint{options}"))?;
        match kill_before_the_line(stage, child, &known)? {
            Some(killed) => break killed,
            // Its metadata and snapshots are those of a good backup; the story needs an unfinished one.
            None if attempt < 5 => stage.screen.say("it was faster than the kill; once more"),
            None => return Err(Stop::Failed("five backups were all faster than the kill".into())),
        }
        attempt += 1;
    };
    let left: Vec<String> =
        stage.disk.snapshots().into_iter().filter(|name| name.contains(&id.to_lowercase())).collect();
    stage.screen.say(&format!("killed; the last entry of its journal is {last_event:?}. What it leaves behind:"));
    stage.sh(&format!("ls -d $DISK/.barman_snap/*{}*", id.to_lowercase()))?;
    stage.sh("barman-snap list $CATALOG shop")?;
    must(!left.is_empty(), "the killed backup left no snapshots, so there is nothing to show")?;
    // The server notices when its backend next looks at the connection.
    let aborted = wait_for("PostgreSQL to log that the backup was aborted", Duration::from_secs(30), || {
        stage.cluster.log().lines().rev().find(|line| line.contains("aborting backup")).map(str::to_owned)
    });
    stage.screen.say("PostgreSQL has left backup mode by itself, as its log says:");
    stage.screen.output(&aborted);
    stage.sh("barman-snap recover $CATALOG shop")?;
    stage.sh("barman-snap list $CATALOG shop")?;
    let snapshots: BTreeSet<String> = stage.disk.snapshots().into_iter().collect();
    must(left.iter().all(|name| !snapshots.contains(name)), "recover has left snapshots of the killed backup")?;
    must(snapshots_before.iter().all(|name| snapshots.contains(name)), "recover has removed other snapshots")?;
    let ids: Vec<Value> = backups(stage)?;
    must(ids.iter().all(|backup| backup["backup_id"] != *id), "the killed backup is still in the catalog")?;
    Ok(format!(
        "a backup killed after {last_event:?} left {} files and directories; recover removed them and nothing else",
        left.len()
    ))
}

/// Stops the process as soon as its journal says that the snapshots are being taken. If it has not passed the dividing
/// line then, kills it, and gives its id and the last event of its journal.
fn kill_before_the_line(
    stage: &Stage,
    mut child: Child,
    known: &BTreeSet<String>,
) -> Result<Option<(String, String)>, Stop> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| "a process has no id".to_owned())?;
    let broken = |error: &dyn std::fmt::Display| Stop::Failed(format!("cannot control the backup: {error}"));
    let id = loop {
        interrupted()?;
        if let Some(status) = child.try_wait().map_err(|error| broken(&error))? {
            must(status.success(), format!("the third backup failed by itself ({status})"))?;
            return Ok(None);
        }
        let new = sessions(stage).difference(known).last().cloned();
        if let Some(id) = new.filter(|id| events(stage, id).iter().any(|event| event == "tickets_received")) {
            break id;
        }
        pass(Duration::from_micros(200));
    };
    kill_process(pid, Signal::STOP).map_err(|error| broken(&error))?;
    // It cannot go on now, so this is what it had done.
    let events = events(stage, &id);
    if events.iter().any(|event| event == "stop_returned") {
        kill_process(pid, Signal::CONT).map_err(|error| broken(&error))?;
        child.wait().map_err(|error| broken(&error))?;
        return Ok(None);
    }
    stage.screen.command(&format!("kill -9 {}", child.id()));
    kill_process(pid, Signal::KILL).map_err(|error| broken(&error))?;
    child.wait().map_err(|error| broken(&error))?;
    Ok(Some((id, events.last().cloned().unwrap_or_default())))
}

fn go_back_in_time(stage: &mut Stage) -> Result<String, Stop> {
    stage.screen.title("3. Back to a point in time");
    stage.cluster.sql("INSERT INTO marker (text) VALUES ('before')");
    pass(Duration::from_millis(300));
    let moment = stage.cluster.sql("SELECT clock_timestamp()");
    pass(Duration::from_millis(300));
    stage.cluster.sql("INSERT INTO marker (text) VALUES ('after, never wanted')");
    stage.sh("psql -Atc 'SELECT text, at FROM marker ORDER BY at'")?;
    stage.cluster.archive_wal();
    stage.sh(&format!(
        "barman-snap restore $CATALOG shop auto $DISK/restored --target-time '{moment}' \\\n      \
         --tablespace hot:$DISK/restored-hot --tablespace cold:$DISK/restored-cold"
    ))?;
    let restored = Cluster::adopt(stage.cluster.installation(), stage.disk.path().join("restored"));
    stage.screen.shorten(restored.socket_dir(), "SOCKET", "where the restored server will listen");
    stage.sh(
        "pg_ctl start -w -D $DISK/restored -l $SOCKET/log -o \"-k $SOCKET -c listen_addresses= -c archive_mode=off\"",
    )?;
    wait_for("the end of the recovery", Duration::from_secs(120), || {
        (INTERRUPTED.load(Ordering::Relaxed) || restored.sql("SELECT pg_is_in_recovery()") == "f").then_some(())
    });
    stage.sh("psql -h $SOCKET -Atc 'SELECT text, at FROM marker ORDER BY at'")?;
    let cluster = &stage.cluster;
    let found = restored.sql("SELECT text FROM marker ORDER BY at");
    must(found == "before", format!("the restored markers should be 'before' alone, they are {found:?}"))?;
    let late = restored.sql(&format!("SELECT count(*) FROM ticks WHERE at > '{moment}'"));
    must(late == "0", format!("{late} rows are younger than the target"))?;
    // A transaction's tick is written a little before it commits, so the last ones before the moment may be on either side.
    let early = format!("SELECT count(*) FROM ticks WHERE at < '{moment}'::timestamptz - interval '100 ms'");
    let (kept, wanted) = (restored.sql(&early), cluster.sql(&early));
    must(kept == wanted, format!("{kept} of {wanted} rows from before the target are there"))?;
    pgbench_balanced(&restored)?;
    Ok(format!(
        "restored to {moment}: the row before is there, the row after is not, of {wanted} transactions none is missing"
    ))
}

fn prove(stage: &Stage) -> Result<String, Stop> {
    stage.screen.title("4. The proof, for the newest backup");
    stage.sh("barman-snap verify $CATALOG shop last --sql 'SELECT count(*) FROM pgbench_accounts'")?;
    let newest = backups(stage)?.pop().ok_or_else(|| "the catalog is empty".to_owned())?;
    let id = newest["backup_id"].as_str().unwrap_or_default();
    let shown = stage.json("show", &[id])?;
    let proof = &shown[SERVER]["proofs"][0];
    must(proof["passed"] == true, format!("no proof was stored with backup {id}: {proof}"))?;
    let passed = proof["checks"].as_array().into_iter().flatten().filter(|check| check["outcome"] == "passed");
    let passed: Vec<&str> = passed.filter_map(|check| check["name"].as_str()).collect();
    stage.sh("barman-snap gc $CATALOG shop")?;
    Ok(format!("backup {id} restores and starts ({}); the proof is stored in the catalog", passed.join(", ")))
}

/// How many transactions of the load have been recorded.
fn ticks(cluster: &Cluster) -> u64 {
    cluster.sql("SELECT count(*) FROM ticks").parse().unwrap_or(0)
}

/// Seconds, on the clock of the server.
fn now(cluster: &Cluster) -> f64 {
    cluster.sql("SELECT extract(epoch FROM clock_timestamp())").parse().unwrap_or(0.0)
}

/// The backups of the catalog, oldest first.
fn backups(stage: &Stage) -> Result<Vec<Value>, Stop> {
    let mut listing = stage.json("list", &[])?;
    match listing["backups_list"].take() {
        Value::Array(backups) => Ok(backups),
        other => Err(Stop::Failed(format!("not a list of backups: {other}"))),
    }
}

/// The ids of all sessions that have a journal, read from the catalog's directory.
fn sessions(stage: &Stage) -> BTreeSet<String> {
    let entries = std::fs::read_dir(stage.catalog.join(SERVER).join("sessions")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The events of a journal, in order. See docs/format/journal.md.
fn events(stage: &Stage, id: &str) -> Vec<String> {
    let journal = stage.catalog.join(SERVER).join("sessions").join(id);
    let entries = (0..).map_while(|number| std::fs::read(journal.join(format!("{number:08}.json"))).ok());
    let events =
        entries.map_while(|bytes| serde_json::from_slice::<Value>(&bytes).ok()?["event"].as_str().map(str::to_owned));
    events.collect()
}
