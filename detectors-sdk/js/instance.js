// A configured detector and its states, each of a symbol or a group. Nothing here differs between two runs: states are visited
// in the order of their ids.

import { Detection, Detector, Reject } from "./detector.js";
import { Batch, CLOCK, Detections, LAST_OF_SNAPSHOT } from "./packed.js";
import { Bar, Clock, Gates, Snapshot, Tick } from "./rows.js";
import { dump, load } from "./state.js";

/** The error of a result: the host gets its text, and the call has not failed. */
export class Answer extends Error {}

/** The implementation of the contract's functions. */
export class Instance {
  constructor(kind) {
    this.kind = kind;
    this.columns = [...kind.requiredColumns, ...kind.optionalColumns];
    this.feeds = kind.feeds.map(parseFeed);
    const names = [...this.columns, ...Object.keys(kind.computed)];
    this.shape = {
      names: new Map(names.map((name, position) => [name, position])),
      texts: [...kind.requiredTexts, ...kind.optionalTexts],
      hasGroups: kind.scope !== "symbol",
      hasFeeds: !(this.feeds.length === 1 && this.feeds[0].tag === "ticks"),
    };
    this.wantsClock = kind.prototype.onClock !== Detector.prototype.onClock;
    this.detector = null;
    // The length of each feed, in seconds.
    this.lengths = [];
    // By id: the name of a symbol or group, and its state after the first row.
    this.slots = new Map();
    // The ids of those that may own a state, in their order.
    this.owners = [];
    // The newest id of each symbol, for detections of groups, which name symbols.
    this.symbols = new Map();
  }

  describe() {
    const { kind } = this;
    if (typeof kind.detectorName !== "string") {
      throw new TypeError(`${kind.name} needs a name, such as static detectorName = "jump"`);
    }
    const computed = ([name, declared]) => {
      return { name, ...declared, feed: parseFeed(declared.feed), length: length(declared.length) };
    };
    return {
      name: kind.detectorName,
      version: kind.version,
      description: kind.description,
      scope: kind.scope,
      feeds: this.feeds,
      columns: this.columns.map((name) => ({ name, required: kind.requiredColumns.includes(name) })),
      computed: Object.entries(kind.computed).map(computed),
      wakes: [
        ...kind.wakeAbove.map((column) => ({ tag: "above", val: column })),
        ...kind.wakeBelow.map((column) => ({ tag: "below", val: column })),
      ],
      texts: this.shape.texts.map((name) => ({ name, required: kind.requiredTexts.includes(name) })),
      params: Object.entries(kind.params).map(([name, declared]) => ({ name, ...declared })),
      stateVersion: kind.stateVersion,
      stateOutlivesParams: kind.stateOutlivesParams,
      wantsClock: this.wantsClock,
    };
  }

  configure(values) {
    const made = new this.kind();
    for (const [name, { val }] of values) made[name] = typeof val === "bigint" ? Number(val) : val;
    this.lengths = this.feeds.map((feed) => (feed.tag === "ticks" ? 0 : resolve(feed.val, made)));
    try {
      made.configure();
    } catch (error) {
      throw error instanceof Reject ? new Answer(error.message) : error;
    }
    this.detector = made;
    return { warmUpSeconds: made.warmUpSeconds() };
  }

  introduce(symbols, groups) {
    const { hasGroups } = this.shape;
    for (const { id, name, texts } of symbols) {
      this.slots.set(id >>> 0, { name, texts, state: undefined, hasState: false });
      if (hasGroups) this.symbols.set(name, id >>> 0);
    }
    for (const { id, name } of groups) this.slots.set(id >>> 0, { name, texts: [], state: undefined, hasState: false });
    const added = (hasGroups ? groups : symbols).map(({ id }) => id >>> 0);
    this.owners = [...new Set([...this.owners, ...added])].sort((one, other) => one - other);
  }

  detect(rows, values) {
    return this.process(rows, values, null);
  }

  probe(rows, values) {
    const judgments = [];
    this.process(rows, values, judgments);
    return judgments;
  }

