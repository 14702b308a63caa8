//! What the screen shows of the partition; without Redis.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::observe::health::{HealthReport, Throughput};

/// Points of a curve: as many as a very wide terminal has columns.
const POINTS_MAX: usize = 400;

/// What the observations of the partition show.
#[derive(Clone, Default)]
pub(super) struct Overview {
    /// The newest report with an answer of the server, and when it was made.
    pub(super) newest: Option<(Arc<HealthReport>, Instant)>,
    /// Why the server can't be asked, and since when.
    pub(super) problem: Option<(String, Instant)>,
    /// The throughput between the last two observations.
    pub(super) pace: Option<Throughput>,
    /// One for each observation, oldest first.
    pub(super) points: VecDeque<CurvePoint>,
}

/// What one observation adds to the curves; `None` where a value is unknown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CurvePoint {
    /// Entries processed per second.
    pub(super) processed: Option<u64>,
    /// Entries that are not processed yet.
    pub(super) waiting: Option<u64>,
    /// The age of the oldest of them, ms.
    pub(super) behind_ms: Option<u64>,
}

impl Overview {
    pub(super) fn add(&mut self, report: HealthReport, pace: Option<Throughput>) {
        let mut point = CurvePoint::default();
        self.pace = pace;
        match &report.survey {
            Some(survey) => {
                point.processed = pace.map(|pace| pace.entries_per_s.round() as u64);
                point.waiting = survey.waiting;
                point.behind_ms = Some(survey.behind_ms.unwrap_or(0));
                self.problem = None;
                self.newest = Some((Arc::new(report), Instant::now()));
            }
            None => {
                let since = self.problem.as_ref().map_or_else(Instant::now, |(_, since)| *since);
                self.problem = Some((report.reason, since));
            }
        }
        self.points.push_back(point);
        if self.points.len() > POINTS_MAX {
            self.points.pop_front();
        }
    }
}
