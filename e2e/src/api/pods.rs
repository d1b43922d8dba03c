//! What runs in pods: commands, their output, logs. Part of `api`.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams, LogParams};
use tokio::{io::AsyncReadExt, time::timeout};

use super::Server;

/// The most that is kept of a command's output, in bytes each.
const OUTPUT: u64 = 4 << 20;

/// What a command in a pod has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its exit status.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Server {
    /// Runs a command in a pod, to its end. Without a container it is the pod's first.
    ///
    /// # Errors
    /// Where it cannot be started, or does not end in time.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[&str],
        deadline: Duration,
    ) -> Result<Ran> {
        let what = || format!("{command:?} in {namespace}/{pod}");
        match timeout(deadline, self.exec_to_its_end(namespace, pod, container, command)).await {
            Ok(result) => result.with_context(what),
            Err(_) => bail!("{} did not end within {deadline:?}", what()),
        }
    }

    async fn exec_to_its_end(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[&str],
    ) -> Result<Ran> {
        let api: Api<Pod> = Api::namespaced(self.client(), namespace);
        let mut params = AttachParams::default().stdin(false).stdout(true).stderr(true);
        if let Some(container) = container {
            params = params.container(container);
        }
        let mut process = api.exec(pod, command.iter().copied(), &params).await?;
        let status = process.take_status().context("no status")?;
        let (out, err) = (process.stdout().context("no output")?, process.stderr().context("no output")?);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let (mut out, mut err) = (out.take(OUTPUT), err.take(OUTPUT));
        let (one, two) = tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr));
        one?;
        two?;
        let status = status.await.context("the connection broke before the command ended")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { code: code(&status)?, stdout: text(stdout), stderr: text(stderr) })
    }

    /// The log of a container; of the pod's only one where none is named.
    ///
    /// # Errors
    /// Where there is none.
    pub async fn logs(&self, namespace: &str, pod: &str, container: Option<&str>) -> Result<String> {
        let api: Api<Pod> = Api::namespaced(self.client(), namespace);
        let params = LogParams { container: container.map(str::to_owned), ..LogParams::default() };
        api.logs(pod, &params).await.with_context(|| format!("cannot get the log of {namespace}/{pod}"))
    }

    /// The pods that a label selector matches and that are not being deleted, in order of their names.
    ///
    /// # Errors
    /// Where the server refuses.
    pub async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client(), namespace);
        let list = api.list(&kube::api::ListParams::default().labels(selector)).await?;
        let mut pods: Vec<Pod> =
            list.items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect();
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        Ok(pods)
    }
}

/// The exit status that a status of the API tells of.
fn code(status: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Status) -> Result<i32> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    match codes.next().and_then(|cause| cause.message.as_deref()?.parse().ok()) {
        Some(code) => Ok(code),
        None => bail!("{}", status.message.as_deref().unwrap_or("it failed without a reason")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_tell_exit_codes() {
        let status = |text: &str| serde_json::from_str(text).unwrap();
        assert_eq!(code(&status(r#"{"status":"Success"}"#)).unwrap(), 0);
        let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"x",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(code(&status(failed)).unwrap(), 3);
        let broken = code(&status(r#"{"status":"Failure","message":"no such file"}"#)).unwrap_err();
        assert_eq!(broken.to_string(), "no such file");
    }
}
