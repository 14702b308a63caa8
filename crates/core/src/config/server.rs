//! `[server]`: where the page, the API and the metrics are served, and who may read them.

use std::{fmt, net::SocketAddr};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Source, section::Section};

/// The minimum length of a token, characters: a token that can be guessed protects nothing.
const TOKEN_LEAST: usize = 16;

/// The most connections of all addresses together, without those that are reserved for health and metrics. A browser
/// opens six.
pub const CONNECTIONS_MAX: usize = 64;

/// `[server]`: page, API and metrics over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// The address and port to listen on. Empty: no server. Only this machine can reach a loopback address, so the
    /// default needs no token.
    pub listen: String,
    /// The token that requests must carry as `Authorization: Bearer …`. Empty: none, which is allowed on a loopback
    /// address only.
    pub token: Token,
    /// The most connections that one address may hold (of IPv6, one /64 network): half of all, so that no client can
    /// shut out the others, and five browsers' worth. 0: no limit, for a server behind a proxy, where all connections
    /// come from one address.
    pub connections_per_address: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9464".into(), token: Token::default(), connections_per_address: 32 }
    }
}

impl ServerConfig {
    /// The address to listen on; `None` if there is no server.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["server"]);
        let Self { listen, token: Token(token), connections_per_address } = self;
        section.check_range("connections_per_address", *connections_per_address, 0..=CONNECTIONS_MAX)?;
        if listen.is_empty() {
            return Ok(());
        }
        let address = self.address();
        ensure!(
            address.is_some(),
            "{}: server.listen is `{listen}`, expected address:port such as 127.0.0.1:9464, or \"\" for no server",
            section.at("listen")
        );
        ensure!(
            address.is_some_and(|address| address.ip().is_loopback()) || !token.is_empty(),
            "{}: server.listen is `{listen}`, which others can reach: set server.token (best by \
             TICKHOUND_SERVER__TOKEN), or listen on 127.0.0.1",
            section.at("listen")
        );
        let usable = token.len() >= TOKEN_LEAST && token.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(
            token.is_empty() || usable,
            "{}: server.token can't be used, expected at least {TOKEN_LEAST} letters, digits and signs without spaces",
            section.at("token")
        );
        Ok(())
    }
}

/// A secret, which its debug output does not reveal.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// The secret; `None` if it is empty.
    pub fn secret(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|token| !token.is_empty())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { "a secret" })
    }
}
