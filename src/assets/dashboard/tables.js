// Tables of the detectors, the workers, the consumers, and the totals, with the content of `tickhound status`.

import { byId, count, detectorColor, duration, labelled, make, percent, plural, say, seconds } from "./format.js";

/** Writes rows into the table in the element `id`. Cells keep their elements, so that a selection survives an update. */
function table(id, head, rows, empty) {
  const box = byId(id);
  if (rows.length === 0) {
    box.replaceChildren(make("p", { class: "empty" }, empty));
    return;
  }
  let body = box.querySelector("tbody");
  if (!body) {
    body = make("tbody");
    const names = head.map(({ name, number, title }) => make("th", { scope: "col", class: number ? "number" : null, title: title ?? null }, name));
    box.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, ...names)), body));
  }
  while (body.rows.length > rows.length) body.lastElementChild.remove();
  while (body.rows.length < rows.length) {
    body.append(make("tr", {}, ...head.map(({ number }, column) => make(column === 0 ? "th" : "td", { scope: column === 0 ? "row" : null, class: number ? "number" : null }))));
  }
  rows.forEach((cells, row) => cells.forEach((cell, column) => fill(body.rows[row].cells[column], cell)));
}

function fill(cell, content) {
  if (content instanceof Node) {
    if (!cell.firstChild?.isEqualNode?.(content) || cell.childNodes.length !== 1) cell.replaceChildren(content);
  } else {
    say(cell, content);
  }
}

const badge = (kind, text, title) => make("span", { class: `badge ${kind}`, title: title ?? null }, text);
const share = value => {
  const percentOf = Math.round(Math.min(1, Math.max(0, value ?? 0)) * 100);
  return make("span", { class: "share" }, make("span", { class: "bar", style: `--share: ${percentOf}%` }), percent(value));
};

const DETECTORS = [
  { name: "detector" }, { name: "state" }, { name: "ns/tick", number: true, title: "the time that the detector takes for a tick" },
  { name: "share of a core", number: true }, { name: "ticks", number: true }, { name: "alerts", number: true },
  { name: "faults", number: true },
];

/** Says how many detections of a detector did not become alerts, and why. */
const leftOut = ({ min_confidence: below, cooldown, per_minute: over } = {}) => {
  return below + cooldown + over > 0 ? `${count(below)} below min_confidence, ${count(cooldown)} held back by cooldown_s, ${count(over)} by a limit per minute` : null;
};

/** Shows the answer of /api/detectors; `now_ms` is the host's clock. */
export function detectors(answer, now_ms, generation) {
  const { detectors: all = [], warming = [], refusal, needs_restart: needsRestart = [] } = answer;
  say(byId("generation"), generation ? `generation ${generation.generation}, in force for ${duration(now_ms - generation.since_ms)}` : "");
  const rows = all.map(detector => {
    const { name, shadow_of: shadowOf, quarantined_until_ms: until } = detector;
    const title = make("div", {},
      make("span", { class: `dot ${detectorColor(name)}` }, name), shadowOf ? make("small", {}, ` shadow of ${shadowOf}`) : null,
      make("small", { class: "receipt" }, `${detector.plugin} ${detector.version} · ${detector.file} · `,
        make("span", { title: `sha256 ${detector.sha256}` }, (detector.sha256 ?? "").slice(0, 12)),
        ` · generation ${count(detector.generation)}, since ${labelled(detector.since_ms)}`));
    const state = until ? badge("bad", until > now_ms ? `✕ quarantine, ${seconds(until - now_ms)}` : "✕ being tried again", "the detector failed too often; after the quarantine it is tried again")
      : warming.includes(name) ? badge("warn", "… warming up") : badge("good", `✓ ${detector.state}${sessions(detector.rewarmed_sessions)}`, STATES[detector.state]);
    return [
      title, state, count(detector.ns_per_tick), share(detector.core_share), count(detector.ticks),
      make("span", { title: leftOut(detector.left_out) }, count(detector.alerts)),
      count(detector.faults),
    ];
  });
  table("detectors", DETECTORS, rows, "no detector is enabled; add [detectors.NAME] to config.toml");
  const notes = [];
  for (const { name, faults, last_fault: fault, skipped, quarantined_until_ms: until } of all) {
    if (fault) notes.push([until ? "bad" : "warn", `${name}: ${plural(faults, "fault")}${skipped ? `, ${plural(skipped, "tick")} skipped` : ""}; the last fault: ${fault}`]);
  }
  for (const name of warming) notes.push(["warn", `${name} is warming up with the entries of the stream before it takes over`]);
  if (refusal) {
    const { standing, reason, at_ms: at } = refusal;
    notes.push([standing ? "bad" : "quiet", `a change was rejected at ${labelled(at)}${standing ? ", and the previous state stays in force" : ", and has been corrected since"}: ${reason}`]);
  }
  if (needsRestart.length > 0) notes.push(["warn", `these settings have changed and need a restart: ${needsRestart.join(", ")}`]);
  const list = byId("notes");
  while (list.children.length > notes.length) list.lastElementChild.remove();
  while (list.children.length < notes.length) list.append(make("li"));
  notes.forEach(([kind, text], index) => {
    list.children[index].className = kind;
    say(list.children[index], text);
  });
}

