//! The command line: one file for each subcommand. The only user of clap.
//!
//! Exit codes of all commands: 0 = done, 1 = failed, with a sentence on stderr, 2 = wrong usage. `status` and `doctor`
//! have their own, which their help lists.

mod alerts;
mod author;
mod background;
mod bench;
mod build;
mod check;
mod dead;
mod demo;
mod doctor;
mod explain;
mod feed;
mod init;
mod inspect;
mod market_report;
mod mute;
mod near;
mod new;
mod notify;
mod parse;
mod parts;
mod process;
mod promote;
mod record;
mod replay;
mod run;
mod sessions;
mod shadow;
mod sign;
mod status;
mod stop;
mod test;
mod text;
mod top;
mod unmatched;
mod verify;
mod version;
mod why;
mod why_not;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use tracing_subscriber::{EnvFilter, fmt::writer::BoxMakeWriter};

use self::version::Detail;
use crate::{
    clock::{self, LogClock},
    output::{self, Target, has_colors},
    service::{LogFile, LogQueue, LogTarget, PrintableFields, PrintableJson},
};
use tickhound_core::{
    config::{self, LoadedConfig},
    text::is_printable,
};
use tickhound_engine::plugin::{check_child, check_process};
use tickhound_recorded::read_reference;

/// The longest wait at the end for the last lines of the log.
const LOG_FINISH_MAX: Duration = Duration::from_secs(1);

/// The log level of commands whose report has the faults of detectors.
const REPORTED_ELSEWHERE: &str =
    "warn,tickhound_engine::partition::generations=off,tickhound_engine::partition::quarantine=off";

/// Detects patterns in live market ticks: Redis Stream in, WebAssembly detectors, alerts out.
#[derive(Debug, Parser)]
#[command(
    name = "tickhound",
    arg_required_else_help = true,
    // `restart` appends the options given now to the earlier ones.
    args_override_self = true,
    after_help = "Exit codes: 0 done, 1 failed (the reason is on stderr), 2 wrong usage; `status` and `doctor` have their own.\n\
                  Environment variables TICKHOUND_SECTION__KEY override the file, for example TICKHOUND_STREAM__URL;\n\
                  in the name of a detector, _ also stands for -. NO_COLOR, CLICOLOR=0 and CLICOLOR_FORCE decide on colours."
)]
pub struct Cli {
    /// The configuration file; paths in it are relative to the folder above `config/`.
    #[arg(long, global = true, value_name = "FILE", default_value = config::DEFAULT_FILE)]
    config: PathBuf,
    /// Format of log lines.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    /// Log more details; RUST_LOG overrides this.
    #[arg(long, global = true)]
    debug: bool,
    /// Print the version; with --verbose also commit, contract of detectors, wasmtime and the server that is needed.
    #[arg(long, short = 'V')]
    version: bool,
    /// With --version: print everything about this program.
    #[arg(long, short = 'v', requires = "version")]
    verbose: bool,
    /// With --version: print everything as one JSON object.
    #[arg(long, requires = "version")]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Process the stream: read, detect, alert, acknowledge.
    Run(run::RunArgs),
    /// Stop the background host after it has committed the entries in flight.
    Stop(stop::StopArgs),
    /// Stop the background host and start it again with the same options.
    Restart(stop::RestartArgs),
    /// Publish recorded or simulated ticks to the stream.
    Feed(feed::FeedArgs),
    /// Record the stream into daily files, for replays and warm-ups.
    Record(record::RecordArgs),
    /// Run detectors on recorded ticks, at full speed and without Redis.
    Replay(Box<replay::ReplayArgs>),
    /// Show the state of the stream, its consumer group and the host.
    Status(status::StatusArgs),
    /// Show a live full-screen overview: verdict, throughput, consumers, detectors, alerts.
    Top(top::TopArgs),
    /// Show the alerts that were raised, and follow new ones.
    Alerts(alerts::AlertsArgs),
    /// Explain an alert: what the detector looked at then and before.
    Explain(explain::ExplainArgs),
    /// Show what a detector looked at when it found nothing, and what was missing.
    WhyNot(why_not::WhyNotArgs),
    /// Show the symbols that are closest to a detection.
    Near(near::NearArgs),
    /// Check configuration, plugins and Redis without reading ticks.
    Check(check::CheckArgs),
    /// Diagnose server, stream, group, machine and plugins; each finding has a cure.
    Doctor(doctor::DoctorArgs),
    /// Inspect dead letters, and requeue or drop them.
    Dead(dead::DeadArgs),
    /// Show the state of notification channels, or send a test message.
    Notify(notify::NotifyArgs),
    /// Keep alerts from notification channels for a while.
    Mute(mute::MuteArgs),
    /// Show what is muted, until when, and how many alerts that has left out.
    Mutes(mute::MutesArgs),
    /// End a mute.
    Unmute(mute::UnmuteArgs),
    /// Show when the markets trade: the sessions of the calendars.
    Sessions(sessions::SessionsArgs),
    /// Compare shadow detectors with the live detectors that they follow.
    Shadow(shadow::ShadowArgs),
    /// Make a shadow detector live.
    Promote(promote::PromoteArgs),
    /// Run the whole engine on a simulated market; needs no Redis.
    Demo(demo::DemoArgs),
    /// Create a folder to run Tickhound in, with configuration and plugins.
    Init(init::InitArgs),
    /// Create a detector project that builds, tests and runs as it is.
    New(new::NewArgs),
    /// Build a detector project and install it into the plugins folder.
    Build(build::BuildArgs),
    /// Test whether a detector raises the alerts that its cases expect.
    Test(test::TestArgs),
    /// Measure what a detector costs on this machine.
    Bench(bench::BenchArgs),
    /// Show what a .wasm file contains: parameters, columns, contract, imports.
    Inspect(inspect::InspectArgs),
    /// Sign plugins, or make a key to sign them with.
    Sign(sign::SignArgs),
    /// Verify the signatures of plugins.
    Verify(verify::VerifyArgs),
    /// Check a plugin for another process of this program.
    #[command(name = check_process::COMMAND, hide = true)]
    CheckPlugin {
        /// The name of the plugin, which `ps` shows.
        name: String,
    },
}

