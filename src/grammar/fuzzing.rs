//! Checks what holds for any schema of a client: it is refused with a reason, or compiled within bounds.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::compile::{Compiler, STACK};
use super::{GrammarError, Schema};

/// Processor time for one schema. The trial allows one to two seconds, and what the checks let through
/// should take less: twice as much is a finding on the slowest machine that these tests run on.
const LONGEST_COMPILE: Duration = Duration::from_secs(4);
const MOST_PARTS: usize = 600;
/// Bytes of schema text in all: a longer schema is refused for its length.
const MOST_BYTES: usize = 200_000;

/// Makes a schema out of bytes, and compiles it if it passes the checks.
///
/// # Panics
/// When compiling takes too long, or when the refusal's text is empty or too long.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn compile_schema(bytes: &[u8]) {
    let mut choices = Choices {
        bytes: bytes.iter(),
        parts: 0,
    };
    let strict = choices.of(4) == 0;
    let mut schema = choices.schema(0);
    if let Some(object) = schema.as_object_mut() {
        let count = choices.of(6);
        let definitions = (0..count).map(|index| (format!("d{index}"), choices.schema(1)));
        object.insert("$defs".to_owned(), Value::Object(definitions.collect()));
    }
    match Schema::new(schema, strict) {
        Err(schema_error) => assert!(!schema_error.why.is_empty()),
        Ok(schema) => compile(&schema),
    }
}

fn compile(schema: &Schema) {
    let text = format!("start: {schema}");
    let compiling = move || {
        let compiled = Compiler::for_bytes()?.compile(&text).map(drop);
        Ok((compiled, processor_time()))
    };
    // Half of what there is: a finding before it is one in the field.
    let thread = std::thread::Builder::new().stack_size(STACK / 2);
    let compiled = thread.spawn(compiling).expect("a thread").join();
    let compiled: Result<_, GrammarError> = compiled.expect("no panic");
    let (compiled, took) = compiled.expect("a compiler");
    if let Err(error) = compiled {
        let error = error.to_string();
        assert!(!error.is_empty() && !error.contains("panic"), "{error}");
    }
    assert!(took < LONGEST_COMPILE, "{took:?} for {schema:.2000}");
}

/// Returns the processor time that this thread has used (proc(5), `schedstat`); zero where the system does
/// not say.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split_whitespace().next().map(str::parse);
    Duration::from_nanos(nanoseconds.and_then(Result::ok).unwrap_or(0))
}

/// Bytes as decisions; at their end each is the first one.
struct Choices<'b> {
    bytes: std::slice::Iter<'b, u8>,
    parts: usize,
}

impl Choices<'_> {
    fn of(&mut self, count: usize) -> usize {
        usize::from(self.bytes.next().copied().unwrap_or(0)) % count
    }

    fn one<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.of(all.len())].clone()
    }

    /// How often something stands in a list.
    fn times(&mut self) -> usize {
        self.one(&[1, 2, 3, 4, 16, 17, 64, 300])
    }

    /// The same of a schema, as far as a body has room for so many.
    fn copies(&mut self, schema: &Value) -> usize {
        let room = MOST_BYTES / schema.to_string().len();
        self.times().min(room.max(1))
    }

    fn count(&mut self) -> Value {
        self.one(&[
            json!(0),
            json!(1),
            json!(2),
            json!(500),
            json!(10_000),
            json!(-1),
        ])
    }

    fn schema(&mut self, depth: usize) -> Value {
        self.parts += 1;
        if depth > 6 || self.parts > MOST_PARTS {
            return json!({"type": "null"});
        }
        let mut schema = Map::new();
        for _ in 0..=self.of(3) {
            let (key, value) = self.keyword(depth + 1);
            schema.insert(key.to_owned(), value);
        }
        Value::Object(schema)
    }

    fn schemas(&mut self, depth: usize) -> Value {
        let different = 1 + self.of(3);
        let different: Vec<Value> = (0..different).map(|_| self.schema(depth)).collect();
        let times = self.copies(&Value::Array(different.clone())) * different.len();
        Value::Array(different.into_iter().cycle().take(times).collect())
    }

    fn named(&mut self, depth: usize, patterns: &[&str]) -> Value {
        let schema = self.schema(depth);
        let pattern = self.one(patterns);
        let members = (0..self.copies(&schema))
            .map(|index| (pattern.replace('#', &index.to_string()), schema.clone()));
        Value::Object(members.collect())
    }

    fn keyword(&mut self, depth: usize) -> (&'static str, Value) {
        const NUMBERS: [f64; 7] = [0.0, 1.0, -1.5, 0.01, 1e15, 1e300, 997.0];
        let types = [
            "object", "array", "string", "number", "integer", "boolean", "null",
        ];
        match self.of(20) {
            0..=2 => ("type", json!(self.one(&types))),
            3 => ("type", json!(types[..=self.of(7)].to_vec())),
            4 => ("properties", self.named(depth, &["k#", "#", "a\"#", "é#"])),
            5 => (
                "patternProperties",
                self.named(depth, &["^a#$", "a{#}", "^(a|b)*a.{#}$", "#"]),
            ),
            6 => ("additionalProperties", self.schema(depth)),
            7 => {
                let names = (0..self.times()).map(|index| format!("k{index}"));
                ("required", names.collect())
            }
            8 => ("items", self.schema(depth)),
            9 => ("prefixItems", self.schemas(depth)),
            10 => (self.one(&["allOf", "anyOf", "oneOf"]), self.schemas(depth)),
            11 | 12 => {
                let place = self.one(&[
                    "#",
                    "#/$defs/d0",
                    "#/$defs/d1",
                    "#/$defs/d2/items",
                    "#/properties/k0",
                    "#/properties/a%22~10",
                ]);
                ("$ref", json!(place))
            }
            13 => (
                self.one(&["minLength", "maxLength", "minItems", "maxItems"]),
                self.count(),
            ),
            14 => (self.one(&["minProperties", "maxProperties"]), self.count()),
            15 => {
                let patterns = [
                    "^a{1,1000}$",
                    "(a|aa)+$",
                    "^.*a.{20}$",
                    "^\\p{L}{1,200}$",
                    "^(?=.*b)a",
                    "((a{0,50}){0,50}){0,50}",
                    "^[a-z]+@[a-z]+\\.[a-z]{2,}$",
                    "[",
                    "(((((a)))))*",
                    "^\\d{4}-\\d{2}$",
                    "^[a&&b[c]+(?:$|d)",
                    "\\bab|(a)\\1",
                ];
                ("pattern", json!(self.one(&patterns)))
            }
            16 => {
                let formats = [
                    "date-time",
                    "email",
                    "uri",
                    "uuid",
                    "ipv6",
                    "binary",
                    "duration",
                ];
                ("format", json!(self.one(&formats)))
            }
            17 => {
                let keys = [
                    "minimum",
                    "maximum",
                    "exclusiveMinimum",
                    "exclusiveMaximum",
                    "multipleOf",
                ];
                (self.one(&keys), json!(self.one(&NUMBERS)))
            }
            18 => {
                let value = self.one(&[
                    json!(1),
                    json!("é\n\""),
                    json!([1, [2]]),
                    json!({"a": null}),
                    json!(u64::MAX),
                    json!({"a": [u64::MAX]}),
                ]);
                ("enum", Value::Array(vec![value; self.times()]))
            }
            _ => (self.one(&["nullable", "deprecated", "x-note"]), json!(true)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_schema_is_refused_in_words_or_compiled_within_bounds(
            bytes in prop::collection::vec(any::<u8>(), 0..120),
        ) {
            compile_schema(&bytes);
        }
    }
}
