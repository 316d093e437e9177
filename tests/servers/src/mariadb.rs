//! A private MariaDB.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts};
use tempfile::TempDir;

use crate::eventually;
use crate::keeper::{Keeper, Start, am_root, free_port};

/// A server of its own: user `root` without a password, database `test`.
#[derive(Debug)]
pub struct MariaDb {
    dir: PathBuf,
    port: u16,
    options: Vec<String>,
    keeper: Option<Keeper>,
}

impl MariaDb {
    /// The server that the tests of this process share.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts a server with further `options`, such as `--max-connections=60`.
    #[must_use]
    pub fn start(options: &[&str]) -> Self {
        // Another process may take the port between our look at it and the server's.
        let mut servers = (0..5).filter_map(|_| {
            let mut server = Self::install(options);
            server.keeper = server.launch();
            server.keeper.is_some().then_some(server)
        });
        servers.next().expect("a port that stays free")
    }

    fn install(options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("farrier-mariadb-").expect("a temporary folder").keep();
        let installed = command(&dir, "mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .args([
                "--innodb-log-file-size=8M",
                &format!("--datadir={}", dir.join("data").display()),
            ])
            .args(as_root())
            .output()
            .unwrap_or_else(|error| {
                panic!("mariadb-install-db, of Debian's mariadb-server: {error}")
            });
        assert!(installed.status.success(), "{installed:?}");
        let options = options.iter().map(|&option| option.to_owned()).collect();
        Self { dir, port: free_port(), options, keeper: None }
    }

    fn launch(&self) -> Option<Keeper> {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut server: Vec<String> = [
            "mariadbd",
            "--no-defaults",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=32M",
            "--innodb-log-file-size=8M",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        .map(str::to_owned)
        .into();
        server.push(format!("--port={}", self.port));
        server.push(format!("--datadir={}", path("data")));
        server.push(format!("--socket={}", path("socket")));
        server.push(format!("--pid-file={}", path("pid")));
        server.extend(as_root().map(str::to_owned));
        server.extend(self.options.iter().cloned());
        Keeper::start(command(&self.dir, "sh"), &self.dir, "TERM", &server, |log| {
            if log.contains("ready for connections") {
                Start::Ready
            } else if log.contains("Bind on TCP/IP port") {
                Start::PortTaken
            } else if log.contains("[ERROR]") {
                Start::Failed
            } else {
                Start::NotYet
            }
        })
    }

    /// Stops the server as an operator would, and waits for it; its data stay.
    pub fn stop(&mut self) {
        self.keeper.take().expect("a running server").stop();
    }

    /// Ends the server as a crash does, and waits for it; its data stay.
    pub fn crash(&mut self) {
        self.signal("-KILL");
        self.stop();
    }

    /// Starts the server again after [`stop`](Self::stop) or [`crash`](Self::crash), on the same port.
    pub fn restart(&mut self) {
        self.keeper = Some(self.launch().expect("the port that it had"));
    }

    /// Stops the server process where it stands, and returns when the last of its threads does.
    pub async fn pause(&self) {
        let pid = self.signal("-STOP");
        let stopped = |thread: PathBuf| {
            let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_none_or(|fields| fields.trim_start().starts_with('T'))
        };
        eventually("the server stands still", async || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a running server");
            threads.flatten().all(|thread| stopped(thread.path()))
        })
        .await;
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) -> String {
        let pid = fs::read_to_string(self.dir.join("pid")).expect("a running server");
        let pid = pid.trim().to_owned();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill").success());
        pid
    }

    /// Where `user` reaches the database `name`.
    #[must_use]
    pub fn url(&self, user: &str, name: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}/{name}", self.port)
    }

    /// Creates an empty database of its own for one test, and tells where.
    pub async fn database(&self, name: &str) -> String {
        self.run(&format!("CREATE OR REPLACE DATABASE {name}")).await;
        self.url("root", name)
    }

    /// Runs a statement as root on a connection of its own.
    pub async fn run(&self, sql: &str) {
        let mut conn = self.connect().await;
        conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.expect("an open connection");
    }

    /// The ids of the sessions that use the database `name`, as the server itself lists them.
    pub async fn sessions(&self, name: &str) -> Vec<u64> {
        self.listed("db", name).await
    }

    /// The ids of the sessions of `user`, whatever they use.
    pub async fn sessions_of(&self, user: &str) -> Vec<u64> {
        self.listed("user", user).await
    }

    async fn listed(&self, column: &str, value: &str) -> Vec<u64> {
        let mut conn = self.connect().await;
        let sql =
            format!("SELECT id FROM information_schema.processlist WHERE {column} = ? ORDER BY id");
        let ids = conn.exec(sql, (value,)).await.expect("the process list");
        conn.disconnect().await.expect("an open connection");
        ids
    }

    /// Ends one session; `false` when it was gone already.
    pub async fn kill_session(&self, id: u64) -> bool {
        let mut conn = self.connect().await;
        let killed = conn.query_drop(format!("KILL CONNECTION {id}")).await.is_ok();
        conn.disconnect().await.expect("an open connection");
        killed
    }

    /// One of the server's own counters, such as `Aborted_clients`.
    pub async fn status(&self, name: &str) -> u64 {
        let mut conn = self.connect().await;
        let sql = "SELECT variable_value FROM information_schema.global_status \
            WHERE variable_name = ?";
        let value = conn.exec_first(sql, (name,)).await.expect("the server's status");
        conn.disconnect().await.expect("an open connection");
        value.expect("a counter that the server has")
    }

    /// Ends all sessions of the database `name`, as an operator or a time-out does.
    pub async fn kill_sessions(&self, name: &str) {
        for session in self.sessions(name).await {
            self.run(&format!("KILL CONNECTION {session}")).await;
        }
        eventually("the sessions are gone", async || self.sessions(name).await.is_empty()).await;
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A connection as root, without a database.
    pub async fn connect(&self) -> Conn {
        // No database, so that this session is not among those that it counts.
        let url = format!("mysql://root@127.0.0.1:{}?prefer_socket=false", self.port);
        Conn::new(Opts::from_url(&url).expect("a URL")).await.expect("the private server")
    }
}

fn command(dir: &Path, program: &str) -> Command {
    let mut command = Command::new(program);
    // Debian keeps servers where an ordinary PATH does not look.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
    // A server that starts removes the temporary tables that it finds: also its neighbours'.
    command.env("TMPDIR", dir);
    command
}

/// mariadbd refuses to run as root unless it is told to.
fn as_root() -> Option<&'static str> {
    am_root().then_some("--user=root")
}
