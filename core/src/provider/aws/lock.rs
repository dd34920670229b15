//! Locks: what a user may ask for, and how it is carried out.
//!
//! Rules (barman.md 1.1 and 5.4, <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_LockSnapshot.html>): a mode needs a
//! duration or a date, and not both; a cooling-off period is for compliance mode only; parameters without a mode are refused
//! (the stock tool ignores them silently).

use std::collections::BTreeMap;

use aws_sdk_ec2::operation::lock_snapshot::builders::LockSnapshotFluentBuilder;
use aws_sdk_ec2::types::{LockMode, LockState, LockedSnapshotsInfo, Snapshot};
use aws_smithy_types::DateTime as Ec2Time;
use aws_smithy_types::date_time::Format;
use chrono::{DateTime, NaiveDateTime, Utc};
use futures::future::join_all;
use serde::{Deserialize, Serialize};

use super::client::Ec2;
use super::errors::is_gone;
use super::preflight::only_permission;
use super::{AwsProvider, copies};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::Ticket;
use crate::provider::options::AwsOptions;

/// Attribute of a ticket: the mode in which it is locked, `governance` or `compliance`.
pub(super) const LOCK_MODE: &str = "lock_mode";
/// Attribute of a ticket: until when it is locked.
pub(super) const LOCK_EXPIRES: &str = "lock_expires";

/// How snapshots are to be locked. It is stored with the plan of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lock {
    pub(super) mode: Mode,
    /// Hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    cool_off: Option<u32>,
    pub(super) until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    Governance,
    Compliance,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Until {
    Days(u32),
    Date(DateTime<Utc>),
}

impl Lock {
    /// What the options ask for.
    pub(super) fn from_options(options: &AwsOptions) -> Result<Option<Self>> {
        let given = [
            ("lock_cool_off_period", options.lock_cool_off_period.is_some()),
            ("lock_duration", options.lock_duration.is_some()),
            ("lock_expiration_date", options.lock_expiration_date.is_some()),
        ];
        let Some(mode) = options.lock_mode.as_deref() else {
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Error::invalid(format!("{name} without lock_mode locks nothing"))
                    .with_hint("give --aws-snapshot-lock-mode governance or compliance")),
                None => Ok(None),
            };
        };
        let mode = match mode {
            "governance" => Mode::Governance,
            "compliance" => Mode::Compliance,
            other => return Err(Error::invalid(format!("lock_mode is governance or compliance, not {other:?}"))),
        };
        let range = |name: &str, value: Option<u32>, most: u32| match value {
            Some(value) if !(1..=most).contains(&value) => {
                Err(Error::invalid(format!("{name} is 1 to {most}, not {value}")))
            }
            _ => Ok(value),
        };
        let cool_off = range("lock_cool_off_period", options.lock_cool_off_period, 72)?;
        if mode == Mode::Governance && cool_off.is_some() {
            return Err(Error::invalid("a lock in governance mode has no cooling-off period")
                .with_hint("leave out --aws-snapshot-lock-cool-off-period, or lock in compliance mode"));
        }
        let days = range("lock_duration", options.lock_duration, 36500)?;
        let until = match (days, options.lock_expiration_date.as_deref()) {
            (Some(days), None) => Until::Days(days),
            (None, Some(date)) => Until::Date(parse_date(date)?),
            (Some(_), Some(_)) => {
                return Err(Error::invalid("lock_duration and lock_expiration_date exclude each other")
                    .with_hint("give one of --aws-snapshot-lock-duration and --aws-snapshot-lock-expiration-date"));
            }
            (None, None) => {
                return Err(Error::invalid("lock_mode needs lock_duration or lock_expiration_date")
                    .with_hint("give --aws-snapshot-lock-duration or --aws-snapshot-lock-expiration-date"));
            }
        };
        Ok(Some(Self { mode, cool_off, until }))
    }

    /// Refuses a date that has passed.
    pub(super) fn check(&self, now: DateTime<Utc>) -> Result<()> {
        match &self.until {
            Until::Date(date) if *date <= now => {
                Err(Error::invalid(format!("the snapshots would be locked until {date}, which has passed")))
            }
            _ => Ok(()),
        }
    }
}

impl Mode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

/// `YYYY-MM-DDThh:mm:ss.fffZ`; fraction and `Z` have to be there, as for the stock tool.
fn parse_date(text: &str) -> Result<DateTime<Utc>> {
    let digits = text.rsplit_once('.').map(|(_, fraction)| fraction.trim_end_matches('Z').len());
    match NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.fZ") {
        Ok(date) if digits.is_some_and(|digits| (1..=6).contains(&digits)) => Ok(date.and_utc()),
        _ => Err(Error::invalid(format!("not a date for a lock: {text:?}"))
            .with_hint("it looks like 2027-01-31T12:00:00.000Z")),
    }
}

