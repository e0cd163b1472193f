//! What requests ask of the event log, from their parameters.

use shared::domain::filter::{Field, Filter, Literal};
use shared::domain::time::Timestamp;
use shared::http::error::ApiError;
use shared::http::query::Query;
use shared::ports::{Order, SortKey, StatsQuery, Ties};
use shared::wire::time::parse_time;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`filter` reads it")]
pub(crate) struct FilterParams {
    /// A filter: `field op value` with `eq ne gt gte lt lte ct sw in`, combined with
    /// `AND`, `OR`, `NOT` and brackets, such as `category eq 'login' AND data.host sw 'a'`.
    #[param(nullable = false)]
    q: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "they are read one by one")]
pub(super) struct EventsParams {
    #[param(nullable = false, inline)]
    sort: Option<SortWord>,
    #[param(nullable = false, minimum = 1, maximum = 500, default = 50)]
    limit: Option<u64>,
    /// The `next` of an earlier page with the same sort.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// By what events are sorted; `-` is descending, the default `-timestamp`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "`SORTS` has the words")]
enum SortWord {
    #[schema(rename = "timestamp")]
    Timestamp,
    #[schema(rename = "-timestamp")]
    TimestampDescending,
    #[schema(rename = "created_at")]
    CreatedAt,
    #[schema(rename = "-created_at")]
    CreatedAtDescending,
    #[schema(rename = "name")]
    Name,
    #[schema(rename = "-name")]
    NameDescending,
    #[schema(rename = "category")]
    Category,
    #[schema(rename = "-category")]
    CategoryDescending,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`filter_with_members` reads them")]
pub(super) struct MemberParams {
    #[param(nullable = false)]
    id: Option<Uuid>,
    /// A time: RFC 3339, `YYYY-MM-DD HH:MM:SS[.f]` or `YYYY-MM-DD`.
    #[param(nullable = false)]
    timestamp: Option<String>,
    /// A time, as `timestamp`.
    #[param(nullable = false)]
    created_at: Option<String>,
    #[param(nullable = false)]
    name: Option<String>,
    #[param(nullable = false)]
    category: Option<String>,
    #[param(nullable = false)]
    component: Option<String>,
    #[param(nullable = false)]
    environment: Option<String>,
    #[param(nullable = false)]
    message: Option<String>,
    #[param(nullable = false)]
    email: Option<String>,
    #[param(nullable = false)]
    customer_id: Option<i64>,
    #[param(nullable = false)]
    session_id: Option<Uuid>,
    #[param(nullable = false)]
    source: Option<String>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "`stats` reads them")]
pub(super) struct StatsParams {
    /// A number and `s`, `m`, `h`, `d` or `w`, up to `5200w`.
    #[param(nullable = false, default = "1h", pattern = "^[0-9]+[smhdw]$")]
    interval: Option<String>,
    #[param(nullable = false, inline, default = "category")]
    by: Option<MemberWord>,
}

/// A member by which is counted.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "`MEMBERS` has the words")]
enum MemberWord {
    Id,
    Timestamp,
    CreatedAt,
    Name,
    Category,
    Component,
    Environment,
    Message,
    Email,
    CustomerId,
    SessionId,
    Source,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "they are read one by one")]
pub(super) struct PageParams {
    #[param(nullable = false, minimum = 1, maximum = 500, default = 50)]
    limit: Option<u64>,
    /// The `next` of an earlier page.
    #[param(nullable = false)]
    cursor: Option<String>,
}

