// Charts over time, from samples of this page and of the host. Where there are no samples, the line has a gap: a pause
// must not look like a straight line.

import { countAxis, durationAxis, timeLabel, timeMarks, wallClock } from "./axis.js";
import { byId, count, duration, plural, rate, shortDuration, wallOffset, zone } from "./format.js";
import { color } from "./theme.js";

/** Older samples are dropped. */
const HISTORY_MS = 15 * 60_000;

/** Samples that are further apart than this are not connected by a line. */
const GAP_MS = 3500;

/** The width of a bar of the alerts chart. */
const BAR_MS = 10_000;

/** The most parts of an axis: labels of times need this much room, px, and values have as many lines as can be told apart. */
const TIME_LABEL_WIDTH = 90;
const VALUE_PARTS = 3;

const COLUMNS = ["ticks_per_s", "alerts_per_s", "backlog", "behind_ms", "p50_ms", "p99_ms", "p999_ms"];

/** The samples in order of time, each an object with the COLUMNS. */
let samples = [];

/** Merges the host's own samples; where it has none, such as before its start, the samples of this page stay. */
export function merge(history) {
  const times = history.at_ms ?? [];
  if (times.length === 0) return;
  const [first, last] = [times[0] - 500, times.at(-1) + 500];
  const theirs = times.map((at_ms, row) => ({ at_ms, ...Object.fromEntries(COLUMNS.map(name => [name, history[name]?.[row] ?? null])) }));
  samples = [...samples.filter(sample => sample.at_ms < first), ...theirs, ...samples.filter(sample => sample.at_ms > last)];
  trim();
  drawnUpTo = { last: 0, end: 0 };
}

/** Adds a sample from a status. */
export function add(status) {
  const latency = status.latency_ms ?? {};
  if (status.now_ms - (samples.at(-1)?.at_ms ?? 0) < 500) return;
  samples.push({
    at_ms: status.now_ms, ticks_per_s: status.ticks_per_s, alerts_per_s: (status.alerts_per_min ?? 0) / 60,
    backlog: status.counters?.backlog ?? null, behind_ms: status.behind_ms ?? null,
    p50_ms: latency.p50 ?? null, p99_ms: latency.p99 ?? null, p999_ms: latency.p999 ?? null,
  });
  trim();
}

function trim() {
  const oldest = (samples.at(-1)?.at_ms ?? 0) - HISTORY_MS;
  const keep = samples.findIndex(sample => sample.at_ms >= oldest);
  if (keep > 0) samples = samples.slice(keep);
}

/** Returns the points of a line, with times of the wall clock, which is `ahead` of UTC. */
function line(name, ahead) {
  const points = [];
  for (const [index, sample] of samples.entries()) {
    if (index > 0 && sample.at_ms - samples[index - 1].at_ms > GAP_MS) points.push([samples[index - 1].at_ms + 1 + ahead, null]);
    points.push([sample.at_ms + ahead, sample[name]]);
  }
  return points;
}

/** Returns the times without a sample, which are shaded. */
function gaps(ahead) {
  const areas = [];
  for (let index = 1; index < samples.length; index += 1) {
    const [before, after] = [samples[index - 1].at_ms, samples[index].at_ms];
    if (after - before > GAP_MS) areas.push([{ xAxis: before + ahead }, { xAxis: after + ahead }]);
  }
  return areas;
}

const counts = high => countAxis(high, VALUE_PARTS, 1);
const durations = high => durationAxis(high, VALUE_PARTS);

const CHARTS = [
  { id: "throughput", unit: rate, axis: counts, lines: [["ticks_per_s", "ticks/s", "series-0"]] },
  { id: "behind", unit: duration, label: shortDuration, axis: durations, lines: [["behind_ms", "lag", "series-5"]] },
  { id: "latency", unit: duration, label: shortDuration, axis: durations, lines: [["p50_ms", "p50", "series-4"], ["p99_ms", "p99", "series-0"], ["p999_ms", "p99.9", "series-3"]] },
  { id: "backlog", unit: count, axis: counts, lines: [["backlog", "backlog", "series-2"]] },
];

let drawn = [];
let bars = null;

/** The charts are drawn again after this time even without a new sample, since the present moves on. */
const DRAW_EVERY_MS = 1000;

/** What the charts show: the newest sample, and until when. */
let drawnUpTo = { last: 0, end: 0 };

