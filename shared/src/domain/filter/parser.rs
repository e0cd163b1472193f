//! The text of filters.
//!
//! ```text
//! filter  = [ any ]                                     nothing: every event
//! any     = all { "OR" all }
//! all     = operand { "AND" operand }
//! operand = "(" any ")" | "NOT" operand | test
//! test    = field op value | field "in" "(" value { "," value } ")"
//! op      = "eq" | "ne" | "gt" | "gte" | "lt" | "lte" | "ct" | "sw"
//! value   = "'" text "'" | number | "true" | "false" | "null"
//! field   = member | "data" { "." name }
//! name    = bare | "'" text "'"                         without dots
//! ```
//!
//! Space between tokens means nothing. A string that is compared with a time is one.

use winnow::Parser;
use winnow::combinator::{alt, cut_err, delimited, eof, opt, preceded, repeat, separated, terminated};
use winnow::error::{AddContext, ErrMode, ParserError};
use winnow::stream::{Offset, Stream};
use winnow::token::take_while;

use super::{Comparison, Field, Filter, Literal, Number, Op};
use crate::domain::log_event::MAX_DATA_DEPTH;
use crate::domain::time::Timestamp;

/// The longest filter, in bytes.
pub const MAX_FILTER_BYTES: usize = 16 * 1024;
/// How deep brackets and `NOT`s may lie within each other, and how high the tree that
/// they make may be.
pub const MAX_NESTING: usize = 64;
/// The most values that `in` takes.
pub const MAX_VALUES: usize = 1_000;

const OPERAND: &str = "a field (id, timestamp, created_at, name, category, component, environment, message, email, \
                       customer_id, session_id, source, data, data.<name> or ce), NOT or an opening bracket";
const OPERATORS: &str = "one of eq, ne, gt, gte, lt, lte, ct, sw, in";
const VALUE: &str = "a string in single quotes, a number, true, false or null";
const TIME: &str = "a time such as '2018-01-31' or '2018-01-31T12:00:00Z'";

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: expected {expected}")]
pub struct FilterError {
    /// Where, in characters from 1.
    pub column: usize,
    pub expected: String,
}

impl Filter {
    /// Reads a filter. An empty one, or one of spaces only, lets every event through.
    ///
    /// # Errors
    /// If it is no filter, is too long or nests too deep; and where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        let column_at = |bytes: usize| text.char_indices().take_while(|(at, _)| *at < bytes).count() + 1;
        if text.len() > MAX_FILTER_BYTES {
            let expected = format!("at most {MAX_FILTER_BYTES} bytes");
            return Err(FilterError { column: column_at(MAX_FILTER_BYTES), expected });
        }
        filter(&mut &*text).map_err(|error| {
            let Fault { left, expected } = error.into_inner().unwrap_or_default();
            FilterError { column: column_at(text.len() - left), expected: expected.unwrap_or_default() }
        })
    }
}

type Parsed<T> = Result<T, ErrMode<Fault>>;

/// What was expected, and how many bytes were left there.
#[derive(Debug, Default)]
struct Fault {
    left: usize,
    expected: Option<String>,
}

impl ParserError<&str> for Fault {
    type Inner = Self;

    fn from_input(input: &&str) -> Self {
        Self { left: input.len(), expected: None }
    }

    fn into_inner(self) -> Result<Self, Self> {
        Ok(self)
    }
}

/// What a parser stands for: expected where it began, unless a part of it says more.
#[derive(Clone, Copy, Debug)]
struct Expected(&'static str);

impl<'a> AddContext<&'a str, Expected> for Fault {
    fn add_context(self, input: &&'a str, start: &<&'a str as Stream>::Checkpoint, expected: Expected) -> Self {
        if self.expected.is_some() {
            return self;
        }
        Self { left: input.len() + input.checkpoint().offset_from(start), expected: Some(expected.0.into()) }
    }
}

/// Ends the parsing with what was expected where so many bytes were left.
fn fail<T>(left: usize, expected: impl Into<String>) -> Parsed<T> {
    Err(ErrMode::Cut(Fault { left, expected: Some(expected.into()) }))
}

fn space(input: &mut &str) -> Parsed<()> {
    take_while(0.., char::is_whitespace).void().parse_next(input)
}

/// A token and the space behind it.
fn token<'a, T>(parser: impl Parser<&'a str, T, ErrMode<Fault>>) -> impl Parser<&'a str, T, ErrMode<Fault>> {
    terminated(parser, space)
}

