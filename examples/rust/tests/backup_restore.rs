//! The example does what it says.

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::command::{as_server_user, run};
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::scratch::Scratch;

#[test]
fn a_backup_taken_from_rust_becomes_a_server_again() {
    let installation = need!(Installation::newest());
    let program = need!(BarmanSnap::found());
    let scratch = Scratch::new();
    // The server user may be unable to enter the target folder.
    let example = scratch.path().join("backup_restore");
    std::fs::copy(env!("CARGO_BIN_EXE_backup_restore"), &example).expect("the example can be copied");
    let cluster = Cluster::builder(&installation).start();
    cluster.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g");

    let (catalog, target) = (scratch.path().join("catalog"), scratch.path().join("restored"));
    let fetch = format!("{} wal-restore {} pg1 %f %p", program.path().display(), catalog.display());
    let mut example = as_server_user(&example, installation.bin());
    let ran = run(example.arg(&catalog).args(["pg1", &cluster.dsn()]).arg(&target).env("RESTORE_COMMAND", fetch));
    assert!(ran.text().contains(" DONE"), "{}", ran.text());
    cluster.sql("DROP TABLE t");

    let restored = Cluster::adopt(&installation, &target);
    restored.start();
    assert_eq!(restored.sql("SELECT count(*), sum(g) FROM t"), "10000|50005000");
}
