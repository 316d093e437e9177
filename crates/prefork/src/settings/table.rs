//! The table of the settings: each is declared here, once, and has the same name everywhere: `graceful_timeout` in
//! the file, `FARRIER_GRACEFUL_TIMEOUT` in the environment, `--graceful-timeout` on the command line.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::given::Given;
use super::value::{self, Bind, LogFile, LogLevel};

/// The path of a Unix socket, in bytes, with room for the NUL that ends it.
const LONGEST_SOCKET_PATH: usize = 107;

const BEATS_PER_TIMEOUT: u32 = 4;
const LONGEST_BEAT: Duration = Duration::from_secs(1);
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// A setting as the sources see it.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    /// gunicorn's own spelling of the flag, where it differs.
    pub(super) alias: Option<&'static str>,
    pub(super) metavar: &'static str,
    pub(super) allowed: &'static str,
    pub(super) many: bool,
    pub(super) doc: &'static [&'static str],
    /// The value as it would be written.
    pub(super) show: fn(&Settings) -> String,
    /// Whether a reload cannot change it.
    pub(super) needs_restart: bool,
    /// Returns whether the value was one.
    pub(super) set: fn(&mut Settings, &[String]) -> bool,
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty = $default:expr, $kind:expr $(, short $short:literal)? $(, alias $alias:literal)?
            $(, needs $restart:literal)?;
    )+) => {
        /// The launcher's settings, resolved.
        ///
        /// [`Settings::default`] holds the defaults; a program changes what it wants and hands them to
        /// [`Launcher::new`](crate::Launcher::new), or lets the outer sources override them with
        /// [`Args::settings_over`](crate::Args::settings_over). The sources, from the weakest: these defaults, the program's own, the
        /// variables `WEB_CONCURRENCY` and `PORT`, `farrier.toml`, the environment, the command line. A
        /// setting has the same name in each: `graceful_timeout`, `FARRIER_GRACEFUL_TIMEOUT`,
        /// `--graceful-timeout`. Durations are written in seconds, such as `30` or `0.5`.
        ///
        /// ```
        /// # use std::time::Duration;
        /// use farrier_prefork::{Args, Settings};
        ///
        /// let mut settings = Settings::default();
        /// settings.graceful_timeout = Duration::from_secs(10);
        /// assert_eq!(settings.workers, 1);
        /// ```
        #[derive(Clone, Debug)]
        #[non_exhaustive]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $name: $type, )+
            /// What these were made of, so that a reload can make them again.
            pub(super) recipe: Option<Arc<Recipe>>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $( $name: $default, )+ recipe: None }
            }
        }

        /// Every setting, in the order of `--help`.
        pub(super) const KEYS: &[Key] = &[$( Key {
            name: stringify!($name),
            short: [$(Some($short),)? None][0],
            alias: [$(Some($alias),)? None][0],
            metavar: $kind.metavar,
            allowed: $kind.allowed,
            many: $kind.many,
            needs_restart: [$({ let _: &str = $restart; true },)? false][0],
            doc: &[$($doc),+],
            show: |settings| ($kind.show)(&settings.$name),
            set: |settings, values| match ($kind.parse)(values) {
                Some(value) => { settings.$name = value; true }
                None => false,
            },
        }, )+];
    };
}

