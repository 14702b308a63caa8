//! The verdict knows when nothing useful arrives, and when what arrives can't be handed on: each case with a real host, and
//! the same verdict wherever it is asked for.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, process::Command};

use serde_json::Value;

use crate::{
    jsonl::{Killed, limit_files},
    notify::receiver::{How, Receiver},
    support::{Host, Project, Redis, STREAM, binary, free_port, lines_of, misbehaving, now_ms, text, wait_for},
};

/// The detector `each` alerts on every tick.
const EACH: &str = "[detectors.each]\nplugin = \"misbehaving\"";

fn status(project: &Project) -> Value {
    serde_json::from_slice(&project.output(&["status", "--json"]).stdout).unwrap()
}

/// The reason with this code, once the verdict has it.
fn reason(project: &Project, code: &str) -> Value {
    wait_for(&format!("the verdict has {code}"), || {
        let status = status(project);
        status["reasons"].as_array().unwrap().iter().find(|reason| reason["code"] == code).cloned()
    })
}

/// Waits until no reason has this code any more.
fn ended(project: &Project, code: &str) {
    wait_for(&format!("the verdict no longer has {code}"), || {
        let status = status(project);
        let reasons = status["reasons"].as_array().unwrap();
        reasons.iter().all(|reason| reason["code"] != code).then_some(())
    });
}

/// The condition was logged once when it began, and once when it ended. Returns both lines.
fn begin_and_end(host: &Host, code: &str) -> [String; 2] {
    let log = host.log();
    ["condition_began", "condition_ended"].map(|event| {
        let code = format!("code=\"{code}\"");
        let lines: Vec<&str> = lines_of(&log, event).into_iter().filter(|line| line.contains(&code)).collect();
        assert_eq!(lines.len(), 1, "{event} of {code}: {log}");
        lines[0].to_owned()
    })
}

