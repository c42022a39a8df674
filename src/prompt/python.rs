//! What transformers' templates may use of Python and Jinja that the engine has not: methods of strings,
//! lists and dicts, filters, tests and functions.

// The engine hands arguments over by value.
#![allow(clippy::needless_pass_by_value)]

use std::borrow::Cow;

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use minijinja_contrib::{filters, globals};

/// Adds the filters, tests and functions.
pub(super) fn add_to(environment: &mut Environment<'_>) {
    environment.add_filter("center", |text: Cow<'_, str>, width: Option<usize>| {
        pad(&text, width.unwrap_or(80), ' ', Side::Both)
    });
    environment.add_filter("striptags", filters::striptags);
    environment.add_filter("truncate", truncate);
    environment.add_filter("indent", indent);
    environment.add_filter("replace", replace);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("escape", |text: Cow<'_, str>| escape(&text));
    environment.add_filter("e", |text: Cow<'_, str>| escape(&text));
    environment.add_filter("filesizeformat", filters::filesizeformat);
    environment.add_filter("wordcount", |text: Cow<'_, str>| {
        let is_word = |char: char| char.is_alphanumeric() || char == '_';
        text.split(|char| !is_word(char))
            .filter(|word| !word.is_empty())
            .count()
    });
    environment.add_filter("forceescape", |text: Cow<'_, str>| escape(&text));
    environment.add_test("callable", is_callable);
    environment.add_function("cycler", |items: Rest<Value>| globals::cycler(items.0));
    environment.add_function("joiner", globals::joiner);
}

/// The arguments of these names, given in this order or by name.
pub(super) fn options<const N: usize>(
    known: [&str; N],
    positional: &[Value],
    named: &Kwargs,
) -> Result<[Option<Value>; N], Error> {
    if positional.len() > N {
        return Err(ErrorKind::TooManyArguments.into());
    }
    let mut found = [const { None }; N];
    for (index, name) in known.into_iter().enumerate() {
        let by_name: Option<Value> = named.get(name)?;
        found[index] = match positional.get(index) {
            Some(_) if by_name.is_some() => {
                let message = format!("`{name}` is given twice");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
            Some(value) => Some(value.clone()),
            None => by_name,
        };
    }
    named.assert_all_used()?;
    Ok(found)
}

fn is_true(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}

/// Jinja's, which also takes the number of replacements.
fn replace(text: Cow<'_, str>, old: Cow<'_, str>, new: Cow<'_, str>, count: Option<i64>) -> String {
    match count.map(usize::try_from) {
        Some(Ok(count)) => text.replacen(&*old, &new, count),
        _ => text.replace(&*old, &new),
    }
}

/// Jinja's, which also takes its switch by name.
fn default(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let [instead, boolean] = options(["default_value", "boolean"], &positional, &named)?;
    if value.is_undefined() || (is_true(boolean.as_ref()) && !value.is_true()) {
        return Ok(instead.unwrap_or_else(|| Value::from("")));
    }
    Ok(value.clone())
}

/// Jinja's, which gives its default where there is no number.
fn int(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let [instead, base] = options(["default", "base"], &positional, &named)?;
    let base = base.map_or(Ok(10), u32::try_from)?;
    let number = match value.as_str() {
        Some(text) => integer(text, base),
        None => whole(value),
    };
    Ok(number.unwrap_or_else(|| instead.unwrap_or_else(|| Value::from(0))))
}

fn integer(text: &str, base: u32) -> Option<Value> {
    let text = text.trim().replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let known = [("0x", 16), ("0b", 2), ("0o", 8)]
        .into_iter()
        .find_map(|(prefix, of)| {
            let digits = digits.to_ascii_lowercase();
            let rest = digits.strip_prefix(prefix)?.to_owned();
            (base == of || base == 0).then_some((rest, of))
        });
    let base = if base == 0 { 10 } else { base };
    let (digits, base) = known.unwrap_or((digits.to_owned(), base));
    if !(2..=36).contains(&base) {
        return None;
    }
    if let Ok(number) = i64::from_str_radix(&digits, base) {
        return Some(Value::from(sign * number));
    }
    // "2.7" is a number, too.
    whole(&Value::from(text.parse::<f64>().ok()?))
}

/// Returns a number without its fraction.
fn whole(value: &Value) -> Option<Value> {
    if value.kind() == ValueKind::Bool {
        return Some(Value::from(i64::from(value.is_true())));
    }
    let exact = i64::try_from(value.clone()).map(Value::from);
    let number = || f64::try_from(value.clone()).ok().map(f64::trunc);
    exact
        .ok()
        .or_else(|| i64::try_from(Value::from(number()?)).ok().map(Value::from))
}

/// Jinja's `truncate`: cuts text between words to at most this many characters.
fn truncate(text: Cow<'_, str>, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let known = ["length", "killwords", "end", "leeway"];
    let [length, kills_words, end, leeway] = options(known, &positional, &named)?;
    let length = length.map_or(Ok(255), usize::try_from)?;
    let leeway = leeway.filter(|value| !value.is_none());
    let leeway = leeway.map_or(Ok(5), usize::try_from)?;
    let end = end.map_or_else(|| "...".to_owned(), |end| end.to_string());
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into_owned());
    }
    let kept = length.saturating_sub(end.chars().count());
    let (_, kept) = slice(&text, None, i64::try_from(kept).ok());
    let kept = match kept.rsplit_once(' ') {
        Some((words, _)) if !is_true(kills_words.as_ref()) => words,
        _ => kept,
    };
    Ok(kept.to_owned() + &end)
}

