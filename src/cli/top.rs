//! `tickhound top`: a full-screen overview of the partition.
//!
//! What holds: drawing never waits for Redis. Tasks observe the partition and follow its alerts; the screen shows their
//! latest results, with their age. However the command ends, the terminal is restored.

mod alerts;
mod draw;
mod overview;
mod section;
mod state;
mod tables;
mod tasks;

use std::{
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
    state::{After, State},
    tasks::Tasks,
};
use super::process::{self, stop_requested};
use crate::output::{self, Target, has_colors};
use tickhound_core::config::LoadedConfig;

/// How often the screen is drawn if nothing changes.
const REDRAW: Duration = Duration::from_secs(1);

/// How often a closed terminal is looked for, and how long the screen may take to end after that.
const TERMINAL_CHECK: Duration = Duration::from_millis(500);

/// The longest wait for a key. It limits how long an alert takes to appear.
const KEY_WAIT: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tickhound top\n  ssh -t desk1 'cd /opt/tickhound && tickhound top'\n\n\
                  It only reads Redis, so it runs on any machine that can connect to it. Press ? for the keys.\n\
                  NO_COLOR and CLICOLOR=0 disable colours. Exit codes: 0 done, 1 failed, 2 wrong usage.")]
pub(super) struct TopArgs {}

pub(super) fn run(_: &TopArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    if !output::can_draw() {
        bail!("`tickhound top` needs a terminal; without one use `tickhound status --watch`");
    }
    let runtime = process::runtime()?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = runtime.block_on(async {
        let (stop_requested, stop) = (stop_requested()?, stop.clone());
        tokio::spawn(async move {
            // Both branches may be dropped at any time: one waits for a signal, one for time to pass.
            tokio::select! {
                () = stop_requested => {}
                () = terminal_closed() => {}
            }
            stop.store(true, Relaxed);
            tokio::time::sleep(TERMINAL_CHECK).await;
            // Crossterm reads a terminal that was closed meanwhile again and again, without an end.
            ratatui::restore();
            std::process::exit(0);
        });
        Tasks::start(&loaded.config)
    })?;
    let mut state = State::new(&loaded.config, has_colors(Target::Stdout));
    let ended = Screen::open().and_then(|mut screen| drive(&mut screen, &mut state, &mut tasks, &stop));
    // Does not wait for the tasks, which may be waiting for a name server.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// Waits until the terminal is closed.
async fn terminal_closed() {
    while io::stdout().is_terminal() {
        tokio::time::sleep(TERMINAL_CHECK).await;
    }
}

fn drive(screen: &mut Screen, state: &mut State, tasks: &mut Tasks, stop: &AtomicBool) -> Result<()> {
    let mut drawn: Option<Instant> = None;
    // Once the terminal is closed, stdout is no longer a terminal, and no key will arrive.
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
            Event::Key(key) if key.kind == KeyEventKind::Press => match shortcut(key) {
                Some(Shortcut::Quit) => return Ok(()),
                Some(Shortcut::Suspend) => screen.suspend()?,
                Some(Shortcut::Redraw) => screen.terminal.clear()?,
                None if state.press(key.code) == After::Quit => return Ok(()),
                None => {}
            },
            _ => {}
        }
        drawn = None;
    }
    Ok(())
}

/// A key that works in every mode.
enum Shortcut {
    Quit,
    Suspend,
    Redraw,
}

fn shortcut(key: KeyEvent) -> Option<Shortcut> {
    match key.code {
        _ if !key.modifiers.contains(KeyModifiers::CONTROL) => None,
        KeyCode::Char('c') => Some(Shortcut::Quit),
        KeyCode::Char('z') => Some(Shortcut::Suspend),
        KeyCode::Char('l') => Some(Shortcut::Redraw),
        _ => None,
    }
}

/// The terminal in full-screen mode; restored when this is dropped, and by a hook before the message of a panic.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn open() -> Result<Self> {
        let opened = ratatui::try_init();
        if opened.is_err() {
            ratatui::restore();
        }
        Ok(Self { terminal: opened.context("failed to set up the terminal")? })
    }

    /// Suspends the process, as Ctrl-Z does with other commands; `fg` resumes it.
    fn suspend(&mut self) -> Result<()> {
        ratatui::restore();
        self.terminal.show_cursor()?;
        kill_process(getpid(), Signal::TSTP).context("failed to suspend")?;
        enable_raw_mode()?;
        execute!(io::stdout(), EnterAlternateScreen)?;
        self.terminal.clear().context("failed to set up the terminal again")
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.terminal.show_cursor();
        ratatui::restore();
    }
}
