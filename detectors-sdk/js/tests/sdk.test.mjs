// What holds without a host: states survive in every bit, rows are read as they are packed, and what is thrown is left with its
// place.

import assert from "node:assert/strict";
import test from "node:test";

import { describe as describeError } from "../report.js";
import { dump, load } from "../state.js";
import { ByMember, Detection, Detector, Reject, detector, highest, integer, number } from "../tickhound.js";

const CLOCK = 4294967295;
const OPEN = 1763955900000000000n;

// Rows of [symbol, group, feed, time, price, ...columns], packed as a host does it, `shift` bytes from the start of a buffer.
function packRows(rows, columns, hasGroups, hasFeeds, shift = 0) {
  const length = rows.length * (8 * (2 + columns) + 4 + (hasGroups ? 4 : 0) + (hasFeeds ? 1 : 0));
  const bytes = new Uint8Array(new ArrayBuffer(length + shift), shift, length);
  const view = new DataView(bytes.buffer, shift);
  let at = 0;
  const put = (size, write) => rows.forEach((row) => {
    write(row);
    at += size;
  });
  put(8, (row) => view.setBigUint64(at, row[3], true));
  for (let column = 4; column < 5 + columns; column += 1) put(8, (row) => view.setFloat64(at, row[column], true));
  put(4, (row) => view.setUint32(at, row[0], true));
  if (hasGroups) put(4, (row) => view.setUint32(at, row[1], true));
  if (hasFeeds) put(1, (row) => view.setUint8(at, row[2]));
  return bytes;
}

// Detections of { row, owner, about, confidence, direction, members, evidence }.
function unpack(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const found = [];
  let at = 0;
  const take = (size, read) => {
    at += size;
    return read(at - size);
  };
  const u8 = () => take(1, (at) => view.getUint8(at));
  const u32 = () => take(4, (at) => view.getUint32(at, true));
  const f64 = () => take(8, (at) => view.getFloat64(at, true));
  while (at < bytes.length) {
    const one = { row: u32(), owner: u32(), about: u32(), confidence: f64(), direction: u8(), members: [], evidence: [] };
    const members = u8() + 256 * u8();
    for (let n = 0; n < members; n += 1) one.members.push(u32());
    for (let n = u8(); n > 0; n -= 1) {
      const length = u8();
      const name = take(length, (at) => new TextDecoder().decode(bytes.subarray(at, at + length)));
      one.evidence.push([name, f64()]);
    }
    found.push(one);
  }
  return found;
}

function thrown(call) {
  try {
    call();
  } catch (error) {
    return error;
  }
}

test("what is restored equals what was saved, and gives the same bytes", () => {
  const state = {
    b: 0.1 + 0.2, a: -0, nan: NaN, inf: [Infinity, -Infinity, 5e-324], text: "é\u2028𝄞\ud800", none: null, gone: undefined,
    big: 1n << 70n, map: new Map([["z", 1], [2, { x: [] }]]), set: new Set(["b", "a"]), window: new Float64Array([1, -0, NaN]),
    "~map": "not a Map", 7: true, nested: { "~number": 1, "": [[]] },
  };
  Object.defineProperty(state, "__proto__", { value: 5, enumerable: true, writable: true, configurable: true });
  const bytes = dump(state);
  const restored = load(bytes);
  assert.deepEqual(restored, state);
  assert.deepEqual(Object.keys(restored), Object.keys(state));
  assert.deepEqual(dump(restored), bytes);
  assert.ok(bytes.every((byte) => byte < 128));
});

test("what can't be saved is named", () => {
  for (const [state, said] of [
    [{ a: [0, new Date(0)] }, "state.a[1] is a Date, which can't be saved"],
    [{ f() {} }, "state.f is a function"],
    [{ d: new (class Thing {})() }, "state.d is a Thing"],
  ]) {
    assert.throws(() => dump(state), (error) => error instanceof TypeError && error.message.startsWith(said));
  }
});

