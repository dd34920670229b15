//! Stock Barman as the peer, both ways, on one catalog of an S3 server: what we write it lists, shows, keeps, deletes and
//! restores; what it writes we list, show, honour and restore.

use std::path::PathBuf;

use barman_snap_tests::barman::Peer;
use barman_snap_tests::command::{Ran, attempt, run};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::fill;
use barman_snap_tests::need;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::s3::MotoServer;
use barman_snap_tests::site::{SERVER, Site};
use barman_snap_tests::user;
use serde_json::Value;

/// The compressions that both sides have, by their option.
const COMPRESSIONS: [&str; 7] = ["", "--gzip", "--bzip2", "--xz", "--snappy", "--zstd", "--lz4"];

/// A catalog that both use.
struct Shared {
    site: Site,
    peer: Peer,
    server: MotoServer,
}

impl Shared {
    /// Runs a command of stock Barman: `barman-cloud-<name> [options] URL SERVER [rest]`.
    fn try_stock(&self, name: &str, options: &[&str], rest: &[&str]) -> Ran {
        let mut command = self.peer.command(name);
        command.args(options).arg(self.server.url("catalog")).arg(SERVER).args(rest).envs(self.server.env());
        attempt(command.envs(self.site.cluster.env()))
    }

    #[track_caller]
    fn stock(&self, name: &str, options: &[&str], rest: &[&str]) -> Ran {
        let ran = self.try_stock(name, options, rest).expect_success();
        // It reports much of what goes wrong on stderr only.
        assert!(!ran.stderr.contains("ERROR") && !ran.stderr.contains("Traceback"), "{}\n{}", ran.line, ran.stderr);
        ran
    }

    #[track_caller]
    fn stock_json(&self, name: &str, rest: &[&str]) -> Value {
        let ran = self.stock(name, &["--format", "json"], rest);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{}: {error}: {}", ran.line, ran.stdout))
    }
}

macro_rules! shared {
    () => {{
        let installation = need!(Installation::of(17));
        let server = need!(MotoServer::start());
        let peer = need!(Peer::found());
        let site = need!(Site::plan(&installation, Kind::Btrfs).on_s3(&server).segment_mib(1).start());
        Shared { site, peer, server }
    }};
}

/// What `show` wraps a backup in: its server name, as it was when it was taken.
#[track_caller]
fn unwrapped(shown: &Value) -> (&String, &Value) {
    shown.as_object().and_then(|object| object.iter().next()).expect("an object with one member")
}

/// Where two JSON objects differ, by member; members that only one has are left out.
fn differing<'a>(ours: &'a Value, stock: &'a Value) -> Vec<(&'a String, &'a Value, &'a Value)> {
    let members = stock.as_object().expect("an object");
    members.iter().filter_map(|(key, value)| Some((key, ours.get(key)?, value))).filter(|(_, a, b)| a != b).collect()
}

#[test]
fn stock_lists_shows_keeps_and_deletes_what_we_write() {
    let shared = shared!();
    let site = &shared.site;
    fill(&site.cluster, 1);
    let first = site.backup(&["--name", "weekly"]);
    let second = site.backup(&[]);

    let list = shared.stock_json("backup-list", &[]);
    let listed: Vec<_> = list["backups_list"].as_array().expect("a list").iter().map(|one| &one["backup_id"]).collect();
    assert_eq!(listed, [first.as_str(), second.as_str()]);
    let text = shared.stock("backup-list", &[], &[]).stdout;
    assert!(text.contains(&first) && text.contains("weekly"), "{text}");

    let theirs = shared.stock_json("backup-show", &[&first]);
    let ours = site.json("show", &[&first]);
    assert_eq!(differing(&ours[SERVER], &theirs[SERVER]), []);
    assert_eq!(theirs[SERVER]["status"], "DONE");
    let text = shared.stock("backup-show", &[], &["weekly"]).stdout;
    assert!(text.contains(&first), "{text}");

    // Its keep is ours, and the other way round.
    shared.stock("backup-keep", &["--target", "full"], &[&first]);
    assert_eq!(site.json("keep", &[&first, "--status"])["keep"], "full");
    let ran = site.run("delete", &["--backup-id", &first]);
    assert_eq!(ran.code(), 1);
    assert!(ran.stderr.contains("is kept"), "{}", ran.stderr);
    site.ok("delete", &["--retention-policy", "REDUNDANCY 1"]);
    assert_eq!(site.listed(), [first.clone(), second.clone()], "the kept one is not obsolete");
    site.ok("keep", &[&first, "--release"]);
    site.ok("keep", &[&second, "--target", "standalone"]);
    let status = shared.stock("backup-keep", &["--status"], &[&second]).stdout;
    assert!(status.contains("standalone"), "{status}");
    assert!(shared.stock("backup-keep", &["--status"], &[&first]).stdout.contains("nokeep"));

    // It knows nothing of local snapshots, so it leaves them; gc finds just those.
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
    shared.stock("backup-delete", &["--backup-id", &first], &[]);
    assert_eq!(site.listed(), [second.as_str()]);
    let lower = first.to_lowercase();
    assert!(site.snapshots().iter().any(|name| name.contains(&lower)), "stock has deleted local snapshots?");
    let plan = site.json("gc", &["--apply"]);
    let orphans = plan["orphans"].as_array().expect("a list");
    assert_eq!(orphans.len(), 4, "{plan:#}");
    assert!(orphans.iter().all(|one| one["name"].as_str().is_some_and(|name| name.contains(&lower))), "{plan:#}");
    assert!(!site.snapshots().iter().any(|name| name.contains(&lower)));
    assert!(site.snapshots().iter().any(|name| name.contains(&second.to_lowercase())), "those of the other are kept");
    assert_eq!(plan["saved_configs"], serde_json::json!([first]), "and the private object, which it does not know");
    // The journal that names them goes when they are gone.
    assert_eq!(plan["kept_journals"][0]["backup_id"], first.as_str(), "{plan:#}");
    assert_eq!(site.json("gc", &["--apply"])["journals"][0], first.as_str());
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
}

