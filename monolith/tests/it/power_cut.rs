//! A power cut: a kill leaves the page cache alone, so strace watches the
//! service, and the folder is built again from only those bytes that a sync
//! had covered. Two claims: no success is sent before a sync that began after
//! its event was written; and each such folder opens with every event that had
//! been acknowledged.
//!
//! `QASERVICE_POWER_CUT_COMMANDS`, `QASERVICE_POWER_CUT_VALUE` (bytes) and
//! `QASERVICE_POWER_CUT_MOMENTS` make it larger.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use serde_json::Value;

use super::crash_support::{
    Launch, Rng,
    book::{Book, Kind, Op, Outcome, Request, Requests, Verb},
    env_number, seed, skip, strace_works,
    trace::{Moment, Occurrence, STRACE, Sent, Survives, Trace, Written, find},
};

const WRITERS: u64 = 6;
/// How a value begins: `tok` and 32 hexadecimal digits that no other has.
const TOKEN: &[u8] = b"tok";
const TOKEN_LENGTH: usize = 32;
/// Larger values the journal compresses, which may cut a token in two; what
/// becomes of those is seen in the folders that are built again.
const COMPRESSED: usize = 1000;

#[test]
fn nothing_is_acknowledged_before_its_sync_and_all_of_it_survives() {
    const TEST: &str = "power_cut";
    if let Err(why) = strace_works() {
        return skip(TEST, &why);
    }
    let mut rng = Rng::new(seed(TEST));
    let folder = tempfile::tempdir().expect("a folder");
    // strace prints real paths.
    let folder = folder.path().canonicalize().expect("there");
    let (root, file) = (folder.join("root"), folder.join("trace"));
    std::fs::create_dir(&root).expect("can be made");

    let begun = Instant::now();
    let log = traced_load(&root, &file, &mut rng);
    eprintln!("{} requests under strace in {:?}", log.len(), begun.elapsed());

    let begun = Instant::now();
    let trace = Trace::read(&file, &root);
    let differences = trace.differences(&folder.join("whole"));
    assert!(differences.is_empty(), "the trace does not explain the folder: {differences:#?}");
    let acknowledged = acknowledgements(&trace);
    eprintln!(
        "{} lines of trace read in {:?}: {} acknowledgements, {} syncs",
        trace.last,
        begun.elapsed(),
        acknowledged.len(),
        trace.syncs.len()
    );

    let events = Acknowledged::of(&log);
    let checked = assert_synced_before_sent(&trace, &acknowledged, &events);
    eprintln!("{checked} acknowledgements were sent after a sync of their event");
    assert!(checked > 200, "hardly any acknowledgement was checked: {checked}");

    let begun = Instant::now();
    let moments = moments(&trace, &acknowledged, &mut rng);
    for (number, &at) in moments.iter().enumerate() {
        let mut survives = vec![if number % 2 == 0 { Survives::Nothing } else { Survives::Names }, Survives::Some];
        if number == 0 {
            survives = vec![Survives::Nothing, Survives::Names, Survives::Some, Survives::Some];
        }
        for survives in survives {
            let target = folder.join("cut");
            trace.rebuild(&target, at, survives, &mut rng);
            assert_opens_with_all(&target, at, survives, &log, &acknowledged);
            std::fs::remove_dir_all(&target).expect("can be removed");
        }
    }
    eprintln!("{} moments in {:?}", moments.len(), begun.elapsed());
}

