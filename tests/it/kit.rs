//! What authors of detectors use: from an empty folder to a detector that a host runs.

use std::{fs, process::Output};

use serde_json::Value;

use crate::support::{Project, Redis, misbehaving, shipped, text, wait_for};

/// A folder without a server.
fn project() -> Project {
    Project::at("redis://127.0.0.1:1".into())
}

/// Builds of projects share one target folder.
fn output(project: &Project, args: &[&str]) -> Output {
    project.command(args).env("CARGO_TARGET_DIR", shipped("target/examples")).output().unwrap()
}

fn run(project: &Project, args: &[&str]) -> String {
    let output = output(project, args);
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_new_detector_holds_its_cases_and_goes_live() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let told = run(&project, &["new", "opening-drive"]);
    assert!(told.contains("tickhound test opening-drive"), "{told}");
    let again = output(&project, &["new", "opening-drive"]);
    assert!(text(&again.stderr).contains("exists already"), "{}", text(&again.stderr));

    let told = run(&project, &["test", "opening-drive"]);
    assert!(told.contains("opening-drive 0.1.0: 4 of 4 cases hold"), "{told}");

    let ticks = "symbol,time,price\nNIFTY,0,100\nBANKNIFTY,1,102\nNIFTY,2,100\n";
    let apart = format!("ticks = \"\"\"\n{ticks}\"\"\"\n[[alerts]]\nsymbol = \"BANKNIFTY\"\ntime = 1\n");
    let told = text(&output(&project, &["test", "opening-drive", &case(&project, "apart.toml", &apart)]).stdout);
    assert!(told.contains("a detector sees one symbol at a time") && told.contains("an alert at 1 s"), "{told}");
    let alone = apart.replace("BANKNIFTY", "NIFTY").replace("102", "100");
    let told = text(&output(&project, &["test", "opening-drive", &case(&project, "alone.toml", &alone)]).stdout);
    assert!(told.contains("but none was raised") && !told.contains("one symbol at a time"), "{told}");

    let told = run(&project, &["build", "opening-drive"]);
    assert!(told.contains("[detectors.opening-drive]\nplugin = \"opening-drive\""), "{told}");
    project.configure(
        "[detectors.opening-drive]\nplugin = \"opening-drive\"\nmin_confidence = 0\nparams = { move_pct = 0.1 }",
    );
    project.feed(12, 12_000, &[]);
    let host = project.start(&["run"]);
    wait_for("an alert of it", || {
        redis.alerts().iter().any(|alert| alert["detector"] == "opening-drive").then_some(())
    });
    drop(host);
    drop(project);
}

