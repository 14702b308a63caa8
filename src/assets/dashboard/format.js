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

// Times are in the viewer's time zone, which the page names.
const clockFormat = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayFormat = new Intl.DateTimeFormat("en-GB", { day: "2-digit", month: "short" });
const fullFormat = new Intl.DateTimeFormat("en-GB", {
  weekday: "short", day: "2-digit", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
  fractionalSecondDigits: 3, timeZoneName: "shortOffset",
});

export const clock = ms => isNumber(ms) ? clockFormat.format(ms) : NONE;
export const full = ms => isNumber(ms) ? fullFormat.format(ms) : NONE;

/** Formats the time of day, with the date if it is not today. */
export function moment(ms) {
  if (!isNumber(ms)) return NONE;
  const isToday = new Date(ms).toDateString() === new Date().toDateString();
  return isToday ? clock(ms) : `${dayFormat.format(ms)} ${clock(ms)}`;
}

export function zone() {
  const { timeZone } = new Intl.DateTimeFormat().resolvedOptions();
  const parts = new Intl.DateTimeFormat("en-GB", { timeZoneName: "shortOffset" }).formatToParts();
  return `${timeZone} (${parts.find(part => part.type === "timeZoneName").value})`;
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
