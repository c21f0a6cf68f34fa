use super::*;

use proptest::prelude::*;

/// A text, and the `repr` of what Python 3.11's `ast.literal_eval` makes of it.
const CASES: &[(&str, Option<&str>)] = &[
    ("None", Some("None")),
    ("True", Some("True")),
    ("False", Some("False")),
    ("true", None),
    ("0", Some("0")),
    ("00", Some("0")),
    ("012", None),
    ("1_000", Some("1000")),
    ("1__0", None),
    ("_1", None),
    ("1_", None),
    ("-5", Some("-5")),
    ("+5", Some("5")),
    ("- 5", Some("-5")),
    ("--5", None),
    ("0x1F", Some("31")),
    ("0X_ff", Some("255")),
    ("0o17", Some("15")),
    ("0b101", Some("5")),
    ("0b2", None),
    ("0x", None),
    ("1.", Some("1.0")),
    (".5", Some("0.5")),
    (".", None),
    ("1e5", Some("100000.0")),
    ("1E-3", Some("0.001")),
    ("1_0.5_0e1_0", Some("105000000000.0")),
    ("1e", None),
    ("1.5.2", None),
    ("1j", None),
    ("9223372036854775807", Some("9223372036854775807")),
    ("1e400", Some("inf")),
    ("'a'", Some("'a'")),
    ("\"a\"", Some("'a'")),
    ("'a\"b'", Some("'a\"b'")),
    ("'it\\'s'", Some("\"it's\"")),
    ("'a' \"b\" 'c'", Some("'abc'")),
    ("'a' b'c'", None),
    ("b'a' b\"b\"", Some("b'ab'")),
    ("b'\\xff\\101'", Some("b'\\xffA'")),
    ("b'é'", None),
    ("'é'", Some("'é'")),
    (
        "'\\x41\\u0042\\U00000043\\103\\n\\t\\q'",
        Some("'ABCC\\n\\t\\\\q'"),
    ),
    ("'\\u12'", None),
    ("r'\\n\\''", Some("\"\\\\n\\\\'\"")),
    ("R\"a\\b\"", Some("'a\\\\b'")),
    ("rb'\\n'", Some("b'\\\\n'")),
    ("Rb'\\x'", Some("b'\\\\x'")),
    ("u'x'", Some("'x'")),
    ("ur'x'", None),
    ("f'x'", None),
    ("'abc", None),
    ("\"\"\"a\nb\"\"\"", Some("'a\\nb'")),
    ("'''it's'''", Some("\"it's\"")),
    ("'a\\\nb'", Some("'ab'")),
    ("[]", Some("[]")),
    ("[1, 2,]", Some("[1, 2]")),
    ("[1 2]", None),
    ("[,]", None),
    ("[1,,2]", None),
    ("()", Some("()")),
    ("(1)", Some("1")),
    ("(1,)", Some("(1,)")),
    ("(1, 'a')", Some("(1, 'a')")),
    ("1, 2", Some("(1, 2)")),
    ("1,", Some("(1,)")),
    ("{}", Some("{}")),
    ("{1: 2, 'a': [3]}", Some("{1: 2, 'a': [3]}")),
    ("{'a': 1, 'a': 2}", Some("{'a': 2}")),
    ("{1, 2}", Some("{1, 2}")),
    ("{1}", Some("{1}")),
    ("{1: 2, 3}", None),
    ("{,}", None),
    ("[1, # one\n 2]", Some("[1, 2]")),
    ("  7", Some("7")),
    ("7 # seven", Some("7")),
    ("7 8", None),
    ("foo", None),
    ("foo()", None),
    ("1 + 2", None),
    ("1024**3", None),
    ("{'a': (1, None)}", Some("{'a': (1, None)}")),
    ("[[[]]]", Some("[[[]]]")),
    ("b''", Some("b''")),
    ("''", Some("''")),
    ("\"\"\"\"\"\"", Some("''")),
    ("'a\\", None),
    ("True1", None),
    ("1if", None),
    ("Nonesuch", None),
    ("[1", None),
];

#[test]
fn literals_are_what_python_says() {
    for (text, expected) in CASES {
        let found = Literal::parse(text).ok().map(|value| value.to_string());
        assert_eq!(found.as_deref(), *expected, "{text}");
    }
}

#[test]
fn limits_are_errors() {
    for text in [
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "'\\ud800'",
        "'\\N{BULLET}'",
    ] {
        assert!(Literal::parse(text).is_err(), "{text}");
    }
    assert_eq!(
        Literal::parse("-9223372036854775808"),
        Ok(Literal::Int(i64::MIN))
    );
    let deep = "[".repeat(100_000);
    assert_eq!(
        Literal::parse(&deep).unwrap_err().what,
        "it is nested too deeply"
    );
}

#[test]
fn json_takes_what_it_can_say() {
    let json = |text: &str| Literal::parse(text).unwrap().to_json();
    assert_eq!(
        json("{'a': (1, None, True), 'b': b'key'}"),
        Some(serde_json::json!({"a": [1, null, true], "b": "key"}))
    );
    for text in ["{1: 2}", "1e400", r"b'\xff'"] {
        assert_eq!(json(text), None, "{text}");
    }
    let value = serde_json::json!({"a": [1, 2.5, "x", null, false]});
    assert_eq!(Literal::from_json(&value).to_json(), Some(value));
}

/// Any literal that can be written down and read again.
fn literals() -> impl Strategy<Value = Literal> {
    let leaf = prop_oneof![
        Just(Literal::None),
        any::<bool>().prop_map(Literal::Bool),
        any::<i64>().prop_map(Literal::Int),
        "\\PC{0,8}".prop_map(Literal::Str),
        any::<Vec<u8>>().prop_map(Literal::Bytes),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let items = proptest::collection::vec(inner, 0..4);
        prop_oneof![
            items.clone().prop_map(Literal::List),
            items.prop_map(Literal::Tuple),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(literal in literals()) {
        prop_assert_eq!(Literal::parse(&literal.to_string()), Ok(literal));
    }

    #[test]
    fn no_text_makes_it_panic(text in "[\\[\\](){}'\"\\\\,:#rbuxNe0-9._+\\-\n\ré ]{0,24}", any in "\\PC*") {
        let _ = Literal::parse(&text);
        let _ = Literal::parse(&any);
    }
}