test("a state that contains itself is rejected, and shared parts become copies", () => {
  const state = { a: [0] };
  state.a.push(new Map([["x", state]]));
  for (let time = 0; time < 2; time += 1) {
    assert.throws(() => dump(state), (error) => error instanceof TypeError && error.message === "state.a[1].x contains itself, which can't be saved");
  }
  const window = [1];
  const restored = load(dump({ a: window, b: window }));
  assert.deepEqual(restored, { a: [1], b: [1] });
  assert.notEqual(restored.a, restored.b);
});

test("what is thrown is described, whatever it is", () => {
  const hostile = { toJSON() { throw new Error("no"); } };
  assert.equal(describeError("text"), "threw text");
  assert.equal(describeError(undefined), "threw undefined");
  assert.equal(describeError(hostile), "threw something that can't be shown");
  assert.match(describeError(new TypeError("no price", { cause: "x" })), /sdk\.test\.mjs:\d+:\d+.*: TypeError: no price.*; after threw x$/);
});

class Count extends Detector {
  static detectorName = "count";
  static params = { least: number(0.5), most: integer(3, { minimum: 1 }) };
  static optionalColumns = ["bid"];
  configure() {
    if (this.most === 13) throw new Reject("13 is unlucky");
  }
  newState() {
    return { ticks: 0 };
  }
  onTick(state, tick) {
    state.ticks += 1;
    return Detection.up(0.5, { ticks: state.ticks, bid: tick.column("bid"), micros: tick.micros });
  }
  onClock(state, clock) {
    return Detection.neutral(0, { ticks: state.ticks, seconds: clock.seconds });
  }
}

