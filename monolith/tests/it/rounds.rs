//! The three services in two replicas each, on EventStoreDB and MongoDB, all as
//! processes of their own: under load one after the other is killed or paused, and
//! nothing may be lost, doubled or out of order. It ends in comparing the read store
//! with a fold of the log, row by row.
//!
//! `QASERVICE_ROUNDS` sets how many rounds; nine are the least in which each process
//! and each database has its turn. `QASERVICE_SEED` chooses the same faults and
//! commands again. `docs/reliability.md` tells more.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use testkit::{
    mongo::{self, Mongo},
    ports,
    processes::{Process, Program, programs},
};

use super::app::RECOVERY;
use super::crash_support::{
    Client, Rng,
    book::{self, Book, Outcome, Request, Requests},
    encoded, env_number, seed,
};

const WRITERS: usize = 8;
const HOT_KEYS: usize = 6;
const OWN_KEYS: usize = 6;
/// A command with its key is repeated until its outcome is known, at most this long.
const DEFINITE: Duration = Duration::from_secs(60);
/// Each eighth round is followed by comparing everything that it touched.
const DECK: usize = 8;
/// Histories would grow for ever: from time to time others take their place.
const DECKS_PER_GENERATION: usize = 3;
/// How often the holder of the lease is paused for longer than it lasts.
const DECKS_PER_LONG_PAUSE: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_paused_processes_lose_double_and_reorder_nothing() {
    if mongo::program().is_none() {
        testkit::programs::skip("SecantusDB is missing: name it by SECANTUSD, or run ./test.sh");
        return;
    }
    let rounds = env_number("QASERVICE_ROUNDS", 9);
    let mut rng = Rng::new(seed("rounds"));
    let begun = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path()).await;
    let mut tally = Tally::default();
    let (mut round, mut deck) = (0, 0);
    while round < rounds {
        let generation = deck / DECKS_PER_GENERATION;
        let load = Load::start(&cluster, &mut rng, generation, deck);
        for victim in shuffled(&mut rng, deck) {
            if round == rounds {
                break;
            }
            round += 1;
            load.goes_on();
            let fault = cluster.strike(victim, &mut rng).await;
            eprintln!("round {round} after {:.0?}: {victim:?}: {fault}", begun.elapsed());
            tally.count(victim);
        }
        load.stop(&mut tally.book);
        cluster.compare(&mut tally.book, Which::Touched).await;
        deck += 1;
        eprintln!(
            "compared after {:.0?}: {} commands acknowledged, {} unknown",
            begun.elapsed(),
            tally.book.count_acknowledged,
            tally.book.count_unknown
        );
    }
    cluster.compare(&mut tally.book, Which::All).await;
    tally.tell(round, begun.elapsed());
    assert!(tally.book.count_acknowledged > rounds * 10, "hardly any load: {}", tally.book.count_acknowledged);
}

// -------------------------------------------------------------------- victims

/// Who is struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Events,
    Views,
    Writer(usize),
    Projector(usize),
    Reader(usize),
    /// The projector that works, paused until the other has taken its place.
    Holder,
}

/// Every process and every database once, in any order.
fn shuffled(rng: &mut Rng, deck: usize) -> Vec<Victim> {
    let mut victims = vec![Victim::Events, Victim::Views];
    victims.extend((0..2).flat_map(|n| [Victim::Writer(n), Victim::Projector(n), Victim::Reader(n)]));
    assert_eq!(victims.len(), DECK);
    if deck.is_multiple_of(DECKS_PER_LONG_PAUSE) {
        victims.push(Victim::Holder);
    }
    for last in (1..victims.len()).rev() {
        let other = rng.below(last as u64 + 1);
        victims.swap(last, usize::try_from(other).unwrap());
    }
    victims
}

#[derive(Default)]
struct Tally {
    book: Book,
    victims: BTreeMap<Victim, u64>,
}

impl Tally {
    fn count(&mut self, victim: Victim) {
        *self.victims.entry(victim).or_default() += 1;
    }

    fn tell(&self, rounds: u64, took: Duration) {
        let (acknowledged, unknown) = (self.book.count_acknowledged, self.book.count_unknown);
        eprintln!("{rounds} rounds in {took:.0?}, {acknowledged} commands acknowledged, {unknown} without an outcome");
        for (victim, times) in &self.victims {
            eprintln!("  {victim:?}: {times} times");
        }
    }
}

// -------------------------------------------------------------------- cluster

struct Cluster {
    events: Process,
    views: Mongo,
    writers: Vec<Process>,
    projectors: Vec<Process>,
    readers: Vec<Process>,
}

