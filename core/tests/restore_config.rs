//! The configuration of a restored server, rewritten: files as they stand in real set-ups, and what must come out of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use barman_snap::restore::config::{ConfigPlan, Rewritten, Tree, rewrite};

const TARGET: &str = "/new/data";

struct Case {
    dir: tempfile::TempDir,
    plan: ConfigPlan,
}

impl Case {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let case = Self { dir, plan: ConfigPlan { originals: vec!["/srv/pg/data".into()], ..ConfigPlan::default() } };
        files.iter().for_each(|(name, content)| case.file(name, content.as_bytes()));
        case
    }

    fn file(&self, name: &str, content: &[u8]) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn saved(mut self, files: &[(&str, &str)]) -> Self {
        self.plan.saved = files.iter().map(|(path, text)| (PathBuf::from(path), text.as_bytes().to_vec())).collect();
        self
    }

    fn rewritten(&self) -> Rewritten {
        rewrite(&self.plan, Path::new(TARGET), &Tree::new(self.dir.path())).unwrap()
    }
}

fn text(rewritten: &Rewritten, name: &str) -> String {
    String::from_utf8(rewritten.files[Path::new(name)].clone()).unwrap()
}

#[test]
fn a_configuration_that_leads_nowhere_is_left_byte_for_byte() {
    let case = Case::new(&[("postgresql.conf", "port = 1\ninclude 'more.conf'\nssl_cert_file = '/etc/ssl/x.crt'\n")]);
    case.file("more.conf", b"log_line_prefix = '\xe9 '\n\0\0\0broken");
    case.file("postgresql.auto.conf", b"# c\nwork_mem = '\xe9'\n");
    let out = case.rewritten();
    assert!(out.files.is_empty() && out.notes.is_empty(), "{out:?}");
    assert_eq!(out.auto, b"# c\nwork_mem = '\xe9'\n");
    assert_eq!(out.effective["log_line_prefix"], b"\xe9 ");
}

#[test]
fn what_leads_out_is_commented_out_and_what_named_the_original_names_the_copy() {
    let conf = "data_directory = '/srv/pg/data'\nhba_file='/etc/pg_hba.conf'   # ours\nport = 5433\n\
                ssl_key_file = '/srv/pg/data/server.key'\ninclude_dir '/srv/pg/data/conf.d'";
    let case = Case::new(&[("postgresql.conf", conf), ("conf.d/b.conf", "external_pid_file = '/run/x.pid'\n")]);
    case.file("postgresql.auto.conf", b"log_directory = '/var/log/pg'\n");
    let out = case.rewritten();
    let note = "# barman-snap restore: does not belong to this server: ";
    assert_eq!(
        text(&out, "postgresql.conf"),
        format!(
            "{note}data_directory = '/srv/pg/data'\n{note}hba_file='/etc/pg_hba.conf'   # ours\nport = 5433\n\
             {note}ssl_key_file = '/srv/pg/data/server.key'\nssl_key_file = '/new/data/server.key'\n\
             {note}include_dir '/srv/pg/data/conf.d'\ninclude_dir '/new/data/conf.d'\n"
        )
    );
    assert_eq!(text(&out, "conf.d/b.conf"), format!("{note}external_pid_file = '/run/x.pid'\n"));
    assert_eq!(out.auto, format!("{note}log_directory = '/var/log/pg'\n").into_bytes());
    assert_eq!(out.notes.len(), 6, "{:?}", out.notes);
    // What has been rewritten leads nowhere any more.
    let again = Case::new(&[("postgresql.conf", &text(&out, "postgresql.conf"))]);
    assert!(again.rewritten().files.is_empty());
}

#[test]
fn a_debian_configuration_becomes_one_file_with_all_that_it_included() {
    let home = "/etc/postgresql/17/main";
    let main = "data_directory = '/srv/pg/data'\nhba_file = '/etc/postgresql/17/main/pg_hba.conf'\ninclude_dir 'conf.d'\n\
                include_if_exists 'local.conf'\nport = 5432";
    let files = [
        ("/etc/postgresql/17/main/postgresql.conf", main),
        ("/etc/postgresql/17/main/conf.d/20.conf", "work_mem = '2MB'\ninclude '../shared.conf'\n"),
        ("/etc/postgresql/17/main/conf.d/10.conf", "work_mem = '1MB'"),
        ("/etc/postgresql/17/main/conf.d/.hidden.conf", "work_mem = '3MB'"),
        ("/etc/postgresql/17/main/shared.conf", "max_connections = 321\n"),
        ("/etc/postgresql/17/main/pg_hba.conf", "local all all peer\n"),
    ];
    let mut case = Case::new(&[("PG_VERSION", "17\n")]).saved(&files);
    case.plan.main = Some(format!("{home}/postgresql.conf").into());
    case.plan.hba = Some(format!("{home}/pg_hba.conf").into());
    let out = case.rewritten();
    let conf = text(&out, "postgresql.conf");
    let live: Vec<_> = conf.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(live, ["work_mem = '1MB'", "work_mem = '2MB'", "max_connections = 321", "port = 5432"], "{conf}");
    assert_eq!(text(&out, "pg_hba.conf"), "local all all peer\n");
    assert_eq!(out.effective["max_connections"], b"321");

    // In the place of the original the server goes on with its own files, if they are there.
    case.plan.keeps_outside = true;
    assert_eq!(case.rewritten().files.len(), 2, "there is no /etc/postgresql/17/main here");
    let etc = tempfile::tempdir().unwrap();
    fs::write(etc.path().join("postgresql.conf"), "x").unwrap();
    case.plan.main = Some(etc.path().join("postgresql.conf"));
    case.plan.hba = case.plan.main.clone();
    assert!(case.rewritten().files.is_empty());
    case.plan.write_saved = true;
    assert!(case.rewritten().notes.iter().any(|note| note.contains("is not in the backup")));
}

