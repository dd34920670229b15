//! `kill -9` at random moments of real backups, then `recover`, then the one invariant: **every backup in the catalog is
//! complete with all its snapshots, or it is not there at all, and nothing lies around that belongs to nobody.**
//!
//! Half of the moments are spread evenly over the measured duration of a backup. As most of that is one checkpoint, the
//! other half comes a few milliseconds after a random entry of the journal, so that every phase is hit; which ones were is
//! printed. A quarter of the recoveries is killed, too, and done again. The seed is printed; it fixes the choices, not the
//! scheduling of the machine.
//!
//! `BARMAN_SNAP_KILLS` is the number of kills (200 in all: half of them on btrfs, where a snapshot is one call, half on XFS,
//! where it is a tree that is made file by file), `BARMAN_SNAP_SEED` the seed.
#![allow(clippy::print_stdout, reason = "seed and table are shown to whoever runs the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::process::{Child, Stdio};
use std::time::Duration;

use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::Installation;
use barman_snap_tests::site::{Site, checked_pages, wait_until_promoted, wait_until_quiet};
use barman_snap_tests::wait::{pass, timed};
use barman_snap_tests::{checks, need};
use serde_json::Value;

/// The number of the last entry of a journal that nobody disturbs; it is too late to kill anything then.
const LAST_ENTRY: u64 = 12;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A duration from zero to a tenth more than `most`.
    fn moment_within(&mut self, most: Duration) -> Duration {
        let fraction = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        most.mul_f64(1.1 * fraction)
    }
}

fn number_from_env(name: &str, or_else: impl FnOnce() -> u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => or_else(),
    }
}

fn spawn(site: &Site, args: &[String]) -> Child {
    let mut command = site.snap.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("barman-snap can be run")
}

/// Kills a child. False if it had ended by then.
fn kill(mut child: Child) -> bool {
    let running = child.try_wait().expect("the child is ours").is_none();
    // Has it ended meanwhile, this does nothing.
    let _ = child.kill();
    let status = child.wait().expect("the child is ours");
    running && !status.success()
}

/// Runs a command and kills it after `delay`. False if it had ended by then.
fn killed_after(site: &Site, args: &[String], delay: Duration) -> bool {
    let child = spawn(site, args);
    pass(delay);
    kill(child)
}

/// Runs a backup and kills it `delay` after its journal got its entry number `entry`. False if it had ended by then.
fn killed_after_entry(site: &Site, args: &[String], known: &BTreeSet<String>, entry: u64, delay: Duration) -> bool {
    let mut child = spawn(site, args);
    loop {
        let is_new = |key: &&String| {
            let id = key.split('/').nth(1).unwrap_or_default();
            !known.contains(id) && key.ends_with(&format!("/{entry:08}.json"))
        };
        if site.objects("sessions").iter().find(is_new).is_some() {
            break;
        }
        if child.try_wait().expect("the child is ours").is_some() {
            return false;
        }
        pass(Duration::from_micros(200));
    }
    pass(delay);
    kill(child)
}

/// The ids of all sessions.
fn sessions(site: &Site) -> BTreeSet<String> {
    let keys = site.objects("sessions");
    // The identity of the catalog lies beside the sessions.
    keys.iter().filter_map(|key| Some(key.strip_prefix("sessions/")?.split_once('/')?.0.to_owned())).collect()
}

/// What the journal of a session says has happened.
fn events(site: &Site, id: &str) -> Vec<String> {
    let is_entry = |key: &&String| {
        key.ends_with(".json")
            && key.rsplit('/').next().is_some_and(|file| file.starts_with(|c: char| c.is_ascii_digit()))
    };
    let keys = site.objects(&format!("sessions/{id}"));
    let event = |key: &String| {
        let bytes = std::fs::read(site.object(key)).expect("an entry can be read");
        let entry: Value = serde_json::from_slice(&bytes).expect("an entry is whole, whenever its writer died");
        entry["event"].as_str().expect("it has an event").to_owned()
    };
    keys.iter().filter(is_entry).map(event).collect()
}

/// What the catalog has of a backup.
const OBJECTS: [&str; 3] = ["backup.info", "backup_label", "private/config.json"];

