//! Who may call: a browser's page only from an origin that is known, and on a
//! loopback address only under a name that cannot be made to point there.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};

use super::error::ApiError;
use crate::config::Web;

/// The rules, ready to be applied.
pub struct Guard {
    web: Web,
    any_origin: bool,
    /// The origin of `PUBLIC_URL`.
    public_origin: Option<String>,
}

impl Guard {
    /// The rules that the settings ask for.
    pub fn new(web: Web) -> Self {
        let any_origin = web.cors_origins.iter().any(|origin| origin == "*");
        let public_origin = web.public_origin();
        Self { web, any_origin, public_origin }
    }

    /// Lets a request in or not.
    ///
    /// # Errors
    /// 403 if its page or host may not call; 400 if it names two hosts.
    pub fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap, on_loopback: bool) -> Result<(), ApiError> {
        if headers.get_all(header::HOST).iter().count() > 1 {
            return Err(ApiError::bad_request("Host: must not be given twice"));
        }
        if on_loopback {
            let named = [uri.authority().map(|authority| authority.as_str()), host(headers)];
            if !named.into_iter().flatten().all(|host| self.is_local(host)) {
                return Err(ApiError::forbidden("Host: not a name of this machine; ALLOWED_HOSTS names others"));
            }
        }
        if method == Method::GET || method == Method::HEAD {
            return Ok(());
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if origins.all(|origin| self.is_known(origin, uri, headers)) {
            Ok(())
        } else {
            Err(ApiError::forbidden("Origin: pages from there may not send this; CORS_ORIGINS names those that may"))
        }
    }

    /// The origin to answer a page of another origin with, if it may read.
    pub fn cors_origin<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.is_listed(origin.to_str().ok()?).then_some(origin)
    }

    fn is_listed(&self, origin: &str) -> bool {
        let listed = |known: &String| known.eq_ignore_ascii_case(origin);
        self.any_origin || self.web.cors_origins.iter().any(listed) || self.public_origin.as_ref().is_some_and(listed)
    }

    fn is_known(&self, origin: &HeaderValue, uri: &Uri, headers: &HeaderMap) -> bool {
        let Ok(origin) = origin.to_str() else { return false };
        let own = host(headers).or_else(|| uri.authority().map(|authority| authority.as_str()));
        let same = own.is_some_and(|own| {
            let place = origin.split_once("://").map(|(_, place)| place);
            place.is_some_and(|place| without_default_port(place).eq_ignore_ascii_case(without_default_port(own)))
        });
        same || self.is_listed(origin)
    }

    fn is_local(&self, host: &str) -> bool {
        let name = without_port(host);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        bare.eq_ignore_ascii_case("localhost")
            || bare.parse::<IpAddr>().is_ok()
            || self.web.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(bare))
    }
}

fn host(headers: &HeaderMap) -> Option<&str> {
    // A host that is no text is nobody's name.
    headers.get(header::HOST).map(|host| host.to_str().unwrap_or("\u{0}"))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
        }
        _ => host,
    }
}

fn without_default_port(host: &str) -> &str {
    host.strip_suffix(":80").or_else(|| host.strip_suffix(":443")).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(guard: &Guard, method: Method, lines: &[(&'static str, &'static str)], on_loopback: bool) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let uri = Uri::from_static("/answers");
        guard.check(&method, &uri, &headers, on_loopback).map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn a_loopback_address_has_few_names() {
        let guard = Guard::new(Web { allowed_hosts: vec!["qa.test".into()], ..Web::default() });
        let get = |host| status(&guard, Method::GET, &[("host", host)], true);
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "[::1]:8080", "10.0.0.1", "qa.test:9"] {
            assert_eq!(get(good), 200, "{good}");
        }
        for bad in ["evil.test", "evil.test:8080", "localhost.evil.test", "127.0.0.1.evil.test", "", "localhost:x"] {
            assert_eq!(get(bad), 403, "{bad}");
        }
        assert_eq!(status(&guard, Method::GET, &[("host", "evil.test")], false), 200);
        assert_eq!(status(&guard, Method::GET, &[("host", "a"), ("host", "b")], false), 400);
    }

    #[test]
    fn strangers_pages_may_not_write() {
        let guard = Guard::new(Web {
            cors_origins: vec!["https://app.test".into()],
            public_url: Some("https://qa.test/base".into()),
            ..Web::default()
        });
        let post = |origin| status(&guard, Method::POST, &[("host", "my.test:80"), ("origin", origin)], false);
        for good in ["http://my.test", "https://my.test:443", "https://app.test", "https://QA.test"] {
            assert_eq!(post(good), 200, "{good}");
        }
        for bad in ["null", "https://evil.test", "http://app.test", "http://my.test:8080", "https://app.test.evil"] {
            assert_eq!(post(bad), 403, "{bad}");
        }
        assert_eq!(status(&guard, Method::GET, &[("origin", "https://evil.test")], false), 200);
        assert_eq!(status(&guard, Method::DELETE, &[], false), 200);
    }
}
