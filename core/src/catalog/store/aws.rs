//! S3 and what speaks its protocol.
//!
//! Order of credentials, as in the AWS SDKs: a profile named by option, variables, the profile of `AWS_PROFILE` (or
//! `default`), a web identity, a container, the role of the machine.

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut, resolve_bucket_region};
use object_store::{Certificate, ClientOptions};

use super::profile::{self, Profile};
use super::{AddressingStyle, S3Encryption, StoreOptions, Vars, cannot_open, check_endpoint, client, retries};
use crate::catalog::space::ObjectSpace;
use crate::error::{Error, Result};

pub(super) async fn open(bucket: &str, options: &StoreOptions, vars: &Vars) -> Result<ObjectSpace> {
    let profile = profile::load(options.aws_profile.as_deref(), vars)?;
    let endpoint = endpoint(options, vars, &profile);
    let name = match &endpoint {
        Some(endpoint) => format!("s3://{bucket} ({endpoint})"),
        None => format!("s3://{bucket}"),
    };
    if let Some(endpoint) = &endpoint {
        check_endpoint(endpoint)?;
    }
    let client = with_ca_bundle(client(options, endpoint.as_deref()), vars)?;
    let mut builder = credentials(AmazonS3Builder::new(), options, vars, &profile)
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_client_options(client.clone());
    if let Some(region) = region(options, vars, &profile) {
        builder = builder.with_region(region);
    } else if endpoint.is_none() {
        // The other tools follow the redirect that S3 sends for a bucket of another region. Not being able to ask is no
        // error yet: the first request will say what is wrong.
        match resolve_bucket_region(bucket, &client).await {
            Ok(region) => builder = builder.with_region(region),
            Err(error) => tracing::debug!(bucket, %error, "cannot ask for the region of the bucket"),
        }
    }
    builder = address(builder, bucket, endpoint.as_deref(), options.addressing_style, &profile);
    builder = encrypt(builder, options.s3_encryption.as_ref());
    let store = builder.build().map_err(|error| cannot_open(&name, error))?;
    Ok(ObjectSpace::paged(store, &name))
}

fn endpoint(options: &StoreOptions, vars: &Vars, profile: &Profile) -> Option<String> {
    let given = options.endpoint_url.as_ref();
    given
        .or_else(|| vars.get("AWS_ENDPOINT_URL_S3"))
        .or_else(|| vars.get("AWS_ENDPOINT_URL"))
        .or_else(|| profile.get("endpoint_url"))
        .filter(|endpoint| !endpoint.is_empty())
        .map(|endpoint| endpoint.trim_end_matches('/').to_owned())
}

fn region(options: &StoreOptions, vars: &Vars, profile: &Profile) -> Option<String> {
    let given = options.region.as_ref();
    given
        .or_else(|| vars.get("AWS_REGION"))
        .or_else(|| vars.get("AWS_DEFAULT_REGION"))
        .or_else(|| profile.get("region"))
        .filter(|region| !region.is_empty())
        .cloned()
}

fn credentials(
    mut builder: AmazonS3Builder,
    options: &StoreOptions,
    vars: &Vars,
    profile: &Profile,
) -> AmazonS3Builder {
    let in_vars = vars.contains_key("AWS_ACCESS_KEY_ID") && vars.contains_key("AWS_SECRET_ACCESS_KEY");
    let secret = profile.get("aws_access_key_id").zip(profile.get("aws_secret_access_key"));
    if let Some((id, secret)) = secret.filter(|_| options.aws_profile.is_some() || !in_vars) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        return match profile.get("aws_session_token") {
            Some(token) => builder.with_token(token),
            None => builder,
        };
    }
    // Only what identifies us: other variables of the library (AWS_BUCKET, AWS_SKIP_SIGNATURE, …) are not those of AWS.
    use AmazonS3ConfigKey as Key;
    for (variable, key) in [
        ("AWS_ACCESS_KEY_ID", Key::AccessKeyId),
        ("AWS_SECRET_ACCESS_KEY", Key::SecretAccessKey),
        ("AWS_SESSION_TOKEN", Key::Token),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", Key::WebIdentityTokenFile),
        ("AWS_ROLE_ARN", Key::RoleArn),
        ("AWS_ROLE_SESSION_NAME", Key::RoleSessionName),
        ("AWS_ENDPOINT_URL_STS", Key::StsEndpoint),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", Key::ContainerCredentialsRelativeUri),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", Key::ContainerCredentialsFullUri),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", Key::ContainerAuthorizationTokenFile),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", Key::MetadataEndpoint),
    ] {
        if let Some(value) = vars.get(variable).filter(|value| !value.is_empty()) {
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// The library wants the bucket in the endpoint when addressing is virtual.
fn address(
    builder: AmazonS3Builder,
    bucket: &str,
    endpoint: Option<&str>,
    style: AddressingStyle,
    profile: &Profile,
) -> AmazonS3Builder {
    let style = match (style, profile.get("s3.addressing_style").map(String::as_str)) {
        (AddressingStyle::Auto, Some("path")) => AddressingStyle::Path,
        (AddressingStyle::Auto, Some("virtual")) => AddressingStyle::Virtual,
        (style, _) => style,
    };
    // A certificate for *.s3.amazonaws.com does not cover a bucket with dots.
    let by_default = endpoint.is_none() && !bucket.contains('.');
    let in_host = style == AddressingStyle::Virtual || (style == AddressingStyle::Auto && by_default);
    let builder = builder.with_virtual_hosted_style_request(in_host);
    match endpoint {
        Some(endpoint) if in_host => builder.with_endpoint(endpoint.replacen("://", &format!("://{bucket}."), 1)),
        Some(endpoint) => builder.with_endpoint(endpoint),
        None => builder,
    }
}

fn encrypt(builder: AmazonS3Builder, encryption: Option<&S3Encryption>) -> AmazonS3Builder {
    // The library does not export the type that this key is made of, only its name.
    let by = |builder: AmazonS3Builder, text: &str| match "aws_server_side_encryption".parse() {
        Ok(key) => builder.with_config(key, text),
        Err(_) => builder,
    };
    match encryption {
        None => builder,
        Some(S3Encryption::Aes256) => by(builder, "AES256"),
        Some(S3Encryption::Kms { key_id: None }) => by(builder, "aws:kms"),
        Some(S3Encryption::Kms { key_id: Some(key) }) => builder.with_sse_kms_encryption(key),
    }
}

fn with_ca_bundle(mut client: ClientOptions, vars: &Vars) -> Result<ClientOptions> {
    let Some(path) = vars.get("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) else { return Ok(client) };
    let pem =
        std::fs::read(path).map_err(|error| Error::io("read the certificates of AWS_CA_BUNDLE from", path, error))?;
    let bundle = Certificate::from_pem_bundle(&pem)
        .map_err(|error| Error::invalid(format!("AWS_CA_BUNDLE holds no certificates: {path}")).with_source(error))?;
    for certificate in bundle {
        client = client.with_root_certificate(certificate);
    }
    Ok(client)
}
