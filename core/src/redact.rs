//! What is secret in a text, taken out of it: the one place that knows what a secret looks like.
//!
//! It is used wherever a text that we did not write ourselves is shown, logged or stored: values of parameters, lines of a
//! server's log, answers of libraries, connection strings. [`Error`](crate::Error) passes every message through it.
//!
//! It is not a proof that nothing is left: a password in the middle of prose looks like any word. It knows names (a parameter, a
//! keyword of libpq, an option of `pg_hba.conf`, a variable of a cloud) and the user part of a URI, and takes the value behind
//! them. In doubt it takes more than it had to. The invariants: what is redacted once is not changed by doing it again; a text
//! without a secret comes back as it was.

use std::borrow::Cow;

/// What stands in the place of a secret.
pub const REDACTED: &str = "***";

/// Parts of names whose value is secret.
const PARTS: [&str; 13] = [
    "passw",
    "passphrase",
    "secret",
    "apikey",
    "api_key",
    "api-key",
    "accesskey",
    "access_key",
    "accountkey",
    "account_key",
    "storage_key",
    "private_key",
    "sharedaccesssignature",
];

/// Ends of such names.
const ENDS: [&str; 8] =
    ["_token", "-token", ".token", "sastoken", "authtoken", "accesstoken", "sessiontoken", "securitytoken"];

/// Such names as a whole: a signature of Azure and of AWS, what libpq has instead of a password from version 18 on.
const WHOLE: [&str; 6] =
    ["sig", "x-amz-signature", "authorization", "proxy-authorization", "scram_client_key", "scram_server_key"];

/// Names that look like one and are none.
const HARMLESS: [&str; 7] = [
    "password_encryption",
    "passwordcheck",
    "password_required",
    "credcheck.encrypted_password_allowed",
    "aws_access_key_id",
    "access_key_id",
    "accesskeyid",
];

/// Whether the value of this parameter, keyword, option or variable is secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.trim_start_matches('-').to_ascii_lowercase();
    if HARMLESS.contains(&name.as_str()) {
        return false;
    }
    WHOLE.contains(&name.as_str())
        || ENDS.iter().any(|end| name.ends_with(end))
        || PARTS.iter().any(|part| name.contains(part))
}

/// The value of a parameter, as it may be shown.
pub fn setting<'a>(name: &str, value: &'a str) -> Cow<'a, str> {
    if is_secret(name) && !value.is_empty() { REDACTED.into() } else { text(value) }
}

/// A text, as it may be shown: a message, a line of a log, a connection string, a command.
pub fn text(text: &str) -> Cow<'_, str> {
    if !may_hold_any(text) {
        return Cow::Borrowed(text);
    }
    match values(&users(text)) {
        same if same == text => Cow::Borrowed(text),
        other => Cow::Owned(other),
    }
}

/// A line of a log, which may be that of a library: some show the authority of a URI without its scheme. In a message of ours that
/// could be the name of something, such as a snapshot of ZFS.
pub fn log_line(line: &str) -> Cow<'_, str> {
    let shown = text(line);
    if !shown.contains('@') {
        return shown;
    }
    let is_end = |c: char| c.is_whitespace() || "\"'<>`/(,".contains(c);
    let mut out = String::with_capacity(shown.len());
    for word in shown.split_inclusive(is_end) {
        let parts = word.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host)));
        match parts {
            Some((user, host)) if !user.is_empty() && !host.trim_end_matches(is_end).is_empty() => {
                out.extend([user, ":", REDACTED, "@", host]);
            }
            _ => out.push_str(word),
        }
    }
    match out == shown {
        true => shown,
        false => Cow::Owned(out),
    }
}

/// Whether a closer look is worth while.
fn may_hold_any(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.contains("://")
        || lower.contains("bearer ")
        || lower.contains("scram-sha-256$")
        || lower.contains("token")
        || PARTS.iter().chain(&ENDS).chain(&WHOLE).any(|word| lower.contains(word))
}

/// `scheme://user:secret@host`: libpq takes the password up to the first `@` before any slash, others up to the last.
fn users(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, authority) = rest.split_at(at + 3);
        out.push_str(head);
        let end = authority.find(|c: char| c == '/' || c.is_whitespace() || "\"'<>`".contains(c));
        let (authority, tail) = authority.split_at(end.unwrap_or(authority.len()));
        let parts = authority.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host)));
        match parts {
            Some((user, host)) => out.extend([user, ":", REDACTED, "@", host]),
            None => out.push_str(authority),
        }
        rest = tail;
    }
    out.push_str(rest);
    out
}

