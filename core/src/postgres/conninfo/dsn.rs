//! The two forms of a connection string: `key=value key='a value'` and `postgresql://…` (libpq, "Connection Strings").
//!
//! The invariant: what [`quote`] writes, [`parse`] reads back as it was; no error repeats a value, because it may be a
//! password.

use super::keywords::Settings;
use crate::error::{Error, Result};

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

/// True if `text` is a connection string rather than the name of a database.
pub fn is_dsn(text: &str) -> bool {
    text.contains('=') || uri_rest(text).is_some()
}

/// Writes a value so that it can stand behind `key=` in a connection string.
pub fn quote(value: &str) -> String {
    let plain = !value.is_empty()
        && !value.chars().any(|char| char.is_ascii_whitespace() || matches!(char, '\'' | '\\' | '\x0b'));
    if plain { value.to_owned() } else { format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'")) }
}

/// Reads either form.
pub(super) fn parse(text: &str) -> Result<Settings> {
    if text.contains('\0') {
        return Err(Error::invalid("the connection string contains a null byte"));
    }
    let mut settings = Settings::default();
    match uri_rest(text) {
        Some(rest) => parse_uri(rest, &mut settings)?,
        None => {
            for (key, value) in parse_pairs(text)? {
                settings.replace(&key, &value)?;
            }
        }
    }
    Ok(settings)
}

fn uri_rest(text: &str) -> Option<&str> {
    SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme))
}

/// What C calls white space.
fn is_space(char: char) -> bool {
    char.is_ascii_whitespace() || char == '\x0b'
}

/// `key = value` pairs: a value ends at white space or stands in single quotes; a backslash takes the next character as it is.
fn parse_pairs(text: &str) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(|char| is_space(char) || char == '=').unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let Some(after) = after.trim_start_matches(is_space).strip_prefix('=') else {
            // Without "=" this may be the rest of an unquoted password: it is not shown.
            return Err(Error::invalid(format!("missing \"=\" in the connection string after option {}", pairs.len()))
                .with_hint("a value with spaces needs single quotes: key='a value'"));
        };
        let (value, after) = parse_value(after.trim_start_matches(is_space))?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start_matches(is_space);
    }
    Ok(pairs)
}

/// One value and what follows it.
fn parse_value(text: &str) -> Result<(String, &str)> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, next)| next)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            char if !quoted && is_space(char) => return Ok((value, &body[at..])),
            char => value.push(char),
        }
    }
    if quoted {
        return Err(Error::invalid("unterminated quoted value in the connection string")
            .with_hint(r"inside single quotes, write \' for a quote and \\ for a backslash"));
    }
    Ok((value, ""))
}

/// `[user[:password]@][host[:port],…][/dbname][?key=value&…]`
fn parse_uri(rest: &str, settings: &mut Settings) -> Result<()> {
    // As libpq: user and password end at the first "@" that comes before any "/".
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let rest = match rest[..authority_end].find('@') {
        None => rest,
        Some(at) => {
            let (user, password) = match rest[..at].split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (&rest[..at], None),
            };
            settings.offer("user", &decode(user)?)?;
            if let Some(password) = password {
                settings.offer("password", &decode(password)?)?;
            }
            &rest[at + 1..]
        }
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    parse_authority(authority, settings)?;
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    if let Some(dbname) = path.strip_prefix('/').filter(|name| !name.is_empty()) {
        settings.offer("dbname", &decode(dbname)?)?;
    }
    for pair in query.into_iter().flat_map(|query| query.split('&')).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::invalid("missing \"=\" in a query parameter of the connection URI"))?;
        if value.contains('=') {
            return Err(Error::invalid(format!("extra \"=\" in the query parameter {key:?} of the connection URI"))
                .with_hint("write %3D"));
        }
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling, which libpq accepts as well.
        match (key.as_str(), value.as_str()) {
            ("ssl", "true") => settings.replace("sslmode", "require")?,
            (key, value) => settings.replace(key, value)?,
        }
    }
    Ok(())
}

