// Joins the page: asks the host once a second, and shows what it says, or that it says nothing.

import * as alertPanel from "./alert.js";
import * as alerts from "./alerts.js";
import { get, isAskingForToken, sleep } from "./api.js";
import * as charts from "./charts.js";
import { byId, make, say, zone } from "./format.js";
import * as tables from "./tables.js";
import * as verdict from "./verdict.js";

const ASK_EVERY_MS = 1000;
const DETECTORS_EVERY_MS = 3000;

/** Samples are counted here from what the status says; now and then the host's own take their place. */
const HISTORY_EVERY_MS = 30_000;

/** A page that was asleep (a hidden tab, a closed lid) asks before it says anything about the host. */
const ASLEEP_AFTER_MS = 2500;

const began = performance.now();
let last = { status: null, at: began, error: null };
let receipt = null;

async function ask() {
  for (;;) {
    const sent = performance.now();
    try {
      const status = await get("api/status");
      const before = last.status;
      if (before && status.started_at_ms === before.started_at_ms && status.now_ms <= before.now_ms) {
        throw new Error("the host repeats an old answer");
      }
      last = { status, at: performance.now(), error: null };
      if (before?.started_at_ms !== status.started_at_ms) afresh();
      fill(status);
    } catch (error) {
      last.error = sentence(error);
    }
    show();
    await sleep(Math.max(200, ASK_EVERY_MS - (performance.now() - sent)));
  }
}

function sentence(error) {
  if (error.name === "TimeoutError") return "it takes the connection, and then says nothing";
  if (error instanceof TypeError) return "it can't be reached";
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

/** Also without an answer: an age grows by itself. */
function show() {
  const now = performance.now();
  const slept = now - awake > ASLEEP_AFTER_MS;
  awake = now;
  if (slept && !last.error) last = { status: null, at: now, error: null };
  const age = now - last.at;
  verdict.show({ status: last.status, age_ms: age, error: last.error, wants_token: isAskingForToken() });
  charts.draw(last.status ? last.status.now_ms + age : undefined);
}

/** For a host that is new to this page, or has been started again. */
function afresh() {
  history();
  detectors();
}

async function history() {
  try {
    charts.merge(await get("api/history"));
  } catch { /* the verdict says that the host does not answer */ }
}

async function detectors() {
  try {
    receipt = await get("api/detectors");
    alerts.know(receipt.detectors ?? []);
    alerts.explainEmpty(tables.warmUp(receipt));
    if (last.status) tables.detectors(receipt, last.status.now_ms, last.status.survey?.receipt);
  } catch { /* as above */ }
}

async function every(ms, work) {
  for (;;) {
    await sleep(ms);
    if (!document.hidden) await work();
  }
}

say(byId("zone"), `times: ${zone()}`);
charts.build();
setInterval(show, 250);
every(HISTORY_EVERY_MS, history);
every(DETECTORS_EVERY_MS, detectors);
ask();
// Detectors first: they have their colours in this order.
detectors().then(() => alerts.begin((alert, from) => alertPanel.show(alert, from, alerts.set)));
