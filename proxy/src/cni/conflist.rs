//! The plugin in the node's configuration: put there, found there, taken out. Pure. Floor 2.
//!
//! Of the files in the folder the runtime takes the first, in the order of their names, that it can read. A file with one
//! plugin (`.conf`, `.json`) becomes a list beside it (`.conflist`), and gets a name that the runtime does not read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::PLUGIN;

/// Files of a folder, by their names.
pub type Files = BTreeMap<String, String>;
/// Behind the name of a file that a list was made of.
pub const PUT_ASIDE: &str = ".mesh-put-aside";

/// A change to the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The file has this content from now on.
    Write(String, String),
    /// The file has another name from now on.
    Rename(String, String),
    /// The file is gone.
    Delete(String),
}

/// How the folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no configuration yet: the plugin cannot stand behind anything.
    Nothing,
    /// The plugin is in the file that the runtime takes.
    There(String),
    /// It will be, after these changes.
    Missing(String, Vec<Change>),
}

/// What is to be done so that `plugin` stands last in the list that the runtime takes.
#[must_use]
pub fn install(files: &Files, plugin: &Value) -> Found {
    let Some((name, content)) = in_force(files) else { return Found::Nothing };
    if let Some(stem) = name.strip_suffix(".conf").or_else(|| name.strip_suffix(".json")) {
        let list = format!("{stem}.conflist");
        let content = pretty(&with(&listed(&content), plugin));
        let changes =
            vec![Change::Write(list.clone(), content), Change::Rename(name.to_owned(), format!("{name}{PUT_ASIDE}"))];
        return Found::Missing(list, changes);
    }
    let wanted = with(&content, plugin);
    if wanted == content {
        return Found::There(name.to_owned());
    }
    Found::Missing(name.to_owned(), vec![Change::Write(name.to_owned(), pretty(&wanted))])
}

/// What is to be done so that nothing of the plugin is left.
#[must_use]
pub fn remove(files: &Files) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".conflist")) {
        let Some(content) = serde_json::from_str::<Value>(text).ok().filter(has_plugin) else { continue };
        let aside = [".conf", ".json"].into_iter().find_map(|end| {
            let original = format!("{}{end}", name.trim_end_matches(".conflist"));
            files.contains_key(&format!("{original}{PUT_ASIDE}")).then_some(original)
        });
        match aside {
            Some(original) => {
                changes.push(Change::Rename(format!("{original}{PUT_ASIDE}"), original));
                changes.push(Change::Delete(name.clone()));
            }
            None => changes.push(Change::Write(name.clone(), pretty(&without(&content)))),
        }
    }
    changes
}

/// The file that the runtime takes.
fn in_force(files: &Files) -> Option<(&str, Value)> {
    files.iter().find_map(|(name, text)| {
        let content: Value = serde_json::from_str(text).ok()?;
        let usable = match name.rsplit_once('.')?.1 {
            "conflist" => content.get("plugins")?.as_array()?.iter().any(|plugin| !is_ours(plugin)),
            "conf" | "json" => content.get("type")?.is_string(),
            _ => false,
        };
        usable.then_some((name.as_str(), content))
    })
}

/// One plugin as a list.
fn listed(single: &Value) -> Value {
    let mut plugin = single.clone();
    let mut list = json!({});
    for key in ["cniVersion", "name"] {
        if let Some(value) = plugin.as_object_mut().and_then(|plugin| plugin.remove(key)) {
            list[key] = value;
        }
    }
    list["plugins"] = json!([plugin]);
    list
}

fn with(list: &Value, plugin: &Value) -> Value {
    let mut list = without(list);
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.push(plugin.clone());
    }
    list
}

fn without(list: &Value) -> Value {
    let mut list = list.clone();
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.retain(|plugin| !is_ours(plugin));
    }
    list
}

fn has_plugin(list: &Value) -> bool {
    list.get("plugins").and_then(Value::as_array).is_some_and(|plugins| plugins.iter().any(is_ours))
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(PLUGIN)
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn apply(files: &mut Files, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Write(name, text) => drop(files.insert(name, text)),
                Change::Rename(from, to) => {
                    let text = files.remove(&from).unwrap();
                    files.insert(to, text);
                }
                Change::Delete(name) => drop(files.remove(&name).unwrap()),
            }
        }
    }

    fn types(text: &str) -> Vec<String> {
        let list: Value = serde_json::from_str(text).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;

    fn plugin() -> Value {
        json!({ "type": PLUGIN, "kubeconfig": "/k" })
    }

    #[test]
    fn it_is_put_last_into_the_first_file_and_taken_out_again() {
        let mut folder = files(&[
            ("00-broken.conflist", "{"),
            ("05-empty.conflist", r#"{"plugins":[]}"#),
            ("10-net.conflist", LIST),
            ("20-other.conflist", LIST),
            ("readme.txt", "x"),
        ]);
        let before = folder.clone();
        let Found::Missing(name, changes) = install(&folder, &plugin()) else { panic!("not missing") };
        assert_eq!(name, "10-net.conflist");
        apply(&mut folder, changes);
        assert_eq!(types(&folder["10-net.conflist"]), ["bridge", "portmap", PLUGIN]);
        assert_eq!(install(&folder, &plugin()), Found::There("10-net.conflist".into()));
        // Changed by the agent's own update, or put in front by somebody.
        let Found::Missing(_, changes) = install(&folder, &json!({ "type": PLUGIN, "kubeconfig": "/other" })) else {
            panic!("not missing")
        };
        apply(&mut folder, changes);
        assert_eq!(types(&folder["10-net.conflist"]), ["bridge", "portmap", PLUGIN]);
        let changes = remove(&folder);
        apply(&mut folder, changes);
        assert_eq!(remove(&folder), []);
        let same = |files: &Files| -> Vec<Option<Value>> {
            files.values().map(|text| serde_json::from_str(text).ok()).collect()
        };
        assert_eq!(same(&folder), same(&before));
    }

    #[test]
    fn one_plugin_becomes_a_list_and_comes_back() {
        let single = r#"{"cniVersion":"0.4.0","name":"net","type":"bridge","mtu":1400}"#;
        for name in ["10-net.conf", "10-net.json"] {
            let mut folder = files(&[(name, single)]);
            let Found::Missing(list, changes) = install(&folder, &plugin()) else { panic!("not missing") };
            apply(&mut folder, changes);
            let text: Value = serde_json::from_str(&folder[&list]).unwrap();
            assert_eq!((&text["cniVersion"], &text["name"]), (&json!("0.4.0"), &json!("net")));
            assert_eq!(text["plugins"], json!([{ "type": "bridge", "mtu": 1400 }, plugin()]));
            assert_eq!(install(&folder, &plugin()), Found::There(list));
            let changes = remove(&folder);
            apply(&mut folder, changes);
            assert_eq!(folder, files(&[(name, single)]));
        }
    }

    #[test]
    fn nothing_to_stand_behind() {
        assert_eq!(install(&Files::new(), &plugin()), Found::Nothing);
        let alone = format!(r#"{{"plugins":[{}]}}"#, plugin());
        assert_eq!(install(&files(&[("10-x.conflist", &alone), ("a.txt", LIST)]), &plugin()), Found::Nothing);
    }
}