/// Jinja's, which also takes the text to indent by.
fn indent(text: Cow<'_, str>, positional: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let [width, first, blank] = options(["width", "first", "blank"], &positional, &named)?;
    let by = match &width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width.clone())?),
        },
    };
    let (first, blank) = (is_true(first.as_ref()), is_true(blank.as_ref()));
    let mut out = String::with_capacity(text.len());
    for (number, line) in text.split('\n').enumerate() {
        if number > 0 {
            out.push('\n');
        }
        let is_indented = if number == 0 {
            first
        } else {
            blank || !line.is_empty()
        };
        if is_indented {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// A method that the engine's values do not have.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args),
        ValueKind::Seq => list_method(value, name, args),
        ValueKind::Map if name == "copy" => from_args(args).map(|()| Some(value.clone())),
        _ => Ok(None),
    };
    match own? {
        Some(told) => Ok(told),
        None => unknown_method_callback(state, value, name, args),
    }
}

fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match name {
        "copy" => from_args(args).map(|()| Some(list.clone()))?,
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            let place = list.try_iter()?.position(|item| item == *wanted);
            Some(Value::from(place.ok_or_else(|| not_found("list"))?))
        }
        _ => None,
    })
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let plain = |check: bool| from_args(args).map(|()| Some(Value::from(check)));
    Ok(match name {
        "split" => Some(split(text, args, false)?),
        "rsplit" => Some(split(text, args, true)?),
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = text.split_once(separator);
            Some(triple(
                parts.map_or([text, "", ""], |(a, b)| [a, separator, b]),
            ))
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = text.rsplit_once(separator);
            Some(triple(
                parts.map_or(["", "", text], |(a, b)| [a, separator, b]),
            ))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Some(text.strip_prefix(prefix).unwrap_or(text).into())
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Some(text.strip_suffix(suffix).unwrap_or(text).into())
        }
        "find" | "rfind" | "index" | "rindex" => Some(find(text, name, args)?),
        "startswith" | "endswith" if args.len() > 1 => {
            let (affix, start, end): (&Value, i64, Option<i64>) = from_args(args)?;
            let (_, part) = slice(text, Some(start), end);
            let affixes: Vec<Value> = match affix.as_str() {
                Some(_) => vec![affix.clone()],
                None => affix.try_iter()?.collect(),
            };
            let has = |affix: &str| match name {
                "startswith" => part.starts_with(affix),
                _ => part.ends_with(affix),
            };
            Some(affixes.iter().filter_map(Value::as_str).any(has).into())
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = match text.strip_prefix(['+', '-']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let width = width.saturating_sub(sign.len());
            let digits = pad(digits, width, '0', Side::Left)?;
            Some(format!("{sign}{digits}").into())
        }
        "center" | "ljust" | "rjust" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let side = match name {
                "center" => Side::Both,
                "ljust" => Side::Right,
                _ => Side::Left,
            };
            Some(pad(text, width, fill.unwrap_or(' '), side)?.into())
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped = text.chars().flat_map(|char| -> Vec<char> {
                if char.is_uppercase() {
                    char.to_lowercase().collect()
                } else {
                    char.to_uppercase().collect()
                }
            });
            Some(swapped.collect::<String>().into())
        }
        "casefold" => {
            from_args(args).map(|()| Some(text.to_lowercase().replace('ß', "ss").into()))?
        }
        "expandtabs" => {
            let (size,): (Option<usize>,) = from_args(args)?;
            Some(expand_tabs(text, size.unwrap_or(8).min(MOST_PADDING)).into())
        }
        "isdecimal" => plain(!text.is_empty() && text.chars().all(|char| char.is_ascii_digit()))?,
        "istitle" => plain(is_title(text))?,
        "isidentifier" => {
            let mut chars = text.chars();
            let begins = chars
                .next()
                .is_some_and(|char| char.is_alphabetic() || char == '_');
            plain(begins && chars.all(|char| char.is_alphanumeric() || char == '_'))?
        }
        _ => None,
    })
}

