//! A real terminal of a given size, with the built binary in it: what it shows, and keys for it.
//!
//! `script` makes the pseudo-terminal; every Debian has it.

use std::{
    fs,
    io::{Read, Write},
    num::NonZeroU16,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use crate::support::{Project, binary, signal, wait_for};

pub struct Terminal {
    script: Child,
    keys: ChildStdin,
    screen: Arc<Mutex<vt100::Parser>>,
    /// All that was ever written to it.
    raw: Arc<Mutex<Vec<u8>>>,
    pid: u32,
}

impl Terminal {
    /// Runs `tickhound ARGS` in `project` on a terminal of that size.
    pub fn open(project: &Project, args: &str, (columns, rows): (u16, u16), variables: &[(&str, &str)]) -> Self {
        let pid = project.path("terminal.pid");
        let _ = fs::remove_file(&pid);
        // What the terminal is like afterwards, and the exit code, are shown on it.
        let line = format!(
            "stty rows {rows} cols {columns}; sh -c 'echo $$ >terminal.pid; exec \"$0\" {args}' {}; code=$?; \
             stty -a | grep -o -e '-\\?icanon'; echo \"exit code $code\"; exit $code",
            binary().display()
        );
        let mut script = Command::new("script")
            .args(["-qefc", &line, "/dev/null"])
            .current_dir(project.path("."))
            .env("TERM", "xterm-256color")
            .env("SHELL", "/bin/sh")
            .env_remove("NO_COLOR")
            .env_remove("CLICOLOR")
            .env_remove("CLICOLOR_FORCE")
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is installed: apt-get install bsdutils");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(some(rows), some(columns), 0)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let (mut output, drawn, written) = (script.stdout.take().unwrap(), screen.clone(), raw.clone());
        thread::spawn(move || {
            let mut bytes = [0; 65536];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                written.lock().unwrap().extend(&bytes[..count]);
                drawn.lock().unwrap().process(&bytes[..count]);
            }
        });
        let keys = script.stdin.take().unwrap();
        let pid = wait_for("it starts", || fs::read_to_string(&pid).ok()?.trim().parse().ok());
        Self { script, keys, screen, raw, pid }
    }

    /// What it shows now.
    pub fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().unwrap()).into_owned()
    }

    /// Waits until `part` is shown.
    pub fn shows(&self, part: &str) -> String {
        self.shows_what(part, |text| text.contains(part))
    }

    /// Waits until what is shown is as it should be.
    pub fn shows_what(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let shown = Shown(self);
        let text = wait_for(what, || Some(self.text()).filter(|text| is(text)));
        drop(shown);
        text
    }

    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    pub fn resize(&self, (columns, rows): (u16, u16)) {
        let device = fs::read_link(format!("/proc/{}/fd/0", self.pid)).unwrap();
        self.screen.lock().unwrap().screen_mut().set_size(some(rows), some(columns));
        let size = ["rows", &rows.to_string(), "cols", &columns.to_string()].map(str::to_owned);
        let status = Command::new("stty").arg("-F").arg(device).args(size).status().unwrap();
        assert!(status.success());
    }

    /// Sends a signal to the program by name, e.g. `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.pid, name);
    }

    /// Waits until the program ends; its exit code, and what the terminal is like then.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let code = wait_for("it ends", || self.script.try_wait().unwrap()).code();
        let text = self.shows("exit code");
        assert!(!self.screen.lock().unwrap().screen().alternate_screen(), "the screen is given back");
        assert!(!self.screen.lock().unwrap().screen().hide_cursor(), "the cursor is shown again");
        (code, text)
    }

    /// The screen as a picture.
    pub fn svg(&self) -> String {
        svg(self.screen.lock().unwrap().screen())
    }
}

/// Tells what was on the screen when a test fails.
struct Shown<'a>(&'a Terminal);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the screen:\n{}", self.0.text());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Ok(None) = self.script.try_wait() {
            let _ = self.script.kill();
            let _ = self.script.wait();
        }
    }
}

fn some(size: u16) -> NonZeroU16 {
    NonZeroU16::new(size).unwrap()
}

/// Width and height of a character, px.
const CELL: (f64, f64) = (8.4, 18.0);

fn svg(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) = (f64::from(columns) * CELL.0 + 24.0, f64::from(rows) * CELL.1 + 24.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-size=\"14\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16181d\"/>\n"
    );
    for row in 0..rows {
        let mut column = 0;
        while column < columns {
            let cell = screen.cell(row, column).unwrap();
            let look = |column: u16| {
                let cell = screen.cell(row, column).unwrap();
                (cell.fgcolor(), cell.bold(), cell.dim(), cell.inverse(), cell.is_wide())
            };
            let style = look(column);
            let mut text = String::new();
            let begin = column;
            // Characters of one style as one text; a wide one alone, so that its neighbours keep their places.
            while column < columns && look(column) == style {
                let part = screen.cell(row, column).unwrap().contents();
                text.push_str(if part.is_empty() { " " } else { part });
                column += if style.4 { 2 } else { 1 };
                if style.4 {
                    break;
                }
            }
            if text.trim().is_empty() && !style.3 {
                continue;
            }
            let (x, y) = (12.0 + f64::from(begin) * CELL.0, 12.0 + f64::from(row) * CELL.1);
            let length = f64::from(column - begin) * CELL.0;
            let color = match cell.fgcolor() {
                vt100::Color::Idx(1 | 9) => "#f47067",
                vt100::Color::Idx(2 | 10) => "#6bc46d",
                vt100::Color::Idx(3 | 11) => "#daaa3f",
                vt100::Color::Idx(6 | 14) => "#56b6c2",
                _ => "#d5d9e0",
            };
            if style.3 {
                let (_, high) = CELL;
                svg += &format!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{high}\" fill=\"{color}\"/>\n"
                );
            }
            let fill = if style.3 { "#16181d" } else { color };
            let more = format!(
                "{}{}",
                if style.1 { " font-weight=\"bold\"" } else { "" },
                if style.2 { " opacity=\"0.6\"" } else { "" }
            );
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            svg += &format!(
                "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
                 fill=\"{fill}\" xml:space=\"preserve\"{more}>{text}</text>\n",
                y + 13.5
            );
        }
    }
    svg + "</svg>\n"
}
