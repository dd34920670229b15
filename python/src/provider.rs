//! A provider that is written in Python.
//!
//! What it is: the trait on one side, `barman_snap/_bridge.py` on the other, JSON between them. Calls that may wait run on
//! threads of their own, because Python code blocks. What is pure is called where it is needed.
//!
//! Not translated are `preflight` (which asks the same as `instance`, `volumes` and `check_requests`), and what is about
//! snapshots of stock tools (`snapshots_info`, `adopt`): those know no provider of this kind.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use barman_snap::id::{BackupId, Token};
use barman_snap::model::{Literal, SnapshotRecord};
use barman_snap::provider::registry::Providers;
use barman_snap::provider::{
    AfterCut, Capabilities, CreateRequest, CreateVolumeRequest, Instance, RestoredVolume, SnapshotProvider,
    SnapshotStatus, Ticket, Volume, VolumeSelection,
};
use barman_snap::{Error, ErrorKind, Result, Retry};
use pyo3::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::errors::{engine_error, exception};

/// See the [module documentation](self).
#[derive(Debug)]
pub(crate) struct PyProvider {
    bridge: Arc<Py<PyAny>>,
    name: &'static str,
    capabilities: Capabilities,
    // What a pure method raised, for the next call that can return an error.
    failed: Mutex<Option<Error>>,
}

impl PyProvider {
    /// `bridge` is a `barman_snap._bridge.Bridge`.
    pub(crate) fn new(py: Python<'_>, bridge: Py<PyAny>) -> PyResult<Self> {
        let name: String = bridge.bind(py).getattr("name")?.extract()?;
        if Providers::NAMES.contains(&name.as_str()) {
            let error = Error::invalid(format!("the name {name:?} is that of a provider of the engine"));
            return Err(exception(py, &error.with_operation("open")));
        }
        let ask = |what: &str| -> PyResult<bool> { bridge.bind(py).getattr(what)?.extract() };
        let capabilities = Capabilities {
            atomic: ask("atomic")?,
            directory_restore: ask("directory_restore")?,
            host_bound: ask("host_bound")?,
        };
        Ok(Self { bridge: Arc::new(bridge), name: interned(name), capabilities, failed: Mutex::new(None) })
    }

    /// Asks for something that may take a while. The work goes on to its end when the future is dropped.
    async fn ask<T: DeserializeOwned + Send + 'static>(&self, what: &'static str, arguments: Value) -> Result<T> {
        let bridge = Arc::clone(&self.bridge);
        tokio::task::spawn_blocking(move || call(&bridge, what, &arguments)).await.map_err(|error| {
            Error::internal("a thread of the provider stopped").with_source(error).with_retry(Retry::Unknown)
        })?
    }

    /// Asks for something that takes no time.
    fn ask_now<T: DeserializeOwned>(&self, what: &'static str, arguments: &Value) -> Option<T> {
        match call(&self.bridge, what, arguments) {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }
}

fn call<T: DeserializeOwned>(bridge: &Py<PyAny>, what: &'static str, arguments: &Value) -> Result<T> {
    let answer = Python::try_attach(|py| {
        let ask = || bridge.call_method1(py, what, (arguments.to_string(),))?.extract::<String>(py);
        ask().map_err(|raised| engine_error(py, what, raised))
    });
    let answer = answer.ok_or_else(|| Error::new(ErrorKind::Unavailable, "Python has ended"))??;
    serde_json::from_str(&answer).map_err(|error| {
        Error::new(ErrorKind::Provider, format!("the provider returned something else than {what} returns"))
            .with_retry(Retry::Unknown)
            .with_source(error)
    })
}

/// A name that lives as long as the process: the trait wants it so, and there are as many as classes of providers.
fn interned(name: String) -> &'static str {
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.iter().find(|known| **known == name) {
        return known;
    }
    let name: &'static str = name.leak();
    names.push(name);
    name
}

/// Exhaustive, so that a new field is not forgotten.
fn create_request(request: &CreateRequest) -> Value {
    let CreateRequest { token, mark, backup_id, instance, volumes, tags } = request;
    json!({
        "token": token, "mark": mark, "backup_id": backup_id, "instance": instance, "volumes": volumes, "tags": tags,
    })
}

