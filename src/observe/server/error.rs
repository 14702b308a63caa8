//! Errors of the API: what is wrong with a request, or why the host can't answer it now.

use axum::{
    Json,
    extract::{FromRequestParts, Query, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;

#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    pub(super) error: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    pub(super) fn unavailable(error: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is nothing at this path; /api/openapi.json lists all paths")
    }
}

impl From<anyhow::Error> for ApiError {
    /// Makes the error of a request that Redis did not answer.
    fn from(error: anyhow::Error) -> Self {
        Self::unavailable(format!("{error:#}"))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}

/// The parameters of a request. A parameter that `T` does not have is an error.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                let text = error.body_text();
                let why = text.rsplit_once("query string: ").map_or(text.as_str(), |(_, why)| why);
                // Serde's words are those of a document, and follow the name of the field.
                let why = why.split_once(": unknown field").map_or(why, |(name, _)| &why[name.len() + 2..]);
                let why = why.replace("there are no fields", "this takes none").replace(" field `", " parameter `");
                let named = why.split_once(": ").and_then(|(name, _)| Some((name, expected(name)?)));
                let error = named.map(|(name, expected)| format!("{name}: expected {expected}"));
                Err(ApiError::bad_request(error.unwrap_or(why)))
            }
            Err(other) => Err(ApiError::bad_request(other.body_text())),
        }
    }
}

/// Returns which values a parameter may have, unless it may be any text.
fn expected(name: &str) -> Option<&'static str> {
    Some(match name {
        "limit" => "a whole number from 1 to 1000",
        "before_s" | "after_s" => "whole seconds from 0 to 86400",
        "min_confidence" => "a number from 0 to 1",
        "stale" => "true or false",
        _ => return None,
    })
}

/// The parameters of a path that takes no parameters.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}
