//! Planning: from what the user asked and what server and provider say to a [`SessionPlan`], and the claim of its id.
//!
//! Nothing here changes anything but the last call, [`claim`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::config_files;
use super::driver::Tools;
use super::exclude;
use super::journal::{Entry, Journal, Record};
use super::owner::Owner;
use super::plan::{SessionPlan, WalPolicy};
use super::state::SessionState;
use super::wait::patiently;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::host::volatile;
use crate::host::{HostView, PgPaths, PgRole, check_nested, cover, sight};
use crate::id::BackupId;
use crate::model::SavedConfigRef;
use crate::postgres::{BackupControl, ServerFacts, ServerIdentity};
use crate::provider::local::SNAPSHOT_DIRECTORY;
use crate::provider::names::quoted;
use crate::provider::{SnapshotProvider, Volume, VolumeSelection, VolumeSnapshot};

/// What the user asks for.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BackupRequest {
    /// A name for the backup (`--name`).
    pub name: Option<String>,
    /// The instance; `None` is this host, where the provider can tell.
    pub instance: Option<String>,
    /// The volumes. Empty: the engine finds those that hold the cluster.
    pub volumes: Vec<String>,
    /// Tablespaces that are left out, by name: they are restored empty.
    pub exclude_tablespaces: Vec<String>,
    /// Ask PostgreSQL for an immediate checkpoint.
    pub immediate_checkpoint: bool,
    /// Who keeps the WAL.
    pub wal: WalPolicy,
    /// Tags for the snapshots.
    pub tags: BTreeMap<String, String>,
    /// One group call or one call per volume; `None`: a group call where the provider has one.
    pub group: Option<bool>,
    /// The system identifier of the cluster, if it has replaced the one whose catalog this was.
    pub new_system_id: Option<String>,
    /// The id, when the caller has a catalog of its own and has given it already. `None`: the engine chooses.
    pub backup_id: Option<BackupId>,
}

/// How far the clocks of hosts that share a catalog may differ before a backup in the future is taken for a clock that
/// went backwards.
const CLOCK_TOLERANCE_S: i64 = 60;

/// How many ids, one second apart, are tried when others are taken.
const ID_ATTEMPTS: usize = 120;

/// How long the provider is asked again for what the plan has to know.
const PLAN_PATIENCE: Duration = Duration::from_secs(300);

