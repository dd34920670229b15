//! Names and tags. Pure.
//!
//! An EBS snapshot has no name, only tags; its name is the value of its tag `Name`, as for every AWS tool. So every name fits
//! that is not longer than the value of a tag. Rules of tags: at most 50, keys of 1 to 128 characters that do not begin
//! with `aws:`, values of at most 256
//! (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions>); the characters are those that all
//! AWS services take, which are also those that the stock tool takes (barman.md 1.1).

use std::collections::BTreeMap;

use aws_sdk_ec2::types::{Filter, ResourceType, Tag, TagSpecification};

use crate::error::{Error, Result};
use crate::id::BackupId;
use crate::provider::names::{NameRules, quoted};
use crate::provider::{CreateRequest, Volume};

/// The tag that people and tools read as the name.
pub(super) const NAME: &str = "Name";
/// The tag with the token.
pub(super) const TOKEN: &str = "barman_snap:token";
/// The tag with the mark.
pub(super) const MARK: &str = "barman_snap:mark";
/// The tag with the id of the backup.
pub(super) const BACKUP: &str = "barman_snap:backup";
/// The tag with the snapshot that a copy or a volume was made of.
pub(super) const SOURCE: &str = "barman_snap:source";

/// The tag of a volume that we are about to attach: from then on somebody may write to it.
pub(super) const USED: &str = "barman_snap:attached";

/// The beginning of all tags of ours.
const OURS: &str = "barman_snap:";
/// How many of them there are at most on one snapshot, with `Name`.
const OUR_TAGS: usize = 5;
const MOST_TAGS: usize = 50;
const LONGEST_KEY: usize = 128;
const LONGEST_VALUE: usize = 256;

const RULES: NameRules = NameRules {
    longest: LONGEST_VALUE,
    allowed: |c| !c.is_control(),
    first: |c| !c.is_whitespace(),
    last: |c| !c.is_whitespace(),
};

/// The name for the snapshot of a volume.
pub(super) fn snapshot_name(volume: &Volume, backup_id: &BackupId) -> String {
    RULES.snapshot_name(&volume.id, backup_id)
}

/// Checks the names and tags of requests that will be made together.
pub(super) fn check(requests: &[CreateRequest]) -> Result<()> {
    for request in requests {
        for snapshot in &request.volumes {
            if !RULES.fits(&snapshot.name) {
                return Err(Error::invalid(format!("not a name for a snapshot: {:?}", snapshot.name))
                    .with_context("volume", snapshot.volume.id.clone()));
            }
        }
        if request.mark.is_empty() || request.mark.chars().count() > LONGEST_VALUE {
            return Err(Error::invalid(format!("{:?} cannot be the value of a tag", request.mark))
                .with_hint(format!("the name of the server makes it longer than {LONGEST_VALUE} characters")));
        }
        check_tags(&request.tags)?;
    }
    Ok(())
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<()> {
    let room = MOST_TAGS - OUR_TAGS;
    if tags.len() > room {
        return Err(Error::invalid(format!("{} tags are too many", tags.len()))
            .with_hint(format!("AWS allows {MOST_TAGS}, {OUR_TAGS} of which are needed; {room} are left")));
    }
    for (key, value) in tags {
        let bad = |why: String| Error::invalid(format!("tag {} is not possible: {why}", quoted(key)));
        if key.is_empty() || key.chars().count() > LONGEST_KEY {
            return Err(bad(format!("a key has 1 to {LONGEST_KEY} characters")));
        }
        if value.chars().count() > LONGEST_VALUE {
            return Err(bad(format!("a value has at most {LONGEST_VALUE} characters")));
        }
        if let Some(c) = key.chars().chain(value.chars()).find(|c| !is_allowed(*c)) {
            return Err(bad(format!("{c:?} is none of: letters, digits, spaces, and _ . : / = + - @")));
        }
        let begins = |with: &str| key.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
        if begins("aws:") || begins(OURS) {
            return Err(bad(format!("keys that begin with aws: or {OURS} are reserved")));
        }
        if key == NAME {
            return Err(bad("the name of a snapshot is that of its disk and backup".to_owned()));
        }
    }
    Ok(())
}

fn is_allowed(c: char) -> bool {
    c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c)
}