/// Before the first acknowledgement nothing is promised but that the folder
/// can be used: a power cut in the very first start must not lock it for good.
#[test]
fn a_cut_during_the_first_start_leaves_a_folder_that_opens() {
    const TEST: &str = "power_cut_first_start";
    if let Err(why) = strace_works() {
        return skip(TEST, &why);
    }
    let mut rng = Rng::new(seed(TEST));
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("there");
    let (root, file) = (folder.join("root"), folder.join("trace"));
    std::fs::create_dir(&root).expect("can be made");
    let mut arguments = STRACE.to_vec();
    arguments.extend(["-o", file.to_str().expect("UTF-8")]);
    Launch::on(&root.join("data")).strace(&arguments).start().kill();
    let trace = Trace::read(&file, &root);
    let first = trace.opened.first().map_or(1, |(_, moment)| *moment);
    for number in 0..env_number("QASERVICE_POWER_CUT_MOMENTS", 20) {
        let at = rng.between(first, trace.last);
        let survives = match number % 4 {
            0 => Survives::Nothing,
            1 => Survives::Names,
            _ => Survives::Some,
        };
        let target = folder.join("cut");
        trace.rebuild(&target, at, survives, &mut rng);
        let mut service = match Launch::on(&target.join("data")).try_start() {
            Ok(service) => service,
            Err(failure) => panic!(
                "a folder that the power left in its first start (line {at} of {}, {survives:?}) does not open: {failure:#?}\n{}",
                trace.last,
                listing(&target)
            ),
        };
        let outcomes = Request::one(Verb::Put, "key", "tok").send(&mut service.client());
        assert!(matches!(outcomes[..], [Outcome::Done { revision: 0, .. }]), "{outcomes:?}");
        service.kill();
        std::fs::remove_dir_all(&target).expect("can be removed");
    }
}

type Log = Vec<(Request, Vec<Outcome>)>;

/// Works on the service under strace, and kills it in mid-work.
fn traced_load(root: &Path, file: &Path, rng: &mut Rng) -> Log {
    let commands = env_number("QASERVICE_POWER_CUT_COMMANDS", 1500);
    let max_value = env_number("QASERVICE_POWER_CUT_VALUE", 12_000);
    let mut arguments = STRACE.to_vec();
    arguments.extend(["-o", file.to_str().expect("UTF-8")]);
    // The service makes its folder itself: that name must be synced as well.
    let mut service = Launch::on(&root.join("data")).strace(&arguments).start();
    let ending = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicU64::new(0));
    let log = Arc::new(Mutex::new(Vec::new()));
    let hot: Vec<_> = (0..4).map(|n| format!("hot {n}")).collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let mut requests = Requests::new(rng.fork(), &format!("w{writer}"), &hot, max_value);
            let mut client = service.client();
            let (ending, done, log) = (Arc::clone(&ending), Arc::clone(&done), Arc::clone(&log));
            thread::spawn(move || {
                let mut number = 0;
                while !ending.load(Ordering::SeqCst) {
                    number += 1;
                    let request = if number % 16 == 0 {
                        // Deleted once, and by nobody else: what is written of it
                        // after its create was answered is the deletion.
                        Request::one(Verb::Delete, &once_key(writer, number - 1), "")
                    } else if number % 16 == 15 {
                        let value = format!("tok{:032x}", (u128::from(writer) << 64) + u128::from(number));
                        Request::one(Verb::Create, &once_key(writer, number), &value)
                    } else {
                        requests.next()
                    };
                    let outcomes = request.send(&mut client);
                    done.fetch_add(outcomes.len() as u64, Ordering::SeqCst);
                    log.lock().expect("not poisoned").push((request, outcomes));
                }
            })
        })
        .collect();
    while done.load(Ordering::SeqCst) < commands {
        assert!(!writers.iter().all(thread::JoinHandle::is_finished), "the writers ended early");
        thread::sleep(std::time::Duration::from_millis(2));
    }
    ending.store(true, Ordering::SeqCst);
    service.kill();
    for writer in writers {
        writer.join().expect("a writer does not panic");
    }
    let log = std::mem::take(&mut *log.lock().expect("not poisoned"));
    let refused =
        log.iter().flat_map(|(_, outcomes)| outcomes).find(|outcome| matches!(outcome, Outcome::Refused(503, _)));
    assert_eq!(refused, None, "503 before the end");
    log
}

fn once_key(writer: u64, number: u64) -> String {
    format!("once/{writer}/{number}.")
}

/// When a success was begun to be sent, by the position that it named.
pub(crate) type Sendings = BTreeMap<u64, Moment>;

/// All successes of commands that were sent, from the bytes on the sockets.
pub(crate) fn acknowledgements(trace: &Trace) -> Sendings {
    let mut found = Sendings::new();
    for sent in trace.sent.values().filter(|sent| sent.bytes.starts_with(b"HTTP/1.1 ")) {
        each_success(sent, &mut |position, moment| {
            let first = found.entry(position).or_insert(moment);
            *first = moment.min(*first);
        });
    }
    found
}

