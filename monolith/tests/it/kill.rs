//! `kill -9` under load, and SIGTERM: what was acknowledged is there
//! afterwards, what was refused is not, what is unknown happened once or never.
//!
//! `QASERVICE_KILL_ROUNDS` sets how many rounds, `QASERVICE_SEED` repeats a run.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::crash_support::{
    Client, Launch, Rng, Service,
    book::{Book, Outcome, Request, Requests},
    env_number, seed,
};

const WRITERS: u64 = 8;
/// How long a repetition may be told that the first is still under way.
const IN_PROGRESS: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    Terminate,
}

#[test]
fn kill_9_under_load_loses_and_invents_nothing() {
    let mut rng = Rng::new(seed("kill_9_under_load"));
    run(&mut rng, env_number("QASERVICE_KILL_ROUNDS", 12), End::Kill);
}

#[test]
fn sigterm_under_load_ends_well_and_loses_nothing() {
    let mut rng = Rng::new(seed("sigterm_under_load"));
    run(&mut rng, env_number("QASERVICE_KILL_ROUNDS", 12).div_ceil(4), End::Terminate);
}

/// A kill in the middle of a start, again and again: a start repairs, and a
/// repair that is cut off must not cost what it was to keep.
#[test]
fn kill_9_during_the_start_loses_nothing() {
    let mut rng = Rng::new(seed("kill_9_during_the_start"));
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut book = Book::default();
    let mut repeatable = Vec::new();
    let hot = hot_keys();
    for round in 0..env_number("QASERVICE_KILL_ROUNDS", 12).div_ceil(4) {
        let mut service = Launch::on(&data).start();
        load(&mut service, &mut rng, round, &hot, End::Kill, &mut book, &mut repeatable);
        for _ in 0..4 {
            let log = Launch::on(&data).start_and_kill(Duration::from_millis(rng.below(250)));
            assert!(!log.contains("panicked at"), "{log}");
        }
        let mut service = Launch::on(&data).start();
        book.check_acknowledged(&mut service.client());
        repeat(&mut service, &mut rng, &mut book, &mut repeatable);
        book.check_all(&mut service.client(), &mut service.reader());
        service.kill();
    }
}

fn hot_keys() -> Vec<String> {
    let mut keys: Vec<_> = (0..6).map(|n| format!("hot {n}")).collect();
    keys.extend(["a/b".to_owned(), "batch".to_owned(), "schlüssel 🔑%2F?&=#".to_owned()]);
    keys
}

fn run(rng: &mut Rng, rounds: u64, end: End) {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let hot = hot_keys();
    let mut book = Book::default();
    for round in 0..rounds {
        let mut repeatable = Vec::new();
        let before = (book.count_acknowledged, book.count_unknown);
        let mut service = Launch::on(&data).start();
        load(&mut service, rng, round, &hot, end, &mut book, &mut repeatable);
        let begun = Instant::now();
        let mut service = Launch::on(&data).start();
        let start = begun.elapsed();
        let unknown = repeatable.iter().filter(|(_, outcomes)| outcomes.iter().any(is_unknown)).count();
        book.check_acknowledged(&mut service.client());
        repeat(&mut service, rng, &mut book, &mut repeatable);
        book.check_all(&mut service.client(), &mut service.reader());
        eprintln!(
            "round {round} ({end:?}): {} acknowledged, {} unknown ({unknown} requests repeated), started again in {start:?}",
            book.count_acknowledged - before.0,
            book.count_unknown - before.1,
        );
        drop(service);
    }
    assert!(book.count_acknowledged > rounds * 20, "hardly any load: {}", book.count_acknowledged);
}

fn is_unknown(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unknown(_))
}

/// Requests that may be repeated, with the outcome that they had.
type Repeatable = Vec<(Request, Vec<Outcome>)>;

