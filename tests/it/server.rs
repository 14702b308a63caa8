//! What a running host shows over HTTP, asked as its users ask it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::{
    ALERTS, Host, Project, Redis, SHADOW_ALERTS, STREAM, free_port, has_event_with, shipped, text, wait_for,
};

const TOKEN: &str = "a-token-that-nobody-guesses";

/// A host with a server, and where it is.
pub struct Serving {
    pub host: Host,
    pub address: String,
}

impl Serving {
    pub fn start(project: &Project) -> Self {
        Self::start_with(project, &[])
    }

    fn start_with(project: &Project, variables: &[(&str, &str)]) -> Self {
        let address = format!("127.0.0.1:{}", free_port());
        let mut all = vec![("TICKHOUND_SERVER__LISTEN", address.as_str())];
        all.extend(variables);
        let host = project.start_with(&["run"], &all);
        let serving = Self { host, address };
        wait_for("the server listens", || TcpStream::connect(&serving.address).ok());
        serving
    }

    /// Sends these lines as they are; returns the status, the head and the body.
    fn send(&self, lines: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(format!("{lines}Connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", self.address));
        (status, body)
    }

    fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn error(&self, path: &str) -> (u16, String) {
        let (status, body) = self.get(path);
        let error: Value = serde_json::from_str(&body).unwrap();
        (status, error["error"].as_str().unwrap().to_owned())
    }

    fn metrics(&self) -> BTreeMap<String, f64> {
        samples(&self.get("/metrics").1)
    }

    fn listen(&self, path: &str, more: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", self.address).unwrap();
        BufReader::new(stream)
    }
}

/// Series with their values.
fn samples(metrics: &str) -> BTreeMap<String, f64> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(series, value)| (series.to_owned(), value.parse().unwrap())).collect()
}

/// The next alert of an open stream: its id there, and itself.
fn next_alert(stream: &mut BufReader<TcpStream>) -> (String, Value) {
    let (mut id, mut line) = (None, String::new());
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream goes on");
        if let Some(text) = line.trim_end().strip_prefix("id: ") {
            id = Some(text.to_owned());
        }
        if let Some(data) = line.strip_prefix("data: ") {
            return (id.expect("the id comes before the data"), serde_json::from_str(data).unwrap());
        }
    }
}

/// Ticks of 20 symbols, processed, with alerts.
fn process_ticks(redis: &Redis, project: &Project) {
    project.feed(20, 20_000, &[]);
    project.run(&["run", "--drain"]);
    assert!(redis.alerts().len() > 20, "detectors have found something");
}

#[test]
fn everything_is_reported_and_agrees_with_redis() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    project.feed(20, 20_000, &[]);
    let status = wait_for("all ticks are processed", || {
        let status = serving.json("/api/status");
        (status["counters"]["completed"] == 20_000 && status["behind_ms"] == 0).then_some(status)
    });
    assert_eq!((&status["role"], &status["verdict"]), (&Value::from("owner"), &Value::from("healthy")));
    assert_eq!(status["counters"]["backlog"], 0);
    let asked: Value = serde_json::from_str(&project.run(&["status", "--json"])).unwrap();
    assert_eq!(status["counters"]["alerts"], asked["survey"]["totals"]["alerts"]);
    let workers = status["workers"].as_array().unwrap();
    let rows: u64 = workers.iter().map(|worker| worker["ticks"].as_u64().unwrap()).sum();
    assert!(rows >= 20_000 && workers.iter().all(|worker| worker["queued"] == 0), "{workers:?}");

    let history = serving.json("/api/history");
    let columns = history.as_object().unwrap();
    let lengths: Vec<usize> = columns.values().map(|column| column.as_array().unwrap().len()).collect();
    assert!(lengths[0] > 0 && lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");

    let metrics = serving.metrics();
    let alerts = redis.alerts();
    assert_eq!(metrics["tickhound_ticks_completed_total"], 20_000.0);
    assert_eq!(metrics["tickhound_alerts_total"], alerts.len() as f64);
    assert_eq!(metrics["tickhound_alert_latency_seconds_count"], alerts.len() as f64);
    assert_eq!(metrics["tickhound_entry_latency_seconds_count"], 20_000.0);
    assert_eq!(metrics["tickhound_group_entries_total"], redis.totals()["entries"] as f64);
    assert_eq!(metrics["tickhound_role{role=\"owner\"}"], 1.0);
    assert!(metrics["tickhound_step_seconds_count"] >= metrics["tickhound_group_commits_total"]);

    let detectors = serving.json("/api/detectors");
    for detector in detectors["detectors"].as_array().unwrap() {
        let name = detector["name"].as_str().unwrap();
        let raised = alerts.iter().filter(|alert| alert["detector"] == name).count();
        assert_eq!(detector["alerts"], raised, "{name}");
        let share = detector["core_share"].as_f64().unwrap();
        assert!((0.0..=workers.len() as f64).contains(&share), "{name}: {share}");
        assert!(detector["ticks"].as_u64().unwrap() >= 20_000 && detector["ns_per_tick"].as_u64().unwrap() > 0);
        assert_eq!(metrics[&format!("tickhound_detector_alerts_total{{detector=\"{name}\"}}")], raised as f64);
    }
    let times: f64 = ["breakout", "momentum"]
        .map(|name| metrics[&format!("tickhound_detector_busy_seconds_total{{detector=\"{name}\"}}")])
        .iter()
        .sum();
    let busy: f64 = (0..workers.len())
        .map(|shard| metrics[&format!("tickhound_worker_busy_seconds_total{{shard=\"{shard}\"}}")])
        .sum();
    assert!(0.0 < times && times <= busy, "{times} of {busy}");
    assert_eq!(serving.get("/healthz").0, 200);
    assert_eq!(serving.json("/readyz")["ready"], true);
    let (status, head, _) = serving.send(&format!("GET / HTTP/1.1\r\nHost: {}\r\n", serving.address));
    assert!(status == 200 && head.contains("content-type: text/html") && head.contains("default-src 'none'"), "{head}");
}

