//! Writing a pattern in Rust's syntax.

use std::fmt::Write as _;

use super::PatternNode;

pub(super) fn write(root: &PatternNode) -> String {
    let mut text = String::new();
    any(root, &mut text);
    text
}

fn any(node: &PatternNode, text: &mut String) {
    match node {
        PatternNode::Class(class) => class.write(text),
        PatternNode::Start => text.push('^'),
        PatternNode::End => text.push('$'),
        PatternNode::Concat(parts) => {
            for part in parts {
                let loose = matches!(part, PatternNode::Either(options) if options.len() != 1);
                within(part, loose, text);
            }
        }
        PatternNode::Either(options) => {
            for (index, option) in options.iter().enumerate() {
                if index > 0 {
                    text.push('|');
                }
                any(option, text);
            }
        }
        PatternNode::Repeat(inner, least, most) => {
            within(inner, !matches!(**inner, PatternNode::Class(_)), text);
            // Writing to a string cannot fail.
            let _ = match (least, most) {
                (0, None) => write!(text, "*"),
                (1, None) => write!(text, "+"),
                (0, Some(1)) => write!(text, "?"),
                (least, None) => write!(text, "{{{least},}}"),
                (least, Some(most)) if least == most => write!(text, "{{{least}}}"),
                (least, Some(most)) => write!(text, "{{{least},{most}}}"),
            };
        }
        PatternNode::AnyCase(inner) => {
            text.push_str("(?i:");
            any(inner, text);
            text.push(')');
        }
    }
}

fn within(node: &PatternNode, loose: bool, text: &mut String) {
    if loose {
        text.push_str("(?:");
    }
    any(node, text);
    if loose {
        text.push(')');
    }
}
