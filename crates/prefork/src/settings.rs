//! The launcher's settings: their names, units, defaults, and the layers that they come from.
//!
//! Later layers win: the defaults, what the program sets in code, the platform's `WEB_CONCURRENCY` and
//! `PORT`, `farrier.toml`, the environment, the command line. Each setting is declared once, in the table of this file, and has the same name
//! everywhere: `graceful_timeout` in the file, `FARRIER_GRACEFUL_TIMEOUT` in the environment,
//! `--graceful-timeout` on the command line.

mod args;
mod error;
mod file;
mod value;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use self::args::report;
pub use self::args::{Args, parse_args};
pub use self::error::{Origin, SettingsError};
pub use self::value::{Bind, LogFile, LogLevel};

/// The settings file that is read when no other is named, if it exists.
const DEFAULT_FILE: &str = "farrier.toml";

/// The path of a Unix socket, in bytes, with room for the NUL that ends it.
const LONGEST_SOCKET_PATH: usize = 107;

const BEATS_PER_TIMEOUT: u32 = 4;
const LONGEST_BEAT: Duration = Duration::from_secs(1);
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// A setting as the layers see it.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    /// gunicorn's own spelling of the flag, where it differs.
    pub(crate) alias: Option<&'static str>,
    pub(crate) metavar: &'static str,
    pub(crate) allowed: &'static str,
    pub(crate) many: bool,
    pub(crate) doc: &'static [&'static str],
    /// The value as it would be written.
    pub(crate) show: fn(&Settings) -> String,
    /// Returns whether the value was one.
    set: fn(&mut Settings, &[String]) -> bool,
}

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty = $default:expr, $kind:expr $(, short $short:literal)? $(, alias $alias:literal)?;
    )+) => {
        /// The launcher's settings, resolved.
        ///
        /// [`Settings::default`] holds the defaults; a program changes what it wants and hands them to
        /// [`Launcher::new`](crate::Launcher::new), or lets the outer layers override them with
        /// [`Args::settings_over`]. The layers, from the weakest: these defaults, the program's own, the
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
            recipe: Option<Arc<Recipe>>,
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $( $name: $default, )+ recipe: None }
            }
        }

        /// Every setting, in the order of `--help`.
        pub(crate) const KEYS: &[Key] = &[$( Key {
            name: stringify!($name),
            short: [$(Some($short),)? None][0],
            alias: [$(Some($alias),)? None][0],
            metavar: $kind.metavar,
            allowed: $kind.allowed,
            many: $kind.many,
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
    bind: Vec<Bind> = vec![Bind::default()], value::BINDS, short 'b';
    /// Connections that the kernel queues for each address before a worker accepts them.
    backlog: u32 = 2048, value::BACKLOG;
    /// Number of worker processes.
    ///
    /// The variable `WEB_CONCURRENCY` is the default if it is set, as in gunicorn.
    workers: usize = 1, value::WORKERS, short 'w';
    /// Threads of each worker's runtime: 1 is a current-thread runtime, more a multi-thread one.
    threads: usize = 1, value::THREADS;
    /// Connections that one worker holds at most; when more wait, one that is idle makes room.
    worker_connections: usize = 1000, value::COUNT;
    /// Seconds without a heartbeat after which a worker counts as hung and is replaced; 0 never.
    timeout: Duration = Duration::from_secs(30), value::SECONDS, short 't';
    /// Seconds in which a worker must become ready; 0 for no limit.
    boot_timeout: Duration = Duration::from_secs(60), value::SECONDS;
    /// Seconds that a stopping worker has for the requests in flight; then they are cut.
    graceful_timeout: Duration = Duration::from_secs(30), value::SECONDS;
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
    pidfile: Option<PathBuf> = None, value::PATH, short 'p', alias "pid";
    /// Socket for farrierctl; by default the pidfile's name with .sock added, none without a pidfile.
    control_socket: Option<PathBuf> = None, value::PATH;
    /// The lowest level that is logged: debug, info, warning, error, or critical.
    loglevel: LogLevel = LogLevel::Info, value::LOGLEVEL, alias "log-level";
    /// File that the log is appended to; `-` is standard error.
    errorlog: LogFile = LogFile::Stderr, value::LOGFILE, alias "error-logfile";
}

/// What settings were made of.
#[derive(Clone, Debug)]
struct Recipe {
    base: Settings,
    args: Args,
}

/// A value before it is one, and where it came from.
pub(crate) struct Raw {
    pub(crate) values: Vec<String>,
    pub(crate) origin: Origin,
}

// === impl Settings ===

impl Settings {
    /// Reads the layers again; settings that were set only in code come back as they are.
    ///
    /// # Errors
    ///
    /// The first wrong setting; `self` is as before.
    pub(crate) fn reread(&self) -> Result<Self, SettingsError> {
        match &self.recipe {
            Some(recipe) => recipe.args.settings_over(recipe.base.clone()),
            None => Ok(self.clone()),
        }
    }

    /// The settings that differ in `new` although only a restart can change them.
    pub(crate) fn fixed_until_restart(&self, new: &Self) -> Vec<&'static str> {
        let fixed = ["bind", "backlog", "pidfile", "control_socket", "loglevel", "errorlog"];
        KEYS.iter()
            .filter(|key| fixed.contains(&key.name) && (key.show)(self) != (key.show)(new))
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

    /// Looks at what the program set in code, past every other check: it is what the other layers could
    /// have set, or it is wrong.
    ///
    /// # Errors
    ///
    /// The first wrong setting.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        for key in KEYS {
            let written = (key.show)(self);
            // No file; every other kind of value is written as something.
            if !(written.is_empty() && (key.show)(&Self::default()).is_empty()) {
                self.clone().set(key, Raw::split(key, &written, Origin::Code))?;
            }
        }
        Ok(())
    }

    /// The layers over `base`; `variable` reads the environment.
    fn layered(
        base: Self,
        args: &Args,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let variable = |name: &str| match variable(name).map(OsString::into_string) {
            // An empty variable is an unset one: that is how a compose file or a unit switches one off.
            Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
            Some(Err(value)) => Err(SettingsError::NoText {
                variable: name.to_owned(),
                value: value.to_string_lossy().into_owned(),
            }),
            None => Ok(None),
        };
        let recipe = Recipe { base: base.clone(), args: args.clone() };
        let mut settings = base;

        settings.conventions(&variable)?;
        let file = if let Some(path) = args.config() {
            file::read(path.as_ref(), Some(Origin::Flag("config")))?
        } else if let Some(path) = variable("FARRIER_CONFIG")? {
            file::read(path.as_ref(), Some(Origin::Variable("FARRIER_CONFIG".into())))?
        } else {
            file::read(DEFAULT_FILE.as_ref(), None)?
        };
        for (name, raw) in file {
            let key = KEYS.iter().find(|key| key.name == name);
            let key = key.ok_or_else(|| SettingsError::unknown_key(&name, raw.origin.clone()))?;
            settings.set(key, raw)?;
        }
        for key in KEYS {
            let name = key.variable();
            if let Some(value) = variable(&name)? {
                settings.set(key, Raw::split(key, &value, Origin::Variable(name)))?;
            }
            if let Some(values) = args.given(key.name) {
                let raw = Raw {
                    values: values.iter().flat_map(|value| key.split(value)).collect(),
                    origin: Origin::Flag(key.name),
                };
                settings.set(key, raw)?;
            }
        }
        settings.recipe = Some(Arc::new(recipe));
        settings.check()?;
        Ok(settings)
    }

    /// What platforms put into the environment for any server: weaker than everything that names farrier.
    fn conventions(
        &mut self,
        variable: &impl Fn(&str) -> Result<Option<String>, SettingsError>,
    ) -> Result<(), SettingsError> {
        for (name, key, value) in [
            ("WEB_CONCURRENCY", "workers", variable("WEB_CONCURRENCY")?),
            ("PORT", "bind", variable("PORT")?.map(|port| format!("0.0.0.0:{port}"))),
        ] {
            let key = KEYS.iter().find(|candidate| candidate.name == key);
            if let (Some(key), Some(value)) = (key, value) {
                self.set(key, Raw::split(key, &value, Origin::Variable(name.to_owned())))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, raw: Raw) -> Result<(), SettingsError> {
        let fits = (key.many || raw.values.len() == 1) && (key.set)(self, &raw.values);
        if fits { Ok(()) } else { Err(SettingsError::invalid(key, &raw.values, raw.origin)) }
    }
}

// === impl Key ===

impl Key {
    pub(crate) fn flag(&self) -> String {
        self.name.replace('_', "-")
    }

    pub(crate) fn variable(&self) -> String {
        format!("FARRIER_{}", self.name.to_uppercase())
    }

    /// The parts of a value that is a list in one string.
    fn split(&self, value: &str) -> Vec<String> {
        if self.many {
            value.split(',').map(|part| part.trim().to_owned()).collect()
        } else {
            vec![value.to_owned()]
        }
    }
}

// === impl Raw ===

impl Raw {
    fn split(key: &Key, value: &str, origin: Origin) -> Self {
        Self { values: key.split(value), origin }
    }
}

/// The process's own environment.
fn process_variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}

#[cfg(test)]
mod tests;
