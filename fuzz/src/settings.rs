//! The configuration: any text, and the shipped file with any of its lines replaced.

use std::{net::SocketAddr, path::Path};

use tickhound_core::{
    config::{self, Config, LoadedConfig, input::TokensConfig},
    decode::Decoder,
};

use crate::SEPARATOR;

const FILE: &str = "config/config.toml";

/// The file that ships, which has every key.
const SHIPPED: &str = include_str!("../../config/config.toml");

/// Checks that any text is a configuration whose values are within their limits, or an error that names the file.
pub fn config(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let text = match choice % 2 {
        0 => std::str::from_utf8(bytes).map(str::to_owned).ok(),
        _ => edited(bytes),
    };
    let Some(text) = text else { return };
    match config::parse_text(Path::new(FILE), &text) {
        Ok(loaded) => check(loaded),
        Err(error) => assert!(format!("{error:#}").contains(FILE), "{error:#}"),
    }
}

/// The shipped file with other values: each part of `bytes` is the number of a line and what stands behind its `=`, or
/// for lines that have none, the whole line.
fn edited(bytes: &[u8]) -> Option<String> {
    let mut lines: Vec<String> = SHIPPED.lines().map(str::to_owned).collect();
    for part in bytes.split(|byte| *byte == SEPARATOR) {
        let Some((line, text)) = part.split_first_chunk() else { continue };
        let (line, text) = (usize::from(u16::from_be_bytes(*line)) % lines.len(), std::str::from_utf8(text).ok()?);
        let line = &mut lines[line];
        *line = match line.trim_start_matches("# ").split_once('=') {
            Some((key, _)) => format!("{key}={text}"),
            None => text.to_owned(),
        };
    }
    Some(lines.join("\n"))
}

fn check(loaded: LoadedConfig) {
    loaded.source.at(&["detectors", "breakout", "params", "window_s"]);
    let Config { stream, input, engine, plugins, server, detectors, .. } = &loaded.config;
    assert!((1..=10_000).contains(&stream.batch) && (500..=600_000).contains(&stream.lease_ms));
    assert!(!stream.key.is_empty() && !stream.group.is_empty() && !stream.consumer.is_empty());
    assert!((1..=config::BACKLOG_MAX).contains(&engine.backlog) && plugins.memory_max_mib <= 4096);
    let is_open = server.address().is_some_and(|address: SocketAddr| !address.ip().is_loopback());
    assert!(!is_open || server.token.secret().is_some_and(|token| token.len() >= 16), "{}", server.listen);
    for (name, detector) in detectors {
        assert!(!name.is_empty() && !name.contains(['/', '\n', ' ']), "{name:?}");
        assert!(!detector.plugin.contains(['/', '\\']), "{}", detector.plugin);
        assert!((0.0..=1.0).contains(&detector.min_confidence), "{}", detector.min_confidence);
        assert!((0.0..=86_400.0).contains(&detector.cooldown_s), "{}", detector.cooldown_s);
    }
    // A change of the file is taken up while a host runs, whatever was in force.
    let (merged, _) = config::merge(&Config::default(), &loaded.config).expect("both were loaded");
    let (again, _) = config::merge(&merged, &merged).expect("both were loaded");
    assert_eq!(text(&again), text(&merged));
    // A file of tokens may be any path of this machine, and is not read here.
    let mut input = input.clone();
    input.tokens = TokensConfig::default();
    let _ = Decoder::new(&input, &loaded.root);
}

/// As text, since NaN does not equal itself.
fn text(config: &Config) -> String {
    format!("{config:?}")
}
