//! What a command line gave.

use std::collections::BTreeMap;

/// The name under which the settings file is given.
pub(super) const CONFIG: &str = "config";

/// The values that were given, by the setting's name; everything else is left to the other sources.
#[derive(Clone, Debug, Default)]
pub(super) struct Given(BTreeMap<&'static str, Vec<String>>);

impl Given {
    /// The settings file.
    pub(super) fn config(&self) -> Option<&str> {
        self.values(CONFIG)?.last().map(String::as_str)
    }

    /// The values of a setting; `None` if it was not given.
    pub(super) fn values(&self, name: &str) -> Option<&[String]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub(super) fn insert(&mut self, name: &'static str, values: Vec<String>) {
        self.0.insert(name, values);
    }
}
