// Charts over time, from samples of this page and of the host. Where there are no samples, the line has a gap: a pause
// must not look like a straight line.

import { byId, clock, count, duration, plural, rate, shortDuration } from "./format.js";
import { color } from "./theme.js";

/** Older samples are dropped. */
const HISTORY_MS = 15 * 60_000;

/** Samples that are further apart than this are not connected by a line. */
const GAP_MS = 3500;

/** The width of a bar of the alerts chart. */
const BAR_MS = 10_000;

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

function line(name) {
  const points = [];
  for (const [index, sample] of samples.entries()) {
    if (index > 0 && sample.at_ms - samples[index - 1].at_ms > GAP_MS) points.push([samples[index - 1].at_ms + 1, null]);
    points.push([sample.at_ms, sample[name]]);
  }
  return points;
}

/** Returns the times without a sample, which are shaded. */
function gaps() {
  const areas = [];
  for (let index = 1; index < samples.length; index += 1) {
    const [before, after] = [samples[index - 1].at_ms, samples[index].at_ms];
    if (after - before > GAP_MS) areas.push([{ xAxis: before }, { xAxis: after }]);
  }
  return areas;
}

const CHARTS = [
  { id: "throughput", unit: rate, lines: [["ticks_per_s", "ticks/s", "series-0"]] },
  { id: "behind", unit: duration, axis: shortDuration, lines: [["behind_ms", "lag", "series-5"]] },
  { id: "latency", unit: duration, axis: shortDuration, lines: [["p50_ms", "p50", "series-4"], ["p99_ms", "p99", "series-0"], ["p999_ms", "p99.9", "series-3"]] },
  { id: "backlog", unit: count, lines: [["backlog", "backlog", "series-2"]] },
];

let drawn = [];
let bars = null;

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
      type: "time", splitNumber: 3, axisLabel: { color: quiet, fontSize: 11, hideOverlap: true, formatter: value => clock(value).slice(0, 5) },
      axisLine: { lineStyle: { color: grid } }, axisTick: { show: false }, splitLine: { show: false },
    },
    yAxis: {
      type: "value", min: 0, splitNumber: 3, axisLabel: { color: quiet, fontSize: 11, hideOverlap: true }, splitLine: { lineStyle: { color: grid } },
      axisLine: { show: false }, axisTick: { show: false },
    },
  };
  drawn = CHARTS.map(({ id, unit, axis, lines }) => {
    const chart = echarts.init(byId(`chart-${id}`));
    const tooltipLines = points => [clock(points[0].value[0]), ...points.map(point => `${point.seriesName}  ${unit(point.value[1])}`)];
    chart.setOption(common);
    chart.setOption({
      grid: { left: 50, right: 12, top: lines.length > 1 ? 26 : 10, bottom: 22 },
      legend: lines.length > 1 ? { top: 0, right: 8, itemWidth: 14, itemHeight: 3, icon: "rect", textStyle: { color: quiet, fontSize: 11 } } : undefined,
      tooltip: { formatter: points => tooltipLines(points).join("\n") },
      yAxis: { axisLabel: { formatter: axis ?? unit } },
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
    yAxis: { splitNumber: 1, minInterval: 1 },
    tooltip: { formatter: ([point]) => `${clock(point.value[0])}, ${BAR_MS / 1000} s\nabout ${plural(Math.round(point.value[1]), "alert")}, all detectors` },
    series: [{ id: "alerts", type: "bar", color: color("accent"), barWidth: "70%" }],
  });
  draw();
}

/** Draws the charts up to `now_ms`, with a gap after the last sample. */
export function draw(now_ms) {
  if (samples.length === 0) return;
  const last = samples.at(-1).at_ms;
  const end = Math.max(last, now_ms ?? last);
  const shaded = [...gaps(), ...(end - last > GAP_MS ? [[{ xAxis: last }, { xAxis: end }]] : [])];
  // The charts span at least a minute, so that the first seconds don't fill them.
  const begin = Math.min(Math.max(samples[0].at_ms, end - HISTORY_MS), end - 60_000);
  CHARTS.forEach(({ lines }, index) => {
    drawn[index]?.setOption({
      xAxis: { min: begin, max: end },
      series: lines.map(([name], position) => ({ id: name, data: line(name), ...(position === 0 ? { markArea: { data: shaded } } : {}) })),
    });
  });
  bars?.setOption({ xAxis: { min: begin, max: end }, series: [{ id: "alerts", data: counted(begin, end) }] });
}

/** Counts the alerts of all detectors for each bar. */
function counted(begin, end) {
  const first = Math.floor(begin / BAR_MS);
  const sums = new Array(Math.max(0, Math.floor(end / BAR_MS) - first + 1)).fill(0);
  for (const sample of samples) {
    const bar = Math.floor(sample.at_ms / BAR_MS) - first;
    if (bar in sums) sums[bar] += sample.alerts_per_s ?? 0;
  }
  return sums.map((sum, bar) => [(first + bar + 0.5) * BAR_MS, sum]);
}

addEventListener("themechange", () => drawn.length > 0 && build());
new ResizeObserver(() => [...drawn, bars].forEach(chart => chart?.resize())).observe(byId("charts"));
