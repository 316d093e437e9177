//! The launcher as a program sees it.

use std::fmt;
use std::future::Future;
use std::process::ExitCode;
use std::rc::Rc;

use farrier_serve::{BoxError, HttpService};

use crate::arbiter::Verdict;
use crate::audit::{Offence, audit};
use crate::complain::complain;
use crate::hooks::{Hooks, ServerHooks};
use crate::master::Master;
use crate::preload::{Life, Lives, Preload};
use crate::settings::{self, Args, Settings};
use crate::signals::StopsAtOnce;
use crate::worker::{self, Companion, CompanionWork, Prepare, Worker};
use crate::{log, stdout};

/// Runs a service in worker processes that it forks, watches and replaces.
///
/// See the [crate](crate) for an example and for what `main` must not do before.
#[must_use = "a launcher does nothing until it runs"]
pub struct Launcher<P = ()> {
    name: String,
    source: Source,
    prepare: Option<Prepare>,
    companions: Vec<CompanionWork>,
    hooks: Hooks,
    preload: P,
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
        let hooks = Hooks::default();
        Self { name, source, prepare: None, companions: Vec::new(), hooks, preload: () }
    }

    /// Loads once, before there is any worker, what every worker reads: a table, a model, a set of templates.
    ///
    /// `load` runs in the master, and what it returns reaches the app's function in each worker by reference. The
    /// workers have the same memory until one of them writes to it, so a table is there once and not once for each.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    ///
    /// use axum::{Router, extract::State, routing::get};
    /// use farrier_prefork::{BoxError, Launcher, Worker};
    ///
    /// fn main() -> ExitCode {
    ///     Launcher::from_args("words").preload(load).run(app)
    /// }
    ///
    /// fn load() -> std::io::Result<Vec<String>> {
    ///     Ok(std::fs::read_to_string("/usr/share/dict/words")?.lines().map(str::to_owned).collect())
    /// }
    ///
    /// async fn app(_: Worker, words: &'static Vec<String>) -> Result<Router, BoxError> {
    ///     let count = async |State(words): State<&'static Vec<String>>| words.len().to_string();
    ///     Ok(Router::new().route("/", get(count)).with_state(words))
    /// }
    /// ```
    ///
    /// The order of a start is gunicorn's under `preload_app`: preload, pidfile, `on_starting`, sockets, `when_ready`,
    /// [`prepare`](Self::prepare), forks. An error or a panic refuses the start: exit code 1. So does what no worker can have and
    /// the preload leaves behind: a thread, a runtime, a connection, as the [crate](crate) says; what it opens it closes, and
    /// processes that it starts it waits for. TERM, INT and QUIT end a first preload at once, with exit code 0; other signals
    /// do what they do by default, and no setting limits it.
    ///
    /// # Reload
    ///
    /// A reload (HUP, `farrierctl reload`) loads anew, and the workers are replaced by workers that have the new value:
    ///
    /// 1. In a process of its own, which is then gone, while the server goes on. If it fails, panics, leaves something behind
    ///    or takes longer than [`boot_timeout`](Settings::boot_timeout), the log says so, and nothing is changed.
    /// 2. In the master, which hears nothing meanwhile: signals, `farrierctl` (which gives up after 10 s; what it has ordered is
    ///    obeyed later), and a worker that dies or hangs wait until it is loaded; workers go on, and requests are served. The log
    ///    says how long that was. No setting limits this second call. If it fails though the first one did not, nothing is
    ///    changed either; but a thread or connection that it leaves in the master keeps that from forking until a restart.
    /// 3. `on_reload`, and the first worker of the new generation. If that one does not become ready, the old value stays with
    ///    the old workers. Once it is, the master drops the old value; since the first worker was forked when both were there,
    ///    it is replaced once more at the end.
    ///
    /// So `load` is called twice for each reload, and the machine needs, for a while, memory for up to two values more. What
    /// `load` reads may be another thing the second time. (gunicorn under `preload_app` loads nothing anew at a HUP.)
    ///
    /// The value is dropped in the master; a worker ends without dropping it. A closure that cannot fail says so:
    /// `|| Ok::<_, std::convert::Infallible>(table())`.
    pub fn preload<T, E>(self, load: impl Fn() -> Result<T, E> + 'static) -> Launcher<Preload<T>>
    where
        T: Sync + 'static,
        E: Into<BoxError>,
    {
        let Self { name, source, prepare, companions, hooks, preload: () } = self;
        Launcher { name, source, prepare, companions, hooks, preload: Preload::new(load) }
    }

    /// Runs the service until it is stopped; the result is for `main` to return.
    ///
    /// `app` is called in each worker process, on its own fresh runtime; what it returns is served, and an
    /// error or a panic in it means that this worker cannot start. An axum `Router` ends with `.with_state(..)`, or
    /// `.with_state(())`: else axum makes routes of its handlers at each request. The exit code is
    ///
    /// - 0: stopped by SIGTERM, SIGINT, SIGQUIT or `farrierctl stop`;
    /// - 1: a wrong setting, a failed preload, an address that cannot be bound, a failed preparation;
    /// - 3: no worker of the first generation became ready, or a required companion did not start.
    ///
    /// A wrong setting, a taken address and whatever else keeps the server from starting is told on
    /// standard error, in one line.
    pub fn run<A, F, S, E>(self, app: A) -> ExitCode
    where
        A: Fn(Worker) -> F + Sync,
        F: Future<Output = Result<S, E>>,
        E: Into<BoxError>,
        S: HttpService,
    {
        let app = &app;
        let life = Life::new(move |seed| worker::live(seed, app));
        self.start(Lives::Same(life))
    }
}

