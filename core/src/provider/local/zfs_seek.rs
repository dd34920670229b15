//! Where a snapshot or a dataset is now: here, under this name or another one; gone; or not to be seen from here.
//!
//! Gone is said only of what is known to be gone: the dataset that had it is here (by its GUID), or its pool is (by its GUID,
//! and a dataset does not leave its pool). A pool that is not imported, a dataset that was renamed, and one of the same name on
//! another host are something else. Deciding is pure; asking is one call of the command for the common case.

use super::here;
use super::zfs::{DATASET_GUID, POOL_GUID, TOKEN, Zfs, checked, dataset, pool};
use crate::error::{Error, ErrorKind, Result};
use crate::host::host_name;
use crate::provider::{Ticket, Volume};

/// What is recorded of the dataset of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity<'a> {
    dataset: &'a str,
    guid: Option<&'a str>,
    pool_guid: Option<&'a str>,
    /// The host on which it was recorded, if that is another one.
    elsewhere: Option<&'a str>,
}

impl<'a> Identity<'a> {
    fn of_volume(volume: &'a Volume) -> Result<Self> {
        let attribute = |key: &str| volume.attributes.get(key).map(String::as_str);
        let (guid, pool_guid) = (attribute(DATASET_GUID), attribute(POOL_GUID));
        Ok(Self { dataset: dataset(volume)?, guid, pool_guid, elsewhere: None })
    }

    fn of_ticket(ticket: &'a Ticket, host: &str) -> Self {
        let attribute = |key: &str| ticket.attributes.get(key).map(String::as_str);
        Self {
            dataset: ticket.snapshot.split('@').next().unwrap_or(&ticket.snapshot),
            guid: attribute(DATASET_GUID),
            pool_guid: attribute(POOL_GUID),
            elsewhere: attribute(here::HOST).filter(|made_on| *made_on != host),
        }
    }
}

/// What is imported here: names and GUIDs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Imported {
    datasets: Vec<(String, String)>,
    pools: Vec<(String, String)>,
}

/// Where a dataset is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    Here(String),
    Destroyed,
    Unseen(String),
}

/// Decides it. Pure.
fn find(of: Identity<'_>, imported: &Imported) -> Found {
    let Identity { dataset, guid, pool_guid, elsewhere } = of;
    let named = imported.datasets.iter().find(|(name, _)| name == dataset);
    let has = |all: &[(String, String)], wanted: &str| all.iter().any(|(_, guid)| guid == wanted);
    if let Some(guid) = guid {
        if let Some((name, _)) = imported.datasets.iter().find(|(_, found)| found == guid) {
            return Found::Here(name.clone());
        }
        if pool_guid.is_some_and(|guid| has(&imported.pools, guid)) {
            return Found::Destroyed;
        }
    }
    let made_on = elsewhere.map(|host| format!(" (it was made on host {host})")).unwrap_or_default();
    let why = match named {
        // An older version has recorded no more than the name.
        Some((name, _)) if guid.is_none() && elsewhere.is_none() => return Found::Here(name.clone()),
        Some(_) if guid.is_none() => format!("a dataset {dataset} is here, but perhaps not the same one"),
        Some(_) => format!("the dataset {dataset} here is another one of the same name"),
        None if imported.pools.iter().any(|(name, _)| name == pool(dataset)) => {
            format!("there is no dataset {dataset} here: it was renamed or destroyed")
        }
        None => format!("the pool {} is not imported here", pool(dataset)),
    };
    Found::Unseen(why + &made_on)
}

/// The snapshot of a ticket in a list of all, wherever its dataset was renamed or promoted to. Pure.
fn pick(listed: &str, ticket: &Ticket) -> Option<String> {
    let ours = listed.lines().filter_map(|line| line.split_once('\t'));
    let ours: Vec<&str> = ours.filter(|(_, token)| *token == ticket.token.as_str()).map(|(name, _)| name).collect();
    let name_of = |snapshot: &str| snapshot.split_once('@').map(|(_, name)| name.to_owned()).unwrap_or_default();
    let same_name = ours.iter().find(|snapshot| name_of(snapshot) == ticket.name);
    // All snapshots of a session carry the same token, and their names end alike: what ends otherwise was renamed.
    let end = ticket.name.rsplit('-').next().unwrap_or_default();
    let dataset = ticket.snapshot.split('@').next();
    let renamed =
        || ours.iter().find(|snapshot| snapshot.split('@').next() == dataset && !name_of(snapshot).ends_with(end));
    same_name.or_else(renamed).map(|snapshot| (*snapshot).to_owned())
}

fn pairs(out: &str) -> Vec<(String, String)> {
    out.lines().filter_map(|line| line.split_once('\t')).map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
}

impl Zfs {
    /// What the snapshot of a ticket is called now; `None` if it is gone.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if it cannot be seen from here, [`ErrorKind::Conflict`] if there is one of this name that
    /// does not carry the token.
    pub(super) fn seek(&self, ticket: &Ticket) -> Result<Option<String>> {
        let token = self.token_of(checked(&ticket.snapshot)?)?;
        if token.as_deref() == Some(ticket.token.as_str()) {
            return Ok(Some(ticket.snapshot.clone()));
        }
        let all = self.run(&["list", "-H", "-t", "snapshot", "-o", &format!("name,{TOKEN}")])?;
        if let Some(found) = pick(&all, ticket) {
            tracing::info!(snapshot = %ticket.snapshot, now = %found, "the snapshot has another name by now");
            return checked(&found).map(|name| Some(name.to_owned()));
        }
        let host = host_name();
        match find(Identity::of_ticket(ticket, &host), &self.imported()?) {
            Found::Unseen(why) => {
                Err(Error::precondition(format!("cannot see snapshot {} from here: {why}", ticket.snapshot))
                    .with_hint("import its pool, or run it on the host that has it"))
            }
            Found::Here(_) if token.is_some() => Err(super::not_ours(&ticket.snapshot)),
            Found::Here(_) | Found::Destroyed => Ok(None),
        }
    }