/// Prints what is wrong with the arguments, or the help that they ask for; returns the exit code.
pub fn print_usage_error(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let target = if error.use_stderr() { Target::Stderr } else { Target::Stdout };
    // An argument that is quoted may be the name of a file of a stranger.
    if !text.lines().all(is_printable) {
        text.lines().for_each(|line| errln!("{line}"));
    } else if has_colors(target) {
        output::print_styled(target, &error.render().ansi().to_string());
    } else {
        output::print_styled(target, &text);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

impl Cli {
    /// Parses the arguments of this process.
    ///
    /// # Errors
    /// They are wrong, or ask for help: [`print_usage_error`] prints either.
    pub fn from_arguments() -> Result<Self, clap::Error> {
        let cli = Self::try_parse()?;
        if cli.command.is_none() && !cli.version {
            return Err(
                Self::command().error(ErrorKind::MissingSubcommand, "a command is missing, see `tickhound --help`")
            );
        }
        Ok(cli)
    }

    /// Runs the command that the arguments name, and prints the error if it fails.
    pub fn run_to_exit_code(self) -> ExitCode {
        output::sanitize_panics();
        let ended = self.run().and_then(|code| output::finish().context("can't write the output").map(|()| code));
        ended.unwrap_or_else(|error| {
            output::print_error(&error);
            ExitCode::FAILURE
        })
    }

    /// Runs the command that the arguments name.
    fn run(self) -> Result<ExitCode> {
        let Some(command) = self.command.as_ref().filter(|_| !self.version) else {
            self.print_version();
            return Ok(ExitCode::SUCCESS);
        };
        let load = || self.load();
        match command {
            Command::Run(args) if !args.background => return self.run_host(args, &self.load_with_market()?),
            Command::Record(args) if args.records() => return self.run_recorder(args, &load()?),
            _ => self.start_log(command),
        }
        match command {
            Command::Run(args) => background::start(&background::StartOptions {
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
            Command::Record(args) => record::control(args, &self.config, &load()?, &self.options()),
            Command::Replay(args) => replay::run(args, self.load_or_shipped(Self::load_with_market)?),
            Command::Status(args) => status::run(args, &load()?),
            Command::Top(args) => top::run(args, &load()?),
            Command::Alerts(args) => alerts::run(args, &load()?),
            Command::Explain(args) => explain::run(args, &self.load_with_market()?),
            Command::WhyNot(args) => why_not::run(args, &self.load_with_market()?),
            Command::Near(args) => near::run(args, &self.load_with_market()?),
            Command::Check(args) => check::run(args, &self.load_with_market()?),
            Command::Doctor(args) => doctor::run(args, load()),
            Command::Dead(args) => dead::run(args, &load()?),
            Command::Notify(args) => notify::run(args, &load()?),
            Command::Mute(args) => mute::mute(args, &load()?),
            Command::Mutes(args) => mute::list(args, &load()?),
            Command::Unmute(args) => mute::unmute(args, &load()?),
            Command::Sessions(args) => sessions::run(args, &load()?),
            Command::Shadow(args) => shadow::run(args, &load()?),
            Command::Promote(args) => promote::run(args, &self.load_with_market()?),
            Command::Demo(args) => demo::run(args),
            Command::Init(args) => init::run(args),
            Command::New(args) => new::run(args),
            Command::Build(args) => build::run(args, &self.load_or_shipped(Self::load_with_market)?),
            Command::Test(args) => test::run(args, &self.load_or_shipped(Self::load_with_market)?),
            Command::Bench(args) => bench::run(args, self.load_or_shipped(Self::load_with_market)?),
            Command::Inspect(args) => inspect::run(args, &self.load_or_shipped(Self::load)?),
            Command::Sign(args) => sign::run(args, &self.load_or_shipped(Self::load)?),
            Command::Verify(args) => verify::run(args, &self.load_or_shipped(Self::load)?),
            Command::CheckPlugin { .. } => check_child::serve(),
        }
    }

    fn print_version(&self) {
        if self.json {
            version::print_json();
        } else {
            version::print(if self.verbose { Detail::Everything } else { Detail::Version });
        }
    }

    /// The configuration. From now on, the log has the clock that it asks for.
    fn load(&self) -> Result<LoadedConfig> {
        let loaded = config::load(&self.config, config::environment())?;
        clock::set_zone(loaded.config.display_zone()?);
        Ok(loaded)
    }

    /// The configuration with its reference data, for commands that load plugins. The others work although a file of reference
    /// data can't be read.
    fn load_with_market(&self) -> Result<LoadedConfig> {
        let mut loaded = self.load()?;
        loaded.load_market(read_reference, None)?;
        Ok(loaded)
    }

    /// The configuration, by `load`; the one that ships if the default file does not exist, with the plugins' own defaults.
    fn load_or_shipped(&self, load: fn(&Self) -> Result<LoadedConfig>) -> Result<LoadedConfig> {
        let default = std::path::Path::new(config::DEFAULT_FILE);
        if self.config == default && !default.exists() {
            return author::shipped_with_defaults();
        }
        load(self)
    }

    /// The log of a command that prints a report goes to stderr.
    fn start_log(&self, command: &Command) {
        let stderr = |level| self.log_to(BoxMakeWriter::new(std::io::stderr), has_colors(Target::Stderr), level);
        match command {
            // Its log is its report.
            Command::Demo(args) if !args.json => {
                self.log_to(BoxMakeWriter::new(std::io::stdout), has_colors(Target::Stdout), "info");
            }
            Command::Demo(_) => stderr("info"),
            // It draws on the whole screen.
            Command::Top(_) => stderr("off"),
            // Their reports say on how many ticks a detector failed, and why.
            Command::Replay(_) | Command::Test(_) => stderr(REPORTED_ELSEWHERE),
            // Nothing that a host would mend is to be mended.
            Command::Explain(_) | Command::WhyNot(_) | Command::Near(_) => stderr("off"),
            // The host logs what it answers.
            Command::CheckPlugin { .. } => stderr("off"),
            _ => stderr("warn"),
        }
    }

    /// Runs a host. Its log goes to stdout, so that `tickhound run | grep DETECTED` works; or to a file, in the
    /// background or with --log-file. A thread of its own writes it.
    fn run_host(&self, args: &run::RunArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
        let config = &loaded.config;
        let file = args.log_file.clone();
        let log = self.start_service_log(args.detached, file.as_deref(), &config.service.log_file, loaded)?;
        let ended = run::run(args, loaded, &log, &self.options());
        log.finish(LOG_FINISH_MAX);
        ended
    }

    /// Runs a recorder. Its log goes to stdout, or in the background to a file.
    fn run_recorder(&self, args: &record::RecordArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
        let log = self.start_service_log(args.detached, None, &loaded.config.record.log_file, loaded)?;
        let ended = record::record(args, loaded, &log);
        log.finish(LOG_FINISH_MAX);
        ended
    }

    /// Starts the log of a process that runs for long: in a file that was given, or, in the background, in that of the
    /// configuration.
    fn start_service_log(
        &self,
        detached: bool,
        given: Option<&Path>,
        configured: &Path,
        loaded: &LoadedConfig,
    ) -> Result<Arc<LogQueue>> {
        if detached {
            // The terminal may be closed later. This fails if the process already leads a session, which is fine.
            let _ = rustix::process::setsid();
        }
        let config = &loaded.config;
        let in_background = detached.then(|| loaded.resolve(configured));
        let target = match given.map(Path::to_path_buf).or(in_background) {
            Some(file) => {
                let mut log = LogFile::open(&file, &config.service, config.display_zone()?)?;
                if detached {
                    log.take_stderr();
                }
                LogTarget::File(log)
            }
            None => LogTarget::Stdout,
        };
        let log = LogQueue::start(target)?;
        let colors = !log.is_file() && has_colors(Target::Stdout);
        self.log_to(BoxMakeWriter::new(log.clone()), colors, "info");
        Ok(log)
    }

    /// The options that were given, to start another process with.
    fn options(&self) -> Vec<String> {
        let log = matches!(self.log, LogFormat::Json).then_some("--log=json");
        let debug = self.debug.then_some("--debug");
        log.into_iter().chain(debug).map(str::to_owned).collect()
    }

    fn log_to(&self, writer: BoxMakeWriter, colors: bool, level: &str) {
        let level = if self.debug { "info,tickhound=debug" } else { level };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_timer(LogClock);
        // `tickhound run | head` closes the log; the run continues, and nothing can be reported.
        let log = log.log_internal_errors(false);
        match self.log {
            LogFormat::Text => log.with_writer(writer).with_ansi(colors).fmt_fields(PrintableFields).init(),
            LogFormat::Json => log.with_writer(PrintableJson(writer)).json().flatten_event(true).init(),
        }
    }
}
