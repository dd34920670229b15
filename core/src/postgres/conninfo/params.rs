//! The settings of a connection with their types: what the text of a DSN, a service file and the environment comes to.
//!
//! Not here: where the text comes from ([`super`]) and opening the connection. The invariant: a [`ConnectParams`] is
//! complete; nothing that is done with it looks at the environment again, except for reading the certificate files.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::keywords::Settings;
use super::{Environment, pgpass};
use crate::error::{Error, Result};

/// The name that a session has in `pg_stat_activity` when the user gives none.
pub const APPLICATION_NAME: &str = "barman_snap";

/// Where sockets are looked for when no host is given: Debian's and Red Hat's directory, then that of PostgreSQL itself.
pub const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// How long one host may take to accept and authenticate when `connect_timeout` is not given. libpq waits for ever; a
/// backup that hangs for ever in the night is worse than one that fails.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where one server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The directory of a Unix domain socket.
    Socket(PathBuf),
    /// A name or a number, and the address to use instead of looking the name up.
    Tcp {
        /// The host as given; certificates are compared with it.
        host: String,
        /// `hostaddr`.
        addr: Option<IpAddr>,
    },
}

/// One server to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostParams {
    /// Where it is.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// The password for it.
    pub password: Option<Secret>,
    /// Why the password file was not used, when it was there.
    pub password_note: Option<String>,
}

impl fmt::Display for HostParams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Socket(directory) => write!(f, "socket {}/.s.PGSQL.{}", directory.display(), self.port),
            Address::Tcp { host, addr: Some(addr) } if *host != addr.to_string() => {
                write!(f, "host {host} ({addr}) port {}", self.port)
            }
            Address::Tcp { host, .. } => write!(f, "host {host} port {}", self.port),
        }
    }
}

/// `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TargetSession {
    /// Any server.
    #[default]
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that does not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery, or else any.
    PreferStandby,
}

/// `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server refuses plain connections.
    Allow,
    /// TLS if the server has it.
    #[default]
    Prefer,
    /// TLS; the certificate is checked only where a root certificate is at hand.
    Require,
    /// TLS with a trusted certificate.
    VerifyCa,
    /// TLS with a trusted certificate that names the host.
    VerifyFull,
}

/// `sslrootcert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCert {
    /// The trust store of the operating system.
    System,
    /// A PEM file.
    File(PathBuf),
}

/// A file that is named by the user, or looked for at libpq's default place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChoice {
    /// Its path.
    pub path: PathBuf,
    /// True if the user named it; then it has to exist.
    pub named: bool,
}

/// All that concerns TLS.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct TlsParams {
    /// `sslmode`.
    pub mode: SslMode,
    /// `sslrootcert` or its default place; `None` without a home directory.
    pub root: Option<RootCert>,
    /// True if the user named `sslrootcert`.
    pub root_named: bool,
    /// `sslcert`.
    pub cert: Option<FileChoice>,
    /// `sslkey`.
    pub key: Option<FileChoice>,
    /// `sslcrl`.
    pub crl: Option<FileChoice>,
    /// `sslcrldir`.
    pub crl_dir: Option<PathBuf>,
    /// `sslcertmode` is not `disable`.
    pub send_cert: bool,
    /// `sslsni`.
    pub sni: bool,
    /// `sslnegotiation=direct`.
    pub direct: bool,
    /// Whether TLS 1.2 may be used.
    pub tls12: bool,
    /// Whether TLS 1.3 may be used.
    pub tls13: bool,
}

/// `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    /// Not used.
    Disable,
    /// Used where both sides can.
    #[default]
    Prefer,
    /// Refuses to authenticate without.
    Require,
}

/// TCP keep-alive. The defaults are shorter than those of the operating system (two hours), because a backup has to learn
/// of a dead peer while it can still undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// `keepalives`.
    pub enabled: bool,
    /// `keepalives_idle`.
    pub idle: Duration,
    /// `keepalives_interval`.
    pub interval: Duration,
    /// `keepalives_count`.
    pub count: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { enabled: true, idle: Duration::from_secs(60), interval: Duration::from_secs(10), count: 6 }
    }
}

/// Everything that opening a connection needs. `Debug` shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectParams {
    /// The servers, in the order given.
    pub hosts: Vec<HostParams>,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// `options`: command-line options for the server process.
    pub options: Option<String>,
    /// The name of the session.
    pub application_name: String,
    /// The limit for connecting to one host; `None` waits for ever.
    pub connect_timeout: Option<Duration>,
    /// TCP keep-alive.
    pub keep_alive: KeepAlive,
    /// `tcp_user_timeout`: how long sent data may stay unacknowledged; `None` is the operating system's default.
    pub tcp_user_timeout: Option<Duration>,
    /// What kind of server is wanted.
    pub target: TargetSession,
    /// `load_balance_hosts=random`.
    pub shuffle: bool,
    /// `channel_binding`.
    pub channel_binding: ChannelBinding,
    /// TLS.
    pub tls: TlsParams,
    /// `PGTZ`.
    pub time_zone: Option<String>,
}

