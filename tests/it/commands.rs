//! Commands that don't surprise: what `promote`, `dead requeue`, variables, colours, clocks and versions do.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use redis::Commands;
use serde_json::Value;

use crate::{
    support::{DEAD, Project, Redis, SHADOW_ALERTS, STREAM, binary, misbehaving, release, shipped, text, wait_for},
    terminal::Terminal,
};

const SIZE: (u16, u16) = (120, 40);

/// A live detector with settings and comments, and a shadow that sets one key and one parameter.
const DESK: &str = "\
[detectors.breakout]
plugin = \"breakout\"
# Options of two underlyings.
symbols = [\"NIFTY*\", \"BANKNIFTY*\"] # not SENSEX
min_confidence = 0.8 # less is noise
cooldown_s = 60
[detectors.breakout.params]
window_s = 240 # four minutes

[detectors.bolder]
shadow_of = \"breakout\"
min_confidence = 0.3
[detectors.bolder.params]
atr_len = 10
";

/// A project that reaches no server.
fn alone(more: &str) -> Project {
    let project = Project::at("redis://127.0.0.1:1".into());
    project.write_config(&format!("[stream]\nurl = \"redis://127.0.0.1:1\"\n\n{more}"));
    project
}

fn config(project: &Project) -> String {
    fs::read_to_string(project.path("config/config.toml")).unwrap()
}

fn fails(project: &Project, args: &[&str], variables: &[(&str, &str)]) -> String {
    let output = project.command(args).envs(variables.iter().copied()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?} {variables:?}");
    text(&output.stderr)
}

fn add(redis: &Redis, fields: &[(&str, &str)]) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*");
    for (name, value) in fields {
        add.arg(*name).arg(*value);
    }
    add.query(&mut redis.connect()).unwrap()
}

