//! What is wrong with a setting.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use super::origin::Origin;

/// A setting that cannot be used: one line that names the key, the value, what is allowed, and where it
/// came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingsError {
    /// A value that is none of this setting's.
    Invalid {
        /// The setting.
        key: &'static str,
        /// The value as it was written.
        value: String,
        /// What would be a value.
        allowed: &'static str,
        /// Where the value stands.
        origin: Origin,
    },
    /// A name in the settings file that is no setting.
    UnknownKey {
        /// The name.
        key: String,
        /// What would be one.
        allowed: String,
        /// Where it stands.
        origin: Origin,
    },
    /// An environment variable that is no text (UTF-8).
    NoText {
        /// The variable.
        variable: String,
        /// Its value, as far as it is text.
        value: String,
    },
    /// A settings file that cannot be read or is no TOML.
    File {
        /// The file.
        path: PathBuf,
        /// Who named the file, if it is not the default one.
        origin: Option<Origin>,
        /// What is wrong with it.
        reason: String,
    },
}

impl SettingsError {
    pub(super) fn file(path: &Path, origin: Option<Origin>, reason: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), origin, reason: reason.into() }
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { key, value, allowed, origin } => {
                write!(f, "{key} = {value:?} ({origin}): allowed is {allowed}")
            }
            Self::UnknownKey { key, allowed, origin } => {
                write!(f, "{key} ({origin}) is no setting; there are {allowed}")
            }
            Self::NoText { variable, value } => {
                write!(f, "{variable} = {value:?} (environment variable): allowed is UTF-8 text")
            }
            Self::File { path, origin, reason } => {
                write!(f, "config = {:?}", path.display().to_string())?;
                if let Some(origin) = origin {
                    write!(f, " ({origin})")?;
                }
                write!(f, ": {reason}; allowed is a readable TOML file")
            }
        }
    }
}

impl Error for SettingsError {}
