//! Times as `backup.info` has them: `2026-05-29 10:11:13.123456+00:00`.
//!
//! Reading is lenient, because old Barman wrote other forms and people edit these files: ISO 8601 in all its usual
//! shapes, and the C form (`Fri May 29 10:11:13 2026`). A time without a zone is local time of this host; which zone that
//! is, is a parameter. Parts of a second beyond the microsecond are cut off, on both ways. Writing has one form.

use chrono::{DateTime, Duration, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, TimeZone, Timelike as _};

use crate::error::{Error, Result};

/// Writes a time as Python's `str` does: microseconds only if there are some.
pub fn format_time(time: &DateTime<FixedOffset>) -> String {
    let micros = time.nanosecond() / 1000;
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!("{}{fraction}{}", time.format("%Y-%m-%d %H:%M:%S"), format_offset(*time.offset()))
}

/// `+02:00`; the seconds of very old zones only if there are some.
fn format_offset(offset: FixedOffset) -> String {
    let total = offset.local_minus_utc();
    let (sign, rest) = (if total < 0 { '-' } else { '+' }, total.abs());
    let seconds = if rest % 60 == 0 { String::new() } else { format!(":{:02}", rest % 60) };
    format!("{sign}{:02}:{:02}{seconds}", rest / 3600, rest / 60 % 60)
}

/// Reads a time; `zone` is that of a time which names none.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for a text in no known form, a date that does not exist, and a zone that is
/// named by letters other than `Z`, `UTC` and `GMT` (such names are ambiguous).
pub fn parse_time<Z: TimeZone>(text: &str, zone: &Z) -> Result<DateTime<FixedOffset>> {
    let text = text.trim();
    let parsed = if text.starts_with(|c: char| c.is_ascii_digit()) { iso(text) } else { ctime(text) };
    parsed
        .and_then(|(time, offset)| match offset {
            Some(offset) => offset.from_local_datetime(&time).single(),
            None => local(time, zone),
        })
        .ok_or_else(|| {
            Error::corrupt(format!("not a time: {text:?}")).with_hint("it looks like 2026-05-29 10:11:13+00:00")
        })
}

/// Local time with its offset. Where clocks are set back the earlier of two moments, as Python takes it; where they are
/// set forward, a time that never was counts on from the hour before.
fn local<Z: TimeZone>(time: NaiveDateTime, zone: &Z) -> Option<DateTime<FixedOffset>> {
    if let Some(found) = zone.from_local_datetime(&time).earliest() {
        return Some(found.fixed_offset());
    }
    let before = zone.from_local_datetime(&time.checked_sub_signed(Duration::hours(3))?).latest()?;
    before.fixed_offset().checked_add_signed(Duration::hours(3))
}

type Parts = (NaiveDateTime, Option<FixedOffset>);

/// `2026-05-29[ T]10:11[:13[.123456]][ ]zone`, `20260529T101112…`, or a date alone.
fn iso(text: &str) -> Option<Parts> {
    let (date, rest) = match text.as_bytes().get(4) {
        Some(b'-') => (NaiveDate::parse_from_str(text.get(..10)?, "%Y-%m-%d").ok()?, text.get(10..)?),
        _ => (NaiveDate::parse_from_str(text.get(..8)?, "%Y%m%d").ok()?, text.get(8..)?),
    };
    let rest = rest.strip_prefix(['T', 't']).unwrap_or(rest).trim_start();
    let end = rest.find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.' | ','))).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(end);
    let time = if clock.is_empty() { NaiveTime::MIN } else { time_of_day(clock)? };
    Some((date.and_time(time), offset(zone)?))
}

/// `Fri May 29 10:11:13 2026`, `Fri, 29 May 2026 10:11:13 +0000`, with the zone also before the year.
fn ctime(text: &str) -> Option<Parts> {
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let (mut day, mut month, mut year, mut time, mut zone) = (None, None, None, None, None);
    for (at, word) in text.split([' ', ',']).filter(|word| !word.is_empty()).enumerate() {
        let named = word.get(..3).map(str::to_ascii_lowercase);
        let named = MONTHS.iter().position(|month| named.as_deref() == Some(*month));
        if word.contains(':') && !word.starts_with(['+', '-']) {
            time = Some(time_of_day(word)?);
        } else if let Some(named) = named.filter(|_| month.is_none()) {
            month = Some(u32::try_from(named).ok()? + 1);
        } else if word.bytes().all(|byte| byte.is_ascii_digit()) {
            let slot = if word.len() == 4 { &mut year } else { &mut day };
            *slot = Some(word.parse::<u32>().ok()?);
        } else if at > 0 {
            zone = offset(word)?;
        }
    }
    let date = NaiveDate::from_ymd_opt(i32::try_from(year?).ok()?, month?, day?)?;
    Some((date.and_time(time?), zone))
}

/// `10:11`, `10:11:13`, `10:11:13.123456`, `101113`.
fn time_of_day(text: &str) -> Option<NaiveTime> {
    let (clock, fraction) = text.split_once(['.', ',']).unwrap_or((text, ""));
    let number = |part: &str| (part.len() <= 2).then(|| part.parse::<u32>().ok()).flatten();
    let parts: Vec<u32> = if clock.contains(':') {
        clock.split(':').map(number).collect::<Option<_>>()?
    } else {
        clock.as_bytes().chunks(2).map(|part| number(std::str::from_utf8(part).ok()?)).collect::<Option<_>>()?
    };
    let (hour, minute, second) = match parts.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    NaiveTime::from_hms_micro_opt(hour, minute, second, micros)
}

