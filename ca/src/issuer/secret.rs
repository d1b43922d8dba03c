//! A [`Keyring`] in a Kubernetes Secret, shared by every replica.
//!
//! Each change is one update that is tied to the version it was made from, so whatever crashes or races, the Secret
//! holds one whole state. Every replica signs with what the Secret says; only the leader changes it, and two leaders by
//! mistake cannot both succeed. A Secret that disappears while the leader holds its content is written back. A new root
//! is made by the leader only, and only where it holds none: who starts while others run waits for them.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret as SecretObject};
use kube::{
    Resource as _,
    api::{ObjectMeta, PostParams},
    core::{Request, params::GetParams},
};
use mesh_api::names;
use tokio::sync::watch;

use super::{
    Issuing,
    keyring::{self, Frame, Keyring, KeyringError},
    rotation::{Order, State, Step},
};
use crate::{
    cluster::{Cluster, ClusterError},
    files::{FileError, Secret},
    telemetry,
    time::Time,
};

pub use mesh_api::names::{ANNOTATION_OUTCOME, ANNOTATION_ROTATE};

/// Name in `managedFields`.
const MANAGER: &str = "mesh-ca";
/// Whoever was slower reads again and tries once more, so often at most.
const TRIES: usize = 5;
/// Steps in one go: after a long sleep several are due at once, never more than these.
const MAX_STEPS: usize = 4;
/// Longest order that is repeated in its refusal.
const MAX_ORDER: usize = 40;

/// Why the Secret was not read or not changed. What signed before still does.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server.
    #[error("{place}: {error}")]
    Cluster {
        /// Which Secret.
        place: String,
        /// What went wrong.
        error: ClusterError,
    },
    /// What the Secret holds, or what it should do.
    #[error("{place}{error}")]
    Keyring {
        /// Which Secret; empty where the error is not about what it holds.
        place: String,
        /// What is wrong.
        error: KeyringError,
    },
    /// Others change it all the time.
    #[error("{0} changed each time before it could be written; trying again later")]
    Contended(String),
    /// Orders are for the leader.
    #[error(
        "this replica does not lead; order it by `kubectl -n {namespace} annotate secret {} {ANNOTATION_ROTATE}=issuer` \
         (or `root`), and the leader carries it out",
        names::CA_SECRET
    )]
    NotLeading {
        /// Where the Secret is.
        namespace: String,
    },
}

impl SecretError {
    /// True where the API server said no, or nothing at all: what the Secret holds may be right.
    #[must_use]
    pub fn is_of_cluster(&self) -> bool {
        matches!(self, Self::Cluster { .. } | Self::Contended(_))
    }
}

/// The Secret, and what it last held.
#[derive(Debug)]
pub struct SecretStore {
    cluster: Cluster,
    frame: Frame,
    leading: watch::Receiver<bool>,
    held: Option<Held>,
    /// What was handed out last.
    published: Option<State>,
    /// The Secret is gone, and this was said.
    mourned: bool,
}

#[derive(Debug)]
struct Held {
    keyring: Keyring,
    version: String,
}

/// What one look at the Secret came to.
enum Turn {
    Done,
    /// Somebody else was faster.
    Again,
}

impl SecretStore {
    /// Reads nothing yet. `leading` says whether this replica changes the Secret.
    #[must_use]
    pub fn new(cluster: Cluster, frame: Frame, leading: watch::Receiver<bool>) -> Self {
        Self { cluster, frame, leading, held: None, published: None, mourned: false }
    }

    /// Reads the Secret, and, where this replica leads, makes it where there is none and does what is due or ordered;
    /// `None` where nothing changed, or nothing is there yet.
    ///
    /// # Errors
    /// [`SecretError`]; what is held stays in force.
    pub async fn tick(&mut self, now: Time, order: Option<Order>) -> Result<Option<Issuing>, SecretError> {
        for _ in 0..TRIES {
            match self.turn(now, order).await? {
                Turn::Done => return self.publish(now),
                Turn::Again => tracing::debug!("another replica was faster; reading again"),
            }
        }
        Err(SecretError::Contended(self.place()))
    }

    /// What holds, where it is not what was handed out last.
    fn publish(&mut self, now: Time) -> Result<Option<Issuing>, SecretError> {
        let Some(held) = &self.held else { return Ok(None) };
        if self.published.as_ref() == Some(held.keyring.state()) {
            return Ok(None);
        }
        let issuing = held.keyring.issuing(&self.frame, now).map_err(|error| self.at(error))?;
        self.published = Some(held.keyring.state().clone());
        Ok(Some(issuing))
    }

