//! What goes to and fro between a launcher and what it starts where no pipes can be handed down: JSON lines on its
//! standard input and output. It ends when its input does. An empty line says only that the launcher is still there.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

/// The first line that it gets.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    /// The content of the engines' connection file; nothing for a controller, which makes it.
    #[serde(default)]
    pub connection: String,
    /// The content of the clients' connection file, for an `ipcluster engines`, which asks the hub.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// Variables for it and what it starts.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Seconds without a line after which the launcher counts as gone; never without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silence: Option<f64>,
}

/// What they are told later, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By its name: systems number them differently. One that the other side does not have is no order for it.
    #[serde(with = "by_name")]
    Signal(Signal),
}

/// A line for the other side.
pub fn line(document: &impl Serialize) -> String {
    let mut line = serde_json::to_string(document).expect("text and numbers are JSON");
    line.push('\n');
    line
}

mod by_name {
    use std::borrow::Cow;

    use nix::sys::signal::Signal;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(signal: &Signal, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(signal.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Signal, D::Error> {
        let name = Cow::<str>::deserialize(from)?;
        name.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_go_by_their_names() {
        let order = Order::Signal(Signal::SIGUSR1);
        assert_eq!(line(&order), "{\"signal\":\"SIGUSR1\"}\n");
        let read = |text: &str| serde_json::from_str::<Order>(text).ok();
        assert_eq!(read(&line(&order)), Some(order));
        // Of a system that is none of ours.
        assert_eq!(read("{\"signal\":\"SIGTHAW\"}"), None);
    }
}
