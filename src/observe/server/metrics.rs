//! `/metrics`: the state of a run, for Prometheus. `docs/metrics.md` explains what each metric is for.
//!
//! What holds: metrics are in base units. A label has as many values as there are detectors, workers, or kinds of
//! something, never one for each symbol. Counters start with the run, unless their help says "over the life of the
//! group".

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
    app::App,
    error::{ApiError, Nothing, Params},
};
use crate::observe::health::{HealthReport, Verdict};
use tickhound_core::{condition::ConditionCode, receipt::Receipt, stream::Totals, wall::now_ms};
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
        gauge("tickhound_build_info", "Always 1; the label is the version")
            .with(&[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        gauge("tickhound_start_time", "When the run started, since the Unix epoch")
            .in_unit(seconds())
            .one(app.monitor().started_at_ms as f64 / 1000.0),
    ];
    host(&mut families, app.monitor(), &report);
    conditions(&mut families, &report);
    flow(&mut families, &app.stats, totals(&app, &report));
    let last_tick_ms = app.last_tick_ms(&report);
    let age = last_tick_ms.map(|last_ms| now_ms().saturating_sub(last_ms) as f64 / 1000.0);
    let last_tick = gauge("tickhound_last_tick_age", "Time since the owner committed the last tick");
    // Before the first tick it has no value: there is no age that would be right.
    families.push(age.into_iter().fold(last_tick.in_unit(seconds()), Family::one));
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

/// Returns the totals of the group: those of this host, or those that Redis has, whichever are newer.
fn totals(app: &App, report: &HealthReport) -> Totals {
    let (ours, written) = (app.monitor().totals(), report.survey.as_ref().map(|survey| survey.totals));
    written.into_iter().chain([ours]).max_by_key(|totals| totals.commits).unwrap_or_default()
}

/// The role of the host, and its connection to Redis.
fn host(families: &mut Vec<Family>, monitor: &Monitor, report: &HealthReport) {
    let mut roles = gauge("tickhound_role", "1 for the role of the host (owner, standby or connecting), otherwise 0");
    for (name, role) in [("owner", Role::Owner), ("standby", Role::Standby), ("connecting", Role::Connecting)] {
        roles = roles.with(&[("role", name)], f64::from(monitor.role() == role));
    }
    let mut verdicts = gauge("tickhound_verdict", "1 for the verdict of `tickhound status`, otherwise 0");
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
        counter("tickhound_acquisitions", "How often this host acquired the lease").one(monitor.acquired.load(Relaxed)),
        counter("tickhound_fenced", "How often this host was fenced because another host took over")
            .one(monitor.fenced.load(Relaxed)),
        counter("tickhound_disconnects", "How often the connection to Redis was lost, or Redis rejected writes")
            .one(monitor.disconnects.load(Relaxed)),
        counter("tickhound_damaged_states", "Saved states that were damaged, and discarded at the start")
            .one(monitor.damaged_states.load(Relaxed)),
        histogram("tickhound_step", "Duration of a step, which commits and reads in one round trip to Redis")
            .observed(&monitor.steps),
    ]);
}

/// What is wrong with the feed, the channels and the files, as the owner has reported it.
fn conditions(families: &mut Vec<Family>, report: &HealthReport) {
    let mut conditions = gauge(
        "tickhound_condition",
        "Conditions that hold, by code: how many channels, files or calendars are affected; 0 or 1 for the others",
    );
    if report.survey.is_some() {
        for code in ConditionCode::ALL {
            let holding = report.reasons.iter().filter(|reason| reason.code == code.name()).count();
            conditions = conditions.with(&[("code", code.name())], holding as f64);
        }
    }
    families.push(conditions);
}

