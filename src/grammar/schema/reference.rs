//! References within a schema: JSON Pointers (RFC 6901) in the fragment of a URI (RFC 3986).

use serde_json::Value;

/// Where a reference leads.
pub(super) struct ReferenceTarget<'s> {
    /// Its path in the schema, such as `.$defs.name`.
    pub(super) place: String,
    pub(super) schema: &'s Value,
}

/// Finds what a reference names.
pub(super) fn resolve<'s>(root: &'s Value, reference: &str) -> Option<ReferenceTarget<'s>> {
    let mut target = ReferenceTarget {
        place: String::new(),
        schema: root,
    };
    // "#/" would be the member "", which nobody means by it.
    if reference == "#" || reference == "#/" {
        return Some(target);
    }
    for segment in reference.strip_prefix("#/")?.split('/') {
        target = target.step(segment)?;
    }
    Some(target)
}

impl ReferenceTarget<'_> {
    fn step(self, segment: &str) -> Option<Self> {
        let name = decode(segment);
        let schema = match self.schema {
            Value::Array(list) => list.get(index(&name)?)?,
            // Some generators forget to encode names.
            Value::Object(object) => object.get(&name).or_else(|| object.get(segment))?,
            _ => return None,
        };
        Some(Self {
            place: format!("{}.{name}", self.place),
            schema,
        })
    }
}

/// Decodes a name: `%20` and the like for bytes that URIs cannot hold, `~1` for `/` and `~0` for `~`.
fn decode(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let byte = (*first == b'%').then(|| others.get(..2).and_then(hex));
        if let Some(Some(byte)) = byte {
            bytes.push(byte);
            rest = &others[2..];
        } else {
            bytes.push(*first);
            rest = others;
        }
    }
    let text = String::from_utf8(bytes).unwrap_or_else(|_| segment.to_owned());
    text.replace("~1", "/").replace("~0", "~")
}

fn hex(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Reads an index in its only valid form: not `00` or `+0`, which would be second names of one item.
fn index(name: &str) -> Option<usize> {
    let index = name.parse::<usize>().ok()?;
    (index.to_string() == name).then_some(index)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_found_however_they_are_encoded() {
        let root = json!({"$defs": {
            "Shop/Item": 1, "a~b": 2, "Price Tag": 3, "Page<Item>": 4, "Größe": 5, "50%": 6, "~1": 7,
            "as%20is": 8, "list": [{"x": 9}], "": 10,
        }});
        for (name, value) in [
            ("Shop~1Item", 1),
            ("Shop%2FItem", 1),
            ("a~0b", 2),
            ("a%7E0b", 2),
            ("Price%20Tag", 3),
            ("Price Tag", 3),
            ("Page%3CItem%3E", 4),
            ("Page<Item>", 4),
            ("Gr%C3%B6%C3%9Fe", 5),
            ("Größe", 5),
            ("50%25", 6),
            ("50%", 6),
            ("~01", 7),
            ("as%20is", 8),
            ("list/0/x", 9),
            ("", 10),
        ] {
            let found = resolve(&root, &format!("#/$defs/{name}")).map(|target| target.schema);
            assert_eq!(found, Some(&json!(value)), "{name}");
        }
        for lost in [
            "#/$defs/list/00",
            "#/$defs/none",
            "$defs",
            "https://example.com/a",
            "#a",
            "",
        ] {
            assert!(resolve(&root, lost).is_none(), "{lost}");
        }
        let target = resolve(&root, "#/$defs/Shop~1Item").expect("there");
        assert_eq!(target.place, ".$defs.Shop/Item");
    }
}
