//! The keywords of libpq: which exist, which environment variable stands for each, and what is done with it here.
//!
//! The invariant: a keyword that would make a connection safer or different and that is not supported is refused; it is
//! never ignored in silence.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// What is done with a keyword.
#[derive(Clone, Copy)]
enum Use {
    /// It has an effect.
    Used,
    /// It makes no difference here: its values only concern what is not used (GSSAPI names, the encoding of the client).
    Ignored,
    /// Only these values, which ask for nothing, are accepted.
    Only(&'static [&'static str]),
}

/// Name, environment variable, use: libpq, "Parameter Key Words" and "Environment Variables".
const KEYWORDS: &[(&str, &str, Use)] = &[
    ("application_name", "PGAPPNAME", Use::Used),
    ("channel_binding", "PGCHANNELBINDING", Use::Used),
    ("client_encoding", "PGCLIENTENCODING", Use::Ignored),
    ("connect_timeout", "PGCONNECT_TIMEOUT", Use::Used),
    ("dbname", "PGDATABASE", Use::Used),
    ("fallback_application_name", "", Use::Used),
    ("gssdelegation", "PGGSSDELEGATION", Use::Ignored),
    ("gssencmode", "PGGSSENCMODE", Use::Only(&["disable", "prefer"])),
    ("gsslib", "PGGSSLIB", Use::Ignored),
    ("host", "PGHOST", Use::Used),
    ("hostaddr", "PGHOSTADDR", Use::Used),
    ("keepalives", "", Use::Used),
    ("keepalives_count", "", Use::Used),
    ("keepalives_idle", "", Use::Used),
    ("keepalives_interval", "", Use::Used),
    ("krbsrvname", "PGKRBSRVNAME", Use::Ignored),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS", Use::Used),
    ("max_protocol_version", "PGMAXPROTOCOLVERSION", Use::Ignored),
    ("min_protocol_version", "PGMINPROTOCOLVERSION", Use::Only(&["3.0"])),
    ("oauth_client_id", "", Use::Only(&[])),
    ("oauth_client_secret", "", Use::Only(&[])),
    ("oauth_issuer", "", Use::Only(&[])),
    ("oauth_scope", "", Use::Only(&[])),
    ("options", "PGOPTIONS", Use::Used),
    ("passfile", "PGPASSFILE", Use::Used),
    ("password", "PGPASSWORD", Use::Used),
    ("port", "PGPORT", Use::Used),
    ("replication", "", Use::Only(&["false", "off", "no", "0"])),
    ("require_auth", "PGREQUIREAUTH", Use::Only(&[])),
    ("requirepeer", "PGREQUIREPEER", Use::Only(&[])),
    ("scram_client_key", "", Use::Only(&[])),
    ("scram_server_key", "", Use::Only(&[])),
    ("service", "PGSERVICE", Use::Used),
    ("servicefile", "PGSERVICEFILE", Use::Used),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", Use::Used),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", Use::Used),
    ("sslcert", "PGSSLCERT", Use::Used),
    ("sslcertmode", "PGSSLCERTMODE", Use::Only(&["disable", "allow"])),
    ("sslcompression", "PGSSLCOMPRESSION", Use::Ignored),
    ("sslcrl", "PGSSLCRL", Use::Used),
    ("sslcrldir", "PGSSLCRLDIR", Use::Used),
    ("sslkey", "PGSSLKEY", Use::Used),
    ("sslkeylogfile", "", Use::Only(&[])),
    ("sslmode", "PGSSLMODE", Use::Used),
    ("sslnegotiation", "PGSSLNEGOTIATION", Use::Used),
    ("sslpassword", "", Use::Ignored),
    ("sslrootcert", "PGSSLROOTCERT", Use::Used),
    ("sslsni", "PGSSLSNI", Use::Used),
    ("target_session_attrs", "PGTARGETSESSIONATTRS", Use::Used),
    ("tcp_user_timeout", "", Use::Used),
    ("user", "PGUSER", Use::Used),
];

/// Values by keyword. What is set first stays: sources are applied from the strongest to the weakest.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl fmt::Debug for Settings {
    /// The names only: a value may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Settings {
    /// Sets `name` unless a stronger source has set it. Fails on a name that libpq does not know.
    pub(super) fn offer(&mut self, name: &str, value: &str) -> Result<()> {
        let Some((name, _, uses)) = KEYWORDS.iter().find(|(known, ..)| *known == name) else {
            return Err(Error::invalid(format!("unknown connection option: {name:?}")));
        };
        if let Use::Only(allowed) = uses
            && !value.is_empty()
            && !allowed.contains(&value)
            && !self.0.contains_key(name)
        {
            // The value may be a secret (oauth_client_secret); the name is enough.
            return Err(Error::new(ErrorKind::Unsupported, format!("the connection option {name} is not supported")));
        }
        self.0.entry(name).or_insert_with(|| value.to_owned());
        Ok(())
    }

    /// Fills in what the environment says.
    pub(super) fn offer_environment(&mut self, vars: &BTreeMap<String, String>) -> Result<()> {
        for (name, variable, _) in KEYWORDS.iter().filter(|(_, variable, _)| !variable.is_empty()) {
            if let Some(value) = vars.get(*variable) {
                self.offer(name, value).map_err(|error| error.with_context("variable", *variable))?;
            }
        }
        Ok(())
    }

    /// Fills in what another set says.
    pub(super) fn offer_all(&mut self, weaker: &Self) {
        for (name, value) in &weaker.0 {
            self.0.entry(name).or_insert_with(|| value.clone());
        }
    }

    /// Replaces a value, as a DSN does when it says the same keyword twice.
    pub(super) fn replace(&mut self, name: &str, value: &str) -> Result<()> {
        self.0.remove(name);
        self.offer(name, value)
    }

    /// The value, unless it is empty, which means the default everywhere.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The value as a number.
    pub(super) fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        text.trim().parse().map(Some).map_err(|_| Error::invalid(format!("not a number for {name}: {text:?}")))
    }

    /// The value as one of a few words.
    pub(super) fn choice<T: Copy>(&self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(Some(*value)),
            None => {
                Err(Error::invalid(format!("not a value of {name}: {text:?}")).with_hint(format!("one of {}", words())))
            }
        }
    }
}
