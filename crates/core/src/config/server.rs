//! `[server]`: where the page, the API and the metrics are served, and who may read them.

use std::{fmt, fmt::Write as _, net::SocketAddr};

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
    /// The address at which people open the page, for the links in messages: that of a proxy, or this machine's name.
    /// Empty: `http://` and `listen`, which a browser on another machine can't open if it is a loopback address.
    pub public_url: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9464".into(),
            token: Token::default(),
            connections_per_address: 32,
            public_url: String::new(),
        }
    }
}

impl ServerConfig {
    /// The address to listen on; `None` if there is no server.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listen.parse().ok()
    }

    /// The host that `public_url` names, without its port; `None` if it is empty or can't be used.
    pub fn public_host(&self) -> Option<&str> {
        let rest = self.public_url.strip_prefix("https://").or_else(|| self.public_url.strip_prefix("http://"))?;
        // Neither a query nor a fragment, in which a token could stand, nor a user.
        let is_usable = rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/[]%".contains(&byte));
        let authority = rest.split('/').next().filter(|_| is_usable)?;
        // An IPv6 address is in brackets.
        let host_end = authority.find(']').map_or_else(|| authority.find(':'), |end| Some(end + 1));
        let (host, port) = authority.split_at(host_end.unwrap_or(authority.len()));
        let has_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        Some(host).filter(|host| !host.is_empty() && has_port)
    }

    /// The address of the page on which people read about an alert: the page shows the alert and its chart. It never contains
    /// the token; the page asks for it. `None` if no page is served, or if `listen` stands for all addresses of this machine
    /// and `public_url` does not say under which people reach it.
    pub fn alert_link(&self, alert_id: &str) -> Option<String> {
        let listen = self.address().filter(|address| !address.ip().is_unspecified());
        let mut link = match self.public_url.trim_end_matches('/') {
            "" => format!("http://{}", listen?),
            public => public.to_owned(),
        };
        link.push_str("/#alert=");
        for byte in alert_id.bytes() {
            // Ids of our own alerts stay readable; anyone may have written another one.
            let is_plain = byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
            let _ = if is_plain { link.write_char(char::from(byte)) } else { write!(link, "%{byte:02X}") };
        }
        Some(link)
    }

    pub(super) fn validate(&self, source: &Source) -> Result<()> {
        let section = Section::new(source, &["server"]);
        let Self { listen, token: Token(token), connections_per_address, public_url } = self;
        section.check_range("connections_per_address", *connections_per_address, 0..=CONNECTIONS_MAX)?;
        ensure!(
            public_url.is_empty() || self.public_host().is_some(),
            "{}: server.public_url is `{public_url}`, expected an address such as https://scanner.example or \
             http://desk1:9464, without user, `?` and `#`, or \"\" for http:// and server.listen",
            section.at("public_url")
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    fn server(listen: &str, public_url: &str) -> ServerConfig {
        ServerConfig { listen: listen.into(), public_url: public_url.into(), ..ServerConfig::default() }
    }

    #[test]
    fn a_link_leads_to_the_page_as_people_reach_it() {
        let link = |listen, public_url| server(listen, public_url).alert_link("17-0/breakout/0");
        let expected = |base: &str| Some(format!("{base}/#alert=17-0/breakout/0"));
        assert_eq!(link("127.0.0.1:9464", ""), expected("http://127.0.0.1:9464"));
        assert_eq!(link("[::1]:9464", ""), expected("http://[::1]:9464"));
        assert_eq!(link("0.0.0.0:9464", "https://scanner.example/"), expected("https://scanner.example"));
        assert_eq!(link("", "http://desk1/scanner/"), expected("http://desk1/scanner"), "another host serves the page");
        assert_eq!([link("0.0.0.0:9464", ""), link("[::]:9464", ""), link("", "")], [None, None, None]);
    }

    #[test]
    fn a_strange_id_does_not_leave_its_place_in_the_link() {
        let link = server("127.0.0.1:1", "").alert_link("1-0/a b&#<\u{202e}\n\"+").unwrap();
        assert_eq!(link, "http://127.0.0.1:1/#alert=1-0/a%20b%26%23%3C%E2%80%AE%0A%22%2B");
    }

    #[test]
    fn a_public_url_names_a_host_and_no_secret() {
        let host = |public_url| server("", public_url).public_host().map(str::to_owned);
        assert_eq!(host("https://scanner.example:8443/desk/").as_deref(), Some("scanner.example"));
        assert_eq!(host("http://[2001:db8::7]:80").as_deref(), Some("[2001:db8::7]"));
        for wrong in [
            "scanner.example",
            "ftp://scanner.example",
            "https://",
            "https://:9464",
            "https://desk:port",
            "https://user:secret@scanner.example",
            "https://scanner.example/#token=secret",
            "https://scanner.example/?token=secret",
            "https://scanner example",
            "javascript://scanner.example",
            "https://scanner.example\n",
        ] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
