//! Disks that are full, that fail and that lie: what the service says then,
//! what it must not lose, and that it comes back by itself where it can.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::crash_support::{
    Client, Launch, Rng, Service,
    book::{Book, Op, Outcome, Request, Requests, Verb},
    copy_folder, seed, skip, strace_works,
    trace::{STRACE, Trace, find},
};

/// A refusal must be quick, not a timeout.
const QUICK: Duration = Duration::from_secs(3);
/// How long the service may take to notice that all is well again.
const RECOVERY: Duration = Duration::from_secs(15);
/// How long a start may take to find out that it must not go on.
const REFUSAL: Duration = Duration::from_secs(30);

// ------------------------------------------------------------------ disk full

#[test]
fn below_the_reserve_commands_are_refused_and_reads_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut book = Book::default();
    let mut service = Launch::on(&data).start();
    write_all(&mut service.client(), &mut book, "before", 20, 100);
    service.terminate();

    let mut service = Launch::on(&data).env("DISK_RESERVE_MB", "100000000").start();
    let mut client = service.client();
    for verb in [Verb::Create, Verb::Update, Verb::Put, Verb::Delete] {
        let value = if verb == Verb::Delete { "" } else { "refused" };
        let mut request = Request::one(verb, "before/1", value);
        request.idempotency_key = Some(format!("{verb:?}"));
        assert_refused_for_the_disk(&request, &mut client);
    }
    let op = Op { verb: Verb::Put, key: "before/1".to_owned(), value: "refused".to_owned() };
    assert_refused_for_the_disk(&Request::batch(vec![op.clone(), op]), &mut client);
    book.check_all(&mut service.client(), &mut service.reader());
    assert!(service.is_running());
}

#[test]
fn a_full_disk_loses_nothing_and_recovers_without_a_restart() {
    const TEST: &str = "full_disk";
    let mut rng = Rng::new(seed(TEST));
    let small = match SmallDisk::mount(96) {
        Ok(small) => small,
        Err(why) => return skip(TEST, &why),
    };
    let data = small.path().join("data");
    let filler = small.path().join("filler");
    let mut book = Book::default();

    // Below the reserve: refused in time.
    let mut service = Launch::on(&data).env("DISK_RESERVE_MB", "16").start();
    let mut client = service.client();
    write_all(&mut client, &mut book, "reserve", 50, 1000);
    fill(&filler, small.free().saturating_sub(8 << 20));
    let begun = Instant::now();
    let mut number = 0;
    loop {
        // The free space may be looked at now and then only.
        number += 1;
        let request = Request::one(Verb::Put, &format!("reserve/late{number}"), &format!("tok-late{number}"));
        let outcomes = request.send(&mut client);
        book.record(&request, &outcomes);
        if matches!(outcomes[..], [Outcome::Refused(503, _)]) {
            assert_refused_for_the_disk(&request, &mut client);
            break;
        }
        assert!(begun.elapsed() < RECOVERY, "commands are taken {RECOVERY:?} below the reserve");
        thread::sleep(Duration::from_millis(50));
    }
    book.check_all(&mut service.client(), &mut service.reader());
    std::fs::remove_file(&filler).expect("can be removed");
    until_taken(&mut service, &mut book, "reserve/after");
    book.check_all(&mut service.client(), &mut service.reader());
    service.terminate();

    // Without a reserve, to the last byte.
    let mut service = Launch::on(&data).env("DISK_RESERVE_MB", "0").start();
    let pid = service.pid();
    for round in 0..3 {
        fill(&filler, small.free().saturating_sub(rng.between(0, 400_000)));
        let reads = Reads::begin(&service, "reserve/1");
        let full = write_until_refused(&mut service, &mut book, &format!("full{round}"), &mut rng);
        assert!(full, "a full disk took everything");
        // Nothing more is taken while it is full.
        thread::sleep(Duration::from_millis(rng.below(500)));
        reads.end();
        std::fs::remove_file(&filler).expect("can be removed");
        until_taken(&mut service, &mut book, &format!("full{round}/after"));
        book.check_all(&mut service.client(), &mut service.reader());
    }
    assert!(service.is_running() && service.pid() == pid, "the same process");
    service.kill();
    let mut service = Launch::on(&data).start();
    book.check_all(&mut service.client(), &mut service.reader());
    service.kill();
}