fn case(project: &Project, name: &str, text: &str) -> String {
    let file = project.path(name);
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

const THREE: &str = "ticks = \"\"\"\nsymbol,time,price\nA,0,100\nA,1,101\nB,2,50\n\"\"\"\n";

#[test]
fn a_case_that_does_not_hold_says_what_is_different() {
    let project = project();
    let plugin = misbehaving().to_str().unwrap();
    for (name, expected, told) in [
        ("none.toml", "", "alert 1: not expected: A at 0 s, up, confidence 1, seen 1"),
        (
            "other.toml",
            "[[alerts]]\nsymbol = \"A\"\ntime = 0\ndirection = \"down\"\n",
            "direction is up, expected down",
        ),
        ("params.toml", "[params]\nhow = \"panic\"\nat = 1000000\nprice = 101.0\n", "the detector failed once: "),
        (
            "more.toml",
            "alerts = [{ symbol = \"A\", time = 0 }, { symbol = \"A\", time = 1, evidence = { seen = 2.001 } }, \
             { symbol = \"B\", time = 2 }, { symbol = \"C\", time = 2 }]\n",
            "alert 4: expected one of C at 2 s, but none was raised",
        ),
        ("text.toml", "[params]\nat = 13\n", "13 is an unlucky tick"),
        ("typo.toml", "alert = []\n", "unknown field `alert`"),
    ] {
        let output = output(&project, &["test", plugin, &case(&project, name, &format!("{THREE}{expected}"))]);
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {all}");
        assert!(all.contains(told) && all.contains(name), "{name}: {all}");
    }
}

#[test]
fn a_case_finds_a_detector_that_does_not_save_all_it_knows() {
    let project = project();
    let alerts =
        "alerts = [{ symbol = \"A\", time = 0 }, { symbol = \"A\", time = 1 }, { symbol = \"B\", time = 2 }]\n";
    let plugin = misbehaving().to_str().unwrap();
    let sound = case(&project, "sound.toml", &format!("{THREE}{alerts}"));
    run(&project, &["test", plugin, &sound]);
    let forgetful = case(&project, "forgetful.toml", &format!("{THREE}{alerts}[params]\nhow = \"forgetful\"\n"));
    let output = output(&project, &["test", plugin, &forgetful, "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), told["failed"].as_u64()), (Some(1), Some(1)));
    let failure = told["cases"][0]["failures"][0].as_str().unwrap();
    assert!(failure.starts_with("a restart makes a difference: 3 detections"), "{failure}");
}

#[test]
fn what_was_raised_can_be_written_into_a_case() {
    let project = project();
    let plugin = misbehaving().to_str().unwrap();
    let file = case(&project, "new.toml", &format!("# kept\n{THREE}"));
    run(&project, &["test", plugin, &file, "--write"]);
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("# kept") && written.matches("[[alerts]]").count() == 3, "{written}");
    assert!(run(&project, &["test", plugin, &file]).contains("1 of 1 cases hold"));
}

#[test]
fn inspect_tells_what_a_file_is_and_why_it_is_refused() {
    let project = project();
    let told: Value = serde_json::from_str(&run(&project, &["inspect", "breakout", "--json"])).unwrap();
    assert_eq!(
        (told["anatomy"]["kind"].as_str(), told["manifest"]["name"].as_str()),
        (Some("component"), Some("breakout"))
    );
    assert_eq!(told["anatomy"]["imports"], serde_json::json!(["tickhound:detector/types@0.2.0"]));
    assert!(told["manifest"]["params"].as_array().unwrap().len() > 5 && told["refused"].is_null(), "{told}");
    let text_form = run(&project, &["inspect", "plugins/breakout.wasm"]);
    assert!(text_form.contains("window_s") && text_form.contains("a number from 10 to 86400 s"), "{text_form}");

    let bytes = fs::read(project.path("plugins/breakout.wasm")).unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        fs::write(project.path(name), bytes).unwrap();
        let output = output(&project, &["inspect", name]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        text(&output.stderr)
    };
    let told = refused("short.wasm", &bytes[..bytes.len() / 2]);
    assert!(told.contains("damaged or cut off"), "{told}");
    let told = refused("other.wasm", &wat::parse_str("(module (func (export \"run\")))").unwrap());
    assert!(told.contains("a WebAssembly module, but not a detector"), "{told}");
    let told = text(&output(&project, &["inspect", "brakout"]).stderr);
    assert!(told.contains("did you mean `breakout`?"), "{told}");
}

/// What a detector needs beside ticks of a symbol, and where the configuration has it from, if it has.
#[test]
fn inspect_tells_which_rows_columns_and_texts_a_detector_needs_and_where_they_come_from() {
    let project = project();
    for name in ["residual-move", "breadth", "straddle"] {
        project.add_plugin(&shipped(&format!("plugins/{name}.wasm")));
    }
    let source = |name: &str, of: &str, column: &str| {
        let told: Value = serde_json::from_str(&run(&project, &["inspect", name, "--json"])).unwrap();
        let columns = told["manifest"][of].as_array().unwrap();
        columns.iter().find(|known| known["name"] == column).unwrap()["source"].clone()
    };
    assert_eq!(source("residual-move", "columns", "index"), Value::Null);
    let told = run(&project, &["inspect", "residual-move"]);
    assert!(told.contains("since_open (session, optional), index (not in this configuration)"), "{told}");
    for part in ["scope        symbol", "feeds        bars:bar_s", "explains     why it found something"] {
        assert!(told.contains(part), "{part}: {told}");
    }

    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    let more = "[context.index]\nsymbol = \"NIFTY\"\n[reference]\nfiles = [\"instruments.csv\"]\n";
    fs::write(project.path("instruments.csv"), "tradingsymbol,strike,option_type\nA,100,CE\n").unwrap();
    project.write_config(&format!("{config}\n{more}"));
    assert_eq!(source("residual-move", "columns", "index"), "context");
    assert_eq!(source("breadth", "columns", "vwap"), "bar");
    assert_eq!(source("breadth", "columns", "flags"), "input");
    assert_eq!(source("straddle", "columns", "strike"), "reference");
    assert_eq!(source("straddle", "texts", "option_type"), "reference");
    let told = run(&project, &["inspect", "straddle"]);
    assert!(told.contains("scope        group") && told.contains("strike (reference, optional)"), "{told}");
    // A file is shown, whatever the reference data are.
    fs::remove_file(project.path("instruments.csv")).unwrap();
    let output = output(&project, &["inspect", "straddle"]);
    let said = text(&output.stderr);
    assert!(
        output.status.success() && said.contains("without [reference]") && said.contains("instruments.csv"),
        "{said}"
    );
}

#[test]
fn bench_measures_a_detector_beside_another() {
    let project = project();
    let args = ["bench", "momentum", "--symbols", "20", "--ticks", "5000", "--params", "n=20", "--json"];
    let told: Value = serde_json::from_str(&run(&project, &args)).unwrap();
    let cost = &told["cost"];
    let sizes: Vec<u64> =
        cost["per_tick"].as_array().unwrap().iter().map(|row| row["batch"].as_u64().unwrap()).collect();
    assert_eq!(sizes, [1, 16, 256, 2000]);
    // It was the first one that ships, and that one sees groups.
    assert_eq!(told["yardstick"], "breakout");
    assert!(cost["per_tick"].as_array().unwrap().iter().all(|row| row["yardstick_ns"]["median"].as_f64() > Some(0.0)));
    assert_eq!(cost["symbols"].as_u64(), Some(20));
    for key in ["compile_ms", "load_ms", "memory_at_start", "state_per_symbol", "engine_ticks_per_second"] {
        assert!(cost[key].as_f64().unwrap() > 0.0, "{key}: {cost}");
    }
    let told = text(&output(&project, &["bench", "momentum", "--params", "n=2"]).stderr);
    assert!(told.contains("parameter `n` is 2, expected"), "{told}");
}

#[test]
fn an_empty_folder_becomes_one_to_run_in_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let init = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tickhound"));
        command.args(["init", "scanner"]).current_dir(dir.path()).output().unwrap()
    };
    assert!(init().status.success());
    let config = dir.path().join("scanner/config/config.toml");
    assert_eq!(fs::read(&config).unwrap(), fs::read(shipped("config/config.toml")).unwrap());
    assert!(dir.path().join("scanner/plugins/momentum.wasm").exists());
    fs::write(&config, "# mine").unwrap();
    let again = init();
    assert!(!again.status.success() && text(&again.stderr).contains("nothing was written"), "{}", text(&again.stderr));
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine");
}

