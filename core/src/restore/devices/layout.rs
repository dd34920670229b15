//! Which snapshots a restore needs, and where each of their file systems is mounted.
//!
//! Pure. A file system is mounted as a whole, so the place of a directory decides its mount point: a data directory that
//! lies in the directory `S` of its file system and shall be at `T` needs `T` to end with `S`; the mount point is what is
//! before. (To the original place it follows that the mount point is the original one.) A btrfs subvolume is mounted as it
//! was, by `subvol=`. Several directories of one file system must agree.
//!
//! With volumes that the user has mounted it is the other way round: what is mounted where says where each directory is, and
//! that has to be the wanted place.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::host::{HostFacts, PlaceKind};
use super::super::plan::{PlanInput, RestoreRequest};
use super::super::refusals;
use super::super::tablespaces::{PlacedTablespace, TablespaceMapping, normal, place};
use super::super::unwanted;
use super::{DeviceFacts, options};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{BackupInfo, EngineRecord};
use crate::provider::{FileSystem, Instance, Ticket};

/// What a restore to devices does beyond what every restore does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePlan {
    /// The instance that volumes are attached to.
    pub instance: Instance,
    /// The mark that new volumes carry.
    pub mark: String,
    /// The system identifier that the data directory must have.
    pub system_id: Option<String>,
    /// The volumes; each is made of a snapshot, or is there already.
    pub volumes: Vec<PlannedVolume>,
    /// What is mounted, outer mount points first. Empty when the user has mounted the volumes.
    pub mounts: Vec<PlannedMount>,
}

/// A volume of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedVolume {
    /// The snapshot.
    pub ticket: Ticket,
    /// The volume that the user has made of it and attached; `None`: it will be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<String>,
    /// What it will be like, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub like: String,
}

/// A file system that will be mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMount {
    /// The index of its volume.
    pub volume: usize,
    /// Where on the volume it lies, see [`FileSystem::part`].
    pub part: String,
    /// Its type; empty if the record does not say.
    pub fs_type: String,
    /// Its UUID, if the record says.
    pub uuid: Option<String>,
    /// The subvolume of a btrfs; `/` otherwise.
    pub subvolume: PathBuf,
    /// Where it is mounted: absent, or an empty directory.
    pub mount_point: PathBuf,
    /// The recorded options that are given again.
    pub options: String,
}

/// A file system of a snapshot.
struct Source {
    snapshot: usize,
    fs: FileSystem,
}

impl Source {
    /// A path of the original, from the top of its file system.
    fn full(&self, path: &Path) -> PathBuf {
        normal(&self.fs.fs_root.join(path.strip_prefix(&self.fs.mount_point).unwrap_or(Path::new(""))))
    }

    /// What is mounted: the whole file system, or a subvolume of a btrfs.
    fn top(&self) -> &Path {
        if self.fs.fs_type == "btrfs" { &self.fs.fs_root } else { Path::new("/") }
    }

    /// False for a stock record that does not say where its volume was mounted.
    fn holds(&self, path: &Path) -> bool {
        self.fs.mount_point.is_absolute() && path.starts_with(&self.fs.mount_point)
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.snapshot, &self.fs.part, self.top()) == (other.snapshot, &other.fs.part, other.top())
    }
}

/// The file systems of all snapshots. A stock tool, or a provider that does not know, has recorded one on the whole disk.
fn sources(record: &EngineRecord) -> Vec<Source> {
    let of = |(snapshot, one): (usize, &crate::model::SnapshotRecord)| {
        let whole = FileSystem {
            part: String::new(),
            fs_type: String::new(),
            uuid: None,
            mount_point: normal(Path::new(&one.mount_point)),
            fs_root: "/".into(),
            options: one.mount_options.clone(),
            shared_with: Vec::new(),
        };
        let known = if one.file_systems.is_empty() { vec![whole] } else { one.file_systems.clone() };
        known.into_iter().map(move |fs| Source { snapshot, fs }).collect::<Vec<_>>()
    };
    record.snapshots.iter().enumerate().flat_map(of).collect()
}