fn assert_refused_for_the_disk(request: &Request, client: &mut Client) {
    let begun = Instant::now();
    let (outcomes, reply) = request.send_for_reply(client);
    assert!(begun.elapsed() < QUICK, "refused after {:?}", begun.elapsed());
    let reply = reply.expect("an answer");
    for outcome in outcomes {
        let Outcome::Refused(503, why) = outcome else { panic!("not refused: {outcome:?}") };
        assert!(why.contains("disk"), "the error does not name the disk: {why}");
    }
    // A batch says it in its lines.
    if reply.status == 503 {
        let seconds = reply.header("retry-after").expect("Retry-After with a 503");
        let _: u64 = seconds.parse().expect("seconds");
    }
}

/// Several writers go on until one is refused, and a little longer.
fn write_until_refused(service: &mut Service, book: &mut Book, name: &str, rng: &mut Rng) -> bool {
    let refused = Arc::new(AtomicBool::new(false));
    let log = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut requests = Requests::new(rng.fork(), &format!("{name}w{writer}"), &[format!("{name} hot")], 60_000);
            let (mut client, refused, log) = (service.client(), Arc::clone(&refused), Arc::clone(&log));
            thread::spawn(move || {
                let mut left = 20;
                while left > 0 && begun.elapsed() < Duration::from_secs(30) {
                    let request = requests.next();
                    let (outcomes, reply) = request.send_for_reply(&mut client);
                    let reply = reply.expect("a full disk closes no connection");
                    assert!(reply.status != 500 && reply.status != 507, "{} {}", reply.status, reply.text());
                    if outcomes.iter().any(is_503) {
                        refused.store(true, Ordering::SeqCst);
                    }
                    if refused.load(Ordering::SeqCst) {
                        left -= 1;
                    }
                    log.lock().expect("not poisoned").push((request, outcomes));
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("a writer does not panic");
    }
    for (request, outcomes) in log.lock().expect("not poisoned").iter() {
        book.record(request, outcomes);
    }
    refused.load(Ordering::SeqCst)
}

/// Turned away, or begun and failed: both are a 503.
fn is_503(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(503, _) | Outcome::Unknown(_))
}

/// Repeats a command until it is taken; the same process must come back.
fn until_taken(service: &mut Service, book: &mut Book, key: &str) {
    let mut request = Request::one(Verb::Put, key, &format!("tok-{key}"));
    request.idempotency_key = Some(format!("until-taken-{}", key.replace(' ', "-")));
    let mut client = service.client();
    let begun = Instant::now();
    loop {
        let outcomes = request.send(&mut client);
        if matches!(outcomes[..], [Outcome::Done { .. }]) {
            book.record(&request, &outcomes);
            return;
        }
        assert!(service.is_running(), "the process ended");
        assert!(begun.elapsed() < RECOVERY, "no command is taken {RECOVERY:?} later: {outcomes:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// Keys `name/n`, one command after the other.
fn write_all(client: &mut Client, book: &mut Book, name: &str, count: u64, length: usize) {
    for number in 0..count {
        let value = format!("tok-{name}-{number}-{}", "abcdefghij".repeat(length / 10));
        let request = Request::one(Verb::Create, &format!("{name}/{number}"), &value);
        let outcomes = request.send(client);
        assert!(matches!(outcomes[..], [Outcome::Done { .. }]), "{outcomes:?}");
        book.record(&request, &outcomes);
    }
}

/// Reads an answer and its history all the time; each must be a 200.
struct Reads {
    ending: Arc<AtomicBool>,
    reader: thread::JoinHandle<u64>,
}

impl Reads {
    fn begin(service: &Service, key: &str) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let (mut client, flag) = (service.reader(), Arc::clone(&ending));
        let key = key.replace('/', "%2F");
        let reader = thread::spawn(move || {
            let mut count = 0;
            while !flag.load(Ordering::SeqCst) {
                for path in
                    [format!("/answers/{key}"), format!("/answers/{key}/history"), "/answers?limit=3".to_owned()]
                {
                    let begun = Instant::now();
                    let reply = client.get(&path, &[]);
                    assert_eq!(reply.status, 200, "reads must go on: GET {path}: {}", reply.text());
                    assert!(begun.elapsed() < QUICK, "GET {path} took {:?}", begun.elapsed());
                    count += 1;
                }
                thread::sleep(Duration::from_millis(2));
            }
            count
        });
        Self { ending, reader }
    }

    fn end(self) {
        self.ending.store(true, Ordering::SeqCst);
        let count = self.reader.join().expect("reads go on");
        assert!(count > 0, "nothing was read");
    }
}

/// A tmpfs of a few MiB; unmounted when dropped.
struct SmallDisk {
    folder: Option<tempfile::TempDir>,
}

impl SmallDisk {
    fn mount(mib: u64) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|error| format!("mount cannot be started: {error}"))?;
        if !output.status.success() {
            return Err(format!("a tmpfs cannot be mounted: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(Self { folder: Some(folder) })
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().expect("mounted").path()
    }

    /// Free bytes, as `df` tells them.
    fn free(&self) -> u64 {
        let output = Command::new("df").args(["--output=avail", "-B1"]).arg(self.path()).output();
        let output = output.expect("df can be started").stdout;
        let text = String::from_utf8(output).expect("ASCII");
        text.lines().nth(1).and_then(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("df: {text}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Some(folder) = self.folder.take() {
            // Lazily: a process that is still ending may have files open.
            let _ = Command::new("umount").arg("-l").arg(folder.path()).status();
        }
    }
}

/// Makes a file of so many bytes, or as many as there is room for.
fn fill(path: &Path, bytes: u64) {
    use std::io::Write as _;
    let mut file = File::create(path).expect("can be made");
    let block = vec![0x55; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = usize::try_from(left.min(block.len() as u64)).expect("fits");
        if file.write_all(&block[..part]).is_err() {
            return;
        }
        left -= part as u64;
    }
}

// --------------------------------------------------------------- failed syncs

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_until_the_store_was_opened_again() {
    const TEST: &str = "failed_sync";
    if let Err(why) = strace_works() {
        return skip(TEST, &why);
    }
    let mut rng = Rng::new(seed(TEST));
    // strace counts the calls of each thread for itself, so that a writer that
    // begins again in a new thread meets the fault again.
    for when in [3, 20, rng.between(5, 60)] {
        fault(&mut rng, &["-e", &format!("inject=fdatasync:error=EIO:when={when}")], &format!("fdatasync {when}"));
    }
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_until_the_store_was_opened_again() {
    const TEST: &str = "failed_write";
    if let Err(why) = strace_works() {
        return skip(TEST, &why);
    }
    let mut rng = Rng::new(seed(TEST));
    for (error, when) in [("EIO", 4), ("ENOSPC", rng.between(5, 60))] {
        fault(
            &mut rng,
            &["-P", "JOURNAL", "-e", &format!("inject=write:error={error}:when={when}")],
            &format!("{error} {when}"),
        );
    }
}

/// Works on a service one of whose calls fails. `JOURNAL` among the arguments
/// stands for the journal's path, and limits what is traced to it.
fn fault(rng: &mut Rng, arguments: &[&str], name: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().canonicalize().expect("there");
    let (root, file) = (folder.join("root"), folder.join("trace"));
    let data = root.join("data");
    let mut book = Book::default();
    let targeted = arguments.contains(&"JOURNAL");
    if targeted {
        // The journal must have its name before it can be named.
        let mut service = Launch::on(&data).start();
        write_all(&mut service.client(), &mut book, "first", 3, 100);
        service.kill();
    } else {
        std::fs::create_dir(&root).expect("can be made");
    }
    let journal = targeted.then(|| newest_journal(&data));
    let mut all = STRACE.to_vec();
    all.extend(["-o", file.to_str().expect("UTF-8")]);
    all.extend(arguments.iter().map(|&argument| match &journal {
        Some(journal) if argument == "JOURNAL" => journal.to_str().expect("UTF-8"),
        _ => argument,
    }));
    let mut service = Launch::on(&data).strace(&all).start();
    let pid = service.pid();
    until_taken(&mut service, &mut book, "warm");
    let warm = service.reader().get("/answers/warm", &[("await-position", &book_position(&mut service, "warm"))]);
    assert_eq!(warm.status, 200, "{}", warm.text());
    let reads = Reads::begin(&service, "warm");

    let log = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let mut requests = Requests::new(rng.fork(), &format!("w{writer}"), &["hot".to_owned()], 3000);
            let (mut client, log) = (service.client(), Arc::clone(&log));
            thread::spawn(move || {
                let mut refused = false;
                let mut left = 60;
                while left > 0 && begun.elapsed() < RECOVERY {
                    let request = requests.next();
                    let (outcomes, reply) = request.send_for_reply(&mut client);
                    let reply = reply.expect("a failed sync closes no connection");
                    let now = outcomes.iter().any(is_503);
                    assert!(!now || request.batch || reply.header("retry-after").is_some(), "503 without Retry-After");
                    if now {
                        thread::sleep(Duration::from_millis(20));
                    } else {
                        left -= 1;
                    }
                    refused |= now;
                    log.lock().expect("not poisoned").push((request, outcomes));
                }
                refused
            })
        })
        .collect();
    let refused: Vec<_> = writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).collect();
    let log = std::mem::take(&mut *log.lock().expect("not poisoned"));
    let unknown =
        log.iter().flat_map(|(_, outcomes)| outcomes).filter(|outcome| matches!(outcome, Outcome::Unknown(_))).count();
    assert!(
        refused.contains(&true) && unknown > 0,
        "{name}: no command got `outcome unknown`, though a call failed: {refused:?}"
    );
    for (request, outcomes) in &log {
        book.record(request, outcomes);
    }
    until_taken(&mut service, &mut book, "after");
    reads.end();
    assert!(service.is_running() && service.pid() == pid, "the same process");
    for (request, first) in &log {
        // With its key the unknown is told, even though the store was opened anew.
        if request.idempotency_key.is_some() && first.iter().any(|outcome| matches!(outcome, Outcome::Unknown(_))) {
            let (begun, mut client) = (Instant::now(), service.client());
            let second = loop {
                let second = request.send(&mut client);
                // The same fault may strike a new thread of the service too.
                if !second.iter().any(is_503) {
                    break second;
                }
                assert!(begun.elapsed() < RECOVERY, "{name}: repeated with its key: {second:?}");
                thread::sleep(Duration::from_millis(50));
            };
            book.resolve(request, first, &second);
        }
    }
    book.check_all(&mut service.client(), &mut service.reader());
    service.kill();
    if !targeted {
        assert_opened_again_before_the_next_success(&Trace::read(&file, &root), name);
    }
    let mut service = Launch::on(&data).start();
    book.check_all(&mut service.client(), &mut service.reader());
    eprintln!("{name}: {} acknowledged, {unknown} unknown", book.count_acknowledged);
    service.kill();
}

fn book_position(service: &mut Service, key: &str) -> String {
    let reply = service.client().get(&format!("/answers/{key}/history"), &[]);
    reply.position().expect("a position").to_string()
}

/// Between a journal's failed sync and the next success of a command there is
/// an open of a journal. The engine syncs once more when it is closed; nothing may
/// be acknowledged on that.
fn assert_opened_again_before_the_next_success(trace: &Trace, name: &str) {
    let failed: Vec<_> = trace.syncs.iter().filter(|sync| !sync.ok && sync.path.ends_with(".jnl")).collect();
    assert!(!failed.is_empty(), "{name}: no sync of a journal failed");
    let successes = crate::power_cut::acknowledgements(trace);
    for failed in failed {
        let next = trace.syncs.iter().find(|sync| sync.ok && sync.path.ends_with(".jnl") && sync.begun > failed.ended);
        let Some(next) = next else { continue };
        let journals = trace.opened.iter().filter(|(path, _)| path.ends_with(".jnl"));
        let opened = journals.map(|(_, moment)| *moment).find(|moment| *moment > failed.ended);
        let early = successes.values().find(|sent| **sent > next.ended && opened.is_none_or(|opened| **sent < opened));
        assert!(early.is_none(), "{name}: a success was sent at {early:?}: {failed:?}, {next:?}, opened {opened:?}");
    }
}

// --------------------------------------------------------------------- damage

/// The journal of the highest number.
fn newest_journal(data: &Path) -> PathBuf {
    let mut journals = Vec::new();
    let mut folders = vec![data.join("events")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("can be listed") {
            let path = entry.expect("can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jnl") {
                let number: u64 = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok()).expect("a number");
                journals.push((number, path));
            }
        }
    }
    journals.sort();
    journals.pop().expect("a journal").1
}

/// A folder with one event a key, one batch an event, killed.
struct Damaged {
    _folder: tempfile::TempDir,
    data: PathBuf,
    journal: PathBuf,
    book: Book,
    /// Key and value in the order of the journal.
    written: Vec<(String, String)>,
}

impl Damaged {
    fn new(count: u64) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("data");
        let mut service = Launch::on(&data).start();
        let mut client = service.client();
        let (mut book, mut written) = (Book::default(), Vec::new());
        let mut rng = Rng::new(count);
        for number in 0..count {
            let letters: String = (0..600).map(|_| char::from(*rng.pick(b"abcdefghijklmnopqrstuvwxyz"))).collect();
            let (key, value) = (format!("key{number:05}"), format!("tok{number:05}{letters}"));
            let request = Request::one(Verb::Create, &key, &value);
            let outcomes = request.send(&mut client);
            assert!(matches!(outcomes[..], [Outcome::Done { .. }]), "{outcomes:?}");
            book.record(&request, &outcomes);
            written.push((key, value));
        }
        service.kill();
        let journal = newest_journal(&data);
        Self { _folder: folder, data, journal, book, written }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.journal).expect("readable")
    }

    fn overwrite(&self, at: usize, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.journal).expect("writable");
        file.write_all_at(bytes, at as u64).expect("written");
    }

    /// Where the value stands in the journal.
    fn place(&self, number: usize) -> usize {
        find(&self.bytes(), &self.written[number].1.as_bytes()[..100]).expect("the journal holds the value as it is")
    }

    /// A refused start: quickly, with the file and the way out named.
    fn assert_refused(&self, what: &str) {
        let failure = match Launch::on(&self.data).try_start() {
            Ok(mut service) => {
                let lost = self.lost(&mut service);
                panic!("{what}: served, without {lost:?}\n{}", service.log_text());
            }
            Err(failure) => failure,
        };
        self.assert_clear(what, failure.status, &failure.log, failure.took);
    }

    fn assert_clear(&self, what: &str, status: Option<std::process::ExitStatus>, log: &str, took: Duration) {
        assert!(
            status.is_some_and(|status| status.code().is_some_and(|code| code != 0)),
            "{what}: ended with {status:?}\n{log}"
        );
        assert!(took < REFUSAL, "{what}: refused after {took:?}");
        let name = self.journal.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        // Where whole journals may be missing there is only their folder to name.
        let folder = self.data.join("events");
        let missing = log.contains("acknowledged") && log.contains(folder.to_str().expect("UTF-8"));
        assert!(log.contains(name) || missing, "{what}: the message does not name {name}:\n{log}");
        assert!(log.contains("--repair"), "{what}: the message does not name --repair:\n{log}");
        assert!(!log.contains("panicked at"), "{what}: a panic is no message:\n{log}");
    }

    /// Keys whose event is not there.
    fn lost(&self, service: &mut Service) -> Vec<String> {
        let mut client = service.client();
        let lost = self.written.iter().filter(|(key, value)| {
            let reply = client.get(&format!("/answers/{key}/history"), &[]);
            assert!([200, 404].contains(&reply.status), "{}: {}", reply.status, reply.text());
            reply.status == 404 || reply.json()[0]["data"]["value"].as_str() != Some(value)
        });
        lost.map(|(key, _)| key.clone()).collect()
    }

    /// Repairs, starts, and allows only these losses.
    fn assert_repaired(&mut self, what: &str, at_most: usize, among: std::ops::RangeInclusive<usize>) {
        let output = Launch::on(&self.data).repair();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{what}: --repair ended with {}\n{out}\n{err}", output.status);
        assert!(out.contains("drop"), "{what}: --repair does not say what it dropped:\n{out}\n{err}");
        let mut service = Launch::on(&self.data).start();
        let lost = self.lost(&mut service);
        eprintln!("{what}: {lost:?} lost; --repair said:\n{}", out.trim());
        assert!(lost.len() <= at_most, "{what}: {} events lost by damage of 24 bytes: {lost:?}\n{out}", lost.len());
        for key in &lost {
            let number = self.written.iter().position(|(written, _)| written == key).expect("ours");
            assert!(among.contains(&number), "{what}: {key} was lost, far from the damage\n{out}");
        }
        // What was lost can be written again, the rest goes on at its revision.
        let (mut client, mut newest) = (service.client(), 0);
        for (number, (key, _)) in self.written.iter().enumerate().step_by(7) {
            let request = Request::one(Verb::Put, key, &format!("tok-again{number}"));
            let outcomes = request.send(&mut client);
            let expected = u64::from(!lost.contains(key));
            let [Outcome::Done { revision, position, .. }] = outcomes[..] else { panic!("{what}: {outcomes:?}") };
            assert_eq!(revision, expected, "{what}: revision of {key}");
            newest = position;
        }
        service.kill();
        let mut service = Launch::on(&self.data).start();
        assert_eq!(self.lost(&mut service), lost, "{what}: after another start");
        let reply = service.reader().get("/answers?limit=1000", &[("await-position", &newest.to_string())]);
        assert_eq!(reply.status, 200, "{what}: {}", reply.text());
        assert_eq!(reply.json()["answers"].as_array().map(Vec::len), Some(self.rows(&lost)), "{what}: rows");
        service.kill();
        let again = Launch::on(&self.data).repair();
        assert!(again.status.success(), "{what}: --repair of a sound folder");
    }

    /// How many rows there are once every seventh was written again.
    fn rows(&self, lost: &[String]) -> usize {
        self.written.iter().enumerate().filter(|(number, (key, _))| number % 7 == 0 || !lost.contains(key)).count()
    }
}