/// `split` and `rsplit`: separator and number of cuts, in this order or by their names.
fn split(text: &str, args: &[Value], from_the_end: bool) -> Result<Value, Error> {
    let (separator, cuts, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = match separator {
        Some(separator) => Some(separator),
        None => named.get("sep")?,
    };
    let cuts = cuts.map_or_else(
        || named.get::<Option<i64>>("maxsplit"),
        |cuts| Ok(Some(cuts)),
    )?;
    named.assert_all_used()?;
    let most = cuts.and_then(|cuts| usize::try_from(cuts).ok());
    let separator = separator.filter(|separator| !separator.is_none());
    let Some(separator) = separator else {
        return Ok(split_at_blanks(text, most, from_the_end)
            .into_iter()
            .collect());
    };
    let Some(separator) = separator.as_str().filter(|text| !text.is_empty()) else {
        let message = "split(…) takes a separator that is a string and not empty";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    };
    let parts = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<&str> = if from_the_end {
        let mut parts: Vec<&str> = text.rsplitn(parts, separator).collect();
        parts.reverse();
        parts
    } else {
        text.splitn(parts, separator).collect()
    };
    Ok(parts.into_iter().collect())
}

/// At runs of white space, of which none is left at the ends.
fn split_at_blanks(text: &str, most: Option<usize>, from_the_end: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let cut = match most {
            Some(most) if parts.len() == most => None,
            _ if from_the_end => rest.rfind(char::is_whitespace),
            _ => rest.find(char::is_whitespace),
        };
        let (part, others) = match cut {
            Some(at) if from_the_end => (rest[at..].trim_start(), rest[..at].trim_end()),
            Some(at) => (&rest[..at], rest[at..].trim_start()),
            None => (rest, ""),
        };
        parts.push(part);
        rest = others;
    }
    // With a bound, Python leaves the outer white space of the last part.
    if from_the_end {
        parts.reverse();
    }
    parts
}

fn triple(parts: [&str; 3]) -> Value {
    Value::from(Tuple::from(parts.map(Value::from)))
}

/// Where a text stands within another, in characters; -1 or an error where it does not.
fn find(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let (before, part) = slice(text, start, end);
    let found = if name.starts_with('r') {
        part.rfind(wanted)
    } else {
        part.find(wanted)
    };
    match found {
        Some(at) => Ok(Value::from(before + part[..at].chars().count())),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(not_found("string")),
    }
}

fn not_found(kind: &str) -> Error {
    let message = format!("index(…): the {kind} does not hold it");
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The part from one character to another, as in Python, and how many are before it.
fn slice(text: &str, start: Option<i64>, end: Option<i64>) -> (usize, &str) {
    let count = text.chars().count();
    let place = |place: i64| {
        let from_the_end = usize::try_from(place.unsigned_abs()).unwrap_or(usize::MAX);
        match usize::try_from(place) {
            Ok(place) => place.min(count),
            Err(_) => count.saturating_sub(from_the_end),
        }
    };
    let start = start.map_or(0, place);
    let end = end.map_or(count, place).max(start);
    let byte = |place: usize| {
        text.char_indices()
            .nth(place)
            .map_or(text.len(), |(at, _)| at)
    };
    (start, &text[byte(start)..byte(end)])
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
    Both,
}

/// More than any layout needs.
const MOST_PADDING: usize = 10_000;

fn pad(text: &str, width: usize, fill: char, side: Side) -> Result<String, Error> {
    if width > MOST_PADDING {
        let message = format!("a text is filled up to at most {MOST_PADDING} characters");
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    let missing = width.saturating_sub(text.chars().count());
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        // As CPython has it, which puts the odd one to the left where the width is odd.
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let of = |count: usize| fill.to_string().repeat(count);
    Ok(of(left) + text + &of(missing - left))
}

fn expand_tabs(text: &str, size: usize) -> String {
    let mut out = String::with_capacity(text.len());
    let mut column = 0;
    for char in text.chars() {
        match char {
            '\t' if size == 0 => {}
            '\t' => {
                let spaces = size - column % size;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            char => {
                out.push(char);
                column = if matches!(char, '\n' | '\r') {
                    0
                } else {
                    column + 1
                };
            }
        }
    }
    out
}

/// Whether every word begins with a capital and goes on without.
fn is_title(text: &str) -> bool {
    let (mut in_word, mut has_words) = (false, false);
    for char in text.chars() {
        if char.is_uppercase() == in_word && (char.is_uppercase() || char.is_lowercase()) {
            return false;
        }
        in_word = char.is_alphabetic();
        has_words |= in_word;
    }
    has_words
}

/// As `MarkupSafe` does.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            char => out.push(char),
        }
    }
    out
}

/// Functions, macros and the like are values without a kind of their own.
fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}
