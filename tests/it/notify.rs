//! Notifications of alerts: each alert once, whatever the receiver, the host or the server does; and the flow
//! does not notice.

mod news;
pub mod receiver;

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    sync::{Arc, Mutex},
    thread,
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::Commands;
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use tickhound_core::event::EntryId;

use self::receiver::{How, OK, Receiver, Request};
use crate::{
    replicas::Replicas,
    support::{
        ALERTS, Host, NOTIFY, Project, Redis, STREAM, count_event, difference, has_event, has_event_with, lines_of,
        misbehaving, now_ms, pause, text, wait_for,
    },
};

/// A project whose one detector alerts on every tick.
fn project(redis: &Redis, sinks: &str) -> Project {
    let project = Project::new(redis);
    project.add_plugin(misbehaving());
    configure(redis, &project, sinks);
    project
}

fn configure(redis: &Redis, project: &Project, sinks: &str) {
    configure_at(&redis.url(), project, sinks);
}

fn configure_at(url: &str, project: &Project, sinks: &str) {
    let stream = format!("[stream]\nurl = \"{url}\"\nblock_ms = 200\nlease_ms = 1000\n");
    let detectors = "[detectors.each]\nplugin = \"misbehaving\"\n";
    project.write_config(&format!("{stream}[alerts]\nlog = false\n{detectors}{sinks}"));
}

/// A sink that takes everything, in messages that show everything.
fn sink(name: &str, receiver: &str, more: &str) -> String {
    format!(
        "[[notify]]\nname = \"{name}\"\nurl = \"{receiver}\"\ngroup_ms = 20\nper_minute = 120\n\
         max_per_message = 500\ntimeout_ms = 1000\n{more}\n"
    )
}

/// Adds ticks of a symbol, which arrive now.
fn tick(redis: &Redis, symbol: &str, count: usize) {
    // All at once, so that a busy machine does not divide them over two messages.
    let mut ticks = redis::pipe();
    ticks.atomic();
    for number in 0..count {
        let (price, now_ms) = ((100 + number).to_string(), now_ms().to_string());
        let tick = [("symbol", symbol), ("last_price", &price), ("timestamp", &now_ms)];
        ticks.xadd(STREAM, "*", &tick).ignore();
    }
    let () = ticks.query(&mut redis.connect()).unwrap();
}

/// Adds ticks, but never more between two messages than one can show.
struct Bursts<'a> {
    redis: &'a Redis,
    receiver: &'a Receiver,
    arrived: usize,
    since: usize,
}

impl<'a> Bursts<'a> {
    fn new(redis: &'a Redis, receiver: &'a Receiver) -> Self {
        Self { redis, receiver, arrived: 0, since: 0 }
    }

    /// How many were added.
    fn tick(&mut self, symbol: &str, count: usize) -> usize {
        let arrived = self.receiver.got().iter().filter(|request| request.arrived()).count();
        if arrived > self.arrived {
            (self.arrived, self.since) = (arrived, 0);
        }
        if self.since + count > 200 {
            return 0;
        }
        self.since += count;
        tick(self.redis, symbol, count);
        count
    }
}

fn state(redis: &Redis, sink: &str) -> Option<Value> {
    let text: Option<String> = redis.connect().hget(NOTIFY, sink).unwrap();
    text.map(|text| serde_json::from_str(&text).unwrap())
}

/// Every alert in the stream: its id in the stream, and its own.
pub fn alerts(redis: &Redis) -> Vec<(EntryId, String)> {
    let entries = redis.stream_entries(ALERTS).into_iter();
    entries.map(|(at, mut fields)| (at.parse().unwrap(), fields.remove("id").unwrap())).collect()
}

/// Ids of alerts in those requests, in their order.
fn ids<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Vec<String> {
    requests.into_iter().flat_map(Request::ids).collect()
}

/// No alert was sent twice, and each was sent, or is where a message says that some may not have been.
fn account(redis: &Redis, requests: &[Request]) {
    let told = ids(requests);
    let unique: HashSet<&String> = told.iter().collect();
    assert_eq!(told.len(), unique.len(), "an alert was told twice");
    assert_eq!(untold(alerts(redis), requests), [], "neither told nor counted");
}

/// Those of these alerts that were not told, and do not lie where a message says that some may not have been.
pub fn untold(mut alerts: Vec<(EntryId, String)>, requests: &[Request]) -> Vec<(EntryId, String)> {
    let told: HashSet<String> = requests.iter().flat_map(Request::ids).collect();
    let doubts: Vec<[EntryId; 2]> = requests.iter().filter_map(Request::in_doubt).collect();
    alerts.retain(|(at, id)| !told.contains(id) && !doubts.iter().any(|[after, to]| after < at && at <= to));
    alerts
}

