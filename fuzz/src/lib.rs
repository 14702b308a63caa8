//! Properties that hold for any bytes. Each public function is a target of `cargo xtask fuzz`.
//!
//! The code that reads untrusted bytes is pure, so this crate depends neither on wasmtime nor on a server.

mod loader;
mod notify;
mod plugins;
mod server;
mod settings;

// The one file of the Redis crate that reads untrusted bytes, without that crate's client and TLS.
#[path = "../../crates/redis/src/resp.rs"]
#[allow(dead_code, reason = "the module is whole, and the target uses part of it")]
mod resp;

pub use self::{loader::loader, notify::answer, plugins::detections, server::query, settings::config};

use std::{cell::RefCell, fs, panic, path::Path, sync::Once};

use resp::{Replies, Scanner};
use tickhound_core::{
    checkpoint::{self, Packer},
    config::InputConfig,
    decode::{Decoder, RawTick},
    event::{Entries, EntryId},
    simulate::Layout,
};
use tickhound_recorded::{Files, Options, record::Record};

const PRESETS: [&str; 10] =
    ["kite", "upstox", "angel", "dhan", "alpaca", "polygon", "binance", "ib", "cryptofeed", "generic"];

/// The arrival of each entry: 2025-11-24 in India.
const ARRIVAL_MS: u64 = 1_763_959_531_000;

/// The byte between names and values, which never occurs in UTF-8.
const SEPARATOR: u8 = 0xff;

/// The maximum number of rows read from one file, which bounds the time of a run.
const ROWS_MAX: usize = 1000;

/// Checks that an entry with any fields decodes to ticks or an error, and a document to the same ticks as JSON and as
/// MessagePack.
pub fn decode(bytes: &[u8]) {
    thread_local! {
        static DECODERS: RefCell<Vec<Decoder>> = RefCell::new(PRESETS.map(decoder).into());
    }
    let Some((choice, bytes)) = bytes.split_first() else { return };
    DECODERS.with_borrow_mut(|decoders| {
        let decoder = &mut decoders[usize::from(*choice) % PRESETS.len()];
        let mut parts = bytes.split(|byte| *byte == SEPARATOR);
        let mut fields = Vec::new();
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            fields.push((name, value));
        }
        if fields.is_empty() {
            fields.push((b"data", bytes));
        }
        let first = ticks(decoder, &fields);
        // The decoder reuses its buffers, and no other state may remain.
        assert_same(&first, &ticks(decoder, &fields), "again");
        // A list of one message takes another path through the decoder.
        if let [(name @ b"data", document), rest @ ..] = &fields[..]
            && document.trim_ascii_start().first() == Some(&b'{')
            && serde_json::from_slice::<serde::de::IgnoredAny>(document).is_ok()
        {
            let list = [b"[", *document, b"]"].concat();
            let fields = [&[(*name, list.as_slice())], rest].concat();
            assert_same(&first, &ticks(decoder, &fields), "in a list");
        }
        if let Ok(document) = serde_json::from_slice::<serde_json::Value>(fields[0].1)
            && document.is_object()
        {
            let (Ok(text), Ok(packed)) = (serde_json::to_vec(&document), rmp_serde::to_vec_named(&document)) else {
                return;
            };
            let (json, msgpack) = (ticks(decoder, &[(b"data", &text)]), ticks(decoder, &[(b"data", &packed)]));
            assert_same(&json, &msgpack, "as MessagePack");
        }
    });
}

fn decoder(preset: &str) -> Decoder {
    let mut input = InputConfig { preset: preset.into(), ..InputConfig::default() };
    input.extra.insert("iv".into(), vec!["iv".into(), "greeks.iv".into(), "levels[1][0]".into()]);
    Decoder::new(&input, Path::new(".")).expect("the presets are known")
}

