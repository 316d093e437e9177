//! The pages and the JSON of the guestbook.

use std::fmt::Display;

use askama::Template;
use axum::body::HttpBody;
use axum::extract::rejection::{FormRejection, JsonRejection};
use axum::extract::{Form, FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Extension, Json};
use farrier::connection::{AcquireError, Db, ErrorClass};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::entry::{Entry, LIMITS, Limits, NewEntry, Refused};
use crate::store::Store;
use crate::writers::{NotStored, Writers};

/// Every entry within its limits is shorter than that, in bytes, however it is written.
pub(crate) const MAX_BODY: usize = 64 * 1024;

/// `GET /`: the entries and the form.
pub(crate) async fn index<S: Store>(db: Db<S>) -> Result<Response, Failure> {
    page(&db, &Fields::default(), None).await
}

/// `GET /entries`: the newest entries as JSON.
pub(crate) async fn entries<S: Store>(db: Db<S>) -> Result<Json<Vec<Entry>>, Failure> {
    Ok(Json(newest(&db).await?))
}

/// `POST /entries`: a browser is sent back to the page, a program gets the entry.
pub(crate) async fn sign<S: Store>(
    db: Db<S>,
    Extension(writers): Extension<Writers>,
    submitted: Submitted,
) -> Result<Response, Failure> {
    let Submitted { fields, form } = submitted;
    match NewEntry::parse(&fields.author, &fields.message) {
        Ok(entry) => {
            let entry = writers.add(&db, &entry).await.map_err(|why| match why {
                NotStored::Acquire(error) => error.into(),
                NotStored::Failed(error) => Failure::of(&db, &error),
                NotStored::TooLate => {
                    tracing::warn!("an entry was not stored: others held the database");
                    Failure::Busy
                }
            })?;
            Ok(if form {
                Redirect::to("/").into_response()
            } else {
                (StatusCode::CREATED, Json(entry)).into_response()
            })
        }
        Err(refused) if form => {
            let page = page(&db, &fields, Some(refused)).await?;
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response())
        }
        Err(refused) => {
            let error = json!({ "error": refused.to_string() });
            Ok((StatusCode::UNPROCESSABLE_ENTITY, Json(error)).into_response())
        }
    }
}

/// Everything else: a page with the way back.
pub(crate) async fn not_found() -> Result<Response, Failure> {
    let page = NotFound.render().map_err(Failure::Page)?;
    Ok((StatusCode::NOT_FOUND, Html(page)).into_response())
}

#[derive(Template)]
#[template(path = "not_found.html")]
struct NotFound;

#[derive(Template)]
#[template(path = "index.html")]
struct Page<'a> {
    entries: Vec<Entry>,
    author: &'a str,
    message: &'a str,
    error: Option<Refused>,
    limits: Limits,
}

async fn page<S: Store>(
    db: &Db<S>,
    fields: &Fields,
    error: Option<Refused>,
) -> Result<Response, Failure> {
    let page = Page {
        entries: newest(db).await?,
        author: &fields.author,
        message: &fields.message,
        error,
        limits: LIMITS,
    };
    Ok(Html(page.render().map_err(Failure::Page)?).into_response())
}

async fn newest<S: Store>(db: &Db<S>) -> Result<Vec<Entry>, Failure> {
    S::newest(&mut *db.get().await?).await.map_err(|error| Failure::of(db, &error))
}

/// The two fields; a missing one is empty, and refused for that.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    author: String,
    message: String,
}

/// What was posted, and whether by a browser's form.
#[derive(Debug)]
pub(crate) struct Submitted {
    fields: Fields,
    form: bool,
}

impl<S: Send + Sync> FromRequest<S> for Submitted {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        // By its head, before the client is told to send it.
        let declared = request.body().size_hint().lower();
        if declared > MAX_BODY as u64 {
            let why = format!("the body must have at most {MAX_BODY} bytes, not {declared}");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, &why));
        }
        match media_type(request.headers()).as_deref() {
            Some("application/json") => {
                let body = Json::from_request(request, state).await;
                let Json(body) = body
                    .map_err(|rejection: JsonRejection| refuse(rejection.status(), &rejection))?;
                let fields = Fields::of_json(&body)
                    .map_err(|why| refuse(StatusCode::UNPROCESSABLE_ENTITY, &why))?;
                Ok(Self { fields, form: false })
            }
            Some("application/x-www-form-urlencoded") => {
                let body = Form::from_request(request, state).await;
                let Form(fields) = body
                    .map_err(|rejection: FormRejection| refuse(rejection.status(), &rejection))?;
                Ok(Self { fields, form: true })
            }
            _ => Err(refuse(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                &"the content type must be application/x-www-form-urlencoded or application/json",
            )),
        }
    }
}

impl Fields {
    fn of_json(body: &Value) -> Result<Self, &'static str> {
        let fields =
            body.as_object().ok_or("the body must be an object with author and message")?;
        let text = |name| match fields.get(name) {
            None => Some(String::new()),
            Some(value) => value.as_str().map(str::to_owned),
        };
        Ok(Self {
            author: text("author").ok_or("author must be a string")?,
            message: text("message").ok_or("message must be a string")?,
        })
    }
}

/// The content type without its parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next()?.trim().to_ascii_lowercase())
}

fn refuse(status: StatusCode, why: &dyn Display) -> Response {
    (status, Json(json!({ "error": why.to_string() }))).into_response()
}

/// A request that could not be served; the client is never shown a driver's words.
pub(crate) enum Failure {
    Acquire(AcquireError),
    /// A statement failed, and may succeed when it is sent again.
    Busy,
    /// A statement failed.
    Database,
    Page(askama::Error),
}

impl Failure {
    fn of<S: Store>(db: &Db<S>, error: &S::Error) -> Self {
        tracing::error!(%error, "a statement failed");
        match db.pool().backend().classify(error) {
            ErrorClass::Busy | ErrorClass::Fatal | ErrorClass::Failover => Self::Busy,
            _ => Self::Database,
        }
    }
}

impl From<AcquireError> for Failure {
    fn from(error: AcquireError) -> Self {
        Self::Acquire(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Acquire(error) => error.into_response(),
            Self::Busy => {
                let retry = [(header::RETRY_AFTER, "1")];
                (StatusCode::SERVICE_UNAVAILABLE, retry, "try again").into_response()
            }
            Self::Database => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            Self::Page(error) => {
                tracing::error!(%error, "the page could not be rendered");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}
