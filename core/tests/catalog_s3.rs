//! The catalog over S3: a server that speaks the real protocol (moto, from the project's test setup).
//!
//! Credentials and endpoint come in through variables, as users give them. Variables of this process cannot be changed safely
//! while other tests run, so each test runs its other half, which is marked `ignore`, in a process of its own.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test may panic, say why it skips, and use the real time"
)]

mod catalog_shared;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use barman_snap::catalog::{Catalog, Keep, StoreOptions};
use barman_snap::model::{BackupInfo, BackupStatus};
use barman_snap::wal::WalArchive;
use barman_snap::{ErrorKind, Retry};
use catalog_shared::{behaves, one_of_many_wins};

/// A moto server with a bucket `bkt`, ended when dropped.
struct Moto {
    process: Child,
    endpoint: String,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// None, with the reason on the terminal, if moto is not installed.
fn moto() -> Option<Moto> {
    let importable = Command::new("python3").args(["-c", "import moto.server"]).stderr(Stdio::null()).status();
    if !importable.is_ok_and(|status| status.success()) {
        eprintln!("skipped: python3 cannot import moto.server; the project's test setup installs moto[server,s3]");
        return None;
    }
    let port = free_port();
    let mut command = Command::new("python3");
    command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let moto = Moto { process, endpoint: format!("http://127.0.0.1:{port}") };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // Any signature will do for moto; without one it refuses.
        let request = format!(
            "PUT /bkt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n"
        );
        let mut answer = String::new();
        let asked = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.read_to_string(&mut answer)
        });
        if asked.is_ok() && answer.starts_with("HTTP/1.1 200") {
            return Some(moto);
        }
        assert!(Instant::now() < deadline, "moto does not answer: {answer}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The endpoint of a server that answers every request with this.
fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 65_536];
            let read = stream.read(&mut request).unwrap_or(0);
            let body = if request[..read].starts_with(b"HEAD") { "" } else { body };
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    endpoint
}

/// Runs the ignored test `name` of this file with these variables.
fn run_half(name: &str, variables: &[(&str, &str)]) {
    let empty = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture"])
        // Nothing of the machine's own configuration may get in.
        .env("HOME", empty.path())
        .env_remove("AWS_PROFILE")
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .envs(variables.iter().copied())
        .status()
        .unwrap();
    assert!(status.success(), "{name} failed");
}

async fn open(url: &str) -> Catalog {
    Catalog::open(url, &StoreOptions::default(), "pg1").await.unwrap()
}

#[test]
fn s3_behaves_as_every_other_backend() {
    let Some(moto) = moto() else { return };
    run_half("half_behaves", &[("AWS_ENDPOINT_URL", &moto.endpoint)]);
}

#[tokio::test]
#[ignore = "the other half of s3_behaves_as_every_other_backend"]
async fn half_behaves() {
    let catalog = open("s3://bkt").await;
    behaves(catalog.space()).await;
    one_of_many_wins(catalog.space()).await;
    catalog.check_writable().await.unwrap();
    assert!(catalog.space().list("").await.unwrap().is_empty());
}

#[test]
fn a_catalog_on_s3_is_that_of_barman() {
    let Some(moto) = moto() else { return };
    run_half("half_catalog", &[("AWS_ENDPOINT_URL_S3", &moto.endpoint), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]);
}

