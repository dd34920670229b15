//! Python literals: what is read, what is refused, and that writing is Python's `repr`.
//!
//! The expected texts of `repr` were printed by Python 3.11. Where a Python is installed, the last test asks it again.

#![allow(clippy::unwrap_used, reason = "a test may panic, also in its helpers")]

use std::io::Write as _;
use std::process::{Command, Stdio};

use barman_snap::ErrorKind;
use barman_snap::model::Literal;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Value, json};

fn parse(text: &str) -> Literal {
    Literal::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn text(value: &str) -> Literal {
    value.into()
}

#[test]
fn scalars_read_as_python_reads_them() {
    for (source, value) in [
        ("None", Literal::None),
        ("True", true.into()),
        (" False\t", false.into()),
        ("0", Literal::Int(0)),
        ("00", Literal::Int(0)),
        ("-7", Literal::Int(-7)),
        ("+ 7", Literal::Int(7)),
        ("1_000_000", Literal::Int(1_000_000)),
        ("16384L", Literal::Int(16384)),
        ("0xFf", Literal::Int(255)),
        ("0o17", Literal::Int(15)),
        ("-0b_1_0", Literal::Int(-2)),
        ("-170141183460469231731687303715884105728", Literal::Int(i128::MIN)),
        ("1.", 1.0.into()),
        ("-.5", (-0.5).into()),
        ("1e16", 1e16.into()),
        ("1_0.0_1E-0_5", 10.01e-5.into()),
        ("1e999", f64::INFINITY.into()),
        ("-inf", f64::NEG_INFINITY.into()),
    ] {
        assert_eq!(parse(source), value, "{source}");
    }
    assert!(matches!(parse("nan"), Literal::Float(number) if number.is_nan()));
    assert!(matches!(parse("-0.0"), Literal::Float(number) if number == 0.0 && number.is_sign_negative()));
}

#[test]
fn strings_read_with_every_quote_and_escape() {
    for (source, value) in [
        (r"''", ""),
        (r#""it's""#, "it's"),
        (r#"'a\'b\"c\\'"#, "a'b\"c\\"),
        (r"'\a\b\f\n\r\t\v'", "\x07\x08\x0C\n\r\t\x0B"),
        (r"'\x41\xe9\u20ac\U0001F600'", "Aé€😀"),
        (r"'\0\60\1011\400'", "\0\x30A1\u{100}"),
        (r"'\d\ '", "\\d\\ "),
        ("'a\\\nb'", "ab"),
        (r"u'x' U'y'", "xy"),
        (r#"'a' "b"'c'"#, "abc"),
        ("'''a'b''c\nd'''", "a'b''c\nd"),
        (r#""""x""""#, "x"),
        ("'é漢😀'", "é漢😀"),
    ] {
        assert_eq!(parse(source), text(value), "{source}");
    }
}

#[test]
fn containers_read_with_trailing_commas_and_line_breaks() {
    let one = Literal::Int(1);
    for (source, value) in [
        ("[]", Literal::List(vec![])),
        ("[1, ]", Literal::List(vec![one.clone()])),
        ("()", Literal::Tuple(vec![])),
        ("( 1,)", Literal::Tuple(vec![one.clone()])),
        ("(1)", one.clone()),
        ("((1))", one.clone()),
        ("('a'\n 'b')", text("ab")),
        ("{}", Literal::Dict(vec![])),
        (
            "{'a' : 1,\n\t'b': [(1,), {}],}",
            Literal::dict([
                ("a", one.clone()),
                ("b", Literal::List(vec![Literal::Tuple(vec![one.clone()]), Literal::Dict(vec![])])),
            ]),
        ),
        (
            "{(1, 'x'): None, None: 1}",
            Literal::Dict(vec![
                (Literal::Tuple(vec![one.clone(), text("x")]), Literal::None),
                (Literal::None, one.clone()),
            ]),
        ),
    ] {
        assert_eq!(parse(source), value, "{source}");
    }
}

#[test]
fn a_key_that_comes_again_keeps_its_place_and_takes_the_later_value() {
    assert_eq!(parse("{'a': 1, 'b': 2, 'a': 3}").to_string(), "{'a': 3, 'b': 2}");
    assert_eq!(parse("{1: 'int', True: 'bool', 1.0: 'float', '1': 's'}").to_string(), "{1: 'float', '1': 's'}");
}

#[test]
fn what_is_no_literal_is_refused_and_says_why() {
    for (source, why) in [
        ("", "the text ends where a value"),
        ("null", "null is JSON"),
        ("[true]", "true is JSON"),
        ("{\"a\": false}", "false is JSON"),
        ("__import__('os')", "unknown name"),
        ("None2", "unknown name"),
        ("b'x'", "this prefix"),
        ("r'x'", "this prefix"),
        ("ub'x'", "this prefix"),
        (r"'\N{DASH}'", "by name"),
        (r"'\ud800'", "not a character"),
        (r"'\U00110000'", "not a character"),
        (r"'\x4'", "2 hex digits"),
        (r"'\u+123'", "4 hex digits"),
        ("'a", "ends inside a string"),
        ("'a\nb'", "a line ends"),
        ("'''a''", "ends inside a string"),
        ("'a\\", "ends inside a string"),
        ("[1 2]", "expected ','"),
        ("[,]", "no value begins with ','"),
        ("[1,,2]", "no value begins with ','"),
        ("[1", "expected ','"),
        ("[1)", "expected ','"),
        ("{1}", "expected ':'"),
        ("{'a': 1 'b': 2}", "expected ','"),
        ("{[]: 1}", "cannot be a key"),
        ("{({},): 1}", "cannot be a key"),
        ("1, 2", "nothing may follow"),
        ("1 + 2", "nothing may follow"),
        ("'a' + 'b'", "nothing may follow"),
        ("1 # comment", "nothing may follow"),
        ("007", "leading zeros"),
        ("1__0", "not a number"),
        ("1_", "not a number"),
        ("0x", "not a number"),
        ("0x__1", "not a number"),
        ("1e", "not a number"),
        ("1e+", "not a number"),
        ("1.2.3", "not a number"),
        ("2j", "not a number"),
        (".", "not a number"),
        ("--1", "not a number"),
        ("-None", "a sign without"),
        ("170141183460469231731687303715884105728", "128 bits"),
        ("<x>", "no value begins with '<'"),
    ] {
        let error = Literal::parse(source).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains(why), "{source}: {error}");
    }
    assert!(Literal::parse("['ok', oops]").unwrap_err().message().ends_with("(byte 7)"));
}

#[test]
fn depth_values_and_length_are_bounded() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    assert!(Literal::parse(&nested(Literal::MAX_DEPTH)).is_ok());
    for open in ["[", "(", "{", "{1:", "{(", "[{'a':("] {
        let error = Literal::parse(&open.repeat(1_000_000)).unwrap_err();
        assert!(error.message().contains("deeper") || error.message().contains("key"), "{open}: {error}");
    }
    assert!(Literal::parse(&nested(Literal::MAX_DEPTH + 1)).unwrap_err().message().contains("deeper"));
    let many = "0,".repeat(Literal::MAX_VALUES);
    assert!(Literal::parse(&format!("[{many}]")).unwrap_err().message().contains("values"));
    let long = " ".repeat(Literal::MAX_BYTES + 1);
    assert!(Literal::parse(&long).unwrap_err().message().contains("longer"));
}

#[test]
fn writing_is_the_repr_of_python() {
    for (value, repr) in [
        (Literal::None, "None"),
        (true.into(), "True"),
        (Literal::Int(-5), "-5"),
        (1.0.into(), "1.0"),
        ((-0.0).into(), "-0.0"),
        (0.1.into(), "0.1"),
        (168.531.into(), "168.531"),
        (1e15.into(), "1000000000000000.0"),
        (9_007_199_254_740_993.0.into(), "9007199254740992.0"),
        (1e16.into(), "1e+16"),
        (1.5e300.into(), "1.5e+300"),
        (0.0001.into(), "0.0001"),
        (0.00001.into(), "1e-05"),
        (1.25e-7.into(), "1.25e-07"),
        (5e-324.into(), "5e-324"),
        (f64::MAX.into(), "1.7976931348623157e+308"),
        (f64::INFINITY.into(), "inf"),
        (text(""), "''"),
        (text("it's"), r#""it's""#),
        (text(r#"say "hi""#), r#"'say "hi"'"#),
        (text(r#"it's "x""#), r#"'it\'s "x"'"#),
        (text("a\\b\n\r\t\0\x1f\x7f"), r"'a\\b\n\r\t\x00\x1f\x7f'"),
        (text("\u{80}\u{a0}\u{ad}éÿ"), r"'\x80\xa0\xadéÿ'"),
        (text("e\u{301}\u{200b}\u{2028}\u{3000}\u{feff}\u{e000}"), "'e\u{301}\\u200b\\u2028\\u3000\\ufeff\\ue000'"),
        (text("😀漢\u{e0001}\u{10ffff}"), "'😀漢\\U000e0001\\U0010ffff'"),
        (parse("(1,)"), "(1,)"),
        (parse("[(), [], {}, (1, 2)]"), "[(), [], {}, (1, 2)]"),
        (parse("{'a':1,None:(True,)}"), "{'a': 1, None: (True,)}"),
    ] {
        assert_eq!(value.to_string(), repr);
    }
    assert_eq!(Literal::Float(f64::NAN).to_string(), "nan");
}

#[test]
fn accessors_find_and_change_members() {
    let mut dict = parse("{'a': 'x', 'n': 3, 'f': 1.5, 'l': [1], 't': (1, 2), 'b': True}");
    assert_eq!(dict.get("a").and_then(Literal::as_str), Some("x"));
    assert_eq!(dict.get("n").and_then(Literal::as_int), Some(3));
    assert_eq!(dict.get("n").and_then(Literal::as_float), Some(3.0));
    assert_eq!(dict.get("b").and_then(Literal::as_bool), Some(true));
    assert_eq!(dict.get("b").and_then(Literal::as_int), None);
    assert_eq!(dict.get("t").and_then(Literal::as_list).map(<[_]>::len), Some(2));
    assert_eq!(dict.get("none"), None);
    dict.insert("a", "y").unwrap();
    dict.insert("z", Some(1_u32)).unwrap();
    assert_eq!(dict.remove("l"), Some(parse("[1]")));
    assert_eq!(dict.to_string(), "{'a': 'y', 'n': 3, 'f': 1.5, 't': (1, 2), 'b': True, 'z': 1}");
    assert!(Literal::None.insert("a", 1_u32).is_err());
    assert_eq!(Literal::None.get("a"), None);
}

#[test]
fn what_no_reader_takes_back_is_not_storable() {
    assert!(parse("{'a': [1.5, (None, 'x')]}").check_storable().is_ok());
    for bad in [parse("[inf]"), parse("{'a': nan}"), Literal::Dict(vec![(Literal::List(vec![]), Literal::None)])] {
        assert_eq!(bad.check_storable().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let deep = |levels| (0..levels).fold(Literal::None, |inner, _| Literal::List(vec![inner]));
    assert!(deep(Literal::MAX_DEPTH).check_storable().is_ok());
    assert_eq!(parse(&deep(Literal::MAX_DEPTH).to_string()), deep(Literal::MAX_DEPTH));
    assert!(deep(Literal::MAX_DEPTH + 1).check_storable().is_err());
}

#[test]
fn json_goes_in_and_out() {
    let value = json!({"b": [1, -2, 18_446_744_073_709_551_615_u64, 1.5, null, true], "a": {"x": "y\n"}});
    let literal = Literal::from(value.clone());
    assert_eq!(literal.to_string(), r"{'b': [1, -2, 18446744073709551615, 1.5, None, True], 'a': {'x': 'y\n'}}");
    assert_eq!(Value::from(&literal), value);
    let python = parse("{1: (1, 2), None: nan, True: 1e400, 2.5: 'x', (1,): 100000000000000000000}");
    let json = json!({"1": [1, 2], "null": null, "2.5": "x", "(1,)": 1e20});
    let Value::Object(mut found) = Value::from(&python) else { panic!("not an object") };
    // True and 1 are one key in Python; the later value wins.
    assert_eq!(found.insert("1".to_owned(), json!([1, 2])), Some(Value::Null));
    assert_eq!(Value::Object(found), json);
}

/// Values that can be stored, with keys that differ for Python and texts of this form.
fn literals(form: &'static str) -> impl Strategy<Value = Literal> {
    let key = prop_oneof![form.prop_map(Literal::Str), any::<i64>().prop_map(Literal::from)];
    let leaf = prop_oneof![
        Just(Literal::None),
        any::<bool>().prop_map(Literal::Bool),
        any::<i128>().prop_map(Literal::Int),
        prop::num::f64::NORMAL.prop_map(Literal::Float),
        prop::num::f64::SUBNORMAL.prop_map(Literal::Float),
        form.prop_map(Literal::Str),
        "[\\\\'\"\\n\\x00-\\x1f\\u{7f}-\\u{ad}\\u{200b}-\\u{202f}]{0,8}".prop_map(Literal::Str),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        let keys = prop::collection::vec((key.clone(), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Literal::List),
            prop::collection::vec(inner, 0..6).prop_map(Literal::Tuple),
            keys.prop_map(|mut entries| {
                let mut seen = std::collections::HashSet::new();
                entries.retain(|(key, _)| seen.insert(key.to_string()));
                Literal::Dict(entries)
            }),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_written_reads_back_the_same(value in literals("(?s).{0,20}")) {
        prop_assert!(value.check_storable().is_ok());
        prop_assert_eq!(parse(&value.to_string()), value);
    }

    #[test]
    fn no_text_makes_the_parser_panic(source in "([\\[({})\\],:'\"\\\\ubxNUL0-9eE+._ -]|None|\\PC){0,40}") {
        if let Ok(value) = Literal::parse(&source) {
            // What was read can be written and read again (NaN is not equal to itself, so compare the texts).
            prop_assert_eq!(parse(&value.to_string()).to_string(), value.to_string());
        }
    }
}

/// Python reads a JSON list of texts, evaluates each as a literal and answers with their `repr`.
const ASK: &str = "import ast, json, sys\n\
    print(json.dumps([repr(ast.literal_eval(text)) for text in json.load(sys.stdin)]))";

/// Characters that every Python knows: one of a later Unicode it would escape. Printable ones, controls, combining marks,
/// spaces, marks of direction, private ones and those beyond 16 bits.
const OLD_CHARACTERS: &str = "[\\x00-\\u{17f}\\u{300}-\\u{33f}\\u{2000}-\\u{2060}\\u{4e00}-\\u{4eff}\\u{e000}-\\u{e01f}\\u{feff}\\u{1f600}-\\u{1f610}\\u{e0020}]{0,20}";

#[test]
fn an_installed_python_agrees() {
    let Ok(mut python) = Command::new("python3").args(["-c", ASK]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()
    else {
        // No Python on this machine: the tables above have its answers.
        return;
    };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let sample = |_| literals(OLD_CHARACTERS).new_tree(&mut runner).unwrap().current().to_string();
    let sources: Vec<String> = (0..300).map(sample).collect();
    let mut input = python.stdin.take().unwrap();
    input.write_all(json!(sources).to_string().as_bytes()).unwrap();
    drop(input);
    let answer = python.wait_with_output().unwrap();
    assert!(answer.status.success());
    let answers: Vec<String> = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(answers.len(), sources.len());
    for (ours, theirs) in sources.iter().zip(&answers) {
        assert_eq!(ours, theirs);
    }
}
