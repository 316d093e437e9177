//! The access log's JSON form.

use std::fmt::{self, Write as _};
use std::process;
use std::time::Duration;

use super::date::Date;
use super::line::Line;

/// Writes one JSON object.
pub(super) fn write(line: &Line<'_>, text: &mut String) {
    // Writing to a String cannot fail.
    let _ = write_object(line, text);
}

fn write_object(line: &Line<'_>, text: &mut String) -> fmt::Result {
    let Line { request, end, record, .. } = line;
    let Date { year, month, day, hour, minute, second, micros } = Date::of(line.now);
    write!(
        text,
        r#"{{"time":"{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z""#
    )?;
    match record.remote_addr {
        Some(address) => write!(text, r#","remote_addr":"{address}""#)?,
        None => text.push_str(r#","remote_addr":null"#),
    }
    string(text, "method", Some(request.method.as_str().as_bytes()))?;
    string(text, "path", Some(request.uri.path().as_bytes()))?;
    string(text, "query", request.uri.query().map(str::as_bytes))?;
    string(text, "route", record.route.as_deref().map(str::as_bytes))?;
    write!(text, r#","protocol":"{:?}""#, request.version)?;
    match end.status {
        Some(status) => write!(text, r#","status":{}"#, status.as_u16())?,
        None => text.push_str(r#","status":null"#),
    }
    write!(text, r#","bytes":{},"outcome":"{}""#, end.bytes, line.outcome())?;
    seconds(text, "time_to_head", end.time_to_head)?;
    seconds(text, "duration", Some(end.total))?;
    string(text, "referer", line.request_header(0))?;
    string(text, "user_agent", line.request_header(1))?;
    write!(text, r#","pid":{}}}"#, process::id())
}

fn seconds(text: &mut String, key: &str, value: Option<Duration>) -> fmt::Result {
    match value {
        Some(value) => {
            write!(text, r#","{key}":{}.{:06}"#, value.as_secs(), value.subsec_micros())
        }
        None => write!(text, r#","{key}":null"#),
    }
}

/// A string by RFC 8259 section 7; bytes that are no UTF-8 become U+FFFD.
fn string(text: &mut String, key: &str, value: Option<&[u8]>) -> fmt::Result {
    let Some(value) = value else {
        return write!(text, r#","{key}":null"#);
    };
    write!(text, r#","{key}":""#)?;
    for character in String::from_utf8_lossy(value).chars() {
        match character {
            '"' | '\\' => text.extend(['\\', character]),
            _ if character.is_control() => write!(text, "\\u{:04x}", u32::from(character))?,
            // Line ends to JavaScript and to some viewers of logs.
            '\u{2028}' | '\u{2029}' => write!(text, "\\u{:04x}", u32::from(character))?,
            _ => text.push(character),
        }
    }
    text.push('"');
    Ok(())
}
