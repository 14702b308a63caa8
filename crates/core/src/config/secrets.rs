//! Secrets that other users of this machine can read: in the configuration file, or in a file that it names.
//!
//! What holds: nothing here returns a secret, only the names of keys and files. What an environment variable says is not in
//! the file, so it does not count.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Config, LoadedConfig, NotifyConfig, NotifyKind, section::is_unset};

/// The permission of all users to read a file, and to reach what is in a folder.
const OTHERS_READ: u32 = 0o004;
const OTHERS_PASS: u32 = 0o001;

/// A file with secrets that every user of this machine can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedSecrets {
    /// The file.
    pub file: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// The keys of the configuration whose secrets it holds, such as `server.token`.
    pub keys: Vec<String>,
}

impl ExposedSecrets {
    /// What is wrong, in a sentence without its full stop.
    pub fn describe(&self) -> String {
        let Self { file, mode, keys } = self;
        format!("{} holds {} and has mode {mode:03o}: any user of this machine can read it", file.display(), list(keys))
    }

    /// What to do about it.
    pub fn cure(&self) -> String {
        format!(
            "chmod 600 {} (640 if the host's group is to read it), and change the secret if others may have seen it",
            self.file.display()
        )
    }
}

fn list(keys: &[String]) -> String {
    match keys {
        [key] => format!("the secret of {key}"),
        keys => format!("the secrets of {}", keys.join(", ")),
    }
}

impl LoadedConfig {
    /// The files with secrets that every user of this machine can read.
    pub fn exposed_secrets(&self) -> Vec<ExposedSecrets> {
        let in_file = self.source.config().unwrap_or_default();
        let mut files = vec![(self.source.file().to_path_buf(), plain_secrets(&in_file))];
        let named = |key: &str, file: &Path| (file.to_path_buf(), vec![key.to_owned()]);
        files.push(named("stream.tls_key", &self.config.stream.tls_key));
        for sink in &self.config.notify {
            files.push(named(&format!("notify {} (url_file)", sink.name), &sink.url_file));
            files.push(named(&format!("notify {} (token_file)", sink.name), &sink.token_file));
        }
        let files = files.into_iter().filter(|(file, keys)| !is_unset(file) && !keys.is_empty());
        files.filter_map(|(file, keys)| Some(ExposedSecrets { mode: readable_mode(&file)?, file, keys })).collect()
    }
}

/// The keys whose values are secrets, or contain one.
fn plain_secrets(config: &Config) -> Vec<String> {
    let mut keys = Vec::new();
    if has_password(&config.stream.url) {
        keys.push("stream.url".to_owned());
    }
    if config.server.token.secret().is_some() {
        keys.push("server.token".to_owned());
    }
    let secret_urls = config.notify.iter().filter(|sink| is_secret_url(sink));
    keys.extend(secret_urls.map(|sink| format!("notify {} (url)", sink.name)));
    keys
}

/// Whether a URL names a password.
fn has_password(url: &str) -> bool {
    let after_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = after_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    user.and_then(|user| user.split_once(':')).is_some_and(|(_, password)| !password.is_empty())
}

/// Whether the URL of a sink is a password in itself, as those of Slack and Discord are.
fn is_secret_url(sink: &NotifyConfig) -> bool {
    let url = &sink.url;
    let is_hook = matches!(sink.kind, NotifyKind::Slack | NotifyKind::Discord) && !url.is_empty();
    is_hook || has_password(url) || url.contains('?')
}

/// The mode of a file that every user of this machine can reach and read.
fn readable_mode(file: &Path) -> Option<u32> {
    let file = file.canonicalize().ok()?;
    let mode = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o777);
    let own = mode(&file).filter(|mode| mode & OTHERS_READ != 0)?;
    let reached = file.ancestors().skip(1).all(|folder| mode(folder).is_some_and(|mode| mode & OTHERS_PASS != 0));
    reached.then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_password_is_a_secret() {
        for url in ["redis://:secret@h:6379", "rediss://user:secret@h/0", "redis://u:a@b@h"] {
            assert!(has_password(url), "{url}");
        }
        for url in
            ["redis://127.0.0.1:6379", "redis://user@h", "redis://user:@h", "redis://h/a:b@c", "redis+unix:///a:b@c"]
        {
            assert!(!has_password(url), "{url}");
        }
    }

    #[test]
    fn keys_of_secrets_are_named_and_not_their_values() {
        let text = "[stream]\nurl = \"redis://:s3cret@h\"\n[server]\ntoken = \"0123456789abcdef\"\n\
                    [[notify]]\nname = \"desk\"\nkind = \"slack\"\nurl = \"https://hooks.example/T/B/x\"\n";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(plain_secrets(&config), ["stream.url", "server.token", "notify desk (url)"]);
        assert!(plain_secrets(&Config::default()).is_empty());
    }
}
