//! The programs as `Dockerfile` and `kubernetes-deployment.yml` run them: a root that
//! cannot be written, a user without a home, `--health`, probes, and rolling updates that
//! drop no request.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures::future::join_all;
use serde_json::json;
use testkit::processes::{Process, Program, programs};

use crate::app::{GRACE, RECOVERY, SERVICES, Storage, TestApp};
use crate::client::answer;
use crate::databases::Databases;

/// The user of the images.
const USER: &str = "65532";

// ----------------------------------------------------------------- containers

/// The same program as in a container: nothing can be written but one folder, and the user
/// is nobody who lives here.
fn contained(program: &Program, writable: Option<&Path>) -> Program {
    let script = r#"
        if [ -n "$1" ]; then mount --bind "$1" "$1" || exit 90; fi
        cut -d' ' -f5 /proc/self/mountinfo | while read -r at; do
            case "$at" in
                "$1"|/proc|/proc/*|/sys|/sys/*|/dev|/dev/*) ;;
                *) mount -o remount,bind,ro "$at" || exit 91 ;;
            esac
        done || exit 91
        touch /tmp/written /var/tmp/written "$PWD/written" 2>/dev/null && exit 92
        shift
        exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs --bounding-set=-all "$@"
    "#;
    let writable = writable.map(|folder| folder.to_str().unwrap()).unwrap_or_default();
    let path = program.path().to_str().unwrap().to_owned();
    let contained = program.clone().executable("unshare").var("USER_ID", USER);
    ["--mount", "--propagation", "private", "sh", "-c", script, "contained", writable, &path]
        .iter()
        .fold(contained, |program, arg| program.arg(arg))
}

/// Whether this can be tried here; says so if not.
fn can_contain() -> bool {
    let probe = r"mount -o remount,bind,ro / && exec setpriv --reuid 65532 --clear-groups true";
    let works = Command::new("unshare").args(["--mount", "--propagation", "private", "sh", "-c", probe]).output();
    match works {
        Ok(output) if output.status.success() => true,
        tried => {
            let why =
                tried.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stderr).into());
            let why = format!("file systems cannot be made read-only here: {}", why.trim());
            // Only root can be expected to.
            if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
                testkit::programs::skip(&why);
            } else {
                eprintln!("skipped: {why}");
            }
            false
        }
    }
}

/// Which files of a process are on a disk and open for writing.
fn written_by(process: &Process) -> Vec<String> {
    let files = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap().flatten();
    let name = |entry: std::fs::DirEntry| {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{}", process.id(), entry.file_name().display()));
        let flags =
            info.ok()?.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok())?;
        let path = std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned();
        (flags & 3 != 0 && path.starts_with('/') && !path.starts_with("/dev")).then_some(path)
    };
    files.filter_map(name).collect()
}

/// The monolith's only writable folder is `DATA_DIR`.
#[tokio::test]
async fn the_monolith_needs_no_more_than_its_data_folder() {
    if !can_contain() {
        return;
    }
    let settings = TestApp::settings(Storage::Embedded);
    let data = settings.folder().join("data");
    std::fs::create_dir(&data).unwrap();
    for (folder, mode) in [(settings.folder(), 0o755), (data.as_path(), 0o777)] {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut settings = settings;
    settings.program = contained(&settings.program, Some(&data));
    let mut app = settings.spawn().await;
    for round in 0..2 {
        let key = format!("k{round}");
        let created = app.create(&key, "v").await.created();
        app.read(&key, &created).await.status(200);
        let sent = app.call("POST", "/v1/events").json(&json!({"name": "e"})).send().await.status(202);
        app.reading("/v1/events", &sent).send().await.status(200);
        app.call_at(app.operators(), "POST", "/rebuild").send().await.status(202);
        // One that still runs would be taken up again by the next start.
        app.is_rebuilt().await;
        app.get("/readyz").await.status(200);
        let status = std::fs::read_to_string(format!("/proc/{}/status", app.processes[0].id())).unwrap();
        assert!(status.lines().any(|line| line.starts_with("Uid:") && line.contains(USER)), "{status}");
        assert!(status.lines().any(|line| line == "CapEff:\t0000000000000000"), "{status}");
        for file in written_by(&app.processes[0]) {
            assert!(Path::new(&file).starts_with(&data), "it writes {file}");
        }
        app.restart().await;
    }
    assert_eq!(app.history("k0").await.len(), 1);
}

/// The services write no file at all.
#[tokio::test]
async fn the_services_need_no_folder() {
    if !Storage::Services.is_there() || !can_contain() {
        return;
    }
    let app = TestApp::spawn(Storage::Services).await;
    let mut contained_ones = Vec::new();
    for name in SERVICES {
        let program = app.same_settings().program.executable(programs().join(name)).without("DATA_DIR");
        contained_ones.push(contained(&program, None).start().await.unwrap());
    }
    let body = json!({"key": "k", "value": "v"});
    let created = app.call_at(contained_ones[0].reached(0), "POST", "/answers").json(&body).send().await.created();
    let read = app.call_at(contained_ones[1].reached(0), "GET", &answer("k"));
    read.header("Await-Position", created.position().to_string()).send().await.is(200, &body);
    for process in &mut contained_ones {
        ready(&app, process, 200).await;
        assert_eq!(written_by(process), <[String; 0]>::default());
        process.signal("TERM");
        assert!(process.ended(GRACE).await.expect("it ends").success());
    }
}

// --------------------------------------------------------------------- probes

async fn ready(app: &TestApp, process: &Process, status: u16) {
    let begun = Instant::now();
    while app.call_at(process.reached(0), "GET", "/readyz").send().await.status != status {
        assert!(begun.elapsed() < RECOVERY, "its readiness is not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What an image runs as its health check: it asks the process whether it is alive.
async fn health(process: &Process) -> bool {
    let addresses: Vec<_> = process.addresses().iter().map(ToString::to_string).collect();
    let program = process.program().clone().without_args().var("IP_PORT", &addresses.join(","));
    program.arg("--health").run().await.status.success()
}

#[tokio::test]
async fn health_asks_the_one_that_runs() {
    let mut app = TestApp::spawn(Storage::Embedded).await;
    assert!(health(&app.processes[0]).await);
    app.stop().await;
    assert!(!health(&app.processes[0]).await, "nobody is there");
}

/// Databases that are away make nobody restart anything.
#[tokio::test]
async fn probes_tell_what_is_alive_from_what_is_ready() {
    if !Storage::Services.is_there() {
        return;
    }
    let app = TestApp::settings(Storage::Services).on(Databases::own()).spawn().await;
    for process in &app.processes {
        ready(&app, process, 200).await;
        assert!(health(process).await);
    }
    app.databases().stop_events();
    app.databases().stop_views();
    for process in &app.processes {
        ready(&app, process, 503).await;
        assert!(health(process).await, "it is alive");
        app.call_at(process.reached(0), "GET", "/healthz").send().await.status(200);
    }
    app.databases().start_events();
    app.databases().start_views();
    for process in &app.processes {
        ready(&app, process, 200).await;
    }
}

// ----------------------------------------------------------- rolling updates

/// What `kubernetes-deployment.yml` says of the time that a pod has.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    drain: Duration,
    period: Duration,
    timeout: Duration,
    failures: u32,
}

impl Schedule {
    /// Of the file; it must be the same for every service.
    fn of_the_file() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("kubernetes-deployment.yml");
        let text = std::fs::read_to_string(file).unwrap();
        let number = |text: &str, name: &str| -> u64 {
            let after = text.split_once(&format!("{name}:")).unwrap_or_else(|| panic!("no {name} in {text}")).1;
            after.lines().next().unwrap().trim().trim_matches('"').parse().unwrap()
        };
        let probes: Vec<_> = text.split("readinessProbe:").skip(1).collect();
        assert_eq!(probes.len(), SERVICES.len());
        let probe = |text: &&str| {
            let block = text.split_once("resources:").unwrap().0;
            ["periodSeconds", "timeoutSeconds", "failureThreshold"].map(|name| number(block, name))
        };
        let [period, timeout, failures] = probe(&probes[0]);
        assert!(probes.iter().all(|text| probe(text) == [period, timeout, failures]), "one schedule for all");
        let schedule = Self {
            drain: Duration::from_millis(number(&text, "DRAIN_MS")),
            period: Duration::from_secs(period),
            timeout: Duration::from_secs(timeout),
            failures: u32::try_from(failures).unwrap(),
        };
        // A pod is left out once so many probes have failed, the first up to a period after
        // its end began; only then may it stop taking requests.
        let left_out = schedule.period * (schedule.failures + 1);
        assert!(schedule.drain >= left_out + Duration::from_secs(1), "{schedule:?}");
        for grace in text.split("terminationGracePeriodSeconds:").skip(1) {
            let seconds: u64 = grace.lines().next().unwrap().trim().parse().unwrap();
            assert!(Duration::from_secs(seconds) > schedule.drain + Duration::from_secs(12), "{seconds} s of grace");
        }
        schedule
    }

    /// So many times as fast, for all is on one machine here.
    fn faster(self, times: u32) -> Self {
        let Self { drain, period, timeout, failures } = self;
        Self { drain: drain / times, period: period / times, timeout: timeout / times, failures }
    }
}

/// A reverse proxy in front of replicas: each request goes to the next one that is in, over
/// a connection of its own, and nothing is tried again.
#[derive(Clone)]
struct Proxy(Arc<Inner>);

struct Inner {
    replicas: Vec<(SocketAddr, AtomicBool)>,
    next: AtomicUsize,
    client: reqwest::Client,
}

impl Proxy {
    async fn start(replicas: Vec<SocketAddr>, schedule: Schedule) -> (SocketAddr, Self) {
        let replicas = replicas.into_iter().map(|address| (address, AtomicBool::new(true))).collect();
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
        let proxy = Self(Arc::new(Inner { replicas, next: AtomicUsize::new(0), client }));
        for replica in 0..proxy.0.replicas.len() {
            tokio::spawn(proxy.clone().probe(replica, schedule));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(forward).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, proxy)
    }

    async fn probe(self, replica: usize, schedule: Schedule) {
        let (address, is_in) = &self.0.replicas[replica];
        let mut failed = 0;
        loop {
            tokio::time::sleep(schedule.period).await;
            let asked = self.0.client.get(format!("http://{address}/readyz")).timeout(schedule.timeout).send().await;
            failed = if asked.is_ok_and(|reply| reply.status() == 200) { 0 } else { failed + 1 };
            if failed == 0 || failed >= schedule.failures {
                is_in.store(failed == 0, Ordering::SeqCst);
            }
        }
    }

    fn is_in(&self, address: SocketAddr) -> bool {
        self.0.replicas.iter().any(|(replica, is_in)| *replica == address && is_in.load(Ordering::SeqCst))
    }
}

async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    let Inner { replicas, next, client } = &*proxy.0;
    let failed = |why: String| {
        let mut response = Response::new(Body::from(why));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    };
    let turn = next.fetch_add(1, Ordering::SeqCst);
    let order = (0..replicas.len()).map(|n| &replicas[(turn + n) % replicas.len()]);
    let Some((address, _)) = order.into_iter().find(|(_, is_in)| is_in.load(Ordering::SeqCst)) else {
        return failed("no replica is in".into());
    };
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let sent = client.request(parts.method, format!("http://{address}{}", parts.uri)).headers(parts.headers).body(body);
    match sent.send().await {
        Ok(reply) => {
            let (status, headers) = (reply.status(), reply.headers().clone());
            match reply.bytes().await {
                Ok(body) => {
                    let mut response = Response::new(Body::from(body));
                    *response.status_mut() = status;
                    *response.headers_mut() = headers;
                    response
                }
                Err(error) => failed(format!("{address} broke off: {error:?}")),
            }
        }
        Err(error) => failed(format!("{address}: {error:?}")),
    }
}

/// Two replicas of each service are replaced, one after the other, and no request fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_drops_no_request() {
    if !Storage::Services.is_there() {
        return;
    }
    let schedule = Schedule::of_the_file().faster(5);
    let drain = schedule.drain.as_millis().to_string();
    let settings = TestApp::settings(Storage::Services).var("DRAIN_MS", &drain);
    let mut app = settings.spawn().await;
    let mut replicas: Vec<Vec<Process>> = app.processes.drain(..).map(|process| vec![process]).collect();
    for (name, replicas) in SERVICES.iter().zip(&mut replicas) {
        let program = app.same_settings().program.executable(programs().join(name));
        replicas.push(program.start().await.unwrap());
    }
    let addresses = |service: usize| replicas[service].iter().map(|process| process.reached(0)).collect::<Vec<_>>();
    let (writes, write_proxy) = Proxy::start(addresses(0), schedule).await;
    let (reads, read_proxy) = Proxy::start(addresses(1), schedule).await;
    let (over, requests) = (AtomicBool::new(false), AtomicU64::new(0));
    let app = &app;
    let clients = join_all((0..4).map(|client| {
        let (over, requests) = (&over, &requests);
        async move {
            let key = format!("k{client}");
            for n in 0.. {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let body = json!({ "value": n.to_string() });
                let put = app.call_at(writes, "PUT", &answer(&key)).json(&body).send().await;
                let put = put.status(if n == 0 { 201 } else { 200 });
                let get = app.call_at(reads, "GET", &answer(&key)).header("Await-Position", put.position().to_string());
                get.send().await.is(200, &json!({"key": key, "value": n.to_string()}));
                requests.fetch_add(2, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }));
    let rolling = async {
        let mut took = BTreeMap::new();
        for (name, replicas) in SERVICES.iter().zip(&mut replicas) {
            for process in replicas {
                let begun = Instant::now();
                process.signal("TERM");
                assert!(process.ended(GRACE).await.expect("it ends").success());
                process.start_in_place().await;
                ready(app, process, 200).await;
                let address = process.reached(0);
                let proxy = [&write_proxy, &read_proxy]
                    .into_iter()
                    .find(|proxy| proxy.0.replicas.iter().any(|(replica, _)| *replica == address));
                while proxy.is_some_and(|proxy| !proxy.is_in(address)) {
                    assert!(begun.elapsed() < RECOVERY, "it is not taken in again");
                    tokio::time::sleep(schedule.period / 4).await;
                }
                took.insert(format!("{name} {address}"), begun.elapsed());
            }
        }
        over.store(true, Ordering::SeqCst);
        took
    };
    let ((), took) = tokio::join!(
        async {
            clients.await;
        },
        rolling
    );
    eprintln!("{} requests while {took:.1?} were replaced", requests.load(Ordering::SeqCst));
    assert!(requests.load(Ordering::SeqCst) > 100);
}