#[test]
fn we_list_and_show_what_stock_has_uploaded() {
    let shared = shared!();
    let site = &shared.site;
    shared.stock("backup", &["--immediate-checkpoint", "--gzip", "--name", "uploaded"], &[]);
    let listed = site.listed();
    let [id] = listed.as_slice() else { panic!("not one backup: {listed:?}") };
    let text = site.ok("list", &[]).stdout;
    assert!(text.contains(id) && text.contains("DONE") && text.contains("uploaded"), "{text}");
    let theirs = shared.stock_json("backup-show", &[id]);
    let ours = site.json("show", &["uploaded"]);
    let ((our_name, ours), (their_name, theirs)) = (unwrapped(&ours), unwrapped(&theirs));
    assert_eq!(our_name, their_name);
    assert_eq!(differing(ours, theirs), []);
    site.ok("show", &[id]);
    // A snapshot of ours beside it does not disturb either.
    let own = site.backup(&[]);
    assert_eq!(shared.stock_json("backup-list", &[])["backups_list"].as_array().map(Vec::len), Some(2));
    let target = site.fs().path().join("restored").display().to_string();
    let refused = site.run("restore", &[id, &target]);
    assert_eq!(refused.code(), 1);
    assert!(refused.stderr.contains("was not made by this engine"), "{}", refused.stderr);
    // Our retention deletes theirs completely, objects and all.
    site.ok("delete", &["--backup-id", id]);
    assert_eq!(shared.server.keys(&format!("catalog/{SERVER}/base/{id}/")), Vec::<String>::new());
    assert_eq!(site.listed(), [own]);
}

/// Segments of the cluster, copied aside: names and places.
fn segments(site: &Site, count: usize) -> Vec<(String, PathBuf)> {
    let folder = site.place().join("segments");
    user::make_dir(&folder);
    let found: Vec<_> = (0..count)
        .map(|_| {
            site.cluster.sql("CREATE TABLE IF NOT EXISTS noise (t text); INSERT INTO noise SELECT md5(i::text) FROM generate_series(1, 2000) i");
            let name = site.cluster.sql("SELECT pg_walfile_name(pg_current_wal_lsn())");
            site.cluster.archive_wal();
            let copy = folder.join(&name);
            std::fs::copy(site.cluster.data().join("pg_wal").join(&name), &copy).expect("the segment is still there");
            user::give(&copy);
            (name, copy)
        })
        .collect();
    assert!(found.windows(2).all(|pair| pair[0].0 != pair[1].0), "{found:?}");
    found
}

#[test]
fn wal_goes_both_ways_in_every_compression() {
    let shared = shared!();
    let site = &shared.site;
    let segments = segments(site, 2 * COMPRESSIONS.len());
    let (for_us, for_stock) = segments.split_at(COMPRESSIONS.len());
    let other = "other";
    let url = shared.server.url("catalog");
    let destination = site.place().join("fetched");
    let to = destination.display().to_string();
    for (option, (name, path)) in COMPRESSIONS.iter().zip(for_us) {
        // Into a catalog of its own, for the archiver has stored them in the first one.
        let path_text = path.display().to_string();
        let mut arguments = vec!["wal-archive", &url, other, &path_text];
        arguments.extend(Some(*option).filter(|option| !option.is_empty()));
        site.snap.run(arguments).expect_success();
        let mut command = shared.peer.command("wal-restore");
        run(command.args([&url, other, name, &to]).envs(shared.server.env()));
        assert_eq!(
            std::fs::read(&destination).expect("it was fetched"),
            std::fs::read(path).expect("a copy"),
            "{option}"
        );
        std::fs::remove_file(&destination).expect("it is there");
    }
    for (option, (name, path)) in COMPRESSIONS.iter().zip(for_stock) {
        let mut command = shared.peer.command("wal-archive");
        command.args(Some(*option).filter(|option| !option.is_empty()));
        run(command.args([&url, other]).arg(path).envs(shared.server.env()));
        site.snap.run(["wal-restore", &url, other, name, &to]).expect_success();
        assert_eq!(
            std::fs::read(&destination).expect("it was fetched"),
            std::fs::read(path).expect("a copy"),
            "{option}"
        );
        std::fs::remove_file(&destination).expect("it is there");
    }
    // Every one lies where both look for it, under the suffix of its compression.
    let keys = shared.server.keys(&format!("catalog/{other}/wals/"));
    assert_eq!(keys.len(), 2 * COMPRESSIONS.len(), "{keys:#?}");
    for suffix in [".gz", ".bz2", ".xz", ".snappy", ".zst", ".lz4"] {
        assert_eq!(keys.iter().filter(|key| key.ends_with(suffix)).count(), 2, "{suffix} in {keys:#?}");
    }
}