/// Whether names hold this character without quotes.
pub(super) fn is_bare(character: char) -> bool {
    !character.is_whitespace() && !character.is_control() && !matches!(character, '.' | '(' | ')' | ',' | '\'')
}

/// All that could be one word or number.
fn word<'a>(input: &mut &'a str) -> Parsed<&'a str> {
    take_while(1.., |character| is_bare(character) || character == '.').parse_next(input)
}

fn keyword<'a>(keyword: &'static str) -> impl Parser<&'a str, &'a str, ErrMode<Fault>> {
    token(word.verify(move |word: &str| word == keyword))
}

fn filter(input: &mut &str) -> Parsed<Filter> {
    space(input)?;
    if input.is_empty() {
        return Ok(Filter::Any);
    }
    terminated(|input: &mut _| disjunction(input, 0), eof.context(Expected("AND, OR or the end"))).parse_next(input)
}

fn disjunction(input: &mut &str, depth: usize) -> Parsed<Filter> {
    let start = input.len();
    let filters = separated(1.., |input: &mut _| conjunction(input, depth), keyword("OR")).parse_next(input)?;
    bounded(Filter::one_of(filters), start)
}

fn conjunction(input: &mut &str, depth: usize) -> Parsed<Filter> {
    let start = input.len();
    let filters = separated(1.., |input: &mut _| operand(input, depth), keyword("AND")).parse_next(input)?;
    bounded(Filter::all(filters), start)
}

fn bounded(filter: Filter, start: usize) -> Parsed<Filter> {
    if filter.height() <= MAX_NESTING { Ok(filter) } else { too_deep(start) }
}

fn too_deep<T>(left: usize) -> Parsed<T> {
    fail(left, format!("at most {MAX_NESTING} levels of brackets, NOT, AND and OR"))
}

fn operand(input: &mut &str, depth: usize) -> Parsed<Filter> {
    let start = input.len();
    let bracket = || token('(').void();
    let not = || keyword("NOT").void();
    if depth == MAX_NESTING && opt(alt((bracket(), not()))).parse_next(input)?.is_some() {
        return too_deep(start);
    }
    let closing = token(')').context(Expected("AND, OR or a closing bracket"));
    let bracketed = delimited(bracket(), |input: &mut _| disjunction(input, depth + 1), cut_err(closing));
    let negated = preceded(not(), |input: &mut _| operand(input, depth + 1)).map(Filter::negated);
    let filter = cut_err(alt((bracketed, negated, test)).context(Expected(OPERAND))).parse_next(input)?;
    bounded(filter, start)
}

fn test(input: &mut &str) -> Parsed<Filter> {
    let field = token(field).parse_next(input)?;
    let operator = token(word).verify_map(Operator::named).context(Expected(OPERATORS));
    let is_time = field.is_time();
    let op = match cut_err(operator).parse_next(input)? {
        Operator::Compare(comparison) => Op::Compare(comparison, value(input, is_time)?),
        Operator::In => Op::In(values(input, is_time)?),
        // Neither holds for anything but a string.
        Operator::Contains => match value(input, false)? {
            Literal::String(part) => Op::Contains(part),
            _ => return Ok(Filter::none()),
        },
        Operator::StartsWith => match value(input, false)? {
            Literal::String(start) => Op::StartsWith(start),
            _ => return Ok(Filter::none()),
        },
    };
    Ok(Filter::test(field, op))
}

fn field(input: &mut &str) -> Parsed<Field> {
    let start = input.len();
    let member = |name: &str| if name == "createdAt" { Some(Field::CreatedAt) } else { Field::named(name) };
    let member = take_while(1.., is_bare).verify_map(member).parse_next(input)?;
    let Field::Data(_) = member else { return Ok(member) };
    let name = alt((take_while(1.., is_bare).map(str::to_owned), string));
    let name = name.verify(|name: &String| !name.is_empty() && !name.contains('.'));
    let name = name.context(Expected("a name within data, in single quotes or not, that holds no dot"));
    let names: Vec<_> = repeat(0.., preceded('.', cut_err(name))).parse_next(input)?;
    if names.len() > MAX_DATA_DEPTH {
        return fail(start, format!("at most {MAX_DATA_DEPTH} names, for data has no more levels"));
    }
    Ok(Field::Data(names))
}

enum Operator {
    Compare(Comparison),
    In,
    Contains,
    StartsWith,
}

