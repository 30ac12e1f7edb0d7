//! What a decision rests on beside the customer's words: enough to find out later why it would come out differently.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::ticket::ExpectedTime;

/// Recorded with every decision. Digests are hexadecimal; equal ones mean equal inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Basis {
    /// The customer's last message that was read.
    pub message: Uuid,
    /// Of the program, with a digest of the code that answers.
    pub version: String,
    /// Digest of the policy that held for the queue.
    pub policy: String,
    /// Digest of the other settings that bear on an answer.
    pub settings: String,
    /// Digest of the triage heads.
    pub triage: String,
    /// Digest of the weights that judge the fit of evidence; empty where they were not used, and in older records.
    #[serde(default)]
    pub relevance: String,
    /// The same of those that tell what serves a reply.
    #[serde(default)]
    pub reranker: String,
    /// Name of the embedding model; also the generation of the index.
    pub embedder: String,
    /// Name of the language model, where one was there.
    pub generator: Option<String>,
    /// Digest of prompts and examples.
    pub prompts: String,
    /// What the memory says of requests without close neighbours.
    pub usual_time: Option<ExpectedTime>,
    /// Number of the newest memory item, which grows with every new one.
    pub memory: i64,
    /// What was found, best first.
    pub evidence: Vec<BasisItem>,
}

/// A memory item as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BasisItem {
    pub id: String,
    /// SHA-256 of its content.
    pub content_hash: String,
}

impl Basis {
    /// What is different in `now`, a sentence each.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let none = || "none".to_owned();
        let generator = |basis: &Self| basis.generator.clone().unwrap_or_else(none);
        let named = [
            ("program", self.version.clone(), now.version.clone()),
            ("policy", self.policy.clone(), now.policy.clone()),
            ("settings", self.settings.clone(), now.settings.clone()),
            ("triage model", self.triage.clone(), now.triage.clone()),
            ("relevance weights", self.relevance.clone(), now.relevance.clone()),
            ("reranker", self.reranker.clone(), now.reranker.clone()),
            ("embedding model", self.embedder.clone(), now.embedder.clone()),
            ("language model", generator(self), generator(now)),
            ("prompts", self.prompts.clone(), now.prompts.clone()),
            ("usual time", hours(self.usual_time), hours(now.usual_time)),
            ("newest memory item", self.memory.to_string(), now.memory.to_string()),
        ];
        let differing = named.into_iter().filter(|(_, then, now)| then != now);
        let mut differences: Vec<String> =
            differing.map(|(what, then, now)| format!("{what}: then {then}, now {now}")).collect();
        differences.extend(self.evidence_differences(now));
        differences
    }

    fn evidence_differences(&self, now: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for then in &self.evidence {
            match now.evidence.iter().find(|item| item.id == then.id) {
                None => differences.push(format!("evidence {}: found then, not now", then.id)),
                Some(item) if item.content_hash != then.content_hash => differences.push(format!(
                    "evidence {}: its content has changed from {} to {}",
                    then.id, then.content_hash, item.content_hash
                )),
                Some(_) => {}
            }
        }
        let new = now.evidence.iter().filter(|item| self.evidence.iter().all(|then| then.id != item.id));
        differences.extend(new.map(|item| format!("evidence {}: found now, not then", item.id)));
        let ids = |basis: &Self| basis.evidence.iter().map(|item| item.id.clone()).collect::<Vec<_>>();
        if differences.is_empty() && ids(self) != ids(now) {
            differences.push("evidence: the same items in another order".to_owned());
        }
        differences
    }
}

fn hours(time: Option<ExpectedTime>) -> String {
    time.map_or_else(
        || "unknown".to_owned(),
        |time| format!("{} h, nine of ten in {} h", time.median_hours, time.p90_hours),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basis() -> Basis {
        let item = |id: &str| BasisItem { id: id.to_owned(), content_hash: format!("hash of {id}") };
        Basis {
            message: Uuid::nil(),
            version: "1".to_owned(),
            policy: "p".to_owned(),
            settings: "s".to_owned(),
            triage: "t".to_owned(),
            relevance: "w".to_owned(),
            reranker: "k".to_owned(),
            embedder: "e".to_owned(),
            generator: None,
            prompts: "r".to_owned(),
            usual_time: None,
            memory: 7,
            evidence: vec![item("a"), item("b")],
        }
    }

    #[test]
    fn what_differs_is_named_and_nothing_else() {
        let then = basis();
        assert_eq!(then.differences(&then.clone()), [""; 0]);
        let mut now = basis();
        now.policy = "q".to_owned();
        now.generator = Some("g".to_owned());
        now.evidence[0].content_hash = "another".to_owned();
        now.evidence[1].id = "c".to_owned();
        let expected = [
            "policy: then p, now q",
            "language model: then none, now g",
            "evidence a: its content has changed from hash of a to another",
            "evidence b: found then, not now",
            "evidence c: found now, not then",
        ];
        assert_eq!(then.differences(&now), expected);
        now = basis();
        now.evidence.reverse();
        assert_eq!(then.differences(&now), ["evidence: the same items in another order"]);
    }
}