/// A directory that a restore needs.
struct Wanted<'a> {
    what: String,
    /// The tablespace, unless it is the data directory or a mount inside something.
    tablespace: Option<&'a str>,
    /// Its real path on the original.
    real: PathBuf,
    source: usize,
    place: PathBuf,
}

/// Everything wanted: data directory, tablespaces, and file systems mounted inside of one of them.
fn wanted<'a>(
    input: &PlanInput<'_>,
    sources: &[Source],
    pgdata: &Path,
    target: &Path,
    placed: &'a [PlacedTablespace],
) -> Result<Vec<Wanted<'a>>> {
    let PlanInput { record, host, .. } = input;
    let find = |what: String, tablespace, original: &Path, place: &Path| match holder(record, host, sources, original) {
        Some((source, real)) => Ok(Wanted { what, tablespace, real, source, place: place.to_owned() }),
        None => Err(missing(sources, &what, original)),
    };
    let mut all = vec![find("the data directory".into(), None, pgdata, target)?];
    for one in placed.iter().filter(|one| !one.left_out) {
        all.push(find(format!("tablespace {:?}", one.name), Some(&one.name), &one.original, &one.location)?);
    }
    let taken = |source: &Source, all: &[Wanted<'_>]| all.iter().any(|one| sources[one.source].is_same(source));
    let known = all.len();
    for (index, source) in sources.iter().enumerate() {
        let around =
            |one: &&Wanted<'_>| source.fs.mount_point != one.real && source.fs.mount_point.starts_with(&one.real);
        let Some((outer, at)) = all[..known]
            .iter()
            .enumerate()
            .filter(|(_, one)| around(one))
            .max_by_key(|(_, one)| one.real.components().count())
            .map(|(at, one)| (one, at))
        else {
            continue;
        };
        let inner = source.fs.mount_point.strip_prefix(&outer.real).unwrap_or(Path::new(""));
        if !taken(source, &all) && (at != 0 || !is_dropped(inner)) {
            let what = format!("what was mounted at {}", source.fs.mount_point.display());
            let place = outer.place.join(inner);
            all.push(Wanted { what, tablespace: None, real: source.fs.mount_point.clone(), source: index, place });
        }
    }
    Ok(all)
}

/// True inside of a directory whose content a restored server does not get.
fn is_dropped(inner: &Path) -> bool {
    unwanted::EMPTIED.iter().chain(&unwanted::LOGS).any(|directory| inner.starts_with(directory))
}

/// The file system that held `path`, and the real path. The record knows where links led; a link of this host may lead
/// elsewhere.
fn holder(record: &EngineRecord, host: &HostFacts, sources: &[Source], path: &Path) -> Option<(usize, PathBuf)> {
    let holding = |path: &Path| {
        let all = sources.iter().enumerate().filter(|(_, source)| source.holds(path));
        all.max_by_key(|(_, source)| source.fs.mount_point.components().count()).map(|(at, _)| (at, normal(path)))
    };
    let then = path.to_str().and_then(|path| record.real_paths.get(path)).map(Path::new);
    then.and_then(holding).or_else(|| holding(path)).or_else(|| host.at(path).real.as_deref().and_then(holding))
}

fn missing(sources: &[Source], what: &str, path: &Path) -> Error {
    let mounted: Vec<_> = sources.iter().map(|source| source.fs.mount_point.display().to_string()).collect();
    Error::corrupt(format!("no snapshot of this backup holds {what} {}", path.display()))
        .with_hint(format!("it has what was mounted at {}", mounted.join(", ")))
}

/// Where the file system has to be mounted so that `full` appears at `place`.
fn mount_point(source: &Source, wanted: &Wanted<'_>) -> Result<PathBuf> {
    let full = source.full(&wanted.real);
    let inside = full.strip_prefix(source.top()).unwrap_or(Path::new(""));
    let place = &wanted.place;
    if place.ends_with(inside) || inside.as_os_str().is_empty() {
        let above = place.components().count() - inside.components().count();
        return Ok(place.components().take(above).collect());
    }
    let error = Error::invalid(format!(
        "{} cannot be at {}: it lies in the directory {} of its file system, which is mounted as a whole",
        wanted.what,
        place.display(),
        inside.display(),
    ));
    let fits = place.join(inside);
    Err(match wanted.tablespace {
        Some(name) => error.with_hint(format!("--tablespace {name}:{} would do", fits.display())),
        None if source.fs.fs_root == Path::new("/") || source.fs.fs_type == "btrfs" => {
            error.with_hint(format!("{} would do, and {}, where it was", fits.display(), wanted.real.display()))
        }
        None => error.with_hint(format!("{} would do", fits.display())),
    })
}

