//! The access log's lines, for requests over real sockets.

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::MatchedPath;
use axum::http::Version;
use farrier_hooks::{AccessLog, RequestHookLayer};
use serde_json::Value;

use crate::{Diary, support};

/// Asks with these header lines and returns the line that was logged.
async fn logged(log: AccessLog, target: &str, headers: &str) -> String {
    let diary = Diary::default();
    let sink = diary.clone();
    let log = log
        .remote_addr(|_| Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))))
        .write_to(move |line| sink.note(line));
    let layer =
        RequestHookLayer::new(log.route(|extensions| extensions.get().map(MatchedPath::as_str)));
    let address = support::serve(support::app().layer(layer)).await;
    let request =
        format!("GET {target} HTTP/1.1\r\nhost: test\r\n{headers}connection: close\r\n\r\n");
    support::raw(address, &request).await;
    diary.lines(1).await.remove(0)
}

async fn formatted(format: &str, target: &str, headers: &str) -> String {
    logged(AccessLog::format(format).expect("a format"), target, headers).await
}

/// As in gunicorn the default is the combined format.
#[tokio::test]
async fn combined() {
    let headers = "referer: http://a/\r\nuser-agent: curl\r\nauthorization: Basic YnJ1Y2U6eA==\r\n";
    let line = logged(AccessLog::new(), "/full?a=b", headers).await;
    let (before, rest) = line.split_once(" [").expect("a time");
    let (time, after) = rest.split_once("] ").expect("a time");
    assert_eq!(before, "192.0.2.7 - bruce");
    assert!(time.ends_with(" +0000") && time.len() == 26, "{time}");
    assert_eq!(after, r#""GET /full?a=b HTTP/1.1" 200 5 "http://a/" "curl""#);

    let line = logged(AccessLog::new(), "/empty", "").await;
    assert!(line.starts_with("192.0.2.7 - - ["), "{line}");
    assert!(line.ends_with(r#""GET /empty HTTP/1.1" 200 0 "-" "-""#), "{line}");
}

/// gunicorn's atoms, each that does not depend on the clock, with the header and environ forms.
#[tokio::test]
async fn atoms() {
    let format = "%(h)s %(l)s %(u)s|%(r)s|%(m)s %(U)s %(q)s %(H)s|%(s)s %(B)s %(b)s|%(f)s %(a)s|\
        %({X-Id}i)s %({content-type}o)s %({nothing}i)s %({a b}i)s|\
        %({REQUEST_METHOD}e)s %({PATH_INFO}e)s %({QUERY_STRING}e)s %({RAW_URI}e)s \
        %({SERVER_PROTOCOL}e)s %({REMOTE_ADDR}e)s %({HTTP_X_ID}e)s %({CONTENT_TYPE}e)s \
        %({http_x_id}e)s %({wsgi.input}e)s|%(unknown)s|%(outcome)s %(route)s|100%%";
    let line =
        formatted(format, "/full?a=b", "x-id: 41\r\nx-id: 42\r\ncontent-type: a/b\r\n").await;
    assert_eq!(
        line,
        "192.0.2.7 - -|GET /full?a=b HTTP/1.1|GET /full a=b HTTP/1.1|200 5 5|- -|\
        42 text/plain; charset=utf-8 - -|\
        GET /full a=b /full?a=b HTTP/1.1 192.0.2.7 42 a/b 42 -|-|finished /full|100%"
    );
    assert_eq!(formatted("[%(q)s]", "/full", "").await, "[]", "no query is empty, not a dash");
}

/// The clock's atoms agree with one another.
#[tokio::test]
async fn durations() {
    let line = formatted("%(T)s %(M)s %(D)s %(L)s %(p)s", "/full", "").await;
    let fields: Vec<_> = line.split(' ').collect();
    let micros: u64 = fields[2].parse().expect("a number");
    assert_eq!(fields[0], (micros / 1_000_000).to_string());
    assert_eq!(fields[1], (micros / 1_000).to_string());
    assert_eq!(fields[3], format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000));
    assert_eq!(fields[4], format!("<{}>", std::process::id()));
}

/// Neither a header, nor a user, nor a path can end its quotes, its field or its line.
#[tokio::test]
async fn hostile_values() {
    // "x\n1.2.3.4 - y" as a user, whose line feed only comes out of the base64.
    let headers = "authorization: Basic eAoxLjIuMy40IC0geTp6\r\n\
        user-agent: a\" 200 \\\x07\r\nreferer: b\tc\r\n";
    let headers = headers.replace('\x07', "ä");
    let line = formatted(r#"%(u)s "%(a)s" "%(f)s" "%(U)s""#, "/missing%0A", &headers).await;
    let expected = r#"x\x0a1.2.3.4\x20-\x20y "a\" 200 \\\xc3\xa4" "b\x09c" "/missing%0A""#;
    assert_eq!(line, expected);
}

/// What gunicorn does not log: a request whose client left, a panic.
#[tokio::test]
async fn ends_of_other_kinds() {
    let line = formatted("%(s)s %(b)s %(outcome)s", "/panic", "").await;
    assert_eq!(line, "- - panicked");
    let line = formatted("%(s)s %(B)s %(outcome)s", "/error", "").await;
    assert_eq!(line, "200 3 body_failed");
}

#[tokio::test]
async fn json() {
    let headers = "user-agent: a\"\\\u{2028}\u{85}ä\r\n";
    let line = logged(AccessLog::json(), "/full?a=b", headers).await;
    assert!(!line.contains(['\u{2028}', '\u{85}']), "{line}");
    let object: Value = serde_json::from_str(&line).expect("JSON");
    let expected = [
        ("remote_addr", Value::from("192.0.2.7")),
        ("method", Value::from("GET")),
        ("path", Value::from("/full")),
        ("query", Value::from("a=b")),
        ("route", Value::from("/full")),
        ("protocol", Value::from("HTTP/1.1")),
        ("status", Value::from(200)),
        ("bytes", Value::from(5)),
        ("outcome", Value::from("finished")),
        ("referer", Value::Null),
        ("user_agent", Value::from("a\"\\\u{2028}\u{85}ä")),
        ("pid", Value::from(std::process::id())),
    ];
    for (key, value) in expected {
        assert_eq!(object[key], value, "{key} in {line}");
    }
    let seconds = |key: &str| object[key].as_f64().expect("a number of seconds");
    assert!(seconds("duration") >= seconds("time_to_head"), "{line}");
    assert!(object["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    let line = logged(AccessLog::json(), "/panic", "").await;
    let object: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&object["status"], &object["time_to_head"]), (&Value::Null, &Value::Null));
}

/// The target as it stood in the request line: what is sent to a proxy names a host.
#[tokio::test]
async fn forms_of_the_target() {
    let line = formatted("%(r)s|%(U)s", "http://example/full?a", "").await;
    assert_eq!(line, "GET http://example/full?a HTTP/1.1|/full");

    let diary = Diary::default();
    let sink = diary.clone();
    let log = AccessLog::format(r#""%(r)s""#).expect("a format");
    let layer = RequestHookLayer::new(log.write_to(move |line| sink.note(line)));
    let address = support::serve(support::app().layer(layer)).await;
    for (line, logged) in [
        ("CONNECT example:443 HTTP/1.1", r#""CONNECT example:443 HTTP/1.1""#),
        ("OPTIONS * HTTP/1.1", r#""OPTIONS * HTTP/1.1""#),
    ] {
        let request = format!("{line}\r\nhost: test\r\nconnection: close\r\n\r\n");
        support::raw(address, &request).await;
        assert_eq!(diary.lines(1).await, [logged]);
    }
}

/// Over HTTP/2 the request line is made of what the client meant.
#[tokio::test]
async fn http_2() {
    let diary = Diary::default();
    let sink = diary.clone();
    let log = AccessLog::format("%(r)s").expect("a format");
    let layer = RequestHookLayer::new(log.write_to(move |line| sink.note(line)));
    let address = support::serve(support::app().layer(layer)).await;
    support::over_h2(address, "GET", "/full?a").await;
    assert_eq!(diary.lines(1).await, ["GET /full?a HTTP/2.0"]);
    let request = support::request("GET", "/full", Version::HTTP_10);
    support::raw(address, &request).await;
    assert_eq!(diary.lines(1).await, ["GET /full HTTP/1.0"]);
}
