//! What hyper takes for a request and a server must not: a proxy in front may read it otherwise, and then one
//! client's bytes become another one's request.

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use http_body::Body;
use memchr::memchr;

use crate::listener::Peer;
use crate::refused::{Refused, RefusedReason};

/// Why a request is invalid.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Invalid {
    pub(crate) reason: RefusedReason,
    pub(crate) status: StatusCode,
    pub(crate) detail: &'static str,
}

/// Looks at a request's head. `ambiguous` if one on this connection had both Content-Length and
/// Transfer-Encoding, of which hyper shows the latter only.
///
/// # Errors
///
/// It is invalid by RFC 9110, 9112 or 9113.
pub(crate) fn validate<B: Body>(request: &Request<B>, ambiguous: bool) -> Result<(), Invalid> {
    let http1 = request.version() < Version::HTTP_2;
    check_target(request.method(), request.uri(), http1)?;
    check_host(request.headers(), request.uri().authority(), request.version())?;
    // Whose body is coded has one, if only to see its end.
    if http1 && !request.body().is_end_stream() {
        check_framing(request.headers(), ambiguous)
    } else {
        Ok(())
    }
}

/// Makes the authority of an HTTP/1 target the Host (RFC 9112 section 3.2.2).
pub(crate) fn adopt_authority<B>(request: &mut Request<B>) {
    if request.version() >= Version::HTTP_2 {
        return;
    }
    let authority = request.uri().authority();
    if let Some(host) = authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
}

/// RFC 9112 section 3.2.
fn check_target(method: &Method, target: &Uri, http1: bool) -> Result<(), Invalid> {
    let bad = |detail| Err(Invalid::bad(RefusedReason::InvalidTarget, detail));
    let authority = target.authority();
    let is_authority_form = authority.is_some() && target.scheme().is_none();
    if http1 && (*method == Method::CONNECT) != is_authority_form {
        return bad("an authority as the target is for CONNECT, and CONNECT has no other");
    }
    if target.path() == "*" && *method != Method::OPTIONS {
        return bad("the target * is for OPTIONS");
    }
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return bad("a name or password in the target");
    }
    Ok(())
}

fn check_host(
    headers: &HeaderMap,
    authority: Option<&Authority>,
    version: Version,
) -> Result<(), Invalid> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let Some(host) = hosts.next() else {
        // HTTP/2 has `:authority`, and before HTTP/1.1 there was none.
        return if version == Version::HTTP_11 { Err(bad_host("no Host")) } else { Ok(()) };
    };
    if hosts.next().is_some() {
        return Err(bad_host("more than one Host"));
    }
    if !is_host(host.as_bytes()) {
        return Err(bad_host("a malformed Host"));
    }
    let differs = |authority: &Authority| {
        !authority.as_str().as_bytes().eq_ignore_ascii_case(host.as_bytes())
    };
    // On HTTP/1 the target wins.
    if version >= Version::HTTP_2 && authority.is_some_and(differs) {
        return Err(bad_host("Host is not :authority"));
    }
    Ok(())
}

/// RFC 9110 section 7.2: a name or an address, and perhaps a port; or nothing.
fn is_host(host: &[u8]) -> bool {
    let (port, is_name) = if let Some(address) = host.strip_prefix(b"[") {
        let Some(end) = address.iter().position(|byte| *byte == b']') else { return false };
        let (address, port) = address.split_at(end);
        let fits = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        (&port[1..], !address.is_empty() && address.iter().all(fits))
    } else {
        let end = memchr(b':', host).unwrap_or(host.len());
        let (name, port) = host.split_at(end);
        (port, name.iter().all(|byte| IS_NAME_BYTE[usize::from(*byte)]))
    };
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    is_name && is_port
}

/// RFC 3986 section 3.2.2, without the comma, which joins two headers into one.
const IS_NAME_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    table
};

/// RFC 9112 section 6.1. That `chunked` is the last coding hyper has seen to.
fn check_framing(headers: &HeaderMap, ambiguous: bool) -> Result<(), Invalid> {
    let bad = |detail| Err(Invalid::bad(RefusedReason::InvalidFraming, detail));
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(line) = lines.next() else {
        return Ok(());
    };
    if ambiguous {
        return bad("Content-Length beside Transfer-Encoding");
    }
    if lines.next().is_some() {
        return bad("more than one Transfer-Encoding");
    }
    if line.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings = || line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if codings().filter(|coding| coding.eq_ignore_ascii_case(b"chunked")).count() > 1 {
        return bad("chunked more than once");
    }
    if codings().any(<[u8]>::is_empty) {
        return bad("an empty coding in Transfer-Encoding");
    }
    Err(Invalid {
        reason: RefusedReason::InvalidFraming,
        status: StatusCode::NOT_IMPLEMENTED,
        detail: "a coding other than chunked in Transfer-Encoding",
    })
}

fn bad_host(detail: &'static str) -> Invalid {
    Invalid::bad(RefusedReason::InvalidHost, detail)
}

impl Invalid {
    fn bad(reason: RefusedReason, detail: &'static str) -> Self {
        Self { reason, status: StatusCode::BAD_REQUEST, detail }
    }

    /// What is told of it, if `peer` sent it.
    pub(crate) fn refused(&self, peer: Peer) -> Refused {
        let Self { reason, status, detail } = *self;
        Refused { peer, reason, status: Some(status), detail: detail.to_owned() }
    }
}
