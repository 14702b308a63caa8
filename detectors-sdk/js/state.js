// States as bytes, and back.
//
// A state is saved as JSON, so that it can be read by eye. What is restored equals what was saved in every bit: numbers are
// written with all their digits, and keys keep their order. What JSON does not have (NaN, -0, undefined, BigInts, Maps, Sets,
// Float64Arrays, ByMembers) is an object with one key that begins with `~`. The same state always gives the same bytes.

import { ByMember } from "./members.js";

/** Returns a state as bytes; throws a TypeError if it contains something that can't be saved. */
export function dump(state) {
  around.clear();
  return encode(JSON.stringify(pack(state, "state")));
}

/** Returns the state that `dump` made these bytes of. */
export function load(bytes) {
  return unpack(JSON.parse(decode(bytes)));
}

// The objects around the one that is being packed: one of them inside itself would have no end.
const around = new Set();

function pack(value, path) {
  switch (typeof value) {
    case "string":
    case "boolean":
      return value;
    case "number":
      if (Number.isFinite(value) && !Object.is(value, -0)) return value;
      return { "~number": Object.is(value, -0) ? "-0" : String(value) };
    case "bigint":
      return { "~bigint": String(value) };
    case "undefined":
      return { "~undefined": true };
    case "object":
      return value === null ? null : packInside(value, path);
    default:
      throw unsaveable(path, `a ${typeof value}`);
  }
}

function packInside(value, path) {
  if (around.has(value)) throw new TypeError(`${path} contains itself, which can't be saved`);
  around.add(value);
  const packed = packObject(value, path);
  around.delete(value);
  return packed;
}

function packObject(value, path) {
  if (Array.isArray(value)) return Array.from(value, (item, index) => pack(item, `${path}[${index}]`));
  const pairs = (entries) => entries.map(([key, item]) => [pack(key, `a key of ${path}`), pack(item, `${path}.${String(key)}`)]);
  switch (Object.getPrototypeOf(value)) {
    case Object.prototype: {
      const entries = Object.entries(value);
      if (entries.some(([key]) => key.startsWith("~"))) return { "~object": pairs(entries) };
      return Object.fromEntries(entries.map(([key, item]) => [key, pack(item, `${path}.${key}`)]));
    }
    case Map.prototype:
      return { "~map": pairs([...value]) };
    case ByMember.prototype:
      return { "~members": pairs(value.entries()) };
    case Set.prototype:
      return { "~set": Array.from(value, (item) => pack(item, `an item of ${path}`)) };
    case Float64Array.prototype:
      return { "~f64": Array.from(value, (item) => pack(item, path)) };
    default:
      throw unsaveable(path, `a ${value.constructor?.name ?? "strange object"}`);
  }
}

function unsaveable(path, what) {
  const can = "numbers, texts, booleans, null, arrays, plain objects, Maps, Sets, ByMembers, BigInts and Float64Arrays";
  return new TypeError(`${path} is ${what}, which can't be saved: use ${can}`);
}

function unpack(value) {
  if (Array.isArray(value)) return value.map(unpack);
  if (value === null || typeof value !== "object") return value;
  const [key] = Object.keys(value);
  const tagged = value[key];
  const pairs = () => tagged.map(([name, item]) => [unpack(name), unpack(item)]);
  switch (key) {
    case "~number":
      return Number(tagged);
    case "~bigint":
      return BigInt(tagged);
    case "~undefined":
      return undefined;
    case "~object":
      return Object.fromEntries(pairs());
    case "~map":
      return new Map(pairs());
    case "~members":
      return new ByMember(pairs());
    case "~set":
      return new Set(tagged.map(unpack));
    case "~f64":
      return Float64Array.from(tagged, unpack);
    default:
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, unpack(item)]));
  }
}

// QuickJS has no TextEncoder. JSON may contain any character, so those beyond ASCII are written as JSON's own escapes.

function encode(text) {
  const ascii = text.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return Uint8Array.from(ascii, (character) => character.charCodeAt(0));
}

function decode(bytes) {
  // In pieces, since a call takes a limited number of arguments.
  const PIECE = 4096;
  const all = Uint8Array.from(bytes);
  let text = "";
  for (let at = 0; at < all.length; at += PIECE) text += String.fromCharCode(...all.subarray(at, at + PIECE));
  return text;
}