/// The values behind secret names.
fn values(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if !is_of_a_name(first) {
            out.push(first);
            at += first.len_utf8();
            continue;
        }
        let length = text[at..].find(|c| !is_of_a_name(c)).unwrap_or(text.len() - at);
        let name = &text[at..at + length];
        at += length;
        out.push_str(name);
        if let Some((start, end)) = value_behind(name, &text[at..]) {
            out.push_str(&text[at..at + start]);
            out.push_str(REDACTED);
            at += end;
        }
    }
    out
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.-".contains(c)
}

/// Where in `rest` the secret is that `name` announces.
fn value_behind(name: &str, rest: &str) -> Option<(usize, usize)> {
    // The verifier that PostgreSQL keeps instead of a password.
    if name.eq_ignore_ascii_case("SCRAM-SHA-256") && rest.starts_with('$') {
        return Some((1, 1 + bare(&rest[1..])));
    }
    if name.eq_ignore_ascii_case("bearer") {
        let word = rest.strip_prefix(' ').filter(|word| bare(word) >= 8)?;
        return Some((1, 1 + bare(word)));
    }
    // Alone it may be anything; a member of a document is what a cloud gives out.
    let is_token = name.eq_ignore_ascii_case("token") && rest.trim_start_matches('\\').starts_with('"');
    if !is_secret(name) && !is_token {
        return None;
    }
    let mut scan = Scan { rest, at: 0 };
    let is_quoted = scan.eat(&["\\\"", "\"", "'", "`"]);
    // An element of an XML document.
    if !is_quoted && scan.eat(&[">"]) {
        let end = scan.tail().find('<').unwrap_or(scan.tail().len());
        return (end > 0).then_some((scan.at, scan.at + end));
    }
    let had_blanks = scan.blanks();
    let is_header = name.contains('-') || name.eq_ignore_ascii_case("authorization");
    if scan.eat(&[":=", "=>", "="]) || ((is_quoted || is_header) && scan.eat(&[":"])) {
        scan.blanks();
        return scan.value(true);
    }
    if is_quoted && scan.eat(&[","]) {
        scan.blanks();
        return scan.value(false);
    }
    if scan.eat_word(&["changed to", "to", "is"]) {
        scan.blanks();
        return scan.value(name.contains('.'));
    }
    // `PASSWORD 'x'`, and `--password x`.
    let is_option = name.starts_with("--") && had_blanks && !scan.tail().starts_with('-');
    scan.value(is_option)
}

struct Scan<'a> {
    rest: &'a str,
    at: usize,
}

impl<'a> Scan<'a> {
    fn tail(&self) -> &'a str {
        &self.rest[self.at..]
    }

    fn eat(&mut self, any: &[&str]) -> bool {
        let found = any.iter().find(|token| self.tail().starts_with(**token));
        self.at += found.map_or(0, |token| token.len());
        found.is_some()
    }

    /// Words with a blank behind them, in either case.
    fn eat_word(&mut self, any: &[&str]) -> bool {
        let tail = self.tail();
        let is_it = |word: &&&str| {
            tail.get(..word.len()).is_some_and(|head| head.eq_ignore_ascii_case(word))
                && tail[word.len()..].starts_with(char::is_whitespace)
        };
        let found = any.iter().find(is_it);
        self.at += found.map_or(0, |word| word.len());
        found.is_some()
    }

    fn blanks(&mut self) -> bool {
        let tail = self.tail();
        let blanks = tail.len() - tail.trim_start().len();
        self.at += blanks;
        blanks > 0
    }

    /// A value in quotes, or if that may be `bare` one without. Nothing for an empty one.
    fn value(&mut self, bare_too: bool) -> Option<(usize, usize)> {
        if self.tail().starts_with("E'") || self.tail().starts_with("e'") {
            self.at += 1;
        }
        // Quotes within quotes are doubled, or have a backslash.
        for quote in ["\\\"", "\\'", "''", "\"\"", "\"", "'"] {
            if !self.tail().starts_with(quote) {
                continue;
            }
            let inner = &self.tail()[quote.len()..];
            if quote == "''" && !inner.contains("''") {
                return None;
            }
            let length = quoted(inner, quote);
            self.at += quote.len();
            return (length > 0).then_some((self.at, self.at + length));
        }
        let tail = self.tail();
        if !bare_too {
            return None;
        }
        let mut length = bare(tail);
        // `Authorization: Bearer x`, `Basic x`, `AWS4-HMAC-SHA256 Credential=…, Signature=…`
        const SCHEMES: [&str; 5] = ["bearer", "basic", "sharedkey", "negotiate", "aws4-hmac-sha256"];
        if SCHEMES.iter().any(|scheme| tail[..length].eq_ignore_ascii_case(scheme)) {
            length = tail.find(['\n', '"', '\'']).unwrap_or(tail.len());
        }
        (length > 0).then_some((self.at, self.at + length))
    }
}

