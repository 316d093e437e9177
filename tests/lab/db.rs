//! Routes that use the database, on MySQL and on SQLite.

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use farrier::connection::{AcquireError, Backend, Db, StatementTimedOut};
use farrier::mysql::MySql;
use farrier::sqlite::Sqlite;
use farrier::sqlx;
use serde::{Deserialize, Serialize};

/// Rows in table `world`.
const WORLD: u32 = 10_000;

pub(crate) fn routes<S: Store>() -> Router {
    Router::new()
        .route("/db", get(one::<S>))
        .route("/queries", get(many::<S>))
        .route("/db/session", get(session::<S>))
        .route("/db/sleep", get(sleep::<S>))
        .route("/db/entry", post(entry::<S>))
}

/// A database that the lab knows.
pub(crate) trait Store: Backend {
    /// Creates and fills the tables, unless they are there.
    fn create_schema(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// `None` if the table does not have the row that it should have.
    fn world(
        connection: &mut Self::Connection,
        id: u32,
    ) -> impl Future<Output = Result<Option<World>, Self::Error>> + Send;

    /// `None` where the database has no sessions.
    fn session(
        connection: &mut Self::Connection,
    ) -> impl Future<Output = Result<Option<u64>, Self::Error>> + Send;

    /// Keeps the database busy for `seconds`; `false` where it cannot.
    fn sleep(
        connection: &mut Self::Connection,
        seconds: f64,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    fn insert(
        connection: &mut Self::Connection,
        status: u16,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

#[derive(Debug, Serialize)]
pub(crate) struct World {
    id: u32,
    randomnumber: u32,
}

impl From<(u32, u32)> for World {
    fn from((id, randomnumber): (u32, u32)) -> Self {
        Self { id, randomnumber }
    }
}

async fn one<S: Store>(db: Db<S>) -> Result<Json<World>, Failure<S>> {
    Ok(Json(random_row::<S>(&mut *db.get().await?).await?))
}

async fn random_row<S: Store>(connection: &mut S::Connection) -> Result<World, Failure<S>> {
    let row = S::world(connection, fastrand::u32(1..=WORLD)).await.map_err(Failure::Database)?;
    row.ok_or(Failure::NoRow)
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Count {
    n: usize,
}

impl Default for Count {
    fn default() -> Self {
        Self { n: 1 }
    }
}

async fn many<S: Store>(
    db: Db<S>,
    Query(Count { n }): Query<Count>,
) -> Result<Json<Vec<World>>, Failure<S>> {
    let mut connection = db.get().await?;
    let mut rows = Vec::with_capacity(n.min(500));
    for _ in 0..n.clamp(1, 500) {
        rows.push(random_row::<S>(&mut connection).await?);
    }
    Ok(Json(rows))
}

async fn session<S: Store>(db: Db<S>) -> Result<Response, Failure<S>> {
    let session = S::session(&mut *db.get().await?).await.map_err(Failure::Database)?;
    Ok(match session {
        Some(id) => id.to_string().into_response(),
        None => StatusCode::NOT_IMPLEMENTED.into_response(),
    })
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Seconds {
    s: f64,
}

impl Default for Seconds {
    fn default() -> Self {
        Self { s: 1.0 }
    }
}

async fn sleep<S: Store>(
    db: Db<S>,
    Query(Seconds { s }): Query<Seconds>,
) -> Result<Response, Failure<S>> {
    let slept = S::sleep(&mut *db.get().await?, s).await.map_err(Failure::Database)?;
    Ok(if slept {
        format!("slept {s} s").into_response()
    } else {
        StatusCode::NOT_IMPLEMENTED.into_response()
    })
}

#[derive(Debug, Deserialize)]
#[serde(default)]
struct Answer {
    status: u16,
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: 201 }
    }
}

/// Inserts a row and answers with the status that was asked for, so that a test can see what is committed.
async fn entry<S: Store>(
    db: Db<S>,
    Query(Answer { status }): Query<Answer>,
) -> Result<Response, Failure<S>> {
    let Ok(answer) = StatusCode::from_u16(status) else {
        return Ok((StatusCode::BAD_REQUEST, "status must be 100 to 999").into_response());
    };
    S::insert(&mut *db.get().await?, status).await.map_err(Failure::Database)?;
    Ok(answer.into_response())
}

impl Store for MySql {
    async fn create_schema(connection: &mut Self::Connection) -> Result<(), Self::Error> {
        let world = "CREATE TABLE IF NOT EXISTS world (
            id INT UNSIGNED NOT NULL PRIMARY KEY,
            randomnumber INT UNSIGNED NOT NULL
        )";
        let entry = "CREATE TABLE IF NOT EXISTS entry (
            id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
            status SMALLINT UNSIGNED NOT NULL
        )";
        connection.query_drop(world).await?;
        connection.query_drop(entry).await?;
        let fill = fill("FLOOR(1 + RAND() * 10000)");
        connection.query_drop(format!("INSERT IGNORE INTO world {fill}")).await
    }

    async fn world(
        connection: &mut Self::Connection,
        id: u32,
    ) -> Result<Option<World>, Self::Error> {
        let sql = "SELECT id, randomnumber FROM world WHERE id = ?";
        let row: Option<(u32, u32)> = connection.exec_first(sql, (id,)).await?;
        Ok(row.map(World::from))
    }

    async fn session(connection: &mut Self::Connection) -> Result<Option<u64>, Self::Error> {
        connection.query_first("SELECT CONNECTION_ID()").await
    }

    async fn sleep(connection: &mut Self::Connection, seconds: f64) -> Result<bool, Self::Error> {
        connection.exec_drop("SELECT SLEEP(?)", (seconds,)).await?;
        Ok(true)
    }

    async fn insert(connection: &mut Self::Connection, status: u16) -> Result<(), Self::Error> {
        connection.exec_drop("INSERT INTO entry (status) VALUES (?)", (status,)).await
    }
}

impl Store for Sqlite {
    async fn create_schema(connection: &mut Self::Connection) -> Result<(), Self::Error> {
        let fill = fill("1 + ABS(RANDOM() % 10000)");
        for sql in [
            "CREATE TABLE IF NOT EXISTS world (id INTEGER PRIMARY KEY, randomnumber INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS entry (id INTEGER PRIMARY KEY, status INTEGER NOT NULL)",
            &format!("INSERT OR IGNORE INTO world {fill}"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await?;
        }
        Ok(())
    }

    async fn world(
        connection: &mut Self::Connection,
        id: u32,
    ) -> Result<Option<World>, Self::Error> {
        let row = sqlx::query_as("SELECT id, randomnumber FROM world WHERE id = ?")
            .bind(id)
            .fetch_optional(&mut *connection)
            .await?;
        Ok(row.map(|row: (u32, u32)| World::from(row)))
    }

    async fn session(_: &mut Self::Connection) -> Result<Option<u64>, Self::Error> {
        Ok(None)
    }

    async fn sleep(_: &mut Self::Connection, _: f64) -> Result<bool, Self::Error> {
        Ok(false)
    }

    async fn insert(connection: &mut Self::Connection, status: u16) -> Result<(), Self::Error> {
        sqlx::query("INSERT INTO entry (status) VALUES (?)")
            .bind(status)
            .execute(&mut *connection)
            .await?;
        Ok(())
    }
}

/// The 10,000 rows of `world` in SQL that both databases understand.
fn fill(random: &str) -> String {
    let digits = "SELECT 0 AS d UNION SELECT 1 UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
        UNION SELECT 5 UNION SELECT 6 UNION SELECT 7 UNION SELECT 8 UNION SELECT 9";
    format!(
        "SELECT a.d * 1000 + b.d * 100 + c.d * 10 + e.d + 1, {random} \
         FROM ({digits}) a, ({digits}) b, ({digits}) c, ({digits}) e"
    )
}

/// A request that could not be served.
pub(crate) enum Failure<S: Store> {
    Acquire(AcquireError),
    Database(S::Error),
    /// Table `world` lacks a row.
    NoRow,
}

impl<S: Store> From<AcquireError> for Failure<S> {
    fn from(error: AcquireError) -> Self {
        Self::Acquire(error)
    }
}

impl<S: Store> IntoResponse for Failure<S> {
    fn into_response(self) -> Response {
        match self {
            Self::Acquire(error) => error.into_response(),
            Self::Database(error) => {
                tracing::error!(%error, "a statement failed");
                match StatementTimedOut::find(&error) {
                    Some(_) => StatusCode::GATEWAY_TIMEOUT.into_response(),
                    None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                }
            }
            Self::NoRow => (StatusCode::INTERNAL_SERVER_ERROR, "no such row").into_response(),
        }
    }
}
