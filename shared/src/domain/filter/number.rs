//! Numbers in filters: as doubles, and exactly where they lie among integers.

use std::fmt;

use super::Comparison;

/// A number as it was written: as a double, and where it lies among 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// Never a negative zero; infinite where it is beyond all doubles.
    pub double: f64,
    pub place: Place,
}

/// Where a number lies among the 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Below all of them.
    Below,
    /// It is this one.
    At(i64),
    /// Between this one and the next.
    Above(i64),
    /// Above all of them.
    Beyond,
}

/// What a comparison with a number comes to for 64-bit integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// It is true for each of them (and not for null).
    Always,
    Never,
    /// It is this comparison with this integer.
    Compare(Comparison, i64),
}

impl Number {
    /// Reads a number as JSON writes it; leading zeros are allowed.
    pub fn parse(text: &str) -> Option<Self> {
        let decimal = Decimal::parse(text)?;
        // The sum turns a negative zero into zero.
        let double = text.parse::<f64>().ok()? + 0.0;
        Some(Self { double, place: decimal.place() })
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "the nearest double is what is meant")]
        let double = number as f64;
        Self { double, place: Place::At(number) }
    }
}

impl Place {
    /// What the comparison of an integer, on the left, with this comes to.
    pub fn compared(self, comparison: Comparison) -> Whole {
        use Comparison::{Eq, Gt, Gte, Lt, Lte, Ne};
        match (self, comparison) {
            (Self::At(number), comparison) => Whole::Compare(comparison, number),
            (Self::Above(number), Gt | Gte) => Whole::Compare(Gt, number),
            (Self::Above(number), Lt | Lte) => Whole::Compare(Lte, number),
            (_, Eq) => Whole::Never,
            (_, Ne) => Whole::Always,
            (Self::Below, Gt | Gte) | (Self::Beyond, Lt | Lte) => Whole::Always,
            (Self::Below, Lt | Lte) | (Self::Beyond, Gt | Gte) => Whole::Never,
        }
    }
}

/// The parts of a number as text.
struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        let sound = are_digits(whole) && fraction.is_none_or(are_digits);
        sound.then_some(Self { negative, whole, fraction: fraction.unwrap_or(""), exponent })
    }

    /// Exactly where it lies: doubles are too coarse for large integers.
    fn place(&self) -> Place {
        let digits = || self.whole.bytes().chain(self.fraction.bytes());
        let zeros = digits().take_while(|digit| *digit == b'0').count();
        let Some(_) = digits().nth(zeros) else { return Place::At(0) };
        // So many of the digits behind the zeros stand before the point.
        let before = (self.whole.len() as i64).saturating_add(self.exponent).saturating_sub(zeros as i64);
        if before > 19 {
            return if self.negative { Place::Below } else { Place::Beyond };
        }
        let before = usize::try_from(before).unwrap_or(0);
        let digits = || digits().skip(zeros);
        let padded = digits().chain(std::iter::repeat(b'0')).take(before);
        let whole = padded.fold(0_i128, |whole, digit| whole * 10 + i128::from(digit - b'0'));
        // Where the exponent moves the point before the zeros, all digits are behind it.
        let has_more = digits().skip(before).any(|digit| digit != b'0');
        let floor = match (self.negative, has_more) {
            (false, _) => whole,
            (true, false) => -whole,
            (true, true) => -whole - 1,
        };
        match i64::try_from(floor) {
            Ok(floor) if !has_more => Place::At(floor),
            Ok(floor) if floor < i64::MAX => Place::Above(floor),
            _ if self.negative => Place::Below,
            _ => Place::Beyond,
        }
    }
}

fn are_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An exponent; one that no number here could make up for is cut.
fn read_exponent(text: &str) -> Option<i64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let enough = |value: i64, digit: u8| value.saturating_mul(10).saturating_add(i64::from(digit - b'0'));
    are_digits(digits).then(|| sign * digits.bytes().fold(0, enough).min(i64::from(u32::MAX)))
}

