//! The settings of a cluster's programs: files from the templates in `e2e/cluster`, and command lines. Part of `cluster`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use anyhow::{Context, Result, bail};

use super::{
    init::{self, Daemon},
    parts,
    plan::{DNS_V4, DNS_V6, DOMAIN, Node, PODS_V4, PODS_V6, Plan, SERVICES_V4, SERVICES_V6},
};

const CONTAINERD: &str = include_str!("../../cluster/containerd.toml");
const CNI: &str = include_str!("../../cluster/cni.conflist");
const KUBELET: &str = include_str!("../../cluster/kubelet.yaml");
const KUBE_PROXY: &str = include_str!("../../cluster/kube-proxy.yaml");
const AUDIT: &str = include_str!("../../cluster/audit.yaml");
const COREDNS: &str = include_str!("../../cluster/coredns.yaml");
const NODE: &str = include_str!("../../cluster/node.sh");

/// The control plane: what needs no rights on its node.
const CONTROL: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Writes everything that the nodes read.
///
/// # Errors
/// Where a file cannot be written.
pub fn write(plan: &Plan) -> Result<()> {
    save(&plan.dir.join("audit.yaml"), AUDIT)?;
    save(&plan.dir.join("node.sh"), NODE)?;
    for node in &plan.nodes {
        write_node(plan, node)?;
        if node.is_control() {
            for dir in [node.dir.join("lib/etcd"), node.logs().join("audit")] {
                fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
                chown(&dir, Some(plan.user()), Some(plan.user()))?;
            }
        }
    }
    Ok(())
}

/// The manifests of the cluster's DNS.
///
/// # Errors
/// Where the template is broken.
pub fn coredns() -> Result<String> {
    let (v4, v6) = (DNS_V4.to_string(), DNS_V6.to_string());
    fill(COREDNS, &[("DOMAIN", DOMAIN), ("IMAGE", parts::COREDNS), ("DNS_V4", &v4), ("DNS_V6", &v6)])
}

