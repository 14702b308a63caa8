//! The command line: one file a subcommand. The only user of clap.
//!
//! Exit codes of all commands: 0 = done, 1 = failed, with a sentence on stderr,
//! 2 = wrong usage. `status` and `doctor` have their own, in their help.

mod alerts;
mod author;
mod background;
mod bench;
mod build;
mod check;
mod dead;
mod demo;
mod doctor;
mod feed;
mod init;
mod inspect;
mod new;
mod notify;
mod promote;
mod replay;
mod run;
mod shadow;
mod status;
mod stop;
mod test;
mod text;
mod top;

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use crate::service::{LogFile, LogQueue, LogTarget};
use tickhound_core::{
    config::{self, LoadedConfig},
    decode::Decoder,
};
use tickhound_engine::plugin::Loader;
use tickhound_redis::RedisStream;

/// An end waits so long for the last lines of its log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Detects patterns in live market ticks: Redis Stream in, WebAssembly detectors, alerts out.
#[derive(Debug, Parser)]
#[command(
    name = "tickhound",
    version,
    // `restart` puts the options given now behind those of before.
    args_override_self = true,
    after_help = "Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage; `status` and `doctor` have their own.\n\
                  Variables TICKHOUND_SECTION__KEY override the file, e.g. TICKHOUND_STREAM__URL."
)]
pub struct Cli {
    /// Configuration file; paths in it are relative to the folder above `config/`.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// How log lines are written.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    /// Log more; RUST_LOG overrides.
    #[arg(long, global = true)]
    debug: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work the stream: read, detect, alert, acknowledge.
    Run(run::RunArgs),
    /// End the host that runs in the background, when it has committed what it has read.
    Stop(stop::StopArgs),
    /// Stop it, and start it again with the same options.
    Restart(stop::RestartArgs),
    /// Publish recorded or simulated ticks to the stream.
    Feed(feed::FeedArgs),
    /// Run detectors on recorded ticks, at full speed and without Redis.
    Replay(Box<replay::ReplayArgs>),
    /// How the stream, its group and the host are doing.
    Status(status::StatusArgs),
    /// The same at a glance, full-screen: verdict, throughput, consumers, detectors, alerts as they come.
    Top(top::TopArgs),
    /// The alerts that were raised, and those to come.
    Alerts(alerts::AlertsArgs),
    /// Look whether configuration, plugins and Redis are fit to run; reads no tick.
    Check(check::CheckArgs),
    /// Look for whatever may hurt: server, stream, group, machine, plugins; each finding with its cure.
    Doctor(doctor::DoctorArgs),
    /// Look at what was set aside, and give it back to the stream or drop it.
    Dead(dead::DeadArgs),
    /// Who has been told of alerts, and does a message arrive?
    Notify(notify::NotifyArgs),
    /// Compare shadows with the detectors that they follow.
    Shadow(shadow::ShadowArgs),
    /// Make a shadow live.
    Promote(promote::PromoteArgs),
    /// See the whole engine work on a simulated market; needs no Redis.
    Demo(demo::DemoArgs),
    /// Make a folder to run Tickhound in: configuration and plugins.
    Init(init::InitArgs),
    /// Begin a detector of one's own: a project that builds, tests and runs as it is.
    New(new::NewArgs),
    /// Build a detector's project and put it into the plugins folder.
    Build(build::BuildArgs),
    /// Look whether a detector raises the alerts that its cases expect.
    Test(test::TestArgs),
    /// Measure what a detector costs on this machine.
    Bench(bench::BenchArgs),
    /// Tell what a .wasm file is: parameters, columns, contract, imports.
    Inspect(inspect::InspectArgs),
}