/// Makes the plan. Its id is only a proposal until [`claim`].
pub(crate) async fn plan(
    tools: &Tools,
    control: &mut dyn BackupControl,
    host: HostView<'_>,
    request: &BackupRequest,
) -> Result<SessionPlan> {
    let Tools { catalog, provider, clock, ids, .. } = tools;
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    control.check_privileges().await?;
    let facts = control.facts().await?;
    check_host(provider.as_ref(), host)?;
    let excluded = exclude::left_out(control, &facts, &request.exclude_tablespaces).await?;
    let paths = host.paths_without(&facts, &excluded)?;
    // First of all: whatever else could be said would be about another server.
    let sighting = sight(control, clock.as_ref(), host, &facts, &paths).await?;
    let mounts = host.mounts()?;
    volatile::refuse(&paths, &mounts)?;
    catalog.check_mounted().await?;
    catalog.check_system_id(&facts.system_id, request.new_system_id.as_deref()).await?;
    check_archiving(&facts, host, request.wal)?;
    // Nothing has begun: whoever has too many requests is given time.
    let (time, within) = (clock.as_ref(), PLAN_PATIENCE);
    let name = request.instance.as_deref();
    let instance = patiently(time, within, "look at the instance", || provider.instance(name)).await?;
    if host.is_here() {
        catalog.check_apart(paths.real()).await?;
    }
    let selection = match request.volumes.as_slice() {
        [] => VolumeSelection::Holding(paths.real()),
        named => VolumeSelection::Named(named.to_vec()),
    };
    let read = || provider.volumes(&instance, &selection);
    let volumes = patiently(time, within, "look at the volumes", read).await?;
    let placed = cover(&paths, &volumes, &mounts).require()?;
    let excluded_tablespaces = exclude::with_volumes(excluded, &paths, &volumes, &mounts);
    if !excluded_tablespaces.is_empty() {
        tracing::warn!("left out, and restored empty: tablespace {}", exclude::in_words(&excluded_tablespaces));
    }
    check_borders(provider.as_ref(), host, request, &paths, &volumes).await?;
    let group = request.group.unwrap_or(true) && provider.can_group(&volumes);
    if request.group == Some(true) && !group {
        let message = format!("provider {} cannot cut these volumes by one call", provider.name());
        return Err(Error::new(ErrorKind::Unsupported, message).with_hint(NO_GROUP));
    }
    let control_volume = placed
        .iter()
        .find(|placed| placed.path.role == PgRole::Data)
        .map(|placed| placed.volume)
        .ok_or_else(|| Error::internal("no volume holds the data directory"))?;
    let waves = SessionPlan::waves_for(volumes.len(), control_volume, facts.in_recovery, group);
    let one_by_one = SessionPlan::waves_for(volumes.len(), control_volume, facts.in_recovery, false);
    let volumes = if group { volumes } else { apart(provider.as_ref(), volumes) };
    let backup_id = id_of(request, tools).await?;
    let token = ids.token();
    let saved = if host.is_here() { config_files::read(&facts, &token, ids.as_ref()) } else { None };
    let saved_config = saved.as_ref().map(|saved| Ok::<_, Error>(SavedConfigRef::to(&saved.encode()?))).transpose()?;
    let mut plan = SessionPlan {
        server: catalog.server().to_string(),
        mark: proposed_mark(tools).await?,
        backup_name: request.name.clone(),
        token,
        planned_at: clock.now(),
        owner: Owner::current(),
        provider: provider.name().to_owned(),
        instance,
        after_cut: provider.after_cut(&volumes, group),
        volumes: volumes.into_iter().map(|volume| VolumeSnapshot { name: String::new(), volume }).collect(),
        waves,
        group,
        apart: if group && request.group.is_none() { one_by_one } else { Vec::new() },
        immediate_checkpoint: request.immediate_checkpoint,
        wal: request.wal,
        tags: request.tags.clone(),
        excluded_tablespaces,
        flush: to_flush(provider.as_ref(), host, &paths),
        config_files: BTreeMap::new(),
        saved_config,
        saved,
        real_paths: paths
            .iter()
            .filter(|path| path.named != path.real)
            .filter_map(|path| Some((path.named.to_str()?.to_owned(), path.real.to_str()?.to_owned())))
            .collect(),
        facts,
        sighting,
        backup_id: backup_id.clone(),
    };
    rename(&mut plan, provider.as_ref(), backup_id);
    let requests = plan.all_requests();
    match patiently(time, within, "check the snapshots", || provider.check_requests(&requests)).await {
        Ok(()) => return Ok(plan),
        // The user has left it open, and there is another way.
        Err(error) if !plan.apart.is_empty() && error.kind() == ErrorKind::PermissionDenied => {
            tracing::warn!(error = error.chain(), "one call for all volumes is not permitted; each is cut by its own");
        }
        Err(error) => return Err(error),
    }
    take_apart(provider.as_ref(), &mut plan);
    let requests = plan.all_requests();
    patiently(time, within, "check the snapshots", || provider.check_requests(&requests)).await?;
    Ok(plan)
}

/// The volumes as they are planned for a call each.
fn apart(provider: &dyn SnapshotProvider, volumes: Vec<Volume>) -> Vec<Volume> {
    volumes.into_iter().map(|volume| provider.apart(volume)).collect()
}

/// Plans a call for each volume instead of one for all.
fn take_apart(provider: &dyn SnapshotProvider, plan: &mut SessionPlan) {
    for planned in &mut plan.volumes {
        planned.volume = provider.apart(planned.volume.clone());
    }
    plan.waves = std::mem::take(&mut plan.apart);
    plan.group = false;
    plan.after_cut = provider.after_cut(&plan.plain_volumes(), false);
}

/// Stores the plan, and so claims its backup id, or the next free one if that may be `any`.
pub(crate) async fn claim(tools: &Tools, mut plan: SessionPlan, any: bool) -> Result<SessionState> {
    plan.mark = tools.journal.mark(tools.ids.as_ref()).await.map_err(|error| error.with_operation("plan"))?;
    for _ in 0..ID_ATTEMPTS {
        let record = Record::Planned { plan: Box::new(plan.clone()) };
        let entry = Entry {
            version: record.version(),
            sequence: 0,
            epoch: 0,
            at: tools.clock.now(),
            nonce: format!("{:032x}", tools.ids.bits()),
            record,
        };
        match tools.journal.append(&plan.backup_id, &entry).await {
            Ok(()) => return SessionState::replay(&[entry]),
            Err(error) if error.kind() == ErrorKind::Fenced && !any => return Err(taken(&plan.backup_id)),
            Err(error) if error.kind() == ErrorKind::Fenced => {
                // Another backup was started in the same second.
                let next = plan.backup_id.next();
                rename(&mut plan, tools.provider.as_ref(), next);
            }
            Err(error) => return Err(error.with_operation("plan")),
        }
    }
    Err(Error::new(ErrorKind::Conflict, format!("no free backup id near {}", plan.backup_id))
        .with_hint("are many backups being started at once?"))
}

