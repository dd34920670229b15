//! What a user may say about the snapshots of a cloud. Plain data, known to every build, whatever clouds it has.
//!
//! Each struct is one JSON object of [`EngineOptions`](crate::options::EngineOptions); the command line fills the same ones. The
//! rules between the fields are checked where a provider is opened.

use std::path::PathBuf;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
use std::time::Duration;

use serde::Deserialize;

use crate::catalog::store::AzureCredential;

/// Options of every cloud.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderOptions {
    /// Amazon Web Services.
    pub aws: AwsOptions,
    /// Google Cloud.
    pub gcp: GcpOptions,
    /// Microsoft Azure.
    pub azure: AzureOptions,
    /// A file that describes the host with the disks (`barman-snap describe-host`), when it is not this one.
    pub host_description: Option<PathBuf>,
}

/// Options of Amazon Web Services. What is not given comes from the environment and the files that every AWS tool reads;
/// endpoints from `AWS_ENDPOINT_URL_EC2` and `AWS_ENDPOINT_URL`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AwsOptions {
    /// Profile in the AWS configuration files.
    pub profile: Option<String>,
    /// Region of the instance and its volumes.
    pub region: Option<String>,
    /// `governance` or `compliance`: lock the snapshots when they are complete.
    pub lock_mode: Option<String>,
    /// Hours in which a lock in compliance mode can still be lifted, 1 to 72.
    pub lock_cool_off_period: Option<u32>,
    /// Days for which the snapshots are locked, 1 to 36500.
    pub lock_duration: Option<u32>,
    /// Until when the snapshots are locked (`YYYY-MM-DDThh:mm:ss.fffZ`).
    pub lock_expiration_date: Option<String>,
    /// Regions to copy the snapshots to when they are complete.
    pub copy_to: Vec<String>,
    /// KMS key for the copies.
    pub copy_kms_key_id: Option<String>,
    /// Availability zones in which fast snapshot restore is enabled for the snapshots when they are complete.
    pub fast_restore_zones: Vec<String>,
    /// Kind of restored volumes (`gp3`, `io2`, …), if not that of the original.
    pub volume_type: Option<String>,
    /// Operations per second of restored volumes, if not those of the original.
    pub volume_iops: Option<u32>,
    /// MiB per second of restored volumes, if not those of the original.
    pub volume_throughput: Option<u32>,
    /// KMS key of restored volumes, if not that of the snapshot.
    pub volume_kms_key_id: Option<String>,
    /// MiB per second, 100 to 300, at which restored volumes are filled from their snapshots.
    pub volume_initialization_rate: Option<u32>,
    /// Seconds that one call may take; 30 if not given.
    pub call_timeout_s: Option<u32>,
}

/// Options of Google Cloud. Credentials are the application default ones.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcpOptions {
    /// Project of the instance, its disks and the snapshots.
    pub project: Option<String>,
    /// Zone of the instance.
    pub zone: Option<String>,
    /// Endpoint of the Compute Engine API.
    pub endpoint: Option<String>,
    /// Use no credentials (for an emulator).
    pub anonymous: bool,
    /// Project to store the snapshots in, if it is another one.
    pub snapshot_project: Option<String>,
    /// Where the snapshots are stored: a region or a multi-region.
    pub storage_location: Option<String>,
    /// `standard` or `archive`.
    pub snapshot_type: Option<String>,
    /// Cloud KMS key to encrypt the snapshots with.
    pub kms_key_name: Option<String>,
    /// Type of restored disks (`pd-ssd`, `hyperdisk-balanced`, …), if not that of the original.
    pub disk_type: Option<String>,
    /// Operations per second of restored disks, if not those of the original.
    pub disk_iops: Option<u32>,
    /// MiB per second of restored disks, if not those of the original.
    pub disk_throughput: Option<u32>,
    /// Cloud KMS key of restored disks, if not that of the original.
    pub disk_kms_key: Option<String>,
    /// The two zones of restored disks that are regional; if not given, those of the original.
    pub disk_replica_zones: Vec<String>,
    /// Seconds that one call may take; 30 if not given.
    pub call_timeout_s: Option<u32>,
}

/// Options of Microsoft Azure.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AzureOptions {
    /// Subscription of the virtual machine, its disks and the snapshots.
    pub subscription_id: Option<String>,
    /// Resource group of the virtual machine and the snapshots.
    pub resource_group: Option<String>,
    /// Which kind of credential to use.
    pub credential: Option<AzureCredential>,
    /// Endpoint of the Resource Manager.
    pub endpoint: Option<String>,
    /// Storage of the snapshots: `Standard_LRS`, `Standard_ZRS` or `Premium_LRS`.
    pub snapshot_sku: Option<String>,
    /// Resource id of the disk encryption set for the snapshots.
    pub disk_encryption_set: Option<String>,
    /// Region to copy the snapshots to when they are complete.
    pub copy_to: Option<String>,
    /// Minutes, 60 to 300, for which snapshots of Ultra disks and Premium SSD v2 can be used before all is copied.
    pub instant_access_minutes: Option<u32>,
    /// Kind of restored disks (`Premium_LRS`, `PremiumV2_LRS`, …), if not that of the original.
    pub disk_sku: Option<String>,
    /// Operations per second of restored Ultra disks and Premium SSD v2, if not those of the original.
    pub disk_iops: Option<u32>,
    /// MB per second of restored Ultra disks and Premium SSD v2, if not those of the original.
    pub disk_mbps: Option<u32>,
    /// Performance tier of restored Premium SSDs (`P30`, …), if not that of the original.
    pub disk_tier: Option<String>,
    /// Resource id of the disk encryption set of restored disks, if not that of the original.
    pub restored_disk_encryption_set: Option<String>,
    /// Seconds that one call may take; 30 if not given.
    pub call_timeout_s: Option<u32>,
}

/// How long one call of a cloud may take, by its option. A call that changes something is sent once and gets all of it; a call
/// that only looks is repeated, as each provider says.
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
pub(super) fn call_timeout(seconds: Option<u32>) -> Duration {
    Duration::from_secs(seconds.unwrap_or(30).max(1).into())
}
