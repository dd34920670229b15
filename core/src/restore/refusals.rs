//! Everything that makes a restore impossible or dangerous, each with one clear line.
//!
//! Pure; used by [`plan`](super::plan::plan) only, before it plans anything.

use std::path::{Path, PathBuf};

use super::claims;
use super::host::{Place, PlaceKind};
use super::plan::PlanInput;
use super::settings::{Purpose, WalSource};
use super::tablespaces::{PlacedTablespace, normal};
use super::target::TargetPoint;
use super::timelines::Way;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{BackupInfo, BackupStatus, EngineRecord, Lsn, Segment, SegmentSize};

/// The original data directory.
pub(super) fn pgdata(info: &BackupInfo) -> Result<PathBuf> {
    let pgdata = info.pgdata.as_deref().map(|path| normal(Path::new(path)));
    pgdata
        .filter(|path| path.is_absolute())
        .ok_or_else(|| Error::corrupt("the metadata of the backup does not name its data directory"))
}

/// The backup itself: complete, of a version we know, with all of its own WAL.
pub(super) fn backup(input: &PlanInput<'_>) -> Result<()> {
    let PlanInput { backup_id, info, record, .. } = input;
    claims::check(info, record)?;
    if info.status != BackupStatus::Done {
        let reason = info.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        return Err(Error::precondition(format!("backup {backup_id} is {}, not DONE{reason}", info.status.as_str()))
            .with_hint(
                "`barman-snap list` shows the complete ones; `barman-snap recover` finishes what was interrupted",
            ));
    }
    if record.version > EngineRecord::VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("backup {backup_id} was written by a newer version of this program (record {})", record.version),
        ));
    }
    let major = info.version.map_or(0, |version| version / 10_000);
    if major < 13 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("backup {backup_id} is of PostgreSQL {major}; 13 is the oldest one supported"),
        ));
    }
    own_wal(input)
}

/// Every segment from begin to end of the backup, without which it never becomes consistent.
fn own_wal(input: &PlanInput<'_>) -> Result<()> {
    let info = input.info;
    let Some(have) = &input.archive.segments else { return Ok(()) };
    let (Some(begin), Some(end), Some(timeline)) = (info.begin_xlog, info.end_xlog, info.timeline) else {
        return Err(Error::corrupt(format!("backup {} does not say from where to where it goes", input.backup_id)));
    };
    if input.record.wal_external || !matches!(input.request.wal, WalSource::Catalog { .. }) {
        return Ok(());
    }
    let size = info.xlog_segment_size.unwrap_or(SegmentSize::DEFAULT);
    let lost = Segment::needed(begin, end, timeline, size)
        .map(|segment| segment.to_string())
        .find(|name| !have.contains(name));
    match lost {
        Some(name) => {
            Err(Error::precondition(format!("the archive lacks {name}, which backup {} needs", input.backup_id))
                .with_hint("archive it, or give a restore command that has it"))
        }
        None => Ok(()),
    }
}

/// The recovery target: not before the end of the backup, not in the future, not beyond the archive.
pub(super) fn recovery(input: &PlanInput<'_>) -> Result<()> {
    let PlanInput { backup_id, info, request, now, .. } = input;
    request.recovery.check()?;
    request.wal.restore_command()?;
    if request.purpose == Some(Purpose::Standby) && request.recovery.point != TargetPoint::EndOfWal {
        return Err(Error::invalid("a standby follows its primary and has no recovery target"));
    }
    let earlier = "choose an earlier backup, or `auto`";
    match &request.recovery.point {
        TargetPoint::Time(time) if info.end_time.is_some_and(|end| *time < end) => {
            let end = info.end_time.map(|end| end.to_string()).unwrap_or_default();
            return Err(Error::invalid(format!("target time {time} is before the end of backup {backup_id}, {end}"))
                .with_hint(earlier));
        }
        TargetPoint::Time(time) if *time > *now => {
            return Err(Error::invalid(format!("target time {time} is in the future"))
                .with_hint("without a target the server recovers as far as the archive goes"));
        }
        TargetPoint::Lsn(lsn) if info.end_xlog.is_some_and(|end| *lsn < end) => {
            let end = info.end_xlog.map(|end| end.to_string()).unwrap_or_default();
            return Err(Error::invalid(format!("target LSN {lsn} is before the end of backup {backup_id}, {end}"))
                .with_hint(earlier));
        }
        TargetPoint::Lsn(lsn) => within_archive(input, *lsn)?,
        _ => {}
    }
    Ok(())
}