/// The text of a number that is the same double at the same place.
impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let candidates = match self.place {
            Place::At(number) => vec![number.to_string()],
            Place::Below => vec!["-9223372036854775808.5".into()],
            Place::Beyond => vec![],
            // Right above the integer, and right below the next.
            Place::Above(0) => vec!["1e-999".into(), format!("0.{:9>30}", 9)],
            Place::Above(-1) => vec![format!("-0.{:9>30}", 9), "-1e-999".into()],
            Place::Above(number @ 0..) => vec![format!("{number}.{:030}1", 0), format!("{number}.{:9>30}", 9)],
            Place::Above(number) => vec![
                format!("-{}.{:9>30}", number.unsigned_abs() - 1, 9),
                format!("-{}.{:030}1", number.unsigned_abs() - 1, 0),
            ],
        };
        let double = if self.double.is_finite() {
            format!("{:?}", self.double)
        } else {
            format!("{}1e999", if self.double < 0.0 { "-" } else { "" })
        };
        let same = |text: &&String| Self::parse(text) == Some(*self);
        f.write_str(candidates.iter().find(same).unwrap_or(&double))
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_are_doubles_with_an_exact_place() {
        use Place::{Above, At, Below, Beyond};
        for (text, double, place) in [
            ("0", 0.0, At(0)),
            ("-0", 0.0, At(0)),
            ("-0.0e5", 0.0, At(0)),
            ("0e99999999999999999999", 0.0, At(0)),
            ("18", 18.0, At(18)),
            ("0018", 18.0, At(18)),
            ("-18", -18.0, At(-18)),
            ("1.5", 1.5, Above(1)),
            ("1.0", 1.0, At(1)),
            ("-1.5", -1.5, Above(-2)),
            ("-0.5", -0.5, Above(-1)),
            ("0.5", 0.5, Above(0)),
            ("1e3", 1e3, At(1_000)),
            ("1E+3", 1e3, At(1_000)),
            ("1.5e1", 15.0, At(15)),
            ("1500e-2", 15.0, At(15)),
            ("1501e-2", 15.01, Above(15)),
            ("0.00015e5", 15.0, At(15)),
            ("15e-5", 15e-5, Above(0)),
            ("-15e-5", -15e-5, Above(-1)),
            ("1e-99999999999999999999", 0.0, Above(0)),
            ("-1e-99999999999999999999", 0.0, Above(-1)),
            ("1e99999999999999999999", f64::INFINITY, Beyond),
            ("-1e99999999999999999999", f64::NEG_INFINITY, Below),
            ("9007199254740993", 9_007_199_254_740_992.0, At(9_007_199_254_740_993)),
            ("1.00000000000000000000000000000001", 1.0, Above(1)),
            ("9223372036854775807", 9_223_372_036_854_775_808.0, At(i64::MAX)),
            ("9223372036854775807.5", 9_223_372_036_854_775_808.0, Beyond),
            ("9223372036854775806.5", 9_223_372_036_854_775_808.0, Above(i64::MAX - 1)),
            ("9223372036854775808", 9_223_372_036_854_775_808.0, Beyond),
            ("-9223372036854775808", -9_223_372_036_854_775_808.0, At(i64::MIN)),
            ("-9223372036854775807.5", -9_223_372_036_854_775_808.0, Above(i64::MIN)),
            ("-9223372036854775808.5", -9_223_372_036_854_775_808.0, Below),
            ("-9223372036854775809", -9_223_372_036_854_775_808.0, Below),
            ("99999999999999999999999", 1e23, Beyond),
            ("9223372036854775807e0", 9_223_372_036_854_775_808.0, At(i64::MAX)),
        ] {
            assert_eq!(Number::parse(text), Some(Number { double, place }), "{text}");
        }
    }

    #[test]
    fn only_numbers_as_json_writes_them_are_numbers() {
        for text in [
            "", "-", "+1", ".5", "5.", "1e", "1e+", "e5", "--1", "1.2.3", "1e2e3", "0x10", "1_000", "NaN", "inf",
            "Infinity", "-inf", "1,5", "\u{661}", "1 ", "1e1.5", "1-1",
        ] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    fn holds(comparison: Comparison, ordering: Ordering) -> bool {
        match comparison {
            Comparison::Eq => ordering.is_eq(),
            Comparison::Ne => ordering.is_ne(),
            Comparison::Gt => ordering.is_gt(),
            Comparison::Gte => ordering.is_ge(),
            Comparison::Lt => ordering.is_lt(),
            Comparison::Lte => ordering.is_le(),
        }
    }

    #[test]
    fn integers_compare_exactly() {
        use Comparison::{Eq, Gt, Gte, Lt, Lte, Ne};
        let integers = [i64::MIN, i64::MIN + 1, -2, -1, 0, 1, 2, 3, 1 << 53, (1 << 53) + 1, i64::MAX - 1, i64::MAX];
        // Twice the integers, and what lies between.
        let doubled = integers.iter().flat_map(|number| (-1..=1).map(|by| i128::from(*number) * 2 + by));
        for twice in doubled {
            let negative = if twice < 0 { "-" } else { "" };
            let text = format!("{negative}{}.{}", twice.abs() / 2, if twice % 2 == 0 { "0" } else { "5" });
            let place = Number::parse(&text).expect("a number").place;
            for integer in integers {
                for comparison in [Eq, Ne, Gt, Gte, Lt, Lte] {
                    let expected = holds(comparison, (i128::from(integer) * 2).cmp(&twice));
                    let found = match place.compared(comparison) {
                        Whole::Always => true,
                        Whole::Never => false,
                        Whole::Compare(comparison, with) => holds(comparison, integer.cmp(&with)),
                    };
                    assert_eq!(found, expected, "{integer} {comparison:?} {text}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_the_same_number(
            text in "-?([0-9]{1,25}|922337203685477580[5-9]|900719925474099[0-9])(\\.(0{0,40}[0-9]{1,20}|9{1,40}))?([eE][+-]?[0-9]{1,3})?"
        ) {
            let number = Number::parse(&text).expect("a number");
            prop_assert_eq!(Number::parse(&number.to_string()), Some(number), "{} as {}", text, number);
        }

        #[test]
        fn every_integer_is_at_its_place(integer in any::<i64>()) {
            prop_assert_eq!(Number::parse(&integer.to_string()), Some(integer.into()));
        }
    }
}
