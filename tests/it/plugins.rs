//! Plugins that are wrong, or go wrong: each is contained, and told in a sentence.

use std::{
    fs, hint,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    ALERTS, Alert, Difference, Host, Project, REFERENCE_ALERTS, Redis, STREAM, count_event, difference, has_event,
    misbehaving, pause, shipped, text, wait_for,
};

/// Enough for the others to find something, and few batches: one that fails does so in each.
const SYMBOLS: u32 = 3;
const TICKS: u32 = 6_000;

/// The events that say that a detector has failed.
const FAULTS: [&str; 5] = [
    "detector_failed_on_tick",
    "detector_recovered",
    "detector_start_failed",
    "state_restore_failed",
    "symbol_introduction_failed",
];

fn with_misbehaving(params: &str) -> (Redis, Project) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure(&format!(
        "[plugins]\ncall_deadline_ms = 200\nmemory_max_mib = 16\n\
         [detectors.odd]\nplugin = \"misbehaving\"\n[detectors.odd.params]\n{params}"
    ));
    (redis, project)
}

/// Runs `odd` beside the detectors that ship; returns the reasons of its dead letters, and how
/// often it and the others alerted.
fn contained(how: &str) -> (Vec<String>, usize, usize) {
    let (redis, project) = with_misbehaving(&format!("how = \"{how}\"\nat = 100"));
    project.feed(SYMBOLS, TICKS, &[]);
    project.run(&["run", "--drain"]);
    assert_eq!((redis.pending(), redis.totals()["entries"]), (0, u64::from(TICKS)));
    let letters = redis.dead_letters();
    assert!(letters.iter().all(|letter| letter["detector"] == "odd"), "{letters:?}");
    let reasons = letters.into_iter().map(|mut letter| letter.remove("reason").unwrap()).collect();
    let alerts = redis.alerts();
    let odd = alerts.iter().filter(|alert| alert["detector"] == "odd").count();
    (reasons, odd, alerts.len() - odd)
}

#[test]
fn a_core_module_as_cargo_built_it_is_a_plugin() {
    let (reasons, odd, others) = contained("not");
    assert_eq!(reasons, Vec::<String>::new());
    assert_eq!(odd, TICKS as usize, "it alerts on every tick");
    assert!(others > 0);
}

#[test]
fn a_detector_that_fails_costs_the_others_nothing() {
    let (_, _, undisturbed) = contained("not");
    let expected = [
        ("panic", "is too much for me"),
        ("loop", "ran longer than 200 ms of processor time (plugins.call_deadline_ms)"),
        ("hog", "wanted more memory than its 16 MiB (plugins.memory_max_mib)"),
        ("recurse", "call stack exhausted"),
        ("nan", "broke the contract: confidence NaN is not in 0..=1"),
    ];
    for (how, reason) in expected {
        let (reasons, _, others) = contained(how);
        assert!(!reasons.is_empty(), "{how}");
        assert!(reasons.iter().all(|text| text.contains(reason)), "{how}: {reasons:?}");
        assert_eq!(others, undisturbed, "{how}: the others' alerts");
    }
}

