//! The rules as a script for `nft`, for people to read, and for tests to hold the netlink messages against. Floor 2:
//! imports `plan`.

use std::fmt::{self, Display};

use super::{
    plan::{Chain, Match, PRIORITY, Rule, TABLE, Table, Verdict},
    settings::Owner,
};

impl Table {
    /// What `nft -f` would put in force, in place of whatever is there, as a whole or not at all.
    #[must_use]
    pub fn script(&self) -> String {
        // What is not there cannot be deleted: first it is made, if need be.
        let name = format!("{} {TABLE}", self.family);
        format!("add table {name}\ndelete table {name}\n{self}")
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {TABLE} {{", self.family)?;
        for (nth, chain) in self.chains.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            write!(f, "{chain}")?;
        }
        writeln!(f, "}}")
    }
}

impl Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\tchain {} {{", self.name)?;
        writeln!(f, "\t\ttype nat hook {} priority {PRIORITY}; policy accept;", self.hook)?;
        for rule in &self.rules {
            writeln!(f, "\t\t{rule}")?;
        }
        writeln!(f, "\t}}")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.when, self.verdict)
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromLoopback => f.write_str("iif \"lo\""),
            Self::ToLoopback => f.write_str("oif \"lo\""),
            Self::NotForUs => f.write_str("fib daddr type != local"),
            Self::By(Owner::User(id)) => write!(f, "meta skuid {id}"),
            Self::By(Owner::Group(id)) => write!(f, "meta skgid {id}"),
            Self::Ports(ports) => match ports.as_slice() {
                [one] if one.first() == one.last() => write!(f, "tcp dport {one}"),
                many => write!(f, "tcp dport {}", Braces(many)),
            },
            Self::V4(networks) => write!(f, "ip daddr {}", Braces(networks)),
            Self::V6(networks) => write!(f, "ip6 daddr {}", Braces(networks)),
            Self::Tcp => f.write_str("meta l4proto tcp"),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => f.write_str("return"),
            Self::Redirect(port) => write!(f, "redirect to :{port}"),
        }
    }
}

/// A set.
struct Braces<'a, T>(&'a [T]);

impl<T: Display> Display for Braces<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, entry) in self.0.iter().enumerate() {
            write!(f, "{}{entry}", if nth == 0 { "{ " } else { ", " })?;
        }
        f.write_str(" }")
    }
}