/// The paths, beside those of every restore, that have to be looked at before a plan can be made: the mount points.
///
/// # Errors
/// As [`plan`](super::super::plan::plan).
pub fn look_at(info: &BackupInfo, record: &EngineRecord, request: &RestoreRequest) -> Result<Vec<PathBuf>> {
    let (pgdata, target) = (refusals::pgdata(info)?, normal(&request.target));
    let mut placed = place(info.tablespaces.as_deref().unwrap_or_default(), &request.tablespaces, &pgdata, &target)?;
    placed.retain(|one| !record.leaves_out(one.oid));
    let sources = sources(record);
    let mut paths = Vec::new();
    let homes = std::iter::once((pgdata, target)).chain(placed.into_iter().map(|one| (one.original, one.location)));
    for (original, place) in homes {
        let Some((source, real)) = holder(record, &HostFacts::default(), &sources, &original) else { continue };
        let wanted = Wanted { what: String::new(), tablespace: None, real, source, place };
        // One that cannot be is refused by the plan.
        paths.extend(mount_point(&sources[source], &wanted));
    }
    Ok(paths)
}

/// Where a throw-away restore goes: each file system to a directory of its own in `home`. For a verification.
///
/// # Errors
/// `corrupt` when no snapshot holds the data directory or a tablespace.
pub fn throw_away(info: &BackupInfo, record: &EngineRecord, home: &Path) -> Result<(PathBuf, Vec<TablespaceMapping>)> {
    let pgdata = refusals::pgdata(info)?;
    let sources = sources(record);
    let at = |what: &str, path: &Path| {
        let path = normal(path);
        let (index, real) =
            holder(record, &HostFacts::default(), &sources, &path).ok_or_else(|| missing(&sources, what, &path))?;
        // The first of those that are the same file system names it.
        let number = sources.iter().position(|one| one.is_same(&sources[index])).unwrap_or(index);
        let full = sources[index].full(&real);
        let inside = full.strip_prefix(sources[index].top()).unwrap_or(Path::new(""));
        Ok::<_, Error>(normal(&home.join(format!("disk-{number}")).join(inside)))
    };
    let target = at("the data directory", &pgdata)?;
    let outside =
        info.tablespaces.iter().flatten().filter(|one| !normal(Path::new(&one.location)).starts_with(&pgdata));
    let mappings = outside.map(|one| {
        if record.leaves_out(one.oid) {
            return Ok(TablespaceMapping { from: one.name.clone(), to: home.join(format!("left-out-{}", one.oid)) });
        }
        let to = at(&format!("tablespace {:?}", one.name), Path::new(&one.location))?;
        Ok(TablespaceMapping { from: one.name.clone(), to })
    });
    Ok((target, mappings.collect::<Result<_>>()?))
}

/// The plan, and what the user should know about it.
pub(in crate::restore) fn plan(
    input: &PlanInput<'_>,
    facts: &DeviceFacts,
    pgdata: &Path,
    target: &Path,
    placed: &[PlacedTablespace],
) -> Result<(DevicePlan, Vec<String>)> {
    let sources = sources(input.record);
    let wanted = wanted(input, &sources, pgdata, target, placed)?;
    let mut plan = DevicePlan {
        instance: facts.instance.clone(),
        mark: facts.mark.clone(),
        system_id: input.info.systemid.clone(),
        volumes: Vec::new(),
        mounts: Vec::new(),
    };
    let mut warnings = match &facts.attached {
        None => {
            allowed(facts)?;
            new_volumes(input, facts, &sources, &wanted, &mut plan)?;
            outlook(input.record, facts, &mut plan)
        }
        Some(attached) => super::mounted::check(input.record, attached, &to_check(&sources, &wanted), &mut plan)?,
    };
    warnings.extend(not_needed(input, &sources, &wanted, &plan, pgdata, target));
    Ok((plan, warnings))
}