#[test]
fn alerts_are_filtered_and_paged_without_missing_one() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    process_ticks(&redis, &project);
    let serving = Serving::start(&project);
    let alerts = redis.alerts();
    let mut ids: Vec<String> = Vec::new();
    let mut before = String::new();
    loop {
        let page = serving.json(&format!("/api/alerts?limit=7{before}"));
        ids.extend(page["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        before = format!("&before={next}");
    }
    let newest_first: Vec<&String> = alerts.iter().rev().map(|alert| &alert["id"]).collect();
    assert_eq!(ids.iter().collect::<Vec<_>>(), newest_first);

    let symbol = &alerts[0]["symbol"];
    let wanted = alerts.iter().filter(|alert| {
        alert["detector"] == "momentum"
            && alert["symbol"] == *symbol
            && alert["confidence"].parse::<f64>().unwrap() >= 0.7
            && alert["stale"] == "0"
    });
    let found = serving
        .json(&format!("/api/alerts?detector=momentum&symbol={symbol}&min_confidence=0.7&stale=false&limit=1000"));
    assert_eq!(found["alerts"].as_array().unwrap().len(), wanted.count());
    assert_eq!(serving.json("/api/alerts?stale=true")["alerts"], Value::Array(Vec::new()));

    let newest = &serving.json("/api/alerts?limit=1")["alerts"][0];
    let expected = alerts.last().unwrap();
    assert_eq!(newest["confidence"].as_f64().unwrap(), expected["confidence"].parse::<f64>().unwrap());
    assert_eq!(newest["time"].as_u64().unwrap(), expected["time"].parse::<u64>().unwrap());
    assert_eq!(newest["evidence"], serde_json::from_str::<Value>(&expected["evidence"]).unwrap());
    assert!(newest["recovered"].is_boolean() && newest["lag_ms"].is_u64());
}

#[test]
fn a_chart_has_the_prices_of_its_symbol_around_the_alert() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    process_ticks(&redis, &project);
    let serving = Serving::start(&project);
    let alert = redis.alerts().pop().unwrap();
    let (entry, symbol) = (&alert["entry"], &alert["symbol"]);
    let chart = serving.json(&format!("/api/chart?entry={entry}&symbol={symbol}"));
    let time_ms = alert["time"].parse::<u64>().unwrap() / 1_000_000;
    let price: f64 = alert["price"].parse().unwrap();
    let points = chart["points"].as_array().unwrap();
    assert!(points.iter().any(|point| point[0] == time_ms && point[1] == price), "the alert's own tick is among them");
    assert!(points.windows(2).all(|two| two[0][0].as_u64() <= two[1][0].as_u64()), "in order");
    // The market of the feed has gone by within a minute, so the whole stream is in the span.
    let published = redis.paged(STREAM).filter(|fields| fields.values().any(|value| value.contains(symbol.as_str())));
    assert!(points.len() <= published.count() && points.len() > 100, "{} points", points.len());
    let about = redis.alerts().iter().filter(|alert| alert["symbol"] == *symbol).count();
    assert_eq!((chart["alerts"].as_array().unwrap().len(), &chart["truncated"]), (about, &Value::Bool(false)));
    let narrow = serving.json(&format!("/api/chart?entry={entry}&symbol={symbol}&before_s=0&after_s=0"));
    assert!(narrow["points"].as_array().unwrap().len() < points.len());
    assert_eq!(serving.json(&format!("/api/chart?entry={entry}&symbol=NONE"))["points"], Value::Array(Vec::new()));
}

/// A link in a message may be opened when the list holds the alert no longer.
#[test]
fn an_alert_is_found_by_its_id_in_either_stream() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    process_ticks(&redis, &project);
    let serving = Serving::start(&project);
    let alerts = redis.alerts();
    for alert in [&alerts[0], &alerts[alerts.len() / 2], &alerts[alerts.len() - 1]] {
        let found = serving.json(&format!("/api/alert?id={}", alert["id"]));
        assert_eq!((&found["id"], &found["symbol"]), (&Value::from(&*alert["id"]), &Value::from(&*alert["symbol"])));
    }
    // The alerts of shadows have a stream of their own, and the clock of a producer may be ahead of the server's.
    let _: String = redis.ask(&format!("XADD {SHADOW_ALERTS} * id 1-0/next/0 symbol SHADOWED"));
    let _: String = redis.ask(&format!("XADD {ALERTS} * id 9999999999999-0/breakout/0 symbol AHEAD"));
    for number in 0..300 {
        let _: String = redis.ask(&format!("XADD {ALERTS} * id 5-{number}/breakout/0 symbol LATER"));
    }
    assert_eq!(serving.json("/api/alert?id=1-0/next/0")["symbol"], "SHADOWED");
    assert_eq!(serving.json("/api/alert?id=9999999999999-0/breakout/0")["symbol"], "AHEAD");
    let (status, error) = serving.error("/api/alert?id=1-0/breakout/7");
    let expected =
        "neither alerts:intraday nor alerts:intraday:shadow holds the alert 1-0/breakout/7: it has been trimmed";
    assert!(status == 404 && error.starts_with(expected), "{status} {error}");
    for wrong in ["", "1-0", "x/breakout/0", "/breakout/0", "99999999999999999999-0/breakout/0"] {
        let (status, error) = serving.error(&format!("/api/alert?id={wrong}"));
        assert!(status == 400 && error.contains("expected that of an alert such as"), "{wrong}: {status} {error}");
    }
}

#[test]
fn a_filter_is_a_pattern_of_symbols_as_everywhere_else() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let symbols = ["NIFTY", "BANKNIFTY", "NSE:RELIANCE", "BSE:RELIANCE", "NIFTY25NOV25750PE"];
    for symbol in symbols {
        let _: String = redis
            .ask(&format!("XADD {ALERTS} * id {symbol} detector breakout symbol {symbol} confidence 1 evidence {{}}"));
    }
    for (pattern, expected) in [
        ("nifty", vec!["NIFTY"]),
        ("Nifty*", vec!["NIFTY25NOV25750PE", "NIFTY"]),
        ("reliance", vec!["BSE:RELIANCE", "NSE:RELIANCE"]),
        ("nse:*", vec!["NSE:RELIANCE"]),
        ("nse:rel*", vec!["NSE:RELIANCE"]),
        ("NIF", vec![]),
    ] {
        let page = serving.json(&format!("/api/alerts?symbol={pattern}"));
        let found: Vec<&Value> = page["alerts"].as_array().unwrap().iter().map(|alert| &alert["symbol"]).collect();
        assert_eq!(found, expected, "{pattern}");
        let listed = project.run(&["alerts", "--json", "--symbol", pattern]);
        assert_eq!(listed.lines().count(), expected.len(), "{pattern}: {listed}");
    }
    let mut live = serving.listen("/api/alerts/live?symbol=nse:rel*&detector=break*", "Last-Event-ID: 0-0\r\n");
    assert_eq!(next_alert(&mut live).1["symbol"], "NSE:RELIANCE");
}

/// For a second after Redis had died, a report that all was well was repeated.
#[test]
fn nothing_is_called_healthy_after_the_connection_was_lost() {
    let mut redis = Redis::start_with(&["--appendonly", "yes"]);
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let verdict = || serving.json("/api/status")["verdict"].clone();
    let becomes_healthy = || wait_for("the host is healthy", || (verdict() == "healthy").then_some(()));
    let mut live = serving.listen("/api/alerts/live", "");
    let mut hear = |comment: &str| {
        let mut line = String::new();
        while !line.starts_with(&format!(": {comment}")) {
            line.clear();
            assert!(live.read_line(&mut line).unwrap() > 0, "the stream stays open");
        }
        line
    };
    for _ in 0..3 {
        becomes_healthy();
        redis.kill();
        let comment = hear("lost");
        assert_eq!(verdict(), "unreachable", "right after it was lost");
        assert!(comment.contains("redis at "), "{comment}");
        redis.restart();
        hear("resumed");
    }
    becomes_healthy();
}

