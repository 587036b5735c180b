//! Facts that are read only for a scrape or a state document, on the reader's thread, because they change
//! without an event. All other facts are in the records.

mod cgroups;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::debug;

use usernsd_domain::accounts::Accounts;
use usernsd_domain::chain::chain;
use usernsd_domain::lock::lock;
use usernsd_domain::node::{Collected, Collector, CriRuntime, NodeKernel, Snapshot, Survey, SurveyedPod};
use usernsd_domain::paths::{GROUP, IMAGE_GROUP, IMAGE_PASSWD, KUBELETS, PASSWD, PODS, SUBGID, SUBUID};
use usernsd_domain::pod::Pod;
use usernsd_domain::provision::HostPath;
use usernsd_domain::record::Record;
use usernsd_domain::space::{HostIds, PodIds, Space};
use usernsd_domain::subid::SubidFile;
use usernsd_linux::cgroupfs::CgroupError;
use usernsd_linux::host::{HostError, HostRoot};
use usernsd_linux::proc::Proc;

use cgroups::PodCgroups;

/// How long a survey is reused for readers of the same containers: the node is surveyed at most once a
/// second, whatever their number.
const SHARED: Duration = Duration::from_secs(1);
/// How long a count of user namespaces is used, because user namespaces that belong to no container change
/// too.
const RECOUNT: Duration = Duration::from_secs(60);
/// The directory of CRI-O's configuration.
const CRIO: HostPath = HostPath::fixed("etc/crio");

/// Reads the facts of a survey.
#[derive(Debug)]
pub struct Surveyor {
    host: HostRoot,
    /// Directories in which kubelets that have been started keep their pods.
    kubelets: Vec<HostPath>,
    cgroups: PodCgroups,
    proc: Proc,
    namespaces: Arc<Mutex<Namespaces>>,
    last: Mutex<Option<CachedSurvey>>,
}

/// The last shared survey, and a fingerprint of its containers.
#[derive(Debug)]
struct CachedSurvey {
    at: Instant,
    of: Vec<Arc<Record>>,
    survey: Survey,
}

/// The last count of user namespaces. With 1,000 processes, counting takes as long as the rest of the
/// survey, so a separate thread counts, and only now and then.
#[derive(Debug, Default)]
struct Namespaces {
    counted: Option<Counted>,
    /// Whether a thread is counting.
    counting: bool,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    namespaces: u64,
    /// Fingerprint of the containers at the time, see [`fingerprint`].
    of: u64,
    at: Instant,
}

/// Why there is no surveyor.
#[derive(Debug, Error)]
pub enum SurveyorError {
    /// The host's root cannot be opened.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The cgroup root cannot be opened.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
}

/// Why the node's files on host IDs cannot be used.
#[derive(Debug, Error)]
pub enum ReadIdsError {
    /// One of them cannot be read.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The directory is not the root directory of a node.
    #[error("there is no /etc/passwd below the host's root")]
    NoPasswd,
}

impl Surveyor {
    /// Opens the files below the host's root.
    ///
    /// # Errors
    /// See [`SurveyorError`].
    pub fn new(host_root: &Path) -> Result<Surveyor, SurveyorError> {
        Ok(Surveyor {
            host: HostRoot::open(host_root)?,
            kubelets: KUBELETS.iter().filter_map(|directory| directory.join(PODS).ok()).collect(),
            cgroups: PodCgroups::open(&host_root.join("sys/fs/cgroup"))?,
            proc: Proc::new(&host_root.join("proc")),
            namespaces: Arc::default(),
            last: Mutex::default(),
        })
    }

    /// Sets a kubelet's root directory (`--root-dir`), if it is not the default.
    #[must_use]
    pub fn with_kubelet(mut self, root_dir: Option<&HostPath>) -> Surveyor {
        self.kubelets.extend(root_dir.and_then(|path| path.join(PODS).ok()));
        self
    }

