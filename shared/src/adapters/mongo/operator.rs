//! What operators ask of the views, from any process.

use std::time::Instant;

use async_trait::async_trait;

use super::{MongoViews, parked, rebuild};
use crate::domain::projection::Parked;
use crate::domain::stream::StreamId;
use crate::domain::time::Timestamp;
use crate::ports::{Page, ParkedQuery, RebuildState, StoreError, ViewOperator};

const NOTHING_YET: StoreError =
    StoreError::Unavailable { what: "the read store, into which nothing was projected yet,", source: None };

#[async_trait]
impl ViewOperator for MongoViews {
    async fn parked_streams(&self, query: ParkedQuery) -> Result<Page<Parked>, StoreError> {
        match self.0.shown(Instant::now()).await? {
            Some(meta) if meta.parked() > 0 => parked::page(self.0.database().await?, &meta.views, &query).await,
            _ => Ok(Page { found: Vec::new(), more: false }),
        }
    }

    async fn ask_replay(&self, stream: Option<&StreamId>) -> Result<u64, StoreError> {
        let Some(meta) = self.0.shown(Instant::now()).await? else { return Ok(0) };
        let count = parked::ask(self.0.database().await?, &meta.views, stream).await?;
        self.0.asked.notify_one();
        Ok(count)
    }

    async fn ask_rebuild(&self, now: Timestamp) -> Result<(), StoreError> {
        let meta = self.0.shown(Instant::now()).await?.ok_or(NOTHING_YET)?;
        let asked = rebuild::ask(self.0.database().await?, &meta.views, now).await?;
        self.0.asked.notify_one();
        if asked { Ok(()) } else { Err(StoreError::Conflict) }
    }

    async fn rebuild_state(&self) -> Result<RebuildState, StoreError> {
        Ok(self.0.shown(Instant::now()).await?.map(|meta| meta.rebuild_state()).unwrap_or_default())
    }
}
