//! The stock Barman on a machine of a cloud: the `barman-cloud-*` commands with all they need to find the fakes.
//!
//! The object stores and AWS are found by environment variables, as [`Api::env`] has them. Barman can be told no address of
//! Google's Compute Engine and Azure's Resource Manager: its commands look for them under their real names. So they run in
//! a mount namespace where `/etc/hosts` has these names, and trust the authority of the set. Nothing of Barman is changed.
//!
//! This runs commands and judges nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{Api, Cloud, CloudSet, CloudSite, parsed};
use crate::barman;
use crate::command::{Ran, as_this_user, attempt};
use crate::scratch::Scratch;
use crate::site::SERVER;
use crate::skip::{Missing, Need};
use crate::user;

/// Puts a file over `/etc/hosts` and becomes the server user.
const SCRIPT: &str = r#"mount --bind "$1" /etc/hosts; shift; exec setpriv "$@""#;

/// See the [module documentation](self).
#[derive(Debug)]
pub struct Peer {
    barman: barman::Peer,
    api: Api,
    env: Vec<(String, String)>,
    hosts: Option<PathBuf>,
    _place: Scratch,
}

impl Peer {
    /// The one on the machine of a site that was made [`for_stock`](super::Plan::for_stock).
    pub fn of(site: &CloudSite) -> Result<Self, Missing> {
        let peer = Self::on(site.set(), site.api.cloud())?;
        let cluster = site.cluster.env().into_iter().map(|(name, value)| (name.to_owned(), value));
        Ok(peer.with_env(cluster))
    }

    /// One in a cloud of a set that was started [`for_stock`](CloudSet::start_for_stock).
    pub fn on(set: &CloudSet, cloud: Cloud) -> Result<Self, Missing> {
        let barman = barman::Peer::found()?;
        let api = set.of(cloud).clone();
        let mut env = api.env().to_vec();
        let place = Scratch::new();
        let hosts = match host(cloud) {
            None => None,
            Some(name) => {
                let address = api.tls_address().expect("the set was started for stock tools");
                let ca = set.ca().ok_or_else(|| Missing::new(Need::Clouds, "openssl is not installed"))?;
                let trusted = place.path().join("ca.crt");
                fs::copy(ca, &trusted).expect("the certificate can be copied");
                env.push(("REQUESTS_CA_BUNDLE".to_owned(), trusted.display().to_string()));
                let hosts = place.path().join("hosts");
                fs::write(&hosts, format!("127.0.0.1 localhost\n{address} {name}\n")).expect("it can be written");
                Some(hosts)
            }
        };
        Ok(Self { barman, api, env, hosts, _place: place })
    }

    /// Sets variables for everything that is run from now on: those of a cluster.
    #[must_use]
    pub fn with_env(mut self, env: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(env);
        self
    }

    /// `barman-cloud-<name> [options] URL SERVER [rest]`, as the server user, with what this cloud needs for it.
    pub fn command(&self, name: &str, options: &[&str], rest: &[&str]) -> Command {
        let mut command = match &self.hosts {
            None => self.barman.command(name),
            Some(hosts) => self.among_hosts(hosts, name),
        };
        command.args(["--cloud-provider", self.provider()]).args(self.own_options(name)).args(options);
        command.args([self.api.catalog(), SERVER]).args(rest).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs one to its end, whatever that is.
    pub fn attempt(&self, name: &str, options: &[&str], rest: &[&str]) -> Ran {
        attempt(&mut self.command(name, options, rest))
    }

    /// Runs one that has to succeed and to complain of nothing: it reports much of what goes wrong on stderr only.
    #[track_caller]
    pub fn ok(&self, name: &str, options: &[&str], rest: &[&str]) -> Ran {
        let ran = self.attempt(name, options, rest).expect_success();
        assert!(!ran.stderr.contains("ERROR") && !ran.stderr.contains("Traceback"), "{}\n{}", ran.line, ran.stderr);
        ran
    }

    /// Like [`ok`](Self::ok), with its answer as JSON.
    #[track_caller]
    pub fn json(&self, name: &str, rest: &[&str]) -> Value {
        parsed(&self.ok(name, &["--format", "json"], rest))
    }

    /// An `archive_command`, for a server with the variables of [`Api::env`].
    pub fn archive_command(&self) -> String {
        format!("{} --gzip {} {SERVER} %p", self.wal_command("wal-archive"), self.api.catalog())
    }

    /// A `restore_command`, likewise.
    pub fn restore_command(&self) -> String {
        format!("{} {} {SERVER} %f %p", self.wal_command("wal-restore"), self.api.catalog())
    }

    /// These want no disks, so the variables are enough.
    fn wal_command(&self, name: &str) -> String {
        format!("{} --cloud-provider {}", self.barman.program(name).display(), self.provider())
    }

    /// Barman's word for the object store of the cloud, which it never infers.
    fn provider(&self) -> &'static str {
        match self.api.cloud() {
            Cloud::Aws => "aws-s3",
            Cloud::Gcp => "google-cloud-storage",
            Cloud::Azure => "azure-blob-storage",
        }
    }

    /// What the command has to be told of the cloud. `backup-delete` has no options for that.
    fn own_options(&self, name: &str) -> &'static [&'static str] {
        match (self.api.cloud(), name) {
            (Cloud::Gcp, "backup") => &["--gcp-project", "proj-1", "--gcp-zone", "europe-west1-b"],
            (Cloud::Gcp, "restore") => &["--gcp-zone", "europe-west1-b"],
            (Cloud::Azure, "backup") => {
                &["--azure-subscription-id", "00000000-1111-2222-3333-444444444444", "--azure-resource-group", "rg1"]
            }
            (Cloud::Azure, "restore") => &["--azure-resource-group", "rg1"],
            _ => &[],
        }
    }

    fn among_hosts(&self, hosts: &Path, name: &str) -> Command {
        let program = self.barman.program(name);
        let bin = program.parent().expect("it lies in a folder");
        let mut command = as_this_user(Path::new("unshare"), bin);
        command.args(["--mount", "--propagation", "private", "sh", "-ec", SCRIPT, "sh"]).arg(hosts);
        if let Some(user) = user::server_user() {
            command.args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)]).arg("--clear-groups");
        }
        command.arg("--").arg(program);
        command
    }
}

/// The name under which Barman looks for the API; none where a variable tells it.
fn host(cloud: Cloud) -> Option<&'static str> {
    match cloud {
        Cloud::Aws => None,
        Cloud::Gcp => Some("compute.googleapis.com"),
        Cloud::Azure => Some("management.azure.com"),
    }
}
