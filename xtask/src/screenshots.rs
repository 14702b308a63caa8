//! `cargo xtask screenshots`: the pictures of the dashboard in docs/images, taken anew from a real run.

use std::{fs, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{cargo, checks, root, run};

/// A README that takes seconds to show is not read.
const BYTES_MAX: u64 = 200_000;

/// Works a simulated market for some minutes, and looks at it with a browser.
pub(crate) fn take() -> Result<()> {
    if !checks::starts("pngquant", &["--version"]) {
        checks::apt_install("pngquant").context("pictures are made small by pngquant; install it")?;
    }
    let folder = root().join("docs/images");
    fs::create_dir_all(&folder)?;
    let mut test = cargo();
    test.args(["test", "--release", "--workspace", "--locked", "--test", "it", "--"]);
    test.args(["dashboard::a_trader_sees_how_it_goes_and_what_was_found", "--exact", "--nocapture"]);
    run(test.env("TICKHOUND_PICTURES", &folder))?;
    for entry in fs::read_dir(&folder)? {
        let picture = entry?.path();
        if picture.extension().is_some_and(|ending| ending == "png") {
            run(Command::new("pngquant")
                .args(["--force", "--strip", "--speed", "1", "--output"])
                .args([&picture, &picture]))?;
            let bytes = fs::metadata(&picture)?.len();
            println!("{}: {bytes} bytes", picture.display());
            ensure!(bytes < BYTES_MAX, "{} has more than {BYTES_MAX} bytes", picture.display());
        }
    }
    Ok(())
}
