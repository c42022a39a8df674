//! Paths within a schema.

use std::fmt;

use super::SchemaError;

/// Characters of a name that are shown.
const LONGEST_SHOWN: usize = 100;

/// A path within a schema, as a list of steps. It is written out only in an error: names come from clients,
/// and a long path written out for each of many schemas would fill the memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct SchemaPath<'p> {
    parent: Option<&'p SchemaPath<'p>>,
    step: PathStep<'p>,
}

#[derive(Debug, Clone, Copy)]
enum PathStep<'p> {
    Name(&'p str),
    Index(usize),
    /// Several steps at once, as they are written in a message.
    Steps(&'p str),
}

impl SchemaPath<'static> {
    /// The path of the whole schema.
    pub(super) const ROOT: Self = Self {
        parent: None,
        step: PathStep::Steps(""),
    };
}

impl<'p> SchemaPath<'p> {
    /// Returns the path of the member `name`.
    pub(super) fn under(&'p self, name: &'p str) -> Self {
        self.then(PathStep::Name(name))
    }

    /// Returns the path of the list item `index`.
    pub(super) fn at(&'p self, index: usize) -> Self {
        self.then(PathStep::Index(index))
    }

    /// Returns the path after several steps, such as `.$defs.name`.
    pub(super) fn behind(&'p self, steps: &'p str) -> Self {
        self.then(PathStep::Steps(steps))
    }

    fn then(&'p self, step: PathStep<'p>) -> Self {
        Self {
            parent: Some(self),
            step,
        }
    }
}

impl fmt::Display for SchemaPath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(formatter)?;
        }
        match self.step {
            PathStep::Name(name) => write!(formatter, ".{}", shown(name)),
            PathStep::Index(index) => write!(formatter, "[{index}]"),
            PathStep::Steps(steps) => formatter.write_str(shown(steps)),
        }
    }
}

/// Shortens a name that is longer than anybody reads.
fn shown(name: &str) -> &str {
    let end = name.char_indices().nth(LONGEST_SHOWN);
    end.map_or(name, |(end, _)| &name[..end])
}

/// Makes the error for what stands at `path`.
pub(super) fn schema_error(path: &SchemaPath, why: impl Into<String>) -> SchemaError {
    SchemaError {
        path: path.to_string(),
        why: why.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_its_steps_and_long_names_are_cut() {
        let target = SchemaPath::ROOT.behind(".$defs.a");
        let list = target.under("anyOf");
        assert_eq!(list.at(3).to_string(), ".$defs.a.anyOf[3]");
        assert_eq!(SchemaPath::ROOT.to_string(), "");
        let long = "é".repeat(1000);
        assert_eq!(
            SchemaPath::ROOT.under(&long).to_string().chars().count(),
            101
        );
    }
}
