//! Writing a pattern in Rust's syntax.

use std::fmt::Write as _;

use super::Node;

pub(super) fn write(root: &Node) -> String {
    let mut text = String::new();
    any(root, &mut text);
    text
}

fn any(node: &Node, text: &mut String) {
    match node {
        Node::Class(class) => class.write(text),
        Node::Start => text.push('^'),
        Node::End => text.push('$'),
        Node::Concat(parts) => {
            for part in parts {
                let loose = matches!(part, Node::Either(options) if options.len() != 1);
                within(part, loose, text);
            }
        }
        Node::Either(options) => {
            for (index, option) in options.iter().enumerate() {
                if index > 0 {
                    text.push('|');
                }
                any(option, text);
            }
        }
        Node::Repeat(inner, least, most) => {
            within(inner, !matches!(**inner, Node::Class(_)), text);
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
        Node::AnyCase(inner) => {
            text.push_str("(?i:");
            any(inner, text);
            text.push(')');
        }
    }
}

fn within(node: &Node, loose: bool, text: &mut String) {
    if loose {
        text.push_str("(?:");
    }
    any(node, text);
    if loose {
        text.push(')');
    }
}
