// The symbols that are closest to a detection. The host replays a detector for this, so it is only asked when somebody looks.

import { get } from "./api.js";
import { byId, figure, labelled, make, middle, percent, plural, price, say } from "./format.js";

/** A replay of a large market takes some seconds. */
const TIMEOUT_MS = 25_000;

const form = byId("near-form");

/** Offers these detectors. */
export function offer(detectors) {
  const names = detectors.map(({ name }) => name);
  const select = form.elements.detector;
  if ([...select.options].map(({ value }) => value).join("\n") === names.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(...names.map(name => make("option", { value: name }, name)));
  if (names.includes(chosen)) select.value = chosen;
}

async function show(event) {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  say(byId("near-note"), "replaying the detector …");
  try {
    fill(await get("api/near", { detector: form.elements.detector.value }, TIMEOUT_MS));
  } catch (error) {
    byId("near").replaceChildren();
    say(byId("near-note"), error instanceof TypeError ? "the host does not answer" : error.message);
  } finally {
    button.disabled = false;
  }
}

function fill({ looked_at: all, count, near }) {
  say(byId("near-note"), `${plural(count, "state")} of ${all} ${count === 1 ? "is" : "are"} one gate away or closer`);
  if (near.length === 0) {
    byId("near").replaceChildren();
    return;
  }
  const names = ["symbol", "price", "gate that does not hold", "value", "limit", "away", "at"];
  const isNumber = column => [1, 3, 4, 5].includes(column);
  const cell = (kind, text, column) => make(kind, { class: isNumber(column) ? "number" : null }, text);
  const rows = near.map(({ owner, price: last, gate, gates, away, time_ns: time }) => {
    const missing = gates.find(({ name }) => name === gate);
    const cells = [middle(owner), price(last), gate ?? "all hold", figure(missing?.value), figure(missing?.limit), percent(away), labelled(time / 1e6)];
    return make("tr", {}, ...cells.map((text, column) => cell(column === 0 ? "th" : "td", text, column)));
  });
  const head = make("thead", {}, make("tr", {}, ...names.map((name, column) => cell("th", name, column))));
  byId("near").replaceChildren(make("table", {}, head, make("tbody", {}, ...rows)));
}

form.addEventListener("submit", show);
