//! The effects of a restore on the file system: durable, private, and blind to links.
//!
//! Nothing here decides; the [plan](super::plan) says what. The invariants:
//! * **No link is followed.** A data directory may have links to other volumes (`pg_wal`, `log`); in a snapshot they lead
//!   to the *original*. Such a link is removed, never what it leads to. And the directory belongs to the user of the server, who
//!   may put a link anywhere while root works in it: everything is reached from the open directory ([`Beneath`]).
//! * **Durable.** What was written survives a power failure once [`prepare`] has returned.
//! * **Bytes.** Configuration files and labels are in whatever encoding the cluster has.
//! * **Private.** Directories 0700 and files 0600; with 0750 and 0640 when the original allows its group to read
//!   (`initdb --allow-group-access`), because PostgreSQL derives the modes from those of the data directory.
//!
//! All functions block; [`provision`](mod@super::provision) calls them on a thread for that.

use std::fs::{self, File};
use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::config::{AUTO, Tree, rewrite};
use super::left_out;
use super::plan::{Owner, RestorePlan};
use super::settings::{Purpose, Setting, edit_auto_conf, libraries_with_workers};
use super::unwanted::is_scratch;
use crate::error::{Error, Result};
use crate::host::beneath::{Beneath, is_link};
use crate::host::links;

/// No file of PostgreSQL that is read here is larger: `pg_control` has 8 kB.
const SMALL: u64 = 64 << 10;

/// What [`prepare`] did, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Prepared {
    /// Files and directories of the running original that were removed.
    pub removed: u64,
    /// Files that were written.
    pub written: u64,
    /// What was changed in the configuration, because it led out of the directory or would not have started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configuration: Vec<String>,
}

/// The modes of a data directory, and who owns what is made in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    owner: Option<Owner>,
    directory: u32,
    file: u32,
}

impl Style {
    /// As the restored data directory is: its owner (when we may choose owners at all), and group access if it has it.
    fn of(target: &Beneath, wanted: Option<Owner>) -> Result<Self> {
        let stat = target.stat()?;
        let found = Owner { uid: stat.st_uid, gid: stat.st_gid };
        let root = rustix::process::geteuid().is_root();
        // Exactly this one: PostgreSQL refuses any other than 0700 and 0750, and a mount point may have 0755.
        let group = stat.st_mode & 0o777 == 0o750;
        Ok(Self {
            owner: wanted.or(Some(found)).filter(|_| root),
            directory: if group { 0o750 } else { 0o700 },
            file: if group { 0o640 } else { 0o600 },
        })
    }

    fn ids(&self) -> Option<(u32, u32)> {
        self.owner.map(|owner| (owner.uid, owner.gid))
    }

    fn give(&self, place: &Beneath, name: &str) -> Result<()> {
        self.ids().map_or(Ok(()), |owner| place.give(Path::new(name), owner))
    }
}

/// Makes a server's data directory out of the pieces that lie at their places.
///
/// # Errors
/// Whatever the file system says; and `precondition` when what lies there is not a data directory of the planned version.
pub fn prepare(plan: &RestorePlan) -> Result<Prepared> {
    let path = plan.building_place(&plan.target);
    let locations: Vec<_> = plan.tablespaces.iter().map(|one| plan.building_place(&one.location)).collect();
    let target = Beneath::open(&path)?;
    check_version(&target, plan.major)?;
    if let Some(wanted) = &plan.system_id {
        check_system_id(&target, wanted)?;
    }
    links::refuse(&path, locations.iter().map(PathBuf::as_path))?;
    let style = Style::of(&target, plan.owner)?;
    let mut done = Prepared { removed: left_out::make(plan, &target, &style)?, ..Prepared::default() };
    let spaces = locations.iter().map(|location| Beneath::open(location)).collect::<Result<Vec<_>>>()?;

    for name in &plan.remove {
        done.removed += u64::from(target.remove(Path::new(name))?);
    }
    for name in &plan.empty {
        done.removed += empty_directory(&target, name, &style)?;
    }
    for name in &plan.empty_if_there {
        if target.look(Path::new(name))?.is_some() {
            done.removed += empty_directory(&target, name, &style)?;
        }
    }
    let wal = match &plan.wal {
        Some(wal) => Some(link_wal(&wal.location, &plan.building_place(&wal.location), &target, &style)?),
        None => None,
    };
    for name in &plan.make {
        // What is in `pg_wal` may lie elsewhere.
        match (&wal, name.strip_prefix("pg_wal/")) {
            (Some(wal), Some(inner)) => make_directory(wal, inner, &style)?,
            _ => make_directory(&target, name, &style)?,
        }
    }
    for name in ["base", "global"] {
        let directory = target.enter(Path::new(name))?;
        let directory =
            directory.ok_or_else(|| Error::precondition(format!("there is no {}", path.join(name).display())))?;
        done.removed += sweep(&directory)?;
    }
    for space in &spaces {
        done.removed += sweep(space)?;
    }
    link_tablespaces(plan, &target, &style)?;

    configure(plan, &target, &style, &mut done)?;
    for file in &plan.write {
        write_file(&target, Path::new(&file.name), file.content.as_bytes(), &style)?;
        done.written += 1;
    }
    for place in std::iter::once(&target).chain(&spaces) {
        finish_modes(place, plan.owner, &style)?;
        place.sync_file_system()?;
    }
    wal.map_or(Ok(()), |wal| wal.sync_file_system())?;
    Ok(done)
}

