//! Plugins that attack the host with what they take and what they return: each is rejected or fails by itself, the alerts
//! of the others are those of a run without it, and the host's memory stays small.
//!
//! The plugins are written by hand. No SDK would write them: their lists name the same memory a thousand times, and their
//! results are as large as the format allows.

use std::{collections::BTreeMap, fs};

use crate::support::{Alert, Difference, Project, Redis, difference, has_event, lines_of, probe, text};

const SYMBOLS: u32 = 4;
const TICKS: u32 = 6_000;

/// The rows after which a plugin attacks: more than it sees in its trial, and far less than it sees then.
const TRIGGER: u32 = 2_000;

/// What a plugin does when it attacks, in its own language.
#[derive(Clone, Copy, Default)]
struct Attack<'a> {
    /// Further fields of the module.
    fields: &'a str,
    /// Instructions in `detect` behind the trigger. `$list` and `$length` are the list of detections, `$row` is the first
    /// row that is a tick, `$symbol` its symbol, and `$i` is free. Text is at 4096, large data begins at 16 MiB.
    detect: &'a str,
    /// The length of each state behind the trigger.
    state_bytes: u32,
    /// Instructions at the start of `describe`. The manifest is at 1024.
    describe: &'a str,
    /// Instructions at the start of `configure`. Its result is at 256.
    configure: &'a str,
}

/// Puts a detection of `$row` with `EVIDENCE` numbers, which are the list at 8192, into `$list`.
const ONE_DETECTION: &str = "
    (i32.store (i32.const 1048576) (local.get $row))
    (i32.store (i32.const 1048580) (local.get $symbol))
    (f64.store (i32.const 1048584) (f64.const 1))
    (i32.store (i32.const 1048596) (i32.const 8192))
    (i32.store (i32.const 1048600) (i32.const EVIDENCE))
    (local.set $list (i32.const 1048576)) (local.set $length (i32.const 1))";

/// A core module that is a detector: it alerts never, saves four bytes for each symbol, and then attacks.
fn hostile(attack: Attack<'_>) -> Vec<u8> {
    let Attack { fields, detect, state_bytes, describe, configure } = attack;
    let module = format!(
        r#"(module
  (memory (export "memory") 960)
  {fields}
  (global $heap (mut i32) (i32.const 2097152))
  (global $seen (mut i32) (i32.const 0))
  (data (i32.const 2048) "hostile") (data (i32.const 2064) "1.0.0") (data (i32.const 4096) "ok\1b[2J\0aDETECTED")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $reset (global.set $heap (i32.const 2097152)))
  (func (export "describe") (result i32)
    (i32.store (i32.const 1024) (i32.const 2048)) (i32.store (i32.const 1028) (i32.const 7))
    (i32.store (i32.const 1032) (i32.const 2064)) (i32.store (i32.const 1036) (i32.const 5))
    (i32.store (i32.const 1040) (i32.const 2048)) (i32.store (i32.const 1044) (i32.const 7))
    (i32.store (i32.const 1064) (i32.const 1))
    {describe}
    (i32.const 1024))
  (func (export "configure") (param i32 i32) (result i32)
    {configure}
    (call $reset) (i32.const 256))
  (func (export "introduce") (param i32 i32) (call $reset))
  (func (export "detect") (param $symbols i32) (param $rows i32) (param i32 i32 i32 i32 i32 i32) (result i32)
    (local $list i32) (local $length i32) (local $symbol i32) (local $row i32) (local $i i32)
    (global.set $seen (i32.add (global.get $seen) (local.get $rows)))
    (block $calm
      (br_if $calm (i32.le_u (global.get $seen) (i32.const {TRIGGER})))
      (loop $clock
        (br_if $calm (i32.ge_u (local.get $row) (local.get $rows)))
        (local.set $symbol (i32.load (i32.add (local.get $symbols) (i32.shl (local.get $row) (i32.const 2)))))
        (if (i32.eq (local.get $symbol) (i32.const -1)) (then
          (local.set $row (i32.add (local.get $row) (i32.const 1)))
          (br $clock))))
      {detect})
    (i32.store (i32.const 512) (local.get $list)) (i32.store (i32.const 516) (local.get $length))
    (call $reset) (i32.const 512))
  (func (export "save") (param $symbols i32) (param $count i32) (result i32)
    (local $i i32) (local $at i32) (local $bytes i32)
    (local.set $bytes (select (i32.const {state_bytes}) (i32.const 4)
      (i32.and (i32.gt_u (global.get $seen) (i32.const {TRIGGER})) (i32.ne (i32.const {state_bytes}) (i32.const 0)))))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $count)))
      (local.set $at (i32.add (i32.const 1048576) (i32.mul (local.get $i) (i32.const 12))))
      (i32.store (local.get $at)
        (i32.load (i32.add (local.get $symbols) (i32.shl (local.get $i) (i32.const 2)))))
      (i32.store offset=4 (local.get $at) (i32.const 16777216))
      (i32.store offset=8 (local.get $at) (local.get $bytes))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next)))
    (i32.store (i32.const 512) (i32.const 1048576)) (i32.store (i32.const 516) (local.get $count))
    (call $reset) (i32.const 512))
  (func (export "restore") (param i32 i32 i32) (result i32) (call $reset) (i32.const 640)))"#
    );
    wat::parse_str(module).unwrap()
}

