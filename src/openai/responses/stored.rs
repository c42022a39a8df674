//! The routes of stored responses: reading one, listing its input items, deleting it.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};

use crate::http::access::Asker;
use crate::http::error::ApiError;
use crate::http::openapi::{Operation, Schemas, among};
use crate::inference::bounds::PAGE_ITEMS;
use crate::inference::checks::between;

use super::items::ResponseItem;
use super::store::{ResponseStore, StoredItem};

/// OpenAI's default number of items per page.
const DEFAULT_PAGE_ITEMS: usize = 20;

type IdPath = Result<Path<String>, PathRejection>;

/// A response that is no more.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedResponse")]
#[allow(clippy::struct_field_names)] // OpenAI's
pub(crate) struct DeletedResponse {
    id: String,
    #[schemars(transform = among(["response"]))]
    object: &'static str,
    deleted: bool,
}

/// A part of what a response answers to.
#[derive(Debug, Serialize, JsonSchema)]
struct ResponseItemList<'a> {
    #[schemars(transform = among(["list"]))]
    object: &'static str,
    data: &'a [&'a ResponseItem],
    first_id: String,
    last_id: String,
    has_more: bool,
}

fn about_one(id: &str, summary: &str) -> Operation {
    let any = json!({"type": "string"});
    Operation::new(id, summary)
        .path("id", "The response's id.", &any)
        .fails(&[400, 404])
}

pub(crate) fn describe_show(schemas: &mut Schemas) -> Operation {
    let no = json!({"type": "string", "enum": ["false"]});
    about_one("showResponse", "A stored response.")
        .query("stream", "Refused as true.", &no)
        .responds(
            "application/json",
            &schemas.written::<super::reply::ResponseObject>(),
        )
}

pub(crate) fn describe_delete(schemas: &mut Schemas) -> Operation {
    about_one("deleteResponse", "Forgets a stored response.")
        .responds("application/json", &schemas.written::<DeletedResponse>())
}

pub(crate) fn describe_cancel(_: &mut Schemas) -> Operation {
    let summary = "Refused: only background responses can be cancelled, and there are none.";
    about_one("cancelResponse", summary)
}

pub(crate) fn describe_input_items(schemas: &mut Schemas) -> Operation {
    let limit = json!({
        "type": "integer", "minimum": PAGE_ITEMS.start(), "maximum": PAGE_ITEMS.end(), "default": DEFAULT_PAGE_ITEMS,
    });
    let order = json!({"type": "string", "enum": ["asc", "desc"], "default": "desc"});
    let any = json!({"type": "string"});
    about_one(
        "listInputItems",
        "What a stored response answers to, earlier turns included.",
    )
    .query("limit", "Items at most.", &limit)
    .query(
        "order",
        "Which come first: the oldest or the newest.",
        &order,
    )
    .query("after", "Only those behind the item with this id.", &any)
    .responds("application/json", &schemas.written::<ResponseItemList>())
}

/// `GET /v1/responses/{id}`
pub(crate) async fn show(
    State(store): State<ResponseStore>,
    Asker(principal): Asker,
    id: IdPath,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let id = path(id)?;
    let streams = |(name, value): &(String, String)| name == "stream" && value != "false";
    if pairs(query.as_deref()).iter().any(streams) {
        let why = "is not supported here: a stream is gone on with by repeating its request with \
                   `x-request-id` and `Last-Event-ID`";
        return Err(ApiError::unsupported("stream", why));
    }
    match store.of(&principal).find(&id) {
        Some(stored) => {
            let head = [(header::CONTENT_TYPE, "application/json")];
            Ok((head, stored.body.clone()).into_response())
        }
        None => Err(ApiError::ResponseNotFound(id)),
    }
}

/// `DELETE /v1/responses/{id}`
pub(crate) async fn delete(
    State(store): State<ResponseStore>,
    Asker(principal): Asker,
    id: IdPath,
) -> Result<Json<DeletedResponse>, ApiError> {
    let id = path(id)?;
    if !store.of(&principal).forget(&id) {
        return Err(ApiError::ResponseNotFound(id));
    }
    Ok(Json(DeletedResponse {
        id,
        object: "response",
        deleted: true,
    }))
}

