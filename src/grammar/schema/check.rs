//! What a client's schema may be: the rules of `strict`, and how large any schema may be.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::cost::{Growth, values};
use super::keywords::kinds_of_values;
use super::numbers::has_numbers;
use super::path::{SchemaPath, schema_error};
use super::reference::{ReferenceTarget, resolve};
use super::strict::{strict_keywords, strict_object, strict_root};

/// Deeper schemas are refused before any recursion of ours or of the compiler's.
const DEEPEST_SCHEMA: usize = 64;
/// JSON values within each other, added up over the schema and all places that references lead to:
/// the compiler follows each reference once, and in the worst case all of them from within each
/// other. [`super::super::compile::STACK`] is sized for it.
pub(in crate::grammar) const MOST_LEVELS: usize = 4096;
/// Numbers in a schema: the range of each is a pattern of its own, which takes half a millisecond to make.
const MOST_NUMBERS: usize = 1000;
/// Pairs of patterns in `patternProperties`, which llguidance compares two by two: those of 16 patterns.
const MOST_PATTERN_PAIRS: usize = 120;
/// Pairs of a pattern and a property, which llguidance compares as well.
const MOST_PATTERN_MATCHES: usize = 5000;
/// Schemas that all alternatives have together when they are multiplied out: some half a
/// kilobyte of memory each while they are compiled.
const MOST_SCHEMAS: u64 = 100_000;
/// OpenAI's limits for strict schemas, which apply to all schemas here.
const MOST_PROPERTIES: usize = 5000;
const MOST_ENUM_VALUES: u64 = 1000;
const DEEPEST_STRICT: usize = 10;
/// Highest bound on a length or count: each unit costs the compiler memory.
const HIGHEST_COUNT: u64 = 10_000;
/// Optional properties of one object: a mask considers all that may come next.
const MOST_OPTIONAL: usize = 500;
/// Highest `multipleOf`, written without its decimal point: each remainder is a state of the lexer.
const HIGHEST_DIVISOR: u32 = 1000;
/// Decimal places that `multipleOf` may have.
const MOST_PLACES: usize = 16;

/// Keywords that do not constrain an instance, for llguidance and for us.
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

/// Which rules a schema is checked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CheckRules {
    /// OpenAI's rules for strict schemas, in addition to those of `Followed`.
    Strict,
    /// The schema can be followed.
    Followed,
    /// The schema is valid at all: a model only reads it.
    Hint,
}

/// Checks all of a schema and all that its references lead to; returns the targets of the references,
/// each once.
pub(super) fn check(
    schema: &Value,
    rules: CheckRules,
) -> Result<Vec<ReferenceTarget<'_>>, SchemaError> {
    if rules == CheckRules::Strict {
        strict_root(schema)?;
    }
    let mut check = SchemaCheck {
        root: schema,
        rules,
        properties: 0,
        enum_values: 0,
        pattern_pairs: 0,
        numbers: 0,
        levels: levels(schema),
        checked: HashSet::new(),
        targets: Vec::new(),
        referred: HashSet::new(),
    };
    check.schema(schema, &SchemaPath::ROOT, 0, 0)?;
    // More of them may be found on the way.
    let mut next = 0;
    while let Some(target) = check.targets.get(next) {
        let (place, schema) = (target.place.clone(), target.schema);
        let place = SchemaPath::ROOT.behind(&place);
        if !check.checked.contains(&std::ptr::from_ref(schema)) {
            check.schema(schema, &place, 0, 0)?;
        }
        next += 1;
    }
    Ok(check.targets)
}

