//! The rows of log events.
//!
//! A row has the members, its `data` and `ce` as JSON text, so that they are given back
//! as they came, and a copy of the data for queries (`copy`). A deleted event keeps its
//! number and position alone; the indexes of those that are live do not hold it.

use std::sync::Arc;

use futures::TryStreamExt;
use mongodb::bson::raw::{RawDocumentBuf, cstr};
use mongodb::bson::{Bson, Document, doc, rawdoc};
use mongodb::options::IndexOptions;
use mongodb::{Collection, Database, IndexModel};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::condition::{COPY, Compiled, Condition, all, compile};
use super::copy;
use crate::adapters::PAGE_BYTES;
use crate::adapters::mongo::connection::{LIST, READ, WRITE, failed, in_time, within};
use crate::adapters::mongo::meta::{signed, unsigned};
use crate::adapters::mongo::write::Put;
use crate::domain::filter::Filter;
use crate::domain::log_event::{LogEvent, Members};
use crate::domain::projection::EventChange;
use crate::domain::stream::{Position, Revision};
use crate::domain::time::Timestamp;
use crate::ports::{EventsPage, EventsQuery, From, Order, Record, Seen, SortKey, Sorted, StoreError, Ties};

/// A row as it is read: without the copy of the data.
#[derive(Deserialize)]
pub(super) struct Stored {
    #[serde(rename = "_id")]
    id: String,
    number: i64,
    revision: i64,
    position: i64,
    /// None: deleted.
    timestamp: Option<i64>,
    created_at: Option<i64>,
    name: Option<String>,
    category: Option<String>,
    component: Option<String>,
    environment: Option<String>,
    message: Option<String>,
    email: Option<String>,
    customer_id: Option<i64>,
    session_id: Option<String>,
    source: Option<String>,
    data: Option<String>,
    ce: Option<String>,
}