impl Operator {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "eq" => Self::Compare(Comparison::Eq),
            "ne" => Self::Compare(Comparison::Ne),
            "gt" => Self::Compare(Comparison::Gt),
            "gte" => Self::Compare(Comparison::Gte),
            "lt" => Self::Compare(Comparison::Lt),
            "lte" => Self::Compare(Comparison::Lte),
            "ct" => Self::Contains,
            "sw" => Self::StartsWith,
            "in" => Self::In,
            _ => return None,
        })
    }
}

fn values(input: &mut &str, are_times: bool) -> Parsed<Vec<Literal>> {
    cut_err(token('(').context(Expected("an opening bracket"))).parse_next(input)?;
    let mut values = vec![value(input, are_times)?];
    while opt(token(',')).parse_next(input)?.is_some() {
        if values.len() == MAX_VALUES {
            return fail(input.len(), format!("at most {MAX_VALUES} values"));
        }
        values.push(value(input, are_times)?);
    }
    cut_err(token(')').context(Expected("a comma or a closing bracket"))).parse_next(input)?;
    Ok(values)
}

fn value(input: &mut &str, is_time: bool) -> Parsed<Literal> {
    let start = input.len();
    let value = alt((string.map(Literal::String), word.verify_map(unquoted))).context(Expected(VALUE));
    match cut_err(token(value)).parse_next(input)? {
        Literal::String(text) if is_time => {
            Timestamp::parse_loosely(&text).map(Literal::Time).or_else(|_| fail(start, TIME))
        }
        other => Ok(other),
    }
}

fn unquoted(word: &str) -> Option<Literal> {
    match word {
        "null" => Some(Literal::Null),
        "true" => Some(Literal::Bool(true)),
        "false" => Some(Literal::Bool(false)),
        number => Number::parse(number).map(Literal::Number),
    }
}