settings! {
    /// Address to listen on: `HOST:PORT`, `[V6]:PORT`, or `unix:PATH`; may be given several times.
    ///
    /// Port 0 lets the kernel choose; the log and `farrierctl status` say which it is. Without it and
    /// with the variable `PORT` in the environment the default is `0.0.0.0:$PORT`, as in gunicorn.
    bind: Vec<Bind> = vec![Bind::default()], value::BINDS, short 'b', needs "restart";
    /// Connections that the kernel queues for each address before a worker accepts them.
    backlog: u32 = 2048, value::BACKLOG, needs "restart";
    /// Number of worker processes.
    ///
    /// The variable `WEB_CONCURRENCY` is the default if it is set, as in gunicorn.
    workers: usize = 1, value::WORKERS, short 'w';
    /// Threads of each worker's runtime: 1 is a current-thread runtime, more a multi-thread one.
    threads: usize = 1, value::THREADS;
    /// Connections that one worker holds at most; when more wait, one that is idle makes room.
    worker_connections: usize = 1000, value::COUNT;
    /// Requests after which a worker is replaced by a new one; 0 never.
    ///
    /// Make before break, one worker at a time: it serves on until its successor is ready, so it has some more.
    max_requests: usize = 0, value::LIMIT;
    /// Requests more than `max_requests` that a worker may have, drawn at random for each; 0 for none.
    max_requests_jitter: usize = 0, value::LIMIT;
    /// Seconds after which a worker is replaced by a new one, at random up to a tenth less; 0 never.
    max_lifetime: Duration = Duration::ZERO, value::SECONDS;
    /// MiB of resident memory above which a worker is replaced by a new one; 0 for no limit.
    max_rss: usize = 0, value::LIMIT;
    /// Seconds without a heartbeat after which a worker counts as hung and is replaced; 0 never.
    timeout: Duration = Duration::from_secs(30), value::SECONDS, short 't';
    /// Seconds in which a worker must become ready; 0 for no limit.
    boot_timeout: Duration = Duration::from_secs(60), value::SECONDS;
    /// Seconds that a stopping worker has for the requests in flight; then they are cut.
    graceful_timeout: Duration = Duration::from_secs(30), value::SECONDS;
    /// Whether the server starts only if all its companions do; later each is tried again for ever, as without it.
    require_companions: bool = false, value::BOOL, needs "restart";
    /// Seconds that a stopping worker keeps idle connections open for one more request.
    drain_idle: Duration = Duration::from_secs(2), value::SECONDS;
    /// Seconds that a kept-alive connection may idle between two requests (gunicorn: 2); 0 closes at once.
    keepalive: Duration = Duration::from_secs(5), value::SECONDS, alias "keep-alive";
    /// Seconds that a client has for the head of a request; 0 for no limit.
    header_read_timeout: Duration = Duration::from_secs(10), value::SECONDS;
    /// Seconds that a request goes on when its client has closed its sending half; 0 drops it at once.
    half_close_timeout: Duration = Duration::from_millis(100), value::SECONDS;
    /// Whether to serve requests that the standard forbids and a proxy may read otherwise; else they get 400.
    tolerate_invalid_requests: bool = false, value::BOOL;
    /// File that holds the master's pid.
    pidfile: Option<PathBuf> = None, value::PATH, short 'p', alias "pid", needs "restart";
    /// Socket for farrierctl; by default the pidfile's name with .sock added, none without a pidfile.
    control_socket: Option<PathBuf> = None, value::PATH, needs "restart";
    /// The lowest level that is logged: debug, info, warning, error, or critical.
    loglevel: LogLevel = LogLevel::Info, value::LOGLEVEL, alias "log-level", needs "restart";
    /// File that the log is appended to; `-` is standard error.
    errorlog: LogFile = LogFile::Stderr, value::LOGFILE, alias "error-logfile", needs "restart";
}

/// What settings were made of.
#[derive(Clone, Debug)]
pub(super) struct Recipe {
    pub(super) base: Settings,
    pub(super) given: Given,
}

impl Settings {
    /// The settings that differ in `new` although only a restart can change them.
    pub(crate) fn fixed_until_restart(&self, new: &Self) -> Vec<&'static str> {
        KEYS.iter()
            .filter(|key| key.needs_restart && (key.show)(self) != (key.show)(new))
            .map(|key| key.name)
            .collect()
    }

    /// How often a worker beats: several times per `timeout`, so that one late beat is not a hang.
    pub(crate) fn beat_interval(&self) -> Duration {
        match self.timeout {
            Duration::ZERO => LONGEST_BEAT,
            timeout => (timeout / BEATS_PER_TIMEOUT).clamp(SHORTEST_BEAT, LONGEST_BEAT),
        }
    }

    /// Where the control socket is, if there is one: beside the pidfile unless it is set, and then only if
    /// the kernel takes the path.
    pub(crate) fn control_path(&self) -> Option<PathBuf> {
        self.control_socket.clone().or_else(|| {
            let mut name = self.pidfile.clone()?.into_os_string();
            name.push(".sock");
            (name.len() <= LONGEST_SOCKET_PATH).then(|| name.into())
        })
    }
}

impl Key {
    pub(super) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    pub(super) fn variable(&self) -> String {
        format!("FARRIER_{}", self.name.to_uppercase())
    }

    /// The parts of a value that is a list in one string.
    pub(super) fn split(&self, value: &str) -> Vec<String> {
        if self.many {
            value.split(',').map(|part| part.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        }
    }
}
