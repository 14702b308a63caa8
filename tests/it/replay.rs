//! `tickhound replay`: what is tried on recorded ticks is what happens live.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use parquet::record::Field;
use serde_json::Value;

use crate::{
    browser::Browser,
    support::{Alert, Project, Redis, contents, misbehaving, shipped, text},
};

/// Enough market time (20 minutes) for both detectors to warm up and find something.
const SIMULATED: [&str; 6] = ["replay", "--simulate", "--symbols", "12", "--count", "24000"];

/// A project that no server stands behind.
fn project() -> Project {
    Project::at("redis://127.0.0.1:1".into())
}

fn simulated<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&SIMULATED, more].concat()
}

fn summary(project: &Project, args: &[&str]) -> Value {
    serde_json::from_str(&project.run(&[args, &["--json"]].concat())).unwrap()
}

/// Alerts of JSON lines, as the stream holds them: every value a text.
fn alerts(file: &Path) -> Vec<Alert> {
    let lines = fs::read_to_string(file).unwrap();
    let alert = |line: &str| {
        let line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        let value = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        line.into_iter().map(|(name, it)| (name, value(it))).collect()
    };
    lines.lines().map(alert).collect()
}

/// Without what only entries of a stream have.
fn without_ids(mut alerts: Vec<Alert>) -> Vec<Alert> {
    alerts.iter_mut().for_each(|alert| alert.retain(|name, _| name != "id" && name != "entry"));
    alerts
}

/// A reader that closed stdout stopped the whole replay: a file and a report had the beginning only, with exit code 0.
#[test]
fn a_closed_output_ends_a_replay_only_if_nothing_else_is_written() {
    let project = project();
    project.run(&simulated(&["--out", "whole.jsonl"]));
    let closed = |more: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = project.command(&simulated(more)).stdout(writer).stderr(std::process::Stdio::piped()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{more:?}");
        text(&output.stderr)
    };
    let said = closed(&["--out", "-", "--out", "all.jsonl", "--report", "all.html"]);
    assert!(!said.contains("stopped"), "{said}");
    assert_eq!(fs::read(project.path("all.jsonl")).unwrap(), fs::read(project.path("whole.jsonl")).unwrap());
    assert!(fs::read_to_string(project.path("all.html")).unwrap().contains("\"stopped\":false"));
    let said = closed(&["--report", "alone.html", "--out", "-"]);
    assert!(!said.contains("stopped"), "{said}");
    let said = closed(&["--out", "-"]);
    assert!(said.contains("stopped"), "nobody reads further alerts: {said}");
}

/// The day of a feed, worked live, then replayed from the stream, then from a file of the same ticks.
#[test]
fn live_and_replay_raise_the_same_alerts() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[alerts]\njsonl = \"logs/alerts.jsonl\"");
    project.feed(12, 24_000, &["--layout", "flat"]);
    project.run(&["run", "--drain"]);
    let mut live = alerts(&project.path("logs/alerts.jsonl"));
    assert!(live.len() > 20, "{}", live.len());
    // A replay leaves out which build raised an alert, so that builds can be compared.
    live.iter_mut().for_each(|alert| alert.retain(|name, _| name != "sha256" && name != "params_hash"));

    project.run(&["replay", "--stream", "--out", "stream.jsonl"]);
    assert_eq!(contents(&alerts(&project.path("stream.jsonl"))), contents(&live), "ids and all");

    project.run(&simulated(&["--out", "simulated.jsonl"]));
    let simulated = alerts(&project.path("simulated.jsonl"));
    assert_eq!(contents(&without_ids(simulated)), contents(&without_ids(live)));
}

#[test]
fn a_part_of_the_stream_is_replayed_and_nothing_is_changed() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.feed(2, 1000, &[]);
    let mut connection = redis.connect();
    let ids: Vec<(String, Vec<String>)> =
        redis::cmd("XRANGE").arg(crate::support::STREAM).arg("-").arg("+").query(&mut connection).unwrap();
    let keys = |connection: &mut redis::Connection| -> u64 { redis::cmd("DBSIZE").query(connection).unwrap() };
    let before = keys(&mut connection);
    let part = summary(&project, &["replay", "--stream", "--from", &ids[100].0, "--to", &ids[299].0]);
    assert_eq!(part["entries"], 200);
    assert_eq!(keys(&mut connection), before);
}

