//! What another process serves: requests that came to the wrong port are told
//! where to go.
//!
//! A request only gets here where no route of this process took it, so that the
//! table needs not know which process this is.

use axum::Router;
use axum::http::{Method, Uri};

use super::error::ApiError;

/// A process, as clients know it.
pub struct Process {
    pub name: &'static str,
    /// Where it listens, if nobody says.
    pub port: u16,
}

/// The write side.
pub const WRITE_SIDE: Process = Process { name: "eventstore-svc", port: 8080 };
/// The read side.
pub const READ_SIDE: Process = Process { name: "projection-svc", port: 8081 };
/// What carries one to the other.
pub const PROJECTOR: Process = Process { name: "projector-svc", port: 8082 };

/// How the parts of the service are spread, so far as clients have to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each is a process of its own.
    Services,
    /// All are one process; what is for operators has an address of its own.
    Monolith,
}

/// Methods and a path, and who serves them. The first line that fits counts.
type Line = (&'static [&'static str], &'static str, &'static Process);

const ROUTES: &[Line] = &[
    (&["POST"], "/answers/batch", &WRITE_SIDE),
    (&["POST", "PATCH"], "/answers", &WRITE_SIDE),
    (&["PATCH", "PUT", "DELETE"], "/answers/{}", &WRITE_SIDE),
    (&["GET", "HEAD"], "/answers/{}/history", &WRITE_SIDE),
    (&["GET", "HEAD"], "/answers/{}/as-of", &WRITE_SIDE),
    (&["GET", "HEAD"], "/eventstore/ping", &WRITE_SIDE),
    (&["POST"], "/v1/events", &WRITE_SIDE),
    (&["PATCH", "DELETE"], "/v1/events/{}", &WRITE_SIDE),
    (&["GET", "HEAD"], "/v1/events/{}/history", &WRITE_SIDE),
    (&["POST"], "/v1/sessions", &WRITE_SIDE),
    (&["GET", "HEAD"], "/answers", &READ_SIDE),
    (&["GET", "HEAD"], "/answers/{}", &READ_SIDE),
    (&["GET", "HEAD"], "/v1/events", &READ_SIDE),
    (&["GET", "HEAD"], "/v1/events/stats", &READ_SIDE),
    (&["GET", "HEAD"], "/v1/events/stream", &READ_SIDE),
    (&["GET", "HEAD"], "/v1/events/{}", &READ_SIDE),
    (&["GET", "HEAD"], "/v1/sessions", &READ_SIDE),
    (&["GET", "HEAD"], "/v1/rejections", &READ_SIDE),
    (&["GET", "HEAD"], "/projection/ping", &READ_SIDE),
    (&["GET", "HEAD"], "/parked", &PROJECTOR),
    (&["POST"], "/parked/replay", &PROJECTOR),
    (&["GET", "HEAD", "POST"], "/rebuild", &PROJECTOR),
    (&["POST"], "/sessions", &WRITE_SIDE),
    (&["GET", "HEAD"], "/sessions", &READ_SIDE),
    (&["POST"], "/events", &WRITE_SIDE),
    (&["GET", "HEAD"], "/events", &READ_SIDE),
    (&["PUT", "PATCH", "DELETE"], "/events/{}", &WRITE_SIDE),
    (&["GET", "HEAD"], "/events/{}", &READ_SIDE),
    (&["GET", "HEAD"], "/errors", &READ_SIDE),
    (&["GET", "HEAD"], "/errors/{}", &READ_SIDE),
    (&["POST"], "/api/event", &WRITE_SIDE),
    (&["GET", "HEAD"], "/api/event", &READ_SIDE),
    (&["POST"], "/api/write", &WRITE_SIDE),
    (&["GET", "HEAD"], "/api/read", &READ_SIDE),
    (&["POST"], "/event", &WRITE_SIDE),
    (&["GET", "HEAD"], "/event", &READ_SIDE),
];

/// How paths of the older APIs begin, for which a slash at the end makes no difference.
const SLASHED: &[&str] = &["/api/", "/event/", "/events/", "/errors/", "/sessions/"];

/// Lets the routes answer what none of them takes.
pub(super) fn told(router: Router, layout: Layout) -> Router {
    router
        .fallback(async move |method, uri| unknown_path(layout, &method, &uri))
        .method_not_allowed_fallback(async move |method, uri| wrong_method(layout, &method, &uri))
}