/// `POST /v1/responses/{id}/cancel`: only background responses can be, and there are none.
pub(crate) async fn cancel(
    State(store): State<ResponseStore>,
    Asker(principal): Asker,
    id: IdPath,
) -> Result<Json<Value>, ApiError> {
    let id = path(id)?;
    if store.of(&principal).find(&id).is_none() {
        return Err(ApiError::ResponseNotFound(id));
    }
    let message = "this response has ended: only a background response can be cancelled; to cancel \
                   a stream, close its connection";
    Err(ApiError::invalid("response_id", message))
}

/// `GET /v1/responses/{id}/input_items`: what the response answers to, earlier turns included.
pub(crate) async fn input_items(
    State(store): State<ResponseStore>,
    Asker(principal): Asker,
    id: IdPath,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let id = path(id)?;
    let page = ItemPage::read(query.as_deref())?;
    let Some(stored) = store.of(&principal).find(&id) else {
        return Err(ApiError::ResponseNotFound(id));
    };
    page.of(different(&stored.input)).map(Json)
}

/// Returns each item of the input once: a page begins after an item's id, which must be unique.
fn different(input: &[Arc<StoredItem>]) -> Vec<&ResponseItem> {
    let mut seen = HashSet::new();
    let new = input.iter().filter(|kept| seen.insert(Arc::as_ptr(kept)));
    new.map(|kept| &kept.item).collect()
}

fn path(id: IdPath) -> Result<String, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::NotFound("this path".to_owned()))?;
    Ok(id)
}

fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let query = query.unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// The page of items that a query asks for.
#[derive(Debug, PartialEq, Eq)]
struct ItemPage {
    limit: usize,
    oldest_first: bool,
    /// The id of the item after which the page begins.
    after: Option<String>,
}

impl ItemPage {
    fn read(query: Option<&str>) -> Result<Self, ApiError> {
        let mut page = Self {
            limit: DEFAULT_PAGE_ITEMS,
            oldest_first: false,
            after: None,
        };
        for (name, value) in pairs(query) {
            match (name.as_str(), value.as_str()) {
                ("limit", _) => {
                    let number = value.parse().map_err(|_| {
                        ApiError::invalid("limit", "`limit` must be a whole number")
                    })?;
                    page.limit = between("limit", number, PAGE_ITEMS)? as usize;
                }
                ("order", "asc") => page.oldest_first = true,
                ("order", "desc") => page.oldest_first = false,
                ("order", _) => {
                    let message = "`order` must be `asc` or `desc`";
                    return Err(ApiError::invalid("order", message));
                }
                ("after", _) => page.after = Some(value),
                _ => {}
            }
        }
        Ok(page)
    }

