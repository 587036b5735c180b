//! Reads a list of pods as it arrives: only one pod is in memory as a whole; of earlier ones only the kept
//! fields.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use http_body_util::BodyExt;
use hyper::body::{Buf, Bytes};
use kube::client::Body;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{KubeError, MAX_POD, Pod, PodList, brief};
use usernsd_domain::chain::chain;
use usernsd_domain::user_mapping::PodSpec;

/// The longest list, in bytes. A node has some hundred pods that have not ended, of at most a megabyte each;
/// the text of the list does not stay in memory.
const MAX_LIST: usize = 1 << 30;
/// The most pods that are kept: more than a node has.
const MAX_PODS: usize = 2500;
/// Chunks of the body that wait to be parsed.
const WAITING: usize = 4;

/// Reads a list from an answer's body.
pub(super) async fn read(mut body: Body) -> Result<PodList, KubeError> {
    let (parts, received) = mpsc::channel(WAITING);
    let parsed = spawn_blocking(move || parse(received));
    let mut left = MAX_LIST;
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|error| KubeError::Away(brief(&error)))?.into_data() else { continue };
        left = left.checked_sub(part.len()).ok_or(KubeError::TooLong(MAX_LIST))?;
        // The parser stops early if the answer is no list.
        if parts.send(part).await.is_err() {
            break;
        }
    }
    drop(parts);
    parsed.await.unwrap_or_else(|error| Err(KubeError::Malformed(chain(&error))))
}

fn parse(received: mpsc::Receiver<Bytes>) -> Result<PodList, KubeError> {
    let budget = Rc::new(Cell::new(MAX_POD));
    let parts = Parts { received, part: Bytes::new(), budget: Rc::clone(&budget) };
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(parts));
    let list = List(&budget).deserialize(&mut deserializer);
    list.and_then(|list| deserializer.end().map(|()| list)).map_err(|error| {
        if error.is_io() { KubeError::TooLong(MAX_POD) } else { KubeError::Malformed(chain(&error)) }
    })
}

/// The received chunks as a reader, up to a budget that is refilled after each pod.
struct Parts {
    received: mpsc::Receiver<Bytes>,
    part: Bytes,
    budget: Rc<Cell<usize>>,
}

impl Read for Parts {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.received.blocking_recv() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let count = self.part.len().min(into.len());
        let left = self.budget.get().checked_sub(count).ok_or_else(|| io::Error::other("too long"))?;
        self.budget.set(left);
        self.part.copy_to_slice(into.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    resource_version: String,
}

/// Parses the list. Holds the reader's budget.
struct List<'a>(&'a Cell<usize>);

/// Parses the list's pods.
struct Items<'a>(&'a Cell<usize>, &'a mut PodList);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = PodList;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<PodList, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = PodList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pods")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PodList, A::Error> {
        let (mut list, mut version, mut has_items) = (PodList::default(), None, false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "metadata" => version = Some(map.next_value::<ListMeta>()?.resource_version),
                "items" => {
                    map.next_value_seed(Items(self.0, &mut list))?;
                    has_items = true;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let missing = serde::de::Error::missing_field;
        if !has_items {
            return Err(missing("items"));
        }
        list.version = version.ok_or_else(|| missing("metadata"))?;
        Ok(list)
    }
}

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pods")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Items(budget, list) = self;
        // An item that is no pod must not spoil the others.
        while let Some(item) = items.next_element::<Box<RawValue>>()? {
            budget.set(MAX_POD);
            match serde_json::from_str::<Pod>(item.get()) {
                Err(_) => list.malformed += 1,
                Ok(pod) if pod.has_ended() || list.pods.len() >= MAX_PODS => {}
                Ok(pod) => list.pods.push(PodSpec::from(pod)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Parses a body that arrives in chunks of `size` bytes.
    fn parsed(body: &str, size: usize) -> Result<PodList, KubeError> {
        let parts: Vec<Bytes> = body.as_bytes().chunks(size).map(Bytes::copy_from_slice).collect();
        let (sender, received) = mpsc::channel(parts.len().max(1));
        parts.into_iter().for_each(|part| sender.try_send(part).unwrap());
        drop(sender);
        parse(received)
    }

    fn pod(name: &str, phase: &str, padding: usize) -> Value {
        json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": "4", "annotations":
            {"x": "y".repeat(padding)}}, "status": {"phase": phase}})
    }

    #[test]
    fn pods_are_read_one_after_the_other() {
        let items =
            json!([pod("a", "Running", 0), pod("b", "Failed", 0), {"metadata": 5}, pod("c", "Pending", 9)]);
        let text = json!({"kind": "PodList", "items": items, "metadata": {"resourceVersion": "9", "x": [1]}});
        for size in [1, 7, 100_000] {
            let list = parsed(&text.to_string(), size).unwrap();
            let names: Vec<&str> = list.pods.iter().map(|pod| pod.name.as_str()).collect();
            assert_eq!((names, list.version.as_str(), list.malformed), (vec!["a", "c"], "9", 1));
        }
        assert!(parsed(r#"{"metadata":{"resourceVersion":"1"},"items":null}"#, 9).unwrap().pods.is_empty());
    }

    #[test]
    fn a_list_may_be_longer_than_any_pod_and_no_pod_longer_than_its_limit() {
        let list = |count: usize, padding| {
            let items: Vec<Value> =
                (0..count).map(|number| pod(&number.to_string(), "Running", padding)).collect();
            json!({"metadata": {"resourceVersion": "9"}, "items": items}).to_string()
        };
        let text = list(12, MAX_POD / 10);
        assert!(text.len() > MAX_POD);
        assert_eq!(parsed(&text, 1 << 16).unwrap().pods.len(), 12);
        assert_eq!(parsed(&list(1, MAX_POD), 1 << 16), Err(KubeError::TooLong(MAX_POD)));
    }

    #[test]
    fn a_body_that_is_no_list_is_malformed() {
        for text in [
            "",
            "[]",
            "<html>",
            r#"{"items":[]}"#,
            r#"{"metadata":{"resourceVersion":"1"}}"#,
            r#"{"items":[{"#,
        ] {
            assert!(matches!(parsed(text, 100), Err(KubeError::Malformed(_))), "{text}");
        }
    }
}
