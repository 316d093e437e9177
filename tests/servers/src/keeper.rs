//! What both servers need: a free port, a folder, and a shell that stops the server when the test ends.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Runs the server, and stops it when its own input ends: also when the test process is killed. A line of input
/// means that the folder is still wanted.
const SCRIPT: &str = r#"dir=$1 signal=$2; shift 2; "$@" & read -r keep
kill -CONT $!; kill "-$signal" $!; wait $!; [ "$keep" ] || rm -rf "$dir""#;

/// How long a server may take to start; a generous bound for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The shell around a running server; dropping it stops the server and waits for its end.
#[derive(Debug)]
pub(crate) struct Keeper(Child);

/// How far a starting server has come, as its log says.
pub(crate) enum Start {
    Ready,
    PortTaken,
    Failed,
    NotYet,
}

impl Keeper {
    /// Starts `server` in `dir` and waits until `judge` finds its log good; `None` if its port was taken.
    ///
    /// `shell` is a command for `sh` with the identity and the environment that the server needs.
    pub(crate) fn start(
        mut shell: Command,
        dir: &Path,
        signal: &str,
        server: &[String],
        judge: impl Fn(&str) -> Start,
    ) -> Option<Self> {
        let log = dir.join("log");
        let child = shell
            .args(["-c", SCRIPT, "keeper"])
            .arg(dir)
            .arg(signal)
            .args(server)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("sh");
        let keeper = Self(child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            match judge(&text) {
                Start::Ready => return Some(keeper),
                Start::PortTaken => return None,
                Start::Failed => panic!("{}: {text}", server[0]),
                Start::NotYet => assert!(Instant::now() < deadline, "{}: {text}", server[0]),
            }
            pause();
        }
    }

    /// Stops the server and leaves its folder.
    pub(crate) fn stop(mut self) {
        let input = self.0.stdin.as_mut().expect("only drop takes it");
        writeln!(input, "keep").expect("a running shell");
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

pub(crate) fn free_port() -> u16 {
    let probe = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    probe.local_addr().expect("a bound socket").port()
}

pub(crate) fn am_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

#[expect(clippy::disallowed_methods, reason = "the one place that polls, under a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
