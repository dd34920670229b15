//! Secrets of a cluster, its connections and its catalog: planted wherever they can be, then every byte that the program writes or
//! prints is searched for them, with all that its libraries have to log. A restored cluster has them where they belong.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use barman_snap_tests::command::{PLANTED, Ran, attempt};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::pg::Installation;
use barman_snap_tests::s3::MotoServer;
use barman_snap_tests::site::{SERVER, Site};
use barman_snap_tests::{need, user};

const STREAMING: &str = "s3cret-of-primary_conninfo";
const RADIUS: &str = "s3cret-of-pg_hba";
const LDAP: &str = "s3cret-of-ldapbindpasswd";
const PASSPHRASE: &str = "s3cret-of-the-passphrase-command";
const EXTENSION: &str = "s3cret-of-an-extension";
const ARCHIVER: &str = "s3cret-of-the-archive_command";
const ROLE: &str = "s3cret/of@the:role";
const STATEMENT: &str = "s3cret-of-a-statement";
const OF_FILES: [&str; 7] = [STREAMING, RADIUS, LDAP, PASSPHRASE, EXTENSION, ARCHIVER, PLANTED];

/// A string as it may have been written: as it is, or encoded for a URI.
fn tells(text: &str) -> Option<&'static str> {
    let encoded = ROLE.replace('/', "%2F").replace('@', "%40").replace(':', "%3A");
    if text.contains(&encoded) {
        return Some(ROLE);
    }
    OF_FILES.into_iter().chain([ROLE, STATEMENT]).find(|secret| text.contains(secret))
}

/// A cluster whose configuration lies elsewhere, with links and includes, in an encoding that is not UTF-8.
fn spread_the_configuration(site: &Site) {
    let (etc, data) = (site.place().join("etc"), site.cluster.data());
    user::make_dir(&etc);
    let write = |name: &str, content: &[u8]| {
        fs::write(etc.join(name), content).expect("it can be written");
        user::give(&etc.join(name));
    };
    let mut main = fs::read(data.join("postgresql.conf")).expect("initdb makes one");
    let archive =
        format!("OTHER_SECRET_KEY={ARCHIVER} {} wal-archive {} {SERVER} %p", site.snap.path().display(), site.url);
    main.extend(b"log_line_prefix = '\xe9 %m '\n");
    let mut lines = String::new();
    let _ = writeln!(lines, "hba_file = '{}'", etc.join("pg_hba.conf").display());
    let _ = writeln!(lines, "include '{}'", etc.join("more.conf").display());
    let _ = writeln!(lines, "archive_command = '{archive}'");
    let _ = writeln!(lines, "ssl_passphrase_command = 'echo {PASSPHRASE}'");
    main.extend(lines.as_bytes());
    write("main.conf", &main);
    fs::remove_file(data.join("postgresql.conf")).expect("it is a file");
    symlink(etc.join("main.conf"), data.join("postgresql.conf")).expect("a link can be made");
    // What is commented out in a restored configuration is told.
    let more = format!(
        "primary_conninfo = 'host=/nowhere user=x password={STREAMING}'\nextension.api_token = '{EXTENSION}'\n\
         recovery_target_name = 'password={STATEMENT}'\n"
    );
    write("more.conf", more.as_bytes());
    let hba = format!(
        "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n\
         # host all all 10.0.0.0/8 ldap ldapserver=x ldapbindpasswd={LDAP}\n\
         host none none 10.0.0.0/8 radius radiusservers=127.0.0.1 radiussecrets=\"{RADIUS}\"\n"
    );
    write("pg_hba.conf", hba.as_bytes());
}

/// Runs the program with all logs on, and searches what it says.
#[track_caller]
fn run(site: &Site, words: &[&str]) -> Ran {
    let mut command = site.snap.command(words);
    command.env("BARMAN_SNAP_LOG", "trace").env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1");
    let ran = attempt(&mut command);
    for (stream, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
        if let Some(secret) = tells(text) {
            let line = text.lines().find(|line| line.contains(secret)).unwrap_or("(over several lines)");
            panic!("{words:?} tells {secret} on {stream}: {line}");
        }
    }
    ran
}

