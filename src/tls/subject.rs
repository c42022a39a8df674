//! The subjects of certificates as text, in the form of RFC 4514: `CN=till-1,O=Harbour`.

use std::collections::BTreeSet;
use std::fmt;
use std::fmt::Write as _;

use x509_parser::asn1_rs::ToDer as _;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// How the types of attributes are written, and further names under which programs show them.
const TYPES: [(&str, &[&str], &str); 11] = [
    ("CN", &[], "2.5.4.3"),
    ("L", &[], "2.5.4.7"),
    ("ST", &["S"], "2.5.4.8"),
    ("O", &[], "2.5.4.10"),
    ("OU", &[], "2.5.4.11"),
    ("C", &[], "2.5.4.6"),
    ("STREET", &[], "2.5.4.9"),
    ("DC", &[], "0.9.2342.19200300.100.1.25"),
    ("UID", &[], "0.9.2342.19200300.100.1.1"),
    ("serialNumber", &[], "2.5.4.5"),
    ("emailAddress", &["E"], "1.2.840.113549.1.9.1"),
];

const COMMON_NAME: &str = "CN";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum AttributeValue {
    Text(String),
    /// What is no text, or of a type without a name, as the hexadecimal digits of its DER.
    Hex(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    kind: String,
    value: AttributeValue,
}

impl Attribute {
    fn of_certificate(attribute: &AttributeTypeAndValue<'_>) -> Self {
        let oid = attribute.attr_type().to_id_string();
        let known = TYPES.iter().find(|(.., known)| *known == oid);
        let value = match (known, attribute.as_str()) {
            (Some(_), Ok(text)) => AttributeValue::Text(text.to_owned()),
            _ => AttributeValue::Hex(hex(&attribute
                .attr_value()
                .to_der_vec()
                .unwrap_or_default())),
        };
        Self {
            kind: known.map_or(oid, |(name, ..)| (*name).to_owned()),
            value,
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}=", self.kind)?;
        match &self.value {
            AttributeValue::Text(text) => write_escaped(out, text),
            AttributeValue::Hex(digits) => write!(out, "#{digits}"),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Control characters are escaped as well, which RFC 4514 allows: these texts are shown on terminals.
fn write_escaped(out: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let last = text.chars().count().saturating_sub(1);
    for (place, char) in text.chars().enumerate() {
        let is_at_the_edge =
            (place == 0 && matches!(char, ' ' | '#')) || (place == last && char == ' ');
        if is_at_the_edge || matches!(char, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            write!(out, "\\{char}")?;
        } else if char.is_control() {
            let mut bytes = [0; 4];
            for byte in char.encode_utf8(&mut bytes).bytes() {
                write!(out, "\\{byte:02X}")?;
            }
        } else {
            out.write_char(char)?;
        }
    }
    Ok(())
}

/// A name of a certificate: its parts from the last to the first, as RFC 4514 writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DistinguishedName(Vec<BTreeSet<Attribute>>);

impl DistinguishedName {
    pub(super) fn of_certificate(name: &X509Name<'_>) -> Self {
        let parts = name
            .iter_rdn()
            .map(|part| part.iter().map(Attribute::of_certificate).collect());
        let mut parts: Vec<BTreeSet<Attribute>> = parts.collect();
        parts.reverse();
        Self(parts)
    }

    /// The one common name. One of several names nobody: which of them was meant is anybody's guess.
    pub(super) fn common_name(&self) -> Option<&str> {
        let mut names = self
            .0
            .iter()
            .flatten()
            .filter(|attribute| attribute.kind == COMMON_NAME);
        match (names.next().map(|name| &name.value), names.next()) {
            (Some(AttributeValue::Text(name)), None) => Some(name),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let parts = split(text, ',').into_iter().map(|part| {
            let attributes = split(part, '+').into_iter().map(read_attribute);
            attributes.collect::<Option<BTreeSet<Attribute>>>()
        });
        parts.collect::<Option<Vec<_>>>().map(Self)
    }
}

impl fmt::Display for DistinguishedName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, part) in self.0.iter().enumerate() {
            out.write_str(if place == 0 { "" } else { "," })?;
            for (place, attribute) in part.iter().enumerate() {
                out.write_str(if place == 0 { "" } else { "+" })?;
                attribute.fmt(out)?;
            }
        }
        Ok(())
    }
}

/// Splits where a separator stands without a backslash before it.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut is_escaped) = (Vec::new(), 0, false);
    for (at, char) in text.char_indices() {
        if char == separator && !is_escaped {
            parts.push(&text[start..at]);
            start = at + separator.len_utf8();
        }
        is_escaped = char == '\\' && !is_escaped;
    }
    parts.push(&text[start..]);
    parts
}

fn read_attribute(text: &str) -> Option<Attribute> {
    let (kind, value) = text.split_once('=')?;
    let kind = kind.trim();
    let is_it = |name: &str| name.eq_ignore_ascii_case(kind);
    let known = TYPES.iter().find(|(name, others, oid)| {
        is_it(name) || others.iter().copied().any(is_it) || *oid == kind
    });
    let is_oid = !kind.is_empty() && kind.split('.').all(|number| number.parse::<u64>().is_ok());
    let kind = match known {
        Some((name, ..)) => (*name).to_owned(),
        None if is_oid => kind.to_owned(),
        None => return None,
    };
    Some(Attribute {
        kind,
        value: read_value(value.trim_start())?,
    })
}

fn read_value(text: &str) -> Option<AttributeValue> {
    if let Some(digits) = text.strip_prefix('#') {
        let digits = digits.trim_end().to_ascii_lowercase();
        let is_sound =
            digits.len().is_multiple_of(2) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        return (is_sound && !digits.is_empty()).then_some(AttributeValue::Hex(digits));
    }
    let (mut bytes, mut kept) = (Vec::new(), 0);
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let mut buffer = [0; 4];
        if char != '\\' {
            bytes.extend_from_slice(char.encode_utf8(&mut buffer).as_bytes());
            // Spaces at the end are not of the value, unless they are escaped.
            kept = if char == ' ' { kept } else { bytes.len() };
            continue;
        }
        let escaped = chars.next()?;
        if let Some(high) = escaped.to_digit(16) {
            let low = chars.next()?.to_digit(16)?;
            bytes.push(u8::try_from(high << 4 | low).ok()?);
        } else {
            bytes.extend_from_slice(escaped.encode_utf8(&mut buffer).as_bytes());
        }
        kept = bytes.len();
    }
    bytes.truncate(kept);
    let value = String::from_utf8(bytes).ok()?;
    (!value.is_empty()).then_some(AttributeValue::Text(value))
}

