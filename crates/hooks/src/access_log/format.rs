//! gunicorn's access log format, parsed once.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::process;
use std::str::FromStr;

use http::Version;
use http::header::{self, HeaderName};

use super::date::Date;
use super::line::Line;
use super::text::{basic_user, escape};
use crate::hook::RequestInfo;

/// A format that is ready to be written.
#[derive(Debug, Default)]
pub(super) struct Format {
    pieces: Vec<Piece>,
    request_headers: Vec<HeaderName>,
    response_headers: Vec<HeaderName>,
}

#[derive(Debug, PartialEq)]
enum Piece {
    Literal(String),
    RemoteAddr,
    /// Index of the `Authorization` header.
    User(usize),
    Time,
    RequestLine,
    Method,
    Path,
    Query,
    RawUri,
    Protocol,
    Status,
    Bytes,
    BytesOrDash,
    Seconds,
    Millis,
    Micros,
    Decimal,
    Pid,
    Outcome,
    Route,
    RequestHeader(usize),
    ResponseHeader(usize),
    /// Unknown or always absent.
    Dash,
}

/// A format that is not made of `%(atom)s`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FormatError {
    /// Byte at which the offending `%` stands.
    pub position: usize,
}

impl Format {
    /// What gunicorn logs by default.
    pub(super) fn combined() -> Self {
        r#"%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s""#.parse().unwrap_or_default()
    }

    pub(super) fn request_headers(&self) -> &[HeaderName] {
        &self.request_headers
    }

    pub(super) fn has_route(&self) -> bool {
        self.pieces.contains(&Piece::Route)
    }

    pub(super) fn response_headers(&self) -> &[HeaderName] {
        &self.response_headers
    }

    pub(super) fn write(&self, line: &Line<'_>, text: &mut String) {
        for piece in &self.pieces {
            let before = text.len();
            // Writing to a String cannot fail.
            let _ = piece.write(line, text);
            if text.len() == before && *piece != Piece::Query {
                text.push('-');
            }
        }
    }

    fn literal(&mut self, text: &str) {
        if let Some(Piece::Literal(last)) = self.pieces.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            self.pieces.push(Piece::Literal(text.to_owned()));
        }
    }

    fn atom(&mut self, atom: &str) -> Piece {
        match atom {
            "h" => Piece::RemoteAddr,
            "u" => match self.request_header(header::AUTHORIZATION.as_str()) {
                Piece::RequestHeader(index) => Piece::User(index),
                other => other,
            },
            "t" => Piece::Time,
            "r" => Piece::RequestLine,
            "m" => Piece::Method,
            "U" => Piece::Path,
            "q" => Piece::Query,
            "H" => Piece::Protocol,
            "s" => Piece::Status,
            "B" => Piece::Bytes,
            "b" => Piece::BytesOrDash,
            "f" => self.request_header(header::REFERER.as_str()),
            "a" => self.request_header(header::USER_AGENT.as_str()),
            "T" => Piece::Seconds,
            "M" => Piece::Millis,
            "D" => Piece::Micros,
            "L" => Piece::Decimal,
            "p" => Piece::Pid,
            "outcome" => Piece::Outcome,
            "route" => Piece::Route,
            _ => match atom.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) {
                Some((name, "i")) => self.request_header(name),
                Some((name, "o")) => self.response_header(name),
                Some((name, "e")) => self.environ(name),
                _ => Piece::Dash,
            },
        }
    }

    fn environ(&mut self, name: &str) -> Piece {
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "REQUEST_METHOD" => Piece::Method,
            "PATH_INFO" => Piece::Path,
            "QUERY_STRING" => Piece::Query,
            "RAW_URI" => Piece::RawUri,
            "SERVER_PROTOCOL" => Piece::Protocol,
            "REMOTE_ADDR" => Piece::RemoteAddr,
            "CONTENT_TYPE" => self.request_header(header::CONTENT_TYPE.as_str()),
            "CONTENT_LENGTH" => self.request_header(header::CONTENT_LENGTH.as_str()),
            _ => match name.strip_prefix("HTTP_") {
                Some(header) => self.request_header(&header.replace('_', "-")),
                None => Piece::Dash,
            },
        }
    }

    fn request_header(&mut self, name: &str) -> Piece {
        index(&mut self.request_headers, name).map_or(Piece::Dash, Piece::RequestHeader)
    }

    fn response_header(&mut self, name: &str) -> Piece {
        index(&mut self.response_headers, name).map_or(Piece::Dash, Piece::ResponseHeader)
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(format: &str) -> Result<Self, FormatError> {
        let mut parsed = Self::default();
        let mut rest = format;
        while let Some(percent) = rest.find('%') {
            parsed.literal(&rest[..percent]);
            let error = FormatError { position: format.len() - rest.len() + percent };
            let after = &rest[percent + 1..];
            if let Some(after) = after.strip_prefix('%') {
                parsed.literal("%");
                rest = after;
                continue;
            }
            let atom = after.strip_prefix('(').and_then(|atom| atom.split_once(")s"));
            let (atom, after) = atom.ok_or(error)?;
            let piece = parsed.atom(atom);
            parsed.pieces.push(piece);
            rest = after;
        }
        parsed.literal(rest);
        Ok(parsed)
    }
}

