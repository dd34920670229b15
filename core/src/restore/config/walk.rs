//! Through all files of a configuration, in the order in which PostgreSQL reads them.
//!
//! Reads through a [`ConfigSource`], writes nothing: what comes out is the new content of the files that change, and what to
//! tell the user. The limits are PostgreSQL's (`include` ten deep) or far beyond what anybody writes, so that a file that
//! names itself, or is no configuration at all, costs little.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::lines::{self, Include, Line};
use super::outside::{Fate, bytes_of, fate, joined, path_of};
use super::{AUTO, ConfigPlan, MAIN};
use crate::error::{Error, Result};
use crate::redact;
use crate::restore::tablespaces::normal;

/// How deep PostgreSQL reads files that name files (`CONF_FILE_MAX_DEPTH`).
const DEEPEST: usize = 10;

/// How many files are read. PostgreSQL has no such limit.
const MOST_FILES: usize = 1000;

/// What begins a line that was changed.
const NOTE: &[u8] = b"# barman-snap restore: does not belong to this server: ";

/// Where the files of a data directory are read from.
pub trait ConfigSource {
    /// A file, by its path below the data directory. No link is followed.
    fn read(&self, name: &Path) -> Result<Found>;
    /// The names in a directory below the data directory; none if it is not there.
    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>>;
    /// Whether something is at an absolute path of this host.
    fn is_there(&self, path: &Path) -> bool;
}

/// What is at a path of a [`ConfigSource`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A link, or something below one; where it leads is not known.
    Link,
    /// A file.
    File(Vec<u8>),
}

/// The configuration as it has to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Files that are written, by their path below the data directory.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What `postgresql.auto.conf` says, before the settings of the restore are added to it.
    pub auto: Vec<u8>,
    /// What was done, for the user.
    pub notes: Vec<String>,
    /// The value that each parameter has in the end, of those that the files set.
    pub effective: BTreeMap<String, Vec<u8>>,
}

impl Rewritten {
    /// The settings of `config.at_least` that the files do not have, or have lower. PostgreSQL's defaults count.
    pub fn too_low(&self, config: &ConfigPlan) -> Vec<(String, String)> {
        let number = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse::<u64>().ok();
        let default = |name: &str| match name {
            "max_connections" => 100,
            "max_worker_processes" => 8,
            "max_wal_senders" => 10,
            "max_locks_per_transaction" => 64,
            _ => 0,
        };
        let low = |(name, wanted): &(&String, &String)| {
            let Some(wanted) = number(wanted.as_bytes()) else { return false };
            match self.effective.get(*name) {
                Some(value) => number(value).is_some_and(|value| value < wanted),
                None => default(name) < wanted,
            }
        };
        config.at_least.iter().filter(low).map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Rewrites the configuration of a data directory that will be at `target`.
///
/// # Errors
/// Those of the source, and `precondition` for more files than any configuration has.
pub fn rewrite(config: &ConfigPlan, target: &Path, source: &dyn ConfigSource) -> Result<Rewritten> {
    let mut walk = Walk { config, target, source, out: Rewritten::default(), read: 0 };
    walk.main_file()?;
    for (name, saved) in [("pg_hba.conf", &config.hba), ("pg_ident.conf", &config.ident)] {
        walk.own_file(name, saved.as_deref())?;
    }
    if let Found::File(auto) = source.read(Path::new(AUTO))? {
        walk.out.auto = walk.content(&auto, &At::Inside(PathBuf::new()), AUTO, 1)?;
    }
    Ok(walk.out)
}

/// Where a file lies whose lines are read: relative names in it begin there.
#[derive(Clone)]
enum At {
    /// In this directory below the data directory.
    Inside(PathBuf),
    /// In this directory of the original's host.
    Outside(PathBuf),
}

/// Where a path in a file leads.
enum Leads {
    /// Below the data directory; the path has to be written anew if it named the original.
    Inside(PathBuf, bool),
    /// Elsewhere.
    Outside(PathBuf),
}

struct Walk<'a> {
    config: &'a ConfigPlan,
    target: &'a Path,
    source: &'a dyn ConfigSource,
    out: Rewritten,
    read: usize,
}

impl Walk<'_> {
    fn main_file(&mut self) -> Result<()> {
        let found = self.source.read(Path::new(MAIN))?;
        let saved = self.config.main.clone().filter(|path| self.writes(path));
        let is_saved = saved.as_ref().is_some_and(|path| self.config.saved.contains_key(path));
        if let (Found::File(content), false) = (&found, is_saved) {
            return self.inside_file(Path::new(MAIN), content, 1);
        }
        let Some(path) = saved else { return Ok(()) };
        let Some(content) = self.config.saved.get(&path) else {
            self.note(format!(
                "the configuration of the original, {}, is not in the backup: the server needs a {MAIN} before it starts",
                path.display()
            ));
            return Ok(());
        };
        let at = At::Outside(path.parent().unwrap_or(Path::new("/")).to_owned());
        let mut text = format!("# barman-snap restore: {} of the original\n", path.display()).into_bytes();
        text.extend(self.content(content, &at, &path.display().to_string(), 1)?);
        self.written(MAIN, &path, &found);
        self.out.files.insert(MAIN.into(), text);
        Ok(())
    }