/// A proxy in front of the host may pass on the name under which people reach it.
#[test]
fn the_host_of_the_public_url_is_answered() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[server]\npublic_url = \"https://Scanner.example:8443/desk/\"");
    let serving = Serving::start(&project);
    for (host, expected) in [
        ("scanner.example", 200),
        ("SCANNER.EXAMPLE:8443", 200),
        ("127.0.0.1", 200),
        ("attacker.example", 403),
        ("scanner.example.attacker.example", 403),
        ("user@scanner.example", 403),
    ] {
        let (status, _, body) = serving.send(&format!("GET /api/history HTTP/1.1\r\nHost: {host}\r\n"));
        assert_eq!(status, expected, "{host}: {body}");
    }
    project.configure("[server]\npublic_url = \"https://scanner.example/?token=secret\"");
    let check = project.output(&["check"]);
    let error = text(&check.stderr);
    assert!(
        error.contains("server.public_url is `https://scanner.example/?token=secret`, expected an address"),
        "{error}"
    );
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let cases = [
        ("/api/alerts?limit=0", "limit is 0, expected 1 to 1000"),
        ("/api/alerts?limit=many", "limit: expected a whole number from 1 to 1000"),
        ("/api/alerts?min_confidence=2", "min_confidence is 2, expected 0 to 1"),
        ("/api/alerts?min_confidence=NaN", "min_confidence is NaN, expected 0 to 1"),
        ("/api/alerts?stale=maybe", "stale: expected true or false"),
        ("/api/alerts?before=yesterday", "before is `yesterday`, expected the id of an entry such as 1762140000000-0"),
        ("/api/alerts?since=1", "unknown parameter `since`, expected one of"),
        ("/api/status?x=1", "unknown parameter `x`, this takes none"),
        ("/api/chart", "missing parameter `entry`"),
        ("/api/chart?entry=1-1&symbol=A&before_s=86401", "before_s is 86401, expected 0 to 86400 seconds"),
        ("/api/alerts/live?limit=1", "unknown parameter `limit`"),
    ];
    for (path, expected) in cases {
        let (status, error) = serving.error(path);
        assert!(status == 400 && error.starts_with(expected), "{path}: {status} {error}");
    }
    assert_eq!(serving.error("/nothing").0, 404);
    let host = format!("Host: {}\r\n", serving.address);
    let (status, head, body) = serving.send(&format!("POST /api/status HTTP/1.1\r\n{host}Content-Length: 0\r\n"));
    assert!(status == 405 && head.contains("allow: get, head") && body.contains("use GET or HEAD"), "{head}");
    let (status, _, body) = serving.send(&format!("HEAD /api/status HTTP/1.1\r\n{host}"));
    assert_eq!((status, body.as_str()), (200, ""));
    let (status, _, body) = serving.send("GET /api/status HTTP/1.1\r\nHost: attacker.example:9464\r\n");
    assert!(status == 403 && body.contains("Host header"), "a name that was made to lead here: {status} {body}");
    for host in ["localhost:1", "127.0.0.1", "[::1]:9464"] {
        assert_eq!(serving.send(&format!("GET /api/history HTTP/1.1\r\nHost: {host}\r\n")).0, 200, "{host}");
    }
}

