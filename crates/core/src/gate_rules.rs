//! What a model has to reach on the golden set: the rules of `golden/gate.json`.
//!
//! It never guesses: a key that is not known or a value out of range is an error that names it, because a floor that is
//! silently not applied would let a bad model pass. Invariant: every floor of a [`GateRules`] is a number from 0 to 1.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Key of the rules in the model bucket.
pub const RULES_KEY: &str = "golden/gate.json";

/// Rules that would do, for messages.
const EXAMPLE: &str = r#"{"accuracy_at_least": 0.9, "sensitivity_at_least": {"parasitized": 0.95}, "images_at_least": {"parasitized": 10}, "empty_golden_set": "fail"}"#;

/// Floors that a model's figures on the golden set must reach; the figures themselves count, not their intervals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateRules {
    /// Least share of the images of a label that are answered with it, 0 to 1, by label; default none.
    pub sensitivity_at_least: BTreeMap<String, f64>,
    /// Least share of the images of all other labels that are not answered with it, 0 to 1, by label; default none.
    pub specificity_at_least: BTreeMap<String, f64>,
    /// Least share of right answers, 0 to 1; default 0.9.
    pub accuracy_at_least: f64,
    /// Fewest images of a label, by label; default none.
    pub images_at_least: BTreeMap<String, u64>,
    /// What becomes of a model if there is no golden image to try it on; default `fail`.
    pub empty_golden_set: EmptyGoldenSet,
    /// Whether a model must carry `giemsa.proof`; default `optional`.
    #[serde(default)]
    pub proof: ProofRule,
}

/// Whether a model must carry its own proof. One that it carries must always hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProofRule {
    /// It passes without one.
    #[default]
    Optional,
    /// It fails without one.
    Required,
}

/// Whether a model passes that could not be tried on any image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EmptyGoldenSet {
    /// It fails.
    Fail,
    /// It passes, and its report says that nothing was measured.
    Pass,
}

impl Default for GateRules {
    fn default() -> Self {
        Self {
            sensitivity_at_least: BTreeMap::new(),
            specificity_at_least: BTreeMap::new(),
            accuracy_at_least: 0.9,
            images_at_least: BTreeMap::new(),
            empty_golden_set: EmptyGoldenSet::Fail,
            proof: ProofRule::Optional,
        }
    }
}

/// Why `golden/gate.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// The file is not a JSON object.
    #[error(
        "{RULES_KEY} is not a JSON object ({detail}); expected for example {EXAMPLE}; correct it or delete it, and copy the model again"
    )]
    NotJson {
        /// What the reader says.
        detail: String,
    },
    /// A key has no meaning, and may be a misspelt floor.
    #[error(
        "{RULES_KEY} has the unknown key {key:?}; expected sensitivity_at_least, specificity_at_least, \
         accuracy_at_least, images_at_least, empty_golden_set or proof; correct it, and copy the model again"
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A value is of the wrong type or out of range.
    #[error("{RULES_KEY}: {key} is {found}; expected {expected}; correct it, and copy the model again")]
    Value {
        /// Key, with the label after a dot where there is one.
        key: String,
        /// The value as JSON, cut to 100 characters.
        found: String,
        /// What would do.
        expected: &'static str,
    },
}

const FRACTION: &str = "a number from 0 to 1, e.g. 0.95";
const COUNT: &str = "a whole number, e.g. 10";

