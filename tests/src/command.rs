//! Running programs and reading what they said.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::user;

/// A secret that every test plants: in the configuration of each cluster, as a password of each connection and as the key of each
/// object store. Our program never says it, and no catalog of a [`Site`](crate::site::Site) has it where it must not be.
pub const PLANTED: &str = "pl4nted-S3cret";

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Ran {
    /// Whether it ended with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code; panics when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("{} was ended by a signal: {}", self.line, self.stderr))
    }

    /// Itself when it succeeded, else a panic with all it said.
    #[track_caller]
    pub fn expect_success(self) -> Self {
        assert!(
            self.success(),
            "{} failed ({})\n--- stdout\n{}\n--- stderr\n{}",
            self.line,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Its standard output without white space around it.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

/// Runs a command to its end, whatever that is.
pub fn attempt(command: &mut Command) -> Ran {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let ran = Ran {
        line,
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    if Path::new(command.get_program()).ends_with("barman-snap") {
        let told = [&ran.stdout, &ran.stderr].iter().any(|said| said.contains(PLANTED));
        assert!(!told, "{} tells a secret\n--- stdout\n{}\n--- stderr\n{}", ran.line, ran.stdout, ran.stderr);
    }
    ran
}

/// Runs a command that has to succeed.
#[track_caller]
pub fn run(command: &mut Command) -> Ran {
    attempt(command).expect_success()
}

/// A command that runs as the server user, in `/`, with a clean environment and `bin` first in its path.
pub fn as_server_user(program: &Path, bin: &Path) -> Command {
    let mut command = as_this_user(program, bin);
    if let Some(user) = user::server_user() {
        user.runs(&mut command);
    }
    command
}

/// Like [`as_server_user`], but as the user that the tests run as. What mounts has to be root.
pub fn as_this_user(program: &Path, bin: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", bin.display()))
        .env("HOME", "/tmp")
        .env("LC_ALL", "C.UTF-8")
        .current_dir("/");
    // A backtrace of our own program is wanted where the caller wants one.
    for name in ["RUST_BACKTRACE", "RUST_LOG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}