    /// The survey, or the last one if it is at most a second old and of the same containers. Concurrent
    /// callers wait for the same survey.
    #[must_use]
    pub fn shared(&self, snapshot: &Snapshot) -> Survey {
        // The value is replaced as a whole, so after a panic of another thread it is the one before.
        let mut last = lock(&self.last);
        let is_of = |last: &&CachedSurvey| {
            last.at.elapsed() < SHARED
                && last.of.len() == snapshot.containers.len()
                && last.of.iter().zip(&snapshot.containers).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if let Some(last) = last.as_ref().filter(is_of) {
            return last.survey.clone();
        }
        let survey = self.survey(snapshot);
        *last = Some(CachedSurvey {
            at: Instant::now(),
            of: snapshot.containers.clone(),
            survey: survey.clone(),
        });
        survey
    }

    /// Reads everything; takes some milliseconds with 500 containers.
    #[must_use]
    pub fn survey(&self, snapshot: &Snapshot) -> Survey {
        let mut collected = Vec::new();
        let pods = timed(&mut collected, Collector::Pods, || (Pod::of(&snapshot.containers), true));
        let cgroups = timed(&mut collected, Collector::Cgroup, || self.cgroups.of(&pods));
        let ids: Vec<PodIds> = pods.iter().map(Pod::ids).collect();
        let subid = timed(&mut collected, Collector::Subid, || {
            let read = self.host_ids_with(snapshot.runtime.as_ref());
            if let Err(error) = &read {
                debug!(error = %chain(&error), "the files on host IDs cannot be read");
            }
            let read = read.ok().map(|host| (Space::of(&host, &ids), host));
            let succeeded = read.is_some();
            (read, succeeded)
        });
        let (space, host_ids) = subid.unzip();
        let kernel = timed(&mut collected, Collector::Kernel, || {
            let kernel = self.kernel(snapshot);
            if let Err(error) = &kernel {
                debug!(error = %chain(&error), "the kernel cannot be asked");
            }
            let succeeded = kernel.is_ok();
            (kernel.ok(), succeeded)
        });
        let shared = space.as_ref().map(|space| space.shared.clone()).unwrap_or_default();
        let shared = shared.into_iter().chain(std::iter::repeat([0; 4]));
        let pods = pods.into_iter().zip(cgroups).zip(shared);
        Survey {
            pods: pods.map(|((pod, cgroup), shared)| SurveyedPod { pod, cgroup, shared }).collect(),
            host_ids,
            space,
            kernel,
            unified: self.cgroups.is_unified(),
            collected,
        }
    }

    /// The owners of host IDs according to the node's files. If no runtime answers, the existence of
    /// CRI-O's directory decides whether CRI-O's ranges are read.
    ///
    /// # Errors
    /// See [`ReadIdsError`].
    pub fn host_ids(&self) -> Result<HostIds, ReadIdsError> {
        self.host_ids_with(None)
    }

    fn host_ids_with(&self, runtime: Option<&CriRuntime>) -> Result<HostIds, ReadIdsError> {
        let read = |path: &HostPath| Ok::<_, ReadIdsError>(self.host.read(path)?.unwrap_or_default());
        let mut kubelet_is_present = false;
        for path in &self.kubelets {
            kubelet_is_present |= self.host.has(path)?;
        }
        let mut accounts = Accounts::default();
        accounts.add_users(&self.host.read(&PASSWD)?.ok_or(ReadIdsError::NoPasswd)?);
        accounts.add_groups(&read(&GROUP)?);
        accounts.add_users(&read(&IMAGE_PASSWD)?);
        accounts.add_groups(&read(&IMAGE_GROUP)?);
        Ok(HostIds {
            subuid: SubidFile::parse(&read(&SUBUID)?),
            subgid: SubidFile::parse(&read(&SUBGID)?),
            accounts,
            kubelet_is_present,
            crio_is_here: match runtime {
                Some(runtime) => runtime.name == "cri-o",
                None => self.host.has(&CRIO)?,
            },
        })
    }

    fn kernel(&self, snapshot: &Snapshot) -> io::Result<NodeKernel> {
        Ok(NodeKernel {
            release: self.proc.kernel_release()?,
            user_namespaces: self.user_namespaces(fingerprint(snapshot))?,
            max_user_namespaces: self.proc.max_user_namespaces()?,
        })
    }
}

impl Surveyor {
    /// The last count, or a new one if there is none yet.
    fn user_namespaces(&self, of: u64) -> io::Result<u64> {
        let mut namespaces = lock(&self.namespaces);
        let Some(last) = namespaces.counted else {
            let counted = Counted { namespaces: self.proc.user_namespaces()?, of, at: Instant::now() };
            namespaces.counted = Some(counted);
            return Ok(counted.namespaces);
        };
        let is_stale = last.of != of || last.at.elapsed() >= RECOUNT;
        if is_stale && !namespaces.counting {
            let (proc, shared) = (self.proc.clone(), Arc::clone(&self.namespaces));
            let count = move || {
                // The fingerprint is taken before counting, so that a change in the meantime makes the
                // count outdated.
                let counted = proc.user_namespaces();
                let mut namespaces = lock(&shared);
                namespaces.counting = false;
                // After a failure, the next caller counts by itself and gets the error.
                namespaces.counted =
                    counted.ok().map(|namespaces| Counted { namespaces, of, at: Instant::now() });
            };
            namespaces.counting = thread::Builder::new().name("namespaces".into()).spawn(count).is_ok();
        }
        Ok(last.namespaces)
    }
}

/// Changes with the containers: the kernel numbers cgroups upwards and never reuses a number.
fn fingerprint(snapshot: &Snapshot) -> u64 {
    let inodes = snapshot.containers.iter().filter_map(|record| record.inode);
    inodes.fold(snapshot.containers.len() as u64, |sum, inode| sum.rotate_left(7) ^ inode)
}

/// Runs one part of the survey and records its duration and result.
fn timed<T>(collected: &mut Vec<Collected>, collector: Collector, part: impl FnOnce() -> (T, bool)) -> T {
    let since = Instant::now();
    let (found, succeeded) = part();
    collected.push(Collected { collector, succeeded, took: since.elapsed() });
    found
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::SystemTime;

    use super::*;
    use usernsd_report::store::Store;

    #[test]
    fn a_survey_is_shared_while_the_containers_are_the_same() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc", "sys/fs/cgroup"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let users = |count: usize| {
            let lines = (0..count).map(|number| format!("u{number}:x:{number}:0::/:/bin/sh\n"));
            fs::write(root.path().join("etc/passwd"), lines.collect::<String>()).unwrap();
        };
        users(1);
        let surveyor = Surveyor::new(root.path()).unwrap();
        let store = Store::new(SystemTime::UNIX_EPOCH);
        let seen = |store: &Store| surveyor.shared(&store.snapshot()).host_ids;
        let first = seen(&store);
        assert!(first.is_some());
        users(2);
        // Within the second, unless this machine is slow: then there was another survey, and equality would
        // be wrong.
        let is_shared = (0..100).any(|_| {
            users(1);
            let one = seen(&store);
            users(2);
            seen(&store) == one
        });
        assert!(is_shared, "every reader makes the agent look");
        std::thread::sleep(SHARED);
        assert_ne!(seen(&store), first, "an old look is shown");
    }

    #[test]
    fn a_kubelet_is_found_where_it_lives() {
        for (made, named, is_present) in [
            ("var/lib/kubelet/pods", None, true),
            ("var/lib/k0s/kubelet/pods", None, true),
            ("var/snap/microk8s/common/var/lib/kubelet/pods", None, true),
            ("data/kubelet/pods", None, false),
            ("data/kubelet/pods", Some(HostPath::fixed("data/kubelet")), true),
            // The survey creates that directory too.
            ("var/lib/kubelet", None, false),
        ] {
            let root = tempfile::tempdir().unwrap();
            for directory in ["etc", "sys/fs/cgroup", made] {
                fs::create_dir_all(root.path().join(directory)).unwrap();
            }
            fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
            let surveyor = Surveyor::new(root.path()).unwrap().with_kubelet(named.as_ref());
            assert_eq!(surveyor.host_ids().unwrap().kubelet_is_present, is_present, "{made} {named:?}");
        }
    }
}
