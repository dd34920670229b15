//! Which configuration files of a cluster are saved with a backup: those that no snapshot has.
//!
//! A file is in the snapshots if it really lies in the data directory *and* the server names it there. What is a link that
//! leads out, and what is named by a path outside, is saved under the name that the server uses: a restore looks for that.
//!
//! What cannot be read is left out and told: a backup does not fail for it. Run as root, that goes for what the server itself could
//! not read: its user can put a link to a file of root where a configuration file was.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::id::{IdSource, Token};
use crate::model::{SavedConfig, SavedFile};
use crate::postgres::ServerFacts;

/// The largest file that is saved. PostgreSQL's own sample has 30 kB.
const LARGEST: u64 = 1 << 20;

/// How many files are saved.
const MOST_FILES: usize = 1000;

/// Reads the files of a server on this host; `None` if there are none.
pub(super) fn read(facts: &ServerFacts, token: &Token, ids: &dyn IdSource) -> Option<SavedConfig> {
    let named = [&facts.config_file, &facts.hba_file, &facts.ident_file].into_iter().flatten();
    let files = read_all(named.chain(&facts.included_files).map(Path::new), &facts.data_directory);
    let salt = format!("{:032x}", ids.bits());
    (!files.is_empty()).then(|| SavedConfig { token: token.clone(), salt, files })
}

fn read_all<'a>(named: impl Iterator<Item = &'a Path>, data_directory: &Path) -> Vec<SavedFile> {
    let mut files: Vec<SavedFile> = Vec::new();
    let server = std::fs::metadata(data_directory).ok().filter(|_| rustix::process::geteuid().is_root());
    let server = server.map(|meta| (meta.uid(), meta.gid()));
    for path in named {
        let is_known = files.iter().any(|file| file.path == path);
        if is_known || is_in_snapshots(path, data_directory) || files.len() == MOST_FILES {
            continue;
        }
        match read_one(path, server) {
            Ok(file) => files.push(file),
            // pg_ident.conf need not be there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                path = %path.display(),
                %error,
                "a configuration file outside the data directory cannot be read and is not in the backup"
            ),
        }
    }
    files
}

/// Whether the snapshots have the file, at the place where a restored server looks for it.
fn is_in_snapshots(path: &Path, data_directory: &Path) -> bool {
    let Ok(real_directory) = data_directory.canonicalize() else { return false };
    let is_named_inside = path.starts_with(data_directory) || path.starts_with(&real_directory);
    // What is not there at all is neither here nor there.
    is_named_inside && path.canonicalize().map_or(true, |real| real.starts_with(&real_directory))
}

/// Whether a user may read a file, by the mode of the file.
fn may_read(meta: &std::fs::Metadata, (uid, gid): (u32, u32)) -> bool {
    let bit = match () {
        () if uid == 0 => return true,
        () if meta.uid() == uid => 0o400,
        () if meta.gid() == gid => 0o040,
        () => 0o004,
    };
    meta.permissions().mode() & bit != 0
}

/// `server`: the user and group of the server, if this process may read more than they may.
fn read_one(path: &Path, server: Option<(u32, u32)>) -> std::io::Result<SavedFile> {
    // One that is a pipe must not keep the backup waiting.
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(std::io::Error::other("it is not a plain file"));
    }
    if server.is_some_and(|server| !may_read(&meta, server)) {
        return Err(std::io::Error::other("the user of the server may not read it"));
    }
    let mut content = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(std::io::Error::other(format!("it has more than {LARGEST} bytes")));
    }
    Ok(SavedFile { path: path.to_owned(), mode: meta.permissions().mode() & 0o7777, content })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_no_snapshot_has_is_saved_to_the_byte() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().canonicalize().unwrap();
        let (etc, data, link) = (root.join("etc"), root.join("data"), root.join("link"));
        fs::create_dir(&etc).unwrap();
        fs::create_dir(&data).unwrap();
        symlink(&data, &link).unwrap();
        fs::write(etc.join("main.conf"), b"a = '\xe9'\n").unwrap();
        fs::set_permissions(etc.join("main.conf"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(etc.join("large.conf"), vec![b'#'; 2 << 20]).unwrap();
        fs::write(data.join("pg_ident.conf"), "").unwrap();
        symlink(data.join("pg_ident.conf"), data.join("to_inside.conf")).unwrap();
        symlink(etc.join("main.conf"), data.join("pg_hba.conf")).unwrap();
        symlink(data.join("pg_ident.conf"), etc.join("back.conf")).unwrap();
        let named = [
            etc.join("main.conf"),
            link.join("pg_hba.conf"),
            data.join("pg_ident.conf"),
            etc.join("large.conf"),
            etc.join("absent.conf"),
            etc.join("back.conf"),
            etc.join("main.conf"),
            data.join("to_inside.conf"),
            etc.clone(),
        ];
        let files = read_all(named.iter().map(std::path::PathBuf::as_path), &link);
        let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
        assert_eq!(paths, [etc.join("main.conf"), link.join("pg_hba.conf"), etc.join("back.conf")]);
        assert_eq!((files[0].mode, &*files[0].content), (0o640, &b"a = '\xe9'\n"[..]));
        assert_eq!(files[1].content, files[0].content);
    }

    #[test]
    fn what_the_server_could_not_read_is_not_read_for_it() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("x.conf");
        fs::write(&file, "x").unwrap();
        let allowed = |mode: u32, server: (u32, u32)| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            may_read(&fs::metadata(&file).unwrap(), server)
        };
        let (uid, gid) = (fs::metadata(&file).unwrap().uid(), fs::metadata(&file).unwrap().gid());
        assert!(allowed(0o600, (uid, 7)) && allowed(0o640, (7, gid)) && allowed(0o604, (7, 7)));
        assert!(!allowed(0o640, (7, 7)) && !allowed(0o604, (7, gid)) && (uid == 0 || !allowed(0o044, (uid, gid))));
    }
}
