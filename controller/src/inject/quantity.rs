//! Kubernetes' quantities (`250m`, `1.5Gi`, `1e3`), as far as they are compared.

/// Thousandths of the unit, rounded up as Kubernetes does; `None` where the text is no quantity, or less than none.
/// Grammar: `apimachinery`'s resource.Quantity.
pub(super) fn thousandths(text: &str) -> Option<u128> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = (text.get(..end)?, text.get(end..)?);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    // Longer ones are no sizes of this world, and would not fit.
    if part.contains('.') || whole.len() + part.len() == 0 || whole.len() + part.len() > 18 {
        return None;
    }
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let (factor, divisor) = scale(suffix)?;
    let divisor = divisor.checked_mul(10u128.checked_pow(u32::try_from(part.len()).ok()?)?)?;
    Some(digits.checked_mul(factor)?.checked_mul(1000)?.div_ceil(divisor))
}

fn scale(suffix: &str) -> Option<(u128, u128)> {
    let binary = |power: u32| Some((1024u128.pow(power), 1));
    let decimal = |power: u32| Some((1000u128.pow(power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => decimal(1),
        "M" => decimal(2),
        "G" => decimal(3),
        "T" => decimal(4),
        "P" => decimal(5),
        "E" => decimal(6),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(u128, u128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let size = 10u128.checked_pow(power.unsigned_abs()).filter(|_| power.abs() <= 18)?;
    Some(if power < 0 { (1, size) } else { (size, 1) })
}

#[cfg(test)]
mod tests {
    use super::thousandths;

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        let cases = [
            ("1", 1000),
            ("0", 0),
            ("100m", 100),
            (".5", 500),
            ("1.", 1000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("1E-1", 100),
            ("1n", 1),
            ("2E", 2_000_000_000_000_000_000_000),
            ("+3k", 3_000_000),
        ];
        for (text, wanted) in cases {
            assert_eq!(thousandths(text), Some(wanted), "{text}");
        }
        for text in ["", "-1", "x", "1 Gi", "1gi", "1.2.3", "m", ".", "1e", "1e99", "99999999999999999999", "1Ki;"] {
            assert_eq!(thousandths(text), None, "{text}");
        }
    }
}
