//! `cargo xtask fuzz`: gives random input to the code that reads untrusted bytes, for as long as is wanted.
//!
//! The pinned compiler instruments the targets, so neither cargo-fuzz nor a nightly toolchain is needed. Nor is a
//! sanitizer, since there is no unsafe code: overflows and failed assertions end a run all the same.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{cargo, root, run, target_dir};

/// What makes the compiler count which code an input reaches, and check arithmetic and assertions.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

/// The longest input, bytes: longer ones find nothing more, and are slower.
const INPUT_MAX: usize = 1 << 14;

/// How reluctantly inputs grow. By libFuzzer's own 100 they are still too short for a whole plugin after minutes.
const GROWTH: u32 = 10;

/// The longest time for one input, seconds.
const TIMEOUT_S: u32 = 20;

/// The most memory that a target may use, MiB.
const MEMORY_MAX_MIB: u32 = 2048;

/// The most inputs of a target that are kept in the repository, and their bytes.
const SEEDS_MAX: usize = 80;
const SEEDS_MAX_BYTES: u64 = 20_000;

/// How one run of the targets is meant.
struct Plan {
    minutes: f64,
    /// The only target; `None` runs all.
    target: Option<String>,
    corpus: Corpus,
}

/// What becomes of the inputs that reach new code.
enum Corpus {
    /// They stay in the target folder, for the next run.
    Scratch,
    /// Some of them also become seeds in the repository.
    Seeds,
}

/// What a target did.
struct Outcome {
    inputs: u64,
    seconds: f64,
    /// Inputs that broke a property, or took too long or too much memory.
    finds: Vec<PathBuf>,
}

/// Runs every target; each find is named at the end.
///
/// # Errors
/// When a target finds something, can't be built, or the arguments are wrong.
pub(crate) fn run_all(args: &[&str]) -> Result<()> {
    let plan = plan(args)?;
    let targets = targets()?;
    let chosen: Vec<&String> =
        targets.iter().filter(|name| plan.target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    ensure!(!chosen.is_empty(), "there is no such target; there are: {}", targets.join(", "));
    let programs = build()?;
    let mut finds = Vec::new();
    for name in chosen {
        let outcome = fuzz(&programs.join(name), name, &plan)?;
        let Outcome { inputs, seconds, finds: found } = outcome;
        println!("{name:<12} {inputs:>12} inputs in {seconds:>5.0} s, {} finds", found.len());
        finds.extend(found);
    }
    let list: Vec<String> = finds.iter().map(|find| find.display().to_string()).collect();
    ensure!(
        finds.is_empty(),
        "give each find to its target (target NAME FILE) and make it a test:\n{}",
        list.join("\n")
    );
    Ok(())
}

fn plan(args: &[&str]) -> Result<Plan> {
    let mut plan = Plan { minutes: 1.0, target: None, corpus: Corpus::Scratch };
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let mut value = || args.next().with_context(|| format!("{option} needs a value"));
        match *option {
            "--minutes" => plan.minutes = value()?.parse().context("--minutes: expected a number")?,
            "--target" => plan.target = Some((*value()?).to_owned()),
            "--keep" => plan.corpus = Corpus::Seeds,
            other => bail!("unknown option {other}; expected --minutes, --target or --keep"),
        }
    }
    ensure!(plan.minutes > 0.0 && plan.minutes.is_finite(), "--minutes: expected more than 0");
    Ok(plan)
}

/// The names of the targets.
fn targets() -> Result<Vec<String>> {
    let files = fs::read_dir(root().join("fuzz/fuzz_targets")).context("can't list the targets")?;
    let names = files.filter_map(|file| Some(file.ok()?.path().file_stem()?.to_str()?.to_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    Ok(names)
}

/// Builds all targets, and returns the folder of the programs.
fn build() -> Result<PathBuf> {
    // Naming the platform keeps the flags from build scripts and macros.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let folder = target_dir().join("fuzz");
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "--bins", "--manifest-path", "fuzz/Cargo.toml"]);
    command.args(["--target", &platform, "--target-dir"]).arg(&folder);
    command.env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    run(&mut command)?;
    Ok(folder.join(platform).join("release"))
}

fn fuzz(program: &Path, name: &str, plan: &Plan) -> Result<Outcome> {
    let (scratch, seeds) = (target_dir().join("fuzz/corpus").join(name), root().join("fuzz/corpus").join(name));
    let finds = root().join("fuzz/artifacts").join(name);
    for folder in [&scratch, &seeds, &finds] {
        fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
    }
    let before = files(&finds)?;
    let started = Instant::now();
    let mut command = Command::new(program);
    command.arg(format!("-max_total_time={}", (plan.minutes * 60.0).ceil()));
    command.arg(format!("-artifact_prefix={}/", finds.display()));
    command.args([format!("-max_len={INPUT_MAX}"), format!("-len_control={GROWTH}"), format!("-timeout={TIMEOUT_S}")]);
    command.args([format!("-rss_limit_mb={MEMORY_MAX_MIB}"), "-print_final_stats=1".to_owned()]);
    let output = command.arg(&scratch).arg(&seeds).output().with_context(|| format!("can't start {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let mut found = files(&finds)?;
    found.retain(|find| !before.contains(find) && !find.to_string_lossy().contains("slow-unit-"));
    let inputs =
        said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")?.trim().parse().ok());
    let broke = !output.status.success();
    if broke {
        eprintln!("{said}");
    }
    ensure!(!broke || !found.is_empty(), "{name} ended with {} and left no input behind", output.status);
    if matches!(plan.corpus, Corpus::Seeds) && !broke {
        keep(program, &scratch, &seeds)?;
    }
    Ok(Outcome { inputs: inputs.unwrap_or(0), seconds: started.elapsed().as_secs_f64(), finds: found })
}

/// Adds inputs to the seeds that reach what these do not: short and long ones, within [`SEEDS_MAX`] and [`SEEDS_MAX_BYTES`].
fn keep(program: &Path, scratch: &Path, seeds: &Path) -> Result<()> {
    let merged = scratch.with_extension("merged");
    if merged.exists() {
        fs::remove_dir_all(&merged)?;
    }
    fs::create_dir_all(&merged)?;
    let name = |file: &Path| file.file_name().map(ToOwned::to_owned).context("a file has a name");
    let kept = files(seeds)?;
    for seed in &kept {
        fs::copy(seed, merged.join(name(seed)?))?;
    }
    let output = Command::new(program).arg("-merge=1").arg(&merged).arg(scratch).output()?;
    ensure!(output.status.success(), "can't merge:\n{}", String::from_utf8_lossy(&output.stderr));
    let size = |file: &PathBuf| fs::metadata(file).map_or(u64::MAX, |file| file.len());
    let mut more = files(&merged)?;
    more.retain(|file| file.file_name().is_some_and(|name| !seeds.join(name).exists()));
    more.sort_by_key(size);
    let room = SEEDS_MAX.saturating_sub(kept.len());
    let mut bytes = kept.iter().map(size).sum::<u64>();
    for input in more.iter().step_by(more.len().div_ceil(room.max(1)).max(1)).take(room) {
        bytes += size(input);
        if bytes > SEEDS_MAX_BYTES {
            break;
        }
        fs::copy(input, seeds.join(name(input)?))?;
    }
    Ok(fs::remove_dir_all(&merged)?)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|file| Ok(file?.path())).collect()
}