#[test]
fn workers_and_batches_make_no_difference_to_a_byte() {
    let project = project();
    let mut reference = None;
    for (workers, batch) in [("1", "1000"), ("3", "7"), ("2", "1"), ("5", "5000")] {
        project.run(&simulated(&["--workers", workers, "--batch", batch, "--out", "alerts.jsonl"]));
        let bytes = fs::read(project.path("alerts.jsonl")).unwrap();
        assert!(!bytes.is_empty());
        assert!(*reference.get_or_insert_with(|| bytes.clone()) == bytes, "{workers} workers, batches of {batch}");
    }
}

#[test]
fn every_form_of_the_same_ticks_gives_the_same_alerts() {
    let project = project();
    let csv = ticks_as_csv();
    fs::write(project.path("ticks.csv"), &csv).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, csv.as_bytes()).unwrap();
    fs::write(project.path("ticks.csv.gz"), gzip.finish().unwrap()).unwrap();
    fs::create_dir(project.path("day")).unwrap();
    let lines = csv.lines().skip(1).map(|line| {
        let [symbol, time, price, quantity] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        format!("{{\"symbol\":\"{symbol}\",\"time\":{time},\"price\":{price},\"quantity\":{quantity}}}\n")
    });
    fs::write(project.path("day/ticks.jsonl"), lines.collect::<String>()).unwrap();
    let mut reference = None;
    for file in ["ticks.csv", "ticks.csv.gz", "day"] {
        project.run(&["replay", file, "--out", "alerts.jsonl"]);
        let alerts = fs::read_to_string(project.path("alerts.jsonl")).unwrap();
        assert!(alerts.lines().count() > 3, "{file}: {alerts}");
        assert_eq!(*reference.get_or_insert_with(|| alerts.clone()), alerts, "{file}");
    }
}

/// Half an hour of one symbol: a calm walk with a jump on volume every five minutes.
fn ticks_as_csv() -> String {
    let start = 1_763_958_600_u64;
    let mut csv = "symbol,time,price,quantity\n".to_owned();
    let mut level = 100.0;
    for second in 0..3600_u64 {
        let is_jump = second > 900 && second % 300 < 10;
        level += if is_jump { 0.4 } else { 0.0 };
        let price = level + f64::from((second * 7919 % 13) as u32) * 0.01;
        let quantity = if is_jump { 900 } else { 10 + second % 5 };
        csv += &format!("SBIN,{},{price:.2},{quantity}\n", start + second);
    }
    csv
}

#[test]
fn alerts_are_written_as_lines_table_and_parquet() {
    let project = project();
    project.run(&simulated(&["--out", "a.jsonl", "--out", "a.csv", "--out", "a.parquet"]));
    let lines = alerts(&project.path("a.jsonl"));
    let mut table = csv::Reader::from_path(project.path("a.csv")).unwrap();
    assert_eq!(table.headers().unwrap().iter().next(), Some("id"));
    let ids: Vec<String> = table.records().map(|row| row.unwrap()[0].to_owned()).collect();
    assert_eq!(ids, lines.iter().map(|alert| alert["id"].clone()).collect::<Vec<_>>());
    let file = fs::File::open(project.path("a.parquet")).unwrap();
    let rows = parquet::file::serialized_reader::SerializedFileReader::new(file).unwrap();
    let rows: Vec<parquet::record::Row> = rows.into_iter().map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), lines.len());
    // The evidence is an object in a line, and its text in a column.
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text));
    for (row, line) in rows.iter().zip(&lines) {
        for (name, value) in row.get_column_iter() {
            // A line leaves out what only alerts of groups have; a table has a column for it.
            let expected = line.get(name.as_str()).map_or("", String::as_str);
            match value {
                Field::Str(text) => assert_eq!(parsed(text), parsed(expected), "{name}"),
                Field::Double(number) => assert_eq!(*number, expected.parse::<f64>().unwrap(), "{name}"),
                Field::Long(nanos) => assert_eq!(nanos.to_string(), expected, "{name}"),
                other => panic!("{name}: {other}"),
            }
        }
    }
    let left: Vec<PathBuf> = fs::read_dir(project.path(".")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none_or(|ending| ending != "part")), "{left:?}");
}

