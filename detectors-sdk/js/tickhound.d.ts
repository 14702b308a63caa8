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

/**
 * A detector: a function of parameters and ticks that returns detections. The same ticks must give the same detections, so all
 * that it knows about a symbol is in that symbol's state. Each parameter is a property of the object.
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
  /** The version of the state. Increase it when older states can't be read any more. */
  static stateVersion: number;
  /** Whether a saved state stays meaningful when only parameters change. Otherwise it is dropped. */
  static stateOutlivesParams: boolean;

  /** Checks conditions between several parameters; throws `Reject` to reject them. */
  configure(): void;
  /** Returns the event time that must pass for a symbol before its first detection, in seconds. */
  warmUpSeconds(): number;
  /** Returns the state of a symbol at its first tick: plain data, which the SDK saves and restores. */
  newState(): State;
  /** Processes the next tick of a symbol, and may change the symbol's state. */
  onTick(state: State, tick: Tick): Detection | null | void;
  /** Called for each symbol that has a state when event time reaches a whole second, if the class defines it. */
  onClock(state: State, clock: Clock): Detection | null | void;
}

/** A whole second that event time has reached. */
export class Clock {
  readonly symbol: string;
  /** The event time in seconds since the Unix epoch, exact to a microsecond. */
  readonly seconds: number;
  /** The event time in microseconds since the Unix epoch, a whole number. */
  readonly micros: number;
}

/** One market update of one symbol. */
export class Tick {
  readonly symbol: string;
  /** The event time in seconds since the Unix epoch, exact to a microsecond. It never decreases within the symbol. */
  readonly seconds: number;
  /** The event time in microseconds since the Unix epoch, a whole number. */
  readonly micros: number;
  /** The last traded price in quote currency, finite and greater than 0. */
  readonly price: number;
  /** Returns the value of a column that the detector asks for; NaN if it is absent. */
  column(name: string): number;
}

/** A detected event: how rare it is, in 0 to 1; its direction; and numbers with which a person can check it. */
export class Detection {
  constructor(direction: Direction, confidence: number, evidence?: Record<string, number>);
  static up(confidence: number, evidence?: Record<string, number>): Detection;
  static down(confidence: number, evidence?: Record<string, number>): Detection;
  static neutral(confidence: number, evidence?: Record<string, number>): Detection;
}

/** Returns the functions of the contract, which the module exports. */
export function detector(kind: new () => Detector<any>): {
  describe: (...args: any[]) => any;
  configure: (...args: any[]) => any;
  introduce: (...args: any[]) => any;
  detect: (...args: any[]) => any;
  save: (...args: any[]) => any;
  restore: (...args: any[]) => any;
};
