//! Queries as MongoDB's own.
//!
//! What the server takes to mean the same goes to it; of the rest it gets a weaker filter, and [`Query::matches`] looks
//! at what that lets through.

use mongodb::bson::{Bson, Document, doc};

use super::{MAX_COMMAND, codec};
use crate::protocol::Timestamp;
use crate::taskdb::query::{Literal, Node, Order, Path, Query, Test};
use crate::taskdb::record::Kind;

pub(super) struct Filter {
    pub(super) document: Document,
    /// Whether it means the same as the query; else it lets through more.
    pub(super) exact: bool,
}

impl Filter {
    pub(super) fn of(query: &Query) -> Self {
        let filter = Self::node(query.root());
        if codec::weight(&filter.document) > MAX_COMMAND {
            // A quarter of a million ids: to look at every record is not much more than to look for each of these.
            return Self::unknown();
        }
        filter
    }

    fn exact(document: Document) -> Self {
        Self {
            document,
            exact: true,
        }
    }

    fn weaker(document: Document) -> Self {
        Self {
            document,
            exact: false,
        }
    }

    fn unknown() -> Self {
        Self::weaker(doc! {})
    }

    fn never() -> Self {
        Self::exact(doc! {"msg_id": {"$in": []}})
    }

    fn node(node: &Node) -> Self {
        match node {
            Node::And(nodes) if nodes.is_empty() => Self::exact(doc! {}),
            Node::Or(nodes) if nodes.is_empty() => Self::never(),
            Node::And(nodes) => Self::join("$and", nodes),
            Node::Or(nodes) => Self::join("$or", nodes),
            Node::Not(node) => {
                let inner = Self::node(node);
                if inner.exact {
                    Self::exact(doc! {"$nor": [inner.document]})
                } else {
                    Self::unknown()
                }
            }
            Node::Test(path, test) => Self::test(path, test),
        }
    }

    fn join(operator: &str, nodes: &[Node]) -> Self {
        let filters: Vec<Self> = nodes.iter().map(Self::node).collect();
        let exact = filters.iter().all(|filter| filter.exact);
        let documents: Vec<Document> = filters.into_iter().map(|filter| filter.document).collect();
        Self {
            document: doc! {operator: documents},
            exact,
        }
    }

    fn test(path: &Path, test: &Test) -> Self {
        let name = path.key.as_str();
        match path.key.kind() {
            Kind::Text => Self::text(name, test),
            Kind::Date => Self::date(name, test),
            Kind::Buffers => match test {
                Test::Exists => Self::exact(doc! {name: {"$ne": null}}),
                Test::Eq(Literal::Null) => Self::exact(doc! {name: null}),
                Test::In(set) if set.has_null() => Self::exact(doc! {name: null}),
                Test::All(_) => Self::unknown(),
                _ => Self::never(),
            },
            Kind::Json => Self::json(path, test),
        }
    }

    fn text(name: &str, test: &Test) -> Self {
        let not_null = || doc! {name: {"$ne": null}};
        match test {
            Test::Exists => Self::exact(not_null()),
            Test::Eq(Literal::Null) => Self::exact(doc! {name: null}),
            Test::Eq(Literal::Text { text, .. }) => Self::exact(doc! {name: {"$eq": &**text}}),
            Test::Compare(order, Literal::Text { text, .. }) => {
                Self::exact(doc! {name: {operator(*order): &**text}})
            }
            Test::In(set) if !set.has_dates() => {
                let null = set.has_null().then_some(Bson::Null);
                let all: Vec<Bson> = set.texts().map(Bson::from).chain(null).collect();
                Self::exact(doc! {name: {"$in": all}})
            }
            Test::Glob(glob) => match glob.prefix() {
                prefix if prefix.is_empty() || prefix.contains('\0') => Self::weaker(not_null()),
                prefix => Self::weaker(doc! {name: {"$gte": prefix}}),
            },
            Test::Eq(Literal::Date(_)) | Test::Compare(_, Literal::Date(_)) | Test::Regex(_) => {
                Self::weaker(not_null())
            }
            Test::In(_) | Test::All(_) => Self::unknown(),
            Test::Eq(_) | Test::Compare(..) | Test::Mod { .. } => Self::never(),
        }
    }

    fn date(name: &str, test: &Test) -> Self {
        match test {
            Test::Exists => Self::exact(doc! {name: {"$ne": null}}),
            Test::Eq(Literal::Null) => Self::exact(doc! {name: null}),
            Test::Eq(literal) => match literal.as_date().filter(|date| is_whole(*date)) {
                Some(date) => Self::exact(doc! {name: codec::date(date)}),
                None => Self::never(),
            },
            Test::Compare(order, literal) => match literal.as_date() {
                Some(date) => Self::exact(doc! {name: {operator(*order): bound(*order, date)}}),
                None => Self::never(),
            },
            Test::In(set) => {
                let dates = set.dates().filter(|date| is_whole(*date));
                let null = set.has_null().then_some(Bson::Null);
                let all: Vec<Bson> = dates.map(codec::date).chain(null).collect();
                Self::exact(doc! {name: {"$in": all}})
            }
            Test::All(_) => Self::unknown(),
            Test::Mod { .. } | Test::Glob(_) | Test::Regex(_) => Self::never(),
        }
    }

    /// Only what the server finds at least where the matcher does.
    fn json(path: &Path, test: &Test) -> Self {
        let key = path.key.as_str();
        let dotted = path
            .steps
            .iter()
            .fold(key.to_owned(), |path, step| path + "." + step);
        // A number is an index or a name, and servers do not agree about lists in lists behind it.
        let odd = |step: &str| {
            step.is_empty()
                || step.starts_with('$')
                || step.contains('\0')
                || step.bytes().all(|byte| byte.is_ascii_digit())
        };
        if path.steps.iter().any(|step| odd(step)) {
            return Self::unknown();
        }
        let found = match test {
            Test::Eq(literal) => scalar(literal).map(|value| doc! {&dotted: {"$eq": value}}),
            Test::Compare(order, literal) => {
                scalar(literal).map(|value| doc! {&dotted: {operator(*order): value}})
            }
            Test::Exists => Some(doc! {key: {"$ne": null}}),
            _ => None,
        };
        match found {
            // JSON that no document can hold is there as bytes.
            Some(found) => Self::weaker(doc! {"$or": [found, {key: {"$type": "binData"}}]}),
            None => Self::unknown(),
        }
    }
}

/// A value of which server and matcher think alike.
fn scalar(literal: &Literal) -> Option<Bson> {
    match literal {
        Literal::Text { text, .. } => Some((&**text).into()),
        Literal::Bool(flag) => Some((*flag).into()),
        // An integer of more than 53 bits is not compared with a fraction.
        Literal::Number(number) => {
            let whole = number.as_i64()?;
            (whole.unsigned_abs() < 1 << 53).then(|| whole.into())
        }
        _ => None,
    }
}

fn is_whole(date: Timestamp) -> bool {
    date.as_micros().rem_euclid(1000) == 0
}

/// A bound in milliseconds that divides whole milliseconds as the exact one does.
fn bound(order: Order, date: Timestamp) -> Bson {
    let up = matches!(order, Order::Less | Order::GreaterOrEqual);
    if up && !is_whole(date) {
        codec::date(Timestamp::from_micros(
            date.as_micros().saturating_add(1000),
        ))
    } else {
        codec::date(date)
    }
}

fn operator(order: Order) -> &'static str {
    match order {
        Order::Less => "$lt",
        Order::LessOrEqual => "$lte",
        Order::Greater => "$gt",
        Order::GreaterOrEqual => "$gte",
    }
}
