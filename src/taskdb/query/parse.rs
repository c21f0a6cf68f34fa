//! From JSON to a query.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use regex::RegexBuilder;
use serde_json::{Map, Value};

use super::glob::Glob;
use super::literal::{Literal, compare_numbers};
use super::{Node, Order, Path, QueryError, Test};
use crate::taskdb::record::{Key, Kind};

/// Levels of brackets that a query may have.
const MAX_DEPTH: usize = 64;

/// The size of a compiled `$regex`, in bytes.
const MAX_REGEX: usize = 1 << 20;

pub(super) fn query(query: &Value, local: &TimeZone) -> Result<Node, QueryError> {
    if !shallow(query, MAX_DEPTH) {
        return Err(QueryError::TooDeep);
    }
    document(query, local)
}

fn shallow(value: &Value, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else {
        return false;
    };
    match value {
        Value::Array(items) => items.iter().all(|item| shallow(item, depth)),
        Value::Object(map) => map.values().all(|item| shallow(item, depth)),
        _ => true,
    }
}

/// `{key: condition, …}`, with `$and`, `$or` and `$not` among the keys.
fn document(query: &Value, local: &TimeZone) -> Result<Node, QueryError> {
    let Value::Object(map) = query else {
        return Err(QueryError::NoObject(kind(query)));
    };
    let nodes = map.iter().map(|(name, condition)| match name.as_str() {
        "$and" => Ok(Node::And(documents("$and", condition, local)?)),
        "$or" => Ok(Node::Or(documents("$or", condition, local)?)),
        "$not" => Ok(not(document(condition, local)?)),
        name if name.starts_with('$') => Err(QueryError::UnknownOperator(name.to_owned())),
        name => field(path(name)?, condition, local),
    });
    Ok(all(nodes.collect::<Result<_, _>>()?))
}

fn documents(
    operator: &'static str,
    list: &Value,
    local: &TimeZone,
) -> Result<Vec<Node>, QueryError> {
    let queries = items(operator, list)?;
    // As with MongoDB: all of nothing would be everything.
    if queries.is_empty() {
        return Err(QueryError::WrongArgument {
            operator,
            wanted: "a list of queries",
            found: "an empty one".into(),
        });
    }
    queries.iter().map(|query| document(query, local)).collect()
}

fn path(name: &str) -> Result<Path, QueryError> {
    let unknown = || QueryError::UnknownKey(name.to_owned());
    let mut steps = name.split('.');
    let key = steps.next().and_then(Key::parse).ok_or_else(unknown)?;
    let steps: Vec<Box<str>> = steps.map(Into::into).collect();
    if steps.len() > MAX_DEPTH {
        return Err(QueryError::TooDeep);
    }
    // Only JSON has an inside.
    if key.kind() != Kind::Json && !steps.is_empty() {
        return Err(unknown());
    }
    Ok(Path { key, steps })
}

fn field(path: Path, condition: &Value, local: &TimeZone) -> Result<Node, QueryError> {
    match condition {
        Value::Object(operators) => tests(&path, operators, local),
        value => Ok(Node::Test(path, Test::Eq(Literal::parse(value, local)))),
    }
}

/// `{operator: argument, …}`
fn tests(path: &Path, map: &Map<String, Value>, local: &TimeZone) -> Result<Node, QueryError> {
    let nodes = map
        .iter()
        .map(|(operator, argument)| test(path, operator, argument, local));
    Ok(all(nodes.collect::<Result<_, _>>()?))
}