/// The one thing that the API changes. Another web site must not be able to, whatever a browser lets it send.
#[test]
fn alerts_are_muted_by_the_page_and_by_nobody_elses() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let address = &serving.address;
    let ask = |method: &str, path: &str, headers: &str, body: &str| -> (u16, Value) {
        let mut stream = TcpStream::connect(address).unwrap();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{headers}");
        stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    };
    let json = "Content-Type: application/json\r\n";
    let own = format!("{json}Origin: http://{address}\r\nSec-Fetch-Site: same-origin\r\n");
    let body = r#"{"symbols":"NIFTY*","detector":"breakout","for":"30m"}"#;
    let (status, made) = ask("POST", "/api/mutes", &own, body);
    let lasts = made["until_ms"].as_u64().unwrap() - made["made_ms"].as_u64().unwrap();
    assert_eq!((status, lasts, &made["symbols"]), (201, 1_800_000, &Value::from("NIFTY*")));
    assert_eq!(ask("POST", "/api/mutes", json, r#"{"symbols":"SBIN"}"#).0, 201, "a client that is no browser");
    let (_, listed) = ask("GET", "/api/mutes", "", "");
    assert_eq!(listed["mutes"].as_array().unwrap().len(), 2, "{listed}");

    for (method, headers, body, expected) in [
        ("POST", format!("{json}Origin: https://evil.example\r\n"), body, 403),
        ("POST", format!("{json}Origin: null\r\n"), body, 403),
        ("POST", format!("{json}Origin: http://{address}\r\nOrigin: https://evil.example\r\n"), body, 400),
        ("POST", format!("{json}Sec-Fetch-Site: cross-site\r\n"), body, 403),
        ("POST", format!("{json}Sec-Fetch-Site: same-site\r\n"), body, 403),
        ("POST", format!("{json}Sec-Fetch-Site: none\r\n"), body, 403),
        ("POST", "Content-Type: text/plain\r\n".to_owned(), body, 415),
        ("POST", String::new(), body, 415),
        ("POST", json.to_owned(), "{}", 400),
        ("POST", json.to_owned(), "", 400),
        ("POST", json.to_owned(), r#"{"symbols":""}"#, 400),
        ("POST", json.to_owned(), r#"{"symbols":"A","for":"-1h"}"#, 400),
        ("POST", json.to_owned(), r#"{"symbols":"A","more":1}"#, 400),
        ("DELETE", "Sec-Fetch-Site: cross-site\r\n".to_owned(), "", 403),
        ("PUT", json.to_owned(), body, 405),
    ] {
        let path = if method == "DELETE" { "/api/mutes?symbols=SBIN" } else { "/api/mutes" };
        let (status, answer) = ask(method, path, &headers, body);
        assert_eq!(status, expected, "{method} {headers}{body}: {answer}");
    }
    for body in ["[]", "7", r#""SBIN""#] {
        let (status, answer) = ask("POST", "/api/mutes", json, body);
        let said = answer.to_string();
        assert!(status == 400 && said.contains("expected an object such as") && !said.contains("struct"), "{said}");
    }
    assert_eq!(ask("POST", "/api/mutes", json, &format!("{{\"symbols\":\"{}\"}}", "A".repeat(5000))).0, 413);
    assert_eq!(ask("POST", "/api/alerts", json, body).0, 405);
    assert_eq!(ask("DELETE", "/api/mutes?symbols=nifty*&detector=breakout", "", "").0, 200);
    assert_eq!(ask("DELETE", "/api/mutes?symbols=nifty*&detector=breakout", "", "").0, 404);
    let (_, listed) = ask("GET", "/api/mutes", "", "");
    assert_eq!(listed["mutes"].as_array().unwrap().len(), 1, "{listed}");
    assert!(project.run(&["mutes"]).starts_with("SBIN: until "));
}

#[test]
fn without_the_token_nothing_is_answered_and_it_is_never_shown() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure(&format!("[server]\ntoken = \"{TOKEN}\""));
    let serving = Serving::start_with(&project, &[("RUST_LOG", "trace")]);
    let ask = |path: &str, header: &str| {
        serving.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{header}", serving.address))
    };
    for path in ["/api/status", "/api/alerts", "/api/alerts/live", "/metrics", "/nothing"] {
        let wrong = format!("Authorization: Bearer {TOKEN}x\r\n");
        for header in ["", "Authorization: Bearer \r\n", "Authorization: Basic eDp5\r\n", &wrong] {
            let (status, head, body) = ask(path, header);
            assert!(status == 401 && head.contains("www-authenticate: bearer"), "{path} {header}: {status}");
            assert!(body.contains("server.token") && !body.contains(TOKEN));
        }
    }
    let mute = format!("POST /api/mutes HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n", serving.address);
    assert_eq!(serving.send(&format!("{mute}Content-Length: 0\r\n")).0, 401, "nobody mutes without the token");
    assert_eq!(ask(&format!("/api/status?token={TOKEN}"), "").0, 401, "a token does not belong into an address");
    for path in ["/", "/healthz"] {
        assert_eq!(ask(path, "").0, 200, "{path} holds no data");
    }
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    for path in ["/api/status", "/metrics"] {
        let (status, _, body) = ask(path, &right);
        assert!(status == 200 && !body.contains(TOKEN), "{path}");
    }
    let check = project.command(&["check"]).env("TICKHOUND_SERVER__LISTEN", "0.0.0.0:9464").output().unwrap();
    assert!(check.status.success(), "{}", text(&check.stderr));
    assert!(!format!("{}{}", text(&check.stdout), text(&check.stderr)).contains(TOKEN));
    project.configure(&format!("[server]\ntoken = \"another-{TOKEN}\""));
    serving.host.wait_for_event_with("restart_required", "server.token needs a restart");
    assert!(!serving.host.log().contains(TOKEN));
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let cases = [
        ("listen = \"0.0.0.0:9464\"", "server.listen is `0.0.0.0:9464`, which others can reach: set server.token"),
        ("listen = \"here\"", "server.listen is `here`, expected address:port such as 127.0.0.1:9464"),
        ("token = \"short\"", "server.token can't be used, expected at least 16"),
        ("port = 1", "unknown field `port`"),
    ];
    for (line, expected) in cases {
        project.configure(&format!("[server]\n{line}"));
        let check = project.command(&["check"]).env_remove("TICKHOUND_SERVER__LISTEN").output().unwrap();
        let error = text(&check.stderr);
        assert!(!check.status.success() && error.contains(expected), "{line}: {error}");
        assert!(error.contains("config.toml:12:1"), "it names the line: {error}");
        assert!(!error.contains("short"), "{error}");
    }
}

#[test]
fn a_listener_gets_each_alert_once_and_resumes_where_it_was() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let mut all = serving.listen("/api/alerts/live", "");
    // It knows where to go on, should it break before the first alert.
    let (mut line, mut opening) = (String::new(), String::new());
    while !(opening.contains("retry:") && opening.contains("id: 0-0\n")) {
        line.clear();
        all.read_line(&mut line).unwrap();
        opening += &line;
    }
    project.feed(20, 20_000, &[]);
    let (first, alert) = next_alert(&mut all);
    assert_eq!(alert["id"], redis.alerts()[0]["id"]);
    wait_for("all ticks are processed", || {
        (serving.json("/api/status")["counters"]["completed"] == 20_000).then_some(())
    });
    let alerts = redis.alerts();
    for expected in &alerts[1..] {
        assert_eq!(next_alert(&mut all).1["id"], expected["id"]);
    }
    let resume = format!("Last-Event-ID: {first}\r\n");
    let mut some = serving.listen("/api/alerts/live?detector=momentum&min_confidence=0.8", &resume);
    let fits = |alert: &&BTreeMap<String, String>| {
        alert["detector"] == "momentum" && alert["confidence"].parse::<f64>().unwrap() >= 0.8
    };
    for expected in alerts[1..].iter().filter(fits) {
        assert_eq!(next_alert(&mut some).1["id"], expected["id"]);
    }
    let head = "Last-Event-ID: soon\r\n";
    let (status, _, body) =
        serving.send(&format!("GET /api/alerts/live HTTP/1.1\r\nHost: {}\r\n{head}", serving.address));
    assert!(status == 400 && body.contains("Last-Event-ID is `soon`"), "{body}");
}

#[test]
fn listeners_that_do_not_listen_cost_no_memory_and_do_not_delay_the_end() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    process_ticks(&redis, &project);
    let mut serving = Serving::start(&project);
    // More than any buffer on the way holds.
    let mut pipe = redis::pipe();
    for number in 0..50_000 {
        pipe.cmd("XADD").arg(ALERTS).arg("*").arg("id").arg(number).arg("version").arg("x".repeat(1000)).ignore();
    }
    pipe.query::<()>(&mut redis.connect()).unwrap();
    let before = serving.host.peak_memory_mib();
    let deaf: Vec<_> = (0..8).map(|_| serving.listen("/api/alerts/live", "Last-Event-ID: 0-0\r\n")).collect();
    let mut reads = serving.listen("/api/alerts/live", "Last-Event-ID: 0-0\r\n");
    for _ in 0..5000 {
        next_alert(&mut reads);
    }
    let after = serving.host.peak_memory_mib();
    assert!(after < before + 30, "{before} MiB before, {after} MiB with listeners that hold up 50 MB each");
    let more: Vec<_> = (0..16).map(|_| serving.listen("/api/alerts/live", "")).collect();
    let mut refused = 0;
    for mut listener in more {
        let mut line = String::new();
        listener.read_line(&mut line).unwrap();
        refused += usize::from(line.contains("503"));
    }
    assert!(refused > 0, "there is an end to listeners");
    let told = Instant::now();
    serving.host.stop();
    assert!(told.elapsed() < Duration::from_secs(10), "open streams don't hold up the end");
    drop(deaf);
}

#[test]
fn a_port_in_use_is_reported_once_and_taken_over_when_it_is_free() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut first = Serving::start(&project);
    wait_for("the first is the owner", || (first.json("/api/status")["role"] == "owner").then_some(()));
    let second = project.start_with(&["run"], &[("TICKHOUND_SERVER__LISTEN", &first.address)]);
    second.wait_for_event("http_address_unavailable");
    second.wait_for_event("standby_started");
    assert!(has_event_with(&second.log(), "http_address_unavailable", "server.listen"), "it says what to do");
    first.host.stop();
    second.wait_for_event_with("http_listening", &format!("http://{}/", first.address));
    let second = Serving { host: second, address: first.address.clone() };
    wait_for("the second is the owner", || (second.json("/api/status")["role"] == "owner").then_some(()));
    assert_eq!(second.host.count_event("http_address_unavailable"), 1);
}

