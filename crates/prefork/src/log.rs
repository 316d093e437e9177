//! The log: one line per event, one write per line, with the pid of the process that speaks.

pub(crate) mod sink;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io;
use std::panic::{self, PanicHookInfo};
use std::thread;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use self::sink::Sink;
pub(crate) use self::sink::forget_losses;
use crate::settings::{LogFile, LogLevel, Settings};
use crate::unwind;

/// Installs a subscriber as the settings say, unless the program has set its own.
///
/// # Errors
///
/// The log file cannot be opened.
pub(crate) fn install(settings: &Settings) -> Result<(), LogError> {
    if tracing::dispatcher::has_been_set() {
        return Ok(());
    }
    let sink = match &settings.errorlog {
        LogFile::Stderr => Sink::stderr(),
        // Appended to: every process writes whole lines through the same open file.
        LogFile::Path(path) => Sink::open(path),
    };
    let sink = sink.map_err(|error| LogError(settings.errorlog.to_string(), error))?;
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(filter(settings.loglevel))
        .event_format(Line)
        .with_writer(sink)
        .finish();
    // If somebody else was faster, theirs is the log.
    if tracing::subscriber::set_global_default(subscriber).is_ok() {
        // The standard library's own waits for whoever reads standard error.
        panic::set_hook(Box::new(log_panic));
    }
    Ok(())
}

/// One line for a panic: what, where, in which thread; and the backtrace if RUST_BACKTRACE asks for one.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let message = unwind::message(panic.payload());
    let place = panic.location().map(tracing::field::display);
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(panic = message, place, thread, backtrace, "a thread panicked");
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    }
}

/// A log file that cannot be opened.
#[derive(Debug)]
pub(crate) struct LogError(String, io::Error);

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "errorlog = {:?}: {}; allowed is a file that can be written, or -",
            self.0, self.1
        )
    }
}

impl std::error::Error for LogError {}

/// `2026-01-31T12:00:00.000000Z [4711]  INFO message field=value`.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut line)?;
        write!(line, " [{}] {:>5} ", std::process::id(), event.metadata().level())?;
        context.field_format().format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}