    async fn turn(&mut self, now: Time, order: Option<Order>) -> Result<Turn, SecretError> {
        let leads = *self.leading.borrow();
        if order.is_some() && !leads {
            return Err(SecretError::NotLeading { namespace: self.cluster.namespace().to_owned() });
        }
        let Some(object) = self.get().await? else { return self.make(now, leads).await };
        self.mourned = false;
        let version = object.metadata.resource_version.clone().unwrap_or_default();
        if self.held.as_ref().is_none_or(|held| held.version != version) {
            let read = |name: &str| read_from(&object, name);
            match Keyring::open(&read, &self.frame).map_err(|error| self.at(error))? {
                Some(keyring) => self.take(keyring, version),
                None => return self.fill(object, now, leads).await,
            }
        }
        if leads { self.lead(object, now, order).await } else { Ok(Turn::Done) }
    }

    /// What another replica, or a person, wrote.
    fn take(&mut self, keyring: Keyring, version: String) {
        if let Some(held) = &self.held {
            let known = |entry: &super::rotation::Entry| {
                held.keyring.state().roots.iter().any(|root| root.fingerprint == entry.fingerprint)
            };
            if !keyring.state().roots.iter().any(known) {
                tracing::warn!(
                    secret = self.place(),
                    "the Secret holds none of the roots that were trusted until now; it is followed, and members that \
                     trust only the old ones must read the new ones"
                );
            }
        }
        self.held = Some(Held { keyring, version });
    }