/// An LSN beyond the last archived segment would let recovery fail after having replayed everything.
fn within_archive(input: &PlanInput<'_>, lsn: Lsn) -> Result<()> {
    match Way::of(input).map(|way| way.archived_until()) {
        Some(end) if lsn > end => {
            Err(Error::invalid(format!("target LSN {lsn} is beyond the archive, which ends at {end}")))
        }
        _ => Ok(()),
    }
}

/// What the restored server is for, and why if the user has not said so: beside an original that is seen to run, only a clone
/// does no harm.
pub(super) fn purpose(input: &PlanInput<'_>, pgdata: &Path, target: &Path) -> Result<(Purpose, Option<String>)> {
    let original = input.host.at(pgdata);
    let same = target == pgdata || original.real.as_deref() == Some(target);
    let runs = original.running.filter(|_| !same && original.system_id == input.info.systemid);
    match (input.request.purpose, input.request.in_place, runs) {
        (Some(Purpose::Clone), true, _) => {
            Err(Error::invalid("a restore in place replaces the original; it is no clone")
                .with_hint("leave out --in-place, and name a new directory"))
        }
        (None, false, Some(process)) => {
            Ok((Purpose::Clone, Some(format!("the original is running at {} (process {process})", pgdata.display()))))
        }
        (None, ..) => Ok((Purpose::Replacement, None)),
        (Some(purpose), ..) => Ok((purpose, None)),
    }
}

/// The places that will be written.
pub(super) fn places(input: &PlanInput<'_>, target: &Path, placed: &[PlacedTablespace]) -> Result<()> {
    let PlanInput { request, host, .. } = input;
    if !target.is_absolute() || target.parent().is_none() {
        return Err(Error::invalid(format!("the target directory must be an absolute path: {}", target.display())));
    }
    if target.components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::invalid(format!("the target directory has a \"..\": {}", target.display())));
    }
    if request.owner.is_some_and(|owner| owner.uid != host.uid) && host.uid != 0 {
        return Err(Error::new(ErrorKind::PermissionDenied, "only root can give files to another user")
            .with_hint("restore as that user, or as root"));
    }
    let place = host.at(target);
    not_a_link("the target", target, &place)?;
    outside(input, "the target", target)?;
    placed
        .iter()
        .filter(|one| !one.inside)
        .try_for_each(|one| outside(input, &format!("the place of tablespace {:?}", one.name), &one.location))?;
    if let Some(devices) = input.devices {
        if request.in_place {
            return Err(Error::invalid("a restore in place is for directories; here new volumes are mounted")
                .with_hint(
                    "stop the server, unmount the old volumes, and restore to the same directory without --in-place",
                ));
        }
        if devices.attached.is_some() {
            // On the volumes that the user has mounted nothing is emptied: the place might be that of a living server.
            let mut left_out = placed.iter().filter(|one| one.left_out && !one.inside);
            left_out.try_for_each(|one| tablespace(input, target, &place, one))?;
            return mounted(input, target, &place);
        }
    }
    match (place.kind, request.in_place) {
        (PlaceKind::Other, _) => {
            return Err(Error::precondition(format!("the target {} is not a directory", target.display())));
        }
        (PlaceKind::Full, false) => {
            return Err(Error::precondition(format!("the target directory {} is not empty", target.display()))
                .with_hint("name a new directory; --in-place replaces the data directory of the same cluster"));
        }
        (PlaceKind::Full, true) => in_place(input, target, &place)?,
        (PlaceKind::Absent | PlaceKind::Empty, _) => {}
    }
    placed.iter().filter(|one| !one.inside).try_for_each(|one| tablespace(input, target, &place, one))
}

/// Not inside a cluster, whose server would find strange files and whose backups would have them; nor inside the catalog, nor
/// around it.
fn outside(input: &PlanInput<'_>, what: &str, path: &Path) -> Result<()> {
    let place = input.host.at(path);
    let hint = "name a directory of its own";
    if let Some(cluster) = &place.within {
        return Err(Error::precondition(format!("{}, {what}, lies inside {cluster}", path.display())).with_hint(hint));
    }
    let Some(catalog) = input.request.wal.directory() else { return Ok(()) };
    let real = |path: &Path| input.host.at(path).real.unwrap_or_else(|| path.to_owned());
    let (here, home) = (real(path), real(&catalog));
    let how = match (here.starts_with(&home), home.starts_with(&here)) {
        (true, _) => "lies inside",
        (_, true) => "has in it",
        _ => return Ok(()),
    };
    Err(Error::precondition(format!("{}, {what}, {how} the catalog {}", path.display(), catalog.display()))
        .with_hint(hint))
}

