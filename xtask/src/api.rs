//! `cargo xtask api`: the server against its own description, by schemathesis; its metrics, by the reference parser.
//!
//! A real host on a real redis-server, with alerts to show, is asked for everything that the description
//! allows, and for much that it does not.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::{
    cargo, root, run,
    running::{self, Running, wait},
    target_dir,
};

/// Their versions decide what is generated.
const TOOLS: [&str; 2] = ["schemathesis==4.32.5", "prometheus-client==0.26.0"];

/// So that what is not answered without it is tried as well.
const TOKEN: &str = "token-of-the-xtask-api";

/// Fails on anything that OpenMetrics does not allow.
const PARSE: &str = "
import sys, urllib.request
from prometheus_client.openmetrics.parser import text_string_to_metric_families
headers = {'Authorization': 'Bearer ' + sys.argv[2], 'Accept': 'application/openmetrics-text; version=1.0.0'}
text = urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=headers)).read().decode()
print(len(list(text_string_to_metric_families(text))), 'metrics')
";

pub(crate) fn check() -> Result<()> {
    run(cargo().args(["build", "--release", "--locked"]))?;
    let dir = target_dir().join("api");
    fs::create_dir_all(&dir)?;
    let tools = dir.join("venv/bin");
    if !tools.join("st").exists() {
        run(Command::new("python3").args(["-m", "venv"]).arg(dir.join("venv")))?;
        run(Command::new(tools.join("pip")).args(["install", "--quiet"]).args(TOOLS))?;
    }
    let project = dir.join("project");
    if project.exists() {
        fs::remove_dir_all(&project)?;
    }
    fs::create_dir_all(&project)?;
    let (_redis, socket) = running::redis(&project)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let tickhound = |args: &[&str]| {
        let mut command = Command::new(target_dir().join("release/tickhound"));
        command.args(args).current_dir(&project);
        command.env("TICKHOUND_STREAM__URL", format!("redis+unix://{}", socket.display()));
        command.env("TICKHOUND_SERVER__LISTEN", &address).env("TICKHOUND_SERVER__TOKEN", TOKEN);
        command.env("TICKHOUND_DETECTORS__MOMENTUM__MIN_CONFIDENCE", "0");
        command
    };
    run(tickhound(&["init"]).stdout(Stdio::null()))?;
    run(tickhound(&["feed", "--simulate", "--symbols", "20", "--count", "20000"]).stdout(Stdio::null()))?;
    run(tickhound(&["run", "--drain"]).stdout(Stdio::null()))?;
    let _host = Running::start(tickhound(&["run"]).stdout(fs::File::create(project.join("log"))?))?;
    wait("the server listens", || TcpStream::connect(&address).is_ok())?;
    let mut probe = Command::new(tools.join("st"));
    probe.arg("run").arg(root().join("src/observe/server/openapi.json")).arg("--url").arg(format!("http://{address}"));
    probe.arg("--header").arg(format!("Authorization: Bearer {TOKEN}"));
    // A stream of events has no end; the tests listen to it.
    probe.args(["--checks", "all", "--exclude-path", "/api/alerts/live", "--phases", "examples,coverage,fuzzing"]);
    probe.args(["--seed", "1", "--max-examples", "50", "--no-color"]).current_dir(&project);
    run(&mut probe)?;
    run(Command::new(tools.join("python")).args(["-c", PARSE]).arg(format!("http://{address}/metrics")).arg(TOKEN))
}
