//! The effects of a restore on the file system: durable, private, and blind to links.
//!
//! Nothing here decides; the [plan](super::plan) says what. The invariants:
//! * **No link is followed.** A data directory may have links to other volumes (`pg_wal`, `log`); in a snapshot they lead
//!   to the *original*. Such a link is removed, never what it leads to, and files are written under a new name and then
//!   renamed, which replaces a link instead of writing through it.
//! * **Durable.** What was written survives a power failure once [`sync`] has returned.
//! * **Bytes.** Configuration files and labels are in whatever encoding the cluster has.
//! * **Private.** Directories 0700 and files 0600; with 0750 and 0640 when the original allows its group to read
//!   (`initdb --allow-group-access`), because PostgreSQL derives the modes from those of the data directory.
//!
//! All functions block; [`provision`](mod@super::provision) calls them on a thread for that.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind as Io, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use super::config::{AUTO, Tree, rewrite};
use super::plan::{Owner, RestorePlan};
use super::settings::{Purpose, Setting, edit_auto_conf, libraries_with_workers};
use super::unwanted::is_scratch;
use crate::error::{Error, Result};
use crate::host::links;

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
struct Style {
    owner: Option<Owner>,
    directory: u32,
    file: u32,
}

impl Style {
    /// As the restored data directory is: its owner (when we may choose owners at all), and group access if it has it.
    fn of(target: &Path, wanted: Option<Owner>) -> Result<Self> {
        let meta = fs::symlink_metadata(target).map_err(|error| Error::io("look at", target, error))?;
        let found = Owner { uid: meta.uid(), gid: meta.gid() };
        let root = rustix::process::geteuid().is_root();
        // Exactly this one: PostgreSQL refuses any other than 0700 and 0750, and a mount point may have 0755.
        let group = meta.mode() & 0o777 == 0o750;
        Ok(Self {
            owner: wanted.or(Some(found)).filter(|_| root),
            directory: if group { 0o750 } else { 0o700 },
            file: if group { 0o640 } else { 0o600 },
        })
    }

    fn give(&self, path: &Path) -> Result<()> {
        let Some(owner) = self.owner else { return Ok(()) };
        lchown(path, Some(owner.uid), Some(owner.gid)).map_err(|error| Error::io("change the owner of", path, error))
    }
}

/// Makes a server's data directory out of the pieces that lie at their places.
///
/// # Errors
/// Whatever the file system says; and `precondition` when what lies there is not a data directory of the planned version.
pub fn prepare(plan: &RestorePlan) -> Result<Prepared> {
    let target = &plan.building_place(&plan.target);
    let locations: Vec<_> = plan.tablespaces.iter().map(|one| plan.building_place(&one.location)).collect();
    check_version(target, plan.major)?;
    if let Some(wanted) = &plan.system_id {
        check_system_id(target, wanted)?;
    }
    links::refuse(target, locations.iter().map(PathBuf::as_path))?;
    let style = Style::of(target, plan.owner)?;
    let mut done = Prepared::default();

    for name in &plan.remove {
        done.removed += u64::from(remove_any(&target.join(name))?);
    }
    for name in &plan.empty {
        done.removed += empty_directory(&target.join(name), &style)?;
    }
    for name in &plan.empty_if_there {
        let path = target.join(name);
        if fs::symlink_metadata(&path).is_ok() {
            done.removed += empty_directory(&path, &style)?;
        }
    }
    if let Some(wal) = &plan.wal {
        link_wal(&wal.location, &plan.building_place(&wal.location), target, &style)?;
    }
    for name in &plan.make {
        make_directory(&place_of(plan, target, name), &style)?;
    }
    for directory in [target.join("base"), target.join("global")].iter().chain(&locations) {
        done.removed += sweep(directory)?;
    }
    link_tablespaces(plan, target, &style)?;

    configure(plan, target, &style, &mut done)?;
    for file in &plan.write {
        write_file(&target.join(&file.name), file.content.as_bytes(), &style)?;
        done.written += 1;
    }
    for place in std::iter::once(target).chain(&locations) {
        finish_modes(place, plan.owner, &style)?;
        sync(place)?;
    }
    if let Some(wal) = &plan.wal {
        sync(&plan.building_place(&wal.location))?;
    }
    Ok(done)
}

/// Nor one of another cluster, whatever the catalog says: with the label of this one it would be neither.
fn check_system_id(target: &Path, wanted: &str) -> Result<()> {
    let path = target.join("global/pg_control");
    let control = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    match super::host::system_id(&control) {
        Some(found) if found == wanted => Ok(()),
        found => Err(Error::precondition(format!(
            "what came out of the snapshot at {} is of another cluster: system identifier {}, the backup has {wanted}",
            target.display(),
            found.as_deref().unwrap_or("unknown")
        ))),
    }
}

/// Makes `pg_wal` a link to `location`, which is built at `building`.
fn link_wal(location: &Path, building: &Path, target: &Path, style: &Style) -> Result<()> {
    make_directory(building, style)?;
    fs::set_permissions(building, Permissions::from_mode(style.directory))
        .map_err(|error| Error::io("change the mode of", building, error))?;
    style.give(building)?;
    let link = target.join("pg_wal");
    remove_any(&link)?;
    symlink(location, &link).map_err(|error| Error::io("make the link", &link, error))?;
    style.give(&link)
}

