//! Queries on task records, in the manner of MongoDB: `{"engine_uuid": "…", "submitted": {"$gte": "2024-…"}}`.
//!
//! They mean one thing on every store, which is what [`Query::matches`] says:
//!
//! * Several keys, and several operators on one key, must all hold. `{}` matches everything.
//! * `null` and absent are the same. `$ne`, `$nin` and `$not` are negations: null matches `$ne x`.
//! * `$lt $lte $gt $gte` compare texts, numbers or dates with their like; anything else never matches and is no error.
//!   `$ge` and `$le` are what IPython's oldest documents say: `>` and `<`.
//! * Text of the form `2024-01-31T12:00:00[.ffffff][Z|±hh:mm]` in a query is a date: an instant, in local time where
//!   it has no zone. Text in a record is compared with it if it has that form too. Compared with a date field, any
//!   ISO 8601 date or time will do.
//! * A list holds its elements: an operator that an element satisfies is satisfied by the list. An index or a name
//!   after a dot looks into lists and objects: `metadata.after.0`, `header.msg_type`. A name after a list is that of
//!   each of its objects; one that lacks it is null there.
//! * Booleans are no numbers. Buffers can be null or not, and nothing else.

mod glob;
mod literal;
mod matcher;
mod parse;

use std::borrow::Cow;

use jiff::tz::TimeZone;
use regex::Regex;
use serde_json::{Number, Value};
use thiserror::Error;

use super::record::Key;
use crate::protocol::python::repr;
use crate::protocol::{MsgId, RemoteError};

pub(super) use glob::Glob;
pub(super) use literal::{Literal, LiteralSet};

/// A query that was found right.
#[derive(Clone, Debug)]
pub struct Query {
    root: Node,
    local: TimeZone,
}

/// A condition on a record.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Empty: always true.
    And(Vec<Self>),
    /// Empty: never true.
    Or(Vec<Self>),
    Not(Box<Self>),
    Test(Path, Test),
}

/// A field, or a place within its JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) key: Key,
    pub(super) steps: Vec<Box<str>>,
}

/// A condition on one value; negations are [`Node::Not`].
#[derive(Clone, Debug)]
pub(super) enum Test {
    Eq(Literal),
    Compare(Order, Literal),
    In(LiteralSet),
    All(Vec<Literal>),
    Mod {
        divisor: Number,
        remainder: Number,
    },
    /// Not null.
    Exists,
    Glob(Glob),
    Regex(Box<Regex>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn holds(self, order: std::cmp::Ordering) -> bool {
        match self {
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
        }
    }
}

impl Query {
    /// Reads a query. `local` is the zone of dates that name none.
    pub fn parse(query: &Value, local: &TimeZone) -> Result<Self, QueryError> {
        Ok(Self {
            root: parse::query(query, local)?,
            local: local.clone(),
        })
    }

    pub fn everything() -> Self {
        Self::of(Node::And(Vec::new()))
    }

    /// The records of these requests.
    pub fn msg_ids<'a>(ids: impl IntoIterator<Item = &'a str>) -> Self {
        let ids = ids.into_iter().map(Literal::exact_text).collect();
        Self::of(Node::Test(Path::field(Key::MsgId), Test::In(ids)))
    }

    /// The records whose time of completion is known, or is not.
    pub fn completed(completed: bool) -> Self {
        let exists = Node::Test(Path::field(Key::Completed), Test::Exists);
        Self::of(if completed {
            exists
        } else {
            Node::Not(Box::new(exists))
        })
    }

    /// The records whose text field is that text.
    pub fn text(key: Key, text: &str) -> Self {
        let literal = Literal::exact_text(text);
        Self::of(Node::Test(Path::field(key), Test::Eq(literal)))
    }

    /// What matches both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            root: Node::And(vec![self.root, other.root]),
            local: self.local,
        }
    }

    fn of(root: Node) -> Self {
        Self {
            root,
            local: TimeZone::UTC,
        }
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    /// The only msg_ids that can match, where the query names them: a store looks them up instead of looking at all.
    pub(super) fn named_ids(&self) -> Option<Vec<&str>> {
        self.root.named_ids()
    }

    /// The fields that are looked at.
    pub(super) fn keys(&self) -> super::record::KeySet {
        let mut keys = super::record::KeySet::EMPTY;
        self.root.visit_keys(&mut |key| keys = keys.with(key));
        keys
    }
}

impl Path {
    fn field(key: Key) -> Self {
        Self {
            key,
            steps: Vec::new(),
        }
    }
}

impl Node {
    fn named_ids(&self) -> Option<Vec<&str>> {
        match self {
            Self::And(all) => all.iter().find_map(Self::named_ids),
            Self::Test(path, test) if path.key == Key::MsgId => match test {
                Test::Eq(Literal::Text { text, .. }) => Some(vec![text]),
                Test::In(set) => set.only_texts(),
                _ => None,
            },
            _ => None,
        }
    }

    fn visit_keys(&self, visit: &mut dyn FnMut(Key)) {
        match self {
            Self::And(nodes) | Self::Or(nodes) => {
                nodes.iter().for_each(|node| node.visit_keys(visit));
            }
            Self::Not(node) => node.visit_keys(visit),
            Self::Test(path, _) => visit(path.key),
        }
    }
}

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    #[error("Illegal testing key(s): {{{}}}", repr(.0))]
    UnknownKey(String),
    #[error("Bad record key(s): [{}]", repr(.0))]
    UnknownRecordKey(String),
    #[error("Unsupported operator: {}", repr(.0))]
    UnknownOperator(String),
    /// The query, or a part of it that must be one, is no object.
    #[error("a query is an object, not {0}")]
    NoObject(&'static str),
    #[error("{operator} takes {wanted}, not {found}")]
    WrongArgument {
        operator: &'static str,
        wanted: &'static str,
        found: Cow<'static, str>,
    },
    #[error("$mod takes [divisor, remainder]")]
    ModTooShort,
    #[error("$mod by zero")]
    ModByZero,
    #[error("$regex: {0}")]
    BadPattern(String),
    #[error("the query is nested too deeply")]
    TooDeep,
}

impl QueryError {
    /// The class that the original raises where it raises one.
    pub fn class(&self) -> &'static str {
        match self {
            Self::UnknownKey(_) | Self::UnknownRecordKey(_) | Self::UnknownOperator(_) => {
                "KeyError"
            }
            Self::NoObject(_) => "AttributeError",
            Self::WrongArgument { .. } => "TypeError",
            Self::ModTooShort => "IndexError",
            Self::ModByZero => "ZeroDivisionError",
            Self::BadPattern(_) | Self::TooDeep => "ValueError",
        }
    }

    /// The error as a client receives it.
    pub fn to_remote(&self) -> RemoteError {
        match self.class() {
            "KeyError" => RemoteError::key_error(&self.to_string()),
            class => RemoteError::new(class, self.to_string()),
        }
    }
}

impl From<&MsgId> for Query {
    fn from(msg_id: &MsgId) -> Self {
        Self::msg_ids([msg_id.as_str()])
    }
}

#[cfg(test)]
mod tests;
