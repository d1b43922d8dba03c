//! curl, with what it saw as text.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use mesh_e2e::process::{must_run, run, tail};

/// How long one transfer may take.
const TRANSFER: Duration = Duration::from_secs(90);
/// Bodies up to this many bytes are shown as they are.
const SHOWN: u64 = 2000;

/// A curl that takes `http://app.test/...` to an address, so that what it sends is the same on every way.
pub struct Curl<'a> {
    address: SocketAddr,
    dir: &'a Path,
    options: Vec<String>,
}

impl<'a> Curl<'a> {
    /// For `address`; files go to `dir`.
    pub fn new(address: SocketAddr, dir: &'a Path) -> Self {
        Self { address, dir, options: Vec::new() }
    }

    /// Adds options for every call.
    pub fn always(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// One transfer of `path`: exit code, status, header fields and body.
    pub fn get(&self, path: &str, options: &[&str]) -> Result<String> {
        let (head, body) = (self.dir.join("curl.head"), self.dir.join("curl.body"));
        for file in [&head, &body] {
            std::fs::write(file, "")?;
        }
        let mut curl = self.command();
        curl.args(options).arg("-D").arg(&head).arg("-o").arg(&body).arg(format!("http://app.test{path}"));
        let output = run(&curl, TRANSFER)?;
        let head = fields(&std::fs::read_to_string(&head).context("the head is not text")?);
        let mut text = format!("curl exit {:?}\n{head}", output.status.code());
        // Of a HEAD, curl writes the head again where the body would go.
        if !options.contains(&"--head") {
            text.push_str(&describe(&body)?);
        }
        if !output.status.success() && head.is_empty() {
            text.push_str(&tail(&output.error_text()));
        }
        Ok(text)
    }

    /// One run with arguments of its own; what curl prints.
    pub fn raw(&self, args: &[&str]) -> Result<String> {
        Ok(must_run(self.command().args(args), TRANSFER)?.text())
    }

    fn command(&self) -> Command {
        let mut curl = Command::new("curl");
        let to = format!("app.test:80:{}:{}", self.address.ip(), self.address.port());
        // -q: no file of the user's settings.
        curl.args(["-q", "-sS", "--noproxy", "*", "--max-time", "80", "--connect-to", &to]).args(&self.options);
        curl
    }
}

/// A file's content where it is short and text, its size and hash where not.
pub fn describe(file: &Path) -> Result<String> {
    let size = std::fs::metadata(file)?.len();
    if size <= SHOWN
        && let Ok(text) = std::fs::read_to_string(file)
    {
        return Ok(format!("body: {text:?}"));
    }
    Ok(format!("body: {size} bytes, sha256 {}", sha256(file)?))
}

/// SHA-256 of a file, in hex.
pub fn sha256(file: &Path) -> Result<String> {
    let output = must_run(Command::new("sha256sum").arg(file), TRANSFER)?.text();
    Ok(output.split_whitespace().next().unwrap_or_default().to_owned())
}

/// The heads of all responses of a transfer in one form: names in lower case and in order, without what belongs to one
/// hop only (RFC 9110 section 7.6.1), without the reason phrase, which means nothing (RFC 9112 section 4), and without
/// the date's value.
pub fn fields(heads: &str) -> String {
    let mut text = String::new();
    for head in heads.replace('\r', "").split("\n\n").filter(|head| !head.trim().is_empty()) {
        let mut lines = head.lines().filter(|line| !line.is_empty());
        let status: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().take(2).collect();
        text.push_str(&status.join(" "));
        text.push('\n');
        let mut fields: Vec<String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim()))
            .filter(|(name, _)| name != "connection" && name != "keep-alive")
            .map(|(name, value)| format!("{name}: {}\n", if name == "date" { "(a date)" } else { value }))
            .collect();
        // Stable: fields of one name keep their order, which means something.
        fields.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
        text.extend(fields);
    }
    text
}
