//! Templates against Jinja2 3.1.6 as transformers sets it up: `fixtures/jinja2.json` has what that makes of
//! each, given the same variables.

use minijinja::Value;
use minijinja::value::Serde;
use serde::Deserialize;
use serde_json::Value as Json;

use super::template::environment;

#[derive(Deserialize)]
struct Fixture {
    given: Json,
    /// Templates and what Jinja2 makes of them.
    cases: Vec<(String, String)>,
}

fn render(source: &str, given: &Json) -> Result<String, String> {
    let environment = environment(source).map_err(|error| error.to_string())?;
    let template = environment.get_template("chat template");
    template
        .and_then(|template| template.render(Value::from(Serde(given))))
        .map_err(|error| error.to_string())
}

#[test]
fn templates_render_as_jinja_renders_them() {
    let fixture: Fixture =
        serde_json::from_str(include_str!("fixtures/jinja2.json")).expect("cases");
    let wrong: Vec<String> = fixture
        .cases
        .iter()
        .filter_map(|(source, expected)| match render(source, &fixture.given) {
            Ok(told) if told == *expected => None,
            told => Some(format!("{source}\n  is {told:?}\n  not {expected:?}")),
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        fixture.cases.len(),
        wrong.join("\n")
    );
}
