//! What is done to the two stores, at random.

use proptest::prelude::*;

/// One step of a history.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write(Write),
    /// Reads a stream: from which revision, backwards or not, how many.
    Read(usize, u64, bool, usize),
    Find(usize),
    /// Follows both logs for so many events.
    Follow(usize),
    /// Folds so many events into the views.
    Project(usize),
    /// Lists answers: prefix, after and limit.
    List(&'static str, Option<&'static str>, usize),
    Agree,
    Reopen,
}

/// Something that a store is asked to keep.
#[derive(Clone, Debug)]
pub(crate) enum Write {
    /// To a stream, at a revision, events.
    Append(usize, At, Events),
    /// Under a key, to a stream, at a revision.
    Claim(usize, usize, At),
    /// Under a key.
    Refuse(usize),
    /// To fold the whole log into the views; only where there is a child to kill.
    Project,
}

/// Which revision an append expects.
#[derive(Clone, Debug)]
pub(crate) enum At {
    End,
    NoStream,
    /// So many below the end.
    Below(u64),
    Above(u64),
}

/// Which events are appended.
#[derive(Clone, Debug)]
pub(crate) enum Events {
    /// So many new ones, each with a value of so many bytes.
    New(usize, usize),
    /// Those that the stream holds behind the expected revision, and so many new ones.
    Again(usize, usize),
}

/// Keys of the answers whose streams are written to.
pub(crate) const KEYS: [&str; 6] = ["a", "a/b", "ключ", "\u{fffd}", "\u{1f600}", "a\u{10ffff}"];
/// Idempotency keys.
pub(crate) const CLAIMS: usize = 8;

fn at() -> impl Strategy<Value = At> {
    prop_oneof![
        8 => Just(At::End),
        1 => Just(At::NoStream),
        3 => (1..5_u64).prop_map(At::Below),
        1 => (1..3_u64).prop_map(At::Above),
    ]
}

fn events() -> impl Strategy<Value = Events> {
    let size = prop_oneof![8 => 1..100_usize, 2 => 4_000..5_000_usize, 1 => 100_000..150_000_usize];
    prop_oneof![
        4 => (1..6_usize, size).prop_map(|(count, bytes)| Events::New(count, bytes)),
        1 => (1..4_usize, 0..2_usize).prop_map(|(known, new)| Events::Again(known, new)),
    ]
}

/// A write or a projection.
pub(crate) fn deed() -> impl Strategy<Value = Write> {
    prop_oneof![7 => write(), 1 => Just(Write::Project)]
}

fn write() -> impl Strategy<Value = Write> {
    let stream = 0..KEYS.len();
    prop_oneof![
        8 => (stream.clone(), at(), events()).prop_map(|(stream, at, events)| Write::Append(stream, at, events)),
        3 => (0..CLAIMS, stream, at()).prop_map(|(key, stream, at)| Write::Claim(key, stream, at)),
        1 => (0..CLAIMS).prop_map(Write::Refuse),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let texts = ["", "a", "a/", "к", "\u{fffd}", "\u{10ffff}", "z"];
    let text = prop::sample::select(texts.to_vec());
    prop_oneof![
        40 => write().prop_map(Step::Write),
        8 => (0..KEYS.len(), 0..30_u64, any::<bool>(), 1..20_usize)
            .prop_map(|(stream, from, back, limit)| Step::Read(stream, from, back, limit)),
        3 => (0..CLAIMS).prop_map(Step::Find),
        6 => (1..20_usize).prop_map(Step::Follow),
        8 => (1..20_usize).prop_map(Step::Project),
        6 => (text.clone(), prop::option::of(text), 1..8_usize)
            .prop_map(|(prefix, after, limit)| Step::List(prefix, after, limit)),
        2 => Just(Step::Agree),
        3 => Just(Step::Reopen),
    ]
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..most)
}
