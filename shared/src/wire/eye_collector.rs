//! The shapes of The Eye's collector: events in, pages of them out.

pub mod shapes;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::sent::{Conditions, Faults, Needs, Reader, object};
use super::time::six_or_none;
use crate::domain::filter::{Comparison, Field, Filter};
use crate::domain::log_event::{LogEvent, Members};

/// The body of `POST /api/event/`.
///
/// # Errors
/// What is wrong with it, each member named; it becomes an error record.
pub fn read_event(bytes: &[u8]) -> Result<Members, String> {
    let body = object(bytes).map_err(|error| error.to_string())?;
    let members = read(body).map_err(|faults| faults.to_string())?;
    Ok(members.check().map_err(|error| error.to_string())?.into_members())
}

fn read(body: Map<String, Json>) -> Result<Members, Faults> {
    let mut reader = Reader::new(body, Needs::All);
    let members = Members {
        session_id: reader.uuid("session_id"),
        category: reader.text("category"),
        name: reader.text("name"),
        data: reader.object("data"),
        timestamp: reader.time("timestamp").unwrap_or_default(),
        ..Members::default()
    };
    reader.faults.check().map(|()| members)
}

/// Which events `GET /api/event/` asks for; `parameter` gives the value of one. Both
/// bounds have two names.
///
/// # Errors
/// What is wrong, each parameter named.
pub fn read_filter<'a>(parameter: impl Fn(&str) -> Option<&'a str>) -> Result<Filter, Faults> {
    let mut filters = Conditions::new(parameter);
    filters.uuid("session_id", Field::SessionId);
    filters.text("category", Field::Category);
    filters.text("name", Field::Name);
    for (name, comparison) in [
        ("timestamp_after", Comparison::Gte),
        ("timestamp_start", Comparison::Gte),
        ("timestamp_before", Comparison::Lte),
        ("timestamp_end", Comparison::Lte),
    ] {
        filters.time(name, comparison);
    }
    filters.all()
}

/// A page of a list that is counted in pages, the first being 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    pub number: u64,
    pub size: u64,
}

impl Page {
    /// How many elements stand before it.
    pub fn skip(self) -> u64 {
        (self.number - 1).saturating_mul(self.size)
    }

    /// Whether a list of so many elements has it; the first is always there.
    pub fn is_of(self, count: u64) -> bool {
        self.number == 1 || self.skip() < count
    }

    /// The number of the last page of this size.
    pub fn last(self, count: u64) -> u64 {
        count.div_ceil(self.size).max(1)
    }

    /// What stands around the results: the text before them. `link` is where the
    /// page with a number is.
    pub fn head(self, count: u64, link: impl Fn(u64) -> String) -> Vec<u8> {
        let has_next = self.skip().saturating_add(self.size) < count;
        let head = HeadBody {
            count,
            next: has_next.then(|| link(self.number + 1)),
            previous: (self.number > 1).then(|| link(self.number - 1)),
        };
        let mut text = serde_json::to_vec(&head).expect("texts and numbers are always JSON");
        // The object goes on with the results.
        text.pop();
        text.extend_from_slice(br#","results":["#);
        text
    }
}

/// What stands behind the results.
pub const TAIL: &[u8] = b"]}";

#[derive(Serialize)]
struct HeadBody {
    count: u64,
    next: Option<String>,
    previous: Option<String>,
}

/// The query of a link to another page: as it was, but for the page.
pub fn query_of_page(query: Option<&str>, page: u64) -> String {
    let is_page = |part: &&str| form_urlencoded::parse(part.as_bytes()).any(|(name, _)| name == "page");
    let others = query.unwrap_or_default().split('&').filter(|part| !part.is_empty() && !is_page(part));
    others.map(|part| format!("{part}&")).collect::<String>() + &format!("page={page}")
}

/// What a `POST` is answered with.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = CollectorSuccess)]
pub struct SuccessBody {
    pub success: bool,
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CollectorEvent)]
pub struct EventBody<'a> {
    pub session_id: Option<Uuid>,
    pub timestamp: String,
    pub category: Option<&'a str>,
    pub name: Option<&'a str>,
    #[schema(value_type = Option<Object>)]
    pub data: Option<&'a Map<String, Json>>,
}

