//! Reads what strace saw of a process and says which bytes of its folder were
//! on disk at a moment: only what a finished sync covers is certain.
//!
//! strace stops a thread before a call runs and after it returned, and prints
//! in the order of those stops. So where one line ends above another's begin,
//! the first call had returned before the second began.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::Rng;

const PAGE: u64 = 4096;

/// What strace must be told so that this module understands the trace.
pub(crate) const STRACE: &[&str] = &[
    "-y",
    "-v",
    "-s",
    "8388608",
    "--seccomp-bpf",
    "-e",
    "signal=none",
    "-e",
    "trace=open,openat,openat2,creat,close,dup,dup2,dup3,fcntl,read,readv,lseek,\
     write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,syncfs,sync,msync,mmap,\
     ftruncate,truncate,fallocate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,\
     unlink,unlinkat,rmdir,mkdir,mkdirat,sendto,sendmsg,sendmmsg,sendfile,copy_file_range,splice,\
     io_uring_setup",
];

/// A place in the trace: a line number.
pub(crate) type Moment = u64;

/// A finished call, or one that the end of the process cut off.
#[derive(Clone, Debug)]
struct Call {
    name: String,
    /// Between the brackets, as printed.
    arguments: String,
    /// As printed after `=`; `None` when it never returned.
    result: Option<String>,
    begun: Moment,
    ended: Moment,
}

impl Call {
    /// `None` when it never returned.
    fn returned(&self) -> Option<i64> {
        let result = self.result.as_deref()?;
        let number = result.split([' ', '<']).next()?;
        number.parse().ok()
    }

    fn succeeded_or_cut_off(&self) -> bool {
        self.returned().is_none_or(|number| number >= 0)
    }

    /// When it had certainly returned.
    fn end(&self) -> Option<Moment> {
        self.returned().map(|_| self.ended)
    }
}

/// One change of a file's content.
#[derive(Debug)]
struct Change {
    begun: Moment,
    ended: Option<Moment>,
    what: ChangeOf,
}

#[derive(Debug)]
enum ChangeOf {
    Write { offset: u64, data: Vec<u8> },
    Length(u64),
}

#[derive(Clone, Copy, Debug)]
struct Sync {
    begun: Moment,
    ended: Moment,
}

#[derive(Debug, Default)]
struct Node {
    folder: bool,
    changes: Vec<Change>,
    syncs: Vec<Sync>,
    length: u64,
}

type NodeId = usize;

/// One change of the names in folders.
#[derive(Debug)]
struct NameChange {
    begun: Moment,
    ended: Option<Moment>,
    what: NameChangeOf,
}

#[derive(Clone, Debug)]
enum NameChangeOf {
    Set { folder: NodeId, name: String, node: NodeId },
    Remove { folder: NodeId, name: String },
    Move { from: (NodeId, String), to: (NodeId, String), node: NodeId },
}

impl NameChangeOf {
    fn folders(&self) -> Vec<NodeId> {
        match self {
            Self::Set { folder, .. } | Self::Remove { folder, .. } => vec![*folder],
            Self::Move { from, to, .. } => vec![from.0, to.0],
        }
    }
}

#[derive(Clone, Debug)]
struct OpenFile {
    node: NodeId,
    append: bool,
    /// Shared between duplicates.
    offset: std::rc::Rc<std::cell::Cell<u64>>,
}

/// What was sent on one connection.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) bytes: Vec<u8>,
    /// Where in `bytes` each call's data begins, and when the call began.
    calls: Vec<(usize, Moment)>,
}

impl Sent {
    /// When the call began that sent the byte.
    pub(crate) fn begun(&self, at: usize) -> Moment {
        let next = self.calls.partition_point(|&(offset, _)| offset <= at);
        self.calls[next - 1].1
    }
}

/// A sync of a file, for who wants to know what was synced when.
#[derive(Clone, Debug)]
pub(crate) struct FileSync {
    pub(crate) path: String,
    pub(crate) begun: Moment,
    pub(crate) ended: Moment,
    pub(crate) ok: bool,
}

/// A folder's whole life in one process, and what the process sent.
#[derive(Debug)]
pub(crate) struct Trace {
    root: PathBuf,
    nodes: Vec<Node>,
    names: Vec<NameChange>,
    pub(crate) sent: BTreeMap<String, Sent>,
    pub(crate) syncs: Vec<FileSync>,
    /// Paths within the root that were opened, and when that had been done.
    pub(crate) opened: Vec<(String, Moment)>,
    pub(crate) last: Moment,
}

