//! A redis-server of the benchmark's own: on loopback, in a temporary folder, nothing written to disk.

use std::{
    fs::File,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use redis::{Connection, Value};
use tempfile::TempDir;

use crate::{
    measure::{cpu_seconds, pause},
    wire::Wire,
};

/// Longer than a server takes to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The time between two checks: so short that it does not matter in a measurement, so long that checks cost nothing.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// Nothing that is measured makes no progress for so long.
const STUCK: Duration = Duration::from_secs(30);

/// The stream that everything here is about.
pub(crate) const STREAM: &str = "ticks:intraday:processed";
pub(crate) const GROUP: &str = "scanner_group";
pub(crate) const ALERTS: &str = "alerts:intraday";

/// Stopped on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    _dir: TempDir,
}

/// How a stream was drained.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drained {
    /// From the first delivery to the last acknowledgement.
    pub(crate) seconds: f64,
    /// Processor time of the reader meanwhile.
    pub(crate) client_cpu: f64,
    /// Processor time of the server meanwhile.
    pub(crate) server_cpu: f64,
}

impl Server {
    pub(crate) fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        // Free a moment ago: nobody else on this machine is likely to take it meanwhile.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .args(["--loglevel", "warning", "--dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(File::create(dir.path().join("log"))?)
            .spawn()
            .context("redis-server is needed: apt-get install redis-server")?;
        let server = Self { child, port, _dir: dir };
        let started = Instant::now();
        while server.connect().is_err() {
            ensure!(started.elapsed() < PATIENCE, "redis-server does not answer");
            pause(CHECK_EVERY);
        }
        Ok(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        Ok(redis::Client::open(self.url())?.get_connection()?)
    }

    pub(crate) fn wire(&self) -> Result<Wire> {
        Wire::connect(self.port)
    }

    pub(crate) fn version(&self) -> Result<String> {
        let info: String = redis::cmd("INFO").arg("server").query(&mut self.connect()?)?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(version.context("INFO has no version")?.trim().to_owned())
    }

    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.child.id())
    }

    /// As if nobody had read the stream yet.
    pub(crate) fn fresh_group(&self) -> Result<()> {
        let mut connection = self.connect()?;
        let mut stale: Vec<String> = redis::cmd("KEYS").arg("tickhound:*").query(&mut connection)?;
        stale.push(ALERTS.to_owned());
        let _: Value = redis::cmd("DEL").arg(&stale).query(&mut connection)?;
        let group = |what: &str| redis::cmd("XGROUP").arg(what).arg(STREAM).arg(GROUP).to_owned();
        let _: Value = group("DESTROY").query(&mut connection)?;
        Ok(group("CREATE").arg("0").query(&mut connection)?)
    }

    pub(crate) fn length(&self, key: &str) -> Result<u64> {
        Ok(redis::cmd("XLEN").arg(key).query(&mut self.connect()?)?)
    }

    /// Starts `reader`, which drains the stream through the group, and watches until nothing is left.
    pub(crate) fn drained_by(&self, reader: &mut Command) -> Result<Drained> {
        self.fresh_group()?;
        let mut connection = self.connect()?;
        let last = Group::last_entry(&mut connection)?;
        let mut child = reader.stdin(Stdio::null()).spawn().context("can't start what is measured")?;
        let watched = self.watch(&mut connection, &mut child, &last);
        if watched.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let drained = watched?;
        // Each goes by itself when there is nothing more.
        let status = child.wait()?;
        ensure!(status.success(), "what is measured ended with {status}");
        Ok(drained)
    }

    fn watch(&self, connection: &mut Connection, child: &mut Child, last: &str) -> Result<Drained> {
        let mut begun = None;
        let (mut moved, mut before) = (Instant::now(), String::new());
        loop {
            let checked = Instant::now();
            let group = Group::read(connection)?;
            if group.delivered != before {
                (moved, before) = (checked, group.delivered.clone());
            }
            let usage = || -> Result<_> { Ok((checked, cpu_seconds(child.id())?, self.cpu_seconds()?)) };
            if begun.is_none() && group.delivered != "0-0" {
                begun = Some(usage()?);
            }
            if let (Some((began, client, server)), 0, true) = (begun, group.pending, group.delivered == last) {
                let (ended, client_after, server_after) = usage()?;
                return Ok(Drained {
                    seconds: (ended - began).as_secs_f64(),
                    client_cpu: client_after - client,
                    server_cpu: server_after - server,
                });
            }
            if moved.elapsed() > STUCK {
                bail!("no progress for {STUCK:?}: delivered up to {}, {} pending", group.delivered, group.pending);
            }
            pause(CHECK_EVERY);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How far the group has come.
pub(crate) struct Group {
    /// Id of the newest entry that was handed out.
    pub(crate) delivered: String,
    /// Handed out and not acknowledged.
    pub(crate) pending: u64,
    /// Not handed out yet; `None` when the server can't tell.
    pub(crate) lag: Option<u64>,
}

impl Group {
    pub(crate) fn read(connection: &mut Connection) -> Result<Self> {
        let groups: Vec<Value> = redis::cmd("XINFO").arg("GROUPS").arg(STREAM).query(connection)?;
        let [Value::Array(fields)] = &groups[..] else { bail!("expected one group") };
        let field = |name: &str| {
            let found = fields.chunks(2).find(|pair| matches!(&pair[0], Value::BulkString(n) if n == name.as_bytes()));
            Ok::<_, anyhow::Error>(found.context("a group lacks a field")?[1].clone())
        };
        Ok(Self {
            delivered: redis::from_redis_value(field("last-delivered-id")?)?,
            pending: redis::from_redis_value(field("pending")?)?,
            lag: redis::from_redis_value(field("lag")?)?,
        })
    }

    fn last_entry(connection: &mut Connection) -> Result<String> {
        let newest: Vec<(String, Value)> =
            redis::cmd("XREVRANGE").arg(STREAM).arg("+").arg("-").arg("COUNT").arg(1).query(connection)?;
        Ok(newest.into_iter().next().context("the stream is empty")?.0)
    }
}
