//! Kind, performance and key of a volume that is made of a snapshot: those of the original, unless the user wants others.
//!
//! A number of the original goes with its kind: whoever asks for another kind gets that one's defaults. Encryption follows from
//! the snapshot (<https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption.html>). Pure.

use aws_sdk_ec2::types::VolumeType;

use super::{IOPS, KMS_KEY, MULTI_ATTACH, REGION, THROUGHPUT, VOLUME_TYPE};
use crate::error::{Error, Result};
use crate::provider::options::AwsOptions;
use crate::provider::{Instance, Outlook, Ticket};

/// What a volume is made like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: VolumeType,
    pub(super) iops: Option<i32>,
    pub(super) throughput: Option<i32>,
    pub(super) key: Option<String>,
    /// MiB per second.
    pub(super) initialization_rate: Option<i32>,
}

/// Whether operations per second can be asked for.
fn has_iops(kind: &VolumeType) -> bool {
    matches!(kind, VolumeType::Gp3 | VolumeType::Io1 | VolumeType::Io2)
}

/// Checks the options that need no cloud for it.
pub(super) fn check(options: &AwsOptions) -> Result<()> {
    match options.volume_initialization_rate {
        Some(rate) if !(100..=300).contains(&rate) => {
            Err(Error::invalid(format!("the initialization rate of a volume is 100 to 300 MiB/s, not {rate}")))
        }
        _ => Ok(()),
    }
}

impl Shape {
    /// The shape of a volume of this snapshot.
    pub(super) fn of(ticket: &Ticket, options: &AwsOptions) -> Self {
        let original = ticket.attributes.get(VOLUME_TYPE);
        let kind = options.volume_type.as_ref().or(original).map_or(VolumeType::Gp3, |kind| kind.as_str().into());
        let is_same = original.is_some_and(|original| original == kind.as_str());
        let number = |asked: Option<u32>, key: &str| {
            let recorded = || ticket.attributes.get(key).filter(|_| is_same)?.parse().ok();
            asked.and_then(|asked| i32::try_from(asked).ok()).or_else(recorded)
        };
        Self {
            iops: number(options.volume_iops, IOPS).filter(|_| has_iops(&kind)),
            throughput: number(options.volume_throughput, THROUGHPUT).filter(|_| kind == VolumeType::Gp3),
            key: options.volume_kms_key_id.clone(),
            initialization_rate: options.volume_initialization_rate.and_then(|rate| i32::try_from(rate).ok()),
            kind,
        }
    }

    /// In words, and what the original had beyond it.
    pub(super) fn outlook(&self, ticket: &Ticket, instance: &Instance) -> Outlook {
        let mut like = vec![self.kind.as_str().to_owned()];
        like.extend(self.iops.map(|iops| format!("{iops} IOPS")));
        like.extend(self.throughput.map(|throughput| format!("{throughput} MiB/s")));
        like.extend(self.key.as_ref().map(|key| format!("key {key}")));
        like.extend(self.initialization_rate.map(|rate| format!("filled at {rate} MiB/s")));
        let mut lost = Vec::new();
        let recorded = |key: &str| ticket.attributes.get(key);
        if recorded(MULTI_ATTACH).is_some() {
            lost.push("it cannot be attached to several instances (multi-attach)".to_owned());
        }
        if let (Some(key), Some(from), Some(to), None) =
            (recorded(KMS_KEY), recorded(REGION), instance.attributes.get(REGION), &self.key)
            && from != to
        {
            lost.push(format!("the key {key} is of {from}; it has the one of the copy in {to}"));
        }
        Outlook { like: like.join(", "), lost }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(attributes: &[(&str, &str)]) -> Ticket {
        let attributes: std::collections::BTreeMap<_, _> = attributes.iter().copied().collect();
        let json = serde_json::json!({
            "snapshot": "snap-1", "name": "n", "volume": "v", "root": "/", "method": "ebs",
            "token": "0".repeat(32), "attributes": attributes,
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_volume_is_as_the_original_unless_asked_otherwise() {
        let original = ticket(&[(VOLUME_TYPE, "io2"), (IOPS, "9000"), (THROUGHPUT, "500")]);
        let none = AwsOptions::default();
        let shape = Shape::of(&original, &none);
        assert_eq!((shape.kind.as_str(), shape.iops, shape.throughput), ("io2", Some(9000), None));
        let gp3 = AwsOptions { volume_type: Some("gp3".into()), ..none.clone() };
        let shape = Shape::of(&original, &gp3);
        assert_eq!((shape.iops, shape.throughput), (None, None), "numbers go with their kind");
        let asked = AwsOptions { volume_iops: Some(4000), volume_throughput: Some(250), ..gp3 };
        let shape = Shape::of(&original, &asked);
        assert_eq!((shape.iops, shape.throughput), (Some(4000), Some(250)));
        assert_eq!(Shape::of(&ticket(&[(VOLUME_TYPE, "st1"), (IOPS, "500")]), &none).iops, None);
        assert_eq!(Shape::of(&ticket(&[]), &none).kind, VolumeType::Gp3);
    }

    #[test]
    fn what_cannot_be_given_back_is_told() {
        let here =
            |region: &str| Instance { name: "i".into(), attributes: [(REGION.to_owned(), region.to_owned())].into() };
        let original =
            ticket(&[(VOLUME_TYPE, "io2"), (IOPS, "9000"), (MULTI_ATTACH, "true"), (KMS_KEY, "k"), (REGION, "a")]);
        let shape = Shape::of(&original, &AwsOptions::default());
        let outlook = shape.outlook(&original, &here("b"));
        assert_eq!(outlook.like, "io2, 9000 IOPS");
        assert_eq!(outlook.lost.len(), 2, "{outlook:?}");
        assert_eq!(shape.outlook(&original, &here("a")).lost.len(), 1);
    }

    #[test]
    fn a_rate_out_of_range_is_refused() {
        let rate = |rate| check(&AwsOptions { volume_initialization_rate: rate, ..AwsOptions::default() });
        assert!(rate(None).is_ok() && rate(Some(100)).is_ok() && rate(Some(300)).is_ok());
        assert!(rate(Some(99)).is_err() && rate(Some(301)).is_err());
    }
}
