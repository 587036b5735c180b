//! TLS 1.2 or later, with a certificate that may be renewed at any time.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::OFlags;
use thiserror::Error;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{self, AlertDescription, ServerConfig};

use usernsd_domain::certificate::{Certificate, Validity};
use usernsd_domain::lock::lock;

/// Minimum time between two checks of the files, which are made only when a client connects.
const PAUSE: Duration = Duration::from_secs(1);

/// The longest file that is read, in bytes: the size limit of a Kubernetes Secret. A chain has some
/// kilobytes, and is sent to every client.
const LONGEST: u64 = 1 << 20;
/// How often the pair is read if it is replaced between reading the two files.
const TRIES: usize = 3;

/// Paths of certificate and key, both in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, followed by the intermediate certificates.
    pub certificate: PathBuf,
    /// The certificate's private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Why the pair cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("reading {}: {error}", path.display())]
    Read {
        path: PathBuf,
        /// The error of the kernel or the parser.
        error: PemError,
    },
    /// A file is too long for a certificate or key.
    #[error("{} is longer than {LONGEST} bytes", .0.display())]
    TooLong(PathBuf),
    /// The file contains no certificate.
    #[error("{} holds no certificate (-----BEGIN CERTIFICATE-----)", .0.display())]
    Empty(PathBuf),
    /// Certificate and key do not belong together, or their kind is not supported.
    #[error("{} and {}: {error}", files.certificate.display(), files.key.display())]
    Pair {
        files: TlsFiles,
        /// The error of the TLS library.
        error: rustls::Error,
    },
}

/// The result of a check of the files.
#[derive(Debug)]
pub(super) enum Renewed {
    /// There was no check, or nothing changed.
    No,
    /// A new pair is in use.
    Yes,
    /// The new pair cannot be used. Reported once for each pair.
    Broken(TlsError),
}

/// The certificate in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InUse {
    /// File of the certificate.
    pub file: PathBuf,
    /// The parsed certificate; `None` if it cannot be parsed although the TLS library accepts it.
    pub certificate: Option<Certificate>,
    /// Whether the certificate is valid now.
    pub validity: Validity,
}

/// The configuration with a pair, and the pair's certificate; `None` if it cannot be parsed.
type Loaded = (Arc<ServerConfig>, Option<Certificate>);

/// Identifies a file's version. Kubernetes replaces files by switching a link to a directory above them.
type Mark = Option<(u64, u64, i64, i64, u64)>;

pub(super) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    certificate: Option<Certificate>,
    /// The state that was logged last; `None` before the first time.
    reported: Option<Validity>,
    /// The versions of the files that were last tried, whether they were usable or not.
    marks: [Mark; 2],
    checked: Instant,
}

// === impl Tls ===

impl Tls {
    pub(super) fn open(files: TlsFiles) -> Result<Tls, TlsError> {
        // Taken before the files are read, so that a later change is read again.
        let marks = files.marks();
        let (config, certificate) = files.load()?;
        let current = Current { config, certificate, reported: None, marks, checked: Instant::now() };
        Ok(Tls { files, current: Mutex::new(current) })
    }

    /// The certificate in use, if it is new or its validity has begun or ended. It is used in any case:
    /// clients have their own clocks, and this node's may be wrong.
    pub(super) fn change_of_validity(&self, now: SystemTime) -> Option<InUse> {
        let mut current = lock(&self.current);
        let validity = current.certificate.as_ref().map_or(Validity::Valid, |one| one.validity(now));
        if current.reported.replace(validity) == Some(validity) {
            return None;
        }
        let (file, certificate) = (self.files.certificate.clone(), current.certificate.clone());
        Some(InUse { file, certificate, validity })
    }

    /// The path and the content of the certificate.
    pub(super) fn certificate(&self) -> (PathBuf, Option<Certificate>) {
        let current = lock(&self.current);
        (self.files.certificate.clone(), current.certificate.clone())
    }

    /// The TLS server for one client, with the newest valid pair.
    pub(super) fn acceptor(&self) -> (TlsAcceptor, Renewed) {
        let mut current = lock(&self.current);
        let renewed = if current.checked.elapsed() >= PAUSE { self.renew(&mut current) } else { Renewed::No };
        (TlsAcceptor::from(Arc::clone(&current.config)), renewed)
    }

    fn renew(&self, current: &mut Current) -> Renewed {
        self.renew_with(current, TlsFiles::load)
    }