    /// The present name of the dataset of a volume, `None` if it was destroyed, or why that cannot be seen from here.
    pub(super) fn where_is(&self, volume: &Volume) -> Result<Result<Option<String>, String>> {
        let identity = Identity::of_volume(volume)?;
        // The common case costs one call for one dataset, however many there are.
        match self.run(&["list", "-H", "-t", "filesystem", "-o", "guid", identity.dataset]) {
            Ok(guid) if identity.guid.is_none_or(|recorded| recorded == guid.trim()) => {
                return Ok(Ok(Some(identity.dataset.to_owned())));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Precondition => return Ok(Err(error.message().to_owned())),
            Err(error) => return Err(error),
        }
        Ok(match find(identity, &self.imported()?) {
            Found::Here(name) => Ok(Some(name)),
            Found::Destroyed => Ok(None),
            Found::Unseen(why) => Err(why),
        })
    }

    /// Why the snapshots of these volumes cannot be seen from here; `None` if they can, or are known to be gone.
    pub(super) fn unseen(&self, volumes: &[Volume]) -> Result<Option<String>> {
        for volume in volumes {
            if let Err(why) = self.where_is(volume)? {
                return Ok(Some(why));
            }
        }
        Ok(None)
    }

    fn imported(&self) -> Result<Imported> {
        let datasets = pairs(&self.run(&["list", "-H", "-t", "filesystem", "-o", "name,guid"])?);
        Ok(Imported { datasets, pools: pairs(&self.zpool(&["list", "-H", "-o", "name,guid"])?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Token;

    fn imported() -> Imported {
        Imported { datasets: pairs("tank\t1\ntank/new name\t2\ntank/other\t3"), pools: pairs("tank\t10\nspare\t11") }
    }

    fn place<'a>(dataset: &'a str, guid: Option<&'a str>, pool_guid: Option<&'a str>) -> Identity<'a> {
        Identity { dataset, guid, pool_guid, elsewhere: None }
    }

    fn unseen(of: Identity<'_>) -> String {
        match find(of, &imported()) {
            Found::Unseen(why) => why,
            found => panic!("{of:?}: {found:?}"),
        }
    }

    #[test]
    fn a_dataset_is_known_by_its_guid_under_any_name_and_gone_only_if_its_pool_is_here() {
        let here = |name: &str| Found::Here(name.to_owned());
        assert_eq!(find(place("tank/other", Some("3"), Some("10")), &imported()), here("tank/other"));
        assert_eq!(find(place("tank/pg", Some("2"), Some("10")), &imported()), here("tank/new name"), "renamed");
        assert_eq!(find(place("old/pg", Some("2"), Some("10")), &imported()), here("tank/new name"), "pool renamed");
        assert_eq!(find(place("tank/pg", Some("7"), Some("10")), &imported()), Found::Destroyed);
        assert_eq!(find(place("tank/other", Some("7"), Some("10")), &imported()), Found::Destroyed, "made anew");
        assert!(unseen(place("tank/pg", Some("7"), Some("99"))).contains("no dataset tank/pg here"));
        assert!(unseen(place("tank/other", Some("7"), Some("99"))).contains("another one of the same name"));
        assert!(unseen(place("gone/pg", Some("7"), Some("99"))).contains("pool gone is not imported"));
    }

    #[test]
    fn of_older_records_the_name_counts_on_the_host_that_wrote_them_and_nothing_is_known_to_be_gone() {
        assert_eq!(find(place("tank/other", None, None), &imported()), Found::Here("tank/other".into()));
        assert!(unseen(place("tank/pg", None, None)).contains("renamed or destroyed"));
        assert!(unseen(place("gone/pg", None, None)).contains("not imported"));
        let far = Identity { elsewhere: Some("db2"), ..place("tank/other", None, None) };
        assert!(unseen(far).contains("host db2"));
    }

    #[test]
    fn a_snapshot_is_found_by_its_token_wherever_it_went() {
        let token = Token::from_bits(1);
        let ticket = Ticket {
            snapshot: "tank/pg@srv-pg-20260529t101112".into(),
            name: "srv-pg-20260529t101112".into(),
            volume: "/srv/pg".into(),
            root: "/srv/pg".into(),
            method: "zfs".into(),
            token: token.clone(),
            attributes: Default::default(),
        };
        let found = |listed: &[&str]| {
            let lines: Vec<String> = listed.iter().map(|name| format!("{name}\t{token}")).collect();
            pick(&format!("tank/pg@daily\t-\n{}", lines.join("\n")), &ticket)
        };
        let wal = "tank/wal@srv-wal-20260529t101112";
        assert_eq!(
            found(&[wal, "tank/clone@srv-pg-20260529t101112"]).as_deref(),
            Some("tank/clone@srv-pg-20260529t101112")
        );
        assert_eq!(found(&[wal, "tank/pg@kept by hand"]).as_deref(), Some("tank/pg@kept by hand"));
        assert_eq!(found(&[wal, "tank/pg@srv-x-20260529t101112"]), None, "of another volume of the session");
        assert_eq!(found(&[]), None);
    }
}
