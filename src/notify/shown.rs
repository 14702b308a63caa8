//! The alerts that a message shows; pure.
//!
//! What holds: they stay in the stream's order, and those of the highest confidence are shown where not all fit. If they are
//! grouped by underlying, an underlying keeps its best alert for as long as another one has several.

use std::{collections::HashMap, sync::Arc};

use tickhound_core::{config::GroupBy, market::Market};
use tickhound_redis::StoredAlert;

/// The alerts that a message shows.
#[derive(Clone, Debug, Default)]
pub(super) struct ShownAlerts {
    group_by: GroupBy,
    /// What knows the underlyings of symbols.
    market: Arc<Market>,
    alerts: Vec<ShownAlert>,
    /// The number of alerts of each underlying, shown or not. Empty unless they are grouped.
    counts: HashMap<String, u64>,
}

#[derive(Clone, Debug)]
struct ShownAlert {
    alert: StoredAlert,
    /// Empty unless the alerts are grouped.
    underlying: String,
}

/// Alerts that are shown together.
pub(super) struct AlertGroup<'a> {
    /// The underlying; empty if the alert stands for itself.
    pub(super) underlying: &'a str,
    /// How many alerts it has, shown or not.
    pub(super) count: u64,
    /// Those that are shown; at least one.
    pub(super) alerts: Vec<&'a StoredAlert>,
}

impl ShownAlerts {
    pub(super) fn new(group_by: GroupBy, market: Arc<Market>) -> Self {
        Self { group_by, market, ..Self::default() }
    }

    /// Adds an alert that comes after all others, and drops one if there are more than `most`.
    pub(super) fn push(&mut self, alert: StoredAlert, most: usize) {
        let underlying = match self.group_by {
            GroupBy::Nothing => String::new(),
            GroupBy::Underlying => self.market.underlying(alert.field("symbol")).into_owned(),
        };
        if self.is_grouped() {
            *self.counts.entry(underlying.clone()).or_default() += 1;
        }
        self.alerts.push(ShownAlert { alert, underlying });
        if self.alerts.len() > most {
            self.drop_least();
        }
    }

    /// Drops the alert of the lowest confidence; of several, the newest.
    pub(super) fn drop_least(&mut self) {
        let mut of_underlying: HashMap<&str, usize> = HashMap::new();
        for shown in self.alerts.iter().filter(|_| self.is_grouped()) {
            *of_underlying.entry(&shown.underlying).or_default() += 1;
        }
        let has_others = |shown: &ShownAlert| of_underlying.get(shown.underlying.as_str()).is_some_and(|all| *all > 1);
        let any_has_others = self.alerts.iter().any(has_others);
        let candidates = self.alerts.iter().enumerate().rev().filter(|(_, shown)| !any_has_others || has_others(shown));
        let least =
            candidates.min_by(|(_, one), (_, other)| one.alert.confidence().total_cmp(&other.alert.confidence()));
        if let Some((index, _)) = least {
            self.alerts.remove(index);
        }
    }

    /// The alerts, in the stream's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &StoredAlert> {
        self.alerts.iter().map(|shown| &shown.alert)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }

    /// Whether alerts of one underlying are shown together.
    pub(super) fn is_grouped(&self) -> bool {
        self.group_by == GroupBy::Underlying
    }

    /// How many underlyings the alerts have, shown or not.
    pub(super) fn underlyings(&self) -> usize {
        self.counts.len()
    }

    /// The alerts by underlying, in the order of the first alert of each; or each for itself.
    pub(super) fn groups(&self) -> Vec<AlertGroup<'_>> {
        let mut groups: Vec<AlertGroup<'_>> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for ShownAlert { alert, underlying } in &self.alerts {
            if self.is_grouped()
                && let Some(group) = known.get(underlying.as_str())
            {
                groups[*group].alerts.push(alert);
                continue;
            }
            known.insert(underlying, groups.len());
            let count = self.counts.get(underlying).copied().unwrap_or(1);
            groups.push(AlertGroup { underlying, count, alerts: vec![alert] });
        }
        groups
    }
}

#[cfg(test)]
impl From<Vec<StoredAlert>> for ShownAlerts {
    fn from(alerts: Vec<StoredAlert>) -> Self {
        let mut shown = Self::default();
        alerts.into_iter().for_each(|alert| shown.push(alert, usize::MAX));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::filter::tests::alert;

    fn grouped(alerts: &[(&str, f64)], most: usize) -> ShownAlerts {
        let mut shown = ShownAlerts::new(GroupBy::Underlying, Arc::default());
        for (millis, (symbol, confidence)) in (0..).zip(alerts) {
            shown.push(alert(millis, symbol, *confidence), most);
        }
        shown
    }

    fn texts(shown: &ShownAlerts) -> Vec<String> {
        let text = |group: &AlertGroup<'_>| {
            let members: Vec<&str> = group.alerts.iter().map(|alert| alert.field("symbol")).collect();
            format!("{} {}: {}", group.underlying, group.count, members.join(" "))
        };
        shown.groups().iter().map(text).collect()
    }

    #[test]
    fn spot_future_and_options_of_one_underlying_are_one_group() {
        let alerts = [
            ("NIFTY 50", 0.9),
            ("NIFTYBEES", 0.7),
            ("NIFTY25NOV25750PE", 0.8),
            ("BANKNIFTY25NOVFUT", 0.6),
            ("NIFTY25NOVFUT", 0.7),
            ("NIFTY25NOV25750CE", 0.95),
        ];
        let shown = grouped(&alerts, 10);
        assert_eq!(
            texts(&shown),
            [
                "NIFTY 4: NIFTY 50 NIFTY25NOV25750PE NIFTY25NOVFUT NIFTY25NOV25750CE",
                "NIFTYBEES 1: NIFTYBEES",
                "BANKNIFTY 1: BANKNIFTY25NOVFUT",
            ]
        );
        assert_eq!(shown.underlyings(), 3);
    }

    /// A hundred strikes of one index left no room for the one share that moved as well.
    #[test]
    fn an_underlying_with_many_alerts_leaves_room_for_the_others() {
        let strikes: Vec<String> = (0..100).map(|strike| format!("NIFTY25NOV{strike}CE")).collect();
        let mut alerts: Vec<(&str, f64)> = strikes.iter().map(|symbol| (symbol.as_str(), 0.99)).collect();
        alerts.push(("SBIN", 0.6));
        alerts.push(("ITC25NOVFUT", 0.61));
        let texts = texts(&grouped(&alerts, 3));
        assert_eq!(texts, ["NIFTY 100: NIFTY25NOV0CE", "SBIN 1: SBIN", "ITC 1: ITC25NOVFUT"]);
    }

    #[test]
    fn without_grouping_each_alert_stands_for_itself() {
        let shown = ShownAlerts::from(vec![alert(1, "NIFTY25NOVFUT", 0.9), alert(2, "NIFTY 50", 0.8)]);
        assert_eq!(texts(&shown), [" 1: NIFTY25NOVFUT", " 1: NIFTY 50"]);
    }
}
