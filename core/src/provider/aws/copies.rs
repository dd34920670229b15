//! Copies of snapshots in other regions.
//!
//! `CopySnapshot` is sent to the region of the copy, and has no idempotency token
//! (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CopySnapshot.html>): a copy carries the token of the session and
//! the id of its original as tags, and is looked for before it is made. It is complete when it can be restored without the
//! original; then its region and id stand in the ticket of the original, which is deleted after its copies.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_ec2::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_ec2::types::{ResourceType, Snapshot};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;
use futures::future::join_all;

use super::client::Ec2;
use super::errors::code;
use super::snapshots::{by_id, search, status, token_filter};
use super::{AwsProvider, REGION, after, names};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::provider::{CreateRequest, SnapshotState, Ticket};

/// The attribute of a ticket that tells its copies: `region=snapshot,region=snapshot`.
const COPIES: &str = "copies";

/// How long a copy may take. The first one of a big volume takes many hours, and costs no more for being waited for.
const PATIENCE: Duration = Duration::from_secs(48 * 3600);

/// How often the state of a copy is asked for at the least.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a copy that was started may not show.
const SHOWS_WITHIN: Duration = Duration::from_secs(15);

/// How long a copy that has an id may not show before it counts as lost.
const ABSENT: Duration = Duration::from_secs(60);

/// How often a copy is started whose outcome stays unknown.
const ATTEMPTS: u32 = 3;

/// For how long a signed source can be used; the copy begins at once.
const SIGNED_FOR: Duration = Duration::from_secs(3600);

/// Region and id of each copy that a ticket tells.
pub(super) fn recorded(ticket: &Ticket) -> Result<Vec<(String, String)>> {
    let Some(text) = ticket.attributes.get(COPIES) else { return Ok(Vec::new()) };
    let pair = |text: &str| {
        let (region, id) = text.split_once('=')?;
        (!region.is_empty() && id.starts_with("snap-")).then(|| (region.to_owned(), id.to_owned()))
    };
    text.split(',')
        .map(|one| pair(one).ok_or_else(|| Error::corrupt(format!("no copies of a snapshot: {text:?}"))))
        .collect()
}

/// The copies, and the original.
pub(super) fn with_original(ticket: &Ticket) -> Result<Vec<(String, String)>> {
    let mut all = recorded(ticket)?;
    if let Some(region) = ticket.attributes.get(REGION) {
        all.push((region.clone(), ticket.snapshot.clone()));
    }
    Ok(all)
}

impl AwsProvider {
    /// The ticket with all copies that are wanted, complete.
    pub(super) async fn with_copies(
        &self,
        request: &CreateRequest,
        ticket: &Ticket,
        wanted: &after::Wanted,
    ) -> Result<Ticket> {
        let home = self.clients.of(&ticket.attributes)?.region;
        let regions: Vec<&String> = wanted.copy_to.iter().filter(|region| **region != home).collect();
        if regions.is_empty() {
            return Ok(ticket.clone());
        }
        let key = wanted.copy_key.as_deref();
        let made = join_all(regions.iter().map(|region| self.copy_to(request, ticket, region, key))).await;
        let copies: Vec<String> =
            after::all(made)?.iter().zip(&regions).map(|(id, region)| format!("{region}={id}")).collect();
        let mut ticket = ticket.clone();
        ticket.attributes.insert(COPIES.to_owned(), copies.join(","));
        Ok(ticket)
    }

