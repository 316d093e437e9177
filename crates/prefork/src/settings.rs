//! The launcher's settings: their names, units, defaults, and the sources that they come from.

mod args;
mod error;
mod file;
mod given;
mod origin;
mod sources;
mod table;
mod value;

pub(crate) use self::args::report;
pub use self::args::{Args, parse_args};
pub use self::error::SettingsError;
pub use self::origin::Origin;
pub use self::table::Settings;
pub(crate) use self::value::MAX_WORKERS;
pub use self::value::{Bind, LogFile, LogLevel};

#[cfg(test)]
mod tests;
