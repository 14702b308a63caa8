//! A folder as a user has it, and the built `tickhound` at work in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Bench, measure::pause, server::Server};

/// Longer than anything takes that a host is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// The two detectors that are on by default.
pub(crate) const BOTH: &str =
    "[detectors.breakout]\nplugin = \"breakout\"\n[detectors.momentum]\nplugin = \"momentum\"\n";

/// `config/config.toml` and `plugins/`.
pub(crate) struct Project {
    dir: TempDir,
    program: PathBuf,
}

impl Project {
    /// With all plugins that ship; `config` in full, but for the server if there is one.
    pub(crate) fn new(bench: &Bench, server: Option<&Server>, config: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("config"))?;
        fs::create_dir(dir.path().join("plugins"))?;
        for entry in fs::read_dir(bench.root.join("plugins"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "wasm") {
                fs::copy(&path, dir.path().join("plugins").join(path.file_name().context("a file has a name")?))?;
            }
        }
        let project = Self { dir, program: bench.host.clone() };
        let stream = server.map(|server| format!("[stream]\nurl = \"{}\"\n", server.url())).unwrap_or_default();
        fs::write(project.path("config/config.toml"), stream + config)?;
        Ok(project)
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    /// The host, to be run in this folder, silently.
    pub(crate) fn command(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(&self.program);
        let log = File::create(self.path("host.log"))?;
        command.args(args).current_dir(self.dir.path()).stdin(Stdio::null());
        // Compiled plugins are this project's own.
        command.env("XDG_CACHE_HOME", self.path("caches")).env_remove("CACHE_DIRECTORY");
        command.stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// Starts it in the background.
    pub(crate) fn start(&self, args: &[&str]) -> Result<Host> {
        Ok(Host { child: self.command(args)?.spawn().context("can't start the host")?, log: self.path("host.log") })
    }
}

/// Killed on drop.
pub(crate) struct Host {
    child: Child,
    log: PathBuf,
}

impl Host {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of its log has this in it.
    pub(crate) fn wait_for_log(&self, part: &str) -> Result<()> {
        wait_for(part, || Ok(fs::read_to_string(&self.log)?.contains(part).then_some(())))
    }

    /// Has it end as it should, and waits for that.
    pub(crate) fn stop(mut self) -> Result<()> {
        let told = Command::new("kill").arg("-TERM").arg(self.pid().to_string()).status()?;
        ensure!(told.success(), "can't stop the host");
        wait_for("the host's end", || Ok(self.child.try_wait()?))?;
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Looks every millisecond.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if started.elapsed() > PATIENCE {
            bail!("waited in vain for: {what}");
        }
        pause(Duration::from_millis(1));
    }
}
