//! A private MariaDB: its own folder, socket and port, gone when the test is.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

use farrier::mysql::mysql_async::prelude::*;
use farrier::mysql::mysql_async::{Conn, Opts};
use tempfile::TempDir;

use crate::eventually;

/// Runs the server, and ends it when its own input ends: also when the test process is killed. A line of
/// input means that the folder is still wanted.
const KEEPER: &str =
    r#"dir=$1; shift; "$@" & read -r keep; kill $!; wait $!; [ "$keep" ] || rm -rf "$dir""#;

/// A server with a folder of its own; user `root`, no password, database `test`.
#[derive(Debug)]
pub struct MariaDb {
    dir: PathBuf,
    port: u16,
    options: Vec<String>,
    keeper: Option<Keeper>,
}

#[derive(Debug)]
struct Keeper {
    shell: Child,
    input: Option<ChildStdin>,
}

impl MariaDb {
    /// The server that the tests of this process share.
    ///
    /// # Panics
    ///
    /// When no server can be started.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&[]))
    }

    /// Starts a server with further `options`, such as `--max-connections=60`.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn start(options: &[&str]) -> Self {
        let dir = TempDir::with_prefix("farrier-mariadb-").expect("a temporary folder").keep();
        let installed = command("mariadb-install-db")
            .arg("--no-defaults")
            .args(["--auth-root-authentication-method=normal", "--innodb-log-file-size=8M"])
            .arg(format!("--datadir={}", dir.join("data").display()))
            .args(as_root())
            .output()
            .unwrap_or_else(|error| {
                panic!("mariadb-install-db, of Debian's mariadb-server: {error}")
            });
        assert!(
            installed.status.success(),
            "mariadb-install-db: {}",
            String::from_utf8_lossy(&installed.stderr)
        );
        let mut server = Self {
            dir,
            port: free_port(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            keeper: None,
        };
        server.run();
        server
    }

    /// Starts the server again after [`stop`](Self::stop), on the same port.
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn run(&mut self) {
        let mut shell = command("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(&self.dir)
            .args(["mariadbd", "--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args(["--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"])
            .arg("--innodb-flush-log-at-trx-commit=0")
            .arg(format!("--port={}", self.port))
            .arg(format!("--datadir={}", self.path("data")))
            .arg(format!("--socket={}", self.path("socket")))
            .arg(format!("--pid-file={}", self.path("pid")))
            .args(as_root())
            .args(&self.options)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("log")).expect("a log file"))
            .spawn()
            .expect("sh");
        let input = shell.stdin.take();
        self.keeper = Some(Keeper { shell, input });
        eventually("MariaDB accepts connections", || {
            assert!(!self.log().contains("[ERROR]"), "mariadbd: {}", self.log());
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// Stops the server as an operator would, and waits for it; its data stay.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn stop(&mut self) {
        let mut keeper = self.keeper.take().expect("a running server");
        let input = keeper.input.as_mut().expect("only drop takes it");
        writeln!(input, "keep").expect("a running keeper");
    }

    /// The server's process id.
    ///
    /// # Panics
    ///
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.dir.join("pid")).expect("a running server");
        text.trim().parse().expect("a pid")
    }

    /// Where a program reaches the server's database `test`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("test")
    }

    /// Where a program reaches the server's database `name`.
    #[must_use]
    pub fn url_of(&self, name: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{name}", self.port)
    }

    /// Creates an empty database of its own for one test, and tells where.
    pub async fn database(&self, name: &str) -> String {
        self.run_sql(&format!("CREATE OR REPLACE DATABASE {name}")).await;
        self.url_of(name)
    }

    /// Runs a statement as root on a connection of its own.
    pub async fn run_sql(&self, sql: &str) {
        let mut conn = self.connect().await;
        conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.expect("an open connection");
    }

    /// The ids of the sessions that use database `name`, as the server itself lists them.
    pub async fn sessions(&self, name: &str) -> Vec<u64> {
        let mut conn = self.connect().await;
        let sql = "SELECT id FROM information_schema.processlist WHERE db = ? ORDER BY id";
        let ids = conn.exec(sql, (name,)).await.expect("the process list");
        conn.disconnect().await.expect("an open connection");
        ids
    }

    async fn connect(&self) -> Conn {
        // No database, so that this session is not among those that it counts.
        let url = format!("mysql://root@127.0.0.1:{}?prefer_socket=false", self.port);
        let opts = Opts::from_url(&url).expect("a url of ours");
        Conn::new(opts).await.expect("the private server")
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.shell.wait();
    }
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // Debian keeps servers where an ordinary PATH does not look.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/usr/local/sbin"));
    command
}

/// mariadbd refuses to run as root unless it is told to.
fn as_root() -> Option<&'static str> {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    root.then_some("--user=root")
}

fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    probe.local_addr().map(|address| address.port()).expect("a bound socket")
}