/// `host:port,[::1]:port,…` becomes a list of hosts and a list of ports.
fn parse_authority(authority: &str, settings: &mut Settings) -> Result<()> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for entry in authority.split(',') {
        let (host, port) = match entry.strip_prefix('[') {
            Some(inner) => {
                let (host, after) = inner
                    .split_once(']')
                    .filter(|(host, _)| !host.is_empty())
                    .ok_or_else(|| Error::invalid(format!("not an IPv6 address in brackets: {entry:?}")))?;
                match after.strip_prefix(':') {
                    Some(port) => (host, port),
                    None if after.is_empty() => (host, ""),
                    None => return Err(Error::invalid(format!("unexpected text after the address: {entry:?}"))),
                }
            }
            None => entry.split_once(':').unwrap_or((entry, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        settings.offer("host", &hosts.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        settings.offer("port", &ports.join(","))?;
    }
    Ok(())
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Result<String> {
    let bad = || {
        Error::invalid("a percent sign in the connection URI is not followed by two hex digits").with_hint("write %25")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(bad);
        let value = u8::try_from(digit()? * 16 + digit()?).map_err(|_| bad())?;
        if value == 0 {
            return Err(Error::invalid("%00 is not allowed in the connection URI"));
        }
        bytes.push(value);
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid("the connection URI is not UTF-8 after percent-decoding"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn get(text: &str, key: &str) -> Option<String> {
        parse(text).unwrap().text(key).map(str::to_owned)
    }

    #[test]
    fn pairs_follow_the_quoting_rules_of_libpq() {
        let text = r"host = /var/run/my\ sock user='it\'s' password='' dbname=a\\b port=5433";
        assert_eq!(get(text, "host").unwrap(), "/var/run/my sock");
        assert_eq!(get(text, "user").unwrap(), "it's");
        assert_eq!(get(text, "password"), None);
        assert_eq!(get(text, "dbname").unwrap(), r"a\b");
        assert_eq!(get(text, "port").unwrap(), "5433");
        assert_eq!(get("host=a host=b", "host").unwrap(), "b", "the last one wins");
        assert_eq!(get("", "host"), None);
    }

    #[test]
    fn broken_strings_are_refused_without_showing_them() {
        for text in ["host", "password=my secret", "user='x", "nonsense=1 password=secret", "postgresql://a/b?x"] {
            let error = parse(text).unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(parse("nonsense=1").unwrap_err().to_string().contains("\"nonsense\""));
    }

    #[test]
    fn a_uri_gives_all_of_its_parts() {
        let uri = "postgresql://us%40er:p%3Aw:x@h1:1,[::1]:2,h3/d%2Fb?sslmode=require&options=-c%20a%3Db";
        assert_eq!(get(uri, "user").unwrap(), "us@er");
        assert_eq!(get(uri, "password").unwrap(), "p:w:x");
        assert_eq!(get(uri, "host").unwrap(), "h1,::1,h3");
        assert_eq!(get(uri, "port").unwrap(), "1,2,");
        assert_eq!(get(uri, "dbname").unwrap(), "d/b");
        assert_eq!(get(uri, "options").unwrap(), "-c a=b");
        assert_eq!(get("postgres://%2Ftmp%2Fs:99?ssl=true", "host").unwrap(), "/tmp/s");
        assert_eq!(get("postgres://%2Ftmp%2Fs:99?ssl=true", "sslmode").unwrap(), "require");
        assert_eq!(get("postgresql:///x?host=/tmp", "host").unwrap(), "/tmp");
        assert_eq!(get("postgresql://", "host"), None);
        for bad in ["postgres://%zz", "postgres://%00", "postgres://[::1", "postgres://[::1]x", "postgres://h?a=b=c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_is_not_a_dsn() {
        assert!(!is_dsn("postgres"));
        assert!(!is_dsn("my db"));
        assert!(is_dsn("dbname=x"));
        assert!(is_dsn("postgres://h"));
    }

    proptest! {
        #[test]
        fn quoting_round_trips(value in "[^\0]{0,40}", other in r"[ '\\=a]{0,10}") {
            let text = format!("user={} password = {}\tdbname=x", quote(&value), quote(&other));
            let pairs = parse_pairs(&text).unwrap();
            prop_assert_eq!(pairs.len(), 3);
            prop_assert_eq!(&pairs[0].1, &value);
            prop_assert_eq!(&pairs[1].1, &other);
        }

        #[test]
        fn percent_encoding_round_trips(value in "[^\0]{0,40}") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(get(&format!("postgresql://u:{encoded}@h"), "password").unwrap_or_default(), value);
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("postgresql://{text}"));
        }
    }
}
