//! The kinds of values that settings have.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How values of a kind are written.
pub(super) struct Kind<T> {
    pub(super) metavar: &'static str,
    pub(super) allowed: &'static str,
    pub(super) many: bool,
    pub(super) parse: fn(&[String]) -> Option<T>,
    pub(super) show: fn(&T) -> String,
}

pub(super) const BINDS: Kind<Vec<Bind>> = Kind {
    metavar: "ADDRESS",
    allowed: "HOST:PORT, [V6]:PORT or unix:PATH, at least one",
    many: true,
    parse: |values| {
        let binds: Option<Vec<_>> = values.iter().map(|value| Bind::parse(value)).collect();
        binds.filter(|binds| !binds.is_empty())
    },
    show: |binds| {
        let binds: Vec<_> = binds.iter().map(Bind::to_string).collect();
        binds.join(",")
    },
};

pub(super) const BACKLOG: Kind<u32> = Kind {
    metavar: "N",
    allowed: "a whole number from 1 to 65535",
    many: false,
    parse: |values| within(values, 1, 65_535)?.try_into().ok(),
    show: u32::to_string,
};

/// More worker processes than this are refused.
pub(crate) const MAX_WORKERS: usize = 512;

const MAX_THREADS: usize = 512;

pub(super) const WORKERS: Kind<usize> = Kind {
    allowed: "a whole number from 1 to 512",
    parse: |values| within(values, 1, MAX_WORKERS),
    ..COUNT
};

pub(super) const THREADS: Kind<usize> = Kind {
    allowed: "a whole number from 1 to 512",
    parse: |values| within(values, 1, MAX_THREADS),
    ..COUNT
};

pub(super) const COUNT: Kind<usize> = Kind {
    metavar: "N",
    allowed: "a whole number from 1 to 1000000",
    many: false,
    parse: |values| within(values, 1, 1_000_000),
    show: usize::to_string,
};

pub(super) const LIMIT: Kind<usize> = Kind {
    allowed: "a whole number from 0 to 1000000000",
    parse: |values| within(values, 0, 1_000_000_000),
    ..COUNT
};

pub(super) const BOOL: Kind<bool> = Kind {
    metavar: "BOOL",
    allowed: "true or false",
    many: false,
    parse: |values| only(values)?.parse().ok(),
    show: bool::to_string,
};

pub(super) const SECONDS: Kind<Duration> = Kind {
    metavar: "SECONDS",
    allowed: "a number of seconds from 0 to 1000000000, such as 30 or 0.5",
    many: false,
    parse: |values| {
        let seconds: f64 = only(values)?.parse().ok()?;
        let fits = (0.0..=1e9).contains(&seconds);
        fits.then(|| Duration::from_secs_f64(seconds))
    },
    show: |duration| duration.as_secs_f64().to_string(),
};

pub(super) const PATH: Kind<Option<PathBuf>> = Kind {
    metavar: "PATH",
    allowed: "the path of a file",
    many: false,
    parse: |values| {
        let path = only(values).filter(|path| !path.is_empty())?;
        Some(Some(path.into()))
    },
    show: |path| path.as_ref().map_or_else(String::new, |path| path.display().to_string()),
};

pub(super) const LOGLEVEL: Kind<LogLevel> = Kind {
    metavar: "LEVEL",
    allowed: "debug, info, warning, error or critical",
    many: false,
    parse: |values| LogLevel::parse(only(values)?),
    show: LogLevel::to_string,
};

pub(super) const LOGFILE: Kind<LogFile> = Kind {
    metavar: "PATH",
    allowed: "the path of a file, or - for standard error",
    many: false,
    parse: |values| match only(values)? {
        "" => None,
        "-" => Some(LogFile::Stderr),
        path => Some(LogFile::Path(path.into())),
    },
    show: LogFile::to_string,
};

fn only(values: &[String]) -> Option<&str> {
    match values {
        [value] => Some(value),
        _ => None,
    }
}

fn within(values: &[String], least: usize, most: usize) -> Option<usize> {
    let number = only(values)?.parse().ok()?;
    (least..=most).contains(&number).then_some(number)
}

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bind {
    /// A host name or address, and a port; port 0 lets the kernel choose.
    Tcp(String, u16),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Bind {
    const DEFAULT_PORT: u16 = 8000;

    /// The address that `text` names: `HOST`, `HOST:PORT`, `[V6]:PORT` or `unix:PATH`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(path.into()));
        }
        let (host, port) = if let Some(v6) = text.strip_prefix('[') {
            let (host, rest) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let port = match port {
            Some(port) => port.parse().ok()?,
            None => Self::DEFAULT_PORT,
        };
        match host {
            "" if text.starts_with(':') => Some(Self::Tcp("0.0.0.0".into(), port)),
            "" => None,
            host if host.contains(|c: char| c == '/' || c.is_whitespace()) => None,
            host => Some(Self::Tcp(host.to_owned(), port)),
        }
    }
}

/// 127.0.0.1:8000, as in gunicorn.
impl Default for Bind {
    fn default() -> Self {
        Self::Tcp("127.0.0.1".into(), Self::DEFAULT_PORT)
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The lowest level that is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogLevel {
    /// Everything, details of the protocol included.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What should not happen.
    Warning,
    /// What fails.
    Error,
    /// gunicorn's highest level: here the same as [`Error`](Self::Error).
    Critical,
}

impl LogLevel {
    fn parse(text: &str) -> Option<Self> {
        let all = [Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical];
        all.into_iter().find(|level| level.as_str().eq_ignore_ascii_case(text))
    }

    /// The level's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where the log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LogFile {
    /// Standard error.
    #[default]
    Stderr,
    /// The end of a file.
    Path(PathBuf),
}

impl fmt::Display for LogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stderr => f.write_str("-"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an error says is allowed is what is allowed.
    #[test]
    fn the_limits_stand_in_the_words() {
        for (kind, most) in [(&WORKERS, MAX_WORKERS), (&THREADS, MAX_THREADS), (&COUNT, 1_000_000)]
        {
            let parse = |number: usize| (kind.parse)(&[number.to_string()]);
            assert_eq!((parse(0), parse(1), parse(most)), (None, Some(1), Some(most)));
            assert_eq!(parse(most + 1), None);
            assert_eq!(kind.allowed, format!("a whole number from 1 to {most}"));
        }
    }
}
