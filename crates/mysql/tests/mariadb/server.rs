//! A private MariaDB server for these tests.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use farrier_mysql::mysql_async::prelude::Queryable;
use farrier_mysql::mysql_async::{Conn, Opts};
use tempfile::TempDir;

/// Runs the server until its own input ends, which it does when the tests do, however they end.
const KEEPER: &str =
    r#"dir=$1; shift; "$@" & read -r _; kill -CONT $!; kill $!; wait $!; rm -rf "$dir""#;

#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    pid_file: String,
    keeper: Child,
}

impl Server {
    /// The server that the tests share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    pub(crate) fn start() -> Self {
        // Another process may take the port between our look at it and the server's.
        (0..5).find_map(|_| Self::start_on(free_port())).expect("a port that stays free")
    }

    fn start_on(port: u16) -> Option<Self> {
        let dir = TempDir::with_prefix("farrier-mysql-").expect("a temporary folder").keep();
        let path = |name: &str| dir.join(name).display().to_string();
        let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        let user = root.then_some("--user=root");
        let command = |program: &str| {
            let mut command = Command::new(program);
            // Debian keeps servers where an ordinary PATH does not look.
            let path = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
            // A server that starts removes the temporary tables that it finds: also its neighbours'.
            command.env("TMPDIR", &dir);
            command
        };
        let installed = command("mariadb-install-db")
            .args(["--no-defaults", "--auth-root-authentication-method=normal"])
            .arg(format!("--datadir={}", path("data")))
            .args(user)
            .output()
            .expect("mariadb-install-db, of Debian's mariadb-server");
        assert!(installed.status.success(), "{installed:?}");
        let keeper = command("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .args(["mariadbd", "--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0"])
            .arg(format!("--port={port}"))
            .arg(format!("--datadir={}", path("data")))
            .arg(format!("--socket={}", path("socket")))
            .arg(format!("--pid-file={}", path("pid")))
            .args(user)
            .stdin(Stdio::piped())
            .stderr(File::create(dir.join("log")).expect("a log file"))
            .spawn()
            .expect("sh");
        let server = Self { port, pid_file: path("pid"), keeper };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            if log.contains("ready for connections") {
                return Some(server);
            } else if log.contains("Bind on TCP/IP port") {
                return None;
            }
            assert!(Instant::now() < deadline && !log.contains("[ERROR]"), "mariadbd: {log}");
            std::thread::yield_now();
        }
    }

    /// An empty database of its own for one test, by name.
    pub(crate) async fn database(&self, name: &str) -> String {
        self.run(&format!("CREATE OR REPLACE DATABASE {name}")).await;
        self.url("root", name)
    }

    pub(crate) fn url(&self, user: &str, database: &str) -> String {
        format!("mysql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub(crate) async fn run(&self, sql: &str) {
        let mut conn = self.connect().await;
        conn.query_drop(sql).await.expect(sql);
        conn.disconnect().await.expect("an open connection");
    }

    /// The sessions that use `database`, by the server's own list.
    pub(crate) async fn sessions(&self, database: &str) -> Vec<u64> {
        let mut conn = self.connect().await;
        let sql = "SELECT id FROM information_schema.processlist WHERE db = ? ORDER BY id";
        let sessions = conn.exec(sql, (database,)).await.expect("the process list");
        conn.disconnect().await.expect("an open connection");
        sessions
    }

    /// Ends all sessions of `database`, as an operator or a time-out does.
    pub(crate) async fn kill_sessions(&self, database: &str) {
        for session in self.sessions(database).await {
            self.run(&format!("KILL CONNECTION {session}")).await;
        }
        eventually("the sessions are gone", async || self.sessions(database).await.is_empty())
            .await;
    }

    /// Stops the server process, and returns when the last of its threads stands still.
    pub(crate) async fn pause(&self) {
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

    pub(crate) fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) -> String {
        let pid = fs::read_to_string(&self.pid_file).expect("a running server");
        let pid = pid.trim().to_owned();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill").success());
        pid
    }

    async fn connect(&self) -> Conn {
        // No database: this session is not among those that tests count.
        let url = format!("mysql://root@127.0.0.1:{}?prefer_socket=false", self.port);
        Conn::new(Opts::from_url(&url).expect("a URL")).await.expect("the private server")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Waits until something is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    probe.local_addr().expect("a bound socket").port()
}