fn fields_of(tick: &[(&str, String)]) -> BTreeMap<String, String> {
    tick.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn add(redis: &Redis, entries: impl IntoIterator<Item = BTreeMap<String, String>>) {
    let mut pipe = redis::pipe();
    for fields in entries {
        let fields: Vec<(String, String)> = fields.into_iter().collect();
        pipe.xadd(STREAM, "*", &fields).ignore();
    }
    let () = pipe.query(&mut redis.connect()).unwrap();
}

/// Ticks of one symbol as a producer writes them, each so many ms before now.
fn ticks(symbol: &str, ago_ms: impl IntoIterator<Item = u64>) -> Vec<BTreeMap<String, String>> {
    let tick = |ago: u64| {
        let stamp = (now_ms() - ago).to_string();
        fields_of(&[("symbol", symbol.into()), ("last_price", "100.5".into()), ("timestamp", stamp)])
    };
    ago_ms.into_iter().map(tick).collect()
}

/// A producer wrote Python's own notation instead of JSON. A thousand of a thousand entries became dead letters, and
/// `status` said that every entry is processed.
#[test]
fn entries_that_are_all_dead_lettered_are_not_healthy() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[health]\ndead_share = 1.0");
    let listen = format!("127.0.0.1:{}", free_port());
    let mut host = project.start_with(&["run"], &[("TICKHOUND_SERVER__LISTEN", &listen)]);
    host.wait_for_event("http_listening");
    let hostile = "{'symbol': 'NIFTY\u{1b}]0;owned\u{7}', 'ltp': 22500.5}";
    add(&redis, (0..1000).map(|_| fields_of(&[("data", hostile.into())])));
    redis.wait_processed(1000);
    wait_for("all of them are counted", || {
        let text = reason(&project, "dead_letters")["text"].as_str().unwrap().to_owned();
        text.starts_with("1000 of 1000 entries in the last minute were dead-lettered").then_some(())
    });
    let status = status(&project);
    assert_eq!((&status["verdict"], &status["reason"]), (&Value::from("degraded"), &status["reasons"][0]["text"]));
    assert!(status["reasons"][0]["since_ms"].as_u64().unwrap() > now_ms() - 60_000);
    let shown = project.output(&["status"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("degraded: 1000 of 1000 entries in the last minute") && shown.contains("`tickhound dead show`")
    );
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
    // Everybody says the same, and an orchestrator does not restart a host that works.
    let get = |path: &str| {
        let mut answer = ureq::get(format!("http://{listen}{path}")).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    };
    let ready: Value = serde_json::from_str(&get("/readyz")).unwrap();
    assert_eq!((&ready["ready"], &ready["verdict"]), (&Value::from(true), &Value::from("degraded")));
    assert_eq!(ready["verdict_reasons"][0]["code"], "dead_letters");
    let api: Value = serde_json::from_str(&get("/api/status")).unwrap();
    assert_eq!((&api["verdict"], &api["reasons"][0]["code"]), (&status["verdict"], &status["reasons"][0]["code"]));
    let metrics = get("/metrics");
    assert!(metrics.contains("tickhound_condition{code=\"dead_letters\"} 1"), "{metrics}");
    assert!(metrics.contains("tickhound_entries_dead_lettered_total 1000"), "{metrics}");
    // It ends with entries that are decoded, not with the time.
    project.feed(3, 1200, &[]);
    ended(&project, "dead_letters");
    assert_eq!(self::status(&project)["verdict"], "healthy");
    let [began, end] = begin_and_end(&host, "dead_letters");
    assert!(began.contains(" WARN ") && end.contains(" INFO ") && end.contains("count=1000"), "{began}\n{end}");
    host.stop();
}

/// Two producers published one symbol, with clocks ten minutes apart. Half of the ticks got the time of the other half, and
/// `status` said that every entry is processed.
#[test]
fn ticks_whose_times_are_raised_in_numbers_are_not_healthy() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut host = project.start_owner();
    add(&redis, ticks("NIFTY", (0..200).map(|number| if number % 2 == 0 { 0 } else { 600_000 })));
    let raised = reason(&project, "times_raised");
    assert!(raised["text"].as_str().unwrap().contains(" ticks in the last minute had a time before"), "{raised}");
    assert!(status(&project)["survey"]["receipt"]["last_tick_ms"].as_u64().unwrap() > now_ms() - 60_000);
    add(&redis, ticks("NIFTY", (0..5000).map(|_| 0)));
    ended(&project, "times_raised");
    begin_and_end(&host, "times_raised");
    host.stop();
}

/// The producer had died at ten in the morning, and `status` said that every entry is processed.
#[test]
fn a_feed_that_falls_silent_in_session_hours_is_not_healthy() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[session]\ncalendar = \"crypto\"\n[health]\nsilent_after_s = 2");
    let mut host = project.start_owner();
    let silent = reason(&project, "silent_feed");
    let text = silent["text"].as_str().unwrap();
    assert!(text.contains("in session hours (crypto): no tick has come in the "), "{text}");
    assert!(text.contains(" s since this host started reading; "), "{text}");
    assert!(text.contains(&format!("check that the producer runs, and publishes to {STREAM}")), "{text}");
    add(&redis, ticks("BTC", [0]));
    ended(&project, "silent_feed");
    begin_and_end(&host, "silent_feed");
    // Entries without a tick are no sign of life.
    add(&redis, [fields_of(&[("data", "nonsense".into())])]);
    wait_for("it is silent again, and says that entries come", || {
        let silent = reason(&project, "silent_feed");
        let text = silent["text"].as_str().unwrap();
        (text.contains("the last tick came ") && text.contains("1 entry came without a tick")).then_some(())
    });
    host.stop();
}

