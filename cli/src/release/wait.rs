//! Waits until components stand, and tells what they wait for.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::Site;
use crate::{
    chart::object::Key,
    cluster::rollout::{self, Progress},
    io::{Out, Tone},
};

/// Kinds are served after at most this long.
pub const KINDS: Duration = Duration::from_secs(60);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(700);
/// What is only on its way is told after this long, so that a quick start is not full of noise.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits until all of `keys` that can be waited for stand; each change is a line.
///
/// # Errors
/// What does not stand at the end of `limit`, and why.
pub async fn until_ready(site: &Site, keys: &[Key], limit: Duration, out: &mut Out) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut told: HashMap<Key, Vec<String>> = HashMap::new();
    loop {
        let progress = look(site, keys).await?;
        for one in &progress {
            let lines = lines(one, begun.elapsed() >= PATIENCE);
            if !lines.is_empty() && told.get(&one.key) != Some(&lines) {
                for line in &lines {
                    out.toned(if one.done { Tone::Good } else { Tone::Plain }, line)?;
                }
                told.insert(one.key.clone(), lines);
            }
        }
        if progress.iter().all(|one| one.done) {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            return Err(late(&progress, limit));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// As [`until_ready`], without a word.
///
/// # Errors
/// As [`until_ready`].
pub async fn quietly(site: &Site, keys: &[Key], limit: Duration) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let progress = look(site, keys).await?;
        if progress.iter().all(|one| one.done) {
            return Ok(());
        }
        if begun.elapsed() >= limit {
            return Err(late(&progress, limit));
        }
        tokio::time::sleep(LOOK / 3).await;
    }
}

async fn look(site: &Site, keys: &[Key]) -> anyhow::Result<Vec<Progress>> {
    let client = site.cluster.client();
    let mut progress = Vec::new();
    for key in keys.iter().filter(|key| rollout::is_waited_for(&key.kind)) {
        progress.push(rollout::look(&site.objects, &client, key).await?);
    }
    Ok(progress)
}

fn name(key: &Key) -> String {
    match key.kind.as_str() {
        "Deployment" => key.name.clone(),
        "DaemonSet" => format!("{} (on every node)", key.name),
        "MutatingWebhookConfiguration" => "injection webhook".to_owned(),
        "ValidatingWebhookConfiguration" => "validation webhook".to_owned(),
        _ => key.to_string(),
    }
}

/// What is said of a component: nothing while there is nothing to say yet.
fn lines(progress: &Progress, patience_is_over: bool) -> Vec<String> {
    if !progress.done && !patience_is_over {
        return Vec::new();
    }
    let head = format!("{}: {}/{} ready", name(&progress.key), progress.ready, progress.wanted);
    let reasons = progress.reasons.iter().map(|reason| format!("  {reason}"));
    std::iter::once(head).chain(reasons).collect()
}

fn late(progress: &[Progress], limit: Duration) -> anyhow::Error {
    let late = progress.iter().filter(|one| !one.done).flat_map(|one| lines(one, true)).collect::<Vec<_>>();
    anyhow::anyhow!(
        "not everything stands after {}s:\n{}\neverything is applied and the cluster goes on trying; run the same command \
         again to wait longer",
        limit.as_secs(),
        late.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_start_makes_no_noise() {
        let key = Key {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "mesh-system".into(),
            name: "mesh-ca".into(),
        };
        let mut progress =
            Progress { key, ready: 0, wanted: 1, done: false, reasons: vec!["pod x finds no node".into()] };
        assert!(lines(&progress, false).is_empty());
        assert_eq!(lines(&progress, true), ["mesh-ca: 0/1 ready", "  pod x finds no node"]);
        progress = Progress { ready: 1, done: true, reasons: Vec::new(), ..progress };
        assert_eq!(lines(&progress, false), ["mesh-ca: 1/1 ready"]);
    }
}
