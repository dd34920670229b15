//! A small house for sessions: a cluster of three directories, a catalog in memory, a scripted PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test support module: a panic is the report")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName};
use barman_snap::engine::EngineBuilder;
use barman_snap::id::BackupId;
use barman_snap::model::{BackupStatus, Tablespace};
use barman_snap::provider::local::{LocalOptions, LocalProvider, Method};
use barman_snap::session::{BackupRequest, BackupSession, Patience, WalPolicy};
use barman_snap::testing::{ManualClock, ScriptedPostgres};
use barman_snap::{Engine, Result};
use chrono::{DateTime, Utc};

/// What is left when everything is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// One complete backup, with all its snapshots and no other.
    Published,
    /// No backup, no snapshot.
    CleanSlate,
    /// Anything else.
    Mess,
}

/// The configuration of the cluster, which lies outside of it and has a secret. It is no UTF-8.
pub(crate) const CONFIG: &[u8] = b"log_line_prefix = '\xe9'\nprimary_conninfo = 'password=s3cret'\n";

/// See the module documentation.
pub(crate) struct House {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) postgres: ScriptedPostgres,
    catalog: Catalog,
    roots: Vec<PathBuf>,
    _dir: tempfile::TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let roots: Vec<PathBuf> = ["data", "wal", "ts1"].iter().map(|name| root.join(name).join("pg")).collect();
        for place in &roots {
            std::fs::create_dir_all(place.join("sub")).unwrap();
            std::fs::write(place.join("sub/file"), place.to_str().unwrap()).unwrap();
        }
        std::fs::create_dir(roots[0].join("global")).unwrap();
        std::fs::create_dir(roots[2].join("PG_17_202406281")).unwrap();
        std::fs::write(roots[0].join("global/pg_control"), "control").unwrap();
        std::os::unix::fs::symlink(&roots[1], roots[0].join("pg_wal")).unwrap();
        let location = roots[2].to_str().unwrap().to_owned();
        let postgres = ScriptedPostgres::new(&roots[0], vec![Tablespace { name: "ts1".into(), oid: 16384, location }]);
        let config = root.join("postgresql.conf");
        std::fs::write(&config, CONFIG).unwrap();
        postgres.set_facts(|facts| facts.config_file = config.to_str().map(str::to_owned));
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        let house = Self {
            clock: Arc::new(ManualClock::at(DateTime::UNIX_EPOCH)),
            postgres,
            catalog: Catalog::new(ObjectSpace::in_memory(), layout),
            roots,
            _dir: dir,
        };
        house.clock.set(house.clock_start());
        house
    }

    pub(crate) fn clock_start(&self) -> DateTime<Utc> {
        "2026-05-29T10:11:12Z".parse().unwrap()
    }

    pub(crate) fn volumes(&self) -> usize {
        self.roots.len()
    }

    /// Where a cluster could be restored to.
    pub(crate) fn free_place(&self) -> PathBuf {
        self.roots[0].with_file_name("restored")
    }

    pub(crate) fn engine(&self) -> EngineBuilder {
        self.engine_on(self.catalog.clone())
    }

    /// An engine with another view of the catalog.
    pub(crate) fn engine_on(&self, catalog: Catalog) -> EngineBuilder {
        let options = LocalOptions { method: Method::Copy, ..LocalOptions::default() };
        // A process that only counts as killed goes on copying for a moment, and the manual clock does not wait for it.
        let patience = Patience { attempts: 4000, ..Patience::default() };
        Engine::on(catalog).provider(Arc::new(LocalProvider::new(options))).clock(self.clock.clone()).patience(patience)
    }

    pub(crate) async fn backup(&self, engine: EngineBuilder) -> Result<BackupSession> {
        let request = BackupRequest { wal: WalPolicy::External, ..BackupRequest::default() };
        engine.build().backup(self.postgres.connect(), &request).await
    }

    /// A session whose driver is a process that has ended.
    pub(crate) async fn leave_a_dead_session(&self) {
        let session = self.backup(self.engine()).await.unwrap();
        self.edit_plan(session.backup_id(), |plan| plan["owner"]["started"] = 1.into()).await;
    }

    /// Changes the plan in the journal of a session.
    pub(crate) async fn edit_plan(&self, id: &BackupId, edit: impl FnOnce(&mut serde_json::Value)) {
        let key = self.catalog.layout().session_entry(id, 0);
        let (bytes, _) = self.catalog.space().get(&key).await.unwrap().unwrap();
        let mut entry: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        edit(&mut entry["plan"]);
        self.catalog.space().put(&key, entry.to_string()).await.unwrap();
    }

    /// Makes the plan of a session one of an older version, which has no note of where its snapshots lie, and changes it.
    pub(crate) async fn edit_old_plan(&self, id: &BackupId, edit: impl FnOnce(&mut serde_json::Value)) {
        let older = |plan: &mut serde_json::Value| {
            for planned in plan["volumes"].as_array_mut().unwrap() {
                planned["volume"]["attributes"].as_object_mut().unwrap().remove("snapshots_lie").unwrap();
            }
            edit(plan);
        };
        self.edit_plan(id, older).await;
    }

    /// Changes the note of where the snapshots of a volume of a session lie.
    pub(crate) async fn edit_place(&self, id: &BackupId, volume: usize, edit: impl FnOnce(&mut serde_json::Value)) {
        let moved = |plan: &mut serde_json::Value| {
            let note = &mut plan["volumes"][volume]["volume"]["attributes"]["snapshots_lie"];
            let mut place = serde_json::from_str(note.as_str().unwrap()).unwrap();
            edit(&mut place);
            *note = place.to_string().into();
        };
        self.edit_plan(id, moved).await;
    }

    /// Takes the snapshots out of sight, as if their file system were not mounted; or brings them back.
    pub(crate) fn hide_snapshots(&self, hide: bool) {
        for root in &self.roots {
            let (place, hidden) = (root.with_file_name(".barman_snap"), root.with_file_name("hidden"));
            let (from, to) = if hide { (place, hidden) } else { (hidden, place) };
            std::fs::rename(from, to).unwrap();
        }
    }

    /// Makes the record of a backup one of the next version.
    pub(crate) async fn raise_record_version(&self, id: &BackupId) {
        let key = self.catalog.layout().backup_info(id);
        let (bytes, _) = self.catalog.space().get(&key).await.unwrap().unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let later = text.replace("'barman_snap': {'version': 1,", "'barman_snap': {'version': 2,");
        assert_ne!(text, later);
        self.catalog.space().put(&key, later).await.unwrap();
    }

    /// No object of the catalog has the secret but those that are meant to.
    pub(crate) async fn assert_no_secret_is_told(&self) {
        for object in self.catalog.space().list("").await.unwrap() {
            let (bytes, _) = self.catalog.space().get(&object.key).await.unwrap().unwrap();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let may = object.key.ends_with("/private/config.json");
            assert!(may || !text.contains("s3cret"), "{}: {text}", object.key);
        }
    }

    /// The catalog itself.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Everything below the snapshot directories, and the catalog.
    pub(crate) async fn verdict(&self) -> Verdict {
        let left: Vec<PathBuf> = self.roots.iter().flat_map(|root| snapshots_near(root)).collect();
        let entries = self.catalog.list().await.unwrap();
        let labels = self.catalog.space().list(&self.catalog.layout().base()).await.unwrap();
        match entries.as_slice() {
            [] if left.is_empty() && labels.is_empty() => Verdict::CleanSlate,
            [entry] if entry.status() == Some(BackupStatus::Done) => {
                let record = entry.info.as_ref().unwrap().engine_record().unwrap().unwrap();
                let named: Vec<PathBuf> =
                    record.snapshots.iter().map(|one| PathBuf::from(&one.ticket.snapshot)).collect();
                let whole = named.len() == self.roots.len() && named.iter().all(|path| left.contains(path));
                let nothing_else = left
                    .iter()
                    .all(|path| named.iter().any(|named| path.to_str().unwrap().starts_with(named.to_str().unwrap())));
                let id = self.catalog.list().await.unwrap().remove(0).id;
                let saved = record.saved_config.as_ref().unwrap();
                let files = self.catalog.read_config(&id, saved, &record.token).await.unwrap();
                let has_config = files.len() == 1 && files[0].content == CONFIG;
                if whole && nothing_else && has_config { Verdict::Published } else { Verdict::Mess }
            }
            _ => Verdict::Mess,
        }
    }
}

/// The entries of the snapshot directories beside a root.
fn snapshots_near(root: &Path) -> Vec<PathBuf> {
    let Some(parent) = root.parent() else { return Vec::new() };
    let Ok(entries) = std::fs::read_dir(parent.join(".barman_snap")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}
