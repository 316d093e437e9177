//! Reloads: the settings are read again, and whoever asked hears how it went.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use nix::unistd;

use super::state::{DryRun, Generation, Master};
use super::words::Ending;
use crate::arbiter::{Event, Limits, Phase, Why};
use crate::control::{self, Control};
use crate::preload::{Life, Lives, PreloadError};
use crate::report::Report;
use crate::settings::Settings;

impl<'a> Master<'a> {
    /// Answers [`Action::Reread`](crate::arbiter::Action::Reread).
    pub(super) fn reload_is_tried(&mut self) -> Event {
        self.answer_reloads(|control, _| control.reload_is_tried());
        let settings = match self.read_settings() {
            Ok(settings) => settings,
            Err(error) => return self.reload_is_refused(&error),
        };
        if let Lives::Same(life) = &self.lives {
            let life = life.clone();
            return self.reload_begins(settings, life);
        }
        self.fork_dry_run(settings).unwrap_or_else(|error| self.reload_is_refused(&error))
    }

    /// The settings as they are now, as far as a reload can change them.
    fn read_settings(&self) -> Result<Settings, Box<dyn std::error::Error>> {
        let current = self.generations.get(&self.arbiter.generation());
        let current = &current.ok_or("the current settings are void")?.settings;
        let new = current.reread()?;
        let fixed = current.fixed_until_restart(&new);
        if !fixed.is_empty() {
            tracing::warn!("changed, but only a restart makes it so: {}", fixed.join(", "));
        }
        Ok(new)
    }

    /// The dry run is over; returns whether it has succeeded.
    pub(super) fn dry_run_ended(&mut self, ending: Ending) -> bool {
        let Some(DryRun { report, is_late, .. }) = &self.dry_run else { return false };
        let mut said = [0; Report::LONGEST];
        let length = unistd::read(report, &mut said).unwrap_or(0);
        let why = match Report::first(&said[..length]) {
            Some((Report::Ready, _)) => return true,
            Some((Report::Failure(why), _)) => why,
            _ if *is_late => Why::NotPreloaded.to_string(),
            _ => format!("the preload has ended its process: {ending}"),
        };
        self.dry_run = None;
        // If the server stops there is nobody left to be told.
        if self.arbiter.phase() == Phase::Running {
            self.reload_is_refused(&why);
        }
        false
    }

    /// Answers [`Action::Preload`](crate::arbiter::Action::Preload).
    pub(super) fn preload(&mut self) -> Event {
        let Some(DryRun { settings, .. }) = self.dry_run.take() else {
            return Event::Reread(None);
        };
        let began = Instant::now();
        let loaded = self.lives.load(&self.known());
        // It may have changed what the master hears.
        if let Some(Err(error)) = self.own.as_ref().map(|own| own.signals.take_again()) {
            tracing::error!(%error, "the signals' mask could not be set again");
        }
        let deaf = format!(
            "in {:.1} s, for which the master heard nothing",
            began.elapsed().as_secs_f64()
        );
        match loaded {
            Ok(life) => {
                tracing::info!("preloaded {deaf}");
                self.reload_begins(settings, life)
            }
            Err(error @ PreloadError::LeftBehind(_)) => self.reload_is_refused(&format!(
                "{error}; in the master itself, {deaf}, so that no process can be forked before a restart"
            )),
            Err(error) => self.reload_is_refused(&format!("{error}; in the master itself, {deaf}")),
        }
    }

    fn reload_begins(&mut self, settings: Settings, life: Life<'a>) -> Event {
        let former = "the reload did not come to an end: its workers fail, and the next one began";
        self.answer_reloads(|control, now| {
            control.reload_ends(&control::refusal(former), now);
            control.reload_begins();
        });
        tracing::info!("reloading");
        self.hooks.call("on_reload", |hooks| hooks.on_reload(&settings));
        let limits = Limits::of(&settings);
        self.reread = Some(Generation { settings: Arc::new(settings), life });
        Event::Reread(Some(limits))
    }

    /// Nothing is changed; the log and whoever has asked hear why.
    fn reload_is_refused(&mut self, why: &dyn fmt::Display) -> Event {
        let why = format!("nothing is reloaded: {why}");
        tracing::error!("{why}");
        let reply = control::refusal(&why);
        self.last_reload = Some(Err(why));
        self.answer_reloads(|control, now| control.reload_is_refused(&reply, now));
        Event::Reread(None)
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
