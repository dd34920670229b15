//! Laying out the world of a cloud, disturbing it, and reading what was called. `tests/clouds/README.md` has the requests.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Cloud, http};

/// A running cloud.
#[derive(Clone, Debug)]
pub struct Api {
    pub(super) cloud: Cloud,
    pub(super) endpoint: String,
    pub(super) tls: Option<String>,
    pub(super) catalog: String,
    pub(super) metadata: Option<String>,
    pub(super) env: Vec<(String, String)>,
}

/// Something that shall go wrong. Made by its kind, then narrowed down.
#[derive(Clone, Debug, Serialize)]
#[must_use]
pub struct Fault {
    action: String,
    kind: &'static str,
    skip: u32,
    times: Option<u32>,
    seconds: f64,
    #[serde(rename = "match")]
    matching: Value,
}

impl Fault {
    fn new(action: &str, kind: &'static str) -> Self {
        Self { action: action.to_owned(), kind, skip: 0, times: Some(1), seconds: 0.0, matching: json!({}) }
    }

    /// Refused, as there were too many requests. No effect.
    pub fn throttle(action: &str) -> Self {
        Self::new(action, "throttle")
    }

    /// Refused, as the permission is missing. No effect.
    pub fn denied(action: &str) -> Self {
        Self::new(action, "denied")
    }

    /// An internal error. No effect.
    pub fn fail(action: &str) -> Self {
        Self::new(action, "fail")
    }

    /// No answer, and no effect; the connection is closed after `seconds`.
    pub fn hang(action: &str, seconds: f64) -> Self {
        Self { seconds, ..Self::new(action, "hang") }
    }

    /// The whole effect, and no answer.
    pub fn lost_reply(action: &str) -> Self {
        Self::new(action, "lost_reply")
    }

    /// The usual answer, `seconds` later.
    pub fn delay(action: &str, seconds: f64) -> Self {
        Self { seconds, ..Self::new(action, "delay") }
    }

    /// No answer; the whole effect comes `seconds` later, when nobody waits for it any more.
    pub fn late(action: &str, seconds: f64) -> Self {
        Self { seconds, ..Self::new(action, "late") }
    }

    /// Only calls whose resource (ids and names) has `part` in it.
    pub fn on(self, part: &str) -> Self {
        Self { matching: json!({ "resource": part }), ..self }
    }

    /// Lets so many calls pass first.
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }

    /// Hits so many calls instead of one.
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// What `Retry-After` says, where the cloud throttles with that.
    pub fn seconds(self, seconds: f64) -> Self {
        Self { seconds, ..self }
    }

    /// Hits all calls.
    pub fn always(self) -> Self {
        Self { times: None, ..self }
    }
}

/// A request to the API of the cloud.
#[derive(Clone, Debug, Deserialize)]
pub struct Call {
    /// As the cloud's list of permissions names it.
    pub action: String,
    /// Ids and names, separated by blanks.
    pub resource: String,
    /// The HTTP status; none while it is not answered, 0 when the connection was closed.
    pub status: Option<u16>,
    /// The cloud's word for an error.
    pub code: Option<String>,
    /// Whether it only asked for permission.
    pub dry_run: bool,
    /// When it came: seconds since 1970.
    pub time: f64,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// How a disk was attached.
#[derive(Clone, Debug, Deserialize)]
pub struct Attached {
    /// As the API calls the device: `/dev/sdf`, a device name, a LUN.
    pub device: Value,
    /// Where it is below `/dev`.
    pub paths: Vec<PathBuf>,
}

/// What there is in a cloud.
#[derive(Clone, Debug, Deserialize)]
pub struct World {
    /// The machines.
    pub instances: Vec<Thing>,
    /// The disks.
    pub disks: Vec<Thing>,
    /// The snapshots.
    pub snapshots: Vec<Thing>,
}

/// An instance, disk or snapshot.
#[derive(Clone, Debug, Deserialize)]
pub struct Thing {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its state, in the words of the cloud.
    pub state: String,
    /// All that its cloud says of it.
    #[serde(flatten)]
    pub more: Value,
}

impl Api {
    /// The cloud at this address, for a process that has not started it. It knows no catalog and no environment.
    pub fn at(cloud: Cloud, endpoint: &str) -> Self {
        let endpoint = endpoint.to_owned();
        Self { cloud, endpoint, tls: None, catalog: String::new(), metadata: None, env: Vec::new() }
    }

