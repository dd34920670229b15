//! Where each tablespace of a backup goes, and the `tablespace_map` that says so.
//!
//! Pure. Without a mapping a tablespace goes where it was, as with `pg_basebackup`; one that lay inside the original data
//! directory goes to the same place inside the new one, because anything else would write into the original.
//!
//! At the start of recovery the server makes the links in `pg_tblspc` from the map.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::claims::is_of_the_system;
use crate::error::{Error, Result};
use crate::model::{Tablespace, TablespaceMap};

/// `NAME:LOCATION` (as the `barman-cloud-*` tools have it) or `OLDDIR:NEWDIR` (as `pg_basebackup` has it).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablespaceMapping {
    /// The name of the tablespace, or its original location when it begins with a slash.
    pub from: String,
    /// The new location, absolute.
    pub to: PathBuf,
}

impl FromStr for TablespaceMapping {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The new location is absolute, so ":/" is where the name ends, even if the name has a colon of its own.
        let at = text.find(":/").filter(|at| *at > 0).ok_or_else(|| {
            Error::invalid(format!("not a tablespace mapping: {text:?}"))
                .with_hint("NAME:LOCATION or OLDDIR:NEWDIR, with an absolute new location")
        })?;
        let to = PathBuf::from(&text[at + 1..]);
        if to.components().any(|part| part == Component::ParentDir) {
            return Err(Error::invalid(format!("the new location of a tablespace has a \"..\": {}", to.display())));
        }
        Ok(Self { from: text[..at].to_owned(), to: normal(&to) })
    }
}

/// A tablespace and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedTablespace {
    /// Its oid, the name of the link in `pg_tblspc`.
    pub oid: u32,
    /// Its name.
    pub name: String,
    /// Where it was.
    pub original: PathBuf,
    /// Where it goes.
    pub location: PathBuf,
    /// True if that is inside the data directory, as it was before.
    pub inside: bool,
    /// True if the backup has left it out: it is empty then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left_out: bool,
}

