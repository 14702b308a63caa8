//! `tickhound top` in a real terminal, with a real host at work; and `status --watch`.

use std::{env, fs};

use crate::{
    support::{Host, Project, Redis, text, wait_for},
    terminal::Terminal,
};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (120, 40);

/// A host, and a market that is so fast that alerts come within seconds.
fn at_work(redis: &Redis) -> (Project, Host, Host) {
    let project = Project::new(redis);
    let feed = project.start(&["feed", "--simulate", "--symbols", "12", "--rate", "1500"]);
    let host = project.start(&["run"]);
    wait_for("alerts", || (redis.alerts().len() >= 12).then_some(()));
    (project, host, feed)
}

/// Entries processed in a second, as the title of the first curve has it.
fn rate(screen: &str) -> u64 {
    let rate = |line: &str| line.strip_prefix("worked ")?.split_once("/s")?.0.replace(',', "").parse().ok();
    screen.lines().find_map(rate).unwrap_or(0)
}

fn detected(screen: &str) -> Vec<&str> {
    screen.lines().filter(|line| line.contains("- DETECTED: ")).collect()
}

#[test]
fn a_small_terminal_shows_what_matters_and_keys_work() {
    let redis = Redis::start();
    let (project, _host, _feed) = at_work(&redis);
    let mut top = Terminal::open(&project, "top", SMALL, &[]);
    let screen = top.shows_what("work goes on", |screen| rate(screen) > 0 && detected(screen).len() >= 5);
    for part in
        ["ticks:intraday:processed · scanner_group", "CONSUMERS", "tickhound", "breakout", "momentum", "q  quit"]
    {
        assert!(screen.contains(part), "{part:?} is missing in\n{screen}");
    }
    // A busy machine may be behind for a while.
    top.shows_what("all is well", |screen| screen.contains("✅ healthy: "));
    assert!(!screen.contains("unreachable"), "{screen}");
    let first = detected(&screen)[0].to_owned();
    top.shows_what("newer alerts", |screen| detected(screen).first().is_some_and(|newest| *newest != first));

    top.press("j");
    let screen = top.shows("EVIDENCE");
    assert!(screen.contains("confidence ") && screen.contains("after it arrived"), "{screen}");
    top.press("\x1b[B\x1b[B");
    top.shows_what("the third or an older one", |screen| screen.contains("EVIDENCE") && !screen.contains("· 1 of"));
    top.press("\x1b");
    top.shows("CONSUMERS");
    top.press("/momen");
    top.shows("/momen█");
    top.press("\r");
    top.shows_what("only what the filter lets through", |screen| {
        screen.contains("/momen: ") && detected(screen).iter().all(|line| line.contains("[MOMENTUM]"))
    });
    top.press("s");
    top.shows("DETECTORS by cost");
    top.press("?");
    top.shows("any key closes this");
    top.press("x");
    top.press("p");
    let paused = top.shows("PAUSED");
    let before = redis.alerts().len();
    wait_for("more alerts", || (redis.alerts().len() > before + 3).then_some(()));
    assert_eq!(detected(&paused), detected(&top.text()), "nothing moves while it is paused");
    top.press("p");
    top.shows_what("it goes on", |screen| !screen.contains("PAUSED") && detected(screen) != detected(&paused));

    top.press("q");
    let (code, left) = top.wait();
    assert_eq!(code, Some(0));
    assert!(left.contains("icanon") && !left.contains("-icanon"), "{left}");
    assert!(!left.contains("DETECTED"), "{left}");
}

#[test]
fn a_dead_host_and_a_dead_server_are_shown_and_it_recovers_by_itself() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let (project, mut host, _feed) = at_work(&redis);
    let mut top = Terminal::open(&project, "top", LARGE, &[]);
    top.shows_what("work goes on", |screen| rate(screen) > 0);
    top.shows("the oldest is");
    host.kill();
    top.shows("no host is running, and entries have waited for");
    redis.kill();
    let screen = top.shows("❌ unreachable: redis at ");
    assert!(screen.contains("trying again every second; what follows is"), "{screen}");
    // What was known stays.
    assert!(screen.contains("DETECTED"), "{screen}");
    redis.restart();
    let _host = project.start(&["run"]);
    top.shows_what("work goes on again", |screen| !screen.contains("unreachable") && rate(screen) > 0);
    top.signal("TERM");
    let (code, left) = top.wait();
    assert_eq!(code, Some(0));
    assert!(!left.contains("-icanon"), "{left}");
}