#[test]
fn a_detector_that_fails_in_its_trial_gets_no_tick() {
    let expected = [
        ("panic", "is too much for me"),
        ("loop", "ran longer than 200 ms of processor time (plugins.call_deadline_ms)"),
        ("hog", "wanted more memory than its 16 MiB (plugins.memory_max_mib)"),
        ("recurse", "call stack exhausted"),
        ("nan", "broke the contract: confidence NaN is not in 0..=1"),
        ("unreadable", "rejected in its trial the state that it had just saved"),
    ];
    for (how, reason) in expected {
        let (_redis, project) = with_misbehaving(&format!("how = \"{how}\"\nat = 5"));
        let output = project.output(&["check"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{how}");
        assert!(said.contains("detector odd ") && said.contains("trial") && said.contains(reason), "{how}: {said}");
        assert!(said.contains("config/config.toml:"), "{said}");
    }
}

#[test]
fn check_tells_what_a_tick_cost_in_its_trial() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let report: serde_json::Value = serde_json::from_str(&project.run(&["check", "--json"])).unwrap();
    for detector in report["detectors"].as_array().unwrap() {
        assert!(detector["trial_ns_per_tick"].as_u64().unwrap() > 0, "{detector}");
    }
    assert!(project.run(&["check"]).contains(" ns per tick in its trial"));
}

/// Lags of breakout's alerts in a market of 20,000 ticks a second, sorted, with `more` in the
/// configuration; that its alerts are those of a run without, and what the log says.
fn beside_breakout(more: &str) -> (Vec<u64>, String) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure(&format!("[alerts]\nlog = false\n[plugins]\nmemory_max_mib = 16\n{more}"));
    let host = project.start_owner();
    project.feed(200, 160_000, &["--rate", "20000"]);
    redis.wait_all_processed(160_000);
    host.signal("TERM");
    host.wait_for_event("group_totals_reported");
    project.configure("");
    project.run_reference(&redis);
    let ours =
        |alert: &Alert| alert["detector"] != "loops" && alert["detector"] != "traps" && alert["detector"] != "hogs";
    let alerts: Vec<Alert> = redis.paged(ALERTS).filter(ours).collect();
    let mut lags: Vec<u64> = alerts
        .iter()
        .filter(|alert| alert["detector"] == "breakout")
        .map(|alert| alert["lag_ms"].parse().unwrap())
        .collect();
    lags.sort_unstable();
    assert_eq!(difference(alerts, redis.paged(REFERENCE_ALERTS)), Difference::default());
    (lags, host.log())
}

#[test]
fn three_that_fail_are_put_in_quarantine_and_cost_breakout_nothing() {
    let failing = ["loops", "traps", "hogs"].into_iter().zip(["loop", "panic", "hog"]);
    let failing: Vec<String> = failing
        .map(|(name, how)| {
            format!("[detectors.{name}]\nplugin = \"misbehaving\"\nparams = {{ how = \"{how}\", at = 400 }}\n")
        })
        .collect();
    for (what, more) in [("alone", String::new()), ("beside three that fail", failing.concat())] {
        let (lags, log) = beside_breakout(&more);
        let at = |share: f64| lags[((lags.len() - 1) as f64 * share) as usize];
        let (median, p90, p99, most) = (at(0.5), at(0.9), at(0.99), at(1.0));
        println!(
            "breakout {what}: {} alerts; from tick to alert: median {median} ms, p90 {p90}, p99 {p99}, most {most}",
            lags.len()
        );
        let quarantined = count_event(&log, "detector_quarantined");
        assert_eq!(quarantined, if more.is_empty() { 0 } else { 3 }, "{log}");
    }
}

/// A host at work with a detector that needs its time, and how long a call for a thousand ticks may take: three times
/// as long as it takes. It has taken nothing up yet.
fn with_a_slow_one() -> (Redis, Project, Host, Duration) {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    let configure = |deadline_ms: u64| {
        project.write_config(&format!(
            "[stream]\nurl = \"{}\"\nbatch = 1000\n[plugins]\ncall_deadline_ms = {deadline_ms}\n\
             [engine]\nworkers = 1\n[alerts]\nlog = false\n\
             [detectors.odd]\nplugin = \"misbehaving\"\nparams = {{ how = \"slow\", at = 1 }}",
            redis.url()
        ));
    };
    configure(10_000);
    let ns_per_tick = || {
        let report: serde_json::Value = serde_json::from_str(&project.run(&["check", "--json"])).unwrap();
        report["detectors"][0]["trial_ns_per_tick"].as_u64().unwrap()
    };
    // The machine may be busy already.
    let deadline = Duration::from_nanos(3 * 1000 * (0..4).map(|_| ns_per_tick()).min().unwrap());
    configure(deadline.as_millis() as u64);
    let host = project.start_owner();
    (redis, project, host, deadline)
}