fn create_requests(requests: &[CreateRequest]) -> Value {
    requests.iter().map(create_request).collect()
}

fn create_volume_request(request: &CreateVolumeRequest) -> Value {
    let CreateVolumeRequest { ticket, token, subtree, destination, instance, mark, exclude_content } = request;
    json!({
        "ticket": ticket, "token": token, "subtree": subtree, "destination": destination, "instance": instance,
        "mark": mark, "exclude_content": exclude_content,
    })
}

fn selection(selection: &VolumeSelection) -> Value {
    match selection {
        VolumeSelection::Named(names) => json!({ "names": names }),
        VolumeSelection::Holding(paths) => json!({ "paths": paths }),
    }
}

#[async_trait]
impl SnapshotProvider for PyProvider {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn instance(&self, name: Option<&str>) -> Result<Instance> {
        self.ask("instance", json!([name])).await
    }

    async fn volumes(&self, instance: &Instance, wanted: &VolumeSelection) -> Result<Vec<Volume>> {
        self.ask("volumes", json!([instance, selection(wanted)])).await
    }

    /// Empty when the provider has none to give; `check_requests` then says why.
    fn snapshot_name(&self, volume: &Volume, backup_id: &BackupId) -> String {
        self.ask_now("snapshot_name", &json!([volume, backup_id])).unwrap_or_default()
    }

    fn snapshots_info(&self, _instance: &Instance, _snapshots: &[SnapshotRecord]) -> Option<Literal> {
        None
    }

    fn can_group(&self, volumes: &[Volume]) -> bool {
        self.ask_now("can_group", &json!([volumes])).unwrap_or(false)
    }

    async fn check_requests(&self, requests: &[CreateRequest]) -> Result<()> {
        if let Some(error) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(error);
        }
        if requests.iter().flat_map(|request| &request.volumes).any(|snapshot| snapshot.name.is_empty()) {
            return Err(Error::invalid("a snapshot needs a name"));
        }
        self.ask("check_requests", json!([create_requests(requests)])).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<Vec<Ticket>> {
        self.ask("create", json!([create_request(request)])).await
    }

    async fn status(&self, ticket: &Ticket) -> Result<SnapshotStatus> {
        self.ask("status", json!([ticket])).await
    }

    async fn find(&self, token: &Token, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        self.ask("find", json!([token, volumes])).await
    }

    async fn list(&self, mark: &str, volumes: &[Volume]) -> Result<Vec<Ticket>> {
        self.ask("list", json!([mark, volumes])).await
    }

    async fn delete(&self, ticket: &Ticket) -> Result<()> {
        self.ask("delete", json!([ticket])).await
    }

    fn after_cut(&self, volumes: &[Volume], grouped: bool) -> AfterCut {
        self.ask_now("after_cut", &json!([volumes, grouped])).unwrap_or_default()
    }

    async fn promote(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.ask("promote", json!([create_requests(requests), tickets])).await
    }

    async fn secure(&self, requests: &[CreateRequest], tickets: &[Ticket]) -> Result<Vec<Ticket>> {
        self.ask("secure", json!([create_requests(requests), tickets])).await
    }

    async fn check_delete(&self, tickets: &[Ticket]) -> Result<()> {
        self.ask("check_delete", json!([tickets])).await
    }

    async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<RestoredVolume> {
        self.ask("create_volume", json!([create_volume_request(request)])).await
    }

    async fn attach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<RestoredVolume> {
        self.ask("attach", json!([volume, instance])).await
    }

    async fn detach(&self, volume: &RestoredVolume, instance: &Instance) -> Result<()> {
        self.ask("detach", json!([volume, instance])).await
    }

    async fn delete_volume(&self, volume: &RestoredVolume) -> Result<()> {
        self.ask("delete_volume", json!([volume])).await
    }

    async fn attached_from(&self, instance: &Instance, tickets: &[Ticket]) -> Result<Vec<Option<Volume>>> {
        self.ask("attached_from", json!([instance, tickets])).await
    }

    async fn list_volumes(&self, mark: &str) -> Result<Vec<RestoredVolume>> {
        self.ask("list_volumes", json!([mark])).await
    }
}
