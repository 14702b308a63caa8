//! The dashboard in a real browser: live numbers, alerts as they come, and the truth all along.
//!
//! `cargo xtask screenshots` runs the first of these with a larger market and keeps pictures of it.

use std::{
    env, fs,
    net::TcpListener,
    path::PathBuf,
    time::{Duration, Instant},
};

use crate::{
    browser::Browser,
    support::{
        ALERTS, CHECKPOINT, Host, Project, Redis, SHADOW_ALERTS, STREAM, misbehaving, pause, probe_gates, shipped,
        wait_for,
    },
};
use tickhound_core::config::ServerConfig;

/// Where pictures are kept; without it none is taken.
const PICTURES: &str = "TICKHOUND_PICTURES";

/// How often everything fails; more for a long look.
const ROUNDS: &str = "TICKHOUND_OUTAGES";

/// What comes from outside is text, whatever it says. The engine writes symbols in capitals.
const STRANGE: &str = "<img src=x onerror=alert(1)>";

/// The page may believe the last answer for so long: it asks every second, waits 3.5 s, and the machine is loaded.
const BELIEVES: Duration = Duration::from_secs(10);

const WORD: &str = "document.getElementById('word').textContent";

/// An engine at work, with ticks, and somebody who looks at its page.
struct Desk {
    browser: Browser,
    host: Host,
    address: String,
    project: Project,
    redis: Redis,
}

const TOKEN: &str = "a-token-that-nobody-guesses";

impl Desk {
    fn open(more: &str) -> Option<Self> {
        let browser = Browser::start()?;
        let redis = Redis::start_with(&["--appendonly", "yes"]);
        let project = Project::new(&redis);
        project.add_plugin(misbehaving());
        project.configure_with("timeout_ms = 1000", more);
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let host = project.start_with(&["run"], &[("TICKHOUND_SERVER__LISTEN", &address)]);
        host.wait_for_event("http_listening");
        let mut desk = Self { browser, host, address, project, redis };
        desk.browser.live_in("Asia/Kolkata");
        desk.browser.size(1440, 1000);
        desk.browser.prefer("light");
        desk.browser.open(&format!("http://{}/", desk.address));
        // Lost if the page is loaded again.
        desk.browser.eval("window.opened = 'once'; 0");
        Some(desk)
    }

    fn feed(&self, symbols: &str, rate: &str) -> Host {
        let args = ["feed", "--simulate", "--symbols", symbols, "--rate", rate, "--maxlen", "1000000"];
        self.project.start(&args)
    }

    fn start_host(&mut self) {
        self.host = self.project.start_with(&["run"], &[("TICKHOUND_SERVER__LISTEN", &self.address)]);
    }

    fn word(&mut self) -> String {
        self.browser.eval(WORD).as_str().unwrap().to_owned()
    }

    fn becomes(&mut self, word: &str) {
        self.browser.wait_until(&format!("the page says {word:?}"), &format!("{WORD} === {word:?}"));
    }

