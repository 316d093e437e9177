//! A table that is loaded before the fork, and a route that reads it.

use std::fs;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use clap::ValueEnum;
use farrier::prelude::BoxError;
use farrier::shared::Counter;
use nix::sys::signal::SigSet;
use serde_json::json;

use crate::before::{self, Before};

/// How often this process has loaded.
static LOADS: AtomicU64 = AtomicU64::new(0);

/// What is preloaded.
pub(crate) struct Table {
    numbers: Vec<u64>,
    loaded_by: u32,
    generation: u64,
    /// What its drop leaves behind.
    drops: Option<Before>,
}

/// How it is loaded.
#[derive(Clone, Debug)]
pub(crate) struct Preload {
    pub(crate) mb: usize,
    /// A file that says, while it is there, what goes wrong: fail, panic, hang, slow, unblock (all signals), or what is
    /// left behind; after `drop-` by the drop of the table, after `master-` in the launcher's own process only.
    pub(crate) file: Option<PathBuf>,
    /// The launcher's process.
    pub(crate) master: u32,
}

impl Preload {
    #[expect(
        clippy::disallowed_methods,
        reason = "a preload that holds its process up is provoked"
    )]
    pub(crate) fn load(&self) -> Result<Table, BoxError> {
        let said = self.file.as_ref().and_then(|file| fs::read_to_string(file).ok());
        let said = said.as_deref().unwrap_or_default().trim();
        let here = said.strip_prefix("master-").filter(|_| process::id() == self.master);
        let said = here.or(Some(said).filter(|said| !said.starts_with("master-")));
        let mut drops = None;
        match said.filter(|said| !said.is_empty()) {
            None => {}
            Some("unblock") => SigSet::all().thread_unblock()?,
            Some("fail") => return Err("LAB_PRELOAD_FILE said so".into()),
            Some("panic") => panic!("LAB_PRELOAD_FILE said so"),
            Some("hang") => loop {
                std::thread::park();
            },
            Some("slow") => std::thread::sleep(Duration::from_millis(700)),
            Some(what) if what.starts_with("drop-") => {
                drops = Some(Before::from_str(&what["drop-".len()..], true)?);
            }
            Some(what) => {
                Box::leak(before::open(Before::from_str(what, true)?)?);
            }
        }
        // One that a reload finds again.
        Counter::named("preloads, dry runs too")?.add(1);
        let length = (self.mb << 20) / size_of::<u64>();
        Ok(Table {
            numbers: (0..length as u64).collect(),
            loaded_by: process::id(),
            generation: LOADS.fetch_add(1, Ordering::Relaxed) + 1,
            drops,
        })
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Some(Ok(open)) = self.drops.map(before::open) {
            Box::leak(open);
        }
    }
}

/// `/preload` answers who serves, who has loaded, for the how many-th time, and the sum of the table.
pub(crate) fn routes(table: &'static Table) -> Router {
    let answer = async || {
        Json(json!({
            "worker": process::id(),
            "loaded_by": table.loaded_by,
            "generation": table.generation,
            "loads": Counter::named("preloads, dry runs too").map(|loads| loads.get()).ok(),
            "sum": table.numbers.iter().sum::<u64>(),
        }))
    };
    Router::new().route("/preload", get(answer))
}