#[test]
fn a_wasm_file_is_tried_with_parameters_without_any_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let plugin = shipped("plugins/breakout.wasm");
    let plugin = plugin.to_str().unwrap();
    let run = |more: &[&str]| {
        let args = simulated(&[&["--detector", plugin, "--json"], more].concat());
        Command::new(env!("CARGO_BIN_EXE_tickhound")).args(args).current_dir(folder.path()).output().unwrap()
    };
    let count = |more: &[&str]| {
        let output = run(more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
        summary["detectors"]["breakout"]["alerts"].as_u64().unwrap()
    };
    let (usual, strict) = (count(&[]), count(&["--params", "buffer_atr=5"]));
    assert!(usual > strict, "{usual}, {strict}");

    let wrong = run(&["--params", "bufer_atr=5"]);
    assert_eq!(wrong.status.code(), Some(1));
    let said = text(&wrong.stderr);
    assert!(said.contains("did you mean `buffer_atr`?"), "{said}");
}

#[test]
fn a_sweep_counts_what_single_replays_count() {
    let project = project();
    let args = simulated(&["--detector", "breakout"]);
    let swept = summary(&project, &[&args[..], &["--sweep", "window_s=60,300", "--sweep", "buffer_atr=0,1"]].concat());
    let points = swept["sweep"].as_array().unwrap();
    assert_eq!(points.len(), 4);
    for point in points {
        let params = point["params"].as_object().unwrap();
        let given: Vec<String> = params.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let more: Vec<&str> = given.iter().flat_map(|given| ["--params", given]).collect();
        let single = summary(&project, &[&args[..], &more].concat());
        assert_eq!(point["alerts"], single["detectors"]["breakout"]["alerts"], "{given:?}");
    }
}

/// Each shuffled run is counted, and the same seed shuffles in the same way.
#[test]
fn shuffled_ticks_are_processed_beside_the_real_ones() {
    let project = project();
    let run = || summary(&project, &simulated(&["--surrogate", "2"]))["detectors"]["breakout"].clone();
    let first = run();
    assert_eq!(first["alerts_shuffled"].as_array().unwrap().len(), 2);
    assert_eq!(first["alerts_shuffled"], run()["alerts_shuffled"]);
}

#[test]
fn a_detector_that_fails_is_counted_and_the_others_are_not_disturbed() {
    let project = project();
    let alone = summary(&project, &SIMULATED);
    project.add_plugin(misbehaving());
    project.configure(
        "[plugins]\nfaults = 1000\n\
         [detectors.bad]\nplugin = \"misbehaving\"\nparams = { how = \"panic\", at = 1000000, price = 31.45 }",
    );
    let beside = summary(&project, &SIMULATED);
    assert!(beside["detectors"]["bad"]["faults"].as_u64().unwrap() > 0, "{beside}");
    assert_eq!(beside["detectors"]["breakout"]["alerts"], alone["detectors"]["breakout"]["alerts"]);
    assert_eq!(beside["detectors"]["breakout"]["faults"], 0);
}

