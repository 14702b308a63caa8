//! Instructions and allocations of each part of the hot path, counted under valgrind and compared with
//! `instructions.toml`: `cargo bench --workspace --bench instructions`, or `cargo xtask instructions`, which gets valgrind first.
//!
//! Seconds are noise on a machine that others use too; counts are the same from run to run. So a change that makes a
//! tick dearer is seen here, and can be accepted: the file then says so, in the same commit.
//!
//! What holds: only what a part does is counted, in the thread that does it, after as many passes that were not.

#[expect(dead_code, reason = "some of it is for the clock")]
mod work;

use std::{
    collections::BTreeMap,
    env, fs,
    path::Path,
    process::{Command, ExitCode},
    sync::{
        PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, bail, ensure};

/// Of these the parts are made up; see `parts.rs` for more.
const BATCHES: [usize; 2] = [1, 256];

/// Passes that are counted, and passes before; one is left.
const COUNTED: usize = (work::PASSES - 1) / 2;

/// Counts repeat to about a tenth of a percent on one machine, those of `commit` to one and a half: hashes are seeded
/// anew in each process. Another machine may have a C library or a processor for which other code is chosen at run time,
/// and another folder gives the compiler other names to sort by.
const TOLERANCE: f64 = 0.03;

/// A part of few instructions moves by more than that when one call more or less is inlined.
const INLINED: f64 = 10.0;

/// Allocations of one item are whole numbers, or few in a batch.
const ALLOCATIONS_TOLERANCE: f64 = 0.002;

/// The one that callgrind looks for.
const MARK: &str = "*counted_from_here*";

/// What allocates, as the C library calls it.
const ALLOCATORS: [&str; 6] = ["malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign", "memalign"];

fn main() -> ExitCode {
    let done = match env::args().nth(1).as_deref() {
        Some("--counted") => run_parts().map(|()| true),
        Some("--accept") => compare(true),
        _ => compare(false),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Under valgrind; prints each part's name, its items, and the number of the file that says what they took.
fn run_parts() -> Result<()> {
    for mut part in work::parts(&BATCHES)? {
        (0..COUNTED).for_each(|_| (part.pass)());
        mark(&part);
        (0..COUNTED).for_each(|_| (part.pass)());
        mark(&part);
        if part.in_worker {
            // It hears of the mark with the next batch.
            (part.pass)();
        }
        println!("{} {} {}", part.name, part.items * COUNTED, FILES.load(Ordering::SeqCst));
    }
    Ok(())
}

fn mark(part: &work::Part) {
    if part.in_worker {
        *work::IN_WORKER.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted_from_here);
    } else {
        counted_from_here();
    }
}

/// What this thread did before is written to a file, and counting begins anew.
#[inline(never)]
fn counted_from_here() {
    FILES.fetch_add(1, Ordering::SeqCst);
}

static FILES: AtomicUsize = AtomicUsize::new(0);

/// Of one item.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Count {
    instructions: f64,
    allocations: f64,
}

type Counts = BTreeMap<String, Count>;

/// Whether nothing has become dearer.
fn compare(accept: bool) -> Result<bool> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.toml");
    let counts = count()?;
    let expected: Counts = match fs::read_to_string(&file) {
        Ok(text) => toml::from_str(&text).with_context(|| file.display().to_string())?,
        Err(_) => Counts::new(),
    };
    let (mut dearer, mut differs) = (Vec::new(), expected.len() != counts.len());
    println!("{:<24}{:>14}{:>14}{:>9}{:>14}{:>10}", "", "instructions", "expected", "", "allocations", "expected");
    for (name, count) in &counts {
        let Some(before) = expected.get(name) else {
            println!("{name:<24}{:>14.1}{:>14}{:>9}{:>14.3}", count.instructions, "new", "", count.allocations);
            differs = true;
            continue;
        };
        let change = count.instructions / before.instructions - 1.0;
        let allocations = count.allocations - before.allocations;
        let tolerance = TOLERANCE.max(INLINED / before.instructions);
        let is_dearer = change > tolerance || allocations > ALLOCATIONS_TOLERANCE;
        if is_dearer {
            dearer.push(name.as_str());
        }
        let is_other = is_dearer || change < -tolerance || allocations < -ALLOCATIONS_TOLERANCE;
        differs |= is_other;
        let (Count { instructions, allocations }, percent) = (*count, change * 100.0);
        let mark = if is_dearer { "  dearer" } else { ["", "  cheaper"][usize::from(is_other)] };
        println!(
            "{name:<24}{instructions:>14.1}{:>14.1}{percent:>+8.2}%{allocations:>14.3}{:>10.3}{mark}",
            before.instructions, before.allocations
        );
    }
    if accept {
        let text = format!(
            "# Of one tick, alert or symbol; written by `cargo xtask instructions --accept`.\n\n{}",
            toml::to_string(&counts)?
        );
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        println!("\nwritten to {}", file.display());
        return Ok(true);
    }
    let how = "`cargo xtask instructions --accept`, and commit benches/instructions.toml";
    if !dearer.is_empty() {
        eprintln!("\ndearer than before: {}; if that is the price of something, {how}", dearer.join(", "));
    } else if differs {
        println!("\nother than before, and not dearer: {how}, so that it stays that way");
    }
    Ok(dearer.is_empty())
}

/// Runs the parts under valgrind.
fn count() -> Result<Counts> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--quiet", "--separate-threads=yes", "--compress-strings=no"]);
    valgrind.arg(format!("--dump-before={MARK}"));
    valgrind.arg(format!("--callgrind-out-file={}", dir.join("out").display()));
    valgrind.arg(env::current_exe()?).arg("--counted");
    let output = valgrind.output().context("can't start valgrind: `sudo apt-get install valgrind`")?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "failed under valgrind: {}", complaints.trim_end());
    let mut counts = Counts::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [name, items, file] = words[..] else { bail!("not a part: {line}") };
        let (total, items) = (of_file(&dir, file)?, items.parse::<f64>()?);
        let of_each = |count: u64| count as f64 / items;
        let (instructions, allocations) = (of_each(total.instructions), of_each(total.allocations));
        let rounded = Count {
            instructions: (instructions * 10.0).round() / 10.0,
            allocations: (allocations * 1000.0).round() / 1000.0,
        };
        counts.insert(name.to_owned(), rounded);
    }
    Ok(counts)
}

#[derive(Default)]
struct Total {
    instructions: u64,
    allocations: u64,
}

/// What a thread did between two marks.
fn of_file(dir: &Path, number: &str) -> Result<Total> {
    let prefix = format!("out.{number}-");
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)) {
            return Total::read(&fs::read_to_string(&path)?).with_context(|| path.display().to_string());
        }
    }
    bail!("valgrind has written no file {prefix}*: does it know the function {MARK}?");
}

impl Total {
    /// From a file of callgrind's.
    fn read(text: &str) -> Result<Self> {
        let mut total = Self::default();
        let mut called = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("cfn=") {
                called = name;
            } else if let Some(calls) = line.strip_prefix("calls=").filter(|_| ALLOCATORS.contains(&called)) {
                let count = calls.split(' ').next().context("calls without a number")?;
                total.allocations += count.parse::<u64>()?;
            } else if let Some(count) = line.strip_prefix("totals: ") {
                total.instructions = count.trim().parse()?;
            }
        }
        Ok(total)
    }
}
