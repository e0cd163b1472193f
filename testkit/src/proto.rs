//! The protocol's messages and services, as the build script made them.
#![allow(unreachable_pub, clippy::all, clippy::unwrap_used)]

pub mod event_store {
    pub mod client {
        tonic::include_proto!("event_store.client");

        pub mod gossip {
            tonic::include_proto!("event_store.client.gossip");
        }
        pub mod server_features {
            tonic::include_proto!("event_store.client.server_features");
        }
        pub mod streams {
            tonic::include_proto!("event_store.client.streams");
        }
    }
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub use event_store::client as shared;
pub use event_store::client::{gossip, server_features, streams};
pub use google::rpc;