fn write_node(plan: &Plan, node: &Node) -> Result<()> {
    let pki = plan.pki().to_string_lossy().into_owned();
    let dns = DNS_V4.to_string();
    let runc = parts::which("runc").context("runc is missing")?.to_string_lossy().into_owned();
    let common: &[(&str, &str)] = &[("PKI", &pki), ("NODE", &node.name)];
    let with = |more: &[(&'static str, &str)], template: &str| {
        let all: Vec<(&str, &str)> = common.iter().chain(more).copied().collect();
        fill(template, &all)
    };
    // What the node has in its /etc: the upper layer over this machine's.
    let etc = node.dir.join("etc");
    let kubernetes = etc.join("kubernetes");
    let containerd = [("SNAPSHOTTER", "overlayfs"), ("PAUSE", parts::PAUSE), ("RUNC", &runc)];
    save(&kubernetes.join("containerd.toml"), &with(&containerd, CONTAINERD)?)?;
    save(&kubernetes.join("kubelet.yaml"), &with(&[("DOMAIN", DOMAIN), ("DNS_V4", &dns)], KUBELET)?)?;
    save(&kubernetes.join("kube-proxy.yaml"), &with(&[("PODS_V4", PODS_V4), ("PODS_V6", PODS_V6)], KUBE_PROXY)?)?;
    save(&kubernetes.join("resolv.conf"), "")?;
    let pods = [("PODS_V4", node.pods_v4.as_str()), ("PODS_V6", &node.pods_v6)];
    save(&etc.join("cni/net.d/10-cluster.conflist"), &with(&pods, CNI)?)?;
    let search = format!("nameserver {DNS_V4}\nsearch default.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n");
    save(&etc.join("resolv.conf"), &search)?;
    save(&etc.join("hostname"), &format!("{}\n", node.name))?;
    save(&etc.join("hosts"), &hosts(plan))?;
    init::write(&daemons(plan, node), &node.dir.join("plan.json"))
}

fn hosts(plan: &Plan) -> String {
    let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
    for node in &plan.nodes {
        text.push_str(&format!("{} {}\n{} {}\n", node.v4, node.name, node.v6, node.name));
    }
    text
}

/// The programs of a node, in the order in which they are started.
#[must_use]
pub fn daemons(plan: &Plan, node: &Node) -> Vec<Daemon> {
    let mut all = Vec::new();
    let bin = plan.programs();
    let mut add = |name: &str, args: Vec<String>| {
        all.push(Daemon { name: name.to_owned(), program: bin.join(name), args, ..Daemon::default() });
    };
    let config = |name: &str| format!("--config=/etc/kubernetes/{name}.yaml");
    if node.is_control() {
        add("etcd", etcd());
        add("kube-apiserver", apiserver(plan));
    }
    add("containerd", vec!["--config=/etc/kubernetes/containerd.toml".to_owned()]);
    let kubelet = vec![
        config("kubelet"),
        format!("--kubeconfig={}", plan.pki().join(format!("{}.kubeconfig", node.name)).display()),
        format!("--hostname-override={}", node.name),
        format!("--node-ip={},{}", node.v4, node.v6),
        format!("--node-labels=topology.kubernetes.io/region=local,topology.kubernetes.io/zone=zone-{}", node.number),
    ];
    add("kubelet", kubelet);
    add("kube-proxy", vec![config("kube-proxy")]);
    if node.is_control() {
        add("kube-controller-manager", controllers(plan));
        add("kube-scheduler", scheduler(plan));
    }
    for daemon in &mut all {
        if CONTROL.contains(&daemon.name.as_str()) {
            daemon.user = Some(plan.user());
        }
        match daemon.name.as_str() {
            "containerd" => daemon.socket = Some("/run/containerd/containerd.sock".into()),
            // Before the server has made its own roles it refuses them, and they end.
            "kube-controller-manager" | "kube-scheduler" => daemon.after = Some(plan.served()),
            _ => {}
        }
    }
    all
}

fn etcd() -> Vec<String> {
    let words = [
        "--name=node-1",
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=node-1=http://127.0.0.1:2380",
        // The cluster does not outlive this machine.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ];
    words.map(str::to_owned).to_vec()
}

fn apiserver(plan: &Plan) -> Vec<String> {
    let pki = plan.pki();
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--service-cluster-ip-range={SERVICES_V4},{SERVICES_V6}"),
        format!("--advertise-address={}", plan.control()),
        "--bind-address=::".to_owned(),
        format!("--secure-port={}", super::plan::API_PORT),
        file("client-ca-file", "ca.crt"),
        file("tls-cert-file", "apiserver.crt"),
        file("tls-private-key-file", "apiserver.key"),
        format!("--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}"),
        file("service-account-signing-key-file", "service-accounts.key"),
        file("service-account-key-file", "service-accounts.pub"),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        file("kubelet-client-certificate", "apiserver-kubelet.crt"),
        file("kubelet-client-key", "apiserver-kubelet.key"),
        file("kubelet-certificate-authority", "ca.crt"),
        "--kubelet-preferred-address-types=InternalIP,Hostname".to_owned(),
        file("requestheader-client-ca-file", "front-proxy-ca.crt"),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        file("proxy-client-cert-file", "front-proxy-client.crt"),
        file("proxy-client-key-file", "front-proxy-client.key"),
        "--allow-privileged=true".to_owned(),
        "--enable-aggregator-routing=true".to_owned(),
        "--profiling=false".to_owned(),
        format!("--audit-policy-file={}", plan.dir.join("audit.yaml").display()),
        "--audit-log-path=/var/log/audit/audit.log".to_owned(),
        "--audit-log-maxsize=100".to_owned(),
        "--audit-log-maxbackup=1".to_owned(),
    ]
}

/// What programs of the control plane have in common.
fn client(plan: &Plan, user: &str) -> Vec<String> {
    let kubeconfig = plan.pki().join(format!("{user}.kubeconfig"));
    let mut args: Vec<String> = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
        .iter()
        .map(|flag| format!("--{flag}={}", kubeconfig.display()))
        .collect();
    args.extend(["--leader-elect=false", "--bind-address=127.0.0.1", "--profiling=false"].map(str::to_owned));
    args
}

fn controllers(plan: &Plan) -> Vec<String> {
    let pki = plan.pki();
    let file = |flag: &str, name: &str| format!("--{flag}={}", pki.join(name).display());
    let mut args = client(plan, "kube-controller-manager");
    args.extend([
        file("service-account-private-key-file", "service-accounts.key"),
        file("root-ca-file", "ca.crt"),
        file("cluster-signing-cert-file", "ca.crt"),
        file("cluster-signing-key-file", "ca.key"),
        "--use-service-account-credentials=true".to_owned(),
        format!("--cluster-cidr={PODS_V4},{PODS_V6}"),
        // Each node's share is fixed: routes and the pods' network are made with the node.
        "--allocate-node-cidrs=false".to_owned(),
        // A node that is stopped is noticed soon.
        "--node-monitor-period=2s".to_owned(),
        "--node-monitor-grace-period=20s".to_owned(),
    ]);
    args
}

fn scheduler(plan: &Plan) -> Vec<String> {
    client(plan, "kube-scheduler")
}

/// Puts values into a template. A place without a value, and a value without a place, are defects.
fn fill(template: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    for line in code {
        let mut parts = line.split('@').skip(1);
        if let Some(name) = parts.next()
            && parts.next().is_some()
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
        {
            bail!("a template has no value for @{name}@");
        }
    }
    Ok(text)
}

fn save(path: &Path, content: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    fs::write(path, content).with_context(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_a_value() {
        assert!(coredns().unwrap().contains("10.96.0.10"));
        assert!(fill("a: @A@", &[]).is_err());
        assert_eq!(fill("# @X@\na: @A@ b@c", &[("A", "1")]).unwrap(), "# @X@\na: 1 b@c");
        for template in [CONTAINERD, CNI, KUBELET, KUBE_PROXY] {
            let names = ["PKI", "NODE", "SNAPSHOTTER", "PAUSE", "RUNC", "DOMAIN", "DNS_V4", "PODS_V4", "PODS_V6"];
            let values: Vec<(&str, &str)> = names.iter().map(|name| (*name, "x")).collect();
            fill(template, &values).unwrap();
        }
    }

    #[test]
    fn only_the_first_node_has_the_control_plane() {
        let plan = Plan::new("x", 0, 2, Path::new("/base")).unwrap();
        let names = |node: &Node| daemons(&plan, node).into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(&plan.nodes[0]).len(), 7);
        assert_eq!(names(&plan.nodes[1]), ["containerd", "kubelet", "kube-proxy"]);
    }
}
