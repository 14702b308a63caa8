//! Programs that run beside a step, and end with it.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is ended when this goes out of scope.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("can't start {}", command.get_program().display()))?;
        Ok(Self(child))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A redis-server that keeps nothing and listens on a socket in `dir` only: the server, which answers now, and its socket.
pub(crate) fn redis(dir: &Path) -> Result<(Running, PathBuf)> {
    let socket = dir.canonicalize()?.join("redis.sock");
    let mut command = Command::new("redis-server");
    // By a short name: the system limits how long a socket's path may be.
    command.args(["--port", "0", "--save", "", "--loglevel", "warning", "--unixsocket", "redis.sock", "--dir"]);
    command.arg(dir.canonicalize()?).current_dir(dir).stdout(Stdio::null());
    let server = Running::start(&mut command)?;
    wait("redis-server listens", || UnixStream::connect(&socket).is_ok())?;
    Ok((server, socket))
}

#[expect(clippy::disallowed_methods, reason = "the step of a wait for a condition")]
pub(crate) fn wait(what: &str, condition: impl Fn() -> bool) -> Result<()> {
    let started = Instant::now();
    while !condition() {
        ensure!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