    /// A file that the server does not start without, or would miss: the saved one. One that the directory has was not in use at
    /// the original, and that of `initdb` may trust everybody.
    fn own_file(&mut self, name: &str, saved: Option<&Path>) -> Result<()> {
        let found = self.source.read(Path::new(name))?;
        let Some(path) = saved.filter(|path| self.writes(path)) else { return Ok(()) };
        match self.config.saved.get(path) {
            Some(content) => {
                self.written(name, path, &found);
                self.out.files.insert(name.into(), content.clone());
            }
            None if name == "pg_hba.conf" => self.note(match found {
                Found::File(_) => format!(
                    "{}, which said who may connect to the original, is not in the backup: now the {name} of the directory says it, \
                     which was not in use",
                    path.display()
                ),
                _ => format!(
                    "{}, which said who may connect to the original, is not in the backup: the server needs a {name} before it starts",
                    path.display()
                ),
            }),
            None => {}
        }
        Ok(())
    }

    fn written(&mut self, name: &str, path: &Path, before: &Found) {
        let unused = match before {
            Found::File(_) => "; the one in the directory was not in use",
            _ => "",
        };
        self.note(format!("{name} is written as {} was when the backup was taken{unused}", path.display()));
    }

    /// Whether what was saved of `path` is written: not for a server that goes on with the very file.
    fn writes(&self, path: &Path) -> bool {
        self.config.write_saved || !self.config.keeps_outside || !self.source.is_there(path)
    }

    fn inside_file(&mut self, name: &Path, content: &[u8], depth: usize) -> Result<()> {
        let at = At::Inside(name.parent().unwrap_or(Path::new("")).to_owned());
        let text = self.content(content, &at, &name.display().to_string(), depth)?;
        if text != content {
            self.out.files.insert(name.to_owned(), text);
        }
        Ok(())
    }

    /// The new content of a file.
    fn content(&mut self, content: &[u8], at: &At, file: &str, depth: usize) -> Result<Vec<u8>> {
        self.read += 1;
        if self.read > MOST_FILES {
            return Err(Error::precondition(format!("the configuration has more than {MOST_FILES} files")));
        }
        let mut text = Vec::with_capacity(content.len());
        for line in content.split_inclusive(|byte| *byte == b'\n') {
            match lines::read(line) {
                Line::Other => text.extend_from_slice(line),
                Line::Setting { name, value } => self.setting(&mut text, line, (name, value), file),
                Line::Include { kind, path } => self.include(&mut text, line, (kind, &path), (at, file), depth)?,
            }
        }
        Ok(text)
    }

    fn setting(&mut self, text: &mut Vec<u8>, line: &[u8], (name, value): (String, Vec<u8>), file: &str) {
        match fate(self.config, self.target, (&name, &value), &|path| self.source.is_there(path)) {
            Fate::Stays => {
                text.extend_from_slice(line);
                self.out.effective.insert(name, value);
            }
            Fate::CommentedOut => {
                comment_out(text, line);
                let value = shown(&name, &value);
                self.note(match name.starts_with("recovery_target") {
                    true => format!("{name} = {value:?} in {file} was of an earlier recovery: commented out"),
                    false => format!("{name} = {value:?} in {file} led out of the directory: commented out"),
                });
            }
            Fate::Becomes(new) => {
                comment_out(text, line);
                text.extend(lines::write(&name, &new));
                let value = shown(&name, &value);
                self.note(format!("{name} = {value:?} in {file} is now {:?}", shown(&name, &new)));
                self.out.effective.insert(name, new);
            }
        }
    }

    fn include(
        &mut self,
        text: &mut Vec<u8>,
        line: &[u8],
        (kind, path): (Include, &[u8]),
        (at, file): (&At, &str),
        depth: usize,
    ) -> Result<()> {
        if depth > DEEPEST {
            text.extend_from_slice(line);
            return Ok(());
        }
        match self.leads(at, path) {
            Leads::Inside(inside, renamed) => {
                if renamed {
                    comment_out(text, line);
                    let new = bytes_of(&joined(self.target, &inside));
                    text.extend_from_slice(kind.word().as_bytes());
                    // Without the equal sign, as people write it.
                    text.extend_from_slice(&lines::write("", &new)[2..]);
                    self.note(format!(
                        "{} {:?} in {file} is now {:?}",
                        kind.word(),
                        String::from_utf8_lossy(path),
                        String::from_utf8_lossy(&new)
                    ));
                } else {
                    text.extend_from_slice(line);
                }
                self.included(&inside, kind, depth)
            }
            Leads::Outside(outside) if self.config.keeps_outside && self.source.is_there(&outside) => {
                text.extend_from_slice(line);
                Ok(())
            }
            Leads::Outside(outside) => {
                comment_out(text, line);
                self.inlined(text, &outside, kind, file, depth)
            }
        }
    }

