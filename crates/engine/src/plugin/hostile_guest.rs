//! A guest that answers anything: whatever bytes it returns, the host gets detections that meet the contract, or a fault.

use std::{path::Path, sync::Arc};

use proptest::prelude::*;
use tickhound_core::{
    config::PluginsConfig,
    event::{Batch, CLOCK, Direction, TickRow},
};

use super::{
    check_process::Isolation,
    detection::Detection,
    facts::Facts,
    fault::Fault,
    guest::Limits,
    instance::Instance,
    runtime::{Plugin, Runtime},
    view::{Feed, Scope, View},
    wiring::Wiring,
};

/// Where the guest keeps what it answers: the list of `detect`, that of `save`, the result of `restore`, and then whatever
/// these point to.
const ANSWERS: u32 = 0x1_0000;

/// The most bytes of an answer.
const ANSWER_MAX: usize = 4096;

/// The size of the guest's memory, bytes.
const MEMORY_BYTES: u32 = 0x3_0000;

/// The size of a detection in memory, and of one name with its number, by the canonical ABI.
const DETECTION_BYTES: u32 = 32;
const EVIDENCE_BYTES: u32 = 16;

/// `restore` copies the state that it is given to where the answers are; with a version other than 0 it also answers with
/// what is there. `%MANIFEST%` is what `describe` answers, from address 16 on.
const GUEST: &str = r#"(module
  (memory (export "memory") 3)
  (global $next (mut i32) (i32.const 2048))
  (data (i32.const 16) "%MANIFEST%")
  (data (i32.const 1024) "guest0.1.0")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $begin (global.set $next (i32.const 2048)))
  (func (export "describe") (result i32) (i32.const 16))
  (func (export "configure") (param i32 i32) (result i32) (call $begin) (i32.const 512))
  (func (export "introduce") (param i32 i32) (call $begin))
  (func (export "detect") (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32) (call $begin) (i32.const 0x10000))
  (func (export "save") (param i32 i32) (result i32) (call $begin) (i32.const 0x10008))
  (func (export "restore") (param $version i32) (param $states i32) (param $count i32) (result i32)
    (call $begin)
    (memory.copy (i32.const 0x10000) (i32.load offset=4 (local.get $states)) (i32.load offset=8 (local.get $states)))
    (select (i32.const 0x10010) (i32.const 512) (local.get $version))))"#;

/// A manifest with a name and a version, and nothing else.
fn manifest() -> Vec<u8> {
    let strings: [u32; 6] = [1024, 5, 1029, 5, 0, 0];
    let mut bytes: Vec<u8> = strings.iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.resize(48, 0);
    bytes
}

/// Without a cache: what is compiled here is used once.
fn runtime() -> Runtime {
    Runtime::new(None, Isolation::InProcess).unwrap()
}

fn plugin(runtime: &Runtime, manifest: &[u8]) -> anyhow::Result<Arc<Plugin>> {
    let escaped: String = manifest.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let module = wat::parse_str(GUEST.replace("%MANIFEST%", &escaped))?;
    runtime.compile("guest", Path::new("guest.wasm"), &module, limits())
}

fn limits() -> Limits {
    Limits::of(&PluginsConfig { memory_max_mib: 1, ..PluginsConfig::default() })
}

fn instance(plugin: &Plugin) -> Instance {
    let wiring = Arc::new(Wiring::default());
    let mut instance = Instance::start(plugin, &Vec::new(), wiring, Facts::MadeUp, limits()).unwrap();
    instance.introduce(&[(0, "A"), (1, "B")]).unwrap();
    instance
}

/// Two ticks and the clock.
fn batch() -> Batch {
    let mut batch = Batch::new(0);
    for (entry, symbol) in [(0, 0), (1, 1), (2, CLOCK)] {
        let price = if symbol == CLOCK { f64::NAN } else { 100.0 };
        batch.push(TickRow { entry, symbol, time: 1_000_000_000, price, columns: &[] });
    }
    batch
}

/// An address or a length that may be right, may point back into the answer itself, or is nonsense.
fn pointer() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => (0..ANSWER_MAX as u32 / 8).prop_map(|word| ANSWERS + word * 8),
        1 => Just(MEMORY_BYTES - 8),
        1 => any::<u32>(),
    ]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![4 => 0..6u32, 1 => Just(u32::MAX / DETECTION_BYTES), 1 => any::<u32>()]
}

