//! Amounts of memory and disk as people write them: `512M`, `20G`.

/// Units of memory with their size in bytes.
const UNITS: [(char, u64); 4] = [('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];

/// Bytes of `text`: a whole number and a unit.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().next_back()?;
    let (_, size) = UNITS.iter().find(|(letter, _)| *letter == unit)?;
    let number = text.strip_suffix(unit)?;
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(*size)
}

/// The amount in bgd's form, from other tools' `512m`, `512MB` and `512MiB`, and from plain bytes if at least `least`.
pub(super) fn meant(text: &str, least: u64) -> Option<String> {
    let upper = text.trim().to_uppercase().replace(' ', "");
    let bare = upper.strip_suffix("IB").or_else(|| upper.strip_suffix('B')).unwrap_or(&upper);
    if bytes(bare).is_some() {
        return Some(bare.to_owned());
    }
    let number: u64 = bare.parse().ok()?;
    (number >= least).then(|| format!("{}M", number >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n8_an_amount_as_other_tools_write_it_is_given_as_it_should_be() {
        for (text, expected) in
            [("512m", "512M"), ("512MB", "512M"), ("1 GiB", "1G"), ("536870912", "512M"), ("2g", "2G")]
        {
            assert_eq!(meant(text, 16 << 20).as_deref(), Some(expected), "{text}");
        }
        assert_eq!((meant("much", 16 << 20), meant("512", 16 << 20)), (None, None));
    }

    #[test]
    fn an_amount_is_a_number_and_a_unit() {
        assert_eq!(bytes("512M"), Some(512 << 20));
        assert_eq!(bytes("2G"), Some(2 << 30));
        for bad in [
            "",
            "M",
            "512",
            "1.5G",
            "-1M",
            "+1M",
            "512MB",
            "512 M",
            "99999999999999999999T",
            "9999999999999T",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
