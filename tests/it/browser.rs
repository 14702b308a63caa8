//! A real browser, driven over its DevTools protocol through a pair of pipes: no port, no driver, no crate.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{pause, wait_for};

/// An answer of a browser on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One window; closed on drop.
pub struct Browser {
    child: Child,
    _profile: TempDir,
    orders: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    number: u64,
    events: Vec<Value>,
}

impl Browser {
    /// A browser, unless there is none and whoever runs the tests has said so.
    pub fn start() -> Option<Self> {
        let known = ["chromium", "chromium-browser", "google-chrome"];
        let found = known.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
        if found.is_none() && std::env::var_os("TICKHOUND_NO_BROWSER").is_some() {
            return None;
        }
        let program = found.expect("this test needs chromium, or TICKHOUND_NO_BROWSER=1 to leave it out");
        let profile = tempfile::tempdir().unwrap();
        // It reads orders from file 3 and answers on file 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh", program])
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut browser =
            Self { child, _profile: profile, orders, messages, session: None, number: 0, events: Vec::new() };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// One command of the protocol; its result.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let number = self.number;
        let mut order = json!({ "id": number, "method": method, "params": params });
        if let Some(session) = &self.session {
            order["sessionId"] = session.as_str().into();
        }
        let mut bytes = order.to_string().into_bytes();
        bytes.push(0);
        self.orders.write_all(&bytes).unwrap();
        loop {
            let message = self.messages.recv_timeout(PATIENCE).expect("the browser answers");
            if message["id"] == number {
                assert!(message["error"].is_null(), "{method}: {}", message["error"]);
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// Goes to an address.
    pub fn open(&mut self, url: &str) {
        let went = self.call("Page.navigate", json!({ "url": url }));
        assert!(went["errorText"].is_null(), "{url}: {went}");
        wait_for("the page is loaded", || (self.eval("document.readyState") == "complete").then_some(()));
    }

    /// The value of an expression in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// The text of an element as a reader sees it.
    pub fn text(&mut self, selector: &str) -> String {
        self.eval(&format!("document.querySelector({selector:?})?.innerText ?? ''")).as_str().unwrap().to_owned()
    }

    /// Waits until the expression is true; a failure shows what the page says.
    pub fn wait_until(&mut self, what: &str, expression: &str) {
        let started = Instant::now();
        while self.eval(expression) != true {
            let waited = started.elapsed();
            assert!(waited <= PATIENCE, "waited in vain: {what}\nthe page says: {}", self.text("body"));
            pause();
        }
    }

    /// Presses the mouse's button in the middle of an element.
    pub fn click(&mut self, selector: &str) {
        let middle = self.eval(&format!(
            "(() => {{ const element = document.querySelector({selector:?}); element.scrollIntoView({{ block: 'nearest' }}); \
             const box = element.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let (button, buttons) = if kind == "mouseMoved" { ("none", 0) } else { ("left", 1) };
            let params = json!({
                "type": kind, "x": middle[0], "y": middle[1], "button": button, "buttons": buttons, "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", params);
        }
    }

    /// Takes the pointer off everything.
    pub fn point_nowhere(&mut self) {
        self.call("Input.dispatchMouseEvent", json!({ "type": "mouseMoved", "x": 1, "y": 1 }));
    }

    /// Writes into a field, in place of what is there.
    pub fn write(&mut self, selector: &str, text: &str) {
        self.eval(&format!(
            "document.querySelector({selector:?}).focus(); document.querySelector({selector:?}).select()"
        ));
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Presses a key, e.g. `Escape`.
    pub fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", json!({ "type": kind, "key": key, "code": key }));
        }
    }

    /// A window, or a phone's screen, of this size.
    pub fn size(&mut self, width: u32, height: u32) {
        let is_phone = width < 600;
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.call("Emulation.setDeviceMetricsOverride", params);
        // Until what depends on the size has moved: a click would miss it.
        self.eval("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))");
    }

    /// What the system prefers.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Where the viewer sits, as an IANA zone.
    pub fn live_in(&mut self, zone: &str) {
        self.call("Emulation.setTimezoneOverride", json!({ "timezoneId": zone }));
    }

    /// Takes a picture of what the window shows.
    pub fn picture(&mut self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        std::fs::write(file, BASE64_STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
    }

    /// Statuses of all answers so far, once `Network` is enabled.
    pub fn statuses(&mut self) -> Vec<u64> {
        self.eval("0");
        let answers = self.events.iter().filter(|event| event["method"] == "Network.responseReceivedExtraInfo");
        answers.filter_map(|event| event["params"]["statusCode"].as_u64()).collect()
    }

    /// What the console has been told so far: errors, warnings, exceptions, breaches of the page's policy.
    pub fn complaints(&mut self) -> Vec<String> {
        // What has happened by now has arrived with this answer.
        self.eval("0");
        let complaint = |event: &Value| {
            let params = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled" => Some(format!("{}: {}", params["type"], params["args"])),
                "Log.entryAdded" => {
                    let entry = &params["entry"];
                    Some(format!("{} {}: {} {}", entry["source"], entry["level"], entry["text"], entry["url"]))
                }
                _ => None,
            }
        };
        self.events.iter().filter_map(complaint).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It is asked first, so that nothing of it writes into its folder when that is removed.
        let _ = self.orders.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        for _ in 0..300 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