/// Takes the replies of one connection apart.
fn each_success(sent: &Sent, take: &mut dyn FnMut(u64, Moment)) {
    let bytes = &sent.bytes;
    let mut at = 0;
    while at < bytes.len() {
        assert!(
            bytes[at..].starts_with(b"HTTP/1.1 "),
            "not a reply: {:?}",
            String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 80)])
        );
        let Some(length) = find(&bytes[at..], b"\r\n\r\n") else { return };
        let head = String::from_utf8_lossy(&bytes[at..at + length]).to_ascii_lowercase();
        let header =
            |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        let status: u16 = head[9..12].parse().expect("a status");
        let mut body = at + length + 4;
        if let Some(position) = header("event-position")
            && (200..300).contains(&status)
        {
            // A single command's; the events' own write is what counts, even
            // where only the first byte of this was sent.
            take(position.parse().expect("a position"), sent.begun(at));
        }
        if header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            body = each_line(sent, body, take);
        } else if let Some(length) = header("content-length") {
            body += length.parse::<usize>().expect("a length");
        }
        at = body;
    }
}

/// The lines of a chunked NDJSON body; returns where it ends.
fn each_line(sent: &Sent, mut at: usize, take: &mut dyn FnMut(u64, Moment)) -> usize {
    let bytes = &sent.bytes;
    let (mut line, mut begun) = (Vec::new(), None);
    loop {
        let Some(length) = bytes.get(at..).and_then(|rest| find(rest, b"\r\n")) else { return bytes.len() };
        let size = std::str::from_utf8(&bytes[at..at + length]).expect("ASCII");
        let size = usize::from_str_radix(size, 16).expect("a chunk's size");
        at += length + 2;
        let end = (at + size).min(bytes.len());
        for (offset, &byte) in bytes.iter().enumerate().take(end).skip(at) {
            begun.get_or_insert_with(|| sent.begun(offset));
            if byte != b'\n' {
                line.push(byte);
                continue;
            }
            let moment = begun.take().expect("just set");
            if let Ok(Value::Object(line)) = serde_json::from_slice::<Value>(&line)
                && line.get("status").and_then(Value::as_u64).is_some_and(|status| (200..300).contains(&status))
            {
                take(line.get("position").and_then(Value::as_u64).expect("a position"), moment);
            }
            line.clear();
        }
        at += size + 2;
        if size == 0 {
            return at;
        }
    }
}

/// What the clients were told, by position.
struct Acknowledged<'a>(HashMap<u64, (&'a Op, Kind)>);

impl<'a> Acknowledged<'a> {
    fn of(log: &'a Log) -> Self {
        let outcomes = log.iter().flat_map(|(request, outcomes)| request.ops.iter().zip(outcomes));
        Self(
            outcomes
                .filter_map(|(op, outcome)| match outcome {
                    Outcome::Done { kind, position, .. } => Some((*position, (op, *kind))),
                    Outcome::Refused(..) | Outcome::Unknown(_) => None,
                })
                .collect(),
        )
    }
}