    /// Keeps a picture, if somebody wants it.
    fn picture(&mut self, name: &str) {
        if let Some(folder) = env::var_os(PICTURES) {
            self.browser.point_nowhere();
            // The verdict is at the top.
            self.browser.eval("scrollTo(0, 0)");
            self.browser.eval("new Promise(done => setTimeout(done, 1500))");
            self.browser.picture(&PathBuf::from(folder).join(format!("{name}.png")));
        }
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
fn a_trader_sees_how_it_goes_and_what_was_found() {
    let at_large = env::var_os(PICTURES).is_some();
    // A detector that comes later shall fail on live ticks, not already on what the stream holds.
    let strange = "[plugins]\nrewarm_s = 0\n[detectors.odd]\nplugin = \"misbehaving\"\nsymbols = [\"<*\"]\n";
    let Some(mut desk) = Desk::open(strange) else { return };
    desk.becomes("healthy");
    desk.browser.wait_until(
        "an empty list says why",
        "document.getElementById('none').innerText.includes('no alerts yet: detectors warm up first, in market time: breakout')",
    );

    let _feed = if at_large { desk.feed("60", "4000") } else { desk.feed("12", "1000") };
    desk.browser
        .wait_until("ticks are processed", "/\\d+ ticks\\/s/.test(document.getElementById('figures').textContent)");
    let worked = "document.querySelector('#tiles dd.quiet').textContent";
    let before = desk.browser.eval(worked).as_str().unwrap().to_owned();
    desk.browser.wait_until("numbers are live", &format!("{worked} !== {before:?}"));
    desk.browser.wait_until("alerts come without a reload", "document.querySelectorAll('#rows li').length > 3");
    let newest = "document.querySelector('#rows li').dataset.id";
    let before = desk.browser.eval(newest).as_str().unwrap().to_owned();
    desk.browser.wait_until("further ones come on top", &format!("{newest} > {before:?}"));

    let tick = [("symbol", STRANGE), ("last_price", "101.5"), ("exchange_timestamp", "1762150000")];
    for _ in 0..2 {
        let _: String = redis::cmd("XADD").arg(STREAM).arg("*").arg(&tick).query(&mut desk.redis.connect()).unwrap();
    }
    desk.browser.write("#filter [name=symbol]", STRANGE);
    desk.browser.wait_until(
        "a strange symbol is text",
        &format!(
            "[...document.querySelectorAll('#rows .symbol')].some(cell => cell.textContent === {:?})",
            STRANGE.to_uppercase()
        ),
    );
    assert_eq!(desk.browser.eval("document.querySelectorAll('img').length"), 0);
    desk.browser.click("#filter [type=reset]");

    desk.browser.eval(
        "const choice = document.querySelector('#filter [name=detector]'); choice.value = 'breakout'; \
         choice.dispatchEvent(new Event('input', { bubbles: true }))",
    );
    let all_are_breakouts = "(rows => rows.length > 0 && rows.every(row => row.querySelector('.dot').textContent === 'breakout'))\
                             ([...document.querySelectorAll('#rows li')])";
    desk.browser.wait_until("only what fits the filter is there", all_are_breakouts);
    assert_eq!(desk.browser.eval("location.search"), "?detector=breakout");

    desk.browser.click("#rows button");
    desk.browser.wait_until(
        "the price is there",
        "/^\\d+ prices/.test(document.getElementById('alert-chart-note').textContent)",
    );
    let chart = "echarts.getInstanceByDom(document.getElementById('alert-chart')).getOption().series";
    assert!(desk.browser.eval(&format!("{chart}[0].data.length")).as_u64().unwrap() > 1);
    assert!(desk.browser.eval(&format!("{chart}.slice(1).flatMap(one => one.data).length")).as_u64().unwrap() > 0);
    assert!(desk.browser.eval("document.querySelectorAll('#alert table tr').length").as_u64().unwrap() > 2);
    desk.browser.press("Escape");
    assert_eq!(desk.browser.eval("document.getElementById('alert').hidden"), true);
    assert_eq!(desk.browser.eval("document.activeElement.className"), "row");
    assert_eq!(desk.browser.eval("window.opened"), "once");

    // A filter is in the address: what somebody else opens is what was seen here.
    let address = desk.browser.eval("location.href");
    desk.browser.open(address.as_str().unwrap());
    desk.browser.wait_until("a reload keeps the filter", all_are_breakouts);
    desk.browser.click("#filter [type=reset]");
    desk.browser.wait_until(
        "and clearing it clears the address, and brings all back",
        "location.search === '' && document.querySelectorAll('#rows li').length > 3",
    );

    if at_large {
        // So that there is a course to be seen.
        desk.browser.eval("new Promise(done => setTimeout(done, 40e3))");
        desk.browser.eval("new Promise(done => setTimeout(done, 40e3))");
        desk.becomes("healthy");
    }
    desk.picture("dashboard");
    desk.browser.prefer("dark");
    desk.picture("dashboard-dark");
    desk.browser.click("#rows li:nth-child(3) button");
    desk.browser
        .wait_until("another price", "/^\\d+ prices/.test(document.getElementById('alert-chart-note').textContent)");
    desk.picture("dashboard-alert");
    desk.browser.press("Escape");
    desk.browser.prefer("light");

    desk.browser.size(390, 844);
    desk.picture("dashboard-phone");
    let width = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)";
    assert_eq!(desk.browser.eval(width), 390, "nothing to scroll sideways on a phone");
    desk.browser.click("#rows button");
    desk.browser.wait_until(
        "the price on a phone",
        "/^\\d+ prices/.test(document.getElementById('alert-chart-note').textContent)",
    );
    assert_eq!(desk.browser.eval(width), 390);
    assert_eq!(desk.browser.eval("document.getElementById('alert').scrollWidth <= 390"), true);
    desk.browser.press("Escape");
    desk.browser.size(1440, 1000);

    desk.project.configure_with(
        "timeout_ms = 1000",
        &format!("{strange}[detectors.new]\nplugin = \"misbehaving\"\nparams = {{ how = \"panic\", at = 100 }}\n"),
    );
    desk.becomes("degraded");
    desk.browser.wait_until(
        "and why",
        "document.getElementById('reason').textContent.includes('detector new is in quarantine')",
    );
    desk.browser
        .wait_until("with what it said", "document.getElementById('notes').textContent.includes('is too much for me')");
    desk.picture("dashboard-degraded");
    desk.project.configure_with("timeout_ms = 1000", strange);
    desk.becomes("healthy");
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// What can't be seen, or reverses what is around it, is shown by its code.
#[test]
fn a_symbol_can_not_disguise_itself_or_its_row() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    let mut connection = desk.redis.connect();
    for (number, symbol) in ["EXE\u{202e}GPJ", "NI\u{200b}FTY", "\u{1b}[31mRED", "שלום"].iter().enumerate() {
        let id = format!("1-{number}/odd\u{202e}/0");
        let alert = [
            ("id", id.as_str()),
            ("entry", "1-0"),
            ("detector", "odd\u{202e}"),
            ("plugin", "odd\u{2066}"),
            ("version", "1"),
            ("symbol", symbol),
            ("direction", "up"),
            ("confidence", "0.5"),
            ("price", "101.5"),
            ("time", "1763959530000000000"),
            ("lag_ms", "1"),
            ("evidence", "{\"le\u{202e}vel\":1}"),
            ("stale", "0"),
            ("recovered", "0"),
        ];
        let _: String = redis::cmd("XADD").arg(ALERTS).arg("*").arg(&alert).query(&mut connection).unwrap();
    }
    let shown = "[...document.querySelectorAll('#rows .symbol')].map(cell => cell.textContent)";
    desk.browser.wait_until("all are there", &format!("{shown}.length === 4"));
    let expected = ["שלום", "\\u{1b}[31mRED", "NI\\u{200b}FTY", "EXE\\u{202e}GPJ"];
    assert_eq!(desk.browser.eval(shown), serde_json::Value::from(expected.to_vec()));
    let left = "selector => document.querySelector(selector).getBoundingClientRect().left";
    for row in 1..=4 {
        desk.browser.click(&format!("#rows li:nth-child({row}) button"));
        let order = format!("(left => left('#alert-title .arrow') < left('#alert-title bdi'))({left})");
        assert_eq!(desk.browser.eval(&order), true, "row {row}");
        let hidden = "/[\\u001b\\u200b\\u202a-\\u202e\\u2066-\\u2069]/.test(document.body.innerText + \
                      [...document.querySelectorAll('[title], [aria-label]')].map(one => one.title + one.ariaLabel))";
        assert_eq!(desk.browser.eval(hidden), false, "row {row}");
    }
    desk.browser
        .wait_until("its price", "!document.getElementById('alert-chart-note').textContent.includes('loading')");
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// A page of another site that somebody has open could use up all listeners, and keep the host at work.
/// A forgotten tab held one of the host's listeners, and seven of them the browser's last connection to the host.
#[test]
fn a_hidden_page_is_not_live_and_misses_nothing() {
    let Some(mut desk) = Desk::open("") else { return };
    const LIVE: &str = "document.getElementById('live').textContent";
    desk.browser.wait_until("the page is live", &format!("{LIVE} === 'live'"));
    let listeners = |desk: &Desk| {
        let clients: String = redis::cmd("CLIENT").arg("LIST").query(&mut desk.redis.connect()).unwrap();
        clients.lines().filter(|client| client.contains("cmd=xread ")).count()
    };
    let before = listeners(&desk);
    assert!(before >= 1, "one reads for the page");
    let show = |desk: &mut Desk, hidden: bool| {
        desk.browser.eval(&format!(
            "Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}); \
             document.dispatchEvent(new Event('visibilitychange')); 0"
        ));
    };
    show(&mut desk, true);
    desk.browser.wait_until("the page says so", &format!("{LIVE} === 'not live while this page is hidden'"));
    wait_for("the host has let go of the listener", || (listeners(&desk) == before - 1).then_some(()));
    let add = |desk: &Desk, symbol: &str| {
        let mut add = redis::cmd("XADD");
        add.arg(ALERTS).arg("*").arg("id").arg(symbol).arg("detector").arg("breakout").arg("symbol").arg(symbol);
        add.query::<()>(&mut desk.redis.connect()).unwrap();
    };
    for symbol in ["HIDDEN1", "HIDDEN2"] {
        add(&desk, symbol);
    }
    show(&mut desk, false);
    desk.browser.wait_until(
        "what came meanwhile is shown",
        "['HIDDEN1', 'HIDDEN2'].every(symbol => document.getElementById('rows').textContent.includes(symbol))",
    );
    add(&desk, "LATER");
    desk.browser.wait_until(
        "and what comes later",
        &format!("{LIVE} === 'live' && document.getElementById('rows').textContent.includes('LATER')"),
    );
}

/// Writes an alert into the alerts stream, as a host does. Returns its id.
fn add_alert(desk: &Desk, number: usize, symbol: &str, more: &[(&str, &str)]) -> String {
    // Monday, 2025-11-24 10:15:30 in India.
    let (entry, id) = (format!("{}-{number}", 1_763_959_530_000_u64), format!("1763959530000-{number}/breakout/0"));
    let mut fields = vec![
        ("id", id.as_str()),
        ("entry", entry.as_str()),
        ("detector", "breakout"),
        ("plugin", "breakout"),
        ("version", "0.1.0"),
        ("symbol", symbol),
        ("direction", "up"),
        ("confidence", "0.91"),
        ("price", "57801.35"),
        ("time", "1763959530000000000"),
        ("lag_ms", "1"),
        ("evidence", "{\"level\":1}"),
        ("stale", "0"),
        ("recovered", "0"),
    ];
    for (name, value) in more {
        fields.retain(|(known, _)| known != name);
        fields.push((name, value));
    }
    let stream = if more.iter().any(|(name, _)| *name == "shadow_of") { SHADOW_ALERTS } else { ALERTS };
    let _: String = redis::cmd("XADD").arg(stream).arg("*").arg(&fields).query(&mut desk.redis.connect()).unwrap();
    id
}

/// The list was as long as its alerts, 3,000 px below the last thing on the page: texts for screen readers stood outside of it.
#[test]
fn the_page_ends_where_its_content_does() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    for number in 0..2000 {
        add_alert(&desk, number, &format!("NIFTY25NOV{}CE", 20_000 + number), &[]);
    }
    for width in [1440, 1280, 390] {
        desk.browser.size(width, 900);
        desk.browser.open(&format!("http://{}/", desk.address));
        desk.browser.wait_until("the alerts are there", "document.querySelectorAll('#rows li').length === 100");
        for _ in 0..2 {
            desk.browser.eval("document.getElementById('older').click(); 0");
        }
        let below = "document.documentElement.scrollHeight - \
                     Math.round(document.body.getBoundingClientRect().bottom + scrollY)";
        desk.browser.wait_until("all that is there is within the page", &format!("{below} <= 1"));
        let last = "Math.max(...[...document.querySelectorAll('main *')].filter(one => one.offsetParent && !one.closest('#rows')) \
                    .map(one => one.getBoundingClientRect().bottom + scrollY))";
        let empty = desk.browser.eval(&format!("document.documentElement.scrollHeight - {last}")).as_f64().unwrap();
        assert!(empty < 60.0, "{width} px: {empty} px of nothing below the content");
    }
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// It stood alone in the line above "momentum".
#[test]
fn the_dot_of_a_detector_is_beside_its_name() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    add_alert(&desk, 0, "NIFTY25NOV25750PE", &[("detector", "momentum"), ("stale", "1")]);
    for width in [1440, 1280] {
        desk.browser.size(width, 900);
        desk.browser.wait_until("the alert is there", "document.querySelectorAll('#rows li').length === 1");
        let height = |cell: &str| format!("document.querySelector('#rows {cell}').getBoundingClientRect().height");
        let lines = format!("{} / {}", height(".dot"), height(".time"));
        let lines = desk.browser.eval(&lines).as_f64().unwrap();
        assert!(lines < 1.5, "{width} px: {lines} lines");
    }
}

/// Of `BANKNIFTY25NOV5780…` nobody knows whether it is a call or a put.
#[test]
fn the_end_of_a_symbol_is_never_cut() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    let long = format!("NFO:{}57800PE", "MIDCPNIFTY25NOVWEEKLY".repeat(5));
    let symbols = ["BANKNIFTY25NOV57800CE", "NFO:BANKNIFTY25NOV57800PE", "BSE:SENSEX25N2085400CE", long.as_str()];
    for (number, symbol) in symbols.into_iter().enumerate() {
        add_alert(&desk, number, symbol, &[("detector", "a-detector-with-a-long-name-next")]);
    }
    for width in [1280, 900, 390, 320] {
        desk.browser.size(width, 900);
        desk.browser.wait_until("the alerts are there", "document.querySelectorAll('#rows li').length === 4");
        let cells = "[...document.querySelectorAll('#rows .symbol, #rows .dot, #rows .number')]";
        let cut = format!(
            "{cells}.filter(cell => cell.scrollWidth > cell.clientWidth + 1 || cell.scrollHeight > cell.clientHeight + 3 \
             || getComputedStyle(cell).textOverflow !== 'clip').map(cell => cell.textContent)"
        );
        assert_eq!(desk.browser.eval(&cut), serde_json::json!([]), "{width} px");
        let outside = format!("{cells}.filter(cell => cell.getBoundingClientRect().right > {width}).length");
        assert_eq!(desk.browser.eval(&outside), 0, "{width} px");
        let shown = "[...document.querySelectorAll('#rows .symbol')].map(cell => cell.textContent + ' ' + cell.title)";
        let shown = desk.browser.eval(shown);
        for (row, symbol) in shown.as_array().unwrap().iter().zip(symbols.iter().rev()) {
            let (row, end) = (row.as_str().unwrap(), &symbol[symbol.len() - 7..]);
            let (text, title) = row.split_once(' ').unwrap();
            assert!(text.ends_with(end) && title == *symbol, "{width} px: {row}");
            assert!(text == *symbol || symbol.len() > 64, "{width} px: {row}");
        }
        desk.browser.click("#rows li:nth-child(2) button");
        let title = "document.querySelector('#alert-title bdi')";
        assert_eq!(desk.browser.eval(&format!("{title}.textContent")), symbols[2]);
        let is_visible = format!(
            "(box => box.left >= 0 && box.right <= {width})({title}.getBoundingClientRect()) && \
             document.getElementById('alert').scrollWidth <= document.getElementById('alert').clientWidth"
        );
        assert_eq!(desk.browser.eval(&is_visible), true, "{width} px");
        desk.browser.press("Escape");
    }
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// The labels of the axes of a chart.
fn labels(desk: &mut Desk, chart: &str) -> [Vec<String>; 2] {
    ["xAxis", "yAxis"].map(|axis| {
        let labels = desk.browser.eval(&format!(
            "echarts.getInstanceByDom(document.getElementById({chart:?})).getModel().getComponent({axis:?}).axis \
             .getViewLabels().map(label => label.formattedLabel)"
        ));
        labels.as_array().unwrap().iter().map(|label| label.as_str().unwrap().to_owned()).collect()
    })
}

/// A window of a minute had `10:00` three times, and prices of paise `100.0` twice.
#[test]
fn no_two_labels_of_an_axis_are_the_same() {
    let Some(mut desk) = Desk::open("") else { return };
    let _feed = desk.feed("12", "400");
    desk.becomes("healthy");
    desk.browser.wait_until("alerts come", "document.querySelectorAll('#rows li').length > 3");
    let differ = |desk: &mut Desk, chart: &str| {
        for labels in labels(desk, chart) {
            let all = labels.iter().collect::<std::collections::BTreeSet<_>>().len();
            assert!(labels.len() >= 2 && all == labels.len(), "{chart}: {labels:?}");
        }
    };
    for width in [1440, 390] {
        desk.browser.size(width, 900);
        for chart in ["chart-throughput", "chart-behind", "chart-latency", "chart-backlog", "chart-alerts"] {
            differ(&mut desk, chart);
        }
    }
    desk.browser.size(1440, 900);
    desk.browser.click("#rows button");
    desk.browser.wait_until("a chart", "/^\\d+ prices/.test(document.getElementById('alert-chart-note').textContent)");
    differ(&mut desk, "alert-chart");
    // As far in as one can: a few seconds.
    desk.browser.eval(
        "const chart = echarts.getInstanceByDom(document.getElementById('alert-chart')); \
         chart.dispatchAction({ type: 'dataZoom', start: 49.9, end: 50.1 }); 0",
    );
    let [times, _] = labels(&mut desk, "alert-chart");
    let all = times.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(times.len() >= 2 && all == times.len() && times.iter().all(|time| time.len() == 8), "{times:?}");
    // Every range of prices and of times, also those of a symbol that is worth nearly nothing, or of a malicious alert.
    let scales = desk.browser.eval(
        "import('/assets/axis.js').then(axis => { \
         const wrong = []; \
         const check = (what, labels) => { if (labels.length < 2 || new Set(labels).size !== labels.length) wrong.push([what, labels]); }; \
         for (const low of [0, 1e-7, 0.05, 99.95, 100, 57801.35, 1e12, -37.63]) for (let power = -8; power < 7; power += 0.3) { \
           const { min, max, step } = axis.valueAxis([low, low + 10 ** power], 4); \
           const count = Math.round((max - min) / step); \
           if (!(count >= 1 && count <= 8 && min <= low)) wrong.push([low, power, min, max, step]); \
           check([low, power], [...Array(count + 1).keys()].map(at => (min + at * step).toFixed(axis.decimals(step)))); \
         } \
         for (const odd of [[1e308, -1e308], [5e-324, 0], [1e15, 1e15 + 0.1], [0], []]) { \
           const { min, max, step } = axis.valueAxis(odd, 4); \
           if (!(min < max && step > 0 && max / step - min / step < 9)) wrong.push([odd, min, max, step]); \
         } \
         for (let seconds = 5; seconds < 1e7; seconds *= 1.3) { \
           const { marks, step } = axis.timeMarks(1763959530000, 1763959530000 + seconds * 1000, 6); \
           const labels = marks.map(mark => axis.timeLabel(mark, step)); \
           if (labels.length < 2 || labels.some((label, at) => label === labels[at + 1])) wrong.push([seconds, labels]); \
         } \
         return JSON.stringify(wrong); })",
    );
    assert_eq!(scales, "[]");
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// A trader in New York who watches the NSE compares times with those of the exchange, and with the log.
#[test]
fn times_are_the_exchanges_wherever_the_viewer_is() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.browser.live_in("America/New_York");
    let address = format!("http://{}/", desk.address);
    desk.browser.open(&address);
    desk.becomes("healthy");
    add_alert(&desk, 0, "NIFTY", &[]);
    desk.browser.wait_until("the alert is there", "document.querySelectorAll('#rows li').length === 1");
    assert_eq!(desk.browser.text("#zone"), "times: Asia/Kolkata (IST)");
    assert_eq!(desk.browser.text("#rows .time"), "24 Nov 10:15:30");
    assert_eq!(desk.browser.text("#alerts .names span"), "time IST");
    desk.browser.click("#rows button");
    let facts = desk.browser.text("#alert .facts");
    assert!(facts.contains("10:15:30.000 IST"), "{facts}");
    desk.browser.wait_until(
        "the charts have the exchange's clock",
        &format!(
            "(label => label.slice(3, 5) === new Intl.DateTimeFormat('en-GB', {{ timeZone: 'Asia/Kolkata', minute: '2-digit' }}) \
             .format(Date.now()).padStart(2, '0') || label)({}) === true",
            "echarts.getInstanceByDom(document.getElementById('chart-throughput')).getModel().getComponent('xAxis').axis \
             .getViewLabels().at(-1).formattedLabel"
        ),
    );
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());

