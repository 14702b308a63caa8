//! Reference data, groups and contexts: what is read, said, reloaded and rejected.

use std::{
    fs::{self, File},
    io::Write,
};

use redis::Commands;
use serde_json::Value;

use crate::support::{Alert, Host, Project, Redis, STREAM, now_ms, text, wait_for};

/// Rows of the file that Kite publishes each morning.
const KITE: &str = "\
instrument_token,exchange_token,tradingsymbol,name,last_price,expiry,strike,tick_size,lot_size,instrument_type,segment,exchange
256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE
738561,2885,RELIANCE,RELIANCE INDUSTRIES,0,,0,0.1,1,EQ,NSE,NSE
12345,48,NIFTY25NOV25750PE,NIFTY,0,2025-11-25,25750,0.05,75,PE,NFO-OPT,NFO
";

const MARKET: &str = "[reference]\nfiles = [\"data/instruments.csv\"]\n";

/// A project with the probe and reference data.
fn project(redis: &Redis, more: &str) -> Project {
    let project = Project::with_probe(redis.url(), "", &format!("{MARKET}{more}"));
    fs::create_dir(project.path("data")).unwrap();
    fs::write(project.path("data/instruments.csv"), KITE).unwrap();
    project
}

/// Replaces the file of reference data in one move.
fn replace(project: &Project, content: &str) {
    fs::write(project.path("data/new"), content).unwrap();
    fs::rename(project.path("data/new"), project.path("data/instruments.csv")).unwrap();
}

fn tick(redis: &Redis, symbol: &str) -> Alert {
    let before = redis.alerts().len();
    let fields = [("symbol", symbol), ("last_price", "100"), ("timestamp", &now_ms().to_string())];
    let _: String = redis.connect().xadd(STREAM, "*", &fields).unwrap();
    wait_for("the probe has seen it", || redis.alerts().get(before).cloned())
}

fn check(project: &Project) -> Value {
    serde_json::from_str(&project.run(&["check", "--json"])).unwrap()
}

/// The first digits of the hash that `check` shows.
fn hash(project: &Project) -> String {
    check(project)["market"]["reference"]["sha256"].as_str().unwrap()[..12].to_owned()
}

fn wait_active(host: &Host, generation: u32) {
    host.wait_for_event_with("generation_activated", &format!(" generation={generation} "));
}

#[test]
fn alerts_name_the_reference_data_which_is_reloaded_and_a_bad_file_changes_nothing() {
    let redis = Redis::start();
    let project = project(&redis, "");
    let first = hash(&project);
    let host = project.start_owner();
    let alert = tick(&redis, "RELIANCE");
    assert_eq!(alert["reference"], first);
    replace(&project, &KITE.replace("0.1,1,EQ", "0.05,1,EQ"));
    wait_active(&host, 2);
    let second = hash(&project);
    assert_ne!(second, first);
    let alert = tick(&redis, "RELIANCE");
    assert_eq!((&alert["reference"], &alert["generation"]), (&second, &"2".to_owned()));
    // The state is that of before.
    assert!(alert["evidence"].contains("\"seen\":2"), "{alert:?}");
    replace(&project, "no,header,of,instruments\n1,2,3,4\n");
    host.wait_for_event_with("change_rejected", "has no column with the symbol");
    assert_eq!(tick(&redis, "RELIANCE")["reference"], second);
    let status = wait_for("status says so", || {
        let status = text(&project.output(&["status"]).stdout);
        status.contains("change rejected").then_some(status)
    });
    assert!(status.contains(&format!("reference data: 3 rows, sha256 {second}")), "{status}");
    assert!(status.contains("data/instruments.csv: has no column with the symbol"), "{status}");
    fs::remove_file(project.path("data/instruments.csv")).unwrap();
    host.wait_for_event_with("change_rejected", "can't read the reference data");
    // A download that broke off behind the first line took all data away.
    replace(&project, KITE.lines().next().unwrap());
    host.wait_for_event_with("change_rejected", "has no row with a symbol that can be used");
    replace(&project, KITE);
    wait_active(&host, 3);
    assert_eq!(tick(&redis, "RELIANCE")["reference"], first);
}

/// Half of a file of instruments is a file of instruments.
#[test]
fn half_of_a_file_is_not_taken_for_the_whole() {
    let redis = Redis::start();
    let project = project(&redis, "");
    let host = project.start_owner();
    tick(&redis, "RELIANCE");
    let mut file = File::create(project.path("data/instruments.csv")).unwrap();
    for line in KITE.lines().chain(["1,1,SBIN,STATE BANK,0,,0,0.05,1,EQ,NSE,NSE"]) {
        writeln!(file, "{line}").unwrap();
        file.flush().unwrap();
    }
    drop(file);
    wait_active(&host, 2);
    let status = wait_for("status says so", || {
        let status = text(&project.output(&["status"]).stdout);
        status.contains("generation 2").then_some(status)
    });
    assert!(status.contains("reference data: 4 rows"), "{status}");
}

/// The same with groups and contexts, which are part of a generation as well.
#[test]
fn groups_and_contexts_take_effect_while_the_host_runs_and_wrong_ones_are_rejected() {
    let redis = Redis::start();
    let project = project(&redis, "");
    let host = project.start_owner();
    tick(&redis, "RELIANCE");
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    project.replace_config(&format!(
        "{config}[groups.kinds]\nby = \"instrument_type\"\n[context.spot]\nof = \"underlying\"\n"
    ));
    wait_active(&host, 2);
    wait_for("status shows them", || {
        let status = text(&project.output(&["status"]).stdout);
        status.contains("groups: kinds; contexts: spot").then_some(())
    });
    project.replace_config(&format!("{config}[groups.kinds]\nby = \"instrument_typ\"\n"));
    host.wait_for_event_with("change_rejected", "did you mean `instrument_type`?");
    assert!(!tick(&redis, "RELIANCE")["reference"].is_empty());
}

