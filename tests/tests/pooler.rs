//! Behind a connection pooler no backup is begun, and nothing is left in a session that is somebody else's next.

use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::pooler::PgBouncer;
use barman_snap_tests::site::Site;

/// What PgBouncer keeps for each of its clients by itself.
const ITS_OWN: &str = "'application_name', 'client_encoding', 'DateStyle', 'IntervalStyle', 'TimeZone', \
                       'standard_conforming_strings'";

#[test]
fn a_pooler_is_noticed_before_anything_is_begun_and_keeps_nothing_of_ours() {
    let site = need!(Site::plan(&need!(Installation::newest()), Kind::XfsReflink).on_one_volume().start());
    let cluster = &site.cluster;
    // A strict one, and one that was told to drop what it does not know, as drivers often want it.
    for (mode, lines, why) in [
        ("transaction", "", "unsupported startup parameter"),
        ("transaction", "ignore_startup_parameters = options,extra_float_digits", "not the one that was opened"),
        ("session", "ignore_startup_parameters = options\nserver_reset_query =", "not the one that was opened"),
        ("statement", "ignore_startup_parameters = options", "not the one that was opened"),
    ] {
        let pooler = need!(PgBouncer::start(cluster, mode, lines));
        let way = pooler.way();
        let way: Vec<&str> = way.iter().map(String::as_str).collect();
        let backup = site.run("backup", &way);
        let check = site.run("check", &way);
        assert_eq!((backup.code(), check.code()), (1, 1), "{mode}: {}{}", backup.stderr, check.stdout);
        assert!(check.stdout.contains("PostgreSQL: FAILED"), "{}", check.stdout);
        for what in ["a connection pooler answers at socket ", why, "connect to the server directly"] {
            assert!(backup.stderr.contains(what), "{mode}, {what:?}: {}", backup.stderr);
            assert!(check.stdout.contains(what), "{mode}, {what:?}: {}", check.stdout);
        }
        let described = site.snap.run(["describe-host"].iter().chain(&way));
        assert!(described.stderr.contains("a connection pooler answers"), "{}", described.stderr);

        let left =
            format!("SELECT name, setting FROM pg_settings WHERE source = 'session' AND name NOT IN ({ITS_OWN})");
        assert_eq!(pooler.psql(cluster, &left).expect_success().text(), "");
        let stop = pooler.psql(cluster, "SELECT pg_backup_stop()");
        assert!(stop.stderr.contains("not in progress"), "{}", stop.stderr);
    }
    assert!(site.listed().is_empty() && site.objects("sessions").iter().all(|key| key == "sessions/system-id"));
    // Beside it, all is well.
    site.backup(&[]);
}