    // A desk that trades abroad may want its own.
    desk.host.kill();
    desk.project.configure_with("timeout_ms = 1000", "[service]\ntimezone = \"Europe/London\"\n");
    desk.start_host();
    desk.browser.wait_until(
        "the page follows the host that comes back",
        "document.querySelector('#rows .time')?.textContent === '24 Nov 04:45:30'",
    );
    let zone = desk.browser.text("#zone");
    assert!(zone.starts_with("times: Europe/London ("), "{zone}");
}

/// What the panel says of a shadow's alert.
const NOT_LIVE: &str = "a shadow of breakout: this alert is not live";

/// The condition that a title names the symbol, and the page says this.
fn is_shown(title: &str, symbol: &str, says: &str) -> String {
    format!("{title}?.includes({symbol:?}) && document.body.innerText.includes({says:?})")
}

/// Who reads a message on a phone wants the chart, not a list in which the alert has scrolled away.
#[test]
fn a_link_in_a_message_opens_its_alert() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    let tick = [("symbol", "NFO:BANKNIFTY25NOV57800CE"), ("last_price", "101.5"), ("exchange_timestamp", "1762150000")];
    let entry: String = redis::cmd("XADD").arg(STREAM).arg("*").arg(&tick).query(&mut desk.redis.connect()).unwrap();
    let linked = format!("{entry}/breakout/0");
    add_alert(&desk, 0, "BANKNIFTY25NOV57800CE", &[("id", &linked), ("entry", &entry)]);
    let shadowed = add_alert(&desk, 1, "SHADOWED", &[("shadow_of", "breakout")]);
    for number in 2..700 {
        add_alert(&desk, number, "NIFTY", &[]);
    }
    let server = ServerConfig { listen: desk.address.clone(), ..ServerConfig::default() };
    let link = |id: &str| server.alert_link(id).unwrap();
    let title = "document.getElementById('alert-title')?.textContent";
    for (id, symbol, says) in [(&linked, "BANKNIFTY25NOV57800CE", "up, "), (&shadowed, "SHADOWED", NOT_LIVE)] {
        desk.browser.open("about:blank");
        desk.browser.open(&link(id));
        desk.browser.wait_until("the alert is open", &is_shown(title, symbol, says));
        assert_eq!(desk.browser.eval("location.href"), link(id), "the address can be passed on");
    }
    // In the same tab, with a filter.
    desk.browser.open(&format!("{}?symbol=nifty", link("").replace("#alert=", "")));
    desk.browser.wait_until("the list is there", "document.querySelectorAll('#rows li').length === 100");
    desk.browser.eval(&format!("location.hash = {:?}; 0", format!("#alert={linked}")));
    desk.browser.wait_until("the alert is open", &format!("{title}?.includes('BANKNIFTY25NOV57800CE')"));
    desk.browser
        .wait_until("with its chart", "document.getElementById('alert-chart-note').textContent.startsWith('1 prices')");
    desk.browser.press("Escape");
    assert_eq!(desk.browser.eval("location.search + location.hash"), "?symbol=nifty");

    let gone = "1763959530000-7/gone/0";
    for (id, sentence) in [
        (gone, "neither alerts:intraday nor alerts:intraday:shadow holds the alert"),
        ("nonsense", "expected that of an alert such as"),
        ("1763959530000-7/<img src=x onerror=alert(1)>", "neither alerts:intraday nor"),
    ] {
        desk.browser.eval("location.hash = ''; 0");
        desk.browser.eval(&format!("location.href = {:?}; 0", link(id)));
        desk.browser.wait_until(
            "the page says why there is no alert",
            &format!("document.getElementById('alert')?.innerText.includes({sentence:?})"),
        );
        assert_eq!(desk.browser.eval("document.querySelectorAll('img').length"), 0);
        desk.browser.press("Escape");
    }
    // What is refused is a line of the console.
    let complaints = desk.browser.complaints();
    let other: Vec<&String> = complaints.iter().filter(|told| !told.contains("Failed to load resource")).collect();
    assert!(other.is_empty(), "{other:#?}");

    // With a token, the link leads to the same place: the page asks for it first.
    desk.host.kill();
    let variables = [("TICKHOUND_SERVER__LISTEN", desk.address.as_str()), ("TICKHOUND_SERVER__TOKEN", TOKEN)];
    desk.host = desk.project.start_with(&["run"], &variables);
    desk.host.wait_for_event("http_listening");
    desk.browser.open("about:blank");
    desk.browser.open(&link(&linked));
    desk.browser.wait_until("the page asks for it", "document.getElementById('token').open");
    desk.browser.write("#token input", TOKEN);
    desk.browser.click("#token button");
    desk.browser.wait_until("the alert is open", &format!("{title}?.includes('BANKNIFTY25NOV57800CE')"));
    desk.browser.eval("sessionStorage.clear(); 0");
    desk.browser.open("about:blank");
    desk.browser.open(&format!("{}&token={TOKEN}", link(&linked)));
    desk.browser.wait_until("the alert is open", &format!("{title}?.includes('BANKNIFTY25NOV57800CE')"));
    assert_eq!(desk.browser.eval("location.href"), link(&linked), "the token does not stay in the address");
}

