//! The service itself.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::batch::Batch;
use super::connection::{Link, admit};
use super::read::Reader;
use super::{Context, append, wire};
use crate::core::Fault;
use crate::proto::streams::streams_server::Streams;
use crate::proto::streams::{
    AppendReq, AppendResp, BatchAppendReq, DeleteReq, DeleteResp, ReadReq, TombstoneReq, TombstoneResp, delete_resp,
    tombstone_resp,
};
use crate::store::Change;

pub(super) struct StreamsService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Streams for StreamsService {
    type ReadStream = Reader;
    type BatchAppendStream = Batch;

    async fn read(&self, request: Request<ReadReq>) -> Result<Response<Reader>, Status> {
        admit(&self.0, &request)?;
        let delay = self.0.switches.read_delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if self.0.switches.reads_failed() {
            return Err(Fault::Unknown("the log cannot be read".to_owned()).into());
        }
        Ok(Response::new(Reader::open(self.0.clone(), request.into_inner())?))
    }

    async fn append(&self, request: Request<Streaming<AppendReq>>) -> Result<Response<AppendResp>, Status> {
        admit(&self.0, &request)?;
        Ok(Response::new(append::append(&self.0, request).await?))
    }

    async fn delete(&self, request: Request<DeleteReq>) -> Result<Response<DeleteResp>, Status> {
        admit(&self.0, &request)?;
        let link = Link::of(request.extensions());
        let (stream, expected) = wire::expectation(request.into_inner().options)?;
        let written = append::write(&self.0, link, &stream, expected, Change::Delete).await?;
        let position = append::position(written).map(delete_resp::PositionOption::Position);
        Ok(Response::new(DeleteResp { position_option: position }))
    }

    async fn tombstone(&self, request: Request<TombstoneReq>) -> Result<Response<TombstoneResp>, Status> {
        admit(&self.0, &request)?;
        let link = Link::of(request.extensions());
        let (stream, expected) = wire::expectation(request.into_inner().options)?;
        let written = append::write(&self.0, link, &stream, expected, Change::Tombstone).await?;
        let position = append::position(written).map(tombstone_resp::PositionOption::Position);
        Ok(Response::new(TombstoneResp { position_option: position }))
    }

    async fn batch_append(&self, request: Request<Streaming<BatchAppendReq>>) -> Result<Response<Batch>, Status> {
        admit(&self.0, &request)?;
        Ok(Response::new(Batch::new(self.0.clone(), request)))
    }
}