/// Nor one of another cluster, whatever the catalog says: with the label of this one it would be neither.
fn check_system_id(target: &Beneath, wanted: &str) -> Result<()> {
    let name = Path::new("global/pg_control");
    let control = target.read(name, SMALL)?;
    let control = control.ok_or_else(|| Error::io("read", target.path().join(name), Io::NotFound.into()))?;
    match super::host::system_id(&control) {
        Some(found) if found == wanted => Ok(()),
        found => Err(Error::precondition(format!(
            "what came out of the snapshot at {} is of another cluster: system identifier {}, the backup has {wanted}",
            target.path().display(),
            found.as_deref().unwrap_or("unknown")
        ))),
    }
}

/// Makes `pg_wal` a link to `location`, which is built at `building`; returns that directory.
fn link_wal(location: &Path, building: &Path, target: &Beneath, style: &Style) -> Result<Beneath> {
    let (above, name) = Beneath::above(building)?;
    above.make_directory(Path::new(name), style.directory)?;
    let directory = Beneath::open(building)?;
    directory.set_mode(style.directory)?;
    style.ids().map_or(Ok(()), |owner| directory.give_itself(owner))?;
    target.remove(Path::new("pg_wal"))?;
    target.link(Path::new("pg_wal"), location)?;
    style.give(target, "pg_wal")?;
    Ok(directory)
}

/// A snapshot of something else must not be made to look like a data directory.
fn check_version(target: &Beneath, major: u32) -> Result<()> {
    let found = target.read(Path::new("PG_VERSION"), SMALL)?.unwrap_or_default();
    let found = String::from_utf8_lossy(&found);
    if found.trim() == major.to_string() {
        return Ok(());
    }
    let said: String = found.trim().chars().take(40).collect();
    Err(Error::precondition(format!(
        "what came out of the snapshot at {} is not a data directory of PostgreSQL {major} (PG_VERSION is {said:?})",
        target.path().display(),
    )))
}

/// Writes the configuration: what led out of the directory no longer does, and the settings of the restore are there.
fn configure(plan: &RestorePlan, target: &Beneath, style: &Style, done: &mut Prepared) -> Result<()> {
    // The links of the original are gone by now from pg_tblspc and pg_wal, but one may stand for a configuration file.
    refuse_odd_auto_conf(target)?;
    let config = rewrite(&plan.config, &plan.target, &Tree::within(target.try_clone()?))?;
    for (name, content) in &config.files {
        write_file(target, name, content, style)?;
        done.written += 1;
    }
    done.configuration = config.notes.clone();
    let ours = |name: &str| plan.settings.iter().any(|setting| setting.name == name);
    let mut settings = Vec::new();
    for (name, value) in config.too_low(&plan.config).into_iter().filter(|(name, _)| !ours(name)) {
        done.configuration.push(format!("{name} = {value}, which the original had from elsewhere and recovery needs"));
        settings.push(Setting::new(name, value));
    }
    settings.extend(plan.settings.iter().cloned());
    let preloaded = config.effective.get("shared_preload_libraries").map(Vec::as_slice).unwrap_or_default();
    let libraries = libraries_with_workers(preloaded).join(", ");
    if plan.purpose == Purpose::Clone && !libraries.is_empty() {
        settings.extend(plan.no_workers.iter().cloned());
        done.configuration.push(match plan.no_workers.is_empty() {
            true => format!("{libraries} may start background workers, which are not off: the target action is pause"),
            false => format!(
                "{libraries} may have background workers: none starts, with max_worker_processes = 0 and hot_standby = off"
            ),
        });
    }
    write_file(target, Path::new(AUTO), &edit_auto_conf(&config.auto, &settings), style)
}

