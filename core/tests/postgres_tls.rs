//! TLS with certificates made by openssl, against real servers.

#![allow(clippy::unwrap_used, reason = "a helper that fails has to fail its test")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use barman_snap::postgres::PostgresControl;
use barman_snap::{Error, ErrorKind, Result};
use support::{Cluster, bare, bin_dirs, connect, give, path};

/// A directory of certificates: two authorities, a server's for `localhost` and 127.0.0.1, a client's for `postgres`.
struct Certs(tempfile::TempDir);

impl Certs {
    fn make() -> Self {
        let certs = Self(tempfile::Builder::new().prefix("barman-snap-tls-").tempdir_in("/tmp").unwrap());
        std::fs::set_permissions(certs.0.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        for authority in ["ca", "other"] {
            certs.self_signed(authority, &["-addext", "basicConstraints=critical,CA:TRUE"]);
        }
        certs.signed("server", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1");
        certs.signed("plain", "localhost", "basicConstraints=CA:FALSE");
        certs.signed("client", "postgres", "extendedKeyUsage=clientAuth");
        certs
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate that signs itself.
    fn self_signed(&self, name: &str, more: &[&str]) {
        let (key, crt, subject) = (format!("{name}.key"), format!("{name}.crt"), format!("/CN={name}"));
        let args = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject, "-keyout", &key];
        self.openssl(&[&args[..], &["-out", &crt], more].concat());
    }

    /// A certificate signed by `ca`.
    fn signed(&self, name: &str, common_name: &str, extension: &str) {
        let (key, csr, crt, ext) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"), format!("{name}.ext"));
        let subject = format!("/CN={common_name}");
        self.openssl(&["req", "-newkey", "rsa:2048", "-nodes", "-subj", &subject, "-keyout", &key, "-out", &csr]);
        std::fs::write(self.file(&ext), extension).unwrap();
        let sign = ["x509", "-req", "-in", &csr, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
        self.openssl(&[&sign[..], &["-extfile", &ext, "-out", &crt]].concat());
        std::fs::set_permissions(self.file(&key), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn openssl(&self, args: &[&str]) {
        let output = Command::new("openssl").args(args).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A server that shows the certificate `name`.
fn server(bin: &Path, certs: &Certs, name: &str) -> Cluster {
    let (crt, key) = (certs.file(&format!("{name}.crt")), certs.file(&format!("{name}.key")));
    give(&key);
    let conf = format!(
        "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'\nssl_ca_file = '{}'",
        path(&crt),
        path(&key),
        path(&certs.file("ca.crt"))
    );
    let cluster = Cluster::start(bin, &conf);
    cluster.sql("CREATE ROLE bob LOGIN PASSWORD 'x'");
    cluster
}

/// Connects over TCP under the name `host`.
async fn dial(cluster: &Cluster, host: &str, rest: &str) -> Result<PostgresControl, Error> {
    let dsn = format!("host={host} hostaddr=127.0.0.1 port={} user=postgres {rest}", cluster.port);
    connect(&dsn, &bare()).await
}

async fn encrypted(control: Result<PostgresControl, Error>) -> bool {
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    control.unwrap().simple_query(sql).await.unwrap()[0][0].as_deref() == Some("t")
}

#[tokio::test]
async fn certificates_are_checked_as_far_as_the_mode_says() {
    for bin in bin_dirs() {
        let certs = Certs::make();
        let cluster = server(&bin, &certs, "server");
        let ca = format!("sslrootcert={}", path(&certs.file("ca.crt")));
        let other = format!("sslrootcert={}", path(&certs.file("other.crt")));

        for host in ["localhost", "127.0.0.1"] {
            assert!(encrypted(dial(&cluster, host, &format!("sslmode=verify-full {ca}")).await).await);
        }
        assert!(encrypted(dial(&cluster, "wrong.example", &format!("sslmode=verify-ca {ca}")).await).await);
        assert!(encrypted(dial(&cluster, "wrong.example", "sslmode=require").await).await);
        assert!(encrypted(dial(&cluster, "localhost", "").await).await, "prefer is the default");
        assert!(!encrypted(dial(&cluster, "localhost", "sslmode=allow").await).await);
        assert!(!encrypted(dial(&cluster, "localhost", "sslmode=disable").await).await);
        for max in ["TLSv1.2", "TLSv1.3"] {
            let limits = format!("ssl_min_protocol_version={max} ssl_max_protocol_version={max} sslmode=require");
            assert!(encrypted(dial(&cluster, "localhost", &limits).await).await);
        }

        let error = dial(&cluster, "wrong.example", &format!("sslmode=verify-full {ca}")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.hint().unwrap().contains("another host"), "{error}");
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = dial(&cluster, "localhost", &format!("sslmode={mode} {other}")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Precondition);
            assert!(error.hint().unwrap().contains("sslrootcert"), "{error}");
        }
        let error = dial(&cluster, "localhost", "sslmode=verify-ca").await.unwrap_err();
        assert!(error.hint().unwrap().contains("sslrootcert"), "{error}");
        let error = dial(&cluster, "localhost", "sslmode=verify-ca sslrootcert=/nonexistent").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = dial(&cluster, "localhost", "sslrootcert=system").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Precondition | ErrorKind::NotFound), "{error}");
    }
}

#[tokio::test]
async fn a_server_decides_whether_it_wants_tls() {
    let certs = Certs::make();
    let cluster = server(&bin_dirs()[0], &certs, "server");
    cluster.hba("local all all trust\nhostssl all all all trust\n");
    assert!(encrypted(dial(&cluster, "localhost", "sslmode=allow").await).await, "allow turns to TLS");
    let error = dial(&cluster, "localhost", "sslmode=disable").await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::PermissionDenied, Some("28000")));
    cluster.hba("local all all trust\nhostnossl all all all trust\n");
    assert!(!encrypted(dial(&cluster, "localhost", "sslmode=prefer").await).await, "prefer turns from TLS");
    let error = dial(&cluster, "localhost", "sslmode=require").await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::PermissionDenied, Some("28000")));

