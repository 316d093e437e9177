//! The launcher as a program sees it.

use std::fmt;
use std::future::Future;
use std::process::ExitCode;

use farrier_serve::BoxError;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tower_service::Service;

use crate::arbiter::Verdict;
use crate::audit::{Offence, audit};
use crate::complain::complain;
use crate::hooks::{Hooks, ServerHooks};
use crate::master::Master;
use crate::settings::{self, Args, Settings};
use crate::worker::{self, Prepare, Worker};
use crate::{log, stdout};

/// Runs a service in worker processes that it forks, watches and replaces.
///
/// See the [crate](crate) for an example and for what `main` must not do before.
#[must_use = "a launcher does nothing until it runs"]
pub struct Launcher {
    name: String,
    source: Source,
    prepare: Option<Prepare>,
    hooks: Hooks,
}

/// Where the settings come from; they are resolved when the launcher runs.
enum Source {
    Resolved(Settings),
    Flags { base: Settings, args: Args },
    CommandLine { base: Settings },
}

impl Launcher {
    /// A launcher with these settings as they are.
    pub fn new(settings: Settings) -> Self {
        Self::with(program_name(), Source::Resolved(settings))
    }

    /// A launcher for a program whose command line has nothing but the launcher's own flags.
    ///
    /// `name` stands in the usage text and in the log.
    pub fn from_args(name: impl Into<String>) -> Self {
        Self::with(name.into(), Source::CommandLine { base: Settings::default() })
    }

    /// A launcher for a program that has parsed its command line itself: [`parse_args`](crate::parse_args).
    pub fn with_args(args: Args) -> Self {
        Self::with(program_name(), Source::Flags { base: Settings::default(), args })
    }

    fn with(name: String, source: Source) -> Self {
        Self { name, source, prepare: None, hooks: Hooks::default() }
    }

    /// Changes the defaults; the settings file, the environment and the flags are stronger.
    ///
    /// ```
    /// # use farrier_prefork::Launcher;
    /// let launcher = Launcher::from_args("app").defaults(|settings| settings.workers = 4);
    /// # drop(launcher);
    /// ```
    pub fn defaults(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        match &mut self.source {
            Source::Resolved(settings) => change(settings),
            Source::Flags { base, .. } | Source::CommandLine { base } => change(base),
        }
        self
    }

    /// Work that must be done once before there is any worker: a schema, a migration.
    ///
    /// It runs once per start, not per reload, when the sockets are bound: in a short-lived process of its
    /// own with a runtime of its own, so that nothing it opens is inherited by a worker. If it fails, or
    /// takes longer than `boot_timeout`, the server does not start, and the exit code is 1.
    pub fn prepare<P, F, E>(mut self, work: P) -> Self
    where
        P: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        self.prepare = Some(Box::new(move |runtime| {
            runtime.block_on(async { work().await.map_err(Into::into) })
        }));
        self
    }

    /// Calls the functions of `hooks` at the turns of the server's life: see [`ServerHooks`].
    pub fn server_hooks(mut self, hooks: impl ServerHooks) -> Self {
        self.hooks = Hooks::new(hooks);
        self
    }

    /// Runs the service until it is stopped; the result is for `main` to return.
    ///
    /// `app` is called in each worker process, on its own fresh runtime; what it returns is served, and an
    /// error or a panic in it means that this worker cannot start. The exit code is
    ///
    /// - 0: stopped by SIGTERM, SIGINT, SIGQUIT or `farrierctl stop`;
    /// - 1: a wrong setting, an address that cannot be bound, a failed preparation;
    /// - 3: no worker of the first generation became ready.
    ///
    /// A wrong setting, a taken address and whatever else keeps the server from starting is told on
    /// standard error, in one line.
    pub fn run<A, F, S, E, B>(self, app: A) -> ExitCode
    where
        A: Fn(Worker) -> F + Sync,
        F: Future<Output = Result<S, E>>,
        E: Into<BoxError>,
        S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        let Self { name, source, prepare, hooks } = self;
        let settings = match source.resolve(&name) {
            Ok(settings) => settings,
            Err(code) => return code,
        };
        let body = |seed| worker::live(seed, &app);
        let begun = settings
            .check()
            .map_err(Into::into)
            .and_then(|()| Ok(log::install(&settings)?))
            .and_then(|()| Ok(first_audit()?))
            .and_then(|()| Master::new(&name, settings, prepare, hooks, &body));
        let code = match begun {
            Ok(master) => match master.run() {
                Verdict::Stopped => {
                    tracing::info!("{name} has stopped");
                    ExitCode::SUCCESS
                }
                Verdict::NotPrepared => {
                    tracing::error!("the server does not start: the preparation failed");
                    ExitCode::from(1)
                }
                Verdict::NeverReady => {
                    tracing::error!("the server does not start: no worker became ready");
                    ExitCode::from(3)
                }
            },
            Err(error) => {
                complain(&name, &error.to_string());
                ExitCode::from(1)
            }
        };
        // Else the end of the program would wait for who does not read.
        stdout::settle();
        code
    }
}

impl fmt::Debug for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launcher").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    fn resolve(self, name: &str) -> Result<Settings, ExitCode> {
        let (base, args) = match self {
            Self::Resolved(settings) => return Ok(settings),
            Self::Flags { base, args } => (base, args),
            Self::CommandLine { base } => match Args::of_process(name) {
                Ok(args) => (base, args),
                Err(error) => return Err(settings::report(name, &error)),
            },
        };
        args.settings_over(base).map_err(|error| {
            complain(name, &error.to_string());
            ExitCode::from(1)
        })
    }
}

/// Before the launcher has anything of its own.
fn first_audit() -> Result<(), Offence> {
    for inherited in audit(&[])?.inherited {
        tracing::warn!(
            "{inherited}, came from this program's parent: the workers do not get it (it has no close-on-exec)"
        );
    }
    Ok(())
}

/// The program's file name.
fn program_name() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name();
    name.map_or_else(|| "farrier".to_owned(), |name| name.to_string_lossy().into_owned())
}
