//! Holds values against a JSON Schema: the keywords that ours uses, and a panic at any other, so
//! that none goes unchecked.

use serde_json::Value;

/// Everything in `value` that `schema` refuses, each with its path.
pub(super) fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, value, "", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let Value::Object(keywords) = schema else { panic!("{schema} is no schema") };
    for (keyword, rule) in keywords {
        let number = || value.as_f64().zip(rule.as_f64());
        let items = || value.as_array().map(Vec::len).zip(rule.as_u64());
        let chars = || value.as_str().map(|s| s.chars().count()).zip(rule.as_u64());
        let holds = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "format" => true,
            "$ref" => {
                let target =
                    root.pointer(&rule.as_str().unwrap()[1..]).expect("$ref leads nowhere");
                check(root, target, value, path, found);
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| has_type(one, value)),
                one => has_type(one, value),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "anyOf" | "oneOf" => rule.as_array().unwrap().iter().any(|one| {
                let mut inner = Vec::new();
                check(root, one, value, path, &mut inner);
                inner.is_empty()
            }),
            "not" => {
                let mut inner = Vec::new();
                check(root, rule, value, path, &mut inner);
                !inner.is_empty()
            }
            "minimum" => number().is_none_or(|(value, rule)| value >= rule),
            "maximum" => number().is_none_or(|(value, rule)| value <= rule),
            "minItems" => items().is_none_or(|(value, rule)| value as u64 >= rule),
            "maxItems" => items().is_none_or(|(value, rule)| value as u64 <= rule),
            "minLength" => chars().is_none_or(|(value, rule)| value as u64 >= rule),
            "maxLength" => chars().is_none_or(|(value, rule)| value as u64 <= rule),
            "pattern" => value.as_str().is_none_or(|text| {
                regex_lite::Regex::new(rule.as_str().unwrap()).unwrap().is_match(text)
            }),
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{path}/{i}"), found);
                }
                true
            }
            "required" => value.as_object().is_none_or(|map| {
                rule.as_array().unwrap().iter().all(|key| map.contains_key(key.as_str().unwrap()))
            }),
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    if let Some(rule) = rule.get(key) {
                        check(root, rule, inner, &format!("{path}/{key}"), found);
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(*rule, Value::Bool(false), "this checker knows no other rule");
                let known = &keywords["properties"];
                value.as_object().is_none_or(|map| map.keys().all(|key| known.get(key).is_some()))
            }
            other => panic!("the schema uses {other}, which this checker does not know"),
        };
        if !holds {
            found.push(format!("{path}: {keyword}"));
        }
    }
}

fn has_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        "null" => value.is_null(),
        other => panic!("the schema uses type {other}"),
    }
}
