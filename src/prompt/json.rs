//! The `tojson` filter as transformers defines it: Python's `json.dumps` with `ensure_ascii=False` unless
//! a template says otherwise.
//!
//! Models were trained on these exact bytes, and Jinja's own `tojson` writes others (it escapes HTML).
//! Source: transformers, `utils/chat_template_utils.py`, and Python's `json.encoder`.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

use super::client_marks::is_nonchar;
use super::python::options;

/// Characters that a level may be indented by; templates use 2 or 4 spaces.
const MOST_INDENT: usize = 32;

/// `value | tojson(ensure_ascii=…, indent=…, separators=(…, …), sort_keys=…)`, which may be given in this
/// order without their names.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands keyword arguments over by value"
)]
pub(super) fn tojson(
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let known = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [is_ascii, indent, separators, sorts] = options(known, &positional, &named)?;
    let is_on = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let (is_ascii, sorts) = (is_on(is_ascii), is_on(sorts));
    let indent = indent.as_ref().map_or(Ok(None), self::indent)?;
    let separators = separators.filter(|value| !value.is_none());

    let mut layout = Layout {
        item: if indent.is_some() { "," } else { ", " }.into(),
        key: ": ".into(),
        indent,
        is_ascii,
        depth: 0,
        empty: true,
    };
    if let Some(given) = separators {
        (layout.item, layout.key) = self::separators(&given)?;
    }
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, layout);
    let written = if sorts {
        let value = serde_json::to_value(value).map_err(|error| cannot_be_written(&error))?;
        sorted(value).serialize(&mut serializer)
    } else {
        value.serialize(&mut serializer)
    };
    written.map_err(|error| cannot_be_written(&error))?;
    String::from_utf8(out).map_err(|error| cannot_be_written(&error))
}

/// A value as transformers' filter writes it by itself: on one line, nothing sorted or escaped.
pub(super) fn dumps(value: &serde_json::Value) -> String {
    let layout = Layout {
        indent: None,
        is_ascii: false,
        item: ", ".into(),
        key: ": ".into(),
        depth: 0,
        empty: true,
    };
    let mut out = Vec::new();
    let written = value.serialize(&mut Serializer::with_formatter(&mut out, layout));
    // JSON can be written as JSON.
    written
        .ok()
        .and_then(|()| String::from_utf8(out).ok())
        .unwrap_or_default()
}

/// The indentation of a level: a number of spaces, or a text. Without one all is written on one line.
fn indent(value: &Value) -> Result<Option<String>, Error> {
    if value.is_none() {
        return Ok(None);
    }
    let text = match (value.as_str(), i64::try_from(value.clone())) {
        (Some(text), _) => text.to_owned(),
        // Less than none is none, in Python as well.
        (None, Ok(count)) => " ".repeat(usize::try_from(count).unwrap_or(0).min(MOST_INDENT + 1)),
        (None, Err(_)) => return Err(wrong("indent", "is a number or a string")),
    };
    if text.chars().count() > MOST_INDENT {
        let message = format!("tojson(indent=…) takes at most {MOST_INDENT} spaces");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    Ok(Some(text))
}

/// What stands between two items, and between a key and its value.
fn separators(value: &Value) -> Result<(String, String), Error> {
    let both: Vec<Value> = value.try_iter()?.take(3).collect();
    match both.iter().map(Value::as_str).collect::<Vec<_>>()[..] {
        [Some(item), Some(key)] => Ok((item.to_owned(), key.to_owned())),
        _ => Err(wrong("separators", "takes two strings")),
    }
}

/// With the keys of every object in the order of their code points. Marks of what clients wrote (see
/// [`super::client_marks`]) do not count: they are gone from the prompt.
fn sorted(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(members) => {
            let mut members: Vec<(String, Value)> = members.into_iter().collect();
            members.sort_by_cached_key(|(key, _)| key.replace(is_nonchar, ""));
            let members = members.into_iter();
            Value::Object(members.map(|(key, value)| (key, sorted(value))).collect())
        }
        other => other,
    }
}

fn wrong(option: &str, why: &str) -> Error {
    let message = format!("tojson({option}=…) {why}");
    Error::new(ErrorKind::InvalidOperation, message)
}

fn cannot_be_written(error: &impl ToString) -> Error {
    Error::new(ErrorKind::BadSerialization, error.to_string())
}

/// Where Python puts spaces and line ends, and what it escapes.
struct Layout {
    /// What a level is indented by; none writes one line.
    indent: Option<String>,
    /// Whether only ASCII is written.
    is_ascii: bool,
    item: String,
    key: String,
    depth: usize,
    /// Whether the container being closed held nothing: it then stays on one line.
    empty: bool,
}