impl<P> Launcher<P> {
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
    pub fn prepare<W, F, E>(mut self, work: W) -> Self
    where
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<(), E>>,
        E: Into<BoxError>,
    {
        self.prepare = Some(Box::new(move |runtime| {
            runtime.block_on(async { work().await.map_err(Into::into) })
        }));
        self
    }

    /// Adds a process that exists once per server, beside its workers: a scheduler, the consumer of a queue, whatever must
    /// not be done by each worker.
    ///
    /// `start` is called in that process, on a runtime of its own, and returns what then runs until the companion is told to
    /// leave. It is forked, watched and replaced as a worker is: by its heartbeat, after a death with ever longer pauses if it
    /// keeps failing, by a reload when the first new worker is ready. It never runs twice: an old one is gone before the next
    /// is forked. Whatever happens to it costs no worker anything; with
    /// [`require_companions`](Settings::require_companions) the server starts only if each has.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    /// use std::time::Duration;
    ///
    /// # use axum::Router;
    /// use farrier_prefork::{BoxError, Companion, Launcher};
    /// # use farrier_prefork::Worker;
    ///
    /// fn main() -> ExitCode {
    ///     Launcher::from_args("app").companion("cleaner", cleaner).run(app)
    /// }
    ///
    /// async fn cleaner(companion: Companion) -> Result<impl Future<Output = ()>, BoxError> {
    ///     // What fails here is said in the log, and tried again.
    ///     let mut hours = tokio::time::interval(Duration::from_secs(3600));
    ///     let drain = companion.drain();
    ///     Ok(async move {
    ///         loop {
    ///             tokio::select! {
    ///                 _ = hours.tick() => println!("what is old is deleted"),
    ///                 () = drain.started() => return,
    ///             }
    ///         }
    ///     })
    /// }
    /// # async fn app(_: Worker) -> Result<Router, BoxError> { Ok(Router::new()) }
    /// ```
    ///
    /// Workers give it work by a queue of farrier-shared, which is made before:
    ///
    /// ```no_run
    /// # use axum::Router;
    /// use farrier_prefork::{BoxError, Companion, Launcher, Worker};
    /// use farrier_shared::{Receiver, Sender, queue};
    ///
    /// # fn main() -> Result<(), BoxError> {
    /// let (mails, inbox) = queue::<String>("mails")?;
    /// Launcher::from_args("app")
    ///     .companion("mailer", move |companion| mailer(companion, inbox.clone()))
    ///     .run(move |worker| app(worker, mails.clone()));
    /// # Ok(())
    /// # }
    ///
    /// async fn mailer(
    ///     companion: Companion,
    ///     mut inbox: Receiver<String>,
    /// ) -> Result<impl Future<Output = ()>, BoxError> {
    ///     let drain = companion.drain();
    ///     Ok(async move {
    ///         loop {
    ///             tokio::select! {
    ///                 mail = inbox.recv() => match mail {
    ///                     Ok(mail) => println!("sends {mail}"),
    ///                     Err(error) => println!("no mail: {error}"),
    ///                 },
    ///                 () = drain.started() => break,
    ///             }
    ///         }
    ///         // When the server stops no worker is left, so this is all that there will be.
    ///         while let Ok(mail) = inbox.try_recv() {
    ///             println!("sends {mail}");
    ///         }
    ///     })
    /// }
    /// # async fn app(_: Worker, mails: Sender<String>) -> Result<Router, BoxError> {
    /// #     Ok(Router::new().with_state(mails))
    /// # }
    /// ```
    ///
    /// When the server stops, companions are told when no worker is left, and have what those have left of
    /// `graceful_timeout`, at least a second; one that is not there at that moment is started once more for it. At a reload a
    /// companion is told as well, while workers go on: what it leaves in the queue is its successor's. A reload does not wait
    /// for companions, and says nothing of them; `farrierctl status` does. One that returns without being told is started
    /// again.
    ///
    /// If the master is killed, its companion ends as its workers do, within `graceful_timeout`; so with a server that is
    /// started again at once there may be two for that long. Work that must not be done twice even then takes a lock, such as
    /// one on a file.
    ///
    /// Server hooks are not called for companions, and `preload`'s value does not reach them by an argument. A name is
    /// letters, digits, `-` and `_`, and `ps` shows the first seven; two with the same name refuse the start, exit code 1.
    pub fn companion<C, F, R, E>(mut self, name: impl Into<String>, start: C) -> Self
    where
        C: Fn(Companion) -> F + Sync + 'static,
        F: Future<Output = Result<R, E>> + 'static,
        R: Future<Output = ()> + 'static,
        E: Into<BoxError>,
    {
        self.companions.push(CompanionWork::new(name.into(), start));
        self
    }

