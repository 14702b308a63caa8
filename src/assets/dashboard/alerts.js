// The live list of alerts, newest first, with filters that are part of the page's address.
// While the viewer reads the list (pointer on it, scrolled, a row in focus), it does not move, and new alerts are counted.

import { LONG_TIMEOUT_MS, follow, get, search } from "./api.js";
import { arrow, byId, detectorColor, duration, fixed, make, middle, moment, nanosToMillis, plural, price, say } from "./format.js";
import { visible } from "./visible.js";

/** The most rows on the page; "show older alerts" loads more. */
const SHOWN_MAX = 300;
const PAGE = 100;

const rows = byId("rows");
const form = byId("filter");

/** The most alerts that wait while the list is being read, perhaps all night; of more, the newest are kept. */
const WAITING_MAX = 1000;

let shown = [];
let waiting = [];
/** How many alerts have come since the list was updated, also those that are no longer among the waiting ones. */
let waitingCount = 0;
let seen = new Set();
let newest = null;
let older = null;
let stop = new AbortController();
let pause = new AbortController();
let followed = {};
let handlers = {};
let isLoaded = false;

/** Returns the filter as parameters of the API. */
function filter() {
  const given = Object.fromEntries(new FormData(form));
  return { detector: given.detector, symbol: given.symbol.trim(), min_confidence: given.min_confidence, stale: given.stale ? "" : "false" };
}

const compare = (a, b) => {
  const [[aTime, aSeq], [bTime, bSeq]] = [a, b].map(id => id.split("-").map(Number));
  return aTime - bTime || aSeq - bSeq;
};

/**
 * Starts the list. `on.open` is called with an alert that the viewer opens, and `on.doubt` when the host has lost its
 * connection to Redis, or has it again.
 */
export function begin(on) {
  handlers = on;
  const given = new URLSearchParams(location.search);
  for (const name of ["detector", "symbol", "min_confidence"]) {
    if (!given.has(name)) continue;
    if (name === "detector") know([{ name: given.get(name) }]);
    form.elements[name].value = given.get(name);
  }
  form.elements.stale.checked = given.get("stale") !== "false";
  let typed = null;
  form.addEventListener("input", () => {
    clearTimeout(typed);
    typed = setTimeout(changed, 250);
  });
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("reset", event => {
    event.preventDefault();
    set({ detector: "", symbol: "", min_confidence: "" });
  });
  byId("waiting").addEventListener("click", () => {
    rows.scrollTop = 0;
    flush();
  });
  byId("older").addEventListener("click", loadOlder);
  rows.addEventListener("pointerleave", flushIfFree);
  rows.addEventListener("scroll", flushIfFree);
  rows.addEventListener("focusout", () => setTimeout(flushIfFree));
  rows.addEventListener("keydown", walk);
  setInterval(flushIfFree, 500);
  // A stream of events takes one of the few connections that a browser has to a host, and one of the host's listeners.
  document.addEventListener("visibilitychange", connect);
  // What was typed before is in the form, and not in the address yet.
  if (form.checkValidity()) changed();
  else start();
}

/** Sets fields of the filter from elsewhere on the page. */
export function set(fields) {
  for (const [name, value] of Object.entries(fields)) form.elements[name].value = value;
  changed();
}

/** Adds detectors to the filter's choices. */
export function know(detectors) {
  const select = form.elements.detector;
  for (const { name } of detectors) {
    if (![...select.options].some(option => option.value === name)) select.append(new Option(visible(name), name));
  }
}

function changed() {
  if (!form.checkValidity()) return;
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(filter())) {
    if (value) query.set(name, value);
    else query.delete(name);
  }
  history.replaceState(null, "", (query.size > 0 ? `?${query}` : location.pathname) + location.hash);
  start();
}

function start() {
  stop.abort();
  stop = new AbortController();
  [shown, waiting, waitingCount, seen, newest, older, isLoaded] = [[], [], 0, new Set(), null, null, false];
  rows.replaceChildren();
  update();
  followed = filter();
  connect();
}

