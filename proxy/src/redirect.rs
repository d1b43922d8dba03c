//! Redirection: what makes an application's connections pass through the proxy. Floor 1: imports `mesh_api` only.
//!
//! [`plan`] decides, as data: one table for IPv4 and IPv6. [`Table::script`] shows it to people, as a script for `nft`;
//! [`apply`] hands it to the kernel, over netlink, without any program: as a whole or not at all. [`check`] says whether it
//! is in force. Where the proxy is not there, what is redirected is refused by the kernel: nothing goes round it.
//!
//! Floors within, each importing lower ones only:
//!
//! ```text
//!  4  probe      is it in force? without a capability: by a connection
//!  3  kernel     the socket
//!  2  nftables   the plan in the kernel's words
//!     script     the plan in people's words
//!  1  plan       tables, chains, rules
//!     arguments  settings as flags of a command
//!  0  settings   what is redirected where
//!     netlink    messages and attributes
//! ```

mod arguments;
mod kernel;
mod netlink;
mod nftables;
mod plan;
mod probe;
mod script;
mod settings;

pub use arguments::{Rules, RulesError};
pub use kernel::{KernelError, Said};
pub use nftables::Difference;
pub use plan::{Chain, Family, Hook, Match, Rule, Table, Verdict, plan};
pub use probe::{CheckError, Proof, check};
pub use settings::{Owner, PortRange, PortRangeError, Settings};

use kernel::Kernel;
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// Puts `settings` in force in this thread's network namespace, in place of whatever an earlier call did: as a whole or
/// not at all. Blocks for ten seconds at most, and needs the capability NET_ADMIN.
///
/// A kernel that was built without IPv6 gets a table for IPv4 alone.
///
/// # Errors
/// [`KernelError`]; what was in force before still is.
pub fn apply(settings: &Settings) -> Result<(), KernelError> {
    by_family(|family| Kernel::open()?.run(&nftables::replace(&plan::plan_for(settings, family))))
}

/// Takes everything back. Where there is nothing to take back it does nothing.
///
/// # Errors
/// [`KernelError`]; what was in force before still is.
pub fn remove() -> Result<(), KernelError> {
    by_family(|family| Kernel::open()?.run(&nftables::remove(family)))
}

/// Does something for both families, or, where the kernel has only the older one, for that.
fn by_family<T>(mut act: impl FnMut(Family) -> Result<T, KernelError>) -> Result<T, KernelError> {
    match act(Family::Inet) {
        Err(error) if error.is_lacking() && !has_ipv6() => act(Family::Ip),
        done => done,
    }
}

fn has_ipv6() -> bool {
    let socket = socket(AddressFamily::Inet6, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    !matches!(socket, Err(Errno::EAFNOSUPPORT))
}

#[cfg(test)]
mod tests;