/// Ticks, alerts, and dead letters.
fn flow(families: &mut Vec<Family>, stats: &Stats, totals: Totals) {
    let monitor = &stats.monitor;
    let (submitted, completed) = (stats.submitted.load(Relaxed), stats.completed.load(Relaxed));
    families.extend([
        counter("tickhound_ticks_submitted", "Ticks handed to workers").one(submitted),
        counter("tickhound_ticks_completed", "Ticks processed and committed").one(completed),
        gauge("tickhound_backlog_ticks", "Ticks read and not committed yet")
            .one(submitted.saturating_sub(completed) as f64),
        counter("tickhound_alerts", "Alerts committed").one(stats.alerts.load(Relaxed)),
        counter("tickhound_alerts_stale", "Alerts committed that were stale (see alerts.stale_after_ms)")
            .one(stats.stale.load(Relaxed)),
        counter("tickhound_ticks_repaired", "Ticks that were repaired, by kind of fault")
            .with(&[("kind", "out_of_order")], monitor.out_of_order.load(Relaxed))
            .with(&[("kind", "volume")], monitor.volume.load(Relaxed))
            .with(&[("kind", "time_estimated")], monitor.time_estimated.load(Relaxed)),
        counter("tickhound_entries", "Entries committed").one(monitor.entries.load(Relaxed)),
        counter("tickhound_entries_dead_lettered", "Entries among them that were dead-lettered, for whatever reason")
            .one(monitor.dead_entries.load(Relaxed)),
        counter("tickhound_ticks_outside", "Ticks from outside of the sessions of their calendar, by phase")
            .with(&[("phase", "pre_open")], monitor.pre_open.load(Relaxed))
            .with(&[("phase", "off_session")], monitor.off_session.load(Relaxed)),
        counter("tickhound_ticks_unseen", "Ticks that no detector saw, by what was missing")
            .with(&[("kind", "no_price")], monitor.unpriced.load(Relaxed))
            .with(&[("kind", "no_time")], monitor.untimed.load(Relaxed)),
        counter(
            "tickhound_dead_letters",
            "Dead letters, by kind: an entry that is not a tick, or a fault of a detector",
        )
        .with(&[("kind", "undecodable")], monitor.undecodable.load(Relaxed))
        .with(&[("kind", "fault")], monitor.faulted.load(Relaxed)),
        counter("tickhound_group_commits", "Commits over the life of the group").one(totals.commits),
        counter("tickhound_group_entries", "Entries acknowledged or lost, over the life of the group")
            .one(totals.entries),
        counter(
            "tickhound_group_entries_lost",
            "Entries trimmed before they were processed, over the life of the group",
        )
        .one(totals.lost),
        counter("tickhound_group_alerts_held_back", "Alerts held back by limits, over the life of the group")
            .one(totals.held_back),
        counter(
            "tickhound_group_detections_below_min_confidence",
            "Detections below their detector's min_confidence, over the life of the group",
        )
        .one(totals.below_min_confidence),
        counter(
            "tickhound_group_state_gap_entries",
            "Entries trimmed before their effect on detectors was saved, over the life of the group",
        )
        .one(totals.state_gap),
    ]);
}

/// How late entries and alerts are committed.
fn lateness(families: &mut Vec<Family>, monitor: &Monitor, behind_ms: Option<u64>) {
    families.extend([
        histogram("tickhound_entry_latency", "Time from the arrival of an entry in Redis to its commit")
            .observed(&monitor.entry_latency),
        histogram("tickhound_alert_latency", "Time from the arrival of an entry in Redis to the commit of its alert")
            .observed(&monitor.alert_latency),
    ]);
    let behind = gauge("tickhound_behind", "Age of the oldest uncommitted entry; 0 if there is none");
    let known = behind_ms.map(|behind_ms| behind.in_unit(seconds()).one(behind_ms as f64 / 1000.0));
    families.extend(known);
}

fn workers(families: &mut Vec<Family>, monitor: &Monitor) {
    let mut queued = gauge("tickhound_worker_queue_ticks", "Ticks handed to the worker and not processed yet");
    let mut ticks = counter("tickhound_worker_ticks", "Ticks that the worker has processed, clock rows included");
    let mut busy = counter("tickhound_worker_busy", "Time that the worker was busy").in_unit(seconds());
    for (shard, worker) in monitor.shards().iter().enumerate() {
        let label = [("shard", &*shard.to_string())];
        queued = queued.with(&label, worker.queued.load(Relaxed) as f64);
        ticks = ticks.with(&label, worker.ticks.load(Relaxed));
        busy = busy.with(&label, worker.busy_ns.load(Relaxed) as f64 / 1e9);
    }
    families.extend([queued, ticks, busy]);
}

/// The cost, the alerts and the faults of each detector.
fn detectors(families: &mut Vec<Family>, views: &[DetectorView], receipt: Option<&Receipt>) {
    let mut info =
        gauge("tickhound_detector_info", "Always 1; the labels are the plugin, version and settings of the detector");
    let mut ticks = counter("tickhound_detector_ticks", "Ticks given to the detector, clock rows included");
    let mut busy = counter("tickhound_detector_busy", "Time spent in the detector, summed over all workers");
    let mut alerts =
        counter("tickhound_detector_alerts", "Alerts of the detector that were committed, including those of a shadow");
    let mut left_out = counter(
        "tickhound_detector_detections_left_out",
        "Detections that did not become alerts, by the setting that left them out",
    );
    let mut faults = counter("tickhound_detector_faults", "Calls of the detector that failed");
    let mut skipped =
        counter("tickhound_detector_skipped_ticks", "Ticks not given to the detector while it was in quarantine");
    let mut quarantined = gauge("tickhound_detector_quarantined", "1 while the detector is in quarantine");
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
        for (kind, count) in [
            ("min_confidence", counts.left_out.min_confidence),
            ("cooldown", counts.left_out.cooldown),
            ("per_minute", counts.left_out.per_minute),
        ] {
            left_out = left_out.with(&[label[0], ("kind", kind)], count);
        }
        faults = faults.with(&label, counts.faults);
        skipped = skipped.with(&label, counts.skipped);
        quarantined = quarantined.with(&label, f64::from(spec.health.is_quarantined()));
    }
    let warming = receipt.map_or(0, |receipt| receipt.warming.len());
    let warming =
        gauge("tickhound_detectors_warming", "Detectors that are warming up before they take over").one(warming as f64);
    families.extend([info, ticks, busy.in_unit(seconds()), alerts, left_out, faults, skipped, quarantined, warming]);
}

