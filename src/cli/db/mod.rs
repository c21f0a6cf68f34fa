//! `ipcluster db query | show | stats | purge`: the task records of a cluster that runs, through its hub, and those of one
//! that has ended, from its database.

mod output;
pub(in crate::cli) mod source;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use serde_json::{Map, Value, json};

use crate::cli::args::{CommonArgs, Rewritten};
use crate::cli::setup::{ProfileMust, set_up};
use crate::cli::{Failure, exit_code};
use crate::profile::traitlets::Program;
use crate::protocol::Timestamp;
use crate::taskdb::record::Kind;
use crate::taskdb::{Key, Query, QueryError};

use output::{Format, Printer};
use source::Source;

#[derive(Args, Clone, Debug)]
pub(super) struct DbArgs {
    #[command(subcommand)]
    verb: DbVerb,
}

#[derive(Subcommand, Clone, Debug)]
enum DbVerb {
    /// Show the records that match a query, such as '{"completed": null}'
    ///
    /// Queries are those of ipyparallel's Client.db_query: JSON in the manner of MongoDB, with $lt $lte $gt $gte $eq $ne
    /// $in $nin $all $mod $exists $glob $regex $and $or $not, and names with dots such as header.msg_type. Dates are
    /// ISO 8601, in local time where they name no zone.
    Query {
        /// The query [default: every record]
        #[arg(value_name = "QUERY", default_value = "{}", hide_default_value = true)]
        query: String,
        /// Fields to show, separated by commas [default: some in a table, else all]
        #[arg(long, value_name = "KEYS", value_delimiter = ',')]
        keys: Vec<String>,
        /// Only the last N that match, in the order in which they were added
        #[arg(long, value_name = "N")]
        last: Option<usize>,
        /// How the records look
        #[arg(short, long = "output-format", value_enum, ignore_case = true, default_value_t = Format::Table)]
        o: Format,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Show everything that is known of one request
    Show {
        /// Its id, or as much of its beginning as no other has
        #[arg(value_name = "MSG_ID")]
        msg_id: String,
        /// How the record looks
        #[arg(short, long = "output-format", value_enum, ignore_case = true, default_value_t = Format::Table)]
        o: Format,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Show how many records there are, and how far storing is behind
    Stats {
        /// How the figures look
        #[arg(short, long = "output-format", value_enum, ignore_case = true, default_value_t = Format::Table)]
        o: Format,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Drop records of finished requests; those of unfinished ones stay
    Purge {
        /// Requests whose records to drop
        #[arg(value_name = "MSG_ID")]
        msg_ids: Vec<String>,
        /// Drop those that match
        #[arg(long, value_name = "QUERY")]
        query: Option<String>,
        /// Drop those that were submitted longer ago, such as 30d, 12h, 90m or 45s
        #[arg(long, value_name = "AGE")]
        older_than: Option<String>,
        /// Drop all
        #[arg(long, conflicts_with_all = ["msg_ids", "query", "older_than"])]
        all: bool,
        /// Only say how many
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
}

/// Where the records are.
#[derive(Args, Clone, Debug)]
pub(super) struct PlaceArgs {
    /// An SQLite file with task records [default: ask the cluster that runs, else the database of the settings]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// The table in the file [default: that of the settings]
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,

    /// Seconds to wait for an answer of the cluster
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    timeout: f64,

    #[command(flatten)]
    common: CommonArgs,
}

/// Records that are asked for at a time, so that neither side has all of them in memory.
const PAGE: usize = 5000;

/// What a table shows unless told otherwise.
const TABLE_KEYS: [&str; 6] = [
    "msg_id",
    "queue",
    "label",
    "submitted",
    "completed",
    "engine_uuid",
];

pub(super) fn run(args: &DbArgs, rewritten: Rewritten) -> Result<(), Failure> {
    match &args.verb {
        DbVerb::Query {
            query,
            keys,
            last,
            o,
            place,
        } => {
            let query = parse_query(query)?;
            let keys = checked_keys(keys, *o)?;
            let mut source = open(place, rewritten)?;
            let ids = source.ids(&query)?;
            let first = last.map_or(0, |last| ids.len().saturating_sub(last));
            let mut printer = Printer::new(*o, keys.clone());
            for page in ids[first..].chunks(PAGE) {
                let records = source.records(page, &keys)?;
                if !say(&printer.page(&records)) {
                    return Ok(());
                }
            }
            say(&printer.end());
            source.close()
        }
        DbVerb::Show { msg_id, o, place } => {
            let mut source = open(place, rewritten)?;
            let msg_id = source.id_that_begins(msg_id)?;
            let records = source.records(std::slice::from_ref(&msg_id), &[])?;
            let Some(record) = records.first() else {
                return Err(Failure::failed(format!(
                    "there is no record of {msg_id:?} in {}",
                    source.name()
                )));
            };
            say(&output::one(record, *o));
            source.close()
        }
        DbVerb::Stats { o, place } => {
            let mut source = open(place, rewritten)?;
            let mut stats = source.ask("db_stats_request", json!({}))?;
            let is_at_fault = !stats["fault"].is_null();
            if !is_at_fault {
                let unfinished = source.ids(&json!({"completed": null}))?.len();
                stats["unfinished"] = json!(unfinished);
            }
            if let Some(stats) = stats.as_object_mut() {
                stats.remove("status");
                if *o == Format::Table {
                    let fault = stats.get_mut("fault").map(Value::take);
                    stats.insert("fault".to_owned(), json!(fault.as_ref().and_then(in_words)));
                }
                say(&output::one(stats, *o));
            }
            match is_at_fault {
                // The cluster has it in its memory, and this has nothing to write.
                true => Ok(()),
                false => source.close(),
            }
        }
        DbVerb::Purge {
            msg_ids,
            query,
            older_than,
            all,
            dry_run,
            place,
        } => {
            let wanted = selection(msg_ids, query.as_deref(), older_than.as_deref(), *all)?;
            let mut source = open(place, rewritten)?;
            purge(&mut source, &wanted, msg_ids, *dry_run)?;
            source.close()
        }
    }
}

fn open(place: &PlaceArgs, rewritten: Rewritten) -> Result<Source, Failure> {
    let setup = set_up(
        Program::Controller,
        "ipcluster",
        &place.common,
        rewritten,
        Vec::new(),
        ProfileMust::Exist,
    );
    // A file that is named needs no profile.
    let setup = match (setup, &place.file) {
        (Ok(setup), _) => Some(setup),
        (Err(_), Some(_)) => None,
        (Err(failure), None) => return Err(failure),
    };
    source::open(
        setup.as_ref(),
        place.file.as_deref(),
        place.table.as_deref(),
        place.timeout,
    )
}

fn parse_query(text: &str) -> Result<Value, Failure> {
    let query = serde_json::from_str(text).map_err(|error| {
        Failure::usage(format!(
            "the query is no JSON ({error}): write it in single quotes, with names and texts in double ones, such as \
             '{{\"engine_uuid\": \"…\", \"completed\": null}}'"
        ))
    })?;
    check_dates(&query)?;
    if let Err(error) = Query::parse(&query, &TimeZone::system()) {
        let fields = match error {
            QueryError::UnknownKey(_) => format!("; records have {}", known_keys()),
            _ => String::new(),
        };
        return Err(Failure::usage(format!(
            "the query cannot be asked: {}: {error}{fields}",
            error.class()
        )));
    }
    Ok(query)
}

/// Refuses to compare a date with text that is none. For a hub that is no error, and is found nowhere.
fn check_dates(query: &Value) -> Result<(), Failure> {
    match query {
        Value::Array(queries) => queries.iter().try_for_each(check_dates),
        Value::Object(fields) => fields.iter().try_for_each(|(name, condition)| {
            let is_date = Key::parse(name).is_some_and(|key| key.kind() == Kind::Date);
            match no_date(condition).filter(|_| is_date) {
                Some(text) => Err(Failure::usage(format!(
                    "{name} is a date, and {text:?} is none: write it as 2024-01-31 or 2024-01-31T12:00:00+01:00"
                ))),
                None if name.starts_with('$') => check_dates(condition),
                None => Ok(()),
            }
        }),
        _ => Ok(()),
    }
}

/// The first text of a condition that cannot be read as a date.
fn no_date(condition: &Value) -> Option<&str> {
    match condition {
        Value::String(text) => match Timestamp::parse(text, &TimeZone::UTC) {
            Some(_) => None,
            None => Some(text),
        },
        Value::Array(items) => items.iter().find_map(no_date),
        Value::Object(operators) => operators.values().find_map(no_date),
        _ => None,
    }
}

/// A fault, and what ends it.
fn in_words(fault: &Value) -> Option<String> {
    Some(format!(
        "{}; {}",
        fault["error"].as_str()?,
        fault["remedy"].as_str()?
    ))
}

/// The keys to be asked for; none for all of them.
fn checked_keys(keys: &[String], format: Format) -> Result<Vec<String>, Failure> {
    if keys.is_empty() {
        return Ok(match format {
            Format::Table => TABLE_KEYS.map(str::to_owned).to_vec(),
            _ => Vec::new(),
        });
    }
    for key in keys {
        match Key::parse(key) {
            None => {
                return Err(Failure::usage(format!(
                    "records have no field {key:?}; they have {}",
                    known_keys()
                )));
            }
            Some(Key::Buffers | Key::ResultBuffers) => {
                return Err(Failure::usage(format!(
                    "{key} holds bytes, which cannot be shown; Python's Client.db_query and get_result hand them over"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(keys.to_vec())
}

fn known_keys() -> String {
    let known: Vec<&str> = Key::ALL.iter().map(|key| key.as_str()).collect();
    known.join(", ")
}

/// The query for what is to be dropped.
fn selection(
    msg_ids: &[String],
    query: Option<&str>,
    older_than: Option<&str>,
    all: bool,
) -> Result<Value, Failure> {
    let mut conditions = Vec::new();
    if !msg_ids.is_empty() {
        conditions.push(json!({"msg_id": {"$in": msg_ids}}));
    }
    if let Some(query) = query {
        conditions.push(parse_query(query)?);
    }
    if let Some(age) = older_than {
        let micros = parse_age(age).ok_or_else(|| {
            Failure::usage(format!(
                "{age:?} is no age: a number with d, h, m or s, such as 30d"
            ))
        })?;
        let now = Timestamp::from(std::time::SystemTime::now()).as_micros();
        let before = Timestamp::from_micros(now.saturating_sub(micros));
        conditions.push(json!({"submitted": {"$lt": before}}));
    }
    if conditions.is_empty() && !all {
        return Err(Failure::usage(
            "say what to drop: ids, --query, --older-than, or --all",
        ));
    }
    conditions.push(json!({"completed": {"$ne": null}}));
    Ok(json!({"$and": conditions}))
}

/// Microseconds.
fn parse_age(text: &str) -> Option<i64> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        'd' => 86_400.0,
        'h' => 3600.0,
        'm' => 60.0,
        's' => 1.0,
        _ => return None,
    };
    let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
    let micros = number * seconds * 1e6;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "microseconds of an age need not be exact, and casts saturate"
    )]
    (micros >= 0.0).then_some(micros as i64)
}

fn purge(
    source: &mut Source,
    wanted: &Value,
    named: &[String],
    dry_run: bool,
) -> Result<(), Failure> {
    let ids = source.ids(wanted)?;
    if !dry_run {
        for page in ids.chunks(PAGE) {
            source.ask("purge_request", json!({"msg_ids": page}))?;
        }
    }
    let would = if dry_run { " would be" } else { "" };
    let records = if ids.len() == 1 { "record" } else { "records" };
    say(&format!("{} {records}{would} dropped\n", ids.len()));
    let left: Vec<&String> = named.iter().filter(|id| !ids.contains(id)).collect();
    match left.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(
            exit_code::FAILED,
            match left.len() {
                1 => format!("{first:?} is not finished, does not match, or has no record"),
                more => format!(
                    "{more} of the requests are not finished, do not match, or have no record: {first:?}, …"
                ),
            },
        )),
    }
}

/// Whether anybody still reads.
fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .is_ok()
}

/// A record, or figures.
type Fields = Map<String, Value>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_units() {
        assert_eq!(parse_age("1s"), Some(1_000_000));
        assert_eq!(parse_age("1.5m"), Some(90_000_000));
        assert_eq!(parse_age("2 d"), Some(172_800_000_000));
        for text in ["", "d", "30", "-1d", "x1h", "1é"] {
            assert_eq!(parse_age(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_is_dropped_unless_it_is_named() {
        assert!(selection(&[], None, None, false).is_err());
        let all = selection(&[], None, None, true).unwrap();
        assert_eq!(all, json!({"$and": [{"completed": {"$ne": null}}]}));
        let some = selection(&["a".to_owned()], Some(r#"{"queue": "mux"}"#), None, false);
        assert_eq!(some.unwrap()["$and"][0], json!({"msg_id": {"$in": ["a"]}}));
    }

    #[test]
    fn what_is_compared_with_a_date_is_one() {
        for query in [
            r#"{"submitted": {"$gt": "2024-01-31"}, "label": {"$gt": "no date"}}"#,
            r#"{"$or": [{"started": null}, {"completed": "2024-01-31T12:00:00+01:00"}]}"#,
            r#"{"submitted": {"$exists": true}}"#,
        ] {
            assert!(parse_query(query).is_ok(), "{query}");
        }
        for query in [
            r#"{"submitted": {"$gt": "yesterday"}}"#,
            r#"{"$not": {"$or": [{"started": {"$in": [null, "2024-13-01"]}}]}}"#,
            r#"{"completed": {"$not": {"$lt": "12:00"}}}"#,
        ] {
            assert!(parse_query(query).is_err(), "{query}");
        }
    }

    #[test]
    fn keys_are_checked_and_old_names_count() {
        assert_eq!(checked_keys(&[], Format::Json).unwrap().len(), 0);
        assert!(checked_keys(&["pyin".to_owned()], Format::Csv).is_ok());
        for key in ["complete", "buffers"] {
            assert!(checked_keys(&[key.to_owned()], Format::Csv).is_err());
        }
    }
}
