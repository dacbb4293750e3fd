//! Modification times. The format stores none: some programs put one into the metadata of an entry, and an
//! entry without one gets a time that is the same for every reader and differs after every change.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;

/// Members of the metadata that programs store the time in, the first that is valid counts.
const MEMBERS: [&str; 2] = ["mtime", "mtimeMs"];
/// Latest time of the reference, in milliseconds since 1970 (ECMAScript: 10^8 days).
const MAX_MILLISECONDS: u64 = 8_640_000_000_000_000;
const MILLISECONDS_PER_DAY: i64 = 86_400_000;
const MILLISECONDS_PER_MINUTE: i64 = 60_000;

/// The time of what block `seq` brought, in milliseconds since 1970: a second for each block.
pub(crate) fn of_block(seq: u64) -> u64 {
    seq.saturating_mul(1000)
}

/// The modification time in the metadata of an entry, which is JSON, in milliseconds since 1970: a number of
/// milliseconds, or a date as `2026-11-29T18:30:00.000Z`.
pub(crate) fn in_metadata(metadata: &str) -> Option<u64> {
    if !metadata.starts_with('{') {
        return None;
    }
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(metadata).ok()?;
    MEMBERS.iter().find_map(|name| milliseconds(members.get(*name)?.get()))
}

fn milliseconds(json: &str) -> Option<u64> {
    let time = match serde_json::from_str(json).ok()? {
        Value::Number(number) => match number.as_u64() {
            Some(whole) => whole,
            // `mtimeMs` of Node.js has a fraction; what is negative or too large becomes 0 or the maximum.
            None => number.as_f64().filter(|number| *number >= 0.0)? as u64,
        },
        Value::String(text) => date(&text)?,
        _ => return None,
    };
    (time <= MAX_MILLISECONDS).then_some(time)
}

/// A date of ISO 8601 with a time and a zone, as JSON.stringify writes it, from 1970 on.
fn date(text: &str) -> Option<u64> {
    let (day, clock) = text.split_once('T')?;
    let mut parts = day.splitn(3, '-');
    let (year, month, day) =
        (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
        return None;
    }
    let at = clock.find(['Z', '+', '-'])?;
    let (clock, zone) = clock.split_at(at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut parts = clock.splitn(3, ':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |second| digits(second, 2))?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let all = fraction.len();
    let fraction = digits(fraction.get(..all.min(3))?, all.min(3))?;
    let fraction = fraction * [100, 10, 1].get(all.min(3).checked_sub(1)?)?;
    let clock = hour * 3_600_000 + minute * MILLISECONDS_PER_MINUTE + second * 1000 + fraction;
    let time = days_since_1970(year, month, day) * MILLISECONDS_PER_DAY + clock - offset(zone)?;
    u64::try_from(time).ok()
}

/// `Z`, `+02:00` or `-0330`, in milliseconds.
fn offset(zone: &str) -> Option<i64> {
    let sign = match zone.get(..1)? {
        "Z" if zone.len() == 1 => return Some(0),
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let (hours, minutes) = (zone.get(1..3)?, zone.get(3..)?);
    let minutes = minutes.strip_prefix(':').unwrap_or(minutes);
    Some(sign * (digits(hours, 2)? * 60 + digits(minutes, 2)?) * MILLISECONDS_PER_MINUTE)
}

/// A number with exactly this number of decimal digits.
fn digits(text: &str, count: usize) -> Option<i64> {
    let right = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    right.then(|| text.parse().ok())?
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let before = |year: i64| {
        let year = year - 1;
        365 * year + year / 4 - year / 100 + year / 400
    };
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    before(year) - before(1970) + months + day - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_found_where_programs_put_them() {
        for (metadata, time) in [
            (r#"{"mtime":123,"a":[1,2]}"#, Some(123)),
            (r#"{"mtime":1700000000123}"#, Some(1_700_000_000_123)),
            (r#"{"mtimeMs":1700000000123.75}"#, Some(1_700_000_000_123)),
            (r#"{"mtimeMs":5,"mtime":"never"}"#, Some(5)),
            (r#"{"mtimeMs":5,"mtime":7}"#, Some(7)),
            (r#"{"mtime":0}"#, Some(0)),
            (r#"{"mtime":8640000000000000}"#, Some(8_640_000_000_000_000)),
            (r#"{"mtime":8640000000000001}"#, None),
            (r#"{"mtime":1e300}"#, None),
            (r#"{"mtime":-1}"#, None),
            (r#"{"mtime":null}"#, None),
            (r#"{"mtime":[1]}"#, None),
            (r#"{"other":1}"#, None),
            ("null", None),
            ("[1]", None),
            (r#""text""#, None),
            ("{", None),
        ] {
            assert_eq!(in_metadata(metadata), time, "{metadata}");
        }
        assert_eq!((of_block(25), of_block(u64::MAX)), (25_000, u64::MAX));
    }

    #[test]
    fn dates_are_read_as_the_reference_writes_them() {
        for (text, time) in [
            ("1970-01-01T00:00:00.000Z", Some(0)),
            ("2000-02-29T23:59:59.999Z", Some(951_868_799_999)),
            ("2026-11-29T18:30:00.5Z", Some(1_795_977_000_500)),
            ("2026-11-29T18:30:00.123456Z", Some(1_795_977_000_123)),
            ("2026-11-29T18:30Z", Some(1_795_977_000_000)),
            ("2026-11-29T20:30:00+02:00", Some(1_795_977_000_000)),
            ("2026-11-29T15:00:00-0330", Some(1_795_977_000_000)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799_000)),
            ("1969-12-31T23:59:59Z", None),
            ("1970-01-01T00:00:00+00:01", None),
            ("2001-02-29T00:00:00Z", None),
            ("2001-13-01T00:00:00Z", None),
            ("2001-00-01T00:00:00Z", None),
            ("2001-01-01T24:00:00Z", None),
            ("2001-01-01T00:00:00.Z", None),
            ("2001-01-01T00:00:00", None),
            ("2001-01-01", None),
            ("+02001-01-01T00:00:00Z", None),
            ("2001-01-01T00:00:00Zä", None),
            ("2001-01-01T00:00:00+ä0", None),
            ("", None),
        ] {
            assert_eq!(date(text), time, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_a_date_or_none(text in "[-0-9TZ:.+ä]{0,30}", any in "\\PC{0,20}") {
            let _ = (date(&text), date(&any), in_metadata(&any));
        }
    }
}
