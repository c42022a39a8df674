//! Rewrites what a client may write into what llguidance supports.
//!
//! The schema is written anew, keyword by keyword, with its rules about what is a keyword and what a name.
//! Whatever a reference leads to becomes a definition `#/$defs/r0`, `#/$defs/r1` and so on, because
//! llguidance takes the segments of a reference literally. What says nothing about an instance is left
//! out: beside a reference in a circle llguidance refuses even that. Where something may be held to less
//! than the schema allows, that is done, for then the answer fits all the same.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::choices::counted;
use super::cost::values;
use super::numbers::hold;
use super::path::{SchemaPath, schema_error};
use super::prescribed::{alternatives_of_values, prescribed};
use super::reference::{ReferenceTarget, resolve};
use super::types::{is_always, is_never};
use super::{objects, strings};

/// Keywords that say something about an instance, for llguidance.
pub(super) const HEARD: [&str; 27] = [
    "type",
    "enum",
    "const",
    "$ref",
    "allOf",
    "anyOf",
    "oneOf",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "items",
    "prefixItems",
    "additionalItems",
    "minItems",
    "maxItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
];
const LISTS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// Those of them that have schemas within them.
const PARTS: [&str; 9] = [
    "allOf",
    "anyOf",
    "oneOf",
    "properties",
    "additionalProperties",
    "patternProperties",
    "items",
    "prefixItems",
    "additionalItems",
];
/// JSON values that are written out once more for references in circles.
const MOST_COPIED: u64 = 50_000;
/// Schemas that are visited to find references that go in circles.
const MOST_VISITED: usize = 50_000;

/// Lowers what stands at `start` in `root`, of which `targets` are all that references lead to.
pub(super) fn lower(
    root: &Value,
    start: (&Value, &SchemaPath),
    targets: &[ReferenceTarget<'_>],
    strict: bool,
) -> Result<Value, SchemaError> {
    let names = targets.iter().enumerate();
    let names = names.map(|(index, target)| (std::ptr::from_ref(target.schema), index));
    let mut lowering = Lowering {
        root,
        targets,
        strict,
        names: names.collect(),
        pending: Vec::new(),
        definitions: Map::new(),
        special: HashMap::new(),
        circles: HashMap::new(),
        copied: 0,
        looked: 0,
    };
    let (schema, path) = start;
    let mut lowered = lowering.schema(schema, path)?;
    while let Some(pending) = lowering.pending.pop() {
        let target = &targets[pending.target];
        let place = SchemaPath::ROOT.behind(&target.place);
        let mut definition = lowering.body(target.schema, &place)?;
        if let Some(beside) = pending.beside {
            definition = json!({"allOf": [definition, beside]});
        }
        lowering.definitions.insert(pending.name, definition);
    }
    if !lowering.definitions.is_empty()
        && let Some(object) = lowered.as_object_mut()
    {
        object.insert("$defs".to_owned(), Value::Object(lowering.definitions));
    }
    Ok(lowered)
}

fn name(index: usize) -> String {
    format!("r{index}")
}

/// Returns a reference to a definition.
fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{name}")})
}

/// A definition that is referred to and not written yet.
struct PendingDefinition {
    name: String,
    target: usize,
    /// The keywords beside the reference to it.
    beside: Option<Value>,
}

pub(super) struct Lowering<'s> {
    pub(super) root: &'s Value,
    targets: &'s [ReferenceTarget<'s>],
    pub(super) strict: bool,
    /// Indexes of targets, by the address of the schema.
    names: HashMap<*const Value, usize>,
    pending: Vec<PendingDefinition>,
    definitions: Map<String, Value>,
    /// Definitions of what a reference leads to together with what stands beside the reference.
    special: HashMap<(usize, String), String>,
    /// By target, whether it leads to itself.
    circles: HashMap<usize, bool>,
    copied: u64,
    /// Schemas that were looked at for circles.
    looked: usize,
}

