//! The cluster that is measured: pgbench's tables and a tablespace on a file system of its own, under light write load,
//! archiving with our own command.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use barman_snap_tests::cli::BarmanSnap;
use barman_snap_tests::fs::{Kind, LoopFs};
use barman_snap_tests::load;
use barman_snap_tests::pg::{Cluster, Installation};
use barman_snap_tests::scratch::Scratch;
use barman_snap_tests::{command, user};

/// The name of the server in the catalog.
pub(crate) const SERVER: &str = "main";

/// Transactions each second: enough that pages change under the backup, too few to be what is measured.
const RATE: &str = "100";

/// A running cluster. The fields are dropped in their order: load, server, file system.
pub(crate) struct Bench<'a> {
    load: Child,
    pub(crate) cluster: Cluster,
    program: &'a BarmanSnap,
    pub(crate) fs: LoopFs,
    catalog: PathBuf,
    _scratch: Scratch,
}

impl<'a> Bench<'a> {
    /// Makes the file system and fills the cluster.
    pub(crate) fn start(postgres: &Installation, program: &'a BarmanSnap, kind: Kind, scale: u32) -> Self {
        // Source, two copies, and room for WAL and rewritten pages. Sparse, and what is deleted is given back.
        let fs = LoopFs::with_options(kind, u64::from(scale) * 16 * 4 + 6144, "discard");
        let fs = fs.unwrap_or_else(|missing| panic!("needs {}: {}", missing.need, missing.reason));
        let scratch = Scratch::new();
        let catalog = scratch.dir("catalog");
        let archive = format!("{} wal-archive {} {SERVER} %p", program.path().display(), catalog.display());
        let cluster = Cluster::builder(postgres)
            .data(fs.volume("main").join("data"))
            .tablespace("extra", fs.volume("extra").join("space"))
            .archive_command(&archive)
            .setting("shared_buffers", "256MB")
            .setting("max_wal_size", "1GB")
            .start();
        load::fill(&cluster, scale);
        cluster.sql("CHECKPOINT");
        let load = start_load(&cluster);
        Self { load, cluster, program, fs, catalog, _scratch: scratch }
    }

    /// Our program with the catalog and the server, which come first in all its commands.
    pub(crate) fn ours(&self, verb: &str) -> Command {
        let mut command = self.program.command(["-v", verb]);
        command.envs(self.cluster.env()).arg(&self.catalog).arg(SERVER);
        command
    }

    /// Whatever was written before is on disk, so that nobody pays for somebody else's work.
    pub(crate) fn settle(&self) {
        self.cluster.sql("CHECKPOINT");
        command::run(Command::new("sync").arg("-f").arg(self.fs.path()));
        barman_snap_tests::wait::pass(Duration::from_millis(500));
    }

    /// A path on the file system, where nothing is.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        let parent = self.fs.path().join("places");
        user::make_dir(&parent);
        parent.join(name)
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        // It may have ended by itself, with the server.
        let _ = self.load.kill();
        let _ = self.load.wait();
    }
}

fn start_load(cluster: &Cluster) -> Child {
    let mut pgbench = cluster.command("pgbench");
    pgbench.args(["-n", "-c", "2", "-T", "86400", "-R", RATE]);
    pgbench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    pgbench.spawn().expect("pgbench is part of the installation")
}

/// Bytes below a directory, as far as they take space.
pub(crate) fn size_of(path: &Path) -> u64 {
    let ran = command::run(Command::new("du").arg("-sB1").arg(path));
    ran.text().split('\t').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}
