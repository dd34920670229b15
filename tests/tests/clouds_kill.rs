//! `kill -9` of backups and restores in the clouds.
//!
//! A backup is killed after each of its steps, and a moment later, so that the next call to the cloud is under way. After
//! `recover` it is published with all its snapshots, or nothing of it is left; the rest of that story, with random moments and
//! hundreds of kills, is in `kill_loop.rs`.
//!
//! A restore is killed with its volumes made, and with them attached. Nothing comes back for those: `gc` tells them, removes
//! what was never attached when it is old enough, and never touches what somebody may have written to.
#![allow(clippy::print_stdout, reason = "what became of each kill is shown to whoever runs the test with --no-capture")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use barman_snap_tests::cloud::{Cloud, CloudSite, DATA_DISK, Fault, INSTANCE, TABLESPACE, TS_DISK};
use barman_snap_tests::command::run;
use barman_snap_tests::own_dev;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::wait::{pass, wait_for};
use serde_json::json;

/// What the backup says when it has come so far, and how many milliseconds later it is killed.
const MOMENTS: [(&str, u64); 8] = [
    ("2 volumes", 0),
    ("enter backup mode", 20),
    ("announce in the catalog", 10),
    ("announce in the catalog", 80),
    ("take the snapshots", 0),
    ("leave backup mode", 0),
    ("complete the WAL", 30),
    ("wait until restorable", 0),
];

fn start(cloud: Cloud) -> Option<CloudSite> {
    let site = Installation::newest().and_then(|installation| {
        CloudSite::plan(cloud, &installation).size_gib(1).without_archiving().segment_mib(1).start()
    });
    match site {
        Ok(site) => {
            calm(&site);
            Some(site)
        }
        Err(missing) => {
            missing.report();
            None
        }
    }
}

fn calm(site: &CloudSite) {
    site.api.reset();
    site.api.settings(&json!({"cut_ms": 100, "ready_ms": 300, "max_concurrent": 100}));
}

/// Runs a command until it says `line` on its standard error and `delay` is over, and kills it. False if it had ended.
fn killed_after(command: &mut Command, line: &str, delay: Duration) -> bool {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let stderr = child.stderr.take().expect("it is a pipe");
    let mut said = BufReader::new(stderr).lines().map_while(Result::ok);
    let found = said.find(|said| said.contains(line));
    assert!(found.is_some(), "it never said {line:?}");
    pass(delay);
    kill(&mut child)
}

/// False if it had ended by itself.
fn kill(child: &mut Child) -> bool {
    let running = child.try_wait().expect("the child is ours").is_none();
    let _ = child.kill();
    running && !child.wait().expect("the child is ours").success()
}

/// The ids of all backups, of which each is complete.
fn backups(site: &CloudSite) -> Vec<String> {
    let list = site.json("list", &[]);
    let all = list["backups_list"].as_array().expect("it is a list");
    let id = |backup: &serde_json::Value| {
        assert_eq!(backup["status"], "DONE", "{backup:#}");
        backup["backup_id"].as_str().expect("it is text").to_owned()
    };
    all.iter().map(id).collect()
}

/// Kills a backup at each of the moments.
fn killed_backups_are_complete_or_gone(cloud: Cloud) {
    let Some(site) = start(cloud) else { return };
    let disks = site.disks();
    let mut kills = 0;
    for (step, delay) in MOMENTS {
        calm(&site);
        let instance = ["-v", "--immediate-checkpoint", "--snapshot-instance", INSTANCE];
        let mut backup = site.snap.command(site.cloud_args("backup", &instance));
        let killed = killed_after(&mut backup, step, Duration::from_millis(delay));
        kills += usize::from(killed);
        site.ok_in_cloud("recover", &[]);
        let ids = backups(&site);
        let names = |id: &String| [DATA_DISK, TS_DISK].map(|disk| site.snapshot_name(disk, id));
        let mut expected: Vec<String> = ids.iter().flat_map(names).collect();
        expected.sort();
        let what = format!("killed {delay} ms after {step:?}");
        println!("{what:<48} {}", if ids.is_empty() { "undone" } else { "completed" });
        assert_eq!(site.snapshots(), expected, "{what}: orphans, or snapshots that are missing");
        assert_eq!(site.disks(), disks, "{what}: no volume");
        assert_eq!(site.ok_in_cloud("gc", &[]).text(), "nothing to remove", "{what}");
        let past_the_line = ["leave backup mode", "complete the WAL", "wait until restorable"].contains(&step);
        assert!(!ids.is_empty() || !past_the_line, "{what}: behind the dividing line a backup is completed");
        for id in ids {
            site.ok_in_cloud("delete", &["--backup-id", &id]);
        }
        assert_eq!(site.snapshots(), Vec::<String>::new(), "{what}: a deleted backup leaves nothing");
    }
    assert!(kills >= 6, "only {kills} backups were still running when they were killed");
}

#[test]
fn on_aws_a_killed_backup_is_complete_or_gone_after_recover() {
    own_dev!();
    killed_backups_are_complete_or_gone(Cloud::Aws);
}

#[test]
fn on_gcp_a_killed_backup_is_complete_or_gone_after_recover() {
    own_dev!();
    killed_backups_are_complete_or_gone(Cloud::Gcp);
}