#[test]
fn damage_in_the_newest_batch_is_refused_and_repaired() {
    let mut damaged = Damaged::new(40);
    let last = damaged.written.len() - 1;
    let at = damaged.place(last) + 300;
    damaged.overwrite(at, &[0; 24]);
    // It was acknowledged, so that a start without it would be a lie; a start
    // that still has it from elsewhere is fine.
    match Launch::on(&damaged.data).try_start() {
        Err(failure) => damaged.assert_clear("newest batch", failure.status, &failure.log, failure.took),
        Ok(mut service) => {
            assert_eq!(
                damaged.lost(&mut service),
                Vec::<String>::new(),
                "an acknowledged event was dropped without a word"
            );
            return;
        }
    }
    // A refusal changes nothing: the second is the same.
    damaged.assert_refused("newest batch, again");
    damaged.assert_repaired("newest batch", 1, last..=last);
}

#[test]
fn damage_at_the_newest_batchs_end_is_refused_and_repaired() {
    let mut damaged = Damaged::new(40);
    let end = damaged.bytes().iter().rposition(|&byte| byte != 0).expect("written") + 1;
    damaged.overwrite(end - 24, &[0; 24]);
    damaged.assert_refused("end of the newest batch");
    damaged.assert_refused("end of the newest batch, again");
    let last = damaged.written.len() - 1;
    damaged.assert_repaired("end of the newest batch", 1, last..=last);
}