/// Whose certificates somebody means: those with a common name, or those with a whole subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SubjectPattern {
    /// Certificates with this common name, whatever else their subject has.
    CommonName(String),
    /// Certificates with exactly this subject, as [`DistinguishedName`] writes it.
    Whole(String),
}

impl SubjectPattern {
    /// Reads `till-1`, or `CN=till-1,O=Harbour`: a whole subject in the form of RFC 4514, in which
    /// spaces around commas do not count. `None` for what is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let name = text.trim();
        if name.is_empty() || text.chars().any(char::is_control) {
            return None;
        }
        if !text.contains('=') {
            return Some(Self::CommonName(name.to_owned()));
        }
        // With its spaces: the last one may be escaped, and of the value.
        let whole = DistinguishedName::parse(text)?;
        Some(Self::Whole(whole.to_string()))
    }

    /// The shortest whole subject that it fits. Two patterns with the same one are about the same certificates.
    #[must_use]
    pub fn narrowest(&self) -> String {
        match self {
            Self::Whole(subject) => subject.clone(),
            Self::CommonName(name) => Attribute {
                kind: COMMON_NAME.to_owned(),
                value: AttributeValue::Text(name.clone()),
            }
            .to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Option<String> {
        match SubjectPattern::parse(text)? {
            SubjectPattern::Whole(subject) => Some(subject),
            SubjectPattern::CommonName(_) => None,
        }
    }

    #[test]
    fn spaces_case_of_types_and_ways_to_escape_do_not_count() {
        for (written, expected) in [
            ("CN=till-1,O=Harbour", "CN=till-1,O=Harbour"),
            (
                " cn = till-1 , o = Harbour Shop ",
                "CN=till-1,O=Harbour Shop",
            ),
            ("2.5.4.3=till-1", "CN=till-1"),
            ("S=Hesse,E=a@b.c", "ST=Hesse,emailAddress=a@b.c"),
            (r"CN=a\,b", r"CN=a\,b"),
            (r"CN=a\2Cb", r"CN=a\,b"),
            (r"CN=\C3\A9", "CN=é"),
            (r"CN=\ a\ ", r"CN=\ a\ "),
            (r"CN=\#a", r"CN=\#a"),
            ("CN=a=b", "CN=a=b"),
            ("OU=x+CN=y", "CN=y+OU=x"),
            ("1.2.3.4=#0C0161", "1.2.3.4=#0c0161"),
        ] {
            assert_eq!(whole(written).as_deref(), Some(expected), "{written}");
            assert_eq!(whole(expected).as_deref(), Some(expected), "written again");
        }
    }

    #[test]
    fn what_is_no_subject_is_refused() {
        for text in [
            "",
            " ",
            "CN=",
            "CN=a,",
            "=a",
            "what=a",
            "CN=a,b",
            "CN=a\\",
            r"CN=\zz\4",
            r"CN=\FF",
            "CN=#",
            "CN=#0",
            "a\nb",
            "a\0",
        ] {
            assert_eq!(SubjectPattern::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_text_without_an_equals_sign_is_a_common_name() {
        let pattern = SubjectPattern::parse(" till 1, front ").expect("a name");
        assert_eq!(
            pattern,
            SubjectPattern::CommonName("till 1, front".to_owned())
        );
        assert_eq!(pattern.narrowest(), r"CN=till 1\, front");
    }
}
