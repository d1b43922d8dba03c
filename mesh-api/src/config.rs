//! Configuration of a process: defaults, then a file, then the environment, then flags. Floor 2: imports `names`.
//!
//! A wrong or unknown key is an error that names the key, where it came from and the nearest right one; all mistakes
//! are reported at once.

mod nearest;

pub use nearest::nearest;

use std::{fmt, path::Path};

use figment::{
    Figment,
    providers::{Format, Json, Serialized, Toml},
    value::{Dict, Value},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::names::ENV_PREFIX;

/// Durations as people write them (`250ms`, `10s`, `1h`), for `#[serde(with)]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes `10s`.
    ///
    /// # Errors
    /// As the serializer says.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*value))
    }

    /// Reads `10s`.
    ///
    /// # Errors
    /// Where the text is no duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|error| D::Error::custom(format!("`{text}` is not a duration: {error}")))
    }
}

/// What a section of configuration checks beyond its types.
pub trait Validate {
    /// Every mistake, as (key, reason).
    fn mistakes(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// Where values come from, weakest first.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// TOML, or JSON where the name ends so.
    pub file: Option<&'a Path>,
    /// Environment, as (name, value); only names with the prefix `MESH_` count, `__` separates the parts of a key.
    pub environment: Vec<(String, String)>,
    /// `key=value` from flags.
    pub flags: Vec<(String, String)>,
}

impl Sources<'_> {
    /// The process's environment, as far as it concerns the mesh.
    #[must_use]
    pub fn process_environment() -> Vec<(String, String)> {
        let all: Vec<(String, String)> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with(ENV_PREFIX))
            .collect();
        without_service_links(all)
    }
}

/// Kubernetes tells every container of every Service of its namespace in its environment: a Service `mesh-web` gives
/// `MESH_WEB_SERVICE_HOST`, `MESH_WEB_PORT` and others. They are nobody's keys.
fn without_service_links(mut all: Vec<(String, String)>) -> Vec<(String, String)> {
    let hosts = all.iter().filter_map(|(name, _)| name.strip_suffix("_SERVICE_HOST"));
    let services: Vec<String> = hosts.map(str::to_owned).collect();
    let is_link = |name: &str| {
        let rest = services.iter().filter_map(|service| name.strip_prefix(service.as_str()));
        rest.into_iter().any(|rest| {
            rest == "_PORT" || ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"].iter().any(|link| rest.starts_with(link))
        })
    };
    all.retain(|(name, _)| !is_link(name));
    all
}

/// Everything that is wrong. It is the author's fault; starting again is no use before it is mended.
#[derive(Debug, Default)]
pub struct ConfigErrors {
    mistakes: Vec<String>,
}

impl ConfigErrors {
    /// One line for each mistake.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.mistakes
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.mistakes.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "{} {plural} in the configuration", self.mistakes.len())?;
        self.mistakes.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// One value that somebody gave.
struct Given {
    key: String,
    origin: String,
    value: Value,
}

