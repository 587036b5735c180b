//! Reads a list of pods as it arrives: only the fields that are kept are ever in memory, so neither a pod nor
//! a list is too long. How long the whole takes is bounded by the request's time limit.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use http_body_util::BodyExt;
use hyper::body::{Buf, Bytes};
use kube::client::Body;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{Item, KubeError, PodList, brief};
use usernsd_domain::chain::chain;
use usernsd_domain::user_mapping::PodSpec;

/// The longest object of a list, in bytes. An API server sends no longer one: it accepts objects of up to 3 MiB
/// (apiserver, `MaxRequestBodyBytes`) and writes each byte as six at most.
const ENDLESS: usize = 64 << 20;
/// The most pods that are kept: more than a node has.
const MAX_PODS: usize = 2500;
/// Chunks of the body that wait to be parsed.
const WAITING: usize = 4;

/// Reads a list from an answer's body.
pub(super) async fn read(mut body: Body) -> Result<PodList, KubeError> {
    let (parts, received) = mpsc::channel(WAITING);
    let parsed = spawn_blocking(move || parse(received));
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|error| KubeError::Away(brief(&error)))?.into_data() else { continue };
        // The parser stops early if the answer is not a list.
        if parts.send(part).await.is_err() {
            break;
        }
    }
    drop(parts);
    parsed.await.unwrap_or_else(|error| Err(KubeError::Malformed(chain(&error))))
}

fn parse(received: mpsc::Receiver<Bytes>) -> Result<PodList, KubeError> {
    let budget = Rc::new(Cell::new(ENDLESS));
    let parts = Parts { received, part: Bytes::new(), budget: Rc::clone(&budget) };
    let mut deserializer = serde_json::Deserializer::from_reader(BufReader::new(parts));
    let list = List(&budget).deserialize(&mut deserializer);
    list.and_then(|list| deserializer.end().map(|()| list)).map_err(|error| {
        if error.is_io() { KubeError::TooLong(ENDLESS) } else { KubeError::Malformed(chain(&error)) }
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
        // An item that is not a pod must not spoil the others.
        while let Some(Item(pod)) = items.next_element()? {
            budget.set(ENDLESS);
            match pod {
                None => list.malformed += 1,
                Some(pod) if pod.has_ended() || list.pods.len() >= MAX_PODS => {}
                Some(pod) => list.pods.push(PodSpec::from(pod)),
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
    fn values_of_another_type_spoil_one_pod() {
        for odd in [
            r#"{"metadata":{"name":{"a":[1]},"namespace":"n","uid":"u","resourceVersion":"4"}}"#,
            r#"{"metadata":{"name":"x","namespace":"n","uid":"u"}}"#,
            r#"{"metadata":{"name":"x","namespace":"n","uid":"u","resourceVersion":"4"},"spec":{"containers":"y"}}"#,
            r#"{"metadata":{"name":"x","namespace":"n","uid":"u","resourceVersion":"4"},"spec":{"hostUsers":1.5}}"#,
            r#"{"metadata":{"name":"x","namespace":"n","uid":"u","resourceVersion":"4"},"spec":[{"a":true}]}"#,
            r#""x""#,
            "7",
            "[[]]",
        ] {
            let text = format!(
                r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{},{odd},{}]}}"#,
                pod("a", "Running", 0),
                pod("b", "Running", 0)
            );
            let list = parsed(&text, 50).unwrap();
            let names: Vec<&str> = list.pods.iter().map(|pod| pod.name.as_str()).collect();
            assert_eq!((names, list.malformed), (vec!["a", "b"], 1), "{odd}");
        }
        let null = r#"{"metadata":{"name":"x","namespace":"n","uid":"u","resourceVersion":"4","annotations":null},
            "spec":{"containers":null,"securityContext":null}}"#;
        let list =
            parsed(&format!(r#"{{"metadata":{{"resourceVersion":"9"}},"items":[{null}]}}"#), 50).unwrap();
        assert_eq!((list.pods.len(), list.malformed), (1, 0));
    }

    #[test]
    fn a_pod_of_any_length_is_read_and_an_endless_answer_is_not() {
        // Annotations that are not read are not kept, however long they are.
        let long = |padding| json!({"metadata": {"resourceVersion": "9"}, "items": [pod("a", "Running", padding), pod("b", "Running", 0)]});
        let list = parsed(&long(20 << 20).to_string(), 1 << 16).unwrap();
        assert_eq!((list.pods.len(), list.malformed), (2, 0));
        assert_eq!(parsed(&long(ENDLESS).to_string(), 1 << 16), Err(KubeError::TooLong(ENDLESS)));
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
