//! The OpenAPI description of one route.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use crate::http::auth::RouteAccess;
use crate::http::error::ErrorBody;
use crate::http::estimate::ESTIMATED;
use crate::http::precheck::{DEADLINE, DEADLINE_MS};

use super::schemas::Schemas;

/// The description of one method of a path.
pub(crate) struct Operation {
    object: Map<String, Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

/// The statuses of errors, and what each means.
const FAILURES: [(StatusCode, &str); 10] = [
    (
        StatusCode::BAD_REQUEST,
        "A parameter is missing, of the wrong type, out of its range, or known and not supported \
         (`unsupported_parameter`); `param` says which. Or prompt and answer do not fit into the \
         model's context (`context_length_exceeded`).",
    ),
    (
        StatusCode::UNAUTHORIZED,
        "Where the server has keys: there is none (`missing_api_key`), it is not known (`invalid_api_key`), or it \
         has ended (`expired_api_key`); or nobody knows the client's certificate (`unknown_certificate`).",
    ),
    (
        StatusCode::FORBIDDEN,
        "The key may not use this model (`model_not_allowed`), or is no administrator's (`admin_only`). Or the request \
         is for a host that is not known to be this server (`host_not_allowed`), or of a web page of another server that \
         may not ask (`origin_not_allowed`).",
    ),
    (
        StatusCode::NOT_FOUND,
        "There is no such model (`model_not_found`), stream (`stream_not_found`), response or path \
         (`not_found`).",
    ),
    (
        StatusCode::REQUEST_TIMEOUT,
        "The body did not arrive in time.",
    ),
    (
        StatusCode::PAYLOAD_TOO_LARGE,
        "The body is larger than the server takes.",
    ),
    (
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "The body is not declared as JSON, or it is compressed.",
    ),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "The key has used up what it may use (`rate_limit_exceeded`); `retry-after` says when to try again.",
    ),
    (
        StatusCode::INTERNAL_SERVER_ERROR,
        "A defect, or a model that could not be loaded; the server's log says more.",
    ),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "The request is not admitted now, or was given up because its deadline passed before there was \
         anything of its answer (`deadline_unreachable`); `code` says why and `retry-after` when to try again.",
    ),
];

/// Makes `components.responses`, which describes the errors by status.
pub(super) fn failures(schemas: &mut Schemas) -> Value {
    let schema = schemas.written::<ErrorBody>();
    let failures = FAILURES.map(|(status, about)| {
        let mut headers = headers();
        if [
            StatusCode::SERVICE_UNAVAILABLE,
            StatusCode::TOO_MANY_REQUESTS,
        ]
        .contains(&status)
        {
            for (name, unit) in [
                ("retry-after", "Seconds"),
                ("retry-after-ms", "Milliseconds"),
            ] {
                headers[name] = json!({
                    "description": format!("{unit} after which to try again."),
                    "required": true,
                    "schema": {"type": "integer", "minimum": 1},
                });
            }
        }
        let response = json!({
            "description": about,
            "headers": headers,
            "content": {"application/json": {"schema": schema}},
        });
        (name(status), response)
    });
    Value::Object(failures.into_iter().collect())
}

fn name(status: StatusCode) -> String {
    format!("Failure{}", status.as_str())
}

/// Returns the headers of every response.
fn headers() -> Value {
    json!({
        "x-request-id": {
            "description": "The request's own id if it had a printable one of at most 128 characters, \
                otherwise a new one. It is in every line of the server's log about the request.",
            "required": true,
            "schema": {"type": "string"},
        },
    })
}

impl Operation {
    pub(crate) fn new(id: &str, summary: &str) -> Self {
        let mut object = Map::new();
        object.insert("operationId".to_owned(), id.into());
        object.insert("summary".to_owned(), summary.into());
        let request_id = json!({
            "name": "x-request-id",
            "in": "header",
            "description": "A name of the client's for this request: up to 128 printable characters. \
                Others are not used.",
            "schema": {"type": "string"},
        });
        Self {
            object,
            parameters: vec![request_id],
            responses: Map::new(),
        }
    }

    /// Declares the key that it needs. Pages of strangers and unknown hosts are refused everywhere.
    pub(super) fn needs(mut self, access: RouteAccess) -> Self {
        if access == RouteAccess::Open {
            return self.fails(&[403]);
        }
        let any = json!([{}, {"bearer": []}, {"plain": []}]);
        self.object.insert("security".to_owned(), any);
        self.fails(&[401, 403])
    }

