//! vLLM's and llama.cpp's parameters for structured outputs.
//!
//! JSON schemas are honoured like OpenAI's `response_format`. Regular expressions, choices and grammars are
//! refused by name, because an unconstrained answer would not be what the client asked for.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::grammar::Schema;

use crate::http::error::ApiError;
use crate::http::json_count;
use crate::http::openapi::NullOnly;
use crate::http::parse::only_objects;
use crate::openai::tools::refuse;

/// vLLM's `structured_outputs`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
#[schemars(
    description = "What the answer must be, as vLLM has it: a JSON schema, or any JSON object."
)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, or one in a string.
    json: Option<Value>,
    /// Whether the answer must be a JSON object.
    json_object: Option<bool>,
    /// Refused: answers are held to JSON schemas alone.
    #[schemars(with = "Option<NullOnly>")]
    regex: Option<Value>,
    /// Refused; use `json` with an `enum`.
    #[schemars(with = "Option<NullOnly>")]
    choice: Option<Value>,
    /// Refused: answers are held to JSON schemas alone.
    #[schemars(with = "Option<NullOnly>")]
    grammar: Option<Value>,
    /// Refused: answers are held to JSON schemas alone.
    #[schemars(with = "Option<NullOnly>")]
    structural_tag: Option<Value>,
}

only_objects!(StructuredOutputs,);