    /// The id of the copy in a region, when it is complete.
    async fn copy_to(
        &self,
        request: &CreateRequest,
        ticket: &Ticket,
        region: &str,
        key: Option<&str>,
    ) -> Result<String> {
        let there = self.clients.region(region);
        let id = self.begun_copy(request, ticket, &there, key).await?;
        let what = format!("snapshot {id} in {region}, the copy of {}", ticket.snapshot);
        let last_seen = Mutex::new(self.clock.monotonic());
        // For how long it has not shown.
        let absent = |found: Option<&Snapshot>| {
            let now = self.clock.monotonic();
            let mut last = last_seen.lock().unwrap_or_else(PoisonError::into_inner);
            if found.is_some() {
                *last = now;
            }
            now.saturating_sub(*last)
        };
        self.until(&what, PATIENCE, LONGEST_PAUSE, || async {
            let found = by_id(&there, &id).await?;
            let absent = absent(found.as_ref());
            match found.as_ref().map(status).map(|status| status.state) {
                Some(SnapshotState::Ready) => Ok(Some(())),
                Some(SnapshotState::Failed { reason }) => {
                    Err(Error::new(ErrorKind::Provider, format!("{what} failed: {reason}")))
                }
                Some(_) => Ok(None),
                // A new one may not show yet; one that goes on not showing was deleted.
                None if absent >= ABSENT => {
                    let message = format!("{what} does not show");
                    // Not for another question, as `until` would have it, but for another copy.
                    Err(Error::new(ErrorKind::Unavailable, message).with_retry(Retry::Unknown))
                }
                None => Ok(None),
            }
        })
        .await?;
        Ok(id)
    }

    /// The id of the copy that is there, or that is started now. After an unknown outcome it looks for a while before it
    /// starts another one.
    async fn begun_copy(
        &self,
        request: &CreateRequest,
        ticket: &Ticket,
        there: &Ec2,
        key: Option<&str>,
    ) -> Result<String> {
        let what = format!("copy snapshot {} to {}", ticket.snapshot, there.region);
        let mut attempts = 0;
        loop {
            if let Some(id) = self.existing_copy(there, ticket).await? {
                return Ok(id);
            }
            let started = || self.start_copy(request, ticket, there, key);
            let error = match self.until(&what, PATIENCE, LONGEST_PAUSE, started).await {
                Ok(id) => return Ok(id),
                Err(error) => error,
            };
            attempts += 1;
            if error.retry() != Retry::Unknown || attempts == ATTEMPTS {
                return Err(error);
            }
            tracing::warn!(error = error.chain(), "a copy may have been started; looking for it");
            let look = || self.existing_copy(there, ticket);
            match self.until(&what, SHOWS_WITHIN, LONGEST_PAUSE, look).await {
                Ok(id) => return Ok(id),
                Err(none) => tracing::debug!(error = none.chain(), "it was not"),
            }
        }
    }

    /// The copy that an earlier attempt has made. What failed, and what is there twice, is deleted.
    async fn existing_copy(&self, there: &Ec2, ticket: &Ticket) -> Result<Option<String>> {
        let filters = [
            names::filter(&token_filter(), ticket.token.as_str()),
            names::filter(&format!("tag:{}", names::SOURCE), &ticket.snapshot),
        ];
        let mut found = search(there, filters).await?;
        found.sort_by(|a, b| a.snapshot_id().cmp(&b.snapshot_id()));
        let usable = |snapshot: &&Snapshot| !matches!(status(snapshot).state, SnapshotState::Failed { .. });
        let kept = found.iter().find(usable).and_then(Snapshot::snapshot_id).map(str::to_owned);
        for snapshot in &found {
            let Some(id) = snapshot.snapshot_id().filter(|id| Some(*id) != kept.as_deref()) else { continue };
            let deleted = there.api.delete_snapshot().snapshot_id(id).send().await;
            deleted.map_err(|error| there.change("DeleteSnapshot", format!("delete snapshot {id}")).failed(error))?;
        }
        Ok(kept)
    }

