//! The routes of the documentation. Its page is Swagger UI, whole within the process.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use utoipa::openapi::OpenApi;

use crate::config::Web;
use crate::http::error::ApiError;
use crate::http::response::{JSON, Tell, with};
use crate::http::routes::labelled;

/// A file of the page: its name, its media type and what is in it.
type File = (&'static str, &'static str, &'static [u8]);

const SCRIPT: &str = "text/javascript; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The page itself has no name.
const FILES: [File; 6] = [
    ("", "text/html; charset=utf-8", include_bytes!("index.html")),
    ("start.js", SCRIPT, include_bytes!("start.js")),
    ("swagger-ui-bundle.js", SCRIPT, include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui-bundle.js"))),
    ("swagger-ui.css", "text/css; charset=utf-8", include_bytes!(concat!(env!("OUT_DIR"), "/swagger-ui.css"))),
    ("LICENSE", TEXT, include_bytes!(concat!(env!("OUT_DIR"), "/LICENSE"))),
    ("NOTICE", TEXT, include_bytes!(concat!(env!("OUT_DIR"), "/NOTICE"))),
];

/// What the routes of the documentation say of themselves.
pub fn documented() -> OpenApi {
    <Documented as utoipa::OpenApi>::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(paths(get_openapi, get_page))]
struct Documented;

/// The routes of the documentation, for this document.
pub fn router(document: &OpenApi, web: &Web) -> Router {
    let text = Bytes::from(document.to_json().expect("a document is always JSON"));
    let (page, files) = (policy(web), policy(web));
    Router::new()
        .route("/openapi.json", labelled(get(async move || get_openapi(text.clone()))))
        .route("/docs", labelled(get(redirect)))
        .route("/docs/", labelled(get(async move || get_page(&page))))
        .route("/docs/{file}", labelled(get(async move |Path(name): Path<String>| get_file(&name, &files))))
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operations",
    operation_id = "get_openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)),
)]
fn get_openapi(text: Bytes) -> Response {
    with(StatusCode::OK, Some(JSON), Body::from(text), Tell::default())
}

/// The documentation, to read and to try.
#[utoipa::path(
    get,
    path = "/docs/",
    tag = "operations",
    operation_id = "get_docs",
    responses((status = 200, description = "A page that shows `/openapi.json`", content_type = "text/html", body = String)),
)]
fn get_page(policy: &HeaderValue) -> Result<Response, ApiError> {
    get_file("", policy)
}

fn get_file(name: &str, policy: &HeaderValue) -> Result<Response, ApiError> {
    let (_, media, content) = FILES.iter().find(|(known, ..)| *known == name).ok_or_else(ApiError::unknown_path)?;
    let mut response =
        with(StatusCode::OK, Some(HeaderValue::from_static(media)), Body::from(*content), Tell::default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
    Ok(response)
}

/// To the page. It is told in relation to the request's path: a proxy may serve us
/// below another one.
async fn redirect() -> Response {
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "docs/")]).into_response()
}

/// What the page may load and whom it may call: this process, and what `PUBLIC_URL`
/// names, where the calls of the document go.
fn policy(web: &Web) -> HeaderValue {
    let public = web.public_origin().unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         connect-src 'self' {public}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("a URL that was checked is a header value")
}
