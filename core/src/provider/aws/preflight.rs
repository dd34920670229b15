//! What can be known before a backup starts: names, tags, limits, permissions.
//!
//! Permissions are asked for by dry runs: `DryRun` makes EC2 check a request against the policies of the caller and do nothing
//! (<https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html>). For creations that is exact, as the
//! request is the one that will be made. A policy may allow the rest only for snapshots with our tags
//! (`docs/permissions/aws.md` does); that can only be asked about a snapshot that exists, so it is asked about an older one.

use std::collections::BTreeMap;

use aws_sdk_ec2::types::Snapshot;
use futures::future::join_all;

use super::client::Ec2;
use super::snapshots::{search, volume_id};
use super::{AwsProvider, VOLUME_TYPE, after, group, instance, names};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{CreateRequest, Findings, VolumeSnapshot};

/// How many pending snapshots a volume of this kind may have
/// (<https://docs.aws.amazon.com/ebs/latest/userguide/ebs-resource-quotas.html>).
fn most_pending(kind: Option<&str>) -> usize {
    if matches!(kind, Some("st1" | "sc1")) { 1 } else { 5 }
}

impl AwsProvider {
    /// Everything that must not fail later; the first error ends it.
    pub(super) async fn check(&self, requests: &[CreateRequest]) -> Result<()> {
        names::check(requests)?;
        self.check_lock(requests)?;
        self.check_pending(requests).await?;
        self.check_creating(requests).await?;
        self.check_regions(requests).await
    }

    /// For `check`: the same, line by line, and permissions that only an older snapshot can tell of.
    pub(super) async fn look_at_requests(&self, requests: &[CreateRequest]) -> Findings {
        let mut findings = Findings::default();
        findings.take("names and tags", names::check(requests), |()| "as AWS wants them".to_owned());
        if requests.iter().any(|request| wants(request).is_ok_and(|wanted| wanted.lock.is_some())) {
            findings.take("lock", self.check_lock(requests), |()| "possible".to_owned());
        }
        findings.take("pending snapshots", self.check_pending(requests).await, |()| "room for one more".to_owned());
        let creating = self.check_creating(requests).await;
        findings.take("permission to take snapshots", creating, |()| "a dry run would have succeeded".to_owned());
        findings.take("regions of copies", self.check_regions(requests).await, |()| "all answer".to_owned());
        self.look_at_older(requests, &mut findings).await;
        findings
    }

    fn check_lock(&self, requests: &[CreateRequest]) -> Result<()> {
        for request in requests {
            if let Some(lock) = wants(request)?.lock {
                lock.check(self.clock.now())?;
            }
        }
        Ok(())
    }

    /// Refuses volumes that have as many pending snapshots as they may.
    async fn check_pending(&self, requests: &[CreateRequest]) -> Result<()> {
        let mut full = Vec::new();
        for (region, volumes) in by_region(self, requests)? {
            let ids: Vec<String> =
                volumes.iter().filter_map(|one| volume_id(&one.volume).ok()).map(str::to_owned).collect();
            let of_these = group::values("volume-id", ids);
            let pending = search(&self.clients.region(&region), [of_these, names::filter("status", "pending")]).await?;
            for one in volumes {
                let id = volume_id(&one.volume)?;
                let count = pending.iter().filter(|snapshot| snapshot.volume_id() == Some(id)).count();
                let most = most_pending(one.volume.attributes.get(VOLUME_TYPE).map(String::as_str));
                if count >= most {
                    full.push(format!("{} ({count} of {most})", one.volume.id));
                }
            }
        }
        if full.is_empty() {
            return Ok(());
        }
        let message = format!("as many pending snapshots as there may be: {}", full.join(", "));
        Err(Error::new(ErrorKind::Exhausted, message).with_hint("wait until one is complete, or delete one"))
    }

    /// Dry runs of the calls that take snapshots.
    async fn check_creating(&self, requests: &[CreateRequest]) -> Result<()> {
        after::all(join_all(requests.iter().map(|request| self.dry_create(request))).await).map(drop)
    }

    async fn dry_create(&self, request: &CreateRequest) -> Result<()> {
        if let [one] = request.volumes.as_slice() {
            let ec2 = self.clients.of(&one.volume.attributes)?;
            let call = ec2.api.create_snapshot().volume_id(volume_id(&one.volume)?).dry_run(true);
            let answer = call.tag_specifications(names::for_snapshot(request, Some(&one.name))).send().await;
            return ec2.look("CreateSnapshot", format!("take a snapshot of {}", one.volume.id)).dry(answer);
        }
        let ec2 = self.clients.of(&request.instance.attributes)?;
        let instance_id = instance::id(&request.instance)?;
        let wanted = group::wanted_ids(request)?;
        let attached = group::data_volumes(&ec2, instance_id).await?;
        let others = attached.into_iter().filter(|id| !wanted.contains(id.as_str())).collect();
        let call = ec2.api.create_snapshots().instance_specification(group::specification(instance_id, others));
        let answer = call.tag_specifications(names::for_snapshot(request, None)).dry_run(true).send().await;
        ec2.look("CreateSnapshots", format!("take snapshots of the volumes of {instance_id}")).dry(answer)
    }

