//! Which model a name means: a plain function of what the models are called.

use super::ModelTerms;

/// What a model is called.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    pub(super) id: &'a str,
    pub(super) terms: &'a ModelTerms,
    /// Whether it has an adapter of this name.
    pub(super) has_adapter: &'a dyn Fn(&str) -> bool,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    /// The model's place.
    pub(super) place: usize,
    /// The adapter that is to be applied.
    pub(super) adapter: Option<String>,
    /// Whether nobody has this name, and the model answers because it is the default one.
    pub(super) is_default: bool,
}

/// Finds the model that a name means: by id, as a model with an adapter (`base+adapter`), by an alias,
/// by a pattern, or the one that answers for everybody.
pub(super) fn meaning(name: &str, models: &[Names<'_>]) -> Option<Meaning> {
    let plain = |place| Meaning {
        place,
        adapter: None,
        is_default: false,
    };
    own_name(name, models)
        .map(plain)
        .or_else(|| with_adapter(name, models))
        .or_else(|| {
            let mut models = models.iter();
            let matches = |alias: &String| alias.contains('*') && fits(alias, name);
            let place = models.position(|model| model.terms.aliases.iter().any(matches))?;
            Some(plain(place))
        })
        .or_else(|| {
            let place = models.iter().position(|model| model.terms.is_default)?;
            Some(Meaning {
                is_default: true,
                ..plain(place)
            })
        })
}

/// The model that has this id or exactly this alias.
fn own_name(name: &str, models: &[Names<'_>]) -> Option<usize> {
    let by_id = models.iter().position(|model| model.id == name);
    by_id.or_else(|| {
        let is_alias = |model: &Names<'_>| model.terms.aliases.iter().any(|alias| alias == name);
        models.iter().position(is_alias)
    })
}

/// Ids may have a `+` as well, so every one is tried as the border.
fn with_adapter(name: &str, models: &[Names<'_>]) -> Option<Meaning> {
    name.match_indices('+').find_map(|(at, _)| {
        let (base, adapter) = (&name[..at], &name[at + 1..]);
        let place = own_name(base, models)?;
        (models[place].has_adapter)(adapter).then(|| Meaning {
            place,
            adapter: Some(adapter.to_owned()),
            is_default: false,
        })
    })
}

/// Whether a name fits a pattern, in which each `*` stands for any text.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name) in [
            ("gpt-4o*", "gpt-4o-mini"),
            ("gpt-4o*", "gpt-4o"),
            ("*mini", "gpt-4o-mini"),
            ("gpt-*-mini", "gpt-4o-mini"),
            ("*", ""),
            ("a*b*a", "aba"),
            ("**", "x"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("gpt-4o*", "gpt-4"),
            ("*mini", "mini-2"),
            ("a*a", "a"),
            ("a*b*a", "aa"),
            ("gpt-4", "gpt-4o"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_name_is_an_id_before_it_is_anything_else() {
        let terms = |aliases: &[&str], is_default| ModelTerms {
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            is_default,
            ..ModelTerms::default()
        };
        let (shop, large, odd) = (
            terms(&["gpt-4o*", "kiosk"], false),
            terms(&["gpt-4o-mini"], true),
            terms(&[], false),
        );
        let has_loyalty = |name: &str| name == "loyalty";
        let none = |_: &str| false;
        let models = [
            Names {
                id: "shop",
                terms: &shop,
                has_adapter: &has_loyalty,
            },
            Names {
                id: "large",
                terms: &large,
                has_adapter: &none,
            },
            Names {
                id: "shop+odd",
                terms: &odd,
                has_adapter: &has_loyalty,
            },
        ];
        let place =
            |name| meaning(name, &models).map(|meaning| (meaning.place, meaning.is_default));
        assert_eq!(place("shop"), Some((0, false)));
        assert_eq!(place("kiosk"), Some((0, false)));
        assert_eq!(
            place("gpt-4o-mini"),
            Some((1, false)),
            "an exact alias before a pattern"
        );
        assert_eq!(place("gpt-4o-2024"), Some((0, false)));
        assert_eq!(place("shop+odd"), Some((2, false)));
        assert_eq!(place("claude"), Some((1, true)));
        let adapter = |name| {
            meaning(name, &models).and_then(|meaning| Some((meaning.place, meaning.adapter?)))
        };
        assert_eq!(adapter("shop+loyalty"), Some((0, "loyalty".to_owned())));
        assert_eq!(adapter("kiosk+loyalty"), Some((0, "loyalty".to_owned())));
        assert_eq!(adapter("shop+odd+loyalty"), Some((2, "loyalty".to_owned())));
        assert_eq!(adapter("shop+unknown"), None);
        assert_eq!(place("shop+unknown"), Some((1, true)));
        assert_eq!(meaning("x", &models[..1]), None);
    }
}