/// What of the unsynced survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Survives {
    /// No unsynced write, no unsynced change of a name.
    Nothing,
    /// No unsynced write, every change of a name.
    Names,
    /// A random choice of 4 KiB pages and of changes of names.
    Some,
}

impl Trace {
    /// Reads the trace of a process that began with an empty folder `root`.
    pub(crate) fn read(file: &Path, root: &Path) -> Self {
        let mut reader = Reader {
            trace: Self {
                root: root.to_owned(),
                nodes: vec![Node { folder: true, ..Node::default() }],
                names: Vec::new(),
                sent: BTreeMap::new(),
                syncs: Vec::new(),
                opened: Vec::new(),
                last: 0,
            },
            tree: HashMap::new(),
            creating: HashMap::new(),
            open: HashMap::new(),
        };
        each_call(file, |call| reader.take(call));
        reader.trace.last = reader.trace.last.max(1);
        reader.trace
    }

    /// What differs between the folder and what the trace explains, synced or
    /// not: nothing, if the trace was understood. A call that the end cut off
    /// may have been done or not.
    pub(crate) fn differences(&self, scratch: &Path) -> Vec<String> {
        let (with, without) = (scratch.join("with"), scratch.join("without"));
        self.rebuild_with(&with, self.last + 1, &mut |_| true, &mut |_, _| true);
        self.rebuild_with(&without, self.last + 1, &mut |change| change.ended.is_some(), &mut |change, _| {
            change.ended.is_some()
        });
        let [mut first, second] = [with, without].map(|built| {
            let mut differences = BTreeMap::new();
            compare(&built, &self.root, Path::new(""), &mut differences);
            compare(&self.root, &built, Path::new(""), &mut differences);
            differences
        });
        first.retain(|path, _| second.contains_key(path));
        first.into_values().collect()
    }

    /// Builds the folder that a power cut at the moment leaves.
    pub(crate) fn rebuild(&self, target: &Path, at: Moment, survives: Survives, rng: &mut Rng) {
        let mut names = rng.fork();
        let mut pages = rng.fork();
        // Per rebuild, so that nearly all and nearly nothing are met too.
        let share = [5, 30, 60, 95][usize::try_from(rng.below(4)).expect("fits")];
        let mut keep_name = |_: &NameChange| match survives {
            Survives::Nothing => false,
            Survives::Names => true,
            Survives::Some => names.chance(50),
        };
        let mut keep_page = |_: &Change, _: u64| survives == Survives::Some && pages.chance(share);
        self.rebuild_with(target, at, &mut keep_name, &mut keep_page);
    }

    fn rebuild_with(
        &self,
        target: &Path,
        at: Moment,
        keep_name: &mut dyn FnMut(&NameChange) -> bool,
        keep_page: &mut dyn FnMut(&Change, u64) -> bool,
    ) {
        let mut entries: BTreeMap<(NodeId, String), NodeId> = BTreeMap::new();
        for change in self.names.iter().filter(|change| change.begun < at) {
            let certain = change.what.folders().iter().all(|&folder| {
                let synced = self.nodes[folder].synced_before(at);
                change.ended.is_some_and(|ended| ended < synced)
            });
            if certain || keep_name(change) {
                apply_name(&mut entries, &change.what);
            }
        }
        std::fs::create_dir_all(target).expect("can be made");
        self.write_folder(0, target, &entries, at, keep_page);
    }

    fn write_folder(
        &self,
        folder: NodeId,
        target: &Path,
        entries: &BTreeMap<(NodeId, String), NodeId>,
        at: Moment,
        keep_page: &mut dyn FnMut(&Change, u64) -> bool,
    ) {
        let own = entries.range((folder, String::new())..(folder + 1, String::new()));
        for ((_, name), &node) in own {
            let path = target.join(name);
            if self.nodes[node].folder {
                std::fs::create_dir_all(&path).expect("can be made");
                self.write_folder(node, &path, entries, at, keep_page);
            } else if !is_shared_memory(name) {
                self.write_file(node, &path, at, keep_page);
            }
        }
    }

    fn write_file(&self, node: NodeId, path: &Path, at: Moment, keep_page: &mut dyn FnMut(&Change, u64) -> bool) {
        let node = &self.nodes[node];
        let synced = node.synced_before(at);
        let file = File::create(path).expect("can be made");
        let (mut certain, mut open) = (Vec::new(), Vec::new());
        for change in node.changes.iter().filter(|change| change.begun < at) {
            let list = if change.ended.is_some_and(|ended| ended < synced) { &mut certain } else { &mut open };
            list.push(change);
        }
        for change in certain {
            match &change.what {
                ChangeOf::Write { offset, data } => file.write_all_at(data, *offset).expect("written"),
                ChangeOf::Length(length) => file.set_len(*length).expect("set"),
            }
        }
        for change in open {
            match &change.what {
                ChangeOf::Write { offset, data } => {
                    for (page, from, to) in pages(*offset, data.len() as u64) {
                        if keep_page(change, page) {
                            let slice = |at: u64| usize::try_from(at - offset).expect("fits");
                            file.write_all_at(&data[slice(from)..slice(to)], from).expect("written");
                        }
                    }
                }
                ChangeOf::Length(length) if keep_page(change, 0) => file.set_len(*length).expect("set"),
                ChangeOf::Length(_) => {}
            }
        }
    }

