//! An S3 server: moto, from the Python environment of the tools.
//!
//! It keeps conditions (`If-None-Match`) and listings as S3 does, but believes every checksum it is sent, so it proves
//! nothing about corruption on the wire.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::skip::{Missing, Need};
use crate::wait::wait_for;

/// A running S3 server with one empty bucket, on a free port of this machine.
#[derive(Debug)]
pub struct MotoServer {
    child: Child,
    port: u16,
}

impl MotoServer {
    /// The bucket that is there from the start.
    pub const BUCKET: &'static str = "backups";

    /// Starts one.
    pub fn start() -> Result<Self, Missing> {
        let program = crate::tool("venv/bin/moto_server")
            .ok_or_else(|| Missing::new(Need::S3, "moto is not in .tools/venv; run tools/setup.sh test"))?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        // It would make thousands of machine images when EC2 is first used.
        command.env("MOTO_EC2_LOAD_DEFAULT_AMIS", "false");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Self { child: command.spawn().expect("moto_server can be run"), port };
        wait_for("the S3 server", Duration::from_secs(60), || server.request("GET", "/moto-api/data.json").ok());
        server.request("PUT", &format!("/{}", Self::BUCKET)).expect("the bucket is made");
        Ok(server)
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The URL of a place in the bucket.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}", Self::BUCKET)
    }

    /// The variables by which clients (boto3, Barman, ours) find it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", crate::command::PLANTED.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        ]
    }

    /// The keys of all objects below a prefix, in order.
    #[track_caller]
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        let path = format!("/{}?list-type=2&max-keys=1000&prefix={prefix}", Self::BUCKET);
        let list =
            String::from_utf8(self.request("GET", &path).expect("the bucket can be listed")).expect("XML is UTF-8");
        assert!(!list.contains("<IsTruncated>true"), "more than 1000 objects: ask for a longer prefix");
        list.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned())).collect()
    }

    /// The bytes of an object.
    #[track_caller]
    pub fn get(&self, key: &str) -> Vec<u8> {
        self.request("GET", &format!("/{}/{key}", Self::BUCKET)).unwrap_or_else(|error| panic!("get {key}: {error}"))
    }

    /// The smallest client there is: moto wants to be told who asks, and looks at no signature.
    fn request(&self, method: &str, path: &str) -> Result<Vec<u8>, String> {
        let text = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(text)?;
        // Version 1.0, so that the answer comes in one piece and ends with the connection.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\nContent-Length: 0\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=0\r\n\r\n",
            self.port
        );
        stream.write_all(head.as_bytes()).map_err(text)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map_err(text)?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").ok_or("the answer has no head")?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.lines().next().unwrap_or_default();
        if status.split(' ').nth(1).is_some_and(|code| code.starts_with('2')) {
            Ok(answer.split_off(end + 4))
        } else {
            Err(status.to_owned())
        }
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        // Whatever went wrong with it, it ends here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback device has a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}
