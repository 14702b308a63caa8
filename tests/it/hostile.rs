//! Plugins from strangers, before they run: bombs for parsers and compilers, files that never end, machine code that lies
//! about, plugins that nobody has signed. A host stays alive, and what was in force stays in force.

use std::{
    fs::{self, File, Permissions},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use crate::support::{Host, Project, Redis, contents, release, shipped, text, wait_for};

/// A component whose only section has this id.
fn component(id: u8, contents: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0", &[id][..], &leb(contents.len()), contents].concat()
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn functions(count: usize) -> Vec<u8> {
    let declared = [leb(count), vec![0; count]].concat();
    let bodies = [leb(count), [2, 0, 0x0b].repeat(count)].concat();
    let sections = [(1, b"\x01\x60\0\0".to_vec()), (3, declared), (10, bodies)];
    let sections = sections.map(|(id, contents)| [vec![id], leb(contents.len()), contents].concat());
    [b"\0asm\x01\0\0\0".to_vec(), sections.concat()].concat()
}

fn tower() -> Vec<u8> {
    let instances = "(instance (instantiate 0))".repeat(10);
    let levels: String =
        (0..9).map(|level| format!("(component (alias outer 1 {level} (component)) {instances})")).collect();
    let text = format!(
        "(component (component (core module) (core instance (instantiate 0))) {levels} (instance (instantiate 9)))"
    );
    wat::parse_str(text).unwrap()
}

/// A plugin that is within all limits, except that it takes long to compile.
fn slow() -> Vec<u8> {
    let body = "local.get 0 i32.const 7 i32.mul local.get 1 i32.xor local.tee 0 i32.popcnt local.set 1 ".repeat(200);
    let functions = format!("(func (param i32 i32) (result i32) {body} local.get 0)").repeat(3000);
    wat::parse_str(format!("(component (core module {functions}))")).unwrap()
}

/// Each bomb, with a part of the reason why it is rejected.
fn bombs() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let deep = |kind: u8| component(7, &[vec![1], [kind, 1, 1].repeat(2000), vec![0x7f]].concat());
    let nested = (0..2000).fold(b"\0asm\x0d\0\x01\0".to_vec(), |inner, _| component(4, &inner));
    let locals =
        wat::parse_str(format!("(module (func (export \"detect\") (local{}) loop br 0 end))", " i32".repeat(5000)));
    vec![
        ("instance types", deep(0x42), "nest"),
        ("component types", deep(0x41), "nest"),
        ("components", nested, "nests components more than 16 deep"),
        ("a tower", tower(), "more than 256 instances"),
        ("functions", functions(900_000), "more than 100000 functions"),
        ("local variables", locals.unwrap(), "more than 2000 local variables"),
        ("half a file", fs::read(shipped("plugins/gap.wasm")).unwrap()[..30_000].to_vec(), "cut off"),
        ("text", b"<html>".to_vec(), "not a WebAssembly file"),
    ]
}

fn replace(project: &Project, name: &str, bytes: &[u8]) {
    fs::write(project.path("new"), bytes).unwrap();
    fs::rename(project.path("new"), project.path(&format!("plugins/{name}.wasm"))).unwrap();
}

/// Waits for a rejection with this text, and returns what `status` says of it.
fn wait_rejected(project: &Project, host: &Host, reason: &str) {
    host.wait_for_event_with("change_rejected", reason);
    wait_for("the rejection in status", || {
        let status = text(&project.output(&["status", "--json"]).stdout);
        status.contains(reason).then_some(())
    });
}

/// A 6 kB file with types nested 2,000 deep overflowed the stack of a thread, and ended the host.
#[test]
fn a_running_host_survives_bombs_and_alerts_as_before() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let host = project.start_owner();
    let bombs = bombs();
    for (number, (what, bytes, reason)) in bombs.iter().enumerate() {
        project.feed(6, 600, &["--seed", &number.to_string()]);
        replace(&project, "breakout", bytes);
        wait_rejected(&project, &host, reason);
        assert!(host.is_running(), "{what}: {}", host.log());
    }
    redis.wait_all_processed(600 * bombs.len());
    fs::copy(shipped("plugins/breakout.wasm"), project.path("plugins/breakout.wasm")).unwrap();
    assert!(contents(&redis.alerts()) == contents(&project.reference(&redis)), "alerts differ");
    assert!(host.peak_memory_mib() < 200, "{} MiB", host.peak_memory_mib());
}

