// The rows of a call as the host packs them, and the detections as the host reads them: both forms are those of `detect` in the
// contract's WIT. Nothing is copied: a column is a view of the bytes of the call.

import { utf8 } from "./report.js";

/** In `symbols`, a clock row: event time has reached a whole second. */
export const CLOCK = 0xffffffff;

/** The bit of a row's feed that marks the last row of a snapshot. */
export const LAST_OF_SNAPSHOT = 0x80;

const MEMBERS_MAX = 0xffff;
const NUMBERS_MAX = 0xff;
const NAME_BYTES_MAX = 0xff;

const TWO_TO_32 = 4294967296;

/** The rows of a call, column by column. */
export class Batch {
  constructor(shape, rows, values, gates) {
    this.shape = shape;
    this.rows = rows;
    this.gates = gates;
    const columns = shape.names.size;
    const expected = rows * (8 * (2 + columns) + 4 + (shape.hasGroups ? 4 : 0) + (shape.hasFeeds ? 1 : 0));
    if (values.length !== expected) {
      throw new RangeError(`the host sent ${values.length} bytes for ${rows} rows, expected ${expected}`);
    }
    // Views of wider numbers have to begin at a multiple of their size.
    const { buffer, byteOffset } = values.byteOffset % 8 === 0 ? values : values.slice();
    let at = byteOffset;
    const take = (Kind, count) => {
      const view = new Kind(buffer, at, count);
      at += view.byteLength;
      return view;
    };
    // Halves of 64 bits, since a BigInt for each row would cost more than all else.
    this.times = take(Uint32Array, 2 * rows);
    this.prices = take(Float64Array, rows);
    this.columns = take(Float64Array, rows * columns);
    this.symbols = take(Uint32Array, rows);
    this.owners = shape.hasGroups ? take(Uint32Array, rows) : this.symbols;
    this.feeds = shape.hasFeeds ? take(Uint8Array, rows) : null;
  }

  /** The time of a row in ns, rounded to the nearest Number. */
  time(row) {
    return this.times[2 * row + 1] * TWO_TO_32 + this.times[2 * row];
  }

  /** The time of a row in ns, a BigInt. */
  nanos(row) {
    return (BigInt(this.times[2 * row + 1]) << 32n) | BigInt(this.times[2 * row]);
  }

  column(position, row) {
    return this.columns[position * this.rows + row];
  }

  feed(row) {
    return this.feeds === null ? 0 : this.feeds[row];
  }
}

/** The detections of a call, packed. */
export class Detections {
  constructor() {
    this._bytes = new Uint8Array(0);
    this._view = null;
    this._length = 0;
  }

  /** Appends a detection of the state of `owner`. `idOf` returns the id of a symbol, given its name. */
  add(detection, row, owner, idOf) {
    const { confidence, direction, subject, symbols } = detection;
    const members = symbols.map(idOf);
    check("members", members.length, MEMBERS_MAX);
    this._room(23 + 4 * members.length);
    this._u32(row);
    this._u32(owner);
    this._u32(subject === null ? owner : idOf(subject));
    this._f64(confidence);
    this._u8(["up", "down", "none"].indexOf(direction));
    this._u8(members.length & 255);
    this._u8(members.length >> 8);
    for (const member of members) this._u32(member);
    this._evidence(detection.evidence);
  }

  /** All bytes. */
  bytes() {
    return this._bytes.subarray(0, this._length);
  }

  // A number that isn't finite is left out.
  _evidence(evidence) {
    const numbers = Object.entries(evidence).filter(([name, value]) => {
      if (typeof value !== "number") throw new TypeError(`the evidence ${name} is ${String(value)}, expected a number`);
      return Number.isFinite(value);
    });
    check("numbers of evidence", numbers.length, NUMBERS_MAX);
    this._room(1);
    this._u8(numbers.length);
    for (const [name, value] of numbers) {
      const encoded = encode(name);
      check("bytes in a name of evidence", encoded.length, NAME_BYTES_MAX);
      this._room(9 + encoded.length);
      this._u8(encoded.length);
      this._bytes.set(encoded, this._length);
      this._length += encoded.length;
      this._f64(value);
    }
  }

  // Makes room for so many bytes more.
  _room(count) {
    if (this._length + count <= this._bytes.length) return;
    const grown = new Uint8Array(Math.max(256, 2 * this._bytes.length, this._length + count));
    grown.set(this._bytes);
    this._bytes = grown;
    this._view = new DataView(grown.buffer);
  }

  _u8(value) {
    this._bytes[this._length] = value;
    this._length += 1;
  }

  _u32(value) {
    this._view.setUint32(this._length, value, true);
    this._length += 4;
  }

  _f64(value) {
    this._view.setFloat64(this._length, value, true);
    this._length += 8;
  }
}

function check(what, count, maximum) {
  if (count > maximum) throw new RangeError(`a detection has at most ${maximum} ${what}, not ${count}`);
}

// The names of evidence that were encoded before. A detector has a handful.
const ENCODED_MAX = 256;
const encodedNames = new Map();

function encode(name) {
  let bytes = encodedNames.get(name);
  if (bytes === undefined) {
    bytes = [];
    for (const character of name) bytes.push(...utf8(character.codePointAt(0)));
    if (encodedNames.size < ENCODED_MAX) encodedNames.set(name, bytes);
  }
  return bytes;
}
