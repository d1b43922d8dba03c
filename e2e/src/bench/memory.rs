//! What connections hold that say nothing.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{arena::Arena, chain::Port, cost::resident};
use crate::process::Process;

/// How long opening all connections may take.
const OPENING: Duration = Duration::from_secs(300);
/// Until what the connections' beginning took is given back.
const SETTLE: Duration = Duration::from_millis(500);

/// Memory of both proxies of a chain: outbound and inbound, in bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Which chain.
    pub chain: String,
    /// What the connections carry.
    pub carries: &'static str,
    /// Before the first request.
    pub started: [u64; 2],
    /// With that many connections, each of which has asked once.
    pub idle: Vec<(usize, [u64; 2])>,
}

impl Memory {
    /// What one more connection takes, in bytes, by the two largest numbers of them; from the start on where there is one.
    #[must_use]
    pub fn growth(&self) -> Option<[u64; 2]> {
        let (most, above) = self.idle.last()?;
        let (least, below) = self.idle.iter().rev().nth(1).copied().unwrap_or((0, self.started));
        let each = |end: usize| Some(above.get(end)?.saturating_sub(*below.get(end)?) / (most - least) as u64);
        Some([each(0)?, each(1)?])
    }
}

/// Counts for some numbers of connections, the least first.
///
/// # Errors
/// Where the connections cannot be made.
pub fn measure(arena: &Arena, port: Port, numbers: &[usize]) -> Result<Option<Memory>> {
    let Some(proxies) = &arena.proxies else { return Ok(None) };
    let now = || Ok::<_, anyhow::Error>([resident(proxies.outbound.pid())?, resident(proxies.inbound.pid())?]);
    let (started, mut idle) = (now()?, Vec::new());
    for number in numbers {
        let words = ["idle", "--to", &arena.target(port).to_string(), "--connections", &number.to_string()];
        let mut load = Process::start("idle", &arena.load(&words.map(str::to_owned))?, &arena.ground.dir)?;
        load.wait_for_line("ready", OPENING)?;
        std::thread::sleep(SETTLE);
        idle.push((*number, now()?));
        load.stop()?;
    }
    let carries = if port == Port::Tcp { "tcp" } else { "h1" };
    Ok(Some(Memory { chain: arena.chain.name.clone(), carries, started, idle }))
}
