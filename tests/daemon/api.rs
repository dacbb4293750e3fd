//! The API as a client sees it: its description, and its answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json as value};

use crate::common::{Home, KEY};
use crate::steps::*;

fn described() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Checks a value against a schema: types, references, required and unknown properties. Returns the
/// difference, if any.
fn check(value: &Value, schema: &Value, document: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = reference.trim_start_matches('#');
        let target = document.pointer(pointer).ok_or(format!("{at}: no {reference}"))?;
        return check(value, target, document, at);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = schema.get(choice).and_then(Value::as_array) {
            let fits = |schema: &Value| check(value, schema, document, at).is_ok();
            return if choices.iter().any(fits) { Ok(()) } else { Err(format!("{at}: {value}")) };
        }
    }
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() || number.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !kinds.contains(&kind) {
        return Err(format!("{at}: {kind} where {kinds:?} was promised"));
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        return Err(format!("{at}: {value} is none of {choices:?}"));
    }
    if let (Value::Array(items), Some(schema)) = (value, schema.get("items")) {
        for item in items {
            check(item, schema, document, at)?;
        }
    }
    let Value::Object(fields) = value else { return Ok(()) };
    let known = schema.get("properties").and_then(Value::as_object);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !fields.contains_key(name) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, field) in fields {
        let schema = known.and_then(|known| known.get(name));
        let schema = schema.ok_or(format!("{at}: {name} is not described"))?;
        check(field, schema, document, &format!("{at}.{name}"))?;
    }
    Ok(())
}

/// The server has every route of the document and answers as described, and the document is the
/// server's own description. (Routes and description are one table, so there is no route outside
/// the document.)
#[test]
fn every_route_answers_as_the_document_says() {
    let home = Home::new();
    let store = home.golden_store("store");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    let socket = socket(&store);
    let document = described();
    let (_, _, own) = http(&socket, "GET", "/openapi.json", "");
    assert_eq!(serde_json::from_str::<Value>(&own).unwrap(), document);

    home.make("in");
    fs::write(home.path("in/file"), "text").unwrap();
    let (input, output) = (home.path("in"), home.path("out"));
    let mountpoint = home.make("mnt");
    let mut asked = BTreeSet::new();
    let mut ask = |method: &str, path: &str, real: &str, body: Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, head, answer) = http(&socket, &method.to_uppercase(), real, &text);
        assert_eq!(status, 200, "{method} {real}: {answer}");
        assert!(head.contains("hypermount-api: 1") && head.contains("hypermount-version: "));
        let operation = &document["paths"][path][method];
        let content = operation["responses"]["200"]["content"].as_object().expect("described");
        let (kind, schema) = content.iter().next().unwrap();
        assert!(head.contains(kind.as_str()), "{kind} was promised: {head}");
        if kind.contains("json") && path != "/openapi.json" {
            // With `connection: close` an answer without a length comes in chunks.
            for line in answer.lines().filter(|line| line.starts_with(['{', '['])) {
                let value: Value = serde_json::from_str(line).unwrap();
                let checked = check(&value, &schema["schema"], &document, real);
                assert_eq!(checked, Ok(()), "{line}");
            }
        }
        asked.insert((path.to_owned(), method.to_owned()));
    };
    let none = Value::Null;
    ask("get", "/status", "/status", none.clone());
    ask("post", "/keep", "/keep", none.clone());
    ask("put", "/limits", "/limits", value!({ "up": 500_000 }));
    ask("get", "/limits", "/limits", none.clone());
    ask("post", "/drives", "/drives", value!({ "name": "mine" }));
    ask("get", "/drives", "/drives", none.clone());
    let drive = "/drives/{drive}";
    ask("get", drive, "/drives/-?whole_store=true", none.clone());
    ask("get", drive, &format!("/drives/{KEY}+3"), none.clone());
    let path = "/drives/{drive}/entries";
    ask("get", path, &format!("/drives/hyper%3A%2F%2F{KEY}/entries?path=dir"), none.clone());
    ask("get", "/drives/{drive}/entry", "/drives/-/entry?path=big.bin", none.clone());
    ask("get", "/drives/{drive}/content", "/drives/-/content?path=big.bin", none.clone());
    ask("get", "/drives/{drive}/peers", "/drives/mine/peers", none.clone());
    let path = "/drives/{drive}/limits";
    ask("put", path, "/drives/mine/limits", value!({ "down": 500_000 }));
    ask("get", path, "/drives/mine/limits", none.clone());
    let body = value!({ "directory": input });
    ask("post", "/drives/{drive}/import", "/drives/mine/import", body);
    let body = value!({ "directory": output, "measure": true });
    ask("post", "/drives/{drive}/export", "/drives/mine/export", body);
    assert_eq!(fs::read_to_string(output.join("file")).unwrap(), "text");
    for dry_run in [true, false] {
        let body = value!({ "to": "13", "dry_run": dry_run });
        ask("post", "/drives/{drive}/convert", "/drives/mine/convert", body);
    }
    ask("post", "/check", "/check", value!({}));
    ask("put", "/seeds/{drive}", "/seeds/mine", value!({}));
    ask("get", "/seeds", "/seeds", none.clone());
    ask("delete", "/seeds/{drive}", "/seeds/mine", none.clone());
    for plain in ["/peers", "/failures", "/activity", "/metrics", "/openapi.json", "/mounts"] {
        ask("get", plain, plain, none.clone());
    }
    if can_mount() {
        let body = value!({ "drive": "-", "mountpoint": mountpoint, "read_only": true });
        ask("post", "/mounts", "/mounts", body);
        assert_eq!(fs::read_to_string(mountpoint.join("dir/f1.txt")).unwrap(), "file 1\n");
        ask("get", "/mounts", "/mounts", none.clone());
        let query = format!("/mounts?mountpoint={}", mountpoint.display());
        ask("delete", "/mounts", &query, none.clone());
        assert!(!mounted_at(&mountpoint));
    } else {
        asked.extend(["post", "delete"].map(|method| ("/mounts".into(), method.to_owned())));
    }
    // Ends only with the daemon; `watch` shows it.
    asked.insert(("/events".to_owned(), "get".to_owned()));
    let mut promised = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        promised.extend(methods.as_object().unwrap().keys().map(|m| (path.clone(), m.clone())));
    }
    promised.remove(&("/shutdown".to_owned(), "post".to_owned()));
    assert_eq!(asked, promised);
    assert_eq!(http(&socket, "POST", "/shutdown", "").0, 200);
    crate::common::eventually("it ends", || !has_daemon(&store));
}

