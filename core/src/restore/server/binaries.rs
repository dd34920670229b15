//! The programs of PostgreSQL on this host, and how they are run: as whom, and with which environment.
//!
//! PostgreSQL refuses to run as root; when we are root, its programs run as the owner of the data directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::contain::Containment;
use crate::error::{Error, Result};
use crate::restore::plan::Owner;

/// The directory with the programs of one major version of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// The directory.
    pub directory: PathBuf,
    /// What `postgres --version` says.
    pub version: String,
}

impl Binaries {
    /// Finds the programs of PostgreSQL `major`: in `given`, else in the directories of `$BARMAN_SNAP_PG_BIN_DIRS`, those
    /// of `PATH`, `/usr/lib/postgresql/<major>/bin` (Debian), `/usr/pgsql-<major>/bin` (Red Hat), and what `pg_config` says. The
    /// first directory that has all of `needed` beside the server is taken.
    ///
    /// # Errors
    /// `precondition` when there are none of that version, or none with all of `needed`; it names the places.
    pub async fn find(major: u32, given: Option<&Path>, needed: &[&str]) -> Result<Self> {
        let places = match given {
            Some(directory) => vec![directory.to_owned()],
            None => usual_places(major).await,
        };
        let mut lacking = Vec::new();
        for directory in &places {
            let Some(version) = version_of(&directory.join("postgres")).await else { continue };
            if major_of(&version) != Some(major) {
                continue;
            }
            let found = Self { directory: directory.clone(), version };
            match needed.iter().filter(|name| found.program(name).is_none()).copied().collect::<Vec<_>>().as_slice() {
                [] => return Ok(found),
                missing => lacking.push(format!("no {} in {}", missing.join(" and no "), directory.display())),
            }
        }
        if !lacking.is_empty() {
            return Err(Error::precondition(format!("there is {}", lacking.join(", "))).with_hint(
                "install it with that version of PostgreSQL, name another directory with --pg-bin-dir, or leave the check out with \
                 --without amcheck or --without checksums",
            ));
        }
        let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        Err(Error::precondition(format!("no PostgreSQL {major} found in {}", looked.join(", "))).with_hint(
            "install it, or name the directory of its programs with --pg-bin-dir or $BARMAN_SNAP_PG_BIN_DIRS",
        ))
    }

    /// The path of a program, if it is there.
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name)).filter(|path| path.is_file())
    }
}

async fn usual_places(major: u32) -> Vec<PathBuf> {
    let listed = |name: &str| std::env::var_os(name).map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    let mut places = listed("BARMAN_SNAP_PG_BIN_DIRS").unwrap_or_default();
    places.extend(listed("PATH").unwrap_or_default().into_iter().filter(|place| place.join("postgres").is_file()));
    places.push(format!("/usr/lib/postgresql/{major}/bin").into());
    places.push(format!("/usr/pgsql-{major}/bin").into());
    let asked = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).kill_on_drop(true).output().await;
    places.extend(asked.ok().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned().into()));
    places.dedup();
    places
}

async fn version_of(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stderr(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|text| !text.is_empty())
}

/// The major version in `postgres (PostgreSQL) 17.2 (Debian …)` or `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

/// Runs `pg_checksums --check` on a stopped data directory.
pub(in crate::restore) async fn check_checksums(
    binaries: &Binaries,
    pgdata: &Path,
    user: Option<Owner>,
) -> Result<(bool, String)> {
    let mut command = program(binaries, "pg_checksums", user, pgdata)?;
    command.arg("--check").arg("-D").arg(pgdata);
    output_of(command, "pg_checksums").await
}

/// What `postgres -C name` says for a server that is started in `pgdata` as a user would start it: it reads all of the
/// configuration. Whether it could, and its answer or complaint.
pub(in crate::restore) async fn configured(binaries: &Binaries, pgdata: &Path, name: &str) -> Result<(bool, String)> {
    let mut command = program(binaries, "postgres", run_as(pgdata)?, pgdata)?;
    command.arg("-D").arg(pgdata).arg("-C").arg(name);
    output_of(command, "postgres").await
}

pub(super) async fn output_of(mut command: Command, name: &str) -> Result<(bool, String)> {
    let output = command.output().await.map_err(|error| Error::io("run", name, error))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).trim().to_owned()))
}

/// A program of PostgreSQL that cannot be led to another server by our environment.
pub(super) fn program(binaries: &Binaries, name: &str, run_as: Option<Owner>, pgdata: &Path) -> Result<Command> {
    let path = binaries
        .program(name)
        .ok_or_else(|| Error::not_found(format!("no {name} in {}", binaries.directory.display())))?;
    Ok(private(Command::new(path), run_as, pgdata))
}

/// Takes everything of PostgreSQL out of the environment of a command, and sets as whom it runs.
pub(super) fn private(mut command: Command, run_as: Option<Owner>, pgdata: &Path) -> Command {
    let ours = |name: &OsStr| name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("LC_"));
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| ours(variable)) {
        command.env_remove(variable);
    }
    command.env("LC_ALL", "C").current_dir(pgdata).stdin(Stdio::null()).kill_on_drop(true);
    if let Some(owner) = run_as {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

/// A shell that runs as `owner`, with the groups that this user has: the key of a TLS certificate is often readable through
/// one of them (Debian's `ssl-cert`), and without it the server would not start. Where the user is unknown without further groups;
/// where `setpriv` of util-linux is missing as well, and then not kept in.
pub(super) fn shell_as(owner: Owner, pgdata: &Path, kept: &Containment) -> Command {
    let uid = owner.uid.to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = passwd.lines().any(|line| line.split(':').nth(2) == Some(&uid));
    let Some(setpriv) = setpriv() else {
        return private(Command::new("/bin/sh"), Some(owner), pgdata);
    };
    let mut command = kept.command(&setpriv, pgdata);
    let groups = if known { "--init-groups" } else { "--clear-groups" };
    command.arg(format!("--reuid={uid}")).arg(format!("--regid={}", owner.gid)).args([groups, "/bin/sh"]);
    command
}

/// `setpriv` of util-linux.
pub(super) fn setpriv() -> Option<PathBuf> {
    ["/usr/bin/setpriv", "/bin/setpriv"].map(PathBuf::from).into_iter().find(|path| path.is_file())
}

/// As whom the server must run: as ourselves, or, when we are root, as the owner of its data directory.
pub(super) fn run_as(pgdata: &Path) -> Result<Option<Owner>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let meta = fs::symlink_metadata(pgdata).map_err(|error| Error::io("look at", pgdata, error))?;
    if meta.uid() == 0 || !meta.is_dir() {
        return Err(Error::precondition(format!(
            "{} belongs to root, and PostgreSQL refuses to run as root",
            pgdata.display()
        ))
        .with_hint("give it to the user of the server, or verify as that user"));
    }
    Ok(Some(Owner { uid: meta.uid(), gid: meta.gid() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_program_says() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.4 (Debian 15.4-1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("psql 15", None),
        ] {
            assert_eq!(major_of(text), major, "{text}");
        }
    }
}
