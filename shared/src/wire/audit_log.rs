//! The shapes of the audit log: the body that it takes, the parameters of its list, its
//! logs, and its errors, which name the member or parameter that they are about.

pub mod shapes;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;

use super::time::{parse_time, shortest};
use crate::domain::filter::{Field, Filter};
use crate::domain::log_event::{LogEvent, Members};
use crate::domain::stream::Position;
use crate::domain::time::Timestamp;

/// How many logs a page has, if nobody says, and at most.
const PAGE_SIZE: u64 = 20;
const MAX_PAGE_SIZE: u64 = 100;

/// An error as clients see it: what is wrong, by the member or parameter that it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = AuditLogError, example = json!({"error": {"sort": "invalid sort value"}}))]
pub struct Wrong {
    error: BTreeMap<String, String>,
}

impl Wrong {
    /// One thing.
    pub fn about(name: &str, message: impl Into<String>) -> Self {
        Self { error: BTreeMap::from([(name.to_owned(), message.into())]) }
    }

    /// From a message as other shapes have it: what it is about, if anything, stands
    /// before a colon.
    pub fn told(message: &str) -> Self {
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        match message.split_once(": ") {
            Some((name, message)) if is_name(name) => Self::about(name, message),
            _ => Self::about("request", message),
        }
    }

    fn add(&mut self, name: &str, message: impl Into<String>) {
        self.error.insert(name.to_owned(), message.into());
    }

    /// What was read, if nothing is wrong.
    fn or<T>(self, read: T) -> Result<T, Self> {
        if self.error.is_empty() { Ok(read) } else { Err(self) }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, message)) in self.error.iter().enumerate() {
            let between = if n == 0 { "" } else { "; " };
            write!(f, "{between}{name}: {message}")?;
        }
        Ok(())
    }
}

/// Why a body is no log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadLog {
    /// It cannot be read at all.
    Malformed(Wrong),
    /// It says something that cannot be.
    Values(Wrong),
}

/// A log that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct LogBody {
    event_name: String,
    description: String,
    created_at: Option<Timestamp>,
    customer_id: Option<i64>,
}

impl LogBody {
    /// Reads a body; nothing at all is an empty object, and members with other names are
    /// ignored.
    ///
    /// # Errors
    /// If it is no JSON object, or for each member that is missing or wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadLog> {
        let malformed = |message: String| BadLog::Malformed(Wrong::about("body", message));
        let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
        let json = serde_json::from_slice(bytes).map_err(|error| malformed(format!("malformed JSON: {error}")))?;
        let Json::Object(mut members) = json else { return Err(malformed("must be a JSON object".into())) };
        let mut wrong = Wrong::default();
        let event_name = required(&mut members, "event_name", &mut wrong);
        let description = required(&mut members, "description", &mut wrong);
        let created_at = created_at(members.remove("created_at"), &mut wrong);
        let customer_id = customer_id(members.remove("customer_id"), &mut wrong);
        wrong.or(Self { event_name, description, created_at, customer_id }).map_err(BadLog::Values)
    }

    /// What it says, at this time.
    pub fn into_members(self, now: Timestamp) -> Members {
        Members {
            timestamp: self.created_at.unwrap_or(now),
            name: Some(self.event_name),
            message: Some(self.description),
            customer_id: self.customer_id,
            ..Members::default()
        }
    }
}

fn required(members: &mut Map<String, Json>, name: &str, wrong: &mut Wrong) -> String {
    match members.remove(name) {
        None | Some(Json::Null) => wrong.add(name, "must be provided"),
        Some(Json::String(text)) if text.is_empty() => wrong.add(name, "must not be empty"),
        Some(Json::String(text)) => return text,
        Some(_) => wrong.add(name, "must be a string"),
    }
    String::new()
}

fn created_at(given: Option<Json>, wrong: &mut Wrong) -> Option<Timestamp> {
    let text = match given? {
        Json::Null => return None,
        Json::String(text) => parse_time(&text).map_err(|error| error.to_string()),
        _ => Err("must be a string".into()),
    };
    text.map_err(|message| wrong.add("created_at", message)).ok()
}

