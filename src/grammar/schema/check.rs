//! What a client's schema may be: the rules of `strict`, and how large any schema may be.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value, json};

use super::Misfit;
use super::cost::{Growth, values};

/// Deeper schemas are refused before any recursion of ours or of the compiler's.
const DEEPEST: usize = 64;
/// JSON values within each other, added up over the schema and all places that references lead to:
/// the compiler follows each reference once, and in the worst case all of them from within each
/// other. [`super::super::compile::STACK`] is sized for it.
pub(in crate::grammar) const MOST_LEVELS: usize = 4096;
/// llguidance compares the patterns of `patternProperties` two by two: 16 patterns.
const MOST_PATTERN_PAIRS: usize = 120;
/// It also holds each pattern against each property.
const MOST_PATTERN_MATCHES: usize = 5000;
/// Schemas that all alternatives have together when they are multiplied out: some half a
/// kilobyte of memory each while they are compiled.
const MOST_SCHEMAS: u64 = 100_000;
/// OpenAI's limits for strict schemas, which we hold all schemas to.
const MOST_PROPERTIES: usize = 5000;
const MOST_ENUM_VALUES: u64 = 1000;
const DEEPEST_STRICT: usize = 10;
/// What a bound on lengths or counts may be: each unit costs the compiler memory.
const HIGHEST_COUNT: u64 = 10_000;
/// Properties of one object that need not be there: a mask looks at all that may come next.
const MOST_OPTIONAL: usize = 500;
/// What `multipleOf` may be, written without its point: each remainder is a state of the lexer.
const HIGHEST_DIVISOR: u64 = 1000;

/// Keywords of JSON Schema that `strict` does not know.
const NOT_STRICT: [&str; 22] = [
    "allOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "patternProperties",
    "propertyNames",
    "minProperties",
    "maxProperties",
    "unevaluatedProperties",
    "unevaluatedItems",
    "contains",
    "minContains",
    "maxContains",
    "uniqueItems",
    "prefixItems",
    "additionalItems",
    "$dynamicRef",
];
/// One of these says what a strict schema is of.
const SAYS_WHAT: [&str; 5] = ["type", "enum", "const", "anyOf", "$ref"];
/// Keywords that say nothing about an instance, for llguidance and for us.
pub(super) const ANNOTATIONS: [&str; 15] = [
    "$anchor",
    "$defs",
    "definitions",
    "$schema",
    "$id",
    "id",
    "$comment",
    "title",
    "description",
    "default",
    "readOnly",
    "writeOnly",
    "examples",
    "contentMediaType",
    "contentEncoding",
];
/// Keywords whose value is one schema.
const ONE: [&str; 9] = [
    "items",
    "additionalProperties",
    "additionalItems",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
];
/// Keywords whose value is a list of schemas.
const LISTS: [&str; 4] = ["anyOf", "oneOf", "allOf", "prefixItems"];
/// Keywords whose value is schemas by name.
const MAPS: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
pub(super) const COUNTS: [&str; 6] = [
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
];

/// Where a reference leads.
pub(super) struct Target<'s> {
    /// As it is written, such as `#/$defs/name`.
    pub(super) reference: String,
    schema: &'s Value,
}

/// Checks all of a schema, and all that its references lead to. The references, each once.
pub(super) fn check(schema: &Value, strict: bool) -> Result<Vec<Target<'_>>, Misfit> {
    if strict {
        strict_root(schema)?;
    }
    let mut check = Check {
        root: schema,
        strict,
        properties: 0,
        enum_values: 0,
        pattern_pairs: 0,
        levels: levels(schema),
        checked: HashSet::new(),
        targets: Vec::new(),
        referred: HashSet::new(),
        below: HashMap::new(),
    };
    check.schema(schema, "", 0, 0)?;
    // More of them may be found on the way.
    let mut next = 0;
    while let Some(target) = check.targets.get(next) {
        let (place, schema) = (place_of(&target.reference), target.schema);
        if !check.checked.contains(&std::ptr::from_ref(schema)) {
            check.schema(schema, &place, 0, 0)?;
        }
        next += 1;
    }
    let Check { root, targets, .. } = check;
    let mut growth = Growth::of(root);
    let mut seen = HashSet::from([std::ptr::from_ref(root)]);
    let mut schemas = growth.schemas(root);
    for target in &targets {
        if schemas <= MOST_SCHEMAS && seen.insert(std::ptr::from_ref(target.schema)) {
            schemas = schemas.saturating_add(growth.schemas(target.schema));
        }
    }
    if schemas > MOST_SCHEMAS {
        let why = format!(
            "has more than {MOST_SCHEMAS} parts when the alternatives of its `anyOf`, `oneOf`, `enum` \
             and `allOf` are multiplied out: have fewer of them beside each other"
        );
        return Err(misfit("", why));
    }
    Ok(targets)
}

