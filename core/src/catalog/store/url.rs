//! The grammar of catalog URLs.
//!
//! What it is: the forms that the `barman-cloud-*` tools accept, plus a plain directory. It is parsed by hand, because a key
//! is no URL: `s3://bucket/ü%20x` means the key `ü%20x`.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Result};

/// Where a catalog is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CatalogUrl {
    /// A directory of this host: `/srv/backups`, `file:///srv/backups`.
    Local {
        /// The directory.
        directory: PathBuf,
    },
    /// `s3://bucket/path`
    S3 {
        /// The bucket.
        bucket: String,
        /// The path, without leading but with trailing slash, which matters (see [`layout`](crate::catalog::layout)).
        path: String,
    },
    /// `gs://bucket/path` or `https://console.cloud.google.com/storage/browser/bucket/path`
    Gcs {
        /// The bucket.
        bucket: String,
        /// The path without slashes at its ends.
        path: String,
    },
    /// `https://account.blob.core.windows.net/container/path` or `http://host:port/account/container/path`
    Azure {
        /// The storage account.
        account: String,
        /// The container.
        container: String,
        /// The path, without leading but with trailing slash.
        path: String,
        /// `http://host:port/account` in the second form.
        endpoint: Option<String>,
    },
}

const AZURE_HOST: &str = ".blob.core.windows.net";
const GCS_CONSOLE: &str = "console.cloud.google.com/storage/browser/";

impl CatalogUrl {
    /// Parses a URL, or a path.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Error::invalid(format!("not a URL of a catalog: {text:?} {why}")).with_hint(
                "a directory, s3://bucket/path, gs://bucket/path, https://account.blob.core.windows.net/container/path",
            )
        };
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(refuse("is empty or has control characters"));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            // `s3:bucket` is a slip of the hand, not a directory.
            let head = text.split(['/', ':']).next().unwrap_or_default();
            if text[head.len()..].starts_with(':') && ["s3", "gs", "http", "https", "file"].contains(&head) {
                return Err(refuse("lacks the two slashes"));
            }
            return Ok(Self::Local { directory: text.into() });
        };
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "file" && rest.contains(['?', '#']) {
            return Err(refuse("has a query or a fragment"));
        }
        match scheme.as_str() {
            "file" => {
                let url = url::Url::parse(text).map_err(|error| refuse("is malformed").with_source(error))?;
                let directory = url.to_file_path().map_err(|()| refuse("is not a file of this host"))?;
                Ok(Self::Local { directory })
            }
            "s3" => {
                let (bucket, path) = split(rest).ok_or_else(|| refuse("names no bucket"))?;
                Ok(Self::S3 { bucket, path })
            }
            "gs" => gcs(rest).ok_or_else(|| refuse("names no bucket")),
            "https" if rest.starts_with(GCS_CONSOLE) => {
                gcs(&rest[GCS_CONSOLE.len()..]).ok_or_else(|| refuse("names no bucket"))
            }
            "http" | "https" => azure(&scheme, rest).ok_or_else(|| refuse("names no account or no container")),
            _ => Err(refuse("has an unknown scheme")),
        }
    }

    /// What the keys of the catalog begin with: the path of the URL.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Local { .. } => "",
            Self::S3 { path, .. } | Self::Gcs { path, .. } | Self::Azure { path, .. } => path,
        }
    }

    /// True where Barman looks for annotations below another key if the URL ends with a slash.
    pub fn has_annotation_quirk(&self) -> bool {
        matches!(self, Self::S3 { .. } | Self::Azure { .. })
    }
}

impl fmt::Display for CatalogUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { directory } => write!(f, "{}", directory.display()),
            Self::S3 { bucket, path } => write!(f, "s3://{bucket}/{path}"),
            Self::Gcs { bucket, path } => write!(f, "gs://{bucket}/{path}"),
            Self::Azure { account, container, path, endpoint: None } => {
                write!(f, "https://{account}{AZURE_HOST}/{container}/{path}")
            }
            Self::Azure { container, path, endpoint: Some(endpoint), .. } => write!(f, "{endpoint}/{container}/{path}"),
        }
    }
}