/// Nights are silent: without a calendar nobody knows when a feed should be, and while the market is closed it may be.
#[test]
fn a_feed_that_is_silent_outside_of_session_hours_is_healthy() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    fs::create_dir(project.path("config/sessions")).unwrap();
    // It opened for a minute, long ago.
    let closed = "source = \"a test\"\nas_of = \"2020-01-01\"\ntimezone = \"UTC\"\ndays = []\n\
                  [[hours]]\nopen = \"00:00\"\nclose = \"00:01\"\n";
    fs::write(project.path("config/sessions/closed.toml"), closed).unwrap();
    for calendar in ["", "closed"] {
        project.configure(&format!("[session]\ncalendar = \"{calendar}\"\n[health]\nsilent_after_s = 1"));
        let mut host = project.start_owner();
        let checked = text(&project.output(&["check"]).stdout);
        let warns = checked.contains("without session.calendar, a silent feed is not noticed");
        assert_eq!(warns, calendar.is_empty(), "{checked}");
        // Each reason that holds would be there by the third line of progress.
        let started = now_ms();
        wait_for("some seconds", || (now_ms() > started + 4000).then_some(()));
        assert_eq!(status(&project)["reasons"], Value::Array(Vec::new()));
        host.stop();
    }
}

/// The file of a calendar `config/sessions/NAME.toml` with one session on each of these days.
fn add_calendar(project: &Project, name: &str, days: &str, open: &str, close: &str) {
    fs::create_dir_all(project.path("config/sessions")).unwrap();
    let calendar = format!(
        "source = \"a test\"\nas_of = \"2020-01-01\"\ntimezone = \"UTC\"\ndays = [{days}]\n\
         [[hours]]\nopen = \"{open}\"\nclose = \"{close}\"\n"
    );
    fs::write(project.path(&format!("config/sessions/{name}.toml")), calendar).unwrap();
}

const EVERY_DAY: &str = "\"mon\", \"tue\", \"wed\", \"thu\", \"fri\", \"sat\", \"sun\"";

/// The time of the day so many minutes after now, in UTC.
fn time_of_day(minutes: i64) -> String {
    let minutes = (now_ms() as i64 / 60_000 + minutes).rem_euclid(24 * 60);
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

/// The time zone was wrong: every tick was outside of every session, which nothing said.
#[test]
fn ticks_outside_of_every_session_are_not_healthy_while_one_is_open() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    add_calendar(&project, "hour", EVERY_DAY, &time_of_day(-30), &time_of_day(30));
    project.configure(
        "[session]\ncalendar = \"crypto\"\n[[session.by_symbol]]\nsymbols = [\"NIFTY\"]\ncalendar = \"hour\"",
    );
    let mut host = project.start_owner();
    let two_hours_ago = 2 * 3_600_000;
    add(&redis, ticks("BTC", (0..500).map(|_| 0)));
    add(&redis, ticks("NIFTY", (0..100).map(|_| two_hours_ago)));
    let outside = reason(&project, "off_session");
    let text = outside["text"].as_str().unwrap();
    assert!(
        text.contains("100 of 100 ticks in the last minute are outside of the sessions of their calendar (hour)"),
        "{text}"
    );
    assert!(text.contains("check [session] and input.timezone"), "{text}");
    assert_eq!(outside["subject"], "hour");
    add(&redis, ticks("NIFTY", (0..500).map(|_| 0)));
    ended(&project, "off_session");
    begin_and_end(&host, "off_session");
    host.stop();
}

/// Each evening, what an exchange sends after its close was an alarm, because crypto trades on. And each night, crypto was
/// silent where nobody had subscribed to it.
#[test]
fn a_calendar_says_nothing_about_the_symbols_of_another() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    add_calendar(&project, "closed", "", "00:00", "00:01");
    project.configure(
        "[session]\ncalendar = \"crypto\"\n[[session.by_symbol]]\nsymbols = [\"NIFTY\"]\ncalendar = \"closed\"\n\
         [health]\nsilent_after_s = 1",
    );
    let mut host = project.start_owner();
    add(&redis, ticks("NIFTY", (0..100).map(|_| 0)));
    redis.wait_processed(100);
    for _ in 0..2 {
        let started = now_ms();
        wait_for("some seconds", || (now_ms() > started + 4000).then_some(()));
        assert_eq!(status(&project)["reasons"], Value::Array(Vec::new()));
        // The next host knows the symbol from the saved state.
        host.stop();
        host = project.start_owner();
    }
    host.stop();
}