/// How many rows a page has, if nobody says, and at most.
const LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 500;
/// The members that are parameters.
const MEMBERS: [Field; 12] = [
    Field::Id,
    Field::Timestamp,
    Field::CreatedAt,
    Field::Name,
    Field::Category,
    Field::Component,
    Field::Environment,
    Field::Message,
    Field::Email,
    Field::CustomerId,
    Field::SessionId,
    Field::Source,
];
/// The names that a list has, and the order that each means.
const SORTS: [(&str, Order); 8] = [
    ("timestamp", order(SortKey::Timestamp, false)),
    ("-timestamp", order(SortKey::Timestamp, true)),
    ("created_at", order(SortKey::CreatedAt, false)),
    ("-created_at", order(SortKey::CreatedAt, true)),
    ("name", order(SortKey::Name, false)),
    ("-name", order(SortKey::Name, true)),
    ("category", order(SortKey::Category, false)),
    ("-category", order(SortKey::Category, true)),
];
/// The units of an interval, in seconds.
const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];
/// About a hundred years.
const MAX_INTERVAL_S: u64 = 5_200 * 604_800;
/// The interval, if nobody says.
const INTERVAL: &str = "1h";
/// The most buckets and values that are counted.
const MAX_ROWS: usize = 10_000;

const fn order(by: SortKey, descending: bool) -> Order {
    Order { by, descending, ties: Ties::Id }
}

/// The parameters of a request that may have these, and `await`.
pub(super) fn parse(query: Option<&str>, names: &[&str]) -> Result<Query, ApiError> {
    let query = Query::parse(query)?;
    query.only(&[names, &["await"]].concat())?;
    Ok(query)
}

/// As `parse`, of a request that may have the members as well.
pub(super) fn parse_with_members(query: Option<&str>, names: &[&str]) -> Result<Query, ApiError> {
    let members: Vec<_> = MEMBERS.iter().map(Field::name).collect();
    parse(query, &[names, &members].concat())
}

/// The events that are asked for by `q`.
pub(super) fn filter(query: &Query) -> Result<Filter, ApiError> {
    let parse = |text| Filter::parse(text).map_err(|error| ApiError::bad_request(format!("q: {error}")));
    Ok(query.get("q")?.map(parse).transpose()?.unwrap_or(Filter::Any))
}

/// The events that are asked for by `q` and by members.
pub(super) fn filter_with_members(query: &Query) -> Result<Filter, ApiError> {
    let mut filters = vec![filter(query)?];
    for field in MEMBERS {
        if let Some(text) = query.get(field.name())? {
            let value = literal(&field, text)?;
            filters.push(Filter::equals(field, value));
        }
    }
    Ok(Filter::all(filters))
}

fn literal(field: &Field, text: &str) -> Result<Literal, ApiError> {
    let bad = |what: &str| ApiError::bad_request(format!("{}: must be {what}", field.name()));
    match field {
        Field::Timestamp | Field::CreatedAt => {
            time(text).map(Literal::Time).ok_or_else(|| bad("a time such as 2026-01-31T12:00:00Z"))
        }
        Field::CustomerId => integer(text).map(Literal::from).ok_or_else(|| bad("a 64-bit integer")),
        Field::Id | Field::SessionId => uuid(text).map(Literal::from).ok_or_else(|| bad("a UUID")),
        _ => Ok(Literal::from(text)),
    }
}