impl<'a> From<&'a LogEvent> for EventBody<'a> {
    fn from(event: &'a LogEvent) -> Self {
        let Members { session_id, category, name, data, timestamp, .. } = &event.members;
        Self {
            session_id: *session_id,
            timestamp: six_or_none(*timestamp),
            category: category.as_deref(),
            name: name.as_deref(),
            data: data.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::domain::time::Timestamp;

    const EVENT: &str = r#"{"session_id":"e2085be5-9137-4e4e-80b5-f1ffddc25423","category":"page interaction",
        "name":"cta click","data":{"host":"www.xxxxx.com","path":"/","element":"chat bubble"},
        "timestamp":"2021-01-01 09:15:27.243860"}"#;

    fn shown(members: Members) -> Json {
        let event = LogEvent { id: Uuid::nil(), number: 1, created_at: Timestamp::default(), members };
        serde_json::to_value(EventBody::from(&event)).expect("JSON")
    }

    #[test]
    fn the_event_of_the_document_is_read() {
        let mut expected: Json = serde_json::from_str(EVENT).expect("JSON");
        expected["timestamp"] = json!("2021-01-01T09:15:27.243860Z");
        assert_eq!(shown(read_event(EVENT.as_bytes()).expect("an event")), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refusal = |body: &str| read_event(body.as_bytes()).expect_err("refused");
        assert_eq!(
            refusal(r#"{"session_id":"x","category":1,"data":[],"timestamp":null}"#),
            "session_id: must be a UUID; category: must be a string, not a number; name: is missing; \
             data: must be an object, not an array; timestamp: must be a string, not null"
        );
        assert_eq!(refusal("[]"), "body: must be a JSON object, not an array");
        assert!(refusal("session_id=7").starts_with("body: malformed JSON"));
    }

    #[test]
    fn a_list_has_pages() {
        let page = |number, size| Page { number, size };
        assert!(page(1, 20).is_of(0) && page(1, 20).is_of(20) && !page(2, 20).is_of(20) && page(2, 20).is_of(21));
        assert!(!page(u64::MAX, 100).is_of(u64::MAX - 1));
        assert_eq!((page(1, 20).last(0), page(1, 20).last(20), page(1, 20).last(21)), (1, 1, 2));
        let head = |page: Page, count| {
            let text = [page.head(count, |number| number.to_string()), TAIL.to_vec()].concat();
            serde_json::from_slice::<Json>(&text).expect("JSON")
        };
        let expected = |count: u64, next: Option<&str>, previous: Option<&str>| json!({ "count": count, "next": next, "previous": previous, "results": [] });
        assert_eq!(head(page(1, 20), 0), expected(0, None, None));
        assert_eq!(head(page(1, 20), 21), expected(21, Some("2"), None));
        assert_eq!(head(page(2, 20), 60), expected(60, Some("3"), Some("1")));
        assert_eq!(head(page(3, 20), 60), expected(60, None, Some("2")));
    }

    #[test]
    fn a_link_keeps_all_but_the_page() {
        let link = |query| query_of_page(query, 3);
        assert_eq!(link(None), "page=3");
        assert_eq!(link(Some("page=1")), "page=3");
        assert_eq!(link(Some("a=%26&p%61ge=9&&name=x+y&page=2&b")), "a=%26&name=x+y&b&page=3");
    }

    proptest! {
        #[test]
        fn no_body_is_too_much(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".*") {
            let _ = (read_event(&bytes), read_event(text.as_bytes()));
        }

        #[test]
        fn what_is_accepted_reads_back(
            (category, name, value) in any::<(String, String, String)>(),
            (session, micros) in (any::<u128>(), -62_167_219_200_000_000..=253_402_300_799_999_999_i64),
        ) {
            let sent = json!({
                "session_id": Uuid::from_u128(session).to_string(), "category": category, "name": name,
                "data": { "a": [value] }, "timestamp": six_or_none(Timestamp::from_micros(micros)),
            });
            prop_assert_eq!(read_event(sent.to_string().as_bytes()).map(shown), Ok(sent));
        }
    }
}