impl AwsProvider {
    /// Locks a snapshot and its copies; the ticket then tells mode and end. One that is locked already stays as it is.
    pub(super) async fn lock(&self, ticket: &Ticket, lock: &Lock) -> Result<Ticket> {
        let mut ends = None;
        for (region, id) in copies::with_original(ticket)? {
            let end = lock_one(&self.clients.region(&region), &id, lock).await?;
            ends = ends.max(end);
        }
        let mut ticket = ticket.clone();
        ticket.attributes.insert(LOCK_MODE.to_owned(), lock.mode.as_str().to_owned());
        ticket.attributes.extend(ends.map(|end| (LOCK_EXPIRES.to_owned(), end)));
        Ok(ticket)
    }

    /// An error that names every snapshot among these (and their copies) which is locked, and until when.
    pub(super) async fn check_locks(&self, tickets: &[Ticket]) -> Result<()> {
        let mut by_region: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for ticket in tickets {
            let region = self.clients.of(&ticket.attributes)?.region;
            by_region.entry(region).or_default().push(ticket.snapshot.clone());
            for (region, id) in copies::recorded(ticket)? {
                by_region.entry(region).or_default().push(id);
            }
        }
        let mut locked = Vec::new();
        for (region, ids) in by_region {
            let ec2 = self.clients.region(&region);
            let found = match locks(&ec2, &ids).await {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    // Then nobody here has locked anything; a lock of somebody else shows when the snapshot is deleted.
                    tracing::warn!(error = error.chain(), "cannot see whether snapshots are locked");
                    continue;
                }
                found => found?,
            };
            locked.extend(found.iter().filter(|info| holds(info, self.clock.now())).map(describe));
        }
        match locked.is_empty() {
            true => Ok(()),
            false => Err(Error::precondition(format!("locked: {}", locked.join(", "))).with_hint(
                "it can be deleted when the lock has expired; one in governance mode can be lifted with \
                 aws ec2 unlock-snapshot",
            )),
        }
    }
}

/// Locks one; returns until when.
async fn lock_one(ec2: &Ec2, id: &str, lock: &Lock) -> Result<Option<String>> {
    let wanted = LockMode::from(lock.mode.as_str());
    let is_so = |info: &&LockedSnapshotsInfo| match info.lock_state() {
        Some(LockState::Governance) => wanted == LockMode::Governance,
        Some(LockState::Compliance | LockState::ComplianceCooloff) => wanted == LockMode::Compliance,
        _ => false,
    };
    if let Some(info) = locks(ec2, &[id.to_owned()]).await?.iter().find(is_so) {
        return Ok(info.lock_expires_on().and_then(text));
    }
    let done = call(ec2, id, lock)
        .send()
        .await
        .map_err(|error| ec2.change("LockSnapshot", format!("lock snapshot {id}")).failed(error))?;
    Ok(done.lock_expires_on().and_then(text))
}

fn call(ec2: &Ec2, id: &str, lock: &Lock) -> LockSnapshotFluentBuilder {
    let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    let mode = LockMode::from(lock.mode.as_str());
    let call = ec2.api.lock_snapshot().snapshot_id(id).lock_mode(mode).set_cool_off_period(lock.cool_off.map(number));
    match &lock.until {
        Until::Days(days) => call.lock_duration(number(*days)),
        Until::Date(date) => call.expiration_date(Ec2Time::from_millis(date.timestamp_millis())),
    }
}

/// Whether this snapshot might be locked.
pub(super) async fn dry(ec2: &Ec2, snapshot: &Snapshot, lock: &Lock) -> Result<()> {
    let id = snapshot.snapshot_id().unwrap_or_default();
    let answer = call(ec2, id, lock).dry_run(true).send().await;
    only_permission(ec2.look("LockSnapshot", format!("lock snapshot {id}")).dry(answer))
}

/// The locks on these snapshots. One that does not exist has none.
async fn locks(ec2: &Ec2, ids: &[String]) -> Result<Vec<LockedSnapshotsInfo>> {
    let asked = ask(ec2, ids).await?;
    if let Some(found) = asked {
        return Ok(found);
    }
    // One of them is gone, and EC2 says no more than that.
    let each = join_all(ids.iter().map(|id| ask(ec2, std::slice::from_ref(id)))).await;
    let mut found = Vec::new();
    for one in each {
        found.extend(one?.unwrap_or_default());
    }
    Ok(found)
}

