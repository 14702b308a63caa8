// The panel of one alert: its facts, the price around it, its evidence, and its ids.

import { LONG_TIMEOUT_MS, get } from "./api.js";
import { decimals, timeLabel, timeMarks, valueAxis } from "./axis.js";
import { arrow, byId, clock, detectorColor, duration, exact, figure, fixed, full, make, middle, nanosToMillis, price, say, wallOffset, zone } from "./format.js";
import { muting } from "./mutes.js";
import { color } from "./theme.js";
import { visible } from "./visible.js";

/** The time spans on either side of the alert. */
const SPANS = [[60, "1 min"], [300, "5 min"], [1800, "30 min"]];

/** The chart of a new alert is reloaded this often, until the ticks after the alert are complete. */
const RELOAD_EVERY_MS = 5000;

const panel = byId("alert");
let chart = null;
let shown = null;
let back = null;
let span_s = 300;
let timer = null;

/** The parameter of the address, behind `#`, that names the alert; links in messages have it. */
const LINK = "alert";

/** Shows the alert that the address names, from the stream; the list may no longer hold it. */
export async function openLinked(set) {
  const id = new URLSearchParams(location.hash.slice(1)).get(LINK);
  if (!id || id === shown?.id) return;
  try {
    show(await get("api/alert", { id }, LONG_TIMEOUT_MS), null, set);
  } catch (error) {
    explain(id, error instanceof TypeError ? "the host does not answer" : error.message);
  }
}

/** Says why an alert can't be shown. */
function explain(id, reason) {
  close();
  panel.replaceChildren(
    make("div", { class: "title" }, make("h2", { id: "alert-title" }, "This alert can't be shown"), closer()),
    make("p", {}, reason), make("p", {}, make("code", {}, id)));
  // So that it can be tried again.
  setLink(id);
  reveal();
}

/** Puts the alert into the address, or takes it out, and leaves the rest. */
function setLink(id) {
  const fragment = new URLSearchParams(location.hash.slice(1));
  if (id) fragment.set(LINK, id);
  else fragment.delete(LINK);
  // A slash may stand there as it is, and is easier to read.
  const text = String(fragment).replaceAll("%2F", "/");
  history.replaceState(null, "", location.pathname + location.search + (text ? `#${text}` : ""));
}

const closer = () => make("button", { type: "button", class: "close", "aria-label": "close", onclick: close }, "✕");

function reveal() {
  panel.hidden = false;
  document.body.classList.add("with-alert");
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
}

/** Shows an alert. When it is closed, the focus returns to `from`; `set` sets fields of the list's filter. */
export function show(alert, from, set) {
  back = from;
  shown = alert;
  setLink(alert.id);
  const { detector, direction, symbol, plugin, version, stale, recovered, lag_ms: lag, confidence } = alert;
  const facts = [
    ["time", full(nanosToMillis(alert.time))],
    ["price", price(alert.price)],
    ["confidence", figure(confidence)],
    ["detector", `${detector} (${plugin} ${version})`],
    ["committed", `${duration(lag)} after the arrival of its entry${stale ? ", so it is late" : ""}${recovered ? "; recovered, since its entry had been read before a crash or takeover" : ""}`],
  ];
  if (alert.venue) facts.push(["venue", alert.venue]);
  if (alert.sha256) facts.push(["code", `sha256 ${alert.sha256}, parameters ${alert.params_hash}, generation ${alert.generation ?? "unknown"}`]);
  if (alert.reference) facts.push(["reference data", `sha256 ${alert.reference}`]);
  const shadow = alert.shadow_of ? `, a shadow of ${alert.shadow_of}: this alert is not live` : "";
  const ids = [["link", location.href], ["alert", alert.id], ["entry", alert.entry], ["in the alerts stream", alert.stream_id]];
  const spans = make("div", { class: "choice", role: "group", "aria-label": "time span around the alert" }, ...SPANS.map(([seconds, text]) =>
    make("button", { type: "button", "aria-pressed": String(seconds === span_s), onclick: event => widen(seconds, event.currentTarget) }, `± ${text}`)));
  panel.replaceChildren(
    make("div", { class: "title" },
      make("h2", { id: "alert-title" }, make("span", { class: `arrow ${direction}` }, arrow(direction)), " ", make("bdi", { title: symbol }, middle(symbol))), closer()),
    make("p", { class: "quiet" }, make("span", { class: `dot ${detectorColor(detector)}` }, detector), ` ${direction}, confidence ${fixed(confidence, 2)}${shadow}`),
    spans,
    make("div", { id: "alert-chart", role: "img", "aria-label": `price of ${symbol} around the alert` }),
    make("p", { id: "alert-chart-note", class: "quiet", role: "status" }, "loading the price …"),
    make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("p", { class: "actions" },
      make("button", { type: "button", onclick: () => set({ symbol }) }, "only ", make("bdi", {}, middle(symbol))),
      make("button", { type: "button", onclick: () => set({ detector }) }, "only ", make("bdi", {}, middle(detector)))),
    muting(alert),
    make("h3", {}, "Evidence"),
    evidence(alert.evidence),
    make("h3", {}, "Link and ids"),
    make("dl", { class: "facts" }, ...ids.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, make("code", {}, value), copier(value))])));
  chart?.dispose();
  reveal();
  chart = echarts.init(byId("alert-chart"));
  load();
}

