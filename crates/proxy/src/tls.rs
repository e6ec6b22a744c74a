//! TLS on either side: rustls with ring.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::settings::{Mode, TlsSettings, UpstreamTlsSettings};

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file is missing or is not PEM.
    #[error("cannot read {what} from {}: {error}; give a file in PEM", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: rustls_pki_types::pem::Error,
    },
    /// A file has none of what it is for.
    #[error("there is no certificate in {}; give a file in PEM with at least one", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// Certificate and key don't fit, or are of an unknown kind.
    #[error("TLS can't be set up: {0}; look whether the key belongs to the certificate")]
    Unusable(#[from] rustls::Error),
    /// The name of instances is none.
    #[error("{name:?} is no name that a certificate could have")]
    Name {
        /// What was given.
        name: Arc<str>,
    },
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |error| TlsError::File { what, path: path.to_owned(), error };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(file)?.collect();
    let all = all.map_err(file)?;
    if all.is_empty() { Err(TlsError::NoCertificate { path: path.to_owned() }) } else { Ok(all) }
}

/// What speaks TLS with clients.
pub(crate) fn acceptor(settings: &TlsSettings, mode: Mode) -> Result<TlsAcceptor, TlsError> {
    let chain = certificates(&settings.certificates, "certificates")?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| TlsError::File {
        what: "a private key",
        path: settings.key.clone(),
        error,
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    if mode == Mode::Http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What speaks TLS with instances.
#[derive(Clone)]
pub(crate) struct UpstreamTls {
    config: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UpstreamTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl UpstreamTls {
    pub(crate) fn new(settings: &UpstreamTlsSettings) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&settings.roots, "root certificates")? {
            roots.add(root)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let speaking = |protocol: &[u8]| {
            let mut config = config.clone();
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        let name = settings.name.as_ref().map(|name| {
            ServerName::try_from(name.to_string()).map_err(|_| TlsError::Name { name: Arc::clone(name) })
        });
        let (http1, http2) = (speaking(b"http/1.1"), speaking(b"h2"));
        Ok(UpstreamTls { config: Arc::new(config), http1, http2, name: name.transpose()? })
    }

    /// `protocol` is what is spoken above TLS; empty: nobody's business.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        tcp: TcpStream,
        protocol: &[u8],
    ) -> io::Result<TlsStream<TcpStream>> {
        let config = match protocol {
            b"h2" => &self.http2,
            b"http/1.1" => &self.http1,
            _ => &self.config,
        };
        let name = self.name.clone().unwrap_or_else(|| ServerName::from(address.ip()));
        let stream = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        Ok(TlsStream::Client(stream))
    }
}
