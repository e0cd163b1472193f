//! Reads of `$all` through a filter.

use eventstore::{Position, ReadAllOptions, ReadStreamOptions, StreamPosition, StreamState, SubscriptionFilter};
use uuid::Uuid;

use crate::server::{Event, Server, events, ids, on_server, recorded_ids, revisions, stream_prefix};
use crate::wire::{Content, Expect, Filter, Read};

/// Reads what a filter lets pass from a position on.
async fn read_from(server: &Server, from: Position, filter: SubscriptionFilter) -> Vec<Uuid> {
    let options = ReadAllOptions::default().position(StreamPosition::Position(from)).filter(filter);
    recorded_ids(&server.read_all(&options).await.unwrap())
}

/// The names and revisions of a bare read of `$all`.
async fn raw_revisions(server: &Server, read: Read) -> Vec<u64> {
    let contents = server.raw_read(read).await.unwrap();
    let revision = |content| match content {
        Content::Event(event) => event.event.expect("an event").stream_revision,
        other => panic!("not an event: {other:?}"),
    };
    contents.into_iter().map(revision).collect()
}

/// 27.
#[test]
fn a_filtered_read_gives_exactly_the_count() {
    on_server(async |server| {
        let from = server.mark().await;
        let (stream, other) = (server.stream(), server.stream());
        for _ in 0..5 {
            server.append(&stream, StreamState::Any, &events(10)).await.unwrap();
            server.append(&other, StreamState::Any, &events(10)).await.unwrap();
        }
        let options = ReadAllOptions::default().position(StreamPosition::Position(from)).filter(stream_prefix(&stream));
        let read = server.read_all(&options.clone().max_count(35)).await.unwrap();
        assert_eq!((0..35).collect::<Vec<_>>(), revisions(&read));
        assert!(read.iter().all(|event| event.stream_id() == stream));
        let read = server.read_all(&options).await.unwrap();
        assert_eq!((0..50).collect::<Vec<_>>(), revisions(&read));
    });
}

/// The window is how many events are looked at in one go, not how many in all.
#[test]
fn a_filtered_read_goes_on_past_its_search_window() {
    on_server(async |server| {
        let from = server.mark().await;
        let (stream, other) = (server.stream(), server.stream());
        server.fill(&stream, 1).await;
        server.fill(&other, 100).await;
        server.append(&stream, StreamState::Any, &[Event::new()]).await.unwrap();

        let filter = Filter::stream_prefixes(&[&stream]).window(5);
        let forwards = Read::all().at_position(from.commit, from.prepare).filter(filter.clone());
        assert_eq!(vec![0, 1], raw_revisions(server, forwards.clone().count(2)).await);
        assert_eq!(vec![0, 1], raw_revisions(server, forwards.count(100)).await);
        let backwards = Read::all().backwards().at_end().filter(filter).count(2);
        assert_eq!(vec![1, 0], raw_revisions(server, backwards).await);
    });
}

#[test]
fn any_of_several_prefixes_lets_an_event_pass() {
    on_server(async |server| {
        let from = server.mark().await;
        let (one, two, three) = (server.stream(), server.stream(), server.stream());
        let first = server.fill(&one, 1).await;
        server.fill(&two, 1).await;
        let third = server.fill(&three, 2).await;
        let filter = SubscriptionFilter::on_stream_name().add_prefix(&one).add_prefix(&three);
        assert_eq!([ids(&first), ids(&third)].concat(), read_from(server, from, filter).await);
    });
}

/// A prefix is compared by case.
#[test]
fn a_prefix_is_the_exact_beginning_of_the_name() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let events = server.fill(&stream, 2).await;
        let (short, inside) = (&stream[..stream.len() - 2], &stream[1..]);
        assert_eq!(ids(&events), read_from(server, from, stream_prefix(short)).await);
        assert!(read_from(server, from, stream_prefix(inside)).await.is_empty());
        assert!(read_from(server, from, stream_prefix(&format!("{stream}-"))).await.is_empty());
        assert!(read_from(server, from, stream_prefix(&stream.replace("conformance", "Conformance"))).await.is_empty());
    });
}

