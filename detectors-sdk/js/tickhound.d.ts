/** The direction in which the price moves, or is expected to move. */
export type Direction = "up" | "down" | "none";

/** A parameter, as `number`, `integer`, `flag` and `text` declare it. */
export interface Param {
  readonly default: { tag: "number" | "integer" | "flag" | "text"; val: number | boolean | string };
}

/** The limits of a parameter, both valid values; its unit; and a sentence about it. */
export interface ParamOptions {
  minimum?: number;
  maximum?: number;
  choices?: string[];
  unit?: string;
  doc?: string;
}

export function number(value: number, options?: ParamOptions): Param;
export function integer(value: number, options?: ParamOptions): Param;
export function flag(value: boolean, options?: ParamOptions): Param;
export function text(value: string, options?: ParamOptions): Param;

/** The bits of the column `flags`: `tick.column("flags") & Flag.QUOTE_ONLY`. */
export const Flag: {
  /** The producer's time was missing or absurd, and was estimated from the arrival. */
  readonly TIME_ESTIMATED: 1;
  /** The producer's time was before the symbol's previous tick, and was set to the time of that tick. */
  readonly OUT_OF_ORDER: 2;
  /** The cumulative volume decreased without a new session, and was repaired. */
  readonly VOLUME_REPAIRED: 4;
  /** The tick is not a trade: only quotes or open interest changed. The price is the last one. */
  readonly QUOTE_ONLY: 8;
  /** The tick is the first one of the symbol in a new session. */
  readonly SESSION_START: 16;
  /** The tick is from the pre-open of a session, in which orders are collected. */
  readonly PRE_OPEN: 32;
  /** The tick is from outside of the session and its pre-open: at night, at a weekend, on a holiday. */
  readonly OFF_SESSION: 64;
  /** PRE_OPEN and OFF_SESSION: a tick with one of them is not from a session that is open. */
  readonly OUTSIDE: 96;
};

/** Thrown by `configure` to reject parameters, with a sentence for the author of the configuration. */
export class Reject extends Error {}

/** What a state belongs to, and which rows one state sees. */
export type Scope = "symbol" | "group" | "market";

/**
 * What the rows are: "ticks", or "bars:60" and "snapshots:60" with a number of seconds. Instead of a number, the name of an
 * integer parameter may follow.
 */
export type Feed = string;

/** A column that the host computes, as `highest`, `lowest`, `mean` and `ewVolatility` declare it. */
export interface Computed {
  readonly function: "highest" | "lowest" | "mean" | "ew-volatility";
}

/**
 * The greatest of the last `length` values before the present row, or as many as the integer parameter of this name says. `of`
 * is "price", or "high" or "low" of bars. It is NaN until there are enough.
 */
export function highest(of: string, feed: Feed, length: number | string): Computed;
/** The least of the last `length` values. */
export function lowest(of: string, feed: Feed, length: number | string): Computed;
/** The mean of the last `length` values. */
export function mean(of: string, feed: Feed, length: number | string): Computed;
/**
 * The exponentially weighted standard deviation of the logarithm of the ratio of successive values, per row. Half of the weight
 * is on the last `length` rows.
 */
export function ewVolatility(of: string, feed: Feed, length: number | string): Computed;

/**
 * A detector: a function of parameters and rows that returns detections. The same rows must give the same detections, so all
 * that it knows about a symbol or group is in the state of that symbol or group. Each parameter is a property of the object.
 */
export class Detector<State = Record<string, unknown>> {
  /** A short name: lower-case letters, digits, `_` and `-`. */
  static detectorName: string;
  /** The semantic version, which is copied into every alert. */
  static version: string;
  /** One sentence for users. */
  static description: string;
  /** The parameters by name, in the order in which they are shown. */
  static params: Record<string, Param>;
  /** Columns beside symbol, time and price without which the host rejects the detector. */
  static requiredColumns: string[];
  /** Columns whose values are all NaN if the input lacks them. */
  static optionalColumns: string[];
  /** What a state belongs to: a symbol, a group of symbols that the user's configuration defines, or the market. */
  static scope: Scope;
  /** What the rows are; by default ["ticks"]. */
  static feeds: Feed[];
  /** Columns that the host computes, by their names. */
  static computed: Record<string, Computed>;
  /**
   * With any of these or of `wakeBelow`, only ticks for which one condition holds reach the detector: that the price is above
   * this column, or the column is NaN. Bars, snapshots and the clock always do.
   */
  static wakeAbove: string[];
  /** As `wakeAbove`, for a price below this column. */
  static wakeBelow: string[];
  /** Texts of the reference data without which the host rejects the detector. */
  static requiredTexts: string[];
  /** Texts that are null for all symbols if the reference data lacks them. */
  static optionalTexts: string[];
  /** The version of the state. Increase it when older states can't be read any more. */
  static stateVersion: number;
  /** Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped. */
  static stateOutlivesParams: boolean;

