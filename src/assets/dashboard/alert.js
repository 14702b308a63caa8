// The panel of one alert: its facts, the price around it, its evidence, and its ids.

import { LONG_TIMEOUT_MS, get } from "./api.js";
import { arrow, byId, clock, detectorColor, duration, figure, fixed, full, make, nanosToMillis, price, say } from "./format.js";
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

/** Shows an alert. When it is closed, the focus returns to `from`; `set` sets fields of the list's filter. */
export function show(alert, from, set) {
  back = from;
  shown = alert;
  const { detector, direction, symbol, plugin, version, stale, recovered, lag_ms: lag, confidence } = alert;
  const facts = [
    ["time", full(nanosToMillis(alert.time))],
    ["price", price(alert.price)],
    ["confidence", figure(confidence)],
    ["detector", `${detector} (${plugin} ${version})`],
    ["committed", `${duration(lag)} after the arrival of its entry${stale ? ", so it is late" : ""}${recovered ? "; recovered, since its entry had been read before a crash or takeover" : ""}`],
  ];
  const ids = [["alert", alert.id], ["entry", alert.entry], ["in the alerts stream", alert.stream_id]];
  const spans = make("div", { class: "choice", role: "group", "aria-label": "time span around the alert" }, ...SPANS.map(([seconds, text]) =>
    make("button", { type: "button", "aria-pressed": String(seconds === span_s), onclick: event => widen(seconds, event.currentTarget) }, `± ${text}`)));
  panel.replaceChildren(
    make("div", { class: "title" },
      make("h2", { id: "alert-title" }, make("span", { class: `arrow ${direction}` }, arrow(direction)), " ", make("bdi", {}, symbol)),
      make("button", { type: "button", class: "close", "aria-label": "close", onclick: close }, "✕")),
    make("p", { class: "quiet" }, make("span", { class: `dot ${detectorColor(detector)}` }, detector), ` ${direction}, confidence ${fixed(confidence, 2)}`),
    spans,
    make("div", { id: "alert-chart", role: "img", "aria-label": `price of ${symbol} around the alert` }),
    make("p", { id: "alert-chart-note", class: "quiet", role: "status" }, "loading the price …"),
    make("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
    make("h3", {}, "Evidence"),
    evidence(alert.evidence),
    make("h3", {}, "Ids"),
    make("dl", { class: "facts" }, ...ids.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, make("code", {}, value), copier(value))])),
    make("p", { class: "actions" },
      make("button", { type: "button", onclick: () => set({ symbol }) }, "only ", make("bdi", {}, symbol)),
      make("button", { type: "button", onclick: () => set({ detector }) }, "only ", make("bdi", {}, detector))));
  panel.hidden = false;
  document.body.classList.add("with-alert");
  chart?.dispose();
  chart = echarts.init(byId("alert-chart"));
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
  load();
}

function close() {
  clearTimeout(timer);
  panel.hidden = true;
  shown = null;
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
      : `${points.length} prices, ${clock(points[0][0])} to ${clock(points.at(-1)[0])}${around.truncated ? "; the span holds more prices than can be shown" : ""}`);
  } catch (error) {
    isComplete = false;
    if (shown === alert) say(note, `the price is not available yet: ${error instanceof TypeError ? "the host does not answer" : error.message}`);
  }
  if (!isComplete && shown === alert && span_s === seconds) timer = setTimeout(load, RELOAD_EVERY_MS);
}

const TURNED = { up: 0, down: 180, none: 0 };

function draw(alert, { points, alerts = [] }) {
  const [quiet, grid, text, box] = ["quiet", "line", "text", "box"].map(color);
  const all = alerts.some(other => other.id === alert.id) ? alerts : [...alerts, alert];
  const detectors = [...new Set(all.map(other => other.detector))];
  const marker = other => ({
    value: [nanosToMillis(other.time), other.price], alert: other,
    symbol: other.direction === "none" ? "circle" : "triangle", symbolRotate: TURNED[other.direction],
    symbolSize: other.id === alert.id ? 17 : 9 + 3 * other.confidence,
    itemStyle: other.id === alert.id ? { borderColor: text, borderWidth: 2 } : { borderColor: box, borderWidth: 1 },
  });
  chart.setOption({
    animation: false, backgroundColor: "transparent", textStyle: { fontFamily: getComputedStyle(document.body).fontFamily },
    grid: { left: 62, right: 14, top: 30, bottom: 26 },
    legend: { top: 0, data: detectors.map(name => ({ name: visible(name), icon: "circle" })), itemWidth: 10, itemHeight: 10, textStyle: { color: quiet, fontSize: 11 } },
    tooltip: {
      trigger: "item", confine: true, renderMode: "richText", backgroundColor: box, borderColor: grid, textStyle: { color: text, fontSize: 12 },
      formatter: ({ data: { alert: of } }) => of ? `${visible(of.detector)} ${visible(of.direction)}\n${clock(nanosToMillis(of.time))}  ${price(of.price)}\nconfidence ${fixed(of.confidence, 3)}` : "",
    },
    dataZoom: [{ type: "inside", filterMode: "none" }],
    xAxis: {
      type: "time", splitNumber: 4, axisLabel: { color: quiet, fontSize: 11, hideOverlap: true, formatter: value => clock(value) },
      axisLine: { lineStyle: { color: grid } }, axisTick: { show: false }, splitLine: { show: false },
    },
    yAxis: {
      type: "value", scale: true, splitNumber: 4, axisLabel: { color: quiet, fontSize: 11, formatter: value => price(value) },
      splitLine: { lineStyle: { color: grid } },
    },
    series: [
      {
        name: "price", type: "line", step: "end", showSymbol: false, silent: true, color: quiet, lineStyle: { width: 1.3 }, data: points, z: 2,
        markLine: { silent: true, symbol: "none", label: { show: false }, lineStyle: { color: quiet, type: "dashed", width: 1 }, data: [{ xAxis: nanosToMillis(alert.time) }] },
      },
      ...detectors.map(name => ({
        name: visible(name), type: "scatter", z: 3, color: color(detectorColor(name)),
        data: all.filter(other => other.detector === name && other.price !== null).map(marker),
      })),
    ],
  }, true);
}
