//! The pidfile: locked by its owner for as long as that lives, and removed by nobody else.
//!
//! A number says little: it may be another program's by now, and in a container everybody is 1. So the lock
//! decides, which the kernel takes back when the master is gone, however it ended.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::poll::pause;

/// A pidfile that holds this process's pid.
#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    pid: i32,
    /// Holds [`LIVING`]. A child's copy must be closed: the lock is gone with the last one.
    _locked: File,
}

/// Why there is no pidfile.
#[derive(Debug)]
pub(crate) enum PidfileError {
    /// The server that wrote the file lives.
    Alive(PathBuf, Option<i32>),
    /// The file cannot be read or written.
    Io(PathBuf, io::Error),
}

/// The bytes of the file that stand for its locks: of who is about to write one, and of who lives.
const WRITING: libc::off_t = 0;
const LIVING: libc::off_t = 1;

/// How long another master may take to write its pidfile.
const WRITTEN: Duration = Duration::from_secs(2);

impl Pidfile {
    /// Writes the pid to `path`, over a file that no living server has locked.
    ///
    /// # Errors
    ///
    /// A server that lives, or the file system's errors.
    pub(crate) fn write(path: &Path, pid: i32) -> Result<Self, PidfileError> {
        let failed = |error| PidfileError::Io(path.to_owned(), error);
        // Written beside it and renamed: whoever reads the pidfile reads a whole one. And locked, from the
        // look at the old one until then: of two masters that start at once, the second sees the first.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut new = start_writing(&beside).map_err(failed)?;
        let written = match owner(path) {
            Ok(Owner::Living(other)) => Err(PidfileError::Alive(path.to_owned(), other)),
            Ok(Owner::Nobody) => new
                .set_len(0)
                .and_then(|()| writeln!(new, "{pid}"))
                .and_then(|()| lock(&new, libc::F_WRLCK, LIVING).map(drop))
                .and_then(|()| fs::rename(&beside, path))
                .map_err(failed),
            Err(error) => Err(failed(error)),
        };
        if written.is_err() {
            // What cannot be written cannot always be removed either; the first error tells more.
            let _ = fs::remove_file(&beside);
        }
        written?;
        // Who waits for it sees that this is no longer the file beside.
        lock(&new, libc::F_UNLCK, WRITING).map_err(failed)?;
        Ok(Self { path: path.to_owned(), pid, _locked: new })
    }

    /// Removes the file if it still holds this process's pid.
    pub(crate) fn remove(&self) {
        let own = fs::read(&self.path).is_ok_and(|content| number(&content) == Some(self.pid));
        if own {
            if let Err(error) = fs::remove_file(&self.path) {
                tracing::warn!(path = %self.path.display(), %error, "the pidfile stays behind");
            }
        }
    }
}

/// The file at `path`, made if need be, and locked against every other master that starts.
fn start_writing(path: &Path) -> io::Result<File> {
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            // Not waiting for the reader of a pipe.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        // Nobody holds it for longer than it takes to write a pid.
        let last = Instant::now() + WRITTEN;
        while !lock(&file, libc::F_WRLCK, WRITING)? {
            if Instant::now() >= last {
                return Err(io::Error::new(ErrorKind::TimedOut, "another process is writing it"));
            }
            pause(Duration::from_millis(5));
        }
        let own = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(file),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // Whoever had the lock has renamed or removed the file.
            _ => {}
        }
    }
}

/// Whose a pidfile is.
enum Owner {
    /// There is none, or who wrote it is gone.
    Nobody,
    /// A server that lives, and the number in the file.
    Living(Option<i32>),
}

fn owner(path: &Path) -> io::Result<Owner> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Owner::Nobody),
        Err(error) => return Err(error),
    };
    if lock(&file, libc::F_RDLCK, LIVING)? {
        return Ok(Owner::Nobody);
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content)?;
    Ok(Owner::Living(number(&content)))
}

/// Takes or gives back a lock of the open file; `false` if somebody else has it.
fn lock(file: &File, kind: libc::c_int, which: libc::off_t) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&byte(kind, which))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn byte(kind: libc::c_int, start: libc::off_t) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

fn number(content: &[u8]) -> Option<i32> {
    String::from_utf8_lossy(content).trim().parse().ok().filter(|pid| *pid > 0)
}

impl fmt::Display for PidfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive(path, pid) => write!(
                f,
                "pidfile = {:?}: the server that wrote it (process {}) is alive; \
                 allowed is a path that no running server uses",
                path.display().to_string(),
                pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string())
            ),
            Self::Io(path, error) => write!(
                f,
                "pidfile = {:?}: {error}; allowed is a file in a folder that can be written",
                path.display().to_string()
            ),
        }
    }
}

impl std::error::Error for PidfileError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    /// Behaviour L52.
    #[test]
    fn a_living_server_is_refused_and_its_file_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        // In two containers with one folder both are 1.
        for (first, second) in [(pid(), 1), (1, 1)] {
            let pidfile = Pidfile::write(&path, first).unwrap();
            let refused = Pidfile::write(&path, second).unwrap_err();
            assert!(
                matches!(refused, PidfileError::Alive(_, Some(pid)) if pid == first),
                "{refused}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{first}\n"));
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
            drop(pidfile);
            Pidfile::write(&path, second).unwrap();
        }
    }

    /// Behaviour L52, and better: a number that somebody else has by now stops nobody.
    #[test]
    fn what_no_server_has_locked_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        // Beyond the kernel's highest pid (2^22).
        for content in ["4194305", "garbage", "", "-1", "0", "1", &pid().to_string()] {
            fs::write(&path, content).unwrap();
            Pidfile::write(&path, pid()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pid()), "{content:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    /// Behaviour L52.
    #[test]
    fn only_the_own_pid_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let pidfile = Pidfile::write(&path, pid()).unwrap();
        fs::write(&path, "1\n").unwrap();
        pidfile.remove();
        assert!(path.exists());

        fs::write(&path, pid().to_string()).unwrap();
        pidfile.remove();
        assert!(!path.exists());
    }

    /// A pipe in its place, or in that of the file beside, holds nobody up.
    #[test]
    fn a_pipe_is_an_error_or_nobodys_file() {
        for (name, written) in [("pid", true), ("pid.new", false)] {
            let folder = tempfile::tempdir().unwrap();
            let mode = nix::sys::stat::Mode::S_IRWXU;
            nix::unistd::mkfifo(&folder.path().join(name), mode).unwrap();
            let pidfile = Pidfile::write(&folder.path().join("pid"), pid());
            assert_eq!(pidfile.is_ok(), written, "{name}: {pidfile:?}");
        }
    }

    /// Masters that start at once over the same stale file: one of them is not refused.
    #[test]
    fn one_of_many_that_start_at_once_wins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        for round in 0..200 {
            fs::write(&path, "4194305").unwrap();
            let barrier = std::sync::Barrier::new(3);
            let won: Vec<Pidfile> = std::thread::scope(|scope| {
                let starters = [1, 2, 3].map(|pid| {
                    scope.spawn({
                        let (path, barrier) = (&path, &barrier);
                        move || {
                            barrier.wait();
                            Pidfile::write(path, pid)
                        }
                    })
                });
                starters.into_iter().filter_map(|starter| starter.join().unwrap().ok()).collect()
            });
            assert_eq!(won.len(), 1, "{won:?} in round {round}");
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", won[0].pid));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nowhere/pid");
        let refused = Pidfile::write(&path, pid()).unwrap_err();
        assert!(matches!(refused, PidfileError::Io(..)), "{refused}");
    }
}
