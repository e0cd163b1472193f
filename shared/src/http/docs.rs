//! The documentation of a process: its OpenAPI document, and a page to read and try
//! it. What a route takes and answers stands beside its handler; what holds for all
//! routes is added here. Nothing comes from another host.

pub mod failures;
pub mod headers;
pub mod pages;
pub mod parameters;

use utoipa::openapi::path::Operation;
use utoipa::openapi::tag::{Tag, TagBuilder};
use utoipa::openapi::{Components, Info, License, OpenApi, PathItem, Server};

use super::health;
use crate::config::Web;

/// A process, as its document names it.
pub struct About {
    pub name: &'static str,
    pub version: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
}

/// The tags of routes, in the order of the page, with what they are.
const TAGS: [(&str, &str); 8] = [
    ("answers", "Keys with values, their whole history, and the past at any moment."),
    ("event log", "Records that other systems send in, natively."),
    ("audit log", "The event log in the shape of an audit log."),
    ("event logger", "The event log in the shape of an event logger."),
    ("The Eye", "The event log in the shape of The Eye: its REST API."),
    ("The Eye's collector", "The event log in the shape of The Eye: its collector."),
    ("operate", "Streams that wait behind an event that cannot be projected, and views built anew."),
    ("operations", "Whether the process is well, what it counts, and this documentation."),
];

/// What holds for every route, told once.
const PREFACE: &str = "
HEAD is answered wherever GET is; OPTIONS is answered with 204 and `Allow`.

Errors are `{\"error\": …}`; with `Accept: application/problem+json` the same errors are problem details \
(RFC 9457).

Bodies are read as JSON whatever their Content-Type says, and members that are not named here are ignored, \
where a route does not say otherwise.";

/// The document of a process with these routes: what they say of themselves, and what
/// is true of all.
pub fn document(about: &About, web: &Web, routes: OpenApi) -> OpenApi {
    let About { name, version, about } = about;
    let mut document = routes.merge_from(health::documented()).merge_from(pages::documented());
    document.info = Info::new(format!("qaservice: {name}"), (*version).to_owned());
    document.info.description = Some(format!("{about}.\n{PREFACE}"));
    document.info.license = Some(License::new("MIT"));
    document.servers = Some(vec![Server::new(web.public_url.as_deref().unwrap_or("/"))]);
    let mut components = document.components.take().unwrap_or_default();
    components.schemas.extend(failures::schemas());
    components.headers = headers::all();
    components.responses.extend(failures::all());
    document.paths.paths.values_mut().flat_map(operations_mut).for_each(complete);
    components.responses.values_mut().for_each(headers::refer);
    document.components = Some(components);
    document.tags = Some(tags(&document));
    forget_unused(&mut document);
    document
}

fn operations_mut(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, post, put, patch, delete].into_iter().flatten()
}

fn operations(item: &PathItem) -> impl Iterator<Item = &Operation> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    [get, post, put, patch, delete].into_iter().flatten()
}

/// Adds what the server answers before any handler, and what it adds to all responses.
fn complete(operation: &mut Operation) {
    let responses = &mut operation.responses.responses;
    for (status, response) in failures::of_every_route() {
        responses.entry(status).or_insert(response);
    }
    responses.values_mut().for_each(headers::refer);
}

/// What is told of the tags that are used.
fn tags(document: &OpenApi) -> Vec<Tag> {
    let all =
        || document.paths.paths.values().flat_map(operations).flat_map(|operation| operation.tags.iter().flatten());
    let used = TAGS.iter().filter(|(name, _)| all().any(|used| used == name));
    used.map(|(name, what)| TagBuilder::new().name(*name).description(Some(*what)).build()).collect()
}

/// Drops components that no route of this process refers to.
fn forget_unused(document: &mut OpenApi) {
    loop {
        let text = serde_json::to_string(document).expect("a document is always JSON");
        let Some(Components { responses, headers, schemas, .. }) = &mut document.components else { return };
        let before = responses.len() + headers.len() + schemas.len();
        let used = |kind: &str, name: &str| text.contains(&format!("\"#/components/{kind}/{name}\""));
        responses.retain(|name, _| used("responses", name));
        headers.retain(|name, _| used("headers", name));
        schemas.retain(|name, _| used("schemas", name));
        if responses.len() + headers.len() + schemas.len() == before {
            return;
        }
    }
}
