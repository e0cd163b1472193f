//! A moment in time as this system keeps it: UTC, to the microsecond.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime, Time, UtcOffset};

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// Its text is RFC 3339 in UTC with six fractional digits, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Timestamp(i64);

/// The form of its text.
const FORM: &[u8; 27] = b"0000-00-00T00:00:00.000000Z";
/// The Julian day of 1970-01-01.
const EPOCH_DAY: i64 = 2_440_588;
const DAY_MICROS: i64 = 86_400_000_000;

/// The first and last moment that RFC 3339 can name (years 0000 to 9999).
const RANGE: RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// A text that is no RFC 3339 time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an RFC 3339 time such as 2026-01-31T12:00:00.000001Z")]
pub struct InvalidTimestamp;

/// A text that is a time in none of the forms that clients may use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a time such as 2026-01-31T12:00:00Z, 2026-01-31 12:00:00.000001 or 2026-01-31, in the years 0000 to 9999")]
pub struct InvalidTime;

impl Timestamp {
    /// Before all others.
    pub const EARLIEST: Self = Self(*RANGE.start());

    /// Reads a time as clients write it: RFC 3339, the same without a zone, or a date,
    /// which is its start; in UTC where no zone is given. Digits beyond the microsecond
    /// are cut. A leap second, at the end of a month in UTC, is the last microsecond
    /// before the next month.
    ///
    /// # Errors
    /// If it is none of these, or not within the years 0000 to 9999 of UTC.
    pub fn parse(text: &str) -> Result<Self, InvalidTime> {
        parse(text, 2..=2).ok_or(InvalidTime)
    }

    /// As `parse`; the month and the day may have one digit.
    ///
    /// # Errors
    /// As `parse`.
    pub fn parse_loosely(text: &str) -> Result<Self, InvalidTime> {
        parse(text, 1..=2).ok_or(InvalidTime)
    }

    /// The moment that many microseconds after 1970, moved into the years 0000 to 9999.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(*RANGE.start(), *RANGE.end()))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }
}

impl Timestamp {
    /// Its text. Every stored event has times in it, so this is made by hand.
    fn to_text(self) -> [u8; FORM.len()] {
        let (days, micros) = (self.0.div_euclid(DAY_MICROS), self.0.rem_euclid(DAY_MICROS));
        // Within the range every day is one of the calendar's.
        let day = i32::try_from(days + EPOCH_DAY).ok().and_then(|day| Date::from_julian_day(day).ok());
        let (year, month, day) = day.unwrap_or(Date::MIN).to_calendar_date();
        let seconds = micros / 1_000_000;
        let mut text = *FORM;
        let mut put = |start: usize, end: usize, number: i64| {
            let mut left = number;
            for digit in text[start..end].iter_mut().rev() {
                *digit = b'0' + (left % 10) as u8;
                left /= 10;
            }
        };
        put(0, 4, year.into());
        put(5, 7, u8::from(month).into());
        put(8, 10, day.into());
        put(11, 13, seconds / 3_600);
        put(14, 16, seconds / 60 % 60);
        put(17, 19, seconds % 60);
        put(20, 26, micros % 1_000_000);
        text
    }

    /// Reads what `to_text` writes, and nothing else.
    fn of_text(text: &[u8]) -> Option<Self> {
        let text: &[u8; FORM.len()] = text.try_into().ok()?;
        let fits = |(byte, form): (&u8, &u8)| if *form == b'0' { byte.is_ascii_digit() } else { byte == form };
        if !text.iter().zip(FORM).all(fits) {
            return None;
        }
        let number = |start: usize, end: usize| {
            text[start..end].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
        };
        let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
        let month = Month::try_from(u8::try_from(number(5, 7)).ok()?).ok()?;
        let day = u8::try_from(number(8, 10)).ok()?;
        let date = Date::from_calendar_date(i32::try_from(number(0, 4)).ok()?, month, day).ok()?;
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = (hour * 60 + minute) * 60 + second;
        let days = i64::from(date.to_julian_day()) - EPOCH_DAY;
        Some(Self(days * DAY_MICROS + seconds * 1_000_000 + number(20, 26)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_text()).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads RFC 3339 with any offset; digits beyond the microsecond are cut.
impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(moment) = Self::of_text(text.as_bytes()) {
            return Ok(moment);
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000))
            .ok()
            .filter(|micros| RANGE.contains(micros))
            .map(Self)
            .ok_or(InvalidTimestamp)
    }
}