/// As after a power cut on a disk that had lied: whole batches are missing.
#[test]
fn a_journal_that_lost_its_tail_is_refused_and_repaired() {
    let mut damaged = Damaged::new(40);
    let from = damaged.place(30);
    let length = damaged.bytes().len();
    damaged.overwrite(from, &vec![0; length - from]);
    damaged.assert_refused("tail of zeros");
    damaged.assert_repaired("tail of zeros", 10, 30..=39);

    let mut damaged = Damaged::new(40);
    let file = OpenOptions::new().write(true).open(&damaged.journal).expect("writable");
    file.set_len(damaged.place(30) as u64).expect("shortened");
    damaged.assert_refused("shortened");
    damaged.assert_repaired("shortened", 10, 30..=39);
}

#[test]
fn damage_in_the_middle_is_refused_and_repaired() {
    let mut damaged = Damaged::new(200);
    let at = damaged.place(100) + 300;
    damaged.overwrite(at, &[0; 24]);
    damaged.assert_refused("value in the middle");
    damaged.assert_refused("value in the middle, again");
    damaged.assert_repaired("value in the middle", 1, 100..=100);
}

#[test]
fn damage_anywhere_is_refused_and_repaired() {
    let mut rng = Rng::new(seed("damage_anywhere"));
    for round in 0..4 {
        let mut damaged = Damaged::new(60);
        let bytes = damaged.bytes();
        // From one event to just before a later one: frames, keys, checksums.
        let number = usize::try_from(rng.between(5, 50)).expect("fits");
        let (from, to) = (damaged.place(number), damaged.place(number + 1));
        let mut at = from + 600 + usize::try_from(rng.below((to - from - 600) as u64)).expect("fits");
        while bytes[at..at + 24].iter().all(|&byte| byte == 0) {
            at += 1;
        }
        let what = format!("round {round}: 24 bytes at {at}, behind event {number}");
        let junk: Vec<_> = (0..24).map(|_| if round % 2 == 0 { 0 } else { rng.next().to_le_bytes()[0] }).collect();
        damaged.overwrite(at, &junk);
        damaged.assert_refused(&what);
        damaged.assert_repaired(&what, 2, number - 1..=number + 2);
    }
}