/// Says what the new volumes will be like; what they will lack of the originals.
fn outlook(record: &EngineRecord, facts: &DeviceFacts, plan: &mut DevicePlan) -> Vec<String> {
    let mut lost = Vec::new();
    for (one, outlook) in record.snapshots.iter().zip(&facts.outlook) {
        let planned = plan.volumes.iter_mut().find(|volume| volume.ticket.snapshot == one.ticket.snapshot);
        let Some(planned) = planned else { continue };
        planned.like.clone_from(&outlook.like);
        let of = &one.ticket.volume;
        lost.extend(
            outlook.lost.iter().map(|what| format!("the new volume of {of} will not be as the original: {what}")),
        );
    }
    lost
}

fn allowed(facts: &DeviceFacts) -> Result<()> {
    if facts.may_mount {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PermissionDenied, "new volumes have to be mounted, and this process may not mount").with_hint(
        "run it as root (in a container with CAP_SYS_ADMIN), or make, attach and mount the volumes yourself and restore \
         with --mounted",
    ))
}

fn new_volumes(
    input: &PlanInput<'_>,
    facts: &DeviceFacts,
    sources: &[Source],
    wanted: &[Wanted<'_>],
    plan: &mut DevicePlan,
) -> Result<()> {
    let mut placed: Vec<(&Source, &Wanted<'_>, PathBuf)> = Vec::new();
    for one in wanted {
        let source = &sources[one.source];
        mountable(source, facts)?;
        let at = mount_point(source, one)?;
        match placed.iter().find(|(other, ..)| other.is_same(source)) {
            Some((_, first, there)) if *there != at => return Err(apart(source, one, first, there)),
            Some(_) => {}
            None => placed.push((source, one, at)),
        }
    }
    placed.sort_by(|(_, _, a), (_, _, b)| a.cmp(b));
    for (index, (source, one, at)) in placed.iter().enumerate() {
        if let Some((_, other, _)) = placed[..index].iter().find(|(_, _, there)| there == at) {
            return Err(Error::invalid(format!(
                "the file systems of {} and of {} cannot both be mounted at {}",
                other.what,
                one.what,
                at.display()
            ))
            .with_hint("give one of them another place with --tablespace NAME:LOCATION"));
        }
        free(input.host, at, &one.what)?;
        let volume = volume_of(plan, &input.record.snapshots[source.snapshot].ticket);
        plan.mounts.push(PlannedMount {
            volume,
            part: source.fs.part.clone(),
            fs_type: source.fs.fs_type.clone(),
            uuid: source.fs.uuid.clone(),
            subvolume: source.top().to_owned(),
            mount_point: at.clone(),
            options: options::kept(&source.fs.options),
        });
    }
    Ok(())
}

/// The index of the volume of this snapshot in the plan.
fn volume_of(plan: &mut DevicePlan, ticket: &Ticket) -> usize {
    let found = plan.volumes.iter().position(|volume| volume.ticket.snapshot == ticket.snapshot);
    found.unwrap_or_else(|| {
        plan.volumes.push(PlannedVolume { ticket: ticket.clone(), attached: None, like: String::new() });
        plan.volumes.len() - 1
    })
}

/// Refuses what cannot be mounted without more knowledge than this program has.
fn mountable(source: &Source, facts: &DeviceFacts) -> Result<()> {
    let at = source.fs.mount_point.display();
    let by_hand = "make volumes of the snapshots and attach them, activate what lies on them, mount it, and restore with \
                   --mounted";
    if source.fs.part.contains(':') {
        let message =
            format!("the file system that was mounted at {at} lies on {}, which is not activated", source.fs.part);
        return Err(Error::new(ErrorKind::Unsupported, message).with_hint(by_hand));
    }
    if !source.fs.shared_with.is_empty() {
        let others = source.fs.shared_with.join(", ");
        let message = format!("the file system that was mounted at {at} lies on several disks (also {others})");
        return Err(Error::new(ErrorKind::Unsupported, message).with_hint(by_hand));
    }
    let uuid = source.fs.uuid.as_deref().unwrap_or_default();
    if source.fs.fs_type == "btrfs" && facts.btrfs.contains(&uuid.to_ascii_lowercase()) {
        return Err(same_btrfs(uuid));
    }
    Ok(())
}

/// The kernel would take the copy for another device of the file system that is mounted.
pub(super) fn same_btrfs(uuid: &str) -> Error {
    Error::precondition(format!(
        "the btrfs file system {uuid} is mounted on this host, and a copy of it cannot be as well"
    ))
    .with_hint("restore on another host, or unmount the original first")
}

fn apart(source: &Source, one: &Wanted<'_>, first: &Wanted<'_>, there: &Path) -> Error {
    let full = source.full(&one.real);
    let fits = there.join(full.strip_prefix(source.top()).unwrap_or(Path::new("")));
    let error = Error::invalid(format!(
        "{} and {} lie on one file system, which is mounted once: with {} at {}, {} is at {}",
        one.what,
        first.what,
        first.what,
        first.place.display(),
        one.what,
        fits.display(),
    ));
    match one.tablespace {
        Some(name) => error.with_hint(format!("--tablespace {name}:{}", fits.display())),
        None => error,
    }
}

/// A mount point is absent, or an empty directory on which nothing is mounted.
fn free(host: &HostFacts, at: &Path, what: &str) -> Result<()> {
    if at.parent().is_none() {
        return Err(Error::invalid(format!("the file system of {what} would have to be mounted at /")));
    }
    let there = host.at(at);
    let problem = match there.kind {
        _ if there.link.is_some() => "it is a symbolic link",
        _ if there.mount_point && there.kind != PlaceKind::Absent => "something is mounted there",
        PlaceKind::Full => "it is not empty",
        PlaceKind::Other => "it is not a directory",
        PlaceKind::Absent | PlaceKind::Empty => return Ok(()),
    };
    Err(Error::precondition(format!("the file system of {what} cannot be mounted at {}: {problem}", at.display()))
        .with_hint(
            "restore to another directory, or move away what is there; with --mounted it may be the restored volume",
        ))
}

/// What the user should know of snapshots that are not used.
fn not_needed(
    input: &PlanInput<'_>,
    sources: &[Source],
    wanted: &[Wanted<'_>],
    plan: &DevicePlan,
    pgdata: &Path,
    target: &Path,
) -> Vec<String> {
    let used = |ticket: &Ticket| plan.volumes.iter().any(|volume| volume.ticket.snapshot == ticket.snapshot);
    let named = pgdata.join("pg_wal");
    let wal = holder(input.record, &HostFacts::default(), sources, &named)
        .or_else(|| holder(input.record, &HostFacts::default(), sources, &wanted[0].real.join("pg_wal")));
    let wal = wal.map(|(source, _)| sources[source].snapshot);
    let unused = input.record.snapshots.iter().enumerate().filter(|(_, one)| !used(&one.ticket));
    let text = |(index, one): (usize, &crate::model::SnapshotRecord)| match wal == Some(index) {
        true => format!(
            "the volume that was mounted at {} is not made again: of what it held, a restore needs nothing of pg_wal, which \
             becomes a directory in {}",
            one.mount_point,
            target.display()
        ),
        false => {
            format!("the volume that was mounted at {} is not needed: it held no part of the cluster", one.mount_point)
        }
    };
    unused.map(text).collect()
}

/// A directory that has to be reachable through what the user has mounted.
pub(super) struct ToCheck<'a> {
    /// For messages.
    pub(super) what: &'a str,
    /// The index of the snapshot.
    pub(super) snapshot: usize,
    /// The file system.
    pub(super) fs: &'a FileSystem,
    /// The directory, from the top of the file system.
    pub(super) full: PathBuf,
    /// Where it has to be.
    pub(super) place: &'a Path,
}

fn to_check<'a>(sources: &'a [Source], wanted: &'a [Wanted<'_>]) -> Vec<ToCheck<'a>> {
    let one = |one: &'a Wanted<'_>| {
        let Source { snapshot, fs } = &sources[one.source];
        let full = sources[one.source].full(&one.real);
        ToCheck { what: &one.what, snapshot: *snapshot, fs, full, place: &one.place }
    };
    wanted.iter().map(one).collect()
}