/// Until the sink has nothing left to do.
pub fn wait_until_notified(redis: &Redis, sink: &str) {
    wait_for("the sink is through", || {
        let (state, newest) = (state(redis, sink)?, redis.newest(ALERTS, 1));
        let owed = ["older", "in_doubt", "refused", "missed"].iter().all(|owed| state["owed"][*owed] == 0);
        (state["at"] == newest.first()?.0 && state["sending"].is_null() && owed).then_some(())
    });
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn each_receiver_is_notified_in_its_own_way_and_secrets_are_never_seen() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let address = receiver.address;
    let project = project(&redis, "");
    fs::write(project.path("config/discord"), format!("http://{address}/api/webhooks/42/DISCORDSECRET\n")).unwrap();
    fs::write(project.path("config/token"), "BEARERSECRET\n").unwrap();
    for (file, mode) in [("config/discord", 0o600), ("config/token", 0o644)] {
        fs::set_permissions(project.path(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    let sinks = format!(
        "[[notify]]\nname = \"own\"\nurl = \"http://{address}/own\"\ntoken_file = \"config/token\"\ngroup_ms = 100\n\
         [[notify]]\nname = \"slack\"\nkind = \"slack\"\nurl_env = \"DESK_SLACK\"\nsymbols = [\"BANK*\"]\ngroup_ms = 100\n\
         [[notify]]\nname = \"discord\"\nkind = \"discord\"\nurl_file = \"config/discord\"\ntext = \"{{symbol}} {{direction}}\"\ngroup_ms = 100\n\
         [[notify]]\nname = \"telegram\"\nkind = \"telegram\"\nurl = \"http://{address}\"\ntoken_env = \"DESK_BOT\"\nchat = \"-100\"\ngroup_ms = 100\n\
         [[notify]]\nname = \"picky\"\nurl = \"http://{address}/picky\"\ndirections = [\"down\"]\ngroup_ms = 100\n\
         [[notify]]\nname = \"off\"\nurl = \"http://{address}/off\"\nenabled = false\n"
    );
    configure(&redis, &project, &sinks);
    let slack = format!("http://{address}/services/SLACKSECRET");
    let variables = [("DESK_SLACK", slack.as_str()), ("DESK_BOT", "123456:BOTSECRET")];
    let host = project.start_with(&["run"], &variables);
    host.wait_for_event("lease_acquired");
    tick(&redis, "M&M_FUT", 1);
    tick(&redis, "BANKNIFTY", 1);

    let own = |path: &str, symbol: &str| {
        receiver.wait_for(&format!("{symbol} at {path}"), |request| {
            request.path == path && request.body.to_string().contains(symbol)
        })
    };
    let request = own("/own", "BANKNIFTY");
    assert_eq!(request.headers["authorization"], "Bearer BEARERSECRET");
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(request.headers["idempotency-key"], request.body["key"].as_str().unwrap());
    assert_eq!(request.body["version"], 1);
    let alert = request.body["alerts"].as_array().unwrap().last().unwrap();
    assert_eq!((&alert["detector"], &alert["confidence"]), (&"each".into(), &1.into()));
    let request = own("/services/SLACKSECRET", "BANKNIFTY");
    assert!(!request.headers.contains_key("authorization"));
    let said = request.body["text"].as_str().unwrap();
    assert!(said.starts_with("▲ [EACH] BANKNIFTY at 100: 1.00 confidence, "), "{said}");
    let said = own("/api/webhooks/42/DISCORDSECRET", "FUT").body["content"].as_str().unwrap().to_owned();
    assert!(said.contains("M&M\\_FUT up"), "{said}");
    let request = own("/bot123456:BOTSECRET/sendMessage", "FUT");
    assert_eq!(request.body["chat_id"], "-100");
    assert!(request.body["text"].as_str().unwrap().contains("M&amp;M_FUT"));
    wait_for("all have told", || {
        let all = ["own", "slack", "discord", "telegram", "picky"];
        let last = alerts(&redis).pop().unwrap().0.to_string();
        all.iter().all(|sink| state(&redis, sink).is_some_and(|state| state["at"] == last)).then_some(())
    });
    let paths: HashSet<String> = receiver.got().into_iter().map(|request| request.path).collect();
    assert!(!paths.contains("/picky") && !paths.contains("/off"), "{paths:?}");
    let to_slack: Vec<Request> = receiver.got().into_iter().filter(|request| request.path.contains("SLACK")).collect();
    assert!(to_slack.iter().all(|request| !request.body.to_string().contains("FUT")), "only what it asked for");

    // A receiver that says the secret aloud, and again where what is told of its answer ends.
    let aloud = format!("no hook at /services/SLACKSECRET{}SLACKSECRET", ".".repeat(200 - 32 - 8));
    receiver.will(&[How::Answer(404, "", aloud.leak())]);
    let mut said = host.log();
    for args in [
        &["check"][..],
        &["check", "--json"],
        &["notify", "test", "slack"],
        &["notify", "test", "own"],
        &["notify", "test", "telegram", "--json"],
        &["notify"],
        &["notify", "status", "--json"],
        &["status", "--json"],
    ] {
        let output = project.command(args).envs(variables).output().unwrap();
        let failed = args == ["notify", "test", "slack"];
        let text = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(failed)), "{args:?}: {text}");
        assert!(!failed || text.contains("it answers 404"), "{text}");
        said += &text;
    }
    assert!(
        said.contains("url from DESK_SLACK") && said.contains("config/token is a secret that every user"),
        "{said}"
    );
    assert!(!said.contains("config/discord is a secret"), "{said}");
    assert!(!said.contains("SECRET") && !said.contains("SLACKS"), "{said}");
    let states: BTreeMap<String, String> = redis.connect().hgetall(NOTIFY).unwrap();
    assert!(!format!("{states:?}").contains("SECRET"));
    assert_eq!(receiver.got().last().unwrap().body["text"].as_str().unwrap().matches("is a test").count(), 1);
}

#[test]
fn a_receiver_that_fails_in_every_way_gets_each_alert_and_holds_up_nothing() {
    let redis = Redis::start();
    let (bad, good) = (Receiver::start(), Receiver::start());
    let project = project(&redis, &(sink("bad", &bad.url(), "") + &sink("good", &good.url(), "")));
    bad.will(&[
        How::Close,
        OK,
        How::Hang,
        OK,
        How::Answer(500, "", "oh"),
        How::Answer(503, "Retry-After: 0\r\n", ""),
        OK,
        How::Answer(429, "Retry-After: 1\r\n", ""),
        OK,
        How::Garbage,
        OK,
        How::Reset,
        OK,
        How::Drip,
        OK,
        How::Endless,
    ]);
    let host = project.start_owner();
    let (mut bursts, mut added) = (Bursts::new(&redis, &bad), 0);
    wait_for("it has failed in every way", || {
        // Each part is processed while the receiver does what it does.
        added += bursts.tick("A", 20) as u64;
        wait_for("alerts are committed all the same", || (redis.totals().get("alerts") == Some(&added)).then_some(()));
        bad.is_done().then_some(())
    });
    tick(&redis, "LAST", 1);
    bad.wait_for("the last alert", |request| request.body.to_string().contains("LAST"));
    good.wait_for("the last alert", |request| request.body.to_string().contains("LAST"));
    let (found, got) = (redis.alerts(), bad.got());
    let expected: Vec<String> = found.iter().map(|alert| alert["id"].clone()).collect();
    assert_eq!(ids(&good.got()), expected, "in their order, each once");
    assert_eq!(ids(got.iter().filter(|request| request.arrived())), expected, "in their order, each once");
    // It tells the receivers as well, of its own alerts.
    assert_eq!(difference(found, project.reference(&redis)), Default::default());
    // Where nobody could know whether it had arrived, the same came again under the same key.
    let hung = got.iter().position(|request| request.how == How::Hang).unwrap();
    assert_eq!(got[hung].headers["idempotency-key"], got[hung + 1].headers["idempotency-key"]);
    assert_eq!(got[hung].body, got[hung + 1].body);
    let log = host.log();
    for reason in ["no answer in time (timeout_ms)", "it answers 500", "it answers 429"] {
        assert!(has_event_with(&log, "notification_delayed", reason), "{reason} is missing in {log}");
    }
    assert!(has_event(&log, "notification_recovered"), "{log}");
    assert!(count_event(&log, "notification_delayed") < 20, "once for each reason: {log}");
}

/// A receiver may answer anything: it fills no memory, and leads the secret to no other host.
#[test]
fn a_hostile_receiver_costs_no_memory_and_gets_nothing_sent_elsewhere() {
    let redis = Redis::start();
    let (receiver, other) = (Receiver::start(), Receiver::start());
    let project = project(&redis, "");
    fs::write(project.path("config/token"), "BEARERSECRET\n").unwrap();
    configure(&redis, &project, &sink("desk", &receiver.url(), "token_file = \"config/token\""));
    let host = project.start_owner();
    tick(&redis, "A", 1);
    receiver.wait_for("it works", |request| !request.ids().is_empty());
    let before = host.peak_memory_mib();
    let elsewhere = format!("Location: http://{}/BEARERSECRET\r\n", other.address);
    receiver.will(&[
        How::Flood,
        How::Heads,
        How::Answer(503, "Retry-After: 1e300\r\n", "\u{1b}[2J\u{202e}gone\r\nERROR forged"),
        How::Answer(307, elsewhere.leak(), ""),
    ]);
    tick(&redis, "B", 1);
    let redirect = format!("a redirect to http://{}: configure the new URL", other.address);
    host.wait_for_event_with("notification_undeliverable", &redirect);
    assert_eq!(other.connections(), 0, "redirects are not followed");
    let (after, log) = (host.peak_memory_mib(), host.log());
    assert!(after < before + 20, "{before} MiB before, {after} MiB after endless answers");
    for reason in ["it answers 500", "its answer is not valid HTTP", "it answers 503"] {
        assert!(has_event_with(&log, "notification_delayed", reason), "{reason} is missing in {log}");
    }
    assert!(!log.contains("SECRET") && !log.contains(['\u{1b}', '\u{202e}']), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("ERROR forged")), "{log}");
}