impl Cluster {
    async fn start(folder: &Path) -> Self {
        let port = ports::free().unwrap();
        let events = Program::new(programs().join("esdb-testd"), folder)
            .arg("--listen")
            .arg(&format!("127.0.0.1:{port}"))
            .arg("--data")
            .arg(folder.join("log").to_str().unwrap());
        let events = events.start().await.unwrap();
        let views = mongo::Options { folder: Some(folder.join("views")), ..mongo::Options::default() };
        let mut views = Mongo::start_or_skip(views).unwrap();
        // One that was killed before it ever ended by itself may not start again.
        views.stop().unwrap();
        views.start_again().unwrap();
        let program = |name: &str| {
            Program::new(programs().join(name), folder)
                .var("EVENTSTORE_HOST", &format!("127.0.0.1:{port}"))
                .var("MONGODB_HOST", &views.address().to_string())
                .var("AWAIT_TIMEOUT_MS", "300")
        };
        let named = ["eventstore-svc", "projector-svc", "projection-svc"].map(program);
        let mut cluster = Self { events, views, writers: Vec::new(), projectors: Vec::new(), readers: Vec::new() };
        for _ in 0..2 {
            let mut started = Vec::new();
            for program in &named {
                // Each comes back to its port, which must be no client's meanwhile.
                let address = format!("127.0.0.1:{}", ports::free().unwrap());
                started.push(program.clone().var("IP_PORT", &address).start().await.unwrap());
            }
            cluster.readers.extend(started.pop());
            cluster.projectors.extend(started.pop());
            cluster.writers.extend(started.pop());
        }
        cluster.takes_commands().await;
        cluster
    }

    fn process(&mut self, victim: Victim) -> &mut Process {
        match victim {
            Victim::Events => &mut self.events,
            Victim::Writer(n) => &mut self.writers[n],
            Victim::Projector(n) => &mut self.projectors[n],
            Victim::Reader(n) => &mut self.readers[n],
            Victim::Views | Victim::Holder => unreachable!("struck in a way of its own"),
        }
    }

    /// Strikes one in the middle of the load, and tells how.
    async fn strike(&mut self, victim: Victim, rng: &mut Rng) -> String {
        tokio::time::sleep(Duration::from_millis(rng.between(200, 700))).await;
        if victim == Victim::Holder {
            return self.pause_the_holder().await;
        }
        let kill = rng.chance(75);
        let away = Duration::from_millis(if kill { rng.below(600) } else { rng.between(300, 3_000) });
        match (victim, kill) {
            (Victim::Views, true) => {
                self.views.kill().unwrap();
                tokio::time::sleep(away).await;
                self.views.start_again().unwrap();
            }
            (Victim::Views, false) => {
                self.views.pause().unwrap();
                tokio::time::sleep(away).await;
                self.views.go_on().unwrap();
            }
            (_, true) => {
                let process = self.process(victim);
                process.kill();
                tokio::time::sleep(away).await;
                process.start().await;
            }
            (_, false) => {
                let process = self.process(victim);
                process.signal("STOP");
                tokio::time::sleep(away).await;
                process.signal("CONT");
            }
        }
        let begun = Instant::now();
        self.takes_commands().await;
        let how = if kill { "killed, away" } else { "paused" };
        format!("{how} for {away:.0?}, commands are taken {:.0?} after its return", begun.elapsed())
    }

    /// A holder that knows nothing of its lease's end comes back, and is one too many.
    async fn pause_the_holder(&mut self) -> String {
        let holder = self.holder(None).await;
        self.projectors[holder].signal("STOP");
        let begun = Instant::now();
        self.holder(Some(holder)).await;
        let taken = begun.elapsed();
        tokio::time::sleep(Duration::from_millis(500)).await;
        self.projectors[holder].signal("CONT");
        self.takes_commands().await;
        format!("projector {holder} paused, the other took over after {taken:.0?}")
    }

