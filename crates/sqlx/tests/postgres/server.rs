//! A private PostgreSQL server for these tests.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Runs the server until its own input ends, which it does when the tests do, however they end.
const KEEPER: &str = r#"dir=$1; shift; "$@" & read -r _; kill -INT $!; wait $!; rm -rf "$dir""#;

/// Who the server runs as when the tests run as root, which it refuses.
const NOBODY: u32 = 65_534;

#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    keeper: Child,
}

impl Server {
    /// The server that the tests share; `None` where PostgreSQL is not installed.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Server>> = OnceLock::new();
        SHARED.get_or_init(|| binaries().map(|binaries| Self::start(&binaries))).as_ref()
    }

    fn start(binaries: &Path) -> Self {
        // Another process may take the port between our look at it and the server's.
        let mut attempts = (0..5).filter_map(|_| Self::start_on(free_port(), binaries));
        attempts.next().expect("a port that stays free")
    }

    fn start_on(port: u16, binaries: &Path) -> Option<Self> {
        let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
        let dir = TempDir::with_prefix("farrier-postgres-").expect("a temporary folder").keep();
        let command = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(&dir);
            if root {
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        if root {
            chown(&dir, Some(NOBODY), Some(NOBODY)).expect("a folder of ours");
        }
        let installed = command(&binaries.join("initdb"))
            .args(["--auth=trust", "--username=farrier", "--no-sync", "--pgdata"])
            .arg(dir.join("data"))
            .output()
            .expect("initdb");
        assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
        let keeper = command(Path::new("sh"))
            .args(["-c", KEEPER, "keeper"])
            .arg(&dir)
            .arg(binaries.join("postgres"))
            .arg("-D")
            .arg(dir.join("data"))
            .args(["-h", "127.0.0.1", "-F", "-c", "unix_socket_directories="])
            .args(["-p", &port.to_string()])
            .stdin(Stdio::piped())
            .stderr(fs::File::create(dir.join("log")).expect("a log file"))
            .spawn()
            .expect("sh");
        let server = Self { port, keeper };
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
            if log.contains("ready to accept connections") {
                return Some(server);
            } else if log.contains("could not bind") {
                return None;
            }
            assert!(Instant::now() < deadline && !log.contains("FATAL"), "postgres: {log}");
            std::thread::yield_now();
        }
    }

    /// A URL whose sessions the server lists under `name`.
    pub(crate) fn url(&self, name: &str) -> String {
        let port = self.port;
        format!("postgres://farrier@127.0.0.1:{port}/postgres?application_name={name}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Where Debian and others keep the server's programs.
fn binaries() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = installed.map(|version| version.path().join("bin")).collect();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}

fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    probe.local_addr().expect("a bound socket").port()
}
