//! What a master holds.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use farrier_serve::BoxError;
use nix::fcntl::OFlag;
use nix::unistd::{self, getpid};

use crate::arbiter::{Arbiter, Limits, Pid, Place};
use crate::board::{Board, RowId};
use crate::control::Control;
use crate::hooks::Hooks;
use crate::pidfile::Pidfile;
use crate::preload::{Life, Lives};
use crate::settings::Settings;
use crate::signals::Signals;
use crate::sockets::MasterListener;
use crate::worker::{CompanionWork, Prepare};

/// The process that holds the sockets and keeps the workers on their feet.
pub(crate) struct Master<'a> {
    pub(super) name: String,
    pub(super) pid: unistd::Pid,
    pub(super) began: Instant,
    pub(super) arbiter: Arbiter,
    /// Those that may still be started.
    pub(super) generations: BTreeMap<u64, Generation<'a>>,
    /// What was just read again, until the arbiter has given it a generation.
    pub(super) reread: Option<Generation<'a>>,
    /// How the last reload went; `None` before the first is over.
    pub(super) last_reload: Option<Result<(), String>>,
    /// By place how its last process ended that nobody had told to, and when.
    pub(super) exits: BTreeMap<Place, (String, Instant)>,
    pub(super) board: Arc<Board>,
    pub(super) listeners: Vec<MasterListener>,
    /// When to look at the listeners' queues again; `None` until the server stops.
    pub(super) closing: Option<Instant>,
    /// When to look at the workers' memory again; `None` while none is limited.
    pub(super) memory_look: Option<Instant>,
    /// The listeners' addresses, also when they are closed.
    pub(super) addresses: Vec<String>,
    pub(super) pidfile: Option<Pidfile>,
    /// `None` in a child.
    pub(super) own: Option<Own>,
    pub(super) children: BTreeMap<Pid, Child>,
    pub(super) preparing: Option<Pid>,
    pub(super) prepare: Option<Prepare>,
    pub(super) companions: Vec<CompanionWork>,
    pub(super) lives: Lives<'a>,
    /// While a reload waits for it.
    pub(super) dry_run: Option<DryRun>,
    pub(super) hooks: Hooks,
    /// How many workers there should be, as the hooks were told.
    pub(super) target: usize,
}

/// What the workers of one generation are started with.
#[derive(Clone)]
pub(super) struct Generation<'a> {
    pub(super) settings: Arc<Settings>,
    pub(super) life: Life<'a>,
}

/// The process that tries the preload for a reload.
pub(super) struct DryRun {
    pub(super) pid: Pid,
    /// What the reload has read.
    pub(super) settings: Settings,
    /// Where it says that the preload has succeeded, or why not.
    pub(super) report: OwnedFd,
    /// It has taken longer than `boot_timeout`, and is killed.
    pub(super) is_late: bool,
}

/// Descriptors that no child may keep.
pub(super) struct Own {
    pub(super) signals: Signals,
    pub(super) control: Option<Control>,
    /// The end of a pipe that each worker gets a copy of, to watch.
    pub(super) alive: OwnedFd,
    /// The other end; held, never written: it closes when the master dies.
    pub(super) _held: OwnedFd,
}

/// A worker or companion.
pub(super) struct Child {
    pub(super) place: Place,
    pub(super) generation: u64,
    pub(super) row: RowId,
    pub(super) started: SystemTime,
    /// The same, by the clock that no jump of time changes.
    pub(super) forked: Instant,
    /// Where it says that it is ready, or why it will not be, and that it is due; `None` once it is gone.
    pub(super) report: Option<OwnedFd>,
    /// Bytes of resident memory above which it is due.
    pub(super) max_rss: Option<u64>,
    /// Why its app could not be started.
    pub(super) failure: Option<String>,
}

impl<'a> Master<'a> {
    /// Preloads, and takes what a master holds: signals, pidfile, sockets. Nothing is forked yet.
    ///
    /// # Errors
    ///
    /// In one line what is missing; what was made before is removed again.
    pub(crate) fn new(
        name: &str,
        settings: Settings,
        prepare: Option<Prepare>,
        companions: Vec<CompanionWork>,
        hooks: Hooks,
        lives: Lives<'a>,
    ) -> Result<Self, BoxError> {
        let began = Instant::now();
        let life = lives.load(&[])?;
        if lives.is_preloaded() {
            tracing::info!("preloaded in {:.1} s", began.elapsed().as_secs_f64());
        }
        // Before all else, so that a stop that comes early is not lost.
        let signals = Signals::of_master()?;
        let pid = getpid();
        let target = settings.workers;
        hooks.call("nworkers_changed", |hooks| hooks.nworkers_changed(target, None));
        let board = Arc::new(Board::new()?);
        let (alive, held) = unistd::pipe2(OFlag::O_CLOEXEC)?;
        let pidfile = match &settings.pidfile {
            Some(path) => Some(Pidfile::write(path, pid.as_raw())?),
            None => None,
        };
        if let (Some(pidfile), None) = (&settings.pidfile, settings.control_path()) {
            let pidfile = pidfile.display();
            tracing::warn!(
                "no control socket: {pidfile}.sock is too long for one; control_socket sets another path"
            );
        }
        let sockets = hooks
            .ask("on_starting", |hooks| hooks.on_starting(&settings))
            .and_then(|()| bind(&settings))
            .and_then(|(control, listeners)| {
                let addresses: Vec<_> = listeners.iter().map(MasterListener::to_string).collect();
                match hooks.ask("when_ready", |hooks| hooks.when_ready(&addresses)) {
                    Ok(()) => Ok((control, listeners, addresses)),
                    Err(error) => {
                        control.iter().for_each(Control::remove_file);
                        listeners.iter().for_each(MasterListener::remove_file);
                        Err(error)
                    }
                }
            });
        let (control, listeners, addresses) = match sockets {
            Ok(sockets) => sockets,
            Err(error) => {
                pidfile.iter().for_each(Pidfile::remove);
                return Err(error);
            }
        };
        let arbiter = Arbiter::new(Limits::of(&settings), companions.len(), prepare.is_some());
        let generation = arbiter.generation();
        Ok(Self {
            name: name.to_owned(),
            pid,
            began: Instant::now(),
            arbiter,
            generations: BTreeMap::from([(
                generation,
                Generation { settings: Arc::new(settings), life },
            )]),
            reread: None,
            last_reload: None,
            exits: BTreeMap::new(),
            board,
            addresses,
            listeners,
            closing: None,
            memory_look: None,
            pidfile,
            own: Some(Own { signals, control, alive, _held: held }),
            children: BTreeMap::new(),
            preparing: None,
            prepare,
            companions,
            lives,
            dry_run: None,
            hooks,
            target,
        })
    }
}

/// The control socket, if there is to be one, and the listeners; all or none.
fn bind(settings: &Settings) -> Result<(Option<Control>, Vec<MasterListener>), BoxError> {
    let control = settings.control_path().map(|path| Control::bind(&path)).transpose()?;
    match MasterListener::bind_all(&settings.bind, settings.backlog) {
        Ok(listeners) => Ok((control, listeners)),
        Err(error) => {
            control.iter().for_each(Control::remove_file);
            Err(error.into())
        }
    }
}

impl Own {
    /// What an audit would find; children drop it all with [`Own`].
    pub(super) fn not_shareable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let control = self.control.iter().flat_map(Control::interests);
        control.map(|(fd, _)| fd).chain([self.signals.as_fd()])
    }
}