#[test]
fn a_torn_tail_that_nobody_was_promised_opens() {
    let mut rng = Rng::new(seed("torn_tail"));
    for round in 0..4 {
        let mut damaged = Damaged::new(30);
        let bytes = damaged.bytes();
        let end = bytes.iter().rposition(|&byte| byte != 0).expect("written") + 1;
        // A batch ends with fjall's trailer.
        let trailer = b"FJL\x03";
        let begin = damaged.place(20) + find(&bytes[damaged.place(20)..], trailer).expect("a trailer") + trailer.len();
        let length = find(&bytes[begin..], trailer).expect("a trailer");
        let part = match round {
            0 => length / 2,
            1 => 1,
            2 => length - 1,
            _ => usize::try_from(rng.between(2, length as u64 - 2)).expect("fits"),
        };
        damaged.overwrite(end, &bytes[begin..begin + part]);
        let what = format!("round {round}: {part} of {length} bytes of a batch behind the end");
        let mut service = match Launch::on(&damaged.data).try_start() {
            Ok(service) => service,
            Err(failure) => panic!("{what}: {failure:#?}"),
        };
        damaged.book.check_all(&mut service.client(), &mut service.reader());
        until_taken(&mut service, &mut damaged.book, "behind");
        service.kill();
        let mut service = Launch::on(&damaged.data).start();
        damaged.book.check_all(&mut service.client(), &mut service.reader());
        service.kill();
    }
}

