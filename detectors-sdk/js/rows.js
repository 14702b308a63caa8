// What a detector is called with: ticks, bars, rows of snapshots, and seconds.
//
// There is a row for each call, so each class has its fields in one constructor: private fields and `super` take twice the time
// in QuickJS.

const MISSING_COLUMN = "add it to requiredColumns or optionalColumns";
const MISSING_TEXT = "add it to requiredTexts or optionalTexts";

/** Compares values with limits, and records each comparison when somebody asks why there is a detection, or none. */
export class Gates {
  constructor(record) {
    this._record = record;
  }

  above(name, value, limit) {
    return this.holds(name, value, limit, value > limit);
  }

  atLeast(name, value, limit) {
    return this.holds(name, value, limit, value >= limit);
  }

  below(name, value, limit) {
    return this.holds(name, value, limit, value < limit);
  }

  atMost(name, value, limit) {
    return this.holds(name, value, limit, value <= limit);
  }

  holds(name, value, limit, holds) {
    if (this._record !== null) this._record.push({ name, value: Number(value), limit: Number(limit), holds: Boolean(holds) });
    return holds;
  }
}

// What all rows have in common. The fields are set by the classes below.
class Row {
  /** The event time in seconds since the Unix epoch, exact to a microsecond. */
  get seconds() {
    return this._batch.time(this._row) / 1e9;
  }

  /** The event time in microseconds since the Unix epoch, a whole number. */
  get micros() {
    // A Number has such times exact to 128 ns, so the nearest microsecond is the right one.
    return Math.round(this._batch.time(this._row) / 1000);
  }

  /** The event time in nanoseconds since the Unix epoch, a BigInt. */
  get nanos() {
    return this._batch.nanos(this._row);
  }

  get gates() {
    return this._batch.gates;
  }

  /** The value of a column that the detector asks for; NaN if it is absent. */
  column(name) {
    const position = this._batch.shape.names.get(name);
    if (position === undefined) throw new RangeError(`the detector does not ask for the column ${name}: ${MISSING_COLUMN}`);
    return this._batch.column(position, this._row);
  }

  /** The text of the reference data of this name; null if there is none for the symbol. */
  text(name) {
    const position = this._batch.shape.texts.indexOf(name);
    if (position < 0) throw new RangeError(`the detector does not ask for the text ${name}: ${MISSING_TEXT}`);
    return this._slot.texts[position] ?? null;
  }
}

/** One market update of one symbol. */
export class Tick {
  constructor(batch, row, slot, group) {
    this.symbol = slot.name;
    this.price = batch.prices[row];
    this.group = group;
    this._batch = batch;
    this._row = row;
    this._slot = slot;
  }
}

/** What happened to one symbol in a span of the session. */
export class Bar {
  constructor(batch, row, slot, group, lengthSeconds) {
    this.symbol = slot.name;
    this.price = batch.prices[row];
    this.group = group;
    this.lengthSeconds = lengthSeconds;
    this._batch = batch;
    this._row = row;
    this._slot = slot;
  }

  get open() {
    return this.column("open");
  }

  get high() {
    return this.column("high");
  }

  get low() {
    return this.column("low");
  }

  get close() {
    return this.price;
  }

  get quantity() {
    return this.column("quantity");
  }

  get count() {
    return this.column("count");
  }

  get vwap() {
    return this.column("vwap");
  }
}

/** What was known of one symbol at one step. */
export class Snapshot {
  constructor(batch, row, slot, group, lengthSeconds, isLast) {
    this.symbol = slot.name;
    this.price = batch.prices[row];
    this.group = group;
    this.lengthSeconds = lengthSeconds;
    this.isLast = isLast;
    this._batch = batch;
    this._row = row;
    this._slot = slot;
  }
}

/** A whole second that event time has reached. `symbol` or `group` is the owner of the state that is passed along. */
export class Clock {
  constructor(batch, row, symbol, group) {
    this.symbol = symbol;
    this.group = group;
    this._batch = batch;
    this._row = row;
  }

  get seconds() {
    return this._batch.time(this._row) / 1e9;
  }

  get micros() {
    return Math.round(this._batch.time(this._row) / 1000);
  }

  get nanos() {
    return this._batch.nanos(this._row);
  }

  get gates() {
    return this._batch.gates;
  }
}

for (const kind of [Tick, Bar, Snapshot]) Object.setPrototypeOf(kind.prototype, Row.prototype);