    /// Calls the functions of `hooks` at the turns of the server's life: see [`ServerHooks`].
    pub fn server_hooks(mut self, hooks: impl ServerHooks) -> Self {
        self.hooks = Hooks::new(hooks);
        self
    }

    fn start(self, lives: Lives<'_>) -> ExitCode {
        let Self { name, source, prepare, companions, hooks, .. } = self;
        let settings = match source.resolve(&name) {
            Ok(settings) => settings,
            Err(code) => return code,
        };
        let code = match begin(&name, settings, prepare, companions, hooks, lives) {
            Ok(master) => match master.run() {
                Verdict::Stopped => {
                    tracing::info!("{name} has stopped");
                    ExitCode::SUCCESS
                }
                Verdict::NotPrepared => {
                    tracing::error!("the server does not start: the preparation failed");
                    ExitCode::from(1)
                }
                Verdict::NoCompanion => {
                    tracing::error!(
                        "the server does not start: a companion did not, and require_companions is set"
                    );
                    ExitCode::from(3)
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

impl<T: Sync + 'static> Launcher<Preload<T>> {
    /// Runs the service until it is stopped, as [`Launcher::run`] does without a preload; `app` is given what was
    /// preloaded, too, which is there for as long as the worker.
    pub fn run<A, F, S, E>(self, app: A) -> ExitCode
    where
        A: Fn(Worker, &'static T) -> F + Sync,
        F: Future<Output = Result<S, E>>,
        E: Into<BoxError>,
        S: HttpService,
    {
        let app = &app;
        let Self { name, source, prepare, companions, hooks, preload } = self;
        let load = move || {
            let loaded = Rc::new(preload.load()?);
            Ok(Life::new(move |seed| {
                // A worker ends without dropping anything, so it has what the master had at the fork until then.
                let loaded: &'static Rc<T> = Box::leak(Box::new(Rc::clone(&loaded)));
                let loaded: &'static T = loaded;
                worker::live(seed, &|worker| app(worker, loaded))
            }))
        };
        Launcher { name, source, prepare, companions, hooks, preload: () }
            .start(Lives::Preloaded(Box::new(load)))
    }
}

/// All that can refuse the start, in its order.
fn begin<'a>(
    name: &str,
    settings: Settings,
    prepare: Option<Prepare>,
    companions: Vec<CompanionWork>,
    hooks: Hooks,
    lives: Lives<'a>,
) -> Result<Master<'a>, BoxError> {
    settings.check()?;
    check_names(&companions)?;
    log::install(&settings)?;
    farrier_shared::share()?;
    first_audit()?;
    if !lives.is_preloaded() {
        return Master::new(name, settings, prepare, companions, hooks, lives);
    }
    // Until the master hears the orders to stop by itself.
    let _stops_at_once = StopsAtOnce::new()?;
    tracing::info!("preloading");
    Master::new(name, settings, prepare, companions, hooks, lives)
}

impl<P> fmt::Debug for Launcher<P> {
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

/// The longest name of a companion, in bytes.
const LONGEST_NAME: usize = 32;

/// # Errors
///
/// Which name is none, or is there twice.
fn check_names(companions: &[CompanionWork]) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    for (index, CompanionWork { name, .. }) in companions.iter().enumerate() {
        if !(1..=LONGEST_NAME).contains(&name.len()) || !name.bytes().all(is_plain) {
            return Err(format!(
                "the companion {name:?}: allowed is a name of 1 to {LONGEST_NAME} letters, digits, - and _"
            ));
        }
        if companions[..index].iter().any(|before| before.name == *name) {
            return Err(format!("the companion {name:?} is there twice"));
        }
    }
    Ok(())
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