#[test]
fn a_second_process_on_the_folder_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let mut book = Book::default();
    let service = Launch::on(&data).start();
    write_all(&mut service.client(), &mut book, "one", 5, 100);
    let failure = Launch::on(&data).try_start().expect_err("a second process");
    assert!(failure.status.is_some_and(|status| status.code().is_some_and(|code| code != 0)), "{failure:?}");
    let repair = Launch::on(&data).repair();
    assert!(!repair.status.success(), "--repair under a running service");
    write_all(&mut service.client(), &mut book, "two", 5, 100);
    book.check_all(&mut service.client(), &mut service.reader());
}

// ---------------------------------------------------------------------- views

/// A folder with a few hundred rows, ended so.
fn views_folder(folder: &Path, name: &str, rng: &mut Rng, graceful: bool) -> (PathBuf, Book) {
    let data = folder.join(name);
    let mut book = Book::default();
    let mut service = Launch::on(&data).start();
    let mut client = service.client();
    let mut requests = Requests::new(rng.fork(), name, &["hot".to_owned(), "warm".to_owned()], 3000);
    for _ in 0..300 {
        let request = requests.next();
        let outcomes = request.send(&mut client);
        book.record(&request, &outcomes);
    }
    book.check_all(&mut service.client(), &mut service.reader());
    if graceful {
        service.terminate()
    } else {
        service.kill()
    }
    (data, book)
}

