//! Objects: their properties, and the patterns of names.

use serde_json::{Map, Value, json};

use super::SchemaError;
use super::lower::Lowering;
use super::path::SchemaPath;
use super::pattern::Pattern;
use super::reference::resolve;
use super::strings::malformed;

/// Writes the keywords about properties so that llguidance takes them.
pub(super) fn lower(
    lowering: &mut Lowering,
    object: &Map<String, Value>,
    heard: &mut Map<String, Value>,
    path: &SchemaPath,
) -> Result<(), SchemaError> {
    if let Some(Value::Object(properties)) = object.get("properties") {
        let properties = named(lowering, properties, &path.under("properties"))?;
        heard.insert("properties".to_owned(), properties.into());
    }
    if let Some(others) = object.get("additionalProperties") {
        let others = lowering.schema(others, &path.under("additionalProperties"))?;
        heard.insert("additionalProperties".to_owned(), others);
    }
    if let Some(Value::Object(patterns)) = object.get("patternProperties") {
        let at = path.under("patternProperties");
        for pattern in patterns.keys() {
            well_formed(pattern, &at.under(pattern))?;
        }
        let patterns = named(lowering, patterns, &at)?;
        pattern_properties(&patterns, heard);
    }
    if let Some(names) = object.get("propertyNames") {
        let names = lowering.follow(names);
        if let Some(pattern) = names.get("pattern").and_then(Value::as_str) {
            well_formed(pattern, &path.under("propertyNames").under("pattern"))?;
        }
        property_names(names, heard);
    }
    Ok(())
}

/// Refuses a pattern of names that is malformed.
fn well_formed(pattern: &str, path: &SchemaPath) -> Result<(), SchemaError> {
    match Pattern::new(pattern) {
        Err(unsupported) if unsupported.is_malformed => Err(malformed(path, &unsupported)),
        _ => Ok(()),
    }
}

/// llguidance counts properties only where all that are declared have to be there. So no others come than
/// the declared ones: the first ones of those have to be there, the last ones do not come. Where too
/// few are declared, all of them have to be there, and others come. That is for more properties than
/// [`counted`](super::choices::counted) writes out.
pub(super) fn counts(heard: &mut Map<String, Value>) {
    let count = |key: &str| {
        let count = heard.get(key).and_then(Value::as_u64);
        count.map(|count| usize::try_from(count).unwrap_or(usize::MAX))
    };
    let (least, most) = (count("minProperties").unwrap_or(0), count("maxProperties"));
    let Some(Value::Object(properties)) = heard.get("properties") else {
        return;
    };
    let listed = heard.get("required").and_then(Value::as_array);
    let mut required: Vec<Value> = listed.cloned().unwrap_or_default();
    let is_optional = |name: &&String| !required.iter().any(|other| other == name.as_str());
    let optional: Vec<String> = properties.keys().filter(is_optional).cloned().collect();
    let needed = required.len();
    if optional.is_empty() || (least <= needed && most.is_none()) {
        return;
    }
    let is_open = heard.get("additionalProperties") != Some(&Value::Bool(false))
        || heard.contains_key("patternProperties");
    if least > needed + optional.len() && is_open {
        required.extend(optional.into_iter().map(Value::from));
        heard.insert("required".to_owned(), required.into());
        return;
    }
    heard.shift_remove("patternProperties");
    heard.insert("additionalProperties".to_owned(), false.into());
    let room = most.map_or(usize::MAX, |most| most.saturating_sub(needed));
    if let Some(Value::Object(properties)) = heard.get_mut("properties") {
        optional
            .iter()
            .skip(room)
            .for_each(|name| drop(properties.shift_remove(name)));
    }
    if most.is_some_and(|most| most >= needed) {
        heard.shift_remove("maxProperties");
    }
    let is_kept = least <= needed.saturating_add(room.min(optional.len()));
    // At least one of them llguidance can do.
    if (needed, least) != (0, 1) {
        let more = optional
            .into_iter()
            .take(room)
            .take(least.saturating_sub(needed));
        required.extend(more.map(Value::from));
        heard.insert("required".to_owned(), required.into());
        // Where nothing fits, llguidance says so.
        if is_kept {
            heard.shift_remove("minProperties");
        }
    }
}

fn named(
    lowering: &mut Lowering,
    schemas: &Map<String, Value>,
    path: &SchemaPath,
) -> Result<Map<String, Value>, SchemaError> {
    let lowered = schemas.iter().map(|(name, schema)| {
        let schema = lowering.schema(schema, &path.under(name))?;
        Ok((name.clone(), schema))
    });
    lowered.collect()
}

