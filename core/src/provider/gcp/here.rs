//! Which virtual machine this is, by the metadata server that every one of them has.
//!
//! Plain HTTP on a link-local address, and bounded: outside of Google Cloud nothing answers there.
//! `GCE_METADATA_HOST` (`host:port`) takes its place, as in all Google libraries.
//! Source: <https://cloud.google.com/compute/docs/metadata/querying-metadata>.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// The address, if the environment names no other.
const ADDRESS: &str = "169.254.169.254:80";

/// How long connecting, and then the reply, may take.
const LIMIT: Duration = Duration::from_secs(1);

/// The longest reply.
const LONGEST: u64 = 1 << 16;

/// What the metadata server says about this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) project: String,
    pub(super) zone: String,
    pub(super) name: String,
}

impl Here {
    /// Asks. Takes three requests, and about a second where there is no such server.
    ///
    /// # Errors
    /// [`ErrorKind::Precondition`] if this is no virtual machine of Google Cloud.
    pub(super) async fn look() -> Result<Self> {
        tokio::task::spawn_blocking(Self::ask)
            .await
            .map_err(|error| Error::internal("a thread of the provider stopped").with_source(error))?
    }

    fn ask() -> Result<Self> {
        let host = std::env::var("GCE_METADATA_HOST").ok().filter(|host| !host.is_empty());
        let host = match host {
            Some(host) if host.contains(':') => host,
            Some(host) => format!("{host}:80"),
            None => ADDRESS.to_owned(),
        };
        let get = |path: &str| {
            get(&host, path).map_err(|source| {
                Error::new(ErrorKind::Precondition, "this is no virtual machine of Google Cloud").with_source(source)
            })
        };
        let zone = get("instance/zone")?;
        Ok(Self {
            project: get("project/project-id")?,
            zone: super::link::last(&zone).to_owned(),
            name: get("instance/name")?,
        })
    }
}

/// One value. HTTP/1.0, so that the reply ends with the connection.
fn get(host: &str, path: &str) -> std::io::Result<String> {
    let bad = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidData, text);
    let address = host.to_socket_addrs()?.next().ok_or_else(|| bad(format!("no address: {host}")))?;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET /computeMetadata/v1/{path} HTTP/1.0\r\nHost: {host}\r\nMetadata-Flavor: Google\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut reply = String::new();
    stream.take(LONGEST).read_to_string(&mut reply)?;
    parse(&reply).ok_or_else(|| bad(format!("the metadata server said {:?}", reply.lines().next().unwrap_or_default())))
}

/// The body of a good reply of a server that says it is the right one.
fn parse(reply: &str) -> Option<String> {
    let (head, body) = reply.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let good = lines.next()?.split(' ').nth(1)? == "200";
    let flavor = lines.any(|line| line.to_ascii_lowercase().replace(' ', "") == "metadata-flavor:google");
    let value = body.trim();
    (good && flavor && !value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_metadata_server_is_believed() {
        let good = "HTTP/1.0 200 OK\r\nMetadata-Flavor: Google\r\n\r\nprojects/1/zones/europe-west1-b\n";
        assert_eq!(parse(good).as_deref(), Some("projects/1/zones/europe-west1-b"));
        for bad in
            ["", "HTTP/1.0 200 OK\r\n\r\nx", "HTTP/1.0 404 Not Found\r\nMetadata-Flavor: Google\r\n\r\nx", "x\r\n\r\ny"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
