//! Links in bodies, whole: to the public address, or to where the request went.

use axum::http::{HeaderMap, Uri, header};

/// The link to a request's own path with another query. Without `PUBLIC_URL` it names
/// the request's host; forwarded headers say nothing here.
pub fn to(public_url: Option<&str>, uri: &Uri, headers: &HeaderMap, query: &str) -> String {
    let host = || headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = || uri.authority().map(|authority| authority.as_str()).or_else(host);
    let base = match public_url {
        Some(url) => url.to_owned(),
        None => host().map(|host| format!("http://{host}")).unwrap_or_default(),
    };
    format!("{base}{}?{query}", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn a_link_names_the_public_address_or_the_host() {
        let headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("qa.test:8081"))]);
        let uri = Uri::from_static("/api/event/?page=1");
        assert_eq!(to(None, &uri, &headers, "page=2"), "http://qa.test:8081/api/event/?page=2");
        let public = Some("https://qa.example/base");
        assert_eq!(to(public, &uri, &headers, "page=2"), "https://qa.example/base/api/event/?page=2");
        let absolute = Uri::from_static("http://other.test/api/event");
        assert_eq!(to(None, &absolute, &headers, "page=2"), "http://other.test/api/event?page=2");
        assert_eq!(to(None, &uri, &HeaderMap::new(), "page=2"), "/api/event/?page=2");
    }
}