fn strict_root(schema: &Value) -> Result<(), Misfit> {
    let root = schema.as_object();
    if root.is_none_or(|root| root.get("type") != Some(&json!("object"))) {
        return Err(misfit("", "must have `\"type\": \"object\"` at its root"));
    }
    if root.is_some_and(|root| root.contains_key("anyOf")) {
        return Err(misfit("", "must not have `anyOf` at its root"));
    }
    Ok(())
}

/// The place that a reference names, as llguidance finds it: names as they are written, without
/// JSON Pointer's escapes. What we check has to be what it compiles.
pub(super) fn resolve<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    if reference == "#" || reference == "#/" {
        return Some(root);
    }
    let mut names = reference.strip_prefix("#/")?.split('/');
    names.try_fold(root, |place, name| match place {
        Value::Array(list) => list.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

/// The same place, to change it.
pub(super) fn resolve_mut<'s>(root: &'s mut Value, reference: &str) -> Option<&'s mut Value> {
    if reference == "#" || reference == "#/" {
        return Some(root);
    }
    let mut names = reference.strip_prefix("#/")?.split('/');
    names.try_fold(root, |place, name| match place {
        Value::Array(list) => list.get_mut(name.parse::<usize>().ok()?),
        other => other.get_mut(name),
    })
}

/// `#/$defs/name` as `.$defs.name`.
fn place_of(reference: &str) -> String {
    let names = reference.trim_start_matches('#').trim_end_matches('/');
    names.replace('/', ".")
}

/// JSON values within each other.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

struct Check<'s> {
    root: &'s Value,
    strict: bool,
    properties: usize,
    enum_values: u64,
    pattern_pairs: usize,
    levels: usize,
    /// By address: what a reference leads to may stand where a schema stands anyway.
    checked: HashSet<*const Value>,
    targets: Vec<Target<'s>>,
    /// The references of all targets.
    referred: HashSet<String>,
    /// Levels below what references lead to, by address.
    below: HashMap<*const Value, usize>,
}

impl<'s> Check<'s> {
    /// `depth` counts schemas, `objects` those of them that are objects.
    fn schema(
        &mut self,
        schema: &'s Value,
        path: &str,
        depth: usize,
        objects: usize,
    ) -> Result<(), Misfit> {
        self.checked.insert(std::ptr::from_ref(schema));
        let object = match schema {
            Value::Object(object) => object,
            Value::Bool(_) if !self.strict => return Ok(()),
            _ => return Err(misfit(path, "must be an object")),
        };
        if depth > DEEPEST {
            return Err(misfit(path, format!("is nested deeper than {DEEPEST}")));
        }
        let is_object = object.get("type") == Some(&json!("object"));
        let objects = objects + usize::from(is_object);
        if self.strict {
            Self::strict_keywords(object, path)?;
            if objects > DEEPEST_STRICT {
                let why = format!("is nested deeper than {DEEPEST_STRICT} objects");
                return Err(misfit(path, why));
            }
            if is_object {
                strict_object(object, path)?;
            }
        }
        self.reference(object, path)?;
        types(object, path)?;
        counts(object, path)?;
        divisor(object, path)?;
        optional(object, path)?;
        self.required(object, path)?;
        self.patterns(object, path)?;
        self.values(object, path)?;
        self.parts(object, path, depth + 1, objects)
    }

