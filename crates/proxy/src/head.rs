//! Heads of requests and answers: what is checked, taken off and added on their way. Pure.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Uri, Version, request};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// For one hop only (RFC 9110 §7.6.1), besides those that Connection names.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What is wrong with a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadFault {
    #[error("the request names no host; send one Host header")]
    NoHost,
    #[error("the request names more than one host; send one Host header")]
    Hosts,
    #[error("the request's host is none; send Host: NAME or NAME:PORT")]
    HostInvalid,
    #[error("CONNECT is not for this proxy; it carries requests to one service")]
    Connect,
    #[error("the body is longer than the limit of this proxy; send less")]
    TooLong,
}

/// Checks a request's head, and gives back whom it is for.
pub(crate) fn check(head: &request::Parts, longest_body: u64) -> Result<Authority, HeadFault> {
    if head.method == Method::CONNECT {
        return Err(HeadFault::Connect);
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > longest_body) {
        return Err(HeadFault::TooLong);
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(HeadFault::Hosts);
    }
    let host = host.map(|host| {
        let authority = Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes()));
        authority.ok().filter(|authority| !authority.as_str().contains('@')).ok_or(HeadFault::HostInvalid)
    });
    match (head.uri.authority(), host.transpose()?) {
        // RFC 9112 §3.2.2: the target's own authority wins over Host; HTTP/2 wants them to be the same.
        (Some(authority), Some(host)) if head.version == Version::HTTP_2 && *authority != host => {
            Err(HeadFault::Hosts)
        }
        (Some(authority), _) if authority.as_str().contains('@') => Err(HeadFault::HostInvalid),
        (Some(authority), _) => Ok(authority.clone()),
        (None, Some(host)) => Ok(host),
        (None, None) if head.version == Version::HTTP_10 => Ok(Authority::from_static("localhost")),
        (None, None) => Err(HeadFault::NoHost),
    }
}

/// The protocol that a request of HTTP/1.1 would go over to.
pub(crate) fn upgrade(head: &request::Parts) -> Option<HeaderValue> {
    let wants = head.version == Version::HTTP_11 && names(&head.headers, CONNECTION, "upgrade");
    // h2c is refused by silence: prior knowledge does without, and its settings would pass by all checks.
    let to = head.headers.get(UPGRADE).filter(|to| !contains(to, "h2c"));
    if wants { to.cloned() } else { None }
}

pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let content = headers.get(http::header::CONTENT_TYPE);
    content.is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}

/// How long a gRPC call may take, by its own words.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<std::time::Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 =
        digits.parse().ok().filter(|_| digits.len() <= 8 && digits.bytes().all(|b| b.is_ascii_digit()))?;
    let nanos = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    Some(std::time::Duration::from_nanos(count.saturating_mul(nanos)))
}

/// Whether a request may be done twice (RFC 9110 §9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The client's address, as [`address`] writes it.
    pub(crate) client: &'a HeaderValue,
    pub(crate) tls: bool,
    pub(crate) trusted: bool,
}