/// The shadow saw all symbols at the default threshold, and a promotion took the live detector's symbols, cool-down and
/// comments away.
#[test]
fn a_promoted_shadow_leaves_the_live_detector_what_it_does_not_set() {
    let project = alone(DESK);
    let before = config(&project);
    let shown = project.run(&["promote", "bolder", "--dry-run"]);
    for line in
        ["--- config/config.toml", "-min_confidence = 0.8 # less is noise", "+min_confidence = 0.3 # less is noise"]
    {
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
    assert!(shown.contains("\n atr_len = 10\n") && shown.contains("\n-[detectors.bolder]\n"), "{shown}");
    assert!(shown.ends_with("nothing was changed (--dry-run)\n") && config(&project) == before);
    assert!(!project.path("config/config.toml.previous").exists());

    let said = project.run(&["promote", "bolder"]);
    let after = config(&project);
    for kept in [
        "# Options of two underlyings.\nsymbols = [\"NIFTY*\", \"BANKNIFTY*\"] # not SENSEX\n",
        "cooldown_s = 60\n",
        "window_s = 240 # four minutes\n",
        "atr_len = 10\n",
    ] {
        assert!(after.contains(kept), "{after}");
    }
    assert!(!after.contains("bolder"), "{after}");
    assert_eq!(fs::read_to_string(project.path("config/config.toml.previous")).unwrap(), before);
    assert!(said.contains("to go back: mv ") && said.contains("config.toml.previous"), "{said}");
}

#[test]
fn a_promotion_says_which_channels_name_the_shadow() {
    let channel = |name: &str, more: &str| {
        format!("[[notify]]\nname = \"{name}\"\nkind = \"slack\"\nurl_env = \"DESK_URL\"\n{more}\n")
    };
    let channels = [
        channel("desk", "detectors = [\"breakout\", \"bolder\"]"),
        channel("trial", "detectors = [\"bolder\"]\nshadows = true"),
        channel("all", ""),
    ];
    let project = alone(&format!("{}{DESK}", channels.concat()));
    let said = project.run(&["promote", "bolder", "--dry-run"]);
    for named in [
        "channel desk names bolder, whose alerts become those of breakout: write breakout there",
        "channel trial names bolder",
    ] {
        assert!(said.contains(named), "{said}");
    }
    assert!(!said.contains("channel all"), "{said}");

    // What an editor on Windows puts in front, and ends lines with.
    let marked = format!("\u{feff}{}", config(&project));
    fs::write(project.path("config/config.toml"), &marked).unwrap();
    project.run(&["promote", "bolder"]);
    assert!(config(&project).starts_with("\u{feff}["), "{}", config(&project));
    fs::write(project.path("config/config.toml"), marked.replacen('\n', "\r\n", 4)).unwrap();
    let said = project.run(&["promote", "bolder", "--dry-run"]);
    assert!(said.contains("has line ends of Windows and of Unix; all become those of Unix"), "{said}");
}

#[test]
fn check_shows_the_values_in_force_and_where_they_come_from() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.write_config(&format!("[stream]\nurl = \"{}\"\n{DESK}", redis.url()));
    let variable = ("TICKHOUND_DETECTORS__BREAKOUT__COOLDOWN_S", "90");
    let output = project.command(&["check"]).env(variable.0, variable.1).output().unwrap();
    let shown = text(&output.stdout);
    let (_, shadow) = shown.split_once("detector bolder = breakout").unwrap();
    for line in [
        "symbols = [\"NIFTY*\",\"BANKNIFTY*\"] # from breakout, config/config.toml:6:1",
        "min_confidence = 0.3 # config/config.toml:14:1",
        "cooldown_s = 90.0 # from breakout, TICKHOUND_DETECTORS__BREAKOUT__COOLDOWN_S",
        "max_alerts_per_minute = 0 # default",
        "params.window_s = 240.0 # from breakout, config/config.toml:10:1",
        "params.atr_len = 10 # config/config.toml:16:1",
    ] {
        let squeezed = shadow.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        assert!(squeezed.collect::<Vec<_>>().iter().any(|shown| shown == line), "{line}\n{shadow}");
    }
    assert!(shadow.starts_with(" 0.1.0") && shown.contains("shadow of breakout"), "{shown}");

    let report: Value = serde_json::from_str(&project.run(&["check", "--json"])).unwrap();
    let detectors = report["detectors"].as_array().unwrap();
    let shadow = detectors.iter().find(|detector| detector["name"] == "bolder").unwrap();
    assert_eq!((&shadow["cooldown_s"], shadow["shadow_of"].as_str()), (&60.0.into(), Some("breakout")));
    assert_eq!(shadow["origins"]["cooldown_s"], "from breakout, config/config.toml:8:1");
    assert_eq!(shadow["origins"]["params"]["atr_len"], "config/config.toml:16:1");
}

/// The shadow keeps seeing the symbols that the live detector sees, without a restart.
#[test]
fn a_shadow_follows_a_change_of_the_live_detector() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    let configure = |symbol: &str| {
        project.replace_config(&format!(
            "[stream]\nurl = \"{}\"\nblock_ms = 200\n[detectors.each]\nplugin = \"misbehaving\"\nsymbols = [\"{symbol}\"]\n\
             min_confidence = 0\n[detectors.second]\nshadow_of = \"each\"\n",
            redis.url()
        ));
    };
    configure("A");
    let _host = project.start_owner();
    let seen = |count: usize| {
        wait_for("the shadow's alerts", || {
            let symbols: Vec<String> =
                redis.paged(SHADOW_ALERTS).map(|alert| format!("{} {}", alert["detector"], alert["symbol"])).collect();
            (symbols.len() >= count).then_some(symbols)
        })
    };
    let tick = |symbol| add(&redis, &[("symbol", symbol), ("ltp", "100"), ("timestamp", "1763959530000")]);
    tick("B");
    tick("A");
    assert_eq!(seen(1), ["second A"]);
    configure("B");
    wait_for("the change", || {
        tick("B");
        (redis.connect().xlen::<_, u64>(SHADOW_ALERTS).unwrap() > 1).then_some(())
    });
    assert_eq!(seen(2)[1], "second B");
}