/// The tree that a note beside it is of, if it is one. Who is killed right after the record says more leaves it.
fn note_of(name: &str) -> Option<&str> {
    [".copied", ".written"].iter().find_map(|kind| name.strip_suffix(kind))
}

/// The invariant, read from the disk without any help of the engine's.
fn assert_invariant(site: &Site, volumes: usize, round: u64) {
    let there: BTreeSet<String> = site.snapshots().into_iter().collect();
    let mut expected = BTreeSet::new();
    let mut backups = BTreeSet::new();
    for key in site.objects("base") {
        let parts: Vec<&str> = key.splitn(3, '/').collect();
        let [_, id, file] = parts.as_slice() else { panic!("round {round}: what is {key}?") };
        assert!(OBJECTS.contains(file), "round {round}: what is {key}?");
        backups.insert((*id).to_owned());
        if *file == "backup.info" {
            let info = std::fs::read_to_string(site.object(&key)).expect("backup.info can be read");
            assert!(
                info.lines().any(|line| line == "status=DONE"),
                "round {round}: {id} is neither DONE nor gone:\n{info}"
            );
            let own = |name: &&String| name.contains(&id.to_lowercase()) && note_of(name).is_none();
            expected.extend(there.iter().filter(own).cloned());
            let complete = expected.iter().filter(own).count();
            assert_eq!(complete, 2 * volumes, "round {round}: backup {id} has not all its snapshots and records");
        }
    }
    for id in &backups {
        for file in OBJECTS {
            let path = site.object(&format!("base/{id}/{file}"));
            assert!(path.exists(), "round {round}: {} is missing", path.display());
        }
    }
    // A note of how far a tree is goes when the record says that it is ready, or with the record.
    let is_note = |name: &str| note_of(name).is_some_and(|tree| expected.contains(tree));
    let of_nobody: Vec<_> = there.difference(&expected).filter(|name| !is_note(name)).collect();
    assert!(of_nobody.is_empty(), "round {round}: these belong to nobody: {of_nobody:#?}");
    // Whatever a writer left that died in the middle of a write.
    let hidden: Vec<_> = site.objects("").into_iter().filter(|key| key.contains(".barman-snap.")).collect();
    assert!(hidden.is_empty(), "round {round}: left in the catalog: {hidden:#?}");
}

/// A session ends with its backup, or with nothing.
fn assert_over(site: &Site, id: &str, round: u64) {
    let events = events(site, id);
    let last = events.last().map(String::as_str);
    let published = site.object(&format!("base/{id}/backup.info")).exists();
    let expected = if published { "published" } else { "undone" };
    assert_eq!(last, Some(expected), "round {round}: session {id}: {events:?}");
}

/// Recovers; now and then that is killed in the middle, too. Says how often it was.
fn recover(site: &Site, random: &mut Random, usual: Duration) -> u64 {
    let args = site.args("recover", &[]);
    let mut kills = 0;
    while random.next().is_multiple_of(4) {
        let delay = random.moment_within(usual);
        kills += u64::from(killed_after(site, &args, delay));
    }
    site.ok("recover", &[]);
    kills
}

#[test]
fn on_btrfs_a_killed_backup_is_complete_or_gone_after_recover() {
    killed_backups_are_complete_or_gone(Kind::Btrfs);
}

#[test]
fn on_xfs_a_killed_backup_is_complete_or_gone_after_recover() {
    killed_backups_are_complete_or_gone(Kind::XfsReflink);
}

