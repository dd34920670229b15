//! Whether the places of snapshots can be seen from here. Local snapshots lie on one host and on file systems that may not be
//! mounted, while the catalog is seen by many: what is not here must not count as gone.
//!
//! Volumes and tickets carry a note of [where](Whereabouts) their snapshots lie. What an older version made has none: then the
//! name of the host and the mount point count.

use std::collections::BTreeMap;
use std::path::Path;

use super::zfs::Zfs;
use super::{Method, discovery, place};
use crate::error::{Error, ErrorKind, Result};
use crate::host::{MountTable, Whereabouts, host_name};
use crate::provider::{Instance, Ticket, Volume};

/// The attribute of a ticket that names the host it was made on.
pub(super) const HOST: &str = "host";

/// The attribute of a volume or a ticket that says where its snapshots lie, as JSON.
pub(crate) const WHERE: &str = "snapshots_lie";

/// The attributes of tickets of snapshots in `directory`; of ZFS, which has none, without.
pub(super) fn attributes(directory: Option<&Path>) -> BTreeMap<String, String> {
    let mut attributes = BTreeMap::from([(HOST.to_owned(), host_name())]);
    if let Some(directory) = directory {
        note(&mut attributes, directory);
    }
    attributes
}

/// Notes where `directory` lies. Without the note the weaker rules of older versions hold, so it is no reason to fail.
pub(super) fn note(attributes: &mut BTreeMap<String, String>, directory: &Path) {
    let noted = Whereabouts::of(directory).and_then(|place| {
        serde_json::to_string(&place).map_err(|source| Error::internal("cannot write whereabouts").with_source(source))
    });
    match noted {
        Ok(json) => drop(attributes.insert(WHERE.to_owned(), json)),
        Err(error) => tracing::warn!(error = error.chain(), "cannot tell where snapshots will lie"),
    }
}

fn noted(attributes: &BTreeMap<String, String>) -> Result<Option<Whereabouts>> {
    let parse = |json: &String| {
        serde_json::from_str(json)
            .map_err(|source| Error::corrupt("cannot read where the snapshots lie").with_source(source))
    };
    attributes.get(WHERE).map(parse).transpose()
}

/// Why the snapshots of `volumes`, which an instance had, cannot be seen, if that is so of any.
pub(super) fn why_unseen(zfs: &Zfs, instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
    for volume in volumes {
        if let Some(why) = why_volume_unseen(zfs, instance, volume)? {
            return Ok(Some(why));
        }
    }
    Ok(None)
}

fn why_volume_unseen(zfs: &Zfs, instance: &Instance, volume: &Volume) -> Result<Option<String>> {
    if volume.method == Method::Zfs.as_str() {
        // Of the record of a backup that an older version made, only the tickets tell.
        if !volume.attributes.contains_key(discovery::DATASET) {
            return Ok(None);
        }
        return zfs.unseen(std::slice::from_ref(volume));
    }
    if let Some(place) = noted(&volume.attributes)? {
        return place.why_unseen();
    }
    let made_on = volume.attributes.get(HOST).unwrap_or(&instance.name);
    let here = host_name();
    if *made_on != here && !made_on.is_empty() {
        return Ok(Some(format!("its snapshots lie on host {made_on}, this is {here}")));
    }
    let at = &volume.mount_point;
    let is_mounted = at.as_os_str().is_empty() || MountTable::current()?.iter().any(|mount| mount.mount_point == *at);
    Ok((!is_mounted).then(|| format!("its snapshots lie on the file system of {}, which is not mounted", at.display())))
}

/// Refuses a snapshot that cannot be seen from here. One that is there is seen: a host may get a new name, and a disk another
/// host.
pub(super) fn check(zfs: &Zfs, ticket: &Ticket) -> Result<()> {
    // A dataset is no path; ZFS itself says which it has.
    if ticket.method == Method::Zfs.as_str() {
        return match zfs.seek(ticket) {
            Err(error) if error.kind() != ErrorKind::Conflict => Err(error),
            _ => Ok(()),
        };
    }
    let Some(why) = why_ticket_unseen(ticket)? else { return Ok(()) };
    Err(Error::precondition(format!("snapshot {} cannot be seen from here: {why}", ticket.snapshot))
        .with_hint("run it on the host that has the snapshot, with its file system mounted"))
}

