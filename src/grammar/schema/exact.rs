//! Numbers that llguidance would round.
//!
//! llguidance reads every number of a schema as a double, so 1234567890123456789 would become …768. Its
//! variant of Lark has texts that come as they are, but they cannot stand within its JSON schemas. So what
//! leads to such a number, objects and lists as a rule, is written in Lark, and all other parts stay
//! JSON schemas.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::prescribed::{EXACTLY, EXACTLY_AT};

/// A lowered schema as an expression of llguidance's Lark, if it has such numbers.
pub(super) fn in_lark(schema: &Value, layout: &Value) -> Result<Option<String>, SchemaError> {
    let none = Map::new();
    let definitions = schema.get("$defs").and_then(Value::as_object);
    let definitions = definitions.unwrap_or(&none);
    let mut lark = Lark {
        definitions,
        exact: exact_definitions(definitions),
        layout,
        rules: String::new(),
        count: 0,
        wanted: Vec::new(),
        defined: HashSet::new(),
    };
    if !lark.is_exact(schema) {
        return Ok(None);
    }
    let start = lark.rule(schema)?;
    while let Some(name) = lark.wanted.pop() {
        let rule = lark.rule(&definitions[name])?;
        lark.define(&definition(name), &rule);
    }
    Ok(Some(format!("%lark {{\nstart: {start}\n{}}}", lark.rules)))
}

struct Lark<'s> {
    definitions: &'s Map<String, Value>,
    /// Definitions that lead to such a number.
    exact: HashSet<&'s str>,
    layout: &'s Value,
    rules: String,
    count: usize,
    wanted: Vec<&'s str>,
    defined: HashSet<&'s str>,
}

/// Returns the schemas directly within a lowered schema.
pub(super) fn parts(schema: &Value) -> impl Iterator<Item = &Value> {
    let object = schema.as_object();
    let at = move |key: &str| object.and_then(|object| object.get(key));
    let named = ["properties", "patternProperties"].map(at);
    let named = named.into_iter().flatten().filter_map(Value::as_object);
    let lists = ["prefixItems", "allOf", "anyOf", "oneOf"].map(at);
    let lists = lists.into_iter().flatten().filter_map(Value::as_array);
    let single = ["items", "additionalProperties"].map(at);
    named
        .flat_map(Map::values)
        .chain(lists.flatten())
        .chain(single.into_iter().flatten())
}

/// Returns the name of the definition that a lowered schema refers to.
pub(super) fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix("#/$defs/")
}

/// Whether a lowered schema leads to a number that llguidance would round.
pub(super) fn leads_to(schema: &Value, exact: &HashSet<&str>) -> bool {
    schema.get(EXACTLY).is_some()
        || referred(schema).is_some_and(|name| exact.contains(name))
        || parts(schema).any(|part| leads_to(part, exact))
}

/// Returns the definitions that lead to such a number.
pub(super) fn exact_definitions(definitions: &Map<String, Value>) -> HashSet<&str> {
    let mut exact = HashSet::new();
    // Each round finds those that refer to one that the round before has found.
    loop {
        let found: Vec<&str> = definitions
            .iter()
            .filter(|(name, schema)| !exact.contains(name.as_str()) && leads_to(schema, &exact))
            .map(|(name, _)| name.as_str())
            .collect();
        if found.is_empty() {
            return exact;
        }
        exact.extend(found);
    }
}

fn definition(name: &str) -> String {
    format!("definition_{name}")
}

/// Returns a text as a Lark string.
fn text(text: &str) -> String {
    Value::from(text).to_string()
}

impl<'s> Lark<'s> {
    fn is_exact(&self, schema: &Value) -> bool {
        leads_to(schema, &self.exact)
    }