impl Layout {
    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(&[bracket])
    }

    fn item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.line(writer)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: u8) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.line(writer)?;
        }
        self.empty = false;
        writer.write_all(&[bracket])
    }

    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else {
            return Ok(());
        };
        writer.write_all(b"\n")?;
        // `format!` counts no further than 65,535, and a template's own lists may lie deep.
        for _ in 0..self.depth {
            writer.write_all(indent.as_bytes())?;
        }
        Ok(())
    }
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b'[')
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b']')
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b'{')
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        self.item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _writer: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b'}')
    }

    /// Python counts U+007F among what is no ASCII text. Marks of what clients wrote stay as they are, so
    /// that they can be taken away again; nobody else writes noncharacters.
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if !self.is_ascii {
            return writer.write_all(fragment.as_bytes());
        }
        for char in fragment.chars() {
            if matches!(char, '\0'..='~') || is_nonchar(char) {
                write!(writer, "{char}")?;
                continue;
            }
            for unit in char.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
        }
        Ok(())
    }

    /// Rust and Python change to scientific notation at the same sizes; Python writes `1e+16` and `1e-05`.
    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let text = format!("{value:?}");
        match text.split_once('e') {
            Some((mantissa, exponent)) => {
                let sign = if exponent.starts_with('-') { '-' } else { '+' };
                let digits = exponent.trim_start_matches('-');
                write!(writer, "{mantissa}e{sign}{digits:0>2}")
            }
            None => writer.write_all(text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::{Serde, Value};
    use minijinja::{Environment, context};
    use serde_json::json;

    fn render(filter: &str, value: &serde_json::Value) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        let value = Value::from(Serde(value));
        environment
            .render_str(&format!("{{{{ x | {filter} }}}}"), context! { x => value })
            .expect("renders")
    }

    #[test]
    fn json_has_pythons_separators_and_keeps_the_order_of_keys() {
        let value = json!({"z": [1, 2.0, null, true], "a": {}, "m": []});
        assert_eq!(
            render("tojson", &value),
            r#"{"z": [1, 2.0, null, true], "a": {}, "m": []}"#
        );
    }

    #[test]
    fn neither_html_nor_unicode_is_escaped() {
        let value = json!("<b>'é'</b> & \"\n\u{1}");
        assert_eq!(render("tojson", &value), r#""<b>'é'</b> & \"\n\u0001""#);
    }

    #[test]
    fn indent_lays_out_as_python_does() {
        let value = json!({"a": [1, {"b": {}}], "c": []});
        let expected = "{\n  \"a\": [\n    1,\n    {\n      \"b\": {}\n    }\n  ],\n  \"c\": []\n}";
        assert_eq!(render("tojson(indent=2)", &value), expected);
    }

    #[test]
    fn separators_can_be_given_as_a_tuple_or_a_list() {
        let value = json!({"a": [1, 2]});
        let compact = r#"{"a":[1,2]}"#;
        assert_eq!(render("tojson(separators=(',', ':'))", &value), compact);
        assert_eq!(
            render("tojson(separators=[',', ':'], ensure_ascii=false)", &value),
            compact
        );
    }

    #[test]
    fn ascii_alone_is_written_where_a_template_asks_for_it() {
        let value = json!({"Größe": "日 😀 \u{7f}~ \n\"\\"});
        let expected = r#"{"Gr\u00f6\u00dfe": "\u65e5 \ud83d\ude00 \u007f~ \n\"\\"}"#;
        for filter in [
            "tojson(ensure_ascii=True)",
            "tojson(true)",
            "tojson(ensure_ascii=1)",
            "tojson(ensure_ascii=true, indent=none)",
        ] {
            assert_eq!(render(filter, &value), expected, "{filter}");
        }
        let others = ["tojson(ensure_ascii=False)", "tojson(none)", "tojson(0)"];
        for filter in others {
            assert!(render(filter, &value).contains("Größe"), "{filter}");
        }
    }

    #[test]
    fn keys_are_sorted_at_every_level_where_a_template_asks_for_it() {
        let value = json!({"b": [{"z": 1, "y": 2}], "a": {"d": 1, "c": 2}, "B": 0, "é": 1});
        let expected = r#"{"B": 0, "a": {"c": 2, "d": 1}, "b": [{"y": 2, "z": 1}], "é": 1}"#;
        assert_eq!(render("tojson(sort_keys=True)", &value), expected);
        assert_eq!(render("tojson(false, none, none, true)", &value), expected);
        let marked = json!({"b": 1, "\u{fdd0}a": 2});
        let expected = "{\"\u{fdd0}a\": 2, \"b\": 1}";
        assert_eq!(render("tojson(sort_keys=true)", &marked), expected);
    }

    #[test]
    fn options_go_together_and_may_be_given_without_their_names() {
        let value = json!({"b": "é", "a": []});
        let expected = "{\n\t\"a\":[];\n\t\"b\":\"\\u00e9\"\n}";
        for filter in [
            r"tojson(ensure_ascii=true, indent='\t', separators=(';', ':'), sort_keys=true)",
            r"tojson(true, '\t', [';', ':'], true)",
        ] {
            assert_eq!(render(filter, &value), expected, "{filter}");
        }
        assert_eq!(render("tojson(indent=0)", &json!([1])), "[\n1\n]");
        assert_eq!(render("tojson(indent=-1)", &json!([1])), "[\n1\n]");
    }

    #[test]
    fn other_options_are_refused_by_name() {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        for (filter, name) in [
            ("tojson(default=1)", "default"),
            ("tojson(separators=',')", "separators"),
            ("tojson(separators=(',', ':', ';'))", "separators"),
            ("tojson(indent=[])", "indent"),
            ("tojson(true, ensure_ascii=true)", "ensure_ascii"),
        ] {
            let error = environment.render_str(&format!("{{{{ 1 | {filter} }}}}"), ());
            let error = error.expect_err("refused").to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn floats_have_pythons_exponents() {
        let value = json!([1e16, 1e-5, 1.5e300, 0.0001, 1.0]);
        assert_eq!(
            render("tojson", &value),
            "[1e+16, 1e-05, 1.5e+300, 0.0001, 1.0]"
        );
    }
}