#[test]
fn on_azure_a_killed_backup_is_complete_or_gone_after_recover() {
    own_dev!();
    killed_backups_are_complete_or_gone(Cloud::Azure);
}

/// The first call that a restore makes of a volume that exists, and the one by which it attaches it.
fn calls(cloud: Cloud) -> [&'static str; 2] {
    match cloud {
        // The tag says that somebody may write to the volume from now on.
        Cloud::Aws => ["CreateTags", "AttachVolume"],
        Cloud::Gcp => ["compute.instances.attachDisk"; 2],
        Cloud::Azure => ["Microsoft.Compute/virtualMachines/attachDetachDataDisks/action"; 2],
    }
}

/// A restore to new volumes, for a user who may mount.
fn restore(site: &CloudSite, id: &str, place: &str) -> Command {
    let [data, ts] = CloudSite::places(&site.place().join(place));
    let (target, tablespace) = (data.display().to_string(), format!("{TABLESPACE}:{}", ts.display()));
    let options = ["-v", id, &target, "--snapshot-recovery-instance", INSTANCE, "--tablespace", &tablespace];
    site.snap.command_that_mounts(site.cloud_args("restore", &options))
}

/// Starts a restore whose call `action` gets no answer, and kills it when it has sent that.
fn killed_at(site: &CloudSite, id: &str, place: &str, action: &str) {
    calm(site);
    site.api.faults(&[Fault::hang(action, 60.0)]);
    let mut command = restore(site, id, place);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it runs");
    wait_for(action, Duration::from_secs(30), || {
        site.api.calls().iter().any(|call| call.action == action).then_some(())
    });
    assert!(kill(&mut child), "the restore waits for an answer");
    site.api.faults(&[]);
}

/// The volumes that there are now and were not before.
fn new_volumes(site: &CloudSite, before: &[String]) -> BTreeSet<String> {
    site.disks().into_iter().filter(|disk| !before.contains(disk)).collect()
}

/// Kills restores, and looks what `gc` makes of their volumes.
fn volumes_of_killed_restores(cloud: Cloud) {
    let Some(site) = start(cloud) else { return };
    let disks = site.disks();
    let id = site.backup(&[]);
    let [first, attach] = calls(cloud);

    // Never attached. A young volume may be that of a restore which is going on.
    killed_at(&site, &id, "one", first);
    assert_eq!(new_volumes(&site, &disks).len(), 2, "both were made");
    let told = site.ok_in_cloud("gc", &["--apply"]);
    assert_eq!(told.text().matches("younger than 24 hours").count(), 2, "{}", told.text());
    assert_eq!(new_volumes(&site, &disks).len(), 2, "nothing young is removed");
    let told = site.ok_in_cloud("gc", &["--volumes-older-than", "0"]);
    assert_eq!(told.text().matches("for a restore, and never attached").count(), 2, "{}", told.text());
    assert_eq!(new_volumes(&site, &disks).len(), 2, "without --apply nothing is removed");
    site.ok_in_cloud("gc", &["--volumes-older-than", "0", "--apply"]);
    assert_eq!(site.disks(), disks, "nothing but the volumes of the restore is removed");
    assert_eq!(site.ok_in_cloud("gc", &["--volumes-older-than", "0"]).text(), "nothing to remove");

    // About to be attached: what cannot be told from a volume that was in use stays.
    killed_at(&site, &id, "two", attach);
    site.ok_in_cloud("gc", &["--volumes-older-than", "0", "--apply"]);
    let stays = new_volumes(&site, &disks);
    assert_eq!(stays.len(), usize::from(cloud == Cloud::Aws), "{stays:?}");

    // In use: a restore that came to its end is as good as one that was killed with its volumes mounted.
    run(&mut restore(&site, &id, "three"));
    let used: BTreeSet<String> = new_volumes(&site, &disks).difference(&stays).cloned().collect();
    assert_eq!(used.len(), 2);
    let told = site.ok_in_cloud("gc", &["--volumes-older-than", "0", "--apply"]);
    assert!(used.iter().all(|volume| !told.text().contains(volume)), "what is attached is in use: {}", told.text());
    // Detached: somebody may have written to them, and they may be all that there is.
    for mount in [DATA_DISK, TS_DISK] {
        run(Command::new("umount").arg(site.place().join("three").join(mount)));
    }
    used.iter().for_each(|volume| site.api.detach(volume));
    let told = site.ok_in_cloud("gc", &["--volumes-older-than", "0", "--apply"]);
    assert_eq!(told.text().matches("it was attached once").count(), 2 + stays.len(), "{}", told.text());
    assert!(used.is_subset(&new_volumes(&site, &disks)), "no volume is removed that was ever in use");
    site.ok_in_cloud("delete", &["--backup-id", &id]);
}

#[test]
fn on_aws_gc_removes_what_a_killed_restore_never_attached() {
    own_dev!();
    volumes_of_killed_restores(Cloud::Aws);
}

#[test]
fn on_gcp_gc_removes_what_a_killed_restore_never_attached() {
    own_dev!();
    volumes_of_killed_restores(Cloud::Gcp);
}

#[test]
fn on_azure_gc_removes_what_a_killed_restore_never_attached() {
    own_dev!();
    volumes_of_killed_restores(Cloud::Azure);
}
