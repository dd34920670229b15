//! The main job on a real ZFS: data, WAL and tablespaces on datasets of their own, all as the unprivileged user of the server,
//! who may do what `zfs allow` has given.
//!
//! Few kernels have ZFS: `make test-vm` runs this in a guest that does, slowly, so one cluster sees all of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use barman_snap_tests::command::run;
use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::{Installation, Stop};
use barman_snap_tests::site::{Site, wait_until_promoted};
use barman_snap_tests::wait::wait_for;
use barman_snap_tests::{checks, need};

/// Data, WAL, two tablespaces.
const DATASETS: usize = 4;

fn zfs(arguments: &[&str]) -> String {
    run(Command::new("zfs").args(arguments)).text().to_owned()
}

/// The snapshots of the pool, or those of one backup.
fn snapshots(site: &Site, id: &str) -> Vec<String> {
    let all = zfs(&["list", "-H", "-t", "snapshot", "-o", "name", "-r", &site.fs().pool()]);
    all.lines().filter(|name| name.contains(&id.to_lowercase())).map(str::to_owned).collect()
}

#[test]
fn from_the_first_refusal_to_the_last_deletion() {
    let installation = need!(Installation::newest());
    let site = need!(Site::plan(&installation, Kind::Zfs).size_mib(2048).start());
    site.cluster.sql(
        "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n; \
         CREATE TABLE in_hot TABLESPACE hot AS SELECT generate_series(1, 1000) AS n;",
    );
    what_was_not_allowed_is_refused_with_the_command_that_helps(&site);
    let id = a_backup_is_cut_at_one_instant_and_restored(&site);
    a_killed_backup_is_complete_or_gone_after_recover(&site);
    a_held_snapshot_stops_the_deletion_before_it_begins(&site, &id);
    what_cannot_be_seen_is_not_gone(&site);
}

fn what_was_not_allowed_is_refused_with_the_command_that_helps(site: &Site) {
    let command = "zfs allow -u postgres snapshot,destroy,mount,userprop ";
    for line in ["check", "backup"] {
        let ran = site.run(line, &[]);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!ran.success() && said.contains(&format!("{command}{}/", site.fs().pool())), "{said}");
        assert!(!said.contains("org.barman_snap"), "the whole command line: {said}");
    }
    assert_eq!(snapshots(site, ""), Vec::<String>::new());
    let pool = site.fs().pool();
    run(Command::new("sh").arg("-c").arg(format!("{command}{pool}")));
    site.ok("check", &[]);
}

fn a_backup_is_cut_at_one_instant_and_restored(site: &Site) -> String {
    let id = site.backup(&[]);
    let shown = site.show(&id);
    let of_backup = shown["copy_stats"]["barman_snap"]["snapshots"].as_array().expect("they are recorded");
    assert!(of_backup.iter().all(|one| one["ticket"]["method"] == "zfs"), "{shown}");
    let names = snapshots(site, &id);
    assert_eq!(names.len(), DATASETS, "{names:?}");
    let mut arguments = vec!["get", "-H", "-o", "value", "createtxg"];
    arguments.extend(names.iter().map(String::as_str));
    let mut instants: Vec<String> = zfs(&arguments).lines().map(str::to_owned).collect();
    instants.dedup();
    assert_eq!(instants.len(), 1, "one transaction for all");

    site.cluster.sql("INSERT INTO kept SELECT generate_series(1001, 2000)");
    site.cluster.archive_wal();
    let restored = site.restore(&id, "end", &[]);
    wait_until_promoted(&restored);
    assert_eq!(checks::sums(&restored), checks::sums(&site.cluster));
    restored.stop(Stop::Fast);
    let proof = site.json("verify", &[&id]);
    assert_eq!(proof["passed"], true, "{proof}");
    id
}

fn a_killed_backup_is_complete_or_gone_after_recover(site: &Site) {
    for entry in [1, 4] {
        let known = site.objects("sessions");
        let mut child = site.snap.command(site.args("backup", &["--immediate-checkpoint"]));
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("barman-snap runs");
        let wanted = format!("/{entry:08}.json");
        wait_for("the entry of the journal", Duration::from_secs(120), || {
            site.objects("sessions").iter().any(|key| key.ends_with(&wanted) && !known.contains(key)).then_some(())
        });
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
        site.ok("recover", &[]);
        let listed = site.listed();
        assert!(listed.iter().all(|id| snapshots(site, id).len() == DATASETS), "{listed:?}");
        assert_eq!(snapshots(site, "").len(), DATASETS * listed.len(), "none belongs to nobody");
    }
}

fn a_held_snapshot_stops_the_deletion_before_it_begins(site: &Site, id: &str) {
    let names = snapshots(site, id);
    let (held, last) = (&names[1], names.len());
    zfs(&["hold", "audit", held]);
    let ran = site.run("delete", &["--backup-id", id]);
    assert!(!ran.success() && ran.stderr.contains(&format!("zfs release audit {held}")), "{}", ran.stderr);
    assert_eq!(snapshots(site, id).len(), last, "nothing was deleted");
    assert_eq!(site.show(id)["status"], "DONE");
    zfs(&["release", "audit", held]);
    site.ok("delete", &["--backup-id", id]);
    assert_eq!(snapshots(site, id), Vec::<String>::new());
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
}

fn what_cannot_be_seen_is_not_gone(site: &Site) {
    let id = site.backup(&[]);
    let before = (site.listed(), site.objects("base"));
    site.cluster.stop(Stop::Fast);
    let (pool, image) = (site.fs().pool(), site.fs().image());
    run(Command::new("zpool").args(["export", &pool]));
    let ran = site.run("delete", &["--backup-id", &id]);
    assert!(!ran.success() && ran.stderr.contains(&format!("pool {pool} is not imported")), "{}", ran.stderr);
    site.run("recover", &[]);
    site.ok("gc", &["--apply"]);
    assert_eq!((site.listed(), site.objects("base")), before);
    run(Command::new("zpool").arg("import").arg("-d").arg(image.parent().expect("it has one")).arg(&pool));
    assert_eq!(snapshots(site, &id).len(), DATASETS);

    zfs(&["rename", &format!("{pool}/main"), &format!("{pool}/renamed")]);
    let again = site.restore(&id, "again", &["--target-immediate"]);
    wait_until_promoted(&again);
    assert_eq!(again.sql("SELECT count(*) FROM kept"), "2000");
    again.stop(Stop::Fast);
    site.ok("delete", &["--backup-id", &id]);
    assert_eq!(snapshots(site, &id), Vec::<String>::new());
}
