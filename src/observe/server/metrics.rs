//! `/metrics`: what a run does, for Prometheus. `docs/metrics.md` tells what each is for.
//!
//! What holds: base units; a label has as many values as there are detectors, workers, or kinds of
//! something, never symbols. Counters are of this run, unless their help says that they are the group's.

mod family;

use std::{
    fs,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};

use self::family::{Family, bytes, counter, gauge, histogram, seconds};
use super::{
    api::App,
    error::{ApiError, Nothing, Params},
};
use crate::observe::health::{Report, Verdict};
use tickhound_core::{receipt::Receipt, stream::Totals};
use tickhound_engine::{
    monitor::{DetectorView, Monitor, Role},
    stats::Stats,
};
use tickhound_redis::Survey;

pub(super) async fn metrics(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    _: Params<Nothing>,
) -> Result<Response, ApiError> {
    let report = app.report().await;
    let mut families = vec![
        gauge("tickhound_build_info", "Always 1; its label tells the version")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        gauge("tickhound_start_time", "When the run began, since the Unix epoch")
            .in_unit(seconds())
            .one(app.monitor().started_at_ms as f64 / 1000.0),
    ];
    host(&mut families, app.monitor(), &report);
    flow(&mut families, &app.stats, totals(&app, &report));
    lateness(&mut families, app.monitor(), app.behind_ms(Some(&report)));
    workers(&mut families, app.monitor());
    let receipt = app.receipt(&report);
    detectors(&mut families, &app.monitor().detectors(), receipt.as_deref());
    reloads(&mut families, app.monitor(), receipt.as_deref());
    server(&mut families, &report);
    process(&mut families);
    let accepted = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (kind, text) = family::write(families, accepted.contains("application/openmetrics-text"))
        .map_err(|_| ApiError::unavailable("the metrics could not be written"))?;
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Of the group: what this host has committed, or what others have written beside the stream, whichever is newer.
fn totals(app: &App, report: &Report) -> Totals {
    let (ours, written) = (app.monitor().totals(), report.survey.as_ref().map(|survey| survey.totals));
    written.into_iter().chain([ours]).max_by_key(|totals| totals.commits).unwrap_or_default()
}

/// What the host is, and how it gets on with Redis.
fn host(families: &mut Vec<Family>, monitor: &Monitor, report: &Report) {
    let mut roles = gauge("tickhound_role", "1 for what the host is: owner, standby or connecting; else 0");
    for (name, role) in [("owner", Role::Owner), ("standby", Role::Standby), ("connecting", Role::Connecting)] {
        roles = roles.with(&[("role", name)], f64::from(monitor.role() == role));
    }
    let mut verdicts = gauge("tickhound_verdict", "1 for the verdict of `tickhound status`; else 0");
    let all = [
        ("healthy", Verdict::Healthy),
        ("degraded", Verdict::Degraded),
        ("stuck", Verdict::Stuck),
        ("unreachable", Verdict::Unreachable),
    ];
    for (name, verdict) in all {
        verdicts = verdicts.with(&[("verdict", name)], f64::from(report.verdict == verdict));
    }
    families.extend([
        roles,
        verdicts,
        counter("tickhound_acquisitions", "Times that the host became the owner").one(monitor.acquired.load(Relaxed)),
        counter("tickhound_fenced", "Times that another host took over while this one worked")
            .one(monitor.fenced.load(Relaxed)),
        counter("tickhound_disconnects", "Times that the connection to Redis was lost, or Redis could not go on")
            .one(monitor.disconnects.load(Relaxed)),
        counter("tickhound_damaged_states", "Saved states that were damaged, and dropped at a start")
            .one(monitor.damaged_states.load(Relaxed)),
        histogram("tickhound_step", "Duration of a step, which commits and reads in one round trip to Redis")
            .observed(&monitor.steps),
    ]);
}

/// Ticks and what became of them.
fn flow(families: &mut Vec<Family>, stats: &Stats, totals: Totals) {
    let monitor = &stats.monitor;
    let (submitted, completed) = (stats.submitted.load(Relaxed), stats.completed.load(Relaxed));
    families.extend([
        counter("tickhound_ticks_submitted", "Ticks handed to workers").one(submitted),
        counter("tickhound_ticks_completed", "Ticks worked and committed").one(completed),
        gauge("tickhound_backlog_ticks", "Ticks between read and commit")
            .one(submitted.saturating_sub(completed) as f64),
        counter("tickhound_alerts", "Alerts committed").one(stats.alerts.load(Relaxed)),
        counter("tickhound_alerts_stale", "Alerts among them that came too late to be news")
            .one(stats.late.load(Relaxed)),
        counter("tickhound_ticks_repaired", "Ticks that were repaired, by what was wrong")
            .with(&[("kind", "out_of_order")], monitor.out_of_order.load(Relaxed))
            .with(&[("kind", "volume")], monitor.volume.load(Relaxed))
            .with(&[("kind", "time_estimated")], monitor.time_estimated.load(Relaxed)),
        counter("tickhound_ticks_unseen", "Ticks that no detector saw, by what was not known yet")
            .with(&[("kind", "no_price")], monitor.unpriced.load(Relaxed))
            .with(&[("kind", "no_time")], monitor.untimed.load(Relaxed)),
        counter("tickhound_dead_letters", "Dead letters, by what they are: an entry that is no tick, or a fault")
            .with(&[("kind", "undecodable")], monitor.undecodable.load(Relaxed))
            .with(&[("kind", "fault")], monitor.faulted.load(Relaxed)),
        counter("tickhound_group_commits", "Commits over the life of the group").one(totals.commits),
        counter("tickhound_group_entries", "Entries acknowledged or lost, over the life of the group")
            .one(totals.entries),
        counter("tickhound_group_entries_lost", "Entries trimmed before they were worked, over the life of the group")
            .one(totals.lost),
        counter("tickhound_group_alerts_held_back", "Alerts held back by limits, over the life of the group")
            .one(totals.held_back),
        counter("tickhound_group_state_gap_entries", "Entries trimmed before their traces in detectors were saved")
            .one(totals.state_gap),
    ]);
}

/// How late we are.
fn lateness(families: &mut Vec<Family>, monitor: &Monitor, behind_ms: Option<u64>) {
    families.extend([
        histogram("tickhound_entry_latency", "From the arrival of an entry in Redis to its commit, every entry")
            .observed(&monitor.entry_latency),
        histogram("tickhound_alert_latency", "From the arrival of an entry in Redis to the commit of its alert")
            .observed(&monitor.alert_latency),
    ]);
    let behind = gauge("tickhound_behind", "Age of the oldest entry that is not committed; 0 if there is none");
    let known = behind_ms.map(|behind_ms| behind.in_unit(seconds()).one(behind_ms as f64 / 1000.0));
    families.extend(known);
}

fn workers(families: &mut Vec<Family>, monitor: &Monitor) {
    let mut queued = gauge("tickhound_worker_queue_ticks", "Ticks handed to the worker and not worked yet");
    let mut ticks = counter("tickhound_worker_ticks", "Ticks that the worker has worked, rows of the clock included");
    let mut busy = counter("tickhound_worker_busy", "Time that the worker was at work").in_unit(seconds());
    for (shard, worker) in monitor.shards().iter().enumerate() {
        let label = [("shard", &*shard.to_string())];
        queued = queued.with(&label, worker.queued.load(Relaxed) as f64);
        ticks = ticks.with(&label, worker.ticks.load(Relaxed));
        busy = busy.with(&label, worker.busy_ns.load(Relaxed) as f64 / 1e9);
    }
    families.extend([queued, ticks, busy]);
}

/// Which detector slows us, and which one fails.
fn detectors(families: &mut Vec<Family>, views: &[DetectorView], receipt: Option<&Receipt>) {
    let mut info = gauge("tickhound_detector_info", "Always 1; its labels tell what runs under this name");
    let mut ticks = counter("tickhound_detector_ticks", "Ticks that the detector was shown, clock rows included");
    let mut busy = counter("tickhound_detector_busy", "Time spent in the detector, all workers together");
    let mut alerts =
        counter("tickhound_detector_alerts", "Alerts of the detector that were committed, as a shadow too");
    let mut faults = counter("tickhound_detector_faults", "Calls of the detector that did not end well");
    let mut skipped = counter("tickhound_detector_skipped_ticks", "Ticks not shown to it while in quarantine");
    let mut quarantined = gauge("tickhound_detector_quarantined", "1 while the detector is given no ticks");
    for DetectorView { spec, counts } in views {
        let label = [("detector", spec.name.as_str())];
        let manifest = &spec.plugin.manifest;
        let labels = [
            ("detector", spec.name.as_str()),
            ("plugin", manifest.name.as_str()),
            ("version", manifest.version.as_str()),
            ("sha256", spec.plugin.sha256.get(..12).unwrap_or_default()),
            ("shadow_of", spec.settings.shadow_of.as_str()),
        ];
        info = info.with(&labels, 1.0);
        ticks = ticks.with(&label, counts.ticks);
        busy = busy.with(&label, counts.spent_ns as f64 / 1e9);
        alerts = alerts.with(&label, counts.alerts);
        faults = faults.with(&label, counts.faults);
        skipped = skipped.with(&label, counts.skipped);
        quarantined = quarantined.with(&label, f64::from(spec.health.is_quarantined()));
    }
    let warming = receipt.map_or(0, |receipt| receipt.warming.len());
    let warming = gauge("tickhound_detectors_warming", "Detectors that are shown the past before they take over")
        .one(warming as f64);
    families.extend([info, ticks, busy.in_unit(seconds()), alerts, faults, skipped, quarantined, warming]);
}

/// Did my reload work?
fn reloads(families: &mut Vec<Family>, monitor: &Monitor, receipt: Option<&Receipt>) {
    let refused = receipt.and_then(|receipt| receipt.refusal.as_ref()).is_some_and(|refusal| refusal.standing);
    let needs_restart = receipt.map_or(0, |receipt| receipt.needs_restart.len());
    families.extend([
        counter("tickhound_reloads", "Changes of plugins and settings, by what became of them")
            .with(&[("result", "in_force")], monitor.swaps.load(Relaxed))
            .with(&[("result", "refused")], monitor.refusals.load(Relaxed)),
        gauge("tickhound_reload_refused", "1 while the last change stands refused").one(f64::from(refused)),
        gauge("tickhound_generation", "Number of the generation in force")
            .one(receipt.map_or(0, |receipt| receipt.generation) as f64),
        gauge("tickhound_generation_since", "When the generation came into force, since the Unix epoch")
            .in_unit(seconds())
            .one(receipt.map_or(0, |receipt| receipt.since_ms) as f64 / 1000.0),
        gauge("tickhound_reload_pause", "Longest that a worker paused to take up the generation")
            .in_unit(seconds())
            .one(receipt.map_or(0, |receipt| receipt.pause_us) as f64 / 1e6),
        gauge("tickhound_settings_need_restart", "Keys of the configuration that were changed and need a restart")
            .one(needs_restart as f64),
    ]);
}

/// What Redis has of the partition. Without an answer only `tickhound_redis_up`, so that nothing old is taken for new.
fn server(families: &mut Vec<Family>, report: &Report) {
    let survey = report.survey.as_ref();
    let figure = |name, help, value: &dyn Fn(&Survey) -> Option<f64>| match survey.and_then(value) {
        Some(value) => gauge(name, help).one(value),
        None => gauge(name, help),
    };
    let state = |value: fn(&tickhound_redis::SavedState) -> Option<f64>| {
        move |survey: &Survey| survey.state.as_ref().and_then(value)
    };
    let held = |survey: &Survey| {
        let others = report.consumers.iter().filter(|consumer| consumer.verdict == "stuck");
        Some(others.map(|consumer| consumer.pending).sum::<u64>() as f64).filter(|_| survey.group_exists)
    };
    families.extend([
        gauge("tickhound_redis_up", "1 if Redis answers").one(f64::from(survey.is_some())),
        figure("tickhound_stream_entries", "Entries in the stream", &|survey| Some(survey.length as f64)),
        figure("tickhound_pending_entries", "Entries delivered and not acknowledged, of all consumers", &|survey| {
            Some(survey.pending as f64)
        }),
        figure("tickhound_unread_entries", "Entries not delivered, by the server's own count", &|survey| {
            survey.lag.map(|lag| lag as f64)
        }),
        figure("tickhound_stuck_entries", "Pending entries of consumers that do not work them", &held),
        figure("tickhound_alerts_stream_entries", "Alerts that the alerts stream keeps", &|survey| {
            Some(survey.alerts_length as f64)
        }),
        figure("tickhound_dead_letters_kept", "Dead letters that are kept", &|survey| Some(survey.dead_length as f64)),
        figure(
            "tickhound_checkpoint_age",
            "Since the oldest part of the saved state was saved",
            &state(|state| Some(state.age_ms as f64 / 1000.0)),
        )
        .in_unit(seconds()),
        figure(
            "tickhound_checkpoint_size",
            "Memory that the saved state takes in Redis",
            &state(|state| state.bytes.map(|bytes| bytes as f64)),
        )
        .in_unit(bytes()),
        figure(
            "tickhound_checkpoint_symbols",
            "Symbols in the saved state",
            &state(|state| Some(state.symbols as f64)),
        ),
        figure(
            "tickhound_checkpoint_behind_entries",
            "Entries that a new host would read again",
            &state(|state| Some(state.behind as f64)),
        ),
    ]);
}

/// The usual ones about a process, where Linux tells.
fn process(families: &mut Vec<Family>) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    if let Some(kib) = resident {
        families.push(gauge("process_resident_memory", "Memory in use").in_unit(bytes()).one((kib * 1024) as f64));
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    families.push(
        counter("process_cpu", "Processor time used, all threads")
            .in_unit(seconds())
            .one(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9),
    );
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        families.push(gauge("process_open_fds", "Open files and connections").one(open.count() as f64));
    }
}
