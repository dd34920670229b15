//! Where connections go and with which password, as libpq users expect; and the one line that a failure gives.

#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use barman_snap::postgres::{BackupControl, ConnectOptions, Environment, PostgresControl};
use barman_snap::{Error, ErrorKind, Retry};
use support::{Cluster, bare, bin_dirs, connect, path};

/// A server that wants the password `s3cret:\` from the role `bob`.
fn with_password() -> Cluster {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    cluster.sql(r"CREATE ROLE bob LOGIN PASSWORD 's3cret:\'");
    cluster.hba("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n");
    cluster
}

/// A port on which nothing listens.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn refused(dsn: &str, environment: &Environment) -> Error {
    let error = connect(dsn, environment).await.unwrap_err();
    assert!(!format!("{error} {error:?} {}", error.chain()).contains("s3cret"), "{error:?}");
    assert!(!error.to_string().contains('\n'));
    error
}

async fn reached(dsn: &str, environment: &Environment) -> PostgresControl {
    let mut control = connect(dsn, environment).await.unwrap();
    control.alive().await.unwrap();
    control
}

#[tokio::test]
async fn passwords_come_from_the_string_the_environment_and_the_file() {
    let cluster = with_password();
    let port = cluster.port;
    let home = tempfile::tempdir().unwrap();
    let mut environment = Environment { home: Some(home.path().to_owned()), ..bare() };
    let dsn = format!("host=127.0.0.1 port={port} user=bob dbname=postgres");

    let error = refused(&dsn, &environment).await;
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.hint().unwrap().contains("PGPASSWORD"), "{error}");
    let error = refused(&format!("{dsn} password=s3cretwrong"), &environment).await;
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::PermissionDenied, Some("28P01")));
    assert!(error.message().contains(&format!("host 127.0.0.1 port {port} as user \"bob\"")), "{error}");

    reached(&format!(r"{dsn} password='s3cret:\\'"), &environment).await;
    reached(&format!("postgres://bob:s3cret%3A%5C@127.0.0.1:{port}/postgres"), &environment).await;

    let file = home.path().join(".pgpass");
    std::fs::write(&file, format!("127.0.0.1:{port}:*:bob:s3cret\\:\\\\\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = refused(&dsn, &environment).await;
    assert!(error.hint().unwrap().contains("chmod 0600"), "{error}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    reached(&dsn, &environment).await;

    environment.home = None;
    environment.vars.insert("PGPASSFILE".to_owned(), path(&file).to_owned());
    reached(&dsn, &environment).await;
    environment.vars = [("PGPASSWORD".to_owned(), "s3cret:\\".to_owned())].into();
    reached(&dsn, &environment).await;
}

#[tokio::test]
async fn a_service_and_the_environment_fill_in_what_is_not_said() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("services");
    std::fs::write(&file, format!("[main]\nhost={}\nport={}\nuser=postgres\n", cluster.socket(), cluster.port))
        .unwrap();
    let mut environment = bare();
    for (name, value) in [("PGSERVICE", "main"), ("PGSERVICEFILE", path(&file)), ("PGPORT", "1"), ("PGAPPNAME", "me")] {
        environment.vars.insert(name.to_owned(), value.to_owned());
    }
    let mut control = PostgresControl::open(ConnectOptions::default().resolve(&environment).unwrap()).await.unwrap();
    let rows = control.simple_query("SELECT current_setting('application_name'), current_database()").await.unwrap();
    assert_eq!(rows[0], [Some("me".to_owned()), Some("postgres".to_owned())]);

    let error = refused("service=other", &environment).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    environment.vars = [
        ("PGHOST", cluster.socket()),
        ("PGPORT", &cluster.port.to_string()),
        ("PGUSER", "postgres"),
        ("PGTZ", "Asia/Kolkata"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let mut control = reached("", &environment).await;
    assert_eq!(control.facts().await.unwrap().now.offset().local_minus_utc(), 19_800);
}

#[tokio::test]
async fn the_next_host_is_tried_when_one_is_dead_but_not_when_it_refuses() {
    let cluster = with_password();
    let (dead, port) = (dead_port(), cluster.port);
    let control =
        reached(&format!("host=127.0.0.1,{} port={dead},{port} user=postgres", cluster.socket()), &bare()).await;
    assert!(control.host().contains(cluster.socket()));
    let uri = format!("postgresql://postgres@127.0.0.1:{dead},[::1]:{dead},%2Fnonexistent:{port}/?connect_timeout=5");
    let error = refused(&uri, &bare()).await;
    assert_eq!((error.kind(), error.retry()), (ErrorKind::Unavailable, Retry::Safe));
    for host in
        [format!("host 127.0.0.1 port {dead}"), format!("host ::1 port {dead}"), "/nonexistent/.s.PGSQL".to_owned()]
    {
        assert!(error.message().contains(&host), "{error}");
    }
    let both = format!("host=127.0.0.1,{} port={port},{port} user=bob password=s3cretwrong", cluster.socket());
    assert_eq!(refused(&both, &bare()).await.sqlstate(), Some("28P01"));
}

#[tokio::test]
async fn a_failure_says_where_as_whom_and_what_to_do() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let dead = dead_port();
    let error = refused(&format!("host=127.0.0.1 port={dead} user=bob dbname=app"), &bare()).await;
    assert_eq!(
        error.to_string(),
        format!(
            "cannot connect to PostgreSQL at host 127.0.0.1 port {dead} as user \"bob\", database \"app\": connection \
             refused (is the server running there, and does it listen on TCP?)"
        )
    );
    let error = refused(&format!("host={} port={dead}", cluster.socket()), &bare()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains(&format!("socket {}/.s.PGSQL.{dead}", cluster.socket())), "{error}");
    let error = refused(&cluster.dsn("dbname=nope"), &bare()).await;
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::NotFound, Some("3D000")));
    let error = refused("host=host.invalid connect_timeout=20", &bare()).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.message().contains("host.invalid"), "{error}");
    cluster.hba("local all nobody trust\n");
    let error = refused(&cluster.dsn(""), &bare()).await;
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::PermissionDenied, Some("28000")));
    assert!(error.hint().unwrap().contains("pg_hba.conf"), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let dsn = format!("host=127.0.0.1 port={port} connect_timeout=1");
    let error = tokio::time::timeout(Duration::from_secs(5), connect(&dsn, &bare())).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no answer in time"), "{error}");
}

#[tokio::test]
async fn a_tunnel_is_no_pooler_and_options_of_the_user_stay() {
    let cluster = Cluster::start(&bin_dirs()[0], "");
    let tunnel = TcpListener::bind("127.0.0.1:0").unwrap();
    let (here, there) = (tunnel.local_addr().unwrap().port(), cluster.port);
    std::thread::spawn(move || {
        let (near, _) = tunnel.accept().unwrap();
        let far = std::net::TcpStream::connect(("127.0.0.1", there)).unwrap();
        let (mut up, mut down) = (near.try_clone().unwrap(), far.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut up, &mut { far }));
        std::io::copy(&mut down, &mut { near })
    });
    let dsn = format!("host=127.0.0.1 port={here} user=postgres sslmode=disable options='-c work_mem=1234kB'");
    let mut control = connect(&dsn, &bare()).await.unwrap();
    assert_eq!(control.simple_query("SHOW work_mem").await.unwrap()[0][0].as_deref(), Some("1234kB"));
    let identity = control.identity().await.unwrap().unwrap();
    assert_eq!((identity.port, identity.reached), (there, format!("host 127.0.0.1 port {here}")));
}
