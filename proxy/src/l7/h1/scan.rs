//! Byte scanning that everything else stands on: finding line ends, token lists.

/// Position of the first LF. Looks at eight bytes at a time: heads are scanned twice on the hot path.
pub(super) fn find_lf(hay: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    const LFS: u64 = ONES * b'\n' as u64;
    let (words, rest) = hay.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let x = u64::from_le_bytes(*word) ^ LFS;
        let zeros = x.wrapping_sub(ONES) & !x & HIGHS;
        if zeros != 0 {
            return Some(index * 8 + (zeros.trailing_zeros() / 8) as usize);
        }
    }
    let tail = rest.iter().position(|&b| b == b'\n')?;
    Some(words.len() * 8 + tail)
}

/// Removes optional white space (SP, HTAB) at both ends.
pub(super) const fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The non-empty members of a comma-separated list (RFC 9110 §5.6.1.2), trimmed.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim_ows).filter(|item| !item.is_empty())
}

/// A plain decimal number: digits only, no sign, no space, at most 2^63-1 (RFC 9110 §8.6). Leading zeros are
/// dropped by the value; nobody downstream sees them.
pub(super) fn decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() || bytes.len() > 20 {
        return None;
    }
    let mut value: u64 = 0;
    for &b in bytes {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    i64::try_from(value).ok().map(|_| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_line_feed_position() {
        for len in 0..40 {
            for at in 0..len {
                let mut hay = vec![0x0b_u8; len];
                hay[at] = b'\n';
                hay[len - 1] = b'\n';
                assert_eq!(find_lf(&hay), Some(at));
            }
            assert_eq!(find_lf(&vec![0x8a; len]), None);
        }
    }

    #[test]
    fn decimals_are_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"010"), Some(10));
        assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX as u64));
        for bad in
            ["", "+1", "-1", "0x1", "1_0", "1 0", " 1", "9223372036854775808", "18446744073709551616", "1Z", "１"]
        {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(decimal(b"000000000000000000000001"), None);
    }

    #[test]
    fn lists_skip_empty_members() {
        let items: Vec<_> = list(b" a ,, b\t,").collect();
        assert_eq!(items, [b"a", b"b"]);
    }
}
