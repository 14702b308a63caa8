//! Checks the channels of a configuration, and describes them for people.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Result, anyhow};

use super::{
    secret::{Secrets, read_source},
    webhook,
};
use tickhound_core::config::{LoadedConfig, NotifyKind};

/// A channel, described for people.
pub(crate) struct ChannelSummary {
    /// The channel's name.
    pub(crate) name: String,
    /// The receiver in one line: kind, address, and where the secrets are read from.
    pub(crate) receiver: String,
    /// Settings that are unsafe.
    pub(crate) warnings: Vec<String>,
}

/// Checks every channel that is switched on, and describes it.
///
/// # Errors
/// The first fault, with its position in the configuration.
pub(crate) fn check(loaded: &LoadedConfig) -> Result<Vec<ChannelSummary>> {
    let mut summaries = Vec::new();
    for (index, channel) in loaded.config.notify.iter().enumerate().filter(|(_, channel)| channel.enabled) {
        let at = |key| loaded.source.at(&["notify", &index.to_string(), key]);
        let sources = [
            ("url", "url_env", &channel.url_env, "url_file", &channel.url_file),
            ("token", "token_env", &channel.token_env, "token_file", &channel.token_file),
        ];
        let (mut origins, mut warnings) = (Vec::new(), Vec::new());
        let mut last = "url";
        for (what, env_key, env, file_key, file) in sources {
            let key = if env.is_empty() { file_key } else { env_key };
            if let Some(secret) = read_source(env, file) {
                secret.map_err(|error| anyhow!("{}: notify `{}`: {error:#}", at(key), channel.name))?;
                last = key;
                let source = if env.is_empty() { file.display().to_string() } else { env.clone() };
                origins.push(format!("{what} from {source}"));
            }
            if readable_by_all(file) {
                warnings.push(format!(
                    "{0} is a secret that every user of this machine can read; run `chmod o= {0}`",
                    file.display()
                ));
            }
        }
        let secrets =
            Secrets::read(channel).map_err(|error| anyhow!("{}: notify `{}`: {error:#}", at(last), channel.name))?;
        webhook::agent(channel).map_err(|error| anyhow!("{}: notify `{}`: {error:#}", at("tls_ca"), channel.name))?;
        if matches!(channel.kind, NotifyKind::Slack | NotifyKind::Discord) && !channel.url.is_empty() {
            warnings.push("its URL is a secret; url_env or url_file keeps it out of the configuration".into());
        }
        let local = ["http://127.", "http://localhost", "http://[::1]"];
        if secrets.address.starts_with("http://") && !local.iter().any(|start| secrets.address.starts_with(start)) {
            warnings.push(format!("{} is not encrypted; the network can read the secret", secrets.address));
        }
        let origins = if origins.is_empty() { String::new() } else { format!(" ({})", origins.join(", ")) };
        let kind = format!("{:?}", channel.kind).to_lowercase();
        let receiver = format!("{kind} at {}{origins}", secrets.address);
        summaries.push(ChannelSummary { name: channel.name.clone(), receiver, warnings });
    }
    Ok(summaries)
}

fn readable_by_all(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}