/// The feed of an exchange was dead, and one crypto symbol hid it. A restart forgets nothing of it.
#[test]
fn a_feed_that_is_silent_is_not_hidden_by_that_of_another_calendar() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    add_calendar(&project, "exchange", EVERY_DAY, &time_of_day(-30), &time_of_day(30));
    project.configure(
        "[session]\ncalendar = \"exchange\"\n[[session.by_symbol]]\nsymbols = [\"BTC*\"]\ncalendar = \"crypto\"\n\
         [health]\nsilent_after_s = 3",
    );
    let mut host = project.start_owner();
    add(&redis, ticks("NIFTY", [0]));
    for _ in 0..2 {
        let silent = wait_for("the exchange is silent", || {
            add(&redis, ticks("BTCUSDT", [0]));
            let status = status(&project);
            let reasons = status["reasons"].as_array().unwrap();
            reasons.iter().find(|reason| reason["code"] == "silent_feed").cloned()
        });
        assert_eq!(silent["subject"], "exchange");
        let text = silent["text"].as_str().unwrap();
        assert!(
            text.contains("in session hours (exchange): ") && text.contains("of the symbols with this calendar"),
            "{text}"
        );
        host.stop();
        host = project.start_owner();
    }
    wait_for("the exchange is there again", || {
        add(&redis, ticks("BTCUSDT", [0]));
        add(&redis, ticks("NIFTY", [0]));
        let status = status(&project);
        status["reasons"].as_array().unwrap().iter().all(|reason| reason["code"] != "silent_feed").then_some(())
    });
    host.stop();
}

/// Four channels answered 403 to everything, and `status` said that every entry is processed.
#[test]
fn a_channel_that_rejects_is_not_healthy_until_it_delivers() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    let receiver = Receiver::start();
    let configure = |timeout_ms: u64| {
        let url = receiver.url();
        let channel =
            format!("[[notify]]\nname = \"desk\"\nurl = \"{url}\"\ngroup_ms = 0\ntimeout_ms = {timeout_ms}\n");
        project.configure(&format!("[alerts]\nlog = false\n{EACH}\n{channel}"));
    };
    configure(1000);
    receiver.will(&[How::Answer(403, "", "not you\u{1b}[31m")]);
    let mut host = project.start_owner();
    add(&redis, ticks("NIFTY", [0]));
    let failing = reason(&project, "channel_failing");
    let text = failing["text"].as_str().unwrap();
    assert_eq!(failing["subject"], "desk");
    assert!(text.contains("desk does not deliver: it answers 403") && !text.contains('\u{1b}'), "{text}");
    assert!(text.contains("`tickhound notify test desk`"), "{text}");
    // A restart forgets nothing of it: the next owner says so before its first attempt.
    host.stop();
    assert_eq!(lines_of(&host.log(), "condition_ended"), Vec::<&str>::new(), "a stop ends no condition");
    receiver.will(&[How::Answer(403, "", "")]);
    let mut host = project.start_owner();
    reason(&project, "channel_failing");
    wait_for("the second attempt", || receiver.is_done().then_some(()));
    // The receiver is mended, and the channel is changed so that it does not wait for its next attempt.
    configure(1500);
    receiver.wait_for("the alert", |request| !request.ids().is_empty());
    ended(&project, "channel_failing");
    begin_and_end(&host, "channel_failing");
    assert_eq!(status(&project)["verdict"], "healthy");
    host.stop();
}

/// A channel that is removed is not failing any more.
#[test]
fn a_failing_channel_that_is_removed_leaves_the_verdict() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    let receiver = Receiver::start();
    receiver.will(&[How::Answer(404, "", "")]);
    let url = receiver.url();
    project.configure(&format!("{EACH}\n[[notify]]\nname = \"desk\"\nurl = \"{url}\"\ngroup_ms = 0\n"));
    let mut host = project.start_owner();
    add(&redis, ticks("NIFTY", [0]));
    reason(&project, "channel_failing");
    project.configure(EACH);
    ended(&project, "channel_failing");
    host.stop();
}