fn parse(text: &str, digits: RangeInclusive<usize>) -> Option<Timestamp> {
    let mut rest = Rest(text.as_bytes());
    let year: u16 = rest.number(4..=4)?;
    rest.one_of(b"-")?;
    let month: u8 = rest.number(digits.clone())?;
    rest.one_of(b"-")?;
    let day = rest.number(digits)?;
    let date = Date::from_calendar_date(i32::from(year), Month::try_from(month).ok()?, day).ok()?;
    let (time, leap, offset) = if rest.is_empty() {
        (Time::MIDNIGHT, false, UtcOffset::UTC)
    } else {
        rest.one_of(b"Tt ")?;
        let (time, leap) = rest.time()?;
        (time, leap, rest.offset()?)
    };
    let moment = OffsetDateTime::new_in_offset(date, time, offset);
    let micros = i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).ok()?;
    (rest.is_empty() && RANGE.contains(&micros) && (!leap || ends_a_month(micros))).then_some(Timestamp(micros))
}

/// Whether this is the last microsecond of a month.
fn ends_a_month(micros: i64) -> bool {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).is_ok_and(|moment| {
        moment.day() == moment.month().length(moment.year()) && moment.to_hms_micro() == (23, 59, 59, 999_999)
    })
}

/// What has not been read yet.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn one_of(&mut self, bytes: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first().filter(|(first, _)| bytes.contains(first))?;
        self.0 = rest;
        Some(*first)
    }

    /// All the digits that are next.
    fn digits(&mut self) -> &[u8] {
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        digits
    }

    /// A number of so many digits.
    fn number<T: TryFrom<u32>>(&mut self, count: RangeInclusive<usize>) -> Option<T> {
        let digits = self.digits();
        count.contains(&digits.len()).then(|| value(digits)).and_then(|value| T::try_from(value).ok())
    }

    /// `HH:MM:SS[.f]`, and whether it is a leap second.
    fn time(&mut self) -> Option<(Time, bool)> {
        let hour = self.number(2..=2)?;
        self.one_of(b":")?;
        let minute = self.number(2..=2)?;
        self.one_of(b":")?;
        let second: u8 = self.number(2..=2)?;
        let micros = self.fraction()?;
        let leap = second == 60;
        let (second, micros) = if leap { (59, 999_999) } else { (second, micros) };
        Some((Time::from_hms_micro(hour, minute, second, micros).ok()?, leap))
    }

    /// The microseconds of a fraction, if there is one.
    fn fraction(&mut self) -> Option<u32> {
        if self.one_of(b".").is_none() {
            return Some(0);
        }
        let digits = self.digits();
        let kept = &digits[..digits.len().min(6)];
        let missing = u32::try_from(6 - kept.len()).ok()?;
        (!digits.is_empty()).then(|| value(kept) * 10_u32.pow(missing))
    }

    /// `Z`, `+HH:MM`, `-HH:MM` or nothing.
    fn offset(&mut self) -> Option<UtcOffset> {
        if self.is_empty() || self.one_of(b"Zz").is_some() {
            return Some(UtcOffset::UTC);
        }
        let sign = if self.one_of(b"+-")? == b'-' { -1 } else { 1 };
        let hours: i8 = self.number(2..=2).filter(|hours| *hours < 24)?;
        self.one_of(b":")?;
        let minutes: i8 = self.number(2..=2).filter(|minutes| *minutes < 60)?;
        UtcOffset::from_hms(sign * hours, sign * minutes, 0).ok()
    }
}