/// The first claim; returns for how many acknowledgements it was held.
fn assert_synced_before_sent(trace: &Trace, sendings: &Sendings, acknowledged: &Acknowledged<'_>) -> usize {
    let journals = trace.written(".jnl");
    assert!(!journals.is_empty(), "no journal was written");
    let tokens: Vec<_> = journals.iter().map(|journal| journal.occurrences(TOKEN, TOKEN_LENGTH)).collect();
    let mut checked = 0;
    // Where the create of a key that is deleted once was acknowledged.
    let mut created = HashMap::new();
    for (position, (op, kind)) in &acknowledged.0 {
        if *kind == Kind::Create {
            created.insert(op.key.as_str(), sendings.get(position).copied());
        }
    }
    for (position, (op, kind)) in &acknowledged.0 {
        let sent = sendings.get(position).copied();
        let sent =
            sent.unwrap_or_else(|| panic!("the client got position {position}, but the trace shows no such success"));
        let places: Vec<(&Written<'_>, Occurrence)> = if *kind == Kind::Delete {
            let Some(after) = created.get(op.key.as_str()).copied().flatten().filter(|_| op.key.starts_with("once/"))
            else {
                continue;
            };
            let places = journals
                .iter()
                .flat_map(|journal| journal.places(op.key.as_bytes()).into_iter().map(move |place| (journal, place)));
            places.filter(|(_, place)| place.begun > after).collect()
        } else {
            let token = &op.value.as_bytes()[..TOKEN.len() + TOKEN_LENGTH];
            let places = journals.iter().zip(&tokens);
            places
                .flat_map(|(journal, tokens)| {
                    tokens.get(token).into_iter().flatten().map(move |place| (journal, *place))
                })
                .collect()
        };
        if places.is_empty() && op.value.len() > COMPRESSED {
            continue;
        }
        let before: Vec<_> = places.iter().filter(|(_, place)| place.begun < sent).collect();
        assert!(
            !before.is_empty(),
            "position {position} ({kind:?} of {:?}) was acknowledged at line {sent}, and no journal held it then; places: {:?}",
            op.key,
            places.iter().map(|(journal, place)| (&journal.name, place)).collect::<Vec<_>>()
        );
        for (journal, place) in before {
            assert!(
                place.ended.is_some_and(|written| journal.synced_between(written, sent)),
                "position {position} ({kind:?} of {:?}) was acknowledged at line {sent} of the trace without a sync of {} between its write ({place:?}) and that",
                op.key,
                journal.name
            );
        }
        checked += 1;
    }
    checked
}

/// The last moment, moments just as a success is being sent (what it promises
/// was synced at the latest possible time), just as a journal's sync begins
/// (what was written before it can be torn), and others.
fn moments(trace: &Trace, sendings: &Sendings, rng: &mut Rng) -> Vec<Moment> {
    let sent: Vec<_> = sendings.values().copied().collect();
    let first = *sent.iter().min().expect("something was acknowledged");
    let syncs = trace.syncs.iter().filter(|sync| sync.path.ends_with(".jnl") && sync.begun > first);
    let syncs: Vec<_> = syncs.map(|sync| sync.begun).collect();
    let count = env_number("QASERVICE_POWER_CUT_MOMENTS", 20);
    let mut moments = vec![trace.last + 1, first + 1];
    for number in 2..count {
        moments.push(match number % 5 {
            0 | 1 => rng.pick(&sent) + 1,
            2 | 3 => *rng.pick(&syncs),
            _ => rng.between(first, trace.last),
        });
    }
    moments
}

/// The second claim, for one folder.
fn assert_opens_with_all(target: &Path, at: Moment, survives: Survives, log: &Log, sendings: &Sendings) {
    let mut book = Book::default();
    for (request, outcomes) in log {
        let known: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                // A line that was sent later may be there or not.
                Outcome::Done { position, .. } if sendings[position] >= at => Outcome::Unknown("later".to_owned()),
                other => other.clone(),
            })
            .collect();
        book.record(request, &known);
    }
    let mut service = match Launch::on(&target.join("data")).try_start() {
        Ok(service) => service,
        Err(failure) => panic!(
            "the folder of a power cut (line {at}, {survives:?}, {} acknowledged) does not open: {:?}\n{}\n{}",
            book.count_acknowledged,
            failure.status,
            failure.log,
            listing(target)
        ),
    };
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        book.check_all(&mut service.client(), &mut service.reader());
    }));
    if let Err(panic) = checked {
        eprintln!(
            "after a power cut at line {at}, {survives:?}, {} acknowledged; the folder was\n{}",
            book.count_acknowledged,
            listing(target)
        );
        eprintln!("--- the service's log\n{}", service.log_text());
        std::panic::resume_unwind(panic);
    }
    // It takes commands too.
    let outcomes = Request::one(Verb::Put, "after the power cut", "tok").send(&mut service.client());
    assert!(matches!(outcomes[..], [Outcome::Done { revision: 0, .. }]), "{outcomes:?}");
    service.kill();
}

fn listing(folder: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let length = entry.metadata().map_or(0, |metadata| metadata.len());
            writeln!(text, "{} {length}", entry.path().display()).expect("a string takes it");
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
    text
}
