// Leaves the text of an exception in memory, where the host reads it after the call has failed.
//
// A detector imports nothing, so it can't log. The module's memory contains, once: the 16 bytes of a mark, the length of the
// text (four bytes, little-endian), and the text in UTF-8.

// As much as the host reads.
const TEXT_MAX = 1024;

// The callers that are shown beside the function that threw.
const CALLERS_MAX = 3;

// Shown when a call ends without an exception: what asks the system for something can't be caught.
const NOT_JAVASCRIPT =
  "it used something that a detector does not have, such as a clock, a file or the network; " +
  "or it returned something that the contract does not allow";

const report = new Uint8Array(20 + TEXT_MAX);
// Written character by character, since a text would leave a copy of the whole mark in memory.
["TICKHOUND", "-PANIC"].join(" ").split("").filter((character) => character !== " ").forEach((character, at) => {
  report[at] = character.charCodeAt(0);
});

/** Leaves what was thrown, with its file and line. */
export function leave(error) {
  write(describe(error));
}

function write(text) {
  let length = 0;
  for (const character of text) {
    const bytes = utf8(character.codePointAt(0));
    // A character that would be cut in two is left out.
    if (length + bytes.length > TEXT_MAX) break;
    report.set(bytes, 20 + length);
    length += bytes.length;
  }
  report.set([length & 255, length >> 8, 0, 0], 16);
}

/** Returns what was thrown as one sentence, with its file and line. */
export function describe(error) {
  try {
    if (!(error instanceof Error)) return `threw ${typeof error === "object" ? JSON.stringify(error) : String(error)}`;
    const [first, ...callers] = frames(error.stack);
    const message = error.message ? `${error.name}: ${error.message}` : error.name;
    let text = first ? `${first}: ${message}` : message;
    if (callers.length > 0) text += `; called from ${callers.slice(0, CALLERS_MAX).join(", ")}`;
    if (callers.length > CALLERS_MAX) text += ` and ${callers.length - CALLERS_MAX} more`;
    if (error.cause !== undefined) text += `; after ${describe(error.cause)}`;
    return text;
  } catch {
    return "threw something that can't be shown";
  }
}

/** The frames of the author's code, the innermost first: `    at onTick (/jump/plugin.js:12:5)`. */
function frames(stack) {
  const found = [];
  for (const line of String(stack).split("\n")) {
    const [, name, file] = line.match(/^\s*at (?:(.*) )?\(?\/?([^()]*:\d+(?::\d+)?)\)?$/) ?? [];
    if (file && !SDK.test(file)) found.push(name && name !== "<anonymous>" ? `${file} in ${name}` : file);
  }
  return found;
}

const SDK = /(tickhound-sdk|detectors-sdk)\/js\/(tickhound|detector|instance|members|packed|report|rows|state)\.js:/;

/** Returns the bytes of a character. */
export function utf8(code) {
  if (code >= 0xd800 && code < 0xe000) return [0xef, 0xbf, 0xbd]; // a surrogate without its other half
  if (code < 0x80) return [code];
  if (code < 0x800) return [0xc0 | (code >> 6), 0x80 | (code & 63)];
  if (code < 0x10000) return [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63)];
  return [0xf0 | (code >> 18), 0x80 | ((code >> 12) & 63), 0x80 | ((code >> 6) & 63), 0x80 | (code & 63)];
}

write(NOT_JAVASCRIPT);