/// Symbols, names and evidence come from strangers, and so may whole alerts, if others can write to the stream.
#[test]
fn an_alert_can_not_mention_link_or_flood() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let address = receiver.address;
    let project = project(&redis, "");
    let sinks = format!(
        "[[notify]]\nname = \"own\"\nurl = \"http://{address}/own\"\ngroup_ms = 100\n\
         [[notify]]\nname = \"slack\"\nkind = \"slack\"\nurl = \"http://{address}/slack\"\ngroup_ms = 100\n\
         [[notify]]\nname = \"discord\"\nkind = \"discord\"\nurl = \"http://{address}/discord\"\ngroup_ms = 100\n\
         [[notify]]\nname = \"telegram\"\nkind = \"telegram\"\nurl = \"http://{address}\"\ntoken_env = \"BOT\"\nchat = \"-100\"\ngroup_ms = 100\n"
    );
    configure(&redis, &project, &sinks);
    let host = project.start_with(&["run"], &[("BOT", "123456:BOTSECRET")]);
    host.wait_for_event("lease_acquired");
    tick(&redis, "<@BOSS>HTTP://EVIL.EXAMPLE/X", 1);
    let said = |path: &str, key: &str| {
        let request = receiver.wait_for(path, |request| request.path == path);
        (request.body[key].as_str().unwrap().to_owned(), request.body)
    };
    let (text, body) = said("/slack", "text");
    assert!(text.contains("&lt;@\u{200b}BOSS&gt;") && !text.contains(['<', '>']), "{text}");
    assert_eq!((&body["parse"], &body["link_names"]), (&"none".into(), &false.into()));
    let (text, body) = said("/discord", "content");
    assert!(text.contains("\\<\\@BOSS\\>HTTP:\\/\\/EVIL.EXAMPLE\\/X"), "{text}");
    assert_eq!(body["allowed_mentions"]["parse"], Value::Array(Vec::new()));
    let (text, _) = said("/bot123456:BOTSECRET/sendMessage", "text");
    assert!(text.contains("<code>&lt;@BOSS&gt;HTTP://EVIL.EXAMPLE/X</code>"), "{text}");
    said("/own", "text");

    // Another program writes an alert of a megabyte.
    let alert = redis.alerts().pop().unwrap();
    let mut connection = redis.connect();
    let long = "L".repeat(1 << 20);
    let mut fields: Vec<(&str, &str)> = alert.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for (name, value) in &mut fields {
        match *name {
            "id" => *value = "1-0/each/9",
            "symbol" => *value = &long,
            _ => {}
        }
    }
    let _: String = connection.xadd(ALERTS, "*", &fields).unwrap();
    let shown_by = |path: &str| {
        receiver.wait_for(path, |request| request.path == path && request.body.to_string().contains("LLLL"))
    };
    let own = shown_by("/own");
    assert_eq!((&own.body["alerts"], &own.body["more"]), (&Value::Array(Vec::new()), &1.into()));
    for path in ["/own", "/slack", "/discord", "/bot123456:BOTSECRET/sendMessage"] {
        let length = shown_by(path).body.to_string().len();
        assert!(length < 2000, "{path}: {length}");
    }
}