    fn define(&mut self, name: &str, expression: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.rules, "{name}: {expression}");
    }

    /// Adds a rule for an expression; returns its name.
    fn named(&mut self, expression: &str) -> String {
        let name = format!("part_{}", self.count);
        self.count += 1;
        self.define(&name, expression);
        name
    }

    /// Adds a rule for the instances of a schema; returns its name.
    fn rule(&mut self, schema: &'s Value) -> Result<String, SchemaError> {
        if !self.is_exact(schema) {
            return Ok(self.json(schema));
        }
        let expression = if let Some(numbers) = schema.get(EXACTLY) {
            let numbers = numbers.as_array().into_iter().flatten();
            let numbers: Vec<_> = numbers.filter_map(Value::as_str).map(text).collect();
            numbers.join(" | ")
        } else if let Some(name) = referred(schema) {
            says_only(schema, &["$ref"])?;
            if self.defined.insert(name) {
                self.wanted.push(name);
            }
            definition(name)
        } else if let Some(options) = schema.get("anyOf").or_else(|| schema.get("oneOf")) {
            says_only(schema, &["anyOf", "oneOf"])?;
            let options = options.as_array().into_iter().flatten();
            let options = options.map(|option| self.rule(option));
            options.collect::<Result<Vec<_>, _>>()?.join(" | ")
        } else {
            self.container(schema)?
        };
        Ok(self.named(&expression))
    }

    fn json(&mut self, schema: &Value) -> String {
        let mut document = match schema {
            Value::Object(object) => object.clone(),
            Value::Bool(false) => Map::from_iter([("anyOf".to_owned(), json!([]))]),
            _ => Map::new(),
        };
        let others = self.definitions.iter();
        let others = others.filter(|(name, _)| !self.exact.contains(name.as_str()));
        let others: Map<_, _> = others
            .map(|(name, schema)| (name.clone(), schema.clone()))
            .collect();
        if refers(schema) {
            document.insert("$defs".to_owned(), others.into());
        }
        document.insert("x-guidance".to_owned(), self.layout.clone());
        let document = format!("%json {}", Value::Object(document));
        self.named(&document)
    }

    /// An object or a list. Instances of other types that the schema allows, too, stay JSON.
    fn container(&mut self, schema: &'s Value) -> Result<String, SchemaError> {
        const OBJECT: [&str; 7] = [
            "type",
            "properties",
            "required",
            "additionalProperties",
            "minProperties",
            "maxProperties",
            "$defs",
        ];
        const LIST: [&str; 6] = [
            "type",
            "items",
            "prefixItems",
            "minItems",
            "maxItems",
            "$defs",
        ];
        let is_object =
            schema.get("properties").is_some() || schema.get("additionalProperties").is_some();
        let (kind, keys): (_, &[&str]) = if is_object {
            ("object", &OBJECT)
        } else {
            ("array", &LIST)
        };
        says_only(schema, keys)?;
        let expression = if is_object {
            self.object(schema)?
        } else {
            self.array(schema)?
        };
        let others = match schema.get("type") {
            Some(Value::Array(kinds)) => kinds.iter().filter(|other| *other != kind).collect(),
            _ => Vec::new(),
        };
        if others.is_empty() {
            return Ok(expression);
        }
        let others = self.json(&json!({"type": others}));
        Ok(format!("{expression} | {others}"))
    }

    /// With no other properties than those that are declared, or have to be there.
    fn object(&mut self, schema: &'s Value) -> Result<String, SchemaError> {
        let declared = schema.get("properties").and_then(Value::as_object);
        let required = schema.get("required").and_then(Value::as_array);
        let required: Vec<&str> = required
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let others = schema.get("additionalProperties").unwrap_or(&Value::Null);
        let declared = declared.into_iter().flatten();
        let declared = declared.map(|(name, schema)| (name.as_str(), schema));
        let mut members: Vec<(&str, &Value)> = declared.collect();
        for name in &required {
            if !members.iter().any(|(known, _)| known == name) {
                members.push((name, others));
            }
        }
        let needed = members
            .iter()
            .filter(|(name, _)| required.contains(name))
            .count();
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64).map(usize::try_from);
        let too_few =
            bound("minProperties").is_some_and(|least| least.unwrap_or(usize::MAX) > needed);
        let too_many =
            bound("maxProperties").is_some_and(|most| most.unwrap_or(usize::MAX) < members.len());
        if too_few || too_many {
            return Err(refused(
                schema,
                if too_few {
                    "minProperties"
                } else {
                    "maxProperties"
                },
            ));
        }
        // From the last property to the first: what may follow after another property, and without one.
        let (mut behind, mut first) = (String::new(), String::new());
        for (name, schema) in members.into_iter().rev() {
            let value = self.rule(schema)?;
            let member = format!("{} {value}", text(&format!("{}: ", text(name))));
            let begins = format!("{member} {behind}");
            let follows = format!("\", \" {member} {behind}");
            if required.contains(&name) {
                (first, behind) = (self.named(&begins), self.named(&follows));
            } else {
                let skipped = behind.clone();
                behind = self.optional(&follows, &skipped);
                first = self.optional(&begins, &first);
            }
        }
        Ok(format!("\"{{\" {first} \"}}\""))
    }

    /// One of both, of which `other` may be nothing.
    fn optional(&mut self, expression: &str, other: &str) -> String {
        let either = if other.is_empty() {
            format!("({expression})?")
        } else {
            format!("({expression}) | {other}")
        };
        self.named(&either)
    }

    /// A list of the same, or of exactly those that are listed.
    fn array(&mut self, schema: &'s Value) -> Result<String, SchemaError> {
        let bound = |key: &str| schema.get(key).and_then(Value::as_u64);
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems"));
        if let Some(Value::Array(listed)) = schema.get("prefixItems") {
            let count = u64::try_from(listed.len()).unwrap_or(u64::MAX);
            if count < least || most.is_some_and(|most| most < count) {
                return Err(refused(schema, "prefixItems"));
            }
            let listed = listed.iter().map(|item| self.rule(item));
            let listed = listed.collect::<Result<Vec<_>, _>>()?;
            return Ok(format!("\"[\" {} \"]\"", listed.join(" \", \" ")));
        }
        let item = self.rule(schema.get("items").unwrap_or(&Value::Null))?;
        let more = match most {
            Some(0) => return Ok("\"[\" \"]\"".to_owned()),
            // A range must not end with 0.
            Some(1) => String::new(),
            Some(most) => format!(
                "(\", \" {item}){{{},{}}}",
                least.saturating_sub(1),
                most - 1
            ),
            None if least <= 1 => format!("(\", \" {item})*"),
            None => format!("(\", \" {item}){{{},}}", least - 1),
        };
        Ok(match least {
            0 => format!("\"[\" ({item} {more})? \"]\""),
            _ => format!("\"[\" {item} {more} \"]\""),
        })
    }
}

/// Whether a reference stands somewhere in a lowered schema.
fn refers(schema: &Value) -> bool {
    referred(schema).is_some() || parts(schema).any(refers)
}

/// Refuses what stands beside these keywords.
fn says_only(schema: &Value, keys: &[&str]) -> Result<(), SchemaError> {
    let known = |key: &&String| keys.contains(&key.as_str()) || *key == "$defs";
    let object = schema.as_object().into_iter().flatten();
    match object.map(|(key, _)| key).find(|key| !known(key)) {
        None => Ok(()),
        Some(other) => Err(refused(schema, other)),
    }
}

/// A number that cannot be followed exactly because of a keyword above it; it is named by its own place.
fn refused(schema: &Value, keyword: &str) -> SchemaError {
    SchemaError {
        path: place(schema).unwrap_or_default().to_owned(),
        why: format!(
            "has a number beyond 2^53, which cannot be followed exactly within a schema that has \
             `{keyword}` there"
        ),
    }
}

/// Where the first such number stands.
fn place(schema: &Value) -> Option<&str> {
    let here = schema.get(EXACTLY_AT).and_then(Value::as_str);
    here.or_else(|| parts(schema).find_map(place))
}
