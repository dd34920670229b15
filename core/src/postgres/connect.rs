//! Opening the connection: which hosts are tried, in which order, with or without TLS (libpq, "Specifying Multiple Hosts"
//! and "Protection Provided in Different Modes").
//!
//! Blocking; runs on the thread that will own the connection. The invariant: a server that answers and refuses ends the
//! search, a server that cannot be reached does not; a password goes only to the host that it was given for; and what is
//! returned is a session of our own, with a process of the server that nobody else is served by.

use std::sync::mpsc;
use std::time::Duration;

use postgres::config::{ChannelBinding as Binding, SslMode as Mode, SslNegotiation};
use postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::params::{Address, ChannelBinding, ConnectParams, HostParams, SslMode, TargetSession};
use super::errors::{self, Next};
use super::statements::TOKEN_NAME as TOKEN;
use super::{statements, tls};
use crate::error::{Error, ErrorKind, Result, Retry};
use crate::id::{IdSource, SystemIds};

/// An open connection, and what cancelling one of its statements needs.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) tls: Option<MakeRustlsConnect>,
    /// The host that was reached.
    pub(super) host: String,
    pub(super) version: u32,
}

/// Connects to the first host that can be reached and is of the kind that is wanted.
pub(super) fn open(params: &ConnectParams) -> Result<Opened> {
    let connector = match params.tls.mode {
        SslMode::Disable => None,
        _ if params.hosts.iter().all(|host| matches!(host.address, Address::Socket(_))) => None,
        _ => Some(tls::connector(&params.tls)?),
    };
    // A standby is preferred, not demanded: a second round takes what there is.
    let rounds: &[TargetSession] = match params.target {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        ref target => std::slice::from_ref(target),
    };
    let mut failed = Vec::new();
    for &target in rounds {
        failed.clear();
        for host in order(params) {
            match open_host(params, host, connector.as_ref()) {
                Ok(mut opened) => match unfit(&mut opened, target, host)? {
                    None => return Ok(opened),
                    Some(error) => failed.push(error),
                },
                Err((errors, stop)) => {
                    failed.extend(errors);
                    if stop {
                        return Err(errors::all_failed(failed));
                    }
                }
            }
        }
    }
    Err(errors::all_failed(failed))
}

/// The hosts in the order in which they are tried.
fn order(params: &ConnectParams) -> Vec<&HostParams> {
    let mut hosts: Vec<_> = params.hosts.iter().collect();
    if params.shuffle {
        // Where the load goes has no bearing on what a backup does, hence no seeded source.
        let mut bits = SystemIds.bits();
        for at in (1..hosts.len()).rev() {
            let bound = at as u128 + 1;
            hosts.swap(at, usize::try_from(bits % bound).unwrap_or(0));
            bits /= bound;
        }
    }
    hosts
}

/// Tries one host in every way that `sslmode` allows. The error says whether to stop the search.
fn open_host(
    params: &ConnectParams,
    host: &HostParams,
    connector: Option<&MakeRustlsConnect>,
) -> Result<Opened, (Vec<Error>, bool)> {
    let mut failed = Vec::new();
    let modes = ways(params.tls.mode, &host.address);
    for &mode in modes {
        let connector = connector.filter(|_| mode != Mode::Disable);
        let token = format!("{:032x}", SystemIds.bits());
        let (error, next) = match attempt(params, host, mode, &token, connector.cloned()) {
            Ok(mut client) => match own_session(&mut client, &token, host).and_then(|()| version(&mut client)) {
                Ok(version) => {
                    return Ok(Opened { client, tls: connector.cloned(), host: host.to_string(), version });
                }
                Err(error) => (error, Next::Stop),
            },
            Err(failure) => failure,
        };
        failed.push(error);
        match next {
            Next::OtherTls => {}
            Next::Host => return Err((failed, false)),
            Next::Stop => return Err((failed, true)),
        }
    }
    Err((failed, true))
}

/// With and without TLS, in order. A Unix socket never has TLS (libpq, `sslmode`).
fn ways(mode: SslMode, address: &Address) -> &'static [Mode] {
    match (mode, address) {
        (_, Address::Socket(_)) | (SslMode::Disable, _) => &[Mode::Disable],
        (SslMode::Allow, _) => &[Mode::Disable, Mode::Require],
        (SslMode::Prefer, _) => &[Mode::Prefer, Mode::Disable],
        (SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull, _) => &[Mode::Require],
    }
}

