//! Data and write load for a cluster.

use std::fmt::Write as _;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::command::run;
use crate::pg::Cluster;
use crate::scratch::Scratch;
use crate::user;

/// Fills a cluster: the tables of pgbench, `ticks(id, at)` which gets a row for each transaction of [`Load`], and one
/// table `in_<tablespace>` in each tablespace. A `scale` of 1 is about 16 MB.
pub fn fill(cluster: &Cluster, scale: u32) {
    run(cluster.command("pgbench").args(["-i", "-q", "-s", &scale.to_string()]));
    let mut statements = String::from(
        "CREATE TABLE ticks (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());",
    );
    for (name, _) in cluster.tablespaces() {
        // Writing to a string does not fail.
        let _ = write!(
            statements,
            "CREATE TABLE \"in_{name}\" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY USING INDEX TABLESPACE \"{name}\", \
             filler text) TABLESPACE \"{name}\"; \
             INSERT INTO \"in_{name}\" (filler) SELECT repeat(md5(i::text), 10) FROM generate_series(1, {}) i;",
            2000 * scale
        );
    }
    cluster.sql(&statements);
}

/// Clients that write until this is stopped or dropped.
#[derive(Debug)]
pub struct Load {
    child: Child,
    _script: Scratch,
}

impl Load {
    /// Starts `clients` connections that each do half of pgbench's own transactions and half inserts into every
    /// tablespace. The cluster must have been [`fill`]ed.
    pub fn start(cluster: &Cluster, clients: u32) -> Self {
        let scratch = Scratch::new();
        let script = scratch.path().join("load.sql");
        let mut text = String::from("INSERT INTO ticks DEFAULT VALUES;\n");
        for (name, _) in cluster.tablespaces() {
            let _ = writeln!(text, "INSERT INTO \"in_{name}\" (filler) VALUES (repeat(md5(random()::text), 10));");
        }
        std::fs::write(&script, text).expect("the script is written");
        user::give(&script);
        let mut pgbench = cluster.command("pgbench");
        pgbench.args(["-n", "-T", "86400", "-c", &clients.to_string(), "-b", "tpcb-like@1"]);
        pgbench.arg("-f").arg(format!("{}@1", script.display()));
        pgbench.current_dir(scratch.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: pgbench.spawn().expect("pgbench is part of the installation"), _script: scratch }
    }

    /// Stops the clients. Panics when they had stopped by themselves, for then the test was without load.
    #[track_caller]
    pub fn stop(mut self) {
        let ended = self.child.try_wait().expect("the child is ours");
        assert!(ended.is_none(), "the load had stopped by itself");
        self.end();
    }

    fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // Has it ended, it is not collected yet, so the number is still its own.
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
