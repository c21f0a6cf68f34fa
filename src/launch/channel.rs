//! What goes to and fro between a launcher and what it starts where no pipes can be handed down: JSON lines on its
//! standard input and output. It ends when its input does. An empty line says only that the launcher is still there.

use std::collections::BTreeMap;

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
    /// By its number on the machine there.
    Signal(i32),
}

/// A line for the other side.
pub fn line(document: &impl Serialize) -> String {
    let mut line = serde_json::to_string(document).expect("text and numbers are JSON");
    line.push('\n');
    line
}
