//! `tickhound dead`: looks at dead letters, gives them back to the stream, or drops them.

mod show;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use self::show::{ListArgs, ShowArgs};
use tickhound_core::{config::LoadedConfig, event::EntryId};
use tickhound_redis::{DeadLetters, Letter, Moved};

/// Letters in one round trip. A letter may be large, and all of them are in memory.
const PAGE: usize = 100;

/// So many reasons why letters stay are told in full.
const REFUSALS_TOLD: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tickhound dead list --reason 'no symbol'\n\n\
                  Exit codes: 0 done, 1 failed or no such letter, 2 wrong usage.")]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// What was set aside, newest first, and why.
    List(ListArgs),
    /// Everything about some letters.
    Show(ShowArgs),
    /// Add the entries of letters to the stream again, at its end, and remove the letters.
    Requeue(RequeueArgs),
    /// Remove letters for ever.
    Drop(DropArgs),
}

const REQUEUE_HELP: &str = "\
Examples:
  tickhound dead requeue 1762140000000-0
  tickhound dead requeue --all --reason 'no symbol'

An entry comes back byte for byte, under a new id: every detector sees it as a new tick and may
alert on it. Its own time is older than what came since, so the tick is flagged as out of order.
Each letter moves in one step; run it again if it was cut off, nothing comes back twice.

Exit codes: 0 done, 1 failed, or a letter was not found or could not be moved, 2 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = REQUEUE_HELP)]
struct RequeueArgs {
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tickhound dead drop 1762140000000-0\n  tickhound dead drop --all --detector jump --yes\n\n\
                  Exit codes: 0 done, 1 failed or a letter was not found, 2 wrong usage."
)]
struct DropArgs {
    #[command(flatten)]
    selection: Selection,
    /// With --all: yes, remove them for ever.
    #[arg(long)]
    yes: bool,
}

/// Which letters to move.
#[derive(Debug, clap::Args)]
struct Selection {
    /// Ids of letters, as `tickhound dead list` shows them.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<EntryId>,
    /// All letters that are there now, oldest first; fewer with --detector or --reason.
    #[arg(long)]
    all: bool,
    /// Only those on which this detector failed.
    #[arg(long, value_name = "NAME", requires = "all", conflicts_with = "ids")]
    detector: Option<String>,
    /// Only those whose reason contains this text; upper and lower case are the same.
    #[arg(long, value_name = "TEXT", requires = "all", conflicts_with = "ids")]
    reason: Option<String>,
    /// Print one JSON object for each letter.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DeadArgs, loaded: &LoadedConfig) -> Result<ExitCode> {
    if let What::Drop(DropArgs { selection: Selection { all: true, .. }, yes: false }) = &args.what {
        eprintln!("error: --all removes letters for ever: look with `tickhound dead list`, then add --yes");
        return Ok(ExitCode::from(2));
    }
    let done = super::runtime()?.block_on(async {
        let mut dead = DeadLetters::open(&loaded.config.stream).await?;
        match &args.what {
            What::List(args) => show::list(args, &mut dead, loaded).await,
            What::Show(args) => show::show(args, &mut dead, loaded).await,
            What::Requeue(args) => take_out(&args.selection, &mut dead, Aim::Requeue).await,
            What::Drop(args) => take_out(&args.selection, &mut dead, Aim::Drop).await,
        }
    });
    match done {
        // `tickhound dead list | head` has seen enough.
        Err(error) if super::text::is_closed_pipe(&error) => Ok(ExitCode::SUCCESS),
        done => done,
    }
}

/// Whether `letter` is one that was asked for.
fn matches(letter: &Letter, detector: Option<&str>, reason: Option<&str>) -> bool {
    let contains = |text: &str| letter.field("reason").unwrap_or("").to_lowercase().contains(&text.to_lowercase());
    detector.is_none_or(|name| letter.field("detector") == Some(name)) && reason.is_none_or(contains)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    Requeue,
    Drop,
}

#[derive(Default)]
struct Tally {
    moved: u64,
    gone: u64,
    refused: usize,
}

