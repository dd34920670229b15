//! The PostgreSQL versions of this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::command;
use crate::skip::{Missing, Need};

/// The programs of one PostgreSQL version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    version: u32,
    bin: PathBuf,
}

impl Installation {
    /// One for each major version found, the oldest first: in `BARMAN_SNAP_PG_BIN_DIRS` if that is set, else those of the
    /// distribution and those in `.tools`.
    pub fn all() -> &'static [Self] {
        static ALL: OnceLock<Vec<Installation>> = OnceLock::new();
        ALL.get_or_init(|| {
            let found = candidates().into_iter().filter_map(|bin| Self::at(&bin));
            // The first of each version wins: what the machine has installed before what was fetched.
            let mut by_version = BTreeMap::new();
            for installation in found {
                by_version.entry(installation.version).or_insert(installation);
            }
            by_version.into_values().collect()
        })
    }

    /// That of a major version.
    pub fn of(version: u32) -> Result<Self, Missing> {
        let found = Self::all().iter().find(|installation| installation.version == version);
        found.cloned().ok_or_else(|| {
            let have: Vec<_> = Self::all().iter().map(|installation| installation.version.to_string()).collect();
            Missing::new(Need::PostgreSql(version), format!("only these are here: {}", have.join(", ")))
        })
    }

    /// That of the newest version.
    pub fn newest() -> Result<Self, Missing> {
        let missing = || Missing::new(Need::PostgreSql(0), "none is here; run tools/setup.sh test");
        Self::all().last().cloned().ok_or_else(missing)
    }

    /// What is in a `bin` directory, if that is a whole server with its client tools.
    pub fn at(bin: &Path) -> Option<Self> {
        // Links are resolved: the way to it may be closed for the server user while the place itself is open.
        let bin = bin.canonicalize().ok()?;
        if ["initdb", "pg_ctl", "psql", "pg_basebackup", "pgbench"].iter().any(|tool| !bin.join(tool).exists()) {
            return None;
        }
        let mut command = command::as_server_user(&bin.join("postgres"), &bin);
        // Not `command::attempt`: a directory that the server user cannot enter is no installation, not a failure.
        let output = command.arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = text.split_whitespace().nth(2)?;
        let version = number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
        Some(Self { version, bin })
    }

    /// The major version: 17.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Where its programs are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// One of its programs, to be run as the server user with a clean environment.
    pub fn command(&self, program: &str) -> Command {
        command::as_server_user(&self.bin.join(program), &self.bin)
    }
}

fn candidates() -> Vec<PathBuf> {
    if let Some(dirs) = std::env::var_os("BARMAN_SNAP_PG_BIN_DIRS") {
        return std::env::split_paths(&dirs).collect();
    }
    let mut found = children(Path::new("/usr/lib/postgresql"));
    if let Some(tools) = crate::tool("") {
        found.extend(
            children(&tools).into_iter().filter(|path| {
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("pg"))
            }),
        );
    }
    found.into_iter().map(|path| path.join("bin")).collect()
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten();
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}
