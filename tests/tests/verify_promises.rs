//! What `verify` promises, each broken on purpose (`docs/verify.md` has the table): the backup is found bad, the reason
//! stands on the screen, `show` says it afterwards, and what `restore` makes of the same backup is bad as well.
//!
//! The damage is done to the snapshot or to the catalog, never to the cluster, and mended before the next one, so that
//! one backup serves for all of a version.

use std::path::{Path, PathBuf};

use barman_snap_tests::damage::{Damage, PAGE};
use barman_snap_tests::fs::Kind;
use barman_snap_tests::need;
use barman_snap_tests::pg::{Cluster, Installation, Stop};
use barman_snap_tests::rehearsal::{Rehearsal, Rehearsed, snapshot_of};
use barman_snap_tests::site::{Plan, Site};

/// Damages that belong together.
struct Harm(#[expect(dead_code, reason = "they are mended when it is dropped")] Vec<Damage>);

impl From<Damage> for Harm {
    fn from(damage: Damage) -> Self {
        Self(vec![damage])
    }
}

/// A site with a good backup, and what is known of it.
struct Ward {
    site: Site,
    id: String,
    /// The snapshot of the data directory.
    data: PathBuf,
    wrong: Vec<String>,
}

impl Ward {
    fn new(site: Site) -> Self {
        site.cluster.sql(
            "CREATE TABLE t (i int PRIMARY KEY, filler text); \
             INSERT INTO t SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 3000) i; \
             CREATE INDEX words ON t (filler)",
        );
        site.cluster.sql("CREATE DATABASE other");
        site.cluster.sql("VACUUM (FREEZE, ANALYZE) t");
        let id = Rehearsal::of(&site).backup();
        let data = snapshot_of(&site, &id, "main");
        Self { site, id, data, wrong: Vec::new() }
    }

    /// A file of the snapshot, by what PostgreSQL says where it is.
    fn file(&self, relation: &str) -> PathBuf {
        self.data.join(self.site.cluster.sql(&format!("SELECT pg_relation_filepath('{relation}')")))
    }

    fn info(&self) -> PathBuf {
        self.site.object(&format!("base/{}/backup.info", self.id))
    }

    /// Rehearses with a damage, which has to be found: with `said` on the screen of `verify` and, the first of it, in
    /// `show`.
    fn finds(&mut self, what: &str, damage: impl Into<Harm>, said: &[&str]) {
        let rehearsed = self.rehearse(damage.into(), &[]);
        self.judge(what, &rehearsed, said, true);
    }

    /// The same for what `restore` does not mind, because it reads nothing of what it brings back.
    fn alone_finds(&mut self, what: &str, damage: impl Into<Harm>, said: &[&str]) {
        let rehearsed = self.rehearse(damage.into(), &[]);
        self.judge(what, &rehearsed, said, false);
    }

    /// Rehearses while the damage is there.
    fn rehearse(&self, harm: Harm, options: &[&str]) -> Rehearsed {
        let rehearsed = Rehearsal::of(&self.site).verify_with(options).run_with(&self.id);
        drop(harm);
        rehearsed
    }

    fn judge(&mut self, what: &str, rehearsed: &Rehearsed, said: &[&str], trouble: bool) {
        let screen = format!("{}{}", rehearsed.verify.stdout, rehearsed.verify.stderr);
        let shown = rehearsed.show.stdout.lines().last().unwrap_or_default().to_owned();
        let mut wrong = |why: String| self.wrong.push(format!("{what}: {why}"));
        if rehearsed.verify.success() {
            wrong(format!("not found: {screen}"));
        }
        for word in said.iter().filter(|word| !screen.contains(**word)) {
            wrong(format!("the screen does not say {word:?}: {screen}"));
        }
        if !(shown.contains("FAILED") && shown.contains(said[0])) {
            wrong(format!("show ends with {shown:?}"));
        }
        if rehearsed.trouble.is_empty() == trouble {
            wrong(format!("the restored server: {:?}", rehearsed.trouble));
        }
        if !rehearsed.touched.is_empty() {
            wrong(format!("touched: {:?}", rehearsed.touched));
        }
    }

    /// All that was not as it should be; and without damage the backup is good.
    #[track_caller]
    fn end(self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        Rehearsal::of(&self.site).run_with(&self.id).all_is_well();
    }
}

/// The name of a relation's file, which is how PostgreSQL speaks of it.
fn name(path: &Path) -> String {
    path.file_name().expect("it has a name").to_string_lossy().into_owned()
}

fn plan(installation: &Installation) -> Plan {
    // The original shall write nothing by itself meanwhile.
    Site::plan(installation, Kind::XfsReflink).setting("autovacuum_naptime", "1d").size_mib(1024)
}

fn small(installation: &Installation) -> Plan {
    plan(installation).on_one_volume()
}

#[test]
fn damaged_pages_are_found_by_their_checksums() {
    let mut ward = Ward::new(need!(small(&need!(Installation::of(17))).start()));
    let (heap, index) = (ward.file("t"), ward.file("words"));
    ward.finds("a bit of a row", Damage::flip(&heap, 3 * PAGE + 8000), &[&name(&heap)]);
    ward.finds("a bit of an index entry", Damage::flip(&index, 3 * PAGE + 8000), &[&name(&index)]);
    ward.end();
}

#[test]
fn damaged_pages_are_found_by_their_structure() {
    let mut ward = Ward::new(need!(small(&need!(Installation::of(15))).without_checksums().start()));
    let (heap, index) = (ward.file("t"), ward.file("words"));
    // The line pointer of the first row, and the number of entries of a leaf page: pd_lower.
    ward.finds(
        "a line pointer",
        Damage::change(&heap, |bytes| bytes[3 * PAGE + 25] ^= 0x7f),
        &["heap table \"postgres.public.t\""],
    );
    ward.finds("a value in an index", Damage::change(&index, |bytes| turn(&mut bytes[3 * PAGE..4 * PAGE])), &["words"]);
    ward.end();
}

/// Exchanges the first and the last line pointer of a page of an index: its entries are out of order.
fn turn(page: &mut [u8]) {
    let end = usize::from(u16::from_le_bytes([page[12], page[13]]));
    let (first, last) = (28, end - 4);
    let kept: Vec<u8> = page[first..first + 4].to_vec();
    page.copy_within(last..last + 4, first);
    page[last..last + 4].copy_from_slice(&kept);
}

#[test]
fn files_that_are_not_what_they_were_are_found() {
    let mut ward = Ward::new(need!(small(&need!(Installation::of(18))).start()));
    let (heap, index) = (ward.file("t"), ward.file("words"));
    ward.finds("a relation that is gone", Damage::remove(&heap), &[&name(&heap)]);
    ward.finds("an index that is gone", Damage::remove(&index), &["words"]);
    ward.finds("an index of zeros", Damage::change(&index, |bytes| bytes.fill(0)), &["words"]);
    ward.finds(
        "an index that is half",
        Damage::change(&index, |bytes| bytes.truncate(bytes.len() / PAGE / 2 * PAGE)),
        &["words"],
    );
    ward.finds("half a page", Damage::change(&heap, |bytes| bytes.truncate(3 * PAGE + 100)), &[&name(&heap)]);
    ward.end();
}

#[test]
fn what_the_server_opens_first_is_looked_at() {
    let mut ward = Ward::new(need!(small(&need!(Installation::of(15))).start()));
    let (control, data) = (ward.data.join("global/pg_control"), ward.data.clone());
    let database = data.join("base").join(ward.site.cluster.sql("SELECT oid FROM pg_database WHERE datname = 'other'"));
    ward.finds("a bit of pg_control", Damage::flip(&control, 60), &["control file"]);
    ward.finds("no pg_control", Damage::remove(&control), &["pg_control"]);
    ward.finds("another version", Damage::replace(&data.join("PG_VERSION"), "15", "14"), &["PG_VERSION"]);
    ward.finds("a database of another version", Damage::replace(&database.join("PG_VERSION"), "15", "14"), &["other"]);
    ward.finds("a database that is gone", Damage::remove(&database), &["other"]);
    ward.finds("the snapshot is gone", Damage::remove(&data), &[&name(&data)]);
    ward.end();
}

#[test]
fn what_the_catalog_says_is_held_against_the_cluster() {
    let installation = need!(Installation::of(17));
    let mut ward = Ward::new(need!(small(&installation).start()));
    let info = ward.info();
    let identifier = ward.site.cluster.sql("SELECT system_identifier FROM pg_control_system()");
    ward.finds(
        "another system identifier",
        Damage::replace(&info, &identifier, "7000000000000000001"),
        &["system identifier"],
    );
    // It is there twice.
    let label = Damage::remove(&ward.site.object(&format!("base/{}/backup_label", ward.id)));
    let no_label = Damage::change(&info, |bytes| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines = text.lines().map(|line| if line.starts_with("backup_label=") { "backup_label=None" } else { line });
        *bytes = (lines.collect::<Vec<_>>().join("\n") + "\n").into_bytes();
    });
    ward.finds("the label is lost", Harm(vec![label, no_label]), &["backup_label"]);

    let foreign = Cluster::builder(&installation).start();
    foreign.stop(Stop::Fast);
    ward.finds(
        "the data directory of another server",
        Damage::exchange(&ward.data, foreign.data()),
        &["system identifier"],
    );
    ward.end();
}

