//! What `Outcomes` promises.

use std::sync::Arc;

use uuid::Uuid;

use super::{event, fresh_stream, soon};
use crate::clock;
use crate::domain::outcome::{Begun, Fingerprint, Happened, IdempotencyKey, Kept, Outcome, Receipt, Refused};
use crate::domain::refusal::Refusal;
use crate::domain::stream::{ExpectedRevision, NewEvent, Position, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{Appended, Claim, ClaimedAppend, Direction, EventStore, Outcomes, StoreError};
use ExpectedRevision::{Exact, NoStream};

const RACERS: usize = 32;
/// Longer than any time to live.
const AGES: i64 = 100 * 365 * 24 * 3_600 * 1_000_000;

/// Outcomes under idempotency keys.
///
/// # Panics
/// If the store breaks a promise.
pub async fn outcomes(store: Arc<dyn EventStore>, outcomes: Arc<dyn Outcomes>) {
    let claims = Claims { store, outcomes };
    claims.a_success_is_kept_with_its_event().await;
    claims.a_refusal_is_kept().await;
    claims.a_beginning_is_kept().await;
    claims.a_taken_key_stays_taken().await;
    claims.a_conflict_leaves_the_key_free().await;
    claims.keys_and_lines_are_apart().await;
    claims.of_racing_claims_one_stands().await;
    claims.of_racing_claims_on_streams_of_their_own_one_stands().await;
    claims.of_racing_refusals_one_stands().await;
    claims.an_outcome_has_its_time().await;
}

#[derive(Clone)]
struct Claims {
    store: Arc<dyn EventStore>,
    outcomes: Arc<dyn Outcomes>,
}

fn fresh() -> IdempotencyKey {
    IdempotencyKey::parse(&format!("~!{}", Uuid::new_v4())).expect("visible")
}

fn claim(key: &IdempotencyKey, print: u8) -> Claim {
    Claim { key: key.clone(), fingerprint: Fingerprint([print; 32]), at: clock::now() }
}

fn later() -> Timestamp {
    Timestamp::from_micros(clock::now().micros() + AGES)
}

fn kept(print: u8, kind: Happened, appended: &Appended) -> Kept {
    let receipt = Receipt { event: kind, revision: appended.first, position: appended.positions[0] };
    Kept { fingerprint: Fingerprint([print; 32]), outcome: Outcome::Done(receipt) }
}

fn refused(print: u8, refused: Refused) -> Kept {
    Kept { fingerprint: Fingerprint([print; 32]), outcome: Outcome::Refused(refused) }
}

const REFUSALS: [Refusal; 5] =
    [Refusal::KeyExists, Refusal::KeyNotFound, Refusal::NotMatched, Refusal::Matched, Refusal::EventNotFound];
const NOT_FOUND: Refused = Refused { refusal: Refusal::KeyNotFound, position: None };

impl Claims {
    async fn find(&self, key: &IdempotencyKey) -> Option<Kept> {
        self.find_at(key, clock::now()).await
    }

    async fn find_at(&self, key: &IdempotencyKey, now: Timestamp) -> Option<Kept> {
        soon("an outcome", self.outcomes.find(key, now)).await.expect("outcomes can be found")
    }

    async fn try_append(
        &self,
        claim: &Claim,
        stream: &StreamId,
        expected: ExpectedRevision,
        event: NewEvent,
    ) -> Result<ClaimedAppend, StoreError> {
        let append = self.outcomes.append(claim, stream, expected, event, Happened::Updated);
        soon("an append under a key", append).await
    }

    async fn append(&self, claim: &Claim, stream: &StreamId, expected: ExpectedRevision) -> Appended {
        match self.try_append(claim, stream, expected, event("claimed")).await {
            Ok(ClaimedAppend::Appended(appended)) => appended,
            other => panic!("an append under a free key came to {other:?}"),
        }
    }

    async fn taken(&self, claim: &Claim, stream: &StreamId, expected: ExpectedRevision) -> Kept {
        match self.try_append(claim, stream, expected, event("too late")).await {
            Ok(ClaimedAppend::Taken(kept)) => kept,
            other => panic!("an append under a taken key came to {other:?}"),
        }
    }

    async fn refuse(&self, claim: &Claim, why: Refused) -> Kept {
        soon("a refusal", self.outcomes.keep(claim, Outcome::Refused(why))).await.expect("a refusal is kept")
    }

    async fn length(&self, stream: &StreamId) -> usize {
        self.store.read(stream, Revision::FIRST, Direction::Forwards, 1_000).await.expect("read").len()
    }

    async fn a_success_is_kept_with_its_event(&self) {
        let (key, stream) = (fresh(), fresh_stream());
        assert_eq!(self.find(&key).await, None, "nothing is kept under a new key");
        let new = event("claimed");
        let made = claim(&key, 1);
        let append = self.outcomes.append(&made, &stream, NoStream, new.clone(), Happened::Created);
        let Ok(ClaimedAppend::Appended(appended)) = append.await else { panic!("a free key takes an append") };
        assert_eq!((appended.first, appended.positions.len()), (Revision::FIRST, 1), "one event was appended");
        let last = self.store.last(&stream).await.expect("read").expect("the event is there");
        assert_eq!((last.position, last.event), (appended.positions[0], new), "the event stands where it was said");
        assert_eq!(self.find(&key).await, Some(kept(1, Happened::Created, &appended)), "the kept outcome");

        let (second, third) = (fresh(), fresh());
        let appended = self.append(&claim(&second, 2), &stream, Exact(Revision(0))).await;
        assert_eq!(self.find(&second).await, Some(kept(2, Happened::Updated, &appended)));
        let made = claim(&third, 3);
        let append = self.outcomes.append(&made, &stream, Exact(Revision(1)), event(""), Happened::Deleted);
        let Ok(ClaimedAppend::Appended(appended)) = append.await else { panic!("a free key takes an append") };
        assert_eq!(self.find(&third).await, Some(kept(3, Happened::Deleted, &appended)));
    }

    async fn a_refusal_is_kept(&self) {
        let position = Some(Position(12_345));
        for (print, refusal) in (0..).zip(REFUSALS) {
            for position in [None, position] {
                let (key, why) = (fresh(), Refused { refusal, position });
                assert_eq!(self.refuse(&claim(&key, print), why).await, refused(print, why), "a first refusal stands");
                assert_eq!(self.find(&key).await, Some(refused(print, why)), "a refusal is kept");
                let other = Refused { refusal: Refusal::Matched, position: None };
                assert_eq!(self.refuse(&claim(&key, 99), other).await, refused(print, why), "and stays");
            }
        }
    }

    async fn a_beginning_is_kept(&self) {
        let begun = |seed: u128| {
            let at = Timestamp::from_micros(1_700_000_000_000_001);
            Outcome::Begun(Begun { seed: Uuid::from_u128(seed), at, rejected: seed % 2 == 1 })
        };
        for seed in [u128::MAX, 2] {
            let key = fresh();
            let kept = Kept { fingerprint: Fingerprint([1; 32]), outcome: begun(seed) };
            let keep = |print, seed| {
                let (claim, outcome) = (claim(&key, print), begun(seed));
                async move { self.outcomes.keep(&claim, outcome).await.expect("a beginning is kept") }
            };
            assert_eq!(keep(1, seed).await, kept, "a first beginning stands");
            assert_eq!(self.find(&key).await, Some(kept), "a beginning is kept");
            assert_eq!(keep(1, 7).await, kept, "and stays, for the same request");
            assert_eq!(keep(2, 7).await, kept, "and for others");
            assert_eq!(self.refuse(&claim(&key, 3), NOT_FOUND).await, kept, "a refusal does not replace it");
            let stream = fresh_stream();
            assert_eq!(self.taken(&claim(&key, 1), &stream, NoStream).await, kept, "and nothing is appended under it");
            assert_eq!(self.length(&stream).await, 0);
        }
    }

    async fn a_taken_key_stays_taken(&self) {
        let (key, stream, other) = (fresh(), fresh_stream(), fresh_stream());
        let appended = self.append(&claim(&key, 1), &stream, NoStream).await;
        let stands = kept(1, Happened::Updated, &appended);
        for print in [1, 2] {
            let late = claim(&key, print);
            assert_eq!(self.taken(&late, &stream, Exact(Revision(0))).await, stands, "the same stream");
            assert_eq!(self.taken(&late, &stream, NoStream).await, stands, "the same stream at an old revision");
            assert_eq!(self.taken(&late, &other, NoStream).await, stands, "another stream");
            assert_eq!(self.refuse(&late, NOT_FOUND).await, stands, "a refusal");
        }
        assert_eq!(self.find(&key).await, Some(stands));
        assert_eq!((self.length(&stream).await, self.length(&other).await), (1, 0), "a taken key appends nothing");

        let (key, stream) = (fresh(), fresh_stream());
        self.refuse(&claim(&key, 1), NOT_FOUND).await;
        assert_eq!(self.taken(&claim(&key, 2), &stream, NoStream).await, refused(1, NOT_FOUND), "taken by a refusal");
        assert_eq!(self.length(&stream).await, 0, "a key taken by a refusal appends nothing");
    }

    async fn a_conflict_leaves_the_key_free(&self) {
        let (key, stream) = (fresh(), fresh_stream());
        self.append(&claim(&fresh(), 0), &stream, NoStream).await;
        for expected in [NoStream, Exact(Revision(7))] {
            let conflict = self.try_append(&claim(&key, 1), &stream, expected, event("stale")).await;
            assert!(matches!(conflict, Err(StoreError::Conflict)), "at {expected:?}: {conflict:?}");
            assert_eq!(self.find(&key).await, None, "a conflict keeps nothing");
        }
        assert_eq!(self.length(&stream).await, 1, "a conflict appends nothing");
        let appended = self.append(&claim(&key, 2), &stream, Exact(Revision(0))).await;
        assert_eq!(self.find(&key).await, Some(kept(2, Happened::Updated, &appended)), "the key was free");

        let key = fresh();
        let conflict = self.try_append(&claim(&key, 1), &stream, NoStream, event("stale")).await;
        assert!(matches!(conflict, Err(StoreError::Conflict)), "{conflict:?}");
        assert_eq!(self.refuse(&claim(&key, 3), NOT_FOUND).await, refused(3, NOT_FOUND), "the key was free");
    }

    async fn keys_and_lines_are_apart(&self) {
        let whole = fresh();
        let longer = IdempotencyKey::parse(&format!("{}0", Uuid::new_v4())).expect("visible");
        let keys = [whole.clone(), whole.of_line(0), whole.of_line(1), whole.of_line(256), longer.of_line(0), longer];
        for (print, key) in (0..).zip(&keys) {
            assert_eq!(self.find(key).await, None, "{key:?} is free while others are taken");
            if print % 2 == 0 {
                let appended = self.append(&claim(key, print), &fresh_stream(), NoStream).await;
                assert_eq!(self.find(key).await, Some(kept(print, Happened::Updated, &appended)));
            } else {
                self.refuse(&claim(key, print), NOT_FOUND).await;
            }
        }
        for (print, key) in (0..).zip(&keys) {
            let found = self.find(key).await.map(|kept| kept.fingerprint);
            assert_eq!(found, Some(Fingerprint([print; 32])), "{key:?} keeps its own");
        }
    }

    async fn of_racing_claims_one_stands(&self) {
        let (key, stream) = (fresh(), fresh_stream());
        let streams = vec![stream.clone(); RACERS];
        let stands = self.race(&key, streams).await;
        assert_eq!(self.length(&stream).await, 1, "racing claims append one event");
        assert_eq!(self.find(&key).await, Some(stands), "the outcome of the winner stands");
    }

    async fn of_racing_claims_on_streams_of_their_own_one_stands(&self) {
        let key = fresh();
        let streams: Vec<_> = (0..RACERS).map(|_| fresh_stream()).collect();
        let stands = self.race(&key, streams.clone()).await;
        assert_eq!(self.find(&key).await, Some(stands), "the outcome of the winner stands");
        let mut events = 0;
        for stream in &streams {
            events += self.length(stream).await;
        }
        assert_eq!(events, 1, "racing claims append one event");
    }

    /// Claims a key once for each stream, at once; gives what stands.
    async fn race(&self, key: &IdempotencyKey, streams: Vec<StreamId>) -> Kept {
        let racers: Vec<_> = (0..)
            .zip(streams)
            .map(|(print, stream)| {
                let (claims, claim) = (self.clone(), claim(key, print));
                tokio::spawn(async move {
                    let claimed = claims.try_append(&claim, &stream, NoStream, event("race")).await;
                    (print, claimed.expect("a racing claim is answered"))
                })
            })
            .collect();
        let (mut won, mut told) = (Vec::new(), Vec::new());
        for racer in racers {
            match racer.await.expect("a racer ends") {
                (print, ClaimedAppend::Appended(appended)) => {
                    won.push(kept(print, Happened::Updated, &appended));
                }
                (_, ClaimedAppend::Taken(kept)) => told.push(kept),
            }
        }
        assert_eq!(won.len(), 1, "of racing claims exactly one appends");
        assert!(told.iter().all(|kept| *kept == won[0]), "the others are told its outcome: {told:?}, not {won:?}");
        won[0]
    }

    async fn of_racing_refusals_one_stands(&self) {
        let key = fresh();
        let racers: Vec<_> = (0..)
            .take(RACERS)
            .map(|print| {
                let (claims, claim) = (self.clone(), claim(&key, print));
                tokio::spawn(async move { claims.refuse(&claim, NOT_FOUND).await })
            })
            .collect();
        let mut told = Vec::new();
        for racer in racers {
            told.push(racer.await.expect("a racer ends"));
        }
        assert!(told.iter().all(|kept| *kept == told[0]), "of racing refusals one stands");
        assert_eq!(self.find(&key).await, Some(told[0]));
    }

    async fn an_outcome_has_its_time(&self) {
        let (appended, refusal, stream) = (fresh(), fresh(), fresh_stream());
        self.append(&claim(&appended, 1), &stream, NoStream).await;
        self.refuse(&claim(&refusal, 1), NOT_FOUND).await;
        for key in [&appended, &refusal] {
            assert!(self.find(key).await.is_some(), "an outcome is kept for its time");
            assert_eq!(self.find_at(key, later()).await, None, "and not longer");
        }
        let at = later();
        let again = Claim { at, ..claim(&appended, 2) };
        let new = self.append(&again, &stream, Exact(Revision(0))).await;
        let renewed = kept(2, Happened::Updated, &new);
        assert_eq!(self.find_at(&appended, at).await, Some(renewed), "then the key is free again");
        assert_eq!(self.taken(&again, &stream, Exact(Revision(1))).await, renewed, "and taken again");
        let again = Claim { at, ..claim(&refusal, 2) };
        let why = Refused { refusal: Refusal::Matched, position: None };
        assert_eq!(self.refuse(&again, why).await, refused(2, why), "then the key is free again");
        assert_eq!(self.find_at(&refusal, at).await, Some(refused(2, why)));
    }
}