/// The mark that the snapshots will carry. A catalog gets its identity with its first backup; until then one of the same
/// length stands in its place, so that what a provider checks is what it will be asked for. [`claim`] puts in the real one.
pub(crate) async fn proposed_mark(tools: &Tools) -> Result<String> {
    Ok(tools.journal.known_mark().await?.unwrap_or_else(|| format!("{}.{:016x}", tools.catalog.server(), 0)))
}

/// Gives the plan an id and its snapshots their names.
fn rename(plan: &mut SessionPlan, provider: &dyn SnapshotProvider, id: BackupId) {
    for planned in &mut plan.volumes {
        planned.name = provider.snapshot_name(&planned.volume, &id);
    }
    plan.backup_id = id;
}

/// The id that a backup would get now.
pub(crate) async fn id_of(request: &BackupRequest, tools: &Tools) -> Result<BackupId> {
    match &request.backup_id {
        Some(given) => free_id(&tools.catalog, given).await,
        None => propose_id(&tools.catalog, &tools.journal, tools.clock.as_ref()).await,
    }
}

/// The id for now: the local time, as stock tools write it, but never one that sorts before an existing backup.
///
/// Ids have no zone, so they go back when summer time ends or another host in another zone was used before; then the id
/// after the newest is taken. If the *absolute* time of the newest is in the future, this host's clock is wrong, and
/// nothing good can come of going on: retention and recovery to a time would choose wrongly.
async fn propose_id(catalog: &Catalog, journal: &Journal, clock: &dyn Clock) -> Result<BackupId> {
    let now = BackupId::at(clock.local().naive_local());
    let newest = [catalog.latest_id().await?, journal.sessions().await?.last().cloned()].into_iter().flatten().max();
    let Some(newest) = newest.filter(|newest| *newest >= now) else { return Ok(now) };
    let taken = match catalog.read(&newest).await {
        Ok(info) => info.begin_time.map(|time| time.to_utc()),
        Err(_) => journal.read(&newest).await?.first().map(|entry| entry.at),
    };
    if let Some(taken) = taken {
        let ahead = taken.signed_duration_since(clock.now()).num_seconds();
        if ahead > CLOCK_TOLERANCE_S {
            let message =
                format!("backup {newest} was begun {ahead} s in the future of this host's clock ({})", clock.now());
            return Err(Error::precondition(message).with_hint("one of the clocks is wrong; correct it first"));
        }
    }
    Ok(newest.next())
}

/// An id that the caller has chosen, if there is no such backup. That there is no such session either, [`claim`] finds out.
/// The order of ids is then the caller's affair.
async fn free_id(catalog: &Catalog, given: &BackupId) -> Result<BackupId> {
    match catalog.entry(given).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(given.clone()),
        Err(error) => Err(error),
        Ok(_) => Err(taken(given)),
    }
}

fn taken(id: &BackupId) -> Error {
    Error::new(ErrorKind::Conflict, format!("there is a backup or a session {id} already"))
}

/// Archiving has to work, or the engine has to be able to read `pg_wal`; else the backup could never be published.
fn check_archiving(facts: &ServerFacts, host: HostView<'_>, wal: WalPolicy) -> Result<()> {
    let archiving = facts.archive_mode != "off" && !facts.archive_command.is_empty();
    if wal == WalPolicy::External || archiving {
        return Ok(());
    }
    let pg_wal = facts.data_directory.join("pg_wal");
    if host.is_here() && std::fs::read_dir(&pg_wal).is_ok() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "WAL archiving is off (archive_mode = {}) and {} cannot be read from here",
        facts.archive_mode,
        pg_wal.display()
    ))
    .with_hint("set archive_mode = on and archive_command = 'barman-snap wal-archive URL SERVER %p', or run as the user of the server"))
}

