//! What each part of the hot path takes, by the clock: `cargo bench --workspace --bench parts`.
//!
//! Clocks of shared machines are noisy; whether a change made something dearer is what `instructions.rs` tells.

#[expect(dead_code, reason = "some of it is for counting")]
mod work;

use anyhow::{Context, Result};
use criterion::{Criterion, Throughput};
use redis::Value;
use redis_protocol::resp2::{decode::decode_range, types::RangeFrame};
use tickhound_core::event::Entries;

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
    readers(&mut criterion)?;
    criterion.final_summary();
    Ok(())
}

type Reader = fn(&[u8]) -> Option<Entries>;

/// The answer to a read, to entries: by ours, by the client crate's parser, and by the best known crate for the protocol.
fn readers(criterion: &mut Criterion) -> Result<()> {
    let answer = work::answer()?;
    let expected = work::read(&answer);
    let ways: [(&str, Reader); 3] =
        [("ours", |answer| Some(work::read(answer))), ("redis", by_redis), ("redis-protocol", by_redis_protocol)];
    let mut group = criterion.benchmark_group("readers");
    group.throughput(Throughput::Elements(expected.len() as u64));
    for (name, read) in ways {
        let entries = read(&answer).context(name)?;
        assert!(entries.iter().map(|entry| entry.id).eq(expected.iter().map(|entry| entry.id)));
        assert!(entries.iter().flat_map(|entry| entry.fields()).eq(expected.iter().flat_map(|entry| entry.fields())));
        group.bench_function(name, |bencher| bencher.iter(|| read(&answer)));
    }
    group.finish();
    Ok(())
}

/// A tree of values, of which each text is a copy.
fn by_redis(answer: &[u8]) -> Option<Entries> {
    let Value::Array(list) = redis::parse_redis_value(answer).ok()? else { return None };
    let mut entries = Entries::default();
    for entry in &list {
        let Value::Array(entry) = entry else { return None };
        let [Value::BulkString(id), Value::Array(fields)] = &entry[..] else { return None };
        entries.push_entry(std::str::from_utf8(id).ok()?.parse().ok()?);
        for pair in fields.chunks_exact(2) {
            let [Value::BulkString(name), Value::BulkString(value)] = pair else { return None };
            entries.push_field(name, value);
        }
    }
    Some(entries)
}

/// A tree of places in the bytes.
fn by_redis_protocol(answer: &[u8]) -> Option<Entries> {
    let (RangeFrame::Array(list), _) = decode_range(answer).ok()?? else { return None };
    let mut entries = Entries::default();
    let text = |frame: &RangeFrame| match frame {
        RangeFrame::BulkString((from, to)) => Some(&answer[*from..*to]),
        _ => None,
    };
    for entry in &list {
        let RangeFrame::Array(entry) = entry else { return None };
        let [id, RangeFrame::Array(fields)] = &entry[..] else { return None };
        entries.push_entry(std::str::from_utf8(text(id)?).ok()?.parse().ok()?);
        for pair in fields.chunks_exact(2) {
            entries.push_field(text(&pair[0])?, text(&pair[1])?);
        }
    }
    Some(entries)
}
