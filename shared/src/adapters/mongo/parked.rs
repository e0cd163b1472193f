//! Parked streams: an array in the meta document, which moves with the checkpoint.
//!
//! Names of streams hold what clients sent. They are only ever values here, never part of
//! a pipeline, so that nothing in them can act as an operator.

use futures::TryStreamExt;
use mongodb::action::Action;
use mongodb::bson::{Document, doc};
use mongodb::options::ReturnDocument;
use mongodb::{Collection, Database};
use serde::Deserialize;

use super::connection::{READ, WRITE, failed, in_time, within};
use super::lease::Known;
use super::meta::{self, ID, signed, unsigned};
use crate::domain::projection::{Change, LogChange, Parked};
use crate::domain::stream::{Position, Revision, StreamId};
use crate::domain::time::Timestamp;
use crate::ports::{Page, ParkedQuery, Replayed, StoreError};

/// Bytes of a name and an error together: the document must hold `PARKED_MAX` entries of
/// the live generation and as many of the next one, and 16 MiB is its limit. Only errors
/// of streams with very long names are cut.
const TEXT_BYTES: usize = 720;

/// An entry as it is stored.
#[derive(Deserialize)]
struct Entry {
    stream: String,
    revision: i64,
    position: i64,
    error: String,
    since: i64,
    replay: bool,
}

impl From<Entry> for Parked {
    fn from(entry: Entry) -> Self {
        let Entry { stream, revision, position, error, since, replay } = entry;
        Self {
            stream: StreamId::from_stored(&stream),
            revision: Revision(unsigned(revision)),
            position: Position(unsigned(position)),
            error,
            since: Timestamp::from_micros(since),
            replay,
        }
    }
}

/// An entry as it is stored.
pub(super) fn entry(parked: &Parked) -> Document {
    let Parked { stream, revision, position, error, since, replay } = parked;
    let room = TEXT_BYTES.saturating_sub(stream.as_str().len()).min(error.len());
    let end = (0..=room).rev().find(|end| error.is_char_boundary(*end)).unwrap_or(0);
    doc! {
        "stream": stream.as_str(),
        "revision": signed(revision.0),
        "position": signed(position.0),
        "error": &error[..end],
        "since": since.micros(),
        "replay": *replay,
    }
}

/// By how much a replay changes the number of log events. A stream that was parked behind
/// its recording has a row that is live: nothing follows a deletion.
pub(super) fn growth(replayed: &Replayed) -> i64 {
    match &replayed.change {
        Some(Change::Log(LogChange::Event(change))) => {
            let was_live = replayed.was.position.0 > change.number;
            i64::from(change.event.is_some()) - i64::from(was_live)
        }
        _ => 0,
    }
}

#[derive(Default, Deserialize)]
struct Holder {
    #[serde(default)]
    parked: Vec<Entry>,
    next: Option<NextHolder>,
}

#[derive(Deserialize)]
struct NextHolder {
    #[serde(default)]
    parked: Vec<Entry>,
}

/// All that are parked in a generation; none if it is not where it was left.
pub(super) async fn all(database: &Database, known: Known<'_>) -> Result<Option<Vec<Parked>>, StoreError> {
    let holders = holders(database);
    let found = holders.find_one(known.filter()).projection(doc! { known.field("parked"): 1 });
    let entries = within(READ, found).await?.map(|found| found.next.map_or(found.parked, |next| next.parked));
    Ok(entries.map(|entries| entries.into_iter().map(Parked::from).collect()))
}

/// The entry of a stream in the views that are shown.
pub(super) async fn find(database: &Database, views: &str, stream: &StreamId) -> Result<Option<Parked>, StoreError> {
    let one = doc! { "parked": { "$elemMatch": { "stream": stream.as_str() } } };
    let holders = holders(database);
    let found = holders.find_one(doc! { "_id": ID, "views": views }).projection(one);
    Ok(within(READ, found).await?.and_then(|found| found.parked.into_iter().next()).map(Parked::from))
}

/// Entries in the order of their names' bytes.
pub(super) async fn page(database: &Database, views: &str, query: &ParkedQuery) -> Result<Page<Parked>, StoreError> {
    let after = query.after.as_ref().map_or("", StreamId::as_str);
    let pipeline = [
        doc! { "$match": { "_id": ID, "views": views } },
        doc! { "$unwind": "$parked" },
        doc! { "$replaceRoot": { "newRoot": "$parked" } },
        // This is a condition, and no expression.
        doc! { "$match": { "stream": { "$gt": after } } },
        doc! { "$sort": { "stream": 1 } },
        doc! { "$limit": i64::try_from(query.limit).unwrap_or(i64::MAX).saturating_add(1) },
    ];
    let listed = async {
        let found = meta::collection(database).aggregate(pipeline).with_type::<Entry>().await.map_err(failed)?;
        found.map_ok(Parked::from).try_collect::<Vec<_>>().await.map_err(failed)
    };
    let mut found = in_time(READ, listed).await?;
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    Ok(Page { found, more })
}

