//! Reloads: the settings are read again, and whoever asked hears how it went.

use std::time::Instant;

use super::state::Master;
use crate::arbiter::Limits;
use crate::control::{self, Control};

impl Master<'_> {
    /// Answers [`Action::Reread`](crate::arbiter::Action::Reread).
    pub(super) fn reload_begins(&mut self) -> Option<Limits> {
        match self.read_settings() {
            Ok(limits) => {
                let former =
                    "the reload did not come to an end: its workers fail, and the next one began";
                self.answer_reloads(|control, now| {
                    control.reload_ends(&control::refusal(former), now);
                    control.reload_begins();
                });
                Some(limits)
            }
            Err(error) => {
                let why = format!("nothing is reloaded: {error}");
                tracing::error!("{why}");
                let reply = control::refusal(&why);
                self.last_reload = Some(Err(why));
                self.answer_reloads(|control, now| control.reload_is_refused(&reply, now));
                None
            }
        }
    }

    /// The settings as they are now, as far as a reload can change them.
    fn read_settings(&mut self) -> Result<Limits, Box<dyn std::error::Error>> {
        let current = self.generations.get(&self.arbiter.generation());
        let current = current.ok_or("the current settings are void")?;
        let new = current.reread()?;
        let fixed = current.fixed_until_restart(&new);
        if !fixed.is_empty() {
            tracing::warn!("changed, but only a restart makes it so: {}", fixed.join(", "));
        }
        tracing::info!("reloading");
        self.hooks.call("on_reload", |hooks| hooks.on_reload(&new));
        let limits = Limits::of(&new);
        self.reread = Some(new);
        Ok(limits)
    }

    /// Whoever asked for the reload that is over hears how it went.
    pub(super) fn reload_ends(&mut self, how: Result<(), String>) {
        self.last_reload = Some(how.clone());
        let reply = match how {
            Ok(()) => control::line(true, self.status()),
            Err(why) => control::refusal(&why),
        };
        self.answer_reloads(|control, now| control.reload_ends(&reply, now));
    }

    pub(super) fn no_reload(&mut self, why: &str) {
        self.answer_reloads(|control, now| control.no_reload(&control::refusal(why), now));
    }

    fn answer_reloads(&mut self, answer: impl FnOnce(&mut Control, Instant)) {
        if let Some(control) = self.own.as_mut().and_then(|own| own.control.as_mut()) {
            answer(control, Instant::now());
        }
    }
}
