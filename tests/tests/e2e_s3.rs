//! The whole cycle with the catalog on an S3 server: archive, back up, list, show, restore, verify, keep, delete.

use std::time::Duration;

use barman_snap_tests::fs::Kind;
use barman_snap_tests::load::{Load, fill};
use barman_snap_tests::pg::Installation;
use barman_snap_tests::s3::MotoServer;
use barman_snap_tests::site::{Site, checked_pages, wait_until_promoted, wait_until_quiet};
use barman_snap_tests::wait::pass;
use barman_snap_tests::{checks, need};

#[test]
fn the_whole_cycle_through_s3() {
    let installation = need!(Installation::newest());
    let server = need!(MotoServer::start());
    let site = need!(Site::plan(&installation, Kind::Btrfs).on_s3(&server).start());
    let cluster = &site.cluster;
    fill(cluster, 1);
    let load = Load::start(cluster, 2);
    pass(Duration::from_millis(300));
    let first = site.backup(&["--name", "weekly"]);
    let second = site.backup(&[]);
    load.stop();
    wait_until_quiet(cluster);
    let expected = checks::sums(cluster);
    cluster.archive_wal();

    assert_eq!(site.listed(), [first.clone(), second.clone()]);
    let keys = server.keys("catalog/main/");
    for key in [format!("catalog/main/base/{first}/backup.info"), format!("catalog/main/base/{second}/backup_label")] {
        assert!(keys.contains(&key), "no {key} in {keys:#?}");
    }
    assert!(keys.iter().any(|key| key.starts_with("catalog/main/wals/0000000100000000/")), "{keys:#?}");

    let restored = site.restore("weekly", "s3", &[]);
    wait_until_promoted(&restored);
    assert_eq!(checks::sums(&restored), expected);
    assert_eq!(checks::amcheck_ok(&restored), Ok(()));
    assert!(checked_pages(&restored).expect("no page is bad") > 1000);

    let bin = installation.bin().display().to_string();
    let proof = site.json("verify", &[&second, "--all-wal", "--pg-bin-dir", &bin]);
    assert_eq!(proof["passed"], true, "{proof:#}");
    assert_eq!(site.show(&second)["proofs"][0]["passed"], true);

    site.ok("keep", &[&second, "--target", "full"]);
    site.ok("delete", &["--backup-id", &first]);
    assert_eq!(site.listed(), std::slice::from_ref(&second));
    let of_first = |name: &&String| name.contains(&first.to_lowercase());
    assert_eq!(site.snapshots().iter().find(of_first), None, "its snapshots must be gone, too");
    assert_eq!(server.keys(&format!("catalog/main/base/{first}/")), Vec::<String>::new());
    assert_eq!(site.ok("gc", &[]).text(), "nothing to remove");
    assert_eq!(site.ok("recover", &[]).text(), "nothing to recover");
}