    /// Which one it is.
    pub fn cloud(&self) -> Cloud {
        self.cloud
    }

    /// The URL of its API.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The address at which it is served as the host that it has on the Internet, if it is.
    pub fn tls_address(&self) -> Option<&str> {
        self.tls.as_deref()?.strip_prefix("https://")?.split(':').next()
    }

    /// The URL at which it is served over TLS, if it is.
    pub fn tls_url(&self) -> Option<&str> {
        self.tls.as_deref()
    }

    /// The URL of an empty place for a catalog in its object store.
    pub fn catalog(&self) -> &str {
        &self.catalog
    }

    /// The URL of the metadata service of its machines, where it has one of its own.
    pub fn metadata(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    /// The variables by which our program, stock Barman and the official clients find it.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Replaces what shall go wrong.
    #[track_caller]
    pub fn faults(&self, faults: &[Fault]) {
        self.post::<Value>("faults", &json!(faults));
    }

    /// Every call since the start or the last reset.
    #[track_caller]
    pub fn calls(&self) -> Vec<Call> {
        self.get("calls")
    }

    /// Changes settings: `json!({"cut_ms": 100, "ready_ms": 500, "fail_after_cut": ["pg-data"]})`.
    #[track_caller]
    pub fn settings(&self, settings: &Value) {
        self.post::<Value>("settings", settings);
    }

    /// No faults, no calls, settings as at the start. The world stays.
    #[track_caller]
    pub fn reset(&self) {
        self.post::<Value>("reset", &json!({}));
    }

    /// A running machine; its id.
    #[track_caller]
    pub fn create_instance(&self, name: &str, more: &Value) -> String {
        self.post::<Made>("instances", &merged(json!({ "name": name }), more)).id
    }

    /// An empty disk; its id.
    #[track_caller]
    pub fn create_disk(&self, name: &str, size_gib: u32, more: &Value) -> String {
        self.post::<Made>("disks", &merged(json!({ "name": name, "size_gib": size_gib }), more)).id
    }

    /// Attaches a disk under a name that nobody on this machine uses.
    #[track_caller]
    pub fn attach(&self, instance: &str, disk: &str) -> Attached {
        self.attach_as(instance, disk, &Value::Null)
    }

    /// Attaches a disk under this name; null for a free one.
    #[track_caller]
    pub fn attach_as(&self, instance: &str, disk: &str, device: &Value) -> Attached {
        self.post("attach", &json!({ "instance": instance, "disk": disk, "device": device }))
    }

    /// Detaches a disk, which must not be mounted.
    #[track_caller]
    pub fn detach(&self, disk: &str) {
        self.post::<Value>("detach", &json!({ "disk": disk }));
    }

    /// The disk is lost, in use or not.
    #[track_caller]
    pub fn destroy(&self, disk: &str) {
        self.post::<Value>("destroy", &json!({ "disk": disk }));
    }

    /// What there is.
    #[track_caller]
    pub fn world(&self) -> World {
        self.get("world")
    }

    #[track_caller]
    fn get<T: DeserializeOwned>(&self, what: &str) -> T {
        self.control("GET", what, "")
    }

    #[track_caller]
    fn post<T: DeserializeOwned>(&self, what: &str, data: &Value) -> T {
        self.control("POST", what, &data.to_string())
    }

    #[track_caller]
    fn control<T: DeserializeOwned>(&self, method: &str, what: &str, body: &str) -> T {
        let path = format!("/_control/{what}");
        let answer = http::ask(&self.endpoint, method, &path, &[], body).map_err(|error| error.to_string());
        let text = answer
            .and_then(http::Answer::ok)
            .unwrap_or_else(|error| panic!("{} refuses {method} {path} {body}: {error}", self.cloud));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }
}

#[derive(Deserialize)]
struct Made {
    id: String,
}

fn merged(mut data: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().into_iter().flatten() {
        data[name] = value.clone();
    }
    data
}
