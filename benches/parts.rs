//! What each part of the hot path takes, by the clock: `cargo bench --bench parts`.
//!
//! Clocks of shared machines are noisy; whether a change made something dearer is what `instructions.rs` tells.

#[expect(dead_code, reason = "some of it is for counting")]
mod work;

use anyhow::Result;
use criterion::{Criterion, Throughput};

/// Rows in one call: alone, as in a quiet market, busy, and as in a replay.
const BATCHES: [usize; 4] = [1, 16, 256, 2000];

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("parts");
    for mut part in work::parts(&BATCHES)? {
        group.throughput(Throughput::Elements(part.items as u64));
        group.bench_function(&part.name, |bencher| bencher.iter(&mut part.pass));
    }
    group.finish();
    criterion.final_summary();
    Ok(())
}
