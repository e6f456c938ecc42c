//! `Range` requests.

use std::ops::Range;

/// What part of a file a request wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// All of it: nothing else was asked for, or not in a form that is understood.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Only bytes that are not there (416).
    Unsatisfiable,
}

impl Wanted {
    /// What `header`, the value of `Range`, asks of a file of `size` bytes. Several ranges at once
    /// are answered with the whole file, which is allowed and costs no more than it.
    pub fn of(header: Option<&str>, size: u64) -> Self {
        let Some(ranges) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
            return Self::Whole;
        };
        let Some((first, last)) = ranges.split_once('-') else { return Self::Whole };
        if ranges.contains(',') {
            return Self::Whole;
        }
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // A number too large for this is past every end.
            digits.then(|| text.parse().unwrap_or(u64::MAX))
        };
        match (number(first.trim()), number(last.trim())) {
            (Some(first), _) if last.trim().is_empty() => Self::within(first, u64::MAX, size),
            (Some(first), Some(last)) if first <= last => {
                Self::within(first, last.saturating_add(1), size)
            }
            (None, Some(0)) if first.trim().is_empty() => Self::Unsatisfiable,
            (None, Some(length)) if first.trim().is_empty() => {
                Self::within(size.saturating_sub(length), u64::MAX, size)
            }
            _ => Self::Whole,
        }
    }

    fn within(start: u64, end: u64, size: u64) -> Self {
        if start < size { Self::Part(start..end.min(size)) } else { Self::Unsatisfiable }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (header, wanted) in [
            ("bytes=0-0", Wanted::Part(0..1)),
            ("bytes=0-", Wanted::Part(0..100)),
            ("bytes=10-19", Wanted::Part(10..20)),
            ("bytes=90-500", Wanted::Part(90..100)),
            ("bytes=-5", Wanted::Part(95..100)),
            ("bytes=-500", Wanted::Part(0..100)),
            ("bytes=100-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=99999999999999999999-", Wanted::Unsatisfiable),
            ("bytes=20-10", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=--5", Wanted::Whole),
            ("lines=0-5", Wanted::Whole),
        ] {
            assert_eq!(Wanted::of(Some(header), 100), wanted, "{header}");
        }
        assert_eq!(Wanted::of(None, 100), Wanted::Whole);
        assert_eq!(Wanted::of(Some("bytes=0-"), 0), Wanted::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_past_the_end(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size: u64) {
            if let Wanted::Part(range) = Wanted::of(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
