//! Errors of the API: what is wrong with a request, or why the host can't answer it now.

use axum::{
    Json,
    extract::{FromRequestParts, Query, rejection::QueryRejection},
    http::{StatusCode, Uri, request::Parts},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::shares::Exhausted;

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

    /// All permits for what the plural noun `things` says are in use.
    pub(super) fn exhausted(things: &str, limit: Exhausted) -> Self {
        Self::unavailable(match limit {
            Exhausted::ByAll(most) => format!("there are more than {most} concurrent {things}; try again later"),
            Exhausted::ByAddress(most) => format!(
                "there are more than {most} concurrent {things} from this address; try again later, or set \
                 server.connections_per_address = 0 if it is that of a proxy"
            ),
        })
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

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parse(&parts.uri).map(Self)
    }
}

/// Reads the parameters of a request.
fn parse<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(params)) => Ok(params),
        Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
            let text = error.body_text();
            let why = text.split_once("query string: ").map_or(text.as_str(), |(_, why)| why);
            Err(ApiError::bad_request(explain(why)))
        }
        Err(other) => Err(ApiError::bad_request(other.body_text())),
    }
}

/// Puts serde's words, which are those of a document and follow the name of the field, into those of a request.
fn explain(why: &str) -> String {
    if let Some((name, _)) = why.split_once(": unknown field") {
        let why = &why[name.len() + 2..];
        return why.replace("there are no fields", "this takes none").replacen(" field `", " parameter `", 1);
    }
    if let Some((_, repeated)) = why.split_once("duplicate field `") {
        let name = repeated.split('`').next().unwrap_or_default();
        return format!("parameter `{name}` is given more than once");
    }
    let named = why.split_once(": ").and_then(|(name, _)| Some((name, expected(name)?)));
    named.map_or_else(
        || why.replacen(" field `", " parameter `", 1),
        |(name, expected)| format!("{name}: expected {expected}"),
    )
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{
        super::{
            live::LiveQuery,
            query::{AlertsQuery, ChartQuery},
        },
        *,
    };

    /// The answer to a query that is wrong; `None` if it is accepted.
    fn rejection<T: DeserializeOwned>(query: &str) -> Option<ApiError> {
        let uri: Uri = format!("/api?{query}").parse().unwrap();
        parse::<T>(&uri).err()
    }

    #[test]
    fn each_wrong_query_is_explained() {
        let explained = |query| rejection::<AlertsQuery>(query).unwrap().error;
        assert_eq!(explained("limit=5&limit=6"), "parameter `limit` is given more than once");
        assert_eq!(explained("symbol=A&symbol=B"), "parameter `symbol` is given more than once");
        assert_eq!(explained("limit=18446744073709551616"), "limit: expected a whole number from 1 to 1000");
        assert_eq!(explained("limit=-1"), "limit: expected a whole number from 1 to 1000");
        assert_eq!(explained("min_confidence="), "min_confidence: expected a number from 0 to 1");
        assert!(explained("duplicate+field+%60x=1").starts_with("unknown parameter `duplicate field `x`, expected"));
        assert_eq!(rejection::<ChartQuery>("symbol=A").unwrap().error, "missing parameter `entry`");
        assert_eq!(rejection::<Nothing>("a").unwrap().error, "unknown parameter `a`, this takes none");
    }

    const KEYS: [&str; 8] = ["limit", "before", "entry", "symbol", "detector", "stale", "before_s", "min_confidence"];

    const VALUES: [&str; 10] =
        ["NaN", "inf", "-0", "1e999", "99999999999999999999", "true", "%00", "%ff%fe", "%E2%80%AE", "5"];

    /// What a URI may contain.
    const ANY: &str = "[!-~&&[^#<>\"{}^`|\\\\]]{0,20}";

    fn query() -> impl Strategy<Value = String> {
        let known = |texts: &[&'static str]| prop::sample::select(texts.to_vec()).prop_map(str::to_owned);
        let key = prop_oneof![4 => known(&KEYS), 1 => ANY];
        let value = prop_oneof![known(&VALUES), ANY, "[0-9]{1,22}(-[0-9]{1,22})?"];
        prop::collection::vec((key, value), 0..8)
            .prop_map(|pairs| pairs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("&"))
    }

    proptest! {
        #[test]
        fn any_query_is_accepted_or_explained(query in query()) {
            let rejections = [
                rejection::<AlertsQuery>(&query),
                rejection::<ChartQuery>(&query),
                rejection::<LiveQuery>(&query),
                rejection::<Nothing>(&query),
            ];
            for ApiError { status, error } in rejections.into_iter().flatten() {
                prop_assert_eq!(status, StatusCode::BAD_REQUEST);
                let is_sentence = !error.is_empty() && !error.contains("deserialize");
                prop_assert!(is_sentence && error.len() <= 3 * query.len() + 200, "{}", error);
            }
        }
    }
}