/// Loads a configuration. `known` keys are those of `T::default()`, serialised: every key must be there, an optional one
/// as null. A list, and a map that is empty by default, is one value; below it serde decides.
///
/// # Errors
/// [`ConfigErrors`], all of them.
pub fn load<T>(sources: &Sources<'_>) -> Result<T, ConfigErrors>
where
    T: Default + Serialize + DeserializeOwned + Validate,
{
    let mut errors = ConfigErrors::default();
    let known = keys_of(&T::default());
    let mut merged = Figment::from(Serialized::defaults(T::default()));
    for given in gather(sources, &known, &mut errors) {
        match accept::<T>(&given, &known) {
            Ok(value) => merged = merged.merge((given.key.as_str(), value)),
            Err(reason) => errors.mistakes.push(format!("{} ({}): {reason}", given.key, given.origin)),
        }
    }
    if !errors.mistakes.is_empty() {
        return Err(errors);
    }
    let config: T = merged.extract().map_err(|error| ConfigErrors { mistakes: vec![error.to_string()] })?;
    let wrong = config.mistakes().into_iter().map(|(key, reason)| format!("{key}: {reason}"));
    errors.mistakes.extend(wrong);
    if errors.mistakes.is_empty() { Ok(config) } else { Err(errors) }
}

/// Every key of a configuration with its default value, as JSON; for reference pages.
#[must_use]
pub fn keys_of(defaults: &impl Serialize) -> Vec<(String, serde_json::Value)> {
    fn walk(prefix: &str, value: serde_json::Value, keys: &mut Vec<(String, serde_json::Value)>) {
        match value {
            serde_json::Value::Object(map) if !map.is_empty() => {
                for (name, value) in map {
                    let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                    walk(&key, value, keys);
                }
            }
            leaf => keys.push((prefix.to_owned(), leaf)),
        }
    }
    let mut keys = Vec::new();
    walk("", serde_json::to_value(defaults).unwrap_or_default(), &mut keys);
    keys
}

fn gather(sources: &Sources<'_>, known: &[(String, serde_json::Value)], errors: &mut ConfigErrors) -> Vec<Given> {
    let mut all = Vec::new();
    if let Some(path) = sources.file {
        match read_file(path) {
            Ok(dict) => flatten("", dict, known, &format!("file {}", path.display()), &mut all),
            Err(reason) => errors.mistakes.push(reason),
        }
    }
    for (name, text) in &sources.environment {
        if let Some(key) = name.strip_prefix(ENV_PREFIX) {
            let key = key.to_ascii_lowercase().replace("__", ".");
            all.push(Given { key, origin: format!("environment {name}"), value: Value::from(text.clone()) });
        }
    }
    for (key, text) in &sources.flags {
        all.push(Given { key: key.clone(), origin: "flag".into(), value: Value::from(text.clone()) });
    }
    all
}

fn read_file(path: &Path) -> Result<Dict, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let figment = if path.extension().is_some_and(|end| end == "json") {
        Figment::from(Json::string(&text))
    } else {
        Figment::from(Toml::string(&text))
    };
    figment.extract().map_err(|error| format!("{}: {error}", path.display()))
}

/// Down to the keys that are known as one value; what is unknown stays whole, to be reported.
fn flatten(prefix: &str, dict: Dict, known: &[(String, serde_json::Value)], origin: &str, all: &mut Vec<Given>) {
    for (name, value) in dict {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        let below = format!("{key}.");
        match value {
            Value::Dict(_, inner) if known.iter().any(|(known, _)| known.starts_with(&below)) => {
                flatten(&key, inner, known, origin, all);
            }
            value => all.push(Given { key, origin: origin.to_owned(), value }),
        }
    }
}

/// Checks one value alone, against the defaults of everything else, so that each mistake is found. A text is tried as
/// what it looks like first (`8080` is a number), then as a text.
fn accept<T>(given: &Given, known: &[(String, serde_json::Value)]) -> Result<Value, String>
where
    T: Default + Serialize + DeserializeOwned,
{
    if !known.iter().any(|(key, _)| *key == given.key) {
        let names = known.iter().map(|(key, _)| key.as_str());
        return Err(match nearest(&given.key, names) {
            Some(right) => format!("there is no such key; did you mean `{right}`?"),
            None => "there is no such key".to_owned(),
        });
    }
    let mut candidates = vec![given.value.clone()];
    if let Value::String(_, text) = &given.value {
        let Ok(parsed) = text.parse::<Value>();
        candidates.insert(0, parsed);
        // Lists are JSON for programs that write them.
        if let Some(json) = serde_json::from_str::<serde_json::Value>(text).ok().filter(serde_json::Value::is_array) {
            candidates.extend(Value::serialize(json));
        }
    }
    let mut reason = String::new();
    for candidate in candidates {
        let alone = Figment::from(Serialized::defaults(T::default())).merge((given.key.as_str(), candidate.clone()));
        match alone.extract::<T>() {
            Ok(_) => return Ok(candidate),
            Err(error) => reason = error.kind.to_string(),
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests;