    fn parts(
        &mut self,
        object: &'s Map<String, Value>,
        path: &str,
        depth: usize,
        objects: usize,
    ) -> Result<(), Misfit> {
        for key in ONE {
            if let Some(inner) = object.get(key)
                // `additionalProperties` and `items` may be plain yes or no.
                && !inner.is_boolean()
            {
                // Before 2020 `items` could be a list.
                for (at, inner) in listed(inner, &format!("{path}.{key}")) {
                    self.schema(inner, &at, depth, objects)?;
                }
            }
        }
        for key in LISTS {
            if let Some(list) = object.get(key) {
                let at = format!("{path}.{key}");
                if !list.is_array() {
                    return Err(misfit(&at, "must be an array of schemas"));
                }
                for (at, inner) in listed(list, &at) {
                    self.schema(inner, &at, depth, objects)?;
                }
            }
        }
        for key in MAPS {
            if let Some(map) = object.get(key) {
                let at = format!("{path}.{key}");
                let map = map
                    .as_object()
                    .ok_or_else(|| misfit(&at, "must be an object of schemas by name"))?;
                self.count_properties(map.len(), &at)?;
                for (name, inner) in map {
                    self.schema(inner, &format!("{at}.{name}"), depth, objects)?;
                }
            }
        }
        Ok(())
    }

    fn count_properties(&mut self, more: usize, at: &str) -> Result<(), Misfit> {
        self.properties += more;
        if self.properties > MOST_PROPERTIES {
            let why = format!("is beyond the {MOST_PROPERTIES}th property of the schema");
            return Err(misfit(at, why));
        }
        Ok(())
    }

    /// A name that must be there is a property, whether it is declared or not.
    fn required(&mut self, object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        let declared = object.get("properties").and_then(Value::as_object);
        let is_declared = |name: &str| declared.is_some_and(|map| map.contains_key(name));
        let required = names(object.get("required"));
        let more = required.iter().filter(|name| !is_declared(name)).count();
        self.count_properties(more, &format!("{path}.required"))
    }

    /// A bound on what `patternProperties` cost.
    fn patterns(&mut self, object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        let count = |key: &str| {
            let map = object.get(key).and_then(Value::as_object);
            map.map_or(0, Map::len)
        };
        let patterns = count("patternProperties");
        let at = format!("{path}.patternProperties");
        self.pattern_pairs += patterns * patterns.saturating_sub(1) / 2;
        if self.pattern_pairs > MOST_PATTERN_PAIRS {
            let why = "are too many: of 16 patterns in one place each can be held against each other, \
                       in all of a schema there may be no more such pairs";
            return Err(misfit(&at, why));
        }
        if patterns * count("properties") > MOST_PATTERN_MATCHES {
            let why = format!(
                "are too many beside so many `properties`: patterns times properties may be \
                 {MOST_PATTERN_MATCHES} at most"
            );
            return Err(misfit(&at, why));
        }
        Ok(())
    }

    /// References stay within the schema, and what they name is there, and is checked later.
    fn reference(&mut self, object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        let Some(reference) = object.get("$ref") else {
            return Ok(());
        };
        let at = format!("{path}.$ref");
        let reference = reference.as_str().unwrap_or_default();
        let Some(schema) = resolve(self.root, reference) else {
            let why = "must name a place in this schema that is there, such as `#/$defs/name`";
            return Err(misfit(&at, why));
        };
        if !self.referred.insert(reference.to_owned()) {
            return Ok(());
        }
        let address = std::ptr::from_ref(schema);
        // One place may be written in many ways, such as `0` and `00`.
        let below = *self.below.entry(address).or_insert_with(|| levels(schema));
        self.levels += 1 + below;
        if self.levels > MOST_LEVELS {
            let why = format!(
                "is one reference too many: what all of them lead to may be {MOST_LEVELS} levels deep \
                 in all"
            );
            return Err(misfit(&at, why));
        }
        self.targets.push(Target {
            reference: reference.to_owned(),
            schema,
        });
        Ok(())
    }

    fn strict_keywords(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        if let Some(keyword) = NOT_STRICT.iter().find(|key| object.contains_key(**key)) {
            let why = format!("`{keyword}` is not permitted in a strict schema");
            return Err(misfit(&format!("{path}.{keyword}"), why));
        }
        // An empty schema allows anything, which strict schemas never do.
        if !SAYS_WHAT.iter().any(|key| object.contains_key(*key)) {
            let why = "must have a `type`, or one of `enum`, `const`, `anyOf` and `$ref`";
            return Err(misfit(path, why));
        }
        Ok(())
    }

    /// Each value of `enum` and `const` is compiled, and so is each that stands in it.
    fn values(&mut self, object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
        let constant = object.get("const").map_or(0, values);
        let at = if constant > 0 { "const" } else { "enum" };
        let at = format!("{path}.{at}");
        let listed = match object.get("enum") {
            None => 0,
            Some(Value::Array(list)) if !list.is_empty() => list.iter().map(values).sum(),
            Some(_) => return Err(misfit(&at, "must be an array of values, and not empty")),
        };
        self.enum_values += constant + listed;
        if self.enum_values > MOST_ENUM_VALUES {
            let why = format!("is beyond the {MOST_ENUM_VALUES}th enum value of the schema");
            return Err(misfit(&at, why));
        }
        Ok(())
    }
}

