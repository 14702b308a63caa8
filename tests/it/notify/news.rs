//! What a channel is told beside single alerts: of underlyings together, and of the host's own trouble; and what it is not
//! told, while it is muted.

use serde_json::{Value, json};

use super::{
    Lossy, account, alerts, configure, ids, project,
    receiver::{How, OK, Receiver, Request},
    sink, state, tick, wait_until_notified,
};
use crate::support::{Host, Project, Redis, count_event, pause, text, wait_for};

/// Both, and no message that is forgotten with the minute.
const BOTH: &str = "events = [\"alerts\", \"health\"]";

/// What the receiver was told of the host's health, as `began phone` or `ended phone`.
fn health(receiver: &Receiver) -> Vec<String> {
    let of = |request: &Request| request.body["health"].as_array().unwrap().clone();
    let text = |news: Value| format!("{} {}", news["event"].as_str().unwrap(), news["subject"].as_str().unwrap());
    receiver.got().iter().filter(|request| request.arrived()).flat_map(of).map(text).collect()
}

fn wait_for_health(receiver: &Receiver, expected: &[&str]) {
    wait_for("what the receiver is told of the host", || (health(receiver) == expected).then_some(()));
}

#[test]
fn alerts_of_one_underlying_are_told_together_with_their_members() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let more = "group_by = \"underlying\"\ntext = \"{symbol}\"\ngroup_ms = 1500";
    let project = project(&redis, &sink("desk", &receiver.url(), more).replacen("group_ms = 20\n", "", 1));
    let _host = project.start_owner();
    for symbol in ["NIFTY 50", "NIFTYBEES", "NFO:NIFTY25NOVFUT", "NIFTY25NOV25750CE", "SBIN", "NIFTY25N1125750PE"] {
        tick(&redis, symbol, 1);
    }
    wait_until_notified(&redis, "desk");
    account(&redis, &receiver.got());
    let got = receiver.got();
    let [message] = &got[..] else { panic!("{} messages", got.len()) };
    let groups: Vec<(&str, u64, usize)> = message.body["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| {
            let count = group["count"].as_u64().unwrap();
            (group["underlying"].as_str().unwrap(), count, group["ids"].as_array().unwrap().len())
        })
        .collect();
    assert_eq!(groups, [("NIFTY", 4, 4), ("NIFTYBEES", 1, 1), ("SBIN", 1, 1)]);
    assert_eq!((&message.body["count"], &message.body["more"]), (&json!(6), &json!(0)));
    let text = message.body["text"].as_str().unwrap();
    assert!(text.starts_with("6 alerts of 3 underlyings\nNIFTY: 4 alerts\n· NIFTY 50\n· "), "{text}");
    assert!(text.contains("\n· NIFTY25N1125750PE\nNIFTYBEES\nSBIN"), "{text}");
}

/// A desk and a phone. The phone rejects everything.
fn desk_and_phone(redis: &Redis) -> (Receiver, Receiver, Project) {
    let (desk, phone) = (Receiver::start(), Receiver::start());
    phone.will(&[How::Answer(403, "", ""); 50]);
    let sinks = sink("desk", &desk.url(), BOTH) + &sink("phone", &phone.url(), BOTH);
    let project = project(redis, &sinks);
    (desk, phone, project)
}

/// Nobody was told that a channel rejects; and a host that is restarted while it does must not tell it again.
#[test]
fn trouble_is_told_when_it_begins_and_ends_once_over_restarts_and_a_take_over() {
    let redis = Redis::start();
    let (desk, phone, project) = desk_and_phone(&redis);
    let mut host = project.start_owner();
    tick(&redis, "A", 1);
    wait_for_health(&desk, &["began phone"]);
    let told = desk.wait_for("the trouble", |request| request.body["kind"] == "health");
    let text = told.body["text"].as_str().unwrap();
    assert!(text.starts_with("⚠ scanner_group: the notification channel phone does not deliver"), "{text}");
    assert!(text.contains("403") && text.contains("tickhound notify"), "with the cure: {text}");
    assert_eq!(told.ids(), Vec::<String>::new());
    wait_for("it is recorded", || (state(&redis, "desk")?["reported"][0]["code"] == "channel_failing").then_some(()));

    // A restart, then a take-over, while it lasts.
    host.kill();
    let mut host = project.start_owner();
    wait_until_the_phone_fails(&redis, &host, 2);
    let standby = project.start(&["run"]);
    standby.wait_for_event("standby_started");
    host.kill();
    standby.wait_for_event("lease_acquired");
    wait_until_the_phone_fails(&redis, &standby, 3);
    assert_eq!(health(&desk), ["began phone"]);

    // The phone works again.
    let mended = Receiver::start();
    configure(&redis, &project, &(sink("desk", &desk.url(), BOTH) + &sink("phone", &mended.url(), "")));
    tick(&redis, "MENDED", 1);
    mended.wait_for("an alert", |request| !request.ids().is_empty());
    wait_for_health(&desk, &["began phone", "ended phone"]);
    for _ in 0..3 {
        pause();
    }
    assert_eq!(health(&desk), ["began phone", "ended phone"]);
    assert_eq!(health(&phone), Vec::<String>::new(), "it is not told of itself");
    assert_eq!(state(&redis, "desk").unwrap()["totals"]["health"], 2);
    wait_until_notified(&redis, "desk");
    account(&redis, &desk.got());
}

