// Formats of numbers and times, and helpers for elements, shared by the whole page.
// External data (symbols, fault texts) only ever becomes text, never markup, and hidden characters in it are shown.

import { visible } from "./visible.js";

export const byId = id => document.getElementById(id);

/** Makes an element with attributes and children; strings become text. Attributes that are null are left out. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : visible(value));
  }
  const shown = children.filter(child => child !== null && child !== undefined);
  element.append(...shown.map(child => child instanceof Node ? child : visible(child)));
  return element;
}

/** Sets a text if it has changed, so that a selection stays. */
export function say(element, text) {
  const shown = visible(text);
  if (element.textContent !== shown) element.textContent = shown;
}

/** A longer name is shortened: no instrument and no detector has one. */
const NAME_MAX = 64;

/** Shortens a name that is too long in its middle: its end may say which option it is. */
export function middle(name) {
  const characters = [...String(name ?? "")];
  if (characters.length <= NAME_MAX) return characters.join("");
  const half = NAME_MAX / 2;
  return `${characters.slice(0, half - 1).join("")}…${characters.slice(-half).join("")}`;
}

const NONE = "–";
const isNumber = value => typeof value === "number" && Number.isFinite(value);
const integer = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 7 });
const one = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });
const money = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 6 });

export const count = value => isNumber(value) ? integer.format(value) : NONE;
export const figure = value => isNumber(value) ? precise.format(value) : typeof value === "string" ? value : NONE;
export const rate = value => !isNumber(value) ? NONE : value > 0 && value < 10 ? one.format(value) : integer.format(value);
export const price = value => isNumber(value) ? money.format(value) : NONE;
/** Formats a number with exactly so many decimal places. */
export const exact = (value, digits) => isNumber(value) ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : NONE;
export const fixed = (value, digits) => isNumber(value) ? value.toFixed(digits) : NONE;
export const percent = share => isNumber(share) ? `${one.format(share * 100)} %` : NONE;
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

/** Formats a duration: 40 ms, 5.2 s, 3 min 12 s, 2 h 5 min, 3 d 4 h. */
export function duration(ms) {
  if (!isNumber(ms)) return NONE;
  if (ms < 1000) return `${ms > 0 && ms < 10 ? one.format(ms) : integer.format(ms)} ms`;
  const seconds = ms / 1000;
  if (seconds < 59.95) return `${seconds.toFixed(1)} s`;
  const parts = (value, big, small, ratio) => {
    const whole = Math.floor(value / ratio);
    return `${integer.format(whole)} ${big} ${Math.floor(value - whole * ratio)} ${small}`;
  };
  if (seconds < 3600) return parts(seconds, "min", "s", 60);
  if (seconds < 86400) return parts(seconds / 60, "h", "min", 60);
  return parts(seconds / 3600, "d", "h", 24);
}

/** Formats a duration for an axis, with no more digits than needed. */
export function shortDuration(ms) {
  if (ms < 1000) return `${one.format(ms)} ms`;
  if (ms < 120e3) return `${one.format(ms / 1000)} s`;
  return `${one.format(ms / 60e3)} min`;
}

/** Formats a duration in whole seconds, for values that are updated once a second. */
export const seconds = ms => ms < 60e3 ? `${Math.floor(ms / 1000)} s` : duration(ms);

// Times are in the zone that the host has for people, by default the exchange's, wherever the viewer is.
let zoneName = null;
let zoneLabel = "";
let formats = {};

/** Sets the zone of all times: its IANA name, and the label that times have. Returns whether it has changed. */
export function setZone(name, label) {
  if (name === zoneName) return false;
  [zoneName, zoneLabel] = [name, label];
  let timeZone = name;
  try {
    new Intl.DateTimeFormat("en-GB", { timeZone });
  } catch {
    // A browser may know fewer zones than the host. Its own is wrong, so times are in one that nobody takes for the exchange's.
    [timeZone, zoneLabel] = ["UTC", "UTC"];
  }
  const format = options => new Intl.DateTimeFormat("en-GB", { timeZone, ...options });
  const time = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const day = { day: "2-digit", month: "short" };
  formats = {
    clock: format(time), day: format(day), full: format({ weekday: "short", ...day, year: "numeric", ...time, fractionalSecondDigits: 3 }),
    parts: format({ ...time, day: "numeric", month: "numeric", year: "numeric", hourCycle: "h23" }),
  };
  document.querySelectorAll(".zone").forEach(element => say(element, zoneLabel));
  return true;
}

/** The label of the zone, such as IST; empty until the host has answered. */
export const zone = () => zoneLabel;

/** Describes the zone in which times are. */
export const zoneSentence = () => `times: ${zoneName} (${zoneLabel})`;

export const clock = ms => isNumber(ms) && formats.clock ? formats.clock.format(ms) : NONE;
export const full = ms => isNumber(ms) && formats.full ? `${formats.full.format(ms)} ${zoneLabel}` : NONE;

/** Formats the time of day with its zone, for a place that has no column or axis that names it. */
export const labelled = ms => `${moment(ms)} ${zoneLabel}`;

/** Formats the time of day, with the date if it is not today. */
export function moment(ms) {
  if (!isNumber(ms) || !formats.day) return NONE;
  const isToday = formats.day.format(ms) === formats.day.format(Date.now()) && Math.abs(Date.now() - ms) < 2 * 86_400_000;
  return isToday ? clock(ms) : `${formats.day.format(ms)} ${clock(ms)}`;
}

/** Returns by how much the zone's wall clock is ahead of UTC at a time, ms; both as milliseconds since 1970. */
export function wallOffset(ms) {
  if (!formats.parts || !isNumber(ms)) return 0;
  const { year, month, day, hour, minute, second } = Object.fromEntries(formats.parts.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
  return Date.UTC(year, month - 1, day, hour, minute, second) - Math.floor(ms / 1000) * 1000;
}

/** Converts nanoseconds since 1970 to milliseconds. A number can't hold them exactly; the error is below a microsecond. */
export const nanosToMillis = nanos => isNumber(nanos) ? nanos / 1e6 : null;

const ARROWS = { up: "▲", down: "▼", none: "●" };
export const arrow = direction => ARROWS[direction] ?? "●";

/** Returns the colour of a detector, which is the same in lists and charts. */
const names = [];
export function detectorColor(name) {
  if (!names.includes(name)) names.push(name);
  return `series-${names.indexOf(name) % 8}`;
}
