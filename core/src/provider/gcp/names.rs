//! Names, labels and descriptions: what of a session is written on the things it makes, and how it is read again.
//!
//! * **Name** of a snapshot or disk: 1 to 63 characters, `[a-z]([-a-z0-9]*[a-z0-9])?`
//!   (<https://cloud.google.com/compute/docs/naming-resources>).
//! * **Labels** ([`TOKEN`], [`MARK`], [`BACKUP`]) can be searched for. Keys and values have at most 63 characters: lower-case
//!   letters, digits, `_` and `-`; a key begins with a letter; 64 labels at most
//!   (<https://cloud.google.com/compute/docs/labeling-resources>). A token and a backup id fit. A mark has a dot in it, so its
//!   label is [`label_value`] of it, which may be the same for two marks.
//! * **Description**: the exact values, as JSON after [`PREFIX`]. It cannot be changed later, and it decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::{BackupId, Token};
use crate::provider::names::{NameRules, hash, quoted};
use crate::provider::{CreateRequest, Volume};

/// The label with the token of the session or restore.
pub(super) const TOKEN: &str = "barman-snap-token";
/// The label with the mark of the catalog.
pub(super) const MARK: &str = "barman-snap-mark";
/// The label with the backup id, in lower case.
pub(super) const BACKUP: &str = "barman-snap-backup";

/// The most labels on one thing.
const MOST_LABELS: usize = 64;
/// The longest key and value of a label.
const LONGEST_LABEL: usize = 63;
/// The longest description.
const LONGEST_DESCRIPTION: usize = 2048;

/// What a description begins with.
const PREFIX: &str = "barman-snap ";

/// The rule for names of snapshots and disks.
pub(super) const RULES: NameRules = NameRules {
    longest: 63,
    allowed: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    first: |c| c.is_ascii_lowercase(),
    last: |c| c.is_ascii_lowercase() || c.is_ascii_digit(),
};

/// The name for the snapshot of a volume. A volume that shares its name with another disk of the instance has an id with
/// slashes in it; that one is changed.
pub(super) fn snapshot_name(volume: &str, backup_id: &BackupId) -> String {
    RULES.snapshot_name(volume, backup_id)
}

/// The name of the instant snapshot group of a session. Groups have no labels, therefore the token is in the name.
pub(super) fn group_name(token: &Token) -> String {
    format!("barman-snap-{token}")
}

/// The token in the name of a group, if it is one of ours.
pub(super) fn token_of_group(name: &str) -> Option<Token> {
    name.strip_prefix("barman-snap-")?.parse().ok()
}

/// The name of a disk that a restore makes: the same one for the same snapshot and restore.
pub(super) fn restored_name(snapshot: &str, token: &Token) -> String {
    let head: String = crate::provider::gcp::link::last(snapshot).chars().take(30).collect();
    let head = head.trim_end_matches('-');
    let head = if RULES.fits(head) { head } else { "restored" };
    format!("{head}-{}-{:08x}", &token.as_str()[..16], hash(snapshot))
}

/// What a label can hold of a text: the text itself if it fits; else its beginning in lower case with `-` for what is not
/// allowed, `_`, and eight hex digits of a hash of the whole. The mark `pg1.0123456789abcdef` becomes
/// `pg1-0123456789abcdef_` and a hash.
pub(super) fn label_value(text: &str) -> String {
    if text.len() <= LONGEST_LABEL && text.chars().all(|c| c.is_ascii() && in_label(c)) {
        return text.to_owned();
    }
    let plain = |c: char| if c.is_ascii() && in_label(c) { c } else { '-' };
    let head: String = text.chars().flat_map(char::to_lowercase).map(plain).take(LONGEST_LABEL - 9).collect();
    format!("{head}_{:08x}", hash(text))
}