/// A folder that only copies a file instead of compiling anything.
fn copying_project(project: &Project, name: &str, plugin: &str) {
    let dir = project.path(name);
    fs::create_dir(&dir).unwrap();
    let recipe = format!("build = \"cp ../plugins/{plugin}.wasm out.wasm\"\noutput = \"out.wasm\"\n");
    fs::write(dir.join("detector.toml"), recipe).unwrap();
}

/// `replay --detector breakout` took the folder `breakout` for the configured detector, or the other way round.
#[test]
fn a_folder_with_the_name_of_a_plugin_is_not_taken_for_it_without_a_word() {
    let project = project();
    copying_project(&project, "breakout", "momentum");
    fs::create_dir(project.path("momentum")).unwrap();
    let inspect = |name: &str| {
        let output = output(&project, &["inspect", name, "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        (told["manifest"]["name"].as_str().unwrap().to_owned(), text(&output.stderr))
    };
    let (taken, said) = inspect("breakout");
    assert_eq!(taken, "momentum");
    assert!(said.contains("note: breakout is the project in the folder ./breakout, and not the plugin "), "{said}");
    let (taken, said) = inspect("./breakout");
    assert!(taken == "momentum" && !said.contains("note:"), "{taken}: {said}");
    let (taken, said) = inspect("plugins/breakout.wasm");
    assert!(taken == "breakout" && !said.contains("note:"), "{taken}: {said}");
    // This folder is not a project, so it is not meant.
    let (taken, said) = inspect("momentum");
    assert!(taken == "momentum" && !said.contains("note:"), "{taken}: {said}");

    let replay = ["replay", "--simulate", "--count", "2000", "--detector", "breakout"];
    let said = text(&output(&project, &replay).stderr);
    assert!(said.contains("note: breakout is the project in the folder ./breakout"), "{said}");
}

#[test]
fn the_sdk_of_a_project_is_created_beside_it_noticed_when_it_differs_and_updated() {
    let project = project();
    run(&project, &["new", "mine", "--lang", "python"]);
    let sdk = project.path("tickhound-sdk");
    assert!(sdk.join("python/tickhound_sdk/guest.py").exists() && !project.path("mine/tickhound-sdk").exists());
    fs::write(sdk.join("VERSION"), "0.0.1\n").unwrap();
    fs::write(sdk.join("python/tickhound_sdk/state.py"), "# of then\n").unwrap();
    // Another project does not change what the first one uses.
    copying_project(&project, "copy", "momentum");
    let said = text(&output(&project, &["inspect", "./copy"]).stderr);
    assert!(said.contains("tickhound-sdk is the SDK of 0.0.1, and this program is "), "{said}");
    assert!(said.contains("`tickhound new --update-sdk ./copy`"), "{said}");
    let told = run(&project, &["new", "--update-sdk", "mine"]);
    assert!(told.contains("  python/tickhound_sdk/state.py\n") && told.contains("  VERSION\n"), "{told}");
    assert!(run(&project, &["new", "--update-sdk", "mine"]).contains("is the SDK of this program already"));
    assert!(!text(&output(&project, &["inspect", "./copy"]).stderr).contains("note:"));

    // Moved away, or checked out alone.
    fs::remove_dir_all(&sdk).unwrap();
    let said = text(&output(&project, &["build", "mine"]).stderr);
    assert!(said.contains("which does not exist; `tickhound new --update-sdk mine` writes it"), "{said}");
    let wrong = output(&project, &["new", "--update-sdk", "mine", "--lang", "c"]);
    assert_eq!(wrong.status.code(), Some(2));
}

/// The examples are built with the contract of the SDK, and not with copies, which would grow old.
#[test]
fn no_example_has_a_contract_of_its_own() {
    for language in ["c", "js", "python", "rust"] {
        let example = shipped("examples/detectors").join(language);
        assert!(example.join("cases").exists() && !example.join("wit").exists(), "{}", example.display());
    }
}
