//! The CNI plugin, injection, sidecars.

use super::*;

#[test]
fn the_cni_plugin() {
    fn set(facts: &mut Facts, wanted: i32, ready: i32) {
        facts.daemon_sets = Ok(vec![of(json!({
            "metadata": {"name": "mesh-cni"},
            "status": {"desiredNumberScheduled": wanted, "numberReady": ready, "currentNumberScheduled": wanted,
                "numberMisscheduled": 0, "updatedNumberScheduled": wanted},
        }))]);
    }
    fn agent(facts: &mut Facts) {
        set(facts, 1, 1);
        let pod = system_pod("mesh-cni-1", "mesh-cni", "node-1");
        facts.system_pods.as_mut().unwrap().push(of(pod));
    }
    hold(&[
        (
            "counted on and not there",
            |f| {
                let annotations = &mut f.pods.as_mut().unwrap()[0].metadata.annotations;
                *annotations = Some([("mesh.dev/injection".to_owned(), "{\"cni\": true}".to_owned())].into());
            },
            "cni-daemonset",
            ERR,
            &["1 pod counts on the CNI plugin"],
        ),
        (
            "switched on and not there",
            |f| f.inject.as_mut().unwrap().config.cni = true,
            "cni-daemonset",
            ERR,
            &["new pods count on the CNI plugin"],
        ),
        ("ready", |f| set(f, 2, 2), "cni-daemonset", OK, &["ready on 2 nodes"]),
        ("not ready", |f| set(f, 2, 1), "cni-daemonset", ERR, &["ready on 1 of 2 nodes"]),
        ("nowhere", |f| set(f, 0, 0), "cni-daemonset", ERR, &["fits no node"]),
        ("in force", |f| agent(f), "cni-nodes", OK, &["in force on 1 node"]),
        (
            "no conflist",
            |f| {
                agent(f);
                let mut replica = f.replicas[0].clone();
                (replica.pod, replica.part) = ("mesh-cni-1".into(), "mesh-cni");
                replica.not_ready = Ok(Some("no conflist in /etc/cni/net.d".into()));
                f.replicas.push(replica);
            },
            "cni-nodes",
            ERR,
            &["node-1: no conflist", "do not start"],
        ),
        (
            "a pod from before the plugin",
            |f| {
                agent(f);
                let labels = f.pods.as_mut().unwrap()[0].metadata.labels.as_mut().unwrap();
                labels.insert("mesh.dev/repair".into(), "needed".into());
            },
            "cni-nodes",
            ERR,
            &["shop/web-1", "delete the pod"],
        ),
        ("a node without an agent", |f| set(f, 1, 1), "cni-nodes", WARN, &["node-1 has no agent"]),
    ]);
}

#[test]
fn injection() {
    fn bare(facts: &mut Facts, made_ago: i64) {
        facts.pods.as_mut().unwrap().push(of(bare_pod("shop", "old-1", made_ago)));
    }
    hold(&[
        (
            "older than the mesh",
            |f| bare(f, 7_200),
            "pods-injected",
            ERR,
            &["shop/old-1: namespace shop asks", "older than the mesh", "rollout restart"],
        ),
        (
            "older than the label",
            |f| {
                bare(f, 600);
                let shop = f.namespaces.as_mut().unwrap().last_mut().unwrap();
                shop.metadata.managed_fields = of(json!([{"time": "2026-06-01T11:55:00Z",
                    "fieldsV1": {"f:metadata": {"f:labels": {"f:mesh.dev/inject": {}}}}}]));
            },
            "pods-injected",
            ERR,
            &["older than the label"],
        ),
        (
            "no webhook",
            |f| {
                bare(f, 60);
                f.mutating = Ok(Vec::new());
            },
            "pods-injected",
            ERR,
            &["not registered"],
        ),
        ("nobody knows", |f| bare(f, 60), "pods-injected", ERR, &["perhaps"]),
        (
            "ended pods do not matter",
            |f| {
                let mut pod = bare_pod("shop", "job", 60);
                pod["status"]["phase"] = "Succeeded".into();
                f.pods.as_mut().unwrap().push(of(pod));
            },
            "pods-injected",
            OK,
            &[],
        ),
        (
            "pods of the node's network need none",
            |f| {
                let mut pod = bare_pod("shop", "agent", 60);
                pod["spec"]["hostNetwork"] = true.into();
                f.pods.as_mut().unwrap().push(of(pod));
            },
            "pods-injected",
            OK,
            &["1 pod has a sidecar"],
        ),
        (
            "no longer wanted",
            |f| f.namespaces.as_mut().unwrap()[2] = of(namespace("shop", None)),
            "pods-excluded",
            WARN,
            &["shop/web-1", "would get none"],
        ),
        (
            "made from other settings",
            |f| {
                let record = format!("{{\"version\": \"{VERSION}\", \"hash\": \"old\", \"cni\": true}}");
                let annotations = &mut f.pods.as_mut().unwrap()[0].metadata.annotations;
                *annotations = Some([("mesh.dev/injection".to_owned(), record)].into());
            },
            "pods-current",
            WARN,
            &["shop/web-1", "counts on the CNI plugin"],
        ),
        (
            "it would be refused",
            |f| {
                let annotations = &mut f.pods.as_mut().unwrap()[0].metadata.annotations;
                *annotations = Some([("mesh.dev/proxy-cpu-limit".to_owned(), "much".to_owned())].into());
            },
            "pods-injected",
            ERR,
            &["would be refused", "proxy-cpu-limit"],
        ),
        (
            "refused by Pod Security",
            |f| {
                let labels = f.namespaces.as_mut().unwrap()[2].metadata.labels.as_mut().unwrap();
                labels.insert("pod-security.kubernetes.io/enforce".into(), "restricted".into());
            },
            "pods-admitted",
            ERR,
            &["shop enforces Pod Security restricted", "cni.enabled"],
        ),
        (
            "two meshes",
            |f| {
                let mut pod = meshed_pod("shop", "both");
                pod["spec"]["containers"][0]["name"] = "istio-proxy".into();
                f.pods.as_mut().unwrap().push(of(pod));
            },
            "pods-one-mesh",
            ERR,
            &["shop/both", "Istio"],
        ),
    ]);
}