    let without = Cluster::start(&bin_dirs()[0], "");
    assert!(!encrypted(dial(&without, "localhost", "sslmode=prefer").await).await);
    let error = dial(&without, "localhost", "sslmode=require").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.hint().unwrap().contains("turn ssl on"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_authenticates() {
    let certs = Certs::make();
    let cluster = server(&bin_dirs()[0], &certs, "server");
    cluster.hba("local all all trust\nhostssl all postgres all cert\nhostssl all bob all scram-sha-256\n");
    let key = certs.file("client.key");
    let pair = format!("sslcert={} sslkey={}", path(&certs.file("client.crt")), path(&key));
    assert!(encrypted(dial(&cluster, "localhost", &pair).await).await);
    let error = dial(&cluster, "localhost", "sslmode=require").await.unwrap_err();
    assert_eq!((error.kind(), error.sqlstate()), (ErrorKind::PermissionDenied, Some("28000")), "{error}");
    let error = dial(&cluster, "localhost", &format!("{pair} sslmode=require sslcertmode=disable")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let bound = "user=bob password=x channel_binding=require sslmode=require";
    assert!(encrypted(dial(&cluster, "localhost", bound).await).await);

    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = dial(&cluster, "localhost", &pair).await.unwrap_err();
    assert_eq!((error.kind(), error.hint()), (ErrorKind::PermissionDenied, Some("chmod 0600 it")));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    certs.openssl(&["rsa", "-aes256", "-passout", "pass:x", "-in", "client.key", "-out", "locked.key"]);
    let locked = format!("sslcert={} sslkey={}", path(&certs.file("client.crt")), path(&certs.file("locked.key")));
    let error = dial(&cluster, "localhost", &locked).await.unwrap_err();
    assert!(error.hint().unwrap().contains("pass phrase"), "{error}");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused() {
    let certs = Certs::make();
    let cluster = server(&bin_dirs()[0], &certs, "server");
    std::fs::write(certs.file("index.txt"), "").unwrap();
    std::fs::write(certs.file("number"), "01").unwrap();
    std::fs::write(
        certs.file("ca.cnf"),
        "[ca]\ndefault_ca=x\n[x]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\ncrlnumber=number\ncrl_extensions=e\n[e]\nauthorityKeyIdentifier=keyid\n",
    )
    .unwrap();
    let ca = ["ca", "-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.crt"];
    let rest = format!(
        "sslmode=verify-full sslrootcert={} sslcrl={}",
        path(&certs.file("ca.crt")),
        path(&certs.file("ca.crl"))
    );
    certs.openssl(&[&ca[..], &["-gencrl", "-out", "ca.crl"]].concat());
    assert!(encrypted(dial(&cluster, "localhost", &rest).await).await);
    certs.openssl(&[&ca[..], &["-revoke", "server.crt"]].concat());
    certs.openssl(&[&ca[..], &["-gencrl", "-out", "ca.crl"]].concat());
    let error = dial(&cluster, "localhost", &rest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    assert!(error.to_string().contains("evoked"), "{error}");
}

#[tokio::test]
async fn certificates_as_the_manual_of_postgresql_makes_them_are_accepted() {
    let certs = Certs::make();
    // Only a common name, no subjectAltName.
    let cluster = server(&bin_dirs()[0], &certs, "plain");
    let ca = format!("sslmode=verify-full sslrootcert={}", path(&certs.file("ca.crt")));
    assert!(encrypted(dial(&cluster, "localhost", &ca).await).await);
    let error = dial(&cluster, "wrong.example", &ca).await.unwrap_err();
    assert!(error.hint().unwrap().contains("another host"), "{error}");
    drop(cluster);
    // Signed by itself, and the client has it as its root certificate.
    certs.self_signed("localhost", &[]);
    let cluster = server(&bin_dirs()[0], &certs, "localhost");
    let own = format!("sslrootcert={}", path(&certs.file("localhost.crt")));
    assert!(encrypted(dial(&cluster, "wrong.example", &format!("sslmode=verify-ca {own}")).await).await);
    assert!(encrypted(dial(&cluster, "localhost", &format!("sslmode=verify-full {own}")).await).await);
    let error = dial(&cluster, "wrong.example", &format!("sslmode=verify-full {own}")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Precondition);
    let other = format!("sslmode=verify-ca sslrootcert={}", path(&certs.file("other.crt")));
    assert!(dial(&cluster, "localhost", &other).await.is_err());
}

#[tokio::test]
async fn direct_negotiation_works_from_postgresql_17_on() {
    for bin in bin_dirs() {
        let certs = Certs::make();
        let cluster = server(&bin, &certs, "server");
        let version: u32 = cluster.sql("SHOW server_version_num").parse().unwrap();
        let result = dial(&cluster, "localhost", "sslmode=require sslnegotiation=direct connect_timeout=5").await;
        if version >= 170_000 {
            assert!(encrypted(result).await);
        } else {
            assert_ne!(result.unwrap_err().kind(), ErrorKind::Internal);
        }
    }
}
