//! A private PostgreSQL, where its programs are installed.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::keeper::{Keeper, Start, am_root, free_port};

/// Who the server runs as when the tests run as root, which it refuses.
const NOBODY: u32 = 65_534;

/// A server of its own: user `farrier`, database `postgres`.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    _keeper: Keeper,
}

impl Postgres {
    /// The server that the tests of this process share.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(false))
    }

    /// One that takes no writes until `pg_promote()`.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed.
    #[must_use]
    pub fn standby() -> Self {
        Self::start(true)
    }

    fn start(standby: bool) -> Self {
        let programs = programs().expect("PostgreSQL is installed");
        // Another process may take the port between our look at it and the server's.
        let mut servers = (0..5).filter_map(|_| Self::start_on(free_port(), &programs, standby));
        servers.next().expect("a port that stays free")
    }

    fn start_on(port: u16, programs: &Path, standby: bool) -> Option<Self> {
        let dir = TempDir::with_prefix("farrier-postgres-").expect("a temporary folder").keep();
        let command = |program: &Path| {
            let mut command = Command::new(program);
            command.current_dir(&dir);
            if am_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        if am_root() {
            chown(&dir, Some(NOBODY), Some(NOBODY)).expect("a folder of ours");
        }
        let data = dir.join("data").display().to_string();
        let installed = command(&programs.join("initdb"))
            .args(["--auth=trust", "--username=farrier", "--no-sync", "--pgdata", &data])
            .output()
            .expect("initdb");
        assert!(installed.status.success(), "{installed:?}");
        if standby {
            fs::write(dir.join("data/standby.signal"), "").expect("a folder of ours");
        }
        let program = programs.join("postgres").display().to_string();
        let port_text = port.to_string();
        let server = [
            &program,
            "-D",
            &data,
            "-h",
            "127.0.0.1",
            "-F",
            "-c",
            "unix_socket_directories=",
            "-p",
            &port_text,
        ]
        .map(str::to_owned);
        let keeper = Keeper::start(command(Path::new("sh")), &dir, "INT", &server, |log| {
            let accepts = ["ready to accept connections", "ready to accept read-only connections"];
            if accepts.iter().any(|line| log.contains(line)) {
                Start::Ready
            } else if log.contains("could not bind") {
                Start::PortTaken
            } else if log.contains("FATAL") {
                Start::Failed
            } else {
                Start::NotYet
            }
        })?;
        Some(Self { port, _keeper: keeper })
    }

    /// A URL whose sessions the server lists under `name`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        let port = self.port;
        format!("postgres://farrier@127.0.0.1:{port}/postgres?application_name={name}")
    }
}

/// Where Debian and others keep the server's programs.
fn programs() -> Option<PathBuf> {
    let installed = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = installed.map(|version| version.path().join("bin")).collect();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}