/// A list: where it is, and how many items it has.
fn list() -> impl Strategy<Value = Vec<u8>> {
    (pointer(), length()).prop_map(|(at, length)| [at.to_le_bytes(), length.to_le_bytes()].concat())
}

/// Numbers that detections and evidence have, and others.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 0.0..=1.0f64, 1 => any::<f64>(), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)]
}

fn detection() -> impl Strategy<Value = Vec<u8>> {
    let symbol = prop_oneof![8 => 0..3u32, 1 => Just(CLOCK), 1 => any::<u32>()];
    (0..4u32, symbol, number(), 0..4u8, list()).prop_map(|(row, symbol, confidence, direction, evidence)| {
        let head = [&row.to_le_bytes()[..], &symbol.to_le_bytes(), &confidence.to_le_bytes()].concat();
        [head, vec![direction, 0, 0, 0], evidence, vec![0; 4]].concat()
    })
}

fn evidence() -> impl Strategy<Value = Vec<u8>> {
    (list(), number()).prop_map(|(name, number)| [name, number.to_le_bytes().to_vec()].concat())
}

/// The heads of the three answers, then detections, evidence and any bytes; and some bytes anywhere replaced.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    let after_heads = ANSWERS + 32;
    let detections = prop::collection::vec(detection(), 0..8);
    let heads = prop_oneof![
        3 => (0..6u32).prop_map(move |count| [after_heads.to_le_bytes(), count.to_le_bytes()].concat()),
        1 => list(),
    ];
    let parts = (heads, list(), list(), detections, prop::collection::vec(evidence(), 0..16), any::<Vec<u8>>());
    let replaced = prop::collection::vec((0..ANSWER_MAX, any::<u8>()), 0..4);
    (parts, replaced).prop_map(|((detect, save, restore, detections, evidence, rest), replaced)| {
        let mut answer = [detect, save, restore, vec![0; 8], detections.concat(), evidence.concat(), rest].concat();
        answer.truncate(ANSWER_MAX);
        for (at, byte) in replaced {
            if let Some(there) = answer.get_mut(at) {
                *there = byte;
            }
        }
        answer
    })
}

/// What must hold for what the host passes on.
fn assert_contract(detected: &Result<Vec<Detection>, Fault>, batch: &Batch) {
    let Ok(detections) = detected else { return };
    assert!(detections.is_sorted_by_key(|detection| detection.row));
    for detection in detections {
        let symbol = batch.symbol[detection.row as usize];
        assert!(detection.owner == symbol || (symbol == CLOCK && detection.owner < 2), "{detection:?}");
        assert!((0.0..=1.0).contains(&detection.confidence), "{detection:?}");
        assert!(detection.evidence.iter().all(|(_, value)| value.is_finite()), "{detection:?}");
    }
}

#[test]
fn whatever_a_guest_answers_is_within_the_contract_or_a_fault() {
    let runtime = runtime();
    let plugin = plugin(&runtime, &manifest()).unwrap();
    let batch = batch();
    proptest!(ProptestConfig::with_cases(500), |(answer in answer())| {
        let mut guest = instance(&plugin);
        guest.restore(0, &[(0, &answer)]).unwrap().unwrap();
        assert_contract(&guest.detect(&batch), &batch);
        let mut guest = instance(&plugin);
        guest.restore(0, &[(0, &answer)]).unwrap().unwrap();
        if let Ok(states) = guest.save(&[0, 1]) {
            prop_assert!(states.iter().all(|(symbol, _)| *symbol < 2), "{:?}", states);
        }
        let mut guest = instance(&plugin);
        let _ = guest.restore(1, &[(0, &answer)]);
    });
}

#[test]
fn a_guest_that_answers_within_the_contract_is_understood() {
    let runtime = runtime();
    let plugin = plugin(&runtime, &manifest()).unwrap();
    let (first, names) = (ANSWERS + 32, ANSWERS + 32 + DETECTION_BYTES);
    let text = names + EVIDENCE_BYTES;
    let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let heads = words(&[first, 1, 0, 0, 0, 0, 0, 0]);
    let detection = [words(&[1, 1]), 0.5f64.to_le_bytes().to_vec(), words(&[1, names, 1, 0])].concat();
    let evidence = [words(&[text, 4]), 3.5f64.to_le_bytes().to_vec(), b"rank".to_vec()].concat();
    let mut guest = instance(&plugin);
    guest.restore(0, &[(0, &[heads, detection, evidence].concat())]).unwrap().unwrap();
    let detections = guest.detect(&batch()).unwrap();
    assert_eq!((detections.len(), detections[0].row, detections[0].owner), (1, 1, 1));
    assert_eq!(detections[0].evidence, [("rank".to_owned(), 3.5)]);
}