/// The length of what is in quotes, without the closing one; all of it if there is none.
fn quoted(inner: &str, quote: &str) -> usize {
    let mut at = 0;
    while at < inner.len() {
        let tail = &inner[at..];
        if tail.starts_with(quote) {
            // A doubled quote is one that belongs to the value.
            if quote.len() == 1 && tail[1..].starts_with(quote) {
                at += 2;
                continue;
            }
            return at;
        }
        let mut chars = tail.chars();
        let first = chars.next().map_or(1, char::len_utf8);
        let is_escape = tail.starts_with('\\') && quote.len() == 1;
        at += first + if is_escape { chars.next().map_or(0, char::len_utf8) } else { 0 };
    }
    inner.len()
}

/// The length of a value without quotes: up to a blank, or a quote that closes something around it.
fn bare(text: &str) -> usize {
    let closes =
        |rest: &str| rest.chars().next().is_none_or(|next| next.is_whitespace() || ",;:)]}>'\"".contains(next));
    let mut chars = text.char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        if c.is_whitespace() || ("'\"`".contains(c) && closes(&text[at + 1..])) {
            end = at;
            break;
        }
        if c == '\\' {
            // An escaped blank belongs to it; an escaped quote may close what is around it.
            let rest = &text[at + 1..];
            if rest.starts_with(['"', '\'']) && closes(&rest[1..]) {
                end = at;
                break;
            }
            chars.next();
        }
    }
    text[..end].trim_end_matches([',', ';', '.', ')', ']', '}', '>', ':']).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_wherever_they_stand() {
        for (before, after) in [
            ("host=h password=s3cret user=u", "host=h password=*** user=u"),
            ("password = 's3 ''cret' user=u", "password = '***' user=u"),
            (r"password='s3\'cret' user=u", "password='***' user=u"),
            (r"password=s3\ cret user=u", "password=*** user=u"),
            ("primary_conninfo = 'host=h password=s3cret'", "primary_conninfo = 'host=h password=***'"),
            ("primary_conninfo = 'password=''s3 cret'' user=u'", "primary_conninfo = 'password=''***'' user=u'"),
            ("password='' user=u", "password='' user=u"),
            (r#"{"password":"s3cret","user":"u"}"#, r#"{"password":"***","user":"u"}"#),
            (r#"Some("host=h password=s3cret")"#, r#"Some("host=h password=***")"#),
            (
                r#""primary_conninfo": "host=h password=\"s3 cret\" x""#,
                r#""primary_conninfo": "host=h password=\"***\" x""#,
            ),
            ("postgresql://u:s3cret@h:5432/db?x=y", "postgresql://u:***@h:5432/db?x=y"),
            ("postgresql://u:s3@c?ret@h/db", "postgresql://u:***@h/db"),
            ("'https://u:s3cret@h/x', twice http://v:s3cret@i", "'https://u:***@h/x', twice http://v:***@i"),
            ("postgresql://u@h/db?password=s3cret&host=x y", "postgresql://u@h/db?password=*** y"),
            ("https://a.blob.core.windows.net/c?sv=1&sig=s3cret%3D", "https://a.blob.core.windows.net/c?sv=1&sig=***"),
            ("AccountName=a;AccountKey=s3cret==;EndpointSuffix=x", "AccountName=a;AccountKey=***"),
            ("AWS_SECRET_ACCESS_KEY=s3cret cp %p x", "AWS_SECRET_ACCESS_KEY=*** cp %p x"),
            ("PGPASSWORD='s3 cret' psql", "PGPASSWORD='***' psql"),
            ("tool --password s3cret --secret-key=s3cret x", "tool --password *** --secret-key=*** x"),
            (
                "host all all ::1/0 ldap ldapserver=x ldapbindpasswd=s3cret",
                "host all all ::1/0 ldap ldapserver=x ldapbindpasswd=***",
            ),
            (r#"ldapbindpasswd="s3 cret" radiussecrets="s3cret""#, r#"ldapbindpasswd="***" radiussecrets="***""#),
            ("STATEMENT:  ALTER ROLE x PASSWORD 's3 cret';", "STATEMENT:  ALTER ROLE x PASSWORD '***';"),
            ("CREATE ROLE x ENCRYPTED PASSWORD E's3\\'cret'", "CREATE ROLE x ENCRYPTED PASSWORD E'***'"),
            ("OPTIONS (user 'u', password 's3cret')", "OPTIONS (user 'u', password '***')"),
            ("SET app.api_token TO s3cret", "SET app.api_token TO ***"),
            ("select set_config('app.password', 's3cret', true)", "select set_config('app.password', '***', true)"),
            (r#"parameter "app.password" changed to "s3cret""#, r#"parameter "app.password" changed to "***""#),
            (
                r#"parameter "primary_conninfo" changed to "host=h password=s3cret""#,
                r#"parameter "primary_conninfo" changed to "host=h password=***""#,
            ),
            ("rolpassword SCRAM-SHA-256$4096:abc=$def:ghi x", "rolpassword SCRAM-SHA-256$*** x"),
            ("Authorization: Bearer s3cret.s3cret\nnext", "Authorization: ***\nnext"),
            ("sent Bearer s3cret.s3cret now", "sent Bearer *** now"),
            ("x-amz-security-token: s3cret", "x-amz-security-token: ***"),
            ("<SecretAccessKey>s3cret</SecretAccessKey>", "<SecretAccessKey>***</SecretAccessKey>"),
            ("ssl_passphrase_command = 'echo s3cret'", "ssl_passphrase_command = '***'"),
            (r#"{"Token": "s3cret", "a": 1}"#, r#"{"Token": "***", "a": 1}"#),
            (r#"b"{\"Token\" : \"s3cret\"}""#, r#"b"{\"Token\" : \"***\"}""#),
            ("password=s3cret", "password=***"),
            ("password='s3cret", "password='***"),
        ] {
            assert_eq!(text(before), after, "{before}");
            assert_eq!(text(after), after, "twice: {before}");
            assert!(!after.contains("3cret") && !after.contains("3 cret"), "{after}");
        }
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for same in [
            "password authentication failed for user \"bob\"",
            "set PGPASSWORD or write the password to ~/.pgpass",
            "password, SCRAM, MD5, certificate, peer and trust are supported",
            "password_encryption = scram-sha-256",
            "the password given is not the one of the role",
            "s3://bucket/path, gs://bucket/path, https://account.blob.core.windows.net/container/path",
            "postgresql://user@host/db",
            "set AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the instance a role",
            "restore_command = 'barman-snap wal-restore s3://b/p pg %f %p'",
            "password=",
            "the token is in no session, token=abc, 'token': 'abc'",
            "ü://ä:",
            "",
        ] {
            assert_eq!(text(same), same);
            assert!(matches!(text(same), Cow::Borrowed(_)), "{same}");
        }
    }

    #[test]
    fn in_the_log_of_a_library_a_uri_may_have_lost_its_scheme() {
        for (line, shown) in [
            (r#"checkout ("http", u:s3cret@127.0.0.1:1)"#, r#"checkout ("http", u:***@127.0.0.1:1)"#),
            ("to u:s3@cret@h:1, password=s3cret", "to u:***@h:1, password=***"),
            ("mail to a@b at 10:11, x:y", "mail to a@b at 10:11, x:y"),
            ("https://u:***@h/x", "https://u:***@h/x"),
        ] {
            assert_eq!(log_line(line), shown);
            assert_eq!(log_line(shown), shown);
        }
        assert_eq!(text("cannot hold pool/a:b@snap"), "cannot hold pool/a:b@snap");
    }

    #[test]
    fn a_setting_is_secret_by_its_name_or_in_part() {
        for (name, value, shown) in [
            ("ssl_passphrase_command", "echo x", REDACTED),
            ("app.Password", "x", REDACTED),
            ("app.password", "", ""),
            ("primary_conninfo", "host=h passfile=/x password=y", "host=h passfile=/x password=***"),
            ("archive_command", "curl -T %p https://u:p@h/%f", "curl -T %p https://u:***@h/%f"),
            ("password_encryption", "md5", "md5"),
            ("port", "5432", "5432"),
        ] {
            assert_eq!(setting(name, value), shown, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_to_its_end_and_once_is_enough(noise in "[ -~ü]{0,80}|([a-z]*(password|://|sig)[='\":@ \\\\a-zü]{0,6}){0,8}") {
            let once = text(&noise).into_owned();
            let twice = text(&once).into_owned();
            proptest::prop_assert_eq!(twice, once);
        }

        #[test]
        fn a_conninfo_password_of_any_kind_is_gone(secret in "[!-~]{6,20}") {
            let quoted = secret.replace('\\', "\\\\").replace('\'', "\\'");
            let line = format!("host=h password='{quoted}' user=u");
            proptest::prop_assert_eq!(text(&line), "host=h password='***' user=u");
            let conf = format!("primary_conninfo = '{}'", line.replace('\'', "''"));
            let shown = text(&conf).into_owned();
            proptest::prop_assert!(!shown.contains(&quoted), "{}", shown);
        }
    }
}
