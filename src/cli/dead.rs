//! `tickhound dead`: shows dead letters, requeues them to the stream, or drops them.

mod letters;
mod returned;
mod show;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use self::{
    letters::{PAGE, matches},
    returned::{Aftermath, Requeued},
    show::{ListArgs, ShowArgs},
};
use crate::output;
use tickhound_core::{config::LoadedConfig, event::EntryId};
use tickhound_redis::{DeadLetters, Letter, LetterOutcome};

/// How long to wait for the host by default, seconds: some hundred thousand entries, or a pause of the host.
const WAIT_S: u64 = 5;

/// How many reasons for rejected letters are printed.
const REJECTIONS_SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound dead list --reason 'no symbol'\n\n\
                  Exit codes: 0 done, 1 failed or a letter does not exist, 2 wrong usage.")]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, clap::Subcommand)]
enum DeadCommand {
    /// List dead letters and their reasons, newest first.
    List(ListArgs),
    /// Show everything about some letters.
    Show(ShowArgs),
    /// Append the entries of letters to the stream again, and remove the letters.
    Requeue(RequeueArgs),
    /// Delete letters permanently.
    Drop(DropArgs),
}

const REQUEUE_HELP: &str = "\
Examples:
  tickhound dead requeue 1762140000000-0
  tickhound dead requeue --all --reason 'no symbol'

An entry is requeued byte for byte, under a new id: every detector sees it as a new tick and may
alert on it. Its time is older than that of later ticks, so it is flagged as out of order.
Each letter moves in one step: if the command was interrupted, run it again; no entry is requeued
twice. If a host is running, the command then waits a little for it, and says which entries came
straight back as dead letters, and why; with --json each in an object with `came_back_as`.

Exit codes: 0 done, 1 failed, or a letter does not exist, could not be moved or came straight back,
2 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = REQUEUE_HELP)]
struct RequeueArgs {
    #[command(flatten)]
    selection: LetterSelection,
    /// How long to wait for the host to process the entries, in seconds; 0 = not at all.
    #[arg(long, value_name = "SECONDS", default_value_t = WAIT_S)]
    wait: u64,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound dead drop 1762140000000-0\n  tickhound dead drop --all --detector jump --yes\n\n\
                  Exit codes: 0 done, 1 failed or a letter does not exist, 2 wrong usage."
)]
struct DropArgs {
    #[command(flatten)]
    selection: LetterSelection,
    /// Confirm that --all deletes letters permanently.
    #[arg(long)]
    yes: bool,
}