    /// There is no Secret.
    async fn make(&mut self, now: Time, leads: bool) -> Result<Turn, SecretError> {
        if !leads {
            if !std::mem::replace(&mut self.mourned, true) {
                tracing::warn!(secret = self.place(), "there is no Secret; the leader writes it");
            }
            return Ok(Turn::Done);
        }
        let (keyring, first) = match &self.held {
            Some(held) => (held.keyring.clone(), false),
            None => (self.begin(&|_| Ok(None), now)?, true),
        };
        let mut object = SecretObject {
            metadata: ObjectMeta {
                name: Some(names::CA_SECRET.to_owned()),
                namespace: Some(self.cluster.namespace().to_owned()),
                labels: Some(labels()),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            ..SecretObject::default()
        };
        fill(&mut object, &keyring);
        let Some(version) = self.create(&object).await? else { return Ok(Turn::Again) };
        if first {
            tracing::warn!(
                secret = self.place(),
                root = keyring.state().roots.first().map(|root| root.fingerprint.as_str()),
                "there was no Secret: a NEW ROOT was made, as is right for a first installation; a mesh that was there \
                 before must be given its old Secret back from a backup, or every member must read the new roots"
            );
        } else {
            tracing::warn!(secret = self.place(), "the Secret was gone; it was written back as it was");
        }
        self.held = Some(Held { keyring, version });
        Ok(Turn::Again)
    }

    /// There is a Secret without a state: an operator's root to begin with, or one that was emptied.
    async fn fill(&mut self, mut object: SecretObject, now: Time, leads: bool) -> Result<Turn, SecretError> {
        if !leads {
            return Ok(Turn::Done);
        }
        let keyring = match &self.held {
            Some(held) => held.keyring.clone(),
            None => self.begin(&|name| read_from(&object, name), now)?,
        };
        fill(&mut object, &keyring);
        let Some(version) = self.replace(&object).await? else { return Ok(Turn::Again) };
        tracing::warn!(secret = self.place(), held = self.held.is_some(), "the Secret had no state; it was filled");
        self.held = Some(Held { keyring, version });
        Ok(Turn::Again)
    }

    /// Does what is due or ordered, in one update.
    async fn lead(&mut self, mut object: SecretObject, now: Time, order: Option<Order>) -> Result<Turn, SecretError> {
        let Some(held) = &self.held else { return Ok(Turn::Done) };
        let annotations = object.metadata.annotations.get_or_insert_default();
        let wish = if order.is_none() { annotations.remove(ANNOTATION_ROTATE) } else { None };
        let wished = wish.as_deref().map(parse_order);
        let first = order.or(wished.clone().and_then(Result::ok));
        let (steps, keyring, refused) = match advance(&held.keyring, &self.frame, now, first) {
            Ok((steps, keyring)) => (steps, keyring, None),
            // An order that cannot be carried out keeps nothing else from being done.
            Err(error) if order.is_none() && first.is_some() => {
                let (steps, keyring) =
                    advance(&held.keyring, &self.frame, now, None).map_err(|error| self.at(error))?;
                (steps, keyring, Some(error.to_string()))
            }
            Err(error) => return Err(self.at(error)),
        };
        if steps.is_empty() && wish.is_none() {
            return Ok(Turn::Done);
        }
        if let Some(wish) = &wish {
            let outcome = match (wished, refused) {
                (Some(Err(why)), _) | (_, Some(why)) => format!("{now}: refused: {why}"),
                _ => format!("{now}: done: {wish}"),
            };
            tracing::info!(order = wish, outcome, "rotation ordered by annotation");
            annotations.insert(ANNOTATION_OUTCOME.to_owned(), outcome);
        }
        fill(&mut object, &keyring);
        let Some(version) = self.replace(&object).await? else { return Ok(Turn::Again) };
        for step in steps {
            metrics::counter!(telemetry::ROTATIONS, "step" => step.name()).increment(1);
            tracing::info!(?step, phase = keyring.state().phase.name(), "rotation step done");
        }
        self.held = Some(Held { keyring, version });
        Ok(Turn::Done)
    }

    fn begin(&self, read: &keyring::Reader<'_>, now: Time) -> Result<Keyring, SecretError> {
        Keyring::begin(read, &self.frame, now).map_err(|error| self.at(error))
    }

    fn place(&self) -> String {
        format!("Secret {}/{}", self.cluster.namespace(), names::CA_SECRET)
    }

    fn at(&self, error: KeyringError) -> SecretError {
        let place = if error.names_something() { format!("{}: ", self.place()) } else { String::new() };
        SecretError::Keyring { place, error }
    }

    fn of_cluster(&self) -> impl FnOnce(ClusterError) -> SecretError + use<> {
        let place = self.place();
        move |error| SecretError::Cluster { place, error }
    }

    fn requests(&self) -> Request {
        Request::new(SecretObject::url_path(&(), Some(self.cluster.namespace())))
    }

    async fn get(&self) -> Result<Option<SecretObject>, SecretError> {
        let got = self.cluster.call(self.requests().get(names::CA_SECRET, &GetParams::default())).await;
        match got {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(self.of_cluster()(error)),
        }
    }

    /// The version it has then; `None` where somebody else made one.
    async fn create(&self, object: &SecretObject) -> Result<Option<String>, SecretError> {
        let body = serialized(object).map_err(self.of_cluster())?;
        match self.cluster.call::<SecretObject>(self.requests().create(&parameters(), body)).await {
            Ok(object) => Ok(object.metadata.resource_version),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(self.of_cluster()(error)),
        }
    }

    /// The version it has then; `None` where somebody else changed it, or removed it, since it was read.
    async fn replace(&self, object: &SecretObject) -> Result<Option<String>, SecretError> {
        let body = serialized(object).map_err(self.of_cluster())?;
        match self.cluster.call::<SecretObject>(self.requests().replace(names::CA_SECRET, &parameters(), body)).await {
            Ok(object) => Ok(object.metadata.resource_version),
            Err(error) if error.is_conflict() || error.is_missing() => Ok(None),
            Err(error) => Err(self.of_cluster()(error)),
        }
    }
}

/// Every step that is due, the ordered one first.
fn advance(
    keyring: &Keyring,
    frame: &Frame,
    now: Time,
    order: Option<Order>,
) -> Result<(Vec<Step>, Keyring), KeyringError> {
    let (mut steps, mut keyring, mut order) = (Vec::new(), keyring.clone(), order);
    while steps.len() < MAX_STEPS {
        let Some((step, next)) = keyring.next(frame, now, order.take())? else { break };
        steps.push(step);
        keyring = next;
    }
    Ok((steps, keyring))
}

fn parse_order(text: &str) -> Result<Order, String> {
    match text.trim() {
        "issuer" => Ok(Order::RotateIssuer),
        "root" => Ok(Order::RotateRoot),
        "repair" => Ok(Order::Repair),
        other => {
            let other: String = other.chars().take(MAX_ORDER).collect();
            Err(format!("`{other}` is none of `issuer`, `root`, `repair`"))
        }
    }
}

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())])
}

fn parameters() -> PostParams {
    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }
}

fn serialized(object: &SecretObject) -> Result<Vec<u8>, ClusterError> {
    serde_json::to_vec(object).map_err(|_| ClusterError::Malformed("the Secret cannot be written as JSON".into()))
}

fn read_from(object: &SecretObject, name: &str) -> Result<Option<Secret>, FileError> {
    Ok(object.data.as_ref().and_then(|data| data.get(name)).map(|content| Secret::from(content.0.clone())))
}

/// Puts the whole keyring in the place of the one that was there; what is not a keyring's stays.
fn fill(object: &mut SecretObject, keyring: &Keyring) {
    let data = object.data.get_or_insert_default();
    let contents = keyring.contents();
    data.retain(|name, _| !keyring::is_ours(name) || contents.contains_key(name) || !keyring.is_old(name));
    for (name, content) in contents {
        data.insert(name.clone(), ByteString(content.expose().to_vec()));
    }
}
