//! The description of the API, from the table of its routes and the types they take and answer.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::route::{Body, Route, Shape};
use crate::failure::Failure;
use crate::model::{API, API_HEADER, VERSION_HEADER};

/// The whole description, as OpenAPI 3.1.
pub fn document(routes: &[Route]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut generator = settings.into_generator();
    let failure = generator.subschema_for::<Failure>().to_value();
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let operation = operation(route, &failure, &mut generator);
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.method.to_owned(), operation);
        }
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "hypermount daemon",
            "version": API,
            "description": format!(
                "HTTP/1.1 over a Unix socket that only its user can open; `hypermount daemon status` \
                 names it. Every answer has the headers `{API_HEADER}` (the version of this \
                 description) and `{VERSION_HEADER}` (of the program)."
            ),
        },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn operation(route: &Route, failure: &Value, generator: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "responses": {
            "200": answer(&route.answer, generator),
            "default": content("application/json", failure.clone(), "why it could not be done"),
        },
    });
    let mut parameters = Vec::new();
    if route.path.contains("{drive}") {
        parameters.push(json!({
            "name": "drive",
            "in": "path",
            "required": true,
            "description": "`KEY[+VERSION]`, the name of a drive of the store, or `-` for its only one",
            "schema": { "type": "string" },
        }));
    }
    if let Some(query) = &route.query {
        parameters.extend(query_parameters(query, generator));
    }
    if let Some(operation) = operation.as_object_mut() {
        if !parameters.is_empty() {
            operation.insert("parameters".into(), Value::Array(parameters));
        }
        if let Some(body) = &route.body {
            let schema = (body.make)(generator);
            operation.insert(
                "requestBody".into(),
                json!({ "required": true, "content": { "application/json": { "schema": schema } } }),
            );
        }
    }
    operation
}

fn answer(body: &Body, generator: &mut SchemaGenerator) -> Value {
    match body {
        Body::Json(shape) => content("application/json", (shape.make)(generator), shape.name),
        Body::Lines(shape) => {
            let schema = (shape.make)(generator);
            content("application/x-ndjson", schema, "one of these a line")
        }
        Body::Bytes => {
            content("application/octet-stream", json!({ "type": "string" }), "the bytes")
        }
        Body::Text => content("text/plain", json!({ "type": "string" }), "text"),
        Body::OpenApi => content("application/json", json!({ "type": "object" }), "OpenAPI 3.1"),
    }
}

fn content(kind: &str, schema: Value, description: &str) -> Value {
    json!({ "description": description, "content": { kind: { "schema": schema } } })
}

/// The properties of a query's type, each a parameter.
fn query_parameters(shape: &Shape, generator: &mut SchemaGenerator) -> Vec<Value> {
    // In a generator of its own: the type is no component.
    let reference = (shape.make)(generator);
    let name = reference.get("$ref").and_then(Value::as_str).and_then(|r| r.rsplit('/').next());
    let Some(schema) = name.and_then(|name| generator.definitions_mut().remove(name)) else {
        return Vec::new();
    };
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, schema)| {
            let required = required.contains(&name.as_str());
            json!({ "name": name, "in": "query", "required": required, "schema": schema })
        })
        .collect()
}