#[test]
fn no_secret_is_written_or_printed_outside_the_private_object_of_a_backup() {
    let installation = need!(Installation::newest());
    let server = need!(MotoServer::start());
    let site = need!(Site::plan(&installation, Kind::Btrfs).on_one_volume().tcp().on_s3(&server).prepare());
    spread_the_configuration(&site);
    site.cluster.start();
    site.cluster.sql(&format!("ALTER ROLE postgres PASSWORD '{ROLE}'"));
    let port = site.cluster.port();
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres password='{ROLE}'");
    let encoded = ROLE.replace('/', "%2F").replace('@', "%40").replace(':', "%3A");
    let uri = format!("postgresql://postgres:{encoded}@127.0.0.1:{port}/postgres");
    let url = site.url.clone();
    let with = |command: &'static str, rest: &[&str]| {
        let words = [&[command, &url, SERVER], rest].concat();
        let text = run(&site, &words);
        (text, run(&site, &[&words[..], &["--format", "json", "-vvv"]].concat()))
    };

    let (checked, _) = with("check", &["-d", &uri]);
    assert!(checked.stdout.contains("OTHER_SECRET_KEY=***"), "the command itself is told: {}", checked.stdout);
    let backup =
        |dsn: &str| run(&site, &["backup", &url, SERVER, "--immediate-checkpoint", "-d", dsn, "-vvv"]).expect_success();
    let (first, second) = (backup(&conninfo).text().to_owned(), backup(&uri).text().to_owned());
    for command in ["list", "gc", "recover"] {
        with(command, &[]).1.expect_success();
    }
    with("show", &[&second]).1.expect_success();

    // What fails: a wrong password, a misspelt option, a URL that is none.
    run(&site, &["backup", &url, SERVER, "-d", &conninfo.replace("dbname=postgres", "dbname=absent")]);
    run(&site, &["backup", &url, SERVER, "-d", &format!("{conninfo} nonsense=1")]);
    run(&site, &["backup", &url, SERVER, "--dbnam", &uri]);
    run(&site, &["list", &format!("s3://key:{PLANTED}@bucket?x"), SERVER]);
    run(&site, &["list", &format!("https://a.blob.core.windows.net/c?sv=1&sig={PLANTED}"), SERVER]);
    run(&site, &["list", &url, SERVER, "--endpoint-url", &server.endpoint().replace("//", &format!("//u:{PLANTED}@"))]);

    let bin = installation.bin().display().to_string();
    let sql = format!("SELECT 1/0 FROM (SELECT 1) AS x WHERE 'password={STATEMENT}' <> ''");
    let (proof, _) = with("verify", &[&second, "--all-wal", "--pg-bin-dir", &bin, "--sql", &sql]);
    assert!(!proof.success(), "the statement fails, and the server logs it");
    let sql = format!("SELECT 'password={STATEMENT}' <> ''");
    with("verify", &[&second, "--pg-bin-dir", &bin, "--sql", &sql]).1.expect_success();
    with("show", &[&second]).1.expect_success();

    let target = site.fs().path().join("restored");
    let target_text = target.display().to_string();
    let restore = [second.as_str(), &target_text, "--clone", "--with-config"];
    let plan = with("restore", &[&restore[..], &["--dry-run"]].concat()).1.expect_success();
    assert!(plan.stdout.contains("postgresql.conf"), "{}", plan.stdout);
    run(&site, &[&["restore", &url, SERVER][..], &restore].concat()).expect_success();
    has_its_secrets(&target);

    run(&site, &["delete", &url, SERVER, "--backup-id", &first, "-vvv"]).expect_success();
    assert_eq!(server.keys(&format!("catalog/main/base/{first}/")), Vec::<String>::new());
    let keys = server.keys("catalog/");
    assert!(
        keys.iter().any(|key| key.contains("/proofs/")) && keys.iter().any(|key| key.contains("/sessions/")),
        "{keys:?}"
    );
    for key in keys.iter().filter(|key| !key.contains("/wals/")) {
        let is_private = *key == format!("catalog/main/base/{second}/private/config.json");
        let text = String::from_utf8_lossy(&server.get(key)).into_owned();
        assert!(is_private || tells(&text).is_none(), "{key} tells a secret: {text}");
        assert!(!is_private || text.contains("\"mode\": \"0"), "{text}");
    }
}

/// The restored files, to the byte where nothing had to be changed.
fn has_its_secrets(target: &Path) {
    let read = |name: &str| fs::read(target.join(name)).expect("it was written");
    let (main, hba) = (read("postgresql.conf"), read("pg_hba.conf"));
    assert!(main.windows(6).any(|bytes| bytes == b"'\xe9 %m "), "a byte that is no UTF-8");
    let text = String::from_utf8_lossy(&main);
    for secret in [STREAMING, PASSPHRASE, EXTENSION, ARCHIVER, PLANTED] {
        assert!(text.contains(secret), "{secret} is missing: {text}");
    }
    let text = String::from_utf8_lossy(&hba);
    assert!(text.contains(LDAP) && text.contains(RADIUS), "{text}");
}