/// An alert that comes again and again pages people, who want it to stop now and not to lose it.
#[test]
fn an_alert_is_muted_from_its_panel_and_unmuted_again() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    let id = add_alert(&desk, 0, "NIFTY*<B>", &[]);
    let server = ServerConfig { listen: desk.address.clone(), ..ServerConfig::default() };
    desk.browser.open("about:blank");
    desk.browser.open(&server.alert_link(&id).unwrap());
    let button = |text: &str| {
        format!("[...document.querySelectorAll('#alert button')].find(b => b.textContent.includes({text:?}))")
    };
    let panel = |text: &str| format!("document.getElementById('alert')?.innerText.includes({text:?})");
    desk.browser.wait_until("the alert is open", &format!("{} !== undefined", button("30 min")));
    let mutes = |desk: &Desk| desk.project.run(&["mutes"]);
    desk.browser.eval(&format!("{}.click(); 0", button("NIFTY*<B> for 30 min")));
    desk.browser.wait_until("it is muted", &panel("NIFTY*<B> is muted until"));
    for (width, name) in [(1280, "dashboard-mute"), (390, "dashboard-mute-phone")] {
        desk.browser.size(width, 1000);
        desk.browser.eval("document.querySelector('#alert .actions').scrollIntoView(); 0");
        desk.picture(name);
    }
    assert!(mutes(&desk).starts_with("NIFTY*<B>: until "), "{}", mutes(&desk));
    desk.browser.eval(&format!("{}.click(); 0", button("undo")));
    desk.browser.wait_until("it is unmuted", &panel("NIFTY*<B> is no longer muted"));
    assert_eq!(mutes(&desk), "nothing is muted\n");
    desk.browser.eval(&format!("{}.click(); 0", button("breakout until the session ends")));
    desk.browser.wait_until("it is muted", &panel("breakout is muted until"));
    assert!(mutes(&desk).starts_with("* for detector breakout: until "), "{}", mutes(&desk));
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// The filter of the page means what `alerts --symbol` means.
#[test]
fn the_page_shows_what_is_near_when_it_is_asked() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    desk.project.add_plugin(&probe_gates());
    let old = shipped("tests/fixtures/contract-0.1/momentum.wasm");
    fs::copy(old, desk.project.path("plugins/old.wasm")).unwrap();
    let more = "[detectors.rise]\nplugin = \"probe_gates\"\n[detectors.old]\nplugin = \"old\"\n";
    desk.project.configure_with("timeout_ms = 1000", more);
    let choice = "document.querySelector('#near-form [name=detector]')";
    desk.browser.wait_until(
        "the detector can be chosen without a reload",
        &format!("[...{choice}.options].some(option => option.value === 'rise')"),
    );
    let publish = |desk: &Desk| {
        for (symbol, price) in [("B", "50.25"), (STRANGE, "101.5")] {
            let tick = [("symbol", symbol), ("last_price", price), ("quantity", "5")];
            let _: String =
                redis::cmd("XADD").arg(STREAM).arg("*").arg(&tick).query(&mut desk.redis.connect()).unwrap();
        }
    };
    // One more than the detector needs, so that all but the rise is there.
    (0..4).for_each(|_| publish(&desk));
    desk.browser.eval(&format!("{choice}.value = 'rise'; 0"));
    let note = "document.getElementById('near-note').textContent";
    let rows =
        "[...document.querySelectorAll('#near tbody tr')].map(row => [...row.children].map(cell => cell.textContent))";
    let shown = wait_for("both are near", || {
        // The detector is new, so its states may not be saved yet; and symbols without a tick since then are left out.
        publish(&desk);
        desk.browser.click("#near-form button");
        desk.browser.wait_until("the host answers", "!document.querySelector('#near-form button').disabled");
        let shown = desk.browser.eval(rows);
        (shown.as_array().unwrap().len() == 2).then_some(shown)
    });
    assert_eq!(desk.browser.eval(note), "2 states of 2 are one gate away or closer");
    // The price that it would have to be above is one percent above the last one, of which both are as far away.
    let cells = |symbol: &str| {
        let row = shown.as_array().unwrap().iter().find(|row| row[0] == symbol);
        (1..6).map(|cell| row.unwrap()[cell].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(cells("B"), ["50.25", "risen", "50.25", "50.7525", "1 %"], "{shown}");
    let strange = cells(&STRANGE.to_uppercase());
    assert_eq!(strange, ["101.50", "risen", "101.5", "102.515", "1 %"], "what comes from outside is text: {shown}");
    assert_eq!(desk.browser.eval("document.querySelectorAll('img').length"), 0);

    desk.browser.eval(&format!("{choice}.value = 'old'; 0"));
    desk.browser.click("#near-form button");
    desk.browser.wait_until(
        "a detector that can't tell gets a sentence, and the table is gone",
        &format!("{note}.includes(\"old can't tell what it looks at\") && {rows}.length === 0"),
    );
}

#[test]
fn the_pages_filter_is_a_pattern_of_symbols() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    let symbols = ["NIFTY", "BANKNIFTY", "NIFTY25NOV25750PE", "NSE:RELIANCE", "BSE:RELIANCE"];
    for (number, symbol) in symbols.into_iter().enumerate() {
        add_alert(&desk, number, symbol, &[]);
    }
    for pattern in
        ["nifty", "Nifty*", "*nifty", "reliance", "nse:rel*", "BSE:reliance", "*pe", "NIFTY25NOV?5750PE", "inf"]
    {
        let listed = desk.project.run(&["alerts", "--json", "--symbol", pattern]);
        let mut expected: Vec<serde_json::Value> = listed
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["symbol"].clone())
            .collect();
        expected.reverse();
        desk.browser.write("#filter [name=symbol]", pattern);
        let shown = "[...document.querySelectorAll('#rows .symbol')].map(cell => cell.title)";
        let expected = serde_json::Value::from(expected);
        desk.browser.wait_until(
            &format!("{pattern}: the page has what the command lists: {expected}"),
            &format!("location.search.includes('symbol=') && JSON.stringify({shown}) === JSON.stringify({expected})"),
        );
    }
    let none = desk.browser.text("#none");
    assert!(none.contains("a symbol without * and ? is meant as a whole: *inf* matches all that contain it"), "{none}");
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