fn killed_backups_are_complete_or_gone(kind: Kind) {
    let kills = number_from_env("BARMAN_SNAP_KILLS", || 200).div_ceil(2);
    let seed = number_from_env("BARMAN_SNAP_SEED", || std::hash::RandomState::new().build_hasher().finish());
    println!("BARMAN_SNAP_SEED={seed}");
    let mut random = Random(seed);

    let installation = need!(Installation::newest());
    // Small segments, stored by the engine itself, so that a backup takes a fraction of a second.
    // Processes are killed here, never the machine, so PostgreSQL need not wait for its disk.
    let plan = Site::plan(&installation, kind).without_archiving().segment_mib(1).setting("fsync", "off");
    let site = need!(plan.start());
    let volumes = 4;
    fill(&site.cluster, 1);
    let load = Load::start(&site.cluster, 1);
    let mut times: Vec<Duration> = (0..5).map(|_| timed(|| site.backup(&[])).1).collect();
    times.sort();
    let usual = times[1];
    println!("a backup takes {usual:?}");
    let args = site.args("backup", &["--immediate-checkpoint"]);

    let (mut done, mut round, mut kills_of_recover) = (0, 0, 0);
    let mut table: BTreeMap<String, [u64; 2]> = BTreeMap::new();
    let mut rescued = None;
    while done < kills {
        round += 1;
        assert!(round < 3 * kills + 20, "too few backups could be killed: {done} of {round}");
        let known = sessions(&site);
        let was_killed = if random.next().is_multiple_of(2) {
            killed_after(&site, &args, random.moment_within(usual))
        } else {
            let entry = random.next() % LAST_ENTRY;
            killed_after_entry(&site, &args, &known, entry, random.moment_within(Duration::from_millis(15)))
        };
        done += u64::from(was_killed);
        let fresh: Vec<String> = sessions(&site).difference(&known).cloned().collect();
        assert!(fresh.len() <= 1, "one backup, several sessions: {fresh:?}");
        let at = match fresh.first().map(|id| events(&site, id)) {
            _ if !was_killed => "(it had ended)".to_owned(),
            Some(events) => format!("{:02} {}", events.len(), events.last().map_or("(nothing)", String::as_str)),
            None => "00 (before the plan)".to_owned(),
        };
        kills_of_recover += recover(&site, &mut random, usual / 2);
        let survived = fresh.first().filter(|id| site.object(&format!("base/{id}/backup.info")).exists());
        table.entry(at).or_default()[usize::from(survived.is_some())] += 1;
        if was_killed && survived.is_some() {
            rescued = survived.cloned();
        }
        assert_invariant(&site, volumes, round);
        fresh.iter().for_each(|id| assert_over(&site, id, round));
        assert_not_in_backup_mode(&site);
        if round.is_multiple_of(25) {
            tidy_up(&site);
            assert_invariant(&site, volumes, round);
            rescued = rescued.filter(|id| site.object(&format!("base/{id}/backup.info")).exists());
        }
    }
    println!("{:<28}{:>8}{:>8}", "last entry when killed", "undone", "saved");
    for (at, [undone, saved]) in &table {
        println!("{at:<28}{undone:>8}{saved:>8}");
    }
    println!("{done} backups killed, and {kills_of_recover} recoveries");

    load.stop();
    wait_until_quiet(&site.cluster);
    let last = site.backup(&[]);
    assert_invariant(&site, volumes, round);
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
    survivors_are_sound(&site, &last, rescued.as_deref());
}

/// Nothing is an orphan. What is well known and old is removed, which keeps the time of a round within bounds.
fn tidy_up(site: &Site) {
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
    site.ok("delete", &["--retention-policy", "REDUNDANCY 3"]);
    site.ok("gc", &["--keep-undone", "0", "--apply"]);
    let left: BTreeSet<String> = site.listed().into_iter().collect();
    assert_eq!(sessions(site), left, "the journals that are left are those of the backups");
}

/// PostgreSQL ends backup mode with the session that began it.
fn assert_not_in_backup_mode(site: &Site) {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name NOT IN ('psql', 'pgbench') \
                    AND backend_type = 'client backend'";
    barman_snap_tests::wait::wait_for("the session of the killed backup to end", Duration::from_secs(10), || {
        (site.cluster.sql(sessions) == "0").then_some(())
    });
}

/// Restores the newest backup, after which nothing was written, and one that was completed by `recover`.
fn survivors_are_sound(site: &Site, last: &str, rescued: Option<&str>) {
    let restored = site.restore(last, "last", &["--target-immediate"]);
    wait_until_promoted(&restored);
    assert_eq!(checks::sums(&restored), checks::sums(&site.cluster));
    assert_eq!(checks::amcheck_ok(&restored), Ok(()));
    assert!(checked_pages(&restored).expect("no page is bad") > 1000);
    if let Some(id) = rescued {
        let restored = site.restore(id, "rescued", &["--target-immediate"]);
        wait_until_promoted(&restored);
        assert_eq!(checks::pgbench_balanced(&restored), Ok(()));
        assert_eq!(checks::amcheck_ok(&restored), Ok(()));
        assert!(checked_pages(&restored).expect("no page is bad") > 1000);
    }
}