#[test]
fn every_command_rejects_a_bomb_with_a_sentence() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    for (what, bytes, reason) in bombs() {
        replace(&project, "breakout", &bytes);
        let commands: [&[&str]; 7] = [
            &["inspect", "plugins/breakout.wasm"],
            &["check"],
            &["doctor"],
            &["run", "--drain"],
            &["test", "plugins/breakout.wasm", "plugins"],
            &["bench", "plugins/breakout.wasm"],
            &["replay", "ticks.csv", "--detector", "breakout"],
        ];
        fs::write(project.path("ticks.csv"), "symbol,time,price\nA,2025-11-03T09:15:00Z,1.0\n").unwrap();
        fs::write(project.path("plugins/case.toml"), "ticks = \"\"\"\nsymbol,time,price\nA,0,1\n\"\"\"\n").unwrap();
        for command in commands {
            let output = project.output(command);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(output.status.code().is_some_and(|code| code > 0), "{what}, {command:?}: {said}");
            assert!(said.contains(reason), "{what}, {command:?}: {said}");
            assert!(!said.contains("panicked"), "{what}, {command:?}: {said}");
        }
    }
}

#[test]
fn what_is_not_a_file_of_reasonable_size_is_not_read() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let file = project.path("plugins/breakout.wasm");
    let rejected = |reason: &str| {
        for command in [&["inspect", "plugins/breakout.wasm"][..], &["check"], &["doctor"]] {
            let output = project.output(command);
            let said = text(&output.stdout) + &text(&output.stderr);
            assert!(!output.status.success() && said.contains(reason), "{command:?}: {said}");
        }
    };
    fs::remove_file(&file).unwrap();
    File::create(&file).unwrap().set_len(2 << 30).unwrap();
    rejected("has 2147483648 bytes; 67108864 are allowed (plugins.file_max_mib)");
    fs::remove_file(&file).unwrap();
    assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
    rejected("is not a file");
    fs::remove_file(&file).unwrap();
    symlink("/dev/zero", &file).unwrap();
    rejected("is not a file");
}

#[test]
fn a_check_has_limits_on_processor_time_and_memory() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    replace(&project, "slow", &slow());
    let detector = "[detectors.slow]\nplugin = \"slow\"\n";
    let rejection = |limit: &str| {
        project.configure(&format!("{detector}[plugins]\n{limit}"));
        let output = project.output(&["check"]);
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    let said = rejection("compile_deadline_s = 1");
    assert!(said.contains("took more than 1 s of processor time (plugins.compile_deadline_s)"), "{said}");
    let said = rejection("compile_memory_max_mib = 256");
    assert!(
        said.contains("more than 256 MiB of memory (plugins.compile_memory_max_mib)")
            || said.contains("not a detector"),
        "{said}"
    );
}

/// The processes that were started by this one.
fn children(pid: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|child| field(*child, "PPid").is_some_and(|parent| parent == pid.to_string())).collect()
}

fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

#[test]
fn a_check_process_is_confined_and_ends_with_its_host() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    replace(&project, "slow", &slow());
    project.configure("[detectors.slow]\nplugin = \"slow\"");
    let mut host = project.start(&["run"]);
    // The first checks are those of other plugins. The filter comes last.
    let child = wait_for("a confined check process", || {
        children(host.pid()).into_iter().find(|child| {
            let command = fs::read_to_string(format!("/proc/{child}/cmdline")).unwrap_or_default();
            command.contains("slow") && field(*child, "Seccomp").is_some_and(|mode| mode == "2")
        })
    });
    assert_eq!(field(child, "NoNewPrivs").as_deref(), Some("1"));
    let limits = fs::read_to_string(format!("/proc/{child}/limits")).unwrap();
    let limit = |name: &str| limits.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    assert!(limit("Max data size").starts_with(&(2048_u64 << 20).to_string()), "{limits}");
    assert!(limit("Max cpu time").starts_with("120 "), "{limits}");
    assert!(limit("Max core file size").starts_with('0'), "{limits}");
    assert_eq!(fs::read_to_string(format!("/proc/{child}/environ")).unwrap(), "", "it knows no secrets");
    host.kill();
    wait_for("the end of the check process", || (!Path::new(&format!("/proc/{child}")).exists()).then_some(()));
}