/// The disk of the alerts file was full for an hour; the log had one line about it, and `status` said that every entry is
/// processed.
#[test]
fn an_alerts_file_that_can_not_be_written_is_not_healthy() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    symlink("/dev/full", project.path("full.jsonl")).unwrap();
    let configure = |file: &str| project.configure(&format!("[alerts]\nlog = false\njsonl = \"{file}\"\n{EACH}"));
    configure("full.jsonl");
    let mut host = project.start_owner();
    add(&redis, ticks("NIFTY", [0]));
    let failing = reason(&project, "alerts_file_failing");
    assert!(failing["subject"].as_str().unwrap().ends_with("full.jsonl"), "{failing}");
    assert!(failing["text"].as_str().unwrap().contains("No space left on device"), "{failing}");
    configure("other.jsonl");
    ended(&project, "alerts_file_failing");
    begin_and_end(&host, "alerts_file_failing");
    host.stop();
}

/// The disk of the log was full. The only one to say so was the log.
#[test]
fn a_log_that_can_not_be_written_is_not_healthy() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure("[engine]\nreport_every = 1");
    // Writes beyond a limit then fail as on a full disk, and end nothing.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" run --log-file it.log"]).arg(binary()).current_dir(project.path("."));
    let host = Killed(shell.env("TICKHOUND_SERVER__LISTEN", "").spawn().unwrap());
    wait_for("it is the owner", || redis.lease_pid());
    limit_files(host.0.id(), "1");
    let failing = reason(&project, "log_failing");
    assert!(failing["text"].as_str().unwrap().contains("the log can't be written: File too large"), "{failing}");
    limit_files(host.0.id(), "unlimited");
    ended(&project, "log_failing");
    let log = fs::read_to_string(project.path("it.log")).unwrap();
    assert!(log.contains("log_lines_lost"), "{log}");
}

/// The age of the last tick was missing after a restart on a dead feed, so the alert rule that asked for it could not fire.
#[test]
fn the_age_of_the_last_tick_survives_a_restart() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let mut host = project.start_owner();
    let last_tick = || status(&project)["survey"]["receipt"]["last_tick_ms"].as_u64();
    assert_eq!(last_tick(), None, "there was none");
    add(&redis, ticks("NIFTY", [0]));
    let before = wait_for("the tick is in the receipt", last_tick);
    host.stop();
    let listen = format!("127.0.0.1:{}", free_port());
    let mut host = project.start_with(&["run"], &[("TICKHOUND_SERVER__LISTEN", &listen)]);
    host.wait_for_event("lease_acquired");
    let age = wait_for("the age is a metric", || {
        let metrics = ureq::get(format!("http://{listen}/metrics")).call().ok()?.body_mut().read_to_string().ok()?;
        let line = metrics.lines().find(|line| line.starts_with("tickhound_last_tick_age_seconds "))?;
        line.split(' ').nth(1)?.parse::<f64>().ok()
    });
    assert!(age <= (now_ms() - before) as f64 / 1000.0, "{age}");
    wait_for("the next receipt has it, too", || (last_tick() == Some(before)).then_some(()));
    assert!(text(&project.output(&["status"]).stdout).contains(", last tick: "));
    host.stop();
}

/// What is wrong with the feed of the owner is not asked of a standby, and ends with the lease.
#[test]
fn conditions_are_those_of_the_owner() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.configure_with("lease_ms = 500", "");
    let mut first = project.start_owner();
    let mut second = project.start(&["run"]);
    second.wait_for_event("standby_started");
    add(&redis, [fields_of(&[("data", "nonsense".into())])]);
    reason(&project, "dead_letters");
    assert!(!second.has_event("condition_began"));
    first.kill();
    second.wait_for_event("lease_acquired");
    ended(&project, "dead_letters");
    second.stop();
}
