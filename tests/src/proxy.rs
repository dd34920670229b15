//! A proxy as companies have one: it takes `CONNECT host:port`, and leads to where the test says that the host is.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A running one. It ends with the process.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Leads these names (`host:port`) to these addresses, and nothing else anywhere.
    pub fn start(hosts: BTreeMap<String, String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address").to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (hosts, told) = (hosts.clone(), Arc::clone(&told));
                thread::spawn(move || serve(&client, &hosts, &told));
            }
        });
        Self { address, asked }
    }

    /// Its URL, as `HTTPS_PROXY` has it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked for so far, and what it was not to be asked for: every request as it came.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("nobody has panicked").clone()
    }
}

fn serve(client: &TcpStream, hosts: &BTreeMap<String, String>, told: &Mutex<Vec<String>>) -> Option<()> {
    let mut lines = BufReader::new(client.try_clone().ok()?);
    let mut first = String::new();
    lines.read_line(&mut first).ok()?;
    told.lock().ok()?.push(first.trim().to_owned());
    let mut line = String::new();
    while lines.read_line(&mut line).ok()? > 2 {
        line.clear();
    }
    let wanted = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    let Some(server) = wanted.and_then(|name| hosts.get(name)).and_then(|address| TcpStream::connect(address).ok())
    else {
        { client }.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").ok()?;
        return None;
    };
    { client }.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
    let (mut from_server, mut to_client) = (server.try_clone().ok()?, client.try_clone().ok()?);
    thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
    // What was read beyond the head is in the buffer.
    std::io::copy(&mut lines, &mut &server).ok()?;
    server.shutdown(std::net::Shutdown::Write).ok()
}