/// Whatever lay in `plugins/.cache` was run. An archive with a plugin could bring machine code along.
#[test]
fn compiled_plugins_of_another_user_are_not_used() {
    let redis = Redis::start();
    let (theirs, ours) = (Project::new(&redis), Project::new(&redis));
    for project in [&theirs, &ours] {
        project.configure("[plugins]\ncache = \".cache\"");
    }
    let home = theirs.path("home");
    let output = theirs.command(&["check"]).env("XDG_CACHE_HOME", &home).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    // The key comes along, too; it is not where this user's key is.
    let copied =
        Command::new("cp").arg("-a").args([theirs.path("plugins/.cache"), ours.path("plugins/.cache")]).status();
    assert!(copied.unwrap().success());
    fs::copy(home.join("tickhound/key"), ours.path("plugins/.cache/key")).unwrap();
    let mut host = ours.start(&["run", "--drain", "--debug"]);
    assert_eq!(host.wait(), Some(0));
    assert_eq!(host.log().matches("cached=true").count(), 0, "{}", host.log());
    // Under the names that this user's files have, they are not used either.
    let folder = ours.path("plugins/.cache/modules/authentic");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort_by_key(|path| path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().1.to_owned());
    assert_eq!(files.len(), 8);
    for pair in files.chunks(2) {
        let is_theirs =
            |path: &Path| theirs.path("plugins/.cache/modules/authentic").join(path.file_name().unwrap()).exists();
        let (theirs, ours) = if is_theirs(&pair[0]) { (&pair[0], &pair[1]) } else { (&pair[1], &pair[0]) };
        fs::copy(theirs, ours).unwrap();
    }
    let mut host = ours.start(&["run", "--drain", "--debug"]);
    assert_eq!(host.wait(), Some(0));
    assert_eq!(host.count_event("compiled_plugin_damaged"), 4, "{}", host.log());
    assert_eq!(host.log().matches("cached=true").count(), 0, "{}", host.log());
    let mut host = ours.start(&["run", "--drain", "--debug"]);
    assert_eq!(host.wait(), Some(0));
    assert_eq!(host.log().matches("cached=true").count(), 2, "{}", host.log());
}

#[test]
fn compiled_plugins_are_outside_the_plugins_folder() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let home = project.path("home");
    let check = |name: &str, folder: &Path| {
        let mut command = project.command(&["check"]);
        let output = command.env_remove("XDG_CACHE_HOME").env("HOME", &home).env(name, folder).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    check("UNUSED", &home);
    check("XDG_CACHE_HOME", &project.path("caches"));
    check("CACHE_DIRECTORY", &project.path("service"));
    for folder in ["home/.cache/tickhound", "caches/tickhound", "service"] {
        assert!(project.path(folder).join("key").is_file(), "{folder}");
        assert!(project.path(folder).join("plugins/modules/authentic").is_dir(), "{folder}");
    }
    assert!(!project.path("plugins/.cache").exists());
}

#[test]
fn a_pinned_plugin_is_not_replaced() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let inspected: serde_json::Value =
        serde_json::from_str(&project.run(&["inspect", "plugins/breakout.wasm", "--json"])).unwrap();
    let sha256 = inspected["anatomy"]["sha256"].as_str().unwrap();
    let url = redis.url();
    project.write_config(&format!(
        "[stream]\nurl = \"{url}\"\n[plugins]\nallow_next = true\n[detectors.breakout]\nplugin = \"breakout\"\nsha256 = \"{sha256}\""
    ));
    let host = project.start_owner();
    replace(&project, "breakout", &release(&shipped("plugins/breakout.wasm"), "two"));
    wait_rejected(&project, &host, &format!("`sha256` pins {sha256}"));
    replace(&project, "breakout.next", &release(&shipped("plugins/breakout.wasm"), "three"));
    fs::copy(shipped("plugins/breakout.wasm"), project.path("plugins/breakout.wasm")).unwrap();
    host.wait_for_event("rejection_resolved");
    assert!(!host.log().contains("breakout-next"), "nothing pins the next version: {}", host.log());
    let output = project.command(&["check"]).env("TICKHOUND_DETECTORS__BREAKOUT__SHA256", "abc").output().unwrap();
    assert!(text(&output.stderr).contains("expected the 64 hexadecimal digits"), "{}", text(&output.stderr));
}

#[test]
fn a_next_version_runs_only_if_the_configuration_allows_it() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let host = project.start_owner();
    replace(&project, "breakout.next", &release(&shipped("plugins/breakout.wasm"), "two"));
    host.wait_for_event_with("plugin_unused", "plugins.allow_next = true makes it a shadow");
    project.configure("[plugins]\nallow_next = true");
    host.wait_for_event_with("detector_loaded", "breakout-next");
}