/// Checks how much a lowered schema would grow in the compiler.
pub(super) fn check_growth(lowered: &Value) -> Result<(), SchemaError> {
    let definitions = lowered.get("$defs").and_then(Value::as_object);
    let definitions = || definitions.into_iter().flat_map(Map::values);
    let deep: usize = definitions().map(|schema| 1 + levels(schema)).sum();
    if deep > MOST_LEVELS + MOST_LEVELS / 4 {
        let why = "has too many references in circles with something beside them: they have to be written \
                   out, and are too deep so";
        return Err(schema_error(&SchemaPath::ROOT, why));
    }
    let mut growth = Growth::of(lowered);
    let mut schemas = growth.schemas(lowered);
    for schema in definitions() {
        if schemas <= MOST_SCHEMAS {
            schemas = schemas.saturating_add(growth.schemas(schema));
        }
    }
    if schemas > MOST_SCHEMAS {
        let why = format!(
            "has more than {MOST_SCHEMAS} parts when the alternatives of its `anyOf`, `oneOf`, `enum` \
             and `allOf` are multiplied out: have fewer of them beside each other"
        );
        return Err(schema_error(&SchemaPath::ROOT, why));
    }
    Ok(())
}

/// Returns how deep JSON values are nested.
fn levels(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(levels).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(levels).max().unwrap_or(0),
        _ => 0,
    }
}

struct SchemaCheck<'s> {
    root: &'s Value,
    rules: CheckRules,
    properties: usize,
    enum_values: u64,
    pattern_pairs: usize,
    numbers: usize,
    levels: usize,
    /// Addresses of the schemas that were checked: the target of a reference may be checked already as part
    /// of the schema.
    checked: HashSet<*const Value>,
    targets: Vec<ReferenceTarget<'s>>,
    /// The addresses of all targets.
    referred: HashSet<*const Value>,
}

impl<'s> SchemaCheck<'s> {
    /// `depth` counts schemas, `objects` those of them that are objects.
    fn schema(
        &mut self,
        schema: &'s Value,
        path: &SchemaPath,
        depth: usize,
        objects: usize,
    ) -> Result<(), SchemaError> {
        self.checked.insert(std::ptr::from_ref(schema));
        let object = match schema {
            Value::Object(object) => object,
            Value::Bool(_) if self.rules != CheckRules::Strict => return Ok(()),
            _ => return Err(schema_error(path, "must be an object")),
        };
        if depth > DEEPEST_SCHEMA {
            return Err(schema_error(
                path,
                format!("is nested deeper than {DEEPEST_SCHEMA}"),
            ));
        }
        // What a reference leads to has its own rules, and its type may be said beside it.
        let refers = object.contains_key("$ref") && !object.contains_key("properties");
        let is_object = object.get("type") == Some(&json!("object")) && !refers;
        let objects = objects + usize::from(is_object);
        if self.rules == CheckRules::Strict {
            strict_keywords(object, path)?;
            if objects > DEEPEST_STRICT {
                let why = format!("is nested deeper than {DEEPEST_STRICT} objects");
                return Err(schema_error(path, why));
            }
            if is_object {
                strict_object(object, path)?;
            }
        }
        self.reference(object, path)?;
        kinds_of_values(object, path)?;
        enumeration(object, path)?;
        if self.rules == CheckRules::Hint {
            counts(object, path, u64::MAX)?;
        } else {
            self.costs(object, path)?;
        }
        self.parts(object, path, depth + 1, objects)
    }

    /// Bounds on what it takes to follow a schema.
    fn costs(&mut self, object: &Map<String, Value>, path: &SchemaPath) -> Result<(), SchemaError> {
        self.numbers(object, path)?;
        counts(object, path, HIGHEST_COUNT)?;
        divisor(object, path)?;
        optional(object, path)?;
        self.required(object, path)?;
        self.patterns(object, path)?;
        self.values(object, path)
    }