/// The first segment, which must be there, and the rest without leading slashes.
fn split(text: &str) -> Option<(String, String)> {
    let (first, rest) = text.split_once('/').unwrap_or((text, ""));
    (!first.is_empty()).then(|| (first.to_owned(), rest.trim_start_matches('/').to_owned()))
}

fn gcs(rest: &str) -> Option<CatalogUrl> {
    let (bucket, path) = split(rest)?;
    Some(CatalogUrl::Gcs { bucket, path: path.trim_end_matches('/').to_owned() })
}

fn azure(scheme: &str, rest: &str) -> Option<CatalogUrl> {
    let (host, below) = split(rest)?;
    if host.contains('@') {
        return None;
    }
    if let Some(account) = host.strip_suffix(AZURE_HOST) {
        let (container, path) = split(&below)?;
        return Some(CatalogUrl::Azure { account: account.to_owned(), container, path, endpoint: None });
    }
    let (account, below) = split(&below)?;
    let (container, path) = split(&below)?;
    let endpoint = Some(format!("{scheme}://{host}/{account}"));
    Some(CatalogUrl::Azure { account, container, path, endpoint })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> CatalogUrl {
        CatalogUrl::parse(text).unwrap()
    }

    fn azure(account: &str, path: &str, endpoint: Option<&str>) -> CatalogUrl {
        let endpoint = endpoint.map(str::to_owned);
        CatalogUrl::Azure { account: account.into(), container: "cont".into(), path: path.into(), endpoint }
    }

    #[test]
    fn every_form_of_the_stock_tools_is_understood() {
        let s3 = |path: &str| CatalogUrl::S3 { bucket: "b".into(), path: path.into() };
        assert_eq!(parse("s3://b"), s3(""));
        assert_eq!(parse("S3://b/"), s3(""));
        assert_eq!(parse("s3://b//p/q"), s3("p/q"));
        assert_eq!(parse("s3://b/p/"), s3("p/"));
        let gcs = CatalogUrl::Gcs { bucket: "b".into(), path: "p/q".into() };
        assert_eq!(parse("gs://b/p/q/"), gcs);
        assert_eq!(parse("https://console.cloud.google.com/storage/browser/b/p/q"), gcs);
        assert_eq!(parse("https://acc.blob.core.windows.net/cont/p/"), azure("acc", "p/", None));
        let emulator = azure("acc", "p", Some("http://127.0.0.1:10000/acc"));
        assert_eq!(parse("http://127.0.0.1:10000/acc/cont/p"), emulator);
    }

    #[test]
    fn a_plain_path_is_a_directory() {
        for (text, directory) in [
            ("/srv/backups", "/srv/backups"),
            ("relative/dir", "relative/dir"),
            ("C:odd", "C:odd"),
            ("file:///srv/a%20b", "/srv/a b"),
            ("file://localhost/srv", "/srv"),
        ] {
            assert_eq!(parse(text), CatalogUrl::Local { directory: directory.into() }, "{text}");
        }
    }

    #[test]
    fn what_is_no_catalog_is_refused() {
        for text in [
            "",
            "s3://",
            "s3:///p",
            "s3:b/p",
            "gs://",
            "ftp://host/p",
            "https://acc.blob.core.windows.net",
            "http://127.0.0.1:10000/acc",
            "http://user@host/acc/cont",
            "s3://b/p?x=1",
            "file://elsewhere/srv",
            "/srv/a\nb",
        ] {
            assert_eq!(CatalogUrl::parse(text).unwrap_err().kind(), crate::ErrorKind::InvalidInput, "{text:?}");
        }
    }

    #[test]
    fn a_url_prints_as_it_was_written() {
        for text in ["s3://b/p/", "gs://b/p", "https://acc.blob.core.windows.net/c/p", "http://h:1/acc/c/p", "/srv/x"] {
            assert_eq!(parse(text).to_string(), text);
        }
    }
}
