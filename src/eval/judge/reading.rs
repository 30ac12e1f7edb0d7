//! Verdicts out of a model's answer, whatever stands around them. In doubt there is none.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{BEST, Criterion};

/// Which of two replies was preferred, by where it stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    First,
    Second,
    Neither,
}

/// A score for every criterion, in their order.
pub(super) fn scores(answer: &str, criteria: &[Criterion]) -> Result<Vec<u8>, String> {
    only_one(answer, |object| criteria.iter().map(|criterion| score(object, &criterion.name)).collect())
}

/// The preferred place.
pub(crate) fn place(answer: &str) -> Result<Place, String> {
    only_one(answer, |object| match object.get("better").and_then(Value::as_str).map(str::trim) {
        Some("first") => Ok(Place::First),
        Some("second") => Ok(Place::Second),
        Some("tie") => Ok(Place::Neither),
        Some(other) => Err(format!("`better` is neither first, second nor tie: {other:.40}")),
        None => Err("`better` is missing".to_owned()),
    })
}

fn score(object: &Map<String, Value>, name: &str) -> Result<u8, String> {
    let value = object.get(name).ok_or_else(|| format!("the score of `{name}` is missing"))?;
    let value = value.get("score").unwrap_or(value);
    let number = match value {
        Value::Number(number) => number.as_f64(),
        // `4/5` means 4.
        Value::String(text) => text.split('/').next().and_then(|number| number.trim().parse().ok()),
        _ => None,
    };
    let valid = (1..=BEST).find(|score| number == Some(f64::from(*score)));
    valid.ok_or_else(|| {
        let shown: String = value.to_string().chars().take(40).collect();
        format!("the score of `{name}` is no whole number from 1 to {BEST}: {shown}")
    })
}

/// What all readable objects of an answer say. Where two say different things (a judge that quotes a message with a
/// verdict in it, or that corrects itself), none of them counts.
fn only_one<T: Ord>(answer: &str, read: impl Fn(&Map<String, Value>) -> Result<T, String>) -> Result<T, String> {
    let answer = answer.rsplit("</think>").next().unwrap_or(answer);
    let objects = objects(answer);
    let Some(first) = objects.first() else {
        let shown: String = answer.trim().chars().take(60).collect();
        return Err(format!("no JSON in the answer: `{shown}`"));
    };
    // Some wrap the verdict: {"scores": {..}}.
    let inner = objects.iter().flat_map(|object| object.values().filter_map(Value::as_object));
    let mut said: BTreeSet<T> = objects.iter().chain(inner).filter_map(|object| read(object).ok()).collect();
    match (said.pop_first(), said.is_empty()) {
        (Some(verdict), true) => Ok(verdict),
        (Some(_), false) => Err("several verdicts in one answer".to_owned()),
        (None, _) => read(first),
    }
}

/// The outermost JSON objects of a text.
fn objects(text: &str) -> Vec<Map<String, Value>> {
    let mut objects = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (_, from) = rest.split_at(at);
        let mut values = serde_json::Deserializer::from_str(from).into_iter::<Map<String, Value>>();
        let length = match values.next() {
            Some(Ok(object)) => {
                objects.push(object);
                values.byte_offset()
            }
            _ => 1,
        };
        rest = from.get(length..).unwrap_or_default();
    }
    objects
}
