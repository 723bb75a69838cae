//! What is read, what is refused, and what is written.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn body(text: &str) -> Value {
    let mut documents = read(text).unwrap_or_else(|flaw| panic!("{text:?}: {flaw:?}"));
    assert_eq!(documents.len(), 1, "{text:?}");
    documents.remove(0).body
}

#[test]
fn scalars_are_read_as_the_api_server_reads_them() {
    for (text, expected) in [
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("0644", json!(420)),
        ("0o17", json!(15)),
        ("1_000", json!(1000)),
        ("1e3", json!(1000)),
        ("1.0", json!(1)),
        ("1.10", json!(1.1)),
        ("12:30:45", json!("12:30:45")),
        ("2001-01-01", json!("2001-01-01")),
        ("0x1F", json!(31)),
        ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
        ("!!str 1", json!("1")),
        ("'yes'", json!("yes")),
    ] {
        assert_eq!(body(&format!("a: {text}")), json!({ "a": expected }), "{text}");
    }
}

#[test]
fn documents_know_their_lines_and_empty_ones_are_skipped() {
    let lines = |text| read(text).unwrap().into_iter().map(|document| document.line).collect::<Vec<_>>();
    assert_eq!(lines("# c\n---\n# c\n\na: 1\n---\n---\n# c\n---\n\nb: 1\n...\n---\nc: 1\n---\n"), [5, 11, 14]);
    assert_eq!(lines("--- {a: 1}\n--- [b]\n"), [1, 2]);
    for empty in ["", "\n", "# only this\n", "---\n", "---\n...\n", "---\n# x\n---\n"] {
        assert!(lines(empty).is_empty(), "{empty:?}");
    }
    assert_eq!(body("null"), Value::Null);
    assert_eq!(body("\u{feff}a: b\r\n"), json!({"a": "b"}));
}

#[test]
fn nulls_leave_maps_and_stay_in_lists() {
    assert_eq!(body("a: ~\nb:\nc: [~, 1]\nd: {e: null}\n"), json!({"c": [null, 1], "d": {}}));
}

#[test]
fn merge_keys_are_applied() {
    assert_eq!(body("x: &x {a: 1, b: 1}\nz:\n  <<: *x\n  b: 2\n")["z"], json!({"a": 1, "b": 2}));
}

#[test]
fn what_readers_could_read_differently_is_refused_with_its_place() {
    for (text, line, message) in [
        ("a: 1\nb: 1\na: 2\n", 3, "the key a is said twice"),
        ("x: 1\n---\na: 1\n\n'a': 2\n", 5, "the key a is said twice"),
        ("\n1: x", 2, "a key that is read as 1, not as text"),
        ("on: x", 1, "a key that is read as true, not as text"),
        ("~: x", 1, "a key that is read as null, not as text"),
        ("{a: 1}: x", 1, "a map as the key of a map"),
        ("a: !!binary aGk=", 1, "refused: the tag !!binary"),
        ("a: !!python/object:os.system x", 1, "refused: the tag"),
        ("a: !mine b", 1, "refused: the tag !mine"),
        ("%YAML 1.1\n---\na: b", 1, "directives"),
        ("a: .inf", 1, "a number that JSON cannot hold"),
        ("a: 1e400", 1, "a number that JSON cannot hold"),
        ("a: *nobody", 1, "anchor"),
        ("a: &a [*a]", 1, "an alias within what it stands for"),
        ("x: &x 1\n---\ny: *x", 3, "anchor"),
        ("ad\u{200b}min: 1", 1, "an invisible character in the key"),
        ("a: b\0c", 1, "a NUL character"),
        ("a:\n  b:\n c: d", 3, "not YAML"),
    ] {
        let flaw = read(text).unwrap_err();
        assert!(flaw.message.contains(message) && flaw.line == line, "{text:?}: {flaw:?}");
    }
}

#[test]
fn aliases_cannot_blow_up() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(read(&laughs).unwrap_err().message.contains("aliases"));
    let quadratic = format!("big: &big {:?}\nl: [{}]\n", "x".repeat(100_000), vec!["*big"; 10_000].join(", "));
    assert!(read(&quadratic).unwrap_err().message.contains("aliases"));
    let mut deep = "a0: &a0 [x]\n".to_owned();
    for level in 1..100 {
        deep.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(read(&deep).unwrap_err().message.contains("within each other"));
}

#[test]
fn depth_has_a_limit() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(limits::MAX_YAML_DEPTH)).is_ok());
    for depth in [limits::MAX_YAML_DEPTH + 1, 100_000] {
        let flaw = read(&nested(depth)).unwrap_err();
        assert!(flaw.message.contains("within each other"), "{flaw:?}");
    }
    let indented: String = (0..100_000).map(|depth| format!("{}a:\n", " ".repeat(depth.min(300)))).collect();
    assert!(read(&indented).is_err());
    assert!(read(&"- ".repeat(100_000)).is_err());
}

#[test]
fn nodes_have_a_limit() {
    // The list itself is a node too.
    let list = |items: usize| "- 1\n".repeat(items);
    assert!(read(&list(limits::MAX_YAML_NODES - 1)).is_ok());
    assert!(read(&list(limits::MAX_YAML_NODES)).is_err());
}

#[test]
fn fields_have_places() {
    let scan = scan("a: 1\n---\nb:\n  - c\n  - d: {e: f}\n").unwrap();
    assert_eq!(scan.place_of(1, &["b", "1", "d", "e"]), Some((5, 9)));
    assert_eq!(scan.place_of(1, &["b", "7"]), Some((3, 1)));
    assert_eq!(scan.place_of(2, &["b"]), None);
}

#[test]
fn what_is_written_cannot_be_read_as_something_else() {
    let value = json!({"a": "yes", "b": "0644", "c": "1.10", "d": "12:30", "e": "null", "f": "# x", "g": "a: b"});
    let text = write(&value);
    assert_eq!(body(&text), value);
    assert!(text.contains("a: \"yes\"") || text.contains("a: 'yes'"), "{text}");
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[a-z0-9:#\\- \n\t'\"{}\\[\\],&*!|>%@~.]{0,90}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-z0-9:#\\- \n'~]{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_back(value in value()) {
        prop_assert_eq!(body(&write(&json!({ "x": &value }))), json!({ "x": value }));
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-c:\\-\\[\\]{}&*!|>'\"#%\n ,~<.0-1]{0,60}") {
        let _ = read(&text);
    }
}
