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
const toMinute = clock({ month: "short", day: "2-digit", hour: "2-digit", minute: "2-digit" });
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
  (replayed.first ? `${toSecond(Date.parse(replayed.first))} to ${toSecond(Date.parse(replayed.last))} (${page.timezone}), ` : "") +
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
const timeAxis = { type: "time", axisLabel: { color: quiet, hideOverlap: true, formatter: toMinute }, splitLine: { show: false } };
const valueAxis = extra => ({ type: "value", axisLabel: { color: quiet }, splitLine: { lineStyle: { color: grid } }, ...extra });
// An element of its own, in which a text from right to left does not change the order of what follows.
const escape = text => { const isolated = document.createElement("bdi"); isolated.textContent = visible(text); return isolated.outerHTML; };

function tooltip(alert) {
  const lines = [
    `<b>${escape(page.detectors[alert[DETECTOR]].name)}</b> ${escape(page.symbols[alert[SYMBOL]])}`,
    `${toSecond(alert[TIME])}, ${number(alert[PRICE])}, ${alert[DIRECTION]}`,
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
      value: [alert[TIME], alert[PRICE]], alert,
      symbol: alert[DIRECTION] === "none" ? "circle" : "triangle", symbolRotate: turn[alert[DIRECTION]],
      symbolSize: 7 + 7 * alert[CONFIDENCE],
    })),
  }));
  charts[0].setOption({
    ...common, xAxis: timeAxis, yAxis: valueAxis({ scale: true }),
    color: [quiet, ...COLORS],
    tooltip: { confine: true, formatter: point => point.data.alert ? tooltip(point.data.alert) : "" },
    dataZoom: [{ type: "inside" }, { type: "slider", height: 22, bottom: 8, labelFormatter: value => toMinute(value) }],
    series: [
      { name: "price", type: "line", z: 4, silent: true, step: "end", showSymbol: false, lineStyle: { width: 1 }, tooltip: { show: false }, data: Object.hasOwn(page.prices, symbol) ? page.prices[symbol] : [] },
      ...series.filter(one => one.data.length > 0),
    ],
  }, true);
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
const STEPS = [60e3, 300e3, 900e3, 3600e3, 4 * 3600e3, 86400e3, 7 * 86400e3];
const step = STEPS.find(step => (last - first) / step <= 120) || 30 * 86400e3;
const stacked = (index, bin, bins) => {
  const counts = new Array(bins).fill(0);
  for (const alert of page.alerts) if (alert[DETECTOR] === index) counts[bin(alert)] += 1;
  return counts;
};
if (times.length > 0) {
  const start = first - first % step;
  const bins = Math.floor((last - start) / step) + 1;
  charts[1].setOption({
    ...common, tooltip: { trigger: "axis", confine: true },
    xAxis: { type: "category", data: [...Array(bins).keys()].map(bin => toMinute(start + bin * step)), axisLabel: { color: quiet, hideOverlap: true } },
    yAxis: valueAxis({ minInterval: 1 }),
    series: page.detectors.map((detector, index) => ({
      name: detector.name, type: "bar", stack: "alerts", barCategoryGap: "10%",
      data: stacked(index, alert => Math.floor((alert[TIME] - start) / step), bins),
    })),
  });
  const BINS = 20;
  charts[2].setOption({
    ...common, tooltip: { trigger: "axis", confine: true },
    xAxis: { type: "category", data: [...Array(BINS).keys()].map(bin => (bin / BINS).toFixed(2)), axisLabel: { color: quiet } },
    yAxis: valueAxis({ minInterval: 1 }),
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
