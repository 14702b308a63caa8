// What holds without a host: states survive in every bit, and what is thrown is left with its place.

import assert from "node:assert/strict";
import test from "node:test";

import { describe as describeError } from "../report.js";
import { dump, load } from "../state.js";
import { Detection, Detector, Reject, detector, integer, number } from "../tickhound.js";

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

test("clock rows are recognized as a host passes them, and every symbol with a state gets them", () => {
  for (const clock of [-1, 4294967295]) {
    const { describe, configure, introduce, detect, save, restore } = detector(Count);
    assert.equal(describe().wantsClock, true);
    configure([["least", { val: 0.5 }], ["most", { val: 3n }]]);
    introduce([{ id: 7, name: "B" }, { id: 2, name: "A" }, { id: 5, name: "C" }]);
    const rows = { symbols: [7, 2, clock], times: [1763955900000001000, 1763955900000002000n, 1763955901000000000] };
    const found = detect({ ...rows, prices: [1, 2, NaN], columns: [[NaN, 3, NaN]] });
    assert.deepEqual(found.map(({ row, symbol }) => [row, symbol]), [[0, 7], [1, 2], [2, 2], [2, 7]]);
    assert.deepEqual(found[0].evidence, [["ticks", 1], ["micros", 1763955900000001]]);
    assert.deepEqual(found[1].evidence, [["ticks", 1], ["bid", 3], ["micros", 1763955900000002]]);
    assert.deepEqual(found[3].evidence, [["ticks", 1], ["seconds", 1763955901]]);

    const saved = save([2, 5, 7]);
    assert.deepEqual(saved.map(({ symbol }) => symbol), [2, 7]);
    const thrown = (call) => {
      try {
        call();
      } catch (error) {
        return error;
      }
    };
    assert.equal(thrown(() => restore(2, saved)), "saved under state version 2, this detector reads 1");
    const broken = [saved[0], { symbol: 7, state: new Uint8Array([123]) }];
    assert.match(thrown(() => restore(1, broken)), /^the state of B can't be read: /);
    assert.deepEqual(save([2, 5, 7]), saved);
    assert.equal(thrown(() => configure([["most", { val: 13 }]])), "13 is unlucky");
  }
});
