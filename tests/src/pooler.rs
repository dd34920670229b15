//! PgBouncer in front of a cluster: one session of the server, lent to whoever comes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::{Ran, as_server_user, attempt};
use crate::pg::Cluster;
use crate::scratch::Scratch;
use crate::skip::{Missing, Need};
use crate::wait::wait_for;

/// A running PgBouncer. It has one session for all its clients, so that what one leaves behind is found by the next.
#[derive(Debug)]
pub struct PgBouncer {
    child: Child,
    place: Scratch,
}

impl PgBouncer {
    /// Starts one for the cluster: with `pool_mode`, and further lines of its configuration.
    pub fn start(cluster: &Cluster, pool_mode: &str, lines: &str) -> Result<Self, Missing> {
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].iter().map(PathBuf::from).find(|path| path.exists());
        let program =
            program.ok_or_else(|| Missing::new(Need::Pooler, "it is not installed; run tools/setup.sh test"))?;
        let place = Scratch::new();
        let (here, there) = (place.path().display(), cluster.socket_dir().display());
        let text = format!(
            "[databases]\n* = host={there} port={} user=postgres\n[pgbouncer]\npool_mode = {pool_mode}\n\
             unix_socket_dir = {here}\nlisten_port = 6432\nauth_type = any\ndefault_pool_size = 1\n\
             logfile = {here}/log\n{lines}\n",
            cluster.port()
        );
        let file = place.path().join("pgbouncer.ini");
        fs::write(&file, text).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        let mut command = as_server_user(&program, Path::new("/usr/sbin"));
        command.arg("-q").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let pooler = Self { child: command.spawn().expect("pgbouncer can be run"), place };
        wait_for("the pooler", Duration::from_secs(30), || pooler.psql(cluster, "SELECT 1").success().then_some(()));
        Ok(pooler)
    }

    /// The options that lead through it.
    pub fn way(&self) -> [String; 4] {
        ["-h".to_owned(), self.place.path().display().to_string(), "-p".to_owned(), "6432".to_owned()]
    }

    /// Runs SQL through it.
    pub fn psql(&self, cluster: &Cluster, sql: &str) -> Ran {
        let mut psql: Command = cluster.installation().command("psql");
        attempt(psql.args(["-XAtq", "-U", "postgres", "-d", "postgres", "-c", sql]).args(self.way()))
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // Whatever went wrong with it, it ends here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
