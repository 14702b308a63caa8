const page = JSON.parse(document.getElementById("page-data").textContent);
const [DETECTOR, SYMBOL, TIME, PRICE, CONFIDENCE, DIRECTION, EVIDENCE, OUTCOME] = [0, 1, 2, 3, 4, 5, 6, 7];
const COLORS = ["#2f7ed8", "#e8702a", "#1a9c6b", "#b453c6", "#c9a20a", "#d43d51", "#3fb4c9", "#7a8b99"];
const byId = id => document.getElementById(id);
const number = value => value === null || value === undefined ? "–" : Number(value).toLocaleString("en-US", { maximumFractionDigits: 4 });
const percent = share => share === null ? "–" : (share * 100).toFixed(1) + " %";
const clock = options => {
  const format = new Intl.DateTimeFormat("en-GB", { timeZone: page.timezone, ...options });
  return time => format.format(time);
};
const toSecond = clock({ year: "numeric", month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit" });

function table(id, head, rows) {
  const cell = (kind, text) => {
    const cell = document.createElement(kind);
    cell.textContent = visible(text);
    return cell;
  };
  const line = (kind, cells) => {
    const line = document.createElement("tr");
    line.append(...cells.map(text => cell(kind, text)));
    return line;
  };
  byId(id).append(line("th", head), ...rows.map(row => line("td", row)));
}

const { replayed } = page;
byId("head").textContent = `${number(replayed.ticks)} ticks of ${number(replayed.symbols)} symbols, ` +
  (replayed.first ? `${toSecond(Date.parse(replayed.first))} to ${toSecond(Date.parse(replayed.last))} ${page.timezone_label} (${page.timezone}), ` : "") +
  `${number(replayed.alerts)} alerts.` + (replayed.stopped ? " The replay was stopped before the end." : "");
byId("data-quality").textContent =
  `The replay took ${number(replayed.seconds)} s, at ${number(Math.round(replayed.ticks_per_second))} ticks a second.`;

const shuffled = Object.values(replayed.detectors).some(detector => detector.alerts_shuffled.length > 0);
table("detectors",
  ["detector", "alerts", ...(shuffled ? ["on shuffled ticks"] : []), "median confidence", "reached", "failed", "neither", "open", "hit rate", "ns a tick"],
  Object.entries(replayed.detectors).map(([name, of]) => {
    const [least, most] = [Math.min(...of.alerts_shuffled), Math.max(...of.alerts_shuffled)];
    return [name, number(of.alerts), ...(shuffled ? [least === most ? number(least) : `${number(least)} to ${number(most)}`] : []),
      number(of.median_confidence), ...["reached", "failed", "neither", "open"].map(kind => number(of.outcomes[kind])),
      percent(of.hit_rate), number(of.ns_per_tick)];
  }));
byId("rule").textContent = `Reached: the price went ${number(replayed.outcome_rule.atr)} average true ranges (14 minutes) in the ` +
  `alert's direction before it went as far against it, within ${number(replayed.outcome_rule.minutes)} minutes. ` +
  "Chance alone gives a hit rate of about 50 %; trading costs are left out. " +
  (shuffled ? "Shuffled ticks are the same ticks with their moves in random order; alerts that are as frequent there are due to chance." : "");

const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const quiet = getComputedStyle(document.body).getPropertyValue("--quiet");
const grid = getComputedStyle(document.body).getPropertyValue("--line");
const charts = ["price", "over-time", "confidence"].map(id => echarts.init(byId(id), dark ? "dark" : null));
addEventListener("resize", () => charts.forEach(chart => chart.resize()));
const common = {
  backgroundColor: "transparent", animation: false, color: COLORS,
  legend: { type: "scroll", top: 0, textStyle: { color: quiet } },
  grid: { left: 60, right: 16, top: 34, bottom: 60 },
};
const numberAxis = extra => ({ type: "value", axisLabel: { color: quiet }, splitLine: { lineStyle: { color: grid } }, ...extra });
// An element of its own, in which a text from right to left does not change the order of what follows.
const escape = text => { const isolated = document.createElement("bdi"); isolated.textContent = visible(text); return isolated.outerHTML; };

/** A longer time without any tick, such as a night, is left out of the axis of time, with a mark. */
const CUT_AFTER_MS = 3 * 3600e3;

/** The zoom shows at least this span, so that marks of seconds can be told apart. */
const ZOOM_LEAST_MS = 5000;

const TIME_LABEL_WIDTH = 100;

const parts = new Intl.DateTimeFormat("en-GB", {
  timeZone: page.timezone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric",
});
/** Returns by how much the wall clock is ahead of UTC, ms. */
function wallOffset(time) {
  const { year, month, day, hour, minute, second } = Object.fromEntries(parts.formatToParts(time).map(({ type, value }) => [type, Number(value)]));
  return Date.UTC(year, month - 1, day, hour, minute, second) - Math.floor(time / 1000) * 1000;
}

/** The times with ticks, without long gaps: each from its first to its last tick, with its place on the axis. */
const sessions = findSessions();
const shownMs = sessions.reduce((sum, { from, to }) => sum + to - from, 0);
// Whole, as places are keys below.
const cutWidth = Math.round(Math.max(1000, shownMs / 100));
sessions.reduce((place, session) => {
  Object.assign(session, { place, ahead: wallOffset(session.from) });
  return place + session.to - session.from + cutWidth;
}, 0);
const axisEnd = Math.max(ZOOM_LEAST_MS, shownMs + (sessions.length - 1) * cutWidth);

function findSessions() {
  const times = [...Object.values(page.prices).flatMap(line => line.map(([time]) => time)), ...page.alerts.map(alert => alert[TIME])];
  times.sort((a, b) => a - b);
  const found = [];
  for (const time of times) {
    const session = found.at(-1);
    if (session && time - session.to <= CUT_AFTER_MS) session.to = time;
    else found.push({ from: time, to: time });
  }
  return found;
}

/** Returns the last session that begins at or before the time. */
function sessionOf(time) {
  let [low, high] = [0, sessions.length - 1];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (sessions[middle].from <= time) low = middle;
    else high = middle - 1;
  }
  return sessions[low];
}

/** Returns the place of a time on the axis. */
function placeOf(time) {
  const { from, place } = sessionOf(time);
  return place + time - from;
}

/** Returns the wall clock at a place of the axis. */
function wallAt(place) {
  const { from, to, place: start, ahead } = sessions.findLast(session => session.place <= place) ?? sessions[0];
  return Math.min(to, from + place - start) + ahead;
}

const dayAndTime = wall => `${wallDay(wall)} ${wallClock(wall).slice(0, 5)}`;

/** Breaks the line where the axis leaves time out. */
function priceLine(points) {
  const line = [];
  let before = null;
  for (const [time, price] of points) {
    const session = sessionOf(time);
    if (before && before !== session) line.push([session.place - cutWidth / 2, null]);
    line.push([placeOf(time), price]);
    before = session;
  }
  return line;
}

/** Returns the labels of the part of the axis between two places: days where they begin, and round times in between. */
function timeLabels(begin, end) {
  const most = Math.max(2, charts[0].getWidth() / TIME_LABEL_WIDTH);
  const visible = sessions.filter(({ from, to, place }) => place <= end && place + to - from >= begin);
  const labels = new Map();
  // If there are more sessions than labels, each so many get one.
  const each = Math.ceil(visible.length / most);
  const step = timeStep(end - begin, Math.max(1, most - visible.length));
  visible.forEach(({ from, to, place, ahead }, index) => {
    const isSameDay = index > 0 && wallDay(visible[index - 1].from + visible[index - 1].ahead) === wallDay(from + ahead);
    if (sessions.length > 1 && index % each === 0 && place >= begin) labels.set(place, isSameDay ? timeLabel(from + ahead, 60e3) : wallDay(from + ahead));
    if (each > 1) return;
    const [low, high] = [Math.max(from, from + begin - place), Math.min(to, from + end - place)].map(time => time + ahead);
    for (let mark = Math.ceil(low / step) * step; mark <= high; mark += step) {
      // Not on top of the day.
      if (sessions.length === 1 || mark - from - ahead >= step * 0.6) labels.set(place + mark - from - ahead, timeLabel(mark, step));
    }
  });
  return { axisTick: { customValues: [...labels.keys()] }, axisLabel: { color: quiet, hideOverlap: true, customValues: [...labels.keys()], formatter: place => labels.get(place) ?? "" } };
}

function tooltip(alert) {
  const lines = [
    `<b>${escape(page.detectors[alert[DETECTOR]].name)}</b> ${escape(page.symbols[alert[SYMBOL]])}`,
    `${toSecond(alert[TIME])} ${page.timezone_label}, ${number(alert[PRICE])}, ${alert[DIRECTION]}`,
    `confidence ${alert[CONFIDENCE].toFixed(3)}, ${alert[OUTCOME]}`,
    ...Object.entries(alert[EVIDENCE]).map(([name, value]) => `${escape(name)} ${number(value)}`),
  ];
  return lines.join("<br>");
}

function drawPrice(symbol) {
  const alerts = page.alerts.filter(alert => page.symbols[alert[SYMBOL]] === symbol);
  const turn = { up: 0, down: 180, none: 0 };
  const series = page.detectors.map((detector, index) => ({
    name: detector.name, type: "scatter", z: 3,
    // A detector has the same colour in all charts, whichever detectors have alerts here.
    itemStyle: { color: COLORS[index % COLORS.length], borderColor: dark ? "#000" : "#fff", borderWidth: 1 },
    data: alerts.filter(alert => alert[DETECTOR] === index && alert[PRICE] !== null).map(alert => ({
      value: [placeOf(alert[TIME]), alert[PRICE]], alert,
      symbol: alert[DIRECTION] === "none" ? "circle" : "triangle", symbolRotate: turn[alert[DIRECTION]],
      symbolSize: 7 + 7 * alert[CONFIDENCE],
    })),
  }));
  charts[0].setOption({
    ...common, yAxis: numberAxis({ scale: true }),
    xAxis: {
      type: "value", min: 0, max: axisEnd, ...timeLabels(0, axisEnd), splitLine: { show: false },
      name: page.timezone_label, nameLocation: "start", nameTextStyle: { color: quiet, verticalAlign: "top", padding: [8, 0, 0, 0] }, nameGap: 14,
    },
    color: [quiet, ...COLORS],
    tooltip: { confine: true, extraCssText: "white-space: normal; overflow-wrap: anywhere; max-width: 90vw", formatter: point => point.data.alert ? tooltip(point.data.alert) : "" },
    dataZoom: [{ type: "inside", minValueSpan: ZOOM_LEAST_MS }, { type: "slider", height: 22, bottom: 8, minValueSpan: ZOOM_LEAST_MS, labelFormatter: value => dayAndTime(wallAt(value)) }],
    series: [
      { name: "price", type: "line", z: 4, silent: true, step: "end", showSymbol: false, lineStyle: { width: 1 }, tooltip: { show: false }, data: priceLine(Object.hasOwn(page.prices, symbol) ? page.prices[symbol] : []),
        markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: quiet, type: "dotted" }, data: sessions.slice(1).map(({ place }) => ({ xAxis: place - cutWidth / 2 })) } },
      ...series.filter(one => one.data.length > 0),
    ],
  }, true);
  charts[0].off("datazoom");
  charts[0].on("datazoom", () => {
    const [{ startValue, endValue }] = charts[0].getOption().dataZoom;
    charts[0].setOption({ xAxis: timeLabels(startValue, endValue) });
  });
}