#[test]
fn a_regular_expression_matches_anywhere_in_the_name() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let events = server.fill(&stream, 2).await;
        let unique = &stream["conformance-".len()..];
        for (regex, matches) in [
            (unique.to_owned(), true),
            (format!("^conformance-{unique}$"), true),
            (format!("^{unique}"), false),
            (format!("-[0-9a-f]{{8}}{}", &unique[8..]), true),
        ] {
            let read = read_from(server, from, SubscriptionFilter::on_stream_name().regex(&regex)).await;
            assert_eq!(if matches { ids(&events) } else { vec![] }, read, "{regex}");
        }
    });
}

#[test]
fn event_types_are_filtered_by_prefix_and_by_regular_expression() {
    on_server(async |server| {
        let from = server.mark().await;
        let kind = format!("Type-{}", Uuid::new_v4());
        let events = [Event::of(&format!("{kind}-one")), Event::new(), Event::of(&format!("{kind}-two"))];
        server.append(&server.stream(), StreamState::NoStream, &events).await.unwrap();
        let both = vec![events[0].id, events[2].id];
        let on_type = SubscriptionFilter::on_event_type;
        assert_eq!(both, read_from(server, from, on_type().add_prefix(&kind)).await);
        assert_eq!(both, read_from(server, from, on_type().regex(&kind[5..])).await);
        assert_eq!(both[1..], read_from(server, from, on_type().regex(format!("^{kind}.*two$"))).await);
    });
}

#[test]
fn a_regular_expression_counts_before_prefixes_and_no_expression_matches_nothing() {
    on_server(async |server| {
        let from = server.mark().await;
        let (one, two) = (server.stream(), server.stream());
        server.fill(&one, 1).await;
        server.fill(&two, 2).await;
        let read = |filter| Read::all().at_position(from.commit, from.prepare).filter(filter).count(100);
        let regex_wins = Filter::stream_regex_or_prefixes(&two, &[&one]);
        assert_eq!(vec![0, 1], raw_revisions(server, read(regex_wins)).await);
        let nothing = Filter::stream_prefixes(&[]);
        assert_eq!(Vec::<u64>::new(), raw_revisions(server, read(nothing)).await);
    });
}

#[test]
fn system_events_can_be_left_out() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        let events = server.fill(&stream, 1).await;
        server.set_metadata(&stream, &serde_json::json!({ "a": 1 })).await;
        server.tombstone(&stream, Expect::Any).await.unwrap();
        let filter = SubscriptionFilter::on_event_type().exclude_system_events();
        let read = read_from(server, from, filter).await;
        assert!(read.contains(&events[0].id));

        let options = ReadAllOptions::default().position(StreamPosition::Position(from));
        let all = server.read_all(&options.filter(SubscriptionFilter::on_event_type().add_prefix("$"))).await.unwrap();
        let of_stream: Vec<_> = all.iter().filter(|event| event.stream_id().ends_with(&stream)).collect();
        assert_eq!(2, of_stream.len(), "{of_stream:?}");
        assert!(of_stream.iter().all(|event| !read.contains(&event.id)));
    });
}

/// Filtered reads carry what unfiltered ones do.
#[test]
fn an_event_is_the_same_by_whichever_way_it_is_read() {
    on_server(async |server| {
        let from = server.mark().await;
        let stream = server.stream();
        server.fill(&stream, 3).await;
        let of_stream = server.read(&stream, &ReadStreamOptions::default()).await.unwrap();
        let options = ReadAllOptions::default().position(StreamPosition::Position(from)).filter(stream_prefix(&stream));
        let of_all = server.read_all(&options).await.unwrap();
        assert_eq!(3, of_all.len());
        for (one, other) in of_stream.iter().zip(&of_all) {
            assert_eq!((one.id, one.revision, one.position), (other.id, other.revision, other.position));
            assert_eq!((&one.data, &one.custom_metadata), (&other.data, &other.custom_metadata));
            assert_eq!((&one.metadata, one.created), (&other.metadata, other.created));
        }
    });
}
