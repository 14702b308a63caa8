// Write a Tickhound detector in JavaScript: one class, and one call of `detector`. README.md beside this file explains each
// part with an example, and tickhound.d.ts has the types.
//
// What holds: each function of the contract leaves the text of an exception for the host before it fails. Nothing here
// differs between two runs: symbols are visited in the order of their ids.

import { dump, load } from "./state.js";
import { describe, leave } from "./report.js";

// In `symbols`, a clock row: event time has reached a whole second. As a u32 it is 4294967295; QuickJS passes it as -1.
const CLOCK = 0xffffffff;

const DIRECTIONS = ["up", "down", "none"];

/** The bits of the column `flags`: `tick.column("flags") & Flag.QUOTE_ONLY`. */
export const Flag = Object.freeze({
  /** The producer's time was missing or absurd, and was estimated from the arrival. */
  TIME_ESTIMATED: 1,
  /** The producer's time was before the symbol's previous tick, and was set to the time of that tick. */
  OUT_OF_ORDER: 2,
  /** The cumulative volume decreased without a new session, and was repaired. */
  VOLUME_REPAIRED: 4,
  /** The tick is not a trade: only quotes or open interest changed. The price is the last one. */
  QUOTE_ONLY: 8,
  /** The tick is the first one of the symbol in a new session. */
  SESSION_START: 16,
  /** The tick is from the pre-open of a session, in which orders are collected. */
  PRE_OPEN: 32,
  /** The tick is from outside of the session and its pre-open: at night, at a weekend, on a holiday. */
  OFF_SESSION: 64,
  OUTSIDE: 96,
});

/** Thrown by `configure` to reject parameters, with a sentence for the author of the configuration. */
export class Reject extends Error {}

/** The class that a detector extends. */
export class Detector {
  /** The version of the state. Increase it when older states can't be read any more. */
  static stateVersion = 1;
  /** Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped. */
  static stateOutlivesParams = false;
  static description = "";
  static version = "0.1.0";
  static params = {};
  static requiredColumns = [];
  static optionalColumns = [];

  /** Checks conditions between several parameters; throws `Reject` to reject them. */
  configure() {}

  /** The event time that must pass for a symbol before its first detection, in seconds. */
  warmUpSeconds() {
    return 0;
  }

  /** The state of a symbol at its first tick. */
  newState() {
    return {};
  }

  /** Processes the next tick of a symbol, and may change the symbol's state. */
  onTick() {
    throw new TypeError(`${this.constructor.name} has no onTick`);
  }

  /** Called for each symbol that has a state when event time reaches a whole second, if the class defines it. */
  onClock() {}
}

const param = (tag, value, { minimum = null, maximum = null, choices = [], unit = "", doc = "" } = {}) => ({
  default: { tag, val: value },
  minimum,
  maximum,
  choices,
  unit,
  doc,
});

/** Declares a parameter that is a number. */
export const number = (value, options) => param("number", value, options);
/** Declares a parameter that is a whole number. */
export const integer = (value, options) => param("integer", value, options);
/** Declares a parameter that is true or false. */
export const flag = (value, options) => param("flag", value, options);
/** Declares a parameter that is a text. */
export const text = (value, options) => param("text", value, options);

// QuickJS passes nanoseconds since the Unix epoch as a Number, which is exact to 128 of them. So the nearest microsecond is the
// right one. There is a tick for each row, so the two classes below are flat: private fields and `super` take twice the time.

/** A whole second that event time has reached. */
export class Clock {
  constructor(symbol, time) {
    this.symbol = symbol;
    this._time = time;
  }

  /** The event time in seconds since the Unix epoch, exact to a microsecond. */
  get seconds() {
    return Number(this._time) / 1e9;
  }

  /** The event time in microseconds since the Unix epoch, a whole number. */
  get micros() {
    return Math.round(Number(this._time) / 1000);
  }
}

/** One market update of one symbol. */
export class Tick {
  constructor(symbol, time, price, batch, row) {
    this.symbol = symbol;
    this.price = price;
    this._time = time;
    this._batch = batch;
    this._row = row;
  }

  /** The event time in seconds since the Unix epoch, exact to a microsecond. */
  get seconds() {
    return Number(this._time) / 1e9;
  }

  /** The event time in microseconds since the Unix epoch, a whole number. */
  get micros() {
    return Math.round(Number(this._time) / 1000);
  }

  /** The value of a column that the detector asks for; NaN if it is absent. */
  column(name) {
    const { columns, names } = this._batch;
    const position = names.get(name);
    if (position === undefined) {
      throw new RangeError(`the detector does not ask for the column ${name}: add it to requiredColumns or optionalColumns`);
    }
    return columns[position][this._row];
  }
}

/** A detected event: how rare it is, in 0 to 1; its direction; and numbers with which a person can check it. */
export class Detection {
  constructor(direction, confidence, evidence = {}) {
    if (!DIRECTIONS.includes(direction)) {
      throw new RangeError(`the direction is ${String(direction)}, expected "up", "down" or "none"`);
    }
    if (!(typeof confidence === "number" && confidence >= 0 && confidence <= 1)) {
      throw new RangeError(`the confidence is ${String(confidence)}, expected a number from 0 to 1`);
    }
    this.direction = direction;
    this.confidence = confidence;
    this.evidence = evidence;
  }

  static up(confidence, evidence) {
    return new Detection("up", confidence, evidence);
  }

