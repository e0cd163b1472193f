//! What the server says of itself.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::Context;
use super::connection::ready;
use crate::proto::gossip::gossip_server::Gossip;
use crate::proto::gossip::{ClusterInfo, EndPoint, MemberInfo, member_info::VNodeState};
use crate::proto::server_features::server_features_server::ServerFeatures;
use crate::proto::server_features::{SupportedMethod, SupportedMethods};

/// The line that this server behaves like.
const VERSION: &str = "24.10.4";
const METHODS: [(&str, &str, &[&str]); 7] = [
    ("event_store.client.streams.streams", "append", &[]),
    ("event_store.client.streams.streams", "read", &["position", "events"]),
    ("event_store.client.streams.streams", "delete", &[]),
    ("event_store.client.streams.streams", "tombstone", &[]),
    ("event_store.client.streams.streams", "batchappend", &["deadline_duration"]),
    ("event_store.client.gossip.gossip", "read", &[]),
    ("event_store.client.server_features.serverfeatures", "getsupportedmethods", &[]),
];

pub(super) struct FeaturesService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl ServerFeatures for FeaturesService {
    async fn get_supported_methods(&self, _: Request<()>) -> Result<Response<SupportedMethods>, Status> {
        ready(&self.0)?;
        let methods = METHODS.map(|(service, method, features)| SupportedMethod {
            method_name: method.to_owned(),
            service_name: service.to_owned(),
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        });
        Ok(Response::new(SupportedMethods { methods: methods.into(), event_store_server_version: VERSION.to_owned() }))
    }
}

pub(super) struct GossipService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Gossip for GossipService {
    async fn read(&self, _: Request<()>) -> Result<Response<ClusterInfo>, Status> {
        ready(&self.0)?;
        let address = self.0.address;
        let (state, leader) = match self.0.switches.leader() {
            Some(leader) => (VNodeState::Follower, Some(leader)),
            None => (VNodeState::Leader, None),
        };
        let mut members = vec![member(1, state, address.ip().to_string(), address.port())];
        members.extend(leader.map(|(host, port)| member(2, VNodeState::Leader, host, port)));
        Ok(Response::new(ClusterInfo { members }))
    }
}

fn member(id: u128, state: VNodeState, address: String, port: u16) -> MemberInfo {
    MemberInfo {
        instance_id: Some(super::wire::string_id(uuid::Uuid::from_u128(id))),
        time_stamp: crate::store::now(),
        state: state.into(),
        is_alive: true,
        http_end_point: Some(EndPoint { address, port: u32::from(port) }),
    }
}
