//! The stock Barman, run as the peer that our formats have to agree with.

use std::path::PathBuf;
use std::process::Command;

use crate::command::as_server_user;
use crate::skip::{Missing, Need};

/// The `barman-cloud-*` commands of the Python environment of the tools.
#[derive(Clone, Debug)]
pub struct Peer {
    bin: PathBuf,
}

impl Peer {
    /// Those of this machine.
    pub fn found() -> Result<Self, Missing> {
        match crate::tool("venv/bin") {
            Some(bin) if bin.join("barman-cloud-backup-list").exists() => Ok(Self { bin }),
            _ => Err(Missing::new(Need::Barman, "barman is not in .tools/venv; run tools/setup.sh test")),
        }
    }

    /// One of them, by the part of its name after `barman-cloud-` (`backup-list`), run as the server user with a clean
    /// environment; add [`MotoServer::env`](crate::s3::MotoServer::env) to reach a server.
    pub fn command(&self, name: &str) -> Command {
        as_server_user(&self.program(name), &self.bin)
    }

    /// Where that one is.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(format!("barman-cloud-{name}"))
    }
}
