//! A farrier service as its own process, driven as an operator and a client would.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::process::{self, Signal};
use crate::{SOON, eventually, eventually_async};

/// A running launcher, with a temporary working folder for its pidfile, socket, log and data.
#[derive(Debug)]
pub struct Service {
    master: Child,
    folder: TempDir,
    name: &'static str,
}

/// How to start a [`Service`].
#[derive(Debug)]
pub struct Builder {
    command: Command,
    folder: TempDir,
    name: &'static str,
    stdout: Option<fs::File>,
    stderr: Option<fs::File>,
}

/// The lab service of this package, with two workers on a free loopback port.
#[must_use]
pub fn lab() -> Builder {
    Builder::new("lab").args(["--bind=127.0.0.1:0", "--workers=2"])
}

/// The lab with the settings that are its own: no address and no number of workers on the command line.
#[must_use]
pub fn bare_lab() -> Builder {
    Builder::new("lab")
}

/// The guestbook, with two workers on a free loopback port and a database in its working folder.
#[must_use]
pub fn guestbook() -> Builder {
    Builder::new("guestbook").args(["--bind=127.0.0.1:0", "--workers=2"])
}

/// Waits until `requests` are in flight in `lab`.
///
/// # Panics
///
/// When they are not soon.
pub async fn in_flight(lab: &Service, requests: u64) {
    eventually_async("the request is in flight", async || {
        let status = lab.status();
        let workers = status["workers"].as_array()?;
        let in_flight: u64 = workers.iter().filter_map(|worker| worker["in_flight"].as_u64()).sum();
        (in_flight == requests).then_some(())
    })
    .await;
}

/// Where cargo put the binary `name` of this workspace.
///
/// Cargo builds the binaries of other packages for nobody's tests, so this asks it to, once.
///
/// # Panics
///
/// When the binary cannot be built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    // The test runs as PROFILE/deps/suite-… in cargo's target folder.
    let test = std::env::current_exe().expect("this test's own path");
    let profile = test.parent().and_then(Path::parent).expect("a folder of the profile");
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["build", "--quiet", "--locked", "--workspace", "--bins", "--all-features"])
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .arg("--target-dir")
            .arg(profile.parent().expect("cargo's target folder"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo");
        assert!(status.success(), "cargo build --workspace --bins failed");
    });
    profile.join(name)
}

impl Builder {
    fn new(name: &'static str) -> Self {
        let folder = TempDir::with_prefix("farrier-").expect("a temporary folder");
        let mut command = Command::new(binary(name));
        command.current_dir(folder.path()).arg("--pidfile=pid").stdin(Stdio::null());
        Self { command, folder, name, stdout: None, stderr: None }
    }

    /// Adds command-line arguments; a later flag wins.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Writes a file into the working folder before the start.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.folder.path().join(name), text).expect("a file in a folder of ours");
        self
    }

    /// Where its standard output goes, instead of the log.
    #[must_use]
    pub fn stdout(mut self, file: fs::File) -> Self {
        self.stdout = Some(file);
        self
    }

    /// Where its standard error goes, instead of the log.
    #[must_use]
    pub fn stderr(mut self, file: fs::File) -> Self {
        self.stderr = Some(file);
        self
    }

    /// The path of a file in its working folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a folder in its working folder.
    #[must_use]
    pub fn folder(self, name: &str) -> Self {
        fs::create_dir_all(self.folder.path().join(name)).expect("a folder in a folder of ours");
        self
    }

    /// Starts it, and waits until every address listens and the first worker is ready.
    #[must_use]
    pub fn start(self) -> Service {
        let mut service = self.spawn();
        eventually("the service is ready", || {
            let ended = service.master.try_wait().expect("a child of ours");
            assert!(ended.is_none(), "ended with {ended:?}:\n{}", service.log());
            service.log().contains("worker ready").then_some(())
        });
        service
    }

    /// Starts it and waits for nothing.
    ///
    /// # Panics
    ///
    /// When the binary cannot be run.
    #[must_use]
    pub fn spawn(mut self) -> Service {
        let log = fs::File::create(self.folder.path().join("log")).expect("a log file");
        let stderr = self.stderr.take().unwrap_or(log.try_clone().expect("a second descriptor"));
        self.command.stdout(self.stdout.take().unwrap_or(log)).stderr(stderr);
        let master = self.command.spawn().expect("a built binary");
        Service { master, folder: self.folder, name: self.name }
    }
}

impl Service {
    /// The master's pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.master.id()
    }

    /// The pids of the master's living children, oldest first.
    #[must_use]
    pub fn workers(&self) -> Vec<u32> {
        process::children(self.pid())
    }

    /// Everything the service has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// A file in the service's working folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The service's working folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The first TCP address it listens on, as its log says.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        eventually("the log names the address", || {
            let log = self.log();
            let (_, rest) = log.split_once("listening on ")?;
            rest.split_whitespace().next()?.parse().ok()
        })
    }

    /// Sends the master a signal.
    pub fn signal(&self, signal: Signal) {
        process::kill(self.pid(), signal);
    }

    /// Waits for the master's end.
    ///
    /// # Panics
    ///
    /// When it does not come soon; the log is in the message.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            if let Some(status) = self.master.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "still running:\n{}", self.log());
            crate::pause();
        }
    }

    /// What the master says of itself.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let output = self.ctl(&["status", "--json"]);
        assert!(output.status.success(), "farrierctl status: {output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs `farrierctl` on this service's control socket.
    ///
    /// # Panics
    ///
    /// When farrierctl cannot be run.
    #[must_use]
    pub fn ctl(&self, args: &[&str]) -> std::process::Output {
        self.ctl_of(&[&["--pidfile=pid"], args].concat())
    }

    /// Runs `farrierctl` in this service's folder, with nothing but `args`.
    ///
    /// # Panics
    ///
    /// When farrierctl cannot be run.
    #[must_use]
    pub fn ctl_of(&self, args: &[&str]) -> std::process::Output {
        Command::new(binary("farrierctl"))
            .current_dir(self.folder.path())
            .args(args)
            .output()
            .expect("a built binary")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}:\n{}", self.name, self.log());
        }
        // Workers first: without a master they would take their time to drain.
        let workers = self.workers();
        let _ = self.master.kill();
        let _ = self.master.wait();
        for worker in workers.into_iter().filter(|&pid| process::is_alive(pid)) {
            process::kill(worker, Signal::SIGKILL);
        }
    }
}