/// A detector that failed on every tick was called a thousand times, with a line in the log for each.
#[test]
fn a_replay_ends_at_the_fault_budget_and_says_so_once() {
    let project = project();
    project.add_plugin(misbehaving());
    let failing = ["--params", "how=panic", "--params", "at=1000000", "--params", "price=31.45"];
    let args = [&SIMULATED[..], &["--detector", "misbehaving"], &failing].concat();
    let output = project.output(&args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(text(&output.stdout).is_empty(), "{}", text(&output.stdout));
    let reason = "misbehaving failed on 4 ticks, and a replay tolerates 3 (plugins.faults); the first was entry ";
    assert_eq!(said.matches(reason).count(), 1, "{said}");
    assert_eq!((said.matches("src/lib.rs:").count(), said.lines().count()), (1, 1), "{said}");

    // Who wants to see all of them can have them.
    let counted = project.command(&args).env("TICKHOUND_PLUGINS__FAULTS", "1000000").output().unwrap();
    assert!(counted.status.success(), "{}", text(&counted.stderr));
    assert!(text(&counted.stdout).contains("ticks on which misbehaving failed"), "{}", text(&counted.stdout));
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let project = project();
    fs::write(project.path("other.csv"), "a,b\n1,2\n").unwrap();
    fs::write(project.path("empty.csv"), "symbol,time,price\n").unwrap();
    fs::write(project.path("no.wasm"), "not wasm").unwrap();
    fs::write(project.path("cut.parquet"), "PAR1 and no more").unwrap();
    let cases: [(&[&str], &str); 9] = [
        (&["missing.csv"], "missing.csv: can't open the file"),
        (&["other.csv"], "name the columns with --map"),
        (&["empty.csv"], "empty.csv: holds no tick"),
        (&["cut.parquet"], "cut.parquet"),
        (&["--stream"], "can't read the stream"),
        (&["--simulate", "--detector", "breakot"], "breakot"),
        (&["--simulate", "--detector", "no.wasm"], "no.wasm"),
        (
            &["--simulate", "--count", "10", "--params", "window_s=1"],
            "need exactly one detector; name it with --detector",
        ),
        (&["--simulate", "--count", "10", "--out", "alerts.txt"], "ends in .jsonl, .csv or .parquet"),
    ];
    for (args, expected) in cases {
        let output = project.output(&[&["replay"], args].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(expected), "{args:?}: {said}");
    }
}

#[test]
fn the_report_draws_its_charts_in_a_browser_without_an_error() {
    let project = project();
    project.run(&simulated(&["--report", "day.html", "--surrogate", "1"]));
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&format!("file://{}", project.path("day.html").display()));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(browser.eval("document.querySelectorAll('canvas').length"), 3);
    let page = browser.text("body");
    for part in ["24,000 ticks of 12 symbols", "breakout", "momentum"] {
        assert!(page.contains(part), "{part} is not on the page: {page}");
    }
    assert_ne!(browser.eval("document.querySelectorAll('option').length"), 0);
}