    fn parts(
        &mut self,
        object: &'s Map<String, Value>,
        path: &SchemaPath,
        depth: usize,
        objects: usize,
    ) -> Result<(), SchemaError> {
        for key in ONE {
            if let Some(inner) = object.get(key)
                // `additionalProperties` and `items` may be plain yes or no.
                && !inner.is_boolean()
            {
                // Before 2020 `items` could be a list.
                self.listed(inner, &path.under(key), depth, objects)?;
            }
        }
        for key in LISTS {
            if let Some(list) = object.get(key) {
                let at = path.under(key);
                if !list.is_array() {
                    return Err(schema_error(&at, "must be an array of schemas"));
                }
                self.listed(list, &at, depth, objects)?;
            }
        }
        for key in MAPS {
            if let Some(map) = object.get(key) {
                let at = path.under(key);
                let map = map
                    .as_object()
                    .ok_or_else(|| schema_error(&at, "must be an object of schemas by name"))?;
                self.count_properties(map.len(), &at)?;
                for (name, inner) in map {
                    self.schema(inner, &at.under(name), depth, objects)?;
                }
            }
        }
        Ok(())
    }

    /// The schemas of a list, or the one that is none.
    fn listed(
        &mut self,
        value: &'s Value,
        path: &SchemaPath,
        depth: usize,
        objects: usize,
    ) -> Result<(), SchemaError> {
        let Value::Array(list) = value else {
            return self.schema(value, path, depth, objects);
        };
        for (index, inner) in list.iter().enumerate() {
            self.schema(inner, &path.at(index), depth, objects)?;
        }
        Ok(())
    }

    fn count_properties(&mut self, more: usize, at: &SchemaPath) -> Result<(), SchemaError> {
        self.properties += more;
        if self.properties > MOST_PROPERTIES {
            let why = format!("is beyond the {MOST_PROPERTIES}th property of the schema");
            return Err(schema_error(at, why));
        }
        Ok(())
    }

