//! Alerts as a stream keeps them, for reports.

use std::{collections::HashMap, time::Duration};

use anyhow::{Result, anyhow};
use redis::cmd;
use serde::Serialize;

use super::{client, connect, explain};
use crate::config::StreamConfig;

/// Alerts read in one go.
const PAGE: usize = 2000;

/// What a report needs of an alert.
#[derive(Clone, Debug, Serialize)]
pub struct Reported {
    /// Never given twice.
    pub id: String,
    /// Who raised it.
    pub detector: String,
    /// Id of the entry that caused it.
    pub entry: String,
    /// About what.
    pub symbol: String,
    /// `up`, `down` or `none`.
    pub direction: String,
    /// 0..=1.
    pub confidence: f64,
}

/// Everything that a stream of alerts keeps, oldest first.
///
/// # Errors
/// A sentence on why the server can't be asked.
pub async fn alerts_of(config: &StreamConfig, stream: &str) -> Result<Vec<Reported>> {
    let client = client(config)?;
    let explain = |error| anyhow!("redis at {}: {}", config.address(), explain(&error));
    let mut connection = connect(&client, Duration::from_millis(config.timeout_ms)).await.map_err(explain)?;
    let (mut alerts, mut from) = (Vec::new(), "-".to_owned());
    loop {
        let mut page = cmd("XRANGE");
        page.arg(stream).arg(&from).arg("+").arg("COUNT").arg(PAGE);
        let page: Vec<(String, HashMap<String, String>)> = page.query_async(&mut connection).await.map_err(explain)?;
        let Some((last, _)) = page.last() else { return Ok(alerts) };
        from = format!("({last}");
        alerts.extend(page.into_iter().map(|(_, mut fields)| {
            let mut take = |name: &str| fields.remove(name).unwrap_or_default();
            Reported {
                id: take("id"),
                detector: take("detector"),
                entry: take("entry"),
                symbol: take("symbol"),
                direction: take("direction"),
                confidence: take("confidence").parse().unwrap_or(0.0),
            }
        }));
    }
}