#[test]
fn what_is_wrong_with_groups_and_contexts_is_said_with_its_position() {
    let redis = Redis::start();
    let project = project(&redis, "");
    let config = fs::read_to_string(project.path("config/config.toml")).unwrap();
    let lines = config.lines().count();
    for (table, line, expected) in [
        ("[groups.underlying]\nsymbols = [\"A\"]", 1, "the name `underlying` is taken"),
        ("[groups.market]\nsymbols = [\"A\"]", 1, "the name `market` is taken"),
        ("[groups.\"a b\"]\nsymbols = [\"A\"]", 1, "expected letters, digits, - and _"),
        ("[groups.a]\n", 1, "has neither `symbols` nor `by`"),
        ("[groups.a]\nsymbols = [\"\"]", 2, "has an empty pattern"),
        ("[groups.a]\nby = \"sector\"", 2, "the reference data has no column `sector`; its texts are"),
        (
            "[groups.a]\nby = \"strike\"",
            2,
            "a column of numbers, expected one of texts; reference.texts = [\"strike\"]",
        ),
        ("[groups.a]\nsymbol = \"A\"", 2, "did you mean `symbols`?"),
        ("[context.vix]\n", 1, "has neither `symbol` nor `of`"),
        ("[context.vix]\nsymbol = \"A\"\nof = \"underlying\"", 1, "has both `symbol` and `of`"),
        ("[context.vix]\nsymbol = \"INDIA*\"", 2, "without * and ?"),
        ("[context.VIX]\nsymbol = \"A\"", 1, "expected a name in lower case"),
        ("[context.bid]\nsymbol = \"A\"", 1, "rows have a column of this name already"),
        ("[context.vix]\nof = \"indx\"", 2, "the reference data has no column `indx`"),
        ("[context.vix]\nsymbol = \"A\"\ncolumn = \"bdi\"", 3, "did you mean `bid`?"),
        (
            "[context.a]\nsymbol = \"A\"\ncolumn = \"b\"\n[context.b]\nsymbol = \"B\"\ncolumn = \"a\"",
            3,
            "`b` is a context itself",
        ),
        ("[context.vix]\nsymbol = \"A\"\nvenue = \"NSE\"", 3, "context.vix.venue is for `of = \"underlying\"` only"),
        (
            "[detectors.x]\nplugin = \"probe\"\ngroups = [\"bank\"]\n[groups.banks]\nsymbols = [\"A\"]",
            3,
            "did you mean `banks`?",
        ),
        ("[detectors.x]\nplugin = \"probe\"\ngroups = []", 3, "groups is empty"),
    ] {
        project.write_config(&format!("{config}{table}\n"));
        let output = project.output(&["check"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{table}");
        let at = format!("config/config.toml:{}:", lines + line);
        assert!(said.contains(&at) && said.contains(expected), "{table}\nsaid: {said}");
    }
}

#[test]
fn check_and_doctor_say_what_there_is_and_what_is_missing() {
    let redis = Redis::start();
    let more = "[groups.kinds]\nby = \"instrument_type\"\n[groups.banks]\nsymbols = [\"*BANK\", \"RELIANCE\"]\n\
                [context.vix]\nsymbol = \"INDIA VIX\"\n[context.spot]\nof = \"underlying\"\n";
    let project = project(&redis, more);
    let mut host = project.start_owner();
    for symbol in ["RELIANCE", "NIFTY25NOV25750PE", "NIFTY 50", "NIFTY", "ODD"] {
        tick(&redis, symbol);
    }
    host.stop();
    let said = project.run(&["check"]);
    for expected in [
        "ok: reference data/instruments.csv = 3 rows, sha256 ",
        "ok: reference columns = instrument_token, exchange_token, last_price, strike, tick_size, lot_size; texts: ",
        "ok: groups underlying = 3 groups with 5 of 5 symbols seen; the largest is NIFTY with 3",
        "ok: groups kinds = 2 groups with 3 of 5 symbols seen; the largest is EQ with 2",
        "ok: contexts = spot, vix",
        "warning: reference: 2 of 5 symbols seen have no row (NIFTY, ODD)",
        "warning: groups.banks.symbols: `*BANK` matches none of 5 symbols seen",
        "warning: context.vix: none of 5 symbols seen is its source",
        "warning: context.spot: 2 symbols are one source (NIFTY, NIFTY 50)",
    ] {
        assert!(said.contains(expected), "{expected}\nin: {said}");
    }
    let market = &check(&project)["market"];
    assert_eq!(market["symbols_without_row"], 2);
    assert_eq!(market["groups"][2]["largest"]["group"], "EQ");
    let said = text(&project.output(&["doctor"]).stdout);
    assert!(said.contains("market.reference: data/instruments.csv has 3 rows"), "{said}");
    assert!(said.contains("market.symbols: reference: 2 of 5 symbols seen have no row"), "{said}");
    fs::write(project.path("data/instruments.csv"), "a,b\n").unwrap();
    let said = text(&project.output(&["doctor"]).stdout);
    assert!(said.contains("❌ market.config: config/config.toml:"), "{said}");
    // What reads no plugin works.
    project.run(&["alerts", "--last", "1"]);
    assert_eq!(project.output(&["stop"]).status.code(), Some(0));
}
