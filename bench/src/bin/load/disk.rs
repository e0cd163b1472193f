//! The disk's own price of one durable append, by which the service's latency
//! with one connection is judged.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::latency::Latencies;
use crate::{Arguments, Outcome, http};

/// How often `beside` writes.
const PACE: Duration = Duration::from_millis(5);

const FILE_LEN: u64 = 64 * 1024 * 1024;

/// Appends a record and calls fdatasync, again and again. The file is
/// `written` (all blocks allocated before: nothing but data to sync), `sparse`
/// (its length set, its blocks not allocated) or `grown` by each append.
pub(crate) fn fsync(arguments: &Arguments) -> Outcome {
    let path = Path::new(arguments.text("dir")?).join("fsync.probe");
    let outcome = measure(&path, arguments);
    let removed = fs::remove_file(&path);
    let line = outcome?;
    removed?;
    Ok(line)
}

fn measure(path: &Path, arguments: &Arguments) -> Outcome {
    let bytes: usize = arguments.number_or("bytes", 200)?;
    let file = File::create_new(path)?;
    prepare(&file, arguments.text_or("file", "written"))?;
    let record = vec![b'x'; bytes];
    let mut latencies = Latencies::default();
    let mut offset = 0;
    let until = Instant::now() + Duration::from_secs_f64(arguments.number("seconds")?);
    while Instant::now() < until && offset + (bytes as u64) <= FILE_LEN {
        let began = Instant::now();
        file.write_all_at(&record, offset)?;
        file.sync_data()?;
        latencies.record(began.elapsed());
        offset += bytes as u64;
    }
    Ok(format!("BENCH {}", latencies.report()))
}

fn prepare(file: &File, how: &str) -> io::Result<()> {
    match how {
        "written" => {
            let block = vec![0; 1024 * 1024];
            for offset in (0..FILE_LEN).step_by(block.len()) {
                file.write_all_at(&block, offset)?;
            }
        }
        "sparse" => file.set_len(FILE_LEN)?,
        "grown" => {}
        _ => {
            return Err(http::invalid(format!("--file {how}: written, sparse or grown")));
        }
    }
    file.sync_all()
}

/// A file to write to `beside` something else: allocated, in this folder, gone when it
/// is closed.
pub(crate) fn allocated(dir: &Path) -> io::Result<File> {
    let path = dir.join("beside.probe");
    let file = File::create_new(&path)?;
    fs::remove_file(&path)?;
    prepare(&file, "written")?;
    Ok(file)
}

/// Writes 200 bytes durably every 5 ms, until it is ended, beside what is measured: what
/// the disk makes anyone wait meanwhile who asks for nothing else. Counted from when each
/// was due.
pub(crate) fn beside(file: &File, ended: &AtomicBool) -> io::Result<Latencies> {
    let mut latencies = Latencies::default();
    let (mut due, mut offset) = (Instant::now(), 0);
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        file.write_all_at(&[b'x'; 200], offset)?;
        file.sync_data()?;
        latencies.record(due.elapsed());
        due += PACE;
        offset = (offset + 200) % (FILE_LEN - 200);
    }
    Ok(latencies)
}