    /// Makes the page of `items`, which are ordered oldest first.
    fn of(&self, mut items: Vec<&ResponseItem>) -> Result<Value, ApiError> {
        if !self.oldest_first {
            items.reverse();
        }
        let begin = match &self.after {
            None => 0,
            Some(id) => {
                let place = items.iter().position(|item| item.id().as_str() == id);
                let message = "`after` must be the id of an item of this list";
                1 + place.ok_or_else(|| ApiError::invalid("after", message))?
            }
        };
        let rest = &items[begin..];
        let data = &rest[..rest.len().min(self.limit)];
        let id =
            |item: Option<&&ResponseItem>| item.map_or("", |item| item.id().as_str()).to_owned();
        Ok(json!(ResponseItemList {
            object: "list",
            data,
            first_id: id(data.first()),
            last_id: id(data.last()),
            has_more: data.len() < rest.len(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::Router;
    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::routing::{get, post};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::super::items::{ItemId, ItemPart, ItemRole, ItemStatus};
    use super::super::store::{InputSource, ResponseDraft, StoreLimits};
    use super::*;
    use crate::admission::Principal;

    fn items() -> Vec<ResponseItem> {
        let item = |number| ResponseItem::Message {
            id: ItemId::fixed(&format!("msg_{number}"), true),
            status: ItemStatus::Completed,
            role: ItemRole::User,
            content: vec![ItemPart::InputText {
                text: "Hello".to_owned(),
            }],
        };
        (0..5).map(item).collect()
    }

    fn page(query: &str) -> Result<Value, ApiError> {
        let items = items();
        ItemPage::read(Some(query))?.of(items.iter().collect())
    }

    fn ids(page: &Value) -> Vec<&str> {
        let data = page["data"].as_array().expect("a list");
        data.iter().filter_map(|item| item["id"].as_str()).collect()
    }

    #[test]
    fn the_newest_item_comes_first_unless_asked_otherwise() {
        let newest = page("").expect("valid");
        assert_eq!(ids(&newest), ["msg_4", "msg_3", "msg_2", "msg_1", "msg_0"]);
        let oldest = page("order=asc").expect("valid");
        assert_eq!(oldest["first_id"], "msg_0");
    }

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        let first = page("order=asc&limit=3").expect("valid");
        assert_eq!(ids(&first), ["msg_0", "msg_1", "msg_2"]);
        assert_eq!(first["has_more"], true);
        let second = page("order=asc&limit=3&after=msg_2").expect("valid");
        assert_eq!(ids(&second), ["msg_3", "msg_4"]);
        assert_eq!(
            (&second["has_more"], &second["last_id"]),
            (&json!(false), &json!("msg_4"))
        );
    }

    fn principal(name: Option<&str>) -> Arc<Principal> {
        Arc::new(Principal {
            name: name.map(str::to_owned),
            ..Principal::anyone()
        })
    }

    fn empty_store() -> ResponseStore {
        ResponseStore::new(StoreLimits {
            responses: 10,
            bytes: 1 << 20,
            age: Duration::from_secs(60),
        })
    }

    /// Sends a request as an endpoint of these routes gets it; returns the status and the body.
    async fn answer(
        store: &ResponseStore,
        name: Option<&str>,
        (method, path): (&str, &str),
    ) -> (StatusCode, Value) {
        let routes = Router::new()
            .route("/v1/responses/{id}", get(show).delete(delete))
            .route("/v1/responses/{id}/input_items", get(input_items))
            .route("/v1/responses/{id}/cancel", post(cancel))
            .with_state(store.clone());
        let mut request = Request::builder().method(method).uri(path);
        if name.is_some() {
            request = request.extension(principal(name));
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = routes.oneshot(request).await.expect("an answer");
        let status = response.status();
        let body = response.into_body().collect().await.expect("a body");
        let body = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        (status, body)
    }

    #[tokio::test]
    async fn no_route_tells_another_key_that_a_response_exists() {
        const ROUTES: [(&str, &str); 5] = [
            ("GET", "/v1/responses/resp_1"),
            ("GET", "/v1/responses/resp_1/input_items"),
            ("GET", "/v1/responses/resp_1/input_items?after=msg_0"),
            ("POST", "/v1/responses/resp_1/cancel"),
            ("DELETE", "/v1/responses/resp_1"),
        ];
        for owner in [Some("till"), None] {
            let store = empty_store();
            let input = items().into_iter().map(InputSource::New).collect();
            assert!(store.of(&principal(owner)).keep(ResponseDraft {
                id: "resp_1".to_owned(),
                body: "{}".to_owned(),
                input,
                output: Vec::new(),
            }));
            let others = [Some("tablet"), Some("till"), None].into_iter();
            for other in others.filter(|other| *other != owner) {
                for route in ROUTES {
                    let found = answer(&store, other, route).await;
                    assert_eq!(found, answer(&empty_store(), other, route).await);
                    assert_eq!(found.0, StatusCode::NOT_FOUND, "{route:?}");
                }
            }
            for (route, status) in ROUTES.into_iter().zip([200, 200, 200, 400, 200]) {
                let (found, body) = answer(&store, owner, route).await;
                assert_eq!(found.as_u16(), status, "{route:?}: {body}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, param) in [
            ("limit=0", "limit"),
            ("limit=many", "limit"),
            ("order=up", "order"),
            ("after=msg_9", "after"),
        ] {
            let error = page(query).expect_err("refused").body();
            assert_eq!(error["error"]["param"], param);
        }
    }
}