/// Where a directory of the plan is built: what is in `pg_wal` may lie elsewhere.
fn place_of(plan: &RestorePlan, target: &Path, name: &str) -> PathBuf {
    match (&plan.wal, name.strip_prefix("pg_wal/")) {
        (Some(wal), Some(inner)) => plan.building_place(&wal.location).join(inner),
        _ => target.join(name),
    }
}

/// A snapshot of something else must not be made to look like a data directory.
fn check_version(target: &Path, major: u32) -> Result<()> {
    let found = fs::read_to_string(target.join("PG_VERSION")).unwrap_or_default();
    if found.trim() == major.to_string() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "what came out of the snapshot at {} is not a data directory of PostgreSQL {major} (PG_VERSION is {:?})",
        target.display(),
        found.trim()
    )))
}

/// Writes the configuration: what led out of the directory no longer does, and the settings of the restore are there.
fn configure(plan: &RestorePlan, target: &Path, style: &Style, done: &mut Prepared) -> Result<()> {
    // The links of the original are gone by now from pg_tblspc and pg_wal, but one may stand for a configuration file.
    refuse_odd_auto_conf(&target.join(AUTO))?;
    let config = rewrite(&plan.config, &plan.target, &Tree::new(target))?;
    for (name, content) in &config.files {
        write_file(&target.join(name), content, style)?;
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
    write_file(&target.join(AUTO), &edit_auto_conf(&config.auto, &settings), style)
}

/// `postgresql.auto.conf` is written by PostgreSQL as a plain file, and by nobody else.
fn refuse_odd_auto_conf(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Err(Error::precondition(format!("{} is not a plain file", path.display()))),
        Err(error) if error.kind() != Io::NotFound => Err(Error::io("look at", path, error)),
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

/// Leaves an empty directory at `path`; a link or a file there is replaced. Returns how many entries went.
fn empty_directory(path: &Path, style: &Style) -> Result<u64> {
    let mut removed = 0;
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            for entry in entries(path)? {
                removed += u64::from(remove_any(&entry)?);
            }
        }
        Ok(_) => {
            removed += u64::from(remove_any(path)?);
            make_directory(path, style)?;
        }
        Err(error) if error.kind() == Io::NotFound => make_directory(path, style)?,
        Err(error) => return Err(Error::io("look at", path, error)),
    }
    Ok(removed)
}

fn make_directory(path: &Path, style: &Style) -> Result<()> {
    match DirBuilder::new().mode(style.directory).create(path) {
        Ok(()) => style.give(path),
        Err(error) if error.kind() == Io::AlreadyExists => match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => Ok(()),
            _ => Err(Error::precondition(format!("{} is in the way: not a directory", path.display()))),
        },
        Err(error) => Err(Error::io("make the directory", path, error)),
    }
}

/// Removes temporary files, temporary relations and relation caches below `directory`.
fn sweep(directory: &Path) -> Result<u64> {
    let mut removed = 0;
    for path in entries(directory)? {
        let meta = fs::symlink_metadata(&path).map_err(|error| Error::io("look at", &path, error))?;
        if is_scratch(&path) {
            removed += u64::from(remove_any(&path)?);
        } else if meta.is_dir() {
            removed += sweep(&path)?;
        }
    }
    Ok(removed)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error| Error::io("read the directory", directory, error);
    let entries = fs::read_dir(directory).map_err(fail)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

/// Replaces the links of the original by those of the plan. PostgreSQL makes them again from `tablespace_map` at the
/// start of recovery; until then a tool that is run on the directory must not find its way to the original either.
fn link_tablespaces(plan: &RestorePlan, target: &Path, style: &Style) -> Result<()> {
    let directory = target.join("pg_tblspc");
    for path in entries(&directory)? {
        // A directory is a tablespace made in place (allow_in_place_tablespaces): it has come along.
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
            remove_any(&path)?;
        }
    }
    for one in &plan.tablespaces {
        let link = directory.join(one.oid.to_string());
        symlink(&one.location, &link).map_err(|error| Error::io("make the link", &link, error))?;
        style.give(&link)?;
    }
    Ok(())
}

/// Writes a file under a temporary name, durably, and renames it to `path`.
fn write_file(path: &Path, content: &[u8], style: &Style) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".barman-snap.tmp");
    let temporary = path.with_file_name(name);
    remove_any(&temporary)?;
    let fail = |error| Error::io("write", path, error);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(style.file).open(&temporary).map_err(fail)?;
    // The mode of `open` is cut by the umask.
    file.set_permissions(Permissions::from_mode(style.file)).map_err(fail)?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(fail)?;
    style.give(&temporary)?;
    fs::rename(&temporary, path).map_err(fail)?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// The modes that PostgreSQL insists on, and the owner if one was asked for.
fn finish_modes(place: &Path, owner: Option<Owner>, style: &Style) -> Result<()> {
    fs::set_permissions(place, Permissions::from_mode(style.directory))
        .map_err(|error| Error::io("change the mode of", place, error))?;
    match owner {
        Some(_) => give_tree(place, style),
        None => style.give(place),
    }
}

fn give_tree(path: &Path, style: &Style) -> Result<()> {
    style.give(path)?;
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        for entry in entries(path)? {
            give_tree(&entry, style)?;
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|error| Error::io("sync", path, error))
}

/// Makes everything on the file system of `path` durable, in one call instead of one per file.
pub fn sync(path: &Path) -> Result<()> {
    let directory = File::open(path).map_err(|error| Error::io("open", path, error))?;
    rustix::fs::syncfs(&directory).map_err(|error| Error::io("sync", path, error.into()))
}
