//! Links: events that stand for others.

use eventstore::{ReadStreamOptions, StreamState};

use crate::server::{Event, on_server};
use crate::wire::{Content, Read};

/// A link to an event of a stream.
fn link(stream: &str, revision: u64) -> Event {
    Event {
        kind: "$>".into(),
        content_type: "application/octet-stream".into(),
        data: format!("{revision}@{stream}").into(),
        ..Event::new()
    }
}

#[test]
fn a_link_is_read_as_itself_unless_it_is_to_be_resolved() {
    on_server(async |server| {
        let (stream, links) = (server.stream(), server.stream());
        let events = server.fill(&stream, 3).await;
        let link = link(&stream, 1);
        server.append(&links, StreamState::NoStream, std::slice::from_ref(&link)).await.unwrap();

        let plain = server.read_resolved(&links, &ReadStreamOptions::default()).await.unwrap();
        assert!(plain[0].link.is_none());
        let itself = plain[0].event.as_ref().expect("the link itself");
        assert_eq!((link.id, "$>", false), (itself.id, itself.event_type.as_str(), itself.is_json));

        let resolved = server.read_resolved(&links, &ReadStreamOptions::default().resolve_link_tos()).await.unwrap();
        let (event, by) = (resolved[0].event.as_ref().expect("its event"), resolved[0].link.as_ref().expect("a link"));
        assert_eq!((events[1].id, stream.as_str(), 1), (event.id, event.stream_id(), event.revision));
        assert_eq!((link.id, links.as_str(), 0), (by.id, by.stream_id(), by.revision));
        assert_eq!(Some(by.position.commit), resolved[0].commit_position);
    });
}

#[test]
fn a_link_to_nothing_is_read_without_an_event() {
    on_server(async |server| {
        let links = server.stream();
        server.append(&links, StreamState::NoStream, &[link(&server.stream(), 0)]).await.unwrap();
        let contents = server.raw_read(Read::stream(&links).resolving_links()).await.unwrap();
        let [Content::Event(read)] = &contents[..] else { panic!("not one event: {contents:?}") };
        assert!(read.event.is_none(), "{read:?}");
        assert!(read.link.is_some(), "{read:?}");
    });
}
