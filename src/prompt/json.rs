//! The `tojson` filter as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`.
//!
//! Models were trained on these exact bytes, and Jinja's own `tojson` writes others (it escapes HTML).
//! Source: transformers, `utils/chat_template_utils.py`, and Python's `json.encoder`.

use std::io::{self, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize as _;
use serde_json::ser::{Formatter, Serializer};

/// Spaces that a level may be indented by; templates use 2 or 4.
const MOST_INDENT: usize = 32;

/// `value | tojson(indent=…, separators=(…, …))`.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the engine hands keyword arguments over by value"
)]
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    for name in ["ensure_ascii", "sort_keys"] {
        if options.get::<Option<bool>>(name)?.unwrap_or(false) {
            let message = format!("tojson({name}=true) is not supported");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    let indent: Option<usize> = options.get("indent")?;
    if indent.is_some_and(|indent| indent > MOST_INDENT) {
        let message = format!("tojson(indent=…) takes at most {MOST_INDENT} spaces");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let separators: Option<Vec<String>> = options.get("separators")?;
    options.assert_all_used()?;

    let mut layout = Layout {
        indent,
        item: if indent.is_some() { "," } else { ", " }.into(),
        key: ": ".into(),
        depth: 0,
        empty: true,
    };
    if let Some(given) = separators {
        let [item, key] = <[String; 2]>::try_from(given).map_err(|_| {
            let message = "tojson(separators=…) takes two strings";
            Error::new(ErrorKind::InvalidOperation, message)
        })?;
        (layout.item, layout.key) = (item, key);
    }
    let mut out = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut out, layout))
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(out)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

const SPACES: [u8; MOST_INDENT] = [b' '; MOST_INDENT];

/// Where Python puts spaces and line ends.
struct Layout {
    /// Spaces a level; none writes one line.
    indent: Option<usize>,
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
        let Some(indent) = self.indent else {
            return Ok(());
        };
        writer.write_all(b"\n")?;
        // `format!` counts no further than 65,535, and a template's own lists may lie deep.
        for _ in 0..self.depth {
            writer.write_all(&SPACES[..indent])?;
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
    fn floats_have_pythons_exponents() {
        let value = json!([1e16, 1e-5, 1.5e300, 0.0001, 1.0]);
        assert_eq!(
            render("tojson", &value),
            "[1e+16, 1e-05, 1.5e+300, 0.0001, 1.0]"
        );
    }
}