/// A time; a `+` that a URL turned into a space is taken for what it was.
fn time(text: &str) -> Option<Timestamp> {
    let restored = || text.rsplit_once(' ').and_then(|(time, offset)| parse_time(&format!("{time}+{offset}")).ok());
    parse_time(text).ok().or_else(restored)
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

fn uuid(text: &str) -> Option<String> {
    let hyphenated = (text.len() == uuid::fmt::Hyphenated::LENGTH).then_some(text)?;
    Uuid::try_parse(hyphenated).ok().map(|id| id.to_string())
}

/// The order that is asked for.
pub(super) fn sort(query: &Query) -> Result<Order, ApiError> {
    Ok(query.word("sort", &SORTS)?.unwrap_or(order(SortKey::Timestamp, true)))
}

/// How many rows a page has.
pub(super) fn limit(query: &Query) -> Result<usize, ApiError> {
    let limit = query.number("limit", 1..=MAX_LIMIT)?.unwrap_or(LIMIT);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// What to count, and the interval as it was given.
pub(super) fn stats(query: &Query) -> Result<(StatsQuery, &str), ApiError> {
    let given = query.get("interval")?.unwrap_or(INTERVAL);
    let malformed = || ApiError::bad_request("interval: must be a number and s, m, h, d or w, such as 1h, up to 5200w");
    let by = match query.get("by")? {
        None => Field::Category,
        Some(name) => MEMBERS.into_iter().find(|field| field.name() == name).ok_or_else(|| {
            let names: Vec<_> = MEMBERS.iter().map(Field::name).collect();
            ApiError::bad_request(format!("by: must be one of {}", names.join(", ")))
        })?,
    };
    let interval = interval(given).ok_or_else(malformed)?;
    Ok((StatsQuery { filter: filter(query)?, interval, by, limit: MAX_ROWS }, given))
}

/// That there would be too many of them.
pub(super) fn too_many() -> ApiError {
    let message = "interval: too many buckets and values; ask for a longer one, or for fewer events by q";
    ApiError::bad_request(message)
}

/// The microseconds of an interval.
fn interval(text: &str) -> Option<i64> {
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(*unit))?;
    let number = text.strip_suffix(unit).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    let seconds = number.parse::<u64>().ok()?.checked_mul(seconds)?;
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?;
    (1..=MAX_INTERVAL_S).contains(&seconds).then_some(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_a_number_and_a_unit() {
        for (text, seconds) in
            [("1s", 1), ("90m", 5_400), ("1h", 3_600), ("7d", 604_800), ("1w", 604_800), ("010s", 10)]
        {
            assert_eq!(interval(text), Some(seconds * 1_000_000), "{text}");
        }
        assert!(interval("5200w").is_some());
        for bad in ["", "h", "1", "0s", "0w", "-1h", "+1h", "1.5h", "1 h", "1y", "5201w", "99999999999999999999s"] {
            assert_eq!(interval(bad), None, "{bad}");
        }
        assert_eq!(interval("18446744073709551615w"), None);
    }

    fn filter_of(text: &str) -> Result<Filter, String> {
        let query = parse_with_members(Some(text), &["q"]).and_then(|query| filter_with_members(&query));
        query.map_err(|error| error.message().to_owned())
    }

    #[test]
    fn members_are_compared_as_what_they_are() {
        let id = "AAAAAAAA-0000-4000-8000-00000000000f";
        let equals = |field, value| Ok(Filter::equals(field, value));
        assert_eq!(filter_of(""), Ok(Filter::Any));
        assert_eq!(filter_of("name="), equals(Field::Name, "".into()));
        assert_eq!(filter_of("customer_id=-5"), equals(Field::CustomerId, (-5).into()));
        assert_eq!(filter_of(&format!("session_id={id}")), equals(Field::SessionId, id.to_lowercase().into()));
        let hour = Literal::Time(Timestamp::from_micros(3_600_000_000));
        assert_eq!(filter_of("timestamp=1970-01-01T02:00:00+01:00"), equals(Field::Timestamp, hour.clone()));
        assert_eq!(filter_of("timestamp=1970-01-01+01:00:00"), equals(Field::Timestamp, hour));
        for (bad, name) in [
            ("customer_id=1.0", "customer_id"),
            ("customer_id=%2B1", "customer_id"),
            ("customer_id=9223372036854775808", "customer_id"),
            ("session_id=aaaaaaaa000040008000000000000000", "session_id"),
            ("id=x", "id"),
            ("created_at=now", "created_at"),
            ("data=x", "data"),
            ("ce=x", "ce"),
            ("createdAt=2018-01-01", "createdAt"),
            ("q=name", "q"),
            ("name=a&name=a", "name"),
        ] {
            let error = filter_of(bad).expect_err(bad);
            assert!(error.starts_with(&format!("{name}: ")), "{bad}: {error}");
        }
    }
}
