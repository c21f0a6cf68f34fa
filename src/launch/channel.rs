//! What goes to and fro between a launcher and engines that are started where no pipes can be handed down: JSON lines on
//! their standard input and output. Engines end when their input does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first line that the engines get.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The content of the engines' connection file.
    pub connection: String,
    /// Variables for the engines and their kernels.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

/// What they are told later, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// By its number on the engines' machine.
    Signal(i32),
}

/// A line for the other side.
pub fn line(document: &impl Serialize) -> String {
    let mut line = serde_json::to_string(document).expect("text and numbers are JSON");
    line.push('\n');
    line
}
