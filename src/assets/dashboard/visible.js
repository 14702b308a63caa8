// Texts of strangers (symbols, names, faults) are shown as they are, except for characters that nobody sees, or that
// change the characters around them.

// First and last code point of each range; a test compares them with the table of the program, in crates/core/src/text.rs.
// Line breaks and tabs are not among them. Selectors of another form are hidden unless they are behind a pictograph.
const HIDDEN_RANGES = [
  [0x0, 0x8], [0xb, 0x1f], [0x7f, 0x9f], [0xad, 0xad], [0x34f, 0x34f], [0x600, 0x605], [0x61c, 0x61c],
  [0x6dd, 0x6dd], [0x70f, 0x70f], [0x890, 0x891], [0x8e2, 0x8e2], [0x115f, 0x1160], [0x17b4, 0x17b5],
  [0x180b, 0x180f], [0x200b, 0x200f], [0x2028, 0x202e], [0x2060, 0x206f], [0x2800, 0x2800], [0x3164, 0x3164],
  [0xfeff, 0xfeff], [0xffa0, 0xffa0], [0xfff0, 0xfffb], [0x110bd, 0x110bd], [0x110cd, 0x110cd], [0x13430, 0x1343f],
  [0x1bca0, 0x1bca3], [0x1d173, 0x1d17a], [0xe0000, 0xe0fff],
];
const SELECTORS = [[0xfe00, 0xfe0f]];
const PICTOGRAPHS = [[0x2190, 0x27ff], [0x2900, 0x2bff], [0x1f000, 0x1faff]];

const codePoint = code => `\\u{${code.toString(16)}}`;
const characters = ranges => `[${ranges.map(([first, last]) => `${codePoint(first)}-${codePoint(last)}`).join("")}]`;
const HIDDEN = new RegExp(`${characters(HIDDEN_RANGES)}|(?<!${characters(PICTOGRAPHS)})${characters(SELECTORS)}`, "gu");

/** Shows hidden characters as their codes, such as \u{202e}. Line breaks and tabs stay. */
export const visible = text => String(text ?? "").replace(HIDDEN, hidden => codePoint(hidden.codePointAt(0)));
