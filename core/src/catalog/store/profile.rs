//! The shared files of the AWS tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! What it is: enough of their syntax for static keys, region, endpoint and addressing style. What it is not: single sign-on,
//! helper programs or roles of other accounts; a profile that needs them is refused with the way around, rather than silently
//! replaced by the identity of the machine.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Vars;
use crate::error::{Error, ErrorKind, Result};

/// The settings of one profile; a nested one is `s3.addressing_style`.
pub(super) type Profile = BTreeMap<String, String>;

/// The profile named by option, else by `AWS_PROFILE`, else `default`. Empty if nobody named one and there is none.
pub(super) fn load(option: Option<&str>, vars: &Vars) -> Result<Profile> {
    let named = option.or_else(|| vars.get("AWS_PROFILE").map(String::as_str)).filter(|name| !name.is_empty());
    let name = named.unwrap_or("default");
    let credentials = file("AWS_SHARED_CREDENTIALS_FILE", "credentials", vars);
    let config = file("AWS_CONFIG_FILE", "config", vars);
    let mut profile = Profile::new();
    let mut found = false;
    // What stands in the credentials file wins.
    for (path, is_config) in [(&config, true), (&credentials, false)] {
        let Some(text) = path.as_ref().map(read).transpose()?.flatten() else { continue };
        if let Some(settings) = section(&text, name, is_config) {
            found = true;
            profile.extend(settings);
        }
    }
    match named {
        Some(name) if !found => Err(Error::invalid(format!("there is no AWS profile {name:?}")).with_hint(
            "see ~/.aws/credentials and ~/.aws/config, or the files that AWS_SHARED_CREDENTIALS_FILE names",
        )),
        _ => refuse_helpers(name, option.is_some(), profile, vars),
    }
}

/// A profile without keys that would get them by other means.
fn refuse_helpers(name: &str, by_option: bool, profile: Profile, vars: &Vars) -> Result<Profile> {
    let has_keys = profile.contains_key("aws_access_key_id") && !profile.contains_key("role_arn");
    let vars_win = !by_option && vars.contains_key("AWS_ACCESS_KEY_ID");
    let helper = ["sso_session", "sso_start_url", "credential_process", "role_arn", "login_session"]
        .into_iter()
        .find(|key| profile.contains_key(*key));
    match helper {
        Some(key) if !has_keys && !vars_win => Err(Error::new(
            ErrorKind::Unsupported,
            format!("the AWS profile {name:?} uses {key}, which is not supported"),
        )
        .with_hint(format!("run: eval \"$(aws configure export-credentials --profile {name} --format env)\""))),
        _ => Ok(profile),
    }
}

fn file(variable: &str, name: &str, vars: &Vars) -> Option<PathBuf> {
    match vars.get(variable).filter(|path| !path.is_empty()) {
        Some(path) => Some(path.into()),
        None => vars.get("HOME").map(|home| PathBuf::from(home).join(".aws").join(name)),
    }
}

fn read(path: &PathBuf) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            Ok(None)
        }
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// The settings of a profile; none if the file does not have it. In the config file its heading is `[profile name]`, except
/// for `default`.
fn section(text: &str, name: &str, is_config: bool) -> Option<Profile> {
    let (mut found, mut inside) = (None, false);
    let mut parent = String::new();
    for line in text.lines() {
        let code = line.trim_end();
        if code.trim_start().is_empty() || code.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if let Some(heading) = code.trim_start().strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let words = heading.trim();
            let is_default = name == "default" && words == "default";
            inside = match words.strip_prefix("profile").filter(|rest| rest.starts_with([' ', '\t'])) {
                Some(rest) if is_config => rest.trim().trim_matches(['"', '\'']) == name,
                _ => is_default || (!is_config && words == name),
            };
            if inside {
                found.get_or_insert_with(Profile::new);
            }
            continue;
        }
        let (Some(profile), true) = (&mut found, inside) else { continue };
        let Some((key, value)) = code.split_once('=') else { continue };
        let nested = key.starts_with([' ', '\t']);
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        // A comment may follow a value after a blank.
        let value = value.split_once(" #").map_or(value, |(value, _)| value.trim_end());
        if nested && !parent.is_empty() {
            profile.insert(format!("{parent}.{key}"), value.to_owned());
        } else if value.is_empty() {
            parent = key;
        } else {
            parent.clear();
            profile.insert(key, value.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# mine\n[default]\nregion = eu-west-1\n[profile other]\nregion=eu-north-1 # cold\ns3 =\n  \
                          addressing_style = path\nendpoint_url = http://127.0.0.1:9000\n[profile sso]\nsso_session = x\n";
    const CREDENTIALS: &str = "[default]\naws_access_key_id = A\naws_secret_access_key = a/b+c=\n[other]\n\
                               aws_access_key_id=B\naws_secret_access_key=b\naws_session_token = t==\n";

    fn vars(dir: &tempfile::TempDir) -> Vars {
        let aws = dir.path().join(".aws");
        std::fs::create_dir(&aws).unwrap();
        std::fs::write(aws.join("config"), CONFIG).unwrap();
        std::fs::write(aws.join("credentials"), CREDENTIALS).unwrap();
        Vars::from([("HOME".into(), dir.path().display().to_string())])
    }

    #[test]
    fn both_files_make_up_a_profile() {
        let dir = tempfile::tempdir().unwrap();
        let mut vars = vars(&dir);
        let profile = load(None, &vars).unwrap();
        assert_eq!((profile["region"].as_str(), profile["aws_secret_access_key"].as_str()), ("eu-west-1", "a/b+c="));
        vars.insert("AWS_PROFILE".into(), "other".into());
        let profile = load(None, &vars).unwrap();
        assert_eq!(profile["aws_session_token"], "t==");
        assert_eq!(profile["region"], "eu-north-1");
        assert_eq!(profile["s3.addressing_style"], "path");
        assert_eq!(profile["endpoint_url"], "http://127.0.0.1:9000");
        assert_eq!(load(Some("default"), &vars).unwrap()["aws_access_key_id"], "A");
    }

    #[test]
    fn a_profile_that_is_not_there_or_needs_more_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let vars = vars(&dir);
        assert!(load(Some("typo"), &vars).unwrap_err().message().contains("typo"));
        let error = load(Some("sso"), &vars).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("sso_session"));
    }

    #[test]
    fn no_files_are_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let vars = Vars::from([("HOME".into(), dir.path().display().to_string())]);
        assert_eq!(load(None, &vars).unwrap(), Profile::new());
    }
}