/// The parameters for structured outputs that a request may have beside `response_format`.
#[derive(Debug, Default)]
pub(crate) struct StructuredOutputFields {
    /// vLLM's current parameter.
    pub(crate) structured_outputs: Option<StructuredOutputs>,
    /// vLLM's older parameter for a JSON schema.
    pub(crate) guided_json: Option<Value>,
    /// llama.cpp's parameter for a JSON schema.
    pub(crate) json_schema: Option<Value>,
    /// Parameters that are refused unless they are empty.
    pub(crate) others: [(&'static str, Option<Value>); 4],
}

impl StructuredOutputFields {
    /// Returns the schema that the answer must fit. `format` is the schema of `response_format`; only one of
    /// all these may be sent.
    pub(crate) fn schema(self, format: Option<Schema>) -> Result<Option<Schema>, ApiError> {
        const JSON_ONLY: &str = "is not supported: answers are held to JSON schemas alone";
        const CHOICE: &str = "is not supported; use a JSON schema with an `enum`";
        let outputs = self.structured_outputs.unwrap_or_default();
        let refused = [
            ("structured_outputs.regex", outputs.regex),
            ("structured_outputs.choice", outputs.choice),
            ("structured_outputs.grammar", outputs.grammar),
            ("structured_outputs.structural_tag", outputs.structural_tag),
        ];
        let mut refused = refused.into_iter().chain(self.others);
        if let Some((param, _)) = refused.find(|(_, value)| value.as_ref().is_some_and(asks)) {
            let why = if param.ends_with("choice") {
                CHOICE
            } else {
                JSON_ONLY
            };
            return Err(ApiError::unsupported(param, why));
        }
        let object = outputs.json_object == Some(true);
        let asked = [
            ("structured_outputs.json", outputs.json),
            ("guided_json", self.guided_json),
            ("json_schema", self.json_schema),
        ];
        let mut found = format;
        for (param, schema) in asked {
            let Some(schema) = schema.filter(asks) else {
                continue;
            };
            only_one(param, found.as_ref())?;
            found = Some(read(param, schema)?);
        }
        if object {
            let param = "structured_outputs.json_object";
            only_one(param, found.as_ref())?;
            found = Some(Schema::object().at(param));
        }
        Ok(found)
    }
}

/// Whether a value asks for anything: some clients send an empty string for none.
fn asks(value: &Value) -> bool {
    !value.is_null() && value != ""
}

fn only_one(param: &'static str, other: Option<&Schema>) -> Result<(), ApiError> {
    let Some(other) = other else {
        return Ok(());
    };
    let message = format!(
        "`{param}` and `{}` both say what the answer must be: send one",
        other.place()
    );
    Err(ApiError::invalid(param, message))
}

/// Reads the schema that stands at `param`, as JSON or as a string that holds JSON.
pub(crate) fn read(param: &'static str, schema: Value) -> Result<Schema, ApiError> {
    let schema = match schema {
        Value::String(text) => {
            let count = json_count::count_in_text(text.as_bytes(), json_count::CountScope::All);
            json_count::at_most(param, count, 2 * json_count::MOST_TOOL_VALUES)?;
            serde_json::from_str(&text).map_err(|error| {
                let message = format!("`{param}` is a string that is not valid JSON: {error}");
                ApiError::invalid(param, message)
            })?
        }
        schema => schema,
    };
    json_count::at_most(
        param,
        json_count::count_in_value(&schema),
        json_count::MOST_TOOL_VALUES,
    )?;
    let schema =
        Schema::new(schema, false).map_err(|schema_error| refuse(&param.into(), &schema_error))?;
    Ok(schema.at(param))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn outputs(value: Value) -> StructuredOutputFields {
        StructuredOutputFields {
            structured_outputs: Some(serde_json::from_value(value).expect("typed")),
            ..StructuredOutputFields::default()
        }
    }

    fn place(asked: StructuredOutputFields) -> Option<String> {
        let schema = asked.schema(None).expect("a sound schema");
        schema.map(|schema| schema.place().to_string())
    }

    fn refusal(asked: StructuredOutputFields) -> String {
        let error = asked.schema(None).expect_err("refused");
        error.body()["error"]["param"]
            .as_str()
            .expect("a place")
            .to_owned()
    }

    #[test]
    fn a_schema_may_have_any_of_its_names_and_be_a_string() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let text = Value::String(schema.to_string());
        for schema in [schema, text] {
            let guided = StructuredOutputFields {
                guided_json: Some(schema.clone()),
                ..StructuredOutputFields::default()
            };
            assert_eq!(place(guided).as_deref(), Some("guided_json"));
            let theirs = StructuredOutputFields {
                json_schema: Some(schema.clone()),
                ..StructuredOutputFields::default()
            };
            assert_eq!(place(theirs).as_deref(), Some("json_schema"));
            let asked = outputs(json!({"json": schema}));
            assert_eq!(place(asked).as_deref(), Some("structured_outputs.json"));
        }
        let object = outputs(json!({"json_object": true}));
        assert_eq!(
            place(object).as_deref(),
            Some("structured_outputs.json_object")
        );
        assert_eq!(place(outputs(json!({"regex": null, "json": null}))), None);
        assert_eq!(place(StructuredOutputFields::default()), None);
    }

    #[test]
    fn what_is_not_json_is_refused_by_name() {
        for name in ["regex", "choice", "grammar", "structural_tag"] {
            let asked = outputs(json!({name: ["a"]}));
            assert_eq!(refusal(asked), format!("structured_outputs.{name}"));
        }
        let asked = StructuredOutputFields {
            others: [
                ("grammar", Some("".into())),
                ("guided_regex", Some("a+".into())),
                ("guided_choice", None),
                ("guided_grammar", None),
            ],
            ..StructuredOutputFields::default()
        };
        assert_eq!(refusal(asked), "guided_regex");
    }

    #[test]
    fn only_one_may_say_what_the_answer_must_be() {
        let asked = StructuredOutputFields {
            guided_json: Some(json!({})),
            ..outputs(json!({"json": {}}))
        };
        assert_eq!(refusal(asked), "guided_json");
        let error = outputs(json!({"json_object": true})).schema(Some(Schema::object()));
        assert!(error.is_err());
    }

    #[test]
    fn what_is_no_schema_is_refused_at_its_place() {
        for schema in [json!("{"), json!(5), json!([])] {
            let asked = StructuredOutputFields {
                guided_json: Some(schema),
                ..StructuredOutputFields::default()
            };
            assert!(refusal(asked).starts_with("guided_json"));
        }
    }
}