/// llguidance takes patterns only where no name fits two of them. Where that is not certain, all names
/// that fit the first have to fit what is said of all, and no others come. So it is where a pattern cannot be
/// followed: which names it is about nobody knows then.
fn pattern_properties(schemas: &Map<String, Value>, heard: &mut Map<String, Value>) {
    heard.shift_remove("patternProperties");
    let count = schemas.len();
    let known = schemas
        .iter()
        .filter_map(|(pattern, schema)| Some((Pattern::new(pattern).ok()?, schema.clone())));
    let known: Vec<(Pattern, Value)> = known.collect();
    let overlap = (1..known.len()).any(|index| {
        known[..index]
            .iter()
            .any(|(other, _)| !other.is_apart_from(&known[index].0))
    });
    if known.len() == count && !overlap {
        let schemas = known
            .into_iter()
            .map(|(pattern, schema)| (pattern.in_rust(), schema));
        heard.insert(
            "patternProperties".to_owned(),
            schemas.collect::<Map<_, _>>().into(),
        );
        return;
    }
    heard.insert("additionalProperties".to_owned(), false.into());
    if let Some(Value::Object(properties)) = heard.get_mut("properties") {
        for (name, schema) in properties {
            let said = known
                .iter()
                .filter(|(pattern, _)| pattern.fits(name) != Some(false));
            let mut all = vec![schema.take()];
            all.extend(said.map(|(_, schema)| schema.clone()));
            *schema = all_of(all);
        }
    }
    let all = all_of(known.iter().map(|(_, schema)| schema.clone()).collect());
    // What the first cannot have said of it by one that is not known, it is not said.
    if let Some((first, _)) = known.first().filter(|_| known.len() == count) {
        heard.insert(
            "patternProperties".to_owned(),
            json!({first.in_rust(): all}),
        );
    }
}

fn all_of(mut schemas: Vec<Value>) -> Value {
    let said = |schema: &Value| !matches!(schema, Value::Bool(true)) && schema != &json!({});
    schemas.retain(said);
    match schemas.len() {
        0 => true.into(),
        1 => schemas.swap_remove(0),
        _ => json!({"allOf": schemas}),
    }
}

/// Lowers `propertyNames` to `properties` or `patternProperties`, unless the schema has the latter; supports
/// names that are listed, match a pattern or have a length.
fn property_names(names: &Value, heard: &mut Map<String, Value>) {
    if heard.contains_key("patternProperties") {
        return;
    }
    let others = heard
        .get("additionalProperties")
        .cloned()
        .unwrap_or(true.into());
    if others == false {
        return;
    }
    let listed = match (names.get("enum"), names.get("const")) {
        (Some(Value::Array(list)), _) => Some(list.as_slice()),
        (None, Some(constant)) => Some(std::slice::from_ref(constant)),
        _ => None,
    };
    if let Some(listed) = listed {
        let properties = heard.entry("properties").or_insert_with(|| json!({}));
        if let Value::Object(properties) = properties {
            for name in listed.iter().filter_map(Value::as_str) {
                properties.entry(name).or_insert_with(|| others.clone());
            }
        }
        heard.insert("additionalProperties".to_owned(), false.into());
        return;
    }
    let pattern = names.get("pattern").and_then(Value::as_str);
    let pattern = match pattern.map(Pattern::new) {
        Some(Ok(pattern)) => pattern.in_rust(),
        Some(Err(_)) => return,
        None => match length(names) {
            Some(pattern) => pattern,
            None => return,
        },
    };
    heard.insert("patternProperties".to_owned(), json!({pattern: others}));
    heard.insert("additionalProperties".to_owned(), false.into());
}

fn length(names: &Value) -> Option<String> {
    let count = |key: &str| names.get(key).and_then(Value::as_u64);
    let (least, most) = (count("minLength"), count("maxLength"));
    least.or(most)?;
    let most = most.map_or(String::new(), |most| most.to_string());
    Some(format!("^(?s:.{{{},{most}}})$", least.unwrap_or(0)))
}

impl Lowering<'_> {
    /// What a schema that is nothing but a reference leads to.
    fn follow<'v>(&'v self, schema: &'v Value) -> &'v Value {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let target = reference.and_then(|reference| resolve(self.root, reference));
        target.map_or(schema, |target| target.schema)
    }
}