/// `TICKHOUND_PICTURE=docs/images/top.svg cargo test --release --test it top::a_large` draws the picture
/// in the documentation anew.
#[test]
fn a_large_terminal_shows_more_and_may_change_its_size() {
    let redis = Redis::start();
    let (project, _host, _feed) = at_work(&redis);
    let mut top = Terminal::open(&project, "top", LARGE, &[]);
    top.shows("DETECTED");
    top.press("j");
    let is_whole = |screen: &str| {
        let parts = ["EVIDENCE", "CONSUMERS", "the oldest is", "breakout 0.1.0"];
        parts.iter().all(|part| screen.contains(part)) && detected(screen).len() >= 12 && rate(screen) > 0
    };
    top.shows_what("evidence beside the tables", is_whole);
    if let Some(picture) = env::var_os("TICKHOUND_PICTURE") {
        let begun = std::time::Instant::now();
        top.shows_what("a minute's curve", |_| begun.elapsed().as_secs() > 40);
        top.press("g");
        top.shows_what("a quiet moment", |screen| screen.contains("✅ healthy") && is_whole(screen));
        fs::write(picture, top.svg()).unwrap();
    }
    top.resize(SMALL);
    top.shows_what("a small one", |screen| screen.contains("EVIDENCE") && !screen.contains("the oldest is"));
    top.resize((30, 6));
    top.shows_what("a tiny one", |screen| screen.contains("✅ [") && !screen.contains("confidence"));
    top.press("\x03");
    assert_eq!(top.wait().0, Some(0));
}

#[test]
fn colours_are_left_out_where_they_are_not_wanted() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let colours = |top: &Terminal| top.raw().contains("\x1b[38;") || top.raw().contains("\x1b[33m");
    let mut top = Terminal::open(&project, "top", SMALL, &[]);
    top.shows("⚠ degraded: the group does not exist yet");
    assert!(colours(&top));
    top.press("q");
    top.wait();
    let mut top = Terminal::open(&project, "top", SMALL, &[("NO_COLOR", "1")]);
    top.shows("⚠ degraded: the group does not exist yet");
    assert!(!colours(&top));
    top.press("q");
    top.wait();
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let output = project.output(&["top"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("tickhound status --watch"), "{}", text(&output.stderr));
}

#[test]
fn status_is_watched_in_place_and_ends_with_the_last_verdict() {
    let mut redis = Redis::start();
    let (project, _host, _feed) = at_work(&redis);
    let mut status = Terminal::open(&project, "status --watch 0.3", (120, 40), &[]);
    let screen = status.shows_what("the pace", |screen| {
        let pace = screen.lines().find_map(|line| line.strip_prefix("pace: "));
        pace.is_some_and(|pace| !pace.starts_with("0/s"))
    });
    let shown = ["tickhound status, every 300ms", "submitted: ", "newest alerts", "→ breakout: "];
    assert!(shown.iter().all(|part| screen.matches(part).count() == 1), "{screen}");
    redis.kill();
    let screen = status.shows("❌ unreachable");
    assert!(!screen.contains("newest alerts"), "{screen}");
    // As Ctrl-C would, but not to the shell around it.
    status.signal("INT");
    let (code, _) = status.wait();
    assert_eq!(code, Some(2));
}

#[test]
fn status_is_watched_line_by_line_without_a_terminal() {
    let redis = Redis::start();
    let (project, _host, _feed) = at_work(&redis);
    let mut watch = project.start(&["status", "--watch", "0.2", "--json"]);
    let looks = || -> Vec<serde_json::Value> {
        let log = watch.log();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let looks = wait_for("looks with a pace", || {
        let looks = looks();
        let moving = looks.iter().filter(|look| look["pace"]["entries_per_s"].as_f64().is_some_and(|rate| rate > 0.0));
        (moving.count() >= 2).then_some(looks)
    });
    assert!(looks[0].get("pace").is_none(), "the first look has nothing to compare with");
    let last = looks.last().unwrap();
    let work = ["submitted", "completed", "backlog"].map(|name| last["work"][name].as_u64().unwrap());
    assert!(work[1] > 0 && work[0] == work[1] + work[2], "{last}");
    watch.signal("INT");
    assert!(watch.wait().is_some_and(|code| code < 2), "a host is at work");

    // As `tickhound status --watch | head` would.
    let mut child = project.command(&["status", "--watch", "60"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    drop(child.stdout.take());
    wait_for("it ends, long before the next look", || child.try_wait().unwrap());
}