#[test]
fn a_standby_reports_the_owner() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let owner = Serving::start(&project);
    wait_for("it owns", || (owner.json("/api/status")["role"] == "owner").then_some(()));
    let standby = Serving::start(&project);
    wait_for("it stands by", || (standby.json("/api/status")["role"] == "standby").then_some(()));
    project.feed(20, 20_000, &[]);
    wait_for("all is processed", || (owner.json("/api/status")["counters"]["completed"] == 20_000).then_some(()));
    let status = wait_for("the survey is of now", || {
        let status = standby.json("/api/status");
        (status["survey"]["totals"]["entries"] == 20_000).then_some(status)
    });
    assert_eq!((&status["verdict"], &status["counters"]["completed"]), (&Value::from("healthy"), &Value::from(0)));
    assert_eq!(standby.json("/readyz")["ready"], true);
    let detectors = wait_for("the owner's receipt", || {
        let detectors = standby.json("/api/detectors");
        (detectors["detectors"].as_array()?.len() == 2).then_some(detectors)
    });
    assert_eq!(detectors["detectors"][0]["core_share"], Value::Null);
    assert_eq!(standby.json("/api/alerts?limit=1")["alerts"][0]["id"], redis.alerts().last().unwrap()["id"]);
    assert_eq!(standby.metrics()["tickhound_group_entries_total"], 20_000.0);
}

#[test]
fn the_server_outlives_redis() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let mut live = serving.listen("/api/alerts/live", "");
    project.feed(20, 10_000, &[]);
    next_alert(&mut live);
    wait_for("all is processed", || (serving.json("/api/status")["counters"]["completed"] == 10_000).then_some(()));
    redis.kill();
    let status = wait_for("it is known", || {
        let status = serving.json("/api/status");
        (status["verdict"] == "unreachable" && status["role"] == "connecting").then_some(status)
    });
    assert_eq!(status["survey"], Value::Null);
    let (status, body) = serving.get("/readyz");
    assert!(status == 503 && body.contains("connection refused") && body.contains("has lost it"), "{body}");
    assert_eq!(serving.error("/api/alerts").0, 503);
    let metrics = serving.metrics();
    assert_eq!((metrics["tickhound_redis_up"], metrics["tickhound_ticks_completed_total"]), (0.0, 10_000.0));
    assert!(!metrics.contains_key("tickhound_checkpoint_age_seconds"), "nothing old is told as new");
    assert_eq!(serving.get("/healthz").0, 200, "a restart of the host would mend nothing");
    redis.restart();
    wait_for("it is ready again", || (serving.get("/readyz").0 == 200).then_some(()));
    let before = redis.alerts().len();
    project.feed(20, 20_000, &["--seed", "2"]);
    wait_for("alerts come again", || (redis.alerts().len() > before).then_some(()));
    let expected = redis.alerts()[before]["id"].clone();
    while next_alert(&mut live).1["id"] != *expected {}
    assert!(serving.metrics()["tickhound_disconnects_total"] >= 1.0);
}

/// Who asks whether the process works, and would end it, is not kept waiting by those who ask for more.
#[test]
fn it_says_that_it_lives_however_many_wait_for_other_answers() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    wait_for("it owns", || (serving.json("/api/status")["role"] == "owner").then_some(()));
    redis.signal("STOP");
    // They are sent away after a while, and others come.
    let waiting = wait_for("there are too many", || {
        let waiting: Vec<_> = (0..32).map(|_| serving.listen("/api/alerts", "")).collect();
        let (status, body) = serving.get("/api/status");
        (status == 503 && body.contains("concurrent requests")).then_some(waiting)
    });
    assert_eq!(serving.get("/healthz").0, 200);
    redis.signal("CONT");
    drop(waiting);
    wait_for("others are answered again", || (serving.get("/api/alerts").0 == 200).then_some(()));
}

/// A connection to the server from this address of this machine.
fn connect_from(ip: &str, server: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&format!("{ip}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&server.parse::<SocketAddr>().unwrap().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Sends a request on an open connection; returns the status and the body of the answer, whose length it gives.
fn ask(stream: &mut TcpStream, head: &str) -> (u16, String) {
    stream.write_all(head.as_bytes()).unwrap();
    read_answer(&mut BufReader::new(stream))
}

fn read_answer(reader: &mut BufReader<impl Read>) -> (u16, String) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.to_lowercase());
    }
    let status = lines.first().and_then(|line| line.split(' ').nth(1)).expect("an answer").parse().unwrap();
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    (status, text(&body))
}

/// Whether the server has closed the connection.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    match read {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    }
}

/// 64 idle sockets of one client used to take every place, and nobody else was answered.
#[test]
fn idle_sockets_of_one_client_or_many_shut_out_nobody() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let host = format!("Host: {}\r\n", serving.address);
    let status = format!("GET /api/status HTTP/1.1\r\n{host}\r\n");
    let mut neighbour = connect_from("127.0.0.9", &serving.address);
    assert_eq!(ask(&mut neighbour, &status).0, 200);

    let mut idle: Vec<TcpStream> = (0..200).map(|_| connect_from("127.0.0.1", &serving.address)).collect();
    for stream in &mut idle {
        // Some have begun a request. What the server has closed already may refuse it.
        let _ = stream.write_all(b"GET /api/status HTTP/1.1\r\nHost: 127");
    }
    assert_eq!(serving.get("/api/status").0, 200, "the same address is answered");
    assert_eq!(ask(&mut neighbour, &status).0, 200, "another one keeps its connection");
    serving.host.wait_for_event_with("http_connections_exhausted", "server.connections_per_address");
    wait_for("one address holds its share only", || {
        (idle.iter_mut().filter_map(|stream| (!is_closed(stream)).then_some(())).count() <= 32).then_some(())
    });

    let many: Vec<TcpStream> =
        (10..210).map(|last| connect_from(&format!("127.0.0.{last}"), &serving.address)).collect();
    for path in ["/healthz", "/readyz", "/metrics", "/api/status"] {
        assert_eq!(serving.get(path).0, 200, "{path}");
    }
    drop((idle, many));
}