/** Follows the alerts from the newest one in the list, while somebody may see them. */
function connect() {
  pause.abort();
  if (document.hidden) {
    say(byId("live"), "not live while this page is hidden");
    return;
  }
  pause = new AbortController();
  const { signal } = stop;
  const current = followed;
  follow(`api/alerts/live?${search(current)}`, pause.signal, () => newest, {
    // Loading starts only now: otherwise alerts between the list and the start of the stream would be missed.
    open: () => load(current, signal),
    event: (name, data) => name === "alert" && add([JSON.parse(data)]),
    comment: text => {
      // What Redis has is in question, and so is the verdict.
      const isLost = text.startsWith("lost ");
      if (!isLost && text !== "resumed") return;
      say(byId("live"), isLost ? `not live: ${text.slice("lost ".length)}` : "live");
      handlers.doubt();
    },
    lost: error => say(byId("live"), error instanceof TypeError || error.name === "AbortError" ? "not live: the host does not answer" : `not live: ${error.message}`),
  });
}

async function load(current, signal) {
  say(byId("live"), "live");
  try {
    const page = await get("api/alerts", { ...current, limit: PAGE }, LONG_TIMEOUT_MS);
    if (signal.aborted) return;
    const isFirst = !isLoaded;
    isLoaded = true;
    if (isFirst) older = page.next ?? null;
    add(page.alerts, isFirst);
  } catch (error) {
    if (!signal.aborted) say(byId("live"), `the alerts could not be loaded: ${error.message}`);
  }
}

async function loadOlder() {
  const { signal } = stop;
  byId("older").disabled = true;
  try {
    const page = await get("api/alerts", { ...filter(), limit: PAGE, before: older }, LONG_TIMEOUT_MS);
    if (signal.aborted) return;
    older = page.next ?? null;
    const added = page.alerts.filter(alert => !seen.has(alert.stream_id));
    added.forEach(alert => seen.add(alert.stream_id));
    shown.push(...added);
    rows.append(...added.map(row));
  } catch (error) {
    say(byId("live"), `older alerts could not be loaded: ${error.message}`);
  }
  byId("older").disabled = false;
  update();
}

/** Adds alerts that are not in the list yet, in any order. */
function add(alerts, isFirst = false) {
  const fresh = alerts.filter(alert => !seen.has(alert.stream_id));
  for (const alert of fresh) {
    seen.add(alert.stream_id);
    if (newest === null || compare(alert.stream_id, newest) > 0) newest = alert.stream_id;
  }
  know(fresh.map(({ detector: name }) => ({ name })));
  waiting.push(...fresh);
  waitingCount += fresh.length;
  if (waiting.length > WAITING_MAX) {
    waiting.sort((a, b) => compare(b.stream_id, a.stream_id));
    // One more than the list may show, so that it is filled anew, and has no gap.
    waiting.length = SHOWN_MAX + 1;
    seen = new Set([...shown, ...waiting].map(alert => alert.stream_id));
  }
  if (isFirst || !isBeingRead()) later();
  else update();
}

let planned = false;

/** Schedules an update of the list: alerts that arrive together are shown together. */
function later() {
  if (planned) return;
  planned = true;
  setTimeout(() => {
    planned = false;
    // The pointer may have come to a row meanwhile, which must not move away from under it.
    if (isBeingRead()) update();
    else flush();
  }, 50);
}

function isBeingRead() {
  return rows.scrollTop > 4 || (shown.length > 0 && rows.matches(":hover, :has(:focus-visible)"));
}

function flushIfFree() {
  if (waiting.length > 0 && !isBeingRead()) flush();
}

function flush() {
  waiting.sort((a, b) => compare(b.stream_id, a.stream_id));
  const isNewer = waiting.length > 0 && (shown.length === 0 || compare(waiting.at(-1).stream_id, shown[0].stream_id) > 0);
  if (isNewer) {
    const added = waiting.slice(0, SHOWN_MAX);
    if (waiting.length > SHOWN_MAX) {
      // Alerts that are left out are loaded again by "show older alerts".
      [shown, older, seen] = [[], added.at(-1).stream_id, new Set(added.map(alert => alert.stream_id))];
    }
    if (shown.length === 0) rows.replaceChildren();
    shown = [...added, ...shown];
    rows.prepend(...added.map(row));
  } else if (waiting.length > 0) {
    shown = [...shown, ...waiting].sort((a, b) => compare(b.stream_id, a.stream_id));
    rows.replaceChildren(...shown.map(row));
  }
  [waiting, waitingCount] = [[], 0];
  if (shown.length > SHOWN_MAX && rows.scrollTop <= 4) {
    for (const alert of shown.splice(SHOWN_MAX)) seen.delete(alert.stream_id);
    while (rows.children.length > SHOWN_MAX) rows.lastElementChild.remove();
    older = shown.at(-1).stream_id;
  }
  byId("alerts").classList.toggle("with-flags", shown.some(({ stale, recovered }) => stale || recovered));
  byId("alerts").classList.toggle("with-day", shown.some(alert => moment(nanosToMillis(alert.time)).includes(" ")));
  if (rows.firstElementChild && !rows.querySelector("button[tabindex='0']")) rows.firstElementChild.firstElementChild.tabIndex = 0;
  update();
}

