//! `tickhound explain`: what a detector looked at when it raised an alert.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{
    author, text,
    why::{Inquiry, TicksArgs, TimeWindow, load_detector, print_text},
};
use crate::{
    output,
    why::{
        judged::Judged,
        raised::{RaisedAlert, Reproduction},
        scratch::{LoneDetector, Probed},
        shown::Shower,
    },
};
use tickhound_core::{config::LoadedConfig, event::EntryId, pattern::SymbolPattern};
use tickhound_engine::plugin::{ProbeQuestion, ProbedRow};
use tickhound_redis::AlertsReader;

/// The time after an alert's entry up to which it is looked for in recorded ticks, ns: an alert's time may be later than its
/// entry's arrival by `input.ahead_max_s`, and commits follow each other.
const SEARCHED_NS: u64 = 60 * 1_000_000_000;

const HELP: &str = "\
Examples:
  tickhound alerts --last 1 --json | jq -r .id
  tickhound explain 1763958315250-3/breakout/0
  tickhound explain 1763958315250-3/breakout/0 history/ --json

The alert is looked up in the alerts stream. The detector is replayed alone up to it: from the states that the host has
saved, if they are from before it; else from all entries that the stream holds; or from the files that are named, where
an alert is also found that the stream does not hold any more. No running host is asked or slowed down.

The replay is compared with the alert: it raises the same one, or one with other numbers, or none, such as with other
code or parameters, or with too few ticks before it.

Exit codes: 0 answered; 1 failed, with the reason: no such alert, or a detector that can't tell.";

#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct ExplainArgs {
    /// The id of the alert: <entry>/<detector>/<number>.
    #[arg(value_name = "ALERT-ID")]
    id: String,
    #[command(flatten)]
    ticks: TicksArgs,
    /// Show so many rows before and after the alert.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    around: u16,
    /// Print the answer as one JSON object.
    #[arg(long)]
    json: bool,
}

/// What there is to show.
struct Explanation<'a> {
    alert: &'a RaisedAlert,
    probed: &'a Probed,
    reproduction: Reproduction,
    /// The row of the alert; `None` if the detector looked at nothing there.
    judged: Option<Judged<'a>>,
    /// The same state at the row before.
    before: Option<Judged<'a>>,
    code_note: Option<String>,
}