test("clock rows are recognized, and every symbol with a state gets them", () => {
  // Views of numbers begin at a multiple of their size, and what the host passes may begin anywhere.
  for (const shift of [0, 1, 4]) {
    const { describe, configure, introduce, detect, save, restore } = detector(Count);
    assert.equal(describe().wantsClock, true);
    assert.deepEqual([describe().scope, describe().feeds], ["symbol", [{ tag: "ticks" }]]);
    configure([["least", { val: 0.5 }], ["most", { val: 3n }]]);
    introduce([{ id: 7, name: "B", texts: [] }, { id: 2, name: "A", texts: [] }, { id: 5, name: "C", texts: [] }], []);
    const rows = [
      [7, 0, 0, 1763955900000001000n, 1, NaN],
      [2, 0, 0, 1763955900000002000n, 2, 3],
      [CLOCK, 0, 0, 1763955901000000000n, NaN, NaN],
    ];
    const found = unpack(detect(3, packRows(rows, 1, false, false, shift)));
    assert.deepEqual(found.map(({ row, owner }) => [row, owner]), [[0, 7], [1, 2], [2, 2], [2, 7]]);
    assert.deepEqual(found[0].evidence, [["ticks", 1], ["micros", 1763955900000001]]);
    assert.deepEqual(found[1].evidence, [["ticks", 1], ["bid", 3], ["micros", 1763955900000002]]);
    assert.deepEqual(found[3].evidence, [["ticks", 1], ["seconds", 1763955901]]);

    const saved = save([2, 5, 7]);
    assert.deepEqual(saved.map(({ owner }) => owner), [2, 7]);
    assert.equal(thrown(() => restore(2, saved)), "saved under state version 2, this detector reads 1");
    const broken = [saved[0], { owner: 7, state: new Uint8Array([123]) }];
    assert.match(thrown(() => restore(1, broken)), /^the state of B can't be read: /);
    assert.deepEqual(save([2, 5, 7]), saved);
    assert.equal(thrown(() => configure([["most", { val: 13 }]])), "13 is unlucky");
    assert.throws(() => detect(1, new Uint8Array(27)), /27 bytes for 1 rows, expected 28/);
  }
});

class Pair extends Detector {
  static detectorName = "pair";
  static scope = "group";
  static feeds = ["ticks", "bars:bar_s", "snapshots:5"];
  static params = { bar_s: integer(60) };
  static requiredColumns = ["high"];
  static optionalColumns = ["bid"];
  static computed = { top: highest("price", "ticks", 3) };
  static wakeAbove = ["top"];
  static requiredTexts = ["option_type"];
  newState() {
    return { seen: 0, legs: new ByMember() };
  }
  onTick(state, tick) {
    state.seen += 1;
    state.legs.entry(tick.symbol, () => ({ price: 0 })).price = tick.price;
    if (!tick.gates.above("top", tick.price, tick.column("top"))) return;
    const evidence = { nanos: Number(tick.nanos - OPEN), bid: tick.column("bid"), seen: state.seen };
    const isPut = tick.text("option_type") === "PE" ? 1 : 0;
    return Detection.up(0.5, { ...evidence, isPut }).about(tick.symbol).members(state.legs.keys());
  }
  onBar(state, bar) {
    return Detection.down(1, { close: bar.close, high: bar.high, length: bar.lengthSeconds, group: bar.group.length });
  }
  onSnapshot(state, row) {
    if (row.isLast) return Detection.neutral(0, { length: row.lengthSeconds });
  }
  onClock(state, clock) {
    const gates = [clock.gates.atLeast("seen", state.seen, 1), clock.gates.holds("x", 1, 2, false)];
    assert.deepEqual(gates, [true, false]);
    return Detection.neutral(0.25).members(state.legs.keys());
  }
}

const ROWS = [
  [7, 5, 0, OPEN + 1n, 10, NaN, 9.5, 9],
  [2, 5, 0, OPEN + 2n, 20, NaN, NaN, NaN],
  [2, 5, 1, OPEN + 3n, 20.5, 21, NaN, NaN],
  [7, 5, 2, OPEN + 4n, 10, NaN, NaN, NaN],
  [2, 5, 0x82, OPEN + 4n, 20.5, NaN, NaN, NaN],
  [CLOCK, CLOCK, 0, OPEN + 1_000_000_000n, NaN, NaN, NaN, NaN],
  [7, 9, 0, OPEN + 1_000_000_001n, 11, NaN, NaN, 10],
];

function pair() {
  const exported = detector(Pair);
  exported.configure([["bar_s", { val: 60n }]]);
  exported.introduce(
    [{ id: 7, name: "SBIN", texts: ["PE"] }, { id: 2, name: "HDFC", texts: [undefined] }],
    [{ id: 5, name: "banks" }, { id: 9, name: "all" }],
  );
  return exported;
}

test("rows of all feeds reach the state of their group", () => {
  const expected = [
    [0, 5, 7, 0.5, 0, [7], { nanos: 1, bid: 9.5, seen: 1, isPut: 1 }],
    [2, 5, 5, 1, 1, [], { close: 20.5, high: 21, length: 60, group: 5 }],
    [4, 5, 5, 0, 2, [], { length: 5 }],
    // In the order of names: HDFC, SBIN.
    [5, 5, 5, 0.25, 2, [2, 7], {}],
    [6, 9, 7, 0.5, 0, [7], { nanos: 1000000001, seen: 1, isPut: 1 }],
  ];
  const flat = (found) => found.map((one) => Object.values({ ...one, evidence: Object.fromEntries(one.evidence) }));
  assert.deepEqual(flat(unpack(pair().detect(7, packRows(ROWS, 3, true, true)))), expected);
  // One by one, with a restart before each.
  let [saved, found] = [[], []];
  for (const row of ROWS) {
    const { detect, save, restore } = pair();
    restore(1, saved);
    found = found.concat(flat(unpack(detect(1, packRows([row], 3, true, true, 3)))));
    saved = save([2, 5, 7, 9]);
  }
  assert.deepEqual(found.map((one) => one.slice(1)), expected.map((one) => one.slice(1)));
  assert.deepEqual(saved.map(({ owner }) => owner), [5, 9]);
});

test("a probe returns the gates of each row, and changes the states alike", () => {
  const [probed, detected] = [pair(), pair()];
  const rows = packRows(ROWS, 3, true, true);
  const judgments = probed.probe(7, rows);
  detected.detect(7, rows);
  assert.deepEqual(judgments[0], { row: 0, owner: 5, gates: [{ name: "top", value: 10, limit: 9, holds: true }] });
  assert.deepEqual(judgments[2].gates.map(({ name, holds }) => [name, holds]), [["seen", true], ["x", false]]);
  assert.deepEqual(judgments.map(({ row, owner }) => [row, owner]), [[0, 5], [1, 5], [5, 5], [6, 9]]);
  assert.deepEqual(probed.save([5, 9]), detected.save([5, 9]));
});

test("the manifest says all that the class declares, and a wrong feed is named", () => {
  const manifest = detector(Pair).describe();
  assert.deepEqual(manifest.feeds, [
    { tag: "ticks" },
    { tag: "bars", val: { tag: "param", val: "bar_s" } },
    { tag: "snapshots", val: { tag: "fixed", val: 5 } },
  ]);
  const top = { name: "top", function: "highest", of: "price", feed: { tag: "ticks" }, length: { tag: "fixed", val: 3 } };
  assert.deepEqual([manifest.scope, manifest.computed, manifest.wakes], ["group", [top], [{ tag: "above", val: "top" }]]);
  assert.deepEqual(manifest.texts, [{ name: "option_type", required: true }]);
  assert.match(thrown(() => detector(Pair).configure([])), /length is of parameter `bar_s`, but no integer parameter/);
  for (const feed of ["", "tick", "bars", "bars:", "ticks:1"]) {
    assert.throws(() => detector(class extends Pair { static feeds = [feed]; }), /a feed is "ticks", "bars:60"/);
  }
});

test("members have the order of their names before and after a restart", () => {
  const members = new ByMember([["𝄞", 1], ["SBIN", { x: [1] }], ["～", undefined], ["HDFC", null]]);
  assert.deepEqual(members.keys(), ["HDFC", "SBIN", "～", "𝄞"]);
  assert.equal(members.entry("～", () => 5), undefined);
  const restored = load(dump({ members }));
  assert.deepEqual(restored, { members });
  assert.deepEqual(dump(restored), dump({ members }));
  assert.deepEqual([members.delete("SBIN"), members.delete("SBIN"), members.size, members.has("SBIN")], [true, false, 3, false]);
  assert.deepEqual([...members], [["HDFC", null], ["～", undefined], ["𝄞", 1]]);
  assert.throws(() => members.set(7, 1), /named by its symbol, not by 7/);
});

test("what does not fit into a detection is named", () => {
  const many = Object.fromEntries(Array.from({ length: 256 }, (_, at) => [`x${at}`, at]));
  for (const [found, said] of [
    [Detection.up(0.5, { ["é".repeat(128)]: 1 }), "at most 255 bytes in a name of evidence, not 256"],
    [Detection.up(0.5, many), "at most 255 numbers of evidence, not 256"],
    [Detection.up(0.5, { x: "1" }), "the evidence x is 1, expected a number"],
    [Detection.up(0.5).about("A"), "only a detection of a group is about a member"],
    ["up", "onTick returned up, expected a Detection or nothing"],
  ]) {
    const { configure, introduce, detect } = detector(class extends Count { onTick() { return found; } });
    configure([]);
    introduce([{ id: 1, name: "A", texts: [] }], []);
    assert.ok(thrown(() => detect(1, packRows([[1, 0, 0, OPEN, 1, 1]], 1, false, false))).message.includes(said));
  }
  const { detect } = pair();
  assert.throws(() => detect(1, packRows([[3, 5, 0, OPEN, 1, 1, 1, 1]], 3, true, true)), /row of symbol 3 of 5 before introducing/);
});
