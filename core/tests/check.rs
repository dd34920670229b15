//! `check`: a line for everything, and what to do about each that is wrong; and a backup of another host by its description.
#![allow(clippy::unwrap_used, reason = "a test: a panic is the report")]

use std::path::Path;
use std::sync::Arc;

use barman_snap::catalog::{Catalog, Layout, ObjectSpace, ServerName};
use barman_snap::clock::{Clock, SystemClock};
use barman_snap::engine::EngineBuilder;
use barman_snap::host::devices::HostDescription;
use barman_snap::model::{Segment, Tablespace, WalName};
use barman_snap::postgres::ArchiverState;
use barman_snap::provider::{Finding, Findings};
use barman_snap::session::{BackupRequest, WalPolicy};
use barman_snap::testing::{MemoryOptions, MemoryProvider, ScriptedPostgres};
use barman_snap::{Engine, Error, ErrorKind};

/// A cluster whose directories are not on this machine, as the description of its host knows it.
const DATA: &str = "/var/lib/postgresql/17/main";

struct Case {
    postgres: ScriptedPostgres,
    provider: MemoryProvider,
    catalog: Catalog,
    request: BackupRequest,
}

impl Case {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let provider = MemoryProvider::new(clock, MemoryOptions::default());
        provider.add_volume("/srv/pg");
        let layout = Layout::new("", ServerName::new("pg1").unwrap()).unwrap();
        Self {
            postgres: ScriptedPostgres::new(DATA, Vec::new()),
            provider,
            catalog: Catalog::new(ObjectSpace::in_memory(), layout),
            request: BackupRequest::default(),
        }
    }

    fn here(&self) -> EngineBuilder {
        Engine::on(self.catalog.clone()).provider(Arc::new(self.provider.clone()))
    }

    fn there(&self) -> EngineBuilder {
        self.here().host_description(Arc::new(description()))
    }

    async fn check(&self, engine: EngineBuilder) -> Findings {
        let findings = engine.build().check(Ok(self.postgres.connect()), &self.request).await;
        for line in &findings.lines {
            assert!(line.ok || line.hint.is_some(), "does not say what to do: {line:?}");
        }
        findings
    }
}

fn description() -> HostDescription {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hosts/aws_nitro.json");
    HostDescription::from_file(&path).unwrap()
}

fn line<'a>(findings: &'a Findings, name: &str) -> &'a Finding {
    let found = findings.lines.iter().find(|line| line.name == name);
    found.unwrap_or_else(|| panic!("no line {name:?} in {:?}", findings.lines))
}

fn names(findings: &Findings) -> Vec<&str> {
    findings.lines.iter().map(|line| line.name.as_str()).collect()
}

#[tokio::test]
async fn a_cluster_on_another_host_is_planned_from_the_description_alone() {
    let case = Case::new();
    let plan = case.there().build().plan_backup(case.postgres.connect().as_mut(), &case.request).await.unwrap();
    assert_eq!(plan.volumes[0].volume.id, "/srv/pg");
    assert_eq!(plan.real_paths[DATA], "/srv/pg/17/main");
    assert!(plan.saved.is_none() && plan.saved_config.is_none(), "files of this host are none of that server");
    let findings = case.check(case.there()).await;
    assert!(findings.is_ok(), "{findings:?}");
    let expected =
        ["catalog writable", "sessions", "PostgreSQL", "privileges", "server", "catalog of this cluster", "archiving"];
    assert_eq!(names(&findings)[..7], expected);
    assert_eq!(names(&findings)[7..], ["paths", "instance", "volumes", "coverage", "snapshots possible"]);
}

#[tokio::test]
async fn a_description_that_does_not_say_which_server_it_is_of_has_to_be_made_anew() {
    let case = Case::new();
    case.postgres.set_identity(barman_snap::postgres::ServerIdentity {
        reached: "host db1 port 5432".into(),
        system_id: "7406321547896325411".into(),
        started: "2026-05-29T10:11:12.123456Z".parse().unwrap(),
        port: 5432,
        in_recovery: false,
        backend: 4711,
    });
    let error = case.there().build().plan_backup(case.postgres.connect().as_mut(), &case.request).await.unwrap_err();
    assert!(error.message().contains("does not say which server runs on"), "{error}");
    assert!(error.hint().unwrap().contains("describe-host -d"), "{error}");
    let finding = line(&case.check(case.there()).await, "data directory").clone();
    assert!(!finding.ok && finding.detail == error.message(), "{finding:?}");
}

#[tokio::test]
async fn without_the_description_its_directories_are_missing_here() {
    let case = Case::new();
    let error = case.here().build().plan_backup(case.postgres.connect().as_mut(), &case.request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint().unwrap().contains("--host-description"), "{error}");
    let paths = line(&case.check(case.here()).await, "paths").clone();
    assert!(!paths.ok && paths.detail.contains(DATA), "{paths:?}");
}

#[tokio::test]
async fn a_tablespace_that_the_description_does_not_know_stops_the_backup() {
    let case = Case::new();
    let tablespace = Tablespace { name: "new".into(), oid: 16400, location: "/srv/new".into() };
    case.postgres.set_facts(|facts| facts.tablespaces.push(tablespace));
    let error = case.there().build().plan_backup(case.postgres.connect().as_mut(), &case.request).await.unwrap_err();
    assert!(error.message().contains("ip-10-0-0-12 does not say where /srv/new lies"), "{error}");
}

