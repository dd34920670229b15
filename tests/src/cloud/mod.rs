//! Clouds on this machine: the fakes of `tests/clouds`, whose disks are block devices with real bytes.
//!
//! A [`CloudSet`] runs them; an [`Api`] lays out the world of one and disturbs it; a [`CloudSite`] is a PostgreSQL on
//! disks of a cloud, a [`Peer`] the stock Barman there. A test that uses them begins with [`own_dev!`](crate::own_dev).

mod client;
mod control;
pub mod http;
pub mod own_dev;
mod peer;
mod site;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

pub use self::control::{Api, Attached, Call, Fault, Thing, World};
pub use self::peer::Peer;
pub use self::site::{CloudSite, DATA_DISK, GuestFs, INSTANCE, Mounted, Plan, TABLESPACE, TS_DISK, parsed};
use crate::checkout;
use crate::fs::Kind;
use crate::scratch::Scratch;
use crate::skip::{Missing, Need};

/// A cloud that there is a fake of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cloud {
    /// Amazon: EC2, EBS, S3.
    Aws,
    /// Google: Compute Engine, Cloud Storage.
    Gcp,
    /// Microsoft: Compute, Blob Storage.
    Azure,
}

impl Cloud {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Aws, Self::Gcp, Self::Azure];

    /// Its name: that of the provider, and of the fake's module.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Gcp => "gcp",
            Self::Azure => "azure",
        }
    }
}

impl fmt::Display for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Running clouds. Dropping them removes all they have made: disks, device names, mounts.
///
/// Drop what uses their disks first.
#[derive(Debug)]
pub struct CloudSet {
    child: Child,
    clouds: BTreeMap<Cloud, Api>,
    ca: Option<PathBuf>,
    _place: Scratch,
}

#[derive(Deserialize)]
struct Ready {
    ca: Option<PathBuf>,
    clouds: BTreeMap<String, ReadyCloud>,
}

#[derive(Deserialize)]
struct ReadyCloud {
    endpoints: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
}

impl CloudSet {
    /// Starts these clouds, on free ports.
    pub fn start(clouds: &[Cloud]) -> Result<Self, Missing> {
        Self::start_with(clouds, &[])
    }

    /// Like [`start`](Self::start), and a [`Peer`] finds them, too.
    pub fn start_for_stock(clouds: &[Cloud]) -> Result<Self, Missing> {
        // Every client of AWS can be told an address.
        let served = clouds.iter().filter(|&&cloud| cloud != Cloud::Aws);
        let options: Vec<_> = served.flat_map(|cloud| ["--tls", cloud.name()]).collect();
        Self::start_with(clouds, &options)
    }

    /// Like [`start`](Self::start), and all of them are also served as the hosts that they have on the Internet.
    pub fn start_over_tls(clouds: &[Cloud]) -> Result<Self, Missing> {
        let options: Vec<_> = clouds.iter().flat_map(|cloud| ["--tls", cloud.name()]).collect();
        Self::start_with(clouds, &options)
    }

    fn start_with(clouds: &[Cloud], options: &[&str]) -> Result<Self, Missing> {
        let names: Vec<_> = clouds.iter().map(|cloud| cloud.name()).collect();
        Kind::XfsReflink.available()?;
        let python = crate::tool("venv/bin/python")
            .ok_or_else(|| Missing::new(Need::Clouds, "their Python is not in .tools/venv; run tools/setup.sh test"))?;
        let place = Scratch::new();
        let log = place.path().join("clouds.log");
        let mut command = Command::new(python);
        command.args(["-m", "clouds", "up", "--json", "--clouds", &names.join(",")]).args(options);
        command.arg("--root").arg(place.path().join("clouds"));
        command.current_dir("/").env("PYTHONPATH", checkout().join("tests"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(&log).expect("the log can be made"));
        let mut child = command.spawn().expect("Python can be run");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is a pipe");
        let read = BufReader::new(stdout).read_line(&mut line);
        let log = || std::fs::read_to_string(&log).unwrap_or_default();
        let ready: Ready = match (read, serde_json::from_str(&line)) {
            (Ok(_), Ok(ready)) => ready,
            (read, parsed) => {
                end(&mut child);
                panic!("the clouds do not start: {read:?}, {:?}\n{}", parsed.err(), log());
            }
        };
        let named = |cloud: &Cloud| (*cloud, api(*cloud, &ready.clouds[cloud.name()]));
        Ok(Self { child, clouds: clouds.iter().map(named).collect(), ca: ready.ca, _place: place })
    }

    /// One of them.
    #[track_caller]
    pub fn of(&self, cloud: Cloud) -> &Api {
        self.clouds.get(&cloud).unwrap_or_else(|| panic!("{cloud} was not started"))
    }

    /// The certificate of the authority that signs what they serve by HTTPS.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

impl Drop for CloudSet {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// They stop, and clean up, when their standard input ends.
fn end(child: &mut Child) {
    drop(child.stdin.take());
    // Whatever went wrong with them, their guard has cleaned up.
    let _ = child.wait();
}

fn api(cloud: Cloud, ready: &ReadyCloud) -> Api {
    let url = |name: &str| ready.endpoints.get(name).cloned().unwrap_or_else(|| panic!("{cloud} names no {name}"));
    let env = ready.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let other = |name: &str| ready.endpoints.get(name).cloned();
    Api { cloud, endpoint: url("api"), tls: other("tls"), catalog: url("catalog"), metadata: other("metadata"), env }
}