  /** Checks conditions between several parameters; throws `Reject` to reject them. */
  configure(): void;
  /** Returns the event time that must pass for a symbol before its first detection, in seconds. */
  warmUpSeconds(): number;
  /** Returns the state of a symbol or group at its first row: plain data, which the SDK saves and restores. */
  newState(): State;
  /** Processes the next tick, and may change the state of its symbol or group. */
  onTick(state: State, tick: Tick): Detection | null | void;
  /** Processes the next bar, and may change the state of its symbol or group. */
  onBar(state: State, bar: Bar): Detection | null | void;
  /** Processes the next row of a snapshot, and may change the state of its symbol or group. */
  onSnapshot(state: State, row: Snapshot): Detection | null | void;
  /** Called for each symbol or group that has a state when event time reaches a whole second, if the class defines it. */
  onClock(state: State, clock: Clock): Detection | null | void;
}

/**
 * Compares values with limits, and records each comparison when somebody asks why there is a detection, or none. Each method
 * returns the result of its comparison.
 */
export interface Gates {
  /** Whether `value > limit`. */
  above(name: string, value: number, limit: number): boolean;
  /** Whether `value >= limit`. */
  atLeast(name: string, value: number, limit: number): boolean;
  /** Whether `value < limit`. */
  below(name: string, value: number, limit: number): boolean;
  /** Whether `value <= limit`. */
  atMost(name: string, value: number, limit: number): boolean;
  /** Returns `holds`, the result of any other comparison of `value` with `limit`. */
  holds(name: string, value: number, limit: number, holds: boolean): boolean;
}

/** A time, and what it is for. */
interface Timed {
  /** The name of the symbol; of a clock row, empty if the state belongs to a group. */
  readonly symbol: string;
  /** The name of the group whose state is passed along; empty if the state belongs to a symbol. */
  readonly group: string;
  /** The event time in seconds since the Unix epoch, exact to a microsecond. It never decreases within a symbol and feed. */
  readonly seconds: number;
  /** The event time in microseconds since the Unix epoch, a whole number. */
  readonly micros: number;
  /** The event time in nanoseconds since the Unix epoch. */
  readonly nanos: bigint;
  readonly gates: Gates;
}

/** A whole second that event time has reached. */
export interface Clock extends Timed {}

interface Row extends Timed {
  /** The price in quote currency, finite and greater than 0. */
  readonly price: number;
  /** Returns the value of a column that the detector asks for; NaN if it is absent. */
  column(name: string): number;
  /** Returns the text of the reference data of this name; null if there is none for the symbol. */
  text(name: string): string | null;
}

/** One market update of one symbol. The price is the last traded one. */
export interface Tick extends Row {}

/**
 * What happened to one symbol in a span of the session. Its time is the end of the span. The detector has to ask for the columns
 * that it reads: `open`, `high`, `low`, `quantity`, `count`, `vwap`.
 */
export interface Bar extends Row {
  readonly open: number;
  readonly high: number;
  readonly low: number;
  /** The last price, which is also `price`. */
  readonly close: number;
  readonly quantity: number;
  readonly count: number;
  readonly vwap: number;
  /** The length of the feed, which tells the bars of several feeds apart. */
  readonly lengthSeconds: number;
}

/** What was known of one symbol at one step: its last price, and the last known value of each column. */
export interface Snapshot extends Row {
  /** The time between two steps, which tells several feeds apart. */
  readonly lengthSeconds: number;
  /** Whether no row of this step follows, for this state. */
  readonly isLast: boolean;
}

/** A map from the symbols of a group's members to values, in the order of the symbols. It is saved and restored. */
export class ByMember<T> implements Iterable<[string, T]> {
  constructor(entries?: Iterable<[string, T]>);
  readonly size: number;
  /** Returns the value of a member, which is `initial()` if the member is new. */
  entry(symbol: string, initial: () => T): T;
  /** Returns the value of a member; undefined if there is none. */
  get(symbol: string): T | undefined;
  has(symbol: string): boolean;
  set(symbol: string, value: T): this;
  delete(symbol: string): boolean;
  clear(): void;
  keys(): string[];
  values(): T[];
  entries(): [string, T][];
  [Symbol.iterator](): Iterator<[string, T]>;
}

/** A detected event: how rare it is, in 0 to 1; its direction; and numbers with which a person can check it. */
export class Detection {
  constructor(direction: Direction, confidence: number, evidence?: Record<string, number>);
  static up(confidence: number, evidence?: Record<string, number>): Detection;
  static down(confidence: number, evidence?: Record<string, number>): Detection;
  static neutral(confidence: number, evidence?: Record<string, number>): Detection;
  /** Makes the detection one about a member of the group, and not about the group. */
  about(symbol: string): this;
  /** Adds symbols that make up the event of a group, such as the two legs of a pair. */
  members(symbols: Iterable<string>): this;
}

/** Returns the functions of the contract, which the module exports. */
export function detector(kind: new () => Detector<any>): {
  describe: (...args: any[]) => any;
  configure: (...args: any[]) => any;
  introduce: (...args: any[]) => any;
  detect: (...args: any[]) => any;
  save: (...args: any[]) => any;
  restore: (...args: any[]) => any;
  probe: (...args: any[]) => any;
};
