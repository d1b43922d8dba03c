use serde_json::json;

use super::*;

const DEPLOYMENT: &str = "\
# The shop's front.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # its name
spec:
  replicas: 2
  template:
    metadata:
      labels:
        app: 'web'
    spec:
      # What it runs.
      containers:
      - name: app
        image: \"registry.example/web:1\"
        args:
        - |
          a text
            of several lines
      terminationGracePeriodSeconds: 010
";

fn says(text: &str) -> Value {
    read(text).unwrap().unwrap()
}

fn saying(text: &str, change: impl FnOnce(&mut Value)) -> String {
    let document = Document { text, line: 1 };
    let mut wanted = says(text);
    change(&mut wanted);
    let changed = document.saying(&wanted);
    assert_eq!(says(&changed), wanted, "{changed}");
    changed
}

#[test]
fn a_stream_is_its_documents() {
    for text in [
        "",
        "a: 1",
        "---\na: 1\n--- # two\nb: |\n  --- x\n---\r\n\r\n---\n",
        "# head\n---\nkind: X\n...\n",
        "{}\n---\n[]",
    ] {
        let found = documents(text);
        assert_eq!(found.iter().map(|one| one.text).collect::<String>(), text);
    }
    let lines: Vec<usize> = documents("a: 1\n---\nb: 1\n\n---\nc: 1").iter().map(|one| one.line).collect();
    assert_eq!(lines, [1, 2, 5]);
}

#[test]
fn what_is_changed_stays_what_it_is_around_the_change() {
    let changed = saying(DEPLOYMENT, |wanted| {
        let template = &mut wanted["spec"]["template"];
        template["metadata"]["labels"]["mesh.dev/injected"] = "true".into();
        template["metadata"]["annotations"] = json!({ "mesh.dev/injection": "{\"a\":1}" });
        template["spec"]["initContainers"] = json!([{ "args": ["apply"], "name": "mesh-init", "image": "p:1" }]);
        template["spec"]["volumes"] = json!([{ "name": "mesh-identity", "emptyDir": {} }]);
        template["spec"]["containers"].as_array_mut().unwrap().insert(0, json!({ "name": "first" }));
    });
    let wanted = "\
# The shop's front.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # its name
spec:
  replicas: 2
  template:
    metadata:
      annotations:
        mesh.dev/injection: \"{\\\"a\\\":1}\"
      labels:
        mesh.dev/injected: \"true\"
        app: 'web'
    spec:
      # What it runs.
      initContainers:
      - name: mesh-init
        image: p:1
        args:
        - apply
      volumes:
      - name: mesh-identity
        emptyDir: {}
      containers:
      - name: first
      - name: app
        image: \"registry.example/web:1\"
        args:
        - |
          a text
            of several lines
      terminationGracePeriodSeconds: 010
";
    assert_eq!(changed, wanted);
    // And back, to the byte.
    let back = Document { text: &changed, line: 1 }.saying(&says(DEPLOYMENT));
    assert_eq!(back, DEPLOYMENT);
}

#[test]
fn ends_of_lines_and_separators_stay() {
    let text = format!("--- # first\r\n{}", DEPLOYMENT.replace('\n', "\r\n"));
    let changed = saying(&text, |wanted| wanted["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "v" }]));
    assert!(changed.starts_with("--- # first\r\n# The shop's front.\r\n"), "{changed}");
    assert!(changed.contains("      volumes:\r\n      - name: v\r\n      containers:\r\n"), "{changed}");
    assert_eq!(changed.matches('\n').count(), changed.matches("\r\n").count());
    let open = DEPLOYMENT.trim_end();
    assert!(saying(open, |wanted| wanted["spec"]["template"]["spec"]["volumes"] = json!([])).ends_with("010"));
}

#[test]
fn what_is_written_in_one_line_is_written_anew_and_in_its_order() {
    let text = "{kind: Pod, apiVersion: v1, metadata: {name: x}, spec: {containers: [{name: b, image: i}, {name: a}]}}";
    let changed = saying(text, |wanted| {
        wanted["spec"]["volumes"] = json!([{ "emptyDir": {}, "name": "v" }]);
    });
    assert!(changed.starts_with("{\n  \"kind\": \"Pod\",\n  \"apiVersion\": \"v1\","), "{changed}");
    let text =
        "kind: Pod\napiVersion: v1\nmetadata: {name: x, labels: {b: c}}\nspec: {containers: [{name: b, image: i}]}\n";
    let changed = saying(text, |wanted| wanted["metadata"]["labels"]["a"] = "d".into());
    assert!(
        changed.starts_with("kind: Pod\napiVersion: v1\nmetadata:\n") && changed.ends_with("image: i}]}\n"),
        "{changed}"
    );
}

#[test]
fn anchors_and_odd_places_are_survived() {
    let anchored = "metadata: &m\n  labels: {a: b}\nspec:\n  template:\n    metadata: *m\n";
    let changed = saying(anchored, |wanted| wanted["spec"]["template"]["metadata"]["labels"]["c"] = "d".into());
    assert_eq!(says(&changed)["metadata"]["labels"], json!({ "a": "b" }));
    for text in [
        "a:\n    b:\n            c: 1\n    # end\n# more\nd:\n- 1\n-   - 2\n",
        "\"a\":\n  \"b\": 1\n",
        "a: {b: [1,\n  2], c: 3}\nd: \"x\n  y\"\n",
        "a:\n  - b: 1\n    c: 2\n  -\n    b: 3\n",
    ] {
        saying(text, |wanted| wanted["a"] = json!({ "new": [1, { "x": null }] }));
        saying(text, |wanted| wanted["z"] = "new".into());
        saying(text, |wanted| drop(wanted.as_object_mut().unwrap().remove("a")));
    }
}

#[test]
fn values_are_read_as_kubectl_reads_them() {
    let read =
        says("mode: 0644\nyes: yes\noff: off\nversion: 1.10\nstring: \"0644\"\nnothing: ~\nlarge: 12345678901\n");
    let wanted = json!({ "mode": 420, "yes": true, "off": false, "version": 1.1, "string": "0644", "nothing": null, "large": 12_345_678_901_u64 });
    assert_eq!(read, wanted);
}

#[test]
fn texts_come_back_as_they_were() {
    let texts = [
        "",
        " ",
        "true",
        "yes",
        "off",
        "null",
        "~",
        "0644",
        "1e3",
        "1_000",
        "0x1f",
        "a: b",
        "- a",
        "#",
        "a #b",
        "'",
        "\"",
        "\\",
        "a\nb",
        "a\n",
        "\n",
        "  a\n b",
        "{a}",
        "[a]",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "a\tb",
        "\u{7f}",
        "é",
        "a\r\nb",
        "2001-01-01",
        "12:30:45",
        ".5",
        "=",
        "<<",
        "---",
        "...",
        "a:",
        ":a",
        "?",
        "? a",
        "-",
        "a\u{85}b",
        "\u{feff}a",
    ];
    for text in texts {
        let value = json!({ "a": text, "b": [text, { "c": text }] });
        let rendered = render(&value, None);
        assert_eq!(read(&rendered), Ok(Some(value)), "{text:?}: {rendered}");
    }
}
