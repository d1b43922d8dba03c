//! The known name that somebody probably meant.

/// The candidate nearest to `text`, where one is near enough to be a typing error.
pub(super) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if text.len() > 64 {
        return None;
    }
    let lower = text.to_lowercase();
    let ranked = candidates.into_iter().map(|name| (distance(&lower, &name.to_lowercase()), name));
    let (distance, name) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + text.len().max(name.len()) / 4).then_some(name)
}

/// How many letters must be added, removed or replaced (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, a) in one.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (b, cell) in other.iter().zip(row.iter_mut().skip(1)) {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_only() {
        let fields = ["targetRefs", "selector", "action", "rules"];
        assert_eq!(nearest("targetRef", fields), Some("targetRefs"));
        assert_eq!(nearest("rulez", fields), Some("rules"));
        assert_eq!(nearest("Action", fields), Some("action"));
        assert_eq!(nearest("selectors", fields), Some("selector"));
        assert_eq!(nearest("something", fields), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