fn test(
    path: &Path,
    operator: &str,
    argument: &Value,
    local: &TimeZone,
) -> Result<Node, QueryError> {
    let here = |test| Node::Test(path.clone(), test);
    let literal = || Literal::parse(argument, local);
    let compare = |order| here(Test::Compare(order, literal()));
    let literals = |operator| -> Result<Vec<Literal>, QueryError> {
        let items = items(operator, argument)?.iter();
        Ok(items.map(|item| Literal::parse(item, local)).collect())
    };
    Ok(match operator {
        "$eq" => here(Test::Eq(literal())),
        "$ne" => not(here(Test::Eq(literal()))),
        "$lt" | "$le" => compare(Order::Less),
        "$lte" => compare(Order::LessOrEqual),
        "$gt" | "$ge" => compare(Order::Greater),
        "$gte" => compare(Order::GreaterOrEqual),
        "$in" => here(Test::In(literals("$in")?.into_iter().collect())),
        "$nin" => not(here(Test::In(literals("$nin")?.into_iter().collect()))),
        "$all" => here(Test::All(literals("$all")?)),
        "$mod" => here(modulo(argument)?),
        "$exists" => {
            let exists = here(Test::Exists);
            if truthy(argument) {
                exists
            } else {
                not(exists)
            }
        }
        "$glob" => here(Test::Glob(Glob::new(text("$glob", argument)?))),
        "$regex" => here(regex(text("$regex", argument)?)?),
        "$not" => not(field(path.clone(), argument, local)?),
        unknown => return Err(QueryError::UnknownOperator(unknown.to_owned())),
    })
}

fn modulo(argument: &Value) -> Result<Test, QueryError> {
    let wrong = |found: &Value| QueryError::WrongArgument {
        operator: "$mod",
        wanted: "two numbers",
        found: kind(found).into(),
    };
    let [divisor, remainder] = match items("$mod", argument)?.as_slice() {
        [divisor, remainder] => [divisor, remainder].map(|part| match part {
            Value::Number(number) => Ok(number.clone()),
            other => Err(wrong(other)),
        }),
        [] | [_] => return Err(QueryError::ModTooShort),
        more => {
            return Err(QueryError::WrongArgument {
                operator: "$mod",
                wanted: "two numbers",
                found: format!("{} values", more.len()).into(),
            });
        }
    };
    let (divisor, remainder) = (divisor?, remainder?);
    if compare_numbers(&divisor, &0.into()) == Some(std::cmp::Ordering::Equal) {
        return Err(QueryError::ModByZero);
    }
    Ok(Test::Mod { divisor, remainder })
}

fn regex(pattern: &str) -> Result<Test, QueryError> {
    let regex = RegexBuilder::new(pattern).size_limit(MAX_REGEX).build();
    let regex = regex.map_err(|error| QueryError::BadPattern(error.to_string()))?;
    Ok(Test::Regex(Box::new(regex)))
}

fn items<'a>(operator: &'static str, argument: &'a Value) -> Result<&'a Vec<Value>, QueryError> {
    argument
        .as_array()
        .ok_or_else(|| QueryError::WrongArgument {
            operator,
            wanted: "a list",
            found: kind(argument).into(),
        })
}

fn text<'a>(operator: &'static str, argument: &'a Value) -> Result<&'a str, QueryError> {
    argument.as_str().ok_or_else(|| QueryError::WrongArgument {
        operator,
        wanted: "a text",
        found: Cow::Borrowed(kind(argument)),
    })
}

fn not(node: Node) -> Node {
    match node {
        Node::Not(inner) => *inner,
        node => Node::Not(Box::new(node)),
    }
}

/// A conjunction, its cheap conditions first: a record that another field rules out is not parsed.
fn all(mut nodes: Vec<Node>) -> Node {
    if nodes.len() == 1 {
        return nodes.remove(0);
    }
    nodes.sort_by_key(cost);
    Node::And(nodes)
}

fn cost(node: &Node) -> u32 {
    match node {
        Node::And(nodes) | Node::Or(nodes) => 1 + nodes.iter().map(cost).sum::<u32>(),
        Node::Not(node) => cost(node),
        Node::Test(path, test) => {
            let pattern = matches!(test, Test::Glob(_) | Test::Regex(_));
            let json = path.key.kind() == Kind::Json;
            1 + 10 * u32::from(pattern) + 100 * u32::from(json)
        }
    }
}

/// As Python takes a value for true.
fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
