// Requests to the host. If the host requires a token, it comes from the address (`/#token=…`) or from the viewer, and is
// stored until the tab is closed. It is sent in a header, which EventSource can't do, so live alerts use fetch as well.

import { byId, say } from "./format.js";

/** A host that takes longer to answer counts as unreachable. */
const TIMEOUT_MS = 3500;

/** The timeout of requests for which the host has to search a stream. */
export const LONG_TIMEOUT_MS = 15_000;

/** The host sends a keep-alive comment more often than this, even when there are no alerts. */
const KEEP_ALIVE_TIMEOUT_MS = 40_000;

const KEY = "tickhound-token";
let token = null;
try {
  token = sessionStorage.getItem(KEY);
} catch { /* The browser may forbid storage; then the token lasts as long as the page. */ }

const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.get("token")) {
  store(fragment.get("token"));
  fragment.delete("token");
  history.replaceState(null, "", location.pathname + location.search + (fragment.size > 0 ? `#${fragment}` : ""));
}

function store(value) {
  token = value;
  try {
    sessionStorage.setItem(KEY, value);
  } catch { /* Storage is forbidden. */ }
}

let asking = null;

/** Asks the viewer for a token, once for all requests that wait for it. */
function askForToken() {
  asking ??= new Promise(resolve => {
    const dialog = byId("token");
    if (token) say(byId("token-why"), "The token is wrong. Enter the value of server.token.");
    dialog.addEventListener("close", () => {
      const input = dialog.querySelector("input");
      store(input.value.trim());
      input.value = "";
      asking = null;
      resolve();
    }, { once: true });
    // Without this, Escape would leave an empty page.
    dialog.addEventListener("cancel", event => event.preventDefault());
    dialog.showModal();
  });
  return asking;
}

export const isAskingForToken = () => asking !== null;

async function request(path, signal, more = {}, init = {}) {
  for (;;) {
    const sent = token;
    const headers = { ...more, ...(sent ? { Authorization: `Bearer ${sent}` } : {}) };
    const response = await fetch(path, { cache: "no-store", ...init, headers, signal: signal() });
    if (response.status !== 401) return response;
    // Another request may have received a new token by now.
    if (token === sent) await askForToken();
  }
}

async function failure(response) {
  const error = await response.json().then(body => body.error, () => null);
  return new Error(error ?? `the host answered with status ${response.status}`);
}

/** Requests `path`, and returns the response or throws an error with a sentence. */
export async function get(path, parameters = {}, timeout_ms = TIMEOUT_MS) {
  const query = search(parameters);
  const response = await request(query ? `${path}?${query}` : path, () => AbortSignal.timeout(timeout_ms));
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** Changes something: sends `body` as JSON, if there is one. Returns the answer, or throws an error with a sentence. */
export async function change(method, path, parameters = {}, body = undefined) {
  const query = search(parameters);
  const init = body === undefined ? { method } : { method, body: JSON.stringify(body) };
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await request(query ? `${path}?${query}` : path, () => AbortSignal.timeout(TIMEOUT_MS), headers, init);
  if (!response.ok) throw await failure(response);
  return response.json();
}

/** Formats parameters as a query string, without those that have no value. */
export function search(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return new URLSearchParams(given).toString();
}

/**
 * Follows a stream of server-sent events until `signal` is aborted, and reconnects after `lastId()` by itself.
 * `on.open` is called at each connection, `on.event` with each event, `on.comment` with each comment, and `on.lost` when the
 * connection breaks.
 */
export async function follow(path, signal, lastId, on) {
  for (let tries = 0; !signal.aborted; tries += 1) {
    const broken = new AbortController();
    const stop = () => broken.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, KEEP_ALIVE_TIMEOUT_MS);
    try {
      const id = lastId();
      const response = await request(path, () => broken.signal, id ? { "Last-Event-ID": id } : {});
      if (!response.ok) throw await failure(response);
      tries = 0;
      on.open();
      const parser = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        clearTimeout(silence);
        silence = setTimeout(stop, KEEP_ALIVE_TIMEOUT_MS);
        parser.push(part.value, on.event, on.comment);
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

/** Parses the text of an event stream into events. */
class EventParser {
  #rest = "";
  #name = "message";
  #data = [];

  push(text, event, comment) {
    const lines = (this.#rest + text).split(/\r?\n/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length > 0) event(this.#name, this.#data.join("\n"));
        [this.#name, this.#data] = ["message", []];
        continue;
      }
      const [, field, value] = line.match(/^([^:]*):? ?(.*)$/);
      if (line.startsWith(":")) comment(value);
      if (field === "event") this.#name = value;
      if (field === "data") this.#data.push(value);
    }
  }
}

export const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
