//! Headers of responses: each told once, and named by reference.

use std::collections::BTreeMap;

use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::{Header, ObjectBuilder, Ref, RefOr, Response, Type};

use crate::domain::stream::Position;

/// All headers that responses of ours have.
pub(super) fn all() -> BTreeMap<String, RefOr<Header>> {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let number = |from: u64| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(from as f64));
    let headers = [
        ("ETag", "The revision, in quotes", text().pattern(Some("^\"[0-9]+\"$")).examples(["\"3\""])),
        (
            "Event-Position",
            "The position of the event behind the response; a read that awaits it shows nothing older",
            number(0).maximum(Some(Position::MAX.0 as f64)).examples([42]),
        ),
        ("Retry-After", "After how many seconds to try again", number(0).examples([1])),
        ("Parked", "How many streams wait behind an event that cannot be projected; absent while none does", number(1)),
        ("X-Request-Id", "The request's name in the log: the client's own, if it sent one", text()),
    ];
    let header = |(name, what, schema): (&str, &str, ObjectBuilder)| {
        let header = HeaderBuilder::new().description(Some(what)).schema(Some(schema)).build();
        (name.to_owned(), RefOr::T(header))
    };
    headers.into_iter().map(header).collect()
}

/// Puts references in place of headers that have only a name, and adds what the
/// server adds to every response.
pub(super) fn refer(response: &mut RefOr<Response>) {
    let RefOr::T(response) = response else { return };
    let known = all();
    response.headers.entry("X-Request-Id".into()).or_insert_with(|| RefOr::T(Header::default()));
    for (name, header) in &mut response.headers {
        if known.contains_key(name) {
            *header = RefOr::Ref(Ref::new(format!("#/components/headers/{name}")));
        }
    }
}
