//! The sources that settings come from.
//!
//! Later ones win: the defaults, what the program sets in code, the platform's `WEB_CONCURRENCY` and `PORT`,
//! `farrier.toml`, the environment, the command line.

use std::env;
use std::ffi::OsString;
use std::sync::Arc;

use super::error::SettingsError;
use super::file;
use super::given::Given;
use super::origin::{Origin, Raw};
use super::table::{KEYS, Key, Recipe, Settings};

/// The settings file that is read when no other is named, if it exists.
const DEFAULT_FILE: &str = "farrier.toml";

impl Settings {
    /// Reads the sources again; settings that were set only in code come back as they are.
    ///
    /// # Errors
    ///
    /// The first wrong setting; `self` is as before.
    pub(crate) fn reread(&self) -> Result<Self, SettingsError> {
        match &self.recipe {
            Some(recipe) => Self::resolved(recipe.base.clone(), &recipe.given, process_variable),
            None => Ok(self.clone()),
        }
    }

    /// Looks at what the program set in code, past every other check: it is what the other sources could
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

    /// The sources over `base`; `variable` reads the environment.
    pub(super) fn resolved(
        base: Self,
        given: &Given,
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
        let recipe = Recipe { base: base.clone(), given: given.clone() };
        let mut settings = base;

        settings.conventions(&variable)?;
        let file = if let Some(path) = given.config() {
            file::read(path.as_ref(), Some(Origin::Flag("config")))?
        } else if let Some(path) = variable("FARRIER_CONFIG")? {
            file::read(path.as_ref(), Some(Origin::Variable("FARRIER_CONFIG".into())))?
        } else {
            file::read(DEFAULT_FILE.as_ref(), None)?
        };
        for (name, raw) in file {
            let key = KEYS.iter().find(|key| key.name == name);
            let key = key.ok_or_else(|| unknown_key(&name, raw.origin.clone()))?;
            settings.set(key, raw)?;
        }
        for key in KEYS {
            let name = key.variable();
            if let Some(value) = variable(&name)? {
                settings.set(key, Raw::split(key, &value, Origin::Variable(name)))?;
            }
            if let Some(values) = given.values(key.name) {
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
        if fits {
            return Ok(());
        }
        let (key, allowed) = (key.name, key.allowed);
        Err(SettingsError::Invalid {
            key,
            value: raw.values.join(", "),
            allowed,
            origin: raw.origin,
        })
    }
}

impl Raw {
    fn split(key: &Key, value: &str, origin: Origin) -> Self {
        Self { values: key.split(value), origin }
    }
}

fn unknown_key(name: &str, origin: Origin) -> SettingsError {
    let allowed: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    SettingsError::UnknownKey { key: name.to_owned(), allowed: allowed.join(", "), origin }
}

/// The process's own environment.
pub(super) fn process_variable(name: &str) -> Option<OsString> {
    env::var_os(name)
}