fn ticks(decoder: &mut Decoder, fields: &[(&[u8], &[u8])]) -> Result<Vec<RawTick>, String> {
    let mut entries = Entries::default();
    entries.push_entry(EntryId { millis: ARRIVAL_MS, seq: 0 });
    fields.iter().for_each(|(name, value)| entries.push_field(name, value));
    let mut ticks = Vec::new();
    let entry = entries.get(0).expect("it was just pushed");
    let outcome = decoder.decode(entry, &mut |tick| ticks.push(tick.clone()));
    for RawTick { price, columns, .. } in &ticks {
        assert!(price.is_nan() || *price > 0.0 && price.is_finite(), "a price of {price}");
        assert!(columns.iter().all(|value| !value.is_infinite()));
    }
    outcome.map(|_| ticks).map_err(|error| error.to_string())
}

fn assert_same(one: &Result<Vec<RawTick>, String>, other: &Result<Vec<RawTick>, String>, what: &str) {
    // NaN does not equal itself, but its text does.
    match (one, other) {
        (Ok(one), Ok(other)) => assert_eq!(format!("{one:?}"), format!("{other:?}"), "{what}"),
        (Err(_), Err(_)) => {}
        _ => panic!("{what}: {one:?} against {other:?}"),
    }
}

/// Checks that a file with any bytes reads as ticks or an error, in each layout.
pub fn recorded(bytes: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(contain_panics_of_parquet);
    let file = std::env::temp_dir().join(format!("tickhound-fuzz-{}.csv", std::process::id()));
    fs::write(&file, bytes).expect("failed to write a temporary file");
    for options in [
        Options::default(),
        Options { layout: Layout::Msgpack, table_layout: Layout::Flat, symbol: Some("A".into()), ..Options::default() },
        Options { decoder: Some(decoder("generic")), needs_time: false, ..Options::default() },
    ] {
        let Ok(mut files) = Files::open(&[file.clone()], &options) else { continue };
        let mut record = Record::default();
        for _ in 0..ROWS_MAX {
            if !files.next(&mut record).unwrap_or(false) {
                break;
            }
            record.fields().for_each(drop);
        }
    }
    let _ = fs::remove_file(file);
}

/// A panic of the Parquet crate is an error of ours, as long as nothing but a file is lost by it. The fuzzer would end at each
/// panic; now it ends at those that nobody catches, and at all others.
fn contain_panics_of_parquet() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|at| at.file().contains("/parquet-")) {
            report(panic);
        }
    }));
}

/// Checks that any bytes unpack to a state or an error, and that a state packs and unpacks to itself.
pub fn checkpoint(bytes: &[u8]) {
    let mut packer = Packer::new().expect("failed to start the compressor");
    checkpoint::is_forgotten(bytes, 0);
    let Ok(state) = packer.unpack(bytes) else { return };
    let packed = packer.pack(1, &state).expect("an unpacked state can be packed");
    assert_eq!(packer.unpack(&packed).expect("it was just packed"), state);
}

/// Checks that a server's replies end at the same position however they are cut into pieces, and that complete replies can
/// be read.
pub fn resp(bytes: &[u8]) {
    let Some(([count, cut], received)) = bytes.split_first_chunk() else { return };
    let replies = 1 + usize::from(*count % 4);
    let whole = Scanner::new(replies).scan(received);
    let (mut scanner, mut end) = (Scanner::new(replies), 0);
    let in_pieces = loop {
        match scanner.scan(&received[..end]) {
            Ok(None) if end < received.len() => end = received.len().min(end + 1 + usize::from(*cut)),
            result => break result,
        }
    };
    assert_eq!(in_pieces, whole);
    let (mut entries, mut read) = (Entries::default(), Replies::new(received));
    if read.entries(&mut entries).is_ok() {
        entries.iter().flat_map(|entry| entry.fields()).for_each(drop);
    }
    if let Ok(Some(end)) = whole {
        let mut read = Replies::new(&received[..end]);
        (0..replies).for_each(|_| assert!(read.skip().is_ok(), "a complete reply can be read"));
        assert!(read.item().is_err(), "nothing follows the last reply");
    }
}
