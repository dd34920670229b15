//! From options to the parts of the engine: catalog, provider, connection, log, interrupts.

use std::sync::Arc;
use std::time::Duration;

use barman_snap::catalog::StoreOptions;
use barman_snap::catalog::store::{AddressingStyle, AzureCredential};
use barman_snap::engine::EngineBuilder;
use barman_snap::postgres::{BackupControl, ConnectOptions, PostgresControl};
use barman_snap::provider::SnapshotProvider;
use barman_snap::provider::local::{LocalOptions, LocalProvider};
use barman_snap::{Engine, Error, ErrorKind, Result};

use crate::args::{CatalogArgs, Common, ConnectionArgs, LocalArgs, ProviderName, SnapshotArgs, StoreArgs};

/// An engine for a catalog; without snapshot options, with the local provider as it is.
pub(crate) async fn engine(
    common: &Common,
    catalog: &CatalogArgs,
    snapshot: Option<&SnapshotArgs>,
) -> Result<EngineBuilder> {
    let builder = Engine::builder(&catalog.url, &store_options(&common.store), &catalog.server).await?;
    match snapshot {
        Some(snapshot) => Ok(builder.provider(provider(snapshot)?)),
        None => Ok(builder),
    }
}

/// An engine whose provider is the local one with these options.
pub(crate) async fn local_engine(common: &Common, catalog: &CatalogArgs, local: &LocalArgs) -> Result<EngineBuilder> {
    let builder = Engine::builder(&catalog.url, &store_options(&common.store), &catalog.server).await?;
    Ok(builder.provider(local_provider(local)?))
}

/// This program with the options that reach the same store: the beginning of a `restore_command`.
pub(crate) fn restore_program(common: &Common) -> Result<Vec<String>> {
    let program =
        std::env::current_exe().map_err(|error| Error::internal("where is this program?").with_source(error))?;
    let mut words = vec![program.display().to_string()];
    let store = &common.store;
    let mut add = |option: &str, value: Option<String>| {
        words.extend(value.into_iter().flat_map(|value| [option.to_owned(), value]));
    };
    add("--endpoint-url", store.endpoint_url.clone());
    add("--aws-profile", store.aws_profile.clone());
    add("--aws-region", store.aws_region.clone());
    add("--read-timeout", store.read_timeout.map(|seconds| seconds.to_string()));
    add("--addressing-style", store.addressing_style.clone());
    add("--azure-credential", store.azure_credential.clone());
    Ok(words)
}

/// Connects to PostgreSQL.
pub(crate) async fn connect(args: &ConnectionArgs) -> Result<Box<dyn BackupControl>> {
    let options = ConnectOptions {
        host: args.host.clone(),
        port: args.port.clone(),
        user: args.user.clone(),
        dbname_or_dsn: args.dbname.clone(),
    };
    Ok(Box::new(PostgresControl::connect(&options).await?))
}

/// Connects to the server of a connection string.
pub(crate) async fn connect_to(dbname: &str) -> Result<Box<dyn BackupControl>> {
    Ok(Box::new(PostgresControl::connect(&ConnectOptions::new(dbname)).await?))
}

fn store_options(args: &StoreArgs) -> StoreOptions {
    StoreOptions {
        endpoint_url: args.endpoint_url.clone(),
        aws_profile: args.aws_profile.clone(),
        region: args.aws_region.clone(),
        read_timeout: args.read_timeout.map(Duration::from_secs),
        addressing_style: match args.addressing_style.as_deref() {
            Some("virtual") => AddressingStyle::Virtual,
            Some("path") => AddressingStyle::Path,
            _ => AddressingStyle::Auto,
        },
        azure_credential: args.azure_credential.as_deref().map(|kind| match kind {
            "azure-cli" => AzureCredential::AzureCli,
            "managed-identity" => AzureCredential::ManagedIdentity,
            _ => AzureCredential::Default,
        }),
        ..StoreOptions::default()
    }
}

fn provider(args: &SnapshotArgs) -> Result<Arc<dyn SnapshotProvider>> {
    match args.snapshot_provider {
        None | Some(ProviderName::Local) => local_provider(&args.local),
        Some(cloud) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("this build has no provider {}", format!("{cloud:?}").to_lowercase()),
        )
        .with_hint("it takes snapshots with the local provider: btrfs, ZFS, reflink, copy")),
    }
}

fn local_provider(args: &LocalArgs) -> Result<Arc<dyn SnapshotProvider>> {
    let options = LocalOptions {
        method: args.snapshot_method.parse()?,
        snapshot_directory: args.snapshot_directory.clone(),
        ..LocalOptions::default()
    };
    Ok(Arc::new(LocalProvider::new(options)))
}

/// Log lines go to stderr: warnings by default, less with `-q`, more with `-v`; `BARMAN_SNAP_LOG` overrides (in the syntax
/// of `tracing-subscriber`).
pub(crate) fn log(common: &Common) {
    let level = match (common.quiet, common.verbose) {
        (1.., _) => "off",
        (0, 0) => "warn",
        (0, 1) => "info",
        (0, 2) => "debug",
        (0, _) => "trace",
    };
    let filter = std::env::var("BARMAN_SNAP_LOG").unwrap_or_else(|_| format!("off,barman_snap={level}"));
    let filter =
        tracing_subscriber::EnvFilter::try_new(&filter).unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    // A second subscriber cannot be there: this is the program's beginning.
    let _ =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).try_init();
}

/// Calls `cancel` at the first SIGINT or SIGTERM; the work then ends by itself, leaving nothing behind. The guard ends the
/// watch.
pub(crate) fn on_interrupt(cancel: impl Fn() + Send + 'static) -> Result<InterruptGuard> {
    use tokio::signal::unix::{SignalKind, signal};
    let watch = |kind| signal(kind).map_err(|error| Error::internal("cannot watch for signals").with_source(error));
    let (mut interrupt, mut terminate) = (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?);
    let task = tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        crate::output::note("interrupted: cleaning up");
        cancel();
    });
    Ok(InterruptGuard(task))
}

/// See [`on_interrupt`].
pub(crate) struct InterruptGuard(tokio::task::JoinHandle<()>);

impl Drop for InterruptGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