/** Says why there may be no alert yet. */
export function warmUp({ detectors: all = [] }) {
  const longest = all.filter(detector => detector.warm_up_s > 0).map(({ name, warm_up_s: warmUp }) => `${name} ${duration(warmUp * 1000)}`);
  if (all.length === 0) return "no alerts yet: no detector is enabled";
  return `no alerts yet: detectors warm up first${longest.length > 0 ? `, in market time: ${longest.join(", ")}` : ""}`;
}

// Of the files of history.dir; an older host does not say.
const sessions = (number) => !number ? "" : `, ${number} ${number === 1 ? "session" : "sessions"}`;

const STATES = {
  carried: "the state of the previous version was carried over",
  restored: "the saved state was restored when the host started",
  rewarmed: "the detector was warmed up with the files of history.dir and the entries of the stream before it took over",
  cold: "the detector started without any state",
};

export function workers(status) {
  const { counters } = status;
  say(byId("counters"), counters ? `submitted: ${count(counters.submitted)}, completed: ${count(counters.completed)}, backlog: ${count(counters.backlog)}` : "");
  const rows = (status.workers ?? []).map(({ shard, queued, ticks, busy_share: busy }) => [`worker ${shard}`, share(busy), count(queued), count(ticks)]);
  const head = [{ name: "worker" }, { name: "busy", number: true }, { name: "queued", number: true }, { name: "ticks", number: true }];
  table("workers", head, rows, status.role === "standby" ? "this host is a standby; its workers process nothing" : "no worker has started yet");
}

const CONSUMERS = {
  active: ["good", "✓ active"],
  idle: ["good", "✓ idle", "there are no entries to process"],
  stale: ["warn", "▲ stale", "the consumer is a leftover that has not read for a long time"],
  stuck: ["bad", "✕ stuck", "the consumer has pending entries and does not process them"],
};

/** Shows the consumers, each with a verdict that does not depend on its idle time alone. */
export function consumers(status) {
  const { consumers: all = [], survey, group } = status;
  say(byId("group"), survey ? `${group}: ${count(survey.pending)} pending, ${plural(all.length, "consumer")}` : group ?? "");
  const rows = all.map(({ name, pending, idle_ms: idle, verdict }) => {
    return [`→ ${name}`, count(pending), duration(idle), badge(...(CONSUMERS[verdict] ?? ["quiet", verdict]))];
  });
  const head = [{ name: "consumer" }, { name: "pending", number: true }, { name: "idle", number: true }, { name: "verdict" }];
  table("consumers", head, rows, survey ? "no consumer has read from this group yet" : "unknown while Redis does not answer");
}

export function account(status) {
  const { survey } = status;
  if (!survey) {
    table("account", [], [], "unknown while Redis does not answer");
    return;
  }
  const { totals, state } = survey;
  const counters = status.counters ?? {};
  const rows = [
    ["entries processed", count(totals.entries)],
    ["… with alerts or dead letters", count(totals.entries - totals.quiet - totals.lost)],
    ["… without either", count(totals.quiet)],
    ["… lost: trimmed before they were processed", count(totals.lost)],
    ["alerts", count(totals.alerts)],
    ["alerts held back by limits", count(totals.held_back)],
    ["detections below min_confidence", count(totals.below_min_confidence)],
    ["dead letters", count(totals.dead)],
    ["ticks with a repaired time or volume (since the start)", count(counters.repaired)],
    ["ticks that no detector saw, without a price or time (since the start)", count(counters.unseen)],
    ["entries in the stream", count(survey.length)],
    ["last commit", survey.committed_ms_ago === null ? "never" : `${duration(survey.committed_ms_ago)} ago`],
    ["owner, epoch", `${survey.owner ?? "none"}, ${count(survey.epoch)}`],
    ["state saved", state ? `${count(state.symbols)} symbols, ${duration(state.age_ms)} ago; a new host would replay ${count(state.behind)} entries` : "not yet"],
  ];
  table("account", [{ name: "total" }, { name: "value", number: true }], rows, "");
}