#[test]
fn invalid_requests_are_refused_with_a_reason() {
    let home = Home::new();
    let store = home.golden_store("store");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    let socket = socket(&store);
    let document = described();
    let failure = document.pointer("/components/schemas/Failure").unwrap();
    for (method, path, body, status) in [
        ("GET", "/nothing", "", 404),
        ("DELETE", "/status", "", 404),
        ("POST", "/mounts", "{", 400),
        ("POST", "/mounts", "{\"drive\":\"-\"}", 400),
        ("POST", "/mounts", "{\"drive\":\"-\",\"mountpoint\":\"mnt\"}", 400),
        ("POST", "/mounts", "{\"drive\":\"-\",\"mountpoint\":\"/x\",\"typo\":1}", 400),
        ("DELETE", "/mounts", "", 400),
        ("GET", "/drives/-/entries?path=../x", "", 400),
        ("GET", "/drives/-/entries?wait=soon&peers=127.0.0.1:9", "", 400),
        ("GET", "/drives/-/entries?peers=nowhere", "", 400),
        ("GET", "/drives/-/entry?path=absent", "", 422),
        ("GET", "/drives/absent", "", 422),
        ("GET", "/drives/%2Fetc", "", 400),
        ("POST", "/drives/-/export", "{\"directory\":\"relative\"}", 400),
        ("DELETE", "/seeds/-", "", 422),
        ("PUT", "/limits", "{\"up\":999}", 400),
        ("PUT", "/drives/-/limits", "{\"down\":0}", 400),
        ("PUT", "/drives/absent/limits", "{\"down\":1000}", 422),
    ] {
        let (got, _, answer) = http(&socket, method, path, body);
        assert_eq!(got, status, "{method} {path} {body}: {answer}");
        let answer: Value = serde_json::from_str(&answer).expect("a failure is JSON");
        assert_eq!(check(&answer, failure, &document, path), Ok(()), "{answer}");
    }
    let long = format!("/drives/{}", "x".repeat(100_000));
    assert_ne!(http(&socket, "GET", &long, "").0, 200);
    assert_eq!(http(&socket, "GET", "/status", "").0, 200, "it goes on");
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}

/// A client that chose where to look for peers must not find that another client's request changed
/// it.
#[test]
fn one_daemon_looks_for_peers_in_one_way() {
    let home = Home::new();
    let store = home.golden_store("store");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    let socket = socket(&store);
    let seed = |find: Value| {
        let body = value!({ "listen": "127.0.0.1:0", "find": find });
        http(&socket, "PUT", "/seeds/-", &body.to_string()).0
    };
    assert_eq!(seed(value!({ "bootstrap": ["127.0.0.1:9"] })), 200);
    assert_eq!(seed(value!({ "bootstrap": ["127.0.0.1:9"] })), 200);
    assert_eq!(seed(value!({})), 200, "a request that looks for no peers is accepted");
    assert_eq!(seed(value!({ "bootstrap": ["127.0.0.1:10"] })), 422);
    let (status, _, answer) = http(&socket, "GET", "/drives/-/entries?bootstrap=127.0.0.1:10", "");
    assert_eq!(status, 422, "{answer}");
    assert!(answer.contains("another way") && answer.contains("daemon stop"), "{answer}");
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}
