// Asks the host. A token, if it wants one, comes from the address (`/#token=…`) or from the viewer, is kept as
// long as the tab, and goes into a header: hence live alerts come through fetch as well, not through EventSource.

import { byId, say } from "./format.js";

/** A host that takes longer is as good as silent; where it has to look through a stream it may take longer. */
const PATIENCE_MS = 3500;
export const LONG_PATIENCE_MS = 15_000;

/** The host sends a sign of life more often than this, also when there is no alert. */
const LIVE_SILENCE_MS = 40_000;

const KEY = "tickhound-token";
let token = null;
try {
  token = sessionStorage.getItem(KEY);
} catch { /* a browser may forbid it; then the token lasts as long as the page */ }

const given = new URLSearchParams(location.hash.slice(1)).get("token");
if (given) {
  keep(given);
  history.replaceState(null, "", location.pathname + location.search);
}

function keep(value) {
  token = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch { /* as above */ }
}

let asking = null;

/** Asks the viewer for a token, once for all who wait for it. */
function askForToken() {
  asking ??= new Promise(resolve => {
    const dialog = byId("token");
    if (token) say(byId("token-why"), "The one that it was given is not the right one.");
    dialog.addEventListener("close", () => {
      const input = dialog.querySelector("input");
      keep(input.value.trim());
      input.value = "";
      asking = null;
      resolve();
    }, { once: true });
    // Escape would leave a page that shows nothing.
    dialog.addEventListener("cancel", event => event.preventDefault());
    dialog.showModal();
  });
  return asking;
}

export const isAskingForToken = () => asking !== null;

async function request(path, signal, more = {}) {
  for (;;) {
    const sent = token;
    const headers = { ...more, ...(sent ? { Authorization: `Bearer ${sent}` } : {}) };
    const response = await fetch(path, { cache: "no-store", headers, signal: signal() });
    if (response.status !== 401) return response;
    // Another call may have been given a new one meanwhile.
    if (token === sent) await askForToken();
  }
}

async function failure(response) {
  const told = await response.json().then(body => body.error, () => null);
  return new Error(told ?? `the host answered ${response.status}`);
}

/** What the host answers to `path`, or an error with a sentence. */
export async function get(path, parameters = {}, patience_ms = PATIENCE_MS) {
  const query = search(parameters);
  const response = await request(query ? `${path}?${query}` : path, () => AbortSignal.timeout(patience_ms));
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** Parameters as a query; those without a value are left out. */
export function search(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(given).toString();
}

/**
 * Follows a stream of server-sent events until `signal` says stop; comes back after `lastId()` by itself.
 * `on.open` is called at each beginning, `on.event` with the data of each event, `on.lost` when it breaks.
 */
export async function follow(path, signal, lastId, on) {
  for (let tries = 0; !signal.aborted; tries += 1) {
    const broken = new AbortController();
    const stop = () => broken.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, LIVE_SILENCE_MS);
    try {
      const id = lastId();
      const response = await request(path, () => broken.signal, id ? { "Last-Event-ID": id } : {});
      if (!response.ok) throw await failure(response);
      tries = 0;
      on.open();
      const lines = new Lines();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(silence);
        silence = setTimeout(stop, LIVE_SILENCE_MS);
        lines.take(part.value, on.event);
      }
    } catch (error) {
      if (!signal.aborted) on.lost(error);
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
    }
    await sleep(Math.min(500 * 2 ** tries, 5000) * (0.75 + Math.random() / 2));
  }
}

/** Cuts the text of an event stream into events. */
class Lines {
  #rest = "";
  #name = "message";
  #data = [];

  take(text, event) {
    const lines = (this.#rest + text).split(/\r?\n/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) event(this.#name, this.#data.join("\n"));
        [this.#name, this.#data] = ["message", []];
        continue;
      }
      const [, field, value] = line.match(/^([^:]*):? ?(.*)$/);
      if (field === "event") this.#name = value;
      if (field === "data") this.#data.push(value);
    }
  }
}

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
