//! Our own command line as a program of its own, the way users and PostgreSQL run it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{PLANTED, Ran, as_server_user, as_this_user, attempt};
use crate::pg::Cluster;
use crate::scratch::Scratch;
use crate::skip::{Missing, Need};

/// The built `barman-snap`, at a place that the server user can run it from.
#[derive(Debug)]
pub struct BarmanSnap {
    path: PathBuf,
    env: Vec<(String, String)>,
    _place: Scratch,
}

impl BarmanSnap {
    /// The program of `BARMAN_SNAP_BIN`, or the one that was built with the test which runs now.
    pub fn found() -> Result<Self, Missing> {
        let built = std::env::var_os("BARMAN_SNAP_BIN").map_or_else(beside_this_program, |path| Some(path.into()));
        let built = built
            .filter(|path| path.exists())
            .ok_or_else(|| Missing::new(Need::CommandLine, "it is not built; run cargo build -p barman-snap-cli"))?;
        // archive_command runs it as the server user, who may be unable to enter the target folder.
        let place = Scratch::new();
        let path = place.path().join("barman-snap");
        if fs::hard_link(&built, &path).is_err() {
            fs::copy(&built, &path).expect("the program can be copied");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the program can be made executable");
        Ok(Self { path, env: Vec::new(), _place: place })
    }

    /// The program, for an `archive_command`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets variables for everything that is run from now on: those of a cluster or of a server.
    #[must_use]
    pub fn with_env<K: Into<String>>(mut self, env: impl IntoIterator<Item = (K, String)>) -> Self {
        self.env.extend(env.into_iter().map(|(name, value)| (name.into(), value)));
        self
    }

    /// Lets it connect to this cluster unless told otherwise.
    #[must_use]
    pub fn for_cluster(self, cluster: &Cluster) -> Self {
        // Clusters of the tests trust their users; the password is there to be kept secret.
        self.with_env(cluster.env()).with_env([("PGPASSWORD", PLANTED.to_owned())])
    }

    /// A command, run as the server user with a clean environment.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = as_server_user(&self.path, self.bin());
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Like [`command`](Self::command), but as the user of the tests, who may mount when that is root.
    pub fn command_that_mounts<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = as_this_user(&self.path, self.bin());
        command.args(args).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn bin(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }

    /// Runs it to its end, whatever that is.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        attempt(&mut self.command(args))
    }
}

/// `target/debug/barman-snap` for `target/debug/deps/test-…` and for `target/debug/demo`.
fn beside_this_program() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let folder = if folder.ends_with("deps") { folder.parent()? } else { folder };
    Some(folder.join("barman-snap"))
}
