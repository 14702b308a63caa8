//! The bare drain: reads a stream through a group and acknowledges it, and does nothing else. What Redis allows at most.
//!
//! It runs as a process of its own, as what it is compared with does.

use anyhow::{Result, bail};

use crate::wire::{Token, Wire};

/// What to drain, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BareArgs {
    #[arg(long)]
    port: u16,
    #[arg(long)]
    key: String,
    #[arg(long)]
    group: String,
    /// Most entries in one read.
    #[arg(long)]
    count: usize,
    /// Each step in a transaction that fails if an epoch has changed, as Tickhound's do.
    #[arg(long)]
    fence: bool,
    /// Ask for one batch more before the last one is looked at, so that the server never waits.
    #[arg(long, conflicts_with = "fence")]
    ahead: bool,
}

/// Until there is nothing more.
pub(crate) fn drain(args: &BareArgs) -> Result<()> {
    let mut wire = Wire::connect(args.port)?;
    let ahead = if args.ahead { 2 } else { 1 };
    for _ in 0..ahead {
        read(&mut wire, args);
    }
    wire.send()?;
    for batch in 0.. {
        let in_step = args.fence && batch > 0;
        if in_step {
            // MULTI, two QUEUED, and of what EXEC brings the acknowledgement.
            wire.skip_answers(3)?;
            wire.array_of(2)?;
            wire.skip_answers(1)?;
        } else if batch >= ahead {
            wire.skip_answers(1)?;
        }
        let had_any = acknowledge(&mut wire, args)?;
        if in_step {
            // WATCH and GET.
            wire.skip_answers(2)?;
        }
        if !had_any {
            break;
        }
        read(&mut wire, args);
        if args.fence {
            wire.output.command(&[b"EXEC"]);
            let epoch = format!("{}:epoch", args.key);
            wire.output.command(&[b"WATCH", epoch.as_bytes()]);
            wire.output.command(&[b"GET", epoch.as_bytes()]);
        }
        wire.send()?;
    }
    Ok(())
}

fn read(wire: &mut Wire, args: &BareArgs) {
    let BareArgs { key, group, count, .. } = args;
    let count = count.to_string();
    let words = ["XREADGROUP", "GROUP", group, "bare", "COUNT", &count, "STREAMS", key, ">"];
    wire.output.begin(words.len());
    words.iter().for_each(|word| wire.output.word(word.as_bytes()));
}

/// Passes over the entries of one read and begins their acknowledgement; false if there were none.
fn acknowledge(wire: &mut Wire, args: &BareArgs) -> Result<bool> {
    if wire.token()? == Token::Nil {
        return Ok(false);
    }
    wire.array_of(2)?;
    wire.skip_answers(1)?;
    let Token::Array(entries) = wire.token()? else { bail!("the entries of a read are no array") };
    if args.fence {
        wire.output.command(&[b"MULTI"]);
    }
    wire.output.begin(3 + entries);
    for word in ["XACK", &args.key, &args.group] {
        wire.output.word(word.as_bytes());
    }
    for _ in 0..entries {
        wire.array_of(2)?;
        let Token::Bulk(length) = wire.token()? else { bail!("an entry without an id") };
        wire.take_as_word(length)?;
        wire.skip_answers(1)?;
    }
    Ok(true)
}
