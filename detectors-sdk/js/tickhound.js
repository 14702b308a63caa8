// Write a Tickhound detector in JavaScript: one class, and one call of `detector`. README.md beside this file explains each
// part with an example, and tickhound.d.ts has the types.
//
// What holds: each function of the contract leaves the text of an exception for the host before it fails.

import { Answer, Instance } from "./instance.js";
import { describe, leave } from "./report.js";

export { Detection, Detector, Flag, Reject, flag, integer, number, text } from "./detector.js";
export { ewVolatility, highest, lowest, mean } from "./detector.js";
export { ByMember } from "./members.js";

/** Returns the functions of the contract for a class of a detector. */
export function detector(kind) {
  const instance = new Instance(kind);
  const reported = (name) => (...args) => {
    try {
      return instance[name](...args);
    } catch (error) {
      // componentize-qjs takes what these two throw for the error of a result, so the call does not fail.
      if (name === "configure" || name === "restore") {
        throw error instanceof Answer ? error.message : describe(error);
      }
      leave(error);
      throw error;
    }
  };
  const names = ["describe", "configure", "introduce", "detect", "save", "restore", "probe"];
  return Object.fromEntries(names.map((name) => [name, reported(name)]));
}
