//! The outcome as a table for people and as JSON for programs.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    arena::Processors,
    cost::Cost,
    figures::{Measure, RATIOS, figures, ratios},
    memory::Memory,
    page::{spread, table},
    trial::{About, Sample, Trial},
};

/// What it ran on, and how quiet that was.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Processor.
    pub processor: String,
    /// How many of them.
    pub processors: usize,
    /// Kernel.
    pub kernel: String,
    /// Which are whose.
    pub pinned: String,
    /// Load average of a minute before and after.
    pub load_average: [f64; 2],
    /// Share of processor time that the hypervisor gave to others, in the time of the runs.
    pub stolen: f64,
    #[serde(skip)]
    ticks: [u64; 2],
}

impl Machine {
    /// Looks, before the runs.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn look(processors: Processors) -> Result<Self> {
        let info = fs::read_to_string("/proc/cpuinfo")?;
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = load_average()?;
        Ok(Self {
            processor: model.map_or("unknown", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            pinned: format!("proxies on {}, load and applications on {}", processors.proxies, processors.load),
            load_average: [load, load],
            stolen: 0.0,
            ticks: ticks()?,
        })
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{} ({} processors; {}), kernel {}; load average {:.1} before, {:.1} after; {:.1} % of the time stolen.\n",
            self.processor,
            self.processors,
            self.pinned,
            self.kernel,
            self.load_average[0],
            self.load_average[1],
            self.stolen * 100.0
        )
    }

    /// Looks again, after them.
    ///
    /// # Errors
    /// As [`Machine::look`].
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn done(&mut self) -> Result<()> {
        let now = ticks()?;
        let [all, stolen] = [0, 1].map(|nth| now[nth].saturating_sub(self.ticks[nth]) as f64);
        self.stolen = if all > 0.0 { stolen / all } else { 0.0 };
        self.load_average[1] = load_average()?;
        Ok(())
    }
}

fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    Ok(text.split_whitespace().next().context("an empty loadavg")?.parse()?)
}

/// All ticks, and the stolen ones.
fn ticks() -> Result<[u64; 2]> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty stat")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    Ok([ticks.iter().take(8).sum(), ticks.get(7).copied().unwrap_or(0)])
}

/// System calls of one proxy.
#[derive(Clone, Debug, Serialize)]
pub struct SystemCalls {
    /// Chain.
    pub chain: String,
    /// `outbound` or `inbound`.
    pub side: &'static str,
    /// Requests meanwhile.
    pub requests: u64,
    /// Calls.
    pub total: u64,
    /// By kind, the most frequent first.
    pub kinds: Vec<(String, u64)>,
}

/// Everything that was measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// On what.
    pub machine: Machine,
    /// Name, title and version of each chain.
    pub versions: Vec<(String, String, String)>,
    /// Every run.
    pub samples: Vec<Sample>,
    /// Memory.
    pub memory: Vec<Memory>,
    /// System calls.
    pub calls: Vec<SystemCalls>,
}

