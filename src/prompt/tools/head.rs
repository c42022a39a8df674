//! Reads the head of a call: everything up to the brace that opens its arguments.

use super::ToolFormat;

pub(super) const PYTHON_TAG: &str = "<|python_tag|>";
pub(super) const ARGS: &str = "[ARGS]";
pub(super) const CALL_ID: &str = "[CALL_ID]";

/// What a text after an opening tag is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CallHead {
    /// It may still become a call or something else.
    Undecided,
    /// A call.
    Call {
        /// The function.
        name: String,
        /// Where its arguments begin.
        arguments: usize,
    },
    /// Something else.
    Other,
}

/// Reads the head of a call after its opening tag.
pub(super) fn head(body: &str, format: ToolFormat) -> CallHead {
    let mut reader = Reader { text: body, at: 0 };
    let read = match format {
        ToolFormat::Hermes => reader.object("arguments"),
        ToolFormat::Llama => reader
            .maybe(PYTHON_TAG)
            .and_then(|_| reader.object("parameters")),
        ToolFormat::Mistral | ToolFormat::MistralNamed => reader.mistral(),
    };
    match read {
        Ok(name) => CallHead::Call {
            name,
            arguments: reader.at,
        },
        Err(Stop::End) => CallHead::Undecided,
        Err(Stop::Other) => CallHead::Other,
    }
}

/// Why reading stopped.
enum Stop {
    /// The text ended, and might go on as expected.
    End,
    /// Something else stands there.
    Other,
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl Reader<'_> {
    /// `{"name": "…", KEY: ` in front of an opening brace.
    fn object(&mut self, key: &str) -> Result<String, Stop> {
        self.expect("{")?;
        self.expect("\"name\"")?;
        self.expect(":")?;
        let name = self.string()?;
        self.expect(",")?;
        self.expect(&format!("\"{key}\""))?;
        self.expect(":")?;
        self.before_brace()?;
        Ok(name)
    }

    fn mistral(&mut self) -> Result<String, Stop> {
        self.blank();
        match self.rest().chars().next() {
            None => Err(Stop::End),
            Some('[' | '{' | ',') => {
                self.maybe("[")?;
                self.maybe(",")?;
                self.object("arguments")
            }
            Some(_) => {
                let found = self.rest().find(ARGS);
                let name = &self.rest()[..found.unwrap_or(self.rest().len())];
                let fits = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
                if !name.chars().all(fits) {
                    return Err(Stop::Other);
                }
                let at = found.ok_or(Stop::End)?;
                let name = name.split(CALL_ID).next().unwrap_or(name).to_owned();
                self.at += at + ARGS.len();
                self.before_brace()?;
                Ok(name)
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn blank(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Goes past `wanted` and the white space before it.
    fn expect(&mut self, wanted: &str) -> Result<(), Stop> {
        if self.maybe(wanted)? {
            Ok(())
        } else {
            Err(Stop::Other)
        }
    }

    /// Goes past `wanted` if it is there.
    fn maybe(&mut self, wanted: &str) -> Result<bool, Stop> {
        self.blank();
        if self.rest().starts_with(wanted) {
            self.at += wanted.len();
            Ok(true)
        } else if wanted.starts_with(self.rest()) {
            Err(Stop::End)
        } else {
            Ok(false)
        }
    }

    fn before_brace(&mut self) -> Result<(), Stop> {
        self.blank();
        match self.rest().chars().next() {
            None => Err(Stop::End),
            Some('{') => Ok(()),
            Some(_) => Err(Stop::Other),
        }
    }

    fn string(&mut self) -> Result<String, Stop> {
        self.expect("\"")?;
        let mut escaped = false;
        for (at, char) in self.rest().char_indices() {
            match char {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => {
                    let quoted = &self.text[self.at - 1..=self.at + at];
                    self.at += at + 1;
                    return serde_json::from_str(quoted).map_err(|_| Stop::Other);
                }
                _ => {}
            }
        }
        Err(Stop::End)
    }
}

/// Finds the end of a JSON object in text that comes in pieces.
#[derive(Debug, Clone, Default)]
pub(super) struct ObjectEnd {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl ObjectEnd {
    /// How much of `text` belongs to the object, and whether it ends there.
    pub(super) fn find(&mut self, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (text.len(), false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, arguments: usize) -> CallHead {
        CallHead::Call {
            name: name.to_owned(),
            arguments,
        }
    }

    #[test]
    fn each_format_has_its_beginning() {
        let hermes = "\n{\"name\": \"f\", \"arguments\": {";
        assert_eq!(
            head(hermes, ToolFormat::Hermes),
            call("f", hermes.len() - 1)
        );
        let llama = "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"a\"";
        assert_eq!(head(llama, ToolFormat::Llama), call("f", llama.len() - 4));
        let list = "[{\"name\": \"f\", \"arguments\": {";
        assert_eq!(head(list, ToolFormat::Mistral), call("f", list.len() - 1));
        let named = "get_it[CALL_ID]abc123def[ARGS]{";
        assert_eq!(
            head(named, ToolFormat::MistralNamed),
            call("get_it", named.len() - 1)
        );
    }

    #[test]
    fn every_shorter_beginning_is_undecided() {
        for (text, format) in [
            (
                "\n{ \"name\": \"f\\\"g\", \"arguments\": {",
                ToolFormat::Hermes,
            ),
            (
                "<|python_tag|>{\"name\": \"f\", \"parameters\": {",
                ToolFormat::Llama,
            ),
            (" [{\"name\": \"f\", \"arguments\": {", ToolFormat::Mistral),
            ("f[ARGS]{", ToolFormat::Mistral),
        ] {
            for end in 0..text.len() {
                assert_eq!(
                    head(&text[..end], format),
                    CallHead::Undecided,
                    "{}",
                    &text[..end]
                );
            }
            assert!(
                matches!(head(text, format), CallHead::Call { .. }),
                "{text}"
            );
        }
    }

    #[test]
    fn other_text_is_told_at_once() {
        assert_eq!(head("{\"arg", ToolFormat::Hermes), CallHead::Other);
        assert_eq!(head("Hello", ToolFormat::Llama), CallHead::Other);
        assert_eq!(head("well, no", ToolFormat::Mistral), CallHead::Other);
        assert_eq!(
            head("well, no[ARGS]{", ToolFormat::Mistral),
            CallHead::Other
        );
        assert_eq!(
            head("{\"name\": \"f\", \"arguments\": []", ToolFormat::Hermes),
            CallHead::Other
        );
    }

    #[test]
    fn an_object_ends_at_its_own_brace() {
        let text = r#"{"a": "}\"", "b": [{}]} rest"#;
        assert_eq!(ObjectEnd::default().find(text), (text.len() - 5, true));
        let mut end = ObjectEnd::default();
        assert_eq!(end.find("{\"a\\"), (4, false));
        assert_eq!(end.find("\"}\""), (3, false));
        assert_eq!(end.find("}"), (1, true));
    }
}