    /// The written files whose path ends so: for each where it was written
    /// (with the moment each write began and had ended) and its syncs.
    pub(crate) fn written(&self, suffix: &str) -> Vec<Written<'_>> {
        let mut found = BTreeMap::new();
        for change in &self.names {
            if let NameChangeOf::Set { name, node, .. } = &change.what
                && name.ends_with(suffix)
                && !self.nodes[*node].folder
            {
                found.insert(*node, name.clone());
            }
        }
        let written = found.into_iter().map(|(node, name)| Written { name, node: &self.nodes[node] });
        written.collect()
    }
}

/// A file's writes as one text, however the calls cut it.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    pub(crate) name: String,
    node: &'a Node,
}

/// Bytes written one behind the other, and the writes by where they begin.
type Run<'a> = (Vec<u8>, Vec<(usize, &'a Change)>);

/// Where a text was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occurrence {
    /// The first of the writes that hold it began.
    pub(crate) begun: Moment,
    /// The last of them had returned; `None` when it never did.
    pub(crate) ended: Option<Moment>,
}

impl Written<'_> {
    /// Occurrences of `prefix` followed by `length` bytes, by the whole text.
    pub(crate) fn occurrences(&self, prefix: &[u8], length: usize) -> HashMap<Vec<u8>, Vec<Occurrence>> {
        let mut found: HashMap<Vec<u8>, Vec<Occurrence>> = HashMap::new();
        for (bytes, writes) in self.runs() {
            let whole = prefix.len() + length;
            let mut from = 0;
            while let Some(at) = find(&bytes[from..], prefix) {
                let at = from + at;
                from = at + prefix.len();
                if at + whole > bytes.len() {
                    break;
                }
                found.entry(bytes[at..at + whole].to_vec()).or_default().push(occurrence(&writes, at, whole));
            }
        }
        found
    }

    /// Occurrences of one text.
    pub(crate) fn places(&self, text: &[u8]) -> Vec<Occurrence> {
        self.occurrences(text, 0).remove(text).unwrap_or_default()
    }

    /// Runs of writes each of which begins where the one before ended.
    fn runs(&self) -> Vec<Run<'_>> {
        let mut runs: Vec<(u64, Run<'_>)> = Vec::new();
        for change in &self.node.changes {
            let ChangeOf::Write { offset, data } = &change.what else { continue };
            match runs.last_mut() {
                Some((end, (bytes, writes))) if *end == *offset => {
                    writes.push((bytes.len(), change));
                    bytes.extend_from_slice(data);
                    *end += data.len() as u64;
                }
                _ => runs.push((offset + data.len() as u64, (data.clone(), vec![(0, change)]))),
            }
        }
        runs.into_iter().map(|(_, run)| run).collect()
    }

    /// Whether a successful sync of it began after `written` and had returned
    /// before `moment`.
    pub(crate) fn synced_between(&self, written: Moment, moment: Moment) -> bool {
        self.node.syncs.iter().any(|sync| sync.begun > written && sync.ended < moment)
    }
}

fn occurrence(writes: &[(usize, &Change)], at: usize, length: usize) -> Occurrence {
    let first = writes.partition_point(|&(offset, _)| offset <= at) - 1;
    let end = writes.partition_point(|&(offset, _)| offset < at + length);
    let part = &writes[first..end];
    Occurrence {
        begun: part.iter().map(|(_, change)| change.begun).min().expect("not empty"),
        ended: part
            .iter()
            .map(|(_, change)| change.ended)
            .collect::<Option<Vec<_>>>()
            .map(|ends| ends.into_iter().max().expect("not empty")),
    }
}

