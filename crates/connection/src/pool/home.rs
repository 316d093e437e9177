//! The process and runtime that a pool's connections belong to.

use std::process;

use tokio::runtime::Handle;

use crate::AcquireError;

/// The process and runtime that the connections belong to.
pub(super) struct Home {
    pub(super) pid: u32,
    pub(super) runtime: Handle,
}

impl Home {
    /// Looks whether what runs here may use the pool, of which `slots` connections belong to `home`; a home to
    /// move to, if there is nothing that keeps it.
    ///
    /// # Errors
    ///
    /// No runtime here, or one that the open connections do not belong to.
    pub(super) fn here(home: Option<&Self>, slots: usize) -> Result<Option<Self>, AcquireError> {
        let runtime = Handle::try_current().map_err(|_| AcquireError::NoRuntime)?;
        // No two runtimes of a process, nor of one forked from it, have the same id, and none is of
        // use on both sides of a fork. So the pid, which is a system call, need not be asked for.
        if home.is_some_and(|home| home.runtime.id() == runtime.id()) {
            return Ok(None);
        }
        let pid = process::id();
        match home {
            Some(home) if slots > 0 && home.pid == pid => Err(AcquireError::ForeignRuntime),
            Some(_) if slots > 0 => Err(AcquireError::Forked),
            _ => Ok(Some(Self { pid, runtime })),
        }
    }

    /// Whether this process is another one, forked since.
    pub(super) fn is_foreign(&self) -> bool {
        self.pid != process::id()
    }
}
