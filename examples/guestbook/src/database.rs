//! Which database keeps the guestbook, from one URL.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use farrier::mysql::MySql;
use farrier::prelude::*;
use farrier::sqlite::Sqlite;
use farrier::sqlx::sqlite::SqliteSynchronous;

use crate::store::Store;

const ALLOWED: &str = "sqlite:FILE or mysql://USER:PASSWORD@HOST:PORT/DATABASE";

const BUSY_TIMEOUT: Duration = Duration::from_millis(20);

/// The databases that the guestbook knows.
pub(crate) enum Database {
    Sqlite(Pool<Sqlite>),
    MySql(Pool<MySql>),
}

/// A database that cannot be used; its text is one line for the operator.
#[derive(Debug)]
pub(crate) struct Unusable {
    url: String,
    why: String,
    allowed: &'static str,
}

impl Database {
    /// The pool for the database at `url`; it opens nothing before its first use.
    pub(crate) fn at(url: &str) -> Result<Self, Unusable> {
        let unusable = |why: String| Unusable { url: masked(url), why, allowed: ALLOWED };
        match url.split_once(':') {
            // Each worker would have a guestbook of its own, and the preparing process one more.
            Some(("sqlite", rest)) if rest.is_empty() || rest.contains(":memory:") => Err(
                unusable("the workers share their database, so it must be in a file".to_owned()),
            ),
            Some(("sqlite", _)) => {
                let sqlite = Sqlite::new(url).map_err(|error| unusable(error.to_string()))?;
                let sqlite = sqlite.with_options(|options| {
                    // In WAL mode a commit that a power cut takes back harms nothing else.
                    let options = options.synchronous(SqliteSynchronous::Normal);
                    // SQLite waits for a lock in its own thread, where nobody can call it off; see `writers`.
                    options.busy_timeout(BUSY_TIMEOUT)
                });
                Ok(Self::Sqlite(pool(sqlite)))
            }
            Some(("mysql", _)) => {
                let mysql = MySql::new(url).map_err(|error| unusable(error.to_string()))?;
                Ok(Self::MySql(pool(mysql)))
            }
            _ => Err(unusable("there is no such database".to_owned())),
        }
    }
}

fn pool<S: Store>(store: S) -> Pool<S> {
    Pool::new(store, Policy::default().max_connections(S::CONNECTIONS))
}

/// Creates the table, once, in a process of its own, before there are workers that could race for it.
pub(crate) async fn prepare<S: Store>(pool: Pool<S>, url: String) -> Result<(), Unusable> {
    let unusable = |error: &dyn Error| Unusable {
        url: masked(&url),
        why: with_causes(error),
        allowed: "the URL of a database that can be reached and written",
    };
    let mut connection = pool.acquire_once().await.map_err(|error| unusable(&error))?;
    S::create_schema(&mut connection).await.map_err(|error| unusable(&error))?;
    drop(connection);
    pool.close().await;
    Ok(())
}

/// What an error says, down to its first cause.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The URL without its password: what is printed ends in logs.
fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    match rest.rsplit_once('@').and_then(|(user, host)| Some((user.split_once(':')?.0, host))) {
        Some((user, host)) => format!("{scheme}://{user}:***@{host}"),
        None => url.to_owned(),
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, why, allowed } = self;
        write!(
            f,
            "database_url = {url:?} (--database-url or DATABASE_URL): {why}; allowed is {allowed}"
        )
    }
}

impl Error for Unusable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        assert_eq!(masked("mysql://ann:p@ss:word@db/guests"), "mysql://ann:***@db/guests");
        assert_eq!(masked("mysql://ann@db/guests"), "mysql://ann@db/guests");
        assert_eq!(masked("sqlite:guests.db"), "sqlite:guests.db");
    }
}
