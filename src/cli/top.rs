//! `tickhound top`: the partition at a glance, on a whole terminal.
//!
//! What holds: drawing never waits for Redis. Tasks look and follow; what they found last is drawn, with
//! its age. Whatever ends the command, the terminal is as it was before.

mod alerts;
mod draw;
mod look;
mod state;
mod tables;

use std::{
    env,
    io::{self, IsTerminal},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use ratatui::{
    DefaultTerminal,
    crossterm::{
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        execute,
        terminal::{EnterAlternateScreen, enable_raw_mode},
    },
};
use rustix::process::{Signal, getpid, kill_process};

use self::{
    look::Tasks,
    state::{After, State},
};
use tickhound_core::config::LoadedConfig;

/// How often it is drawn if nothing else asks for it.
const REDRAW: Duration = Duration::from_secs(1);

/// Longest wait for a key before something else is looked at: what an alert may take to show.
const KEY_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound top\n  ssh -t desk1 'cd /opt/tickhound && tickhound top'\n\n\
                  Reads Redis only, so it runs on any machine that reaches it, host or none. ? shows the keys.\n\
                  NO_COLOR switches colours off. Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub(super) struct TopArgs {}

pub(super) fn run(_: &TopArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    let dumb = env::var("TERM").is_ok_and(|terminal| terminal == "dumb");
    if !io::stdout().is_terminal() || dumb {
        bail!("`tickhound top` needs a terminal; without one use `tickhound status --watch`");
    }
    let runtime = super::runtime()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = runtime.block_on(async {
        let (told_to_stop, told) = (super::told_to_stop()?, stop.clone());
        tokio::spawn(async move {
            told_to_stop.await;
            told.store(true, Relaxed);
        });
        Tasks::start(&loaded.config)
    })?;
    let color = env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let mut state = State::new(&loaded.config, color);
    let ended = Screen::open().and_then(|mut screen| drive(&mut screen, &mut state, &mut tasks, &stop));
    // What a task waits for, a name server perhaps, is of no interest any more.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

fn drive(screen: &mut Screen, state: &mut State, tasks: &mut Tasks, stop: &AtomicBool) -> Result<()> {
    let mut drawn: Option<Instant> = None;
    // A terminal that was closed is none any more, and no key will ever come.
    while !stop.load(Relaxed) && io::stdout().is_terminal() {
        let news = tasks.deliver(state)?;
        if news || drawn.is_none_or(|drawn| drawn.elapsed() >= REDRAW) {
            screen.terminal.draw(|frame| draw::draw(frame, state)).context("failed to draw")?;
            drawn = Some(Instant::now());
        }
        if !event::poll(KEY_WAIT).context("failed to read the keyboard")? {
            continue;
        }
        match event::read().context("failed to read the keyboard")? {
            Event::Key(key) if key.kind == KeyEventKind::Press => match command(key) {
                Some(Command::Quit) => return Ok(()),
                Some(Command::Suspend) => screen.suspend()?,
                Some(Command::Redraw) => screen.terminal.clear()?,
                None if state.press(key.code) == After::Quit => return Ok(()),
                None => {}
            },
            _ => {}
        }
        drawn = None;
    }
    Ok(())
}

/// What works wherever one is.
enum Command {
    Quit,
    Suspend,
    Redraw,
}

fn command(key: KeyEvent) -> Option<Command> {
    match key.code {
        _ if !key.modifiers.contains(KeyModifiers::CONTROL) => None,
        KeyCode::Char('c') => Some(Command::Quit),
        KeyCode::Char('z') => Some(Command::Suspend),
        KeyCode::Char('l') => Some(Command::Redraw),
        _ => None,
    }
}

/// The whole terminal; given back when dropped, and by a hook before the message of a panic.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> Result<Self> {
        let opened = ratatui::try_init();
        if opened.is_err() {
            ratatui::restore();
        }
        Ok(Self { terminal: opened.context("failed to take over the terminal")? })
    }

    /// As Ctrl-Z does with any other command; goes on with `fg`.
    fn suspend(&mut self) -> Result<()> {
        ratatui::restore();
        self.terminal.show_cursor()?;
        kill_process(getpid(), Signal::TSTP).context("failed to stop for a while")?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        self.terminal.clear().context("failed to take over the terminal again")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        ratatui::restore();
    }
}