    /// Starts a copy; none if as many as the region allows are under way.
    async fn start_copy(
        &self,
        request: &CreateRequest,
        ticket: &Ticket,
        there: &Ec2,
        key: Option<&str>,
    ) -> Result<Option<String>> {
        let home = self.clients.of(&ticket.attributes)?;
        let backup_id = request.backup_id.to_string();
        let ours = [
            (names::NAME, ticket.name.as_str()),
            (names::TOKEN, ticket.token.as_str()),
            (names::MARK, &request.mark),
            (names::BACKUP, &backup_id),
            (names::SOURCE, &ticket.snapshot),
        ];
        let theirs = request.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let reply = there
            .api
            .copy_snapshot()
            .source_region(&home.region)
            .source_snapshot_id(&ticket.snapshot)
            .destination_region(&there.region)
            .presigned_url(self.signed_source(&home.region, &there.region, &ticket.snapshot).await?)
            .set_kms_key_id(key.map(str::to_owned))
            .set_encrypted(key.map(|_| true))
            .description(format!("copy of {} in {}", ticket.snapshot, home.region))
            .tag_specifications(names::specification(ResourceType::Snapshot, ours.into_iter().chain(theirs)))
            .customize()
            .config_override(there.once())
            .send()
            .await;
        let doing = || format!("copy snapshot {} to {}", ticket.snapshot, there.region);
        match reply {
            Ok(reply) => match reply.snapshot_id() {
                Some(id) => Ok(Some(id.to_owned())),
                None => Err(Error::new(ErrorKind::Provider, format!("cannot {}: EC2 tells no id", doing()))),
            },
            // 20 at once in a region, not adjustable: their end is near.
            Err(error) if code(&error) == Some("ResourceLimitExceeded") => Ok(None),
            Err(error) => Err(there.make("CopySnapshot", doing()).failed(error)),
        }
    }

    /// The request by which the region of the copy fetches the original, signed in our name. EC2 wants it for encrypted
    /// snapshots, and the SDK for Rust does not make it by itself as those for other languages do.
    async fn signed_source(&self, from: &str, to: &str, snapshot: &str) -> Result<String> {
        let internal = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::internal("cannot sign the source of a copy").with_source(error)
        };
        let params = Params::builder().region(from).build().map_err(|error| internal(error.into()))?;
        let endpoint = DefaultResolver::new().resolve_endpoint(&params).await.map_err(internal)?;
        let mut url = url::Url::parse(endpoint.url()).map_err(|error| internal(error.into()))?;
        url.query_pairs_mut()
            .append_pair("Action", "CopySnapshot")
            .append_pair("Version", "2016-11-15")
            .append_pair("SourceRegion", from)
            .append_pair("SourceSnapshotId", snapshot)
            .append_pair("DestinationRegion", to);
        let identity = self.clients.identity().await?;
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(SIGNED_FOR);
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(from)
            .name("ec2")
            .time(self.clock.now().into())
            .settings(settings)
            .build()
            .map_err(|error| internal(error.into()))?
            .into();
        let request = SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))
            .map_err(|error| internal(error.into()))?;
        let (signed, _) = sign(request, &params).map_err(|error| internal(error.into()))?.into_parts();
        for (name, value) in signed.params() {
            url.query_pairs_mut().append_pair(name, value);
        }
        Ok(url.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(copies: Option<&str>) -> Ticket {
        let mut ticket: Ticket = serde_json::from_str(
            r#"{"snapshot":"snap-0","name":"n","volume":"v","root":"/","method":"ebs",
                "token":"0123456789abcdef0123456789abcdef","attributes":{"region":"eu-west-1"}}"#,
        )
        .unwrap();
        ticket.attributes.extend(copies.map(|text| (COPIES.to_owned(), text.to_owned())));
        ticket
    }

    #[test]
    fn a_ticket_tells_its_copies() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(recorded(&ticket(None)).unwrap(), []);
        let two = ticket(Some("us-east-1=snap-1,eu-central-1=snap-2"));
        assert_eq!(recorded(&two).unwrap(), [pair("us-east-1", "snap-1"), pair("eu-central-1", "snap-2")]);
        assert_eq!(with_original(&two).unwrap().last(), Some(&pair("eu-west-1", "snap-0")));
        for bad in ["", "x", "us-east-1=", "=snap-1", "us-east-1=snap-1,"] {
            assert_eq!(recorded(&ticket(Some(bad))).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }
}