/// The first page of a stream was received whole, however large its entries were: 64 of 4 MiB took half a gigabyte.
#[test]
fn large_entries_that_are_asked_for_take_little_memory() {
    const LARGE: usize = 4 << 20;
    const COUNT: usize = 48;
    let redis = Redis::start();
    let project = Project::new(&redis);
    // The host itself reads none of them.
    project.configure_with("start = \"latest\"\ntimeout_ms = 60000", "[plugins]\nrewarm_s = 0");
    let mut connection = redis.connect();
    let text = "x".repeat(LARGE);
    let mut ids: Vec<String> = Vec::new();
    for number in 0..COUNT {
        let mut add = redis::cmd("XADD");
        add.arg(STREAM).arg("*").arg("symbol").arg("A").arg("ltp").arg(number + 1).arg("note").arg(&text);
        ids.push(add.query(&mut connection).unwrap());
    }
    let serving = Serving::start(&project);
    wait_for("it owns", || (serving.json("/api/status")["role"] == "owner").then_some(()));
    for number in 0..COUNT {
        let mut add = redis::cmd("XADD");
        add.arg(ALERTS).arg("*").arg("id").arg(number).arg("version").arg(&text);
        add.query::<()>(&mut connection).unwrap();
    }
    let before = serving.host.peak_memory_mib();
    let chart = serving.json(&format!("/api/chart?entry={}&symbol=A&before_s=86400&after_s=86400", ids[COUNT / 2]));
    let prices: Vec<f64> = chart["points"].as_array().unwrap().iter().map(|point| point[1].as_f64().unwrap()).collect();
    assert_eq!(
        prices,
        (1..=COUNT).map(|price| price as f64).collect::<Vec<_>>(),
        "none is missing, none is there twice"
    );
    let (mut seen, mut more) = (Vec::new(), String::new());
    loop {
        let page = serving.json(&format!("/api/alerts?limit=1000{more}"));
        seen.extend(page["alerts"].as_array().unwrap().iter().map(|alert| alert["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        more = format!("&before={next}");
    }
    assert_eq!(seen, (0..COUNT).rev().map(|number| number.to_string()).collect::<Vec<_>>());
    let mut live = serving.listen("/api/alerts/live", "Last-Event-ID: 0-0\r\n");
    for number in 0..COUNT {
        assert_eq!(next_alert(&mut live).1["id"], number.to_string());
    }
    let grown = serving.host.peak_memory_mib() - before;
    println!("{COUNT} entries and alerts of {} MiB took {grown} MiB more", LARGE >> 20);
    assert!(grown < 100, "{grown} MiB more");
    let huge = redis::cmd("XADD").arg(STREAM).arg("0-1").arg("note").arg("x".repeat(65 << 20)).to_owned();
    redis::cmd("DEL").arg(STREAM).query::<()>(&mut connection).unwrap();
    huge.query::<()>(&mut connection).unwrap();
    let (status, error) = serving.error("/api/chart?entry=0-1&symbol=A");
    assert!(status == 503 && error.contains("has more than 64 MiB, so it is not read"), "{status} {error}");
}

/// An answer was cut off when others connected: its connection counted as idle while the answer was still being sent.
#[test]
fn an_answer_that_is_being_sent_arrives_whole_whoever_connects() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let mut pipe = redis::pipe();
    for number in 0..1000 {
        pipe.cmd("XADD").arg(ALERTS).arg("*").arg("id").arg(number).arg("version").arg("x".repeat(3000)).ignore();
    }
    pipe.query::<()>(&mut redis.connect()).unwrap();
    // More than the system takes at once, and less.
    for limit in [1000, 40] {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&serving.address.parse::<SocketAddr>().unwrap().into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let host = &serving.address;
        write!(stream, "GET /api/alerts?limit={limit} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        let mut first = [0];
        stream.read_exact(&mut first).unwrap();
        let others: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(&serving.address).unwrap()).collect();
        assert_eq!(serving.get("/healthz").0, 200, "all that have connected have a place");
        let (status, body) = read_answer(&mut BufReader::new(first.as_slice().chain(&mut stream)));
        assert_eq!(status, 200);
        let alerts: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(alerts["alerts"].as_array().unwrap().len(), limit);
        if limit == 40 {
            assert_eq!(stream.read(&mut first).unwrap(), 0, "it had to give way, and was not reset");
        }
        drop(others);
    }
}

#[test]
fn with_every_connection_at_work_health_and_metrics_are_answered() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[server]\nconnections_per_address = 4");
    let serving = Serving::start(&project);
    wait_for("it owns", || (serving.json("/api/status")["role"] == "owner").then_some(()));
    let mut listeners: Vec<_> = (0..4).map(|_| serving.listen("/api/alerts/live", "")).collect();
    assert!(listeners.iter_mut().all(|listener| read_answer(listener).0 == 200));
    // Sockets that take the reserved places and say nothing give way as well.
    let idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(&serving.address).unwrap()).collect();
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(serving.get(path).0, 200, "{path}");
    }
    let (status, error) = serving.error("/api/status");
    assert_eq!(status, 503);
    let expected = "this address uses all 4 connections that it may (server.connections_per_address); only /healthz";
    assert!(error.starts_with(expected), "{error}");
    let mut other = connect_from("127.0.0.2", &serving.address);
    assert_eq!(ask(&mut other, &format!("GET /api/status HTTP/1.1\r\nHost: {}\r\n\r\n", serving.address)).0, 200);
    drop((listeners, idle));
    wait_for("places are given back", || (serving.get("/api/status").0 == 200).then_some(()));
}

#[test]
fn listeners_of_one_address_leave_room_for_another() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let mut open = Vec::new();
    let mut refused = Vec::new();
    for _ in 0..16 {
        let mut listener = serving.listen("/api/alerts/live", "");
        match read_answer(&mut listener) {
            (200, _) => open.push(listener),
            (_, body) => refused.push(body),
        }
    }
    assert_eq!(refused.len(), 4);
    assert!(refused[0].contains("more than 12 concurrent listeners from this address"), "{refused:?}");
    let mut other = connect_from("127.0.0.2", &serving.address);
    write!(other, "GET /api/alerts/live HTTP/1.1\r\nHost: {}\r\n\r\n", serving.address).unwrap();
    assert_eq!(read_answer(&mut BufReader::new(other)).0, 200);
}

/// A listener that reads a few bytes now and then used to hold its place for ever.
#[test]
fn listeners_that_stop_reading_or_read_too_slowly_are_dropped() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    // More than any buffer on the way holds.
    let mut pipe = redis::pipe();
    for number in 0..20_000 {
        pipe.cmd("XADD").arg(ALERTS).arg("*").arg("id").arg(number).arg("version").arg("x".repeat(1000)).ignore();
    }
    pipe.query::<()>(&mut redis.connect()).unwrap();
    let _deaf: Vec<_> = (0..6).map(|_| serving.listen("/api/alerts/live", "Last-Event-ID: 0-0\r\n")).collect();
    let mut slow: Vec<TcpStream> = (0..6)
        .map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            socket.connect(&serving.address.parse::<SocketAddr>().unwrap().into()).unwrap();
            let mut stream = TcpStream::from(socket);
            write!(stream, "GET /api/alerts/live HTTP/1.1\r\nHost: {}\r\nLast-Event-ID: 0-0\r\n\r\n", serving.address)
                .unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let status = || read_answer(&mut serving.listen("/api/alerts/live", "")).0;
    wait_for("no listener has room", || (status() == 503).then_some(()));
    wait_for("those that read slowly are dropped", || {
        slow.retain_mut(|stream| {
            let is_open = match stream.read(&mut [0; 4]) {
                Ok(bytes) => bytes > 0,
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            };
            is_open && stream.take_error().unwrap().is_none()
        });
        slow.is_empty().then_some(())
    });
    wait_for("all places are free again", || {
        let mut listeners: Vec<_> = (0..12).map(|_| serving.listen("/api/alerts/live", "")).collect();
        listeners.iter_mut().all(|listener| read_answer(listener).0 == 200).then_some(())
    });
}