impl ConnectParams {
    /// Gives every setting its type, and every host its password.
    pub(super) fn read(settings: &Settings, environment: &Environment) -> Result<Self> {
        let user = match (settings.text("user"), &environment.os_user) {
            (Some(user), _) => user.to_owned(),
            (None, Some(user)) => user.clone(),
            (None, None) => {
                return Err(Error::invalid("no database user is given and the name of the OS user is unknown"));
            }
        };
        let dbname = settings.text("dbname").unwrap_or("postgres").to_owned();
        let mut hosts = read_hosts(settings)?;
        let password = settings.text("password").map(Secret::new);
        for host in &mut hosts {
            host.password = password.clone();
        }
        if password.is_none() {
            pgpass::fill(&mut hosts, &dbname, &user, settings.text("passfile"), environment);
        }
        let seconds = |name, default| settings.number::<u32>(name).map(|value| value.unwrap_or(default));
        let default = KeepAlive::default();
        Ok(Self {
            hosts,
            user,
            dbname,
            options: settings.text("options").map(str::to_owned),
            application_name: settings
                .text("application_name")
                .or_else(|| settings.text("fallback_application_name"))
                .unwrap_or(APPLICATION_NAME)
                .to_owned(),
            connect_timeout: match settings.number::<i32>("connect_timeout")? {
                None => Some(CONNECT_TIMEOUT),
                Some(..=0) => None,
                Some(seconds) => Some(Duration::from_secs(u64::from(seconds.unsigned_abs()))),
            },
            keep_alive: KeepAlive {
                enabled: settings.number::<i32>("keepalives")? != Some(0),
                idle: Duration::from_secs(seconds("keepalives_idle", 0)?.into()).max_or(default.idle),
                interval: Duration::from_secs(seconds("keepalives_interval", 0)?.into()).max_or(default.interval),
                count: match seconds("keepalives_count", 0)? {
                    0 => default.count,
                    count => count,
                },
            },
            tcp_user_timeout: match settings.number::<u32>("tcp_user_timeout")? {
                None => Some(Duration::from_secs(60)),
                Some(0) => None,
                Some(ms) => Some(Duration::from_millis(ms.into())),
            },
            target: settings.choice("target_session_attrs", &TARGETS)?.unwrap_or_default(),
            shuffle: settings.choice("load_balance_hosts", &[("disable", false), ("random", true)])?.unwrap_or(false),
            channel_binding: settings.choice("channel_binding", &BINDINGS)?.unwrap_or_default(),
            tls: read_tls(settings, environment)?,
            time_zone: environment.var("PGTZ").map(str::to_owned),
        })
    }
}

const TARGETS: [(&str, TargetSession); 6] = [
    ("any", TargetSession::Any),
    ("read-write", TargetSession::ReadWrite),
    ("read-only", TargetSession::ReadOnly),
    ("primary", TargetSession::Primary),
    ("standby", TargetSession::Standby),
    ("prefer-standby", TargetSession::PreferStandby),
];

