//! The example service, as a browser and a program use it.

use std::time::{Duration, Instant};

use farrier::sqlx::sqlite::SqliteConnection;
use farrier::sqlx::{Connection, Executor};
use farrier_test_servers::MariaDb;
use harness::client::{self, Response};
use harness::service::{self, Service};
use hyper::StatusCode;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

async fn get(guestbook: &Service, path: &str) -> Response {
    client::get(guestbook.address(), path).await.expect("a whole response")
}

async fn post(guestbook: &Service, content_type: &str, body: &str) -> Response {
    let response = client::post(guestbook.address(), "/entries", content_type, body.to_owned());
    response.await.expect("a whole response")
}

/// What both databases must do alike.
async fn signs_and_shows(guestbook: &Service) {
    let page = get(guestbook, "/").await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.text().contains("Nobody has signed yet."), "{}", page.text());
    assert!(page.text().contains(r#"<form method="post" action="/entries">"#));

    let signed = post(guestbook, FORM, "author=Ann&message=Hello+%F0%9F%90%B4").await;
    assert_eq!(signed.status, StatusCode::SEE_OTHER);
    assert_eq!(signed.headers["location"], "/");

    let hostile = json!({"author": "<script>", "message": "'); DROP TABLE entries; --"});
    let signed = post(guestbook, JSON, &hostile.to_string()).await;
    assert_eq!(signed.status, StatusCode::CREATED);
    let entry = signed.json();
    assert_eq!(entry["author"], "<script>");
    assert!(entry["id"].as_u64().is_some_and(|id| id > 0), "{entry}");

    let entries = get(guestbook, "/entries").await.json();
    let entries = entries.as_array().expect("a list");
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0], entry, "newest first, as it was answered");
    assert_eq!(entries[1]["message"], "Hello 🐴");

    let page = get(guestbook, "/").await;
    assert!(page.text().contains("Hello 🐴"));
    assert!(page.text().contains(" UTC</time>"), "{}", page.text());
    assert!(page.text().contains("&#60;script&#62;"), "{}", page.text());
    assert!(!page.text().contains("<script>"), "text is escaped");

    let nowhere = get(guestbook, "/nowhere").await;
    assert_eq!(nowhere.status, StatusCode::NOT_FOUND);
    assert!(nowhere.text().contains(r#"<a href="/">"#), "{}", nowhere.text());
}

async fn refuses_what_is_not_allowed(guestbook: &Service) {
    let long = "x".repeat(2_001);
    let refused =
        post(guestbook, JSON, &json!({"author": "Ann", "message": long}).to_string()).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    let error = "message must have 1 to 2000 characters, not 2001";
    assert_eq!(refused.json(), json!({ "error": error }));

    // A missing field is an empty one.
    let refused = post(guestbook, JSON, r#"{"message": "hi"}"#).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused.json()["error"], "author must have 1 to 80 characters, not 0");

    // The browser gets its page back, with the reason and what it had typed.
    let refused = post(guestbook, FORM, "author=+&message=keep+me").await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().contains("author must have 1 to 80 characters, not 0"));
    assert!(refused.text().contains("keep me"));

    let hidden = post(guestbook, JSON, r#"{"author": "a\u0000n", "message": "hi"}"#).await;
    assert_eq!(hidden.status, StatusCode::UNPROCESSABLE_ENTITY);

    let broken = post(guestbook, JSON, "{").await;
    assert_eq!(broken.status, StatusCode::BAD_REQUEST);
    for no_entry in ["null", r#"["Ann", "hi"]"#, r#"{"author": 1, "message": "hi"}"#] {
        let refused = post(guestbook, JSON, no_entry).await;
        assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{no_entry}");
        assert!(refused.text().contains("must be"), "{no_entry}: {}", refused.text());
    }
    let unknown = post(guestbook, "text/plain", "Ann: hi").await;
    assert_eq!(unknown.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(unknown.text().contains(FORM) && unknown.text().contains(JSON), "{}", unknown.text());
}

#[tokio::test]
async fn guestbook_on_sqlite() {
    let guestbook = service::guestbook().args(["--workers=4"]).start();
    signs_and_shows(&guestbook).await;
    refuses_what_is_not_allowed(&guestbook).await;
    assert!(guestbook.path("guestbook.db").exists(), "it creates its own file");
}

/// The first line that answers a client which waits with its body until it is told to go on.
async fn expecting(guestbook: &Service, length: usize) -> String {
    let mut socket = TcpStream::connect(guestbook.address()).await.expect("it listens");
    let head = format!(
        "POST /entries HTTP/1.1\r\nHost: guestbook\r\nContent-Type: {FORM}\r\n\
         Expect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.expect("it reads");
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).await.expect("it answers");
    line
}

/// What is too long is refused by its head, before the client sends it.
#[tokio::test]
async fn too_long_a_body_is_not_asked_for() {
    let guestbook = service::guestbook().start();
    assert_eq!(expecting(&guestbook, 1_000_000).await, "HTTP/1.1 413 Payload Too Large\r\n");
    assert_eq!(expecting(&guestbook, 20).await, "HTTP/1.1 100 Continue\r\n");
    let refused =
        post(&guestbook, FORM, &format!("author=Ann&message={}", "x".repeat(70_000))).await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(refused.json()["error"], "the body must have at most 65536 bytes, not 70019");
}

/// Sends a part of a signing and leaves it at that.
async fn begin_to_sign(guestbook: &Service, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(guestbook.address()).await.expect("it listens");
    let head = format!(
        "POST /entries HTTP/1.1\r\nHost: guestbook\r\nContent-Type: {FORM}\r\nContent-Length: 20\r\n\r\n{body}"
    );
    socket.write_all(head.as_bytes()).await.expect("it reads");
    socket
}

/// While somebody else holds SQLite's write lock, those who sign wait and are told in time to try again, however
/// many there are; those who read notice nothing, also if those who sign give up.
#[tokio::test]
async fn readers_pass_waiting_writers() {
    let guestbook = service::guestbook().args(["--workers=1"]).start();
    let url = format!("sqlite:{}", guestbook.path("guestbook.db").display());
    let mut other = SqliteConnection::connect(&url).await.expect("the guestbook made it");
    other.execute("BEGIN IMMEDIATE").await.expect("nobody writes yet");
    let address = guestbook.address();
    let sign = || client::post(address, "/entries", FORM, "author=Ann&message=Hi".to_owned());
    let signing = Vec::from_iter((0..40).map(|_| tokio::spawn(sign())));
    let began = Instant::now();
    let mut reads = 0;
    while !signing.iter().any(|signing| signing.is_finished()) {
        let leaves = begin_to_sign(&guestbook, "author=Bob&message=1").await;
        let asked = Instant::now();
        assert_eq!(get(&guestbook, "/").await.status, StatusCode::OK);
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(1), "a reader waited for {took:?}");
        reads += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(leaves);
    }
    assert!(reads > 10, "the writers did not wait: {reads} reads");
    for signing in signing {
        let response = signing.await.expect("no panic").expect("a whole response");
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers["retry-after"], "1");
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(10), "a writer waited for {took:?}");
    other.execute("ROLLBACK").await.expect("its transaction");
    assert_eq!(post(&guestbook, FORM, "author=Ann&message=Hi").await.status, StatusCode::SEE_OTHER);
}

/// Clients that never send what they have announced keep nobody else from signing.
#[tokio::test]
async fn silent_clients_have_no_turn() {
    let guestbook = service::guestbook().args(["--workers=1"]).start();
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(begin_to_sign(&guestbook, "author=").await);
    }
    let began = Instant::now();
    assert_eq!(post(&guestbook, FORM, "author=Ann&message=Hi").await.status, StatusCode::SEE_OTHER);
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "it waited for {took:?}");
}

#[tokio::test]
async fn guestbook_on_mariadb() {
    let url = MariaDb::shared().database("guestbook").await;
    let guestbook = service::guestbook().args(["--workers=4"]).env("DATABASE_URL", &url).start();
    signs_and_shows(&guestbook).await;
    refuses_what_is_not_allowed(&guestbook).await;
}

#[tokio::test]
async fn entries_outlive_the_service() {
    let url = MariaDb::shared().database("guestbook_again").await;
    for entries in 1..=2 {
        let guestbook = service::guestbook().env("DATABASE_URL", &url).start();
        post(&guestbook, FORM, "author=Ann&message=again").await;
        let listed = get(&guestbook, "/entries").await.json();
        assert_eq!(listed.as_array().map(Vec::len), Some(entries));
    }
}

#[tokio::test]
async fn probes_answer() {
    let guestbook = service::guestbook().start();
    assert_eq!(get(&guestbook, "/livez").await.status, StatusCode::OK);
    assert_eq!(get(&guestbook, "/readyz").await.status, StatusCode::OK);
}
