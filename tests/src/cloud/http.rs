//! The smallest HTTP client there is, for servers of this machine.

use std::io::{Read, Write};
use std::net::TcpStream;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status: 200.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Result<String, String> {
        if (200..300).contains(&self.status) { Ok(self.body) } else { Err(format!("{}: {}", self.status, self.body)) }
    }
}

/// Asks `http://HOST:PORT` for `path`. An error when there is no whole answer.
pub fn ask(
    endpoint: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer, std::io::Error> {
    let address = endpoint.strip_prefix("http://").expect("only plain HTTP is spoken here");
    let mut stream = TcpStream::connect(address)?;
    // Version 1.0, so that the answer comes in one piece and ends with the connection.
    let mut head = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let parts = text.split_once("\r\n\r\n");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    match (status, parts) {
        (Some(status), Some((_, body))) => Ok(Answer { status, body: body.to_owned() }),
        _ => Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the connection was closed without an answer")),
    }
}