    /// Renews the pair with what `load` makes of the files, which may be replaced meanwhile.
    fn renew_with(
        &self,
        current: &mut Current,
        mut load: impl FnMut(&TlsFiles) -> Result<Loaded, TlsError>,
    ) -> Renewed {
        current.checked = Instant::now();
        let marks = self.files.marks();
        if marks == current.marks {
            return Renewed::No;
        }
        current.marks = marks;
        for _ in 0..TRIES {
            match load(&self.files) {
                Ok((config, certificate)) => {
                    (current.config, current.certificate, current.reported) = (config, certificate, None);
                    return Renewed::Yes;
                }
                Err(error) => {
                    let marks = self.files.marks();
                    if marks == current.marks {
                        return Renewed::Broken(error);
                    }
                    // The pair was replaced while it was read.
                    current.marks = marks;
                }
            }
        }
        // The files keep changing; the next check follows soon.
        current.marks = [None; 2];
        Renewed::No
    }
}

impl TlsFiles {
    fn marks(&self) -> [Mark; 2] {
        let mark = |path: &Path| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
        };
        [mark(&self.certificate), mark(&self.key)]
    }

    fn load(&self) -> Result<Loaded, TlsError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| TlsError::Read { path, error }
        };
        let chain = CertificateDer::pem_slice_iter(&read(&self.certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed(&self.certificate))?;
        let Some(own) = chain.first() else {
            return Err(TlsError::Empty(self.certificate.clone()));
        };
        let certificate = Certificate::parse(own);
        let key = PrivateKeyDer::from_pem_slice(&read(&self.key)?).map_err(failed(&self.key))?;
        let pair = |error| TlsError::Pair { files: self.clone(), error };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok((Arc::new(config), certificate))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |error| TlsError::Read { path: path.to_owned(), error: PemError::Io(error) };
    let mut bytes = Vec::new();
    // Does not wait if a pipe has taken the file's place, because all clients would wait for this.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "is not a regular file")));
    }
    file.take(LONGEST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LONGEST {
        return Err(TlsError::TooLong(path.to_owned()));
    }
    Ok(bytes)
}

/// The alert of a client that closed the connection because it does not accept the certificate.
pub(super) fn refusal(error: &io::Error) -> Option<AlertDescription> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::AlertReceived(alert)) = error.downcast_ref() {
            let is_refusal = matches!(
                alert,
                AlertDescription::BadCertificate
                    | AlertDescription::UnsupportedCertificate
                    | AlertDescription::CertificateRevoked
                    | AlertDescription::CertificateExpired
                    | AlertDescription::CertificateUnknown
                    | AlertDescription::UnknownCA
            );
            return is_refusal.then_some(*alert);
        }
        // The source of an io::Error is that of the error it wraps.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// Replaces both files, each by another one.
    fn put(files: &TlsFiles, certificate: &str, key: &str) {
        for (path, text) in [(&files.certificate, certificate), (&files.key, key)] {
            let new = path.with_extension("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, path).unwrap();
        }
    }

    /// A mixture of two pairs was read because the files were replaced in between.
    #[test]
    fn a_pair_that_is_swapped_while_it_is_read_is_not_broken() {
        let pair = || {
            let made = rcgen::generate_simple_self_signed(["node.test".to_owned()]).unwrap();
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        let (first, second, third) = (pair(), pair(), pair());
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let files = TlsFiles { certificate: path("tls.crt"), key: path("tls.key") };
        put(&files, &first.0, &first.1);
        let tls = Tls::open(files.clone()).unwrap();

        put(&files, &first.0, &second.1);
        let mut results = Vec::new();
        let renewed = tls.renew_with(&mut lock(&tls.current), |files| {
            let loaded = files.load();
            results.push(loaded.is_ok());
            if results.len() == 1 {
                put(files, &third.0, &third.1);
            }
            loaded
        });
        assert!(matches!(renewed, Renewed::Yes), "{renewed:?}");
        assert_eq!(results, [false, true]);

        // A pair that stays as it is has no such excuse, and is reported once.
        put(&files, &first.0, &second.1);
        let renewed = tls.renew(&mut lock(&tls.current));
        assert!(matches!(renewed, Renewed::Broken(TlsError::Pair { .. })), "{renewed:?}");
        assert!(matches!(tls.renew(&mut lock(&tls.current)), Renewed::No));
    }

    /// Without a writer, opening a pipe waits for one; a renewal is read while a client connects.
    #[test]
    fn a_pipe_in_place_of_the_certificate_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tls.crt");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let (done, waits) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(read(&path).map_err(|error| error.to_string())));
        let read = waits.recv_timeout(Duration::from_secs(60)).unwrap();
        let error = read.unwrap_err();
        assert!(error.contains("tls.crt") && error.ends_with("is not a regular file"), "{error}");
    }
}