function close() {
  clearTimeout(timer);
  panel.hidden = true;
  shown = null;
  setLink(null);
  document.body.classList.remove("with-alert");
  back?.focus();
}

panel.addEventListener("keydown", event => event.key === "Escape" && close());
addEventListener("resize", () => shown && chart?.resize());
addEventListener("themechange", () => shown && load());

function widen(seconds, button) {
  span_s = seconds;
  for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
  load();
}

function evidence(values) {
  const rows = Object.entries(values ?? {}).map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name.replaceAll("_", " ")), make("td", { class: "number" }, figure(value))));
  return rows.length === 0 ? make("p", { class: "empty" }, "the detector has given no evidence") : make("table", {}, make("tbody", {}, ...rows));
}

function copier(text) {
  return make("button", {
    type: "button", class: "copy",
    onclick: async event => {
      const button = event.currentTarget;
      // Without TLS, a browser denies pages of other machines access to the clipboard. Then the text is selected for copying.
      try {
        await navigator.clipboard.writeText(text);
        say(button, "copied");
      } catch {
        getSelection().selectAllChildren(button.previousElementSibling);
        say(button, "selected");
      }
      setTimeout(() => say(button, "copy"), 1500);
    },
  }, "copy");
}

async function load() {
  clearTimeout(timer);
  const [alert, seconds] = [shown, span_s];
  const note = byId("alert-chart-note");
  let isComplete = Date.now() - Number(alert.entry.split("-")[0]) > (seconds + 5) * 1000;
  try {
    const around = await get("api/chart", { entry: alert.entry, symbol: alert.symbol, before_s: seconds, after_s: seconds }, LONG_TIMEOUT_MS);
    if (shown !== alert || span_s !== seconds) return;
    draw(alert, around);
    const { points } = around;
    say(note, points.length === 0 ? "the stream no longer holds ticks of that time"
      : `${points.length} prices, ${clock(points[0][0])} to ${clock(points.at(-1)[0])} ${zone()}${around.truncated ? "; the span holds more prices than can be shown" : ""}`);
  } catch (error) {
    isComplete = false;
    if (shown === alert) say(note, `the price is not available yet: ${error instanceof TypeError ? "the host does not answer" : error.message}`);
  }
  if (!isComplete && shown === alert && span_s === seconds) timer = setTimeout(load, RELOAD_EVERY_MS);
}

const TURNED = { up: 0, down: 180, none: 0 };

/** The zoom shows at least this span, so that marks of seconds can be told apart. */
const ZOOM_LEAST_MS = 5000;

const TIME_LABEL_WIDTH = 90;