/// A second after Redis had died the page said healthy, and its list that it was live.
#[test]
fn the_page_hears_of_it_when_redis_dies() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    desk.browser.wait_until("the page is live", "document.getElementById('live').textContent === 'live'");
    // What the page shows at the moment at which it hears of it.
    desk.browser.eval(
        "window.heard = []; new MutationObserver(() => heard.push([document.getElementById('live').textContent, \
         document.getElementById('word').textContent])).observe(document.body, { subtree: true, childList: true, characterData: true }); 0",
    );
    desk.redis.kill();
    desk.browser.wait_until(
        "the list says so",
        "document.getElementById('live').textContent.startsWith('not live: redis at ')",
    );
    desk.becomes("unreachable");
    // The next answer, and each after it, knows it.
    let wrong = "heard.slice(heard.findIndex(([, word]) => word === 'unreachable')).filter(([, word]) => word === 'healthy').length";
    assert_eq!(desk.browser.eval(wrong), 0);
    desk.redis.restart();
    desk.becomes("healthy");
    desk.browser.wait_until("it is live again", "document.getElementById('live').textContent === 'live'");
    // A host that hangs: what it said last is shown with its age, and then as no answer at all.
    desk.browser.eval(
        "window.aged = []; new MutationObserver(() => aged.push(document.getElementById('head').textContent)) \
         .observe(document.getElementById('head'), { subtree: true, childList: true, characterData: true }); 0",
    );
    desk.host.signal("STOP");
    desk.becomes("no answer from the host");
    let aged = "aged.some(text => /^healthy.*, 2 s ago$/.test(text)) || JSON.stringify(aged)";
    assert_eq!(desk.browser.eval(aged), true);
    desk.host.signal("CONT");
    desk.becomes("healthy");
}

