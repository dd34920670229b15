//! The password file: `hostname:port:database:username:password` per line (libpq, "The Password File").
//!
//! The invariant: a file that others can read is not used, and the reason is kept, so that a failed login can say it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Environment;
use super::params::{Address, HostParams, SOCKET_DIRECTORIES, Secret};

/// Gives each host the password that the file has for it.
pub(super) fn fill(
    hosts: &mut [HostParams],
    dbname: &str,
    user: &str,
    passfile: Option<&str>,
    environment: &Environment,
) {
    let Some(path) = passfile.map(PathBuf::from).or_else(|| environment.home_file(".pgpass")) else { return };
    let content = match read(&path) {
        Ok(Some(content)) => content,
        Ok(None) => return,
        Err(note) => {
            tracing::warn!("{note}");
            for host in hosts {
                host.password_note = Some(note.clone());
            }
            return;
        }
    };
    for host in hosts {
        let name = match &host.address {
            // The default directory goes by the name of localhost; any other by its path.
            Address::Socket(directory) if SOCKET_DIRECTORIES.iter().any(|default| directory == Path::new(default)) => {
                "localhost".to_owned()
            }
            Address::Socket(directory) => directory.display().to_string(),
            Address::Tcp { host, .. } => host.clone(),
        };
        host.password = find(&content, &name, host.port, dbname, user).map(Secret::new);
    }
}

/// The content of the file; nothing if there is none; the reason if it may not be used.
fn read(path: &Path) -> Result<Option<String>, String> {
    let Ok(meta) = std::fs::metadata(path) else { return Ok(None) };
    if !meta.is_file() {
        return Err(format!("the password file {} was ignored: it is not a plain file", path.display()));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(format!("the password file {} was ignored: others can read it (chmod 0600 it)", path.display()));
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => Err(format!("the password file {} was ignored: {error}", path.display())),
    }
}

/// The password of the first line that fits.
fn find(content: &str, host: &str, port: u16, dbname: &str, user: &str) -> Option<String> {
    let port = port.to_string();
    content.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut fields = Fields(Some(line));
        let fits = [host, &port, dbname, user].iter().all(|wanted| match fields.next() {
            Some(field) => field == "*" || unescape(field) == *wanted,
            None => false,
        });
        // Nothing behind the user is no password, and no line of this format.
        fits.then(|| fields.next().map(unescape)).flatten()
    })
}

/// The parts of a line between colons that are not escaped.
struct Fields<'a>(Option<&'a str>);

impl<'a> Iterator for Fields<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let line = self.0?;
        let mut escaped = false;
        for (at, byte) in line.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b':' => {
                    self.0 = Some(&line[at + 1..]);
                    return Some(&line[..at]);
                }
                _ => {}
            }
        }
        self.0 = None;
        Some(line)
    }
}

/// Takes the backslashes away.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.push(chars.next().unwrap_or('\\')),
            char => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# comment\n\
        db1:5432:app:bob:one\n\
        \\::5432:*:bob:with\\:colon\\\\and backslash\n\
        *:*:*:bob:any:rest\n\
        localhost:*:*:*:last\n";

    #[test]
    fn the_first_line_that_fits_wins() {
        assert_eq!(find(FILE, "db1", 5432, "app", "bob").unwrap(), "one");
        assert_eq!(find(FILE, "db1", 5433, "app", "bob").unwrap(), "any");
        assert_eq!(find(FILE, "localhost", 1, "x", "eve").unwrap(), "last");
        assert_eq!(find(FILE, "db1", 1, "x", "eve"), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        assert_eq!(find(FILE, ":", 5432, "x", "bob").unwrap(), r"with:colon\and backslash");
        assert_eq!(find("h:1:d:\\*:x", "h", 1, "d", "u"), None, "an escaped star is no wildcard");
        assert_eq!(find("h:1:d:u", "h", 1, "d", "u"), None);
    }

    proptest! {
        #[test]
        fn escaped_passwords_round_trip(password in "[^\0\r\n]{1,30}") {
            let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
            prop_assert_eq!(find(&format!("h:1:d:u:{escaped}"), "h", 1, "d", "u").unwrap(), password);
        }
    }
}