/// Lets writers work until the service is ended at a random moment.
fn load(
    service: &mut Service,
    rng: &mut Rng,
    round: u64,
    hot: &[String],
    end: End,
    book: &mut Book,
    repeatable: &mut Repeatable,
) {
    let ending = Arc::new(AtomicBool::new(false));
    let log = Arc::new(Mutex::new(Vec::new()));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            // Values now and then larger than the journal's buffer and the
            // threshold of compression.
            let mut requests = Requests::new(rng.fork(), &format!("r{round}w{writer}"), hot, 60_000);
            let (mut client, ending, log) = (service.client(), Arc::clone(&ending), Arc::clone(&log));
            thread::spawn(move || {
                loop {
                    let request = requests.next();
                    let outcomes = request.send(&mut client);
                    let cut_off = outcomes.iter().any(is_unknown);
                    let failed = cut_off && !ending.load(Ordering::SeqCst);
                    let shown =
                        format!("{:?} of {:?}", outcomes.iter().find(|outcome| is_unknown(outcome)), request.ops[0]);
                    log.lock().expect("not poisoned").push((request, outcomes));
                    assert!(!failed, "unknown before the end: {shown}");
                    if cut_off || ending.load(Ordering::SeqCst) {
                        return;
                    }
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(rng.between(15, 900)));
    ending.store(true, Ordering::SeqCst);
    match end {
        End::Kill => service.kill(),
        End::Terminate => service.terminate(),
    }
    for writer in writers {
        writer.join().expect("a writer does not fail before the end");
    }
    for (request, outcomes) in log.lock().expect("not poisoned").drain(..) {
        for (op, outcome) in request.ops.iter().zip(&outcomes) {
            if let Outcome::Refused(503, why) = outcome {
                assert!(matches!(end, End::Terminate), "503 before the end: {why} for {op:?}");
            }
        }
        book.record(&request, &outcomes);
        if request.idempotency_key.is_some() {
            repeatable.push((request, outcomes));
        }
    }
}

/// Repeats what had an unknown outcome, and some of what had a known one.
fn repeat(service: &mut Service, rng: &mut Rng, book: &mut Book, repeatable: &mut Repeatable) {
    let mut client = service.client();
    for (request, first) in repeatable.drain(..) {
        let unknown = first.iter().any(is_unknown);
        // A 503 is not kept: its repetition would be a new command.
        let kept = first.iter().all(|outcome| !matches!(outcome, Outcome::Refused(503, _)));
        if !unknown && (!kept || !rng.chance(15)) {
            continue;
        }
        let second = until_known(&request, &mut client);
        for ((op, first), second) in request.ops.iter().zip(&first).zip(&second) {
            match first {
                Outcome::Unknown(_) | Outcome::Refused(503, _) => {}
                first => assert_eq!(status(first), status(second), "repeated with its key: {op:?}"),
            }
        }
        book.resolve(&request, &first, &second);
        let third = until_known(&request, &mut client);
        for (second, third) in second.iter().zip(&third) {
            assert_eq!(status(second), status(third), "repeated again: {:?}", request.ops[0]);
        }
    }
}

/// What must be the same in a repetition: all but a refusal's wording.
fn status(outcome: &Outcome) -> Outcome {
    match outcome {
        Outcome::Refused(status, _) => Outcome::Refused(*status, String::new()),
        other => other.clone(),
    }
}

fn until_known(request: &Request, client: &mut Client) -> Vec<Outcome> {
    let begun = Instant::now();
    loop {
        let outcomes = request.send(client);
        let in_progress =
            outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(409, why) if why.contains("in progress")));
        if !in_progress || begun.elapsed() > IN_PROGRESS {
            assert!(
                !in_progress
                    && !outcomes
                        .iter()
                        .any(|outcome| is_unknown(outcome) || matches!(outcome, Outcome::Refused(503, _))),
                "a repetition with its key has no outcome: {outcomes:?} of {:?}",
                request.ops[0]
            );
            return outcomes;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
