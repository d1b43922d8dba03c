//! The reference pages of the certificate authority are made from its code; this holds them fresh. `make docs` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{fmt::Write, path::Path};

use mesh_ca::{
    config::{Config, KEYS},
    telemetry::METRICS,
};

/// Compares a page with what is in the repository, or writes it where `MESH_UPDATE_DOCS` is set.
fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("MESH_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/reference/{name} is not what the code says; run `make docs`");
}

/// What is configured by more than keys.
const IN_A_CLUSTER: &str = r#"
## In a cluster

With `store = "kubernetes"` every replica issues; the one that holds the Lease `mesh-ca` (in `kubernetes.namespace`, as
everything here) leads:

- It makes the Secret `mesh-ca` where there is none, rotates what the Secret holds, and writes the Secret back where somebody
  deleted it. The names in it are those of the files in the state folder; an operator's own root is put there as `root-1.pem`
  and `root-1.key` before the first start. Each change is one update of the whole Secret. **Back this Secret up**: without it,
  a mesh whose replicas are all gone begins anew with another root.
- It keeps the ConfigMap `mesh-trust` (key `roots.pem`) in every namespace: a new one has it at once, a changed one is put back.
- Another replica takes over within ten seconds where it dies, within three where it ends as it should.

`/issuers` of the admin server says which replica leads.

### Ordering a rotation

```sh
kubectl -n mesh-system annotate secret mesh-ca mesh.dev/rotate=issuer
kubectl -n mesh-system annotate secret mesh-ca mesh.dev/rotate=root
kubectl -n mesh-system get secret mesh-ca -o jsonpath='{.metadata.annotations.mesh\.dev/rotate-outcome}'
```

The leader takes the annotation away at once and says in `mesh.dev/rotate-outcome` when it did what, or why it did not.
`issuer` takes effect within seconds; `root` announces a new root, and the rest follows by `rotation.overlap` and
`rotation.retire`. After every root expired, `repair` begins anew, and so does `mesh-ca repair` from any machine that may change
the Secret; members that run read the new roots by themselves.

### What it must be allowed to do

| where | resource | names | verbs |
|---|---|---|---|
| namespace | `secrets` | | `create` |
| namespace | `secrets` | `mesh-ca` | `get`, `list`, `watch`, `update` |
| namespace | `leases.coordination.k8s.io` | | `create` |
| namespace | `leases.coordination.k8s.io` | `mesh-ca` | `get`, `patch` |
| cluster | `namespaces` | | `list`, `watch` |
| cluster | `configmaps` | `mesh-trust` | `list`, `watch`, `create`, `patch`, `delete` |
| cluster | `tokenreviews.authentication.k8s.io` | | `create` |
| cluster | `pods` | | `get` |

The last two are for `authentication = "kubernetes"`. Members mount a projected token with the audience `mesh-ca`.
"#;

#[test]
fn reference_configuration_of_the_ca() {
    let mut page = String::from(
        "# Configuration of the certificate authority\n\nDefaults, then the file of `--config` (TOML, or JSON), then the environment, \
         then `--set KEY=VALUE`. In the environment a key is written with the prefix `MESH_`, in capitals, `__` for `.`: \
         `log.level` is `MESH_LOG__LEVEL`. An unknown or wrong key is an error that names it and the nearest right one; \
         all mistakes are reported at once.\n\nMade from the code; `make docs` writes it anew.\n\n| key | default | \
         meaning |\n|---|---|---|\n",
    );
    let defaults = mesh_api::config::keys_of(&Config::default());
    for (key, meaning) in KEYS {
        let default = defaults.iter().find(|(known, _)| known == key).map(|(_, value)| value.to_string()).unwrap();
        writeln!(page, "| `{key}` | `{default}` | {meaning} |").unwrap();
    }
    page.push_str(IN_A_CLUSTER);
    check("ca-configuration.md", &page);
}

#[test]
fn reference_metrics_of_the_ca() {
    let mut page = String::from(
        "# Metrics of the certificate authority\n\nServed at `/metrics` of the admin server. Base units: seconds, bytes. No label \
         holds a value that a client chose.\n\nMade from the code; `make docs` writes it anew.\n\n| metric | kind | \
         labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        writeln!(page, "| `{}` | {} | {} | {} |", metric.name, metric.kind.as_str(), metric.labels, metric.meaning)
            .unwrap();
    }
    check("ca-metrics.md", &page);
}