/// A path without trailing slashes and `.` parts.
pub(super) fn normal(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// Decides where each tablespace goes.
///
/// # Errors
/// `invalid_input` for a mapping of an unknown tablespace, two mappings of one tablespace, two tablespaces in one place,
/// and a new location inside the new data directory or around it.
pub fn place(
    tablespaces: &[Tablespace],
    mappings: &[TablespaceMapping],
    pgdata: &Path,
    target: &Path,
) -> Result<Vec<PlacedTablespace>> {
    let means = |mapping: &TablespaceMapping, tablespace: &Tablespace| {
        mapping.from == tablespace.name
            || (mapping.from.starts_with('/')
                && normal(Path::new(&mapping.from)) == normal(tablespace.location.as_ref()))
    };
    if let Some(unknown) = mappings.iter().find(|mapping| !tablespaces.iter().any(|one| means(mapping, one))) {
        let names: Vec<_> = tablespaces.iter().map(|one| one.name.as_str()).collect();
        let hint = if names.is_empty() { "it has none".to_owned() } else { format!("it has {}", names.join(", ")) };
        return Err(Error::invalid(format!("the backup has no tablespace {:?}", unknown.from)).with_hint(hint));
    }
    let placed = tablespaces.iter().map(|tablespace| {
        let wanted: Vec<_> = mappings.iter().filter(|mapping| means(mapping, tablespace)).collect();
        let original = normal(tablespace.location.as_ref());
        let (location, inside) = match (wanted.as_slice(), original.strip_prefix(normal(pgdata))) {
            ([], Ok(relative)) => (target.join(relative), true),
            // A mapping is the user's word; this is the catalog's.
            ([], Err(_)) if is_of_the_system(&original) => return Err(of_the_system(&tablespace.name, &original)),
            ([], Err(_)) => (original.clone(), false),
            ([one], _) => (one.to.clone(), false),
            _ => return Err(Error::invalid(format!("tablespace {:?} is mapped twice", tablespace.name))),
        };
        let (oid, name) = (tablespace.oid, tablespace.name.clone());
        Ok(PlacedTablespace { oid, name, original, location, inside, left_out: false })
    });
    let placed: Vec<_> = placed.collect::<Result<_>>()?;
    check_places(&placed, target)?;
    Ok(placed)
}

fn of_the_system(name: &str, original: &Path) -> Error {
    let message = format!(
        "tablespace {name:?} was at {}, in a directory of the system, where nothing is restored unasked",
        original.display()
    );
    Error::precondition(message).with_hint(format!("say where with --tablespace {name}:DIRECTORY"))
}

/// Refuses places that are not apart from each other and from the data directory.
fn check_places(placed: &[PlacedTablespace], target: &Path) -> Result<()> {
    for (at, one) in placed.iter().enumerate() {
        if !one.inside && (one.location.starts_with(target) || target.starts_with(&one.location)) {
            return Err(Error::invalid(format!(
                "tablespace {:?} cannot go to {}: that is not apart from the data directory {}",
                one.name,
                one.location.display(),
                target.display()
            ))
            .with_hint("give it a directory of its own with --tablespace NAME:LOCATION"));
        }
        let near = |other: &&PlacedTablespace| {
            other.location.starts_with(&one.location) || one.location.starts_with(&other.location)
        };
        if let Some(other) = placed[..at].iter().find(near) {
            return Err(Error::invalid(format!(
                "tablespaces {:?} and {:?} cannot both go to {}",
                other.name,
                one.name,
                one.location.display()
            ))
            .with_hint("give each a directory of its own"));
        }
    }
    Ok(())
}

/// The `tablespace_map` for the new places; `None` when the backup has no tablespaces. Byte for byte the `original` when
/// all of them stay where they were. What it has besides them ([`unknown`]) is left out: it would lead to the original.
///
/// # Errors
/// `corrupt` when the original cannot be read or does not have the tablespaces of the metadata.
pub fn render_map(original: Option<&str>, placed: &[PlacedTablespace]) -> Result<Option<String>> {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let map = match original {
        Some(original) if !original.is_empty() => TablespaceMap::parse(original)?,
        // A backup of a stock tool: its metadata has the tablespaces, but not the map.
        _ => {
            let line = |one: &PlacedTablespace| format!("{} {}\n", one.oid, escaped(&text(&one.original)));
            TablespaceMap::parse(&placed.iter().map(line).collect::<String>())?
        }
    };
    let known: BTreeMap<u32, &str> = map.entries().iter().map(|(oid, path)| (*oid, path.as_str())).collect();
    if let Some(odd) = placed.iter().find(|one| !known.contains_key(&one.oid)) {
        return Err(Error::corrupt(format!("the tablespace map of the backup lacks {:?} ({})", odd.name, odd.oid)));
    }
    let moved = placed.iter().filter(|one| known.get(&one.oid).map(Path::new) != Some(&one.location));
    let map = map.relocate(&moved.map(|one| (one.oid, text(&one.location))).collect())?;
    let map = map.without(|oid| !placed.iter().any(|one| one.oid == oid));
    Ok(Some(map.text().to_owned()).filter(|text| !text.is_empty()))
}

/// What a map has that the metadata of the backup do not know: links that some crash has left in `pg_tblspc`, and tablespaces that
/// were created while the backup started.
pub fn unknown(original: Option<&str>, placed: &[PlacedTablespace]) -> Vec<(u32, String)> {
    let map = original.and_then(|text| TablespaceMap::parse(text).ok()).unwrap_or_default();
    let unknown = map.entries().iter().filter(|(oid, _)| !placed.iter().any(|one| one.oid == *oid));
    unknown.cloned().collect()
}

fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace('\n', "\\\n").replace('\r', "\\\r")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Tablespace> {
        let one = |name: &str, oid, location: &str| Tablespace { name: name.into(), oid, location: location.into() };
        vec![one("ts1", 16384, "/srv/ts1"), one("odd:name", 16385, "/srv/pg/data/inner/")]
    }

    fn placed(mappings: &[&str]) -> Result<Vec<PlacedTablespace>> {
        let mappings: Vec<_> = mappings.iter().map(|text| text.parse().unwrap()).collect();
        place(&two(), &mappings, Path::new("/srv/pg/data"), Path::new("/new/data"))
    }

    #[test]
    fn a_tablespace_goes_where_it_was_or_where_it_is_sent() {
        let places = |mappings: &[&str]| {
            placed(mappings).unwrap().iter().map(|one| one.location.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(places(&[]), ["/srv/ts1", "/new/data/inner"]);
        assert_eq!(places(&["ts1:/new/a/", "odd:name:/new/b"]), ["/new/a", "/new/b"]);
        assert_eq!(places(&["/srv/ts1/:/new/a"]), ["/new/a", "/new/data/inner"]);
    }

    #[test]
    fn mappings_that_cannot_work_are_refused_in_one_line() {
        let message = |mappings: &[&str]| placed(mappings).unwrap_err().message().to_owned();
        assert_eq!(message(&["ts9:/new/a"]), "the backup has no tablespace \"ts9\"");
        assert_eq!(message(&["ts1:/a", "/srv/ts1:/b"]), "tablespace \"ts1\" is mapped twice");
        assert_eq!(message(&["ts1:/a", "odd:name:/a"]), "tablespaces \"ts1\" and \"odd:name\" cannot both go to /a");
        assert!(message(&["ts1:/a", "odd:name:/a/b"]).contains("cannot both go to /a/b"));
        assert!(message(&["ts1:/new/data/pg_tblspc"]).contains("not apart from the data directory"));
        assert!(message(&["ts1:/new"]).contains("not apart from the data directory"));
        for text in ["", "ts1", "ts1:relative", ":/a", "ts1:/a/../b"] {
            assert!(text.parse::<TablespaceMapping>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_map_keeps_what_stays_byte_for_byte() {
        let placed = placed(&["odd:name:/new/back\\slash"]).unwrap();
        let map = render_map(Some("16384 /srv/ts1\n16385 /srv/pg/data/inner\n"), &placed).unwrap().unwrap();
        assert_eq!(map, "16384 /srv/ts1\n16385 /new/back\\\\slash\n");
        assert_eq!(render_map(None, &placed).unwrap().unwrap(), map);
        assert_eq!(render_map(Some(""), &[]).unwrap(), None);
    }

    #[test]
    fn what_the_metadata_do_not_know_is_left_out_of_the_map() {
        let text = "16384 /srv/ts1\n16385 /srv/pg/data/inner\n16999 /srv/late\n";
        let placed = placed(&["ts1:/srv/ts1", "odd:name:/srv/pg/data/inner"]).unwrap();
        let map = render_map(Some(text), &placed).unwrap().unwrap();
        assert_eq!(map, "16384 /srv/ts1\n16385 /srv/pg/data/inner\n");
        assert_eq!(unknown(Some(text), &placed), [(16_999, "/srv/late".to_owned())]);
        assert_eq!(render_map(Some("16999 /srv/late\n"), &[]).unwrap(), None);
    }
}