/// Notes that a stream, or all, are to be read again; gives how many that are.
pub(super) async fn ask(database: &Database, views: &str, stream: Option<&StreamId>) -> Result<u64, StoreError> {
    let (of_stream, each) = match stream {
        Some(stream) => (doc! { "parked.stream": stream.as_str() }, vec![doc! { "each.stream": stream.as_str() }]),
        None => (doc! { "parked_count": { "$gt": 0 } }, vec![doc! { "each.replay": false }]),
    };
    // What a rebuild has parked already takes the request with it when it is the live one.
    for with_next in [true, false, true] {
        let mut filter = doc! { "_id": ID, "views": views, "next": { "$exists": with_next } };
        filter.extend(of_stream.clone());
        let mut flags = doc! { "parked.$[each].replay": true };
        if with_next {
            flags.insert("next.parked.$[each].replay", true);
        }
        let collection = meta::collection(database);
        let ask = collection
            .find_one_and_update(filter, doc! { "$set": flags, "$inc": { "asked": 1_i64 } })
            .array_filters(each.clone())
            .projection(meta::without_parked())
            .return_document(ReturnDocument::After);
        if let Some(meta) = within(WRITE, ask).await? {
            return Ok(if stream.is_some() { 1 } else { meta.parked() });
        }
    }
    Ok(0)
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    Done,
    /// And the next generation is to be begun anew: it had parked the stream too.
    Anew,
    /// It was not there as it was believed to be.
    Elsewhere,
}

/// The document while the live generation is where it was left, and the entry is there.
pub(super) fn as_left(live: Known<'_>, was: &Parked) -> Document {
    let Parked { stream, revision, position, .. } = was;
    let of_entry = doc! { "stream": stream.as_str(), "revision": signed(revision.0), "position": signed(position.0) };
    let mut filter = live.filter();
    filter.insert("parked", doc! { "$elemMatch": of_entry });
    filter
}

/// Removes or replaces an entry whose stream was read again, and counts its log event.
pub(super) async fn settle(database: &Database, as_left: Document, replayed: &Replayed) -> Result<Settled, StoreError> {
    let stream = replayed.was.stream.as_str();
    let mut counts = doc! { "events": growth(replayed) };
    let mut update = match &replayed.still {
        Some(still) => doc! { "$set": { "parked.$[each]": entry(still) } },
        None => {
            counts.insert("parked_count", -1_i64);
            doc! { "$pull": { "parked": { "stream": stream } } }
        }
    };
    update.insert("$inc", counts);
    let each = replayed.still.is_some().then(|| vec![doc! { "each.stream": stream }]);
    let collection = meta::collection(database);
    let settle = async |filter: Document, update: Document| {
        let settle =
            collection.update_one(filter, update).optional(each.clone(), |settle, each| settle.array_filters(each));
        Ok::<_, StoreError>(within(WRITE, settle).await?.matched_count == 1)
    };
    if replayed.still.is_some() && replayed.change.is_none() {
        return Ok(if settle(as_left, update).await? { Settled::Done } else { Settled::Elsewhere });
    }
    let mut alone = as_left.clone();
    alone.insert("next.parked.stream", doc! { "$ne": stream });
    if settle(alone, update.clone()).await? {
        return Ok(Settled::Done);
    }
    // The next generation would take back what readers see from now on.
    update.insert("$unset", doc! { "next": "" });
    Ok(if settle(as_left, update).await? { Settled::Anew } else { Settled::Elsewhere })
}

fn holders(database: &Database) -> Collection<Holder> {
    meta::collection(database).clone_with_type()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::answer::Key;
    use crate::ports::PARKED_MAX;

    /// What a document can be at most, and what there is beside the entries.
    const DOCUMENT: usize = 16 * 1024 * 1024;
    const BESIDE: usize = 16 * 1024;

    fn parked(key: &str, error: String) -> Parked {
        let stream = StreamId::of_answer(&Key::from_stored(key));
        let (revision, position) = (Revision(u64::MAX), Position::MAX);
        Parked { stream, revision, position, error, since: Timestamp::from_micros(i64::MAX), replay: true }
    }

    #[test]
    fn two_generations_with_all_that_can_be_parked_fit_in_a_document() {
        let largest = parked(&"k".repeat(512), "x".repeat(300));
        // Each has its place in the array as its name.
        let entry = entry(&largest).to_vec().expect("a document").len() + 2 + PARKED_MAX.to_string().len();
        assert!(2 * PARKED_MAX * entry + BESIDE <= DOCUMENT, "{entry} bytes each");
    }

    #[test]
    fn errors_are_cut_beside_very_long_names_only() {
        let stored = |key: &str| entry(&parked(key, "ß".repeat(150))).get_str("error").expect("a text").to_owned();
        assert_eq!(stored(&"k".repeat(400)).len(), 300);
        let cut = stored(&"k".repeat(512));
        assert!((199..=201).contains(&cut.len()) && cut.chars().all(|c| c == 'ß'), "{cut}");
        assert_eq!(stored(&"k".repeat(5_000)), "");
    }
}
