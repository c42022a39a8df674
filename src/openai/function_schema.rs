//! The `parameters` of a function tool: the schema of the object that holds a call's arguments.

use serde_json::{Map, Value, json};

use crate::field::FieldPath;
use crate::grammar::Schema;

use crate::http::error::ApiError;
use crate::openai::tools::refuse;

/// Subschemas that are visited to find out whether the arguments can be an object. In a larger schema the
/// rest is assumed to allow objects.
const MOST_SCHEMAS_VISITED: usize = 200;
/// JSON Schema's types other than `object`.
const OTHER_TYPES: [&str; 6] = ["array", "string", "number", "integer", "boolean", "null"];
/// Keywords that allow or constrain properties beyond those declared in `properties`.
const OPEN_KEYWORDS: [&str; 6] = [
    "additionalProperties",
    "unevaluatedProperties",
    "patternProperties",
    "propertyNames",
    "$ref",
    "$dynamicRef",
];

/// How strictly the arguments of a call are held to the function's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SchemaAdherence {
    /// To the whole schema, which must be in OpenAI's strict subset.
    Strict,
    /// To the whole schema, which may use any supported keyword.
    BestEffort,
    /// Not at all: the model only reads the schema in its prompt.
    HintOnly,
}

/// Returns the schema for the arguments of a function whose `parameters` stand at `place`.
pub(crate) fn arguments(
    place: FieldPath,
    parameters: Option<&Value>,
    kept: SchemaAdherence,
) -> Result<Schema, ApiError> {
    let nothing = || match kept {
        SchemaAdherence::HintOnly => Schema::object(),
        SchemaAdherence::Strict | SchemaAdherence::BestEffort => Schema::nothing(),
    };
    let root = match parameters {
        // A function without parameters.
        None | Some(Value::Null) => return Ok(nothing()),
        Some(Value::Object(root)) if root.is_empty() => return Ok(nothing()),
        Some(Value::Object(root)) => root,
        Some(_) => {
            let message = format!("`{place}` must be a JSON schema: an object");
            return Err(ApiError::invalid(place, message));
        }
    };
    if !can_be_object(root) {
        let found = match root.get("type") {
            Some(found) => format!("its `type` is {found}"),
            None => "nothing that fits it is an object".to_owned(),
        };
        let message = format!(
            "`{place}` must be a schema of `type` `object`, because the arguments of a call are an \
             object; {found}: describe each argument as one of its `properties`"
        );
        return Err(ApiError::invalid(place, message));
    }
    let schema = match kept {
        // OpenAI's strict rules want a type and `additionalProperties` of the client.
        SchemaAdherence::Strict => Schema::new(root.clone().into(), true),
        SchemaAdherence::BestEffort => {
            Schema::new(declared_only(object_only(root.clone())).into(), false)
        }
        SchemaAdherence::HintOnly => {
            return Schema::check_hint(&root.clone().into())
                .map(|()| Schema::object())
                .map_err(|schema_error| refuse(&place, &schema_error));
        }
    };
    Ok(schema
        .map_err(|schema_error| refuse(&place, &schema_error))?
        .at(place))
}

/// Whether the schema allows an object, as far as its types and values tell. Unknown types are refused
/// later, when the schema itself is checked.
fn can_be_object(root: &Map<String, Value>) -> bool {
    let mut look = ObjectSearch {
        root,
        left: MOST_SCHEMAS_VISITED,
    };
    look.object(root)
}

struct ObjectSearch<'s> {
    root: &'s Map<String, Value>,
    /// How many subschemas may still be visited: references may be cyclic.
    left: usize,
}

impl ObjectSearch<'_> {
    fn schema(&mut self, schema: &Value) -> bool {
        match schema {
            Value::Object(schema) => self.object(schema),
            other => *other != Value::Bool(false),
        }
    }

    fn object(&mut self, schema: &Map<String, Value>) -> bool {
        if self.left == 0 {
            return true;
        }
        self.left -= 1;
        let list = |name: &str| schema.get(name).and_then(Value::as_array);
        schema.get("type").is_none_or(allows_objects)
            && schema.get("const").is_none_or(Value::is_object)
            && list("enum").is_none_or(|values| values.iter().any(Value::is_object))
            && list("allOf").is_none_or(|all| all.iter().all(|one| self.schema(one)))
            && list("anyOf").is_none_or(|any| any.iter().any(|one| self.schema(one)))
            && list("oneOf").is_none_or(|any| any.iter().any(|one| self.schema(one)))
            && referred(self.root, schema).is_none_or(|target| self.schema(target))
    }
}

