//! What a role allows, as IAM decides, against what its function was seen to need.
//!
//! It never guesses: a condition that is not known here is an error. No problem is reported exactly if every right that
//! is needed is granted, every grant is used, and no role reaches kinds of data that its function leaves alone.
//!
//! Rules: <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html> (`*` is any text, `?`
//! one character), <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-single-vs-multi-valued-context-keys.html>
//! (`ForAllValues` holds where a request has no value).

use std::collections::BTreeSet;

use serde_yaml_ng::Value;

use super::super::template::texts;

/// One thing that a call needs to be allowed, in the template's own words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// As IAM names it, e.g. `s3:GetObject`.
    pub action: String,
    /// With the template's resource in it, e.g. `${Table.Arn}/index/slide`.
    pub resource: String,
    /// Partition keys of the items that a call to the table touches.
    pub leading_keys: Vec<String>,
    /// What needs it: an operation, or what Lambda does by itself.
    pub because: String,
}

impl Right {
    pub fn new(action: &str, resource: impl Into<String>, because: impl Into<String>) -> Self {
        let (action, resource, because) = (action.to_owned(), resource.into(), because.into());
        Self { action, resource, leading_keys: Vec::new(), because }
    }

    pub fn of_items(mut self, leading_keys: Vec<String>) -> Self {
        self.leading_keys = leading_keys;
        self
    }

    fn is_write(&self) -> bool {
        let name = self.action.split(':').nth(1).unwrap_or_default();
        ["Put", "Update", "Delete", "Abort", "Send", "ConditionCheck"]
            .iter()
            .any(|verb| name.starts_with(verb))
    }