/// 1.2 million detections of one tick.
fn flood() -> Vec<u8> {
    let detect = "
        (local.set $list (i32.const 16777216)) (local.set $length (i32.const 1200000))
        (block $done (loop $next
          (br_if $done (i32.ge_u (local.get $i) (i32.const 38400000)))
          (i32.store offset=16777216 (local.get $i) (local.get $row))
          (i32.store offset=16777220 (local.get $i) (local.get $symbol))
          (f64.store offset=16777224 (local.get $i) (f64.const 1))
          (local.set $i (i32.add (local.get $i) (i32.const 32)))
          (br $next)))";
    hostile(Attack { detect, ..Attack::default() })
}

/// One detection whose evidence has 100 names of 1 MiB, which are all the same memory.
fn long_names() -> Vec<u8> {
    let detect = format!(
        "(block $done (loop $next
           (br_if $done (i32.ge_u (local.get $i) (i32.const 1600)))
           (i32.store offset=8192 (local.get $i) (i32.const 16777216))
           (i32.store offset=8196 (local.get $i) (i32.const 1048576))
           (local.set $i (i32.add (local.get $i) (i32.const 16)))
           (br $next)))
         (memory.fill (i32.const 16777216) (i32.const 97) (i32.const 1048576)) {}",
        ONE_DETECTION.replace("EVIDENCE", "100")
    );
    hostile(Attack { detect: &detect, ..Attack::default() })
}

/// One detection whose evidence has the name `ESC[2J`, a line break and `DETECTED`.
fn escape_name() -> Vec<u8> {
    let detect = format!(
        "(i32.store (i32.const 8192) (i32.const 4096)) (i32.store (i32.const 8196) (i32.const 15)) {}",
        ONE_DETECTION.replace("EVIDENCE", "1")
    );
    hostile(Attack { detect: &detect, ..Attack::default() })
}

/// Seventeen detections of one tick.
fn too_many() -> Vec<u8> {
    let one = ONE_DETECTION.replace("EVIDENCE", "0");
    let detect = format!(
        "{one}
         (local.set $length (i32.const 17))
         (block $done (loop $next
           (local.set $i (i32.add (local.get $i) (i32.const 32)))
           (br_if $done (i32.ge_u (local.get $i) (i32.const 544)))
           (memory.copy (i32.add (i32.const 1048576) (local.get $i)) (i32.const 1048576) (i32.const 32))
           (br $next)))"
    );
    hostile(Attack { detect: &detect, ..Attack::default() })
}

/// 40 MB of state for each symbol.
fn large_states() -> Vec<u8> {
    hostile(Attack { state_bytes: 40_000_000, ..Attack::default() })
}

/// Eleven further memories that grow behind the trigger, by 32 MiB each.
fn memories() -> Vec<u8> {
    let fields: String = (0..11).map(|number| format!("(memory $m{number} 0)")).collect();
    let grow = |number| format!("(drop (memory.grow $m{number} (i32.const 512)))");
    hostile(Attack { fields: &fields, detect: &(0..11).map(grow).collect::<String>(), ..Attack::default() })
}

/// Twenty tables that grow behind the trigger, to 100,000 elements each.
fn tables() -> Vec<u8> {
    let fields: String = (0..20).map(|number| format!("(table $t{number} 0 funcref)")).collect();
    let grow = |number| format!("(drop (table.grow $t{number} (ref.null func) (i32.const 100000)))");
    hostile(Attack { fields: &fields, detect: &(0..20).map(grow).collect::<String>(), ..Attack::default() })
}

/// Two reports of a panic, of which the first is empty and the second claims four GiB of text; then one of each kind of trap.
fn report(detect: &str) -> Vec<u8> {
    let fields = r#"
        (data (i32.const 20480) "TICKHOUND-PANIC\00\00\00\00\00")
        (data (i32.const 20512) "TICKHOUND-PANIC\00\ff\ff\ff\ff\1b[2J\0aDETECTED")
        (func $deeper (param i32) (call $deeper (i32.add (local.get 0) (i32.const 1))) (call $deeper (i32.const 0)))"#;
    hostile(Attack { fields, detect, ..Attack::default() })
}