#[test]
fn wal_that_is_missing_is_found() {
    let mut ward = Ward::new(need!(small(&need!(Installation::of(18))).start()));
    let end = ward.site.show(&ward.id)["end_wal"].as_str().expect("text").to_owned();
    for i in 0..3 {
        ward.site.cluster.sql(&format!("INSERT INTO t VALUES (-{i} - 1, 'later')"));
        ward.site.cluster.archive_wal();
    }
    let names = ward.site.objects("wals");
    let later = names.iter().filter(|key| key.rsplit('/').next().is_some_and(|name| name.len() == 24 && *name > *end));
    let gap = ward.site.object(later.clone().nth(later.count() / 2).expect("there are some"));
    let path = ward.site.object(&format!("wals/{}/{end}", &end[..16]));
    ward.finds("the last segment of the backup", Damage::remove(&path), &[&end]);
    ward.finds("a bit of it", Damage::flip(&path, 100), &[&end]);
    let rehearsed = ward.rehearse(Damage::remove(&gap).into(), &["--all-wal"]);
    ward.judge("a segment in the middle of the archive", &rehearsed, &[&name(&gap)], true);
    ward.end();
}

#[test]
fn volumes_of_two_backups_are_found() {
    let installation = need!(Installation::of(17));
    let site = need!(plan(&installation).start());
    site.cluster.sql("CREATE TABLE h (i int PRIMARY KEY USING INDEX TABLESPACE hot, t text) TABLESPACE hot");
    site.cluster.sql("INSERT INTO h SELECT i, 'x' FROM generate_series(1, 1000) i");
    let mut ward = Ward::new(site);
    // Each is a transaction: those of the newer one are not known where the older one ends.
    ward.site
        .cluster
        .sql("DO $$ BEGIN FOR n IN 1..300 LOOP UPDATE h SET t = 'newer' WHERE h.i = n; COMMIT; END LOOP; END $$");
    let newer = ward.site.backup(&[]);
    ward.site.cluster.archive_wal();
    let hot = |id: &str| snapshot_of(&ward.site, id, "hot");
    let (old, new) = (hot(&ward.id), hot(&newer));
    let harm = Damage::exchange(&old, &new);
    // Recovery to the end of the archive goes past the newer backup, and all is well again.
    ward.alone_finds("a tablespace that is newer", harm, &["postgres.public.h"]);
    ward.end();
}
