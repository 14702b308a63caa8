//! TLS to the server: trusted authorities, our own certificate, and what a failed handshake means.
//!
//! What holds: the server's certificate is always verified.

use std::{error::Error, fs, io, path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use redis::{Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, TlsCertificates};
use rustls::{
    AlertDescription, CertificateError, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use tickhound_core::config::{StreamConfig, is_unset};

/// Prepares a client that uses TLS if the URL says so, with the files of the configuration.
pub(super) fn client(info: ConnectionInfo, config: &StreamConfig) -> Result<Client> {
    let StreamConfig { tls_ca, tls_cert, tls_key, .. } = config;
    let files = [("stream.tls_ca", tls_ca), ("stream.tls_cert", tls_cert), ("stream.tls_key", tls_key)];
    let named = files.into_iter().find(|(_, file)| !is_unset(file));
    let ConnectionAddr::TcpTls { insecure, .. } = info.addr() else {
        if let Some((key, _)) = named {
            bail!("{key} is set, but stream.url is not rediss://…, so nothing would be encrypted: write rediss://");
        }
        return Client::open(info).context("stream.url");
    };
    ensure!(!insecure, "stream.url: #insecure is not supported: name the server's authority in stream.tls_ca instead");
    // With a second provider among the dependencies rustls would have no default.
    let _ = ring::default_provider().install_default();
    if named.is_none() {
        return Client::open(info).context("stream.url");
    }
    let root_cert = (!is_unset(tls_ca)).then(|| certificates("stream.tls_ca", tls_ca)).transpose()?;
    let client_tls = (!is_unset(tls_cert)).then(|| identity(tls_cert, tls_key)).transpose()?;
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
        .with_context(|| format!("stream.tls_ca: {} holds a certificate that can't be used", tls_ca.display()))
}

/// Prepares TLS for [`crate::wire`]; `None` if the URL does not ask for TLS.
pub(super) fn config(info: &ConnectionInfo, config: &StreamConfig) -> Result<Option<Arc<rustls::ClientConfig>>> {
    if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        return Ok(None);
    }
    let StreamConfig { tls_ca, tls_cert, tls_key, .. } = config;
    let mut roots = RootCertStore::empty();
    if !is_unset(tls_ca) {
        let pem = certificates("stream.tls_ca", tls_ca)?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate?).with_context(|| {
                format!("stream.tls_ca: {} holds a certificate that can't be used", tls_ca.display())
            })?;
        }
    } else {
        // Unusable certificates are skipped; only the one of the server's authority has to be usable.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(roots);
    let config = if !is_unset(tls_cert) {
        let ClientTlsConfig { client_cert, client_key } = identity(tls_cert, tls_key)?;
        let chain = CertificateDer::pem_slice_iter(&client_cert).collect::<Result<Vec<_>, _>>()?;
        builder
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&client_key)?)
            .context("stream.tls_cert and stream.tls_key can't be used together")?
    } else {
        builder.with_no_client_auth()
    };
    Ok(Some(Arc::new(config)))
}

fn identity(cert: &Path, key: &Path) -> Result<ClientTlsConfig> {
    let client_cert = certificates("stream.tls_cert", cert)?;
    let client_key = read("stream.tls_key", key)?;
    let usable = PrivateKeyDer::from_pem_slice(&client_key).is_ok();
    ensure!(usable, "stream.tls_key: {} does not hold a private key (PEM, not encrypted)", key.display());
    Ok(ClientTlsConfig { client_cert, client_key })
}

fn certificates(name: &str, file: &Path) -> Result<Vec<u8>> {
    let pem = read(name, file)?;
    let usable = matches!(CertificateDer::pem_slice_iter(&pem).next(), Some(Ok(_)));
    ensure!(usable, "{name}: {} does not hold a certificate (PEM)", file.display());
    Ok(pem)
}

fn read(name: &str, file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("{name}: can't read {}", file.display()))
}

/// Explains a failed attempt to connect, if TLS or its absence is the cause.
pub(super) fn explain(error: RedisError, address: &ConnectionAddr) -> RedisError {
    let sentence = match address {
        ConnectionAddr::TcpTls { host, tls_params, .. } => handshake(&error, host, tls_params.is_some()),
        ConnectionAddr::Tcp(..) if error.kind() == ErrorKind::Parse || error.is_connection_dropped() => {
            let hint = "the server hung up at once; if it uses TLS on this port, write rediss:// in stream.url";
            (!error.is_connection_refusal()).then(|| hint.to_owned())
        }
        _ => None,
    };
    sentence.map_or(error, |sentence| io::Error::other(sentence).into())
}

fn handshake(error: &RedisError, host: &str, has_files: bool) -> Option<String> {
    const NO_TLS: &str =
        "if the server does not use TLS on this port, write redis:// in stream.url, or use its TLS port";
    const NO_CLIENT_CERTIFICATE: &str =
        "the server requires a client certificate that it trusts: name it in stream.tls_cert and stream.tls_key";
    let Some(reason) = rustls_error(error) else {
        return match error.kind() {
            _ if error.is_timeout() => Some(format!("no answer to the TLS handshake; {NO_TLS}")),
            // Since TLS 1.3 a server verifies the client's certificate after the handshake, and hangs up.
            _ if error.is_connection_refusal() => None,
            _ if error.is_connection_dropped() => {
                Some(format!("the server hung up; {NO_TLS}; or {NO_CLIENT_CERTIFICATE}"))
            }
            ErrorKind::InvalidClientConfig => {
                Some(format!("stream.tls_cert and stream.tls_key can't be used together: {error}"))
            }
            _ => None,
        };
    };
    Some(match reason {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) if has_files => {
            "the server's certificate is not signed by an authority in stream.tls_ca (without that key: by one this \
             machine trusts)"
                .into()
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate is not signed by an authority this machine trusts: name its CA in stream.tls_ca"
                .into()
        }
        rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => format!(
            "the server's certificate is not for {host}, but for {}: write a name that it has in stream.url",
            presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
        ),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYetContext { .. },
        ) => format!("the server's certificate is not valid today: renew it, or set this machine's clock ({reason})"),
        rustls::Error::InvalidCertificate(cause) => format!("the server's certificate is rejected: {cause}"),
        rustls::Error::InvalidMessage(_) => format!("the server does not reply in TLS; {NO_TLS}"),
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::HandshakeFailure,
        ) => format!("{NO_CLIENT_CERTIFICATE} ({reason})"),
        other => format!("the TLS handshake failed: {other}"),
    })
}

/// The bare name in `DnsName("redis.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, name)| name.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// The TLS error behind an error of the client crate, which wraps it in an I/O error, and that in an `Arc`.
fn rustls_error(error: &RedisError) -> Option<&rustls::Error> {
    let inner = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    match inner.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref()?.downcast_ref(),
        None => inner.downcast_ref(),
    }
}