impl Lowering<'_> {
    /// Lowers a schema; returns a reference to it where others refer to it as well.
    pub(super) fn schema(
        &mut self,
        schema: &Value,
        path: &SchemaPath,
    ) -> Result<Value, SchemaError> {
        match self.names.get(&std::ptr::from_ref(schema)) {
            Some(index) => Ok(self.refer(*index)),
            None => self.body(schema, path),
        }
    }

    fn refer(&mut self, index: usize) -> Value {
        self.want(name(index), index, None)
    }

    fn want(&mut self, name: String, target: usize, beside: Option<Value>) -> Value {
        let reference = reference(&name);
        if !self.definitions.contains_key(&name) {
            // Until it is written.
            self.definitions.insert(name.clone(), Value::Null);
            self.pending.push(PendingDefinition {
                name,
                target,
                beside,
            });
        }
        reference
    }

    fn body(&mut self, schema: &Value, path: &SchemaPath) -> Result<Value, SchemaError> {
        let Value::Object(object) = schema else {
            return Ok(schema.clone());
        };
        // Parts are looked up in the original: they are known by their addresses.
        let value_of = |key: &str, value: &Value| {
            let has_parts = PARTS.contains(&key);
            if has_parts {
                Value::Null
            } else {
                value.clone()
            }
        };
        let heard = object
            .iter()
            .filter(|(key, _)| HEARD.contains(&key.as_str()));
        let heard = heard.map(|(key, value)| (key.clone(), value_of(key, value)));
        let mut heard: Map<String, Value> = heard.collect();
        if let Some((index, at)) = self.only_reference(object) {
            heard.shift_remove("$ref");
            if at == "allOf" {
                heard.shift_remove("allOf");
            }
            return self.reference(index, object, heard, path);
        }
        if let Some(listed) = alternatives_of_values(object) {
            heard.shift_remove("anyOf");
            heard.shift_remove("oneOf");
            heard.insert("enum".to_owned(), listed);
        }
        self.heard(object, heard, path)
    }

    /// Finds the target of the reference of a schema, or of the only schema in its `allOf`.
    fn only_reference(&self, object: &Map<String, Value>) -> Option<(usize, &'static str)> {
        let find = |reference: &Value| {
            let target = resolve(self.root, reference.as_str()?)?;
            self.names.get(&std::ptr::from_ref(target.schema)).copied()
        };
        if let Some(reference) = object.get("$ref") {
            return Some((find(reference)?, "$ref"));
        }
        let [Value::Object(only)] = object.get("allOf")?.as_array()?.as_slice() else {
            return None;
        };
        let mut said = only.keys().filter(|key| HEARD.contains(&key.as_str()));
        let is_alone = said.next().is_some_and(|key| key == "$ref") && said.next().is_none();
        let index = find(only.get("$ref").filter(|_| is_alone)?)?;
        Some((index, "allOf"))
    }

    /// Lowers a reference and the keywords beside it.
    fn reference(
        &mut self,
        index: usize,
        object: &Map<String, Value>,
        mut beside: Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<Value, SchemaError> {
        let target = self.targets[index].schema;
        if let Some(kinds) = beside.get("type")
            && is_always(self.root, target, kinds)
        {
            beside.shift_remove("type");
        }
        if beside.is_empty() {
            return Ok(self.refer(index));
        }
        let beside = self.heard(object, beside, path)?;
        if self.is_circle(index) {
            return self.special_reference(index, beside, path);
        }
        let reference = self.refer(index);
        Ok(match (reference, beside) {
            (Value::Object(mut both), Value::Object(beside)) if !beside.contains_key("$ref") => {
                both.extend(beside);
                Value::Object(both)
            }
            (reference, beside) => json!({"allOf": [reference, beside]}),
        })
    }

    /// llguidance refuses a reference in a circle beside which something stands. What it leads to is
    /// written out once more, with that beside it, as a definition of its own.
    fn special_reference(
        &mut self,
        index: usize,
        beside: Value,
        path: &SchemaPath,
    ) -> Result<Value, SchemaError> {
        let key = (index, beside.to_string());
        if let Some(known) = self.special.get(&key) {
            return Ok(reference(known));
        }
        self.copied += values(self.targets[index].schema);
        if self.copied > MOST_COPIED {
            let why = "stands beside too much: what it leads to leads to it again, and would have to be \
                       written out for each such place";
            return Err(schema_error(&path.under("$ref"), why));
        }
        let special = format!("s{}", self.special.len());
        self.special.insert(key, special.clone());
        Ok(self.want(special, index, Some(beside)))
    }

    /// Whether a target leads back to itself.
    fn is_circle(&mut self, index: usize) -> bool {
        if let Some(known) = self.circles.get(&index) {
            return *known;
        }
        let mut seen = HashSet::new();
        let mut next = vec![self.targets[index].schema];
        let start = std::ptr::from_ref(self.targets[index].schema);
        let mut found = false;
        while let Some(schema) = next.pop() {
            self.looked += 1;
            // To take it for one is never wrong, only longer.
            if self.looked > MOST_VISITED {
                found = true;
                break;
            }
            let mut references = Vec::new();
            collect_references(schema, &mut references);
            let targets = references
                .into_iter()
                .filter_map(|text| resolve(self.root, text));
            for target in targets {
                found |= std::ptr::eq(target.schema, start);
                if seen.insert(std::ptr::from_ref(target.schema)) {
                    next.push(target.schema);
                }
            }
        }
        self.circles.insert(index, found);
        found
    }

    /// Writes what is heard of a schema without a reference of its own.
    fn heard(
        &mut self,
        object: &Map<String, Value>,
        mut heard: Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<Value, SchemaError> {
        self.type_of_options(object, &mut heard);
        for key in LISTS {
            if heard.contains_key(key)
                && let Some(list) = object.get(key)
            {
                let kinds = (key != "allOf").then(|| object.get("type")).flatten();
                let list = self.list(list, kinds, &path.under(key))?;
                heard.insert(key.to_owned(), list);
            }
        }
        self.items(object, &mut heard, path)?;
        objects::lower(self, object, &mut heard, path)?;
        strings::lower(&mut heard, self.strict, path)?;
        if heard.contains_key("enum") || heard.contains_key("const") {
            return prescribed(heard, path);
        }
        hold(&mut heard, path)?;
        if let Some(alternatives) = counted(&heard) {
            return Ok(json!({"anyOf": alternatives}));
        }
        objects::counts(&mut heard);
        Ok(alone_in_all_of(heard))
    }

    /// `{"type": "object", "anyOf": [{"$ref": …}, {"type": "null"}]}`: the type need not be said where
    /// each option says it, or none of it. llguidance takes nothing beside a reference in a circle.
    fn type_of_options(&self, object: &Map<String, Value>, heard: &mut Map<String, Value>) {
        let options = object.get("anyOf").or_else(|| object.get("oneOf"));
        let options = options
            .and_then(Value::as_array)
            .filter(|_| heard.len() == 2);
        let (Some(options), Some(kinds)) = (options, object.get("type")) else {
            return;
        };
        let is_settled =
            |option: &Value| is_never(option, kinds) || is_always(self.root, option, kinds);
        if options.iter().all(is_settled) {
            heard.shift_remove("type");
        }
    }

    /// Lowers the schemas of a list, except those whose type is none of `kinds`.
    fn list(
        &mut self,
        list: &Value,
        kinds: Option<&Value>,
        path: &SchemaPath,
    ) -> Result<Value, SchemaError> {
        let list = list.as_array().into_iter().flatten().enumerate();
        let list = list.filter(|(_, schema)| kinds.is_none_or(|kinds| !is_never(schema, kinds)));
        let lowered = list.map(|(index, schema)| self.schema(schema, &path.at(index)));
        lowered.collect::<Result<Vec<_>, _>>().map(Value::Array)
    }

    /// Lowers the keywords of lists. Before 2020 `items` could be a list, and `additionalItems` the schema of
    /// the items after it.
    fn items(
        &mut self,
        object: &Map<String, Value>,
        heard: &mut Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<(), SchemaError> {
        let is_list = object.get("items").is_some_and(Value::is_array);
        let (first, others) = if is_list {
            ("items", "additionalItems")
        } else {
            ("prefixItems", "items")
        };
        for key in ["items", "prefixItems", "additionalItems"] {
            heard.shift_remove(key);
        }
        if let Some(list) = object.get(first) {
            let list = self.list(list, None, &path.under(first))?;
            heard.insert("prefixItems".to_owned(), list);
        }
        if let Some(others_of) = object.get(others) {
            let items = self.schema(others_of, &path.under(others))?;
            heard.insert("items".to_owned(), items);
        }
        Ok(())
    }
}

/// Collects all references in a schema, also in values that only look like schemas.
fn collect_references<'v>(value: &'v Value, references: &mut Vec<&'v str>) {
    match value {
        Value::Array(list) => list
            .iter()
            .for_each(|item| collect_references(item, references)),
        Value::Object(object) => {
            references.extend(object.get("$ref").and_then(Value::as_str));
            object
                .values()
                .for_each(|member| collect_references(member, references));
        }
        _ => {}
    }
}

/// An `allOf` of one schema, beside nothing, is that schema.
fn alone_in_all_of(heard: Map<String, Value>) -> Value {
    if heard.len() == 1
        && let Some(Value::Array(all)) = heard.get("allOf")
        && let [only] = all.as_slice()
    {
        return only.clone();
    }
    Value::Object(heard)
}