    /// Asks a region of copies anything, so that a wrong name is found before the backup and not after it.
    async fn check_regions(&self, requests: &[CreateRequest]) -> Result<()> {
        for request in requests {
            for region in wants(request)?.copy_to {
                let ec2 = self.clients.region(&region);
                let token = names::filter(&super::snapshots::token_filter(), request.token.as_str());
                search(&ec2, [token]).await.map_err(|error| {
                    let what = format!("snapshots cannot be copied to {region}");
                    Error::new(error.kind(), what).with_retry(error.retry()).with_source(error)
                })?;
            }
        }
        Ok(())
    }

    /// Dry runs with a snapshot of an earlier backup of this server.
    async fn look_at_older(&self, requests: &[CreateRequest], findings: &mut Findings) {
        let Some(request) = requests.first() else { return };
        let older = async {
            let ec2 = self.clients.of(&request.instance.attributes)?;
            let found = search(&ec2, [names::filter(&format!("tag:{}", names::MARK), &request.mark)]).await?;
            Ok::<_, Error>(found.into_iter().next().map(|snapshot| (ec2, snapshot)))
        };
        let (ec2, snapshot) = match older.await {
            Ok(Some(found)) => found,
            Ok(None) => {
                findings.good("permission to delete snapshots", "cannot be known before there is one");
                return;
            }
            Err(error) => return findings.error("permission to delete snapshots", &error),
        };
        let told = |(): &()| "a dry run was not refused".to_owned();
        findings.take("permission to delete snapshots", dry_delete(&ec2, &snapshot).await, told);
        if request.volumes.len() > 1 {
            findings.take("permission to name snapshots", dry_name(&ec2, &snapshot).await, told);
        }
        let wanted = wants(request).unwrap_or_default();
        if let Some(lock) = &wanted.lock {
            findings.take("permission to lock snapshots", super::lock::dry(&ec2, &snapshot, lock).await, told);
        }
        for region in &wanted.copy_to {
            let copied = self.dry_copy(&ec2, &snapshot, region, request).await;
            findings.take("permission to copy snapshots", copied, |()| format!("to {region}"));
        }
    }

    async fn dry_copy(&self, home: &Ec2, snapshot: &Snapshot, region: &str, request: &CreateRequest) -> Result<()> {
        let there = self.clients.region(region);
        let call = there.api.copy_snapshot().source_region(&home.region).dry_run(true);
        let call = call.source_snapshot_id(snapshot.snapshot_id().unwrap_or_default());
        let answer = call.tag_specifications(names::for_snapshot(request, None)).send().await;
        only_permission(there.look("CopySnapshot", format!("copy a snapshot to {region}")).dry(answer))
    }
}

async fn dry_delete(ec2: &Ec2, snapshot: &Snapshot) -> Result<()> {
    let id = snapshot.snapshot_id().unwrap_or_default();
    let answer = ec2.api.delete_snapshot().snapshot_id(id).dry_run(true).send().await;
    only_permission(ec2.look("DeleteSnapshot", format!("delete snapshot {id}")).dry(answer))
}

async fn dry_name(ec2: &Ec2, snapshot: &Snapshot) -> Result<()> {
    let id = snapshot.snapshot_id().unwrap_or_default();
    let tag = names::new_tag(names::NAME, "x");
    let answer = ec2.api.create_tags().resources(id).tags(tag).dry_run(true).send().await;
    only_permission(ec2.look("CreateTags", format!("name snapshot {id}")).dry(answer))
}

/// The snapshot that was at hand may be locked or pending: only a missing permission counts.
pub(super) fn only_permission(answer: Result<()>) -> Result<()> {
    match answer {
        Err(error) if error.kind() != ErrorKind::PermissionDenied => Ok(()),
        answer => answer,
    }
}

/// What is wanted beyond the snapshots; the same for all volumes of a backup.
fn wants(request: &CreateRequest) -> Result<after::Wanted> {
    request.volumes.first().map_or_else(|| Ok(after::Wanted::default()), |one| after::Wanted::of(&one.volume))
}

fn by_region<'a>(
    provider: &AwsProvider,
    requests: &'a [CreateRequest],
) -> Result<BTreeMap<String, Vec<&'a VolumeSnapshot>>> {
    let mut regions: BTreeMap<String, Vec<&VolumeSnapshot>> = BTreeMap::new();
    for one in requests.iter().flat_map(|request| &request.volumes) {
        regions.entry(provider.clients.of(&one.volume.attributes)?.region).or_default().push(one);
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_disks_may_have_one_pending_snapshot() {
        assert_eq!((most_pending(Some("st1")), most_pending(Some("gp3")), most_pending(None)), (1, 5, 5));
    }

    #[test]
    fn only_a_missing_permission_is_bad() {
        assert!(only_permission(Err(Error::precondition("locked"))).is_ok());
        assert!(only_permission(Err(Error::new(ErrorKind::PermissionDenied, "no"))).is_err());
    }
}