#[test]
fn hostile_requests_get_a_status_and_a_sentence() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let host = format!("Host: {}\r\n", serving.address);
    let port = serving.address.rsplit(':').next().unwrap();
    let long = "x".repeat(10_000);
    let cases = [
        (format!("GET /api/alerts?symbol={long} HTTP/1.1\r\n{host}"), 414, "has 10018 bytes, expected at most 8192"),
        (format!("GET /{long} HTTP/1.1\r\n{host}"), 414, "expected at most 8192"),
        (format!("GET /api/alerts?limit=1&limit=2 HTTP/1.1\r\n{host}"), 400, "`limit` is given more than once"),
        (format!("GET /api/alerts?min_confidence=1e999 HTTP/1.1\r\n{host}"), 400, "min_confidence is inf"),
        (format!("GET /api/alerts?before=99999999999999999999-0 HTTP/1.1\r\n{host}"), 400, "before is `9999"),
        (format!("GET /api/chart?entry=1-0&symbol=A&after_s=1e9 HTTP/1.1\r\n{host}"), 400, "after_s: expected whole"),
        ("GET /api/status HTTP/1.1\r\n".into(), 400, "no Host header"),
        ("GET /api/status HTTP/1.0\r\n".into(), 400, "no Host header"),
        (format!("GET /api/status HTTP/1.1\r\n{host}Host: attacker.example\r\n"), 400, "more than one Host header"),
        (format!("GET http://attacker.example/api/status HTTP/1.1\r\n{host}"), 403, "names another machine"),
        (
            format!("GET http://127.0.0.1:{port}/api/status HTTP/1.1\r\nHost: attacker.example\r\n"),
            403,
            "another machine",
        ),
        ("GET /api/status HTTP/1.1\r\nHost: 127.0.0.1.attacker.example\r\n".into(), 403, "another machine"),
        ("GET /api/status HTTP/1.1\r\nHost: [::1].attacker.example\r\n".into(), 403, "another machine"),
        ("GET /api/status HTTP/1.1\r\nHost: attacker@localhost\r\n".into(), 403, "another machine"),
        ("GET /api/status HTTP/1.1\r\nHost: localhost.\r\n".into(), 403, "another machine"),
        (format!("TRACE / HTTP/1.1\r\n{host}"), 405, "read-only"),
        (format!("OPTIONS * HTTP/1.1\r\n{host}"), 405, "read-only"),
        ("CONNECT attacker.example:443 HTTP/1.1\r\nHost: attacker.example:443\r\n".into(), 405, "read-only"),
    ];
    for (request, expected, sentence) in cases {
        let (status, head, body) = serving.send(&request);
        let shown = &request[..request.len().min(120)];
        assert!(status == expected && body.contains(sentence), "{shown}: {status} {body}");
        assert!(head.contains("application/json") && head.contains("nosniff"), "{shown}: {head}");
    }
}

/// What can't be parsed, or is larger than any request, is refused before anything of ours sees it.
#[test]
fn requests_that_are_none_or_never_end_hold_up_nothing() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let host = format!("Host: {}\r\n", serving.address);
    let port = serving.address.rsplit(':').next().unwrap();
    for (request, expected) in [
        (format!("GET /healthz HTTP/1.1\r\n{host}Cookie: {}\r\n", "x".repeat(200_000)), "431"),
        (format!("GET /api/alerts?symbol={} HTTP/1.1\r\n{host}", "x".repeat(3_000_000)), "431"),
        (format!("GET /healthz HTTP/1.1\r\n{host}{}", "A: b\r\n".repeat(1000)), "431"),
        (format!("GET /healthz HTTP/1.1\r\n{host}: nameless\r\n"), "400"),
        ("\u{0}\u{1}\u{2} nothing that is HTTP\r\n".to_owned(), "400"),
    ] {
        let mut stream = connect_from("127.0.0.1", &serving.address);
        // It may answer, and close, before it has read all.
        let _ = stream.write_all(format!("{request}\r\n").as_bytes());
        let mut line = String::new();
        let read = BufReader::new(stream).read_line(&mut line);
        let shown = &request[..request.len().min(60)];
        assert!(read.is_err() || line.starts_with(&format!("HTTP/1.1 {expected}")), "{shown:?}: {line}");
    }
    let (status, _, _) = serving.send(&format!("GET http://127.0.0.1:{port}/healthz HTTP/1.1\r\n{host}"));
    assert_eq!(status, 200, "an absolute address of this machine");
    assert_eq!(serving.send(&format!("GET /healthz HTTP/1.0\r\n{host}")).0, 200);
    // Requests that arrive together are answered one after the other, each.
    let mut stream = connect_from("127.0.0.1", &serving.address);
    stream.write_all(format!("GET /healthz HTTP/1.1\r\n{host}\r\n").repeat(500).as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    for _ in 0..500 {
        assert_eq!(read_answer(&mut reader).0, 200);
    }
    // A body that is announced and never comes holds up nothing.
    let mut stream = connect_from("127.0.0.1", &serving.address);
    let announced = format!("GET /healthz HTTP/1.1\r\n{host}Content-Length: 1000000000000\r\n\r\n");
    assert_eq!(ask(&mut stream, &announced).0, 200);
    assert_eq!(serving.get("/healthz").0, 200);
}

/// Bytes that come now and then, and requests that never come, end a connection in time.
#[test]
fn a_head_that_does_not_end_is_waited_for_in_vain_only_for_a_while() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let mut idle = connect_from("127.0.0.1", &serving.address);
    let mut kept = connect_from("127.0.0.1", &serving.address);
    assert_eq!(ask(&mut kept, &format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", serving.address)).0, 200);
    let mut slow = connect_from("127.0.0.1", &serving.address);
    let mut letters = "GET /healthz HTTP/1.1\r\nX: ".chars().chain(std::iter::repeat('x'));
    wait_for("all are closed", || {
        let _ = slow.write_all(&[letters.next().unwrap() as u8]);
        (is_closed(&mut idle) && is_closed(&mut kept) && is_closed(&mut slow)).then_some(())
    });
}

#[test]
fn what_another_web_site_has_a_browser_ask_is_refused() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    let ask = |path: &str, headers: &str| {
        serving.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{headers}", serving.address))
    };
    for site in ["cross-site", "same-site", "Cross-Site"] {
        let headers = format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: empty\r\n");
        for path in ["/", "/api/status", "/api/alerts/live", "/metrics", "/healthz", "/assets/main.js"] {
            let (status, _, body) = ask(path, &headers);
            assert!(status == 403 && body.contains("Sec-Fetch-Site"), "{site} {path}: {status} {body}");
        }
        let link = format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n");
        assert_eq!(ask("/", &link).0, 200, "a link to the page");
        assert_eq!(ask("/?detector=breakout", &link).0, 200, "with a filter");
        for path in ["/healthz", "/readyz", "/metrics", "/api/openapi.json"] {
            assert_eq!(ask(path, &link).0, 200, "a link to {path}");
        }
        assert_eq!(ask("/api/status", &link).0, 403, "a link to data");
        let frame = format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n");
        assert_eq!(ask("/", &frame).0, 403, "a frame of another page");
    }
    let twice = "Sec-Fetch-Site: same-origin\r\nSec-Fetch-Site: cross-site\r\n";
    assert_eq!(ask("/api/status", twice).0, 403);
    for own in ["", "Sec-Fetch-Site: same-origin\r\n", "Sec-Fetch-Site: none\r\n", "Sec-Fetch-Site: in-future\r\n"] {
        assert_eq!(ask("/api/status", own).0, 200, "{own}");
    }
}