/// `postgresql.auto.conf` is written by PostgreSQL as a plain file, and by nobody else.
fn refuse_odd_auto_conf(target: &Beneath) -> Result<()> {
    let plain = |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    match target.look(Path::new(AUTO))? {
        Some(stat) if !plain(&stat) => {
            Err(Error::precondition(format!("{} is not a plain file", target.path().join(AUTO).display())))
        }
        _ => Ok(()),
    }
}

/// Removes a file, link or whole directory; false if there was none.
pub fn remove_any(path: &Path) -> Result<bool> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == Io::NotFound => return Ok(false),
        Err(error) => return Err(Error::io("look at", path, error)),
    };
    // remove_dir_all does not follow links, neither at the top nor inside.
    let removed = if meta.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map(|()| true).map_err(|error| Error::io("remove", path, error))
}

/// Leaves an empty directory at `name`; a link or a file there is replaced. Returns how many entries went.
pub(super) fn empty_directory(target: &Beneath, name: &str, style: &Style) -> Result<u64> {
    let mut removed = 0;
    match target.enter(Path::new(name))? {
        Some(directory) => {
            for entry in directory.names()? {
                removed += u64::from(directory.remove(Path::new(&entry))?);
            }
        }
        None => {
            removed += u64::from(target.remove(Path::new(name))?);
            make_directory(target, name, style)?;
        }
    }
    Ok(removed)
}

pub(super) fn make_directory(place: &Beneath, name: &str, style: &Style) -> Result<()> {
    match place.make_directory(Path::new(name), style.directory)? {
        true => style.give(place, name),
        false => Ok(()),
    }
}

/// Removes temporary files, temporary relations and relation caches below `directory`.
fn sweep(directory: &Beneath) -> Result<u64> {
    let mut removed = 0;
    directory.walk(&mut |entry| {
        if !is_scratch(entry.path()) {
            return Ok(true);
        }
        entry.remove()?;
        removed += 1;
        Ok(false)
    })?;
    Ok(removed)
}

/// Replaces the links of the original by those of the plan. PostgreSQL makes them again from `tablespace_map` at the
/// start of recovery; until then a tool that is run on the directory must not find its way to the original either.
fn link_tablespaces(plan: &RestorePlan, target: &Beneath, style: &Style) -> Result<()> {
    let directory = target.enter(Path::new("pg_tblspc"))?;
    let directory = directory.ok_or_else(|| Error::precondition("pg_tblspc is not a directory"))?;
    for name in directory.names()? {
        let name = Path::new(&name);
        // A directory is a tablespace made in place (allow_in_place_tablespaces): it has come along.
        if directory.look(name)?.is_some_and(|stat| is_link(&stat)) {
            directory.remove(name)?;
        }
    }
    for one in &plan.tablespaces {
        let name = one.oid.to_string();
        directory.link(Path::new(&name), &one.location)?;
        style.give(&directory, &name)?;
    }
    Ok(())
}

/// Writes a file under a temporary name, durably, and renames it to `name`.
fn write_file(target: &Beneath, name: &Path, content: &[u8], style: &Style) -> Result<()> {
    target.write(name, content, style.file, style.ids())
}

/// The modes that PostgreSQL insists on, and the owner if one was asked for.
fn finish_modes(place: &Beneath, owner: Option<Owner>, style: &Style) -> Result<()> {
    place.set_mode(style.directory)?;
    let Some(ids) = style.ids() else { return Ok(()) };
    if owner.is_some() {
        place.walk(&mut |entry| entry.give(ids).map(|()| true))?;
    }
    place.give_itself(ids)
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| Error::io("sync", path, error))
}