/// Starts and holds the reads against the log; tells whether the log said
/// that the views were rebuilt.
fn start_and_check(what: &str, data: &Path, book: &mut Book) -> bool {
    let mut service = match Launch::on(data).try_start() {
        Ok(service) => service,
        Err(failure) => panic!("{what}: {failure:#?}"),
    };
    eprintln!("views: {what}");
    book.check_all(&mut service.client(), &mut service.reader());
    until_taken(&mut service, book, &format!("after {what}"));
    book.check_all(&mut service.client(), &mut service.reader());
    service.terminate();
    let log = service.log_text().to_lowercase();
    log.lines().any(|line| line.contains("rebuil") && line.contains("view"))
}

#[test]
fn damaged_views_are_rebuilt_and_the_log_says_so() {
    let mut rng = Rng::new(seed("damaged_views"));
    let folder = tempfile::tempdir().expect("a folder");
    let (sound, _) = views_folder(folder.path(), "sound", &mut rng, true);
    let length = usize::try_from(views(&sound).metadata().expect("there").len()).expect("fits");
    assert!(length >= 8 * 4096, "too few rows: {length} bytes");
    let junk = |rng: &mut Rng, length: usize| -> Vec<u8> { (0..length).map(|_| rng.next().to_le_bytes()[0]).collect() };
    let cases: [(&str, bool); 7] = [
        ("4 KiB of junk in the middle", true),
        ("4 KiB of zeros in the middle", true),
        ("a junk header", true),
        ("junk altogether", true),
        ("cut in half", true),
        ("empty", false),
        ("gone", false),
    ];
    for (number, (what, must_say)) in cases.into_iter().enumerate() {
        let (data, mut book) = views_folder(folder.path(), &format!("case{number}"), &mut rng, true);
        let path = views(&data);
        let wal = beside(&data, "-wal").metadata().map_or(0, |metadata| metadata.len());
        assert_eq!(wal, 0, "a graceful end leaves rows in the WAL of the views");
        let length = usize::try_from(path.metadata().expect("there").len()).expect("fits");
        let middle = (length / 2 / 4096 * 4096) as u64;
        let file = OpenOptions::new().write(true).open(&path).expect("writable");
        match number {
            0 => file.write_all_at(&junk(&mut rng, 4096), middle).expect("written"),
            1 => file.write_all_at(&[0; 4096], middle).expect("written"),
            2 => file.write_all_at(&junk(&mut rng, 100), 0).expect("written"),
            3 => file.write_all_at(&junk(&mut rng, length), 0).expect("written"),
            4 => file.set_len(length as u64 / 2).expect("set"),
            5 => file.set_len(0).expect("set"),
            _ => std::fs::remove_file(&path).expect("removed"),
        }
        let said = start_and_check(what, &data, &mut book);
        assert!(said || !must_say, "{what}: the log does not say that the views were rebuilt");
    }
}

