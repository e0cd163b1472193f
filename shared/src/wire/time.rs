//! Times as clients write and read them.

use crate::domain::time::{InvalidTime, Timestamp};

/// Reads a time: RFC 3339, `YYYY-MM-DD HH:MM:SS[.f]` or `YYYY-MM-DD`, in UTC where no
/// zone is given. Digits beyond the microsecond are cut.
///
/// # Errors
/// If it is none of these, or not within the years 0000 to 9999 of UTC.
pub fn parse_time(text: &str) -> Result<Timestamp, InvalidTime> {
    Timestamp::parse(text)
}

/// The same in a URL, where the `+` of a zone comes as a space if it was not encoded.
///
/// # Errors
/// As `parse_time`.
pub fn parse_time_in_url(text: &str) -> Result<Timestamp, InvalidTime> {
    parse_time(text).or_else(|error| match text.rsplit_once(' ') {
        Some((moment, zone)) => parse_time(&format!("{moment}+{zone}")),
        None => Err(error),
    })
}

/// RFC 3339 in UTC with six fractional digits, or none if they are zero.
pub fn six_or_none(moment: Timestamp) -> String {
    let text = moment.to_string();
    match text.strip_suffix(".000000Z") {
        Some(seconds) => format!("{seconds}Z"),
        None => text,
    }
}

/// RFC 3339 in UTC with the fractional digits that are needed.
pub fn shortest(moment: Timestamp) -> String {
    let mut text = moment.to_string();
    let needed = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.').len();
    text.truncate(needed);
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_the_digits_that_are_asked_for() {
        for (micros, six, needed) in [
            (0, "1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            (600_000_000, "1970-01-01T00:10:00Z", "1970-01-01T00:10:00Z"),
            (10_000_000, "1970-01-01T00:00:10Z", "1970-01-01T00:00:10Z"),
            (260_000, "1970-01-01T00:00:00.260000Z", "1970-01-01T00:00:00.26Z"),
            (1, "1970-01-01T00:00:00.000001Z", "1970-01-01T00:00:00.000001Z"),
            (-1, "1969-12-31T23:59:59.999999Z", "1969-12-31T23:59:59.999999Z"),
            (-500_000, "1969-12-31T23:59:59.500000Z", "1969-12-31T23:59:59.5Z"),
            (i64::MIN, "0000-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
        ] {
            let moment = Timestamp::from_micros(micros);
            assert_eq!(six_or_none(moment), six);
            assert_eq!(shortest(moment), needed);
        }
    }

    #[test]
    fn a_lost_plus_is_found_again() {
        let plain = parse_time("2026-01-01T00:00:00+01:00");
        assert!(plain.is_ok());
        assert_eq!(parse_time_in_url("2026-01-01T00:00:00 01:00"), plain);
        assert_eq!(parse_time_in_url("2026-01-01 00:00:00"), parse_time("2026-01-01T00:00:00Z"));
        assert!(parse_time_in_url("2026-01-01 00:00").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(
            micros in any::<i64>(),
            unit in prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(3_600_000_000_i64)],
        ) {
            let moment = Timestamp::from_micros(micros - micros % unit);
            prop_assert_eq!(parse_time(&six_or_none(moment)), Ok(moment));
            prop_assert_eq!(parse_time(&shortest(moment)), Ok(moment));
        }
    }
}
