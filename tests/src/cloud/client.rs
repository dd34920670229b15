//! What the owner of a backup does by hand, or with a tool of the cloud, before a stock restore: new disks of snapshots.
//!
//! By the API of each cloud, without a client library: a test sees that what it restores from is what the cloud has.

use serde_json::{Value, json};

use super::{Api, Cloud, Thing, http};

const TOKEN: (&str, &str) = ("Authorization", "Bearer token-of-the-owner");
const JSON: (&str, &str) = ("Content-Type", "application/json");

impl Api {
    /// The snapshot of this name.
    #[track_caller]
    pub fn snapshot(&self, name: &str) -> Thing {
        let all = self.world().snapshots;
        all.into_iter().find(|one| one.name == name).unwrap_or_else(|| panic!("there is no snapshot {name}"))
    }

    /// A new disk `name` of a snapshot; its id or name.
    #[track_caller]
    pub fn disk_of(&self, snapshot: &Thing, name: &str) -> String {
        match self.cloud() {
            Cloud::Aws => self.volume_of(snapshot),
            Cloud::Gcp => {
                let source = format!("projects/proj-1/global/snapshots/{}", snapshot.name);
                let body = json!({ "name": name, "sourceSnapshot": source });
                self.call("POST", "/compute/v1/projects/proj-1/zones/europe-west1-b/disks", &[JSON], &body);
                name.to_owned()
            }
            Cloud::Azure => {
                // An id is a path that begins with the subscription and the group.
                let group = snapshot.id.split("/providers/").next().expect("it has a first part");
                let path = format!("{group}/providers/Microsoft.Compute/disks/{name}?api-version=2024-03-02");
                let creation = json!({ "createOption": "Copy", "sourceResourceId": snapshot.id });
                let body = json!({ "location": "westeurope", "properties": { "creationData": creation } });
                self.call("PUT", &path, &[JSON, TOKEN], &body);
                name.to_owned()
            }
        }
    }

    /// EC2 gives its volumes their names itself.
    #[track_caller]
    fn volume_of(&self, snapshot: &Thing) -> String {
        let scope = "Credential=test/20260101/us-east-1/ec2/aws4_request";
        let authorization = format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0");
        let headers = [
            ("Authorization", authorization.as_str()),
            ("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"),
        ];
        let zone = "AvailabilityZone=us-east-1a";
        let form = format!("Action=CreateVolume&Version=2016-11-15&SnapshotId={}&{zone}", snapshot.id);
        let made = self.send("POST", "/", &headers, &form);
        let id = made.split_once("<volumeId>").and_then(|(_, rest)| rest.split_once('<'));
        id.unwrap_or_else(|| panic!("no volume: {made}")).0.to_owned()
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) {
        self.send(method, path, headers, &body.to_string());
    }

    #[track_caller]
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> String {
        let answer = http::ask(self.endpoint(), method, path, headers, body).map_err(|error| error.to_string());
        answer.and_then(http::Answer::ok).unwrap_or_else(|error| panic!("{method} {path} {body}: {error}"))
    }
}