/// Every property is required, and no other may come.
fn strict_object(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    if object.get("additionalProperties") != Some(&Value::Bool(false)) {
        let why = "`additionalProperties` must be there and be false in a strict schema";
        return Err(misfit(&format!("{path}.additionalProperties"), why));
    }
    let at = format!("{path}.required");
    if object
        .get("required")
        .is_some_and(|required| !required.is_array())
    {
        return Err(misfit(&at, "must be an array of names"));
    }
    let required = names(object.get("required"));
    let properties = object.get("properties").and_then(Value::as_object);
    let known = |name: &str| properties.is_some_and(|map| map.contains_key(name));
    // The same one each time.
    if let Some(name) = required.iter().filter(|name| !known(name)).min() {
        return Err(misfit(
            &at,
            format!("`{name}` is not one of the properties"),
        ));
    }
    let left_out = properties
        .into_iter()
        .flat_map(Map::keys)
        .find(|name| !required.contains(&name.as_str()));
    match left_out {
        None => Ok(()),
        Some(name) => Err(misfit(
            &at,
            format!(
                "must name every property of a strict schema; `{name}` is missing \
                 (an optional one has the type `[…, \"null\"]`)"
            ),
        )),
    }
}

/// Each type that is listed is compiled with all keywords of the schema.
fn types(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    let Some(Value::Array(list)) = object.get("type") else {
        return Ok(());
    };
    let mut seen = HashSet::new();
    if list.iter().all(|name| seen.insert(name.as_str())) {
        return Ok(());
    }
    let why = "must name each type once";
    Err(misfit(&format!("{path}.type"), why))
}

fn counts(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    for key in COUNTS {
        if let Some(count) = object.get(key) {
            let fits = count.as_u64().is_some_and(|count| count <= HIGHEST_COUNT);
            if !fits {
                let why = format!("must be a whole number from 0 to {HIGHEST_COUNT}");
                return Err(misfit(&format!("{path}.{key}"), why));
            }
        }
    }
    Ok(())
}

/// A bound on what `multipleOf` costs.
fn divisor(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    let Some(value) = object.get("multipleOf") else {
        return Ok(());
    };
    let fits = value.as_f64().is_some_and(|number| {
        // As a double is written shortest, such as 0.25 or 1e-7.
        let text = number.to_string();
        let digits = text.chars().filter(char::is_ascii_digit);
        let digits: String = digits.collect();
        let divisor: Result<u64, _> = digits.parse();
        number > 0.0 && divisor.is_ok_and(|divisor| divisor <= HIGHEST_DIVISOR)
    });
    if fits {
        return Ok(());
    }
    let why = format!(
        "must be a number above 0 and, written without its decimal point, at most {HIGHEST_DIVISOR}"
    );
    Err(misfit(&format!("{path}.multipleOf"), why))
}

/// A bound on what may come next in an object.
fn optional(object: &Map<String, Value>, path: &str) -> Result<(), Misfit> {
    let Some(properties) = object.get("properties").and_then(Value::as_object) else {
        return Ok(());
    };
    let required = names(object.get("required"));
    let needed = properties
        .keys()
        .filter(|name| required.contains(name.as_str()));
    let optional = properties.len() - needed.count();
    if optional > MOST_OPTIONAL {
        let why = format!(
            "has {optional} properties that are not `required`; at most {MOST_OPTIONAL} may be optional"
        );
        return Err(misfit(&format!("{path}.properties"), why));
    }
    Ok(())
}

/// The texts of an array.
fn names(list: Option<&Value>) -> HashSet<&str> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}
/// The schemas of a list, or the one that is none, each with its place.
fn listed<'v>(value: &'v Value, path: &str) -> Vec<(String, &'v Value)> {
    match value {
        Value::Array(list) => list
            .iter()
            .enumerate()
            .map(|(index, inner)| (format!("{path}[{index}]"), inner))
            .collect(),
        one => vec![(path.to_owned(), one)],
    }
}

fn misfit(path: &str, why: impl Into<String>) -> Misfit {
    Misfit {
        path: path.to_owned(),
        why: why.into(),
    }
}