pub(super) fn run(args: &ExplainArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let zone = text::zone(&loaded.config);
    let parts: Vec<&str> = args.id.split('/').collect();
    let [entry, name, _] = parts[..] else { bail!("{}: expected <entry>/<detector>/<number>, as in alerts", args.id) };
    let entry: EntryId =
        entry.parse().with_context(|| format!("{}: an alert's id begins with its entry's", args.id))?;
    let runtime = super::process::runtime()?;
    let inquiry = Inquiry { loaded, ticks: &args.ticks, runtime: &runtime };
    let plugins = author::runtime(loaded)?;
    let detector = load_detector(loaded, name, &plugins)?;
    let alert = find(&inquiry, &detector, &args.id, entry)?;
    let window = TimeWindow { from: alert.time, to: alert.time };
    let subject = SymbolPattern::exact(&alert.symbol);
    let around = usize::from(args.around);
    let question = ProbeQuestion::Window { subject, from: alert.time, to: alert.time, around };
    let probed = inquiry.replay_window(&detector, &question, window)?;
    let spec = detector.spec();
    let judged = probed.rows.within.iter().flat_map(Judged::of_row).filter(|judged| alert.is_of(judged));
    let judged: Vec<Judged<'_>> = judged.collect();
    // Several ticks may have one time. The one of the alert is one at which all gates held.
    let at = judged.iter().position(Judged::all_held).or_else(|| judged.len().checked_sub(1));
    let earlier = probed.rows.before.iter().flat_map(Judged::of_row).filter(|judged| alert.is_of(judged)).last();
    let explanation = Explanation {
        alert: &alert,
        reproduction: alert.reproduction(&probed, at.map(|at| &judged[at])),
        judged: at.map(|at| judged[at]),
        before: at.and_then(|at| at.checked_sub(1)).map(|at| judged[at]).or(earlier),
        code_note: alert.code_note(spec),
        probed: &probed,
    };
    let shower = Shower { spec, zone: &zone };
    if args.json {
        output::print_json(&explanation.to_json(&shower));
    } else {
        print_text(&explanation.to_text(&shower, &zone))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Looks an alert up in the alerts streams, and else among those that the detector raises when it is replayed.
fn find(inquiry: &Inquiry<'_>, detector: &LoneDetector, id: &str, entry: EntryId) -> Result<RaisedAlert> {
    let config = &inquiry.loaded.config;
    for stream in [&config.alerts.stream, &config.alerts.shadow_stream] {
        match inquiry.runtime.block_on(stored(inquiry.loaded, stream, id, entry)) {
            Ok(Some(alert)) => return Ok(alert),
            Ok(None) => {}
            // Files may have it.
            Err(_) if inquiry.has_files() => {}
            Err(error) => return Err(error),
        }
    }
    let question = ProbeQuestion::Window { subject: SymbolPattern::exact(""), from: 0, to: 0, around: 0 };
    let until = entry.millis.saturating_mul(1_000_000).saturating_add(SEARCHED_NS);
    let probed = inquiry.replay_all(detector, question, until)?;
    let found = probed.alerts.iter().find(|alert| alert.id == id);
    found.map(RaisedAlert::replayed).with_context(|| {
        let place = if inquiry.has_files() { "the files" } else { "the stream's entries" };
        format!(
            "there is no alert {id} in {}, and the detector raises none when {place} are replayed",
            config.alerts.stream
        )
    })
}

/// Looks an alert up in a stream of alerts.
async fn stored(loaded: &LoadedConfig, stream: &str, id: &str, entry: EntryId) -> Result<Option<RaisedAlert>> {
    let mut reader = AlertsReader::new(&loaded.config.stream, stream)?;
    // No alert is published before its entry arrives.
    reader.continue_after(EntryId { millis: entry.millis, seq: 0 }.before());
    loop {
        let news = reader.read().await?;
        if let Some(alert) = news.alerts.iter().find(|alert| alert.field("id") == id) {
            return RaisedAlert::stored(alert).map(Some);
        }
        if news.at_end {
            return Ok(None);
        }
    }
}

impl Explanation<'_> {
    fn rows(&self) -> Vec<&ProbedRow> {
        let rows = &self.probed.rows;
        rows.before.iter().chain(&rows.within).chain(&rows.after).collect()
    }

    fn to_text(&self, shower: &Shower<'_>, zone: &TimeZone) -> String {
        let Self { alert, probed, judged, before, .. } = self;
        let mut answer = format!("{}\n", alert.to_text(zone));
        if let Some(note) = &self.code_note {
            answer.push_str(&format!("{note}\n"));
        }
        answer.push_str(&format!("\nreplayed {}\n", shower.basis(probed, alert.time)));
        answer.push_str(&format!("{}\n", self.reproduction));
        let Some(judged) = judged else {
            answer.push_str("the detector named no gate then (docs/why.md)\n");
            return answer;
        };
        answer.push_str(&format!("\ngates of {}\n", judged.state.owner));
        answer.push_str(&shower.gates(judged, before.as_ref()));
        answer.push_str("\nrows\n");
        answer.push_str(&shower.rows(self.rows().into_iter(), judged.row));
        answer
    }

    fn to_json(&self, shower: &Shower<'_>) -> Value {
        let Self { alert, probed, judged, before, .. } = self;
        json!({
            "id": alert.id,
            "alert": alert.to_json(),
            "detector": shower.spec.name,
            "replayed": shower.basis_json(probed, alert.time),
            "reproduction": self.reproduction.code(),
            "code_note": self.code_note,
            "judgment": judged.as_ref().map(|judged| shower.judged_json(judged)),
            "before": before.as_ref().map(|before| shower.judged_json(before)),
            "rows": self.rows().into_iter().map(|row| shower.row_json(row)).collect::<Vec<_>>(),
        })
    }
}
