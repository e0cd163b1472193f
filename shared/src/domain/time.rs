//! A moment in time as this system keeps it: UTC, to the microsecond.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

/// Microseconds since 1970-01-01T00:00:00Z.
///
/// Its text is RFC 3339 in UTC with six fractional digits, always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Timestamp(i64);

const FORMAT: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// The first and last moment that RFC 3339 can name (years 0000 to 9999).
const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_402_300_799_999_999;

/// A text that is no RFC 3339 time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an RFC 3339 time such as 2026-01-31T12:00:00.000001Z")]
pub struct InvalidTimestamp;

impl Timestamp {
    /// The moment that many microseconds after 1970, moved into the years 0000 to 9999.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(*RANGE.start(), *RANGE.end()))
    }

    /// Microseconds since 1970.
    pub fn micros(self) -> i64 {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000)
            .ok()
            .and_then(|moment| moment.format(FORMAT).ok())
            .ok_or(fmt::Error)
            .and_then(|text| f.write_str(&text))
    }
}

/// Reads RFC 3339 with any offset; digits beyond the microsecond are cut.
impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp)?;
        i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000))
            .ok()
            .filter(|micros| RANGE.contains(micros))
            .map(Self)
            .ok_or(InvalidTimestamp)
    }
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
    use super::*;

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
}