/// What has to be flushed before the cut: everything on disks that are snapshotted below their file systems. (What reads
/// through the file system, as a provider that restores directories does, sees what is not on disk yet; btrfs and ZFS write it
/// out with the snapshot.)
fn to_flush(provider: &dyn SnapshotProvider, host: HostView<'_>, paths: &PgPaths) -> Vec<PathBuf> {
    match host {
        _ if provider.capabilities().directory_restore => Vec::new(),
        HostView::Here => paths.real(),
        HostView::Described(description) => {
            tracing::warn!(
                "the file systems of {} cannot be flushed from here: files that were changed there in the last minute, such as \
                 postgresql.conf, may have zeros for their new content in the snapshots (run sync there before the backup)",
                description.host
            );
            Vec::new()
        }
    }
}

/// Borders inside of the cluster, where the user has named the volumes. Of those that it has found itself, a provider of this
/// host knows what they hold, and has looked.
pub(crate) async fn check_borders(
    provider: &dyn SnapshotProvider,
    host: HostView<'_>,
    request: &BackupRequest,
    paths: &PgPaths,
    volumes: &[Volume],
) -> Result<()> {
    if request.volumes.is_empty() || !host.is_here() || !provider.capabilities().host_bound {
        return Ok(());
    }
    let (paths, volumes) = (paths.clone(), volumes.to_vec());
    let looked = tokio::task::spawn_blocking(move || check_nested(&paths, &volumes, SNAPSHOT_DIRECTORY));
    looked.await.map_err(|error| Error::internal("a thread that looked at the cluster stopped").with_source(error))?
}

/// The server that is to end the last segment has to be the primary of the one that is backed up.
pub(crate) fn check_primary(standby: &ServerIdentity, primary: &ServerIdentity) -> Result<()> {
    let why = if primary.system_id != standby.system_id {
        format!(
            "its system identifier is {}, that of the server at {} {}",
            primary.system_id, standby.reached, standby.system_id
        )
    } else if primary.in_recovery {
        "it is a standby itself".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::precondition(format!("the server at {} is not the primary: {why}", primary.reached))
        .with_hint("correct --primary-dbname, or leave it out"))
}

/// A provider whose snapshots lie on this host cannot take any of another one.
pub(crate) fn check_host(provider: &dyn SnapshotProvider, host: HostView<'_>) -> Result<()> {
    match host {
        HostView::Described(description) if provider.capabilities().host_bound => Err(Error::invalid(format!(
            "provider {} takes snapshots on this host only, not on {}",
            provider.name(),
            description.host
        ))
        .with_hint("run it there, without a description of the host")),
        _ => Ok(()),
    }
}

/// What to do about volumes that the provider cannot cut by one call.
pub(crate) const NO_GROUP: &str = "give --consistency independent or auto; in Google Cloud the disks can be put into one \
                                   consistency group";

/// The longest name of a backup: who lists backups wants to read it.
const LONGEST_NAME: usize = 255;

/// A name as stock tools accept it: not empty, not an id, not a word that means something else.
fn check_name(name: &str) -> Result<()> {
    const RESERVED: [&str; 9] =
        ["latest", "last", "oldest", "first", "last-failed", "latest-full", "last-full", "auto", "None"];
    let bad =
        |why: &str| Err(Error::invalid(format!("not a good backup name: {}", quoted(name))).with_hint(why.to_owned()));
    match name {
        "" => bad("it is empty"),
        name if BackupId::looks_like(name) => bad("it looks like a backup id"),
        name if RESERVED.contains(&name) => bad("the word has a meaning of its own"),
        name if name.trim() != name || name.contains(['\n', '\r']) => bad("it begins or ends with a blank"),
        name if name.chars().count() > LONGEST_NAME => bad("it has more than 255 characters"),
        _ => Ok(()),
    }
}

/// The volume ids of a plan, for people.
pub(crate) fn volume_names(volumes: &[Volume]) -> String {
    volumes.iter().map(|volume| volume.id.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_of_the_same_cluster_and_no_standby() {
        let server = |system_id: &str, in_recovery| ServerIdentity {
            reached: "host db1 port 5432".into(),
            system_id: system_id.into(),
            started: chrono::DateTime::UNIX_EPOCH.fixed_offset(),
            port: 5432,
            in_recovery,
            backend: 1,
        };
        let standby = server("74", true);
        check_primary(&standby, &server("74", false)).unwrap();
        for (other, why) in [(server("75", false), "system identifier is 75"), (server("74", true), "a standby itself")]
        {
            let error = check_primary(&standby, &other).unwrap_err();
            assert!(error.message().contains(why) && error.hint().is_some(), "{error}");
        }
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        for name in ["", "last", "20260529T101112", " x", "a\nb"] {
            assert_eq!(check_name(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        }
        assert!(check_name("nightly").is_ok());
    }
}
