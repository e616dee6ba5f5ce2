//! The template as CloudFormation would read it: with its references answered.

use std::fs;
use std::path::PathBuf;

use serde_yaml_ng::{Mapping, Value};

pub const STAGES: [(&str, &str); 2] = [("Prod", "prod"), ("Dev", "dev")];

pub fn read(path: &str) -> String {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The template with some parameters, the others as they are by default.
pub struct Template<'a> {
    raw: Value,
    parameters: Vec<(&'a str, &'a str)>,
}

impl<'a> Template<'a> {
    pub fn with(parameters: &[(&'a str, &'a str)]) -> Self {
        let raw = serde_yaml_ng::from_str(&read("infra/template.yaml")).unwrap();
        Self { raw, parameters: parameters.to_vec() }
    }

    pub fn default() -> Self {
        Self::with(&[])
    }

    pub fn raw(&self) -> &Value {
        &self.raw
    }

    pub fn parameter(&self, name: &str) -> String {
        let given = self.parameters.iter().find(|(known, _)| *known == name);
        match (given, &self.raw["Parameters"][name]["Default"]) {
            (Some((_, value)), _) => (*value).to_owned(),
            (None, Value::Number(number)) => number.to_string(),
            (None, default) => {
                default.as_str().unwrap_or_else(|| panic!("{name} is not a parameter")).to_owned()
            }
        }
    }

    fn holds(&self, condition: &str) -> bool {
        self.truth(&self.raw["Conditions"][condition])
    }

    fn truth(&self, value: &Value) -> bool {
        if let Some(name) = value.get("Condition").and_then(Value::as_str) {
            return self.holds(name);
        }
        let Value::Tagged(function) = value else { panic!("no condition: {value:?}") };
        let arguments = function.value.as_sequence().unwrap();
        match function.tag.to_string().as_str() {
            "!Equals" => self.text(&arguments[0]) == self.text(&arguments[1]),
            "!Not" => !self.truth(&arguments[0]),
            "!Or" => arguments.iter().any(|argument| self.truth(argument)),
            other => panic!("{other} is not known here"),
        }
    }

    fn text(&self, value: &Value) -> String {
        match self.answered(value) {
            Value::Number(number) => number.to_string(),
            text => text.as_str().unwrap().to_owned(),
        }
    }

    /// `value` with its functions answered: a parameter is its value, a resource `${Name}`, its attribute `${Name.Attribute}`.
    /// What a condition leaves out is null.
    pub fn answered(&self, value: &Value) -> Value {
        match value {
            Value::Sequence(items) => {
                items.iter().map(|item| self.answered(item)).filter(|item| !item.is_null()).collect()
            }
            Value::Mapping(members) => {
                let answered = members.iter().map(|(name, value)| (name.clone(), self.answered(value)));
                Value::Mapping(answered.filter(|(_, value)| !value.is_null()).collect::<Mapping>())
            }
            Value::Tagged(function) => self.call(&function.tag.to_string(), &function.value),
            plain => plain.clone(),
        }
    }

    fn call(&self, function: &str, arguments: &Value) -> Value {
        let text = |value: &Value| self.answered(value).as_str().unwrap().to_owned();
        match function {
            "!Ref" => match arguments.as_str().unwrap() {
                "AWS::NoValue" => Value::Null,
                name if name.starts_with("AWS::") => format!("${{{name}}}").into(),
                name if self.raw["Parameters"].get(name).is_some() => self.parameter(name).into(),
                name => {
                    assert!(
                        !self.raw["Resources"][name].is_null(),
                        "{name} is neither parameter nor resource"
                    );
                    format!("${{{name}}}").into()
                }
            },
            "!GetAtt" => format!("${{{}}}", arguments.as_str().unwrap()).into(),
            "!Sub" => {
                let Some([pattern, values]) = arguments.as_sequence().map(Vec::as_slice) else {
                    return arguments.clone();
                };
                let mut made = pattern.as_str().unwrap().to_owned();
                for (name, value) in values.as_mapping().unwrap() {
                    made = made.replace(&format!("${{{}}}", name.as_str().unwrap()), &text(value));
                }
                made.into()
            }
            "!If" => {
                let [condition, then, otherwise] = arguments.as_sequence().unwrap().as_slice() else {
                    panic!("three arguments: {arguments:?}")
                };
                self.answered(if self.holds(condition.as_str().unwrap()) { then } else { otherwise })
            }
            "!FindInMap" => {
                let [map, key, name] = arguments.as_sequence().unwrap().as_slice() else {
                    panic!("three arguments: {arguments:?}")
                };
                self.raw["Mappings"][text(map)][text(key)][text(name)].clone()
            }
            _ => format!("{function} …").into(),
        }
    }

    /// A resource with its functions answered.
    pub fn resource(&self, name: &str) -> Value {
        let resource = &self.raw["Resources"][name];
        assert!(!resource.is_null(), "there is no resource {name}");
        self.answered(resource)
    }

    pub fn properties(&self, name: &str) -> Value {
        self.resource(name)["Properties"].clone()
    }

    /// Names of the resources of a type.
    pub fn of_type(&self, resource_type: &str) -> Vec<String> {
        let all = self.raw["Resources"].as_mapping().unwrap().iter();
        let found = all.filter(|(_, resource)| resource["Type"] == resource_type);
        found.map(|(name, _)| name.as_str().unwrap().to_owned()).collect()
    }

    /// Statements of the one policy of a role.
    pub fn statements(&self, role: &str) -> Vec<Value> {
        let policies = self.properties(role)["Policies"].clone();
        assert_eq!(policies.as_sequence().unwrap().len(), 1, "{role}: one policy a function");
        policies[0]["PolicyDocument"]["Statement"].as_sequence().unwrap().clone()
    }
}

/// One text or several.
pub fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Sequence(items) => items.iter().flat_map(texts).collect(),
        one => vec![one.as_str().unwrap_or_else(|| panic!("no text: {one:?}")).to_owned()],
    }
}