fn customer_id(given: Option<Json>, wrong: &mut Wrong) -> Option<i64> {
    match given? {
        Json::Null => None,
        Json::Number(number) if number.as_i64().is_some() => number.as_i64(),
        _ => {
            wrong.add("customer_id", "must be an integer of 64 bits");
            None
        }
    }
}

/// A log as clients see it.
#[derive(Serialize, ToSchema)]
#[schema(as = AuditLog)]
pub struct LogJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<u64>,
    #[schema(format = DateTime, example = "2020-11-20T21:20:04.333Z")]
    created_at: String,
    event_name: Option<&'a str>,
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    customer_id: Option<i64>,
}

impl<'a> LogJson<'a> {
    /// In a list.
    pub fn listed(event: &'a LogEvent) -> Self {
        Self { id: Some(event.number), ..Self::written(event) }
    }

    /// As it has just been written.
    pub fn written(event: &'a LogEvent) -> Self {
        let Members { timestamp, name, message, customer_id, .. } = &event.members;
        Self {
            id: None,
            created_at: shortest(*timestamp),
            event_name: name.as_deref(),
            description: message.as_deref(),
            customer_id: *customer_id,
        }
    }
}

/// The answer to a log that was written.
#[derive(Serialize, ToSchema)]
#[schema(as = WrittenAuditLog)]
pub struct WrittenJson<'a> {
    pub log: LogJson<'a>,
}

/// What logs are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SortBy {
    #[default]
    Id,
    EventName,
    CreatedAt,
}

/// Which logs are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListParams {
    event_name: Option<String>,
    customer_id: Option<i64>,
    pub sort: SortBy,
    pub descending: bool,
    pub page: u64,
    pub page_size: u64,
}

impl ListParams {
    /// Reads parameters by their names. An empty one says nothing.
    ///
    /// # Errors
    /// For each that is wrong.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Wrong> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut wrong = Wrong::default();
        let customer_id = get("customer_id")
            .and_then(|text| text.parse().map_err(|_| wrong.add("customer_id", "must be an integer of 64 bits")).ok());
        let (sort, descending) = sort(get("sort"), &mut wrong);
        let params = Self {
            event_name: get("event_name").map(str::to_owned),
            customer_id,
            sort,
            descending,
            page: get("page").map_or(1, |text| count(text, "page", u64::MAX, &mut wrong)),
            page_size: get("page_size").map_or(PAGE_SIZE, |text| count(text, "page_size", MAX_PAGE_SIZE, &mut wrong)),
        };
        wrong.or(params)
    }

    /// The logs that are meant.
    pub fn filter(&self) -> Filter {
        let name = self.event_name.iter().map(|part| Filter::contains(Field::Name, part));
        let customer = self.customer_id.iter().map(|id| Filter::equals(Field::CustomerId, (*id).into()));
        Filter::all(name.chain(customer).collect())
    }

    /// How many logs come before the page, as far as there can be so many.
    pub fn skipped(&self) -> u64 {
        (self.page - 1).saturating_mul(self.page_size).min(Position::MAX.0)
    }
}

fn sort(given: Option<&str>, wrong: &mut Wrong) -> (SortBy, bool) {
    match given {
        None => (SortBy::Id, false),
        Some("event_name") => (SortBy::EventName, false),
        Some("-event_name") => (SortBy::EventName, true),
        Some("created_at") => (SortBy::CreatedAt, false),
        Some("-created_at") => (SortBy::CreatedAt, true),
        Some(_) => {
            wrong.add("sort", "invalid sort value");
            (SortBy::Id, false)
        }
    }
}

/// A number from 1 on; one that no integer holds is the largest.
fn count(text: &str, name: &str, most: u64, wrong: &mut Wrong) -> u64 {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse().unwrap_or(u64::MAX) } else { 0 };
    if (1..=most).contains(&number) {
        return number;
    }
    let range = if most == u64::MAX { "greater than 0".into() } else { format!("from 1 to {most}") };
    wrong.add(name, format!("must be an integer {range}"));
    1
}