/// Each manifest is compiled anew, so there are few cases.
#[test]
fn whatever_a_guest_says_of_itself_is_checked_or_rejected_with_a_sentence() {
    let runtime = runtime();
    let word = prop_oneof![4 => 0..1100u32, 2 => 0..4u32, 1 => any::<u32>()];
    proptest!(ProptestConfig::with_cases(100), |(words in prop::collection::vec(word, 12), rest in any::<[u8; 32]>())| {
        let mut manifest: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        manifest.extend(rest);
        match plugin(&runtime, &manifest) {
            Ok(plugin) => prop_assert!(!plugin.manifest.name.is_empty() && !plugin.manifest.version.is_empty()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    });
}

/// A guest of contract 0.2. `detect` answers with the bytes behind the first eight that `restore` was given, which are the
/// address and the length of the list.
const PACKING_GUEST: &str = r#"(module
  (memory (export "memory") 3)
  (global $next (mut i32) (i32.const 2048))
  (data (i32.const 16) "%MANIFEST%")
  (data (i32.const 1024) "guest0.2.0")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $begin (global.set $next (i32.const 2048)))
  (func (export "describe") (result i32) (i32.const 16))
  (func (export "configure") (param i32 i32) (result i32) (call $begin) (i32.const 512))
  (func (export "introduce") (param i32 i32 i32 i32) (call $begin))
  (func (export "detect") (param i32 i32 i32) (result i32) (call $begin) (i32.const 0x10000))
  (func (export "probe") (param i32 i32 i32) (result i32) (call $begin) (i32.const 0x10000))
  (func (export "save") (param i32 i32) (result i32) (call $begin) (i32.const 512))
  (func (export "restore") (param i32 i32 i32) (result i32)
    (call $begin)
    (memory.copy (i32.const 0x10000) (i32.load offset=4 (local.get 1)) (i32.load offset=8 (local.get 1)))
    (i32.const 512)))"#;

/// A manifest of contract 0.2: a name, a version, a scope, and the feed of ticks, which is 16 zero bytes.
fn packing_manifest(scope: u8) -> Vec<u8> {
    let mut bytes = manifest()[..24].to_vec();
    bytes.extend([scope, 0, 0, 0]);
    bytes.extend([1536u32, 1].iter().flat_map(|word| word.to_le_bytes()));
    bytes.resize(84, 0);
    bytes
}

fn packing_plugin(runtime: &Runtime, manifest: &[u8]) -> anyhow::Result<Arc<Plugin>> {
    let escaped: String = manifest.iter().map(|byte| format!("\\{byte:02x}")).collect();
    let module = wat::parse_str(PACKING_GUEST.replace("%MANIFEST%", &escaped))?;
    runtime.compile("guest", Path::new("guest.wasm"), &module, limits())
}

/// An instance whose states belong to groups: two symbols, of which each is a group of its own, with the ids 2 and 3.
fn packing_instance(plugin: &Plugin) -> Instance {
    let view = View { scope: Scope::Group, families: vec!["f".into()], feeds: vec![Feed::Ticks] };
    let wiring = Arc::new(Wiring { view, ..Wiring::default() });
    let mut instance = Instance::start(plugin, &Vec::new(), wiring, Facts::MadeUp, limits()).unwrap();
    instance.introduce(&[(0, "A"), (1, "B"), (2, "\0f/A"), (3, "\0f/B")]).unwrap();
    instance
}

fn group_batch() -> Batch {
    Batch { group: vec![2, 3, CLOCK], ..batch() }
}

/// A packed detection that is often sound.
fn packed_detection() -> impl Strategy<Value = Vec<u8>> {
    let id = || prop_oneof![8 => 0..5u32, 1 => any::<u32>()];
    let members = prop::collection::vec(id(), 0..4);
    let evidence = prop::collection::vec((prop::collection::vec(any::<u8>(), 0..6), number()), 0..4);
    let extra = prop_oneof![9 => Just(0u8), 1 => any::<u8>()];
    ((0..4u32, id(), id()), number(), 0..4u8, members, evidence, extra).prop_map(
        |((row, owner, about), confidence, direction, members, evidence, extra)| {
            let mut packed: Vec<u8> = [row, owner, about].iter().flat_map(|id| id.to_le_bytes()).collect();
            packed.extend(confidence.to_le_bytes());
            packed.push(direction);
            packed.extend((members.len() as u16 + u16::from(extra)).to_le_bytes());
            packed.extend(members.iter().flat_map(|id| id.to_le_bytes()));
            packed.push(evidence.len() as u8);
            for (name, value) in evidence {
                packed.push(name.len() as u8);
                packed.extend(name);
                packed.extend(value.to_le_bytes());
            }
            packed
        },
    )
}