const choice = byId("symbol");
choice.append(...page.charted.map(([name, count]) => new Option(visible(`${name} (${count})`), name)));
choice.addEventListener("change", () => drawPrice(choice.value));
const notes = [];
if (page.symbols.length > page.charted.length) {
  notes.push(`Only the ${page.charted.length} symbols with the most alerts have a chart, of ${page.symbols.length}.`);
}
if (page.alerts_in_all > page.alerts.length) {
  notes.push(`Only the ${number(page.alerts.length)} alerts with the highest confidence are shown, of ${number(page.alerts_in_all)}.`);
}
if (page.alerts.length === 0) {
  notes.push("There are no alerts. Each detector needs some minutes of market time to warm up.");
}
byId("left-out").textContent = notes.join(" ");
if (page.charted.length > 0) {
  drawPrice(page.charted[0][0]);
}

const times = page.alerts.map(alert => alert[TIME]);
const first = times.reduce((least, time) => Math.min(least, time), Infinity);
const last = times.reduce((most, time) => Math.max(most, time), 0);
const BARS_MAX = 120;
const STEPS = [1e3, 5e3, 15e3, 60e3, 300e3, 900e3, 3600e3, 4 * 3600e3, 86400e3, 7 * 86400e3, 30 * 86400e3];
/** The bars from the first alert to the last one: the start of each by the wall clock, and its number; nights have none. */
function barsOf(step) {
  const bars = new Map();
  for (const { from, to, ahead } of sessions) {
    const [begin, end] = [Math.max(from, first), Math.min(to, last)].map(time => Math.floor((time + ahead) / step));
    // More than these are not drawn anyway.
    for (let bar = begin; bar <= end && bars.size <= BARS_MAX; bar += 1) if (!bars.has(bar)) bars.set(bar, bars.size);
  }
  return bars;
}
const stacked = (index, bin, bins) => {
  const counts = new Array(bins).fill(0);
  for (const alert of page.alerts) if (alert[DETECTOR] === index) counts[bin(alert)] += 1;
  return counts;
};
if (times.length > 0) {
  const step = STEPS.find(step => barsOf(step).size <= BARS_MAX) ?? STEPS.at(-1);
  const bars = barsOf(step);
  const isOneDay = wallDay(wallAt(placeOf(first))) === wallDay(wallAt(placeOf(last)));
  const label = wall => step >= 86400e3 ? wallDay(wall) : isOneDay ? timeLabel(wall, step) : dayAndTime(wall);
  charts[1].setOption({
    ...common, tooltip: { trigger: "axis", confine: true },
    xAxis: { type: "category", data: [...bars.keys()].map(bar => label(bar * step)), axisLabel: { color: quiet, hideOverlap: true },
      name: page.timezone_label, nameLocation: "start", nameTextStyle: { color: quiet, verticalAlign: "top", padding: [8, 0, 0, 0] }, nameGap: 14 },
    yAxis: numberAxis({ minInterval: 1 }),
    series: page.detectors.map((detector, index) => ({
      name: detector.name, type: "bar", stack: "alerts", barCategoryGap: "10%",
      data: stacked(index, alert => bars.get(Math.floor((alert[TIME] + sessionOf(alert[TIME]).ahead) / step)), bars.size),
    })),
  });
  const BINS = 20;
  charts[2].setOption({
    ...common, tooltip: { trigger: "axis", confine: true },
    xAxis: { type: "category", data: [...Array(BINS).keys()].map(bin => (bin / BINS).toFixed(2)), axisLabel: { color: quiet } },
    yAxis: numberAxis({ minInterval: 1 }),
    series: page.detectors.map((detector, index) => ({
      name: detector.name, type: "bar", stack: "alerts", barCategoryGap: "5%",
      data: stacked(index, alert => Math.min(BINS - 1, Math.floor(alert[CONFIDENCE] * BINS)), BINS),
    })),
  });
}

const quality = replayed.data;
table("data", ["ticks", "number"], [
  ["seen by detectors", number(replayed.ticks)],
  ["not seen by detectors, without a price or time", number(quality.unseen)],
  ["with a missing or implausible time that was estimated", number(quality.time_estimated)],
  ["with an earlier time than the previous tick, raised to it", number(quality.out_of_order)],
  ["with a falling volume that was repaired", number(quality.volume_repaired)],
  ["with quotes only", number(quality.quote_only)],
  ["lines that are not JSON objects", number(quality.skipped_lines)],
  ...Object.entries(quality.undecodable).map(([reason, count]) => [`not a tick: ${reason}`, number(count)]),
]);
table("settings", ["detector", "plugin", "sha256", "parameters"], page.detectors.map(detector => [
  detector.name, `${detector.plugin} ${detector.version}`, detector.sha256.slice(0, 12),
  [`min_confidence ${detector.min_confidence}`, ...Object.entries(detector.params).map(([name, value]) => `${name} ${value}`)].join(", "),
]));
for (const cell of document.querySelectorAll("#settings td:last-child")) cell.className = "text";
