//! What a program may ask of the engine, in the words that C, Python and other programs share.
//!
//! Each struct is one JSON object: every field has a default, a field that nobody knows is refused, times are in
//! milliseconds and say so. What they mean is decided by the requests they are turned into, not here. What this is not:
//! the options of the command line, which follow the stock tools.

mod begin;
mod catalog;
mod host;
mod restore;

pub use begin::begin;
pub use catalog::{DeleteOptions, WalArchiveOptions, WalRestoreOptions, keep, list, show};
pub use host::Host;
pub use restore::{CatalogAddress, RestoreOptions, VerifyOptions};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::catalog::StoreOptions;
use crate::catalog::store::{AddressingStyle, AzureCredential};
use crate::engine::{Engine, EngineBuilder, RecoverRequest};
use crate::error::{Error, Result};
use crate::host::devices::HostDescription;
use crate::id::BackupId;
use crate::postgres::ConnectOptions;
use crate::provider::SnapshotProvider;
use crate::provider::local::LocalOptions;
use crate::provider::options::{AwsOptions, AzureOptions, GcpOptions, ProviderOptions};
use crate::provider::registry::{ProviderSource, Providers};
use crate::session::gc::{GcLimits, GcPlan};
use crate::session::{BackupRequest, CancelToken, Patience, WalPolicy, Wishes};

/// Reads options from JSON; no text, or an empty one, is the defaults.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) naming the field that is wrong or unknown.
pub fn from_json<T: DeserializeOwned + Default>(text: Option<&str>) -> Result<T> {
    let bad = |error| Error::invalid("the options are not what they should be").with_source(error);
    match text.map(str::trim) {
        None | Some("") => Ok(T::default()),
        Some(text) => {
            // An object by name: serde would also take an array, field by field.
            let fields: Fields = serde_json::from_str(text).map_err(bad)?;
            serde_json::from_value(fields.clone().into()).map_err(|error| match wrong_field::<T>(&fields) {
                Some((name, error)) => Error::invalid(format!("not a good {name}")).with_source(error),
                None => bad(error),
            })
        }
    }
}

type Fields = serde_json::Map<String, serde_json::Value>;

/// The first field that is wrong even alone, which serde does not tell: every field has a default.
fn wrong_field<T: DeserializeOwned>(fields: &Fields) -> Option<(&str, serde_json::Error)> {
    fields.iter().find_map(|(name, value)| {
        let alone = Fields::from_iter([(name.clone(), value.clone())]);
        serde_json::from_value::<T>(alone.into()).err().map(|error| (name.as_str(), error))
    })
}

/// How to reach the catalog and take snapshots.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineOptions {
    /// Endpoint of an S3-compatible store.
    pub endpoint_url: Option<String>,
    /// Profile in the AWS configuration files.
    pub aws_profile: Option<String>,
    /// Region of the bucket.
    pub aws_region: Option<String>,
    /// How long to wait for an answer of the store.
    pub read_timeout_ms: Option<u64>,
    /// `auto`, `virtual` or `path`.
    pub addressing_style: AddressingStyle,
    /// `azure-cli`, `managed-identity` or `default`.
    pub azure_credential: Option<AzureCredential>,
    /// What takes the snapshots; `local` by default.
    pub snapshot_provider: Option<String>,
    /// How local snapshots are taken: `auto`, `btrfs`, `zfs`, `reflink` or `copy`.
    pub snapshot_method: Option<String>,
    /// Directory for local snapshots.
    pub snapshot_directory: Option<PathBuf>,
    /// Snapshots on AWS. Profile and region are by default those of the bucket.
    pub aws: AwsOptions,
    /// Snapshots on Google Cloud.
    pub gcp: GcpOptions,
    /// Snapshots on Azure. The kind of credential is by default that of the storage.
    pub azure: AzureOptions,
    /// A file that describes the host with the disks, when it is not this one.
    pub host_description: Option<PathBuf>,
    /// How long snapshots may take to be cut, in backup mode; without it, as long as it takes.
    pub cut_timeout_ms: Option<u64>,
    /// How long snapshots may take to be ready; without it, as long as it takes.
    pub ready_timeout_ms: Option<u64>,
    /// How long the archiver may take for the last segment.
    pub wal_timeout_ms: Option<u64>,
}

impl EngineOptions {
    /// The engine for the catalog at `url` and a server in it.
    ///
    /// # Errors
    /// As [`Engine::builder`]; [`Unsupported`](crate::ErrorKind::Unsupported) for a provider that this build does not have.
    pub async fn open(&self, url: &str, server: &str) -> Result<EngineBuilder> {
        let name = self.snapshot_provider.as_deref().unwrap_or("local");
        self.open_with(url, server, self.providers()?.open(name).await?).await
    }

