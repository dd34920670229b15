//! Whose credentials these are.
//!
//! EC2 says of a private snapshot of another account what it says of one that was deleted: `InvalidSnapshot.NotFound`. With the
//! wrong credentials all backups would look as if they were gone, and be forgotten while their snapshots go on costing money. So
//! «not found» counts only in the account that the ticket names. Who we are is asked of STS, which needs no permission
//! (<https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html>), once, and only when something is missing.

use super::client::Ec2;
use super::errors::Call;
use super::{ACCOUNT, AwsProvider};
use crate::error::{Error, Result};
use crate::provider::Ticket;

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
