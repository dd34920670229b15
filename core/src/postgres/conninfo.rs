//! Where to connect: what the user said, completed the way libpq does it.
//!
//! From the strongest to the weakest: the connection string, the options beside it, the service file, the `PG*` variables,
//! the defaults. Not here: opening the connection. The invariant: everything that comes from outside is in the
//! [`Environment`], so that the whole of it can be tested without touching the process.

pub mod dsn;
mod keywords;
pub mod params;
mod pgpass;
mod service;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

pub use dsn::{is_dsn, quote};
pub use params::{Address, ConnectParams, HostParams, Secret, SslMode, TargetSession};

use crate::error::Result;

/// What the user says on the command line or in a program: the four options of the stock tools.
///
/// `dbname_or_dsn` is a connection string when it is a URI or contains `=` (`-d`). Unlike the stock tools, which then
/// ignore the other three, and like `psql`, host, port and user still count where the string does not say them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Host name, address, socket directory, or a list of them separated by commas.
    pub host: Option<String>,
    /// Port, or a list of them.
    pub port: Option<String>,
    /// Role.
    pub user: Option<String>,
    /// Name of the database, or a connection string.
    pub dbname_or_dsn: Option<String>,
}

impl ConnectOptions {
    /// Options that consist of a connection string or the name of a database.
    pub fn new(dbname_or_dsn: impl Into<String>) -> Self {
        Self { dbname_or_dsn: Some(dbname_or_dsn.into()), ..Self::default() }
    }

    /// Completes the options from the environment.
    ///
    /// # Errors
    /// `InvalidInput` for an unknown keyword or a value that makes no sense, `Unsupported` for one that this program
    /// cannot honour, `NotFound` for a service that does not exist.
    pub fn resolve(&self, environment: &Environment) -> Result<ConnectParams> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mut settings = keywords::Settings::default();
        match given(&self.dbname_or_dsn) {
            Some(text) if is_dsn(&text) => settings = dsn::parse(&text)?,
            Some(name) => settings.offer("dbname", &name)?,
            None => {}
        }
        for (name, value) in [("host", &self.host), ("port", &self.port), ("user", &self.user)] {
            if let Some(value) = given(value) {
                settings.offer(name, &value)?;
            }
        }
        let service = settings.text("service").or_else(|| environment.var("PGSERVICE")).map(str::to_owned);
        if let Some(service) = service {
            let file = settings.text("servicefile").or_else(|| environment.var("PGSERVICEFILE"));
            let found = service::load(&service, file, environment)?;
            settings.offer_all(&found);
        }
        settings.offer_environment(&environment.vars)?;
        ConnectParams::read(&settings, environment)
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dbname = self.dbname_or_dsn.as_deref().map(|text| if is_dsn(text) { "***" } else { text });
        f.debug_struct("ConnectOptions")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("dbname_or_dsn", &dbname)
            .finish()
    }
}

/// What is taken from the process and the machine: variables, home directory, name of the OS user.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The variables; only `PG*` are looked at.
    pub vars: BTreeMap<String, String>,
    /// Where `.pgpass`, `.pg_service.conf` and `.postgresql/` are.
    pub home: Option<PathBuf>,
    /// The default for the role.
    pub os_user: Option<String>,
}

