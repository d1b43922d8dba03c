//! Settings as flags of a command: of `mesh-proxy redirect`, and of what the injector leaves for the CNI plugin. Floor 1:
//! imports `settings`.

use clap::{Args, Parser};
use ipnet::IpNet;
use mesh_api::{config::Validate as _, names};

use super::settings::{Owner, PortRange, Settings};

/// The flags.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("owner").required(true)))]
pub struct Rules {
    /// User that the proxy runs as, and nothing else.
    #[arg(long, value_name = "ID", group = "owner")]
    proxy_uid: Option<u32>,
    /// Group that the proxy runs as, and nothing else.
    #[arg(long, value_name = "ID", group = "owner")]
    proxy_gid: Option<u32>,
    /// Where the proxy takes what comes in.
    #[arg(long, value_name = "PORT", default_value_t = names::PORT_INBOUND)]
    inbound_port: u16,
    /// Where the proxy takes what goes out.
    #[arg(long, value_name = "PORT", default_value_t = names::PORT_OUTBOUND)]
    outbound_port: u16,
    /// The proxy's admin server, which is reached directly.
    #[arg(long, value_name = "PORT", default_value_t = names::PORT_ADMIN)]
    admin_port: u16,
    /// Ports of the application that are reached directly.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_inbound_ports: Vec<PortRange>,
    /// Ports that the application reaches directly.
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    skip_outbound_ports: Vec<PortRange>,
    /// Networks that the application reaches directly.
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    skip_subnets: Vec<IpNet>,
}

/// Flags that cannot be read, or that make no sense together. Their author has to mend them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RulesError(String);

impl Rules {
    /// What the flags say.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn settings(self) -> Result<Settings, RulesError> {
        let proxy = match (self.proxy_uid, self.proxy_gid) {
            (Some(id), _) => Owner::User(id),
            (None, Some(id)) => Owner::Group(id),
            (None, None) => return Err(RulesError("--proxy-uid or --proxy-gid is missing".into())),
        };
        let settings = Settings {
            proxy,
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            admin_port: self.admin_port,
            skip_inbound_ports: self.skip_inbound_ports,
            skip_outbound_ports: self.skip_outbound_ports,
            skip_subnets: self.skip_subnets,
        };
        let mistakes: Vec<String> =
            settings.mistakes().into_iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
        if mistakes.is_empty() { Ok(settings) } else { Err(RulesError(mistakes.join("\n  "))) }
    }
}

/// The flags alone, as a line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    rules: Rules,
}

impl Settings {
    /// Reads the flags of `mesh-proxy redirect apply`.
    ///
    /// # Errors
    /// Everything that is wrong with them, or the first that cannot be read.
    pub fn from_flags<S: Into<std::ffi::OsString> + Clone>(flags: &[S]) -> Result<Self, RulesError> {
        match Line::try_parse_from(flags.iter().cloned()) {
            Ok(line) => line.rules.settings(),
            Err(error) => {
                let said = error.to_string();
                let first = said.lines().next().unwrap_or_default();
                Err(RulesError(first.trim_start_matches("error: ").chars().take(200).collect()))
            }
        }
    }
}
