//! A server for Azure's blobs: Azurite, as `tests/clouds/azure_blob.py` starts it.
//!
//! It keeps conditions and listings as Blob Storage does. It knows no immutability policies.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use crate::scratch::Scratch;
use crate::skip::{Missing, Need};

/// A running server with one empty container. It ends with its value.
#[derive(Debug)]
pub struct Azurite {
    child: Child,
    ready: Ready,
    _place: Scratch,
}

#[derive(Debug, Deserialize)]
struct Ready {
    url: String,
    connection_string: String,
}

impl Azurite {
    /// The container that is there from the start.
    pub const CONTAINER: &'static str = "backups";
    /// The account.
    pub const ACCOUNT: &'static str = "devstoreaccount1";

    /// Starts one.
    pub fn start() -> Result<Self, Missing> {
        let missing = |what: &str| {
            Missing::new(Need::Tool("Azurite"), format!("{what} is not in .tools; run tools/setup.sh test"))
        };
        let python = crate::tool("venv/bin/python").ok_or_else(|| missing("Python"))?;
        let script = crate::tool("azurite/node_modules/azurite").ok_or_else(|| missing("Azurite"))?;
        let tools = script.ancestors().nth(3).expect("it lies in the folder of the tools").to_owned();
        let place = Scratch::new();
        let mut command = Command::new(python);
        command.args(["-m", "clouds.azure_blob"]).arg(place.path());
        command.current_dir("/").env("PYTHONPATH", crate::checkout().join("tests")).env("BARMAN_SNAP_TOOLS", tools);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("Python can be run");
        let mut line = String::new();
        let read = BufReader::new(child.stdout.take().expect("it is a pipe")).read_line(&mut line);
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| {
            let _ = child.kill();
            panic!("Azurite does not start: {read:?}, {error}")
        });
        Ok(Self { child, ready, _place: place })
    }

    /// The URL of a place in the container, in the form for emulators: `http://HOST:PORT/ACCOUNT/CONTAINER/PATH`.
    pub fn url(&self, path: &str) -> String {
        format!("{}/{}/{path}", self.ready.url, Self::CONTAINER)
    }

    /// The same place in the form of the public cloud. The connection string leads it here.
    pub fn public_url(&self, path: &str) -> String {
        format!("https://{}.blob.core.windows.net/{}/{path}", Self::ACCOUNT, Self::CONTAINER)
    }

    /// The variables by which clients (Barman, ours) find it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![("AZURE_STORAGE_CONNECTION_STRING", self.ready.connection_string.clone())]
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        // The end of its standard input ends it, and with it the server that it has started.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