/// The attacks, each with the fault that ends it.
fn attacks() -> [(&'static str, Vec<u8>, &'static str); 9] {
    [
        ("report", report("(unreachable)"), r"\u{1b}[2J\nDETECTED"),
        // What a guest has left in memory says nothing about a trap that it did not ask for.
        ("stack", report("(call $deeper (i32.const 0))"), "call stack exhausted"),
        ("flood", flood(), "its detections in "),
        ("long-names", long_names(), "its detections in "),
        ("escape", escape_name(), "has a name with characters that can't be printed"),
        ("too-many", too_many(), "more than 16 detections about a symbol at row "),
        ("states", large_states(), "are larger than 256 KiB for each symbol (plugins.state_max_kib)"),
        ("memories", memories(), "wanted more memory than its 64 MiB (plugins.memory_max_mib)"),
        ("tables", tables(), "wanted more memory than its 64 MiB (plugins.memory_max_mib)"),
    ]
}

/// Runs all hostile plugins, with `settings`, beside the probe, which alerts on every tick with a hash of all that it has
/// seen. Its alerts are those of a run without them.
fn assert_contained(settings: &str) {
    let redis = Redis::start();
    let tables: String =
        attacks().iter().map(|(name, ..)| format!("[detectors.{name}]\nplugin = \"{name}\"\n{settings}\n")).collect();
    let engine = "[engine]\nworkers = 2\ncheckpoint_every_ms = 100\n[plugins]\nfaults = 0\n";
    let project = Project::with_probe(redis.url(), "", &format!("{engine}{tables}"));
    for (name, plugin, _) in attacks() {
        fs::write(project.path(&format!("plugins/{name}.wasm")), plugin).unwrap();
    }
    project.feed(SYMBOLS, TICKS, &[]);
    let run = project.output(&["run", "--drain"]);
    let log = text(&run.stderr) + &text(&run.stdout);
    assert!(run.status.success(), "{log}");
    assert!(!log.contains('\u{1b}') && !log.contains("\nDETECTED"), "{log}");
    for (name, _, reason) in attacks() {
        let of_it = |line: &&str| line.contains(&format!("detector={name} "));
        assert!(log.lines().filter(of_it).any(|line| line.contains(reason)), "{name}: {log}");
        assert!(lines_of(&log, "detector_quarantined").iter().any(of_it), "{name}: {log}");
    }
    assert_eq!((redis.pending(), redis.totals()["entries"]), (0, u64::from(TICKS)));
    assert!(redis.dead_letters().iter().all(|letter| letter["detector"] != "probe"));
    let others: Vec<Alert> = redis.alerts().into_iter().filter(|alert| alert["detector"] == "probe").collect();
    assert_eq!(others.len(), TICKS as usize);
    let alone = Project::with_probe(redis.url(), "", "");
    assert_eq!(difference(others, alone.reference(&redis)), Difference::default(), "the alerts of the probe");
}

#[test]
fn plugins_that_return_or_take_too_much_fail_alone() {
    assert_contained("");
}

/// 1.2 million detections of one shadow once held up the live detectors for good.
#[test]
fn shadows_that_return_or_take_too_much_fail_alone() {
    assert_contained("shadow_of = \"probe\"");
}

/// What `check` says about a plugin.
fn rejection(project: &Project, plugin: &[u8]) -> String {
    fs::write(project.path("plugins/hostile.wasm"), plugin).unwrap();
    let output = project.output(&["check"]);
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr)
}