/** Creates the charts, and creates them again when the colours change. */
export function build() {
  [...drawn, bars].forEach(chart => chart?.dispose());
  const [quiet, grid, text, box] = ["quiet", "line", "text", "box"].map(color);
  const common = {
    animation: false, backgroundColor: "transparent", textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    tooltip: {
      trigger: "axis", confine: true, renderMode: "richText", backgroundColor: box, borderColor: grid, textStyle: { color: text, fontSize: 12 },
      axisPointer: { lineStyle: { color: quiet } },
    },
    xAxis: {
      type: "value", axisLabel: { color: quiet, fontSize: 11, hideOverlap: true },
      axisLine: { lineStyle: { color: grid } }, axisTick: { show: false }, splitLine: { show: false },
      // The zone is below the values, in the line of the times.
      nameLocation: "start", nameGap: 10, nameTextStyle: { color: quiet, fontSize: 11, verticalAlign: "top", padding: [8, 0, 0, 0] },
    },
    yAxis: {
      type: "value", min: 0, axisLabel: { color: quiet, fontSize: 11, hideOverlap: true }, splitLine: { lineStyle: { color: grid } },
      axisLine: { show: false }, axisTick: { show: false },
    },
  };
  drawn = CHARTS.map(({ id, unit, label, lines }) => {
    const chart = echarts.init(byId(`chart-${id}`));
    const tooltipLines = points => [`${wallClock(points[0].value[0])} ${zone()}`, ...points.map(point => `${point.seriesName}  ${unit(point.value[1])}`)];
    chart.setOption(common);
    chart.setOption({
      grid: { left: 50, right: 12, top: lines.length > 1 ? 26 : 10, bottom: 22 },
      legend: lines.length > 1 ? { top: 0, right: 8, itemWidth: 14, itemHeight: 3, icon: "rect", textStyle: { color: quiet, fontSize: 11 } } : undefined,
      tooltip: { formatter: points => tooltipLines(points).join("\n") },
      yAxis: { axisLabel: { formatter: label ?? unit } },
      series: lines.map(([name, shown, colour], index) => ({
        id: name, name: shown, type: "line", showSymbol: false, connectNulls: false, lineStyle: { width: 1.5 }, color: color(colour),
        areaStyle: lines.length === 1 ? { opacity: 0.12 } : undefined,
        markArea: index === 0 ? { silent: true, itemStyle: { color: color("gap") }, data: [] } : undefined,
      })),
    });
    chart.group = "history";
    return chart;
  });
  echarts.connect("history");
  bars = echarts.init(byId("chart-alerts"));
  bars.setOption(common);
  bars.setOption({
    grid: { left: 30, right: 8, top: 8, bottom: 18 },
    yAxis: { axisLabel: { formatter: count } },
    tooltip: { formatter: ([point]) => `${wallClock(point.value[0] - BAR_MS / 2)} ${zone()}, ${BAR_MS / 1000} s\nabout ${plural(Math.round(point.value[1]), "alert")}, all detectors` },
    series: [{ id: "alerts", type: "bar", color: color("accent"), barWidth: "70%" }],
  });
  drawnUpTo = { last: 0, end: 0 };
  draw();
}

/** Draws the charts up to `now_ms`, with a gap after the last sample. */
export function draw(now_ms) {
  if (samples.length === 0) return;
  const last = samples.at(-1).at_ms;
  const end = Math.max(last, now_ms ?? last);
  // To draw five charts is most of what a page that is left open costs.
  if (last === drawnUpTo.last && end >= drawnUpTo.end && end - drawnUpTo.end < DRAW_EVERY_MS) return;
  drawnUpTo = { last, end };
  const ahead = wallOffset(end);
  const shaded = [...gaps(ahead), ...(end - last > GAP_MS ? [[{ xAxis: last + ahead }, { xAxis: end + ahead }]] : [])];
  // The charts span at least a minute, so that the first seconds don't fill them.
  const begin = Math.min(Math.max(samples[0].at_ms, end - HISTORY_MS), end - 60_000);
  CHARTS.forEach(({ lines, axis }, index) => {
    const chart = drawn[index];
    const high = samples.reduce((most, sample) => lines.reduce((most, [name]) => Math.max(most, sample[name] ?? 0), most), 0);
    chart?.setOption({
      xAxis: times(chart, begin + ahead, end + ahead),
      yAxis: values(axis(high)),
      series: lines.map(([name], position) => ({ id: name, data: line(name, ahead), ...(position === 0 ? { markArea: { data: shaded } } : {}) })),
    });
  });
  if (!bars) return;
  const alerts = counted(begin, end, ahead);
  const high = alerts.reduce((most, [, sum]) => Math.max(most, sum), 0);
  bars.setOption({ xAxis: times(bars, begin + ahead, end + ahead), yAxis: values(countAxis(high, 2, 1)), series: [{ id: "alerts", data: alerts }] });
}

/** Returns an axis of wall-clock times, whose labels all differ. */
function times(chart, begin, end) {
  const { marks, step } = timeMarks(begin, end, Math.max(2, chart.getWidth() / TIME_LABEL_WIDTH));
  return { min: begin, max: end, name: zone(), axisLabel: { customValues: marks, formatter: value => timeLabel(value, step) } };
}

const values = ({ min, max, step }) => ({ min, max, interval: step });

/** Counts the alerts of all detectors for each bar. */
function counted(begin, end, ahead) {
  const first = Math.floor(begin / BAR_MS);
  const sums = new Array(Math.max(0, Math.floor(end / BAR_MS) - first + 1)).fill(0);
  for (const sample of samples) {
    const bar = Math.floor(sample.at_ms / BAR_MS) - first;
    if (bar in sums) sums[bar] += sample.alerts_per_s ?? 0;
  }
  return sums.map((sum, bar) => [(first + bar + 0.5) * BAR_MS + ahead, sum]);
}

addEventListener("themechange", () => drawn.length > 0 && build());
new ResizeObserver(() => {
  [...drawn, bars].forEach(chart => chart?.resize());
  // How many labels there is room for has changed.
  drawnUpTo = { last: 0, end: 0 };
}).observe(byId("charts"));
