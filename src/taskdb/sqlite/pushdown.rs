//! Queries as SQL.
//!
//! What SQL says with the same meaning is left to it; of the rest it gets a weaker condition, and [`Query::matches`]
//! looks at what that lets through. Every condition is 0 or 1, never NULL, so that it can be negated.

use rusqlite::types::Value as SqlValue;

use crate::taskdb::query::{Literal, LiteralSet, Node, Order, Path, Query, Test};
use crate::taskdb::record::{Key, Kind};

/// A `WHERE` clause.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) sql: String,
    pub(super) params: Vec<SqlValue>,
    /// Whether it means the same as the query; else it lets through more.
    pub(super) exact: bool,
    /// Whether an index helps.
    indexed: bool,
    /// How deep SQLite's tree of it is at most.
    depth: usize,
}

/// SQLite takes no deeper trees than 1,000, and makes one of a long list of conditions.
const MAX_DEPTH: usize = 500;

impl Condition {
    pub(super) fn of(query: &Query) -> Self {
        Self::node(query.root())
    }

    /// The condition, so written that its rows come by `id` and an index is used all the same: left alone, SQLite
    /// would rather look at every row than sort what it finds.
    pub(super) fn ordered(&self, records: &str) -> String {
        if self.indexed {
            format!("id IN (SELECT id FROM {records} WHERE {})", self.sql)
        } else {
            self.sql.clone()
        }
    }

    fn exact(sql: impl Into<String>, params: Vec<SqlValue>) -> Self {
        Self {
            sql: sql.into(),
            params,
            exact: true,
            indexed: false,
            depth: 5,
        }
    }

    fn weaker(sql: impl Into<String>, params: Vec<SqlValue>) -> Self {
        Self {
            exact: false,
            ..Self::exact(sql, params)
        }
    }

    /// Nothing is said in SQL.
    fn unknown() -> Self {
        Self::weaker("1", Vec::new())
    }

    fn never() -> Self {
        Self::exact("0", Vec::new())
    }

    fn node(node: &Node) -> Self {
        match node {
            Node::And(nodes) => Self::join(nodes, " AND ", "1"),
            Node::Or(nodes) => Self::join(nodes, " OR ", "0"),
            Node::Not(node) => {
                // Said so, the partial index of what is unfinished fits.
                if let Node::Test(path, Test::Exists) = &**node {
                    return Self::test(path, &Test::Eq(Literal::Null));
                }
                let inner = Self::node(node);
                if inner.exact {
                    Self {
                        indexed: false,
                        sql: format!("(NOT {})", inner.sql),
                        depth: inner.depth + 1,
                        ..inner
                    }
                } else {
                    Self::unknown()
                }
            }
            Node::Test(path, test) => Self::test(path, test),
        }
    }

    fn join(nodes: &[Node], operator: &str, empty: &str) -> Self {
        if nodes.is_empty() {
            return Self::exact(empty, Vec::new());
        }
        let conditions: Vec<Self> = nodes.iter().map(Self::node).collect();
        let exact = conditions.iter().all(|condition| condition.exact);
        let depths = conditions.iter().map(|condition| condition.depth);
        let depth = depths.max().unwrap_or_default() + conditions.len();
        if depth > MAX_DEPTH {
            return Self::unknown();
        }
        let indexed = if operator == " AND " {
            conditions.iter().any(|condition| condition.indexed)
        } else {
            conditions.iter().all(|condition| condition.indexed)
        };
        let (sql, params): (Vec<_>, Vec<_>) = conditions
            .into_iter()
            .map(|condition| (condition.sql, condition.params))
            .unzip();
        Self {
            sql: format!("({})", sql.join(operator)),
            params: params.concat(),
            exact,
            indexed,
            depth,
        }
    }

    fn test(path: &Path, test: &Test) -> Self {
        let column = path.key.as_str();
        match path.key.kind() {
            Kind::Text => Self {
                indexed: has_index(path.key, test),
                ..Self::text(path.key, test)
            },
            Kind::Date => Self {
                indexed: has_index(path.key, test),
                ..Self::date(column, test)
            },
            Kind::Buffers => Self::buffers(path.key, test),
            Kind::Json => match test {
                // JSON's own null, or what is no JSON, is null too.
                Test::Exists
                | Test::Compare(..)
                | Test::Glob(_)
                | Test::Regex(_)
                | Test::Mod { .. } => Self::weaker(format!("({column} IS NOT NULL)"), Vec::new()),
                Test::Eq(literal) if *literal != Literal::Null => {
                    Self::weaker(format!("({column} IS NOT NULL)"), Vec::new())
                }
                _ => Self::unknown(),
            },
        }
    }

