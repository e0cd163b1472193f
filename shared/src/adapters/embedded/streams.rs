//! Which streams there may be, by the hashes of their names: most appends begin a stream,
//! and to find that it is not there yet the engine would search its memtables, which costs
//! more than all else about the append. A Bloom filter answers that from a line of
//! memory; it may take a stream for known that is not, and never the other way round.
//!
//! What was there before is added by a thread behind the start; until it is done every
//! stream may be there.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use fjall::{Keyspace, UserKey};
use parking_lot::Mutex;

/// The hash of a stream's name, as in the keys of `heads`.
pub(super) type Hash = [u8; 16];

/// Streams that the first filter has room for; each further one has room for twice as many
/// as the one before.
const FIRST_ROOM: usize = 256 * 1024;
/// Bits for each stream, and how many of them are set: 1 in 200 is taken for known wrongly.
const BITS: usize = 12;
const SET: u32 = 6;
/// Bits of a block, which is a line of the processor's cache.
const BLOCK_BITS: usize = 512;
/// Rows that are read behind the start before it looks whether it is to stop.
const ROWS: usize = 16 * 1024;

pub(super) struct Streams {
    filters: Mutex<Vec<Filter>>,
    older: Arc<Older>,
    reading: Option<JoinHandle<()>>,
}

/// What was there before the start.
#[derive(Default)]
struct Older {
    /// None until all of it has been read.
    filter: Mutex<Option<Filter>>,
    stop: AtomicBool,
}

impl Streams {
    /// Those whose heads are in a keyspace, and those that are added.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn of(heads: Keyspace) -> std::io::Result<Self> {
        let older = Arc::new(Older::default());
        let reader = older.clone();
        let read = move || match read(&heads, &reader.stop) {
            Ok(filter) => *reader.filter.lock() = filter,
            Err(error) => tracing::warn!(error = %error, "the streams could not be counted; appends stay slower"),
        };
        let reading = std::thread::Builder::new().name("log-streams".into()).spawn(read)?;
        Ok(Self { filters: Mutex::default(), older, reading: Some(reading) })
    }

    /// Notes a stream before its head can be in the keyspace.
    pub(super) fn add(&self, hash: &Hash) {
        let mut filters = self.filters.lock();
        if filters.last().is_none_or(Filter::is_full) {
            let room = filters.last().map_or(FIRST_ROOM, |last| last.room * 2);
            filters.push(Filter::with_room(room));
        }
        if let Some(last) = filters.last_mut() {
            last.add(hash);
        }
    }

    /// Whether there may be a stream. What is `false` is certain.
    pub(super) fn may_have(&self, hash: &Hash) -> bool {
        let is_older = |older: &Filter| older.may_have(hash);
        self.older.filter.lock().as_ref().is_none_or(is_older)
            || self.filters.lock().iter().any(|filter| filter.may_have(hash))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.older.stop.store(true, Ordering::Release);
        if self.reading.take().is_some_and(|reading| reading.join().is_err()) {
            tracing::error!("the thread that counts the streams panicked");
        }
    }
}

/// A filter of all that is in a keyspace; none if it was stopped.
fn read(heads: &Keyspace, stop: &AtomicBool) -> fjall::Result<Option<Filter>> {
    let mut filter = Filter::with_room(heads.approximate_len());
    let mut from: Bound<UserKey> = Bound::Unbounded;
    // Some at a time: an open view would keep the engine from letting go of memory.
    loop {
        let mut last = None;
        for row in heads.range((from.clone(), Bound::Unbounded)).take(ROWS) {
            let key = row.key()?;
            if let Ok(hash) = key[..].try_into() {
                filter.add(&hash);
            }
            last = Some(key);
        }
        if stop.load(Ordering::Acquire) {
            return Ok(None);
        }
        match last {
            Some(last) => from = Bound::Excluded(last),
            None => return Ok(Some(filter)),
        }
    }
}

/// A Bloom filter whose bits of one hash lie in one block.
struct Filter {
    blocks: Vec<[u64; BLOCK_BITS / 64]>,
    room: usize,
    count: usize,
}

impl Filter {
    fn with_room(room: usize) -> Self {
        let blocks = (room * BITS).div_ceil(BLOCK_BITS).max(1);
        Self { blocks: vec![[0; BLOCK_BITS / 64]; blocks], room, count: 0 }
    }

    fn is_full(&self) -> bool {
        self.count >= self.room
    }

    /// The block of a hash, and its bits there, nine of the other half for each.
    fn places(&self, hash: &Hash) -> (usize, impl Iterator<Item = (usize, u64)> + use<>) {
        let [block, bits] = [0, 8].map(|at| u64::from_be_bytes(std::array::from_fn(|byte| hash[at + byte])));
        let block = (u128::from(block) * self.blocks.len() as u128) >> 64;
        let bits = (0..SET).map(move |bit| (bits >> (9 * bit)) as usize % BLOCK_BITS);
        (block as usize, bits.map(|bit| (bit / 64, 1 << (bit % 64))))
    }

    fn add(&mut self, hash: &Hash) {
        let (block, bits) = self.places(hash);
        for (word, bit) in bits {
            self.blocks[block][word] |= bit;
        }
        self.count += 1;
    }

    fn may_have(&self, hash: &Hash) -> bool {
        let (block, mut bits) = self.places(hash);
        bits.all(|(word, bit)| self.blocks[block][word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> Hash {
        xxhash_rust::xxh3::xxh3_128(&number.to_be_bytes()).to_be_bytes()
    }

    #[test]
    fn what_was_added_is_known_and_little_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let db = fjall::Database::builder(folder.path()).open().expect("opened");
        let heads = db.keyspace("heads", fjall::KeyspaceCreateOptions::default).expect("made");
        let (older, all) = (3 * ROWS as u64, 3 * ROWS as u64 + 2 * FIRST_ROOM as u64);
        for number in 0..older {
            heads.insert(hash(number), "head").expect("inserted");
        }
        let streams = Streams::of(heads.clone()).expect("started");
        (older..all).for_each(|number| streams.add(&hash(number)));
        let begun = std::time::Instant::now();
        while streams.older.filter.lock().is_none() {
            assert!(streams.may_have(&hash(all)), "not all has been read");
            assert!(begun.elapsed() < std::time::Duration::from_secs(60), "it is never read");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!((0..all).all(|number| streams.may_have(&hash(number))));
        let wrong = (all..2 * all).filter(|number| streams.may_have(&hash(*number))).count() as u64;
        assert!(wrong < all / 20, "{wrong} of {all} are taken for known");
        drop((streams, heads, db));
        fjall::Database::builder(folder.path()).open().expect("nobody holds the database any more");
    }

    #[test]
    fn nothing_is_known_of_nothing() {
        let filter = Filter::with_room(0);
        assert!(!filter.may_have(&hash(1)) && filter.is_full());
    }
}