/// Where a page stands among all; without logs there is nothing to tell.
#[derive(Serialize)]
#[serde(untagged)]
pub enum MetadataJson {
    Some { current_page: u64, page_size: u64, first_page: u64, last_page: u64, total_records: u64 },
    None {},
}

impl MetadataJson {
    /// Of a page that is not empty.
    pub fn of(params: &ListParams, total_records: u64) -> Self {
        let ListParams { page, page_size, .. } = *params;
        let last_page = total_records.div_ceil(page_size);
        Self::Some { current_page: page, page_size, first_page: 1, last_page, total_records }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn bad(body: &str) -> (bool, Json) {
        match LogBody::parse(body.as_bytes()).expect_err(body) {
            BadLog::Malformed(wrong) => (true, json!(wrong)),
            BadLog::Values(wrong) => (false, json!(wrong)),
        }
    }

    fn event(members: Members) -> LogEvent {
        LogEvent { id: Uuid::nil(), number: 7, created_at: Timestamp::default(), members }
    }

    fn params(query: &[(&str, &str)]) -> Result<ListParams, Json> {
        let get = |name: &str| query.iter().find(|(given, _)| *given == name).map(|(_, value)| *value);
        ListParams::parse(get).map_err(|wrong| json!(wrong.error))
    }

    #[test]
    fn each_member_that_is_wrong_is_named() {
        let missing = json!({"error": {"event_name": "must be provided", "description": "must be provided"}});
        for body in ["", " \n", "{}", r#"{"event_name":null,"x":1}"#] {
            assert_eq!(bad(body), (false, missing.clone()), "{body}");
        }
        let body = json!({"event_name": "", "description": 1, "created_at": "soon", "customer_id": 1.5}).to_string();
        let (malformed, wrong) = bad(&body);
        assert!(!malformed);
        assert_eq!(wrong["error"]["event_name"], "must not be empty");
        assert_eq!(wrong["error"]["description"], "must be a string");
        assert_eq!(wrong["error"]["customer_id"], "must be an integer of 64 bits");
        assert!(wrong["error"]["created_at"].as_str().is_some_and(|message| message.starts_with("not a time such as")));
        for id in ["\"18\"", "9223372036854775808", "true", "[]", "1e3"] {
            let body = format!(r#"{{"event_name":"a","description":"b","customer_id":{id}}}"#);
            assert_eq!(bad(&body), (false, json!({"error": {"customer_id": "must be an integer of 64 bits"}})), "{id}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        assert_eq!(bad("[]"), (true, json!({"error": {"body": "must be a JSON object"}})));
        for body in ["{", "event_name=a", "\u{feff}{}", r#"{"event_name":"\ud800"}"#] {
            let (malformed, wrong) = bad(body);
            let message = wrong["error"]["body"].as_str().unwrap_or_default().to_owned();
            assert!(malformed && message.starts_with("malformed JSON: "), "{body}: {wrong}");
        }
    }

    #[test]
    fn a_message_of_other_shapes_is_told_by_what_it_is_about() {
        for (message, told) in [
            ("Await-Position: must be x: y", json!({"error": {"Await-Position": "must be x: y"}})),
            ("the event log does not answer", json!({"error": {"request": "the event log does not answer"}})),
            ("outcome unknown: it failed", json!({"error": {"request": "outcome unknown: it failed"}})),
        ] {
            assert_eq!(json!(Wrong::told(message)), told);
        }
    }

    #[test]
    fn a_log_is_written_as_it_was_sent() {
        let body =
            r#"{"event_name":"a","description":"b","created_at":"2022-11-14 22:32:26.4985552","customer_id":-3}"#;
        let members = LogBody::parse(body.as_bytes()).expect("valid").into_members(Timestamp::default());
        let event = event(members);
        let log = json!({"created_at": "2022-11-14T22:32:26.498555Z", "event_name": "a", "description": "b", "customer_id": -3});
        assert_eq!(json!(LogJson::written(&event)), log);
        let text = serde_json::to_string(&WrittenJson { log: LogJson::listed(&event) }).expect("JSON");
        assert!(
            text.starts_with(r#"{"log":{"id":7,"created_at":"2022-11-14T22:32:26.498555Z","event_name":"a","#),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_null_but_the_customer() {
        let log = json!({"id": 7, "created_at": "1970-01-01T00:00:00Z", "event_name": null, "description": null});
        assert_eq!(json!(LogJson::listed(&event(Members::default()))), log);
    }

    #[test]
    fn parameters_have_defaults() {
        let plain = params(&[]).expect("valid");
        let all = ["event_name", "customer_id", "sort", "page", "page_size"].map(|name| (name, ""));
        assert_eq!(params(&all), Ok(plain.clone()));
        assert_eq!((plain.sort, plain.descending, plain.page, plain.page_size), (SortBy::Id, false, 1, 20));
        assert_eq!((plain.filter(), plain.skipped()), (Filter::Any, 0));
        let given = params(&[("page", "3"), ("page_size", "100"), ("sort", "-created_at")]).expect("valid");
        assert_eq!((given.sort, given.descending, given.skipped()), (SortBy::CreatedAt, true, 200));
    }

    #[test]
    fn a_page_may_lie_far_beyond_the_end() {
        for page in ["18446744073709551615", "99999999999999999999999"] {
            assert_eq!(params(&[("page", page)]).map(|params| params.skipped()), Ok(Position::MAX.0));
        }
    }

    #[test]
    fn each_parameter_that_is_wrong_is_named() {
        assert_eq!(params(&[("sort", "time")]), Err(json!({"sort": "invalid sort value"})));
        for page in ["0", "-1", "x", "1.5", "+1", " 1", "1e3"] {
            assert_eq!(params(&[("page", page)]), Err(json!({"page": "must be an integer greater than 0"})), "{page}");
        }
        for size in ["0", "101", "99999999999999999999999", "x"] {
            assert_eq!(params(&[("page_size", size)]), Err(json!({"page_size": "must be an integer from 1 to 100"})));
        }
        let several = params(&[("customer_id", "abc"), ("sort", "id"), ("page", "0"), ("page_size", "0")]);
        assert_eq!(several.expect_err("wrong").as_object().map(Map::len), Some(4));
        assert!(params(&[("customer_id", "9223372036854775808")]).is_err());
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "\\PC{1,8}", any::<String>()]
    }

    fn anything() -> impl Strategy<Value = Json> {
        prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<f64>().prop_map(Json::from),
            text().prop_map(Json::from),
            Just(json!([])),
            Just(json!({"a": 1})),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = LogBody::parse(&bytes);
        }

        #[test]
        fn what_is_accepted_reads_back(
            event_name in anything(), description in anything(), created_at in anything(), customer_id in anything(),
        ) {
            let body = json!({
                "event_name": event_name, "description": description, "created_at": created_at, "customer_id": customer_id,
            });
            if let Ok(log) = LogBody::parse(body.to_string().as_bytes()) {
                let event = event(log.into_members(Timestamp::from_micros(1)));
                let shown = json!(LogJson::written(&event));
                prop_assert_eq!(&shown["event_name"], &body["event_name"]);
                prop_assert_eq!(&shown["description"], &body["description"]);
                prop_assert_eq!(&shown["customer_id"], &body["customer_id"]);
                let again = LogBody::parse(shown.to_string().as_bytes()).expect("what is shown can be sent");
                prop_assert_eq!(again.into_members(Timestamp::default()), event.members);
            }
        }

        #[test]
        fn any_parameters_are_read_or_refused(values in prop::collection::vec(text(), 5)) {
            let names = ["event_name", "customer_id", "sort", "page", "page_size"];
            let query: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            if let Ok(params) = params(&query) {
                prop_assert!(params.page >= 1 && (1..=100).contains(&params.page_size));
                prop_assert!(params.skipped() <= Position::MAX.0);
            }
        }
    }
}
