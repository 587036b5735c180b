//! The runtime's answers about pods, remembered for the guard and for the next inspection: the parts that cannot
//! change while the pod exists. Bounded, because pods are others' to create.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use usernsd_domain::adjust;
use usernsd_domain::container::UserNamespaceRequest;
use usernsd_domain::idmap::HostId;
use usernsd_domain::lock::lock;

/// The most pods whose facts are remembered: several times what a kubelet runs on a node. Beyond it, a new
/// pod replaces an arbitrary one; a pod that is forgotten is asked about again.
const NOTED_PODS: usize = 4096;
/// The most annotations that are remembered of a pod: more than its containers need if each has one.
const MAX_ANNOTATIONS: usize = 32;
/// Size limit of all remembered annotations, in bytes. Beyond it arbitrary ones are forgotten, as beyond
/// [`NOTED_PODS`].
const NOTED_BYTES: usize = 4 << 20;

/// The runtime's answer about a pod: only the parts that cannot change later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodAnswer {
    /// The user namespace that the pod requested; `None` if the runtime does not report it.
    pub request: Option<UserNamespaceRequest>,
    /// The host ID of the pod's root according to the kubelet's mapping.
    pub root: Option<HostId>,
}

/// The runtime's answers about pods, by sandbox ID. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct PodAnswers {
    facts: Notes<PodAnswer>,
    /// The annotations of pods with which they ask for something.
    annotations: Arc<Mutex<NotedAnnotations>>,
}

/// Annotations of pods, by sandbox ID.
#[derive(Debug, Default)]
struct NotedAnnotations {
    noted: HashMap<String, BTreeMap<String, String>>,
    /// Their size together, in bytes.
    bytes: usize,
}

type Notes<T> = Arc<Mutex<HashMap<String, T>>>;

// === impl PodAnswers ===

impl PodAnswers {
    /// Stores the runtime's answer about a pod.
    pub fn note(&self, sandbox_id: &str, facts: PodAnswer) {
        note(&self.facts, sandbox_id, facts);
    }

    /// Stores those of a pod's annotations with which it asks for something.
    pub fn note_annotations(&self, sandbox_id: &str, annotations: &BTreeMap<String, String>) {
        let asks = annotations.iter().filter(|(key, _)| adjust::asks_by(key)).take(MAX_ANNOTATIONS);
        let asks = asks.map(|(key, value)| (key.clone(), value.chars().take(64).collect()));
        let asks: BTreeMap<String, String> = asks.collect();
        lock(&self.annotations).put(sandbox_id, asks);
    }

    /// The remembered answer about a pod.
    #[must_use]
    pub fn get(&self, sandbox_id: &str) -> Option<PodAnswer> {
        lock(&self.facts).get(sandbox_id).cloned()
    }

    /// The annotations with which a pod asks for something; `None` if they are not known.
    #[must_use]
    pub fn annotations(&self, sandbox_id: &str) -> Option<BTreeMap<String, String>> {
        lock(&self.annotations).noted.get(sandbox_id).cloned()
    }

    /// Whether the runtime's answer about a pod is remembered.
    #[must_use]
    pub fn has(&self, sandbox_id: &str) -> bool {
        lock(&self.facts).contains_key(sandbox_id)
    }

    /// Whether a pod's annotations are remembered.
    #[must_use]
    pub fn has_annotations(&self, sandbox_id: &str) -> bool {
        lock(&self.annotations).noted.contains_key(sandbox_id)
    }

    /// The sandboxes of the pods that are remembered.
    #[must_use]
    pub fn noted(&self) -> Vec<String> {
        let mut noted: Vec<String> = lock(&self.facts).keys().cloned().collect();
        noted.extend(lock(&self.annotations).noted.keys().cloned());
        noted.sort_unstable();
        noted.dedup();
        noted
    }

    /// Forgets a pod, and returns its facts.
    pub fn forget(&self, sandbox_id: &str) -> Option<PodAnswer> {
        lock(&self.annotations).forget(sandbox_id);
        lock(&self.facts).remove(sandbox_id)
    }
}

// === impl NotedAnnotations ===

impl NotedAnnotations {
    /// Stores a pod's annotations. If there are too many, arbitrary others are forgotten.
    fn put(&mut self, sandbox_id: &str, annotations: BTreeMap<String, String>) {
        self.forget(sandbox_id);
        let bytes = weight(&annotations);
        while (self.bytes + bytes > NOTED_BYTES || self.noted.len() >= NOTED_PODS)
            && let Some(any) = self.noted.keys().next().cloned()
        {
            self.forget(&any);
        }
        self.bytes += bytes;
        self.noted.insert(sandbox_id.to_owned(), annotations);
    }

    fn forget(&mut self, sandbox_id: &str) {
        let before = self.noted.remove(sandbox_id);
        self.bytes -= before.as_ref().map_or(0, weight);
    }
}

fn weight(annotations: &BTreeMap<String, String>) -> usize {
    annotations.iter().map(|(key, value)| key.len() + value.len()).sum()
}

fn note<T>(notes: &Notes<T>, sandbox_id: &str, value: T) {
    let mut notes = lock(notes);
    if notes.len() >= NOTED_PODS
        && !notes.contains_key(sandbox_id)
        && let Some(any) = notes.keys().next().cloned()
    {
        notes.remove(&any);
    }
    notes.insert(sandbox_id.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noted_annotations_are_bounded() {
        let pods = PodAnswers::default();
        let asks = |container: usize| {
            (format!("cgroup.usernsd.io/container.{container:0>200}"), "writable".to_owned())
        };
        let asks: BTreeMap<String, String> = (0..MAX_ANNOTATIONS).map(asks).collect();
        for number in 0..1000 {
            pods.note_annotations(&number.to_string(), &asks);
        }
        let noted = pods.noted();
        let bytes =
            noted.iter().filter_map(|id| pods.annotations(id)).map(|asks| weight(&asks)).sum::<usize>();
        assert!(pods.has_annotations("999") && bytes > NOTED_BYTES / 2 && bytes <= NOTED_BYTES, "{bytes}");
        assert_eq!(lock(&pods.annotations).bytes, bytes);
        // One that is noted again displaces no other.
        pods.note_annotations("999", &asks);
        assert_eq!((pods.noted().len(), lock(&pods.annotations).bytes), (noted.len(), bytes));
        for id in &noted {
            pods.forget(id);
        }
        assert_eq!((pods.noted().len(), lock(&pods.annotations).bytes), (0, 0));
    }

    #[test]
    fn notes_of_pods_are_bounded() {
        let (pods, facts) = (PodAnswers::default(), PodAnswer { request: None, root: None });
        for number in 0..NOTED_PODS + 10 {
            pods.note(&number.to_string(), facts.clone());
        }
        assert_eq!(pods.noted().len(), NOTED_PODS);
        let last = (NOTED_PODS + 9).to_string();
        assert!(pods.has(&last));
        // Storing a pod that is stored already displaces no other.
        pods.note(&last, PodAnswer { request: Some(UserNamespaceRequest::Own), root: None });
        assert_eq!(pods.noted().len(), NOTED_PODS);
        assert_eq!(pods.forget(&last).unwrap().request, Some(UserNamespaceRequest::Own));
        assert!(!pods.has(&last));
    }
}