#[test]
fn a_link_in_place_of_a_file_is_not_followed_and_gives_way_to_what_was_saved() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("live.conf"), "port = 1\n").unwrap();
    let mut case = Case::new(&[]).saved(&[("/srv/pg/data/postgresql.conf", "port = 2\n")]);
    case.plan.main = Some("/srv/pg/data/postgresql.conf".into());
    symlink(outside.path().join("live.conf"), case.dir.path().join("postgresql.conf")).unwrap();
    assert!(text(&case.rewritten(), "postgresql.conf").ends_with("port = 2\n"));
    assert_eq!(fs::read_to_string(outside.path().join("live.conf")).unwrap(), "port = 1\n");
}

#[test]
fn an_included_link_that_led_out_becomes_what_it_led_to() {
    let conf = "include_dir 'conf.d'\ninclude 'absent.conf'\n";
    let mut case = Case::new(&[("postgresql.conf", conf), ("conf.d/b.conf", "port = 2\n")]);
    case = case.saved(&[("/srv/pg/data/conf.d/a.conf", "port = 1\nhba_file = '/etc/hba'\ninclude '../more.conf'\n")]);
    case.file("more.conf", b"work_mem = 5\n");
    for name in ["conf.d/a.conf", "conf.d/c.conf"] {
        symlink("/etc/live.conf", case.dir.path().join(name)).unwrap();
    }
    let out = case.rewritten();
    let text = text(&out, "conf.d/a.conf");
    assert!(
        text.starts_with("port = 1\n# barman-snap restore: ") && text.ends_with("include '../more.conf'\n"),
        "{text}"
    );
    assert_eq!((&*out.effective["port"], &*out.effective["work_mem"]), (&b"2"[..], &b"5"[..]));
    assert!(!out.files.contains_key(Path::new("conf.d/c.conf")), "it is not in the backup");
    assert!(out.notes.iter().any(|note| note.starts_with("conf.d/c.conf is a link")), "{:?}", out.notes);
}

#[test]
fn a_file_in_the_directory_that_was_not_in_use_gives_way_to_the_one_that_was() {
    let files =
        [("postgresql.conf", "port = 1\n"), ("pg_hba.conf", "local all all trust\n"), ("pg_ident.conf", "old\n")];
    let (main, hba) = ("/etc/pg/postgresql.conf", "/etc/pg/pg_hba.conf");
    let mut case = Case::new(&files).saved(&[(main, "port = 2\n"), (hba, "local all all peer\n")]);
    case.plan.main = Some(main.into());
    case.plan.hba = Some(hba.into());
    // Not in the backup: then what is there is better than nothing.
    case.plan.ident = Some("/etc/pg/pg_ident.conf".into());
    let out = case.rewritten();
    assert!(text(&out, "postgresql.conf").ends_with("port = 2\n"));
    assert_eq!(text(&out, "pg_hba.conf"), "local all all peer\n");
    assert!(!out.files.contains_key(Path::new("pg_ident.conf")));
    assert!(out.notes.iter().all(|note| note.ends_with("the one in the directory was not in use")), "{:?}", out.notes);
}

#[test]
fn notes_show_no_secret() {
    let conf = "ssl_passphrase_command = '/srv/pg/data/pass s3cret'\nrecovery_target_secret = 's3cret'\n\
                x.url = '/srv/pg/data/x?password=s3cret'\ndata_directory = 'https://u:s3cret@h'\n";
    let out = Case::new(&[("postgresql.conf", conf)]).rewritten();
    assert!(out.notes.len() > 2 && !format!("{:?}", out.notes).contains("s3cret"), "{:?}", out.notes);
    assert!(text(&out, "postgresql.conf").matches("s3cret").count() > 3, "the file has them still");
}

#[test]
fn files_that_include_themselves_come_to_an_end() {
    let case = Case::new(&[("postgresql.conf", "include 'postgresql.conf'\nport = 1\n")]);
    assert_eq!(case.rewritten().effective["port"], b"1");
    let twice = "include 'a.conf'\ninclude 'a.conf'\ninclude 'a.conf'\ninclude 'a.conf'\n";
    let case = Case::new(&[("postgresql.conf", twice), ("a.conf", twice)]);
    let error = rewrite(&case.plan, Path::new(TARGET), &Tree::new(case.dir.path())).unwrap_err();
    assert!(error.message().contains("more than 1000 files"), "{error}");
}

#[test]
fn what_recovery_needs_is_added_only_where_it_is_missing() {
    let mut case = Case::new(&[("postgresql.conf", "max_connections = 300\nmax_wal_senders = 5\n")]);
    case.plan.at_least = [
        ("max_connections", "200"),
        ("max_wal_senders", "20"),
        ("max_worker_processes", "8"),
        ("max_prepared_transactions", "3"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let names: Vec<_> = case.rewritten().too_low(&case.plan).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["max_prepared_transactions", "max_wal_senders"]);
}