/// Until this host has found that the phone rejects, and the desk has had time to be told.
fn wait_until_the_phone_fails(redis: &Redis, host: &Host, round: usize) {
    tick(redis, &format!("ROUND{round}"), 1);
    host.wait_for_event("condition_began");
    for _ in 0..3 {
        pause();
    }
}

/// A flood of alerts fills each message, and the minute's messages.
#[test]
fn trouble_is_told_although_there_is_a_flood_of_alerts_and_a_long_group() {
    let redis = Redis::start();
    let (desk, phone) = (Receiver::start(), Receiver::start());
    phone.will(&[How::Answer(401, "", ""); 50]);
    let few = sink("desk", &desk.url(), BOTH)
        .replace("group_ms = 20", "group_ms = 600000")
        .replace("max_per_message = 500", "max_per_message = 1");
    let project = project(&redis, &(few + &sink("phone", &phone.url(), "")));
    let mut host = project.start_owner();
    tick(&redis, "A", 3000);
    wait_for_health(&desk, &["began phone"]);
    assert_eq!(ids(&desk.got()).len(), 0, "the alerts still wait for their group");
    host.stop();
    let got = desk.got();
    let alerts: u64 = got.iter().map(|request| request.body["count"].as_u64().unwrap()).sum();
    assert_eq!(alerts, 3000, "the end of the host sends them too");
}

/// A channel that is told of health alone has no alerts, and begins with the next alert once it is told of these.
#[test]
fn a_channel_for_trouble_alone_gets_no_alerts() {
    let redis = Redis::start();
    let (desk, phone) = (Receiver::start(), Receiver::start());
    phone.will(&[How::Answer(403, "", ""); 50]);
    let phone_sink = sink("phone", &phone.url(), "");
    let project = project(&redis, &(sink("desk", &desk.url(), "events = [\"health\"]") + &phone_sink));
    let host = project.start_owner();
    tick(&redis, "A", 20);
    wait_for_health(&desk, &["began phone"]);
    let shown = text(&project.output(&["notify"]).stdout);
    assert!(
        shown.contains("; it sends no alerts, only what is wrong with the host\n") && !shown.contains("of ,"),
        "{shown}"
    );
    configure(&redis, &project, &(sink("desk", &desk.url(), BOTH) + &phone_sink));
    wait_for("it begins to read alerts", || (state(&redis, "desk")?["stream"] == "alerts:intraday").then_some(()));
    tick(&redis, "B", 1);
    let first = desk.wait_for("an alert", |request| !request.ids().is_empty());
    assert_eq!((first.ids().len(), &first.body["older"]["count"]), (1, &json!(0)));
    assert!(first.body.to_string().contains("\"B\"") && host.has_event("lease_acquired"));
    assert_eq!(health(&desk), ["began phone"], "it is not told again");
    assert_eq!(desk.got().iter().map(|got| got.body["count"].as_u64().unwrap()).sum::<u64>(), 1);
}

/// What was told moves no position, so a server that came back with older data did not look as if it had lost anything.
#[test]
fn trouble_is_not_told_again_after_a_failover() {
    let (desk, phone) = (Receiver::start(), Receiver::start());
    phone.will(&[How::Answer(403, "", ""); 50]);
    let usual = "timeout_ms = 1000\n";
    let here = format!("{usual}events = [\"health\"]\n{}", sink("phone", &phone.url(), ""));
    let mut lossy = Lossy::start(&desk, usual, &here);
    wait_for_health(&desk, &["began phone"]);
    wait_for("it is recorded", || {
        let state = state(&lossy.replicas.first, "desk")?;
        (state["reported"][0]["subject"] == "phone" && state["sending"].is_null()).then_some(())
    });
    let redis = lossy.fail_over();
    wait_for("it is recorded again", || (state(redis, "desk")?["reported"][0]["subject"] == "phone").then_some(()));
    for _ in 0..3 {
        pause();
    }
    assert_eq!(health(&desk), ["began phone"]);
}

