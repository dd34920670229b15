//! The connection service file: named groups of settings in INI form (libpq, "The Connection Service File").

use std::path::{Path, PathBuf};

use super::Environment;
use super::keywords::Settings;
use crate::error::{Error, Result};

/// The settings of `service`: from the file named, or else the user's file and then the system's.
pub(super) fn load(service: &str, file: Option<&str>, environment: &Environment) -> Result<Settings> {
    let named = file.map(PathBuf::from);
    if let Some(path) = named.as_ref().filter(|path| !path.exists()) {
        return Err(Error::not_found(format!("no such service file: {}", path.display())));
    }
    let user = named.or_else(|| environment.home_file(".pg_service.conf"));
    let system = environment.system_dir().join("pg_service.conf");
    let mut searched = Vec::new();
    for path in user.into_iter().chain([system]) {
        if let Some(settings) = load_file(&path, service)? {
            return Ok(settings);
        }
        searched.push(path.display().to_string());
    }
    Err(Error::not_found(format!("no service {service:?} in {}", searched.join(" or "))))
}

fn load_file(path: &Path, service: &str) -> Result<Option<Settings>> {
    match std::fs::read_to_string(path) {
        Ok(content) => parse(&content, service, path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read the service file", path, error)),
    }
}

/// The first group of that name.
fn parse(content: &str, service: &str, path: &Path) -> Result<Option<Settings>> {
    let mut found: Option<Settings> = None;
    for (number, line) in (1..).zip(content.lines()) {
        let line = line.trim();
        let bad =
            |what: &str| Error::invalid(format!("{what} in line {number} of the service file {}", path.display()));
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            if name.strip_suffix(']') == Some(service) {
                found = Some(Settings::default());
            }
            continue;
        }
        let Some(settings) = &mut found else { continue };
        if line.starts_with("ldap") && line.contains("://") {
            return Err(bad("LDAP look-up is not supported: found"));
        }
        let (key, value) = line.split_once('=').ok_or_else(|| bad("missing \"=\""))?;
        if matches!(key.trim(), "service" | "servicefile") {
            return Err(bad("a service inside a service"));
        }
        settings.offer(key.trim(), value.trim()).map_err(|error| {
            error.with_context("path", path.display().to_string()).with_hint(bad("found").message().to_owned())
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# services\n[one]\nhost=h1\nport = 5433\n\n[two]\nhost=h2\nservice=x\n[three]\nbogus=1\n";

    fn get(service: &str) -> Result<Option<Settings>> {
        parse(FILE, service, Path::new("/x/pg_service.conf"))
    }

    #[test]
    fn a_group_ends_where_the_next_begins() {
        let one = get("one").unwrap().unwrap();
        assert_eq!((one.text("host"), one.text("port")), (Some("h1"), Some("5433")));
        assert!(get("none").unwrap().is_none());
    }

    #[test]
    fn errors_name_the_line() {
        assert!(get("two").err().unwrap().to_string().contains("line 8"));
        let unknown = get("three").err().unwrap().to_string();
        assert!(unknown.contains("\"bogus\"") && unknown.contains("line 10"), "{unknown}");
    }
}