/// Where `name` stands in `names`, put there if it is new; `None` if no header can have that name.
fn index(names: &mut Vec<HeaderName>, name: &str) -> Option<usize> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some(names.iter().position(|known| *known == name).unwrap_or_else(|| {
        names.push(name);
        names.len() - 1
    }))
}

impl Piece {
    /// Writes nothing for what is absent.
    fn write(&self, line: &Line<'_>, text: &mut String) -> fmt::Result {
        let Line { request, end, .. } = line;
        let header = |header: Option<&[u8]>, text: &mut String| {
            escape(header.unwrap_or_default(), text);
        };
        match self {
            Self::Literal(literal) => text.push_str(literal),
            Self::RemoteAddr => {
                if let Some(address) = line.record.remote_addr {
                    write!(text, "{address}")?;
                }
            }
            Self::User(index) => {
                let user = line.request_header(*index).and_then(basic_user).unwrap_or_default();
                // It stands without quotes: a space in it would begin another field.
                for (n, word) in user.split(|&byte| byte == b' ').enumerate() {
                    text.push_str(if n == 0 { "" } else { "\\x20" });
                    escape(word, text);
                }
            }
            Self::Time => {
                let date = Date::of(line.now);
                let Date { year, day, hour, minute, second, .. } = date;
                let month = date.month_name();
                write!(text, "[{day:02}/{month}/{year}:{hour:02}:{minute:02}:{second:02} +0000]")?;
            }
            Self::RequestLine => {
                escape(request.method.as_str().as_bytes(), text);
                text.push(' ');
                escape(raw_uri(request).as_bytes(), text);
                write!(text, " {:?}", request.version)?;
            }
            Self::Method => escape(request.method.as_str().as_bytes(), text),
            Self::Path => escape(request.uri.path().as_bytes(), text),
            Self::Query => escape(request.uri.query().unwrap_or_default().as_bytes(), text),
            Self::RawUri => escape(raw_uri(request).as_bytes(), text),
            Self::Protocol => write!(text, "{:?}", request.version)?,
            Self::Status => {
                if let Some(status) = end.status {
                    text.push_str(status.as_str());
                }
            }
            Self::Bytes => write!(text, "{}", end.bytes)?,
            Self::BytesOrDash => {
                if end.status.is_some() {
                    write!(text, "{}", end.bytes)?;
                }
            }
            Self::Seconds => write!(text, "{}", end.total.as_secs())?,
            Self::Millis => write!(text, "{}", end.total.as_millis())?,
            Self::Micros => write!(text, "{}", end.total.as_micros())?,
            Self::Decimal => {
                write!(text, "{}.{:06}", end.total.as_secs(), end.total.subsec_micros())?;
            }
            Self::Pid => write!(text, "<{}>", process::id())?,
            Self::Outcome => text.push_str(line.outcome()),
            Self::Route => {
                escape(line.record.route.as_deref().unwrap_or_default().as_bytes(), text);
            }
            Self::RequestHeader(index) => header(line.request_header(*index), text),
            Self::ResponseHeader(index) => header(line.response_header(*index), text),
            Self::Dash => {}
        }
        Ok(())
    }
}

/// What stood in the request line; over HTTP/2, which has none, the path.
fn raw_uri<'a>(request: &RequestInfo<'a>) -> Cow<'a, str> {
    let uri = request.uri;
    match uri.path_and_query() {
        Some(path) if uri.authority().is_none() || request.version >= Version::HTTP_2 => {
            path.as_str().into()
        }
        // Sent to a proxy, or CONNECT.
        _ => uri.to_string().into(),
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no `%(atom)s` and no `%%` at byte {} of the access log format", self.position)
    }
}

impl std::error::Error for FormatError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_atom() {
        for (format, position) in
            [("%", 0), ("ab %(h)d", 3), ("%(h)s %h", 6), ("100%", 3), ("%(h", 0)]
        {
            let error = format.parse::<Format>().expect_err(format);
            assert_eq!(error, FormatError { position }, "{format}");
        }
    }

    #[test]
    fn default_is_well_formed() {
        assert!(!Format::combined().pieces.is_empty());
        assert!(!Format::combined().pieces.contains(&Piece::Literal(String::new())));
    }
}
