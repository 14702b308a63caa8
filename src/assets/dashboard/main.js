// The page's main loop: it requests the status once a second, and shows it, or that the host does not answer.

import * as alertPanel from "./alert.js";
import * as alerts from "./alerts.js";
import { get, isAskingForToken, sleep } from "./api.js";
import * as charts from "./charts.js";
import { byId, make, say, setZone, zoneSentence } from "./format.js";
import * as near from "./near.js";
import * as tables from "./tables.js";
import * as verdict from "./verdict.js";

const ASK_EVERY_MS = 1000;
const DETECTORS_EVERY_MS = 3000;

/** The page makes samples from each status; the host's own samples replace them this often. */
const HISTORY_EVERY_MS = 30_000;

/** A page that was suspended for longer (a hidden tab, a closed lid) requests a status before it shows a verdict. */
const ASLEEP_AFTER_MS = 2500;

const began = performance.now();
let last = { status: null, at: began, error: null };
let receipt = null;

/** Ends the wait before the next request. */
let wake = () => {};

async function ask() {
  for (;;) {
    const sent = performance.now();
    try {
      const status = await get("api/status");
      const before = last.status;
      if (before && status.started_at_ms === before.started_at_ms && status.now_ms <= before.now_ms) {
        throw new Error("the host has repeated an old status");
      }
      last = { status, at: performance.now(), error: null };
      if (setZone(status.timezone, status.timezone_label)) zoneChanged();
      if (before?.started_at_ms !== status.started_at_ms) reload();
      fill(status);
    } catch (error) {
      last.error = sentence(error);
    }
    show();
    await Promise.race([sleep(Math.max(200, ASK_EVERY_MS - (performance.now() - sent))), new Promise(resolve => { wake = resolve; })]);
  }
}

let hasBegun = false;

/** Begins with what shows times, as soon as their zone is known; or shows them again in another zone. */
async function zoneChanged() {
  say(byId("zone"), zoneSentence());
  if (hasBegun) {
    alerts.redraw();
    return;
  }
  hasBegun = true;
  // The detectors come first, since their order decides their colours.
  await detectors();
  alerts.begin({ open: (alert, from) => alertPanel.show(alert, from, alerts.set), doubt: () => wake() });
  addEventListener("hashchange", openLinked);
  openLinked();
}

/** Opens the alert that the address names, as links in messages do: `#alert=ID`. */
const openLinked = () => alertPanel.openLinked(alerts.set);

function sentence(error) {
  if (error.name === "TimeoutError") return "the host accepts the connection but does not answer";
  if (error instanceof TypeError) return "the host can't be reached";
  return error.message;
}

function fill(status) {
  say(byId("whose"), verdict.whose(status));
  tiles(verdict.tiles(status));
  tables.workers(status);
  tables.consumers(status);
  tables.account(status);
  if (receipt) tables.detectors(receipt, status.now_ms, status.survey?.receipt);
  charts.add(status);
}

function tiles(all) {
  const list = byId("tiles");
  if (list.children.length !== all.length) {
    list.replaceChildren(...all.map(([name]) => make("div", {}, make("dt", {}, name), make("dd", {}), make("dd", { class: "quiet" }))));
  }
  all.forEach(([, value, more], index) => {
    const [, large, small] = list.children[index].children;
    say(large, value);
    say(small, more);
  });
}

let awake = performance.now();

/** Runs even without an answer, since the age of the last status grows. */
function show() {
  const now = performance.now();
  const slept = now - awake > ASLEEP_AFTER_MS;
  awake = now;
  if (slept && !last.error) last = { status: null, at: now, error: null };
  const age = now - last.at;
  verdict.show({ status: last.status, age_ms: age, error: last.error, wants_token: isAskingForToken() });
  charts.draw(last.status ? last.status.now_ms + age : undefined);
}

/** Loads everything from a host that is new to this page, or was restarted. */
function reload() {
  history();
  detectors();
}

async function history() {
  try {
    charts.merge(await get("api/history"));
  } catch { /* The verdict shows already that the host does not answer. */ }
}

async function detectors() {
  try {
    receipt = await get("api/detectors");
    alerts.know(receipt.detectors ?? []);
    near.offer(receipt.detectors ?? []);
    alerts.explainEmpty(tables.warmUp(receipt));
    if (last.status) tables.detectors(receipt, last.status.now_ms, last.status.survey?.receipt);
  } catch { /* The verdict shows already that the host does not answer. */ }
}

async function every(ms, run) {
  for (;;) {
    await sleep(ms);
    if (!document.hidden) await run();
  }
}

charts.build();
setInterval(show, 250);
every(HISTORY_EVERY_MS, history);
every(DETECTORS_EVERY_MS, detectors);
ask();