    /// The files below the data directory that an `include` reads.
    fn included(&mut self, inside: &Path, kind: Include, depth: usize) -> Result<()> {
        let names = match kind {
            Include::Directory => {
                let mut names = self.source.list(inside)?;
                names.retain(|name| is_read_from_a_directory(name));
                names.sort();
                names.iter().map(|name| inside.join(name)).collect()
            }
            _ => vec![inside.to_owned()],
        };
        for name in names {
            match self.source.read(&name)? {
                Found::File(content) => self.inside_file(&name, &content, depth + 1)?,
                Found::Link => self.linked(&name, depth + 1)?,
                Found::Nothing => {}
            }
        }
        Ok(())
    }

    /// A link below the data directory. Where it led out of that of the original, a copy gets what it led to.
    fn linked(&mut self, name: &Path, depth: usize) -> Result<()> {
        let config = self.config;
        let saved = config.originals.iter().find_map(|top| config.saved.get_key_value(&top.join(name)));
        match saved.filter(|(path, _)| self.writes(path)) {
            Some((_, content)) => {
                let at = At::Inside(name.parent().unwrap_or(Path::new("")).to_owned());
                let text = self.content(content, &at, &name.display().to_string(), depth)?;
                self.out.files.insert(name.to_owned(), text);
                self.note(format!(
                    "{} was a link, and is written as what it led to when the backup was taken",
                    name.display()
                ));
            }
            None => self.note(format!("{} is a link: the server reads what it leads to", name.display())),
        }
        Ok(())
    }

    /// What the files outside said that an `include` read.
    fn inlined(&mut self, text: &mut Vec<u8>, outside: &Path, kind: Include, file: &str, depth: usize) -> Result<()> {
        let config = self.config;
        let files: Vec<(&PathBuf, &Vec<u8>)> = match kind {
            Include::Directory => config
                .saved
                .iter()
                .filter(|(path, _)| path.parent() == Some(outside))
                .filter(|(path, _)| path.file_name().is_some_and(|name| is_read_from_a_directory(Path::new(name))))
                .collect(),
            _ => config.saved.get_key_value(outside).into_iter().collect(),
        };
        if files.is_empty() && kind == Include::File {
            self.note(format!(
                "{file} includes {}, which is not in the backup: commented out, its settings are missing",
                outside.display()
            ));
        }
        for (path, content) in files {
            let name = path.display().to_string();
            text.extend_from_slice(format!("# barman-snap restore: {name} of the original begins here\n").as_bytes());
            let at = At::Outside(path.parent().unwrap_or(Path::new("/")).to_owned());
            let inner = self.content(content, &at, &name, depth + 1)?;
            text.extend_from_slice(&inner);
            if !inner.ends_with(b"\n") {
                text.push(b'\n');
            }
            text.extend_from_slice(format!("# barman-snap restore: {name} of the original ends here\n").as_bytes());
            self.note(format!("{file} has the content of {name} instead of including it"));
        }
        Ok(())
    }

    /// Where a path in a file at `at` leads. A relative one begins where the file lies.
    fn leads(&self, at: &At, path: &[u8]) -> Leads {
        let path = path_of(path);
        let absolute = match at {
            At::Inside(directory) => flat(&self.target.join(directory).join(&path)),
            At::Outside(directory) => flat(&directory.join(&path)),
        };
        match self.config.inside(&absolute, self.target) {
            Some(inside) => Leads::Inside(inside, !(absolute.starts_with(self.target) && matches!(at, At::Inside(_)))),
            None => Leads::Outside(absolute),
        }
    }

    fn note(&mut self, note: String) {
        if !self.out.notes.contains(&note) {
            self.out.notes.push(note);
        }
    }
}

/// A value for a note.
fn shown(name: &str, value: &[u8]) -> String {
    redact::setting(name, &String::from_utf8_lossy(value)).into_owned()
}

fn comment_out(text: &mut Vec<u8>, line: &[u8]) {
    text.extend_from_slice(NOTE);
    text.extend_from_slice(line.trim_ascii());
    text.push(b'\n');
}

/// Manual, "Managing Configuration File Contents": names that end in `.conf` and do not begin with a dot.
fn is_read_from_a_directory(name: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let name = name.as_os_str().as_bytes();
    name.ends_with(b".conf") && !name.starts_with(b".")
}

/// A path without `.` and `..`, as PostgreSQL's `canonicalize_path` makes it.
fn flat(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for part in normal(path).components() {
        match part {
            Component::ParentDir => {
                flat.pop();
            }
            other => flat.push(other),
        }
    }
    flat
}
