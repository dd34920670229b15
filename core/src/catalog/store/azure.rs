//! Azure Blob Storage.
//!
//! Order of credentials, as in Barman: the identity named by option, `AZURE_STORAGE_CONNECTION_STRING`,
//! `AZURE_STORAGE_SAS_TOKEN`, `AZURE_STORAGE_KEY`, what else the environment and the machine offer. The second form of the URL
//! (emulators, private end points) needs one of the three variables.

use std::collections::BTreeMap;

use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder, split_sas};

use super::{AzureCredential, StoreOptions, Vars, cannot_open, client, retries};
use crate::catalog::space::ObjectSpace;
use crate::error::{Error, Result};

/// The key of the development account, which is printed in the manual of the emulator.
const DEVELOPMENT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

pub(super) fn open(
    account: &str,
    container: &str,
    endpoint: Option<&str>,
    options: &StoreOptions,
    vars: &Vars,
) -> Result<ObjectSpace> {
    let var = |name: &str| vars.get(name).filter(|value| !value.is_empty());
    let connection = match (options.azure_credential, var("AZURE_STORAGE_CONNECTION_STRING")) {
        (None, Some(text)) => Some(Connection::parse(text)?),
        _ => None,
    };
    let endpoint = endpoint.map(str::to_owned).or_else(|| connection.as_ref().and_then(Connection::endpoint));
    let name = match &endpoint {
        Some(endpoint) => format!("{endpoint}/{container}"),
        None => format!("https://{account}.blob.core.windows.net/{container}"),
    };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_account(account)
        .with_container_name(container)
        .with_retry(retries())
        .with_allow_http(endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_client_options(client(options, endpoint.as_deref()));
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    let sas = |builder: MicrosoftAzureBuilder, token: &str| {
        let pairs = split_sas(token).map_err(|_| Error::invalid("the SAS token of Azure is malformed"))?;
        Ok::<_, Error>(builder.with_sas_authorization(pairs))
    };
    builder = match (options.azure_credential, &connection) {
        (Some(AzureCredential::AzureCli), _) => builder.with_credential_type("azure_cli"),
        (Some(AzureCredential::ManagedIdentity), _) => {
            from_environment(builder, vars).with_credential_type("managed_identity")
        }
        (Some(AzureCredential::Default), _) => from_environment(builder, vars),
        (None, Some(Connection { key: Some(key), .. })) => builder.with_access_key(key),
        (None, Some(Connection { sas: Some(token), .. })) => sas(builder, token)?,
        _ => match (var("AZURE_STORAGE_SAS_TOKEN"), var("AZURE_STORAGE_KEY")) {
            (Some(token), _) => sas(builder, token)?,
            (None, Some(key)) => builder.with_access_key(key),
            (None, None) => from_environment(builder, vars),
        },
    };
    let store = builder.build().map_err(|error| cannot_open(&name, error))?;
    Ok(ObjectSpace::paged(store, &name))
}

/// What the Azure SDKs read for their default credential.
fn from_environment(mut builder: MicrosoftAzureBuilder, vars: &Vars) -> MicrosoftAzureBuilder {
    for (variable, key) in [
        ("AZURE_CLIENT_ID", AzureConfigKey::ClientId),
        ("AZURE_CLIENT_SECRET", AzureConfigKey::ClientSecret),
        ("AZURE_TENANT_ID", AzureConfigKey::AuthorityId),
        ("AZURE_AUTHORITY_HOST", AzureConfigKey::AuthorityHost),
        ("AZURE_FEDERATED_TOKEN_FILE", AzureConfigKey::FederatedTokenFile),
        ("IDENTITY_ENDPOINT", AzureConfigKey::MsiEndpoint),
    ] {
        if let Some(value) = vars.get(variable).filter(|value| !value.is_empty()) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// A connection string: `Key=value;Key=value`.
struct Connection {
    account: Option<String>,
    key: Option<String>,
    sas: Option<String>,
    blob_endpoint: Option<String>,
    protocol: String,
    suffix: Option<String>,
}

impl Connection {
    fn parse(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            // The text holds a secret and is not repeated.
            Error::invalid(format!("AZURE_STORAGE_CONNECTION_STRING {why}"))
                .with_hint("it looks like DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…")
        };
        let mut parts = BTreeMap::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(|| bad("has a part without a value"))?;
            parts.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
        if parts.get("usedevelopmentstorage").is_some_and(|on| on.eq_ignore_ascii_case("true")) {
            let local = "http://127.0.0.1:10000/devstoreaccount1";
            parts.entry("accountname".into()).or_insert_with(|| "devstoreaccount1".into());
            parts.entry("accountkey".into()).or_insert_with(|| DEVELOPMENT_KEY.into());
            parts.entry("blobendpoint".into()).or_insert_with(|| local.into());
        }
        let connection = Self {
            account: parts.remove("accountname"),
            key: parts.remove("accountkey"),
            sas: parts.remove("sharedaccesssignature"),
            blob_endpoint: parts.remove("blobendpoint"),
            protocol: parts.remove("defaultendpointsprotocol").unwrap_or_else(|| "https".into()),
            suffix: parts.remove("endpointsuffix"),
        };
        if connection.key.is_none() && connection.sas.is_none() {
            return Err(bad("has neither AccountKey nor SharedAccessSignature"));
        }
        Ok(connection)
    }

    /// The end point that it names, if that is not the one of the public cloud.
    fn endpoint(&self) -> Option<String> {
        match (&self.blob_endpoint, &self.suffix, &self.account) {
            (Some(endpoint), _, _) => Some(endpoint.trim_end_matches('/').to_owned()),
            (None, Some(suffix), Some(account)) if suffix != "core.windows.net" => {
                Some(format!("{}://{account}.blob.{suffix}", self.protocol))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_taken_apart() {
        let text =
            "DefaultEndpointsProtocol=https;AccountName=acc;AccountKey=a2V5==;EndpointSuffix=core.chinacloudapi.cn";
        let connection = Connection::parse(text).unwrap();
        assert_eq!(connection.key.as_deref(), Some("a2V5=="));
        assert_eq!(connection.endpoint().unwrap(), "https://acc.blob.core.chinacloudapi.cn");
        let emulator = Connection::parse("UseDevelopmentStorage=true").unwrap();
        assert_eq!(emulator.endpoint().unwrap(), "http://127.0.0.1:10000/devstoreaccount1");
    }

    #[test]
    fn a_connection_string_without_a_secret_is_refused_without_repeating_it() {
        let Err(error) = Connection::parse("AccountName=acc;Nonsense=secret") else { panic!("no key") };
        assert!(!error.chain().contains("secret"), "{}", error.chain());
    }
}