    /// Adds a path parameter.
    pub(crate) fn path(mut self, name: &str, about: &str, schema: &Value) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": about, "schema": schema,
        }));
        self
    }

    /// Adds an optional query parameter.
    pub(crate) fn query(mut self, name: &str, about: &str, schema: &Value) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "query", "description": about, "schema": schema,
        }));
        self
    }

    /// Adds an optional header.
    pub(crate) fn header(mut self, name: &str, about: &str, schema: &Value) -> Self {
        self.parameters.push(json!({
            "name": name, "in": "header", "description": about, "schema": schema,
        }));
        self
    }

    /// Adds the JSON request body, and the errors that reading one may give.
    pub(crate) fn accepts(mut self, schema: &Value) -> Self {
        let body = json!({"required": true, "content": {"application/json": {"schema": schema}}});
        self.object.insert("requestBody".to_owned(), body);
        self.fails(&[400, 408, 413, 415, 429, 500, 503])
    }

    /// Adds the response with status 200. Further calls add further content types.
    pub(crate) fn responds(self, content_type: &str, schema: &Value) -> Self {
        self.responds_with(StatusCode::OK, "The answer.", content_type, schema)
    }

    /// Adds a response with this status.
    pub(crate) fn responds_with(
        mut self,
        status: StatusCode,
        about: &str,
        content_type: &str,
        schema: &Value,
    ) -> Self {
        let response = self.response(status, about);
        response["content"][content_type] = json!({"schema": schema});
        self
    }

    /// Adds a response without a body.
    pub(crate) fn responds_empty(mut self, status: StatusCode, about: &str) -> Self {
        self.response(status, about);
        self
    }

    fn response(&mut self, status: StatusCode, about: &str) -> &mut Value {
        let responses = &mut self.responses;
        responses
            .entry(status.as_str())
            .or_insert_with(|| json!({"description": about, "headers": headers()}))
    }

    /// Adds a response of server-sent events whose data is a `schema` or an error; `last` is the data of the
    /// last event if it is neither. OpenAPI 3.1 cannot describe a stream, so the schema describes one event.
    pub(crate) fn streams(self, about: &str, schema: &Value, last: Option<&str>) -> Self {
        let error = json!({"$ref": "#/components/schemas/Error"});
        let mut data = vec![json!({
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [schema, error]},
        })];
        data.extend(last.map(|last| json!({"const": last})));
        let event = json!({
            "type": "object",
            "description": about,
            "properties": {
                "id": {"type": "string", "description": "The number of the event."},
                "event": {"type": "string"},
                "data": {"anyOf": data},
            },
            "required": ["id", "data"],
        });
        self.responds("text/event-stream", &event)
    }

    /// Declares that its answer may be wanted by a certain time. To be called after its responses are added.
    pub(crate) fn in_time(mut self) -> Self {
        let (least, most) = DEADLINE_MS.into_inner();
        self = self.header(
            DEADLINE,
            "Milliseconds within which the whole answer is wanted, counted from the arrival of the request. What \
             cannot be met is refused at once (503 `deadline_unreachable`); an answer that is under way then ends \
             with what there is of it. The server may have a default.",
            &json!({"type": "integer", "minimum": least, "maximum": most}),
        );
        let response = self.response(StatusCode::OK, "The answer.");
        response["headers"][ESTIMATED] = json!({
            "description": "For requests with a deadline, once enough answers were measured: milliseconds from \
                the request's arrival to the end of its answer, as estimated when it was admitted.",
            "schema": {"type": "integer", "minimum": 0},
        });
        self
    }

    /// Declares that its stream can be resumed after a lost connection.
    pub(crate) fn resumable(self) -> Self {
        self.header(
            "last-event-id",
            "Together with the same `x-request-id` and body as before: the number of the last event \
             that came. The rest of the stream follows.",
            &json!({"type": "integer", "minimum": 0}),
        )
        .fails(&[404])
    }

    /// Adds errors by their statuses, which must be among [`FAILURES`].
    pub(crate) fn fails(mut self, statuses: &[u16]) -> Self {
        for (status, _) in &FAILURES {
            if statuses.contains(&status.as_u16()) {
                let reference =
                    json!({"$ref": format!("#/components/responses/{}", name(*status))});
                self.responses.insert(status.as_str().to_owned(), reference);
            }
        }
        self
    }

    pub(super) fn into_value(mut self) -> Value {
        self.object
            .insert("parameters".to_owned(), self.parameters.into());
        self.object
            .insert("responses".to_owned(), self.responses.into());
        Value::Object(self.object)
    }
}