impl GateRules {
    /// Reads the bytes of `golden/gate.json`; keys that are not there keep their defaults.
    ///
    /// # Errors
    /// [`RulesError`] naming the key, what was found and what is expected.
    pub fn parse(json: &[u8]) -> Result<Self, RulesError> {
        let not_json = |detail: String| RulesError::NotJson { detail };
        let value: Value = serde_json::from_slice(json).map_err(|e| not_json(e.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(not_json("it is another kind of value".to_owned()));
        };
        let mut rules = Self::default();
        for (key, value) in &fields {
            match key.as_str() {
                "sensitivity_at_least" => {
                    rules.sensitivity_at_least = by_label(key, value, FRACTION, fraction)?
                }
                "specificity_at_least" => {
                    rules.specificity_at_least = by_label(key, value, FRACTION, fraction)?
                }
                "accuracy_at_least" => {
                    rules.accuracy_at_least = fraction(value).ok_or_else(|| wrong(key, value, FRACTION))?;
                }
                "images_at_least" => rules.images_at_least = by_label(key, value, COUNT, Value::as_u64)?,
                "empty_golden_set" => {
                    rules.empty_golden_set = match value.as_str() {
                        Some("fail") => EmptyGoldenSet::Fail,
                        Some("pass") => EmptyGoldenSet::Pass,
                        _ => return Err(wrong(key, value, "\"fail\" or \"pass\"")),
                    };
                }
                "proof" => {
                    rules.proof = match value.as_str() {
                        Some("optional") => ProofRule::Optional,
                        Some("required") => ProofRule::Required,
                        _ => return Err(wrong(key, value, "\"optional\" or \"required\"")),
                    };
                }
                _ => return Err(RulesError::UnknownKey { key: key.clone() }),
            }
        }
        Ok(rules)
    }
}

fn fraction(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| (0.0..=1.0).contains(number))
}

fn by_label<T>(
    key: &str,
    value: &Value,
    expected: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>, RulesError> {
    let labels: &Map<String, Value> = value
        .as_object()
        .ok_or_else(|| wrong(key, value, "an object of labels, e.g. {\"parasitized\": …}"))?;
    let entry = |(label, value): (&String, &Value)| {
        let read = read(value).ok_or_else(|| wrong(&format!("{key}.{label}"), value, expected));
        Ok((label.clone(), read?))
    };
    labels.iter().map(entry).collect()
}

fn wrong(key: &str, value: &Value, expected: &'static str) -> RulesError {
    RulesError::Value { key: key.to_owned(), found: value.to_string().chars().take(100).collect(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_keeps_its_default() {
        assert_eq!(GateRules::parse(b"{}").unwrap(), GateRules::default());
        let rules = GateRules::parse(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(rules.sensitivity_at_least["parasitized"], 0.95);
        assert_eq!(rules.images_at_least["parasitized"], 10);
        let written = serde_json::to_vec(&rules).unwrap();
        assert_eq!(GateRules::parse(&written).unwrap(), rules, "what a report shows can be used as a file");
    }

    #[test]
    fn every_mistake_is_named_with_its_key_and_the_way_out() {
        let table: [(&str, &[&str]); 10] = [
            ("{\"proof\": true}", &["proof is true", "\"optional\" or \"required\""]),
            ("{\"accuracy_at_least\": 95}", &["accuracy_at_least is 95", "0 to 1"]),
            ("{\"accuracy_at_least\": \"0.9\"}", &["accuracy_at_least is \"0.9\""]),
            ("{\"sensitivity_at_least\": 0.9}", &["sensitivity_at_least is 0.9", "labels"]),
            ("{\"sensitivity_at_least\": {\"a\": -1}}", &["sensitivity_at_least.a is -1"]),
            ("{\"images_at_least\": {\"a\": 1.5}}", &["images_at_least.a is 1.5", "whole number"]),
            ("{\"empty_golden_set\": true}", &["empty_golden_set is true", "\"fail\" or \"pass\""]),
            ("{\"sensitivty_at_least\": {}}", &["\"sensitivty_at_least\"", "sensitivity_at_least"]),
            ("{\"accuracy_at_least\": 0.9", &["not a JSON object", "accuracy_at_least"]),
            ("[]", &["not a JSON object"]),
        ];
        for (json, parts) in table {
            let message = GateRules::parse(json.as_bytes()).unwrap_err().to_string();
            for part in parts.iter().chain(&["golden/gate.json", "correct it"]) {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }
}
