//! Sets of ports, as annotations write them: `3306,8000-8010`.

use std::ops::RangeInclusive;

/// Most entries of a list.
const MAX_ENTRIES: usize = 256;

/// A set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Box<[RangeInclusive<u16>]>);

impl PortSet {
    /// Reads a list of ports and ranges, separated by commas.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            if ranges.len() >= MAX_ENTRIES {
                return Err(format!("more than {MAX_ENTRIES} entries"));
            }
            let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
            let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
            let range = port(first).zip(port(last)).filter(|(first, last)| first <= last);
            let (first, last) =
                range.ok_or_else(|| format!("`{entry}` is neither a port nor a range as in 8000-8010"))?;
            ranges.push(first..=last);
        }
        Ok(Self(ranges.into()))
    }

    /// Of single ports.
    #[must_use]
    pub fn of(ports: &[u16]) -> Self {
        Self(ports.iter().map(|port| *port..=*port).collect())
    }

    /// Both together.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// True where the port is in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// How many ports it names, counting repeated ones each time.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// True where no port is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every port in it.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.0.iter().cloned().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_mistakes_named() {
        let set = PortSet::parse(" 80, 8000-8002 ,,443").unwrap();
        assert_eq!(set.ports().collect::<Vec<_>>(), [80, 8000, 8001, 8002, 443]);
        assert_eq!((set.len(), set.contains(8001), set.contains(8003)), (5, true, false));
        assert!(PortSet::parse("").unwrap().is_empty());
        for wrong in ["0", "x", "80-", "90-80", "70000", "1-2-3", "-1"] {
            assert!(PortSet::parse(wrong).unwrap_err().contains(&format!("`{wrong}`")), "{wrong}");
        }
        assert!(PortSet::parse(&"1,".repeat(257)).is_err());
        assert_eq!(set.and(&PortSet::of(&[1])).len(), 6);
    }
}