async fn ask(ec2: &Ec2, ids: &[String]) -> Result<Option<Vec<LockedSnapshotsInfo>>> {
    match ec2.api.describe_locked_snapshots().set_snapshot_ids(Some(ids.to_vec())).send().await {
        Ok(answer) => Ok(Some(answer.snapshots().to_vec())),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(ec2.look("DescribeLockedSnapshots", "see which snapshots are locked").failed(error)),
    }
}

/// Whether a lock keeps its snapshot from being deleted.
fn holds(info: &LockedSnapshotsInfo, now: DateTime<Utc>) -> bool {
    let ended = info.lock_expires_on().is_some_and(|end| end.secs() <= now.timestamp());
    let state = info.lock_state();
    !ended && state.is_some_and(|state| *state != LockState::Expired)
}

fn describe(info: &LockedSnapshotsInfo) -> String {
    let id = info.snapshot_id().unwrap_or_default();
    let state = info.lock_state().map(LockState::as_str).unwrap_or_default();
    match info.lock_expires_on().and_then(text) {
        Some(end) => format!("{id} ({state}, until {end})"),
        None => format!("{id} ({state})"),
    }
}

fn text(time: &Ec2Time) -> Option<String> {
    time.fmt(Format::DateTime).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mode: &str, cool_off: Option<u32>, days: Option<u32>, date: Option<&str>) -> AwsOptions {
        AwsOptions {
            lock_mode: (!mode.is_empty()).then(|| mode.to_owned()),
            lock_cool_off_period: cool_off,
            lock_duration: days,
            lock_expiration_date: date.map(str::to_owned),
            ..AwsOptions::default()
        }
    }

    const DATE: &str = "2027-01-31T12:00:00.000Z";

    #[test]
    fn what_fits_together_is_taken() {
        assert_eq!(Lock::from_options(&AwsOptions::default()).unwrap(), None);
        let lock = |o: AwsOptions| Lock::from_options(&o).unwrap().unwrap();
        let days = lock(options("governance", None, Some(7), None));
        assert_eq!((days.mode, days.until.clone()), (Mode::Governance, Until::Days(7)));
        let date = lock(options("compliance", Some(72), None, Some(DATE)));
        assert_eq!(date.until, Until::Date("2027-01-31T12:00:00Z".parse().unwrap()));
        for lock in [days, date] {
            let stored = serde_json::to_string(&lock).unwrap();
            assert_eq!(serde_json::from_str::<Lock>(&stored).unwrap(), lock);
        }
    }

    #[test]
    fn what_does_not_is_refused() {
        for (options, why) in [
            (options("governance", Some(1), Some(7), None), "no cooling-off"),
            (options("governance", None, Some(7), Some(DATE)), "exclude each other"),
            (options("governance", None, None, None), "needs"),
            (options("compliance", Some(3), None, None), "needs"),
            (options("", None, Some(7), None), "lock_duration without lock_mode"),
            (options("", Some(7), None, None), "lock_cool_off_period without lock_mode"),
            (options("", None, None, Some(DATE)), "lock_expiration_date without lock_mode"),
            (options("both", None, Some(7), None), "not \"both\""),
            (options("compliance", Some(73), Some(7), None), "1 to 72"),
            (options("compliance", None, Some(0), None), "1 to 36500"),
            (options("compliance", None, Some(36501), None), "1 to 36500"),
        ] {
            let error = Lock::from_options(&options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_date_has_fraction_and_zone() {
        for date in ["2027-01-31", "2027-01-31T12:00:00Z", "2027-01-31T12:00:00.000", "2027-02-30T12:00:00.000Z", "x"] {
            assert!(parse_date(date).is_err(), "{date}");
        }
        assert!(parse_date("2027-01-31T12:00:00.5Z").is_ok());
    }

    #[test]
    fn a_date_that_has_passed_is_refused() {
        let lock = Lock::from_options(&options("governance", None, None, Some(DATE))).unwrap().unwrap();
        assert!(lock.check("2027-01-31T11:59:59Z".parse().unwrap()).is_ok());
        assert!(lock.check("2027-01-31T12:00:00Z".parse().unwrap()).is_err());
    }

    #[test]
    fn only_a_lock_that_has_not_ended_holds() {
        let info = |state: LockState, end: i64| {
            LockedSnapshotsInfo::builder().lock_state(state).lock_expires_on(Ec2Time::from_secs(end)).build()
        };
        let now = DateTime::from_timestamp(1000, 0).unwrap();
        assert!(holds(&info(LockState::Governance, 1001), now));
        assert!(holds(&info(LockState::ComplianceCooloff, 1001), now));
        assert!(!holds(&info(LockState::Governance, 1000), now));
        assert!(!holds(&info(LockState::Expired, 1001), now));
        // The end of a lock on a pending snapshot is not known yet.
        assert!(holds(&LockedSnapshotsInfo::builder().lock_state(LockState::Governance).build(), now));
    }
}