#[tokio::test]
async fn what_lies_on_no_volume_is_a_line_of_its_own() {
    let mut case = Case::new();
    let mut host = description();
    host.add_path(Path::new(DATA), Path::new("/scratch/main"));
    host.add_path(Path::new("/scratch/main/pg_wal"), Path::new("/srv/pg/wal"));
    case.request.volumes = vec!["/srv/pg".to_owned()];
    let findings = case.check(case.here().host_description(Arc::new(host))).await;
    let coverage = line(&findings, "coverage");
    assert!(!coverage.ok && coverage.detail.contains("data directory /scratch/main"), "{coverage:?}");
    assert!(line(&findings, "snapshots possible").ok, "it goes on after a failure");
}

#[tokio::test]
async fn the_local_provider_takes_nothing_on_another_host() {
    let case = Case::new();
    let engine = Engine::on(case.catalog.clone()).host_description(Arc::new(description()));
    let host = line(&case.check(engine).await, "host").clone();
    assert!(!host.ok && host.detail.contains("this host only, not on ip-10-0-0-12"), "{host:?}");
}

#[tokio::test]
async fn an_archiver_that_fails_or_archives_elsewhere_is_told() {
    let mut case = Case::new();
    let now = SystemClock::new().local();
    let before = now - chrono::Duration::seconds(60);
    let event = |file: &str, time| Some((file.to_owned(), time));
    let failing = ArchiverState {
        last_archived: event("000000010000000000000007", before),
        last_failed: event("000000010000000000000008", now),
        failed_count: 3,
        settings_since: None,
    };
    case.postgres.set_archiver(failing.clone());
    let archiver = line(&case.check(case.there()).await, "archiver").clone();
    assert!(!archiver.ok && archiver.detail.contains("it fails: 000000010000000000000008"), "{archiver:?}");
    let elsewhere = ArchiverState { last_failed: None, ..failing.clone() };
    case.postgres.set_archiver(elsewhere);
    let archiver = line(&case.check(case.there()).await, "archiver").clone();
    assert!(!archiver.ok && archiver.detail.contains("not in this catalog"), "{archiver:?}");
    let segment: Segment = "000000010000000000000007".parse().unwrap();
    let key = case.catalog.layout().wal(WalName::Segment(segment), None);
    case.catalog.space().put(&key, "x".to_owned()).await.unwrap();
    assert!(line(&case.check(case.there()).await, "archiver").ok);
    // What a backup leaves in pg_wal is a file of the archive like any other, and no segment stands in for it.
    let label = ArchiverState { last_archived: event("000000010000000000000007.00000028.backup", before), ..failing };
    let label = ArchiverState { last_failed: None, ..label };
    case.postgres.set_archiver(label.clone());
    assert!(!line(&case.check(case.there()).await, "archiver").ok);
    // Before the settings were loaded that hold now, it may have been archived by another command.
    case.postgres.set_archiver(ArchiverState { settings_since: Some(now), ..label });
    let archiver = line(&case.check(case.there()).await, "archiver").clone();
    assert!(archiver.ok && archiver.detail.contains("pg_switch_wal() shows"), "{archiver:?}");
    case.request.wal = WalPolicy::External;
    assert!(!names(&case.check(case.there()).await).contains(&"archiver"));
}

#[tokio::test]
async fn no_connection_is_told_with_what_could_be_done() {
    let case = Case::new();
    let refused = Error::new(ErrorKind::Unavailable, "connection refused");
    let findings = case.there().build().check(Err(refused), &case.request).await;
    let postgres = line(&findings, "PostgreSQL");
    assert_eq!((postgres.ok, postgres.detail.as_str()), (false, "connection refused"));
    assert!(postgres.hint.is_some());
}

#[tokio::test]
async fn what_a_backup_would_refuse_is_never_green() {
    let case = Case::new();
    case.catalog.pin_system_id("7000000000000000001", None).await.unwrap();
    let finding = line(&case.check(case.there()).await, "catalog of this cluster").clone();
    assert!(!finding.ok && finding.detail.contains("7000000000000000001"), "{finding:?}");
    // A backup in the future stops the next one: the clock of some host is wrong.
    let case = Case::new();
    let id = barman_snap::id::BackupId::at((SystemClock::new().now() + chrono::Duration::days(2)).naive_utc());
    let info = barman_snap::model::BackupInfo {
        begin_time: Some((SystemClock::new().now() + chrono::Duration::days(2)).fixed_offset()),
        ..Default::default()
    };
    case.catalog.create(&id, &info).await.unwrap();
    let refused = case.there().build().plan_backup(case.postgres.connect().as_mut(), &case.request).await.unwrap_err();
    let findings = case.check(case.there()).await;
    let finding = line(&findings, "backup id");
    assert!(
        !finding.ok && [finding.detail.as_str(), refused.message()].iter().all(|text| text.contains("in the future"))
    );
}

#[tokio::test]
async fn a_tablespace_that_is_left_out_may_be_anywhere_and_the_rest_is_looked_at() {
    let mut case = Case::new();
    let place = "/nowhere/that/the/description/knows";
    let lost = Tablespace { name: "lost".into(), oid: 16_400, location: place.into() };
    case.postgres.set_facts(|facts| facts.tablespaces = vec![lost]);
    assert!(!line(&case.check(case.there()).await, "paths").ok);
    case.request.exclude_tablespaces = vec!["lost".into()];
    let findings = case.check(case.there()).await;
    assert!(findings.is_ok(), "{findings:?}");
    assert!(line(&findings, "left out").detail.contains("\"lost\""));
    assert!(!line(&findings, "paths").detail.contains("lost"));
    let plan = case.there().build().plan_backup(case.postgres.connect().as_mut(), &case.request).await.unwrap();
    assert_eq!(plan.excluded_tablespaces.iter().map(|one| one.oid).collect::<Vec<_>>(), [16_400]);
    case.request.exclude_tablespaces = vec!["lots".into()];
    let findings = case.check(case.there()).await;
    assert!(line(&findings, "left out").hint.as_ref().unwrap().contains("\"lost\""));
}