/// What is not as this adapter writes it.
#[derive(Debug, thiserror::Error)]
enum BadRow {
    #[error("an id is no UUID")]
    Id(#[from] uuid::Error),
    #[error("a text is no JSON object")]
    Json(#[from] serde_json::Error),
}

impl Stored {
    fn size(&self) -> usize {
        let Self { name, category, component, environment, message, email, source, data, ce, .. } = self;
        let texts = [name, category, component, environment, message, email, source, data, ce];
        200 + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }

    pub(super) fn change(self) -> Result<EventChange, StoreError> {
        let position = self.position;
        self.read().map_err(|error| StoreError::corrupt(format!("the row of the event at position {position}"), error))
    }

    fn read(self) -> Result<EventChange, BadRow> {
        let id = Uuid::try_parse(&self.id)?;
        let number = unsigned(self.number);
        let (revision, position) = (Revision(unsigned(self.revision)), Position(unsigned(self.position)));
        let object =
            |text: Option<String>| text.map(|text| serde_json::from_str::<Map<String, Json>>(&text)).transpose();
        let event = match self.timestamp {
            None => None,
            Some(timestamp) => Some(Arc::new(LogEvent {
                id,
                number,
                created_at: Timestamp::from_micros(self.created_at.unwrap_or_default()),
                members: Members {
                    timestamp: Timestamp::from_micros(timestamp),
                    name: self.name,
                    category: self.category,
                    component: self.component,
                    environment: self.environment,
                    message: self.message,
                    email: self.email,
                    customer_id: self.customer_id,
                    session_id: self.session_id.as_deref().map(Uuid::try_parse).transpose()?,
                    source: self.source,
                    data: object(self.data)?,
                    ce: object(self.ce)?,
                },
            })),
        };
        Ok(EventChange { id, number, event, revision, position })
    }
}

/// The event that a change leaves.
pub(super) fn record(change: EventChange) -> Option<Record> {
    Some(Record { event: change.event?, revision: change.revision, position: change.position })
}

/// What holds for every row but those of deleted events. The indexes are partial by it.
pub(super) fn live() -> Document {
    doc! { "timestamp": { "$gte": i64::MIN } }
}

/// Makes the indexes: of the sorts, and of the filters in the order that is usual.
pub(super) async fn prepare(database: &Database, rows: &str) -> Result<(), StoreError> {
    let filtered = ["name", "category", "component", "environment", "email", "customer_id", "session_id"];
    let filtered = filtered.map(|field| doc! { field: 1, "timestamp": 1, "_id": 1 });
    let sorted = ["timestamp", "created_at", "name", "category"].map(|field| doc! { field: 1, "_id": 1 });
    // Clients that count pages want ties by number, some in one direction only.
    let numbered = ["timestamp", "name"].map(|field| [1, -1].map(|way| doc! { field: way, "number": 1 }));
    let of_live =
        sorted.into_iter().chain(filtered).chain(numbered.into_iter().flatten()).chain([doc! { "number": 1 }]);
    let partial = IndexOptions::builder().partial_filter_expression(live()).build();
    let of_live = of_live.map(|keys| IndexModel::builder().keys(keys).options(partial.clone()).build());
    let of_all = IndexModel::builder().keys(doc! { "position": 1 }).build();
    let indexes = of_live.chain([of_all]);
    within(WRITE, database.collection::<Document>(rows).create_indexes(indexes)).await.map(drop)
}

/// The row of a change.
pub(super) fn put(change: &EventChange) -> Put {
    let id = change.id.hyphenated().to_string();
    let (number, position) = (signed(change.number), signed(change.position.0));
    let revision = signed(change.revision.0);
    let mut document = rawdoc! { "_id": &*id, "number": number, "revision": revision, "position": position };
    if let Some(event) = &change.event {
        append(&mut document, event);
    }
    Put { id, position, is_new: number == position, document }
}

fn append(row: &mut RawDocumentBuf, event: &LogEvent) {
    // A member more must get a place here.
    let Members {
        timestamp,
        name,
        category,
        component,
        environment,
        message,
        email,
        customer_id,
        session_id,
        source,
        data,
        ce,
    } = &event.members;
    row.append(cstr!("timestamp"), timestamp.micros());
    row.append(cstr!("created_at"), event.created_at.micros());
    for (field, text) in [
        (cstr!("name"), name),
        (cstr!("category"), category),
        (cstr!("component"), component),
        (cstr!("environment"), environment),
        (cstr!("message"), message),
        (cstr!("email"), email),
        (cstr!("source"), source),
    ] {
        if let Some(text) = text {
            row.append(field, text.as_str());
        }
    }
    if let Some(customer_id) = customer_id {
        row.append(cstr!("customer_id"), *customer_id);
    }
    if let Some(session_id) = session_id {
        row.append(cstr!("session_id"), session_id.hyphenated().to_string());
    }
    let text = |object| serde_json::to_string(object).expect("JSON is always JSON");
    if let Some(data) = data {
        row.append(cstr!("data"), text(data));
        row.append(cstr!("d"), copy::of(data));
    }
    if let Some(ce) = ce {
        row.append(cstr!("ce"), text(ce));
    }
}

/// The row of an event, deleted or not.
pub(super) async fn find(database: &Database, rows: &str, id: Uuid) -> Result<Option<EventChange>, StoreError> {
    let rows: Collection<Stored> = database.collection(rows);
    let of_id = doc! { "_id": id.hyphenated().to_string() };
    let found = within(READ, rows.find_one(of_id).projection(without_copy())).await?;
    found.map(Stored::change).transpose()
}

/// The event with this integer id.
pub(super) async fn numbered(database: &Database, rows: &str, number: u64) -> Result<Seen<Option<Record>>, StoreError> {
    let rows: Collection<Stored> = database.collection(rows);
    let mut of_number = live();
    of_number.insert("number", signed(number));
    let found = within(READ, rows.find_one(of_number).projection(without_copy())).await?;
    let found = found.map(Stored::change).transpose()?;
    let position = found.as_ref().map_or(Position::START, |change| change.position);
    Ok(Seen { found: found.and_then(record), position })
}

fn without_copy() -> Document {
    doc! { COPY: 0 }
}

/// What a filter asks of the rows of live events; none where it holds for none.
pub(super) fn matching(compiled: &Compiled, and: Document) -> Option<Document> {
    let parts = vec![Condition::Match(live()), compiled.condition.clone(), Condition::Match(and)];
    let parts = parts.into_iter().filter(|part| !matches!(part, Condition::Match(part) if part.is_empty()));
    match all(parts.collect()) {
        Condition::Match(condition) => Some(condition),
        Condition::Always => Some(Document::new()),
        Condition::Never => None,
    }
}

/// The parts of an order that a page comes from, one behind the other. Each is one
/// range of an index: behind a place come those that are sorted alike, then the rest.
fn parts(order: Order, from: &From) -> Vec<Document> {
    let From::Behind(place) = from else { return vec![Document::new()] };
    let field = field_of(order.by);
    let beyond = |descending| if descending { "$lt" } else { "$gt" };
    let (key, is_text) = match &place.key {
        Sorted::Number(number) => return vec![doc! { field: { beyond(order.descending): signed(*number) } }],
        Sorted::Time(moment) => (Bson::from(moment.micros()), false),
        Sorted::Text(Some(text)) => (text.as_str().into(), true),
        Sorted::Text(None) => (Bson::Null, true),
    };
    let alike = match order.ties {
        Ties::Id => doc! { "_id": { beyond(order.descending): place.id.hyphenated().to_string() } },
        Ties::Number => doc! { "number": { "$gt": signed(place.number) } },
        Ties::NumberDescending => doc! { "number": { "$lt": signed(place.number) } },
    };
    let mut parts = vec![doc! { "$and": [{ field: key.clone() }, alike] }];
    // Comparisons hold within a type: those without a text are a part of their own.
    match (key, order.descending) {
        (Bson::Null, true) => {}
        (Bson::Null, false) => parts.push(doc! { field: { "$gte": "" } }),
        (key, false) => parts.push(doc! { field: { "$gt": key } }),
        (key, true) => {
            parts.push(doc! { field: { "$lt": key } });
            if is_text {
                parts.push(doc! { field: Bson::Null });
            }
        }
    }
    parts
}

fn field_of(key: SortKey) -> &'static str {
    match key {
        SortKey::Timestamp => "timestamp",
        SortKey::CreatedAt => "created_at",
        SortKey::Name => "name",
        SortKey::Category => "category",
        SortKey::Number => "number",
    }
}

fn sort(order: Order) -> Document {
    let way = |descending| if descending { -1 } else { 1 };
    let mut sort = doc! { field_of(order.by): way(order.descending) };
    match order.ties {
        // No two have one number.
        _ if order.by == SortKey::Number => {}
        Ties::Id => drop(sort.insert("_id", way(order.descending))),
        Ties::Number => drop(sort.insert("number", 1)),
        Ties::NumberDescending => drop(sort.insert("number", -1)),
    }
    sort
}

/// A page of events, with the largest of their positions.
pub(super) async fn page(database: &Database, rows: &str, query: &EventsQuery) -> Result<Seen<EventsPage>, StoreError> {
    in_time(LIST, read_page(database, rows, query)).await
}

async fn read_page(database: &Database, rows: &str, query: &EventsQuery) -> Result<Seen<EventsPage>, StoreError> {
    let compiled = compile(&query.filter);
    let rows: Collection<Stored> = database.collection(rows);
    let (mut events, mut bytes, mut position, mut more) = (Vec::new(), 0, Position::START, false);
    // There are no more events than positions, and servers count in signed numbers.
    let mut skip = if let From::Skip(events) = query.from { events.min(Position::MAX.0) } else { 0 };
    'parts: for part in parts(query.order, &query.from) {
        let Some(condition) = matching(&compiled, part) else { break };
        let mut find = rows.find(condition).sort(sort(query.order)).projection(without_copy()).max_time(LIST);
        if compiled.exact {
            let wanted = query.limit.saturating_sub(events.len()).saturating_add(1);
            let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
            find = find.skip(std::mem::take(&mut skip)).limit(wanted.into()).batch_size(wanted);
        }
        let mut found = find.allow_disk_use(true).await.map_err(failed)?;
        while let Some(stored) = found.try_next().await.map_err(failed)? {
            let size = stored.size();
            let Some(record) = record(stored.change()?) else { continue };
            if !compiled.exact {
                if !query.filter.matches(&record.event) {
                    continue;
                }
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
            }
            bytes += size;
            if events.len() == query.limit || bytes > PAGE_BYTES && !events.is_empty() {
                more = true;
                break 'parts;
            }
            position = position.max(record.position);
            events.push(record);
        }
    }
    Ok(Seen { found: EventsPage { events, more }, position })
}