/// An address as headers have it.
pub(crate) fn address(client: IpAddr) -> HeaderValue {
    // Digits, letters, dots and colons: it can't fail.
    HeaderValue::try_from(client.to_canonical().to_string()).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Makes a client's head what an instance gets, but for the version and the form of the target.
pub(crate) fn prepare(head: &mut request::Parts, authority: &Authority, origin: Origin<'_>) {
    let trailers = names(&head.headers, TE, "trailers");
    strip(&mut head.headers);
    head.headers.remove(EXPECT);
    if trailers {
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    forwarded(&mut head.headers, authority, origin);
}

/// Towards an instance that speaks HTTP/1.1: Host, a target without a host, one line of cookies.
pub(crate) fn for_http1(head: &mut request::Parts, authority: &Authority) {
    head.version = Version::HTTP_11;
    head.headers.remove(TE);
    let own = head.headers.get(HOST).map(HeaderValue::as_bytes);
    if own != Some(authority.as_str().as_bytes())
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
    if head.uri.authority().is_some() {
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        head.uri = Uri::from(path);
    }
    join_cookies(&mut head.headers);
}

/// Towards an instance that speaks HTTP/2: everything in the target, and no Host.
pub(crate) fn for_http2(head: &mut request::Parts, authority: &Authority, tls: bool) {
    head.version = Version::HTTP_2;
    head.headers.remove(HOST);
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(authority.clone());
    parts.path_and_query =
        Some(head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    // All three parts are there and valid, so it can't fail.
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
}

/// Makes an instance's head what a client gets.
pub(crate) fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // What says where a message ends or whom it is for is no hop's own.
            .filter(|name| *name != HOST && *name != CONTENT_LENGTH && *name != TRAILER)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn forwarded(headers: &mut HeaderMap, authority: &Authority, origin: Origin<'_>) {
    let chain = if origin.trusted { chain(headers, origin.client) } else { origin.client.clone() };
    headers.insert(FORWARDED_FOR, chain);
    if !origin.trusted || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if origin.tls { "https" } else { "http" }));
    }
    if !origin.trusted || !headers.contains_key(FORWARDED_HOST) {
        let own = headers.get(HOST).filter(|host| host.as_bytes() == authority.as_str().as_bytes());
        if let Some(host) = own.cloned().or_else(|| HeaderValue::from_str(authority.as_str()).ok()) {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

/// All that a request has passed, and at last who sent it here.
fn chain(headers: &HeaderMap, client: &HeaderValue) -> HeaderValue {
    let mut chain = Vec::new();
    for before in headers.get_all(FORWARDED_FOR) {
        chain.extend_from_slice(before.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(client.as_bytes());
    HeaderValue::try_from(chain).unwrap_or_else(|_| client.clone())
}

/// HTTP/2 may send each cookie alone; HTTP/1.1 has one line of them (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(value) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(COOKIE, value);
    }
}

/// Whether a header that is a list names this, in any case.
fn names(headers: &HeaderMap, header: HeaderName, word: &str) -> bool {
    headers.get_all(header).iter().any(|value| contains(value, word))
}

fn contains(value: &HeaderValue, word: &str) -> bool {
    let value = value.to_str().unwrap_or_default();
    value.split(',').any(|item| item.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn head(build: impl FnOnce(request::Builder) -> request::Builder) -> request::Parts {
        build(Request::builder()).body(()).unwrap().into_parts().0
    }

    fn prepared(head: &mut request::Parts, authority: &Authority, trusted: bool) {
        let client = address("::ffff:10.0.0.9".parse().unwrap());
        prepare(head, authority, Origin { client: &client, tls: true, trusted });
    }

    /// Spec F-2: what is for one hop stays on it, but gRPC keeps its `te: trailers`.
    #[test]
    fn hop_by_hop_headers_are_taken_off() {
        let mut head = head(|head| {
            head.uri("/")
                .header("host", "a.example")
                .header("connection", "close, X-Private, host, content-length")
                .header("x-private", "1")
                .header("content-length", "3")
                .header("keep-alive", "timeout=5")
                .header("proxy-authorization", "x")
                .header("te", "gzip, Trailers;q=1")
                .header("upgrade", "foo")
                .header("x-kept", "1")
        });
        let authority = check(&head, 10).unwrap();
        prepared(&mut head, &authority, false);
        let mut names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "content-length",
                "host",
                "te",
                "x-forwarded-for",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-kept"
            ]
        );
        assert_eq!(head.headers["te"], "trailers");
    }

    /// Spec F-2: instances see where a request comes from, and clients can't make it up.
    #[test]
    fn forwarded_headers_are_replaced_or_added_to() {
        let came = |trusted| {
            let mut head = head(|head| {
                head.header("host", "a.example")
                    .header("x-forwarded-for", "1.2.3.4")
                    .header("x-forwarded-for", "5.6.7.8")
                    .header("x-forwarded-proto", "gopher")
            });
            prepared(&mut head, &Authority::from_static("a.example"), trusted);
            ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"]
                .map(|name| head.headers[name].to_str().unwrap().to_owned())
        };
        assert_eq!(came(false), ["10.0.0.9", "https", "a.example"]);
        assert_eq!(came(true), ["1.2.3.4, 5.6.7.8, 10.0.0.9", "gopher", "a.example"]);
    }

    #[test]
    fn a_request_is_for_one_host() {
        let with = |uri: &'static str, version, hosts: &[&str]| {
            let head = head(|mut head| {
                for host in hosts {
                    head = head.header("host", *host);
                }
                head.uri(uri).version(version)
            });
            check(&head, 10).map(|authority| authority.to_string())
        };
        use HeadFault::{HostInvalid, Hosts, NoHost};
        assert_eq!(with("/", Version::HTTP_11, &["a"]).unwrap(), "a");
        assert_eq!(with("/", Version::HTTP_11, &[]), Err(NoHost));
        assert_eq!(with("/", Version::HTTP_11, &["a", "a"]), Err(Hosts));
        assert_eq!(with("/", Version::HTTP_11, &["a b"]), Err(HostInvalid));
        assert_eq!(with("/", Version::HTTP_11, &["u@a"]), Err(HostInvalid));
        assert_eq!(with("/", Version::HTTP_11, &[""]), Err(HostInvalid));
        assert_eq!(with("http://b/", Version::HTTP_11, &["a"]).unwrap(), "b");
        assert_eq!(with("http://b/", Version::HTTP_2, &["a"]), Err(Hosts));
        assert_eq!(with("http://b/", Version::HTTP_2, &[]).unwrap(), "b");
        assert!(with("/", Version::HTTP_10, &[]).is_ok());
    }

    #[test]
    fn each_version_gets_its_form_of_the_target() {
        let mut one = head(|head| {
            head.uri("http://b:1/x?y")
                .version(Version::HTTP_2)
                .header("cookie", "a=1")
                .header("cookie", "b=2")
        });
        for_http1(&mut one, &Authority::from_static("b:1"));
        assert_eq!((one.uri.to_string(), one.version), ("/x?y".to_owned(), Version::HTTP_11));
        assert_eq!(
            (&one.headers["host"], &one.headers["cookie"]),
            (&"b:1".parse().unwrap(), &"a=1; b=2".parse().unwrap())
        );

        let mut other = head(|head| head.uri("/x?y").header("host", "a"));
        for_http2(&mut other, &Authority::from_static("a"), true);
        assert_eq!(other.uri.to_string(), "https://a/x?y");
        assert!(!other.headers.contains_key("host"));
    }

    #[test]
    fn upgrades_are_for_http_1_1_and_not_to_http_2() {
        let to = |version, connection: &str, to: &str| {
            let head =
                head(|head| head.version(version).header("connection", connection).header("upgrade", to));
            upgrade(&head).is_some()
        };
        assert!(to(Version::HTTP_11, "keep-alive, Upgrade", "websocket"));
        assert!(!to(Version::HTTP_11, "keep-alive", "websocket"));
        assert!(!to(Version::HTTP_10, "upgrade", "websocket"));
        assert!(!to(Version::HTTP_11, "upgrade, http2-settings", "h2c"));
    }

    #[test]
    fn grpc_says_how_long() {
        let says = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", HeaderValue::from_bytes(text.as_bytes()).unwrap());
            grpc_timeout(&headers).map(|timeout| timeout.as_micros())
        };
        assert_eq!(
            [says("100m"), says("2S"), says("1H")],
            [Some(100_000), Some(2_000_000), Some(3_600_000_000)]
        );
        assert_eq!([says(""), says("m"), says("-1m"), says("123456789m"), says("5x"), says("5é")], [None; 6]);
    }
}