/** Parts a symbol where a line may end if it has to: before the expiry and before the strike of an option. */
const breakable = symbol => symbol.split(/(?<=[A-Za-z])(?=\d)/).flatMap((part, index) => index > 0 ? [make("wbr"), part] : [part]);

function row(alert) {
  const { detector, symbol, direction, confidence, stale, recovered, lag_ms: lag } = alert;
  const time = nanosToMillis(alert.time);
  const flags = make("span", { class: "flags" });
  if (stale) flags.append(make("span", { class: "badge warn", title: `the alert was committed ${duration(lag)} after the arrival of its tick` }, "late"));
  else if (recovered) flags.append(make("span", { class: "badge quiet", title: "the tick had been read before a crash or takeover" }, "recovered"));
  const button = make("button", { type: "button", tabindex: "-1", class: "row", onclick: () => choose(button, alert) },
    make("span", { class: "time" }, moment(time)),
    make("span", { class: `arrow ${direction}`, title: direction }, arrow(direction), make("span", { class: "unseen" }, ` ${direction} `)),
    make("span", { class: `dot ${detectorColor(detector)}`, title: detector }, middle(detector)),
    make("span", { class: "symbol", title: symbol }, ...breakable(middle(symbol))),
    make("span", { class: "number" }, price(alert.price)),
    make("span", { class: "number confidence" }, make("span", { class: "bar", style: `--share: ${Math.round((confidence ?? 0) * 100)}%` }), fixed(confidence, 2)),
    flags);
  return make("li", { "data-id": alert.stream_id }, button);
}

function choose(button, alert) {
  rows.querySelectorAll("[aria-current]").forEach(other => other.removeAttribute("aria-current"));
  button.setAttribute("aria-current", "true");
  reach(button);
  handlers.open(alert, button);
}

/** Makes this row the one that Tab reaches; the arrow keys reach the others. */
function reach(button) {
  rows.querySelectorAll("button[tabindex='0']").forEach(other => { other.tabIndex = -1; });
  button.tabIndex = 0;
  button.focus({ preventScroll: false });
}

function walk(event) {
  const item = event.target.closest("li");
  const to = {
    ArrowDown: item?.nextElementSibling, ArrowUp: item?.previousElementSibling,
    Home: rows.firstElementChild, End: rows.lastElementChild,
  }[event.key];
  if (!to) return;
  event.preventDefault();
  reach(to.firstElementChild);
}

/** Updates the buttons and the note around the rows. */
function update() {
  const button = byId("waiting");
  button.hidden = waiting.length === 0;
  say(button, `▲ ${plural(waitingCount, "new alert")}: show`);
  byId("older").hidden = older === null;
  const isEmpty = isLoaded && shown.length + waiting.length === 0;
  const isThereMore = isEmpty && older !== null;
  byId("none").hidden = !isEmpty;
  const { detector, symbol, min_confidence: least } = filter();
  const isFiltered = detector || symbol || least;
  const isWhole = symbol && !/[*?]/.test(symbol);
  const hint = isWhole ? `; a symbol without * and ? is meant as a whole: *${symbol}* matches all that contain it` : "";
  say(byId("none"), isThereMore ? `none of the newest alerts matches this filter${hint}` : isFiltered ? `no alert matches this filter yet${hint}` : emptyReason);
}

/** Shows the rows again, after the zone of their times has changed. */
export function redraw() {
  rows.replaceChildren(...shown.map(row));
}

let emptyReason = "no alerts yet: detectors warm up first, each for some minutes of market time";

/** Says why the list may be empty. */
export function explainEmpty(text) {
  emptyReason = text;
  update();
}
