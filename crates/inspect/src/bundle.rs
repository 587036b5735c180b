//! OCI bundles: a runtime's instructions for a container, on disk before the container exists.

use std::path::PathBuf;

use usernsd_domain::container::{Container, CriId};
use usernsd_peers::oci::{
    OciError, bundle_size, described_size, identity_of, read_bundle, read_document, recorded_pid,
};

/// The directories in which the runtimes of this node keep their bundles.
pub struct Bundles {
    places: Places,
}

type Places = Box<dyn Fn(&CriId) -> Vec<PathBuf> + Send + Sync>;

/// A bundle's specification.
#[derive(Debug)]
pub struct BundleSpec {
    /// The container, with its init process once the OCI runtime has recorded its PID. Its annotations are
    /// the specification's.
    pub container: Container,
    /// Whether it is a pod's sandbox, not a container.
    pub sandbox: bool,
}

// === impl Bundles ===

impl Bundles {
    /// `places` names the directories in which the bundle of a container may be.
    #[must_use]
    pub fn new(places: impl Fn(&CriId) -> Vec<PathBuf> + Send + Sync + 'static) -> Bundles {
        Bundles { places: Box::new(places) }
    }

    /// Reads the bundle of a container; `None` if it has none.
    ///
    /// # Errors
    /// The bundle exists and cannot be read.
    pub fn find(&self, id: &CriId) -> Result<Option<BundleSpec>, OciError> {
        for place in (self.places)(id) {
            if let Some(spec) = read_bundle(&place)? {
                let sandbox = identity_of(&spec.annotations, &spec.cgroups_path).sandbox;
                let container = spec.into_container(id.clone(), recorded_pid(&place));
                return Ok(Some(BundleSpec { container, sandbox }));
            }
        }
        Ok(None)
    }

    /// The size in bytes of the file with a container's specification; `None` if it has none.
    #[must_use]
    pub fn size(&self, id: &CriId) -> Option<u64> {
        (self.places)(id).iter().find_map(|place| bundle_size(place))
    }

    /// The approximate size of the container's description over NRI, in bytes; `None` if it is unknown.
    #[must_use]
    pub fn described_size(&self, id: &CriId) -> Option<u64> {
        let document = (self.places)(id).iter().find_map(|place| read_document(place).ok().flatten())?;
        described_size(&document).ok()
    }
}

impl std::fmt::Debug for Bundles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bundles").finish_non_exhaustive()
    }
}
