//! Whose credentials these are.
//!
//! EC2 says of a private snapshot of another account what it says of one that was deleted: `InvalidSnapshot.NotFound`. With the
//! wrong credentials all backups would look as if they were gone, and be forgotten while their snapshots go on costing money. So
//! «not found» counts only in the account that the ticket names. Who we are is asked of STS, which needs no permission
//! (<https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>), once, and only when something is missing.

use std::collections::BTreeSet;

use super::client::Ec2;
use super::errors::Call;
use super::{ACCOUNT, AwsProvider, REGION};
use crate::error::{Error, Result};
use crate::provider::{Instance, Ticket, Volume};

impl AwsProvider {
    /// Nothing, if a snapshot of this ticket that EC2 does not find is gone.
    ///
    /// # Errors
    /// If it is of another account than ours, or ours cannot be told.
    pub(super) async fn check_gone(&self, ec2: &Ec2, id: &str, ticket: &Ticket) -> Result<()> {
        // Tickets of old had no account; there is nothing to compare.
        let Some(theirs) = ticket.attributes.get(ACCOUNT) else { return Ok(()) };
        let ours = self.account.get_or_try_init(|| self.ask_account(ec2)).await?;
        compare(id, theirs, ours)
    }

    /// Why the snapshots of these volumes cannot be seen, if they cannot: by credentials of another account nothing is found,
    /// and a region may not answer or not permit to look.
    pub(super) async fn why_unseen(&self, instance: &Instance, volumes: &[Volume]) -> Result<Option<String>> {
        let recorded = || volumes.iter().map(|volume| &volume.attributes).chain([&instance.attributes]);
        let mut regions: BTreeSet<String> = recorded().filter_map(|one| one.get(REGION).cloned()).collect();
        if regions.is_empty() {
            regions.insert(self.clients.here()?.region);
        }
        let account = recorded().find_map(|one| one.get(ACCOUNT));
        for region in &regions {
            let ec2 = self.clients.region(region);
            if let Some(theirs) = account {
                let of = format!("its snapshots are of AWS account {theirs} in {region}");
                match self.account.get_or_try_init(|| self.ask_account(&ec2)).await {
                    Ok(ours) if ours == theirs => {}
                    Ok(ours) => return Ok(Some(format!("{of}, and these credentials are of account {ours}"))),
                    Err(error) => return Ok(Some(format!("{of}: {}", error.chain()))),
                }
            }
            let asked = ec2.api.describe_snapshots().owner_ids("self").dry_run(true).send().await;
            if let Err(error) = ec2.look("DescribeSnapshots", format!("look for snapshots in {region}")).dry(asked) {
                return Ok(Some(error.chain()));
            }
        }
        Ok(None)
    }

    /// For a look that has found nothing: whether that says anything.
    ///
    /// # Errors
    /// If the volumes are of another account than the credentials, or that cannot be told.
    pub(super) async fn check_nothing(&self, volumes: &[Volume]) -> Result<()> {
        let Some(volume) = volumes.iter().find(|volume| volume.attributes.contains_key(ACCOUNT)) else {
            return Ok(());
        };
        let ec2 = self.clients.of(&volume.attributes)?;
        let ours = self.account.get_or_try_init(|| self.ask_account(&ec2)).await?;
        match volume.attributes.get(ACCOUNT).filter(|theirs| *theirs != ours) {
            None => Ok(()),
            Some(theirs) => {
                let message = format!(
                    "volume {} is of account {theirs}, and these credentials are of account {ours}: what they do not see may \
                     be there",
                    volume.id
                );
                Err(Error::precondition(message)
                    .with_hint(format!("use credentials of account {theirs}; see --aws-profile")))
            }
        }
    }

    async fn ask_account(&self, ec2: &Ec2) -> Result<String> {
        let call = Call { service: "STS", ..ec2.look("GetCallerIdentity", "ask of which account the credentials are") };
        let answer = self.clients.sts(&ec2.region).get_caller_identity().send().await;
        let hint = "without it, what is gone cannot be told from what is of another account; see AWS_ENDPOINT_URL_STS";
        match answer {
            Ok(answer) => answer.account().map(str::to_owned).ok_or_else(|| Error::internal("STS tells no account")),
            Err(error) => {
                let error = call.failed(error);
                Err(if error.hint().is_none() { error.with_hint(hint) } else { error })
            }
        }
    }
}

fn compare(id: &str, theirs: &str, ours: &str) -> Result<()> {
    if theirs == ours {
        return Ok(());
    }
    let message = format!("snapshot {id} is of account {theirs}, and these credentials are of account {ours}");
    Err(Error::precondition(message).with_hint(format!("use credentials of account {theirs}; see --aws-profile")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_another_account_has_is_not_gone() {
        assert!(compare("snap-1", "123456789012", "123456789012").is_ok());
        let error = compare("snap-1", "123456789012", "210987654321").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition);
        assert!(error.message().contains("of account 123456789012, and these credentials are of account 210987654321"));
    }
}