/// A table of its own with the next version: both files are exchanged, and the live plugin keeps its name.
#[test]
fn a_promotion_exchanges_the_configuration_and_the_plugin_together() {
    let project = alone(&DESK.replace("min_confidence = 0.3", "plugin = \"breakout.next\"\nmin_confidence = 0.3"));
    let (before, old) = (config(&project), fs::read(project.path("plugins/breakout.wasm")).unwrap());
    let next = release(&shipped("plugins/breakout.wasm"), "next");
    fs::write(project.path("plugins/breakout.next.wasm"), &next).unwrap();
    let shown = project.run(&["promote", "bolder", "--dry-run"]);
    assert!(shown.contains("plugins/breakout.next.wasm -> ") && shown.contains("+min_confidence = 0.3"), "{shown}");

    project.run(&["promote", "bolder"]);
    let files = |name: &str| fs::read(project.path(name)).unwrap();
    let after = config(&project);
    assert!(after.contains("plugin = \"breakout\"\n") && after.contains("window_s = 240"), "{after}");
    assert!(files("plugins/breakout.wasm") == next && files("plugins/breakout.wasm.previous") == old);
    assert_eq!(files("config/config.toml.previous"), before.as_bytes());
    assert!(!project.path("plugins/breakout.next.wasm").exists());
}

/// A second run took the new version for the old one, so that the way back was lost.
#[test]
fn a_promotion_that_was_killed_in_the_middle_is_completed_by_the_same_command() {
    let project = alone(&DESK.replace("min_confidence = 0.3", "plugin = \"breakout.next\"\nmin_confidence = 0.3"));
    let old = fs::read(project.path("plugins/breakout.wasm")).unwrap();
    let next = release(&shipped("plugins/breakout.wasm"), "next");
    // As a kill leaves it after the plugin was exchanged and before the configuration was.
    fs::write(project.path("plugins/breakout.next.wasm"), &next).unwrap();
    fs::write(project.path("plugins/breakout.wasm.previous"), &old).unwrap();
    fs::write(project.path("plugins/breakout.wasm"), &next).unwrap();
    assert!(text(&project.output(&["check"]).stdout).contains("ok: detector bolder"), "a host can start");
    project.run(&["promote", "bolder"]);
    assert!(fs::read(project.path("plugins/breakout.wasm")).unwrap() == next);
    assert!(fs::read(project.path("plugins/breakout.wasm.previous")).unwrap() == old);
    assert!(!project.path("plugins/breakout.next.wasm").exists() && !config(&project).contains("bolder"));
}

