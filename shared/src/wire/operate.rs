//! The shapes of what operators see and ask: parked streams, replays and rebuilds.

use serde::Serialize;
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::answers::BadBody;
use super::time::shortest;
use crate::domain::projection::Parked;
use crate::domain::stream::{Position, StreamId};
use crate::domain::time::Timestamp;

/// A stream that the views do not follow any more.
#[derive(Serialize, ToSchema)]
#[schema(as = ParkedStream)]
pub struct ParkedJson<'a> {
    #[schema(example = "answer-name")]
    pub stream: &'a str,
    /// Of the first event that cannot be projected.
    pub revision: u64,
    /// Of the same event.
    pub position: u64,
    /// Why it cannot be.
    pub error: &'a str,
    /// When that was found.
    #[schema(format = DateTime)]
    pub since: String,
}

impl<'a> From<&'a Parked> for ParkedJson<'a> {
    fn from(parked: &'a Parked) -> Self {
        let Parked { stream, revision, position, error, since, .. } = parked;
        Self { stream: stream.as_str(), revision: revision.0, position: position.0, error, since: shortest(*since) }
    }
}

/// A page of parked streams.
#[derive(Serialize, ToSchema)]
#[schema(as = ParkedPage)]
pub struct ParkedPageJson<'a> {
    pub parked: Vec<ParkedJson<'a>>,
    pub next: Option<String>,
}

/// Which parked streams to read again.
#[derive(Debug, PartialEq, Eq, ToSchema)]
#[schema(example = json!({"stream": "answer-name"}))]
pub struct ReplayBody {
    /// Without it, all of them.
    #[schema(value_type = String, required = false, nullable = false, min_length = 1)]
    pub stream: Option<StreamId>,
}

impl ReplayBody {
    /// Reads a body; an empty one means all. A name that is misspelt must not mean that,
    /// too, so that other members are refused.
    ///
    /// # Errors
    /// If it is no JSON object, or has anything but a stream's name.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadBody> {
        let mut stream = None;
        for (name, value) in members(bytes)? {
            match (name.as_str(), value) {
                ("stream", Json::String(name)) if !name.is_empty() => stream = Some(StreamId::from_stored(&name)),
                ("stream", _) => return Err(BadBody::field("stream", "must be the name of a stream")),
                _ => return Err(unknown(&name)),
            }
        }
        Ok(Self { stream })
    }
}

/// Reads a body that has nothing to say.
///
/// # Errors
/// If it is no JSON object, or has any member.
pub fn parse_nothing(bytes: &[u8]) -> Result<(), BadBody> {
    members(bytes)?.keys().next().map_or(Ok(()), |name| Err(unknown(name)))
}

fn members(bytes: &[u8]) -> Result<serde_json::Map<String, Json>, BadBody> {
    if bytes.trim_ascii().is_empty() {
        return Ok(serde_json::Map::new());
    }
    match serde_json::from_slice(bytes) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(BadBody::NoObject),
        Err(error) => Err(BadBody::Json(error.to_string())),
    }
}

fn unknown(name: &str) -> BadBody {
    let name: String = name.chars().take(64).collect();
    BadBody::field("body", format!("{name:?} is no member here"))
}

/// How many streams are read again.
#[derive(Serialize, ToSchema)]
#[schema(as = Replay)]
pub struct ReplayJson {
    pub streams: u64,
}

/// A rebuild that has been asked for.
#[derive(Serialize, ToSchema)]
#[schema(as = RebuildAsked)]
pub struct RebuildAskedJson {
    #[schema(inline)]
    pub state: RebuildWord,
    #[schema(format = DateTime)]
    pub started_at: String,
}

impl RebuildAskedJson {
    /// One that was asked for at this time.
    pub fn at(now: Timestamp) -> Self {
        Self { state: RebuildWord::Running, started_at: shortest(now) }
    }
}

/// Whether a rebuild is asked for or under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RebuildWord {
    Idle,
    Running,
}

/// How the rebuild goes, or the last one went.
#[derive(Serialize, ToSchema)]
#[schema(as = Rebuild)]
pub struct RebuildJson {
    #[schema(inline)]
    pub state: RebuildWord,
    /// The position up to which the new views are; of the last rebuild where it ended.
    pub done: u64,
    /// The position up to which they have to come.
    pub total: u64,
    /// When the rebuild that runs, or the last one, was asked for.
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it was done.
    #[schema(format = DateTime)]
    pub finished_at: Option<String>,
}

impl RebuildJson {
    /// How a rebuild goes, from `done` to `total`.
    pub fn new(
        is_running: bool,
        (done, total): (Position, Position),
        started_at: Option<Timestamp>,
        finished_at: Option<Timestamp>,
    ) -> Self {
        Self {
            state: if is_running { RebuildWord::Running } else { RebuildWord::Idle },
            done: done.0,
            total: total.0,
            started_at: started_at.map(shortest),
            finished_at: finished_at.map(shortest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(body: &str) -> Result<Option<String>, String> {
        let body = ReplayBody::parse(body.as_bytes()).map_err(|error| error.to_string())?;
        Ok(body.stream.map(|stream| stream.as_str().to_owned()))
    }

    #[test]
    fn a_replay_is_of_one_stream_or_all() {
        assert_eq!(stream(r#"{"stream":"answer-a\u0000ä"}"#), Ok(Some("answer-a\0ä".into())));
        for all in ["", " \n", "{}"] {
            assert_eq!(stream(all), Ok(None), "{all}");
        }
        for (bad, why) in [
            (r#"{"stream":""}"#, "stream: must be the name of a stream"),
            (r#"{"stream":null}"#, "stream: must be the name of a stream"),
            (r#"{"stream":["a"]}"#, "stream: must be the name of a stream"),
            (r#"{"steam":"a"}"#, r#"body: "steam" is no member here"#),
            ("[]", "body: must be a JSON object"),
            ("null", "body: must be a JSON object"),
        ] {
            assert_eq!(stream(bad), Err(why.into()), "{bad}");
        }
        assert!(stream("{").expect_err("cut off").starts_with("body: malformed JSON"));
        assert_eq!(parse_nothing(b"{}"), Ok(()));
        assert!(parse_nothing(br#"{"stream":"a"}"#).is_err());
    }
}
