//! Faults as gRPC statuses, and as items of a batch.

use prost::Message as _;
use prost_types::Any;
use tonic::metadata::{AsciiMetadataKey, MetadataMap};
use tonic::{Code, Status};

use crate::core::{Expected, Fault};
use crate::proto::rpc;
use crate::proto::shared::{
    BadRequest, MaximumAppendSizeExceeded, StreamDeleted, StreamIdentifier, Timeout, Unknown, WrongExpectedVersion,
    wrong_expected_version::{CurrentStreamRevisionOption as Current, ExpectedStreamPositionOption as Position},
};

const REQUIRED: &str = "type,content-type";

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::WrongExpectedVersion { stream, expected, current } => {
                let expected = match expected {
                    Expected::NoStream => "-1".to_owned(),
                    Expected::Any => "-2".to_owned(),
                    Expected::Exists => "-4".to_owned(),
                    Expected::Exact(revision) => revision.to_string(),
                };
                let actual = current.map_or("-1".to_owned(), |revision| revision.to_string());
                let message = format!(
                    "Append failed due to WrongExpectedVersion. Stream: {}, Expected version: {expected}, Actual \
                     version: {actual}",
                    &*stream
                );
                let trailers =
                    [("stream-name", &*stream), ("expected-version", &*expected), ("actual-version", &*actual)];
                exception(Code::FailedPrecondition, message, "wrong-expected-version", &trailers)
            }
            Fault::StreamDeleted { stream } => {
                let message = format!("Event stream '{}' is deleted.", &*stream);
                exception(Code::FailedPrecondition, message, "stream-deleted", &[("stream-name", &stream)])
            }
            Fault::AppendTooLarge { max } => {
                let message = format!("Maximum Append Size of {max} Exceeded.");
                let trailers = [("maximum-append-size", &*max.to_string())];
                exception(Code::InvalidArgument, message, "maximum-append-size-exceeded", &trailers)
            }
            Fault::MissingMetadata => {
                let message = format!("Required Metadata Property '{REQUIRED}' is missing");
                let trailers = [("required-metadata-properties", REQUIRED)];
                exception(Code::InvalidArgument, message, "missing-required-metadata-property", &trailers)
            }
            Fault::NotLeader { host, port } => {
                let message = "Leader info available".to_owned();
                let trailers = [("leader-endpoint-host", &*host), ("leader-endpoint-port", &*port.to_string())];
                exception(Code::NotFound, message, "not-leader", &trailers)
            }
            Fault::NotReady => Status::unavailable("Server Is Not Ready"),
            Fault::TimedOut => Status::aborted("Operation timed out: Commit Timeout"),
            Fault::NotAuthenticated => Status::unauthenticated("bad credentials"),
            Fault::Invalid(message) => Status::invalid_argument(message),
            Fault::Unknown(message) => Status::unknown(message),
        }
    }
}

fn exception(code: Code, message: String, exception: &'static str, trailers: &[(&'static str, &str)]) -> Status {
    let mut metadata = MetadataMap::new();
    for (name, value) in trailers.iter().chain(&[("exception", exception)]) {
        // A name that no header can carry is left out.
        if let Ok(value) = value.parse() {
            metadata.insert(AsciiMetadataKey::from_static(name), value);
        }
    }
    Status::with_metadata(code, message, metadata)
}

/// A fault as an item of a batch.
pub(super) fn item(fault: Fault) -> rpc::Status {
    let (code, name, details) = match fault {
        Fault::WrongExpectedVersion { expected, current, .. } => {
            let details = WrongExpectedVersion {
                current_stream_revision_option: Some(
                    current.map_or(Current::CurrentNoStream(()), Current::CurrentStreamRevision),
                ),
                expected_stream_position_option: Some(match expected {
                    Expected::Any => Position::ExpectedAny(()),
                    Expected::Exists => Position::ExpectedStreamExists(()),
                    Expected::NoStream => Position::ExpectedNoStream(()),
                    Expected::Exact(revision) => Position::ExpectedStreamPosition(revision),
                }),
            };
            (Code::AlreadyExists, "WrongExpectedVersion", details.encode_to_vec())
        }
        Fault::StreamDeleted { stream } => {
            let stream_identifier = Some(StreamIdentifier { stream_name: stream.bytes() });
            (Code::NotFound, "StreamDeleted", StreamDeleted { stream_identifier }.encode_to_vec())
        }
        Fault::AppendTooLarge { max } => {
            let details = MaximumAppendSizeExceeded { max_append_size: max };
            (Code::InvalidArgument, "MaximumAppendSizeExceeded", details.encode_to_vec())
        }
        Fault::MissingMetadata => bad_request(format!("Required Metadata Property '{REQUIRED}' is missing")),
        Fault::Invalid(message) | Fault::Unknown(message) => bad_request(message),
        Fault::TimedOut => (Code::DeadlineExceeded, "Timeout", Timeout {}.encode_to_vec()),
        Fault::NotReady => {
            let message = "Server Is Not Ready".to_owned();
            return rpc::Status { code: Code::Unavailable as i32, message, details: None };
        }
        Fault::NotLeader { .. } | Fault::NotAuthenticated => (Code::Unknown, "Unknown", Unknown {}.encode_to_vec()),
    };
    let type_url = format!("type.googleapis.com/event_store.client.{name}");
    rpc::Status { code: code as i32, message: name.to_owned(), details: Some(Any { type_url, value: details }) }
}

fn bad_request(message: String) -> (Code, &'static str, Vec<u8>) {
    (Code::InvalidArgument, "BadRequest", BadRequest { message }.encode_to_vec())
}