pub(crate) fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    let first = text[0];
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == first) {
        if bytes[from + at..].starts_with(text) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

impl Node {
    /// The begin of the latest sync that had ended by then; what had ended
    /// before that is on disk.
    fn synced_before(&self, at: Moment) -> Moment {
        let done = self.syncs.iter().filter(|sync| sync.ended < at);
        done.map(|sync| sync.begun).max().unwrap_or(0)
    }
}

/// SQLite's index of the WAL: mapped, rebuilt at every first open.
fn is_shared_memory(name: &str) -> bool {
    name.ends_with("-shm")
}

fn pages(offset: u64, length: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = offset + length;
    (offset / PAGE..end.div_ceil(PAGE)).map(move |page| (page, offset.max(page * PAGE), end.min((page + 1) * PAGE)))
}

fn apply_name(entries: &mut BTreeMap<(NodeId, String), NodeId>, change: &NameChangeOf) {
    match change {
        NameChangeOf::Set { folder, name, node } => {
            entries.insert((*folder, name.clone()), *node);
        }
        NameChangeOf::Remove { folder, name } => {
            entries.remove(&(*folder, name.clone()));
        }
        NameChangeOf::Move { from, to, node } => {
            if entries.get(from) == Some(node) {
                entries.remove(from);
            }
            entries.insert(to.clone(), *node);
        }
    }
}

fn compare(left: &Path, right: &Path, below: &Path, differences: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(left.join(below)).expect("can be listed").flatten() {
        let name = entry.file_name().into_string().expect("UTF-8");
        let path = below.join(&name);
        if is_shared_memory(&name) {
            continue;
        }
        if entry.file_type().expect("known").is_dir() {
            if right.join(&path).is_dir() {
                compare(left, right, &path, differences);
            } else {
                differences.insert(path.clone(), format!("{} is a folder in one only", path.display()));
            }
            continue;
        }
        match (std::fs::read(left.join(&path)), std::fs::read(right.join(&path))) {
            (Ok(one), Ok(other)) if one == other => {}
            (Ok(one), Ok(other)) => {
                let at = one.iter().zip(&other).position(|(a, b)| a != b);
                let text = format!("{} differs at {at:?}; {} bytes and {}", path.display(), one.len(), other.len());
                differences.insert(path, text);
            }
            _ => {
                let text = format!("{} is in one only", path.display());
                differences.insert(path, text);
            }
        }
    }
}

// ------------------------------------------------------------- reading a trace

/// In front of the name of a call that may create a file and has not returned.
const BEGINS: &str = "begins ";

/// Joins `<unfinished ...>` with `<... resumed>` and gives each call when it
/// ended; those that the end of the process cut off come last. One that may create
/// a file is given when it begins, too, under another name.
fn each_call(file: &Path, mut take: impl FnMut(Call)) {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(file).expect("the trace is there"));
    let mut unfinished: HashMap<String, (String, Moment)> = HashMap::new();
    let mut moment: Moment = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).expect("readable") == 0 {
            break;
        }
        moment += 1;
        let text = std::str::from_utf8(&line).expect("strace escapes what is not ASCII").trim_end();
        let Some((thread, rest)) = text.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, tail) = resumed.split_once(" resumed>").expect("resumed");
            // A close was given when it began.
            if let Some((head, begun)) = unfinished.remove(thread) {
                take(parse_call(&format!("{head}{tail}"), begun, moment));
            }
        } else if let Some(head) = unfinished_head(rest) {
            if head.starts_with("close(") {
                // The number is free from here on, and another thread may
                // have got it before this one returns.
                take(parse_call(head, moment, moment));
            } else {
                if head.contains("O_CREAT") {
                    // Another thread may open the file before this one returns.
                    let mut begins = parse_call(head, moment, moment);
                    begins.name.insert_str(0, BEGINS);
                    take(begins);
                }
                unfinished.insert(thread.to_owned(), (head.to_owned(), moment));
            }
        } else if rest.as_bytes()[0].is_ascii_lowercase() {
            take(parse_call(rest, moment, moment));
        }
    }
    for (head, begun) in unfinished.into_values() {
        take(parse_call(&head, begun, moment + 1));
    }
}

/// What was printed of a call that has not returned: others went on before it
/// did, or the process was killed in it.
fn unfinished_head(text: &str) -> Option<&str> {
    let text = text.strip_suffix(") = ?").map_or(text, str::trim_end);
    text.strip_suffix("<unfinished ...>").map(str::trim_end)
}

fn parse_call(text: &str, begun: Moment, ended: Moment) -> Call {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("not a call: {text:.200}"));
    // The result stands behind the last ` = `; a string before it may hold one
    // too, so it must follow the closing bracket.
    let split = rest.rmatch_indices(" = ").find(|(at, _)| rest[..*at].trim_end().ends_with(')'));
    let (arguments, result) = match split {
        Some((at, _)) => (&rest[..at], Some(rest[at + 3..].to_owned())),
        None => (rest, None),
    };
    let result = result.filter(|text| !text.starts_with('?'));
    let arguments = arguments.trim_end();
    let arguments = if result.is_some() { arguments.strip_suffix(')').unwrap_or(arguments) } else { arguments };
    Call { name: name.to_owned(), arguments: arguments.to_owned(), result, begun, ended }
}