    /// The same with a provider of the caller's own; those of backups that exist are opened with these options.
    ///
    /// # Errors
    /// As [`Engine::builder`].
    pub async fn open_with(
        &self,
        url: &str,
        server: &str,
        provider: Arc<dyn SnapshotProvider>,
    ) -> Result<EngineBuilder> {
        let mut builder = Engine::builder(url, &self.store(), server).await?;
        if let Some(file) = &self.host_description {
            builder = builder.host_description(Arc::new(HostDescription::from_file(file)?));
        }
        Ok(builder.provider(provider).providers(Arc::new(self.providers()?)).patience(self.patience()))
    }

    /// The options with which the command line reaches the same store.
    pub fn store_arguments(&self) -> Vec<String> {
        let addressing = match self.addressing_style {
            AddressingStyle::Auto => None,
            AddressingStyle::Virtual => Some("virtual".to_owned()),
            AddressingStyle::Path => Some("path".to_owned()),
        };
        let credential = self.azure_credential.map(|credential| match credential {
            AzureCredential::AzureCli => "azure-cli".to_owned(),
            AzureCredential::ManagedIdentity => "managed-identity".to_owned(),
            AzureCredential::Default => "default".to_owned(),
        });
        let options = [
            ("--endpoint-url", self.endpoint_url.clone()),
            ("--aws-profile", self.aws_profile.clone()),
            ("--aws-region", self.aws_region.clone()),
            ("--read-timeout", self.read_timeout_ms.map(|limit| limit.div_ceil(1000).to_string())),
            ("--addressing-style", addressing),
            ("--azure-credential", credential),
        ];
        options.into_iter().filter_map(|(option, value)| Some([option.to_owned(), value?])).flatten().collect()
    }

    fn store(&self) -> StoreOptions {
        StoreOptions {
            endpoint_url: self.endpoint_url.clone(),
            aws_profile: self.aws_profile.clone(),
            region: self.aws_region.clone(),
            read_timeout: self.read_timeout_ms.map(Duration::from_millis),
            addressing_style: self.addressing_style,
            azure_credential: self.azure_credential,
            ..StoreOptions::default()
        }
    }

    /// The providers of this build with these options.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a snapshot method that does not exist.
    pub fn providers(&self) -> Result<Providers> {
        let method = self.snapshot_method.as_deref().map(str::parse).transpose()?.unwrap_or_default();
        let snapshot_directory = self.snapshot_directory.clone();
        let mut clouds = ProviderOptions {
            aws: self.aws.clone(),
            gcp: self.gcp.clone(),
            azure: self.azure.clone(),
            host_description: self.host_description.clone(),
        };
        clouds.aws.profile = clouds.aws.profile.or_else(|| self.aws_profile.clone());
        clouds.aws.region = clouds.aws.region.or_else(|| self.aws_region.clone());
        clouds.azure.credential = clouds.azure.credential.or(self.azure_credential);
        Ok(Providers { local: LocalOptions { method, snapshot_directory, ..LocalOptions::default() }, clouds })
    }

    fn patience(&self) -> Patience {
        let default = Patience::default();
        Patience {
            cut: self.cut_timeout_ms.map(Duration::from_millis).or(default.cut),
            ready: self.ready_timeout_ms.map(Duration::from_millis).or(default.ready),
            wal: self.wal_timeout_ms.map_or(default.wal, Duration::from_millis),
            ..default
        }
    }
}

/// How to reach PostgreSQL: a connection string, a URI, the name of a database, or nothing but the `PG*` variables.
pub fn connect_options(connection: Option<&str>) -> ConnectOptions {
    connection.map(ConnectOptions::new).unwrap_or_default()
}

/// Whether all volumes are cut at one instant by one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Where the provider can do it for these volumes.
    #[default]
    Auto,
    /// Yes, or not at all.
    Group,
    /// No: each by a call of its own, all at the same time.
    Independent,
}

impl Consistency {
    /// As a [`BackupRequest`] has it.
    pub const fn group(self) -> Option<bool> {
        match self {
            Self::Auto => None,
            Self::Group => Some(true),
            Self::Independent => Some(false),
        }
    }
}

/// What to back up.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupOptions {
    /// A name for the backup.
    pub name: Option<String>,
    /// The instance with the volumes; without it, this host.
    pub snapshot_instance: Option<String>,
    /// The volumes; empty: those that hold the cluster are found.
    pub snapshot_disks: Vec<String>,
    /// Tablespaces that are left out, by name: they are restored empty.
    pub exclude_tablespaces: Vec<String>,
    /// Whether all volumes are cut at one instant.
    pub consistency: Consistency,
    /// Ask PostgreSQL for an immediate checkpoint.
    pub immediate_checkpoint: bool,
    /// Another tool keeps the WAL; publish without a look at it.
    pub wal_external: bool,
    /// Tags for the snapshots.
    pub tags: BTreeMap<String, String>,
    /// The system identifier of the cluster, if it has replaced the one whose catalog this was.
    pub new_system_id: Option<String>,
    /// The id, when the caller has given it already; without it, the engine chooses.
    pub backup_id: Option<BackupId>,
}