/// The value of a few digits.
fn value(digits: &[u8]) -> u32 {
    digits.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'))
}

impl TryFrom<String> for Timestamp {
    type Error = InvalidTimestamp;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Timestamp> for String {
    fn from(moment: Timestamp) -> Self {
        moment.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Made by hand, and the same as the library would make it.
        #[test]
        fn text_is_that_of_the_library(micros in prop_oneof![RANGE, -100_000_000_000_000_i64..4_000_000_000_000_000]) {
            let moment = Timestamp(micros);
            let text = moment.to_string();
            let read = OffsetDateTime::parse(&text, &Rfc3339).expect("RFC 3339");
            prop_assert_eq!(read.unix_timestamp_nanos(), i128::from(micros) * 1_000);
            prop_assert_eq!(Timestamp::of_text(text.as_bytes()), Some(moment));
        }

        #[test]
        fn text_is_read_as_the_library_reads_it(text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[012][0-9]:[0-6][0-9]:[0-6][0-9]\\.[0-9]{6}Z") {
            let library = OffsetDateTime::parse(&text, &Rfc3339).ok().map(|read| read.unix_timestamp_nanos() / 1_000);
            if let Some(moment) = Timestamp::of_text(text.as_bytes()) {
                prop_assert_eq!(library, Some(i128::from(moment.0)));
            }
            prop_assert_eq!(text.parse::<Timestamp>().is_ok(), library.is_some());
        }
    }

    #[test]
    fn prints_six_digits_always() {
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(1_700_000_000_000_001).to_string(), "2023-11-14T22:13:20.000001Z");
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn reads_offsets_and_cuts_digits() {
        let moment: Timestamp = "2023-11-14T23:13:20.0000019+01:00".parse().expect("valid");
        assert_eq!(moment, Timestamp::from_micros(1_700_000_000_000_001));
        assert_eq!("2023-11-14T22:13:20z".parse::<Timestamp>().map(|t| t.micros()), Ok(1_700_000_000_000_000));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in ["", "2023-11-14", "2023-13-01T00:00:00Z", "2023-11-14T22:13:20", "yesterday"] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn text_and_number_agree_at_the_ends() {
        for micros in [i64::MIN, i64::MAX, *RANGE.start(), *RANGE.end(), 0] {
            let moment = Timestamp::from_micros(micros);
            assert_eq!(moment.to_string().parse::<Timestamp>(), Ok(moment), "{micros}");
        }
    }

    fn micros(text: &str) -> Option<i64> {
        assert!(
            Timestamp::parse(text).map_or(true, |time| Timestamp::parse_loosely(text) == Ok(time)),
            "{text:?} means the same where one digit will do"
        );
        Timestamp::parse(text).ok().map(Timestamp::micros)
    }

    #[test]
    fn reads_every_form_that_clients_use() {
        const SECOND: i64 = 1_000_000;
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01 00:00:00Z", 0),
            ("1970-01-01T00:00:00-00:00", 0),
            ("1970-01-01T00:00:00", 0),
            ("1970-01-01 00:00:00", 0),
            ("1970-01-01", 0),
            ("1970-01-01 01:00:00+01:00", 0),
            ("1969-12-31T00:01:00-23:59", 0),
            ("1970-01-01T23:59:00+23:59", 0),
            ("2021-01-01 09:15:27.243860", 1_609_492_527_243_860),
            ("2021-01-01 09:15:27.24386", 1_609_492_527_243_860),
            ("2021-01-01T09:15:27.2438609999999999999999999Z", 1_609_492_527_243_860),
            ("1969-12-31T23:59:59.9999999Z", -1),
            ("1970-01-01T00:00:00.0000009Z", 0),
            ("2000-02-29", 951_782_400 * SECOND),
            ("0000-01-01", *RANGE.start()),
            ("9999-12-31T23:59:59.999999Z", *RANGE.end()),
            ("0000-01-01T01:00:00+01:00", *RANGE.start()),
            ("9999-12-31T22:59:59.999999-01:00", *RANGE.end()),
            // Leap seconds, one in the evening of its place.
            ("2016-12-31T23:59:60Z", 1_483_228_800 * SECOND - 1),
            ("2016-12-31T23:59:60.5Z", 1_483_228_800 * SECOND - 1),
            ("2016-12-31T15:59:60-08:00", 1_483_228_800 * SECOND - 1),
            ("9999-12-31T23:59:60Z", *RANGE.end()),
        ] {
            assert_eq!(micros(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_form_of_a_time() {
        for text in [
            "",
            " ",
            "yesterday",
            "2023",
            "2023-11",
            "2023-11-14 ",
            " 2023-11-14",
            "2023-11-14T",
            "2023-11-14Z",
            "2023-11-14+01:00",
            "2023-11-14T22",
            "2023-11-14T22:13",
            "2023-11-14T22:13Z",
            "2023-11-14  22:13:20",
            "2023-11-14T22:13:20.",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20,5Z",
            "2023-11-14T22:13:20ZZ",
            "2023-11-14T22:13:20 Z",
            "2023-11-14T22:13:20+1:00",
            "2023-11-14T22:13:20+0100",
            "2023-11-14T22:13:20+24:00",
            "2023-11-14T22:13:20+01:60",
            "2023-11-14T22:13:20\u{2212}01:00",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:60:00Z",
            "2023-11-14T22:13:61Z",
            // No leap second: not the end of a month, of a day, of a day in UTC.
            "2023-11-14T23:59:60Z",
            "2016-12-31T22:59:60Z",
            "2016-12-31T23:59:60+01:00",
            "2023-00-14",
            "2023-13-14",
            "2023-02-29",
            "2023-11-00",
            "2023-11-31",
            "+2023-11-14",
            "-2023-11-14",
            "02023-11-14",
            "10000-01-01",
            "23-11-14",
            "2023/11/14",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "\u{662}\u{660}\u{662}\u{663}-11-14",
            "2023-11-14T22:13:20Z\0",
        ] {
            assert_eq!(Timestamp::parse(text), Err(InvalidTime), "{text:?}");
            assert_eq!(Timestamp::parse_loosely(text), Err(InvalidTime), "{text:?}, loosely");
        }
    }

    #[test]
    fn one_digit_of_a_month_or_a_day_will_do_where_that_is_said() {
        for (text, same) in [
            ("2018-1-1", "2018-01-01"),
            ("2018-1-01", "2018-01-01"),
            ("2018-12-9", "2018-12-09"),
            ("2018-1-1T1:00:00Z", ""),
            ("2018-1-1T01:00:00Z", "2018-01-01T01:00:00Z"),
            ("2018-001-1", ""),
            ("2018--1", ""),
            ("18-1-1", ""),
        ] {
            assert_eq!(Timestamp::parse(text), Err(InvalidTime), "{text}");
            assert_eq!(Timestamp::parse_loosely(text), Timestamp::parse(same), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_texts_are_read_or_refused(text in ".{0,40}") {
            let _ = Timestamp::parse_loosely(&text);
        }

        /// Where the library reads a time, so do we, and the same one.
        #[test]
        fn what_looks_like_a_time_is_read_as_the_library_does(
            text in "([0-9]{4}|0000|9999|2016)-(0[0-9]|1[0-3])-([0-2][0-9]|3[01])T\
                     ([01][0-9]|2[0-4]):([0-5][0-9]|59):([0-5][0-9]|60)(\\.[0-9]{1,9})?(Z|z|[+-][0-2][0-9]:[0-5][0-9])"
        ) {
            prop_assert_eq!(Timestamp::parse(&text).ok(), text.parse().ok());
        }

        #[test]
        fn what_is_printed_is_read_again(micros in RANGE) {
            let moment = Timestamp::from_micros(micros);
            prop_assert_eq!(Timestamp::parse(&moment.to_string()), Ok(moment));
        }
    }
}
