//! Options of the clouds. Names are those of the `barman-cloud-*` tools wherever one exists, old names are kept as aliases.

use std::path::PathBuf;

use barman_snap::provider::options::{AwsOptions, AzureOptions, GcpOptions};
use clap::Args;

/// Options of the cloud providers.
#[derive(Debug, Args)]
pub(crate) struct CloudArgs {
    #[command(flatten)]
    aws: AwsArgs,
    #[command(flatten)]
    gcp: GcpArgs,
    #[command(flatten)]
    azure: AzureArgs,
    /// Description of the host with the disks (from describe-host there), when it is not this one
    #[arg(long, value_name = "FILE", help_heading = "Snapshots")]
    pub(crate) host_description: Option<PathBuf>,
    /// Seconds that one call of a cloud may take [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Snapshots")]
    call_timeout: Option<u32>,
}

impl CloudArgs {
    /// The options of each cloud as the engine takes them.
    pub(crate) fn options(&self) -> (AwsOptions, GcpOptions, AzureOptions) {
        let (mut aws, mut gcp, mut azure) = (self.aws.options(), self.gcp.options(), self.azure.options());
        for limit in [&mut aws.call_timeout_s, &mut gcp.call_timeout_s, &mut azure.call_timeout_s] {
            *limit = self.call_timeout;
        }
        (aws, gcp, azure)
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Snapshots on AWS (profile and region: --aws-profile, --aws-region)")]
struct AwsArgs {
    /// Lock the snapshots when they are complete; needs a duration or an expiration date
    #[arg(long, value_name = "MODE", value_parser = ["governance", "compliance"])]
    aws_snapshot_lock_mode: Option<String>,
    /// Hours in which a lock in compliance mode can still be lifted: 1 to 72 (not in governance mode)
    #[arg(long, value_name = "HOURS", value_parser = clap::value_parser!(u32).range(1..=72))]
    aws_snapshot_lock_cool_off_period: Option<u32>,
    /// Days for which the snapshots are locked: 1 to 36500
    #[arg(long, value_name = "DAYS", conflicts_with = "aws_snapshot_lock_expiration_date",
          value_parser = clap::value_parser!(u32).range(1..=36500))]
    aws_snapshot_lock_duration: Option<u32>,
    /// Until when the snapshots are locked: YYYY-MM-DDThh:mm:ss.fffZ
    #[arg(long, value_name = "TIME")]
    aws_snapshot_lock_expiration_date: Option<String>,
    /// Region to copy the snapshots to when they are complete (repeat for several)
    #[arg(long, value_name = "REGION")]
    aws_copy_to: Vec<String>,
    /// KMS key for the copies, a key or alias in the region of each (with --aws-copy-to)
    #[arg(long, value_name = "KEY", requires = "aws_copy_to")]
    aws_copy_kms_key_id: Option<String>,
    /// Availability zone in which fast snapshot restore is enabled when the snapshots are complete (repeat for several)
    #[arg(long, value_name = "ZONE")]
    aws_fast_restore_zone: Vec<String>,
    /// Kind of restored volumes, if not that of the original: gp3, io2 …
    #[arg(long, value_name = "TYPE")]
    aws_volume_type: Option<String>,
    /// Operations per second of restored volumes, if not those of the original
    #[arg(long, value_name = "NUMBER")]
    aws_volume_iops: Option<u32>,
    /// MiB per second of restored gp3 volumes, if not those of the original
    #[arg(long, value_name = "NUMBER")]
    aws_volume_throughput: Option<u32>,
    /// KMS key of restored volumes, if not that of the snapshot
    #[arg(long, value_name = "KEY")]
    aws_volume_kms_key_id: Option<String>,
    /// MiB per second at which restored volumes are filled from their snapshots, for a price: 100 to 300
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(100..=300))]
    aws_volume_initialization_rate: Option<u32>,
}