#[test]
fn a_promotion_that_no_host_would_accept_changes_nothing() {
    let project = alone(&DESK.replace("atr_len = 10", "atr_lem = 10"));
    let before = config(&project);
    let said = fails(&project, &["promote", "bolder"], &[]);
    assert!(said.contains("can't be promoted; nothing was changed") && said.contains("atr_lem"), "{said}");
    // Its value is in no file that could be changed.
    let said = fails(&project, &["promote", "bolder"], &[("TICKHOUND_DETECTORS__BOLDER__COOLDOWN_S", "1")]);
    assert!(said.contains("TICKHOUND_DETECTORS__BOLDER__COOLDOWN_S sets a key of bolder"), "{said}");
    assert!(config(&project) == before && !project.path("config/config.toml.previous").exists());

    // A second shadow has the file that would be gone.
    let second = "[detectors.second]\nplugin = \"breakout.next\"\nshadow_of = \"breakout\"\n";
    let project = alone(&format!("[plugins]\nallow_next = true\n{DESK}{second}"));
    fs::write(project.path("plugins/breakout.next.wasm"), release(&shipped("plugins/breakout.wasm"), "next")).unwrap();
    let said = fails(&project, &["promote", "breakout-next"], &[]);
    assert!(said.contains("another detector has the plugin breakout.next"), "{said}");
    assert!(project.path("plugins/breakout.next.wasm").exists());

    // Another detector pins the very bytes that would be replaced.
    let plugin = shipped("plugins/breakout.wasm");
    let inspected: Value =
        serde_json::from_str(&project.run(&["inspect", plugin.to_str().unwrap(), "--json"])).unwrap();
    let pin = inspected["anatomy"]["sha256"].as_str().unwrap();
    let project = alone(&format!(
        "[plugins]\nallow_next = true\n{DESK}[detectors.pinned]\nplugin = \"breakout\"\nsha256 = \"{pin}\"\n"
    ));
    fs::write(project.path("plugins/breakout.next.wasm"), release(&plugin, "next")).unwrap();
    let said = fails(&project, &["promote", "breakout-next"], &[]);
    assert!(said.contains("`sha256` pins"), "{said}");
    assert!(project.path("plugins/breakout.next.wasm").exists());
}