function draw(alert, { points, alerts = [] }) {
  const [quiet, grid, text, box] = ["quiet", "line", "text", "box"].map(color);
  const all = alerts.some(other => other.id === alert.id) ? alerts : [...alerts, alert];
  const detectors = [...new Set(all.map(other => other.detector))];
  const at = nanosToMillis(alert.time) ?? points[0]?.[0] ?? 0;
  const ahead = wallOffset(at);
  const marker = other => ({
    value: [nanosToMillis(other.time) + ahead, other.price], alert: other,
    symbol: other.direction === "none" ? "circle" : "triangle", symbolRotate: TURNED[other.direction],
    symbolSize: other.id === alert.id ? 17 : 9 + 3 * other.confidence,
    itemStyle: other.id === alert.id ? { borderColor: text, borderWidth: 2 } : { borderColor: box, borderWidth: 1 },
  });
  const markers = all.filter(other => other.price !== null && other.time !== null);
  const prices = valueAxis([...points.map(([, price]) => price), ...markers.map(other => other.price)], 4);
  const everyTime = [at, ...points.map(([time]) => time), ...markers.map(other => nanosToMillis(other.time))];
  const [first, last] = everyTime.reduce(([first, last], time) => [Math.min(first, time), Math.max(last, time)], [Infinity, -Infinity]);
  // A single tick is in the middle.
  const edge = Math.max(0, ZOOM_LEAST_MS - (last - first)) / 2;
  const span = [first - edge + ahead, last + edge + ahead];
  chart.setOption({
    animation: false, backgroundColor: "transparent", textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 66, right: 14, top: 30, bottom: 26 },
    legend: { type: "scroll", top: 0, data: detectors.map(name => ({ name: visible(name), icon: "circle" })), itemWidth: 10, itemHeight: 10, textStyle: { color: quiet, fontSize: 11 } },
    tooltip: {
      trigger: "item", confine: true, renderMode: "richText", backgroundColor: box, borderColor: grid, textStyle: { color: text, fontSize: 12 },
      formatter: ({ data: { alert: of } }) => of ? `${visible(of.detector)} ${visible(of.direction)}\n${clock(nanosToMillis(of.time))} ${zone()}  ${price(of.price)}\nconfidence ${fixed(of.confidence, 3)}` : "",
    },
    dataZoom: [{ type: "inside", filterMode: "none", minValueSpan: ZOOM_LEAST_MS }],
    xAxis: {
      type: "value", min: span[0], max: span[1], ...timeLabels(...span), axisLine: { lineStyle: { color: grid } }, axisTick: { show: false }, splitLine: { show: false },
      name: zone(), nameLocation: "start", nameGap: 8, nameTextStyle: { color: quiet, fontSize: 11, verticalAlign: "top", padding: [8, 0, 0, 0] },
    },
    yAxis: {
      type: "value", min: prices.min, max: prices.max, interval: prices.step,
      axisLabel: { color: quiet, fontSize: 11, formatter: value => exact(value, decimals(prices.step)) }, splitLine: { lineStyle: { color: grid } },
    },
    series: [
      {
        name: "price", type: "line", step: "end", showSymbol: false, silent: true, color: quiet, lineStyle: { width: 1.3 }, data: points.map(([time, price]) => [time + ahead, price]), z: 2,
        markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: quiet, type: "dashed", width: 1 }, data: [{ xAxis: at + ahead }] },
      },
      ...detectors.map(name => ({
        name: visible(name), type: "scatter", z: 3, color: color(detectorColor(name)),
        data: markers.filter(other => other.detector === name).map(marker),
      })),
    ],
  }, true);
  chart.off("datazoom");
  chart.on("datazoom", () => {
    const [{ startValue, endValue }] = chart.getOption().dataZoom;
    chart.setOption({ xAxis: timeLabels(startValue, endValue) });
  });
}

/** Returns the labels of an axis that shows this span of the wall clock. */
function timeLabels(begin, end) {
  const { marks, step } = timeMarks(begin, end, Math.max(2, chart.getWidth() / TIME_LABEL_WIDTH));
  return { axisLabel: { color: color("quiet"), fontSize: 11, hideOverlap: true, customValues: marks, formatter: value => timeLabel(value, step) } };
}
