//! The headers that tell which model answered, where that is another than was asked for.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use crate::inference::ChosenModel;

/// The name of the model that answered.
const MODEL: HeaderName = HeaderName::from_static("x-edgellm-model");
/// Why it was another than was asked for: `default`, or what is so short that a smaller sibling answers.
const REASON: HeaderName = HeaderName::from_static("x-edgellm-model-reason");

/// Adds the headers to a response, if another model answered than was asked for.
pub(super) fn served_by(mut response: Response, model: &ChosenModel) -> Response {
    let Some(stands_in) = model.stands_in else {
        return response;
    };
    let headers = response.headers_mut();
    // Ids may have letters that headers may not.
    let name = model.name().escape_default().to_string();
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(MODEL, name);
    }
    headers.insert(REASON, HeaderValue::from_static(stands_in.as_str()));
    response
}
