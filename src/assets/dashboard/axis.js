// Where an axis has its marks, and how precise their labels are: no two neighbours have the same label.
// The page and the report of a replay use it. Times are of a wall clock: milliseconds that read like it when taken as UTC.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

/** The distances between marks on an axis of time that people count in. */
const TIME_STEPS = [
  ...[1, 2, 5, 10, 15, 30].map(count => count * SECOND), ...[1, 2, 5, 10, 15, 30].map(count => count * MINUTE),
  ...[1, 2, 3, 6, 12].map(count => count * HOUR), ...[1, 2, 7, 14, 28, 91, 182, 364].map(count => count * DAY),
];

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

const two = value => String(value).padStart(2, "0");

export function wallDay(wall) {
  const date = new Date(wall);
  return `${two(date.getUTCDate())} ${MONTHS[date.getUTCMonth()]}`;
}

export const wallClock = wall => new Date(wall).toISOString().slice(11, 19);

/** Labels a mark of an axis: the day where one begins, else the time, with seconds if the marks are that close. */
export function timeLabel(wall, step) {
  if (step >= DAY || wall % DAY === 0) return wallDay(wall);
  return step < MINUTE ? wallClock(wall) : wallClock(wall).slice(0, 5);
}

/** Returns the distance between at most `most` marks over a span of time. */
export const timeStep = (span, most) => TIME_STEPS.find(step => span / step <= most) ?? TIME_STEPS.at(-1);

/** Returns the marks from `begin` to `end`, at most about `most` of them, at round times, and the distance between them. */
export function timeMarks(begin, end, most) {
  const step = timeStep(end - begin, most);
  const marks = [];
  for (let mark = Math.ceil(begin / step) * step; mark <= end; mark += step) marks.push(mark);
  return { marks, step };
}

/** Returns the least of 1, 2 or 5 times a power of ten by which the span has at most `most` parts. */
export function decimalStep(span, most) {
  const raw = span / most;
  const power = 10 ** Math.floor(Math.log10(raw));
  // Rounded, since 0.1 + 0.2 is not 0.3. At the ends of what a number can hold there may be none of these.
  return [1, 2, 5, 10].map(factor => Number((factor * power).toPrecision(1))).find(step => step >= raw * (1 - 1e-9)) ?? raw;
}

/** Returns the number of decimal places that tell multiples of this step from each other. */
export const decimals = step => Math.min(12, Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));

/** Returns an axis from 0 to at least `high`, with at most `most` parts of at least `least`. */
export function countAxis(high, most, least) {
  const step = Math.max(least, decimalStep(Math.max(high, least), most));
  return { min: 0, max: Math.ceil(high / step) * step || step, step };
}

/** Returns an axis from 0 ms to at least `high` ms, whose steps are ones that people count durations in. */
export function durationAxis(high, most) {
  const step = high < SECOND ? Math.max(0.1, decimalStep(Math.max(high, 0.1), most)) : timeStep(high, most);
  return { min: 0, max: Math.ceil(high / step) * step || step, step };
}

/** Returns an axis around the values, which need not contain 0, with at most about `most` parts. */
export function valueAxis(values, most) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (low > high) return { min: 0, max: 1, step: 1 };
  const largest = Math.max(Math.abs(low), Math.abs(high));
  // A price that does not change is in the middle. So is one that changes by less than numbers of its size can show.
  if (high - low <= Math.max(1e-12, largest * 1e-9)) [low, high] = [low - (largest / 1000 || 1), high + (largest / 1000 || 1)];
  const step = decimalStep(Math.min(high - low, Number.MAX_VALUE), most);
  const round = count => Number((count * step).toPrecision(15));
  return { min: round(Math.floor(low / step)), max: round(Math.ceil(high / step)), step };
}
