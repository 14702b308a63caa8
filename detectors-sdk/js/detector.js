// What authors use: the class to extend, its parameters, its computed columns and its detections.

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
  /** What a state belongs to: "symbol", "group", or "market", which is one group of all symbols. */
  static scope = "symbol";
  /** What the rows are: "ticks" for `onTick`, "bars:60" for `onBar`, "snapshots:60" for `onSnapshot`. */
  static feeds = ["ticks"];
  static computed = {};
  static wakeAbove = [];
  static wakeBelow = [];
  static requiredTexts = [];
  static optionalTexts = [];

  /** Checks conditions between several parameters; throws `Reject` to reject them. */
  configure() {}

  /** The event time that must pass for a symbol before its first detection, in seconds. */
  warmUpSeconds() {
    return 0;
  }

  /** The state of a symbol or group at its first row. */
  newState() {
    return {};
  }

  /** Processes the next tick, and may change the state of its symbol or group. */
  onTick() {
    throw new TypeError(`${this.constructor.name} has no onTick`);
  }

  /** Processes the next bar, and may change the state of its symbol or group. */
  onBar() {
    throw new TypeError(`${this.constructor.name} has no onBar`);
  }

  /** Processes the next row of a snapshot, and may change the state of its symbol or group. */
  onSnapshot() {
    throw new TypeError(`${this.constructor.name} has no onSnapshot`);
  }

  /** Called for each symbol or group that has a state when event time reaches a whole second, if the class defines it. */
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

const computed = (name, of, feed, length) => ({ function: name, of, feed, length });

/** Declares a column that is the greatest of the last `length` values, or as many as the integer parameter of this name says. */
export const highest = (of, feed, length) => computed("highest", of, feed, length);
/** Declares a column that is the least of the last `length` values. */
export const lowest = (of, feed, length) => computed("lowest", of, feed, length);
/** Declares a column that is the mean of the last `length` values. */
export const mean = (of, feed, length) => computed("mean", of, feed, length);
/** Declares a column that is the volatility of successive values, of which the last `length` have half of the weight. */
export const ewVolatility = (of, feed, length) => computed("ew-volatility", of, feed, length);

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
    this.subject = null;
    this.symbols = [];
  }

  /** Makes the detection one about a member of the group, and not about the group. */
  about(symbol) {
    this.subject = symbol;
    return this;
  }

  /** Adds symbols that make up the event of a group, such as the two legs of a pair. */
  members(symbols) {
    this.symbols.push(...symbols);
    return this;
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