/// One attempt, on a thread of its own: the time limit of the crate ends when the socket is open, but a server can also hang
/// during the handshake. An attempt that is given up drops its connection when it ends.
fn attempt(
    params: &ConnectParams,
    host: &HostParams,
    mode: Mode,
    token: &str,
    connector: Option<MakeRustlsConnect>,
) -> Result<Client, (Error, Next)> {
    let config = config(params, host, mode, token);
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("barman-snap-dial".to_owned())
        .spawn(move || {
            let result = match connector {
                Some(connector) => config.connect(connector),
                None => config.connect(NoTls),
            };
            // Nobody listens any more after the time limit.
            let _ = sender.send(result);
        })
        .map_err(|error| (Error::internal("cannot start a thread").with_source(error), Next::Stop))?;
    let result = match params.connect_timeout {
        Some(limit) => receiver.recv_timeout(limit).map_err(|_| errors::timed_out(host, params))?,
        None => {
            receiver.recv().map_err(|_| (Error::internal("the thread that connects to PostgreSQL died"), Next::Stop))?
        }
    };
    result.map_err(|error| errors::connect(error, host, params))
}

/// The configuration of the crate for one attempt.
fn config(params: &ConnectParams, host: &HostParams, mode: Mode, token: &str) -> Config {
    let mut config = Config::new();
    match &host.address {
        Address::Socket(directory) => {
            config.host_path(directory);
        }
        Address::Tcp { host, addr } => {
            config.host(host);
            if let Some(addr) = addr {
                config.hostaddr(*addr);
            }
        }
    }
    config
        .port(host.port)
        .user(&params.user)
        .dbname(&params.dbname)
        .application_name(&params.application_name)
        .ssl_mode(mode)
        .keepalives(params.keep_alive.enabled)
        .keepalives_idle(params.keep_alive.idle)
        .keepalives_interval(params.keep_alive.interval)
        .keepalives_retries(params.keep_alive.count)
        .channel_binding(match params.channel_binding {
            ChannelBinding::Disable => Binding::Disable,
            ChannelBinding::Prefer => Binding::Prefer,
            ChannelBinding::Require => Binding::Require,
        })
        .notice_callback(|notice| tracing::debug!(severity = notice.severity(), "PostgreSQL: {}", notice.message()));
    if params.tls.direct && mode != Mode::Disable {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    if let Some(password) = &host.password {
        config.password(password.reveal());
    }
    let options = params.options.as_deref().unwrap_or_default();
    config.options(format!("-c {TOKEN}={token} {options}").trim_end());
    if let Some(limit) = params.connect_timeout {
        config.connect_timeout(limit);
    }
    config.tcp_user_timeout(params.tcp_user_timeout.unwrap_or(Duration::ZERO));
    config
}

/// Refuses a session that is not our own.
///
/// A connection pooler (PgBouncer in any mode, and others) answers in place of the server and lends its clients sessions that it
/// opened itself. There a backup would be begun in one and ended in another, and what is set for it would stay for whoever
/// comes next. So the session is given a token when it is opened, and only one that has the token is ours: a pooler refuses
/// what it does not know at the start of a session, or drops it. What passes everything through (a tunnel, a proxy for TCP) is
/// no matter. Nothing was set until here that could stay.
fn own_session(client: &mut Client, token: &str, host: &HostParams) -> Result<()> {
    let rows = super::client::rows(client, statements::TOKEN).map_err(errors::statement)?;
    match statements::one(&rows, 1)?[0].as_deref() {
        Some(found) if found == token => Ok(()),
        _ => Err(errors::pooler(host, "the session is not the one that was opened")),
    }
}

fn version(client: &mut Client) -> Result<u32> {
    let rows = super::client::rows(client, statements::VERSION).map_err(errors::statement)?;
    let version = statements::number(statements::text(statements::one(&rows, 1)?, 0)?)?;
    statements::check_version(version)?;
    Ok(version)
}

/// Nothing if the server is of the kind that is wanted, or else the reason why not.
fn unfit(opened: &mut Opened, target: TargetSession, host: &HostParams) -> Result<Option<Error>> {
    if target == TargetSession::Any {
        return Ok(None);
    }
    let rows = super::client::rows(&mut opened.client, statements::TARGET).map_err(errors::statement)?;
    let row = statements::one(&rows, 2)?;
    let in_recovery = statements::text(row, 0)? == "t";
    let read_only = in_recovery || statements::text(row, 1)? == "on";
    let (fits, wanted) = match target {
        TargetSession::Any | TargetSession::PreferStandby => (true, "any server"),
        TargetSession::ReadWrite => (!read_only, "a server that accepts writes"),
        TargetSession::ReadOnly => (read_only, "a server that is read-only"),
        TargetSession::Primary => (!in_recovery, "a primary"),
        TargetSession::Standby => (in_recovery, "a standby"),
    };
    Ok((!fits).then(|| {
        Error::new(ErrorKind::Unavailable, format!("{host} is not {wanted}"))
            .with_hint("see target_session_attrs")
            .with_retry(Retry::Safe)
    }))
}