/// A string as strace prints it; returns it with what follows.
fn parse_string(text: &str) -> (Vec<u8>, &str) {
    let bytes = text.as_bytes();
    assert_eq!(bytes.first(), Some(&b'"'), "not a string: {text:.100}");
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 1;
    loop {
        match bytes.get(at) {
            None => panic!("a string without end: {text:.100}"),
            Some(b'"') => {
                let rest = &text[at + 1..];
                assert!(!rest.starts_with("..."), "strace cut a string: raise -s");
                return (out, rest);
            }
            Some(b'\\') => {
                at += 1;
                let escape = bytes[at];
                at += 1;
                match escape {
                    b'n' => out.push(b'\n'),
                    b't' => out.push(b'\t'),
                    b'r' => out.push(b'\r'),
                    b'v' => out.push(11),
                    b'f' => out.push(12),
                    b'x' => {
                        let hex = &text[at..at + 2];
                        out.push(u8::from_str_radix(hex, 16).expect("hex"));
                        at += 2;
                    }
                    b'0'..=b'7' => {
                        let mut value = u32::from(escape - b'0');
                        for _ in 0..2 {
                            match bytes.get(at) {
                                Some(digit @ b'0'..=b'7') => {
                                    value = value * 8 + u32::from(digit - b'0');
                                    at += 1;
                                }
                                _ => break,
                            }
                        }
                        out.push(u8::try_from(value).expect("a byte"));
                    }
                    other => out.push(other),
                }
            }
            Some(&byte) => {
                out.push(byte);
                at += 1;
            }
        }
    }
}

/// A file descriptor with what `-y` says of it; returns them with what follows.
fn parse_descriptor(text: &str) -> (&str, &str, &str) {
    let end = text.find(['<', ',', ')']).unwrap_or(text.len());
    let number = text[..end].trim();
    if !text[end..].starts_with('<') {
        return (number, "", &text[end..]);
    }
    // The name itself may hold `>`: it ends before a comma, a bracket or the end.
    let rest = &text[end + 1..];
    let close = rest
        .match_indices('>')
        .map(|(at, _)| at)
        .find(|at| matches!(rest.as_bytes().get(at + 1), None | Some(b',' | b')' | b'(' | b' ')))
        .unwrap_or(rest.len() - 1);
    (number, &rest[..close], rest[close + 1..].trim_start_matches("(deleted)"))
}

fn after_comma(text: &str) -> &str {
    text.trim_start().strip_prefix(',').unwrap_or_else(|| panic!("no comma: {text:.100}")).trim_start()
}

/// The data of write, writev and their like, and what stands behind it.
fn parse_data(text: &str) -> (Vec<u8>, &str) {
    if text.starts_with('"') {
        return parse_string(text);
    }
    let mut data = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("iov_base=\"") {
        let (part, after) = parse_string(&rest[at + "iov_base=".len()..]);
        data.extend_from_slice(&part);
        rest = after;
    }
    (data, rest)
}

fn last_number(text: &str) -> u64 {
    let number = text.rsplit(',').next().unwrap_or_default().trim().trim_end_matches(')');
    number.parse().unwrap_or_else(|_| panic!("no number at the end: {text:.200}"))
}

struct Reader {
    trace: Trace,
    /// Names as they are now, synced or not.
    tree: HashMap<(NodeId, String), NodeId>,
    /// Files that a call which has not returned may have created, and since when.
    creating: HashMap<String, Moment>,
    open: HashMap<String, OpenFile>,
}