/// Most of the axis of three days was nights, and its labels were the same again and again.
#[test]
fn the_reports_axis_leaves_nights_out() {
    let project = project();
    project.add_plugin(misbehaving());
    let mut csv = "symbol,time,price,quantity\n".to_owned();
    // From Friday 21 to Tuesday 25 November 2025, 09:15 to 15:30 in India.
    for day in [0, 3, 4] {
        for minute in 0..375 {
            let time = 1_763_696_700 + day * 86_400 + minute * 60;
            csv += &format!("BANKNIFTY25NOV57800CE,{time},{},1\n", 100 + (minute * 7 + day) % 40);
        }
    }
    fs::write(project.path("days.csv"), csv).unwrap();
    project.run(&["replay", "days.csv", "--detector", "misbehaving", "--report", "days.html"]);
    let Some(mut browser) = Browser::start() else { return };
    browser.live_in("America/New_York");
    for width in [1280, 390] {
        browser.size(width, 900);
        browser.open(&format!("file://{}", project.path("days.html").display()));
        let labels = |browser: &mut Browser, chart: usize| -> Vec<String> {
            let labels = browser.eval(&format!(
                "charts[{chart}].getModel().getComponent('xAxis').axis.getViewLabels().map(label => label.formattedLabel)"
            ));
            labels.as_array().unwrap().iter().map(|label| label.as_str().unwrap().to_owned()).collect()
        };
        let shown = labels(&mut browser, 0);
        let days: Vec<&String> = shown.iter().filter(|label| label.ends_with("Nov")).collect();
        assert_eq!(days, ["21 Nov", "24 Nov", "25 Nov"], "{width} px: {shown:?}");
        assert!(shown.windows(2).all(|two| two[0] != two[1]), "{width} px: {shown:?}");
        let hours = browser.eval("charts[0].getOption().xAxis[0].max / 3600e3").as_f64().unwrap();
        assert!((18.0..20.0).contains(&hours), "three days of 6 hours and a quarter, not {hours} hours");
        assert_eq!(browser.eval("charts[0].getOption().series[0].markLine.data.length"), 2, "a mark at each night");
        assert_eq!(
            browser.eval("charts[0].getOption().series[0].data.filter(([, price]) => price === null).length"),
            2
        );
        assert_eq!(browser.eval("charts[0].getOption().xAxis[0].name"), "IST");
        // An alert is where its price is.
        let apart = browser.eval(
            "(([line, alerts]) => alerts.data.filter(({ value: [at] }) => !line.data.some(([place]) => Math.abs(place - at) < 60e3)).length) \
             (charts[0].getOption().series)",
        );
        assert_eq!(apart, 0);
        let bars = browser.eval("charts[1].getOption().xAxis[0].data");
        let bars: Vec<&str> = bars.as_array().unwrap().iter().map(|bar| bar.as_str().unwrap()).collect();
        let all = bars.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(all == bars.len() && bars.len() <= 121 && bars[0].starts_with("21 Nov 09:"), "{bars:?}");
        let counted = browser.eval("charts[1].getOption().series[0].data.reduce((sum, count) => sum + count, 0)");
        assert_eq!(counted, browser.eval("page.alerts.length"), "each alert is in a bar");
        // Zoomed in, there are times.
        browser.eval("charts[0].dispatchAction({ type: 'dataZoom', start: 40, end: 41 }); 0");
        let times = labels(&mut browser, 0);
        assert!(times.len() >= 2 && times.iter().all(|time| time.contains(':')), "{width} px: {times:?}");
        assert!(times.windows(2).all(|two| two[0] != two[1]), "{width} px: {times:?}");
        let wide = browser.eval("document.documentElement.scrollWidth").as_u64().unwrap();
        assert!(wide <= u64::from(width), "nothing to scroll sideways: {wide} px");
    }
    let head = browser.text("#head");
    assert!(head.contains("21 Nov 2025, 09:15:00 to 25 Nov 2025, 15:29:00 IST (Asia/Kolkata)"), "{head}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// The symbol `<!--<script>` used to swallow the rest of the page, which then showed nothing at all.
#[test]
fn symbols_that_look_like_markup_are_text_in_the_report() {
    let symbols = [
        "<!--<SCRIPT>",
        "</SCRIPT><SCRIPT>WINDOW.OWNED=1</SCRIPT>",
        "<IMG SRC=X ONERROR=ALERT(1)>",
        "__PROTO__",
        "'\"&QUOT;`${1}",
        "/*DATA*/",
    ];
    let project = project();
    project.add_plugin(misbehaving());
    let mut csv = "symbol,time,price,quantity\n".to_owned();
    for second in 0..5 {
        for symbol in symbols {
            csv += &format!("\"{}\",{},{},1\n", symbol.replace('"', "\"\""), 1_763_959_530 + second, 100 + second);
        }
    }
    fs::write(project.path("day.csv"), csv).unwrap();
    project.run(&["replay", "day.csv", "--detector", "misbehaving", "--report", "day.html"]);
    let Some(mut browser) = Browser::start() else { return };
    browser.open(&format!("file://{}", project.path("day.html").display()));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    let shown = browser.eval("[...document.querySelectorAll('option')].map(option => option.value).sort()");
    let mut expected = symbols;
    expected.sort_unstable();
    assert_eq!(shown, Value::from(expected.to_vec()));
    for symbol in symbols {
        browser.eval(&format!(
            "choice.value = {}; choice.dispatchEvent(new Event('change')); \
             charts[0].dispatchAction({{ type: 'showTip', seriesIndex: 1, dataIndex: 0 }}); 0",
            Value::from(symbol)
        ));
        browser.wait_until(
            &format!("the price of {symbol} has its alerts, and one is explained"),
            &format!("charts[0].getOption().series[1].data.length === 5 && document.body.textContent.includes('MISBEHAVING ' + {}) || document.body.textContent.includes('misbehaving ' + {0})", Value::from(symbol)),
        );
    }
    assert_eq!(browser.eval("document.querySelectorAll('img').length"), 0);
    assert_eq!(browser.eval("document.querySelectorAll('script').length"), 3);
    assert_eq!(browser.eval("document.querySelectorAll('canvas').length"), 3);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    // Even what gets into the page as a script does not run.
    browser.eval(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.owned = 1' })); 0",
    );
    assert_eq!(browser.eval("window.owned === undefined"), true);
}