fn why_ticket_unseen(ticket: &Ticket) -> Result<Option<String>> {
    let path = Path::new(&ticket.snapshot);
    if let Some(place) = noted(&ticket.attributes)? {
        // The path that is acted upon is that of the snapshot, whatever the note says.
        let directory = path.parent().unwrap_or(path).to_owned();
        return Whereabouts { directory, ..place }.why_unseen();
    }
    if path.try_exists().map_err(|error| Error::io("look at", path, error))? {
        return Ok(None);
    }
    let here = host_name();
    match ticket.attributes.get(HOST).filter(|made_on| **made_on != here) {
        Some(made_on) => Ok(Some(format!("it lies on host {made_on}, this is {here}"))),
        // Where the directory of snapshots is, its file system is mounted; the last snapshot takes it along.
        None => Ok((!path.parent().is_some_and(Path::is_dir) && !volume_is_there(ticket)).then(|| {
            format!(
                "there is neither {} nor the volume {}; is a file system not mounted?",
                place::SNAPSHOT_DIRECTORY,
                ticket.root.display()
            )
        })),
    }
}

/// Whether the directory is there that the snapshot is of; it lies on the same file system.
fn volume_is_there(ticket: &Ticket) -> bool {
    std::fs::read_dir(&ticket.root).is_ok_and(|mut entries| entries.next().is_some())
}

/// Of a volume whose snapshots are looked for: where they lie.
pub(super) fn note_volume(volume: &mut Volume) {
    if volume.method != Method::Zfs.as_str() {
        let directory = discovery::snapshots(volume);
        note(&mut volume.attributes, &directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Token;

    fn ticket(snapshot: &Path, root: &Path) -> Ticket {
        Ticket {
            snapshot: snapshot.display().to_string(),
            name: "x".into(),
            volume: root.display().to_string(),
            root: root.to_owned(),
            method: "copy".into(),
            token: Token::from_bits(1),
            attributes: attributes(snapshot.parent()),
        }
    }

    fn kind(ticket: &Ticket) -> Option<ErrorKind> {
        check(&Zfs::new(Path::new("/no/such/zfs")), ticket).err().map(|error| error.kind())
    }

    #[test]
    fn what_lies_in_this_place_is_gone_when_it_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(kind(&ticket(&dir.path().join(".barman_snap/x"), dir.path())), None);
    }

    #[test]
    fn what_lies_on_another_file_system_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut ticket = ticket(&dir.path().join(".barman_snap/x"), dir.path());
        let json = ticket.attributes.get_mut(WHERE).unwrap();
        let mut place: Whereabouts = serde_json::from_str(json).unwrap();
        place.mount_point = dir.path().to_owned();
        *json = serde_json::to_string(&place).unwrap();
        assert_eq!(kind(&ticket), Some(ErrorKind::Precondition));
    }

    #[test]
    fn what_an_older_version_made_is_told_by_its_host_and_its_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let mut ticket = ticket(&dir.path().join(".barman_snap/x"), &root);
        ticket.attributes.remove(WHERE);
        assert_eq!(kind(&ticket), Some(ErrorKind::Precondition), "neither the place nor the volume is there");
        std::fs::create_dir_all(root.join("base")).unwrap();
        assert_eq!(kind(&ticket), None, "the volume is there, and the snapshot is gone");
        ticket.attributes.insert(HOST.into(), "another".into());
        assert_eq!(kind(&ticket), Some(ErrorKind::Precondition), "a directory of the same name is not enough");
        std::fs::create_dir_all(dir.path().join(".barman_snap/x")).unwrap();
        assert_eq!(kind(&ticket), None, "the disk has moved here");
    }
}
