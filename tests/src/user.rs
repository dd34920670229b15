//! The user that servers run as. PostgreSQL refuses to run as root, so root's servers belong to user `postgres`.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// A user of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// The number of its main group.
    pub gid: u32,
}

impl User {
    /// Lets `command` run as this user.
    pub fn runs<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.uid(self.uid).gid(self.gid)
    }
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// User `postgres` when this process is root; else nobody other than who we are.
pub fn server_user() -> Option<User> {
    static USER: OnceLock<Option<User>> = OnceLock::new();
    *USER.get_or_init(|| {
        is_root().then(|| look_up("postgres").expect("user postgres comes with the PostgreSQL package"))
    })
}

fn look_up(name: &str) -> Option<User> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

/// Gives `path` to the user that servers run as.
pub fn give(path: &Path) {
    if let Some(user) = server_user() {
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
    }
}

/// Makes a directory, and all above it that are missing, for the user that servers run as.
pub fn make_dir(path: &Path) {
    if path.is_dir() {
        return;
    }
    if let Some(parent) = path.parent() {
        make_dir(parent);
    }
    std::fs::create_dir(path).unwrap_or_else(|error| panic!("mkdir {}: {error}", path.display()));
    give(path);
}