  static down(confidence, evidence) {
    return new Detection("down", confidence, evidence);
  }

  static neutral(confidence, evidence) {
    return new Detection("none", confidence, evidence);
  }
}

/** Returns the functions of the contract for a class of a detector. */
export function detector(kind) {
  const instance = new Instance(kind);
  const reported = (name) => (...args) => {
    try {
      return instance[name](...args);
    } catch (error) {
      // componentize-qjs takes what these two throw for the error of a result, so the call does not fail.
      if (name === "configure" || name === "restore") {
        throw error instanceof Answer ? error.message : describe(error);
      }
      leave(error);
      throw error;
    }
  };
  const names = ["describe", "configure", "introduce", "detect", "save", "restore"];
  return Object.fromEntries(names.map((name) => [name, reported(name)]));
}

/** The error of a result: the host gets its text, and the call has not failed. */
class Answer extends Error {}

class Instance {
  constructor(kind) {
    this.kind = kind;
    this.columns = [...kind.requiredColumns, ...kind.optionalColumns];
    this.names = new Map(this.columns.map((name, position) => [name, position]));
    this.wantsClock = kind.prototype.onClock !== Detector.prototype.onClock;
    this.detector = null;
    // By id: the symbol's name, and its state after the first tick.
    this.slots = new Map();
    // The ids of `slots` in their order.
    this.ids = [];
  }

  describe() {
    const { kind } = this;
    if (typeof kind.detectorName !== "string") {
      throw new TypeError(`${kind.name} needs a name, such as static detectorName = "jump"`);
    }
    return {
      name: kind.detectorName,
      version: kind.version,
      description: kind.description,
      columns: this.columns.map((name) => ({ name, required: kind.requiredColumns.includes(name) })),
      params: Object.entries(kind.params).map(([name, declared]) => ({ name, ...declared })),
      stateVersion: kind.stateVersion,
      stateOutlivesParams: kind.stateOutlivesParams,
      wantsClock: this.wantsClock,
    };
  }

  configure(values) {
    const made = new this.kind();
    for (const [name, { val }] of values) made[name] = typeof val === "bigint" ? Number(val) : val;
    try {
      made.configure();
    } catch (error) {
      throw error instanceof Reject ? new Answer(error.message) : error;
    }
    this.detector = made;
    return { warmUpSeconds: made.warmUpSeconds() };
  }

  introduce(symbols) {
    for (const { id, name } of symbols) this.slots.set(id, { name, state: undefined, hasState: false });
    this.ids = [...this.slots.keys()].sort((one, other) => one - other);
  }

  detect({ symbols, times, prices, columns }) {
    const { detector: made, slots } = this;
    if (made === null) throw new Error("the host called `detect` before `configure`");
    const batch = { columns, names: this.names };
    const found = [];
    for (let row = 0; row < symbols.length; row++) {
      const symbol = symbols[row] >>> 0;
      if (symbol === CLOCK) {
        if (this.wantsClock) this.strike(times[row], row, found);
        continue;
      }
      const slot = slots.get(symbol);
      if (slot === undefined) throw new Error(`the host sent a tick of symbol ${symbol} before introducing it`);
      if (!slot.hasState) {
        slot.state = made.newState();
        slot.hasState = true;
      }
      const detection = made.onTick(slot.state, new Tick(slot.name, times[row], prices[row], batch, row));
      if (detection != null) found.push(detected(row, symbol, detection, "onTick"));
    }
    return found;
  }

  strike(time, row, found) {
    for (const symbol of this.ids) {
      const slot = this.slots.get(symbol);
      if (!slot.hasState) continue;
      const detection = this.detector.onClock(slot.state, new Clock(slot.name, time));
      if (detection != null) found.push(detected(row, symbol, detection, "onClock"));
    }
  }

  save(symbols) {
    const saved = [];
    for (const symbol of symbols) {
      const slot = this.slots.get(symbol >>> 0);
      if (slot?.hasState) saved.push({ symbol: symbol >>> 0, state: dump(slot.state) });
    }
    return saved;
  }

  restore(stateVersion, saved) {
    if (stateVersion !== this.kind.stateVersion) {
      throw new Answer(`saved under state version ${stateVersion}, this detector reads ${this.kind.stateVersion}`);
    }
    // All or nothing: everything is read before anything changes.
    const read = saved.map(({ symbol, state }) => {
      const slot = this.slots.get(symbol >>> 0);
      if (slot === undefined) throw new Answer(`symbol ${symbol} was not introduced`);
      try {
        return [slot, load(state)];
      } catch (error) {
        throw new Answer(`the state of ${slot.name} can't be read: ${error.message}`);
      }
    });
    for (const [slot, state] of read) {
      slot.state = state;
      slot.hasState = true;
    }
  }
}

/** The detection as the contract has it. A number of the evidence that isn't finite is left out. */
function detected(row, symbol, detection, method) {
  if (!(detection instanceof Detection)) {
    throw new TypeError(`${method} returned ${String(detection)}, expected a Detection or nothing`);
  }
  const { confidence, direction, evidence } = detection;
  const numbers = Object.entries(evidence).filter(([name, value]) => {
    if (typeof value !== "number") throw new TypeError(`the evidence ${name} is ${String(value)}, expected a number`);
    return Number.isFinite(value);
  });
  return { row, symbol, confidence, direction, evidence: numbers };
}