async fn take_out(selection: &Selection, dead: &mut DeadLetters, aim: Aim) -> Result<ExitCode> {
    let mut tally = Tally::default();
    let ended = take_out_all(selection, dead, aim, &mut tally).await;
    let Tally { moved, gone, refused } = tally;
    if ended.is_ok() && selection.all && moved + gone == 0 && refused == 0 && !selection.json {
        writeln!(io::stdout(), "no dead letters in {} to do that with", dead.key())?;
        return Ok(ExitCode::SUCCESS);
    }
    let (done, verb) = match aim {
        Aim::Requeue => (format!("requeued {moved} dead letters to {}", dead.stream()), "requeued"),
        Aim::Drop => (format!("dropped {moved} dead letters"), "dropped"),
    };
    ended.with_context(|| format!("stopped after {done}; run it again: no letter is {verb} twice"))?;
    if !selection.json {
        let left = dead.count().await?;
        writeln!(io::stdout(), "{done}; {left} are left in {}", dead.key())?;
    }
    if refused > 0 {
        eprintln!("error: {refused} letters could not be {verb}; they are still there");
    }
    // Of all that were there, some may have been taken by somebody else meanwhile.
    let failed = refused > 0 || (gone > 0 && !selection.all);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn take_out_all(selection: &Selection, dead: &mut DeadLetters, aim: Aim, tally: &mut Tally) -> Result<()> {
    for ids in selection.ids.chunks(PAGE) {
        let mut letters = Vec::new();
        for id in ids {
            match dead.get(*id).await? {
                Some(letter) => letters.push(letter),
                None => tell(*id, &Moved::Gone, selection, tally)?,
            }
        }
        take_out_page(&letters, selection, dead, aim, tally).await?;
    }
    if !selection.all {
        return Ok(());
    }
    // Up to what is there now: an entry that is set aside again is not requeued for ever.
    let Some(newest) = dead.newest(None, 1).await?.pop() else { return Ok(()) };
    let bar = progress_bar(dead.count().await?);
    let mut after = EntryId::ZERO;
    loop {
        let mut letters = dead.oldest(after, newest.id, PAGE).await?;
        let Some(last) = letters.last() else { break };
        after = last.id;
        bar.inc(letters.len() as u64);
        letters.retain(|letter| matches(letter, selection.detector.as_deref(), selection.reason.as_deref()));
        take_out_page(&letters, selection, dead, aim, tally).await?;
    }
    bar.finish_and_clear();
    Ok(())
}

async fn take_out_page(
    letters: &[Letter],
    selection: &Selection,
    dead: &mut DeadLetters,
    aim: Aim,
    tally: &mut Tally,
) -> Result<()> {
    let moved = match aim {
        Aim::Requeue => dead.requeue(letters).await?,
        Aim::Drop => dead.remove(&letters.iter().map(|letter| letter.id).collect::<Vec<_>>()).await?,
    };
    letters.iter().zip(&moved).try_for_each(|(letter, moved)| tell(letter.id, moved, selection, tally))
}

fn tell(id: EntryId, moved: &Moved, selection: &Selection, tally: &mut Tally) -> Result<()> {
    match moved {
        Moved::Requeued(_) | Moved::Dropped => tally.moved += 1,
        Moved::Gone => tally.gone += 1,
        Moved::Refused(_) => tally.refused += 1,
    }
    if selection.json {
        let id = id.to_string();
        let line = match moved {
            Moved::Requeued(entry) => json!({ "id": id, "requeued_as": entry.to_string() }),
            Moved::Dropped => json!({ "id": id, "dropped": true }),
            Moved::Gone => json!({ "id": id, "error": "there is no such letter" }),
            Moved::Refused(reason) => json!({ "id": id, "error": reason }),
        };
        writeln!(io::stdout(), "{line}")?;
    }
    match moved {
        Moved::Requeued(entry) if !selection.all && !selection.json => writeln!(io::stdout(), "{id} is now {entry}")?,
        Moved::Gone if !selection.all => eprintln!("error: {id}: there is no such letter; it may be gone already"),
        Moved::Refused(reason) if tally.refused <= REFUSALS_TOLD => eprintln!("error: {id} stays: {reason}"),
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