#[tokio::test]
#[ignore = "the other half of a_catalog_on_s3_is_that_of_barman"]
async fn half_catalog() {
    let (plain, slash) = (open("s3://bkt/p q").await, open("s3://bkt/p q/").await);
    let info = BackupInfo { status: BackupStatus::Done, ..BackupInfo::default() };
    let ids: Vec<_> = (10..40).map(|second| format!("20260101T0000{second}").parse().unwrap()).collect();
    for id in &ids {
        assert!(plain.create(id, &info).await.unwrap());
    }
    slash.set_keep(&ids[3], Keep::Full).await.unwrap();
    let doubled = format!("p q//pg1/base/{}/annotations/keep", ids[3]);
    assert_eq!(plain.space().get(&doubled).await.unwrap().unwrap().0, "full");
    let list = plain.list().await.unwrap();
    assert_eq!(list.len(), 30);
    assert_eq!(list.iter().filter(|entry| entry.keep.is_some()).count(), 1);
    assert_eq!(list[3].keep, Some(Keep::Full));
    assert_eq!(plain.latest_id().await.unwrap().as_ref(), ids.last());

    let nowhere = open("s3://no-such-bucket/p").await;
    for error in [nowhere.list().await.unwrap_err(), nowhere.check_writable().await.unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
        assert!(error.message().contains("s3://no-such-bucket"), "{error}");
    }
    assert_eq!(nowhere.read(&ids[0]).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_segment_is_absent_only_from_a_bucket_that_is_seen() {
    let Some(moto) = moto() else { return };
    run_half("half_absent", &[("AWS_ENDPOINT_URL", &moto.endpoint)]);
}

#[tokio::test]
#[ignore = "the other half of a_segment_is_absent_only_from_a_bucket_that_is_seen"]
async fn half_absent() {
    let name = "000000010000000000000009";
    let to = tempfile::tempdir().unwrap().path().join("to");
    for url in ["s3://no-such-bucket/p", "s3://bkt", "s3://bkt/elsewhere"] {
        let error = WalArchive::new(&open(url).await).fetch(name, &to, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{url}: {}", error.chain());
        let bucket = url.split('/').nth(2).unwrap();
        assert!(error.chain().contains(name) && error.chain().contains(bucket), "{}", error.chain());
    }
    let catalog = open("s3://bkt").await;
    // What only stock tools have written has nothing of ours in it.
    catalog.space().put("pg1/wals/0000000100000000/000000010000000000000001.gz", "x").await.unwrap();
    assert!(catalog.space().holds_any("pg1/wals").await.unwrap());
    assert!(!catalog.space().holds_any("pg1/wal").await.unwrap());
    let error = WalArchive::new(&catalog).fetch(name, &to, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.chain());
}

#[test]
fn a_page_that_says_not_found_is_no_archive_without_the_file() {
    let endpoint = answering("404 Not Found", "<html><body>no such host</body></html>");
    run_half("half_page", &[("AWS_ENDPOINT_URL", &endpoint)]);
}

#[tokio::test]
#[ignore = "the other half of a_page_that_says_not_found_is_no_archive_without_the_file"]
async fn half_page() {
    let to = tempfile::tempdir().unwrap().path().join("to");
    let catalog = open("s3://bkt/p").await;
    let fetched = WalArchive::new(&catalog).fetch("000000010000000000000009", &to, false).await;
    for error in [fetched.unwrap_err(), catalog.list().await.unwrap_err(), catalog.check_writable().await.unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
        assert!(error.chain().contains("s3://bkt (http://127.0.0.1:"), "{}", error.chain());
    }
}

#[test]
fn an_endpoint_that_is_not_there_is_named_within_15_seconds() {
    run_half("half_unreachable", &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")]);
}

#[tokio::test]
#[ignore = "the other half of an_endpoint_that_is_not_there_is_named_within_15_seconds"]
async fn half_unreachable() {
    let started = Instant::now();
    let error = open("s3://bkt/p").await.list().await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe), "{}", error.chain());
    assert!(error.message().contains("http://127.0.0.1:1"), "{error}");
    let error = open("s3://bkt/p").await.check_writable().await.unwrap_err();
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Unknown), "{}", error.chain());
}

#[test]
fn an_endpoint_that_never_answers_is_unavailable() {
    // Accepts connections in its backlog, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    run_half("half_silent", &[("AWS_ENDPOINT_URL", &endpoint)]);
}

#[tokio::test]
#[ignore = "the other half of an_endpoint_that_never_answers_is_unavailable"]
async fn half_silent() {
    let options = StoreOptions { read_timeout: Some(Duration::from_secs(1)), ..StoreOptions::default() };
    let catalog = Catalog::open("s3://bkt/p", &options, "pg1").await.unwrap();
    let error = catalog.list().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.message().contains("did not answer in time"), "{error}");
}

#[test]
fn a_refusal_is_permission_denied_and_a_full_store_is_exhausted() {
    for (status, half) in [("403 Forbidden", "half_forbidden"), ("507 Insufficient Storage", "half_full")] {
        run_half(half, &[("AWS_ENDPOINT_URL", &answering(status, ""))]);
    }
}

#[tokio::test]
#[ignore = "the other half of a_refusal_is_permission_denied_and_a_full_store_is_exhausted"]
async fn half_forbidden() {
    let error = open("s3://bkt/p").await.list().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", error.chain());
}

#[tokio::test]
#[ignore = "the other half of a_refusal_is_permission_denied_and_a_full_store_is_exhausted"]
async fn half_full() {
    let error = open("s3://bkt/p").await.space().put_new("x", "y").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{}", error.chain());
}