impl Reader {
    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    fn take(&mut self, call: Call) {
        self.trace.last = self.trace.last.max(call.ended);
        let arguments = call.arguments.clone();
        let text = arguments.as_str();
        match call.name.as_str() {
            "begins openat" => {
                let (folder, rest) = folder_and_rest(text);
                self.creating.insert(absolute(folder, &parse_path(rest).0), call.begun);
            }
            name if name.starts_with(BEGINS) => {}
            "open" | "creat" => self.take_open(&call, None, text),
            "openat" | "openat2" => {
                let (folder, rest) = folder_and_rest(text);
                self.take_open(&call, Some(folder), rest);
            }
            "close" => {
                let (number, _, _) = parse_descriptor(text);
                self.open.remove(number);
            }
            "dup" | "dup2" | "dup3" => self.duplicate(&call, text),
            "fcntl" if text.contains("F_DUPFD") => self.duplicate(&call, text),
            "fcntl" => {}
            "read" | "readv" => {
                let (number, _, _) = parse_descriptor(text);
                if let (Some(file), Some(count)) = (self.open.get(number), call.returned()) {
                    file.offset.set(file.offset.get() + u64::try_from(count).unwrap_or(0));
                }
            }
            "lseek" => {
                let (number, _, _) = parse_descriptor(text);
                if let (Some(file), Some(Ok(offset))) = (self.open.get(number), call.returned().map(u64::try_from)) {
                    file.offset.set(offset);
                }
            }
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "sendto" | "sendmsg" => {
                self.take_write(&call, text)
            }
            "sendmmsg" => {
                let (_, path, _) = parse_descriptor(text);
                assert!(!path.starts_with("socket:"), "not understood: {text:.200}");
            }
            "fsync" | "fdatasync" => self.take_sync(&call, text),
            "ftruncate" => {
                let (number, path, rest) = parse_descriptor(text);
                if let Some(node) = self.node_of(number, path) {
                    self.set_length(node, last_number(rest), &call);
                }
            }
            "fallocate" => {
                let (number, path, rest) = parse_descriptor(text);
                if let Some(node) = self.node_of(number, path) {
                    let numbers: Vec<_> = after_comma(rest).split(", ").collect();
                    assert_eq!(numbers[0], "0", "fallocate with a mode is not understood: {text}");
                    let end = numbers[1].parse::<u64>().expect("an offset") + last_number(rest);
                    let length = self.trace.nodes[node].length.max(end);
                    self.set_length(node, length, &call);
                }
            }
            "rename" => {
                let (from, rest) = parse_path(text);
                let (to, _) = parse_path(after_comma(rest));
                self.take_rename(&call, &from, &to);
            }
            "renameat" | "renameat2" => {
                let (folder, rest) = folder_and_rest(text);
                let (from, rest) = parse_path(rest);
                let (to_folder, rest) = folder_and_rest(after_comma(rest));
                let (to, rest) = parse_path(rest);
                assert!(!rest.contains("EXCHANGE"), "not understood: {text}");
                self.take_rename(&call, &absolute(folder, &from), &absolute(to_folder, &to));
            }
            "link" => {
                let (from, rest) = parse_path(text);
                let (to, _) = parse_path(after_comma(rest));
                self.take_link(&call, &from, &to);
            }
            "linkat" => {
                let (folder, rest) = folder_and_rest(text);
                let (from, rest) = parse_path(rest);
                let (to_folder, rest) = folder_and_rest(after_comma(rest));
                let (to, _) = parse_path(rest);
                self.take_link(&call, &absolute(folder, &from), &absolute(to_folder, &to));
            }
            "unlink" | "rmdir" => {
                let (path, _) = parse_path(text);
                self.take_unlink(&call, &path);
            }
            "unlinkat" => {
                let (folder, rest) = folder_and_rest(text);
                let (path, _) = parse_path(rest);
                self.take_unlink(&call, &absolute(folder, &path));
            }
            "mkdir" => {
                let (path, _) = parse_path(text);
                self.take_mkdir(&call, &path);
            }
            "mkdirat" => {
                let (folder, rest) = folder_and_rest(text);
                let (path, _) = parse_path(rest);
                self.take_mkdir(&call, &absolute(folder, &path));
            }
            "mmap" => {
                let writes = text.contains("MAP_SHARED") && text.contains("PROT_WRITE");
                let ours = text.contains(self.trace.root.to_str().expect("UTF-8"));
                assert!(!writes || !ours || text.contains("-shm>"), "a mapping that writes is not understood: {text}");
            }
            // Weaker than fsync, or of the whole system: counts for nothing here.
            "sync_file_range" | "syncfs" | "sync" | "msync" => {}
            "io_uring_setup" => assert!(!call.succeeded_or_cut_off(), "io_uring is not seen by strace"),
            _ => assert!(
                !text.contains(self.trace.root.to_str().expect("UTF-8")) || !call.succeeded_or_cut_off(),
                "not understood: {}({text:.300})",
                call.name
            ),
        }
    }

