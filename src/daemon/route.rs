//! A route of the API: its path, its handler, and the types of what it takes and answers. The server
//! (`api.rs`) and its description (`openapi.rs`) are both made from routes.

use std::sync::Arc;

use axum::routing::MethodRouter;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;

use super::host::Host;

/// A type by its name, and how its schema is made.
pub struct Shape {
    pub name: &'static str,
    pub make: fn(&mut SchemaGenerator) -> Value,
}

pub fn shape<T: JsonSchema>(name: &'static str) -> Shape {
    Shape { name, make: |generator| generator.subschema_for::<T>().to_value() }
}

/// A request that the API takes.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    pub summary: &'static str,
    pub query: Option<Shape>,
    pub body: Option<Shape>,
    pub answer: Body,
    pub handler: MethodRouter<Arc<Host>>,
}

/// The body of an answer with status 200.
pub enum Body {
    Json(Shape),
    /// One JSON value a line.
    Lines(Shape),
    Bytes,
    Text,
    /// This description.
    OpenApi,
}

pub fn route(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answer: Body,
    handler: MethodRouter<Arc<Host>>,
) -> Route {
    Route { method, path, summary, query: None, body: None, answer, handler }
}

impl Route {
    pub fn query(mut self, shape: Shape) -> Self {
        self.query = Some(shape);
        self
    }

    pub fn body(mut self, shape: Shape) -> Self {
        self.body = Some(shape);
        self
    }
}