/// A text in single quotes; two of them within stand for one.
fn string(input: &mut &str) -> Parsed<String> {
    let part = alt((take_while(1.., |character| character != '\''), "''".value("'")));
    let text = repeat(0.., part).fold(String::new, |text, part: &str| text + part);
    delimited('\'', text, cut_err('\''.context(Expected("a closing quote")))).parse_next(input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::filter::MEMBERS;

    fn fails(text: &str, column: usize, expected: &str) {
        let error = Filter::parse(text).expect_err(text);
        assert_eq!((error.column, error.expected.as_str()), (column, expected), "{text}");
    }

    fn equal(field: Field, value: impl Into<Literal>) -> Filter {
        Filter::equals(field, value.into())
    }

    fn within(path: &str) -> Field {
        Field::Data(path.split('.').map(str::to_owned).collect())
    }

    fn parses(text: &str, expected: Filter) {
        assert_eq!(Filter::parse(text), Ok(expected), "{text}");
    }

    #[test]
    fn reads_the_example_of_the_event_logger() {
        parses(
            "((email eq 'diego@chefhero.com') AND (createdAt gte '2018-1-1') AND (message ct 'buyer' ))",
            Filter::all(vec![
                equal(Field::Email, "diego@chefhero.com"),
                Filter::compare(
                    Field::CreatedAt,
                    Comparison::Gte,
                    Timestamp::from_micros(1_514_764_800_000_000).into(),
                ),
                Filter::contains(Field::Message, "buyer"),
            ]),
        );
    }

    #[test]
    fn an_empty_filter_lets_everything_through() {
        for text in ["", " ", "\t\n\u{a0}"] {
            parses(text, Filter::Any);
        }
    }

    #[test]
    fn reads_every_field_operator_and_value() {
        for (name, field) in MEMBERS {
            assert!(OPERAND.contains(name), "{name} is named among what is expected");
            parses(&format!("{name} eq null"), Filter::equals(field, Literal::Null));
        }
        parses("createdAt ne null", Filter::compare(Field::CreatedAt, Comparison::Ne, Literal::Null));
        for (op, comparison) in [
            ("eq", Comparison::Eq),
            ("ne", Comparison::Ne),
            ("gt", Comparison::Gt),
            ("gte", Comparison::Gte),
            ("lt", Comparison::Lt),
            ("lte", Comparison::Lte),
        ] {
            parses(&format!("name {op} 'x'"), Filter::compare(Field::Name, comparison, "x".into()));
        }
        parses("name ct 'x'", Filter::contains(Field::Name, "x"));
        parses("name sw 'x'", Filter::test(Field::Name, Op::StartsWith("x".into())));
        let number = |text| Literal::Number(Number::parse(text).expect("a number"));
        let values = vec!["it's".into(), number("-1.5e3"), true.into(), false.into(), Literal::Null, "".into()];
        parses("name in ('it''s', -1.5e3, true, false, null, '')", Filter::test(Field::Name, Op::In(values)));
        parses("data.a.$b.0.ж eq 1", equal(within("a.$b.0.ж"), 1));
        parses("data.'another key'.'it''s' eq 1", equal(within("another key.it's"), 1));
        parses("data.in in (1)", Filter::test(within("in"), Op::In(vec![1.into()])));
        parses("data.NOT eq ' AND '", equal(within("NOT"), " AND "));
        let noon = Timestamp::parse("2018-01-01T12:00:00Z").expect("a time");
        let times = vec![noon.into(), Literal::Null, 1.into()];
        parses("timestamp in ('2018-01-01 12:00:00', null, 1)", Filter::test(Field::Timestamp, Op::In(times)));
        parses("timestamp ct 'noon'", Filter::contains(Field::Timestamp, "noon"));
        parses("data.timestamp eq '2018-01-01'", equal(within("timestamp"), "2018-01-01"));
    }

    #[test]
    fn not_binds_tightest_then_and_then_or() {
        let [a, b, c] = [Field::Name, Field::Email, Field::Source].map(|field| equal(field, 1));
        let (x, y, z) = ("name eq 1", "email eq 1", "source eq 1");
        let (all, one_of) = (Filter::all, Filter::one_of);
        parses(&format!("{x} OR {y} AND {z}"), one_of(vec![a.clone(), all(vec![b.clone(), c.clone()])]));
        parses(&format!("{x} AND {y} OR {z}"), one_of(vec![all(vec![a.clone(), b.clone()]), c.clone()]));
        parses(&format!("({x} OR {y}) AND {z}"), all(vec![one_of(vec![a.clone(), b.clone()]), c.clone()]));
        parses(&format!("NOT {x} AND {y}"), all(vec![a.clone().negated(), b.clone()]));
        parses(&format!("NOT ({x} AND {y})"), all(vec![a.clone(), b.clone()]).negated());
        parses(&format!("NOT NOT {x}"), a.clone());
        parses(
            &format!("(({x}) AND ((({y}))) AND ({x} AND {z}))"),
            all(vec![a.clone(), b.clone(), a.clone(), c.clone()]),
        );
        parses(&format!("{x} OR ({y} OR {z})"), one_of(vec![a, b, c]));
    }

    #[test]
    fn space_between_tokens_means_nothing() {
        let filter = Filter::parse("NOT(name in('a','b')OR email eq'x')AND data.x eq 1").expect("a filter");
        let spaced = "\n NOT\u{2003}( name  in ( 'a' ,\t'b' ) OR  email eq 'x' ) AND data.x eq 1 \r\n";
        assert_eq!(Filter::parse(spaced), Ok(filter));
    }

    #[test]
    fn errors_say_where_and_what_was_expected() {
        const AFTER: &str = "AND, OR or the end";
        const WITHIN: &str = "AND, OR or a closing bracket";
        const NAME: &str = "a name within data, in single quotes or not, that holds no dot";
        for (text, column, expected) in [
            ("email = 'x'", 7, OPERATORS),
            ("email EQ 'x'", 7, OPERATORS),
            ("email", 6, OPERATORS),
            ("email eqs 'x'", 7, OPERATORS),
            ("email 'x'", 7, OPERATORS),
            ("email.x eq 'x'", 6, OPERATORS),
            ("ce.x eq 'x'", 3, OPERATORS),
            ("e-mail eq 'x'", 1, OPERAND),
            ("Email eq 'x'", 1, OPERAND),
            ("createdat eq 'x'", 1, OPERAND),
            ("'email' eq 'x'", 1, OPERAND),
            ("AND", 1, OPERAND),
            ("()", 2, OPERAND),
            ("(", 2, OPERAND),
            ("NOT", 4, OPERAND),
            ("not name eq 1", 1, OPERAND),
            ("NOTname eq 1", 1, OPERAND),
            ("name eq 1 AND", 14, OPERAND),
            ("name eq 1 AND OR", 15, OPERAND),
            ("name eq 1 OR (AND", 15, OPERAND),
            ("name eq", 8, VALUE),
            ("name eq x", 9, VALUE),
            ("name eq \"x\"", 9, VALUE),
            ("name eq TRUE", 9, VALUE),
            ("name eq 1x", 9, VALUE),
            ("name eq +1", 9, VALUE),
            ("name eq 1AND name eq 1", 9, VALUE),
            ("name eq name", 9, VALUE),
            ("name in ()", 10, VALUE),
            ("name in (1,)", 12, VALUE),
            ("name in (1, (2))", 13, VALUE),
            ("name in 1", 9, "an opening bracket"),
            ("name in (1 2)", 12, "a comma or a closing bracket"),
            ("name in (1", 11, "a comma or a closing bracket"),
            ("name ct x", 9, VALUE),
            ("name eq 'x", 11, "a closing quote"),
            ("name eq 'x''", 13, "a closing quote"),
            ("name eq '漢😀", 12, "a closing quote"),
            ("name eq '漢😀' x", 14, AFTER),
            ("name eq 1 and name eq 1", 11, AFTER),
            ("name eq 1)", 10, AFTER),
            ("name eq 1 name eq 1", 11, AFTER),
            ("name eq 1; name eq 1", 9, VALUE),
            ("name eq 'x'; drop", 12, AFTER),
            ("(name eq 1", 11, WITHIN),
            ("(name eq 1 name", 12, WITHIN),
            ("((name eq 1)", 13, WITHIN),
            ("data. eq 1", 6, NAME),
            ("data..x eq 1", 6, NAME),
            ("data.x. eq 1", 8, NAME),
            ("data.'a.b' eq 1", 6, NAME),
            ("data.'' eq 1", 6, NAME),
            ("data.'x eq 1", 13, "a closing quote"),
            ("timestamp eq 'yesterday'", 14, TIME),
            ("createdAt in ('2018-1-1', '2018-1-32')", 27, TIME),
            ("created_at gte '2018-13-01'", 16, TIME),
            ("created_at gte ''", 16, TIME),
        ] {
            fails(text, column, expected);
        }
        let error = Filter::parse("email = 'x'").expect_err("no filter").to_string();
        assert_eq!(error, "column 7: expected one of eq, ne, gt, gte, lt, lte, ct, sw, in");
    }

    #[test]
    fn what_only_a_string_can_hold_is_no_event() {
        for text in ["name ct null", "name sw 5", "data.x ct true", "timestamp sw null"] {
            parses(text, Filter::none());
        }
    }

    #[test]
    fn length_is_bounded() {
        let longest = format!("name eq '{}'", "é".repeat((MAX_FILTER_BYTES - 10) / 2));
        assert_eq!(longest.len(), MAX_FILTER_BYTES);
        assert!(Filter::parse(&longest).is_ok());
        let too_long = format!("{longest} ");
        fails(&too_long, too_long.chars().count(), "at most 16384 bytes");
        fails(&"é".repeat(MAX_FILTER_BYTES), MAX_FILTER_BYTES / 2 + 1, "at most 16384 bytes");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested =
            |open: &str, count: usize, close: &str| format!("{}name eq 1{}", open.repeat(count), close.repeat(count));
        for (open, close) in [("(", ")"), ("NOT ", "")] {
            assert!(Filter::parse(&nested(open, MAX_NESTING, close)).is_ok());
            let column = open.len() * MAX_NESTING + 1;
            let expected = "at most 64 levels of brackets, NOT, AND and OR";
            fails(&nested(open, MAX_NESTING + 1, close), column, expected);
            fails(&nested(open, 4_000, close), column, expected);
            fails(&open.repeat(4_000), column, expected);
        }
        // Each bracket makes two levels here.
        let mixed = |count: usize| nested("(name eq 1 OR name eq 1 AND ", count, ")");
        assert_eq!(Filter::parse(&mixed(32)).map(|filter| filter.height()), Ok(64));
        assert!(Filter::parse(&mixed(33)).is_err());
        // Breadth is bounded by the length alone.
        let wide = vec!["ce eq 1"; MAX_FILTER_BYTES / 12].join(" AND ");
        assert_eq!(Filter::parse(&wide).map(|filter| filter.height()), Ok(1));
    }

    #[test]
    fn values_and_names_are_bounded() {
        let many = |count: usize| format!("name in ({})", vec!["1"; count].join(","));
        assert!(Filter::parse(&many(MAX_VALUES)).is_ok());
        fails(&many(MAX_VALUES + 1), 10 + 2 * MAX_VALUES, "at most 1000 values");
        let deep = |count: usize| format!("name eq 1 OR data{} eq 1", ".x".repeat(count));
        assert!(Filter::parse(&deep(MAX_DATA_DEPTH)).is_ok());
        fails(&deep(MAX_DATA_DEPTH + 1), 14, "at most 32 names, for data has no more levels");
    }

    fn number() -> impl Strategy<Value = Number> {
        "-?[0-9]{1,22}(\\.[0-9]{1,5})?(e-?[0-9]{1,3})?".prop_map(|text| Number::parse(&text).expect("a number"))
    }

    fn literal() -> impl Strategy<Value = Literal> {
        prop_oneof![
            Just(Literal::Null),
            any::<bool>().prop_map(Literal::Bool),
            number().prop_map(Literal::Number),
            ".*".prop_map(Literal::String),
            "('|''|a| |\\PC){0,5}".prop_map(Literal::String),
        ]
    }

    /// What is compared with a time is one.
    fn comparable() -> impl Strategy<Value = (Field, Literal)> {
        let path = prop::collection::vec("[^.]{1,5}|[a-z$ж]{1,5}", 0..4).prop_map(Field::Data);
        let member = (0..MEMBERS.len()).prop_map(|at| MEMBERS[at].1.clone());
        (prop_oneof![path, member], literal(), any::<i64>()).prop_map(|(field, value, micros)| match value {
            Literal::String(_) if field.is_time() => (field, Timestamp::from_micros(micros).into()),
            value => (field, value),
        })
    }

    fn any_test() -> impl Strategy<Value = Filter> {
        use Comparison::{Eq, Gt, Gte, Lt, Lte, Ne};
        let comparison = prop::sample::select(vec![Eq, Ne, Gt, Gte, Lt, Lte]);
        prop_oneof![
            (comparable(), comparison)
                .prop_map(|((field, value), comparison)| Filter::compare(field, comparison, value)),
            (comparable(), prop::collection::vec(comparable(), 0..4)).prop_map(|((field, first), more)| {
                let fits = |value: &Literal| field.is_time() || !matches!(value, Literal::Time(_));
                let more = more.into_iter().map(|(_, value)| value).filter(fits);
                let more = more.filter(|value| !field.is_time() || !matches!(value, Literal::String(_)));
                let values = std::iter::once(first).chain(more).collect();
                Filter::test(field, Op::In(values))
            }),
            (comparable(), ".*").prop_map(|((field, _), part)| Filter::contains(field, part)),
            (comparable(), ".*").prop_map(|((field, _), start)| Filter::test(field, Op::StartsWith(start))),
            Just(Filter::none()),
        ]
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        any_test().prop_recursive(6, 60, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 1..5).prop_map(Filter::all),
                prop::collection::vec(inner.clone(), 1..5).prop_map(Filter::one_of),
                inner.prop_map(Filter::negated),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_the_same_filter(filter in any_filter()) {
            let text = filter.to_string();
            prop_assert_eq!(Filter::parse(&text), Ok(filter), "{}", text);
        }

        #[test]
        fn arbitrary_texts_are_read_or_refused_at_a_column(text in ".{0,200}") {
            if let Err(error) = Filter::parse(&text) {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error);
                prop_assert!(!error.expected.is_empty());
            }
        }

        #[test]
        fn arbitrary_tokens_are_read_or_refused_at_a_column(
            tokens in prop::collection::vec(prop::sample::select(vec![
                "(", ")", ",", "'", "''", "'x'", "'2018-1-1'", "1", "-1e5", "null", "true", "AND", "OR", "NOT", "eq", "in", "ct",
                "gte", "name", "timestamp", "data", "data.x", ".", "'.", " ", "x", "漢",
            ]), 0..30),
            spaced in any::<bool>(),
        ) {
            let text = tokens.join(if spaced { " " } else { "" });
            match Filter::parse(&text) {
                Ok(filter) => prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter)),
                Err(error) => {
                    prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error);
                    prop_assert!(!error.expected.is_empty());
                }
            }
        }

        /// A filter with a piece cut out, doubled or replaced.
        #[test]
        fn damaged_filters_are_read_or_refused_at_a_column(
            filter in any_filter(),
            at in any::<prop::sample::Index>(),
            instead in prop_oneof![Just(String::new()), "[()', ]{1,3}", ".{1,3}"],
        ) {
            let mut text: Vec<char> = filter.to_string().chars().collect();
            let at = at.index(text.len());
            text.splice(at..=at, instead.chars());
            let text: String = text.into_iter().collect();
            if let Err(error) = Filter::parse(&text) {
                prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error);
                prop_assert!(!error.expected.is_empty());
            }
        }
    }
}