/// What 3,000 instruments raise at an opening: the page shows the newest, and the browser has little to do.
#[test]
fn a_page_of_many_symbols_and_alerts_stays_small() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    desk.browser.wait_until("the page is live", "document.getElementById('live').textContent === 'live'");
    let burst = |desk: &Desk, numbers: std::ops::Range<u64>| {
        let mut adds = redis::pipe();
        for number in numbers {
            let symbol = format!("SYMBOL{}", number % 600 * 5);
            let (id, confidence) = (format!("1763959530000-{number}/breakout/0"), (number % 100) as f64 / 100.0);
            let add = adds.cmd("XADD").arg(ALERTS).arg("*").arg("id").arg(id).arg("detector").arg("breakout");
            let add = add.arg("symbol").arg(symbol).arg("direction").arg("up").arg("confidence").arg(confidence);
            add.arg("price")
                .arg("101.5")
                .arg("time")
                .arg(1_763_959_530_000_000_000_u64 + number)
                .arg("evidence")
                .arg("{}");
        }
        let ids: Vec<String> = adds.query(&mut desk.redis.connect()).unwrap();
        ids.last().cloned().unwrap()
    };
    let mut newest = String::new();
    for first in (0..6000).step_by(600) {
        newest = burst(&desk, first..first + 600);
    }
    // Its symbol would not do: each burst ends with the same one.
    desk.browser.wait_until(
        "the newest is on top",
        &format!(
            "document.querySelector('#rows li')?.dataset.id === '{newest}' && document.getElementById('waiting').hidden"
        ),
    );
    assert_eq!(desk.browser.eval("document.querySelectorAll('#rows li').length <= 300"), true);
    assert_eq!(desk.browser.eval("document.querySelectorAll('*').length < 5000"), true);
    // While somebody reads the list, it stays, and what comes is counted; of that, too, no more is kept than is shown.
    desk.browser.eval("document.getElementById('rows').scrollTop = 400; 0");
    let before = desk.browser.eval("document.querySelector('#rows li').dataset.id");
    burst(&desk, 6000..9000);
    desk.browser
        .wait_until("they are counted", "document.getElementById('waiting').textContent.includes('3,000 new alerts')");
    assert_eq!(desk.browser.eval("document.querySelector('#rows li').dataset.id"), before);
    desk.browser.click("#waiting");
    desk.browser.wait_until(
        "the newest are shown, without a gap",
        "document.querySelectorAll('#rows li').length === 300 && document.querySelector('#rows .symbol').textContent === 'SYMBOL2995' \
         && document.querySelectorAll('#rows .symbol')[299].textContent === 'SYMBOL1500'",
    );
    desk.browser.click("#older");
    desk.browser.wait_until(
        "older ones follow",
        "document.querySelectorAll('#rows li').length === 400 && document.querySelectorAll('#rows .symbol')[300].textContent === 'SYMBOL1495'",
    );
    desk.browser.write("#filter [name=symbol]", "symbol299?");
    desk.browser.wait_until(
        "a pattern is answered from all of them",
        "(rows => rows.length === 30 && rows.every(row => /^SYMBOL299.$/.test(row.textContent)))([...document.querySelectorAll('#rows .symbol')])",
    );
    assert_eq!(desk.browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_page_of_another_site_gets_nothing_from_the_host() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    desk.browser.call("Network.enable", serde_json::json!({}));
    desk.browser.call("Page.setBypassCSP", serde_json::json!({ "enabled": true }));
    let port = desk.address.rsplit(':').next().unwrap().to_owned();
    // For a browser, localhost is another site than 127.0.0.1.
    desk.browser.open(&format!("http://localhost:{port}/"));
    desk.becomes("healthy");
    let before = desk.browser.statuses().iter().filter(|status| **status == 403).count();
    assert_eq!(before, 0, "its own requests are answered");
    let paths = ["api/alerts/live", "api/status", "api/chart?entry=1-0&symbol=A", "metrics", "assets/main.js"];
    for path in paths {
        desk.browser
            .eval(&format!("fetch('http://127.0.0.1:{port}/{path}', {{ mode: 'no-cors' }}).then(() => 0, () => 0)"));
    }
    desk.browser
        .eval(&format!("for (let n = 0; n < 4; n += 1) new EventSource('http://127.0.0.1:{port}/api/alerts/live'); 0"));
    wait_for("all of them are refused", || {
        let refused = desk.browser.statuses().iter().filter(|status| **status == 403).count();
        (refused >= paths.len() + 4).then_some(())
    });
}