/// The head of a list, which is right or not, and its bytes.
fn packed_answer() -> impl Strategy<Value = Vec<u8>> {
    let detections = prop::collection::vec(packed_detection(), 0..6).prop_map(|detections| detections.concat());
    let bytes = prop_oneof![4 => detections, 1 => any::<Vec<u8>>()];
    (bytes, prop_oneof![8 => Just(None), 1 => list().prop_map(Some)]).prop_map(|(bytes, head)| {
        let whole = [(ANSWERS + 8).to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat();
        [head.unwrap_or(whole), bytes].concat()
    })
}

#[test]
fn whatever_a_guest_packs_is_within_the_contract_or_a_fault() {
    let runtime = runtime();
    let plugin = packing_plugin(&runtime, &packing_manifest(1)).unwrap();
    assert_eq!((plugin.contract(), plugin.can_probe()), ("0.2.0", true));
    let batch = group_batch();
    proptest!(ProptestConfig::with_cases(500), |(answer in packed_answer())| {
        let mut guest = packing_instance(&plugin);
        guest.restore(0, &[(2, &answer)]).unwrap().unwrap();
        if let Ok(detections) = guest.detect(&batch) {
            prop_assert!(detections.is_sorted_by_key(|detection| detection.row));
            for detection in detections {
                let group = batch.group[detection.row as usize];
                prop_assert!(detection.owner == group || group == CLOCK && [2, 3].contains(&detection.owner));
                prop_assert!(detection.about == detection.owner || detection.about < 2);
                prop_assert!(detection.members.iter().all(|member| *member < 2));
                prop_assert!((0.0..=1.0).contains(&detection.confidence));
                prop_assert!(detection.evidence.iter().all(|(name, value)| value.is_finite() && !name.is_empty()));
            }
        }
        let mut guest = packing_instance(&plugin);
        guest.restore(0, &[(2, &answer)]).unwrap().unwrap();
        if let Ok(Some(judgments)) = guest.probe(&batch) {
            prop_assert!(judgments.iter().all(|judgment| judgment.row < 3 && judgment.owner < 4));
        }
    });
}

#[test]
fn a_guest_that_packs_within_the_contract_is_understood() {
    let runtime = runtime();
    let plugin = packing_plugin(&runtime, &packing_manifest(1)).unwrap();
    let mut packed: Vec<u8> = [1u32, 3, 0].iter().flat_map(|id| id.to_le_bytes()).collect();
    packed.extend(0.5f64.to_le_bytes());
    packed.extend([1, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 4]);
    packed.extend(b"rank");
    packed.extend(3.5f64.to_le_bytes());
    let head = [(ANSWERS + 8).to_le_bytes(), (packed.len() as u32).to_le_bytes()].concat();
    let mut guest = packing_instance(&plugin);
    guest.restore(0, &[(2, &[head, packed].concat())]).unwrap().unwrap();
    let expected = Detection {
        row: 1,
        owner: 3,
        about: 0,
        confidence: 0.5,
        direction: Direction::Down,
        members: vec![1, 0],
        evidence: vec![("rank".to_owned(), 3.5)],
    };
    assert_eq!(guest.detect(&group_batch()).unwrap(), [expected]);
}

/// Each manifest is compiled anew, so there are few cases.
#[test]
fn whatever_a_guest_of_contract_0_2_says_of_itself_is_checked_or_rejected_with_a_sentence() {
    let runtime = runtime();
    let word = prop_oneof![4 => 0..1100u32, 4 => 0..4u32, 1 => any::<u32>()];
    proptest!(ProptestConfig::with_cases(100), |(words in prop::collection::vec(word, 21))| {
        let manifest: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        match packing_plugin(&runtime, &manifest) {
            Ok(plugin) => prop_assert!(!plugin.manifest.feeds.is_empty() && plugin.manifest.feeds.len() <= 4),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    });
}