fn allows_objects(kind: &Value) -> bool {
    let is_other = |kind: &Value| {
        kind.as_str()
            .is_some_and(|kind| OTHER_TYPES.contains(&kind))
    };
    match kind {
        Value::Array(kinds) => !kinds.iter().all(is_other),
        kind => !is_other(kind),
    }
}

/// Resolves the `$ref` of a schema, if it points into `root`.
fn referred<'s>(root: &'s Map<String, Value>, schema: &Map<String, Value>) -> Option<&'s Value> {
    let reference = schema.get("$ref")?.as_str()?.strip_prefix("#/")?;
    let (name, rest) = match reference.split_once('/') {
        Some((name, rest)) => (name, format!("/{rest}")),
        None => (reference, String::new()),
    };
    root.get(name)?.pointer(&rest)
}

/// Restricts a schema to objects, by adding `type` where it does not say so.
fn object_only(mut schema: Map<String, Value>) -> Map<String, Value> {
    let is_one = |schema: &Map<String, Value>| schema.get("type") == Some(&json!("object"));
    let target = referred(&schema, &schema).and_then(Value::as_object);
    // A type beside a reference is more than some references may have beside them.
    let says_so = is_one(&schema) || target.is_some_and(is_one);
    let is_known = |kind: &Value| {
        let kinds = kind.as_array().map_or(&[][..], Vec::as_slice);
        kinds.contains(&json!("object"))
    };
    if !says_so && schema.get("type").is_none_or(is_known) {
        schema.insert("type".to_owned(), json!("object"));
    }
    schema
}

/// Adds `additionalProperties: false` unless the schema mentions undeclared properties: a function has no
/// use for arguments that it does not declare.
fn declared_only(mut schema: Map<String, Value>) -> Map<String, Value> {
    let declared = schema.get("properties").and_then(Value::as_object);
    if declared.is_some_and(|declared| names_only(&schema, declared)) {
        schema.insert("additionalProperties".to_owned(), Value::Bool(false));
    }
    schema
}