const BINDINGS: [(&str, ChannelBinding); 3] =
    [("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

const SSL_MODES: [(&str, SslMode); 6] = [
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

/// Zero means "the default" to libpq.
trait MaxOr {
    fn max_or(self, default: Self) -> Self;
}

impl MaxOr for Duration {
    fn max_or(self, default: Self) -> Self {
        if self.is_zero() { default } else { self }
    }
}

/// Pairs hosts, addresses and ports. A list of one port is for all hosts.
fn read_hosts(settings: &Settings) -> Result<Vec<HostParams>> {
    let list = |name| settings.text(name).map(|text| text.split(',').collect::<Vec<_>>());
    let (hosts, addrs) = (list("host"), list("hostaddr"));
    let ports = list("port").unwrap_or_else(|| vec![""]);
    let count = match (&hosts, &addrs) {
        (Some(hosts), Some(addrs)) if hosts.len() != addrs.len() => {
            return Err(Error::invalid(format!("{} hosts but {} addresses in hostaddr", hosts.len(), addrs.len())));
        }
        (Some(list), _) | (None, Some(list)) => list.len(),
        (None, None) => 1,
    };
    if ports.len() != 1 && ports.len() != count {
        return Err(Error::invalid(format!("{} ports for {count} hosts", ports.len()))
            .with_hint("give one port for all hosts, or one for each"));
    }
    let mut found = Vec::new();
    for at in 0..count {
        let port = read_port(if ports.len() == 1 { ports[0] } else { ports[at] })?;
        let host = hosts.as_ref().map_or("", |hosts| hosts[at].trim());
        let addr = addrs.as_ref().map_or("", |addrs| addrs[at].trim());
        for address in read_addresses(host, addr)? {
            found.push(HostParams { address, port, password: None, password_note: None });
        }
    }
    Ok(found)
}

/// The addresses that one entry of the list stands for: more than one only for the default.
fn read_addresses(host: &str, addr: &str) -> Result<Vec<Address>> {
    if !addr.is_empty() {
        let ip = addr.parse().map_err(|_| Error::invalid(format!("hostaddr is not an IP address: {addr:?}")))?;
        let host = if host.is_empty() || host.starts_with('/') { addr } else { host };
        return Ok(vec![Address::Tcp { host: host.to_owned(), addr: Some(ip) }]);
    }
    if host.is_empty() {
        return Ok(SOCKET_DIRECTORIES.iter().map(|directory| Address::Socket((*directory).into())).collect());
    }
    if host.starts_with('@') {
        return Err(Error::invalid(format!("sockets in the abstract namespace are not supported: {host:?}")));
    }
    if host.starts_with('/') {
        return Ok(vec![Address::Socket(host.into())]);
    }
    Ok(vec![Address::Tcp { host: host.to_owned(), addr: None }])
}

fn read_port(text: &str) -> Result<u16> {
    match text.trim() {
        "" => Ok(5432),
        text => match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(Error::invalid(format!("not a port: {text:?}")).with_hint("a number from 1 to 65535")),
        },
    }
}

fn read_tls(settings: &Settings, environment: &Environment) -> Result<TlsParams> {
    let system = settings.text("sslrootcert") == Some("system");
    let given: Option<SslMode> = settings.choice("sslmode", &SSL_MODES)?;
    // With the trust store of the whole world, any weaker mode would trust anybody with a certificate (as libpq).
    if system && given.is_some_and(|mode| mode != SslMode::VerifyFull) {
        return Err(Error::invalid("a weak sslmode may not be used with sslrootcert=system")
            .with_hint("use sslmode=verify-full"));
    }
    let mode = given.unwrap_or(if system { SslMode::VerifyFull } else { SslMode::default() });
    let direct = settings.choice("sslnegotiation", &[("postgres", false), ("direct", true)])?.unwrap_or(false);
    if direct && mode < SslMode::Require {
        return Err(Error::invalid("a weak sslmode may not be used with sslnegotiation=direct")
            .with_hint("use sslmode=require or stronger"));
    }
    let file = |name, default: &str| match settings.text(name) {
        Some(path) => Some(FileChoice { path: path.into(), named: true }),
        None => environment.home_file(default).map(|path| FileChoice { path, named: false }),
    };
    let root = file("sslrootcert", ".postgresql/root.crt");
    let (tls12, tls13) = read_protocols(settings)?;
    Ok(TlsParams {
        mode,
        root_named: root.as_ref().is_some_and(|root| root.named),
        root: if system { Some(RootCert::System) } else { root.map(|root| RootCert::File(root.path)) },
        cert: file("sslcert", ".postgresql/postgresql.crt"),
        key: file("sslkey", ".postgresql/postgresql.key"),
        crl: file("sslcrl", ".postgresql/root.crl"),
        crl_dir: settings.text("sslcrldir").map(PathBuf::from),
        send_cert: settings.choice("sslcertmode", &[("disable", false), ("allow", true)])?.unwrap_or(true),
        sni: settings.choice("sslsni", &[("0", false), ("1", true)])?.unwrap_or(true),
        direct,
        tls12,
        tls13,
    })
}

/// Which of the two versions of TLS that are spoken here lie between the limits asked for.
fn read_protocols(settings: &Settings) -> Result<(bool, bool)> {
    const VERSIONS: [(&str, u8); 4] = [("TLSv1", 0), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
    let min = settings.choice("ssl_min_protocol_version", &VERSIONS)?.unwrap_or(2);
    let max = settings.choice("ssl_max_protocol_version", &VERSIONS)?.unwrap_or(3);
    if min > max || max < 2 {
        return Err(Error::invalid(
            "no version of TLS lies between ssl_min_protocol_version and ssl_max_protocol_version",
        )
        .with_hint("TLSv1.2 and TLSv1.3 are supported"));
    }
    Ok((min <= 2, max >= 3))
}