/// After a kill the newest rows are in the WAL.
#[test]
fn a_lost_or_damaged_wal_of_the_views_costs_no_row() {
    let mut rng = Rng::new(seed("lost_wal"));
    let folder = tempfile::tempdir().expect("a folder");
    for (number, what) in
        ["no WAL", "no database beside the WAL", "junk in the WAL", "no shared memory"].into_iter().enumerate()
    {
        let (data, mut book) = views_folder(folder.path(), &format!("case{number}"), &mut rng, false);
        let (db, wal, shm) = (views(&data), beside(&data, "-wal"), beside(&data, "-shm"));
        match number {
            0 => remove_if_there(&wal),
            1 => remove_if_there(&db),
            2 if wal.exists() => {
                let length = wal.metadata().expect("there").len();
                let file = OpenOptions::new().write(true).open(&wal).expect("writable");
                file.write_all_at(&[0xA5; 512], length / 2).expect("written");
            }
            _ => remove_if_there(&shm),
        }
        start_and_check(what, &data, &mut book);
    }
}

#[test]
fn views_of_another_log_are_rebuilt() {
    let mut rng = Rng::new(seed("views_of_another_log"));
    let folder = tempfile::tempdir().expect("a folder");
    for graceful in [true, false] {
        let (data, mut book) = views_folder(folder.path(), &format!("mine-{graceful}"), &mut rng, graceful);
        let (other, _) = views_folder(folder.path(), &format!("other-{graceful}"), &mut rng, true);
        replace_views(&other, &data);
        let said = start_and_check("another log's views", &data, &mut book);
        assert!(said, "the log does not say that the views were rebuilt");
    }
}

/// The log was put back from a copy, the views were not.
#[test]
fn views_ahead_of_the_log_are_rebuilt() {
    let mut rng = Rng::new(seed("views_ahead"));
    let folder = tempfile::tempdir().expect("a folder");
    let (data, mut book) = views_folder(folder.path(), "now", &mut rng, true);
    let earlier = folder.path().join("earlier");
    copy_folder(&data, &earlier);
    let mut service = Launch::on(&data).start();
    let (mut client, mut later) = (service.client(), Book::default());
    write_all(&mut client, &mut later, "later", 60, 300);
    later_rows_seen(&mut service, 60);
    service.terminate();
    replace_views(&data, &earlier);
    let said = start_and_check("views ahead of the log", &earlier, &mut book);
    assert!(said, "the log does not say that the views were rebuilt");
}

fn later_rows_seen(service: &mut Service, count: usize) {
    let position = service.client().get(&format!("/answers/later%2F{}/history", count - 1), &[]).position();
    let position = position.expect("a position").to_string();
    let reply = service.reader().get("/answers?prefix=later%2F", &[("await-position", &position)]);
    assert_eq!(reply.json()["answers"].as_array().map(Vec::len), Some(count), "{}", reply.text());
}

fn views(data: &Path) -> PathBuf {
    beside(data, "")
}

fn beside(data: &Path, suffix: &str) -> PathBuf {
    data.join(format!("views.db{suffix}"))
}

fn remove_if_there(path: &Path) {
    if path.exists() {
        std::fs::remove_file(path).expect("removed");
    }
}

fn replace_views(from: &Path, to: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        remove_if_there(&beside(to, suffix));
        if beside(from, suffix).exists() {
            std::fs::copy(beside(from, suffix), beside(to, suffix)).expect("copied");
        }
    }
}