#[test]
fn only_signed_plugins_run_if_the_configuration_says_so() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.run(&["sign", "--new-key", "desk.key", "--no-password"]);
    assert_eq!(fs::metadata(project.path("desk.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let again = project.output(&["sign", "--new-key", "desk.key", "--no-password"]);
    assert!(!again.status.success(), "a key is not overwritten");
    let public = fs::read_to_string(project.path("desk.key.pub")).unwrap();
    let public = public.lines().nth(1).unwrap().to_owned();
    project.run(&["sign", "--new-key", "other.key", "--no-password"]);
    let require = format!("[plugins]\ntrusted_keys = [\"{public}\"]\nrequire_signed = ");
    project.configure(&format!("{require}true"));
    let rejection = |reason: &str| {
        let output = project.output(&["check"]);
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(reason), "{said}");
    };
    rejection("has no signature beside it");
    let files = ["plugins/breakout.wasm", "plugins/momentum.wasm"];
    project.run(&["sign", "--key", "other.key", files[0], files[1]]);
    rejection("was not made for");
    project.run(&["sign", "--key", "desk.key", files[0], files[1]]);
    project.run(&["check"]);
    project.run(&["verify", files[0], files[1]]);

    let host = project.start_owner();
    // Not WebAssembly at all: the signature is checked first.
    replace(&project, "breakout", b"something else");
    wait_rejected(&project, &host, "has the plugin changed since it was signed?");
    assert!(!project.output(&["verify", files[0]]).status.success());
    // The signature comes after the plugin.
    replace(&project, "breakout", &release(&shipped("plugins/breakout.wasm"), "two"));
    project.run(&["sign", "--key", "desk.key", files[0]]);
    host.wait_for_event_with("generation_activated", "generation=2 ");
    fs::write(project.path("plugins/breakout.wasm.minisig"), "garbage").unwrap();
    wait_rejected(&project, &host, "is not a signature of minisign");

    project.configure(&format!("{require}false"));
    rejection("is not a signature of minisign");
    fs::remove_file(project.path("plugins/breakout.wasm.minisig")).unwrap();
    project.run(&["check"]);
    project.configure("[plugins]\nrequire_signed = true");
    rejection("plugins.trusted_keys is empty");
    project.configure("[plugins]\ntrusted_keys = [\"abc\"]");
    rejection("plugins.trusted_keys[0] is not a public key of minisign");
}

#[test]
fn a_promoted_plugin_takes_its_signature_along() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.run(&["sign", "--new-key", "desk.key", "--no-password"]);
    let public = fs::read_to_string(project.path("desk.key.pub")).unwrap();
    let public = public.lines().nth(1).unwrap();
    project.configure(&format!("[plugins]\ntrusted_keys = [\"{public}\"]\nrequire_signed = true\nallow_next = true"));
    replace(&project, "breakout.next", &release(&shipped("plugins/breakout.wasm"), "two"));
    let files = ["plugins/breakout.wasm", "plugins/momentum.wasm", "plugins/breakout.next.wasm"];
    project.run(&["sign", "--key", "desk.key", files[0], files[1], files[2]]);
    let said = project.run(&["promote", "breakout-next"]);
    project.run(&["check"]);
    project.run(&["verify", files[0]]);
    assert!(!project.path("plugins/breakout.next.wasm.minisig").exists());

    // The way back left the new signature, so that the old plugin was rejected.
    let back: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("to go back: ")).collect();
    assert_eq!(back.len(), 2, "{said}");
    for command in back {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(
            Command::new(words[0]).args(&words[1..]).current_dir(project.path("")).status().unwrap().success(),
            "{command}"
        );
    }
    project.run(&["check"]);
    project.run(&["verify", files[0]]);
    assert_eq!(fs::read(project.path(files[0])).unwrap(), fs::read(shipped("plugins/breakout.wasm")).unwrap());
}

/// A plugin that had no signature gets none that is another's.
#[test]
fn the_way_back_from_a_signed_plugin_to_an_unsigned_one_removes_the_signature() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    project.run(&["sign", "--new-key", "desk.key", "--no-password"]);
    project.configure("[plugins]\nallow_next = true");
    replace(&project, "breakout.next", &release(&shipped("plugins/breakout.wasm"), "two"));
    project.run(&["sign", "--key", "desk.key", "plugins/breakout.next.wasm"]);
    // Of an earlier promotion.
    fs::write(project.path("plugins/breakout.wasm.previous.minisig"), "old").unwrap();
    let said = project.run(&["promote", "breakout-next"]);
    let back: Vec<&str> = said.lines().filter(|line| line.starts_with("to go back: ")).collect();
    assert!(back.len() == 2 && back[0].starts_with("to go back: rm ") && back[0].ends_with(".minisig"), "{said}");
}

/// A check costs a process, but a cached plugin costs none.
#[test]
fn a_plugin_that_was_checked_is_not_checked_again() {
    let redis = Redis::start();
    let project = Project::new(&redis);
    let home = project.path("caches");
    let run = |expected: usize| {
        let mut command = project.command(&["check"]);
        let output = command.env("XDG_CACHE_HOME", &home).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let files = fs::read_dir(home.join("tickhound/plugins/modules/authentic")).unwrap();
        assert_eq!(files.count(), expected);
    };
    run(4);
    run(4);
    // Other parameters are another trial of the same code.
    project.configure("[detectors.breakout.params]\nwindow_s = 60.0");
    run(5);
    fs::set_permissions(home.join("tickhound/key"), Permissions::from_mode(0o644)).unwrap();
    let output = project.command(&["check"]).env("XDG_CACHE_HOME", &home).output().unwrap();
    assert!(text(&output.stderr).contains("others may read it"), "{}", text(&output.stderr));
}
