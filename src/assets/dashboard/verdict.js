// The verdict in words. It must be true at any moment: outdated information is never shown as current.

import { byId, count, duration, rate, say, seconds } from "./format.js";

/** When the host has not answered for this long, its last answer is outdated. */
export const STALE_AFTER_MS = 3500;

/** An answer that is older than this is shown with its age; the page asks for one every second. */
const AGED_AFTER_MS = 2000;

// Each verdict has a shape of its own, so that the colour is not the only difference.
const MARKS = {
  healthy: "M4 13l5 5L20 6",
  degraded: "M12 4L2.5 20h19zM12 10v5M12 17.2v.6",
  stuck: "M5 5l14 14M19 5L5 19",
  unreachable: "M5 5l14 14M19 5L5 19",
  unknown: "M8.5 9a3.5 3.5 0 1 1 5 3.2c-1.2.6-1.5 1.3-1.5 2.8M12 18.2v.6",
  asking: "M5 12h.6M12 12h.6M19 12h.6",
};
const COLORS = { healthy: "#0a8a66", degraded: "#d98200", stuck: "#c8371c", unreachable: "#c8371c", unknown: "#77838e", asking: "#77838e" };

/** Describes a status: the verdict's word, the figures after it, and a sentence. */
function describe(status) {
  const { verdict, reason, survey, role } = status;
  const pending = survey ? `${count(survey.pending)} pending` : null;
  const figures = [];
  if (verdict !== "unreachable") {
    if (role === "standby") figures.push("this host is a standby");
    else if (role === "connecting") figures.push("this host is starting");
    else if (status.ticks_per_s > 0) figures.push(`${rate(status.ticks_per_s)} ticks/s`);
    else figures.push("no ticks at the moment");
    figures.push(pending);
    figures.push(status.behind_ms > 0 ? `lag ${duration(status.behind_ms)}` : "no lag");
  }
  const more = (status.reasons ?? []).slice(1).map(({ text }) => text);
  return { kind: verdict, word: verdict, figures: figures.filter(Boolean).join(", "), reason: sentence(status, reason), more };
}

function sentence(status, reason) {
  const { survey, verdict, role } = status;
  const parts = [reason];
  if (verdict === "healthy" && role === "standby" && survey?.owner) parts.push(`the owner is ${survey.owner}`);
  if (verdict === "healthy" && role === "owner" && !status.ticks_per_s && survey?.committed_ms_ago > 5000) {
    parts.push(`the last commit was ${duration(survey.committed_ms_ago)} ago`);
  }
  return parts.filter(Boolean).join("; ");
}

const since = ms => seconds(Math.max(1000, ms));

/** Shows the verdict, from the last status, its age, and the error of the last request. */
export function show({ status, age_ms, error, wants_token }) {
  let now;
  if (!status) {
    now = wants_token || !error
      ? { kind: "asking", word: wants_token ? "waiting for a token" : "contacting the host …", figures: "", reason: "" }
      : { kind: "unknown", word: "no answer from the host", figures: `for ${since(age_ms)}`, reason: error };
  } else if (wants_token) {
    now = { kind: "unknown", word: "waiting for a token", figures: `; last answer ${since(age_ms)} ago`, reason: "" };
  } else if (age_ms > STALE_AFTER_MS || error) {
    const { word, figures, reason } = describe(status);
    now = {
      kind: "unknown", word: "no answer from the host", figures: `for ${since(age_ms)}`,
      reason: `Check whether the host is running. The last known state is shown below: ${word}${figures ? `: ${figures}` : ""}${reason ? ` (${reason})` : ""}`,
    };
  } else {
    now = describe(status);
    if (age_ms > AGED_AFTER_MS) now.figures = [now.figures, `${since(age_ms)} ago`].filter(Boolean).join(", ");
  }
  const joint = now.figures === "" || now.figures.startsWith(";") ? "" : now.kind === "unknown" ? " " : ": ";
  byId("verdict").dataset.kind = now.kind;
  byId("mark").firstElementChild.setAttribute("d", MARKS[now.kind] ?? MARKS.unknown);
  say(byId("word"), now.word);
  say(byId("figures"), joint + now.figures);
  say(byId("reason"), now.reason);
  list(byId("more-reasons"), now.more ?? []);
  document.title = `${{ healthy: "✓", degraded: "▲", stuck: "✕", unreachable: "✕" }[now.kind] ?? "?"} ${now.word} · Tickhound`;
  icon(now.kind);
  const isKnown = status && now.kind !== "unknown";
  byId("facts").classList.toggle("stale", !isKnown);
  return isKnown;
}

/** Shows one item for each text. */
function list(element, texts) {
  while (element.children.length > texts.length) element.lastElementChild.remove();
  while (element.children.length < texts.length) element.append(document.createElement("li"));
  texts.forEach((text, at) => say(element.children[at], text));
}

let drawn = null;

/** Sets the tab's icon. */
function icon(kind) {
  if (drawn === kind) return;
  drawn = kind;
  const image = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="6" fill="${COLORS[kind]}"/>` +
    `<path d="${MARKS[kind]}" transform="translate(3.6 3.6) scale(.7)" fill="none" stroke="#fff" stroke-width="3.4" stroke-linecap="round"/></svg>`;
  document.querySelector("link[rel=icon]").href = `data:image/svg+xml,${encodeURIComponent(image)}`;
}

const MINUTE = 60_000;

/** Returns the row of figures below the verdict. */
export function tiles(status) {
  const { counters = {}, latency_ms: latency = {}, survey } = status;
  const dead = survey?.dead_length;
  return [
    ["ticks/s", rate(status.ticks_per_s), `${count(counters.completed)} since the start`],
    ["lag", duration(status.behind_ms), `of the last commit ${duration(counters.lag_ms)}`],
    ["pending", count(survey?.pending), survey?.lag === null ? "" : `${count(survey?.lag)} not yet read`],
    ["latency, p99", duration(latency.p99), `p50 ${duration(latency.p50)}, p99.9 ${duration(latency.p999)}`],
    ["alerts/min", rate(status.alerts_per_min), `${count(counters.alerts)} since the start, ${count(counters.late)} late`],
    ["dead letters", count(dead), dead > 0 ? "tickhound dead list" : dead === 0 ? "none" : ""],
    ["uptime", upFor(status), `version ${status.version}`],
  ];
}

function upFor(status) {
  const ms = status.now_ms - status.started_at_ms;
  return ms < MINUTE ? `${Math.max(0, Math.floor(ms / 1000))} s` : duration(ms);
}

/** Returns the stream, the group and the host that the figures are from. */
export function whose(status) {
  return `${status.stream} · ${status.group} · ${status.host}${status.role === "owner" ? "" : ` (${status.role})`}`;
}