#[test]
fn a_host_that_wants_a_token_is_given_it_once() {
    let Some(mut desk) = Desk::open("") else { return };
    desk.becomes("healthy");
    desk.host.kill();
    let variables = [("TICKHOUND_SERVER__LISTEN", desk.address.as_str()), ("TICKHOUND_SERVER__TOKEN", TOKEN)];
    desk.host = desk.project.start_with(&["run"], &variables);
    let is_asked = "document.getElementById('token').open";
    desk.browser.wait_until("the page asks for it", is_asked);
    desk.becomes("waiting for a token");
    desk.browser.write("#token input", "a-token-that-is-not-right");
    desk.browser.click("#token button");
    desk.browser.wait_until(
        "a wrong one is said to be wrong",
        &format!("{is_asked} && document.getElementById('token-why').textContent.includes('The token is wrong')"),
    );
    desk.browser.write("#token input", TOKEN);
    desk.browser.click("#token button");
    desk.becomes("healthy");
    desk.browser.wait_until("alerts are followed with it", "document.getElementById('live').textContent === 'live'");
    let address = format!("http://{}/", desk.address);
    desk.browser.open(&address);
    desk.becomes("healthy");
    assert_eq!(desk.browser.eval(is_asked), false, "kept as long as the tab");

    desk.browser.eval("sessionStorage.clear(); 0");
    desk.browser.open("about:blank");
    desk.browser.open(&format!("{address}#token={TOKEN}"));
    desk.becomes("healthy");
    assert_eq!(desk.browser.eval("location.href"), address, "it does not stay in the address");
    // What was asked while the host was away, or without the right token, failed.
    let complaints = desk.browser.complaints();
    let other: Vec<&String> = complaints.iter().filter(|told| !told.contains("Failed to load resource")).collect();
    assert!(other.is_empty(), "{other:#?}");
}