/// What is behind a link would be replaced, renamed or unmounted by the wrong name.
pub(super) fn not_a_link(what: &str, path: &Path, place: &Place) -> Result<()> {
    match (&place.link, &place.real) {
        (Some(to), real) => {
            Err(Error::precondition(format!("{}, {what}, is a symbolic link to {}", path.display(), to.display()))
                .with_hint(format!("name that directory instead: {}", real.as_ref().unwrap_or(to).display())))
        }
        (None, _) => Ok(()),
    }
}

/// What the user has mounted must be the data directory of the backup, and no server may run on it.
fn mounted(input: &PlanInput<'_>, target: &Path, place: &Place) -> Result<()> {
    let at = target.display();
    let major = input.info.version.map_or(0, |version| version / 10_000);
    match (place.major, place.system_id.as_deref()) {
        (Some(found), Some(_)) if found != major => Err(Error::precondition(format!(
            "{at} is a data directory of PostgreSQL {found}, the backup is of PostgreSQL {major}"
        ))),
        (Some(_), Some(found)) => same_cluster(input, target, found, place.served_by),
        _ => Err(Error::precondition(format!("{at} is not a PostgreSQL data directory"))
            .with_hint("with --mounted it is where the restored volume is mounted, or a directory on it")),
    }
}

/// What stands at the target must be this very cluster, stopped, and movable.
fn in_place(input: &PlanInput<'_>, target: &Path, place: &Place) -> Result<()> {
    let at = target.display();
    let Some(found) = place.system_id.as_deref().filter(|_| place.major.is_some()) else {
        return Err(Error::precondition(format!(
            "{at} is not a PostgreSQL data directory, so nothing there is replaced"
        ))
        .with_hint("name a new or empty directory"));
    };
    same_cluster(input, target, found, place.running)?;
    let holds =
        |path: &Path| path.starts_with(target) || place.real.as_ref().is_some_and(|real| path.starts_with(real));
    if let Some(record) = input.record.snapshots.iter().find(|one| holds(Path::new(&one.ticket.snapshot))) {
        return Err(Error::precondition(format!("the snapshot {} lies inside {at}", record.ticket.snapshot))
            .with_hint("restore to another directory, then exchange the two"));
    }
    movable(target, place)
}

/// The cluster of the backup, stopped.
fn same_cluster(input: &PlanInput<'_>, target: &Path, found: &str, running: Option<u32>) -> Result<()> {
    let at = target.display();
    if let Some(pid) = running {
        return Err(Error::precondition(format!("a server is running on {at} (process {pid})"))
            .with_hint("stop it first, or remove postmaster.pid if that process is something else"));
    }
    match input.info.systemid.as_deref() {
        Some(wanted) if wanted != found => Err(Error::precondition(format!(
            "{at} is the data directory of another cluster: system identifier {found}, the backup has {wanted}"
        ))),
        Some(_) => Ok(()),
        None => Err(Error::corrupt("the backup does not say of which cluster it is, so it cannot replace one")),
    }
}

fn movable(path: &Path, place: &Place) -> Result<()> {
    if place.mount_point {
        return Err(Error::precondition(format!("{} is a mount point and cannot be renamed", path.display()))
            .with_hint("save and empty it yourself, then restore without --in-place"));
    }
    Ok(())
}

/// The new place of a tablespace is absent, empty, or, in place, the one that the old data directory uses.
fn tablespace(input: &PlanInput<'_>, target: &Path, old: &Place, one: &PlacedTablespace) -> Result<()> {
    let place = input.host.at(&one.location);
    let at = one.location.display();
    let elsewhere = format!("give it another place with --tablespace {}:DIRECTORY", one.name);
    not_a_link(&format!("the place of tablespace {:?}", one.name), &one.location, &place)?;
    match place.kind {
        PlaceKind::Absent | PlaceKind::Empty => Ok(()),
        PlaceKind::Other => {
            Err(Error::precondition(format!("tablespace {:?} cannot go to {at}: not a directory", one.name))
                .with_hint(elsewhere))
        }
        PlaceKind::Full if !input.request.in_place => {
            Err(Error::precondition(format!("tablespace {:?} cannot go to {at}: not empty", one.name))
                .with_hint(elsewhere))
        }
        PlaceKind::Full if old.tablespaces.get(&one.oid).map(|link| normal(link)).as_deref() != Some(&one.location) => {
            Err(Error::precondition(format!(
                "tablespace {:?} cannot go to {at}: not empty, and not the place that {} uses",
                one.name,
                target.display()
            ))
            .with_hint(elsewhere))
        }
        PlaceKind::Full => movable(&one.location, &place),
    }
}
