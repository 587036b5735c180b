//! Validity and names of an X.509 certificate (RFC 5280), for messages about clients that refuse it. Does not
//! verify the certificate.

use core::net::{Ipv4Addr, Ipv6Addr};
use std::time::SystemTime;

use super::utc::moment;

/// The most names that are kept.
const MAX_NAMES: usize = 20;
/// 2.5.29.17, the names of the subject.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Tags of DER (X.690).
mod tag {
    pub(super) const OCTETS: u8 = 0x04;
    pub(super) const OBJECT: u8 = 0x06;
    pub(super) const UTC_TIME: u8 = 0x17;
    pub(super) const GENERALIZED_TIME: u8 = 0x18;
    pub(super) const SEQUENCE: u8 = 0x30;
    pub(super) const DNS_NAME: u8 = 0x82;
    pub(super) const IP_ADDRESS: u8 = 0x87;
    pub(super) const VERSION: u8 = 0xa0;
    pub(super) const EXTENSIONS: u8 = 0xa3;
}

/// A certificate, as far as it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Start of the validity.
    pub not_before: SystemTime,
    /// The last second of the validity.
    pub not_after: SystemTime,
    /// The first few DNS names and IP addresses that the certificate is for.
    pub names: Vec<String>,
}

/// Whether a certificate is valid at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Valid,
    NotYet,
    Expired,
}

// === impl Certificate ===

impl Certificate {
    /// Parses a certificate. `None` if it is not one, or if its validity is not in the form that RFC 5280
    /// requires.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Certificate> {
        let (certificate, _) = expect(tag::SEQUENCE, der)?;
        let (signed, _) = expect(tag::SEQUENCE, certificate)?;
        let mut fields = Elements(signed).filter(|(tag, _)| *tag != tag::VERSION);
        // Serial number, algorithm and issuer come first.
        let (tag, validity) = fields.nth(3)?;
        if tag != tag::SEQUENCE {
            return None;
        }
        let mut times = Elements(validity);
        let (not_before, not_after) = (time(times.next()?)?, time(times.next()?)?);
        let names = fields.find(|(tag, _)| *tag == tag::EXTENSIONS).and_then(|(_, list)| names(list));
        Some(Certificate { not_before, not_after, names: names.unwrap_or_default() })
    }

    /// Whether it is valid at `now`.
    #[must_use]
    pub fn validity(&self, now: SystemTime) -> Validity {
        if now < self.not_before {
            Validity::NotYet
        } else if now > self.not_after {
            Validity::Expired
        } else {
            Validity::Valid
        }
    }
}

fn names(extensions: &[u8]) -> Option<Vec<String>> {
    let (list, _) = expect(tag::SEQUENCE, extensions)?;
    let value = Elements(list).find_map(|(_, extension)| {
        let (object, _) = expect(tag::OBJECT, extension)?;
        let value = Elements(extension).find(|(tag, _)| *tag == tag::OCTETS);
        value.map(|(_, value)| value).filter(|_| object == SUBJECT_ALT_NAME)
    })?;
    let (list, _) = expect(tag::SEQUENCE, value)?;
    Some(Elements(list).filter_map(name).take(MAX_NAMES).collect())
}