    /// A name that must be there is a property, whether it is declared or not.
    fn required(
        &mut self,
        object: &Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<(), SchemaError> {
        let declared = object.get("properties").and_then(Value::as_object);
        let is_declared = |name: &str| declared.is_some_and(|map| map.contains_key(name));
        let required = names(object.get("required"));
        let more = required.iter().filter(|name| !is_declared(name)).count();
        self.count_properties(more, &path.under("required"))
    }

    fn numbers(
        &mut self,
        object: &Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<(), SchemaError> {
        self.numbers += usize::from(has_numbers(object));
        if self.numbers > MOST_NUMBERS {
            let why = format!("is beyond the {MOST_NUMBERS}th number of the schema");
            return Err(schema_error(path, why));
        }
        Ok(())
    }

    /// Bounds what `patternProperties` cost.
    fn patterns(
        &mut self,
        object: &Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<(), SchemaError> {
        let count = |key: &str| {
            let map = object.get(key).and_then(Value::as_object);
            map.map_or(0, Map::len)
        };
        let patterns = count("patternProperties");
        let at = path.under("patternProperties");
        self.pattern_pairs += patterns * patterns.saturating_sub(1) / 2;
        if self.pattern_pairs > MOST_PATTERN_PAIRS {
            let why = "are too many: of 16 patterns in one place each can be held against each other, \
                       in all of a schema there may be no more such pairs";
            return Err(schema_error(&at, why));
        }
        if patterns * count("properties") > MOST_PATTERN_MATCHES {
            let why = format!(
                "are too many beside so many `properties`: patterns times properties may be \
                 {MOST_PATTERN_MATCHES} at most"
            );
            return Err(schema_error(&at, why));
        }
        Ok(())
    }

    /// References stay within the schema, and what they name is there, and is checked later.
    fn reference(
        &mut self,
        object: &Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<(), SchemaError> {
        let Some(reference) = object.get("$ref") else {
            return Ok(());
        };
        let at = path.under("$ref");
        let reference = reference.as_str().unwrap_or_default();
        let Some(target) = resolve(self.root, reference) else {
            let why = "must name a place in this schema that is there, such as `#/$defs/name`";
            return Err(schema_error(&at, why));
        };
        if !self.referred.insert(std::ptr::from_ref(target.schema)) {
            return Ok(());
        }
        self.levels += 1 + levels(target.schema);
        if self.levels > MOST_LEVELS {
            let why = format!(
                "is one reference too many: what all of them lead to may be {MOST_LEVELS} levels deep \
                 in all"
            );
            return Err(schema_error(&at, why));
        }
        self.targets.push(target);
        Ok(())
    }

    /// Each value of `enum` and `const` is compiled, and so is each that stands in it.
    fn values(
        &mut self,
        object: &Map<String, Value>,
        path: &SchemaPath,
    ) -> Result<(), SchemaError> {
        let constant = object.get("const").map_or(0, values);
        let at = path.under(if constant > 0 { "const" } else { "enum" });
        let listed = object.get("enum").and_then(Value::as_array);
        let listed: u64 = listed.into_iter().flatten().map(values).sum();
        self.enum_values += constant + listed;
        if self.enum_values > MOST_ENUM_VALUES {
            let why = format!("is beyond the {MOST_ENUM_VALUES}th enum value of the schema");
            return Err(schema_error(&at, why));
        }
        Ok(())
    }
}

fn enumeration(object: &Map<String, Value>, path: &SchemaPath) -> Result<(), SchemaError> {
    match object.get("enum") {
        None => Ok(()),
        Some(Value::Array(list)) if !list.is_empty() => Ok(()),
        Some(_) => {
            let why = "must be an array of values, and not empty";
            Err(schema_error(&path.under("enum"), why))
        }
    }
}

fn counts(object: &Map<String, Value>, path: &SchemaPath, highest: u64) -> Result<(), SchemaError> {
    for key in COUNTS {
        if let Some(count) = object.get(key) {
            let fits = count.as_u64().is_some_and(|count| count <= highest);
            if !fits {
                let why = format!("must be a whole number from 0 to {highest}");
                return Err(schema_error(&path.under(key), why));
            }
        }
    }
    Ok(())
}

/// Bounds what `multipleOf` costs.
fn divisor(object: &Map<String, Value>, path: &SchemaPath) -> Result<(), SchemaError> {
    let Some(value) = object.get("multipleOf") else {
        return Ok(());
    };
    // Values that are prescribed are filtered by it before anything is compiled.
    let is_prescribed = object.contains_key("enum") || object.contains_key("const");
    let fits = value.as_f64().is_some_and(|number| {
        if is_prescribed {
            return number > 0.0;
        }
        // As a double is written shortest, such as 0.25 or 1e-7.
        let text = number.to_string();
        let digits = text.chars().filter(char::is_ascii_digit);
        let digits: String = digits.collect();
        let divisor: Result<u32, _> = digits.parse();
        let fits = |divisor: u32| {
            divisor <= HIGHEST_DIVISOR && without_point(number) == Some(divisor.into())
        };
        number > 0.0 && divisor.is_ok_and(fits)
    });
    if fits {
        return Ok(());
    }
    let why = format!(
        "must be a number above 0 and, written without its decimal point, at most {HIGHEST_DIVISOR}; \
         a few, such as 0.07 and those below 1e-7, cannot be followed"
    );
    Err(schema_error(&path.under("multipleOf"), why))
}

/// A number without its decimal point, as llguidance finds it: by steps, of which each may round.
fn without_point(mut number: f64) -> Option<f64> {
    for _ in 0..MOST_PLACES {
        if number.fract() == 0.0 {
            return Some(number);
        }
        number *= 10.0;
    }
    None
}

/// Bounds how many properties may come next in an object.
fn optional(object: &Map<String, Value>, path: &SchemaPath) -> Result<(), SchemaError> {
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
        return Err(schema_error(&path.under("properties"), why));
    }
    Ok(())
}

/// Returns the strings of an array.
pub(super) fn names(list: Option<&Value>) -> HashSet<&str> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).collect()
}
