//! What the operations on a session tell, and what they may not do after one that was cut off.

use std::marker::PhantomData;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use farrier_connection::{ErrorClass, Poisoned, StatementTimedOut};
use futures_core::Stream;
use sqlx::Error;
use tokio::time::{Sleep, sleep, timeout};

use crate::engine::Engine;

/// What the operations told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watch {
    pub(crate) left: Left,
    /// One failed because the link is broken.
    pub(crate) dead: bool,
    /// One failed as it does on a server that is not the one to write to, or in a transaction that was
    /// begun like that.
    pub(crate) read_only: bool,
    /// One failed because of what was prepared before a table was altered.
    pub(crate) outdated: bool,
    /// The last one took longer than the limit.
    pub(crate) timed_out: bool,
    /// What sqlx counts as a transaction is not what the database does.
    pub(crate) lost: bool,
    /// The server failed one, which may abort the transaction.
    pub(crate) failed: bool,
    /// How many transactions and savepoints are open.
    pub(crate) depth: usize,
    /// The statement's text says that an error may end the transaction.
    pub(crate) may_roll_back: bool,
    /// How long a handler's may take.
    pub(crate) limit: Option<Duration>,
}

/// What the last operation left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Left {
    /// It completed. Exit: to `Operation` when one starts.
    #[default]
    Nothing,
    /// It runs, or was dropped before it gave anything. Exits: to `Rows` and `Nothing`.
    Operation,
    /// Its rows are being read, or were dropped before their end. Exit: to `Nothing`.
    Rows,
}

/// The rows of an operation, noting how far it came.
pub(crate) struct Watched<'e, DB, S> {
    /// `None` when it is over before its end.
    rows: Option<S>,
    /// Why it is not run at all.
    refused: Option<Error>,
    /// Whether it was asked for rows.
    begun: bool,
    watch: &'e mut Watch,
    /// For the next row, where there is a limit.
    wait: Option<Pin<Box<Sleep>>>,
    engine: PhantomData<fn() -> DB>,
}

impl Watch {
    /// Runs an operation of a handler's, for no longer than the limit.
    pub(crate) async fn limited<DB: Engine, T>(
        &mut self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.refuse()?;
        let Some(limit) = self.limit else { return self.over::<DB, T>(operation).await };
        match timeout(limit, self.over::<DB, T>(operation)).await {
            Ok(result) => result,
            Err(_) => Err(self.time_out(limit)),
        }
    }

    /// Runs an operation, noting how far it came.
    pub(crate) async fn over<DB: Engine, T>(
        &mut self,
        operation: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.left = Left::Operation;
        let result = operation.await;
        self.left = Left::Nothing;
        if let Err(error) = &result {
            self.note::<DB>(error);
        }
        result
    }

    /// The check before every operation of a handler's: after one that was cut off the next would wait for
    /// it, and take its error for an own one.
    fn refuse(&self) -> Result<(), Error> {
        match self.limit {
            Some(limit) if self.timed_out => Err(timed_out(limit)),
            _ if self.lost || self.left == Left::Operation => Err(poisoned()),
            _ => Ok(()),
        }
    }

    fn time_out(&mut self, limit: Duration) -> Error {
        self.timed_out = true;
        timed_out(limit)
    }

    fn note<DB: Engine>(&mut self, error: &Error) {
        let failed = error.as_database_error().is_some();
        self.failed |= failed;
        self.lost |= self.depth > 0 && failed && (self.may_roll_back || DB::rolls_back(error));
        match DB::classify(error) {
            ErrorClass::Fatal => self.dead = true,
            ErrorClass::Failover => self.read_only = true,
            _ => self.outdated |= DB::outdates_statements(error),
        }
    }
}

/// Whether `word`, which is in lower case, stands somewhere in `sql`.
pub(crate) fn contains_ignoring_case(sql: &str, word: &str) -> bool {
    let words = sql.as_bytes().windows(word.len());
    words.into_iter().any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

fn poisoned() -> Error {
    Error::AnyDriverError(Box::new(Poisoned::new()))
}

fn timed_out(limit: Duration) -> Error {
    Error::AnyDriverError(Box::new(StatementTimedOut::new(limit)))
}

impl<'e, DB, S> Watched<'e, DB, S> {
    /// The rows, or in their place why they are not asked for.
    pub(crate) fn new(rows: S, refused: Option<Error>, watch: &'e mut Watch) -> Self {
        Self { rows: Some(rows), refused, begun: false, watch, wait: None, engine: PhantomData }
    }
}

impl<DB, S, T> Stream for Watched<'_, DB, S>
where
    DB: Engine,
    S: Stream<Item = Result<T, Error>> + Unpin,
{
    type Item = Result<T, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { rows, refused, begun, watch, wait, .. } = &mut *self;
        let Some(stream) = rows else { return Poll::Ready(None) };
        if !mem::replace(begun, true) {
            if let Some(error) = refused.take().or_else(|| watch.refuse().err()) {
                *rows = None;
                return Poll::Ready(Some(Err(error)));
            }
            watch.left = Left::Operation;
        }
        let item = match (Pin::new(stream).poll_next(cx), watch.limit) {
            (Poll::Pending, Some(limit)) => {
                ready!(wait.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx));
                // Not rows that were dropped: one that runs.
                watch.left = Left::Operation;
                *rows = None;
                return Poll::Ready(Some(Err(watch.time_out(limit))));
            }
            (item, _) => ready!(item),
        };
        *wait = None;
        watch.left = match &item {
            Some(Ok(_)) => Left::Rows,
            Some(Err(_)) | None => Left::Nothing,
        };
        if let Some(Err(error)) = &item {
            watch.note::<DB>(error);
        }
        Poll::Ready(item)
    }
}