/// Adds a thousand ticks at once.
fn add_thousand(redis: &Redis, part: u64) {
    let mut pipe = redis::pipe();
    pipe.atomic();
    for number in 0..1000 {
        let fields = [
            ("symbol", "A".to_owned()),
            ("ltp", "100".into()),
            ("timestamp", (1_763_959_530_000 + part * 1000 + number).to_string()),
        ];
        pipe.xadd(STREAM, "*", &fields).ignore();
    }
    let () = pipe.query(&mut redis.connect()).unwrap();
}

/// Whoever else works on the machine: many threads a core, until it is dropped.
struct BusyMachine {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl BusyMachine {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = thread::available_parallelism().unwrap().get();
        let busy = |_| {
            let stop = stop.clone();
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    hint::black_box(&stop);
                }
            })
        };
        Self { threads: (0..16 * cores).map(busy).collect(), stop }
    }
}

impl Drop for BusyMachine {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

/// Deadlines were times on the wall. With fifteen busy threads on two cores a call that needed a third of its time was
/// ended all the same, and a detector could lose ticks because somebody else used the processor.
#[test]
fn a_busy_machine_is_not_held_against_a_detector() {
    let (redis, _project, host, _) = with_a_slow_one();
    let busy = BusyMachine::start();
    (0..3).for_each(|part| add_thousand(&redis, part));
    redis.wait_all_processed(3000);
    drop(busy);
    let log = host.log();
    assert!(FAULTS.iter().all(|event| !has_event(&log, event)), "{log}");
    assert_eq!((redis.alerts().len(), redis.dead_letters().len()), (3000, 0));
}

/// Whoever stops a process for longer than a call may take has done nothing to the detector in it.
#[test]
fn a_process_that_was_stopped_is_not_held_against_a_detector() {
    let (redis, _project, host, deadline) = with_a_slow_one();
    for part in 0..4 {
        add_thousand(&redis, part);
        wait_for("it has begun", || (redis.pending() > 0).then_some(()));
        host.signal("STOP");
        let stopped = Instant::now();
        while stopped.elapsed() < 2 * deadline {
            pause();
        }
        host.signal("CONT");
        let all = (part + 1) * 1000;
        redis.wait_all_processed(all);
    }
    let log = host.log();
    assert!(FAULTS.iter().all(|event| !has_event(&log, event)), "{log}");
    assert_eq!((redis.alerts().len(), redis.dead_letters().len()), (4000, 0));
}

#[test]
fn a_panic_is_reported_with_its_file_and_line() {
    let (reasons, ..) = contained("panic");
    assert!(reasons[0].contains("src/lib.rs:"), "{}", reasons[0]);
}

/// What `tickhound check` says of a plugin folder with `bytes` in `breakout.wasm`.
fn rejection(bytes: &[u8]) -> String {
    let redis = Redis::start();
    let project = Project::new(&redis);
    fs::write(project.path("plugins/breakout.wasm"), bytes).unwrap();
    let output = project.output(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr)
}

#[test]
fn a_file_that_is_not_a_detector_is_rejected_with_a_sentence() {
    let breakout = fs::read(shipped("plugins/breakout.wasm")).unwrap();
    let component = |text: &str| wat::parse_str(text).unwrap();
    let cases: [(&[u8], &str); 8] = [
        (b"", "the file is empty"),
        (b"hello", "not a WebAssembly file"),
        (&breakout[..breakout.len() / 2], "damaged or cut off"),
        (&component("(module)"), "a WebAssembly module, but not a detector"),
        (&component("(component)"), "not a detector of contract 0.1.0"),
        (
            &component(r#"(component (import "wasi:cli/stdout@0.2.0" (instance (export "get" (func)))))"#),
            "it imports wasi:cli/stdout@0.2.0, but detectors have no WASI",
        ),
        (
            &component(r#"(component (import "tickhound:detector/types@9.0.0" (instance)))"#),
            "built for detector contract 9.0.0, this host speaks 0.1.0",
        ),
        (
            &component(r#"(component (core module (@custom "tickhound:contract" "7.1.0")))"#),
            "built for detector contract 7.1.0, this host speaks 0.1.0",
        ),
    ];
    for (bytes, expected) in cases {
        let said = rejection(bytes);
        assert!(said.contains(expected), "expected {expected:?} in {said}");
        assert!(said.contains("config.toml:") && said.contains("breakout.wasm"), "{said}");
    }
}

#[test]
fn wrong_parameters_are_refused_where_they_stand() {
    let cases = [
        ("hwo = \"loop\"", "has no parameter `hwo`; did you mean `how`?"),
        ("how = \"lop\"", "expected one of \"not\", \"panic\""),
        ("at = 0", "parameter `at` is 0, expected a whole number from 1 to 1000000 ticks"),
        ("at = \"3\"", "expected a whole number from 1 to 1000000 ticks"),
        ("at = 13", "rejected its parameters: 13 is an unlucky tick"),
    ];
    for (params, expected) in cases {
        let (_redis, project) = with_misbehaving(params);
        let output = project.output(&["check"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains(expected), "expected {expected:?} in {said}");
        assert!(said.contains("config/config.toml:"), "{said}");
    }
}

#[test]
fn a_plugin_that_is_not_there_is_named_with_its_neighbours() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[detectors.third]\nplugin = \"breakuot\"");
    let said = text(&project.output(&["check"]).stderr);
    assert!(said.contains("there is no") && said.contains("did you mean `breakout`?"), "{said}");
}

#[test]
fn one_plugin_serves_detectors_with_their_own_parameters_and_symbols() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure(
        "[detectors.calls]\nplugin = \"misbehaving\"\nsymbols = [\"*CE\"]\n\
         [detectors.futures]\nplugin = \"misbehaving\"\nsymbols = [\"*FUT\"]\n\
         [detectors.off]\nplugin = \"misbehaving\"\nenabled = false",
    );
    project.feed(40, 4000, &[]);
    project.run(&["run", "--drain"]);
    let alerts = redis.alerts();
    let symbols = |name: &str| -> Vec<&str> {
        alerts.iter().filter(|alert| alert["detector"] == name).map(|alert| alert["symbol"].as_str()).collect()
    };
    assert!(!symbols("calls").is_empty() && symbols("calls").iter().all(|symbol| symbol.ends_with("CE")));
    assert!(!symbols("futures").is_empty() && symbols("futures").iter().all(|symbol| symbol.ends_with("FUT")));
    assert!(symbols("off").is_empty());
}

/// The alerts of plugins that the SDK of contract 0.1 has built, byte for byte as a host of that time has raised them.
#[test]
fn a_plugin_of_contract_0_1_raises_the_alerts_that_it_has_always_raised() {
    let fixture = shipped("tests/fixtures/contract-0.1");
    let project = Project::at("redis://127.0.0.1:1".into());
    let detectors = ["breakout", "momentum"];
    for plugin in detectors {
        let file = format!("plugins/{plugin}.wasm");
        fs::copy(fixture.join(format!("{plugin}.wasm")), project.path(&file)).unwrap();
        assert!(project.run(&["inspect", &file]).contains("contract     0.1.0 (this host: 0.1.0, 0.2.0)"));
    }
    let config = detectors.map(|name| format!("[detectors.{name}]\nplugin = \"{name}\"\nmin_confidence = 0.0\n"));
    fs::write(project.path("config/config.toml"), config.concat()).unwrap();
    for workers in ["1", "3"] {
        let market = ["replay", "--simulate", "--symbols", "4", "--seed", "11", "--count", "40000"];
        project.run(&[&market[..], &["--workers", workers, "--out", "alerts.jsonl"]].concat());
        let raised = fs::read_to_string(project.path("alerts.jsonl")).unwrap();
        let expected = zstd::decode_all(&fs::read(fixture.join("alerts.jsonl.zst")).unwrap()[..]).unwrap();
        assert!(raised == String::from_utf8(expected).unwrap(), "other alerts than those of a host of contract 0.1");
        assert_eq!(raised.lines().count(), 233);
    }
}