/// Which letters to move.
#[derive(Debug, clap::Args)]
struct LetterSelection {
    /// Ids of letters, as shown by `tickhound dead list`.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<EntryId>,
    /// All letters that exist now, oldest first; --detector and --reason select some.
    #[arg(long)]
    all: bool,
    /// Only letters on which this detector failed.
    #[arg(long, value_name = "NAME", requires = "all", conflicts_with = "ids")]
    detector: Option<String>,
    /// Only letters whose reason contains this text, ignoring case.
    #[arg(long, value_name = "TEXT", requires = "all", conflicts_with = "ids")]
    reason: Option<String>,
    /// Print one JSON object per letter.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DeadArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    if let DeadCommand::Drop(DropArgs { selection: LetterSelection { all: true, .. }, yes: false }) = &args.command {
        errln!("error: --all deletes letters permanently; check them with `tickhound dead list`, then add --yes");
        return Ok(ExitCode::from(2));
    }
    super::process::runtime()?.block_on(async {
        let mut dead = DeadLetters::open(&loaded.config.stream).await?;
        match &args.command {
            DeadCommand::List(args) => show::list(args, &mut dead, loaded).await,
            DeadCommand::Show(args) => show::show(args, &mut dead, loaded).await,
            DeadCommand::Requeue(args) => requeue(args, &mut dead, loaded).await,
            DeadCommand::Drop(args) => remove(&args.selection, &mut dead, Removal::Drop, &mut Tally::default()).await,
        }
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Removal {
    Requeue,
    Drop,
}

#[derive(Default)]
struct Tally {
    moved: u64,
    gone: u64,
    rejected: usize,
    requeued: Requeued,
}

async fn requeue(args: &RequeueArgs, dead: &mut DeadLetters, loaded: &LoadedConfig) -> Result<ExitCode> {
    let mut tally = Tally { requeued: Requeued::begin(dead).await?, ..Tally::default() };
    let code = remove(&args.selection, dead, Removal::Requeue, &mut tally).await?;
    let wait = Duration::from_secs(args.wait);
    match tally.requeued.report(dead, &loaded.config, wait, args.selection.json).await {
        Ok(Aftermath::Quiet) => Ok(code),
        Ok(Aftermath::Returned) => Ok(ExitCode::FAILURE),
        // What was asked for is done.
        Err(error) => {
            errln!("it is not known whether they came back: {error:#}");
            Ok(code)
        }
    }
}

async fn remove(
    selection: &LetterSelection,
    dead: &mut DeadLetters,
    removal: Removal,
    tally: &mut Tally,
) -> Result<ExitCode> {
    let ended = remove_selected(selection, dead, removal, tally).await;
    let Tally { moved, gone, rejected, .. } = *tally;
    if ended.is_ok() && selection.all && moved + gone == 0 && rejected == 0 && !selection.json {
        let is_filtered = selection.detector.is_some() || selection.reason.is_some();
        let none = if is_filtered { "no matching dead letters" } else { "no dead letters" };
        outln!("{none} in {}", dead.key());
        return Ok(ExitCode::SUCCESS);
    }
    let (done, verb) = match removal {
        Removal::Requeue => (format!("requeued {moved} dead letters to {}", dead.stream()), "requeued"),
        Removal::Drop => (format!("dropped {moved} dead letters"), "dropped"),
    };
    ended.with_context(|| format!("stopped after {done}; run the command again: no letter is {verb} twice"))?;
    if !selection.json {
        let left = dead.count().await?;
        outln!("{done}; {left} are left in {}", dead.key());
    }
    if rejected > 0 {
        errln!("error: {rejected} letters could not be {verb}; they were not changed");
    }
    // With --all, another process may have removed some letters meanwhile.
    let failed = rejected > 0 || (gone > 0 && !selection.all);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn remove_selected(
    selection: &LetterSelection,
    dead: &mut DeadLetters,
    removal: Removal,
    tally: &mut Tally,
) -> Result<()> {
    for ids in selection.ids.chunks(PAGE) {
        let mut letters = Vec::new();
        for id in ids {
            match dead.get(*id).await? {
                Some(letter) => letters.push(letter),
                None => record(*id, &LetterOutcome::Gone, selection, tally)?,
            }
        }
        remove_page(&letters, selection, dead, removal, tally).await?;
    }
    if !selection.all {
        return Ok(());
    }
    // Only up to the current end: an entry that fails again would be requeued for ever.
    let Some(newest) = dead.newest(None, 1).await?.pop() else { return Ok(()) };
    let bar = progress_bar(dead.count().await?);
    let mut after = EntryId::ZERO;
    loop {
        let mut letters = dead.oldest(after, newest.id, PAGE).await?;
        let Some(last) = letters.last() else { break };
        after = last.id;
        bar.inc(letters.len() as u64);
        letters.retain(|letter| matches(letter, selection.detector.as_deref(), selection.reason.as_deref()));
        remove_page(&letters, selection, dead, removal, tally).await?;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn remove_page(
    letters: &[Letter],
    selection: &LetterSelection,
    dead: &mut DeadLetters,
    removal: Removal,
    tally: &mut Tally,
) -> Result<()> {
    let moved = match removal {
        Removal::Requeue => dead.requeue(letters).await?,
        Removal::Drop => dead.remove(&letters.iter().map(|letter| letter.id).collect::<Vec<_>>()).await?,
    };
    letters.iter().zip(&moved).try_for_each(|(letter, moved)| record(letter.id, moved, selection, tally))
}

/// Counts the result for one letter, and prints it.
fn record(id: EntryId, moved: &LetterOutcome, selection: &LetterSelection, tally: &mut Tally) -> Result<()> {
    if let LetterOutcome::Requeued(entry) = moved {
        tally.requeued.add(id, *entry);
    }
    match moved {
        LetterOutcome::Requeued(_) | LetterOutcome::Dropped => tally.moved += 1,
        LetterOutcome::Gone => tally.gone += 1,
        LetterOutcome::Rejected(_) => tally.rejected += 1,
    }
    if selection.json {
        let id = id.to_string();
        let line = match moved {
            LetterOutcome::Requeued(entry) => json!({ "id": id, "requeued_as": entry.to_string() }),
            LetterOutcome::Dropped => json!({ "id": id, "dropped": true }),
            LetterOutcome::Gone => json!({ "id": id, "error": "there is no such letter" }),
            LetterOutcome::Rejected(reason) => json!({ "id": id, "error": reason }),
        };
        output::print_json(&line);
    }
    match moved {
        LetterOutcome::Requeued(entry) if !selection.all && !selection.json => {
            outln!("{id} is now {entry}");
        }
        LetterOutcome::Gone if !selection.all => {
            errln!("error: {id}: there is no such letter; it may have been removed already");
        }
        LetterOutcome::Rejected(reason) if tally.rejected <= REJECTIONS_SHOWN => {
            errln!("error: {id} was not changed: {reason}");
        }
        _ => {}
    }
    Ok(())
}

fn progress_bar(letters: u64) -> ProgressBar {
    if letters <= PAGE as u64 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos} of {len} letters  {eta} left");
    ProgressBar::new(letters).with_style(style.expect("the template is well-formed"))
}
