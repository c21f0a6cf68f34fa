//! Lists of ports, as ipyparallel's `PortList` takes them: `10101-10105,10108`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Ports, in the order in which they are to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(pub Vec<u16>);

#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no list of ports: write them as 10101-10105,10108, each from 1 to 65535")]
pub struct PortError(String);

impl FromStr for Ports {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let wrong = || PortError(text.to_owned());
        let port = |text: &str| -> Result<u16, PortError> {
            let port: u16 = text.trim().parse().map_err(|_| wrong())?;
            if port == 0 { Err(wrong()) } else { Ok(port) }
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut ports = Vec::new();
        for range in text.split(',') {
            match range.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (port(first)?, port(last)?);
                    if first > last {
                        return Err(wrong());
                    }
                    ports.extend(first..=last);
                }
                None => ports.push(port(range)?),
            }
        }
        Ok(Self(ports))
    }
}

/// With ranges, as they are read.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ports = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = ports.next() {
            let mut last = first;
            while let Some(next) = ports.next_if(|next| last.checked_add(1) == Some(*next)) {
                last = next;
            }
            write!(f, "{comma}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "ports must be a text such as 10101-10105, or a list of numbers"
        )]
        enum Spelling {
            One(u16),
            Many(Vec<Item>),
            Text(String),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Item {
            Port(u16),
            Text(String),
        }
        let text = match Spelling::deserialize(deserializer)? {
            Spelling::One(port) => port.to_string(),
            Spelling::Text(text) => text,
            Spelling::Many(items) => items
                .into_iter()
                .map(|item| match item {
                    Item::Port(port) => port.to_string(),
                    Item::Text(text) => text,
                })
                .collect::<Vec<_>>()
                .join(","),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_ipyparallel_reads_them() {
        for (text, expected) in [
            ("1,3-5,6", vec![1, 3, 4, 5, 6]),
            ("10101", vec![10101]),
            (" 7 , 9 - 10", vec![7, 9, 10]),
            ("", vec![]),
            ("5-5", vec![5]),
        ] {
            assert_eq!(text.parse(), Ok(Ports(expected)), "{text}");
        }
        for text in ["a", "0", "65536", "5-3", "1-", "-1", "1,,2", "1-2-3"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_texts_and_lists_are_ports() {
        for json in ["\"1,3-5\"", "[1, 3, 4, 5]", "[\"1\", \"3-5\"]"] {
            let ports: Ports = serde_json::from_str(json).unwrap();
            assert_eq!(ports.to_string(), "1,3-5", "{json}");
        }
        assert_eq!(serde_json::from_str::<Ports>("9").unwrap(), Ports(vec![9]));
        for json in ["70000", "[0]", "{}", "null", "1.5"] {
            assert!(serde_json::from_str::<Ports>(json).is_err(), "{json}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(ports in proptest::collection::vec(1u16.., 0..20)) {
            let ports = Ports(ports);
            prop_assert_eq!(ports.to_string().parse(), Ok(ports));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9,\\- ]{0,12}") {
            let _ = text.parse::<Ports>();
        }
    }
}