    /// The names below the root that lead to the path; `None` outside of it.
    fn below_root<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let rest = path.strip_prefix(self.trace.root.to_str().expect("UTF-8"))?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        Some(rest.split('/').filter(|name| !name.is_empty() && *name != ".").collect())
    }

    fn lookup(&self, path: &str) -> Option<NodeId> {
        let names = self.below_root(path)?;
        names.iter().try_fold(0, |node, name| self.tree.get(&(node, (*name).to_owned())).copied())
    }

    /// The folder and the name of a path below the root.
    fn entry(&self, path: &str) -> Option<(NodeId, String)> {
        let names = self.below_root(path)?;
        let (name, folders) = names.split_last()?;
        let folder = folders.iter().try_fold(0, |node, name| self.tree.get(&(node, (*name).to_owned())).copied());
        Some((folder.unwrap_or_else(|| panic!("the trace does not know the folder of {path}")), (*name).to_owned()))
    }

    fn change_name(&mut self, call: &Call, what: NameChangeOf) {
        let mut entries: BTreeMap<_, _> = BTreeMap::new();
        if let NameChangeOf::Move { from, node, .. } = &what {
            entries.insert(from.clone(), *node);
            self.tree.remove(from);
        }
        if let NameChangeOf::Remove { folder, name } = &what {
            self.tree.remove(&(*folder, name.clone()));
        }
        apply_name(&mut entries, &what);
        self.tree.extend(entries);
        self.trace.names.push(NameChange { begun: call.begun, ended: call.end(), what });
    }

    fn add(&mut self, call: &Call, path: &str, folder: bool) -> NodeId {
        let (parent, name) = self.entry(path).expect("below the root");
        let node = self.trace.nodes.len();
        self.trace.nodes.push(Node { folder, ..Node::default() });
        self.change_name(call, NameChangeOf::Set { folder: parent, name, node });
        node
    }

    fn take_open(&mut self, call: &Call, folder: Option<&str>, rest: &str) {
        let (path, rest) = parse_path(rest);
        let path = absolute(folder.unwrap_or_default(), &path);
        if !call.succeeded_or_cut_off() || self.below_root(&path).is_none() {
            return;
        }
        let creates = call.name == "creat" || rest.contains("O_CREAT");
        assert!(!rest.contains("O_TMPFILE"), "not understood: {rest}");
        let node = match self.lookup(&path) {
            Some(node) => node,
            None if creates => self.add(call, &path, false),
            None => {
                let begun = self.creating.get(&path).copied();
                let begun = begun.unwrap_or_else(|| panic!("opened a file that the trace does not know: {path}"));
                // Whoever creates it has done so by now.
                self.add(&Call { begun, ..call.clone() }, &path, false)
            }
        };
        if (call.name == "creat" || rest.contains("O_TRUNC")) && self.trace.nodes[node].length > 0 {
            self.set_length(node, 0, call);
        }
        let Some(result) = &call.result else { return };
        let (number, _, _) = parse_descriptor(result);
        let file = OpenFile { node, append: rest.contains("O_APPEND"), offset: std::rc::Rc::default() };
        self.open.insert(number.to_owned(), file);
        self.trace.opened.push((path, call.ended));
    }

    fn duplicate(&mut self, call: &Call, text: &str) {
        let (number, _, _) = parse_descriptor(text);
        if let (Some(file), Some(result), true) =
            (self.open.get(number).cloned(), &call.result, call.succeeded_or_cut_off())
        {
            let (number, _, _) = parse_descriptor(result);
            self.open.insert(number.to_owned(), file);
        }
    }

    /// The node of an open file below the root.
    fn node_of(&self, number: &str, path: &str) -> Option<NodeId> {
        let node = self.open.get(number).map(|file| file.node);
        assert!(
            node.is_some() || self.below_root(path).is_none(),
            "the trace does not know descriptor {number} of {path}"
        );
        node
    }

    fn take_write(&mut self, call: &Call, text: &str) {
        let (number, path, rest) = parse_descriptor(text);
        let positioned = call.name.starts_with('p');
        if path.starts_with("socket:") {
            let (mut data, _) = parse_data(after_comma(rest));
            // Where the end cut it off, it may have been sent all the same.
            if let Some(count) = call.returned() {
                data.truncate(usize::try_from(count).unwrap_or(0));
            }
            if data.is_empty() {
                return;
            }
            let sent = self.trace.sent.entry(path.to_owned()).or_default();
            sent.calls.push((sent.bytes.len(), call.begun));
            sent.bytes.extend_from_slice(&data);
            return;
        }
        let Some(node) = self.node_of(number, path) else { return };
        if !call.succeeded_or_cut_off() {
            return;
        }
        let (mut data, after) = parse_data(after_comma(rest));
        if let Some(count) = call.returned() {
            data.truncate(usize::try_from(count).expect("not negative"));
        }
        let file = self.open.get(number).expect("node_of found it").clone();
        let offset = match (positioned, file.append) {
            (true, _) if call.name == "pwritev2" => {
                let fields: Vec<_> = after.rsplit(", ").collect();
                fields[1].parse().expect("an offset")
            }
            (true, _) => last_number(after),
            (false, true) => self.trace.nodes[node].length,
            (false, false) => file.offset.get(),
        };
        let end = offset + data.len() as u64;
        if !positioned {
            file.offset.set(end);
        }
        let node = &mut self.trace.nodes[node];
        node.length = node.length.max(end);
        node.changes.push(Change { begun: call.begun, ended: call.end(), what: ChangeOf::Write { offset, data } });
    }

    fn set_length(&mut self, node: NodeId, length: u64, call: &Call) {
        if call.succeeded_or_cut_off() {
            let node = &mut self.trace.nodes[node];
            node.length = length;
            node.changes.push(Change { begun: call.begun, ended: call.end(), what: ChangeOf::Length(length) });
        }
    }

    fn take_sync(&mut self, call: &Call, text: &str) {
        let (number, path, _) = parse_descriptor(text);
        let Some(node) = self.node_of(number, path) else { return };
        let ok = call.returned() == Some(0);
        if ok {
            self.trace.nodes[node].syncs.push(Sync { begun: call.begun, ended: call.ended });
        }
        self.trace.syncs.push(FileSync { path: path.to_owned(), begun: call.begun, ended: call.ended, ok });
    }

    fn take_rename(&mut self, call: &Call, from: &str, to: &str) {
        if !call.succeeded_or_cut_off() || self.below_root(from).is_none() && self.below_root(to).is_none() {
            return;
        }
        let node = self.lookup(from).unwrap_or_else(|| panic!("renamed what the trace does not know: {from}"));
        let from = self.entry(from).expect("below the root");
        let to = self.entry(to).expect("a rename out of the folder is not understood");
        self.change_name(call, NameChangeOf::Move { from, to, node });
    }

    fn take_link(&mut self, call: &Call, from: &str, to: &str) {
        if !call.succeeded_or_cut_off() || self.below_root(to).is_none() {
            return;
        }
        let node = self.lookup(from).unwrap_or_else(|| panic!("linked what the trace does not know: {from}"));
        let (folder, name) = self.entry(to).expect("below the root");
        self.change_name(call, NameChangeOf::Set { folder, name, node });
    }

    fn take_unlink(&mut self, call: &Call, path: &str) {
        if call.succeeded_or_cut_off() && self.lookup(path).is_some() {
            let (folder, name) = self.entry(path).expect("below the root");
            self.change_name(call, NameChangeOf::Remove { folder, name });
        }
    }

    fn take_mkdir(&mut self, call: &Call, path: &str) {
        if call.succeeded_or_cut_off() && self.below_root(path).is_some_and(|names| !names.is_empty()) {
            self.add(call, path, true);
        }
    }
}