    fn text(key: Key, test: &Test) -> Self {
        let column = key.as_str();
        let not_null = || format!("({column} IS NOT NULL)");
        match test {
            Test::Exists => Self::exact(not_null(), Vec::new()),
            Test::Eq(Literal::Null) => Self::exact(format!("({column} IS NULL)"), Vec::new()),
            Test::Eq(Literal::Text { text, .. }) => {
                Self::exact(format!("({column} IS ?)"), vec![text_value(text)])
            }
            Test::Compare(order, Literal::Text { text, .. }) => Self::exact(
                format!("({column} IS NOT NULL AND {column} {} ?)", operator(*order)),
                vec![text_value(text)],
            ),
            // Text that is a date in disguise.
            Test::Eq(Literal::Date(_)) | Test::Compare(_, Literal::Date(_)) | Test::Regex(_) => {
                Self::weaker(not_null(), Vec::new())
            }
            Test::In(set) => Self::text_in(column, set),
            Test::Glob(glob) => Self::prefix(column, &glob.prefix()),
            Test::All(_) => Self::unknown(),
            Test::Eq(_) | Test::Compare(..) | Test::Mod { .. } => Self::never(),
        }
    }

    fn text_in(column: &str, set: &LiteralSet) -> Self {
        let texts: Vec<&str> = set.texts().collect();
        // SQLite's JSON ends a text at a NUL.
        if texts.iter().any(|text| text.contains('\0')) {
            return Self::unknown();
        }
        if set.has_dates() {
            return if set.has_null() {
                Self::unknown()
            } else {
                Self::weaker(format!("({column} IS NOT NULL)"), Vec::new())
            };
        }
        let list = serde_json::Value::from(texts).to_string();
        Self::list(column, list, set.has_null())
    }

    /// The column's value is in a JSON list: one parameter, however long it is.
    fn list(column: &str, list: String, or_null: bool) -> Self {
        let null = if or_null {
            format!("{column} IS NULL OR")
        } else {
            format!("{column} IS NOT NULL AND")
        };
        Self::exact(
            format!("({null} {column} IN (SELECT value FROM json_each(?)))"),
            vec![SqlValue::Text(list)],
        )
    }

    /// Texts that begin so, by the order of the index.
    fn prefix(column: &str, prefix: &str) -> Self {
        let mut terms = vec![format!("{column} IS NOT NULL")];
        let mut params = Vec::new();
        if !prefix.is_empty() {
            terms.push(format!("{column} >= ?"));
            params.push(text_value(prefix));
            if let Some(after) = after_prefix(prefix) {
                terms.push(format!("{column} < ?"));
                params.push(SqlValue::Text(after));
            }
        }
        let sql = format!("({})", terms.join(" AND "));
        Self::weaker(sql, params)
    }

    fn date(column: &str, test: &Test) -> Self {
        match test {
            Test::Exists => Self::exact(format!("({column} IS NOT NULL)"), Vec::new()),
            Test::Eq(Literal::Null) => Self::exact(format!("({column} IS NULL)"), Vec::new()),
            Test::Eq(literal) => match literal.as_date() {
                Some(date) => Self::exact(
                    format!("({column} IS ?)"),
                    vec![SqlValue::Integer(date.as_micros())],
                ),
                None => Self::never(),
            },
            Test::Compare(order, literal) => match literal.as_date() {
                Some(date) => Self::exact(
                    format!("({column} IS NOT NULL AND {column} {} ?)", operator(*order)),
                    vec![SqlValue::Integer(date.as_micros())],
                ),
                None => Self::never(),
            },
            Test::In(set) => {
                let micros: Vec<i64> = set.dates().map(|date| date.as_micros()).collect();
                let list = serde_json::Value::from(micros).to_string();
                Self::list(column, list, set.has_null())
            }
            Test::All(_) => Self::unknown(),
            // They are for texts and numbers.
            Test::Mod { .. } | Test::Glob(_) | Test::Regex(_) => Self::never(),
        }
    }

    fn buffers(key: Key, test: &Test) -> Self {
        let lens = super::codec::lens_column(key);
        let null = || Self::exact(format!("({lens} IS NULL)"), Vec::new());
        match test {
            Test::Exists => Self::exact(format!("({lens} IS NOT NULL)"), Vec::new()),
            Test::Eq(Literal::Null) => null(),
            Test::In(set) if set.has_null() => null(),
            Test::All(_) => Self::unknown(),
            _ => Self::never(),
        }
    }
}

/// Whether the schema has an index for it.
fn has_index(key: Key, test: &Test) -> bool {
    match key {
        Key::MsgId | Key::Submitted | Key::EngineUuid => !matches!(test, Test::Exists),
        Key::Label => match test {
            Test::Glob(glob) => !glob.prefix().is_empty(),
            test => !matches!(test, Test::Exists | Test::Eq(Literal::Null)),
        },
        Key::Completed => matches!(test, Test::Eq(Literal::Null)),
        _ => false,
    }
}

fn operator(order: Order) -> &'static str {
    match order {
        Order::Less => "<",
        Order::LessOrEqual => "<=",
        Order::Greater => ">",
        Order::GreaterOrEqual => ">=",
    }
}

fn text_value(text: &str) -> SqlValue {
    SqlValue::Text(text.to_owned())
}

/// The first text, by code points, that comes after all that begin with `prefix`.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}