/// Whether changes of plugins and settings are in force.
fn reloads(families: &mut Vec<Family>, monitor: &Monitor, receipt: Option<&Receipt>) {
    let refused = receipt.and_then(|receipt| receipt.rejection.as_ref()).is_some_and(|rejection| rejection.is_current);
    let needs_restart = receipt.map_or(0, |receipt| receipt.needs_restart.len());
    families.extend([
        counter("tickhound_reloads", "Changes of plugins and settings, by result")
            .with(&[("result", "in_force")], monitor.swaps.load(Relaxed))
            .with(&[("result", "refused")], monitor.rejections.load(Relaxed)),
        gauge("tickhound_reload_refused", "1 while the last change is rejected").one(f64::from(refused)),
        gauge("tickhound_generation", "Number of the generation in force")
            .one(receipt.map_or(0, |receipt| receipt.generation) as f64),
        gauge("tickhound_generation_since", "When the generation in force took effect, since the Unix epoch")
            .in_unit(seconds())
            .one(receipt.map_or(0, |receipt| receipt.since_ms) as f64 / 1000.0),
        gauge("tickhound_reload_pause", "Longest pause of a worker to switch to the generation in force")
            .in_unit(seconds())
            .one(receipt.map_or(0, |receipt| receipt.pause_us) as f64 / 1e6),
        gauge("tickhound_settings_need_restart", "Changed keys of the configuration that need a restart")
            .one(needs_restart as f64),
    ]);
}

/// What Redis knows of the partition. While Redis does not answer, only `tickhound_redis_up` has a value, so that
/// nothing old is taken for current.
fn server(families: &mut Vec<Family>, report: &HealthReport) {
    let survey = report.survey.as_ref();
    let figure = |name, help, value: &dyn Fn(&Survey) -> Option<f64>| match survey.and_then(value) {
        Some(value) => gauge(name, help).one(value),
        None => gauge(name, help),
    };
    let state = |value: fn(&tickhound_redis::SavedState) -> Option<f64>| {
        move |survey: &Survey| survey.state.as_ref().and_then(value)
    };
    let stuck_entries = |survey: &Survey| {
        let others = report.consumers.iter().filter(|consumer| consumer.verdict == "stuck");
        Some(others.map(|consumer| consumer.pending).sum::<u64>() as f64).filter(|_| survey.group_exists)
    };
    families.extend([
        gauge("tickhound_redis_up", "1 if Redis answers").one(f64::from(survey.is_some())),
        figure("tickhound_stream_entries", "Entries in the stream", &|survey| Some(survey.length as f64)),
        figure(
            "tickhound_pending_entries",
            "Entries delivered and not acknowledged, summed over all consumers",
            &|survey| Some(survey.pending as f64),
        ),
        figure("tickhound_unread_entries", "Entries not delivered yet, as Redis counts them", &|survey| {
            survey.lag.map(|lag| lag as f64)
        }),
        figure("tickhound_stuck_entries", "Pending entries of consumers that do not process them", &stuck_entries),
        figure("tickhound_alerts_stream_entries", "Alerts in the alerts stream", &|survey| {
            Some(survey.alerts_length as f64)
        }),
        figure("tickhound_dead_letters_kept", "Dead letters in the dead-letter stream", &|survey| {
            Some(survey.dead_length as f64)
        }),
        figure(
            "tickhound_checkpoint_age",
            "Time since the oldest part of the saved state was saved",
            &state(|state| Some(state.age_ms as f64 / 1000.0)),
        )
        .in_unit(seconds()),
        figure(
            "tickhound_checkpoint_size",
            "Memory that the saved state uses in Redis",
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
            "Entries that a new host would replay",
            &state(|state| Some(state.behind as f64)),
        ),
    ]);
}

/// The usual metrics of a process, as far as Linux reports them.
fn process(families: &mut Vec<Family>) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    if let Some(kib) = resident {
        families.push(gauge("process_resident_memory", "Memory in use").in_unit(bytes()).one((kib * 1024) as f64));
    }
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    families.push(
        counter("process_cpu", "Processor time used by all threads")
            .in_unit(seconds())
            .one(used.tv_sec as f64 + used.tv_nsec as f64 / 1e9),
    );
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        families.push(gauge("process_open_fds", "Open files and connections").one(open.count() as f64));
    }
}
