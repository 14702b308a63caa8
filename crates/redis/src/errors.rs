//! What errors of the server and of a connection mean, in a user's words.

use redis::{ErrorKind, RedisError};

use crate::resp::UnexpectedReply;
use tickhound_core::stream::StreamError;

/// Says that no reply arrived within the time allowed.
pub(crate) const NO_REPLY: &str = "no answer in time (stream.timeout_ms)";

/// Describes an error of the client crate, with its cure where one is known.
pub(crate) fn explain(error: &RedisError) -> String {
    // An error of a pipeline holds one error for each command that failed; the first is the cause.
    let first = error.clone().into_server_errors();
    let first = first.and_then(|errors| errors.first().map(|(_, error)| RedisError::from(error.clone())));
    let error = first.as_ref().unwrap_or(error);
    if error.is_connection_refusal() {
        return "connection refused: is redis-server running at that address?".into();
    }
    if error.is_timeout() {
        return NO_REPLY.into();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "the server rejects the user or password in stream.url".into();
    }
    error.code().and_then(explain_code).map_or_else(|| error.to_string(), str::to_owned)
}

/// Turns an error of the client crate into one of the stream.
pub(crate) fn unavailable(error: RedisError) -> StreamError {
    StreamError::Unavailable(explain(&error))
}

/// Turns an error reply, as it was received, into one of the stream.
pub(crate) fn error_reply(error: &[u8]) -> StreamError {
    let text = String::from_utf8_lossy(error);
    let code = text.split(' ').next().unwrap_or_default();
    StreamError::Unavailable(explain_code(code).map_or_else(|| text.to_string(), str::to_owned))
}

impl From<UnexpectedReply> for StreamError {
    fn from(error: UnexpectedReply) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Explains an error of the server by its code, which is its first word.
fn explain_code(code: &str) -> Option<&'static str> {
    Some(match code {
        "NOAUTH" => "the server requires a password: put it in stream.url, or in TICKHOUND_STREAM__URL",
        "WRONGPASS" => "the server rejects the user or password in stream.url",
        "LOADING" => "the server is still loading its data",
        "READONLY" => "the server has become a replica",
        "OOM" => "the server's memory is full (maxmemory): free some, or raise the limit",
        _ => return None,
    })
}