    /// The projector that works, once one does that is not this one.
    async fn holder(&self, other_than: Option<usize>) -> usize {
        let begun = Instant::now();
        loop {
            for (n, projector) in self.projectors.iter().enumerate().filter(|(n, _)| Some(*n) != other_than) {
                let metrics = Client::new(projector.reached(0)).get("/metrics", &[]).text();
                if metrics.lines().any(|line| line == "qaservice_projection_working 1") {
                    return n;
                }
            }
            assert!(begun.elapsed() < RECOVERY, "no projector works");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until each replica of the write side takes a command.
    async fn takes_commands(&self) {
        let begun = Instant::now();
        for writer in &self.writers {
            let mut client = Client::new(writer.reached(0));
            while !client.send("PUT", "/answers/probe", &[], br#"{"value":"v"}"#).is_ok_and(|reply| reply.status < 300)
            {
                assert!(begun.elapsed() < RECOVERY, "no command is taken");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    // ------------------------------------------------------------ comparing

    /// The log against the book, and the views against the log.
    async fn compare(&mut self, book: &mut Book, which: Which) {
        let mut log = Client::new(self.writers[0].reached(0));
        book.check_histories_of(&mut log, &if which == Which::All { book.keys() } else { book.touched() });
        let mut rows = book.fold();
        // What the probes wrote is a row as others are.
        let probe = book::history(&mut log, "probe");
        let probe = probe.last().expect("there were probes");
        rows.insert("probe".to_owned(), (probe.value.clone(), probe.revision));
        let position = book.largest_position().max(probe.position);
        // The views have a while to come as far, whoever was struck last.
        let begun = Instant::now();
        for reader in &self.readers {
            let mut reader = Client::new(reader.reached(0));
            book::check_views(&mut reader, &rows, position);
            assert_pages(&mut reader, &rows, position);
            let keys = if which == Which::All { book.keys() } else { rows.keys().cloned().collect() };
            for key in keys {
                assert_row(&mut reader, &key, rows.get(&key), position);
            }
        }
        let took = begun.elapsed();
        eprintln!("{} rows on each of {} readers are as the log says, {took:.0?}", rows.len(), self.readers.len());
        self.all_ready().await;
    }

    /// Nobody was restarted but by this test, and all are well.
    async fn all_ready(&mut self) {
        let begun = Instant::now();
        for process in [&mut self.writers, &mut self.projectors, &mut self.readers].into_iter().flatten() {
            assert!(process.is_running(), "it ended by itself: {}", process.log());
            assert!(!process.log().contains("panicked at"), "{}", process.log());
            let mut client = Client::new(process.reached(0));
            loop {
                let reply = client.get("/readyz", &[]);
                if reply.status == 200 {
                    break;
                }
                assert!(begun.elapsed() < RECOVERY, "not ready: {}", reply.text());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// Histories of keys that a command went to since the last time, and all rows.
    Touched,
    All,
}

/// The same in small pages.
fn assert_pages(reader: &mut Client, rows: &BTreeMap<String, (String, u64)>, position: u64) {
    let position = position.to_string();
    let mut expected = rows.iter();
    let mut cursor = String::new();
    loop {
        let page = reader.get(&format!("/answers?limit=7{cursor}"), &[("await-position", &position)]);
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        for row in page["answers"].as_array().unwrap() {
            let (key, (value, _)) = expected.next().unwrap_or_else(|| panic!("too many rows: {row}"));
            assert_eq!((row["key"].as_str(), row["value"].as_str()), (Some(&key[..]), Some(&value[..])));
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
    }
    assert_eq!(expected.next(), None, "rows are missing");
}

fn assert_row(reader: &mut Client, key: &str, row: Option<&(String, u64)>, position: u64) {
    let reply = reader.get(&format!("/answers/{}", encoded(key)), &[("await-position", &position.to_string())]);
    assert!(reply.position() >= Some(position), "{key:?}: {:?} is before {position}", reply.position());
    match row {
        Some((value, revision)) => {
            assert_eq!(reply.status, 200, "{key:?}: {}", reply.text());
            assert_eq!(reply.json()["value"].as_str(), Some(&value[..]), "{key:?}");
            assert_eq!(reply.revision(), Some(*revision), "ETag of {key:?}");
        }
        None => assert_eq!(reply.status, 404, "{key:?}: {}", reply.text()),
    }
}

// ----------------------------------------------------------------------- load

/// What became of requests, as far as it is known.
type Log = Arc<Mutex<Vec<(Request, Vec<Outcome>)>>>;

/// Writers at work, until they are told to stop.
struct Load {
    stopping: Arc<AtomicBool>,
    log: Log,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster, rng: &mut Rng, generation: usize, deck: usize) -> Self {
        let (stopping, log) = (Arc::new(AtomicBool::new(false)), Log::default());
        let hot: Vec<_> = (0..HOT_KEYS).map(|n| format!("g{generation}/hot/{n} 🔑")).collect();
        let addresses = |processes: &[Process]| processes.iter().map(|process| process.reached(0)).collect::<Vec<_>>();
        let (to, from) = (addresses(&cluster.writers), addresses(&cluster.readers));
        let writers = (0..WRITERS).map(|n| {
            let own = (0..OWN_KEYS).map(|key| format!("g{generation}/{n}/{key}")).collect();
            let writer = Writer {
                requests: Requests::on_keys(rng.fork(), &format!("d{deck}w{n}"), &hot, own, 600),
                rng: rng.fork(),
                to: clients(&to),
                from: clients(&from),
                stopping: Arc::clone(&stopping),
                log: Arc::clone(&log),
            };
            thread::spawn(move || writer.work())
        });
        let writers = writers.collect();
        Self { stopping, log, writers }
    }

    fn goes_on(&self) {
        assert!(!self.writers.iter().any(JoinHandle::is_finished), "a writer failed");
    }

    fn stop(mut self, book: &mut Book) {
        self.stopping.store(true, Ordering::SeqCst);
        for writer in self.writers.drain(..) {
            writer.join().expect("a writer does not fail");
        }
        for (request, outcomes) in self.log.lock().expect("not poisoned").drain(..) {
            book.record(&request, &outcomes);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
    }
}

fn clients(addresses: &[SocketAddr]) -> Vec<Client> {
    addresses.iter().copied().map(Client::new).collect()
}

struct Writer {
    requests: Requests,
    rng: Rng,
    to: Vec<Client>,
    from: Vec<Client>,
    stopping: Arc<AtomicBool>,
    log: Log,
}

impl Writer {
    fn work(mut self) {
        while !self.stopping.load(Ordering::SeqCst) {
            let request = self.requests.next();
            let outcomes = if request.idempotency_key.is_some() { self.repeat(&request) } else { self.send(&request) };
            if self.rng.chance(25) {
                self.read_back(&request, &outcomes);
            }
            let settled = outcomes.iter().all(is_definite);
            self.log.lock().expect("not poisoned").push((request, outcomes));
            // A database that is away is not asked in a tight loop.
            thread::sleep(Duration::from_millis(if settled { self.rng.below(20) } else { 50 }));
        }
    }

    /// To either replica.
    fn send(&mut self, request: &Request) -> Vec<Outcome> {
        let to = self.rng.below(self.to.len() as u64);
        request.send(&mut self.to[usize::try_from(to).expect("fits")])
    }

    /// Until each command's outcome is definite, and now and then once more: what was
    /// told before must be told again.
    fn repeat(&mut self, request: &Request) -> Vec<Outcome> {
        let begun = Instant::now();
        let mut known: Vec<Option<Outcome>> = vec![None; request.ops.len()];
        let mut again = self.rng.below(4);
        loop {
            let outcomes = self.send(request);
            for ((known, outcome), op) in known.iter_mut().zip(&outcomes).zip(&request.ops) {
                if !is_definite(outcome) {
                    continue;
                }
                match known {
                    Some(known) => assert!(same(known, outcome), "{op:?} had {known:?}, and repeated {outcome:?}"),
                    None => *known = Some(outcome.clone()),
                }
            }
            if known.iter().all(Option::is_some) {
                if again != 1 {
                    return known.into_iter().flatten().collect();
                }
                again = 0;
            }
            assert!(begun.elapsed() < DEFINITE, "no outcome in {DEFINITE:?}: {outcomes:?} of {request:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whoever awaits the position of what it wrote reads nothing older.
    fn read_back(&mut self, request: &Request, outcomes: &[Outcome]) {
        let Some((op, Outcome::Done { revision, position, .. })) = request.ops.iter().zip(outcomes).next_back() else {
            return;
        };
        let from = usize::try_from(self.rng.below(self.from.len() as u64)).expect("fits");
        let path = format!("/answers/{}", encoded(&op.key));
        let read = self.from[from].send("GET", &path, &[("await-position", &position.to_string())], b"");
        // It may just be away, or the projection behind.
        let Ok(reply) = read else { return };
        if !reply.complete || reply.status == 503 {
            return;
        }
        let at = reply.position();
        assert!([200, 404].contains(&reply.status), "{op:?}: {} {}", reply.status, reply.text());
        assert!(at >= Some(*position), "{op:?} at {position} was read at {at:?}");
        let read = reply.revision().filter(|_| reply.status == 200);
        assert!(read.is_none_or(|read| read >= *revision), "{op:?} of revision {revision} was read at {read:?}");
        if read == Some(*revision) {
            assert_eq!(reply.json()["value"].as_str(), Some(&op.value[..]), "{op:?}");
        }
        // Without a row it was deleted later, or is the deletion.
        assert!(read.is_some() || op.value.is_empty() || at > Some(*position), "{op:?} at {position} is not there");
    }
}

fn is_definite(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Done { .. } => true,
        Outcome::Refused(503, _) | Outcome::Unknown(_) => false,
        Outcome::Refused(_, why) => !why.contains("in progress"),
    }
}

/// All but the wording of a refusal.
fn same(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Outcome::Refused(one, _), Outcome::Refused(other, _)) => one == other,
        _ => one == other,
    }
}