#[test]
fn a_reload_shows_in_metrics_and_counts_go_on() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    project.feed(20, 5000, &[]);
    let ticks = "tickhound_detector_ticks_total{detector=\"momentum\"}";
    wait_for("all is processed", || (serving.metrics()["tickhound_ticks_completed_total"] == 5000.0).then_some(()));
    let before = serving.metrics()[ticks];
    assert!(before >= 5000.0, "{before}");
    project.configure("[detectors.momentum.params]\nn = 5");
    wait_for("the change is in force", || {
        let metrics = serving.metrics();
        (metrics["tickhound_generation"] == 2.0 && metrics["tickhound_reloads_total{result=\"in_force\"}"] >= 1.0)
            .then_some(())
    });
    project.feed(20, 5000, &["--seed", "3"]);
    wait_for("all is processed", || (serving.metrics()["tickhound_ticks_completed_total"] == 10_000.0).then_some(()));
    assert!(serving.metrics()[ticks] >= before + 5000.0, "a new version goes on counting");
    project.configure("[detectors.momentum.params]\nmm = 5");
    wait_for("the change is refused", || {
        let metrics = serving.metrics();
        (metrics["tickhound_reload_refused"] == 1.0 && metrics["tickhound_reloads_total{result=\"refused\"}"] == 1.0)
            .then_some(())
    });
    assert!(serving.json("/api/detectors")["refusal"]["reason"].as_str().unwrap().contains("mm"));
}

#[test]
fn repairs_and_dead_letters_are_counted_by_kind() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut connection = redis.connect();
    let now = 1_763_959_530_000_u64;
    for fields in [
        vec![("symbol", "A".to_owned()), ("ltp", "1".into()), ("timestamp", now.to_string())],
        vec![("symbol", "A".to_owned()), ("ltp", "1".into())],
        vec![("symbol", "A".to_owned()), ("ltp", "1".into()), ("timestamp", (now - 5000).to_string())],
        vec![("symbol", "B".to_owned()), ("oi", "5".into()), ("timestamp", now.to_string())],
        vec![("rubbish", "yes".to_owned())],
    ] {
        redis::cmd("XADD").arg(STREAM).arg("*").arg(&fields).query::<String>(&mut connection).unwrap();
    }
    let serving = Serving::start(&project);
    let metrics = wait_for("all is processed", || {
        let metrics = serving.metrics();
        (metrics["tickhound_group_entries_total"] == 5.0).then_some(metrics)
    });
    assert_eq!(metrics["tickhound_dead_letters_total{kind=\"undecodable\"}"], 1.0);
    assert_eq!(metrics["tickhound_ticks_repaired_total{kind=\"out_of_order\"}"], 1.0);
    assert_eq!(metrics["tickhound_ticks_repaired_total{kind=\"time_estimated\"}"], 1.0);
    assert_eq!(metrics["tickhound_ticks_unseen_total{kind=\"no_price\"}"], 1.0);
}

/// What `promtool check metrics` looks at, and that no label has as many values as there are symbols.
#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn metrics_keep_the_rules_of_prometheus_and_are_all_explained() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    process_ticks(&redis, &project);
    let serving = Serving::start(&project);
    wait_for("the saved state is told", || serving.metrics().get("tickhound_checkpoint_age_seconds").copied());
    let (_, metrics) = serving.get("/metrics");
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut helped = Vec::new();
    for line in metrics.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(!help.is_empty());
            helped.push(name);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!(kinds.insert(name, kind), None, "{name} comes twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert!(!name.contains("milli") && !name.ends_with("_ms") && !name.contains("micro"), "{name}: base units");
        }
    }
    assert_eq!(
        helped,
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect::<Vec<_>>()
    );
    for series in samples(&metrics).keys() {
        let name = series.split('{').next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(kinds.contains_key(name) || kinds.get(family) == Some(&"histogram"), "{series} has no type");
        for label in series.split(['{', ',']).filter_map(|part| part.split_once("=\"")).map(|(label, _)| label) {
            let known = [
                "detector",
                "shard",
                "kind",
                "result",
                "role",
                "verdict",
                "code",
                "phase",
                "reason",
                "version",
                "plugin",
                "sha256",
                "shadow_of",
                "le",
            ];
            assert!(known.contains(&label), "{series}: {label}");
        }
    }
    let table = std::fs::read_to_string(shipped("docs/metrics.md")).unwrap();
    let explained = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut explained: Vec<&str> = explained.collect();
    explained.sort_unstable();
    assert_eq!(explained, kinds.keys().copied().collect::<Vec<_>>(), "docs/metrics.md tells each, and no other");
    for file in ["deploy/grafana/dashboards/tickhound.json", "deploy/prometheus/alerts.yml"] {
        let used = std::fs::read_to_string(shipped(file)).unwrap();
        let words = used.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let mut found = 0;
        for word in words.filter(|word| word.starts_with("tickhound_") || word.starts_with("process_")) {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
            assert!(kinds.contains_key(word) || kinds.contains_key(family), "{file}: {word} is not exported");
            found += 1;
        }
        assert!(found > 10, "{file} shows {found} metrics");
    }
    let (_, head, openmetrics) = serving.send(&format!(
        "GET /metrics HTTP/1.1\r\nHost: {}\r\nAccept: application/openmetrics-text;version=1.0.0\r\n",
        serving.address
    ));
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(openmetrics.ends_with("# EOF\n"));
}

#[test]
fn the_description_of_the_api_is_of_this_version_and_names_every_path() {
    let described: Value =
        serde_json::from_str(&std::fs::read_to_string(shipped("src/observe/server/openapi.json")).unwrap()).unwrap();
    assert_eq!(described["info"]["version"], env!("CARGO_PKG_VERSION"));
    let router = std::fs::read_to_string(shipped("src/observe/server.rs")).unwrap();
    let routes = router.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")?.split('"').next());
    let mut routes: Vec<&str> = routes.collect();
    routes.sort_unstable();
    let paths: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
    assert_eq!(routes, paths);
    let redis = Redis::start();
    let project = Project::new(&redis);
    let serving = Serving::start(&project);
    assert_eq!(serving.json("/api/openapi.json"), described);
}