fn folder_and_rest(text: &str) -> (&str, &str) {
    let (_, folder, rest) = parse_descriptor(text);
    (folder, after_comma(rest))
}

fn parse_path(text: &str) -> (String, &str) {
    let (path, rest) = parse_string(text);
    (String::from_utf8(path).expect("UTF-8"), rest)
}

fn absolute(folder: &str, path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("{folder}/{path}") }
}

/// A thread opens a file whose creation, in another one, has not returned.
#[test]
fn a_file_may_be_opened_while_it_is_created() {
    let folder = tempfile::tempdir().expect("a folder");
    let (root, trace) = (folder.path().join("root"), folder.path().join("trace"));
    let path = root.join("1.jnl");
    let (at, path) = (root.display(), path.display());
    let lines = [
        format!(r#"100 openat(AT_FDCWD<{at}>, "{path}", O_WRONLY|O_CREAT|O_EXCL|O_CLOEXEC, 0666 <unfinished ...>"#),
        format!(r#"101 openat(AT_FDCWD<{at}>, "{path}", O_WRONLY|O_CLOEXEC) = 7<{path}>"#),
        format!(r#"101 pwrite64(7<{path}>, "ab", 2, 0) = 2"#),
        format!(r#"100 <... openat resumed>) = 6<{path}>"#),
        format!(r#"100 pwrite64(6<{path}>, "c", 1, 2) = 1"#),
    ];
    std::fs::write(&trace, lines.join("\n") + "\n").expect("written");
    std::fs::create_dir(&root).expect("made");
    std::fs::write(root.join("1.jnl"), "abc").expect("written");
    let trace = Trace::read(&trace, &root);
    assert_eq!((trace.nodes.len(), trace.names.len(), trace.opened.len()), (2, 1, 2));
    assert_eq!((trace.names[0].begun, trace.names[0].ended), (1, Some(2)));
    assert_eq!(trace.differences(&folder.path().join("scratch")), Vec::<String>::new());
}