#[test]
fn an_unreachable_receiver_is_notified_later_and_a_rejection_is_reported() {
    let redis = Redis::start();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let project = project(&redis, &sink("desk", &format!("http://{address}/hook"), ""));
    let host = project.start_owner();
    tick(&redis, "A", 3);
    host.wait_for_event_with("notification_delayed", "connection refused");
    let output = project.output(&["notify"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(said.contains("desk: ❌ failing") && said.contains("3 alerts behind it"), "{said}");
    let receiver = Receiver::at(&address.to_string());
    receiver.wait_for("what came meanwhile", |request| request.ids().len() == 3);

    receiver.will(&[How::Answer(400, "", "{\"message\":\"bad\\nbody\"}")]);
    tick(&redis, "B", 2);
    host.wait_for_event_with("notification_undeliverable", "ERROR");
    let log = host.log();
    let answer = "it answers 400 Bad Request: bad body; its 2 alerts are not delivered";
    assert!(has_event_with(&log, "notification_undeliverable", answer), "{log}");
    tick(&redis, "C", 1);
    let next = receiver.wait_for("the next message", |request| request.body.to_string().contains("\"C\""));
    assert_eq!((next.ids().len(), &next.body["refused"]), (1, &2.into()));
    assert!(next.body["text"].as_str().unwrap().contains("2 alerts not delivered: the receiver rejected a message"));

    // Three in a row: it is not the messages.
    receiver.will(&[How::Answer(400, "", ""); 3]);
    for symbol in ["D", "E", "F"] {
        let before = receiver.got().len();
        tick(&redis, symbol, 1);
        wait_for("it was tried", || (receiver.got().len() > before).then_some(()));
    }
    wait_for("the refusals are noted", || (state(&redis, "desk")?["totals"]["refused"] == 5).then_some(()));
    let tried = receiver.got().len();
    tick(&redis, "G", 1);
    wait_for("it is processed", || (redis.totals()["alerts"] == 10).then_some(()));
    assert_eq!((receiver.got().len(), state(&redis, "desk").unwrap()["owed"]["refused"].clone()), (tried, 3.into()));
}

#[test]
fn a_rejected_token_costs_no_alert_and_a_change_is_applied_live() {
    let redis = Redis::start();
    let (receiver, elsewhere) = (Receiver::start(), Receiver::start());
    let moved: &'static str = format!("Location: {}/SECRET\r\n", elsewhere.url()).leak();
    let sinks = sink("desk", &receiver.url(), "") + &sink("gone", &elsewhere.url(), "detectors = [\"none\"]");
    let project = project(&redis, &sinks);
    receiver.will(&[How::Answer(307, moved, "")]);
    let host = project.start_owner();
    tick(&redis, "A", 4);
    host.wait_for_event_with("notification_undeliverable", "it answers 307");
    assert!(host.log().contains(&format!("a redirect to http://{}:", elsewhere.address)), "{}", host.log());
    assert!(!host.log().contains("SECRET"));
    assert_eq!(elsewhere.connections(), 0, "the secret is for one host");
    assert!(state(&redis, "gone").is_some());

    // Another sink comes, one goes, and one is mended: it need not sit out its pause.
    let sinks = sink("desk", &receiver.url(), "symbols = [\"A\", \"B\"]") + &sink("new", &elsewhere.url(), "");
    configure(&redis, &project, &sinks);
    let told = receiver.wait_for("what was held back", |request| request.ids().len() == 4);
    assert_eq!(told.body["in_doubt"]["count"], 0);
    wait_for("it has begun", || state(&redis, "new"));
    wait_for("what is gone is forgotten", || state(&redis, "gone").is_none().then_some(()));
    tick(&redis, "B", 1);
    let first = elsewhere.wait_for("the next alert", |request| request.body.to_string().contains("\"B\""));
    assert_eq!(first.ids().len(), 1, "a new sink begins with what comes");

    // A change that can't be used is refused whole.
    configure(&redis, &project, &sinks.replace("url = ", "url_env = \"NOWHERE\"\n# "));
    host.wait_for_event_with("change_rejected", "the environment variable NOWHERE is not set");
    tick(&redis, "B", 1);
    elsewhere.wait_for("it goes on", |request| ids(&elsewhere.got()).len() == 2 && request.arrived());
}

#[test]
fn a_receiver_with_a_wrong_certificate_gets_nothing() {
    let redis = Redis::start();
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = Arc::new(tls.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let got: Arc<Mutex<Vec<Request>>> = Arc::default();
    let into = got.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(tls.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream.unwrap());
            if let Ok(request) = receiver::read_request(&mut stream, OK) {
                use std::io::Write;
                into.lock().unwrap().push(request);
                let _ = write!(stream, "HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    // Nobody known has signed it; it is for another name; all is well.
    let by_name = format!("https://localhost:{port}/");
    let by_number = format!("https://127.0.0.1:{port}/");
    let ours = "tls_ca = \"config/ca.pem\"";
    let sinks = sink("unknown", &by_name, "") + &sink("other", &by_number, ours) + &sink("well", &by_name, ours);
    let project = project(&redis, "");
    fs::write(project.path("config/ca.pem"), ca.pem()).unwrap();
    configure(&redis, &project, &sinks);
    let host = project.start_owner();
    tick(&redis, "A", 1);
    wait_for("the one arrives", || (got.lock().unwrap().len() == 1).then_some(()));
    wait_for("the others fail", || {
        let log = host.log();
        let failed = lines_of(&log, "notification_delayed").into_iter().filter(|line| line.contains(": TLS: "));
        (failed.count() == 2).then_some(())
    });
    assert_eq!(got.lock().unwrap()[0].body["sink"], "well");
}

/// In RESP3 a server sends the counts of a stream as a map. Where they are not read, a channel begins with the oldest alert.
#[test]
fn a_new_channel_sends_nothing_old_over_resp3() {
    let (redis, receiver) = (Redis::start(), Receiver::start());
    let project = project(&redis, "");
    tick(&redis, "OLD", 30);
    project.run(&["run", "--drain"]);
    configure_at(&format!("{}?protocol=resp3", redis.url()), &project, &sink("desk", &receiver.url(), ""));
    let _host = project.start_owner();
    wait_for("the channel begins", || state(&redis, "desk"));
    tick(&redis, "NEW", 3);
    receiver.wait_for("the last alert", |request| request.body.to_string().contains("NEW"));
    wait_until_notified(&redis, "desk");
    let sent = ids(&receiver.got());
    let new: Vec<String> = alerts(&redis).into_iter().skip(30).map(|(_, id)| id).collect();
    assert_eq!((sent, state(&redis, "desk").unwrap()["index"].clone()), (new, 33.into()));
}

#[test]
fn a_killed_host_tells_no_alert_twice_and_hides_none() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let project = project(&redis, &sink("desk", &receiver.url(), "max_age_s = 86400"));
    drop(project.start_owner());
    // Slow enough that kills meet messages under way.
    receiver.will(&[How::Late; 10_000]);
    let number = |most: u64| {
        use std::hash::{BuildHasher, RandomState};
        RandomState::new().hash_one(0) % most
    };
    for life in 0..10 {
        let mut host = project.start(&["run"]);
        let goal = receiver.got().len() + 1 + number(4) as usize;
        let mut bursts = Bursts::new(&redis, &receiver);
        wait_for("some messages", || {
            bursts.tick(&format!("L{life}"), 1 + number(40) as usize);
            (0..number(6)).for_each(|_| pause());
            (receiver.got().len() >= goal).then_some(())
        });
        (0..number(12)).for_each(|_| pause());
        host.kill();
    }
    let _host = project.start_owner();
    tick(&redis, "LAST", 1);
    receiver.wait_for("the last alert", |request| request.body.to_string().contains("LAST"));
    wait_until_notified(&redis, "desk");
    account(&redis, &receiver.got());
    let doubts = receiver.got().iter().filter(|request| request.body["in_doubt"]["count"] != 0).count();
    println!("{} messages, {doubts} say that some may not have been told", receiver.got().len());
    assert!(receiver.got().len() > 10);
}

#[test]
fn a_message_that_was_under_way_is_in_doubt_unless_it_is_to_be_repeated() {
    let redis = Redis::start();
    let (skips, repeats) = (Receiver::start(), Receiver::start());
    let sinks = sink("skips", &skips.url(), "") + &sink("repeats", &repeats.url(), "on_doubt = \"repeat\"");
    let project = project(&redis, &sinks.replace("timeout_ms = 1000", "timeout_ms = 60000"));
    for receiver in [&skips, &repeats] {
        receiver.will(&[How::Hang]);
    }
    let mut host = project.start_owner();
    tick(&redis, "A", 7);
    wait_for("both are under way", || (skips.got().len() + repeats.got().len() == 2).then_some(()));
    let first = ids(&skips.got());
    host.kill();
    let host = project.start(&["run"]);
    let note = skips.wait_for("the note, or the next alerts", |_| true);
    assert_eq!(note.body["in_doubt"]["count"], first.len());
    let said = note.body["text"].as_str().unwrap();
    assert!(said.contains("may not have been delivered: it is unknown whether a message arrived"), "{said}");
    assert!(host.has_event("notification_in_doubt"));
    wait_until_notified(&redis, "skips");
    wait_until_notified(&redis, "repeats");
    account(&redis, &skips.got());
    let again = ids(repeats.got().iter().filter(|request| request.arrived()));
    assert_eq!(again.len(), 7, "all of them, those of the first message again");
}

#[test]
fn a_standby_continues_where_the_owner_was_killed() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let project = project(&redis, &sink("desk", &receiver.url(), "max_age_s = 86400"));
    let mut hosts = vec![project.start_owner()];
    for round in 0..3 {
        hosts.push(project.start(&["run"]));
        hosts[1].wait_for_event("standby_started");
        for part in 0..5 {
            tick(&redis, &format!("R{round}P{part}"), 30);
            pause();
        }
        receiver.wait_for("something of it", |request| request.body.to_string().contains(&format!("R{round}P0")));
        hosts.remove(0).kill();
        hosts[0].wait_for_event("lease_acquired");
    }
    tick(&redis, "LAST", 1);
    receiver.wait_for("the last alert", |request| request.body.to_string().contains("LAST"));
    wait_until_notified(&redis, "desk");
    account(&redis, &receiver.got());
}

/// A host with a sink, and a server whose replica has the ticks but none of the commits that the host does from now on.
struct Lossy {
    // First, so that it ends before what it runs in.
    _host: Host,
    _project: Project,
    replicas: Replicas,
}

impl Lossy {
    /// The sink with `here` in place of what is `usual`; there are ticks to process, and nothing after them.
    fn start(receiver: &Receiver, usual: &str, here: &str) -> Self {
        let replicas = Replicas::start();
        let project = Project::at(replicas.proxy.url());
        project.add_plugin(misbehaving());
        let sink = sink("desk", &receiver.url(), "");
        assert!(sink.contains(usual), "{sink}");
        configure_at(&replicas.proxy.url(), &project, &sink.replace(usual, here));
        let host = project.start_owner();
        host.signal("STOP");
        tick(&replicas.first, "NIFTY", 10);
        wait_for("the replica has the ticks", || {
            (replicas.second.ask::<u64>(&format!("XLEN {STREAM}")) == 10).then_some(())
        });
        replicas.cut_off();
        host.signal("CONT");
        Self { _host: host, _project: project, replicas }
    }

    /// The server that is left.
    fn fail_over(&mut self) -> &Redis {
        self.replicas.promote();
        let redis = &self.replicas.second;
        wait_for("the alerts are published again", || (alerts(redis).len() == 10).then_some(()));
        redis
    }
}

/// A message showed two alerts of ten and counted the others. The server failed over to a replica without them, the host
/// published them again under the same ids, and those that had been counted were told once more, as news.
#[test]
fn alerts_that_were_only_counted_are_not_sent_again_after_a_failover() {
    let receiver = Receiver::start();
    let mut lossy = Lossy::start(&receiver, "max_per_message = 500", "max_per_message = 2");
    let count = || receiver.got().iter().filter_map(|request| request.body["count"].as_u64()).sum::<u64>();
    wait_for("all are told", || (count() == 10).then_some(()));
    let redis = lossy.fail_over();
    tick(redis, "BANKNIFTY", 1);
    wait_for("the alert after them", || (alerts(redis).len() == 11).then_some(()));
    wait_until_notified(redis, "desk");
    assert_eq!(count(), 11);
}

/// A receiver took a message and did not answer. The server failed over to a replica that did not know of it, and the
/// alerts were put into another message under another key, so that the receiver could not see that it had them.
#[test]
fn a_message_without_an_answer_keeps_its_key_over_a_failover() {
    let receiver = Receiver::start();
    receiver.will(&[How::Hang]);
    let mut lossy = Lossy::start(&receiver, "group_ms = 20", "group_ms = 500");
    wait_for("a message is under way", || receiver.got().first().map(|_| ()));
    wait_until_notified(lossy.fail_over(), "desk");
    let mut keys: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    for request in receiver.got() {
        for id in request.ids() {
            keys.entry(id).or_default().insert(request.headers["idempotency-key"].clone());
        }
    }
    assert_eq!(keys.len(), 10);
    assert!(keys.values().all(|keys| keys.len() == 1), "alerts came under several keys: {keys:?}");
}

#[test]
fn old_news_is_one_line_and_what_was_trimmed_is_counted() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let project = project(&redis, &sink("desk", &receiver.url(), ""));
    drop(project.start_owner());
    // Three hours old.
    let arrived = now_ms() - 3 * 3_600_000;
    for number in 0..300 {
        let tick = [("symbol", "OLD"), ("last_price", "100"), ("timestamp", &arrived.to_string())];
        let _: String = redis.connect().xadd(STREAM, format!("{arrived}-{}", number + 1), &tick).unwrap();
    }
    project.run(&["run", "--drain"]);
    wait_for("they are processed", || (alerts(&redis).len() == 300).then_some(()));
    let older = |receiver: &Receiver| -> u64 {
        receiver.got().iter().map(|request| request.body["older"]["count"].as_u64().unwrap()).sum()
    };
    let mut host = project.start_owner();
    tick(&redis, "NEW", 1);
    receiver.wait_for("the fresh one", |request| request.body.to_string().contains("NEW"));
    wait_until_notified(&redis, "desk");
    assert_eq!((older(&receiver), ids(&receiver.got()).len()), (300, 1));
    assert!(receiver.got().len() <= 3, "{} messages", receiver.got().len());
    let said: String = receiver.got().iter().map(|request| request.body["text"].as_str().unwrap().to_owned()).collect();
    assert!(said.contains("too old to be shown: "), "{said}");

    // While nobody tells, most of what comes is trimmed away.
    host.stop();
    configure(&redis, &project, "");
    tick(&redis, "MANY", 50);
    project.run(&["run", "--drain"]);
    let _: u64 = redis.ask(&format!("XTRIM {ALERTS} MAXLEN 20"));
    configure(&redis, &project, &sink("desk", &receiver.url(), ""));
    let told = receiver.got().len();
    let host = project.start_owner();
    receiver.wait_for("the rest", |request| request.body["missed"] != 0);
    let got = receiver.got();
    assert_eq!((ids(&got[told..]).len(), &got[told].body["missed"]), (20, &30.into()));
    assert!(host.has_event("notification_alerts_trimmed"));
}

#[test]
fn alerts_of_a_drain_are_sent_before_it_ends() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let shadows = "[detectors.shade]\nplugin = \"misbehaving\"\nshadow_of = \"each\"\n".to_owned();
    let sinks = sink("desk", &receiver.url(), "") + &sink("shade", &receiver.url(), "shadows = true");
    let project = project(&redis, &(sinks.replace("group_ms = 20", "group_ms = 60000") + &shadows));
    tick(&redis, "A", 5);
    project.run(&["run", "--drain"]);
    let got = receiver.got();
    let by = |name: &str| ids(got.iter().filter(|request| request.body["sink"] == name));
    assert_eq!((by("desk").len(), by("shade").len()), (5, 5));
    assert!(by("desk").iter().all(|id| id.contains("/each/")) && by("shade").iter().all(|id| id.contains("/shade/")));
}

#[test]
fn a_wrong_sink_is_refused_where_it_is_wrong() {
    let redis = Redis::start();
    let project = project(&redis, "");
    fs::write(project.path("config/empty"), "\n").unwrap();
    fs::write(project.path("config/odd"), "hooks.example/SECRET").unwrap();
    let one = "[[notify]]\nname = \"a\"\nurl = \"http://127.0.0.1:1/\"\n";
    let cases = [
        ("[[notify]]\nurl = \"http://x/\"".to_owned(), "9:1", "notify.name is ``"),
        ("[[notify]]\nname = \"a b\"\nurl = \"http://x/\"".to_owned(), "10:1", "expected letters, digits, - and _"),
        (format!("{one}{one}"), "13:1", "another [[notify]] has the name `a`"),
        ("[[notify]]\nname = \"a\"".to_owned(), "9:1", "has 0 URLs, expected one of url, url_env, url_file"),
        (format!("{one}url_env = \"X\""), "11:1", "has 2 URLs"),
        (format!("{one}kind = \"slak\""), "12:8", "did you mean `slack`?"),
        (format!("{one}per_minut = 5"), "12:1", "did you mean `per_minute`?"),
        (format!("{one}per_minute = 500"), "12:1", "per_minute is 500, expected 1 to 120"),
        (format!("{one}min_confidence = 50"), "12:1", "expected 0 to 1"),
        (format!("{one}directions = [\"sideways\"]"), "12:1", "has `sideways`, expected up, down, none"),
        (format!("{one}symbols = []"), "12:1", "to switch the channel off, set enabled = false"),
        (format!("{one}text = \"{{symbl}}\""), "12:1", "did you mean {symbol}?"),
        (format!("{one}chat = \"1\""), "12:1", "only Telegram has chats"),
        (format!("{one}kind = \"slack\"\ntoken_env = \"X\""), "13:1", "has 1 tokens, expected none"),
        (format!("{one}kind = \"telegram\"\nchat = \"1\""), "9:1", "has 0 tokens, expected one of token_env"),
        (format!("{one}token_env = \"NOWHERE\""), "12:1", "the environment variable NOWHERE is not set"),
        (format!("{one}token_file = \"config/none\""), "12:1", "can't read ./config/none"),
        (format!("{one}token_file = \"config/empty\""), "12:1", "./config/empty is empty"),
        (one.replace("url = \"http://127.0.0.1:1/\"", "url_file = \"config/odd\""), "11:1", "the URL is not valid"),
        (format!("{one}tls_ca = \"config/odd\""), "12:1", "contains no PEM certificate"),
    ];
    for (sinks, at, expected) in cases {
        configure(&redis, &project, &sinks);
        for command in ["check", "run"] {
            let output = project.output(&[command]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{sinks}");
            let at = format!("config/config.toml:{at}: ");
            assert!(said.contains(&at) && said.contains(expected), "{sinks}\nexpected {at}{expected}\nsaid: {said}");
            assert!(!said.contains("SECRET"), "{said}");
        }
    }
    configure(&redis, &project, one);
    let said = text(&project.output(&["notify", "test", "b"]).stderr);
    assert!(said.contains("no [[notify]] with the name `b`; there is a"), "{said}");
    let output = project.output(&["notify", "test", "a"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("http://127.0.0.1:1: connection refused"), "{}", text(&output.stderr));
}
