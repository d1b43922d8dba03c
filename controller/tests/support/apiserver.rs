//! An API server on loopback that lists, watches, takes statuses and breaks as real ones do, as far as the controller
//! can see it.

#![allow(dead_code, reason = "each test uses its part")]

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// What goes wrong with one request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// A status and a body in its place.
    Answer(u16, String),
    /// The connection ends in the middle of the answer.
    Broken,
}

/// Which requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// The first page of a list.
    List,
    /// A later page.
    Page,
    /// A watch.
    Watch,
    /// A write of a status.
    Patch,
}

#[derive(Default)]
struct World {
    version: u64,
    /// By plural and name.
    objects: BTreeMap<(String, String), Value>,
    /// What happened: version, plural, type, object.
    log: Vec<(u64, String, &'static str, Value)>,
    /// Watches from before this version are told that it is gone.
    oldest: u64,
    faults: HashMap<(String, Verb), VecDeque<Fault>>,
    /// Group, version, plural.
    served: Vec<(&'static str, &'static str, &'static str)>,
    /// Grows when watches are cut off.
    cuts: u64,
    seen: HashMap<(String, Verb), usize>,
}

/// The server. Dropped, it is gone.
pub struct ApiServer {
    pub address: SocketAddr,
    world: Arc<Mutex<World>>,
    changed: watch::Sender<()>,
    task: Option<JoinHandle<()>>,
}

/// Groups that every test has: nothing of Gateway API, and the mesh's own kinds.
pub const OWN: [(&str, &str, &str); 3] = [
    ("mesh.dev", "v1alpha1", "authorizationpolicies"),
    ("mesh.dev", "v1alpha1", "transportpolicies"),
    ("mesh.dev", "v1alpha1", "externalworkloads"),
];

impl ApiServer {
    pub async fn start() -> Self {
        let world = World { version: 10, served: OWN.to_vec(), ..World::default() };
        let changed = watch::Sender::new(());
        let address = ([127, 0, 0, 1], 0).into();
        let mut server = Self { address, world: Arc::new(Mutex::new(world)), changed, task: None };
        server.resume().await;
        server
    }

    /// Not there any more: connections are refused, and those that are open end.
    pub async fn pause(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
        self.cut();
    }

    /// There again.
    pub async fn resume(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (world, changed) = (self.world.clone(), self.changed.clone());
        self.task = Some(tokio::spawn(async move {
            // They end with this task: also a connection that waits for its next request is one that is open.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                connections.spawn(serve(stream, world.clone(), changed.subscribe()));
            }
        }));
    }

    pub fn client(&self) -> kube::Client {
        let mut config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        config.default_retry = false;
        kube::Client::try_from(config).unwrap()
    }

    /// Makes or changes an object.
    pub fn put(&self, plural: &str, mut object: Value) {
        let mut world = self.world.lock();
        world.version += 1;
        let version = world.version;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        let key = (plural.to_owned(), name_of(&object));
        let kind = if world.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        world.log.push((version, plural.to_owned(), kind, object));
        drop(world);
        self.changed.send_replace(());
    }

    pub fn delete(&self, plural: &str, name: &str) {
        let mut world = self.world.lock();
        world.version += 1;
        let version = world.version;
        let mut object = world.objects.remove(&(plural.to_owned(), name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        world.log.push((version, plural.to_owned(), "DELETED", object));
        drop(world);
        self.changed.send_replace(());
    }

    /// What happened so far is forgotten: a watch that wants to go on from there cannot.
    pub fn forget(&self) {
        let mut world = self.world.lock();
        world.version += 1;
        world.oldest = world.version;
        world.log.clear();
    }

    /// Every watch ends.
    pub fn cut(&self) {
        self.world.lock().cuts += 1;
        self.changed.send_replace(());
    }

    /// What happens while no watch is there: each hears of it when it comes again, or does not.
    pub fn pause_watches_and(&self, happens: impl FnOnce(&Self)) {
        happens(self);
        self.cut();
    }

    /// What is served beside the built-in kinds.
    pub fn serve(&self, served: &[(&'static str, &'static str, &'static str)]) {
        self.world.lock().served = served.to_vec();
    }

    pub fn fault(&self, plural: &str, verb: Verb, fault: Fault) {
        self.world.lock().faults.entry((plural.to_owned(), verb)).or_default().push_back(fault);
    }

    /// An object as it is.
    pub fn get(&self, plural: &str, name: &str) -> Value {
        self.world.lock().objects[&(plural.to_owned(), name.to_owned())].clone()
    }

    /// How many requests there were.
    pub fn seen(&self, plural: &str, verb: Verb) -> usize {
        self.world.lock().seen.get(&(plural.to_owned(), verb)).copied().unwrap_or_default()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

pub fn gone() -> String {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "too old resource version",
           "reason": "Expired", "code": 410})
    .to_string()
}

async fn serve(mut stream: TcpStream, world: Arc<Mutex<World>>, changed: watch::Receiver<()>) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        };
        let head = String::from_utf8(buffer.drain(..end + 4).collect()).ok()?;
        let target = head.split(' ').nth(1)?.to_owned();
        if head.starts_with("PATCH ") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let length: usize = length.unwrap_or_default();
            while buffer.len() < length {
                if stream.read_buf(&mut buffer).await.ok()? == 0 {
                    return None;
                }
            }
            let body: Vec<u8> = buffer.drain(..length).collect();
            let (status, body) = patch(&world, &target, &body)?;
            answer(&mut stream, status, &body).await?;
            continue;
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        let query: HashMap<String, String> = query.split('&').filter_map(pair).collect();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["apis"] => {
                let served = world.lock().served.clone();
                let mut groups: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
                for (group, version, _) in served {
                    groups
                        .entry(group)
                        .or_default()
                        .push(json!({"groupVersion": format!("{group}/{version}"), "version": version}));
                }
                let groups: Vec<Value> =
                    groups.iter().map(|(name, versions)| json!({"name": name, "versions": versions})).collect();
                answer(&mut stream, 200, &json!({"kind": "APIGroupList", "groups": groups}).to_string()).await?;
            }
            ["apis", group, version] => {
                let served = world.lock().served.clone();
                let of = served.iter().filter(|(g, v, _)| *g == group && *v == version);
                let one = |plural: &str| json!({"name": plural, "singularName": "", "namespaced": true, "kind": "x", "verbs": ["list", "watch"]});
                let resources: Vec<Value> = of.map(|(_, _, plural)| one(plural)).collect();
                let list = json!({"kind": "APIResourceList", "groupVersion": format!("{group}/{version}"), "resources": resources});
                answer(&mut stream, 200, &list.to_string()).await?;
            }
            [.., plural] => {
                let verb = match (query.contains_key("watch"), query.contains_key("continue")) {
                    (true, _) => Verb::Watch,
                    (false, true) => Verb::Page,
                    (false, false) => Verb::List,
                };
                if !collection(&mut stream, &world, changed.clone(), plural, verb, &query, parts[0] == "api").await? {
                    return None;
                }
            }
            [] => return None,
        }
    }
}

/// A merge patch of a `status`. Who watches hears of it when it happens to look.
fn patch(world: &Arc<Mutex<World>>, target: &str, body: &[u8]) -> Option<(u16, String)> {
    let path = target.split('?').next()?.strip_suffix("/status")?;
    let mut parts = path.rsplit('/');
    let (name, plural) = (parts.next()?, parts.next()?);
    let patch: Value = serde_json::from_slice(body).ok()?;
    let mut world = world.lock();
    *world.seen.entry((plural.to_owned(), Verb::Patch)).or_default() += 1;
    if let Some(Fault::Answer(status, body)) =
        world.faults.get_mut(&(plural.to_owned(), Verb::Patch)).and_then(VecDeque::pop_front)
    {
        return Some((status, body));
    }
    let status = |code: u16| {
        json!({"kind": "Status", "status": "Failure", "message": "x", "reason": "x", "code": code}).to_string()
    };
    let key = (plural.to_owned(), name.to_owned());
    let Some(mut object) = world.objects.get(&key).cloned() else { return Some((404, status(404))) };
    if patch["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
        return Some((409, status(409)));
    }
    for (field, value) in patch["status"].as_object()? {
        object["status"][field] = value.clone();
    }
    world.version += 1;
    let version = world.version;
    object["metadata"]["resourceVersion"] = version.to_string().into();
    world.objects.insert(key, object.clone());
    world.log.push((version, plural.to_owned(), "MODIFIED", object.clone()));
    object["apiVersion"] = "x/v1".into();
    object["kind"] = "X".into();
    Some((200, object.to_string()))
}

/// Answers; true where the connection can go on.
async fn collection(
    stream: &mut TcpStream,
    world: &Arc<Mutex<World>>,
    changed: watch::Receiver<()>,
    plural: &str,
    verb: Verb,
    query: &HashMap<String, String>,
    core: bool,
) -> Option<bool> {
    let (fault, served) = {
        let mut world = world.lock();
        *world.seen.entry((plural.to_owned(), verb)).or_default() += 1;
        let served = core || plural == "endpointslices" || world.served.iter().any(|(_, _, served)| *served == plural);
        (world.faults.get_mut(&(plural.to_owned(), verb)).and_then(VecDeque::pop_front), served)
    };
    match fault {
        Some(Fault::Answer(status, body)) => {
            answer(stream, status, &body).await?;
            return Some(true);
        }
        Some(Fault::Broken) => {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"kind\": \"List\", \"metadata\": {\"resourceVersion\": \"1\"}, \"items\": [";
            stream.write_all(head.as_bytes()).await.ok()?;
            return Some(false);
        }
        None if !served => {
            answer(stream, 404, "404 page not found\n").await?;
            return Some(true);
        }
        None => {}
    }
    if verb == Verb::Watch {
        follow(stream, world, changed, plural, query).await;
        return Some(false);
    }
    let page = {
        let world = world.lock();
        let of = world.objects.iter().filter(|((of, _), _)| of == plural).map(|(_, object)| object.clone());
        let start: usize = query.get("continue").and_then(|text| text.parse().ok()).unwrap_or(0);
        let limit: usize = query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
        let all: Vec<Value> = of.collect();
        let items: Vec<&Value> = all.iter().skip(start).take(limit).collect();
        let next = start + items.len();
        let more = if next < all.len() { next.to_string() } else { String::new() };
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": world.version.to_string(), "continue": more}, "items": items})
    };
    answer(stream, 200, &page.to_string()).await?;
    Some(true)
}

async fn follow(
    stream: &mut TcpStream,
    world: &Arc<Mutex<World>>,
    mut changed: watch::Receiver<()>,
    plural: &str,
    query: &HashMap<String, String>,
) -> Option<()> {
    let mut from: u64 = query.get("resourceVersion")?.parse().ok()?;
    let cuts = world.lock().cuts;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n").await.ok()?;
    loop {
        changed.mark_unchanged();
        let (lines, end) = {
            let world = world.lock();
            let mut lines = String::new();
            if world.cuts != cuts {
                return None;
            }
            if from < world.oldest {
                lines = format!("{{\"type\": \"ERROR\", \"object\": {}}}\n", gone());
            }
            for (_, of, kind, object) in world.log.iter().filter(|(version, ..)| *version > from) {
                if of == plural {
                    lines.push_str(&format!("{}\n", json!({"type": kind, "object": object})));
                }
            }
            let too_old = from < world.oldest;
            from = world.version;
            (lines, too_old)
        };
        stream.write_all(lines.as_bytes()).await.ok()?;
        if end {
            return None;
        }
        let mut byte = [0];
        tokio::select! {
            changed = changed.changed() => changed.ok()?,
            // The client is gone.
            _ = stream.read(&mut byte) => return None,
            () = tokio::time::sleep(Duration::from_secs(60)) => return None,
        }
    }
}

async fn answer(stream: &mut TcpStream, status: u16, body: &str) -> Option<()> {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.ok()
}