/// The tags for the call that creates. With a name for one snapshot, without for several that are cut by one call, which
/// gives all the same tags.
pub(super) fn for_snapshot(request: &CreateRequest, name: Option<&str>) -> TagSpecification {
    let backup_id = request.backup_id.to_string();
    let ours = [(TOKEN, request.token.as_str()), (MARK, &request.mark), (BACKUP, &backup_id)];
    let named = name.map(|name| (NAME, name));
    let theirs = request.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    specification(ResourceType::Snapshot, ours.into_iter().chain(named).chain(theirs))
}

/// Tags for something that is to be made.
pub(super) fn specification<'a>(
    of: ResourceType,
    tags: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> TagSpecification {
    let tags = tags.into_iter().map(|(key, value)| new_tag(key, value)).collect();
    TagSpecification::builder().resource_type(of).set_tags(Some(tags)).build()
}

/// A tag.
pub(super) fn new_tag(key: &str, value: &str) -> Tag {
    Tag::builder().key(key).value(value).build()
}

/// The value of a tag.
pub(super) fn tag<'a>(tags: &'a [Tag], key: &str) -> Option<&'a str> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(Tag::value)
}

/// A filter for exactly this value; EC2 would take `*` and `?` in it for wildcards
/// (<https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html>).
pub(super) fn filter(name: &str, value: &str) -> Filter {
    let mut exact = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '*' | '?' | '\\') {
            exact.push('\\');
        }
        exact.push(c);
    }
    Filter::builder().name(name).values(exact).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(tags: &[(&str, &str)]) -> String {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        check_tags(&tags).map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn good_tags_pass() {
        assert_eq!(
            refused(&[("team", "db & co".trim_end_matches(" & co")), ("kosten:stelle", "äöü @ 1/2"), ("e", "")]),
            ""
        );
        assert_eq!(refused(&[("awsome", "x"), ("name", "x")]), "");
    }

    #[test]
    fn bad_tags_say_why() {
        for (key, value, why) in [
            ("", "x", "1 to 128"),
            (&*"k".repeat(129), "x", "1 to 128"),
            ("k", &*"v".repeat(257), "at most 256"),
            ("k;", "x", "';'"),
            ("k", "a,b", "','"),
            ("AWS:cost", "x", "reserved"),
            ("aws:", "x", "reserved"),
            ("barman_snap:token", "x", "reserved"),
            ("Name", "x", "name of a snapshot"),
        ] {
            let error = refused(&[(key, value)]);
            assert!(error.contains(why), "{key}={value}: {error}");
        }
    }

    #[test]
    fn our_own_tags_count() {
        let many = |n: usize| (0..n).map(|i| (format!("k{i}"), String::new())).collect::<BTreeMap<_, _>>();
        assert!(check_tags(&many(45)).is_ok());
        assert!(check_tags(&many(46)).is_err());
    }

    #[test]
    fn a_wildcard_is_no_wildcard() {
        assert_eq!(filter("tag:Name", r"a*b?c\d").values(), [r"a\*b\?c\\d"]);
    }

    #[test]
    fn stock_names_are_kept_and_only_endless_ones_are_cut() {
        let id: BackupId = "20260529T101112".parse().unwrap();
        assert_eq!(RULES.snapshot_name("vol-0123", &id), "vol-0123-20260529t101112");
        assert_eq!(RULES.snapshot_name("Data Disk (ä)", &id), "Data Disk (ä)-20260529t101112");
        let long = RULES.snapshot_name(&"x".repeat(250), &id);
        assert!(RULES.fits(&long) && long.ends_with("-20260529t101112"), "{long}");
        assert!(!RULES.fits("") && !RULES.fits(&"x".repeat(257)));
    }
}