fn name((tag, value): (u8, &[u8])) -> Option<String> {
    match tag {
        tag::DNS_NAME => {
            Some(value.iter().map(|byte| char::from(*byte)).filter(char::is_ascii_graphic).collect())
        }
        tag::IP_ADDRESS => match (<[u8; 4]>::try_from(value), <[u8; 16]>::try_from(value)) {
            (Ok(address), _) => Some(Ipv4Addr::from(address).to_string()),
            (_, Ok(address)) => Some(Ipv6Addr::from(address).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// RFC 5280, 4.1.2.5: with seconds, in UTC.
fn time((tag, value): (u8, &[u8])) -> Option<SystemTime> {
    let digits = value.strip_suffix(b"Z")?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (pairs, odd) = digits.as_chunks::<2>();
    let mut pairs = pairs.iter().map(|[tens, ones]| u64::from(tens - b'0') * 10 + u64::from(ones - b'0'));
    let year = match (tag, digits.len()) {
        (tag::UTC_TIME, 12) => match pairs.next()? {
            year @ 50.. => 1900 + year,
            year => 2000 + year,
        },
        (tag::GENERALIZED_TIME, 14) => pairs.next()? * 100 + pairs.next()?,
        _ => return None,
    };
    let mut next = || pairs.next().filter(|_| odd.is_empty());
    moment([year, next()?, next()?, next()?, next()?, next()?])
}

/// A sequence of DER elements. Ends at the first bytes that are not an element.
struct Elements<'a>(&'a [u8]);

impl<'a> Iterator for Elements<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, content, rest) = element(self.0)?;
        self.0 = rest;
        Some((tag, content))
    }
}

/// The content of the first element, which must have this tag, and what follows it.
fn expect(wanted: u8, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    element(bytes).filter(|(tag, ..)| *tag == wanted).map(|(_, content, rest)| (content, rest))
}

fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        short @ ..0x80 => (usize::from(*short), rest),
        // No certificate that was read is longer than 4 GiB.
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if digits.is_empty() || digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag];
        match u8::try_from(content.len()) {
            Ok(length @ ..0x80) => out.push(length),
            Ok(length) => out.extend([0x81, length]),
            Err(_) => out.extend([0x82, (content.len() >> 8) as u8, content.len() as u8]),
        }
        out.extend_from_slice(content);
        out
    }

    fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
        der(tag::SEQUENCE, &parts.concat())
    }

    fn certificate(times: [Vec<u8>; 2], extensions: &[Vec<u8>]) -> Vec<u8> {
        let empty = || sequence(&[]);
        let mut signed =
            vec![der(tag::VERSION, &der(2, &[2])), der(2, &[1]), empty(), empty(), sequence(&times)];
        signed.extend([empty(), empty(), der(tag::EXTENSIONS, &sequence(extensions))]);
        sequence(&[sequence(&signed), empty(), der(3, &[0])])
    }

    fn utc(text: &str) -> Vec<u8> {
        der(tag::UTC_TIME, text.as_bytes())
    }

    #[test]
    fn times_and_names_are_read() {
        let names = [
            der(tag::DNS_NAME, b"node.example"),
            der(tag::IP_ADDRESS, &[10, 0, 0, 7]),
            der(0x81, b"mail@example"),
            der(tag::IP_ADDRESS, &[0; 5]),
            der(tag::IP_ADDRESS, &[0; 16]),
            der(tag::DNS_NAME, b"a\x1b[31m"),
        ];
        let extensions = [
            // Another one first, critical.
            sequence(&[
                der(tag::OBJECT, &[0x55, 0x1d, 0x13]),
                der(1, &[0xff]),
                der(tag::OCTETS, &sequence(&[])),
            ]),
            sequence(&[der(tag::OBJECT, SUBJECT_ALT_NAME), der(tag::OCTETS, &sequence(&names))]),
        ];
        let end = der(tag::GENERALIZED_TIME, b"20500101000000Z");
        let found = Certificate::parse(&certificate([utc("261120091523Z"), end], &extensions)).unwrap();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!((found.not_before, found.not_after), (at(1_795_166_123), at(2_524_608_000)));
        assert_eq!(found.names, ["node.example", "10.0.0.7", "::", "a[31m"]);
        for (now, want) in [
            (1_795_166_122, Validity::NotYet),
            (1_795_166_123, Validity::Valid),
            (2_524_608_000, Validity::Valid),
            (2_524_608_001, Validity::Expired),
        ] {
            assert_eq!(found.validity(at(now)), want, "{now}");
        }
    }

    #[test]
    fn a_text_without_a_certificate_has_none() {
        let good = || utc("261120091523Z");
        for bad in ["2611200915Z", "261120091523", "261320091523Z", "26112009152xZ", "261120091523+0100"] {
            assert_eq!(Certificate::parse(&certificate([good(), utc(bad)], &[])), None, "{bad}");
        }
        let whole = certificate([good(), good()], &[]);
        assert!(Certificate::parse(&whole).is_some());
        assert_eq!(Certificate::parse(&whole[..whole.len() - 1]), None);
        assert_eq!(Certificate::parse(&[0x30, 0x80]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic_as_certificate(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            place in 0..60_usize,
        ) {
            let _ = Certificate::parse(&bytes);
            let mut bent = certificate([utc("261120091523Z"), utc("271120091523Z")], &[]);
            for (old, new) in bent.iter_mut().skip(place).zip(bytes) {
                *old = new;
            }
            let _ = Certificate::parse(&bent);
        }
    }
}
