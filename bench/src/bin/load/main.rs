//! The measurements that wrk cannot make. Each prints one line that begins with
//! `BENCH` and holds `name=value` pairs, for `run.sh` to read; anything but a 2xx
//! where one is due ends it with an error.

mod batch;
mod disk;
mod events;
mod http;
mod keys;
mod latency;
mod probe;
mod rebuild;
mod requests;

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::str::FromStr;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: load <what> [--name value]...
  batch  --url U (--keys N [--first I] | --seconds S) [--streams 2] [--op create|put] [--tag T]
           NDJSON through POST /answers/batch; commands/s, lowest second, longest stall.
           With --keys the keys are those that get.lua reads, unless --tag says otherwise
  single --url U --seconds S             one connection, one POST after the other, fresh keys
  known  --url U --seconds S             one connection, PUTs on 100 keys that are there
  paced  --url U --rate R --seconds S    R commands a second on fresh keys, in batches every 50 ms
  lag    --url U --read R --seconds S    from a POST's answer to the answer of a GET that awaits it
  ingest --url U (--count N | --rate R --seconds S) [--batch 500] [--connections 4] [--first I]
           events through POST /v1/events as NDJSON; with --rate latencies count from when each was due
  event-lag --url U --read R --seconds S   as lag, of single events
  pages  --url R --what session|category|range|customer|name --count N --seconds S
           first pages of filtered lists among N events
  walk   --url R --pages N [--limit 50]  follows cursors; the first and the last hundred pages
  rebuild --url U --read R --admin A --keys N --rate R --dir D [--connections 16] [--readers 2]
           a rebuild while R single POSTs a second come in, GETs of N keys never pause, and
           bare durable writes go to a file in D
  fsync  --dir D --seconds S [--file written|sparse|grown] [--bytes 200]
           the disk's own append and fdatasync
  watch  --url U --metric NAME --seconds S   a counter of /metrics, lowest and highest second
  mark   --url U                         POSTs one fresh key; its key and Event-Position
  await  --url R (--key K | --path P) --position P [--timeout 600]   until the read side has reached P
  ready  --url U [--timeout 60]          until GET /readyz is 200
  ports  --count N                       N free ports";

type Outcome = io::Result<String>;

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let arguments = Arguments::parse(arguments)?;
    match what.as_str() {
        "batch" => batch::batch(&arguments),
        "single" => requests::single(&arguments),
        "known" => requests::known(&arguments),
        "paced" => batch::paced(&arguments),
        "lag" => requests::lag(&arguments),
        "ingest" => events::ingest(&arguments),
        "event-lag" => events::lag(&arguments),
        "pages" => events::pages(&arguments),
        "walk" => events::walk(&arguments),
        "rebuild" => rebuild::rebuild(&arguments),
        "fsync" => disk::fsync(&arguments),
        "watch" => probe::watch(&arguments),
        "mark" => probe::mark(&arguments),
        "await" => probe::await_position(&arguments),
        "ready" => probe::ready(&arguments),
        "ports" => probe::ports(&arguments),
        _ => Err(http::invalid(USAGE.to_owned())),
    }
}

struct Arguments(HashMap<String, String>);

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut found = HashMap::new();
        while let Some(word) = words.next() {
            match (word.strip_prefix("--"), words.next()) {
                (Some(name), Some(value)) => found.insert(name.to_owned(), value),
                _ => return Err(http::invalid(USAGE.to_owned())),
            };
        }
        Ok(Self(found))
    }

    fn text(&self, name: &str) -> io::Result<&str> {
        self.0.get(name).map(String::as_str).ok_or_else(|| http::invalid(format!("--{name} is missing\n{USAGE}")))
    }

    fn number<T: FromStr>(&self, name: &str) -> io::Result<T> {
        let text = self.text(name)?;
        text.parse().map_err(|_| http::invalid(format!("--{name} is no number: {text}")))
    }

    fn number_or<T: FromStr>(&self, name: &str, default: T) -> io::Result<T> {
        if self.0.contains_key(name) { self.number(name) } else { Ok(default) }
    }

    fn text_or<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }
}
