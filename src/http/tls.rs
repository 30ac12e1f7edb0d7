//! Encryption of our own: a certificate and its key from files that may be renewed while the service runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// Pause between two looks at the files. Certificates are renewed days before they expire.
const LOOK: Duration = Duration::from_secs(30);

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path} ({key}): {source}; name a readable PEM file")]
    Unreadable { key: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{path} (server.tls_certificate) holds no certificate in PEM ({problem}); it begins with \"BEGIN CERTIFICATE\""
    )]
    NoCertificate { path: PathBuf, problem: String },
    #[error(
        "{path} (server.tls_key) holds no private key in PEM ({problem}); an encrypted key has to be decrypted first"
    )]
    NoKey { path: PathBuf, problem: String },
    #[error("{key} (server.tls_key) is not the key of the first certificate in {certificate}; name a pair that fits")]
    Mismatch { certificate: PathBuf, key: PathBuf },
    #[error("{certificate} and {key} cannot be used for TLS: {source}")]
    Unusable { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// Times of change and lengths of the two files.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// The certificate in use.
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// Names the file that is missing, unreadable or does not fit.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = RwLock::new(read(certificate, key)?);
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), current })
    }

    /// Encrypts one more connection with what is in use now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Reads the files again; connections that are open keep the certificate they began with.
    ///
    /// # Errors
    /// As [`Tls::load`]; then what was in use stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = read(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Reads the files again on SIGHUP and when they have changed, for ever. The signal is heard from the call on.
    pub fn keep_fresh(self: Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        // Before anything is polled: unheard, the signal ends the process.
        let hang_ups = hang_ups();
        self.look(hang_ups)
    }

    async fn look(self: Arc<Self>, mut hang_up: HangUps) {
        let mut seen = self.stamp();
        loop {
            let is_asked = tokio::select! {
                () = hang_up.next() => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = self.stamp();
            if !is_asked && now == seen {
                continue;
            }
            // A pair that is exchanged file by file does not fit for a moment; its second half changes the stamp again.
            seen = now;
            match self.reload() {
                Ok(()) => tracing::info!("certificate and key were read again"),
                Err(error) => tracing::error!(%error, "the certificate in use stays in use"),
            }
        }
    }

    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        })
    }
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let bytes = |name: &'static str, path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Unreadable { key: name, path: path.to_owned(), source })
    };
    let chain = bytes("server.tls_certificate", certificate)?;
    let no_certificate = |problem: String| TlsError::NoCertificate { path: certificate.to_owned(), problem };
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().map_err(|e| no_certificate(e.to_string()))?;
    if chain.is_empty() {
        return Err(no_certificate("no section of that kind".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&bytes("server.tls_key", key)?)
        .map_err(|error| TlsError::NoKey { path: key.to_owned(), problem: error.to_string() })?;
    let unusable = |source| match source {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() }
        }
        source => TlsError::Unusable { certificate: certificate.to_owned(), key: key.to_owned(), source },
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Signals to read the files again; none where the system has no such signal.
struct HangUps {
    #[cfg(unix)]
    signals: Option<tokio::signal::unix::Signal>,
}

fn hang_ups() -> HangUps {
    HangUps {
        #[cfg(unix)]
        signals: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok(),
    }
}

impl HangUps {
    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signals) = &mut self.signals
            && signals.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate of its own making, and its key, in files.
    fn pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        (certificate, key)
    }

    fn problem(certificate: &Path, key: &Path) -> String {
        Tls::load(certificate, key).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (certificate, key) = pair(folder.path(), "one");
        let (_, other_key) = pair(folder.path(), "two");
        assert_eq!(problem(&certificate, &key), "");
        let missing = problem(&folder.path().join("none.pem"), &key);
        assert!(missing.contains("none.pem") && missing.contains("server.tls_certificate"), "{missing}");
        let missing = problem(&certificate, &folder.path().join("none.key"));
        assert!(missing.contains("none.key") && missing.contains("server.tls_key"), "{missing}");
        let swapped = problem(&key, &certificate);
        assert!(swapped.contains("holds no certificate"), "{swapped}");
        let no_key = problem(&certificate, &certificate);
        assert!(no_key.contains("holds no private key"), "{no_key}");
        let mismatch = problem(&certificate, &other_key);
        assert!(mismatch.contains("is not the key of"), "{mismatch}");
    }

    #[test]
    fn a_bad_renewal_keeps_the_old_pair_in_use() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let (certificate, key) = pair(folder.path(), "one");
        let (_, other_key) = pair(folder.path(), "two");
        let tls = Tls::load(&certificate, &key).expect("a pair");
        let before = tls.stamp();
        std::fs::copy(&other_key, &key).expect("copied");
        assert!(tls.reload().is_err());
        let kept = Arc::clone(&tls.current.read().expect("no panic"));
        let (renewed, renewed_key) = pair(folder.path(), "three");
        std::fs::copy(renewed, &certificate).expect("copied");
        std::fs::copy(renewed_key, &key).expect("copied");
        tls.reload().expect("a pair again");
        assert!(!Arc::ptr_eq(&kept, &tls.current.read().expect("no panic")));
        assert_ne!(before, tls.stamp());
    }
}
