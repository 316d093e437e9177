//! The pidfile: refused when it names a living process, removed only by its owner.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A pidfile that holds this process's pid.
#[derive(Debug)]
pub(crate) struct Pidfile {
    path: PathBuf,
    pid: i32,
}

/// Why there is no pidfile.
#[derive(Debug)]
pub(crate) enum PidfileError {
    /// The process that the file names lives.
    Alive(PathBuf, i32),
    /// The file cannot be read or written.
    Io(PathBuf, io::Error),
}

// === impl Pidfile ===

impl Pidfile {
    /// Writes the pid to `path`; a stale file or one without a pid is overwritten.
    ///
    /// # Errors
    ///
    /// A living process of another pid in the file, or the file system's errors.
    pub(crate) fn write(path: &Path, pid: i32) -> Result<Self, PidfileError> {
        let failed = |error| PidfileError::Io(path.to_owned(), error);
        // Written beside it and renamed: whoever reads the pidfile reads a whole one. And locked, from the
        // look at the old one until then: of two masters that start at once, the second sees the first.
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut new = lock(&beside).map_err(failed)?;
        let written = match holder(path) {
            Ok(Some(other)) if other != pid && alive(other) => {
                Err(PidfileError::Alive(path.to_owned(), other))
            }
            Ok(_) => new
                .set_len(0)
                .and_then(|()| writeln!(new, "{pid}"))
                .and_then(|()| fs::rename(&beside, path))
                .map_err(failed),
            Err(error) => Err(failed(error)),
        };
        if written.is_err() {
            // What cannot be written cannot always be removed either; the first error tells more.
            let _ = fs::remove_file(&beside);
        }
        written.map(|()| Self { path: path.to_owned(), pid })
    }

    /// Removes the file if it still holds this process's pid.
    pub(crate) fn remove(&self) {
        let own = matches!(holder(&self.path), Ok(Some(pid)) if pid == self.pid);
        if own {
            if let Err(error) = fs::remove_file(&self.path) {
                tracing::warn!(path = %self.path.display(), %error, "the pidfile stays behind");
            }
        }
    }
}

/// The file at `path`, made if need be, and locked against every other master; closing it unlocks.
fn lock(path: &Path) -> io::Result<Flock<File>> {
    loop {
        let file =
            File::options().write(true).create(true).truncate(false).mode(0o644).open(path)?;
        // Nobody holds it for longer than it takes to write a pid.
        let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        let own = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(file),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // Whoever had the lock has renamed or removed the file.
            _ => {}
        }
    }
}

/// The pid in the file; `None` if there is no file or no pid in it.
fn holder(path: &Path) -> io::Result<Option<i32>> {
    match fs::read(path) {
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            Ok(text.trim().parse().ok().filter(|pid| *pid > 0))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the process exists: one that must not be signalled does.
fn alive(pid: i32) -> bool {
    !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH))
}

impl fmt::Display for PidfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive(path, pid) => write!(
                f,
                "pidfile = {:?}: process {pid} in it is alive; allowed is a path that no running server uses",
                path.display().to_string()
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

    /// gunicorn.md 4, test 52.
    #[test]
    fn a_living_process_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        let refused = Pidfile::write(&path, pid()).unwrap_err();
        assert!(matches!(refused, PidfileError::Alive(_, 1)), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\n");
    }

    /// gunicorn.md 4, test 52.
    #[test]
    fn stale_garbage_and_own_pids_are_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        // Beyond the kernel's highest pid (2^22).
        for content in ["4194305", "garbage", "", "-1", "0", &pid().to_string()] {
            fs::write(&path, content).unwrap();
            Pidfile::write(&path, pid()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", pid()), "{content:?}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    }

    /// gunicorn.md 4, test 52.
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

    /// Two masters that start at once over the same stale file: one of them is refused.
    #[test]
    fn one_of_many_that_start_at_once_wins() {
        let living = [pid(), nix::unistd::getppid().as_raw(), 1];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        for round in 0..200 {
            fs::write(&path, "4194305").unwrap();
            let barrier = std::sync::Barrier::new(living.len());
            let won: Vec<i32> = std::thread::scope(|scope| {
                let starters = living.map(|pid| {
                    scope.spawn({
                        let (path, barrier) = (&path, &barrier);
                        move || {
                            barrier.wait();
                            Pidfile::write(path, pid).is_ok().then_some(pid)
                        }
                    })
                });
                starters.into_iter().filter_map(|starter| starter.join().unwrap()).collect()
            });
            assert_eq!(won.len(), 1, "{won:?} in round {round}");
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", won[0]));
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