    /// The kind of data that it is about: whose, and what. Two rights of one kind are granted together or not at all.
    fn kind(&self) -> String {
        let key = self.resource.split_once("Bucket}/").map(|(_, key)| key);
        let parts = |key: &str, count| key.split('/').take(count).collect::<Vec<_>>().join("/");
        let of_item = |key: &String| key.split('#').take(2).collect::<Vec<_>>().join("#");
        match key {
            // All that people upload is one kind.
            Some(_) if self.resource.contains("${InputBucket}") => "uploads".to_owned(),
            Some(key) if key.starts_with("results/") => format!("results: {}", parts(key, 2)),
            Some(key) => {
                format!("{}: {}", self.resource.split('/').next().unwrap_or_default(), parts(key, 1))
            }
            None if self.resource == "${Table.Arn}" => {
                let kinds: BTreeSet<String> = self.leading_keys.iter().map(of_item).collect();
                // What reviewers say of an image is of no stage.
                Vec::from_iter(kinds.iter().map(|k| if k.starts_with("image#") { "image" } else { k }))
                    .join(" ")
            }
            None => self.resource.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub operator: String,
    pub key: String,
    pub patterns: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub sid: String,
    pub actions: Vec<String>,
    pub resources: Vec<String>,
    pub conditions: Vec<Condition>,
}

impl Statement {
    pub fn of(statement: &Value) -> Self {
        assert_eq!(statement["Effect"], "Allow", "{statement:?}");
        let operators = statement["Condition"].as_mapping().into_iter().flatten();
        let conditions = operators.flat_map(|(operator, keys)| {
            keys.as_mapping().unwrap().iter().map(|(key, patterns)| Condition {
                operator: operator.as_str().unwrap().to_owned(),
                key: key.as_str().unwrap().to_owned(),
                patterns: texts(patterns),
            })
        });
        Self {
            sid: statement["Sid"].as_str().unwrap().to_owned(),
            actions: texts(&statement["Action"]),
            resources: texts(&statement["Resource"]),
            conditions: conditions.collect(),
        }
    }

    pub fn allows(&self, right: &Right) -> bool {
        self.actions.contains(&right.action)
            && self.resources.iter().any(|pattern| is_like(&right.resource, pattern))
            && self.conditions.iter().all(|condition| condition.holds(right))
    }

    /// What of it no right of `needed` uses.
    fn unused(&self, needed: &[Right]) -> Vec<String> {
        let used: Vec<&Right> = needed.iter().filter(|right| self.allows(right)).collect();
        let mut unused = Vec::new();
        for action in &self.actions {
            for resource in &self.resources {
                let is_used = |right: &&&Right| right.action == *action && is_like(&right.resource, resource);
                if !used.iter().any(|right| is_used(&right)) {
                    unused.push(format!("{action} on {resource}"));
                }
            }
        }
        for condition in &self.conditions {
            for pattern in &condition.patterns {
                let keys = used.iter().flat_map(|right| &right.leading_keys);
                if !keys.into_iter().any(|key| is_like(key, pattern)) {
                    unused.push(format!("{} {pattern}", condition.key));
                }
            }
        }
        unused
    }
}

impl Condition {
    fn holds(&self, right: &Right) -> bool {
        match (self.operator.as_str(), self.key.as_str()) {
            ("ForAllValues:StringLike", "dynamodb:LeadingKeys") => {
                right.leading_keys.iter().all(|key| self.patterns.iter().any(|pattern| is_like(key, pattern)))
            }
            other => panic!("the condition {other:?} is not known here: say what it means"),
        }
    }
}

/// Whether a role of these statements may do it.
pub fn allows(role: &[Statement], right: &Right) -> bool {
    role.iter().any(|statement| statement.allows(right))
}

/// As IAM's `StringLike`, and as resources are compared.
pub fn is_like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    let (mut at, mut next, mut star) = (0, 0, None);
    while at < text.len() {
        match pattern.get(next) {
            Some('*') => {
                star = Some((next, at));
                next += 1;
            }
            Some(c) if *c == '?' || *c == text[at] => {
                at += 1;
                next += 1;
            }
            _ => match star {
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (next, at) = (after + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[next..].iter().all(|c| *c == '*')
}

/// What is wrong with the role of a function that needs `needed`, where all functions together need `of_all`.
pub fn problems(function: &str, role: &[Statement], needed: &[Right], of_all: &[Right]) -> BTreeSet<String> {
    let mut problems = BTreeSet::new();
    for right in needed.iter().filter(|right| !allows(role, right)) {
        let Right { action, resource, leading_keys, because } = right;
        let keys = if leading_keys.is_empty() { String::new() } else { format!(" {leading_keys:?}") };
        problems.insert(format!("{function} lacks {action} on {resource}{keys}, for {because}"));
    }
    for statement in role {
        for unused in statement.unused(needed) {
            problems
                .insert(format!("{function} is granted {unused} ({}), which nothing uses", statement.sid));
        }
    }
    // A pattern may be used and yet be too wide: then it reaches what only another function needs.
    let own: BTreeSet<(bool, String)> = needed.iter().map(|right| (right.is_write(), right.kind())).collect();
    let mut reported = BTreeSet::new();
    for right in of_all.iter().filter(|right| allows(role, right)) {
        let (kind, is_write) = (right.kind(), right.is_write());
        // Whoever may write items of a kind may know them: conditions are on keys alone.
        let is_known = right.resource == "${Table.Arn}" && own.contains(&(true, kind.clone()));
        if !own.contains(&(is_write, kind.clone())) && !is_known && reported.insert((is_write, kind.clone()))
        {
            let (way, Right { action, resource, .. }) = (if is_write { "write" } else { "read" }, right);
            problems.insert(format!(
                "{function} may {way} {kind}, which it never does, by {action} on {resource}"
            ));
        }
    }
    problems
}

#[test]
fn patterns_are_those_of_iam() {
    for (text, pattern, expected) in [
        ("result#prod#in/a", "result#prod#*", true),
        ("result#dev#in/result#prod#a", "result#prod#*", false),
        ("days#prod", "days#prod", true),
        ("days#prod2", "days#prod", false),
        ("dev/model.onnx", "*/model.onnx", true),
        ("golden/a/model.onnx.png", "*/model.onnx", false),
        ("abab", "*ab", true),
        ("", "*", true),
        ("ab", "a?", true),
        ("a", "a?", false),
    ] {
        assert_eq!(is_like(text, pattern), expected, "{text} {pattern}");
    }
}

#[test]
fn a_condition_holds_for_every_item_and_for_none() {
    let condition = Condition {
        operator: "ForAllValues:StringLike".into(),
        key: "dynamodb:LeadingKeys".into(),
        patterns: vec!["a#*".into(), "b".into()],
    };
    let of = |keys: &[&str]| {
        Right::new("x", "y", "z").of_items(keys.iter().map(|key| (*key).to_owned()).collect())
    };
    assert!(condition.holds(&of(&["a#1", "b"])) && condition.holds(&of(&[])));
    assert!(!condition.holds(&of(&["a#1", "c"])));
}