impl Outcome {
    /// For programs: every run, and under `ratios` the medians of every chain's ratio to HAProxy.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut medians = serde_json::Map::new();
        let mut spreads = serde_json::Map::new();
        for ratio in &RATIOS {
            let all = ratios(&self.samples, ratio);
            let of: BTreeMap<_, _> = all.iter().map(|(chain, figure)| (chain, figure.median)).collect();
            medians.insert(ratio.name.to_owned(), json!(of));
            spreads.insert(ratio.name.to_owned(), json!(all));
        }
        let versions: Vec<_> = self.versions.iter().map(|(name, _, version)| (name, version)).collect();
        json!({
            "machine": self.machine, "versions": versions.into_iter().collect::<BTreeMap<_, _>>(),
            "ratios": medians, "ratio_spreads": spreads,
            "runs": self.samples, "memory": self.memory, "system_calls": self.calls,
        })
    }

    /// Chains in their order, those that were there.
    fn chains(&self) -> Vec<(&str, &str)> {
        self.versions.iter().map(|(name, title, _)| (name.as_str(), title.as_str())).collect()
    }

    /// The tables, as Markdown: it is as easy to read on a terminal.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "{}", self.machine.line());
        self.write_runs(text);
        self.write_ratios(text);
        self.write_memory(text);
        self.write_calls(text);
    }

    fn write_runs(&self, text: &mut String) {
        let mut rows = vec![self.head("median [least..greatest]")];
        for trial in Trial::all() {
            let (main, unit, cost) = match trial.about {
                About::Bytes => (Measure::Bandwidth, "MB/s", Some((Measure::CostOfMegabyte, "us/MB"))),
                About::Latency => (Measure::Median, "p50 us", Some((Measure::Late, "p99 us"))),
                About::Requests | About::Handshakes => (Measure::Rate, "each second", Some((Measure::Cost, "CPU us"))),
            };
            self.row(&mut rows, &format!("{}: {unit}", trial.title), trial.name, main);
            if let Some((measure, unit)) = cost {
                self.row(&mut rows, &format!("  {unit}"), trial.name, measure);
            }
            if trial.about == About::Latency {
                self.row(&mut rows, "  CPU us", trial.name, Measure::Cost);
            }
        }
        let share: Vec<_> = self.chains().iter().map(|(chain, _)| self.kernel_share(chain)).collect();
        rows.push(
            std::iter::once("share of the kernel, HTTP/1.1 100 B: out + in, %".to_owned()).chain(share).collect(),
        );
        table(text, &rows);
    }

    fn head(&self, first: &str) -> Vec<String> {
        std::iter::once(first).chain(self.chains().into_iter().map(|(_, title)| title)).map(str::to_owned).collect()
    }

    fn row(&self, rows: &mut Vec<Vec<String>>, title: &str, trial: &str, measure: Measure) {
        let all = figures(&self.samples, measure);
        let free = matches!(measure, Measure::Cost | Measure::CostOfMegabyte);
        let mut found = false;
        let cells = self.chains().into_iter().map(|(chain, _)| {
            let figure = all.get(&(trial.to_owned(), chain.to_owned())).filter(|_| !(free && chain == "direct"));
            found |= figure.is_some();
            figure.map_or_else(String::new, spread)
        });
        let row: Vec<_> = std::iter::once(title.to_owned()).chain(cells.collect::<Vec<_>>()).collect();
        if found {
            rows.push(row);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    fn kernel_share(&self, chain: &str) -> String {
        let mut sums = [Cost::default(); 2];
        for sample in self.samples.iter().filter(|sample| sample.chain == chain && sample.trial == "h1_100b") {
            sums = [sums[0] + sample.outbound, sums[1] + sample.inbound];
        }
        let share = |cost: Cost| {
            let all = cost.user_ticks + cost.kernel_ticks;
            (all > 0).then(|| format!("{:.0}", cost.kernel_ticks as f64 * 100.0 / all as f64))
        };
        match sums.map(share) {
            [Some(outbound), Some(inbound)] => format!("{outbound} + {inbound}"),
            _ => String::new(),
        }
    }

    fn write_ratios(&self, text: &mut String) {
        let mut rows = vec![self.head("ratio to HAProxy")];
        if let Some(head) = rows.first_mut() {
            head.retain(|title| title != "no proxy");
            head.push("target of Mesh".to_owned());
        }
        for ratio in &RATIOS {
            let all = ratios(&self.samples, ratio);
            if all.is_empty() {
                continue;
            }
            let chains = self.chains().into_iter().filter(|(chain, _)| *chain != "direct");
            let cells = chains.map(|(chain, _)| all.get(chain).map_or_else(String::new, spread));
            let target = ratio.target.map_or_else(String::new, |(target, less)| {
                let kept = all.get("mesh").and_then(|figure| ratio.kept(figure.median));
                let mark = match kept {
                    Some(true) => " kept",
                    Some(false) => " missed",
                    None => "",
                };
                format!("{} {target}{mark}", if less { "at most" } else { "at least" })
            });
            rows.push(std::iter::once(ratio.name.to_owned()).chain(cells).chain([target]).collect());
        }
        if rows.len() > 1 {
            table(text, &rows);
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    fn write_memory(&self, text: &mut String) {
        let Some(first) = self.memory.first() else { return };
        let pair = |bytes: [u64; 2]| format!("{:.1} + {:.1}", bytes[0] as f64 / 1e6, bytes[1] as f64 / 1e6);
        let mut head = vec!["memory, out + in, MB".to_owned(), "carries".to_owned(), "at start".to_owned()];
        head.extend(first.idle.iter().map(|(number, _)| format!("{number} idle connections")));
        head.push("each, KB".to_owned());
        let mut rows = vec![head];
        for memory in &self.memory {
            let mut row = vec![memory.chain.clone(), memory.carries.to_owned(), pair(memory.started)];
            row.extend(memory.idle.iter().map(|(_, bytes)| pair(*bytes)));
            row.push(
                memory.growth().map_or_else(String::new, |each| {
                    format!("{:.1} + {:.1}", each[0] as f64 / 1e3, each[1] as f64 / 1e3)
                }),
            );
            rows.push(row);
        }
        table(text, &rows);
    }

    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    fn write_calls(&self, text: &mut String) {
        if self.calls.is_empty() {
            return;
        }
        let mut rows =
            vec![["system calls for each request", "side", "all", "most frequent"].map(str::to_owned).to_vec()];
        for calls in &self.calls {
            let each = |number: u64| number as f64 / calls.requests.max(1) as f64;
            let most = calls.kinds.iter().take(4).map(|(name, number)| format!("{name} {:.2}", each(*number)));
            rows.push(vec![
                calls.chain.clone(),
                calls.side.to_owned(),
                format!("{:.2}", each(calls.total)),
                most.collect::<Vec<_>>().join(", "),
            ]);
        }
        table(text, &rows);
    }
}