#[test]
fn sidecars() {
    fn key(facts: &mut Facts, status: KeyStatus) {
        let proxies = facts.replicas[1].controller.as_mut().unwrap().proxies.as_mut().unwrap();
        proxies[0].keys.insert("shop/cart:80".into(), status);
    }
    fn expiry(facts: &mut Facts, in_seconds: i64) {
        let page = format!("mesh_certificate_expiry_timestamp_seconds {}", now().as_second() + in_seconds);
        facts.proxies.insert("shop/web-1".into(), Ok(metrics(&page)));
    }
    fn sent(seconds_ago: i64) -> KeyStatus {
        let at = now().as_millisecond() - seconds_ago * 1000;
        KeyStatus { sent: "2".into(), sent_ms: at.try_into().unwrap(), acked: Some("1".into()), refused: None }
    }
    hold(&[
        (
            "not ready",
            |f| {
                let mut pod = meshed_pod("shop", "web-1");
                pod["status"]["initContainerStatuses"][0]["ready"] = false.into();
                f.pods = Ok(vec![of(pod)]);
            },
            "proxies-running",
            ERR,
            &["shop/web-1: mesh-proxy: runs, but is not ready", "-c mesh-proxy"],
        ),
        (
            "the init container fails",
            |f| {
                let mut pod = meshed_pod("shop", "web-1");
                pod["status"]["initContainerStatuses"].as_array_mut().unwrap().push(json!({"name": "mesh-init", "ready": false,
                    "restartCount": 3, "image": "", "imageID": "", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}));
                f.pods = Ok(vec![of(pod)]);
            },
            "proxies-running",
            ERR,
            &["mesh-init: CrashLoopBackOff"],
        ),
        (
            "another version",
            |f| f.replicas[1].controller.as_mut().unwrap().proxies.as_mut().unwrap()[0].version = "0.0.1".into(),
            "proxies-version",
            WARN,
            &["shop/web-1: 0.0.1, the control plane"],
        ),
        (
            "not connected",
            |f| f.replicas[1].controller.as_mut().unwrap().proxies = Ok(Vec::new()),
            "proxies-connected",
            ERR,
            &["shop/web-1", "no controller"],
        ),
        (
            "one replica's page is not known",
            |f| {
                let mut other = f.replicas[1].clone();
                let missing = Missing { what: "/proxies".into(), fault: Fault::Mesh, why: "it hangs".into() };
                other.controller.as_mut().unwrap().proxies = Err(missing);
                f.replicas.push(other);
            },
            "proxies-connected",
            ERR,
            &["it hangs"],
        ),
        (
            "connected to the other replica",
            |f| {
                let mut other = f.replicas[1].clone();
                other.controller.as_mut().unwrap().proxies = Ok(Vec::new());
                f.replicas.push(other);
            },
            "proxies-connected",
            OK,
            &["1 sidecar is connected"],
        ),
        (
            "refused",
            |f| key(f, KeyStatus { refused: Some(Refusal { reason: "odd".into(), ..Refusal::default() }), ..sent(0) }),
            "proxies-in-sync",
            ERR,
            &["shop/web-1: refused shop/cart:80: odd"],
        ),
        (
            "not acknowledged",
            |f| key(f, sent(60)),
            "proxies-in-sync",
            WARN,
            &["shop/cart:80 was sent and is not acknowledged"],
        ),
        ("under way", |f| key(f, sent(1)), "proxies-in-sync", OK, &[]),
        ("expired", |f| expiry(f, -5), "proxies-certificates", ERR, &["shop/web-1: its certificate expired"]),
        ("about to", |f| expiry(f, 5), "proxies-certificates", WARN, &["was not renewed"]),
        (
            "none",
            |f| drop(f.proxies.insert("shop/web-1".into(), Ok(Vec::new()))),
            "proxies-certificates",
            ERR,
            &["no certificate"],
        ),
        ("nobody to ask", |f| f.proxies.clear(), "proxies-certificates", SKIP, &[]),
    ]);
}
