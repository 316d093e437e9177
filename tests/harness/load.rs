//! Load that never retries: a lost request is a failed test.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::task::JoinSet;

use crate::client::{Connection, Lost};

/// How clients use their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reuse {
    /// One connection per request.
    Close,
    /// A connection is kept until the server says `Connection: close`; the client never looks whether it
    /// is still open before it sends.
    KeepAlive,
}

/// Clients that ask for the same path until they are told to stop.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<Report>,
}

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests answered 200.
    pub ok: u64,
    /// Everything else, in words.
    pub failed: Vec<String>,
}

impl Load {
    /// Starts `clients` clients that `GET path` from `address`.
    #[must_use]
    pub fn start(address: SocketAddr, path: &str, clients: usize, reuse: Reuse) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..clients)
            .map(|_| client(address, path.to_owned(), reuse, Arc::clone(&stop)))
            .collect();
        Self { stop, clients }
    }

    /// Lets each client finish its request, and tells what they saw.
    pub async fn stop(self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Report::default();
        for report in self.clients.join_all().await {
            sum.ok += report.ok;
            sum.failed.extend(report.failed);
        }
        sum
    }
}

async fn client(address: SocketAddr, path: String, reuse: Reuse, stop: Arc<AtomicBool>) -> Report {
    let mut report = Report::default();
    let mut kept = None;
    while !stop.load(Ordering::Relaxed) {
        match request(address, &path, kept.take()).await {
            Ok((200, connection)) => {
                report.ok += 1;
                kept = connection.filter(|_| reuse == Reuse::KeepAlive);
            }
            Ok((status, _)) => report.failed.push(status.to_string()),
            Err(lost) => report.failed.push(lost.to_string()),
        }
    }
    report
}

async fn request(
    address: SocketAddr,
    path: &str,
    kept: Option<Connection>,
) -> Result<(u16, Option<Connection>), Lost> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(address).await?,
    };
    let response = connection.get(path).await?;
    let close = response.headers.get("connection").is_some_and(|value| value == "close");
    Ok((response.status.as_u16(), (!close).then_some(connection)))
}