/// How many events a filter holds for.
pub(super) async fn count(database: &Database, rows: &str, filter: &Filter) -> Result<u64, StoreError> {
    let compiled = compile(filter);
    let Some(condition) = matching(&compiled, Document::new()) else { return Ok(0) };
    let rows: Collection<Stored> = database.collection(rows);
    if compiled.exact {
        return within(LIST, rows.count_documents(condition).max_time(LIST)).await;
    }
    let mut count = 0;
    in_time(LIST, each(&rows, condition, filter, |_| count += 1)).await?;
    Ok(count)
}

/// Looks at each event that a filter holds for, which the server cannot tell exactly.
pub(super) async fn each(
    rows: &Collection<Stored>,
    condition: Document,
    filter: &Filter,
    mut look: impl FnMut(&LogEvent) + Send,
) -> Result<(), StoreError> {
    let find = rows.find(condition).projection(without_copy()).max_time(LIST);
    let mut found = find.await.map_err(failed)?;
    while let Some(stored) = found.try_next().await.map_err(failed)? {
        if let Some(event) = stored.change()?.event.filter(|event| filter.matches(event)) {
            look(&event);
        }
    }
    Ok(())
}

/// The latest changes of events between two positions, the last one included, and
/// whether there may be more.
pub(super) async fn changes(
    database: &Database,
    rows: &str,
    after: Position,
    to: Position,
    limit: usize,
) -> Result<(Vec<EventChange>, bool), StoreError> {
    in_time(LIST, read_changes(database, rows, after, to, limit)).await
}

async fn read_changes(
    database: &Database,
    rows: &str,
    after: Position,
    to: Position,
    limit: usize,
) -> Result<(Vec<EventChange>, bool), StoreError> {
    let rows: Collection<Stored> = database.collection(rows);
    let between = doc! { "position": { "$gt": signed(after.0), "$lte": signed(to.0) } };
    let count = u32::try_from(limit).unwrap_or(u32::MAX);
    let find = rows.find(between).sort(doc! { "position": 1 }).projection(without_copy());
    let mut found = find.limit(count.into()).batch_size(count).max_time(LIST).await.map_err(failed)?;
    let (mut changes, mut bytes) = (Vec::new(), 0);
    while let Some(stored) = found.try_next().await.map_err(failed)? {
        bytes += stored.size();
        if bytes > PAGE_BYTES && !changes.is_empty() {
            return Ok((changes, true));
        }
        changes.push(stored.change()?);
    }
    let full = changes.len() >= limit;
    Ok((changes, full))
}