#[test]
fn a_configuration_that_is_a_link_and_secret_stays_so() {
    let project = alone(DESK);
    fs::create_dir(project.path("real")).unwrap();
    fs::rename(project.path("config/config.toml"), project.path("real/desk.toml")).unwrap();
    symlink("../real/desk.toml", project.path("config/config.toml")).unwrap();
    fs::set_permissions(project.path("real/desk.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    project.run(&["promote", "bolder"]);
    assert!(fs::symlink_metadata(project.path("config/config.toml")).unwrap().is_symlink());
    for file in ["real/desk.toml", "real/desk.toml.previous"] {
        assert_eq!(fs::metadata(project.path(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert!(!config(&project).contains("bolder"));
}

/// What a stranger wrote into the file can't drive the terminal of who looks at the diff.
#[test]
fn a_diff_is_coloured_on_a_terminal_only_and_always_printable() {
    let project = alone(&DESK.replace("cooldown_s = 60\n", "cooldown_s = 60 # \u{202e}gnp\n"));
    let args = ["promote", "bolder", "--dry-run"];
    let piped = |variables: &[(&str, &str)]| {
        let mut command = project.command(&args);
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").envs(variables.iter().copied());
        text(&command.output().unwrap().stdout)
    };
    let plain = piped(&[]);
    assert!(plain.contains("\\u{202e}") && !plain.contains('\x1b'), "{plain}");
    assert!(piped(&[("CLICOLOR_FORCE", "1")]).contains("\x1b[32m+min_confidence"));
    assert_eq!(piped(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]), plain);
}

/// `NO_COLOR` held in `top` alone.
#[test]
fn colours_follow_the_same_variables_everywhere() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.write_config(&format!("[stream]\nurl = \"{}\"\nblock_ms = 200\n{DESK}", redis.url()));
    let commands = ["promote bolder --dry-run", "--help", "run --drain", "run --oops"];
    let has_colors = |args: &str, variables: &[(&str, &str)]| {
        let mut terminal = Terminal::open(&project, args, SIZE, variables);
        terminal.wait();
        let raw = terminal.raw();
        raw.contains("\x1b[3") || raw.contains("\x1b[1m") || raw.contains("\x1b[2m") || raw.contains("\x1b[4m")
    };
    for args in commands {
        assert!(has_colors(args, &[]), "{args}");
        for off in [("NO_COLOR", "1"), ("CLICOLOR", "0"), ("TERM", "dumb")] {
            assert!(!has_colors(args, &[off]), "{args} {off:?}");
        }
        assert!(has_colors(args, &[("TERM", "dumb"), ("CLICOLOR_FORCE", "1")]), "{args}");
        let words: Vec<&str> = args.split(' ').collect();
        let piped = project.command(&words).env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR").output().unwrap();
        assert!(text(&[piped.stdout, piped.stderr].concat()).contains('\x1b'), "{args}");
        let piped = project.command(&words).env_remove("CLICOLOR_FORCE").output().unwrap();
        assert!(!text(&[piped.stdout, piped.stderr].concat()).contains('\x1b'), "{args}");
    }
    // A log file has none, whatever is asked for.
    let file = ["run", "--drain", "--log-file", "host.log"];
    assert!(project.command(&file).env("CLICOLOR_FORCE", "1").status().unwrap().success());
    assert!(!fs::read_to_string(project.path("host.log")).unwrap().contains('\x1b'));
}

/// They were requeued, and nobody was told that they are dead letters again.
#[test]
fn letters_that_come_straight_back_are_reported_with_their_reasons() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure("[detectors.odd]\nplugin = \"misbehaving\"\n[detectors.odd.params]\nhow = \"panic\"\nat = 666");
    let _host = project.start_owner();
    for number in 0..3 {
        add(&redis, &[("greeting", &format!("\x1b[2J{number}"))]);
    }
    add(&redis, &[("symbol", "A"), ("ltp", "not a price"), ("data", "{")]);
    let letters = || redis.connect().xlen::<_, usize>(DEAD).unwrap();
    wait_for("the letters", || (letters() == 4).then_some(()));
    let output = project.output(&["dead", "requeue", "--all"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("requeued 4 dead letters"), "{out}");
    assert!(err.contains("error: 4 of 4 came straight back: 3 × no symbol"), "{err}");

    let output = project.output(&["dead", "requeue", "--all", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let returned: Vec<&Value> = lines.iter().filter(|line| line["came_back_as"].is_string()).collect();
    assert_eq!((lines.len(), returned.len()), (8, 4));
    assert!(returned.iter().all(|line| line["reason"].is_string() && line["id"] != line["came_back_as"]));
    assert!(returned.iter().all(|line| lines.iter().any(|moved| {
        moved["came_back_as"].is_null() && moved["id"] == line["id"] && moved["requeued_as"] == line["requeued_as"]
    })));

    // One that has its cause corrected is no failure.
    project.replace_config(&format!(
        "[stream]\nurl = \"{}\"\nblock_ms = 200\n[detectors.each]\nplugin = \"misbehaving\"\n",
        redis.url()
    ));
    add(&redis, &[("symbol", "A"), ("ltp", "100")]);
    let output = project.output(&["dead", "requeue", "--all", "--wait", "0"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "nobody waits");
}

/// They were ignored without a word.
#[test]
fn an_unknown_variable_is_an_error() {
    let project = alone(DESK);
    let single = ("TICKHOUND_STREAM", "_URL");
    let said = fails(&project, &["status"], &[(&format!("{}{}", single.0, single.1), "redis://127.0.0.1:2")]);
    assert!(
        said.contains("unknown environment variable TICKHOUND_STREAM_URL; did you mean TICKHOUND_STREAM__URL?"),
        "{said}"
    );
    let output = project.command(&["inspect", "breakout"]).env("TICKHOUND_SERVICE_HOST", "10.0.0.1").output().unwrap();
    assert!(output.status.success(), "Kubernetes sets it: {}", text(&output.stderr));
}

/// The error named a line of the file, which has nothing wrong.
#[test]
fn a_parameter_of_a_variable_that_the_plugin_rejects_is_named() {
    let project = alone(DESK);
    for (name, value) in [("WINDOW_S", "much"), ("WINDOW_S", "-1"), ("MODE", "sideways"), ("ATR_LEM", "3")] {
        let variable = format!("TICKHOUND_DETECTORS__BREAKOUT__PARAMS__{name}");
        let said = fails(&project, &["check"], &[(&variable, value)]);
        assert!(said.contains(&variable), "{said}");
    }
}

#[test]
fn the_variables_of_our_own_tests_and_tools_are_known() {
    let mut names = BTreeSet::new();
    for folder in ["tests/it", "xtask/src", "deploy", "crates/core/src/position", "benches"] {
        collect(&shipped(folder), &mut names);
    }
    // Built from a prefix and the name of an option.
    let prefixes = ["TICKHOUND_CHAOS", "TICKHOUND_FAILOVER", "TICKHOUND_SWAPS"];
    names.retain(|name| !name.contains("__") && !name.ends_with('_') && !prefixes.contains(&name.as_str()));
    assert!(names.len() > 10, "{names:?}");
    let project = alone(DESK);
    let mut command = project.command(&["inspect", "breakout"]);
    let output = command.envs(names.iter().map(|name| (name, "1"))).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// Collects the names of variables in the files of a folder; this file has wrong ones.
fn collect(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, names);
        } else if !path.ends_with("tests/it/commands.rs")
            && let Ok(text) = fs::read_to_string(&path)
        {
            let found = text.match_indices("TICKHOUND_").map(|(at, _)| {
                let name = text[at..].chars().take_while(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_');
                name.collect::<String>()
            });
            names.extend(found);
        }
    }
}

#[test]
fn absurd_numbers_are_refused_with_the_limit_and_its_reason() {
    let cases = [
        ("[engine]\nworkers = 100000", "engine.workers is 100000, expected 0 to 256: each worker is a thread"),
        ("[engine]\nreport_every = 100000000", "engine.report_every"),
        ("[stream]\nclaim_idle_ms = 99999999999", "stream.claim_idle_ms"),
        ("[alerts]\nmaxlen = 9000000000", "alerts.maxlen is 9000000000, expected 0 to 100000000: each takes"),
        ("[alerts]\nstale_after_ms = 99999999999", "alerts.stale_after_ms"),
        ("[dead_letters]\nmaxlen = 9000000000", "dead_letters.maxlen"),
        ("[input]\nprice_scale = 0", "input.price_scale"),
        ("[input]\nprice_scale = nan", "input.price_scale"),
        ("[input]\nprice_scale = -1.0", "input.price_scale"),
        (
            "[detectors.b]\nplugin = \"breakout\"\nmax_alerts_per_minute = 9000000000",
            "detectors.b.max_alerts_per_minute",
        ),
        ("[detectors.b]\nplugin = \"breakout\"\nmin_confidence = nan", "detectors.b.min_confidence"),
    ];
    let project = alone("");
    for (config, expected) in cases {
        project.write_config(config);
        let said = fails(&project, &["status"], &[]);
        assert!(said.contains(expected) && said.contains("config.toml:"), "{said}");
    }
    project.write_config(DESK);
    let said = fails(&project, &["status"], &[("TICKHOUND_ENGINE__WORKERS", "100000")]);
    assert!(said.contains("error: TICKHOUND_ENGINE__WORKERS: engine.workers is 100000, expected 0 to 256"), "{said}");
}

#[test]
fn the_version_says_what_the_program_was_built_from() {
    let run = |args: &[&str]| text(&Command::new(binary()).args(args).output().unwrap().stdout);
    let short = format!("tickhound {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!([run(&["--version"]), run(&["-V"])], [short.clone(), short.clone()]);
    let all = run(&["--version", "--verbose"]);
    assert_eq!(run(&["-Vv"]), all);
    assert!(all.starts_with(&short), "{all}");
    for name in ["commit ", "target ", "contract ", "wasmtime ", "redis ", "features "] {
        assert!(all.lines().any(|line| line.starts_with(name)), "{name}: {all}");
    }
    let json: Value = serde_json::from_str(&run(&["--version", "--json"])).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    let lock = fs::read_to_string(shipped("Cargo.lock")).unwrap();
    let wasmtime = json["wasmtime"].as_str().unwrap();
    assert!(lock.contains(&format!("name = \"wasmtime\"\nversion = \"{wasmtime}\"")));
    let contract = fs::read_to_string(shipped("detectors-sdk/wit-0.1/detector.wit")).unwrap();
    let spoken = json["contracts"][0].as_str().unwrap();
    assert!(contract.contains(&format!("package tickhound:detector@{spoken};")) && all.contains(spoken));
    // The options belong together, and a command is still needed.
    for args in [&["--verbose", "status"][..], &["--json"], &["--debug"]] {
        assert_eq!(Command::new(binary()).args(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
}

/// The first three commands of the README, in an empty folder.
#[test]
fn an_empty_folder_suggests_init_and_then_doctor_and_run_work() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let tickhound = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(args).current_dir(folder.path()).env("TICKHOUND_SERVER__LISTEN", "");
        let output = command.env("TICKHOUND_STREAM__URL", redis.url()).output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for command in ["run", "check", "status", "top", "alerts", "shadow", "doctor"] {
        let (code, out, err) = tickhound(&[command]);
        assert!(
            code != Some(0) && format!("{out}{err}").contains("`tickhound init`"),
            "{command}: {code:?} {out}{err}"
        );
    }
    let (code, out, err) = tickhound(&["init"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("tickhound doctor") && out.contains("tickhound run"), "{out}");
    let (_, out, err) = tickhound(&["doctor"]);
    assert!(!err.contains("error:") && out.contains("✅ config.file"), "{out}{err}");
    let (code, _, err) = tickhound(&["run", "--drain"]);
    assert_eq!(code, Some(0), "{err}");
}

/// A desk in Mumbai read UTC in the log, and market time in `alerts`, with nothing that said so.
#[test]
fn every_clock_names_its_zone_which_is_the_exchanges() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.add_plugin(misbehaving());
    project.configure("[detectors.each]\nplugin = \"misbehaving\"");
    add(&redis, &[("symbol", "A"), ("ltp", "100"), ("timestamp", "1763959530000")]);
    let drain = |args: &[&str], variables: &[(&str, &str)]| {
        let output = project.command(args).envs(variables.iter().copied()).output().unwrap();
        assert!(output.status.success());
        text(&output.stdout).lines().next().unwrap().to_owned()
    };
    let instant = |time: &str| time.parse::<jiff::Timestamp>().unwrap();
    let line = drain(&["run", "--drain"], &[]);
    let (time, _) = line.split_once(' ').unwrap();
    assert!(time.ends_with("+05:30"), "{line}");
    instant(time);
    let line: Value = serde_json::from_str(&drain(&["run", "--drain", "--log", "json"], &[])).unwrap();
    let time = line["timestamp"].as_str().unwrap();
    assert!(time.ends_with("+05:30"), "{line}");
    instant(time);
    let line = drain(&["run", "--drain"], &[("TICKHOUND_SERVICE__TIMEZONE", "UTC")]);
    assert!(line.split_once(' ').unwrap().0.ends_with('Z'), "{line}");
    let line = drain(&["run", "--drain"], &[("TICKHOUND_SERVICE__TIMEZONE", "Asia/Dubai")]);
    assert!(line.split_once(' ').unwrap().0.ends_with("+04:00"), "{line}");

    assert!(project.run(&["alerts"]).starts_with("2025-11-24 10:15:30.000 IST  ✅"));
    let dubai = project.command(&["alerts"]).env("TICKHOUND_SERVICE__TIMEZONE", "Asia/Dubai").output().unwrap();
    assert!(text(&dubai.stdout).starts_with("2025-11-24 08:45:30.000 +04:00  ✅"), "{}", text(&dubai.stdout));
    add(&redis, &[("greeting", "hello")]);
    drain(&["run", "--drain"], &[]);
    let letters = project.run(&["dead", "list"]);
    assert!(letters.lines().nth(1).unwrap().contains(" IST "), "{letters}");
}
