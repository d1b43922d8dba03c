//! What sidecars are made from, as the controller of the cluster is configured.

use figment::{
    Figment,
    providers::{Format as _, Toml},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use mesh_api::names::{CONTROLLER_ACCOUNT, SYSTEM_NAMESPACE};
use mesh_controller::inject::{InjectConfig, Settings};
use serde_json::Value;

use super::api::asked;
use crate::check::facts::{Fact, Fault, Missing};

/// Key of the ConfigMap.
const FILE: &str = "controller.toml";

/// Reads the ConfigMap that the controller reads.
pub async fn inject(client: &Client) -> Fact<Box<Settings>> {
    let what = format!("the ConfigMap {SYSTEM_NAMESPACE}/{CONTROLLER_ACCOUNT}");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let Some(map) = asked(&what, maps.get_opt(CONTROLLER_ACCOUNT)).await? else {
        return Err(Missing::unasked("the controller has no ConfigMap; see control-plane-deployments"));
    };
    let text = map.data.unwrap_or_default().remove(FILE).unwrap_or_default();
    read(&text).map_err(|why| Missing { what, fault: Fault::Mesh, why })
}

/// The section `[inject]` and the trust domain; keys that are not known belong to another version, and are passed over.
fn read(text: &str) -> Result<Box<Settings>, String> {
    let said = |error: figment::Error| error.to_string();
    let given: Value = Figment::new().merge(Toml::string(text)).extract().map_err(said)?;
    let mut merged = serde_json::to_value(InjectConfig::default()).map_err(|error| error.to_string())?;
    if let (Some(merged), Some(given)) = (merged.as_object_mut(), given.get("inject").and_then(Value::as_object)) {
        for (key, value) in given {
            if let Some(known) = merged.get_mut(key) {
                known.clone_from(value);
            }
        }
    }
    let config = serde_json::from_value(merged).map_err(|error| error.to_string())?;
    let mut settings = Settings { config, ..Settings::default() };
    if let Some(domain) = given.pointer("/identity/trust_domain").and_then(Value::as_str) {
        domain.clone_into(&mut settings.trust_domain);
    }
    Ok(Box::new(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_read_and_other_versions_keys_are_passed_over() {
        let text = "listen = \"[::]:15420\"\n[inject]\ncni = true\ntrace_ratio = 1\nnative = \"false\"\nlater = 12\n[log]\nlevel = \"x\"\n";
        let config = read(text).unwrap().config;
        let wanted = InjectConfig {
            cni: true,
            trace_ratio: 1.0,
            native: mesh_controller::inject::Native::False,
            ..Default::default()
        };
        assert_eq!(config, wanted);
        assert_eq!(*read("").unwrap(), Settings::default());
        assert_eq!(read("[identity]\ntrust_domain = \"x.y\"\n").unwrap().trust_domain, "x.y");
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert!(read("[inject").is_err());
        assert!(read("[inject]\ncni = \"perhaps\"\n").is_err());
    }

    #[test]
    fn what_the_chart_writes_is_read() {
        use crate::chart::{Chart, MESH, Release};

        let given = serde_json::json!({"cni": {"enabled": true}, "proxy": {"logLevel": "debug"}});
        let objects = Chart::carried(MESH).unwrap().render(&given, &Release::default()).unwrap();
        let map = objects.iter().find(|object| object.key.kind == "ConfigMap" && object.key.name == CONTROLLER_ACCOUNT);
        let config = read(map.unwrap().value["data"][FILE].as_str().unwrap()).unwrap().config;
        assert!(config.cni && config.log_level == "debug");
    }
}
