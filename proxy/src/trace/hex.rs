//! Lower-case hexadecimal numbers of fixed width.

/// `None` where a byte is no digit; at most 32 digits.
pub(super) fn parse(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0_u128, |sum, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(sum << 4 | u128::from(value))
    })
}

/// A trace id that is not 0.
pub(super) fn trace_id(digits: &[u8]) -> Option<u128> {
    parse(digits).filter(|id| *id != 0)
}

/// A span id that is not 0.
pub(super) fn span_id(digits: &[u8]) -> Option<u64> {
    let id = if digits.len() == 16 { parse(digits) } else { None };
    id.and_then(|id| u64::try_from(id).ok()).filter(|id| *id != 0)
}

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Text under construction, on the stack.
pub(super) struct Text {
    bytes: [u8; 80],
    len: usize,
}

impl Text {
    pub(super) fn new() -> Self {
        Self { bytes: [0; 80], len: 0 }
    }

    pub(super) fn push(&mut self, byte: u8) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
        self
    }

    /// The lowest `digits` digits of `value`, 32 at most.
    pub(super) fn push_hex(&mut self, value: u128, digits: u32) -> &mut Self {
        let Some(place) = self.bytes.get_mut(self.len..self.len + digits as usize) else { return self };
        // From the last byte of the number to its first, two digits each.
        for (two, byte) in place.rchunks_mut(2).zip(value.to_le_bytes()) {
            for (digit, value) in two.iter_mut().rev().zip([byte & 15, byte >> 4]) {
                *digit = DIGITS[usize::from(value)];
            }
        }
        self.len += digits as usize;
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}