/// The zone at the end of a time. The outer nothing is an error, the inner one means that there is none.
fn offset(text: &str) -> Option<Option<FixedOffset>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    if ["z", "utc", "gmt"].contains(&text.to_ascii_lowercase().as_str()) {
        return Some(FixedOffset::east_opt(0));
    }
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let pairs: Vec<String> = if digits.contains(':') {
        digits.split(':').map(str::to_owned).collect()
    } else {
        digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned()).collect()
    };
    let numbers: Vec<i32> = pairs
        .iter()
        .map(|pair| {
            (pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_digit())).then(|| pair.parse().ok()).flatten()
        })
        .collect::<Option<_>>()?;
    let seconds = match numbers.as_slice() {
        [hours] => hours * 3600,
        [hours, minutes] => hours * 3600 + minutes * 60,
        [hours, minutes, seconds] => hours * 3600 + minutes * 60 + seconds,
        _ => return None,
    };
    FixedOffset::east_opt(sign * seconds).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central Europe in 2026: summer time from 29 March 02:00 to 25 October 03:00.
    #[derive(Clone, Debug)]
    struct Berlin;

    impl TimeZone for Berlin {
        type Offset = FixedOffset;

        fn from_offset(_: &FixedOffset) -> Self {
            Self
        }

        fn offset_from_local_date(&self, date: &NaiveDate) -> chrono::LocalResult<FixedOffset> {
            self.offset_from_local_datetime(&date.and_time(NaiveTime::MIN))
        }

        fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> chrono::LocalResult<FixedOffset> {
            let (summer, winter) = (FixedOffset::east_opt(7200).unwrap(), FixedOffset::east_opt(3600).unwrap());
            let text = local.format("%m-%d %H:%M:%S").to_string();
            let within = |from: &str, to: &str| (from..to).contains(&text.as_str());
            if within("03-29 02:00:00", "03-29 03:00:00") {
                chrono::LocalResult::None
            } else if within("10-25 02:00:00", "10-25 03:00:00") {
                chrono::LocalResult::Ambiguous(summer, winter)
            } else if within("03-29 03:00:00", "10-25 02:00:00") {
                chrono::LocalResult::Single(summer)
            } else {
                chrono::LocalResult::Single(winter)
            }
        }

        fn offset_from_utc_date(&self, date: &NaiveDate) -> FixedOffset {
            self.offset_from_utc_datetime(&date.and_time(NaiveTime::MIN))
        }

        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
            let text = utc.format("%m-%d %H:%M:%S").to_string();
            let summer = ("03-29 01:00:00".."10-25 01:00:00").contains(&text.as_str());
            FixedOffset::east_opt(if summer { 7200 } else { 3600 }).unwrap()
        }
    }

    fn read(text: &str) -> String {
        format_time(&parse_time(text, &Berlin).unwrap_or_else(|error| panic!("{text}: {error}")))
    }

    #[test]
    fn the_form_that_is_written_reads_back_to_the_byte() {
        for text in [
            "2026-05-29 10:11:13.123456+00:00",
            "2026-05-29 10:11:13+02:00",
            "2026-11-21 06:20:58.000001-09:30",
            "1890-01-01 00:00:00+00:53:28",
        ] {
            assert_eq!(read(text), text);
        }
    }

    #[test]
    fn every_lenient_form_is_the_same_moment() {
        for text in [
            "2026-05-29T10:11:13+00:00",
            "2026-05-29 10:11:13 +0000",
            "2026-05-29 10:11:13+00",
            "2026-05-29T10:11:13Z",
            "2026-05-29 10:11:13 UTC",
            "20260529T101113Z",
            "2026-05-29 10:11:13,000000Z",
            "Fri, 29 May 2026 10:11:13 +0000",
            "Fri May 29 10:11:13 UTC 2026",
            "Fri May 29 10:11:13 2026 GMT",
        ] {
            assert_eq!(read(text), "2026-05-29 10:11:13+00:00", "{text}");
        }
    }

    #[test]
    fn a_time_without_zone_is_local_time() {
        assert_eq!(read("2026-05-29 10:11:13"), "2026-05-29 10:11:13+02:00");
        assert_eq!(read("Fri May 29 10:11:13 2026"), "2026-05-29 10:11:13+02:00");
        assert_eq!(read("Sun Mar  1 09:00:00 2026"), "2026-03-01 09:00:00+01:00");
        assert_eq!(read("2026-01-02"), "2026-01-02 00:00:00+01:00");
    }

    #[test]
    fn a_local_time_that_was_twice_is_the_earlier_and_one_that_never_was_counts_on() {
        assert_eq!(read("2026-10-25 02:30:00"), "2026-10-25 02:30:00+02:00");
        let gap = parse_time("2026-03-29 02:30:00", &Berlin).unwrap();
        assert_eq!(gap.to_utc().to_rfc3339(), "2026-03-29T01:30:00+00:00");
    }

    #[test]
    fn nonsense_is_not_a_time() {
        for text in [
            "",
            "None",
            "yesterday",
            "2026-13-01 00:00:00",
            "2026-02-30 00:00:00+00:00",
            "2026-05-29 25:00:00Z",
            "2026-05-29 10:11:13 CEST",
            "2026-05-29 10:11:13+99:00",
            "2026-05-29 10:11:13+00:00 x",
            "Fri May 29 2026",
            "2026",
            "2026-05-2é",
        ] {
            let error = parse_time(text, &Berlin).unwrap_err();
            assert!(error.message().contains("not a time"), "{text}");
        }
    }
}