/// Whether a schema, and the subschemas that apply to the same object, mention no properties other than the
/// `declared` ones.
fn names_only(schema: &Map<String, Value>, declared: &Map<String, Value>) -> bool {
    let names = |value: &Value| {
        let mut names = value.as_array().into_iter().flatten();
        names.all(|name| name.as_str().is_none_or(|name| declared.contains_key(name)))
    };
    let inner = |value: &Value| {
        value
            .as_object()
            .is_none_or(|one| names_only(one, declared))
    };
    let members = |value: &Value, fits: &dyn Fn(&Value) -> bool| {
        let mut members = value.as_object().into_iter().flatten();
        members.all(|(name, value)| declared.contains_key(name) && fits(value))
    };
    schema
        .iter()
        .all(|(keyword, value)| match keyword.as_str() {
            "properties" => members(value, &|_| true),
            "required" => names(value),
            "dependentRequired" => members(value, &names),
            "dependentSchemas" => members(value, &inner),
            "dependencies" => members(value, &|one| names(one) && inner(one)),
            "allOf" | "anyOf" | "oneOf" => value.as_array().into_iter().flatten().all(inner),
            "if" | "then" | "else" | "not" => inner(value),
            "minProperties" => value
                .as_u64()
                .is_none_or(|least| least <= declared.len() as u64),
            keyword => !OPEN_KEYWORDS.contains(&keyword),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: &str = "tools[0].function.parameters";

    /// What a schema became; `Err` with what was said against it.
    #[allow(clippy::needless_pass_by_value)] // reads better where it is called
    fn taken(schema: Value) -> Result<Value, String> {
        let arguments = arguments(PLACE.into(), Some(&schema), SchemaAdherence::BestEffort);
        arguments
            .map(|schema| schema.written().clone())
            .map_err(|error| {
                let body = error.body();
                assert_eq!(body["error"]["param"], PLACE);
                body["error"]["message"].to_string()
            })
    }

    #[test]
    fn a_root_that_is_never_an_object_is_refused_by_name() {
        let number = json!({"type": "number"});
        for schema in [
            json!({"type": "array", "items": {}}),
            json!({"type": "string"}),
            json!({"type": ["array", "null"]}),
            json!({"const": 5}),
            json!({"enum": ["a", [1]]}),
            json!({"anyOf": [number, {"type": "string"}]}),
            json!({"oneOf": [number, {"enum": [1]}]}),
            json!({"allOf": [{"type": "object"}, number]}),
            json!({"$ref": "#/$defs/n", "$defs": {"n": number}}),
            json!({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"anyOf": [{"$ref": "#/$defs/n"}]}, "n": number}}),
            json!({"anyOf": [false, {"type": "null"}]}),
        ] {
            let why = taken(schema.clone()).expect_err("no object");
            assert!(
                why.contains("object") && why.contains("properties"),
                "{schema}: {why}"
            );
        }
        for schema in [
            json!(true),
            json!(false),
            json!([]),
            json!("object"),
            json!(1),
        ] {
            taken(schema).expect_err("no schema of an object");
        }
    }

    #[test]
    fn the_objects_are_taken_of_a_root_that_is_more() {
        let object = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        for schema in [
            json!({"type": ["object", "null"], "properties": {}}),
            json!({"properties": {"a": {"type": "string"}}}),
            json!({"description": "anything"}),
            json!({"anyOf": [object, {"type": "string"}]}),
            json!({"oneOf": [object, object]}),
            json!({"const": {"a": "b"}}),
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": {"a": {}}}}}),
        ] {
            let held = taken(schema.clone()).expect("some are objects");
            assert_eq!(held["type"], "object", "{schema}");
        }
    }

    #[test]
    fn a_reference_to_an_object_is_left_alone() {
        let tree = json!({"type": "object", "properties": {"next": {"$ref": "#/$defs/tree"}}});
        let held = taken(json!({"$ref": "#/$defs/tree", "$defs": {"tree": tree}}));
        assert_eq!(held.expect("an object")["type"], Value::Null);
    }

    #[test]
    fn references_without_end_are_followed_for_a_while() {
        let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}});
        let circle = circle.as_object().expect("a schema");
        assert!(can_be_object(circle));
    }

    #[test]
    fn a_function_takes_nothing_that_it_does_not_declare() {
        let digit = json!({"type": "integer"});
        for more in [
            json!({}),
            json!({"required": ["a"]}),
            json!({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"allOf": [{"properties": {"a": digit}}]}),
            json!({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]}}),
            json!({"dependentRequired": {"a": ["b"]}}),
            json!({"dependencies": {"a": ["b"], "b": {"required": ["a"]}}}),
            json!({"not": {"required": ["a", "b"]}}),
            json!({"minProperties": 2}),
        ] {
            assert_eq!(closed(&more), json!(false), "{more}");
        }
        let without_properties = taken(json!({"type": "object"})).expect("sound");
        assert_eq!(without_properties["additionalProperties"], Value::Null);
    }

    #[test]
    fn what_a_schema_says_of_properties_elsewhere_stays_open() {
        let other = json!({"properties": {"c": {"type": "integer"}}, "required": ["c"]});
        for more in [
            json!({"required": ["a", "c"]}),
            json!({"allOf": [other]}),
            json!({"anyOf": [{"required": ["a"]}, other]}),
            json!({"oneOf": [{"oneOf": [other]}]}),
            json!({"allOf": [{"$ref": "#/$defs/c"}], "$defs": {"c": other}}),
            json!({"$ref": "#/$defs/c", "$defs": {"c": other}}),
            json!({"if": {"required": ["a"]}, "then": other}),
            json!({"if": {"required": ["a"]}, "else": {"required": ["c"]}}),
            json!({"dependentSchemas": {"a": other}}),
            json!({"dependentRequired": {"a": ["c"]}}),
            json!({"dependencies": {"a": ["c"]}}),
            json!({"dependencies": {"a": other}}),
            json!({"patternProperties": {"^x-": {}}}),
            json!({"anyOf": [{"patternProperties": {"^x-": {}}}]}),
            json!({"propertyNames": {"maxLength": 3}}),
            json!({"allOf": [{"additionalProperties": {"type": "integer"}}]}),
            json!({"unevaluatedProperties": {"type": "integer"}}),
            json!({"minProperties": 3}),
        ] {
            assert_eq!(closed(&more), Value::Null, "{more}");
        }
        assert_eq!(closed(&json!({"additionalProperties": true})), json!(true));
    }

    /// The `additionalProperties` that a schema with `a` and `b` gets which says `more`.
    fn closed(more: &Value) -> Value {
        let mut schema = json!({"type": "object", "properties": {"a": {}, "b": {}}});
        let members = more.as_object().expect("keywords").clone();
        schema.as_object_mut().expect("a schema").extend(members);
        taken(schema).expect("sound")["additionalProperties"].clone()
    }
}