impl From<BackupOptions> for BackupRequest {
    fn from(options: BackupOptions) -> Self {
        Self {
            name: options.name,
            instance: options.snapshot_instance,
            volumes: options.snapshot_disks,
            exclude_tablespaces: options.exclude_tablespaces,
            immediate_checkpoint: options.immediate_checkpoint,
            wal: if options.wal_external { WalPolicy::External } else { WalPolicy::Catalog },
            tags: options.tags,
            group: options.consistency.group(),
            new_system_id: options.new_system_id,
            backup_id: options.backup_id,
        }
    }
}

/// How to recover sessions that their process has left.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecoverOptions {
    /// This session only.
    pub backup_id: Option<String>,
    /// Take over even if the process may still be running; it will be fenced.
    pub force: bool,
    /// Undo also what could be completed.
    pub discard: bool,
    /// Take snapshots that cannot be seen from here for gone: their host, disk or account no longer exists.
    pub snapshots_gone: bool,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl RecoverOptions {
    /// The request.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the backup id is not one.
    pub fn request(&self, cancel: CancelToken) -> Result<RecoverRequest> {
        Ok(RecoverRequest {
            backup_id: self.backup_id.as_deref().map(str::parse).transpose()?,
            wishes: Wishes {
                force: self.force,
                discard: self.discard,
                snapshots_gone: self.snapshots_gone,
                ..Wishes::default()
            },
            dry_run: self.dry_run,
            cancel,
        })
    }
}

/// What to do with snapshots and volumes that belong to nobody.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GcOptions {
    /// Remove what was found; otherwise only say it.
    pub apply: bool,
    /// Days for which the journals of undone backups are kept.
    pub keep_undone_days: u32,
    /// Days after which a volume that a restore has made and never attached is garbage.
    pub volumes_older_than_days: u32,
}

impl GcOptions {
    /// Finds, and if it is wanted removes.
    ///
    /// # Errors
    /// As [`Engine::plan_gc`] and [`Engine::apply_gc`].
    pub async fn run(&self, engine: &Engine) -> Result<GcPlan> {
        let limits = GcLimits {
            keep_undone: chrono::Duration::days(self.keep_undone_days.into()),
            volumes_older_than: chrono::Duration::days(self.volumes_older_than_days.into()),
        };
        let plan = engine.plan_gc(&limits).await?;
        if self.apply {
            engine.apply_gc(&plan).await?;
        }
        Ok(plan)
    }
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { apply: false, keep_undone_days: 30, volumes_older_than_days: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn no_text_is_the_defaults() {
        assert!(!from_json::<BackupOptions>(None).unwrap().immediate_checkpoint);
        assert_eq!(from_json::<GcOptions>(Some(" ")).unwrap().keep_undone_days, 30);
    }

    #[test]
    fn a_misspelt_option_is_named() {
        let error = from_json::<BackupOptions>(Some(r#"{"imediate_checkpoint": true}"#)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.chain().contains("imediate_checkpoint"), "{}", error.chain());
    }

    #[test]
    fn what_is_left_out_is_a_list_of_names() {
        let options: BackupOptions = from_json(Some(r#"{"exclude_tablespaces": ["it's"]}"#)).unwrap();
        assert_eq!(BackupRequest::from(options).exclude_tablespaces, ["it's"]);
    }

    #[test]
    fn an_option_of_the_wrong_type_is_refused() {
        let error = from_json::<EngineOptions>(Some(r#"{"aws_region": "x", "wal_timeout_ms": "soon"}"#)).unwrap_err();
        assert!(error.message().contains("wal_timeout_ms"), "{}", error.chain());
        assert!(from_json::<EngineOptions>(Some("[]")).is_err());
    }

    #[test]
    fn the_command_line_is_told_how_to_reach_the_same_store() {
        let json = r#"{"endpoint_url": "http://s3", "read_timeout_ms": 1500, "addressing_style": "path"}"#;
        let options: EngineOptions = from_json(Some(json)).unwrap();
        let expected = ["--endpoint-url", "http://s3", "--read-timeout", "2", "--addressing-style", "path"];
        assert_eq!(options.store_arguments(), expected);
    }

    #[tokio::test]
    async fn a_provider_that_does_not_exist_is_unsupported() {
        let options = EngineOptions { snapshot_provider: Some("tape".into()), ..EngineOptions::default() };
        let error = options.open("/nowhere", "pg1").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_snapshots_are_by_default_where_the_bucket_is() {
        let json = r#"{"aws_region": "eu-west-1", "aws_profile": "p", "aws": {"profile": "q"}}"#;
        let options: EngineOptions = from_json(Some(json)).unwrap();
        let aws = options.providers().unwrap().clouds.aws;
        assert_eq!((aws.region.as_deref(), aws.profile.as_deref()), (Some("eu-west-1"), Some("q")));
    }
}