/// 404: no route of this process has the path.
fn unknown_path(layout: Layout, method: &Method, uri: &Uri) -> ApiError {
    match serving(method, uri.path()) {
        Some(other) => ApiError::unknown_path_but(&elsewhere(layout, other)),
        None => ApiError::unknown_path(),
    }
}

/// 405: a route of this process has the path, with other methods.
fn wrong_method(layout: Layout, method: &Method, uri: &Uri) -> ApiError {
    match serving(method, uri.path()) {
        Some(other) => ApiError::wrong_method_but(&elsewhere(layout, other)),
        None => ApiError::wrong_method(),
    }
}

fn elsewhere(layout: Layout, process: &Process) -> String {
    let Process { name, port } = process;
    match layout {
        Layout::Services => format!("{name} serves it, by default on port {port}"),
        Layout::Monolith => {
            let variable = if *name == PROJECTOR.name { "ADMIN_ADDR" } else { "IP_PORT" };
            format!("it is served where {variable} says, by default on port {port}")
        }
    }
}

fn serving(method: &Method, path: &str) -> Option<&'static Process> {
    let slashed = path.strip_suffix('/').filter(|_| SLASHED.iter().any(|start| path.starts_with(start)));
    let path = slashed.unwrap_or(path);
    let fits = |(methods, pattern, _): &&Line| methods.contains(&method.as_str()) && is_like(path, pattern);
    ROUTES.iter().find(fits).map(|(.., process)| *process)
}

/// Whether a path has the form of a pattern, in which `{}` is any segment.
fn is_like(path: &str, pattern: &str) -> bool {
    let (mut segments, mut forms) = (path.split('/'), pattern.split('/'));
    loop {
        match (segments.next(), forms.next()) {
            (None, None) => return true,
            (Some(segment), Some("{}")) if !segment.is_empty() => {}
            (Some(segment), Some(form)) if segment == form => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_process() {
        let name = |method: &str, path| serving(&method.parse().expect("a method"), path).map(|process| process.name);
        for (method, path) in [
            ("POST", "/answers"),
            ("POST", "/answers/batch"),
            ("PATCH", "/answers/batch"),
            ("DELETE", "/answers/a%2Fb"),
            ("GET", "/answers/batch/history"),
            ("HEAD", "/answers/k/as-of"),
            ("GET", "/eventstore/ping"),
            ("POST", "/sessions/"),
            ("PUT", "/events/7/"),
            ("POST", "/api/event/"),
            ("POST", "/api/write"),
            ("POST", "/api/write/"),
            ("POST", "/event/"),
        ] {
            assert_eq!(name(method, path), Some("eventstore-svc"), "{method} {path}");
        }
        for (method, path) in
            [("GET", "/parked"), ("POST", "/parked/replay"), ("POST", "/rebuild"), ("HEAD", "/rebuild")]
        {
            assert_eq!(name(method, path), Some("projector-svc"), "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/answers"),
            ("HEAD", "/answers/k"),
            ("GET", "/answers/batch"),
            ("GET", "/v1/events"),
            ("HEAD", "/v1/events/stream"),
            ("GET", "/v1/rejections"),
            ("GET", "/sessions"),
            ("GET", "/events/"),
            ("GET", "/events/7"),
            ("GET", "/errors/7/"),
            ("HEAD", "/api/event/"),
            ("GET", "/api/read/"),
            ("HEAD", "/event"),
        ] {
            assert_eq!(name(method, path), Some("projection-svc"), "{method} {path}");
        }
        for (method, path) in [
            ("DELETE", "/answers"),
            ("POST", "/answers/k"),
            ("POST", "/answers/k/history"),
            ("GET", "/answers/"),
            ("GET", "/answers//history"),
            ("GET", "/answers/k/history/"),
            ("GET", "/"),
            ("GET", "/events//"),
            ("POST", "/errors/"),
            ("GET", "/event//"),
            ("GET", "/api/"),
            ("GET", "/parked/replay"),
            ("DELETE", "/rebuild"),
        ] {
            assert_eq!(name(method, path), None, "{method} {path}");
        }
    }

    #[test]
    fn the_monolith_names_its_settings() {
        let told = |layout, process| elsewhere(layout, process);
        assert_eq!(told(Layout::Services, &PROJECTOR), "projector-svc serves it, by default on port 8082");
        assert_eq!(told(Layout::Monolith, &PROJECTOR), "it is served where ADMIN_ADDR says, by default on port 8082");
        assert_eq!(told(Layout::Monolith, &READ_SIDE), "it is served where IP_PORT says, by default on port 8081");
    }
}