  process(rows, values, judgments) {
    const { detector: made, slots, shape } = this;
    if (made === null) throw new Error("the host called `detect` before `configure`");
    const found = new Found(this, judgments);
    const batch = new Batch(shape, rows, values, found.gates);
    const { symbols, owners } = batch;
    for (let row = 0; row < rows; row++) {
      const symbol = symbols[row];
      if (symbol === CLOCK) {
        if (this.wantsClock) this.strike(batch, row, found);
        continue;
      }
      const owner = owners[row];
      const slot = slots.get(symbol);
      const holder = owner === symbol ? slot : slots.get(owner);
      if (slot === undefined || holder === undefined) {
        throw new Error(`the host sent a row of symbol ${symbol} of ${owner} before introducing them`);
      }
      if (!holder.hasState) {
        holder.state = made.newState();
        holder.hasState = true;
      }
      const group = shape.hasGroups ? holder.name : "";
      const feed = batch.feed(row);
      const index = feed & ~LAST_OF_SNAPSHOT;
      const length = this.lengths[index];
      let detection;
      let method = "onTick";
      switch (this.feeds[index].tag) {
        case "ticks":
          detection = made.onTick(holder.state, new Tick(batch, row, slot, group));
          break;
        case "bars":
          method = "onBar";
          detection = made.onBar(holder.state, new Bar(batch, row, slot, group, length));
          break;
        default: {
          method = "onSnapshot";
          const isLast = (feed & LAST_OF_SNAPSHOT) !== 0;
          detection = made.onSnapshot(holder.state, new Snapshot(batch, row, slot, group, length, isLast));
        }
      }
      if (detection != null || judgments !== null) found.add(row, owner, detection, method);
    }
    return found.detections.bytes();
  }

  strike(batch, row, found) {
    const { hasGroups } = this.shape;
    for (const owner of this.owners) {
      const { hasState, state, name } = this.slots.get(owner);
      if (!hasState) continue;
      const clock = new Clock(batch, row, hasGroups ? "" : name, hasGroups ? name : "");
      found.add(row, owner, this.detector.onClock(state, clock), "onClock");
    }
  }

  save(owners) {
    const saved = [];
    for (const id of owners) {
      const slot = this.slots.get(id >>> 0);
      if (slot?.hasState) saved.push({ owner: id >>> 0, state: dump(slot.state) });
    }
    return saved;
  }

  restore(stateVersion, saved) {
    if (stateVersion !== this.kind.stateVersion) {
      throw new Answer(`saved under state version ${stateVersion}, this detector reads ${this.kind.stateVersion}`);
    }
    // All or nothing: everything is read before anything changes.
    const read = saved.map(({ owner, state }) => {
      const slot = this.slots.get(owner >>> 0);
      if (slot === undefined) throw new Answer(`symbol or group ${owner >>> 0} was not introduced`);
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

// What a call has found so far.
class Found {
  constructor(instance, judgments) {
    this.instance = instance;
    this.judgments = judgments;
    this.detections = new Detections();
    this.record = [];
    this.gates = new Gates(judgments === null ? null : this.record);
    this.idOf = (symbol) => idOf(instance, symbol);
  }

  add(row, owner, detection, method) {
    if (detection != null) {
      if (!(detection instanceof Detection)) {
        throw new TypeError(`${method} returned ${String(detection)}, expected a Detection or nothing`);
      }
      this.detections.add(detection, row, owner, this.idOf);
    }
    if (this.judgments !== null && this.record.length > 0) {
      this.judgments.push({ row, owner, gates: this.record.splice(0) });
    }
  }
}

function idOf(instance, symbol) {
  if (!instance.shape.hasGroups) throw new RangeError("only a detection of a group is about a member, or has members");
  const id = instance.symbols.get(symbol);
  if (id === undefined) {
    throw new RangeError(`a detection names the symbol ${String(symbol)}, which the host has not introduced`);
  }
  return id;
}

/** Returns what "ticks", "bars:60" or "snapshots:step_s" means, as the contract has it. */
function parseFeed(feed) {
  const [, tag, seconds] = String(feed).match(/^(ticks|bars|snapshots)(?::(.+))?$/) ?? [];
  if (tag === undefined || (tag === "ticks") !== (seconds === undefined)) {
    throw new RangeError(`a feed is "ticks", "bars:60", "snapshots:60" or the like, not ${JSON.stringify(feed)}`);
  }
  return tag === "ticks" ? { tag } : { tag, val: length(/^\d+$/.test(seconds) ? Number(seconds) : seconds) };
}

function length(value) {
  return typeof value === "string" ? { tag: "param", val: value } : { tag: "fixed", val: value };
}

function resolve({ tag, val }, made) {
  if (tag === "fixed") return val;
  const value = made[val];
  if (Number.isInteger(value)) return value;
  throw new Answer(`a length is of parameter \`${val}\`, but no integer parameter has that name`);
}
