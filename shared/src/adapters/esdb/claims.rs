//! Outcomes under an `Idempotency-Key`, by claims.
//!
//! A stream named by the hash of the key takes, one behind the other, the attempts to
//! use it. An attempt says all about the event that it is for and the revision behind
//! which that belongs, or is a refusal. Only the last one counts. It is settled by
//! appending its event: the same id at the same revision is the same append whoever
//! sends it, before a crash or after it. Where another event of ours stands there,
//! neither the one who made the attempt nor anybody else can ever append it: the
//! attempt is dead, the key is free, and the next attempt is made behind it.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::append::{APPEND, Appender, unknown};
use super::node::Begin;
use crate::domain::outcome::{Fingerprint, Happened, IdempotencyKey, Kept, Outcome, Refused};
use crate::domain::stream::{ExpectedRevision, Metadata, NewEvent, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{Claim, ClaimedAppend, Direction, StoreError, done};

/// Outside the streams that are followed.
const PREFIX: &str = "claim-";
const MADE: &str = "ClaimMade";
const REFUSED: &str = "ClaimRefused";
const KEPT: &str = "ClaimKept";
/// The version of the shape of claims.
const SCHEMA: u32 = 1;

/// Keeps outcomes.
pub(super) struct Claims {
    pub(super) appender: Appender,
    ttl_micros: i64,
}

/// An attempt to append one event. When it was made is in its metadata.
#[derive(Serialize, Deserialize)]
struct Made {
    fingerprint: Hex,
    stream: String,
    /// The revision behind which the event belongs; none for a new stream.
    expected: Option<Revision>,
    outcome: Happened,
    id: Uuid,
    kind: String,
    metadata: Metadata,
    data: Box<RawValue>,
}

/// A refusal.
#[derive(Serialize, Deserialize)]
struct WasRefused {
    fingerprint: Hex,
    refused: Refused,
}

/// Any other outcome that appends nothing.
#[derive(Serialize, Deserialize)]
struct WasKept {
    fingerprint: Hex,
    outcome: Outcome,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hex([u8; 32]);

impl From<Hex> for String {
    fn from(Hex(bytes): Hex) -> Self {
        hex(&bytes)
    }
}

impl TryFrom<String> for Hex {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 32];
        let digits = text.as_bytes().chunks_exact(2);
        if text.len() != 64 || !text.is_ascii() {
            return Err("not 64 hexadecimal digits");
        }
        for (byte, two) in bytes.iter_mut().zip(digits) {
            let two = std::str::from_utf8(two).map_err(|_| "not hexadecimal")?;
            *byte = u8::from_str_radix(two, 16).map_err(|_| "not hexadecimal")?;
        }
        Ok(Self(bytes))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a key's stream comes to.
enum Standing {
    /// The next attempt goes here.
    Free(ExpectedRevision),
    Kept(Kept),
}

impl Claims {
    /// Outcomes that are kept for `ttl`.
    pub(super) fn new(appender: Appender, ttl: Duration) -> Self {
        Self { appender, ttl_micros: i64::try_from(ttl.as_micros()).unwrap_or(i64::MAX) }
    }

    /// As `Outcomes::find`.
    pub(super) async fn find(&self, key: &IdempotencyKey, now: Timestamp) -> Result<Option<Kept>, StoreError> {
        Ok(match self.standing(&stream_of(key), now).await? {
            Standing::Free(_) => None,
            Standing::Kept(kept) => Some(kept),
        })
    }

    /// As `Outcomes::append`.
    pub(super) async fn append(
        &self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
        kind: Happened,
    ) -> Result<ClaimedAppend, StoreError> {
        let events = [event];
        let attempt = Made {
            fingerprint: Hex(claim.fingerprint.0),
            stream: stream.as_str().into(),
            expected: match expected {
                ExpectedRevision::NoStream => None,
                ExpectedRevision::Exact(last) => Some(last),
            },
            outcome: kind,
            id: events[0].id,
            kind: events[0].kind.to_string(),
            metadata: events[0].metadata.clone(),
            data: serde_json::from_slice(&events[0].data).map_err(not_json)?,
        };
        let attempt = record(claim, MADE, &attempt)?;
        // Room for both, so that the second cannot be turned away after the first.
        let _places = (self.appender.place(&attempt)?, self.appender.place(&events)?);
        if let Some(kept) = self.stand(claim, &attempt).await? {
            return Ok(ClaimedAppend::Taken(kept));
        }
        match self.appender.append(stream, expected, &events).await {
            Ok(appended) => Ok(ClaimedAppend::Appended(appended)),
            Err(StoreError::Conflict) => Err(StoreError::Conflict),
            // The attempt stands: whoever finds it appends its event.
            Err(error) => Err(unknown(error.chain())),
        }
    }

    /// As `Outcomes::keep`.
    pub(super) async fn keep(&self, claim: &Claim, outcome: Outcome) -> Result<Kept, StoreError> {
        let fingerprint = Hex(claim.fingerprint.0);
        let kept = match outcome {
            Outcome::Refused(refused) => record(claim, REFUSED, &WasRefused { fingerprint, refused })?,
            outcome => record(claim, KEPT, &WasKept { fingerprint, outcome })?,
        };
        let _place = self.appender.place(&kept)?;
        let standing = self.stand(claim, &kept).await?;
        Ok(standing.unwrap_or(Kept { fingerprint: claim.fingerprint, outcome }))
    }

    /// Makes a record the last of its key's stream, or tells what is kept there.
    async fn stand(&self, claim: &Claim, record: &[NewEvent]) -> Result<Option<Kept>, StoreError> {
        let (stream, deadline) = (stream_of(&claim.key), Instant::now() + APPEND);
        // Mostly the key is new.
        let mut at = ExpectedRevision::NoStream;
        loop {
            match self.appender.append(&stream, at, record).await {
                Ok(_) => return Ok(None),
                Err(StoreError::Conflict) if Instant::now() < deadline => {}
                // Others use the key without end. A claim's conflict is not the stream's.
                Err(StoreError::Conflict) => return Err(StoreError::Busy),
                Err(error) => return Err(error),
            }
            match self.standing(&stream, claim.at).await? {
                Standing::Free(next) => at = next,
                Standing::Kept(kept) => return Ok(Some(kept)),
            }
        }
    }

    /// Settles the last attempt of a key's stream.
    async fn standing(&self, claims: &StreamId, now: Timestamp) -> Result<Standing, StoreError> {
        let last = self.appender.link.read(claims, Begin::End, Direction::Backwards, 1).await?;
        let Some(last) = last.into_iter().next() else { return Ok(Standing::Free(ExpectedRevision::NoStream)) };
        let next = ExpectedRevision::Exact(last.revision);
        let is_readable = last.event.metadata.is_readable();
        let Metadata { schema, recorded_at } = last.event.metadata;
        if is_readable && now.micros().saturating_sub(recorded_at.micros()) > self.ttl_micros {
            return Ok(Standing::Free(next));
        }
        let corrupt = |error| StoreError::corrupt(format!("the claim at position {}", last.position), error);
        match (&*last.event.kind, schema) {
            (MADE, SCHEMA) => {
                let made = serde_json::from_slice(&last.event.data).map_err(corrupt)?;
                Ok(self.settle(made).await?.map_or(Standing::Free(next), Standing::Kept))
            }
            (REFUSED, SCHEMA) => {
                let WasRefused { fingerprint, refused } = serde_json::from_slice(&last.event.data).map_err(corrupt)?;
                let fingerprint = Fingerprint(fingerprint.0);
                Ok(Standing::Kept(Kept { fingerprint, outcome: Outcome::Refused(refused) }))
            }
            (KEPT, SCHEMA) => {
                let WasKept { fingerprint, outcome } = serde_json::from_slice(&last.event.data).map_err(corrupt)?;
                Ok(Standing::Kept(Kept { fingerprint: Fingerprint(fingerprint.0), outcome }))
            }
            _ => Err(StoreError::Corrupt { what: format!("the claim at position {}", last.position), source: None }),
        }
    }

    /// Appends the event of an attempt, if that has not been done; none if it is dead.
    async fn settle(&self, made: Made) -> Result<Option<Kept>, StoreError> {
        let Made { fingerprint, stream, expected, outcome, id, kind, metadata, data } = made;
        let data = Bytes::from(Box::<str>::from(data).into_string());
        let event = [NewEvent { id, kind: kind.into(), data, metadata }];
        let _place = self.appender.place(&event)?;
        let stream = StreamId::from_stored(&stream);
        match self.appender.append(&stream, ExpectedRevision::from(expected), &event).await {
            Ok(appended) => {
                Ok(Some(Kept { fingerprint: Fingerprint(fingerprint.0), outcome: done(outcome, &appended) }))
            }
            Err(StoreError::Conflict) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn stream_of(key: &IdempotencyKey) -> StreamId {
    StreamId::from_stored(&format!("{PREFIX}{}", hex(&Sha256::digest(key.to_bytes()))))
}

fn record(claim: &Claim, kind: &'static str, what: &impl Serialize) -> Result<[NewEvent; 1], StoreError> {
    let data = serde_json::to_vec(what).map_err(not_json)?;
    let metadata = Metadata { schema: SCHEMA, recorded_at: claim.at };
    Ok([NewEvent { id: Uuid::new_v4(), kind: kind.into(), data: data.into(), metadata }])
}

fn not_json(error: serde_json::Error) -> StoreError {
    StoreError::corrupt("the data of a new event", error)
}