/// Host and server die and hang in turn, while the page is looked at and Redis is asked beside it.
#[test]
fn the_page_tells_the_truth_in_outages() {
    let rounds = env::var(ROUNDS).map_or(1, |rounds| rounds.parse::<u32>().unwrap());
    let Some(mut desk) = Desk::open("") else { return };
    let mut feed = desk.feed("12", "400");
    for round in 0..rounds {
        for (outage, begin, end) in OUTAGES {
            desk.becomes("healthy");
            let committed = desk.redis.totals().get("entries").copied();
            let began = Instant::now();
            begin(&mut desk);
            let mut told: Option<(Duration, String)> = None;
            // Long enough to see it change its mind.
            while told.as_ref().is_none_or(|(at, _)| began.elapsed() < *at + Duration::from_secs(5)) {
                let word = desk.word();
                let is_asking = word.starts_with("asking");
                if word == "healthy" {
                    assert!(told.is_none(), "{outage}: healthy again after {told:?}, and nothing was mended");
                }
                if word == "healthy" || (is_asking && told.is_none()) {
                    assert!(began.elapsed() < BELIEVES, "{outage}: still {word} after {:?}", began.elapsed());
                } else if told.is_none() {
                    told = Some((began.elapsed(), desk.browser.text("#verdict")));
                }
                pause();
            }
            let (after, text) = told.unwrap();
            let mended = Instant::now();
            end(&mut desk);
            // A feed ends when its server is gone.
            if outage.contains("redis") {
                feed = desk.feed("12", "400");
            }
            desk.becomes("healthy");
            let again = mended.elapsed();
            desk.browser.wait_until(
                "ticks are processed again",
                "/\\d ticks\\/s/.test(document.getElementById('figures').textContent)",
            );
            let since = desk.redis.totals().get("entries").copied();
            assert!(
                since > committed,
                "{outage}: it says that ticks are processed, and Redis {committed:?}, {since:?}"
            );
            println!(
                "round {round}, {outage}: told after {after:?} ({}), healthy {again:?} after the end",
                text.replace('\n', " ")
            );
        }
    }
    drop(feed);
    assert_eq!(desk.browser.eval("window.opened"), "once");
    let complaints = desk.browser.complaints();
    let other: Vec<&String> = complaints.iter().filter(|told| !told.contains("Failed to load resource")).collect();
    assert!(other.is_empty(), "{other:#?}");
    assert!(desk.redis.totals().contains_key("entries"), "{CHECKPOINT}");
}

/// What happens, how it begins, how it ends.
type Outage = (&'static str, fn(&mut Desk), fn(&mut Desk));

const OUTAGES: [Outage; 4] = [
    ("the host is killed", |desk| desk.host.kill(), |desk| desk.start_host()),
    ("the host hangs", |desk| desk.host.signal("STOP"), |desk| desk.host.signal("CONT")),
    ("redis is killed", |desk| desk.redis.kill(), |desk| desk.redis.restart()),
    ("redis hangs", |desk| desk.redis.signal("STOP"), |desk| desk.redis.signal("CONT")),
];