/// Lower-case letters (also those without case, of other scripts), digits, `_`, `-`.
fn in_label(c: char) -> bool {
    c == '_' || c == '-' || c.is_numeric() || (c.is_alphabetic() && !c.is_uppercase())
}

/// The labels for what a session makes: the user's, and ours.
pub(super) fn labels(request: &CreateRequest) -> BTreeMap<String, String> {
    let mut labels = request.tags.clone();
    labels.extend(own_labels(&request.token, &request.mark));
    labels.insert(BACKUP.to_owned(), request.backup_id.lower());
    labels
}

/// Our labels for what has no backup id.
pub(super) fn own_labels(token: &Token, mark: &str) -> BTreeMap<String, String> {
    [(TOKEN.to_owned(), token.to_string()), (MARK.to_owned(), label_value(mark))].into()
}

/// Checks tags of the user against the rules for labels. They are refused, not changed: who searches for a label must find
/// it.
///
/// # Errors
/// [`InvalidInput`](crate::error::ErrorKind::InvalidInput) that names the first tag which breaks a rule, and the rule.
pub(super) fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
    let refuse = |tag: &str, rule: &str| {
        Err(Error::invalid(format!("the tag {} cannot be a label in Google Cloud: {rule}", quoted(tag))))
    };
    const CHARACTERS: &str = "lower-case letters, digits, - and _ only";
    for (key, value) in tags {
        if key.starts_with("barman-snap-") {
            return refuse(key, "names that begin with barman-snap- are taken");
        }
        if !key.chars().next().is_some_and(|c| c.is_alphabetic() && !c.is_uppercase()) {
            return refuse(key, "a key begins with a lower-case letter");
        }
        if key.chars().count() > LONGEST_LABEL || value.chars().count() > LONGEST_LABEL {
            return refuse(key, "keys and values have at most 63 characters");
        }
        if !key.chars().all(in_label) {
            return refuse(key, CHARACTERS);
        }
        if !value.chars().all(in_label) {
            return refuse(&format!("{key},{value}"), CHARACTERS);
        }
    }
    let ours = 3;
    if tags.len() > MOST_LABELS - ours {
        let message =
            format!("{} tags are too many: a snapshot has at most {} labels besides ours", tags.len(), 64 - ours);
        return Err(Error::invalid(message));
    }
    Ok(())
}

/// What a description says about a snapshot: all that a ticket needs and the API does not know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Description {
    pub(super) backup_id: String,
    pub(super) mark: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) volume: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) root: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, String>,
}

impl Description {
    /// For the snapshot of one volume.
    pub(super) fn of_volume(request: &CreateRequest, volume: &Volume, attributes: BTreeMap<String, String>) -> Self {
        Self {
            volume: volume.id.clone(),
            root: volume.root.display().to_string(),
            attributes,
            ..Self::of_request(request)
        }
    }

    /// For the snapshots of several volumes.
    pub(super) fn of_request(request: &CreateRequest) -> Self {
        Self { backup_id: request.backup_id.to_string(), mark: request.mark.clone(), ..Self::default() }
    }

    /// As it is stored.
    pub(super) fn text(&self) -> String {
        // Maps of text to text can always be written.
        PREFIX.to_owned() + &serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what `text` wrote; nothing if it is not ours.
    pub(super) fn parse(text: Option<&str>) -> Option<Self> {
        serde_json::from_str(text?.strip_prefix(PREFIX)?).ok()
    }

    /// Checks that it can be stored.
    pub(super) fn check(&self) -> Result<()> {
        match self.text().len() {
            ..=LONGEST_DESCRIPTION => Ok(()),
            length => Err(Error::invalid(format!(
                "what has to be noted about {} has {length} characters, a snapshot takes {LONGEST_DESCRIPTION}",
                self.volume
            ))
            .with_hint("is its mount point very long?")),
        }
    }
}

/// The `requestId` of a call that makes something for (session, thing): the same for the same two, so that the cloud itself
/// ignores a repetition. A UUID of version 4 by its form; never zero.
pub(super) fn request_id(token: &Token, thing: &str) -> String {
    let half = |salt: &str| {
        (u64::from(hash(&format!("{salt}/{token}/{thing}"))) << 32)
            | u64::from(hash(&format!("{thing}/{token}/{salt}")))
    };
    let high = half("a") & !0xf000 | 0x4000;
    let low = half("b") & !(0b11 << 62) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str, value: &str) -> String {
        check_tags(&[(key.to_owned(), value.to_owned())].into()).unwrap_err().to_string()
    }