impl Cli {
    /// Does what the arguments say.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn run(self) -> Result<ExitCode> {
        let load = || config::load(&self.config, std::env::vars());
        if let Command::Run(args) = &self.command
            && !args.background
        {
            return self.run_host(args, &load()?);
        }
        self.start_log();
        match &self.command {
            Command::Run(args) => background::start(&background::Start {
                config_file: &self.config,
                loaded: &load()?,
                wait: Duration::from_secs(args.wait),
                options: &self.options(),
                variables: &[],
            }),
            Command::Stop(args) => stop::run(args, &load()?),
            Command::Restart(args) => stop::restart(args, &self.config, &self.options()),
            Command::Feed(args) => {
                let LoadedConfig { config, .. } = load()?;
                feed::run(args, &config.stream).map(|()| ExitCode::SUCCESS)
            }
            Command::Replay(args) => replay::run(args, self.load_or_shipped()?),
            Command::Status(args) => status::run(args, &load()?),
            Command::Top(args) => top::run(args, &load()?),
            Command::Alerts(args) => alerts::run(args, &load()?),
            Command::Check(args) => check::run(args, &load()?),
            Command::Doctor(args) => doctor::run(args, load()),
            Command::Dead(args) => dead::run(args, &load()?),
            Command::Notify(args) => notify::run(args, &load()?),
            Command::Shadow(args) => shadow::run(args, &load()?),
            Command::Promote(args) => promote::run(args, &load()?),
            Command::Demo(args) => demo::run(args),
            Command::Init(args) => init::run(args),
            Command::New(args) => new::run(args),
            Command::Build(args) => build::run(args, &self.load_or_shipped()?),
            Command::Test(args) => test::run(args, &self.load_or_shipped()?),
            Command::Bench(args) => bench::run(args, self.load_or_shipped()?),
            Command::Inspect(args) => inspect::run(args, &self.load_or_shipped()?),
        }
    }

    /// The configuration; where there is none and none was named, the one that ships.
    fn load_or_shipped(&self) -> Result<LoadedConfig> {
        let default = std::path::Path::new(config::DEFAULT_FILE);
        match self.config == default && !default.exists() {
            true => config::shipped(author::CONFIG),
            false => config::load(&self.config, std::env::vars()),
        }
    }

    /// The log of a command which reports goes to stderr, beside its report.
    fn start_log(&self) {
        let (runs, level) = match &self.command {
            Command::Demo(args) => (!args.json, "info"),
            // It has the whole screen to itself.
            Command::Top(_) => (false, "off"),
            _ => (false, "warn"),
        };
        match runs {
            true => self.log_to(BoxMakeWriter::new(std::io::stdout), std::io::stdout().is_terminal(), level),
            false => self.log_to(BoxMakeWriter::new(std::io::stderr), std::io::stderr().is_terminal(), level),
        }
    }

    /// The log of a run goes to stdout, so that `tickhound run | grep DETECTED` works as it reads, or to a file: in
    /// the background, or because that was asked for. A thread of its own writes it.
    fn run_host(&self, args: &run::RunArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
        if args.detached {
            // The terminal may be closed. It fails where we lead a session already, which is as good.
            let _ = rustix::process::setsid();
        }
        let config = &loaded.config;
        let in_background = args.detached.then(|| loaded.resolve(&config.service.log_file));
        let target = match args.log_file.clone().or(in_background) {
            Some(file) => {
                let mut log = LogFile::open(&file, &config.service, &config.input.timezone)?;
                if args.detached {
                    log.take_stderr();
                }
                LogTarget::File(log)
            }
            None => LogTarget::Stdout,
        };
        let log = LogQueue::start(target)?;
        let terminal = !log.is_file() && std::io::stdout().is_terminal();
        self.log_to(BoxMakeWriter::new(log.clone()), terminal, "info");
        let ended = run::run(args, loaded, &log, &self.options());
        log.finish(LAST_LINES);
        ended
    }

    /// Options as they were given, to start another process with.
    fn options(&self) -> Vec<String> {
        let log = matches!(self.log, LogFormat::Json).then_some("--log=json");
        let debug = self.debug.then_some("--debug");
        log.into_iter().chain(debug).map(str::to_owned).collect()
    }

    fn log_to(&self, writer: BoxMakeWriter, terminal: bool, level: &str) {
        let level = if self.debug { "info,tickhound=debug" } else { level };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_writer(writer);
        // `tickhound run | head` closes the log's end; the run goes on, and there is nobody to tell.
        let log = log.log_internal_errors(false);
        match self.log {
            LogFormat::Text => log.with_ansi(terminal).init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
    }
}

/// What the configuration asks for, loaded and checked.
struct Prepared {
    decoder: Decoder,
    loader: Loader,
    stream: RedisStream,
}

impl Prepared {
    fn load(loaded: &LoadedConfig) -> Result<Self> {
        let config = &loaded.config;
        let decoder = Decoder::new(&config.input, &loaded.root)?;
        let loader = Loader::start(loaded, decoder.column_names(), |loaded| crate::notify::check(loaded).map(|_| ()))?;
        let has_shadows = loader.newest().detectors.iter().any(|spec| !spec.settings.shadow_of.is_empty());
        let stream = RedisStream::new(&config.stream, &config.alerts, &config.dead_letters)?.with_shadows(has_shadows);
        Ok(Self { decoder, loader, stream })
    }
}

/// A runtime for commands that talk to Redis.
fn runtime() -> Result<tokio::runtime::Runtime> {
    use anyhow::Context;
    tokio::runtime::Builder::new_multi_thread()
        // The partition's task, and the timers beside it; guests have threads of their own.
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the async runtime")
}

/// Ready once the command is told to end: Ctrl-C, SIGTERM, or the end of its terminal.
fn told_to_stop() -> Result<impl Future<Output = ()>> {
    use anyhow::Context;
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).context("failed to listen for signals");
    let (mut interrupt, mut terminate, mut hang_up) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    })
}

/// Ready once nobody reads our output any more, as with `| head`. A file is always read.
async fn output_closed() {
    use std::os::fd::AsFd;
    use tokio::{io::Interest, net::unix::pipe::Sender};
    let pipe = std::io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    // What can't be waited for, such as a file, does not close.
    let Ok(pipe) = pipe else { return std::future::pending().await };
    if pipe.ready(Interest::ERROR).await.is_err() {
        std::future::pending::<()>().await;
    }
}
