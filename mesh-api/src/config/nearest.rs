//! The nearest right name to a wrong one.

/// The candidate with the fewest edits to `wrong`, where at most a third of its letters (and one) differ.
pub fn nearest<'a>(wrong: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > 200 {
        return None;
    }
    let best = candidates.map(|candidate| (distance(wrong, candidate), candidate)).min()?;
    (best.0 <= wrong.chars().count() / 3 + 1).then_some(best.1)
}

/// Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (at, from) in left.chars().enumerate() {
        let mut corner = at;
        let mut before = at + 1;
        for (to, cell) in right.iter().zip(row.iter_mut().skip(1)) {
            let next = if from == *to { corner } else { 1 + corner.min(before).min(*cell) };
            corner = *cell;
            *cell = next;
            before = next;
        }
        if let Some(first) = row.first_mut() {
            *first = at + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typing_errors_only() {
        let keys = ["inbound.listen", "outbound.listen", "log.level"];
        assert_eq!(nearest("inbuond.listen", keys.into_iter()), Some("inbound.listen"));
        assert_eq!(nearest("log.levl", keys.into_iter()), Some("log.level"));
        assert_eq!(nearest("colour", keys.into_iter()), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
