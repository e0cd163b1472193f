//! What a client asks before anything else.

use eventstore::{ReadStreamOptions, StreamState};
use testkit::proto::gossip::gossip_client::GossipClient;
use testkit::proto::gossip::member_info::VNodeState;
use testkit::proto::server_features::server_features_client::ServerFeaturesClient;

use crate::server::{Event, connect, on_server, recorded_ids, soon};

/// Names are told in lower case; batches are what our writes need.
#[test]
fn the_server_tells_which_methods_and_features_it_has() {
    on_server(async |server| {
        let mut client = ServerFeaturesClient::new(server.channel.clone());
        let supported = soon("the methods", client.get_supported_methods(())).await.unwrap().into_inner();

        let version: Vec<_> = supported.event_store_server_version.split('.').take(3).collect();
        assert!(version.len() == 3, "{version:?}");
        assert!(version[..2].iter().all(|part| part.parse::<u32>().is_ok()), "{version:?}");

        let features = |name: &str| {
            let of_streams = |service: &str| service == "event_store.client.streams.streams";
            let mut methods = supported.methods.iter();
            let method = methods.find(|method| of_streams(&method.service_name) && method.method_name == name);
            method.unwrap_or_else(|| panic!("no {name}: {supported:?}")).features.clone()
        };
        assert!(features("batchappend").contains(&"deadline_duration".to_owned()));
        assert!(features("read").contains(&"position".to_owned()));
        assert!(features("read").contains(&"events".to_owned()));
        for method in ["append", "delete", "tombstone"] {
            features(method);
        }
        for method in &supported.methods {
            assert_eq!(method.method_name.to_lowercase(), method.method_name);
            assert_eq!(method.service_name.to_lowercase(), method.service_name);
        }
    });
}

#[test]
fn a_single_node_gossips_of_one_live_leader() {
    on_server(async |server| {
        let mut client = GossipClient::new(server.channel.clone());
        let cluster = soon("the gossip", client.read(())).await.unwrap().into_inner();
        let [member] = &cluster.members[..] else { panic!("not a single node: {cluster:?}") };
        assert!(member.is_alive);
        assert_eq!(VNodeState::Leader as i32, member.state);
        assert!(member.instance_id.is_some());
        let end_point = member.http_end_point.as_ref().expect("an end point");
        assert!(!end_point.address.is_empty() && end_point.port > 0, "{end_point:?}");
    });
}

/// The gossip names the address that the client then uses. Where that cannot be
/// reached from here, there is nothing to test.
#[test]
fn a_client_that_discovers_the_cluster_finds_the_node() {
    on_server(async |server| {
        let mut gossip = GossipClient::new(server.channel.clone());
        let cluster = soon("the gossip", gossip.read(())).await.unwrap().into_inner();
        let end_point = cluster.members[0].http_end_point.clone().expect("an end point");
        let port = u16::try_from(end_point.port).unwrap();
        if tokio::net::TcpStream::connect((end_point.address.as_str(), port)).await.is_err() {
            eprintln!("skipped: {end_point:?} cannot be reached from here");
            return;
        }
        write_and_read(&format!("esdb+discover://{}?tls=false", server.address), &server.stream()).await;
    });
}

#[test]
fn an_insecure_server_takes_any_credentials() {
    on_server(async |server| {
        let address = format!("esdb://nobody:nothing@{}?tls=false", server.address);
        write_and_read(&address, &server.stream()).await;
    });
}

async fn write_and_read(address: &str, stream: &str) {
    let client = connect(address);
    let event = Event::new();
    let options = eventstore::AppendToStreamOptions::default().stream_state(StreamState::NoStream);
    let append = client.append_to_stream(stream, &options, eventstore::EventData::from(event.clone()));
    soon("an append", append).await.unwrap();
    let mut read = soon("a read", client.read_stream(stream, &ReadStreamOptions::default())).await.unwrap();
    let read = soon("an event", read.next()).await.unwrap().expect("an event").event.expect("no link");
    assert_eq!(vec![event.id], recorded_ids(&[read]));
}