#[test]
fn a_plugin_that_is_too_large_or_unprintable_from_the_start_is_rejected_with_a_sentence() {
    let describe = |describe: &str| hostile(Attack { describe, ..Attack::default() });
    // A list of `length` items of a record, all zero, behind a pointer in the manifest.
    let list = |at: u32, length: u32| {
        let store = format!("(i32.store (i32.const {at}) (i32.const 16777216)) (i32.store (i32.const {}) ", at + 4);
        describe(&format!("{store} (i32.const {length}))"))
    };
    // A result at `at` that is an error, with a text of `length` bytes.
    let rejecting = |at: u32, pointer: u32, length: u32| {
        let configure = format!(
            "(memory.fill (i32.const 16777216) (i32.const 110) (i32.const 40000000)) (i32.store8 (i32.const {at}) (i32.const 1))
             (i32.store (i32.const {pointer}) (i32.const 16777216)) (i32.store (i32.const {}) (i32.const {length}))",
            pointer + 4
        );
        hostile(Attack { configure: &configure, ..Attack::default() })
    };
    let (configure, restore) = (|length| rejecting(256, 264, length), |length| rejecting(640, 644, length));
    let twelve: String = (0..11).map(|number| format!("(memory $m{number} 960)")).collect();
    let seventeen: String = (0..16).map(|number| format!("(memory $m{number} 0)")).collect();
    let with_fields = |fields| hostile(Attack { fields, ..Attack::default() });
    let warm_up = "(f64.store (i32.const 264) (f64.const nan))";
    let cases = [
        (with_fields(&twelve), "wanted more memory than its 64 MiB (plugins.memory_max_mib)"),
        (with_fields(&seventeen), "memory count too high at 17"),
        (
            describe("(i32.store (i32.const 1040) (i32.const 4096)) (i32.store (i32.const 1044) (i32.const 15))"),
            r"the description has characters that can't be printed: `ok\u{1b}[2J\nDETECTED`",
        ),
        (describe("(i32.store (i32.const 1024) (i32.const 4096))"), "expected up to 64 letters, digits, -, _ and ."),
        (list(1040, 600), "the description has 600 bytes, expected at most 512"),
        (list(1040, 40_000_000), "its manifest is larger than 1024 KiB"),
        (list(1048, 1_000_000), "its manifest is larger than 1024 KiB"),
        (list(1056, 400_000), "its manifest is larger than 1024 KiB"),
        (configure(2_000), "n… (2000 bytes)"),
        (configure(40_000_000), "it rejects its parameters with more than 64 KiB of text"),
        (restore(2_000), "n… (2000 bytes)"),
        (restore(40_000_000), "it rejects a state with more than 64 KiB of text"),
        (hostile(Attack { configure: warm_up, ..Attack::default() }), "a warm-up of NaN seconds"),
    ];
    let redis = Redis::start();
    let project = Project::with_probe(redis.url(), "", "[detectors.hostile]\nplugin = \"hostile\"\n");
    for (plugin, expected) in cases {
        let said = rejection(&project, &plugin);
        assert!(said.contains(expected), "expected {expected:?} in {said}");
        assert!(said.contains("config/config.toml:") && said.len() < 3_000, "{said}");
        assert!(!said.contains('\u{1b}') && !said.contains("\nDETECTED"), "{said}");
    }
}

/// The alerts of a detector that alerts on every tick fill a short stream. Those of another one are rare: before, all of
/// them were pushed out of it.
#[test]
fn a_noisy_detector_leaves_the_alerts_of_the_others_in_the_stream() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(&probe());
    let noisy = |alerts: &str, own: &str| {
        project.configure_with(
            "batch = 100",
            &format!("[alerts]\nlog = false\nmaxlen = 2000\n{alerts}\n[detectors.noisy]\nplugin = \"probe\"\n{own}\n"),
        );
    };
    // Twenty minutes of market time.
    noisy("keep_minutes = 100", "");
    project.feed(20, 40_000, &[]);
    let mut host = project.start_owner();
    redis.wait_processed(15_000u64);
    host.kill();
    let run = project.output(&["run", "--drain"]);
    let log = text(&run.stderr) + &text(&run.stdout);
    assert!(has_event(&log, "alerts_over_limit") && log.contains("alerts.maxlen / alerts.keep_minutes"), "{log}");
    let alerts = redis.alerts();
    let of = |alerts: &[Alert], noisy: bool| -> Vec<Alert> {
        alerts.iter().filter(|alert| (alert["detector"] == "noisy") == noisy).cloned().collect()
    };
    // Live over a kill, with another number of workers, and without the others: the same alerts.
    project.write_config(&format!(
        "[stream]\nurl = \"{}\"\n[engine]\nworkers = 1\n[alerts]\nlog = false\nmaxlen = 2000\nkeep_minutes = 100\n\
         [detectors.noisy]\nplugin = \"probe\"\n",
        redis.url()
    ));
    assert_eq!(difference(of(&alerts, true), project.reference(&redis)), Difference::default());
    let minutes: BTreeMap<u64, usize> = of(&alerts, true).iter().fold(BTreeMap::new(), |mut minutes, alert| {
        *minutes.entry(alert["time"].parse::<u64>().unwrap() / 60_000_000_000).or_default() += 1;
        minutes
    });
    assert!(minutes.len() > 10 && minutes.values().all(|count| *count <= 20), "{minutes:?}");
    assert_eq!(redis.totals()["held_back"] as usize, 40_000 - of(&alerts, true).len());
    project.configure("[alerts]\nlog = false\n");
    let others = of(&alerts, false);
    assert!(!others.is_empty());
    let group = [("TICKHOUND_STREAM__GROUP", "alone"), ("TICKHOUND_ALERTS__STREAM", "alerts:alone")];
    let alone = project.command(&["run", "--drain"]).envs(group).output().unwrap();
    assert!(alone.status.success());
    let alone: Vec<Alert> = redis.paged("alerts:alone").collect();
    assert_eq!(difference(others, alone), Difference::default());
}
