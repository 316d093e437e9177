//! The pages and the JSON of the guestbook.

use askama::Template;
use axum::Json;
use axum::extract::rejection::{FormRejection, JsonRejection};
use axum::extract::{Form, FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use farrier::connection::{AcquireError, Database};
use serde::Deserialize;
use serde_json::json;

use crate::entry::{Entry, LIMITS, Limits, NewEntry, Refused};
use crate::store::Store;

/// `GET /`: the entries and the form.
pub(crate) async fn index<S: Store>(db: Database<S>) -> Result<Response, Failure<S>> {
    page(&db, &Fields::default(), None).await
}

/// `GET /entries`: the newest entries as JSON.
pub(crate) async fn entries<S: Store>(db: Database<S>) -> Result<Json<Vec<Entry>>, Failure<S>> {
    Ok(Json(newest(&db).await?))
}

/// `POST /entries`: a browser is sent back to the page, a program gets the entry.
pub(crate) async fn sign<S: Store>(
    db: Database<S>,
    submitted: Submitted,
) -> Result<Response, Failure<S>> {
    let Submitted { fields, form } = submitted;
    match NewEntry::parse(&fields.author, &fields.message) {
        Ok(entry) => {
            let entry = S::add(&mut *db.get().await?, entry).await.map_err(Failure::Database)?;
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
    db: &Database<S>,
    fields: &Fields,
    error: Option<Refused>,
) -> Result<Response, Failure<S>> {
    let page = Page {
        entries: newest(db).await?,
        author: &fields.author,
        message: &fields.message,
        error,
        limits: LIMITS,
    };
    Ok(Html(page.render().map_err(Failure::Page)?).into_response())
}

async fn newest<S: Store>(db: &Database<S>) -> Result<Vec<Entry>, Failure<S>> {
    S::newest(&mut *db.get().await?).await.map_err(Failure::Database)
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
        if is_json(request.headers()) {
            let Json(fields) = Json::from_request(request, state)
                .await
                .map_err(|rejection: JsonRejection| refuse(rejection.status(), &rejection))?;
            Ok(Self { fields, form: false })
        } else {
            let Form(fields) = Form::from_request(request, state)
                .await
                .map_err(|rejection: FormRejection| refuse(rejection.status(), &rejection))?;
            Ok(Self { fields, form: true })
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn refuse(status: StatusCode, why: &dyn std::fmt::Display) -> Response {
    (status, Json(json!({ "error": why.to_string() }))).into_response()
}

/// A request that could not be served; the client is never shown a driver's words.
pub(crate) enum Failure<S: Store> {
    Acquire(AcquireError),
    Database(S::Error),
    Page(askama::Error),
}

impl<S: Store> From<AcquireError> for Failure<S> {
    fn from(error: AcquireError) -> Self {
        Self::Acquire(error)
    }
}

impl<S: Store> IntoResponse for Failure<S> {
    fn into_response(self) -> Response {
        match self {
            Self::Acquire(error) => return error.into_response(),
            Self::Database(error) => tracing::error!(%error, "a statement failed"),
            Self::Page(error) => tracing::error!(%error, "the page could not be rendered"),
        }
        (StatusCode::INTERNAL_SERVER_ERROR, "internal server error").into_response()
    }
}
