// A map of what a state knows of each member of its group.

/**
 * A map from the symbols of a group's members to values, in the order of the symbols. A Map has the order in which members were
 * first seen.
 */
export class ByMember {
  constructor(entries = []) {
    this._values = new Map();
    this._names = [];
    for (const [symbol, value] of entries) this.set(symbol, value);
  }

  get size() {
    return this._names.length;
  }

  /** Returns the value of a member, which is `initial()` if the member is new. */
  entry(symbol, initial) {
    const value = this._values.get(symbol);
    if (value !== undefined || this._values.has(symbol)) return value;
    const made = initial();
    this.set(symbol, made);
    return made;
  }

  /** Returns the value of a member; undefined if there is none. */
  get(symbol) {
    return this._values.get(symbol);
  }

  has(symbol) {
    return this._values.has(symbol);
  }

  set(symbol, value) {
    if (!this._values.has(symbol)) {
      if (typeof symbol !== "string") throw new TypeError(`a member is named by its symbol, not by ${String(symbol)}`);
      this._names.splice(this._position(symbol), 0, symbol);
    }
    this._values.set(symbol, value);
    return this;
  }

  delete(symbol) {
    if (!this._values.delete(symbol)) return false;
    this._names.splice(this._position(symbol), 1);
    return true;
  }

  clear() {
    this._values.clear();
    this._names = [];
  }

  /** The symbols, in their order. */
  keys() {
    return [...this._names];
  }

  /** The values, in the order of the symbols. */
  values() {
    return this._names.map((symbol) => this._values.get(symbol));
  }

  /** The symbols and values, in the order of the symbols. */
  entries() {
    return this._names.map((symbol) => [symbol, this._values.get(symbol)]);
  }

  [Symbol.iterator]() {
    return this.entries()[Symbol.iterator]();
  }

  // Where a symbol is, or belongs.
  _position(symbol) {
    let [low, high] = [0, this._names.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (isBefore(this._names[middle], symbol)) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

// Whether a text is before another in the order of their characters, as in all languages. JavaScript's `<` compares UTF-16, in
// which characters beyond U+FFFF are before some of those up to it.
function isBefore(one, other) {
  const length = Math.min(one.length, other.length);
  for (let at = 0; at < length; at += 1) {
    const [a, b] = [one.charCodeAt(at), other.charCodeAt(at)];
    if (a !== b) return rank(a) < rank(b);
  }
  return one.length < other.length;
}

function rank(unit) {
  if (unit < 0xd800) return unit;
  return unit < 0xe000 ? unit + 0x2000 : unit - 0x800;
}