#[test]
fn muted_alerts_are_left_out_of_channels_only_and_counted_over_a_kill() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let project = project(&redis, &sink("desk", &receiver.url(), ""));
    let mut host = project.start_owner();
    let muted = project.run(&["mute", "nifty*", "--detector", "e*", "--for", "30m"]);
    assert!(muted.starts_with("muted nifty* for detector e* until 20") && muted.trim_end().ends_with("IST"), "{muted}");
    tick(&redis, "NIFTY25NOVFUT", 5);
    tick(&redis, "SBIN", 1);
    receiver.wait_for("what is not muted", |request| request.body.to_string().contains("SBIN"));
    wait_until_notified(&redis, "desk");
    host.kill();
    // The mute holds for the next host as well.
    let _host = project.start_owner();
    tick(&redis, "NSE:NIFTY25NOV25750CE", 3);
    wait_for("the stream is whole", || (alerts(&redis).len() == 9).then_some(()));
    wait_until_notified(&redis, "desk");
    assert_eq!(ids(&receiver.got()).len(), 1, "nothing else was sent");
    let listed: Value = serde_json::from_str(&project.run(&["mutes", "--json"])).unwrap();
    assert_eq!((&listed["mutes"][0]["symbols"], &listed["mutes"][0]["alerts"]), (&json!("nifty*"), &json!(8)));
    assert_eq!(state(&redis, "desk").unwrap()["totals"]["muted"], 8);
    let listed = project.run(&["mutes"]);
    assert!(listed.starts_with("nifty* for detector e*: until ") && listed.contains("8 alerts left out"), "{listed}");
    let channels = project.run(&["notify"]);
    assert!(channels.contains("8 muted") && channels.contains("\n1 mute is in force"), "{channels}");

    assert_eq!(project.run(&["unmute", "NIFTY*", "--detector", "e*"]), "unmuted NIFTY* for detector e*\n");
    assert_eq!(project.run(&["mutes"]), "nothing is muted\n");
    tick(&redis, "NIFTY25NOVFUT", 1);
    receiver.wait_for("an alert again", |request| request.body.to_string().contains("NIFTY25NOVFUT"));
}

#[test]
fn a_mute_ends_by_itself_is_replaced_by_its_like_and_is_one_of_a_hundred() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let project = project(&redis, &sink("desk", &receiver.url(), ""));
    let _host = project.start_owner();
    project.run(&["mute", "A", "--for", "1h"]);
    project.run(&["mute", "a", "--for", "3s"]);
    let listed = || -> Value { serde_json::from_str(&project.run(&["mutes", "--json"])).unwrap() };
    assert_eq!(listed()["mutes"].as_array().unwrap().len(), 1, "the same patterns in another case");
    wait_for("it ends", || listed()["mutes"].as_array().unwrap().is_empty().then_some(()));
    tick(&redis, "A", 1);
    receiver.wait_for("an alert", |request| request.body.to_string().contains("\"A\""));

    // Other programs may write there, too.
    let key = "tickhound:{ticks:intraday:processed}:scanner_group:mutes";
    redis.ask::<u64>(&format!("HSET {key} odd not-json another {{\"symbols\":7}}"));
    let session: Value = serde_json::from_str(&project.run(&["mute", "B", "--json"])).unwrap();
    assert!(session["until_ms"].as_u64() > session["made_ms"].as_u64(), "{session}");
    assert_eq!(redis.ask::<u64>(&format!("HLEN {key}")), 1, "what can't be read is removed");
    for number in 1..100 {
        let field = format!("S{number}");
        let mute = json!({ "symbols": field, "detector": "*", "made_ms": 1, "until_ms": 9e15 as u64 });
        let _: u64 = redis::cmd("HSET").arg(key).arg(field).arg(mute.to_string()).query(&mut redis.connect()).unwrap();
    }
    let refused = project.output(&["mute", "ONE-MORE"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("there are 100 mutes already") && said.contains("tickhound unmute"), "{said}");
    project.run(&["mute", "b", "--for", "1m"]);
    assert_eq!(project.run(&["unmute", "--all"]), "100 mutes ended\n");
    for (args, code, expected) in [
        (&["unmute", "B"][..], 1, "there is no mute of B for detector *; nothing is muted"),
        (&["unmute", "--all"], 1, "nothing is muted"),
        (&["mute", ""], 1, "the pattern of symbols is empty"),
        (&["mute", "A\u{1b}[1m"], 1, "a character that can't be seen"),
        (&["mute", "A", "--for", "31d"], 1, "at most 30 days"),
        (&["mute", "A", "--for", "soon"], 2, "expected a span such as 30m"),
        (&["mute"], 2, "SYMBOLS"),
        (&["unmute"], 2, "SYMBOLS"),
    ] {
        let output = project.output(args);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{args:?}: {said}");
        assert!(!said.contains('\u{1b}'), "{said}");
    }
}

/// A message that failed does not count what was muted in it twice, and a mute that comes meanwhile holds for it.
#[test]
fn a_mute_holds_for_alerts_that_wait_for_their_receiver() {
    let redis = Redis::start();
    let receiver = Receiver::start();
    let project = project(&redis, &sink("desk", &receiver.url(), ""));
    receiver.will(&[How::Answer(503, "Retry-After: 4\r\n", "")]);
    let host = project.start_owner();
    tick(&redis, "A", 2);
    tick(&redis, "B", 1);
    wait_for("all alerts", || (alerts(&redis).len() == 3).then_some(()));
    host.wait_for_event("notification_delayed");
    project.run(&["mute", "A"]);
    receiver.wait_for("the rest", |request| request.body["count"] == 1);
    wait_until_notified(&redis, "desk");
    assert_eq!(state(&redis, "desk").unwrap()["totals"]["muted"], 2);
    assert_eq!(count_event(&host.log(), "notification_in_doubt"), 0);
    assert!(receiver.is_done() && matches!(OK, How::Answer(200, ..)));
}
