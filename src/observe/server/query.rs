//! What a request asks for, checked; pure, so that it can be fuzzed.
//!
//! What holds: a request that passes has numbers in their ranges and whole ids; any other gets a sentence that names the
//! parameter, its value and what is expected.

use serde::Deserialize;

use super::error::ApiError;
use tickhound_core::event::EntryId;

const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The longest span on one side of an alert, seconds: a day.
const SPAN_MAX_S: u64 = 86_400;

const SPAN_DEFAULT_S: u64 = 300;

/// The parameters of `/api/alerts`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertsQuery {
    pub(super) detector: Option<String>,
    pub(super) symbol: Option<String>,
    pub(super) min_confidence: Option<f64>,
    pub(super) stale: Option<bool>,
    pub(super) limit: Option<usize>,
    pub(super) before: Option<String>,
}

/// The parameters of `/api/alert`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlertQuery {
    pub(super) id: String,
}

impl AlertQuery {
    /// The entry that caused the alert, with whose id the alert's id begins.
    ///
    /// # Errors
    /// When the text is not an id.
    pub(super) fn entry(&self) -> Result<EntryId, ApiError> {
        let entry = self.id.split_once('/').map(|(entry, _)| entry_id("id", entry));
        entry.and_then(Result::ok).ok_or_else(|| {
            let id = &self.id;
            ApiError::bad_request(format!("id is `{id}`, expected that of an alert such as 1762140000000-0/breakout/0"))
        })
    }
}

/// The parameters of `/api/chart`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChartQuery {
    pub(super) entry: String,
    pub(super) symbol: String,
    pub(super) before_s: Option<u64>,
    pub(super) after_s: Option<u64>,
}

/// The entries that a chart is about.
#[derive(Debug)]
pub(super) struct ChartSpan {
    pub(super) first: EntryId,
    /// The entry of the alert.
    pub(super) entry: EntryId,
    pub(super) last: EntryId,
}

impl ChartQuery {
    /// The entries around the alert.
    ///
    /// # Errors
    /// When the text of the id is not one, or a span is too long.
    pub(super) fn span(&self) -> Result<ChartSpan, ApiError> {
        let entry = entry_id("entry", &self.entry)?;
        let span_ms = |name, seconds: Option<u64>| match seconds.unwrap_or(SPAN_DEFAULT_S) {
            wrong if wrong > SPAN_MAX_S => {
                Err(ApiError::bad_request(format!("{name} is {wrong}, expected 0 to {SPAN_MAX_S} seconds")))
            }
            seconds => Ok(seconds * 1000),
        };
        let first = entry.millis.saturating_sub(span_ms("before_s", self.before_s)?);
        let last = entry.millis.saturating_add(span_ms("after_s", self.after_s)?);
        Ok(ChartSpan { first: EntryId { millis: first, seq: 0 }, entry, last: EntryId { millis: last, seq: u64::MAX } })
    }
}

/// The parameters of `/api/near`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NearQuery {
    pub(super) detector: String,
    pub(super) limit: Option<usize>,
}

/// The states of `/api/near` by default: those that fit beside each other on a page.
const NEAR_DEFAULT: usize = 20;

/// The most states that a response may have.
///
/// # Errors
/// When the number is out of range.
pub(super) fn near_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(NEAR_DEFAULT) {
        limit if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        limit => Err(ApiError::bad_request(format!("limit is {limit}, expected 1 to {LIMIT_MAX}"))),
    }
}

/// The most alerts that a response may have.
///
/// # Errors
/// When the number is out of range.
pub(super) fn alerts_limit(limit: Option<usize>) -> Result<usize, ApiError> {
    match limit.unwrap_or(LIMIT_DEFAULT) {
        limit if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        limit => Err(ApiError::bad_request(format!("limit is {limit}, expected 1 to {LIMIT_MAX}"))),
    }
}

/// The lowest confidence that is wanted, if there is one.
///
/// # Errors
/// When the number is out of range.
pub(super) fn confidence(min_confidence: Option<f64>) -> Result<Option<f64>, ApiError> {
    match min_confidence.filter(|least| !(0.0..=1.0).contains(least)) {
        Some(wrong) => Err(ApiError::bad_request(format!("min_confidence is {wrong}, expected 0 to 1"))),
        None => Ok(min_confidence),
    }
}

/// The id of an entry, in the form that the API's description has.
///
/// # Errors
/// When the text is not an id.
pub(super) fn entry_id(name: &str, text: &str) -> Result<EntryId, ApiError> {
    // This is the pattern of the OpenAPI description. Numbers of twenty digits may not fit.
    let digits = |part: &str| (1..=19).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    let id = text.parse().ok().filter(|_| text.splitn(2, '-').all(digits));
    id.ok_or_else(|| {
        ApiError::bad_request(format!("{name} is `{text}`, expected the id of an entry such as 1762140000000-0"))
    })
}
