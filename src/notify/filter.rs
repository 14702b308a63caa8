//! Which alerts a channel wants, and which of them a message shows; pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::shown::ShownAlerts;
use tickhound_core::{
    config::{GroupBy, NotifyConfig},
    market::Market,
    pattern::SymbolPattern,
};
use tickhound_redis::{AlertFilter, NamePattern, StoredAlert};

/// Ids that are remembered: enough for the alerts that are published again after Redis came back with older data.
pub(super) const RECENT_MAX: usize = 10_000;

/// Which alerts a channel wants.
pub(super) struct Filter {
    alerts: AlertFilter,
    max_age_ms: u64,
}

impl Filter {
    pub(super) fn new(config: &NotifyConfig) -> Self {
        let alerts = AlertFilter {
            detectors: config.detectors.iter().map(|pattern| NamePattern::wildcard(pattern)).collect(),
            symbols: SymbolPattern::list(&config.symbols),
            directions: config.directions.clone(),
            min_confidence: (config.min_confidence > 0.0).then_some(config.min_confidence),
            stale: None,
        };
        Self { alerts, max_age_ms: config.max_age_s * 1000 }
    }

    pub(super) fn wants(&self, alert: &StoredAlert) -> bool {
        self.alerts.matches(alert)
    }

    /// Whether it is too old to be shown.
    pub(super) fn is_old(&self, alert: &StoredAlert, now_ms: u64) -> bool {
        alert.is("stale") || alert.age_ms(now_ms) > self.max_age_ms
    }
}

/// What a message is made of: all alerts since the last one.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// Alerts that are news, shown or not.
    pub(super) fresh: u64,
    /// The alerts that are shown, in the stream's order.
    pub(super) shown: ShownAlerts,
    /// Ids of the newest alerts, shown or counted: as many as are remembered.
    pub(super) ids: VecDeque<String>,
    /// Alerts that are too old to be shown.
    pub(super) older: u64,
    /// When the newest of these was published, ms since the Unix epoch.
    pub(super) newest_older_ms: u64,
    /// Alerts that a mute leaves out, by the mute's id.
    pub(super) muted: BTreeMap<String, u64>,
}

impl Gathered {
    pub(super) fn new(group_by: GroupBy, market: Arc<Market>) -> Self {
        Self { shown: ShownAlerts::new(group_by, market), ..Self::default() }
    }

    /// Counts an alert that a mute leaves out.
    pub(super) fn leave_out(&mut self, mute: &str) {
        match self.muted.get_mut(mute) {
            Some(count) => *count += 1,
            None => drop(self.muted.insert(mute.to_owned(), 1)),
        }
    }

    /// Adds an alert that comes after all others.
    pub(super) fn take(&mut self, alert: StoredAlert, filter: &Filter, now_ms: u64, most: usize) {
        if !filter.wants(&alert) {
            return;
        }
        self.ids.push_back(alert.field("id").to_owned());
        if self.ids.len() > RECENT_MAX {
            self.ids.pop_front();
        }
        if filter.is_old(&alert, now_ms) {
            self.older += 1;
            self.newest_older_ms = alert.at.millis;
            return;
        }
        self.fresh += 1;
        self.shown.push(alert, most);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tickhound_core::event::EntryId;

    use super::*;

    pub(in crate::notify) fn alert(millis: u64, symbol: &str, confidence: f64) -> StoredAlert {
        let confidence = confidence.to_string();
        let fields = [
            ("id", format!("{millis}-0/breakout/0")),
            ("detector", "breakout".into()),
            ("plugin", "breakout".into()),
            ("version", "0.1.0".into()),
            ("symbol", symbol.into()),
            ("time", (millis * 1_000_000).to_string()),
            ("price", "101.05".into()),
            ("confidence", confidence),
            ("direction", "up".into()),
            ("evidence", r#"{"level":100.0}"#.into()),
            ("entry", format!("{millis}-0")),
            ("lag_ms", "3".into()),
            ("recovered", "0".into()),
            ("stale", "0".into()),
        ];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        StoredAlert { at: EntryId { millis, seq: 0 }, fields }
    }

    fn with(mut alert: StoredAlert, name: &str, value: &str) -> StoredAlert {
        alert.fields.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| *old = value.to_owned());
        alert
    }

    type Configure = fn(&mut NotifyConfig);

    #[test]
    fn a_channel_gets_the_alerts_that_its_filter_names() {
        let wants = |configure: Configure, alert: &StoredAlert| {
            let mut config = NotifyConfig::default();
            configure(&mut config);
            Filter::new(&config).wants(alert)
        };
        let nifty = alert(1, "NIFTY25NOV25750PE", 0.9);
        let cases: [(Configure, bool); 8] = [
            (|_| {}, true),
            (|config| config.symbols = vec!["BANK*".into(), "NIFTY*PE".into()], true),
            (|config| config.symbols = vec!["NIFTY*CE".into()], false),
            (|config| config.detectors = vec!["break*".into()], true),
            (|config| config.detectors = vec!["momentum".into()], false),
            (|config| config.min_confidence = 0.9, true),
            (|config| config.min_confidence = 0.91, false),
            (|config| config.directions = vec!["down".into(), "none".into()], false),
        ];
        for (number, (configure, expected)) in cases.into_iter().enumerate() {
            assert_eq!(wants(configure, &nifty), expected, "case {number}");
        }
    }

    #[test]
    fn old_alerts_are_counted_and_those_of_highest_confidence_are_shown_in_order() {
        let filter = Filter::new(&NotifyConfig { max_age_s: 10, ..NotifyConfig::default() });
        let mut gathered = Gathered::default();
        let now_ms = 100_000;
        let alerts = [
            alert(80_000, "OLD", 1.0),
            with(alert(95_000, "STALE", 1.0), "stale", "1"),
            with(alert(95_500, "LAGGED", 1.0), "lag_ms", "9000"),
            alert(96_000, "A", 0.7),
            alert(97_000, "B", 0.9),
            alert(97_001, "C", 0.7),
            alert(98_000, "D", 0.8),
        ];
        for alert in alerts {
            gathered.take(alert, &filter, now_ms, 3);
        }
        let shown: Vec<&str> = gathered.shown.iter().map(|alert| alert.field("symbol")).collect();
        assert_eq!((gathered.older, gathered.newest_older_ms, gathered.fresh), (3, 95_500, 4));
        assert_eq!(shown, ["A", "B", "D"]);
        assert_eq!(gathered.ids.len(), 7, "alerts that are only counted are remembered too");
    }

    /// A channel that delivers nothing for days has millions of alerts to count.
    #[test]
    fn no_more_ids_are_gathered_than_are_remembered() {
        let filter = Filter::new(&NotifyConfig::default());
        let mut gathered = Gathered::default();
        for number in 0..RECENT_MAX as u64 + 5 {
            gathered.take(alert(number, "A", 0.7), &filter, number, 3);
        }
        assert_eq!((gathered.fresh, gathered.ids.len()), (RECENT_MAX as u64 + 5, RECENT_MAX));
        assert_eq!(gathered.ids.front().unwrap(), "5-0/breakout/0");
    }
}