impl Environment {
    /// The environment of this process.
    pub fn from_process() -> Self {
        let vars = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("PG"))
            .collect();
        Self { vars, home: std::env::home_dir(), os_user: whoami::username().ok() }
    }

    /// A variable that is set and not empty.
    fn var(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn home_file(&self, name: &str) -> Option<PathBuf> {
        self.home.as_ref().map(|home| home.join(name))
    }

    /// Where the service file of the system is: Debian's directory unless `PGSYSCONFDIR` names another.
    fn system_dir(&self) -> PathBuf {
        self.var("PGSYSCONFDIR").unwrap_or("/etc/postgresql-common").into()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("vars", &self.vars.keys().collect::<Vec<_>>())
            .field("home", &self.home)
            .field("os_user", &self.os_user)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::ErrorKind;

    fn environment(vars: &[(&str, &str)]) -> Environment {
        Environment {
            vars: vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            home: None,
            os_user: Some("alice".to_owned()),
        }
    }

    fn resolve(dsn: &str, vars: &[(&str, &str)]) -> Result<ConnectParams> {
        ConnectOptions::new(dsn).resolve(&environment(vars))
    }

    fn hosts(params: &ConnectParams) -> Vec<String> {
        params.hosts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_said_means_the_sockets_of_this_host_and_the_database_postgres() {
        let params = resolve("", &[]).unwrap();
        assert_eq!(hosts(&params), ["socket /var/run/postgresql/.s.PGSQL.5432", "socket /tmp/.s.PGSQL.5432"]);
        assert_eq!((params.user.as_str(), params.dbname.as_str()), ("alice", "postgres"));
        assert_eq!(params.application_name, "barman_snap");
        assert_eq!(params.connect_timeout, Some(Duration::from_secs(30)));
        assert_eq!(params.tls.mode, SslMode::Prefer);
    }

    #[test]
    fn the_string_comes_before_the_options_and_these_before_the_environment() {
        let options = ConnectOptions {
            host: Some("option".to_owned()),
            port: Some("2".to_owned()),
            user: None,
            dbname_or_dsn: Some("host=string application_name=x".to_owned()),
        };
        let vars =
            [("PGHOST", "env"), ("PGPORT", "3"), ("PGUSER", "env"), ("PGDATABASE", "env"), ("PGSSLMODE", "require")];
        let params = options.resolve(&environment(&vars)).unwrap();
        assert_eq!(hosts(&params), ["host string port 2"]);
        assert_eq!((params.user.as_str(), params.dbname.as_str()), ("env", "env"));
        assert_eq!((params.application_name.as_str(), params.tls.mode), ("x", SslMode::Require));
        let plain = ConnectOptions { dbname_or_dsn: Some("my db".to_owned()), ..ConnectOptions::default() };
        assert_eq!(plain.resolve(&environment(&vars)).unwrap().dbname, "my db");
    }

    #[test]
    fn hosts_addresses_and_ports_are_paired() {
        let params = resolve("host=a,/sock,::1 port=1,,3", &[]).unwrap();
        assert_eq!(hosts(&params), ["host a port 1", "socket /sock/.s.PGSQL.5432", "host ::1 port 3"]);
        let params = resolve("host=a,b hostaddr=10.0.0.1,::1 port=7", &[]).unwrap();
        assert_eq!(hosts(&params), ["host a (10.0.0.1) port 7", "host b (::1) port 7"]);
        assert_eq!(hosts(&resolve("hostaddr=10.0.0.1", &[]).unwrap()), ["host 10.0.0.1 port 5432"]);
        for bad in [
            "host=a,b port=1,2,3",
            "host=a hostaddr=::1,::2",
            "port=0",
            "port=65536",
            "port=x",
            "hostaddr=a",
            "host=@x",
        ] {
            assert_eq!(resolve(bad, &[]).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name() {
        for (dsn, name) in [
            ("require_auth=scram-sha-256", "require_auth"),
            ("gssencmode=require", "gssencmode"),
            ("requirepeer=postgres", "requirepeer"),
            ("replication=database", "replication"),
        ] {
            let error = resolve(dsn, &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.to_string().contains(name), "{error}");
        }
        assert!(resolve("gssencmode=disable krbsrvname=x client_encoding=latin1", &[]).is_ok());
        assert!(resolve("hots=x", &[]).unwrap_err().to_string().contains("\"hots\""));
        let error = resolve("sslmode=verify", &[]).unwrap_err();
        assert!(error.to_string().contains("verify-full"), "{error}");
        assert!(resolve("connect_timeout=soon", &[]).is_err());
        assert!(resolve("", &[("PGREQUIREAUTH", "password")]).is_err());
    }

    #[test]
    fn weak_modes_are_refused_where_they_would_mean_nothing() {
        assert!(resolve("sslrootcert=system sslmode=require", &[]).is_err());
        assert_eq!(resolve("sslrootcert=system", &[]).unwrap().tls.mode, SslMode::VerifyFull);
        assert!(resolve("sslnegotiation=direct", &[]).is_err());
        assert!(resolve("ssl_max_protocol_version=TLSv1.1", &[]).is_err());
        assert!(resolve("ssl_min_protocol_version=TLSv1", &[]).is_ok());
    }

    #[test]
    fn no_password_is_ever_shown() {
        let dsn = "postgres://bob:s3cret@h/db";
        let params = resolve(dsn, &[("PGPASSWORD", "s3cret")]).unwrap();
        assert_eq!(params.hosts[0].password.as_ref().unwrap().reveal(), "s3cret");
        let shown = format!("{params:?} {:?} {:?}", ConnectOptions::new(dsn), environment(&[("PGPASSWORD", "s3cret")]));
        assert!(!shown.contains("s3cret"), "{shown}");
    }

    #[test]
    fn zero_and_less_mean_no_time_limit() {
        for dsn in ["connect_timeout=0", "connect_timeout=-1"] {
            assert_eq!(resolve(dsn, &[]).unwrap().connect_timeout, None);
        }
        assert_eq!(resolve("tcp_user_timeout=0", &[]).unwrap().tcp_user_timeout, None);
        assert!(!resolve("keepalives=0", &[]).unwrap().keep_alive.enabled);
    }
}
