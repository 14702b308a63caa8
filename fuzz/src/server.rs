//! What a client asks the server, read by the program's own files, without its state and Redis.

#[path = "../../src/observe/server/error.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod error;
#[path = "../../src/observe/server/query.rs"]
#[allow(dead_code, reason = "what only Redis is asked for is not looked at here")]
mod query;

/// What the errors say of clients that hold all permits, which has nothing to do with what they ask for.
mod shares {
    #[allow(dead_code, reason = "no client holds a permit here")]
    pub(super) enum Exhausted {
        ByAddress(usize),
        ByAll(usize),
    }
}

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use axum::{
    extract::FromRequestParts,
    http::{Request, StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use tickhound_core::event::EntryId;

use self::{
    error::{ApiError, Params},
    query::{AlertQuery, AlertsQuery, ChartQuery, ChartSpan, alerts_limit, confidence, entry_id},
};

/// The longest part of an error beside what the request itself says, bytes.
const ERROR_MAX: usize = 500;

/// Checks that any query is a request within the API's limits, or an error that is a bad request with a short sentence.
pub fn query(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let result = match choice % 4 {
        0 => alerts(text),
        1 => chart(text),
        3 => alert(text),
        _ => entry_id("before", text).map(|id| assert_same(text, id)),
    };
    if let Err(ApiError { status, error }) = result {
        assert_eq!(status, StatusCode::BAD_REQUEST, "{error}");
        // Each byte of the query may become three in a lossy text.
        assert!(!error.is_empty() && error.len() <= ERROR_MAX + 3 * text.len(), "{error}");
    }
}

fn alerts(text: &str) -> Result<(), ApiError> {
    let Some(query) = parse::<AlertsQuery>(text) else { return Ok(()) };
    let AlertsQuery { min_confidence, limit, before, detector: _, symbol: _, stale: _ } = query?;
    let least = confidence(min_confidence)?;
    assert!(least.is_none_or(|least| (0.0..=1.0).contains(&least)), "{least:?}");
    let limit = alerts_limit(limit)?;
    assert!((1..=1000).contains(&limit), "{limit}");
    if let Some(before) = before {
        assert_same(&before, entry_id("before", &before)?);
    }
    Ok(())
}

fn alert(text: &str) -> Result<(), ApiError> {
    let Some(query) = parse::<AlertQuery>(text) else { return Ok(()) };
    let query = query?;
    let entry = query.entry()?;
    let (written, _) = query.id.split_once('/').expect("an id has a separator behind its entry");
    assert_same(written, entry);
    Ok(())
}

fn chart(text: &str) -> Result<(), ApiError> {
    let Some(query) = parse::<ChartQuery>(text) else { return Ok(()) };
    let query = query?;
    let ChartSpan { first, entry, last } = query.span()?;
    assert!(first <= entry && entry <= last, "{first} {entry} {last}");
    assert!(entry.millis - first.millis <= 86_400_000 && last.millis - entry.millis <= 86_400_000);
    assert!(query.symbol.len() <= text.len() * 3);
    Ok(())
}

/// An id is accepted as it would be written, leading zeros and a sequence of 0 aside.
fn assert_same(text: &str, id: EntryId) {
    assert!(text.len() <= 39, "{text}");
    let numbers: Vec<u64> = text.split('-').map(|part| part.parse().expect("an id is of numbers")).collect();
    assert_eq!((numbers[0], numbers.get(1).copied().unwrap_or(0)), (id.millis, id.seq), "{text}");
}

/// The query as the server reads it; `None` if no request can carry it.
fn parse<T: DeserializeOwned>(query: &str) -> Option<Result<T, ApiError>> {
    let request = Request::builder().uri(format!("/api?{query}")).body(()).ok()?;
    let (mut parts, ()): (Parts, ()) = request.into_parts();
    let mut reading = pin!(Params::<T>::from_request_parts(&mut parts, &()));
    match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(Params(query))) => Some(Ok(query)),
        Poll::Ready(Err(error)) => Some(Err(error)),
        Poll::Pending => panic!("nothing is waited for"),
    }
}
