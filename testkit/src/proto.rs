//! The protocol's messages and services, as the build script made them.
#![allow(unreachable_pub, clippy::all, clippy::unwrap_used)]

pub(crate) mod event_store {
    pub(crate) mod client {
        tonic::include_proto!("event_store.client");

        pub(crate) mod gossip {
            tonic::include_proto!("event_store.client.gossip");
        }
        pub(crate) mod server_features {
            tonic::include_proto!("event_store.client.server_features");
        }
        pub(crate) mod streams {
            tonic::include_proto!("event_store.client.streams");
        }
    }
}

pub(crate) mod google {
    pub(crate) mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub(crate) use event_store::client as shared;
pub(crate) use event_store::client::{gossip, server_features, streams};
pub(crate) use google::rpc;
