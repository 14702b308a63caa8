// Texts of strangers (symbols, names, faults) are shown as they are, except for characters that nobody sees, or that
// change the order of the characters around them.

const HIDDEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu;

/** Shows hidden characters as their codes, such as \u{202e}. Line breaks and tabs stay. */
export const visible = text => String(text ?? "").replace(HIDDEN, hidden => `\\u{${hidden.codePointAt(0).toString(16)}}`);
