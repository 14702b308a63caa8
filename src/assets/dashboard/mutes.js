// Muting: what notification channels leave out for a while. The page goes on showing everything.

import { change } from "./api.js";
import { labelled, make, middle, say } from "./format.js";

/** How long a mute may last: the request's `for`, and its name. */
const SPANS = [["30m", "for 30 min"], ["session", "until the session ends"]];

/** Returns the buttons that mute the symbol or the detector of an alert, with a line that says what became of it. */
export function muting({ symbol, detector }) {
  const note = make("span", { class: "quiet", role: "status" });
  const targets = [
    [symbol, { symbols: symbol, detector: "*" }],
    [detector, { symbols: "*", detector }],
  ];
  const button = ([name, what], [span, text]) => make("button", {
    type: "button", onclick: event => mute(event.currentTarget, note, name, { ...what, for: span }),
  }, "mute ", make("bdi", {}, middle(name)), ` ${text}`);
  return make("div", {},
    make("p", { class: "actions" }, ...targets.flatMap(target => SPANS.map(span => button(target, span)))),
    make("p", { class: "quiet" }, "Muting affects notifications only; the list still shows every alert. ", note));
}

async function mute(button, note, name, what) {
  button.disabled = true;
  try {
    const made = await change("POST", "api/mutes", {}, what);
    const undo = make("button", { type: "button", onclick: event => unmute(event.currentTarget, note, name, what) }, "undo");
    note.replaceChildren(make("bdi", {}, middle(name)), ` is muted until ${labelled(made.until_ms)}. `, undo);
  } catch (error) {
    say(note, `It is not muted: ${reason(error)}`);
  } finally {
    button.disabled = false;
  }
}

async function unmute(button, note, name, { symbols, detector }) {
  button.disabled = true;
  try {
    await change("DELETE", "api/mutes", { symbols, detector });
    note.replaceChildren(make("bdi", {}, middle(name)), " is no longer muted.");
  } catch (error) {
    say(note, `It is still muted: ${reason(error)}`);
  }
}

const reason = error => error instanceof TypeError ? "the host does not answer" : error.message;
