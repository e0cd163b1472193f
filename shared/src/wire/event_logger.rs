//! The shapes of the event logger: the body that it takes, and its events.

pub mod shapes;

use std::net::IpAddr;

use serde::Serialize;
use serde_json::{Map, Value as Json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::log_event::{LogEvent, MAX_DATA_DEPTH, Members};
use crate::domain::members::check_object;
use crate::domain::time::Timestamp;

/// The most characters of `email`, `environment` and `component`, and of `message`.
const MAX_WORD: usize = 100;
const MAX_MESSAGE: usize = 1000;

/// Why a body is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvent {
    #[error("body: malformed JSON: {0}")]
    Json(String),
    #[error("body: must be a JSON object")]
    NoObject,
    /// Each field that is missing or wrong, and what is wrong with it.
    #[error("{}", listed(.0))]
    Fields(Vec<(&'static str, String)>),
}

fn listed(fields: &[(&'static str, String)]) -> String {
    let all: Vec<_> = fields.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    all.join("; ")
}

/// An event that is to be recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct EventBody {
    email: String,
    environment: String,
    component: String,
    message: String,
    data: Map<String, Json>,
}

impl EventBody {
    /// Reads a body; nothing at all is an empty object, and members with other names are
    /// ignored.
    ///
    /// # Errors
    /// If it is no JSON object, or for each field that is missing, empty or wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadEvent> {
        let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
        let json = serde_json::from_slice(bytes).map_err(|error| BadEvent::Json(error.to_string()))?;
        let Json::Object(members) = json else { return Err(BadEvent::NoObject) };
        let mut fields = Fields { members, wrong: Vec::new() };
        let body = Self {
            email: fields.email("email"),
            environment: fields.text("environment", MAX_WORD),
            component: fields.text("component", MAX_WORD),
            message: fields.text("message", MAX_MESSAGE),
            data: fields.object("data"),
        };
        if fields.wrong.is_empty() { Ok(body) } else { Err(BadEvent::Fields(fields.wrong)) }
    }

    /// What it says; it happened at this time.
    pub fn into_members(self, now: Timestamp) -> Members {
        Members {
            timestamp: now,
            email: Some(self.email),
            environment: Some(self.environment),
            component: Some(self.component),
            message: Some(self.message),
            data: Some(self.data),
            ..Members::default()
        }
    }
}

/// The fields of a body, and what is wrong with those that were read.
struct Fields {
    members: Map<String, Json>,
    wrong: Vec<(&'static str, String)>,
}

impl Fields {
    /// A text of at most so many characters; empty if it is wrong.
    fn text(&mut self, name: &'static str, most: usize) -> String {
        let reason = match self.members.remove(name) {
            None | Some(Json::Null) => "is missing".into(),
            Some(Json::String(text)) if text.is_empty() => "must not be empty".into(),
            Some(Json::String(text)) if text.chars().nth(most).is_some() => {
                format!("must not be longer than {most} characters")
            }
            Some(Json::String(text)) => return text,
            Some(_) => "must be a string".into(),
        };
        self.wrong.push((name, reason));
        String::new()
    }

    fn email(&mut self, name: &'static str) -> String {
        let text = self.text(name, MAX_WORD);
        if !text.is_empty() && !is_email(&text) {
            self.wrong.push((name, "must be an email address".into()));
        }
        text
    }

    fn object(&mut self, name: &'static str) -> Map<String, Json> {
        let reason = match self.members.remove(name) {
            None | Some(Json::Null) => "is missing",
            Some(Json::Object(object)) if object.is_empty() => "must not be empty",
            Some(Json::Object(object)) => match check_object(&object, MAX_DATA_DEPTH) {
                Ok(()) => return object,
                Err(reason) => reason,
            },
            Some(_) => "must be an object",
        };
        self.wrong.push((name, reason.into()));
        Map::new()
    }
}

/// Whether a text has the form of an email address: a name of words between dots, or
/// anything in quotes; behind the last `@` a domain of two labels or more, `localhost`,
/// or an IP address in brackets. Letters of all scripts are letters.
fn is_email(text: &str) -> bool {
    let Some((name, domain)) = text.rsplit_once('@') else { return false };
    is_mailbox(name) && is_mail_domain(domain)
}

fn is_mailbox(name: &str) -> bool {
    let is_word =
        |word: &str| !word.is_empty() && word.chars().all(|c| is_letter(c) || "!#$%&'*+-/=?^_`{|}~".contains(c));
    let quoted = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
    name.len() <= 64 && quoted.map_or_else(|| name.split('.').all(is_word), is_quotable)
}

/// What may stand in quotes: anything that is seen, and spaces; quotes and backslashes
/// behind a backslash.
fn is_quotable(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let behind = if c == '\\' { chars.next() } else { Some(c).filter(|c| *c != '"') };
        if behind.is_none_or(char::is_control) {
            return false;
        }
    }
    !text.is_empty()
}

fn is_mail_domain(domain: &str) -> bool {
    if let Some(address) = domain.strip_prefix('[').and_then(|domain| domain.strip_suffix(']')) {
        let address = address.strip_prefix("IPv6:").unwrap_or(address);
        return address.parse::<IpAddr>().is_ok();
    }
    let is_label = |label: &str| {
        let inside = |c| is_letter(c) || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(inside) && !label.starts_with('-') && !label.ends_with('-')
    };
    let last = domain.rsplit('.').next().unwrap_or_default();
    let is_named = domain.contains('.') && last.chars().any(|c| !c.is_ascii_digit()) && last.chars().nth(1).is_some();
    domain.eq_ignore_ascii_case("localhost") || is_named && domain.split('.').all(is_label)
}

fn is_letter(c: char) -> bool {
    c.is_alphanumeric() || !c.is_ascii() && !c.is_control() && !c.is_whitespace()
}

/// An event as clients see it. What other shapes left out is null.
#[derive(Serialize, ToSchema)]
#[schema(as = LoggedEventOut)]
pub struct EventJson<'a> {
    id: Uuid,
    email: Option<&'a str>,
    environment: Option<&'a str>,
    component: Option<&'a str>,
    message: Option<&'a str>,
    #[schema(value_type = Option<Object>)]
    data: Option<&'a Map<String, Json>>,
    /// In whole seconds since 1970, rounded down.
    #[serde(rename = "createdAt")]
    created_at: i64,
}

impl<'a> From<&'a LogEvent> for EventJson<'a> {
    fn from(event: &'a LogEvent) -> Self {
        let Members { email, environment, component, message, data, .. } = &event.members;
        Self {
            id: event.id,
            email: email.as_deref(),
            environment: environment.as_deref(),
            component: component.as_deref(),
            message: message.as_deref(),
            data: data.as_ref(),
            created_at: event.created_at.micros().div_euclid(1_000_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn body() -> Json {
        json!({
            "email": "diego@chefhero.com", "environment": "production", "component": "order",
            "message": "the buyer #1 has placed an order successfully",
            "data": {"key": 123, "another key": "Some value"},
        })
    }

    fn with(name: &str, value: Json) -> Json {
        let mut body = body();
        body[name] = value;
        body
    }

    fn read(body: &Json) -> Result<EventBody, String> {
        EventBody::parse(body.to_string().as_bytes()).map_err(|error| error.to_string())
    }

    fn shown(body: EventBody, created_at: i64) -> Json {
        let created_at = Timestamp::from_micros(created_at);
        let members = body.into_members(created_at);
        json!(EventJson::from(&LogEvent { id: Uuid::nil(), number: 7, created_at, members }))
    }

    #[test]
    fn an_event_reads_as_it_was_sent() {
        let mut expected = body();
        expected["id"] = json!(Uuid::nil());
        expected["createdAt"] = json!(1_668_461_516);
        assert_eq!(shown(read(&body()).expect("valid"), 1_668_461_516_999_999), expected);
    }

    #[test]
    fn seconds_are_rounded_down_before_1970_too() {
        for (micros, seconds) in [(0, 0), (999_999, 0), (-1, -1), (-1_000_000, -1), (-1_000_001, -2)] {
            assert_eq!(shown(read(&body()).expect("valid"), micros)["createdAt"], seconds);
        }
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        let missing =
            "email: is missing; environment: is missing; component: is missing; message: is missing; data: is missing";
        for body in ["", "{}", r#"{"email":null,"data":null,"id":1}"#] {
            assert_eq!(EventBody::parse(body.as_bytes()).expect_err(body).to_string(), missing);
        }
        let body = json!({"email": "x", "environment": "", "component": 7, "message": "m", "data": []});
        let expected = "email: must be an email address; environment: must not be empty; \
            component: must be a string; data: must be an object";
        assert_eq!(read(&body).expect_err("wrong"), expected);
        assert_eq!(read(&with("data", json!({}))).expect_err("wrong"), "data: must not be empty");
        assert_eq!(read(&with("data", json!({"a\0": 1}))).expect_err("wrong"), "data: must not have names with NUL");
        assert_eq!(read(&json!([])).expect_err("wrong"), "body: must be a JSON object");
        assert!(EventBody::parse(b"{").expect_err("wrong").to_string().starts_with("body: malformed JSON: "));
    }

    #[test]
    fn lengths_are_those_of_characters() {
        for (name, most) in [("environment", 100), ("component", 100), ("message", 1000)] {
            assert!(read(&with(name, "😀".repeat(most).into())).is_ok());
            let error = read(&with(name, "ä".repeat(most + 1).into())).expect_err("too long");
            assert_eq!(error, format!("{name}: must not be longer than {most} characters"));
        }
        let long = format!("a@{}.{}", "b".repeat(63), "c".repeat(34));
        assert!(read(&with("email", long.clone().into())).is_ok());
        let error = read(&with("email", format!("{long}d").into())).expect_err("too long");
        assert_eq!(error, "email: must not be longer than 100 characters");
    }

    #[test]
    fn addresses_have_a_form() {
        for good in [
            "diego@chefhero.com",
            "a@b.co",
            "a.b+c-d_e@x-y.example.org",
            "o'neil@example.ie",
            "\"a b\\\"@\"@example.com",
            "a@localhost",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "jürgen@müller.example",
            "用户@例え.テスト",
            "1@2.xn--p1ai",
        ] {
            assert!(is_email(good), "{good}");
        }
        for bad in [
            "",
            "x",
            "@",
            "a@",
            "@b.co",
            "a b@c.de",
            "a@b",
            "a@b.c",
            "a@b..co",
            "a@.co",
            "a@b.co.",
            "a@-b.co",
            "a@b-.co",
            ".a@b.co",
            "a.@b.co",
            "a..b@c.de",
            "a@b@c.de",
            "a@b.co ",
            " a@b.co",
            "a@b.12",
            "a@[127.0.0]",
            "a@b_c.de",
            "a\n@b.co",
            "\"a@b.co",
            "\"\"@b.co",
            "\"a\"b\"@c.de",
            "Diego <diego@chefhero.com>",
            "a,b@c.de",
            "a@b.co,c@d.ef",
        ] {
            assert!(!is_email(bad), "{bad}");
        }
        assert!(!is_email(&format!("{}@b.co", "a".repeat(65))));
        assert!(!is_email(&format!("a@{}.co", "b".repeat(64))));
    }

    #[test]
    fn what_other_shapes_left_out_is_null() {
        let event =
            LogEvent { id: Uuid::nil(), number: 7, created_at: Timestamp::default(), members: Members::default() };
        let text = serde_json::to_string(&EventJson::from(&event)).expect("JSON");
        let expected = r#"{"id":"00000000-0000-0000-0000-000000000000","email":null,"environment":null,"component":null,"message":null,"data":null,"createdAt":0}"#;
        assert_eq!(text, expected);
    }

    fn anything() -> impl Strategy<Value = Json> {
        prop_oneof![
            Just(Json::Null),
            any::<i64>().prop_map(Json::from),
            any::<String>().prop_map(Json::from),
            "[a-z]{1,3}@[a-z]{1,3}\\.[a-z]{2}".prop_map(Json::from),
            prop::collection::btree_map(any::<String>(), any::<bool>(), 0..3).prop_map(|data| json!(data)),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = EventBody::parse(&bytes);
        }

        #[test]
        fn any_text_is_an_address_or_none(text: String, name: String, domain: String) {
            let _ = is_email(&text);
            let spaced = format!("{name} @{domain}");
            prop_assert!(!is_email(&spaced) || name.starts_with('"'));
        }

        #[test]
        fn what_is_accepted_reads_back(name in "email|environment|component|message|data", value in anything()) {
            let body = with(&name, value);
            if let Ok(event) = read(&body) {
                let mut shown = shown(event, 0);
                let members = shown.as_object_mut().expect("an object");
                prop_assert!(members.remove("id").is_some() && members.remove("createdAt").is_some());
                prop_assert_eq!(shown, body);
            } else {
                prop_assert!(read(&body).expect_err("wrong").starts_with(&name));
            }
        }
    }
}
