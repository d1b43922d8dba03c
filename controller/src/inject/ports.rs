//! Lists of ports and networks, as annotations and the configuration write them.

use std::{fmt, str::FromStr};

use ipnet::IpNet;

/// Entries of one list at most; as in the redirection itself.
const MAX_ENTRIES: usize = 256;

/// Ports and ranges of ports, in order, none twice: `80,8000-8010`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortList(Vec<(u16, u16)>);

impl PortList {
    /// True where there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True where `port` is among them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    /// These and others.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self::merged(self.0.iter().chain(&other.0).copied().collect())
    }

    fn merged(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }
}

impl FromStr for PortList {
    type Err = String;

    /// Accepts `PORT` and `FIRST-LAST`, separated by commas; blanks around them and an empty text, too.
    fn from_str(text: &str) -> Result<Self, String> {
        let ranges: Result<Vec<_>, _> = entries(text)?.map(range).collect();
        Ok(Self::merged(ranges?))
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let port = |part: &str| digits(part).then(|| part.parse::<u16>().ok()).flatten().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => {
            let text = super::reason::shown(text);
            Err(format!("`{text}` is not PORT or FIRST-LAST, of ports from 1 to 65535"))
        }
    }
}

impl fmt::Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// Networks, in order, none twice: `10.0.0.0/8,fd00::/8`.
///
/// # Errors
/// Which entry is none.
pub(super) fn subnets(text: &str) -> Result<Vec<IpNet>, String> {
    let nets: Result<Vec<IpNet>, String> = entries(text)?
        .map(|entry| {
            let shown = super::reason::shown(entry);
            entry.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| {
                format!("`{shown}` is not a network such as 10.0.0.0/8 or fd00::/8; a single address is 10.1.2.3/32")
            })
        })
        .collect();
    let mut nets = nets?;
    nets.sort_unstable();
    nets.dedup();
    Ok(nets)
}

fn entries(text: &str) -> Result<impl Iterator<Item = &str>, String> {
    let all: Vec<&str> = text.split(',').map(str::trim).collect();
    if all.len() > MAX_ENTRIES {
        return Err(format!("{} entries are more than {MAX_ENTRIES}", all.len()));
    }
    let empty = text.trim().is_empty();
    Ok(all.into_iter().filter(move |_| !empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_one_form() {
        let list: PortList = " 8080, 80,8000-8010,8011 ,80".parse().unwrap();
        assert_eq!(list.to_string(), "80,8000-8011,8080");
        assert!(list.contains(8005) && !list.contains(8012));
        assert_eq!(list.and(&"1-79".parse().unwrap()).to_string(), "1-80,8000-8011,8080");
        assert!("".parse::<PortList>().unwrap().is_empty());
        assert_eq!("65535".parse::<PortList>().unwrap().and(&"65535".parse().unwrap()).to_string(), "65535");
        assert_eq!(subnets("fd00::1/8, 10.1.2.3/8").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_list_is_named() {
        for text in ["0", "80,,81", "80-70", "65536", "+80", "a", "80 81", "80;reboot", "$(HOME)", "80\n81", ","] {
            assert!(text.parse::<PortList>().is_err(), "{text:?}");
        }
        for text in ["10.0.0.0", "10.0.0.0/33", "fd00::/129", "x", "10.0.0.0/8;x"] {
            assert!(subnets(text).is_err(), "{text:?}");
        }
        assert!(vec!["80"; 257].join(",").parse::<PortList>().is_err());
    }
}
