//! A client in another language, generated from `docs/openapi.json` while the test runs: the
//! description alone is enough to use the daemon.

use std::path::Path;
use std::process::Command;

use crate::common::{Home, KEY};
use crate::steps::*;

#[test]
fn a_generated_client_can_do_what_the_document_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bin = root.join("tests/client/.venv/bin");
    assert!(
        bin.join("openapi-python-client").exists(),
        "the generator of clients is not installed: run scripts/prepare --reference"
    );
    let home = Home::new();
    let generated = home.path("generated");
    let mut generate = Command::new(bin.join("openapi-python-client"));
    generate.args(["generate", "--meta", "none", "--path"]).arg(root.join("docs/openapi.json"));
    let made = generate.arg("--output-path").arg(&generated).output().expect("it runs");
    assert!(made.status.success() && generated.join("client.py").exists(), "{made:?}");
    let told = [made.stdout, made.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    let left_out: Vec<_> = told.lines().filter(|line| line.starts_with("WARNING")).collect();
    // The generator does not support answers of several lines.
    let lines = ["/export", "/import", "/convert", "/events", "/check"];
    let expected = |line: &&str| lines.iter().any(|path| line.contains(path));
    assert!(left_out.len() == lines.len() && left_out.iter().all(expected), "{told}");

    let store = home.golden_store("store");
    home.run(["daemon", "start", "--store", "store"]).must_succeed();
    let mnt = if can_mount() { home.make("mnt").display().to_string() } else { String::new() };
    let mut program = Command::new(bin.join("python3"));
    program.arg(root.join("tests/client/use.py")).arg(home.directory.path());
    let used = program.arg(socket(&store)).arg(&mnt).output().expect("it runs");
    let (printed, errors) =
        (String::from_utf8_lossy(&used.stdout), String::from_utf8_lossy(&used.stderr));
    assert!(used.status.success(), "{errors}");
    let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(printed["content"], "hello again, overwritten");
    assert!(printed["names"].as_array().unwrap().contains(&"f1.txt".into()), "{printed}");
    // Other clients see the result.
    let url = printed["url"].as_str().unwrap();
    assert_ne!(url, format!("hyper://{KEY}"));
    if can_mount() {
        let text = home.run(["cat", url, "file", "--store", "store"]).must_succeed().stdout;
        assert_eq!(text, "text");
    }
    home.run(["daemon", "stop", "--store", "store"]).must_succeed();
}