    #[test]
    fn tags_that_are_no_labels_are_refused_with_the_rule() {
        assert!(check_tags(&[("team".into(), "db_1-x".into()), ("équipe".into(), "".into())].into()).is_ok());
        assert!(refused("Team", "x").contains("begins with a lower-case letter"));
        assert!(refused("1team", "x").contains("begins with a lower-case letter"));
        assert!(refused("", "x").contains("begins with a lower-case letter"));
        assert!(refused("team", "DB").contains("lower-case letters"));
        assert!(refused("te.am", "x").contains("lower-case letters"));
        assert!(refused("team", &"x".repeat(64)).contains("63"));
        assert!(refused("barman-snap-token", "x").contains("taken"));
        let many = (0..62).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(check_tags(&many).unwrap_err().to_string().contains("61 labels"));
    }

    #[test]
    fn a_mark_becomes_a_label_value() {
        assert_eq!(label_value("conformance-list"), "conformance-list");
        let marks = ["pg1.0123456789abcdef", "pg1-0123456789abcdef", "PG1.0123456789abcdef", &"s".repeat(200), "ä.1"];
        let values: std::collections::BTreeSet<_> = marks.iter().map(|mark| label_value(mark)).collect();
        assert_eq!(values.len(), marks.len(), "{values:?}");
        for value in &values {
            assert!(value.len() <= 63 && value.chars().all(|c| c.is_ascii() && in_label(c)), "{value}");
        }
        assert!(label_value("pg1.0123456789abcdef").starts_with("pg1-0123456789abcdef_"));
    }

    #[test]
    fn a_request_id_is_a_uuid_and_depends_on_both_parts() {
        let id = |bits, thing| request_id(&Token::from_bits(bits), thing);
        let ids: std::collections::BTreeSet<_> = [id(0, ""), id(1, ""), id(0, "x"), id(1, "x")].into();
        assert_eq!(ids.len(), 4);
        for id in ids {
            let parts: Vec<usize> = id.split('-').map(str::len).collect();
            assert_eq!(parts, [8, 4, 4, 4, 12], "{id}");
            assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id}");
        }
        assert_eq!(id(7, "x"), id(7, "x"));
    }

    #[test]
    fn a_description_is_read_as_it_was_written() {
        let description = Description {
            backup_id: "20260529T101112".into(),
            mark: "pg1.0123456789abcdef".into(),
            volume: "pg-data".into(),
            root: "/srv/\"pg\"".into(),
            attributes: [("device_name".to_owned(), "d".to_owned())].into(),
        };
        assert_eq!(Description::parse(Some(&description.text())), Some(description.clone()));
        assert_eq!(Description::parse(Some("made by hand")), None);
        assert!(description.check().is_ok());
        assert!(Description { root: "x".repeat(3000), ..description }.check().is_err());
    }

    #[test]
    fn the_name_of_a_restored_disk_fits_and_is_stable() {
        let token = Token::from_bits(u128::MAX);
        for snapshot in ["projects/p/global/snapshots/pg-data-20260529t101112", "x", "", "9", &"a".repeat(63)] {
            let name = restored_name(snapshot, &token);
            assert!(RULES.fits(&name), "{name}");
            assert_eq!(name, restored_name(snapshot, &token));
        }
        assert_eq!(token_of_group(&group_name(&token)), Some(token));
    }
}