impl AwsArgs {
    fn options(&self) -> AwsOptions {
        AwsOptions {
            lock_mode: self.aws_snapshot_lock_mode.clone(),
            lock_cool_off_period: self.aws_snapshot_lock_cool_off_period,
            lock_duration: self.aws_snapshot_lock_duration,
            lock_expiration_date: self.aws_snapshot_lock_expiration_date.clone(),
            copy_to: self.aws_copy_to.clone(),
            copy_kms_key_id: self.aws_copy_kms_key_id.clone(),
            fast_restore_zones: self.aws_fast_restore_zone.clone(),
            volume_type: self.aws_volume_type.clone(),
            volume_iops: self.aws_volume_iops,
            volume_throughput: self.aws_volume_throughput,
            volume_kms_key_id: self.aws_volume_kms_key_id.clone(),
            volume_initialization_rate: self.aws_volume_initialization_rate,
            ..AwsOptions::default()
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Snapshots on Google Cloud")]
struct GcpArgs {
    /// Project of the instance and its disks; by default that of this machine
    #[arg(long, alias = "snapshot-gcp-project", value_name = "PROJECT")]
    gcp_project: Option<String>,
    /// Zone of the instance; by default that of this machine
    #[arg(long, alias = "snapshot-zone", alias = "snapshot-recovery-zone", value_name = "ZONE")]
    gcp_zone: Option<String>,
    /// Endpoint of the Compute Engine API, if it is another than Google's
    #[arg(long, value_name = "URL")]
    gcp_endpoint: Option<String>,
    /// Use no credentials (for an emulator, with --gcp-endpoint)
    #[arg(long, requires = "gcp_endpoint")]
    gcp_anonymous: bool,
    /// Project to store the snapshots in, if it is another one
    #[arg(long, value_name = "PROJECT")]
    gcp_snapshot_project: Option<String>,
    /// Where the snapshots are stored: a region or a multi-region
    #[arg(long, value_name = "LOCATION")]
    gcp_storage_location: Option<String>,
    /// Kind of the snapshots: standard or archive
    #[arg(long, value_name = "TYPE", value_parser = ["standard", "archive"])]
    gcp_snapshot_type: Option<String>,
    /// Cloud KMS key to encrypt the snapshots with
    #[arg(long, value_name = "KEY")]
    gcp_snapshot_kms_key: Option<String>,
    /// Type of restored disks, if not that of the original: pd-ssd, hyperdisk-balanced …
    #[arg(long, value_name = "TYPE")]
    gcp_disk_type: Option<String>,
    /// Operations per second of restored disks, if not those of the original
    #[arg(long, value_name = "NUMBER")]
    gcp_disk_iops: Option<u32>,
    /// MiB per second of restored disks, if not those of the original
    #[arg(long, value_name = "NUMBER")]
    gcp_disk_throughput: Option<u32>,
    /// Cloud KMS key of restored disks, if not that of the original
    #[arg(long, value_name = "KEY")]
    gcp_disk_kms_key: Option<String>,
    /// Zone of restored disks that are regional (twice; one is that of the instance), if not those of the original
    #[arg(long, value_name = "ZONE")]
    gcp_disk_replica_zone: Vec<String>,
}

impl GcpArgs {
    fn options(&self) -> GcpOptions {
        GcpOptions {
            project: self.gcp_project.clone(),
            zone: self.gcp_zone.clone(),
            endpoint: self.gcp_endpoint.clone(),
            anonymous: self.gcp_anonymous,
            snapshot_project: self.gcp_snapshot_project.clone(),
            storage_location: self.gcp_storage_location.clone(),
            snapshot_type: self.gcp_snapshot_type.clone(),
            kms_key_name: self.gcp_snapshot_kms_key.clone(),
            disk_type: self.gcp_disk_type.clone(),
            disk_iops: self.gcp_disk_iops,
            disk_throughput: self.gcp_disk_throughput,
            disk_kms_key: self.gcp_disk_kms_key.clone(),
            disk_replica_zones: self.gcp_disk_replica_zone.clone(),
            ..GcpOptions::default()
        }
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Snapshots on Azure (credential: --azure-credential)")]
struct AzureArgs {
    /// Subscription of the virtual machine and its disks
    #[arg(long, value_name = "ID")]
    azure_subscription_id: Option<String>,
    /// Resource group of the virtual machine and the snapshots
    #[arg(long, value_name = "GROUP")]
    azure_resource_group: Option<String>,
    /// Endpoint of the Resource Manager, if it is another than Azure's
    #[arg(long, value_name = "URL")]
    azure_endpoint: Option<String>,
    /// Storage of the snapshots; by default whatever Azure takes
    #[arg(long, value_name = "SKU", value_parser = ["Standard_LRS", "Standard_ZRS", "Premium_LRS"])]
    azure_snapshot_sku: Option<String>,
    /// Resource id of the disk encryption set for the snapshots
    #[arg(long, value_name = "ID")]
    azure_disk_encryption_set: Option<String>,
    /// Region to copy the snapshots to when they are complete
    #[arg(long, value_name = "REGION")]
    azure_copy_to: Option<String>,
    /// Minutes for which snapshots of Ultra disks and Premium SSD v2 can be used before all is copied, for a price: 60 to 300
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(60..=300))]
    azure_instant_access: Option<u32>,
    /// Kind of restored disks, if not that of the original: Premium_LRS, PremiumV2_LRS …
    #[arg(long, value_name = "SKU")]
    azure_disk_sku: Option<String>,
    /// Operations per second of restored Ultra disks and Premium SSD v2, if not those of the original
    #[arg(long, value_name = "NUMBER")]
    azure_disk_iops: Option<u32>,
    /// MB per second of restored Ultra disks and Premium SSD v2, if not those of the original
    #[arg(long, value_name = "NUMBER")]
    azure_disk_mbps: Option<u32>,
    /// Performance tier of restored Premium SSDs, if not that of the original: P30 …
    #[arg(long, value_name = "TIER")]
    azure_disk_tier: Option<String>,
    /// Resource id of the disk encryption set of restored disks, if not that of the original
    #[arg(long, value_name = "ID")]
    azure_restored_disk_encryption_set: Option<String>,
}

impl AzureArgs {
    fn options(&self) -> AzureOptions {
        AzureOptions {
            subscription_id: self.azure_subscription_id.clone(),
            resource_group: self.azure_resource_group.clone(),
            endpoint: self.azure_endpoint.clone(),
            snapshot_sku: self.azure_snapshot_sku.clone(),
            disk_encryption_set: self.azure_disk_encryption_set.clone(),
            copy_to: self.azure_copy_to.clone(),
            instant_access_minutes: self.azure_instant_access,
            disk_sku: self.azure_disk_sku.clone(),
            disk_iops: self.azure_disk_iops,
            disk_mbps: self.azure_disk_mbps,
            disk_tier: self.azure_disk_tier.clone(),
            restored_disk_encryption_set: self.azure_restored_disk_encryption_set.clone(),
            ..AzureOptions::default()
        }
    }
}
