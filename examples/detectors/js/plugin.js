// Tells when one tick moves the price by at least `move_pct` percent.
//
// Whole numbers of 64 bits (times) are BigInts here, an absent option arrives as null: compare it by `== null`.

// Stands in `symbols` for a clock row: event time has reached a whole second. We don't need it.
const CLOCK = 0xffffffff;

// A state is a byte 1 and the last price, little-endian.
const STATE_VERSION = 1;
const STATE_BYTES = 9;

let movePct;
// Of each symbol that was introduced, its last price; null before the first tick.
const prices = new Map();

export function describe() {
  return {
    name: "jump",
    version: "0.1.0",
    description: "Tells when one tick moves the price by a lot.",
    columns: [],
    params: [
      {
        name: "move_pct",
        default: { tag: "number", val: 0.5 },
        minimum: 0.01,
        maximum: 50.0,
        choices: [],
        unit: "%",
        doc: "Smallest move that counts.",
      },
    ],
    stateVersion: STATE_VERSION,
    stateOutlivesParams: false,
    wantsClock: false,
  };
}

export function configure(params) {
  movePct = new Map(params).get("move_pct").val;
  return { warmUpSeconds: 0 };
}

export function introduce(symbols) {
  for (const { id } of symbols) prices.set(id, null);
}

export function detect({ symbols, prices: ticks }) {
  const found = [];
  for (let row = 0; row < symbols.length; row++) {
    const symbol = symbols[row];
    if (symbol === CLOCK) continue;
    const last = prices.get(symbol);
    prices.set(symbol, ticks[row]);
    if (last === null) continue;
    const moved = (ticks[row] / last - 1.0) * 100.0;
    if (Math.abs(moved) >= movePct) {
      found.push({
        row,
        symbol,
        confidence: 1.0 - movePct / Math.abs(moved),
        direction: moved > 0 ? "up" : "down",
        evidence: [["move_pct", moved]],
      });
    }
  }
  return found;
}

export function save(symbols) {
  const saved = [];
  for (const symbol of symbols) {
    const price = prices.get(symbol);
    if (price == null) continue;
    const state = new DataView(new ArrayBuffer(STATE_BYTES));
    state.setUint8(0, 1);
    state.setFloat64(1, price, true);
    saved.push({ symbol, state: new Uint8Array(state.buffer) });
  }
  return saved;
}

export function restore(stateVersion, states) {
  if (stateVersion !== STATE_VERSION) {
    throw `saved under state version ${stateVersion}, this detector reads ${STATE_VERSION}`;
  }
  // All or nothing: read first.
  const read = states.map(({ symbol, state }) => {
    if (!prices.has(symbol)) throw `symbol ${symbol} was not introduced`;
    const bytes = Uint8Array.from(state);
    if (bytes.length !== STATE_BYTES || bytes[0] !== 1) throw `the state of symbol ${symbol} can't be read`;
    return [symbol, new DataView(bytes.buffer).getFloat64(1, true)];
  });
  for (const [symbol, price] of read) prices.set(symbol, price);
}
