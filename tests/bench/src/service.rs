//! What `chaos` and `outage` load: a service on a loopback socket over a private MariaDB, and its client.

use std::io;
use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use farrier::connection::{ConnectionLayer, Policy, Pool};
use farrier::mysql::MySql;
use farrier::mysql::mysql_async;
use farrier::serve::{Drain, Drained, Server};
use farrier_test_servers::MariaDb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::report::Error;

/// Who the pool is at the server: nobody else is, so that its sessions can be counted.
pub(crate) const USER: &str = "app";

/// Routes that use a pool, being served.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) pool: Pool<MySql>,
    drain: Drain,
    serving: JoinHandle<Drained>,
}

/// A whole response.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// A runtime whose tasks go on while the main thread starts and stops servers, which blocks it.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// A server that knows [`USER`].
pub(crate) async fn server() -> MariaDb {
    let server = MariaDb::start(&[]);
    server.run(&format!("CREATE USER {USER}")).await;
    server.run(&format!("GRANT ALL ON test.* TO {USER}")).await;
    server
}

/// `GET path` on a connection of its own, once. Dropping the future is a client that hangs up.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Answer::parse(&response).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// The answer when a statement failed: not the driver's words.
pub(crate) fn statement_failed(_: mysql_async::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

impl Service {
    pub(crate) async fn start(
        server: &MariaDb,
        policy: Policy,
        routes: Router,
    ) -> Result<Self, Error> {
        let pool = Pool::new(MySql::new(&server.url(USER, "test"))?, policy);
        let app = routes.layer(ConnectionLayer::new(pool.clone()));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let drain = Drain::new();
        // All who wait for the database are in here, and none in the kernel's queue.
        let server = Server::new([listener], app).max_connections(10_000);
        let serving = tokio::spawn(server.serve(drain.clone()));
        Ok(Self { address, pool, drain, serving })
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.drain.stop_quick();
        self.serving.await?;
        self.pool.close().await;
        Ok(())
    }
}

impl Answer {
    fn parse(response: &str) -> Option<Self> {
        let (head, body) = response.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        (length.parse() == Ok(body.len())).then(|| Self { status, body: body.to_owned() })
    }
}
