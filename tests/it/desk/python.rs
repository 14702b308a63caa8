//! A Python with the packages that a desk has, for tests in which its programs write or read.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

use crate::support::text;

/// Their versions decide how texts and numbers are written.
const PACKAGES: [&str; 2] = ["redis==6.4.0", "jsonschema==4.25.1"];

/// Runs a program with these arguments; returns what it prints.
pub fn python(program: &str, args: &[&str]) -> String {
    let output = Command::new(interpreter()).args(["-c", program]).args(args).output().unwrap();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// Installs the packages once, into a folder that stays.
fn interpreter() -> &'static PathBuf {
    static INTERPRETER: OnceLock<PathBuf> = OnceLock::new();
    INTERPRETER.get_or_init(|| {
        let folder = PathBuf::from(concat!(env!("CARGO_TARGET_TMPDIR"), "/python-desk"));
        let (python, done) = (folder.join("bin/python"), folder.join(PACKAGES.join(" ")));
        if !done.exists() {
            let run = |command: &mut Command| {
                let output = command.output().expect("python3 is installed: apt-get install python3-venv");
                assert!(output.status.success(), "{command:?} failed: {}", text(&output.stderr));
            };
            run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
            run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES));
            fs::write(done, "").unwrap();
        }
        python
    })
}
