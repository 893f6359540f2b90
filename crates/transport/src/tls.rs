use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::Error;

/// Whom this machine trusts.
pub(crate) struct SystemRoots {
    certificates: Vec<CertificateDer<'static>>,
    roots: RootCertStore,
}

impl SystemRoots {
    /// The system's certificate authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. None at all is no error
    /// here: a server may speak plain HTTP or have an authority of its own.
    pub(crate) fn load() -> SystemRoots {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read certificate authorities");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs.iter().cloned());
        SystemRoots { certificates: found.certs, roots }
    }
}

/// What the directories of a server hold (`certs.d/HOST[:PORT]`).
#[derive(Default)]
pub(crate) struct HostCertificates {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl HostCertificates {
    /// Reads `*.crt`, and the first `*.cert` with its `*.key`, by name. Missing directories are empty.
    pub(crate) fn read(directories: &[PathBuf], names: &[String]) -> Result<HostCertificates, Error> {
        let mut found = HostCertificates::default();
        for directory in directories {
            for name in names {
                found.read_directory(&directory.join(name))?;
            }
        }
        Ok(found)
    }

    fn read_directory(&mut self, directory: &Path) -> Result<(), Error> {
        let failed = |path: &Path, error: io::Error| Error::io(format!("read {}", path.display()), error);
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|error| failed(directory, error))?,
        };
        let paths: Result<Vec<PathBuf>, io::Error> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut paths = paths.map_err(|error| failed(directory, error))?;
        paths.sort();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.authorities.extend(certificates(&path)?),
                Some("cert") if self.identity.is_none() => {
                    let key = path.with_extension("key");
                    let read = PrivateKeyDer::from_pem_file(&key)
                        .map_err(|error| failed(&key, io::Error::new(io::ErrorKind::InvalidData, error)))?;
                    self.identity = Some((certificates(&path)?, read));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error);
        Error::io(format!("read certificates of {}", path.display()), error)
    })
}

/// TLS towards one server.
pub(crate) fn client_config(
    system: Option<&SystemRoots>,
    host: HostCertificates,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trust = match system {
        None => Trust::Anyone,
        Some(system) => {
            let mut roots = system.roots.clone();
            roots.add_parsable_certificates(host.authorities.iter().cloned());
            let authorities =
                match WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build() {
                    Ok(verifier) => Some(verifier),
                    Err(VerifierBuilderError::NoRootAnchors) => None,
                    Err(other) => return Err(rustls::Error::General(other.to_string())),
                };
            let known = host.authorities.into_iter().chain(system.certificates.iter().cloned()).collect();
            Trust::Known { authorities, known }
        }
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { provider, trust }));
    let mut config = match host.identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    trust: Trust,
}

#[derive(Debug)]
enum Trust {
    /// For servers that the configuration calls insecure.
    Anyone,
    /// Signed by an authority, or one of those certificates itself. The latter is what `openssl req -x509` makes and what
    /// people put into `certs.d`; Go accepts it, webpki does not, since such a certificate is an authority's.
    Known { authorities: Option<Arc<WebPkiServerVerifier>>, known: HashSet<CertificateDer<'static>> },
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.trust {
            Trust::Anyone => Ok(ServerCertVerified::assertion()),
            Trust::Known { known, .. } if known.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            Trust::Known { authorities: Some(authorities), .. } => {
                authorities.verify_server_cert(certificate, intermediates, name, ocsp, now)
            }
            Trust::Known { authorities: None, .. } => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
