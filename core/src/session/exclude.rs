//! Which tablespaces a backup leaves out, and whether that can be done.
//!
//! What is left out needs no volume, and comes back empty. The invariant: whatever is left out, a server starts with the rest, and
//! every database of it can be opened. So the default tablespace of a database is not left out, for its catalogs lie in it.

use crate::error::{Error, Result};
use crate::host::{MountTable, PgPaths, cover};
use crate::model::ExcludedTablespace;
use crate::postgres::{BackupControl, ServerFacts, TablespaceUse};
use crate::provider::Volume;

/// The tablespaces with these names.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a name that the server does not have, or that lies in the data directory;
/// [`Precondition`](crate::ErrorKind::Precondition) for the default tablespace of a database.
pub(crate) async fn left_out(
    control: &mut dyn BackupControl,
    facts: &ServerFacts,
    names: &[String],
) -> Result<Vec<ExcludedTablespace>> {
    match names {
        [] => Ok(Vec::new()),
        names => choose(facts, &control.tablespace_uses(names).await?, names),
    }
}

fn choose(facts: &ServerFacts, uses: &[TablespaceUse], names: &[String]) -> Result<Vec<ExcludedTablespace>> {
    let mut chosen: Vec<ExcludedTablespace> = Vec::new();
    for name in names {
        if chosen.iter().any(|one| one.name == *name) {
            continue;
        }
        let of_it = uses.iter().find(|one| one.name == *name);
        let Some(known) = facts.tablespaces.iter().find(|one| one.name == *name) else {
            return Err(not_to_be_left_out(facts, name, of_it.is_some()));
        };
        let of_it = of_it.cloned().unwrap_or_default();
        if let Some(database) = of_it.default_of.first() {
            return Err(Error::precondition(format!(
                "tablespace {name:?} cannot be left out: it is the default of {}, and the catalogs of a database lie in its default \
                 tablespace",
                databases(&of_it.default_of)
            ))
            .with_hint(format!(
                "back it up, or move the database first: ALTER DATABASE \"{}\" SET TABLESPACE pg_default",
                database.replace('"', "\"\"")
            )));
        }
        chosen.push(ExcludedTablespace {
            oid: known.oid,
            name: known.name.clone(),
            databases: of_it.databases,
            volume: None,
        });
    }
    Ok(chosen)
}

fn not_to_be_left_out(facts: &ServerFacts, name: &str, exists: bool) -> Error {
    let why = match name {
        "pg_global" => "cannot be left out: it holds what all databases share",
        "pg_default" => "cannot be left out: it holds the catalogs of the databases",
        _ if exists => "cannot be left out: it was made in place, inside the data directory",
        _ => "does not exist on the server",
    };
    let names: Vec<String> = facts.tablespaces.iter().map(|one| format!("{:?}", one.name)).collect();
    Error::invalid(format!("tablespace {name:?} {why}")).with_hint(match names.as_slice() {
        [] => "the server has no tablespace that could be left out".to_owned(),
        names => format!("those that have a place of their own: {}", names.join(", ")),
    })
}

fn databases(names: &[String]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    format!("{} {}", if names.len() == 1 { "database" } else { "databases" }, quoted.join(", "))
}

/// The same with the volume that each lies on, where that is cut for something else: its content is in the snapshot.
pub(crate) fn with_volumes(
    excluded: Vec<ExcludedTablespace>,
    paths: &PgPaths,
    volumes: &[Volume],
    mounts: &MountTable,
) -> Vec<ExcludedTablespace> {
    let places: Vec<_> = paths.left_out().cloned().collect();
    let placed = cover(&PgPaths::from_known(places), volumes, mounts).placed;
    let volume = |one: &ExcludedTablespace| {
        let is_it = |path: &crate::host::PgPath| matches!(&path.role, crate::host::PgRole::Tablespace { oid, .. } if *oid == one.oid);
        placed.iter().find(|placed| is_it(&placed.path)).map(|placed| volumes[placed.volume].id.clone())
    };
    excluded.into_iter().map(|one| ExcludedTablespace { volume: volume(&one), ..one }).collect()
}

/// What is left out, for `check` and for people.
pub(crate) fn in_words(excluded: &[ExcludedTablespace]) -> String {
    let one = |one: &ExcludedTablespace| match &one.volume {
        Some(volume) => format!("{}, cut all the same with {volume}, but not restored", one.described()),
        None => one.described(),
    };
    excluded.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::model::Tablespace;
    use crate::testing::postgres::ScriptedPostgres;

    async fn chosen(names: &[&str]) -> Result<Vec<ExcludedTablespace>> {
        let one = |name: &str, oid| Tablespace { name: name.into(), oid, location: format!("/srv/{oid}") };
        let server = ScriptedPostgres::new("/srv/data", vec![one("fast", 16_400), one("it's \"ü\"", 16_401)]);
        let facts = server.connect().facts().await?;
        let uses = [("pg_default", &["postgres"][..]), ("pg_global", &[]), ("fast", &["a\"b", "c"]), ("here", &[])];
        let uses: Vec<_> = uses
            .iter()
            .map(|(name, default_of)| TablespaceUse {
                name: (*name).to_owned(),
                default_of: default_of.iter().map(|name| (*name).to_owned()).collect(),
                databases: Vec::new(),
            })
            .collect();
        choose(&facts, &uses, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[tokio::test]
    async fn a_tablespace_is_left_out_once_whatever_its_name() {
        let found = chosen(&["it's \"ü\"", "it's \"ü\""]).await.unwrap();
        assert_eq!(found.iter().map(|one| one.oid).collect::<Vec<_>>(), [16_401]);
        assert_eq!(chosen(&[]).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_cannot_be_left_out_is_refused_with_a_way_out() {
        for (name, why) in [
            ("fsat", "does not exist on the server"),
            ("FAST", "does not exist on the server"),
            ("pg_default", "holds the catalogs"),
            ("pg_global", "all databases share"),
            ("here", "inside the data directory"),
        ] {
            let error = chosen(&[name]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.message().contains(why), "{error}");
            assert!(error.hint().unwrap().contains("\"fast\""), "{error}");
        }
        let error = chosen(&["fast"]).await.unwrap_err();
        assert!(error.message().contains("the default of databases \"a\\\"b\", \"c\""), "{error}");
        assert!(error.hint().unwrap().ends_with("ALTER DATABASE \"a\"\"b\" SET TABLESPACE pg_default"), "{error}");
    }
}
