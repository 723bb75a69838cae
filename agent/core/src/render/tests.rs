//! Golden cases: each folder of `testdata` is a deploy repository as plain files, an environment, and what it renders
//! to, or the problems it has. `UPDATE_EXPECT=1 cargo test render` rewrites what is expected.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::*;
use crate::lane::LaneRule;
use crate::revision::BlobId;
use crate::tree::{File, TreeBuilder};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render/testdata")
}

fn facts() -> Facts {
    Facts {
        cluster: "lab".into(),
        branch: "r1.2".into(),
        commit: CommitId::from_bytes([0xc0; 20]),
        pins: Pins::new(),
        libraries: Libraries::new(),
    }
}

fn environment(path: &str, values: Value) -> Environment {
    let Value::Object(values) = values else { panic!("values are a map") };
    Environment {
        name: "test".parse().unwrap(),
        home: "shop".into(),
        uid: "u".into(),
        generation: 1,
        repository_home: "shop".into(),
        repository: "shop".into(),
        lane: LaneRule::NewestRelease,
        path: path.into(),
        namespace: "shop-test".into(),
        values,
        ..crate::environment::sample()
    }
}

fn blob(bytes: &[u8]) -> File {
    let mut id = [0; 20];
    id.copy_from_slice(&Sha256::digest(bytes)[..20]);
    File { id: BlobId::from_bytes(id), bytes: bytes.into() }
}

fn tree(files: &[(&str, &str)]) -> Tree {
    let mut builder = TreeBuilder::default();
    for (path, text) in files {
        builder.file((*path).to_owned(), blob(text.as_bytes())).unwrap();
    }
    builder.build()
}

/// Every file of a folder.
fn files_of(root: &Path) -> TreeBuilder {
    let mut builder = TreeBuilder::default();
    let mut open = vec![root.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
                continue;
            }
            let path = entry.path().strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            builder.file(path, blob(&fs::read(entry.path()).unwrap())).unwrap();
        }
    }
    builder
}

/// Renders one case: `environment.yaml` has `path`, `values`, `submodules` with their commits, and `libraries`: folders of
/// submodules with the folder of the case in which their files are.
fn case(folder: &Path) -> Result<Rendered, Problems> {
    let mut builder = files_of(&folder.join("repo"));
    let said = fs::read_to_string(folder.join("environment.yaml")).unwrap_or_default();
    let said = yaml::read(&said).unwrap().pop().map_or_else(|| json!({}), |document| document.body);
    for (path, commit) in said["submodules"].as_object().into_iter().flatten() {
        builder.submodule(path.clone(), commit.as_str().unwrap().parse().unwrap()).unwrap();
    }
    let path = said["path"].as_str().unwrap_or("environments/test");
    let values = said.get("values").cloned().unwrap_or_else(|| json!({}));
    let tree = builder.build();
    let environment = environment(path, values);
    let files = |(path, below): (&String, &Value)| {
        (path.clone(), Ok(Arc::new(files_of(&folder.join(below.as_str().unwrap())).build())))
    };
    let libraries = said["libraries"].as_object().into_iter().flatten().map(files).collect();
    let facts = Facts { libraries, ..facts() };
    let mut cache = RenderCache::default();
    let result = render(&tree, &environment, &facts, Some(&mut cache));
    let again = render(&tree, &environment, &facts, Some(&mut cache));
    assert_eq!(result, again, "the cache changes nothing");
    result
}

fn check(name: &str) {
    let folder = testdata().join(name);
    assert!(folder.is_dir(), "{} is missing", folder.display());
    match case(&folder) {
        Ok(rendered) => {
            let mut text: String =
                rendered.warnings().iter().map(|warning| format!("# Warning: {warning}\n")).collect();
            text.push_str(&yaml::print(&rendered.manifests()));
            expect_file![folder.join("expected.yaml")].assert_eq(&text);
            assert!(!folder.join("expected-problems.txt").exists(), "{name} was expected to fail");
        }
        Err(problems) => {
            expect_file![folder.join("expected-problems.txt")].assert_eq(&format!("{problems}\n"));
            assert!(!folder.join("expected.yaml").exists(), "{name} was expected to render");
        }
    }
}

macro_rules! cases {
    ($($test:ident = $name:literal,)*) => {
        $(#[test] fn $test() { check($name) })*

        #[test]
        fn every_case_is_claimed() {
            let claimed = BTreeSet::from([$($name.to_owned()),*]);
            let there: BTreeSet<String> = fs::read_dir(testdata())
                .unwrap()
                .map(Result::unwrap)
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.file_name().into_string().unwrap())
                .collect();
            assert_eq!(claimed, there);
        }
    };
}

cases! {
    a_library_does_not_replace_own_partials = "a-library-does-not-replace-own-partials",
    a_library_is_a_submodule_with_known_files = "a-library-is-a-submodule-with-known-files",
    a_library_shares_partials = "a-library-shares-partials",
    what_is_wrong_in_a_library_is_named_there = "what-is-wrong-in-a-library-is-named-there",
    a_library_must_be_a_submodule = "a-library-must-be-a-submodule",
    a_missing_folder_is_an_error = "a-missing-folder-is-an-error",
    a_null_value_is_missing = "a-null-value-is-missing",
    a_plain_folder = "a-plain-folder",
    a_plain_folder_without_templates = "a-plain-folder-without-templates",
    a_secret_never_shows_its_values = "a-secret-never-shows-its-values",
    a_submodule_is_no_folder = "a-submodule-is-no-folder",
    a_template_says_its_kind = "a-template-says-its-kind",
    a_tour_of_the_helpers = "a-tour-of-the-helpers",
    a_whole_repository = "a-whole-repository",
    an_environment_has_its_own_folder = "an-environment-has-its-own-folder",
    braces_that_are_meant = "braces-that-are-meant",
    conditions_may_leave_nothing = "conditions-may-leave-nothing",
    config_maps_have_keys_and_names = "config-maps-have-keys-and-names",
    configuration_becomes_config_maps = "configuration-becomes-config-maps",
    configuration_has_a_form = "configuration-has-a-form",
    helpers_are_a_closed_list = "helpers-are-a-closed-list",
    helpers_say_what_is_wrong = "helpers-say-what-is-wrong",
    kustomize_and_helm_are_refused = "kustomize-and-helm-are-refused",
    lists_are_taken_apart = "lists-are-taken-apart",
    missing_variables_are_all_named = "missing-variables-are-all-named",
    objects_are_held_to_a_form = "objects-are-held-to-a-form",
    objects_take_the_form_that_comes_back = "objects-take-the-form-that-comes-back",
    partials_are_called_by_name = "partials-are-called-by-name",
    partials_must_be_there = "partials-must-be-there",
    partials_nest_and_are_indented = "partials-nest-and-are-indented",
    partials_without_end_are_refused = "partials-without-end-are-refused",
    required_values_must_be_there = "required-values-must-be-there",
    revision_is_volatile = "revision-is-volatile",
    scalars_that_readers_disagree_about = "scalars-that-readers-disagree-about",
    templates_must_be_readable = "templates-must-be-readable",
    the_repository_speaks_for_itself = "the-repository-speaks-for-itself",
    the_root_as_a_plain_folder = "the-root-as-a-plain-folder",
    to_yaml_finds_its_column = "to-yaml-finds-its-column",
    values_come_in_layers = "values-come-in-layers",
    values_must_be_readable = "values-must-be-readable",
    values_that_leave_their_scalar = "values-that-leave-their-scalar",
    values_that_stay_in_their_scalar = "values-that-stay-in-their-scalar",
    yaml_errors_name_the_template = "yaml-errors-name-the-template",
}

/// Values with every shape that a template can meet.
fn sample() -> Value {
    json!({
        "name": "web", "n": 3, "zero": 0, "yes": true, "no": false, "empty": "", "text": "a <b> & \"c\"",
        "list": ["x", "y", "z"], "none": [], "map": {"k": "v", "l": {"m": 1}}, "items": [{"name": "one"}, {"name": "two"}]
    })
}

/// What handlebars' own engine makes of a template.
fn engine(source: &str, partials: &[(&str, &str)]) -> Result<String, String> {
    let mut engine = handlebars::Handlebars::new();
    engine.set_strict_mode(true);
    engine.register_escape_fn(handlebars::no_escape);
    for (name, source) in partials {
        engine.register_template_string(name, *source).map_err(|error| error.to_string())?;
    }
    engine.render_template(source, &sample()).map_err(|error| error.to_string())
}

/// What the walk makes of it.
fn walked(source: &str, partials: &[(&str, &str)]) -> Result<String, Vec<Problem>> {
    let template = template::compile("t", source)?;
    let partials: Partials = partials
        .iter()
        .map(|(name, source)| Ok(((*name).to_owned(), Arc::new(template::compile(name, source)?))))
        .collect::<Result<_, Vec<Problem>>>()?;
    walk::render(&template, &partials, &sample()).map(|text| text.text)
}

const PARTIALS: [(&str, &str); 3] = [
    ("p", "one: {{name}}\ntwo: {{n}}\n"),
    ("q", "{{#each list}}\n- {{this}}\n{{/each}}\n"),
    ("r", "a\n  {{> p}}\nb\n"),
];

/// Not among these: a partial that stands behind other text. The engine indents its further lines by the blanks before
/// the tag; here, as in handlebars.js, only a partial alone on its line is indented, and within another indented
/// partial by both.
#[test]
fn the_walk_writes_what_handlebars_would_write() {
    for source in [
        "plain\n",
        "a {{name}} b {{{text}}} {{&text}}\n",
        "{{map.k}} {{map/l/m}} {{map.[k]}} {{list.[1]}} {{list.2}} {{@root.name}} {{this.name}} {{./name}}",
        "{{#if yes}}\nA\n{{else}}\nB\n{{/if}}\n",
        "  {{#if no}}\n  A\n  {{else if zero}}\n  B\n  {{else if n}}\n  C\n  {{else}}\n  D\n  {{/if}}\nend",
        "{{#unless empty}}x{{/unless}}{{#if zero includeZero=true}}z{{/if}}{{#if list}}l{{/if}}{{#if none}}n{{/if}}",
        "{{#each list}}{{@index}}{{@first}}{{@last}}={{this}};{{/each}}",
        "{{#each map}}{{@key}},{{@index}};{{/each}}",
        "{{#each items as |item index|}}\n{{index}}: {{item.name}} {{name}} {{../name}} {{@root.n}}\n{{/each}}\n",
        "{{#each items}}{{#each ../list}}{{@../index}}{{@index}}{{../name}}{{../../n}}{{/each}}{{/each}}",
        "{{#each none}}x{{else}}nothing{{/each}} {{#each nope}}x{{else}}nothing{{/each}}",
        "{{#with map.l}}{{m}}{{../n}}{{/with}}{{#with map.k as |v|}}{{v}}{{/with}}{{#with no}}x{{else}}y{{/with}}",
        "{{#if (eq n 3)}}three{{/if}} {{#if (and yes n)}}and{{/if}} {{#if (or no zero)}}or{{else}}nor{{/if}} {{not yes}}",
        "{{eq n 3}} {{ne n 3}} {{gt n 2}} {{lt n 2}} {{gte n 3}} {{lte n 2}} {{len list}} {{lookup map \"k\"}}",
        "{{#eq n 3}}same{{else}}other{{/eq}}",
        "x\n{{> p}}\ny\n  {{> p}}\nz",
        "{{#if yes}}\n    {{> q}}\n{{/if}}\nend\n",
        "{{> p name=\"arg\"}}{{> p map name=1 n=2}}{{#each items}}{{> p n=@index}}{{/each}}",
        "a\n\n  {{> p}}\n\nb\n",
        "{{~name~}}   x   {{~#if yes~}}  y  {{~/if~}}  z",
        "{{! comment }}\n{{!-- long {{name}} comment --}}\na{{! inline }}b\n",
        "\\{{name}} \\\\{{name}} {{{{raw}}}}{{name}} {{{{/raw}}}}",
        "a\r\n{{#if yes}}\r\nb\r\n{{/if}}\r\nc\r\n",
        "{{lookup list 1}}",
        "{{#each items}}\n  - {{name}}\n    {{> p n=1}}\n{{/each}}",
        "{{#if yes}}{{#if no}}a{{else}}b{{/if}}{{/if}}\n\n\n{{name}}\n   {{#if yes}}   \n  x\n {{/if}} \n",
    ] {
        let theirs = engine(source, &PARTIALS).unwrap_or_else(|error| panic!("{source:?}: {error}"));
        let ours = walked(source, &PARTIALS).unwrap_or_else(|problems| panic!("{source:?}: {problems:?}"));
        assert_eq!(ours, theirs, "{source:?}");
    }
}

mod chance {
    use proptest::prelude::*;

    use super::*;

    /// Templates of a few lines whose blocks are closed.
    fn template() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("{{name}}".to_owned()),
            Just("{{@root.n}}".to_owned()),
            Just("x: y".to_owned()),
            Just("\n".to_owned()),
            Just("\n\n".to_owned()),
            Just("{{! c }}".to_owned()),
            Just("\n  {{> p}}\n".to_owned()),
            Just("\n{{> p}}".to_owned()),
        ];
        piece.prop_recursive(4, 40, 6, |inner| {
            let body = proptest::collection::vec(inner, 0..6).prop_map(|pieces| pieces.concat());
            prop_oneof![
                body.clone(),
                body.clone().prop_map(|body| format!("{{{{#if @root.yes}}}}{body}{{{{else}}}}no{{{{/if}}}}")),
                body.clone().prop_map(|body| format!(
                    "\n  {{{{#if @root.no}}}}\n  no\n  {{{{else}}}}\n{body}\n  {{{{/if}}}}\n"
                )),
                body.clone().prop_map(|body| format!("\n{{{{#each @root.items}}}}\n{body}\n{{{{/each}}}}\n")),
                body.prop_map(|body| format!("{{{{#with @root.map}}}}{body}{{{{/with}}}}")),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_walk_and_the_engine_agree(source in template()) {
            let theirs = engine(&source, &PARTIALS);
            let ours = walked(&source, &PARTIALS);
            if let (Ok(theirs), Ok(ours)) = (&theirs, &ours) {
                prop_assert_eq!(ours, theirs);
            }
            prop_assert_eq!(theirs.is_ok(), ours.is_ok(), "{:?} {:?}", theirs, ours);
        }

        #[test]
        fn no_template_makes_it_panic(source in "(\\{\\{|\\}\\}|[#/>!~^&*@(){}\\[\\]\"'=|. \n]|if|else|each|with|raw|name|list|p|quote|toYaml|a: |- ){0,40}") {
            if let Ok(template) = template::compile("t", &source)
                && let Ok(text) = walk::render(&template, &Partials::new(), &sample())
            {
                scalars::check(&text, yaml::scan(&text.text).as_ref());
            }
        }

        #[test]
        fn no_value_gets_out_of_its_scalar(value in "[a-c:#\\-\\[\\]{}&*!|>'\"%@` \n,?=~]{0,12}", place in 0..6usize) {
            let frames = [
                "a: {{v}}\nb: c\n",
                "a: {k: {{v}}, l: m}\n",
                "- {{v}}\n- d\n",
                "a: \"{{v}}\"\n",
                "a: |\n  x {{v}}\nb: c\n",
                "a: x{{v}}y\nb:\n  - c\n",
            ];
            let template = template::compile("t", frames[place]).unwrap();
            let context = json!({ "v": value });
            let text = walk::render(&template, &Partials::new(), &context).unwrap();
            if scalars::check(&text, yaml::scan(&text.text).as_ref()).is_empty() && let Ok(documents) = yaml::read(&text.text) {
                let safe = json!({ "v": "word" });
                let safe = walk::render(&template, &Partials::new(), &safe).unwrap();
                let expected: Vec<_> = yaml::read(&safe.text).unwrap().iter().map(|one| shape(&one.body)).collect();
                let actual: Vec<_> = documents.iter().map(|one| shape(&one.body)).collect();
                prop_assert_eq!(actual, expected, "{:?}", text.text);
            }
        }
    }

    fn shape(value: &Value) -> String {
        match value {
            Value::Object(map) => format!(
                "{{{}}}",
                map.iter().map(|(key, value)| format!("{key}:{}", shape(value))).collect::<Vec<_>>().join(",")
            ),
            Value::Array(items) => format!("[{}]", items.iter().map(shape).collect::<Vec<_>>().join(",")),
            Value::Null => "~".to_owned(),
            _ => ".".to_owned(),
        }
    }
}

/// The problems of a template, in short.
fn said(source: &str, partials: &[(&str, &str)], context: &Value) -> String {
    let compile = |name: &str, source: &str| template::compile(name, source);
    let compiled: Result<Partials, Vec<Problem>> =
        partials.iter().map(|(name, source)| Ok(((*name).to_owned(), Arc::new(compile(name, source)?)))).collect();
    let result = compiled.and_then(|partials| {
        let template = compile("t", source)?;
        walk::render(&template, &partials, context).map(|_| ())
    });
    match result {
        Ok(()) => "fine".to_owned(),
        Err(problems) => problems.last().unwrap().message.clone(),
    }
}

#[test]
fn steps_have_a_limit_also_where_nothing_is_written() {
    // A round of the outer loop takes 1 step, the inner loop 1, and each of its rounds 1.
    let inner = vec![0; 998];
    let outer = |rounds: usize| json!({ "outer": vec![0; rounds], "inner": inner });
    let source = "{{#each outer}}{{#each @root.inner}}{{/each}}{{/each}}";
    let rounds = usize::try_from(limits::MAX_TEMPLATE_STEPS).unwrap() / 1000;
    assert_eq!(said(source, &[], &outer(rounds - 1)), "fine");
    assert!(said(source, &[], &outer(rounds)).contains("steps"));
    let five = "{{#each l}}{{#each @root.l}}{{#each @root.l}}{{#each @root.l}}{{#each @root.l}}{{/each}}{{/each}}{{/each}}{{/each}}{{/each}}";
    assert!(said(five, &[], &json!({ "l": vec![0; 1000] })).contains("steps"));
}

#[test]
fn partials_that_double_are_counted_too() {
    let names: Vec<String> = (0..31).map(|number| format!("p{number}")).collect();
    let sources: Vec<String> = (0..31).map(|number| format!("{{{{> p{0}}}}}{{{{> p{0}}}}}", number + 1)).collect();
    let mut partials: Vec<(&str, &str)> =
        names.iter().zip(&sources).map(|(name, source)| (name.as_str(), source.as_str())).collect();
    partials.push(("p31", ""));
    assert!(said("{{> p0}}", &partials, &json!({})).contains("steps"));
}

#[test]
fn helpers_that_copy_are_counted_by_what_they_copy() {
    let context = json!({ "big": vec!["x"; 10_000], "l": vec![0; 1000], "long": "x".repeat(1 << 20) });
    for call in ["(eq @root.big @root.big)", "(lookup @root.big @root.long)", "(len @root.long)"] {
        let source = format!("{{{{#each l}}}}{{{{#if {call}}}}}{{{{/if}}}}{{{{/each}}}}");
        assert!(said(&source, &[], &context).contains("steps"), "{call}");
    }
    let source = "{{#each l}}{{#if (len (list @root.big @root.big))}}{{/if}}{{/each}}";
    assert!(said(source, &[], &context).contains("steps"));
    assert_eq!(said("{{#each l}}{{#if (len @root.big)}}{{/if}}{{/each}}", &[], &context), "fine");
    let text = "x".repeat(1 << 20);
    let doubled = said("{{replace \"x\" t t}}", &[], &json!({ "t": text }));
    assert!(doubled.contains("bytes"), "{doubled}");
}

#[test]
fn output_has_a_limit() {
    let text = "x".repeat(64 << 10);
    let rounds = limits::MAX_TEMPLATE_OUTPUT_BYTES / text.len();
    let source = format!("{{{{#each l}}}}{text}{{{{/each}}}}");
    assert_eq!(said(&source, &[], &json!({ "l": vec![0; rounds] })), "fine");
    assert!(said(&source, &[], &json!({ "l": vec![0; rounds + 1] })).contains("bytes"));
    let kept = "{{#if (eq 1 (len (include \"p\")))}}{{/if}}";
    assert!(said(kept, &[("p", &source)], &json!({ "l": vec![0; rounds + 1] })).contains("bytes"));
}

#[test]
fn inserted_values_have_a_limit() {
    let source = "{{#each l}}{{@root.e}}{{/each}}";
    let context = |rounds: usize| json!({ "l": vec![0; rounds], "e": "" });
    assert_eq!(said(source, &[], &context(limits::MAX_TEMPLATE_INSERTS)), "fine");
    assert!(said(source, &[], &context(limits::MAX_TEMPLATE_INSERTS + 1)).contains("inserts more than"));
}

#[test]
fn partials_and_blocks_within_each_other_have_limits() {
    let chain = |length: usize, wrap: &str, close: &str| -> Vec<(String, String)> {
        (0..length)
            .map(|number| {
                let next = if number + 1 == length { String::new() } else { format!("{{{{> p{}}}}}", number + 1) };
                (format!("p{number}"), format!("{wrap}{next}{close}"))
            })
            .collect()
    };
    let render = |source: &str, chain: &[(String, String)]| {
        let partials: Vec<(&str, &str)> = chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        said(source, &partials, &json!({ "yes": true }))
    };
    assert_eq!(render("{{> p0}}", &chain(limits::MAX_PARTIAL_DEPTH, "", "")), "fine");
    assert!(render("{{> p0}}", &chain(limits::MAX_PARTIAL_DEPTH + 1, "", "")).contains("partials within partials"));
    // Each of these goes four deep.
    let steep = chain(limits::MAX_RENDER_DEPTH / 4, &"{{#if yes}}".repeat(3), &"{{/if}}".repeat(3));
    assert_eq!(render("{{> p0}}", &steep), "fine");
    assert!(render("{{#if yes}}{{> p0}}{{/if}}", &steep).contains("blocks and partials"));
}

#[test]
fn the_source_of_a_template_has_limits() {
    let check = |source: String, problem: Option<&str>| {
        let found = said(&source, &[], &json!({}));
        match problem {
            None => assert_eq!(found, "fine"),
            Some(problem) => assert!(found.contains(problem), "{found}"),
        }
    };
    check("x".repeat(limits::MAX_TEMPLATE_BYTES), None);
    check("x".repeat(limits::MAX_TEMPLATE_BYTES + 1), Some("bytes"));
    let blocks = |depth: usize| format!("{}{}", "{{#if x}}".repeat(depth), "{{/if}}".repeat(depth));
    check(blocks(limits::MAX_BLOCK_DEPTH), None);
    check(blocks(limits::MAX_BLOCK_DEPTH + 1), Some("blocks within blocks"));
    check(blocks(5000), Some("blocks within blocks"));
    let chain = |length: usize| format!("{{{{#if x}}}}{}{{{{/if}}}}", "{{else if x}}".repeat(length));
    check(chain(limits::MAX_BLOCK_DEPTH - 1), None);
    check(chain(limits::MAX_BLOCK_DEPTH), Some("blocks within blocks"));
    let calls = |depth: usize| format!("{{{{upper {}\"x\"{}}}}}", "(upper ".repeat(depth), ")".repeat(depth));
    check(calls(limits::MAX_CALL_DEPTH), None);
    check(calls(limits::MAX_CALL_DEPTH + 1), Some("calls within calls"));
    check(format!("{{{{eq {}{} 1}}}}", "[".repeat(50_000), "]".repeat(50_000)), Some("calls within calls"));
    // What looks like the end of a block and is a comment, text or quoted does not let more of them in.
    for hidden in [
        "{{! {{/if}} }}",
        "{{!-- {{/if}} --}}",
        "{{! -- {{/if}} --}}",
        "\\{{/if}}",
        "{{upper \"{{/if}}\"}}",
        "{{{{raw}}}}{{/if}}{{{{/raw}}}}",
    ] {
        let source = format!("{}{}", format!("{{{{#if x}}}}{hidden}").repeat(3000), "{{/if}}".repeat(3000));
        assert_ne!(said(&source, &[], &json!({})), "fine", "{hidden}");
    }
    let tags = |count: usize| {
        let text = "{{! c }}".repeat(count);
        format!("{text}{}", "x".repeat(limits::MAX_TEMPLATE_BYTES - text.len()))
    };
    check(tags(limits::MAX_TEMPLATE_WORK / limits::MAX_TEMPLATE_BYTES + 1), Some("tags"));
}

#[test]
fn missing_variables_are_named_up_to_a_limit() {
    let source = |count: usize| (0..count).map(|number| format!("{{{{v{number}}}}}\n")).collect::<String>();
    let found = |count: usize| walked(&source(count), &[]).unwrap_err();
    assert_eq!(found(limits::MAX_MISSING_VARIABLES).len(), limits::MAX_MISSING_VARIABLES);
    let more = found(limits::MAX_MISSING_VARIABLES + 9);
    assert_eq!(more.len(), limits::MAX_MISSING_VARIABLES + 1);
    assert!(more.last().unwrap().message.contains("more than 50 missing variables"));
}

#[test]
fn objects_have_limits_in_size_and_number() {
    let object = |bytes: usize| {
        let frame = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"a":""}}"#;
        format!("{}{}\"}}}}\n", &frame[..frame.len() - 3], "x".repeat(bytes - frame.len()))
    };
    let render =
        |text: &str| render(&tree(&[("deploy/a.yaml", text)]), &environment("deploy", json!({})), &facts(), None);
    assert!(render(&object(limits::MAX_OBJECT_BYTES)).is_ok());
    assert!(render(&object(limits::MAX_OBJECT_BYTES + 1)).is_err());
    let many = |count: usize| "--- {apiVersion: v1, kind: A, metadata: {name: a}}\n".repeat(count);
    assert_eq!(render(&many(limits::MAX_OBJECTS)).unwrap().manifests().len(), limits::MAX_OBJECTS);
    assert!(render(&many(limits::MAX_OBJECTS + 1)).unwrap_err().to_string().contains("objects"));
}

#[test]
#[ignore = "slow: it reads 64 MiB twice"]
fn an_environment_has_a_limit_in_bytes() {
    let text =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: {{a: {}}}\n", "x".repeat(1_400_000));
    let render = |count: usize| {
        let paths: Vec<String> = (0..count).map(|number| format!("deploy/{number}.yaml")).collect();
        let files: Vec<(&str, &str)> = paths.iter().map(|path| (path.as_str(), text.as_str())).collect();
        render(&tree(&files), &environment("deploy", json!({})), &facts(), None)
    };
    assert!(render(limits::MAX_RENDERED_BYTES / 1_400_100).is_ok());
    assert!(render(limits::MAX_RENDERED_BYTES / 1_400_000 + 1).unwrap_err().to_string().contains("bytes"));
}

/// Many small objects, as a team with 250 services has them.
fn large() -> (Tree, Environment) {
    let mut builder = TreeBuilder::default();
    let mut add = |path: String, text: &str| builder.file(path, blob(text.as_bytes())).unwrap();
    add("towpath.yaml".into(), "");
    add(
        "values.yaml".into(),
        "replicas: 2\nimage: harbor.example/shop/app\nlabels: {team: shop, tier: back}\nhost: shop.example\n",
    );
    add("templates/partials/labels.hbs".into(), "app: {{name}}\n{{toYaml values.labels}}\n");
    add("environments/test/values.yaml".into(), "replicas: 3\n");
    for number in 0..250 {
        let template = include_str!("testdata/large.yaml.hbs").replace("NAME", &format!("app-{number}"));
        add(format!("templates/app-{number}.yaml.hbs"), &template);
    }
    (builder.build(), environment("environments/test", json!({})))
}

#[test]
fn a_thousand_objects_render_and_the_cache_knows_them() {
    let (tree, environment) = large();
    let mut cache = RenderCache::with_limit(64 << 20);
    let first = render(&tree, &environment, &facts(), Some(&mut cache)).unwrap();
    assert_eq!(first.manifests().len(), 1000);
    let kept = cache.len();
    // Another commit changes nothing where nobody uses `revision`.
    let later = Facts { commit: CommitId::from_bytes([1; 20]), ..facts() };
    assert_eq!(render(&tree, &environment, &later, Some(&mut cache)).unwrap(), first);
    assert_eq!(cache.len(), kept);
    assert_eq!(render(&tree, &environment, &later, None).unwrap(), first);
}

#[test]
fn a_shared_cache_never_changes_what_is_rendered() {
    let object = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata:\n  a: {data}\n");
    let files = |template: &str, partial: &str| {
        let mut files =
            vec![("towpath.yaml".to_owned(), String::new()), ("e/values.yaml".to_owned(), "v: 1\n".to_owned())];
        files.push(("templates/a.yaml.hbs".to_owned(), object(template)));
        files.push(("templates/partials/p.hbs".to_owned(), format!("x{{{{> q}}}}{partial}")));
        files.push(("templates/partials/q.hbs".to_owned(), partial.to_owned()));
        files
    };
    let mut cache = RenderCache::default();
    let mut kept = Vec::new();
    for template in [
        "x{{values.v}}",
        "{{revision}}",
        "{{@root.revision}}",
        "{{lookup this \"revision\"}}",
        "{{include \"p\"}}",
        "{{#with @root as |r|}}{{r.lane}}{{/with}}",
        "x{{#each @root}}{{@index}}{{/each}}{{toJson this}}",
    ] {
        for partial in ["y", "{{values.v}}", "{{revision}}"] {
            for (values, commit, branch, path) in [
                (json!({}), 1, "r1.2", "e"),
                (json!({"v": 2}), 1, "r1.2", "e"),
                (json!({}), 2, "r1.2", "e"),
                (json!({}), 1, "r1.3", "e"),
            ] {
                let files = files(template, partial);
                let files: Vec<(&str, &str)> =
                    files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
                let facts = Facts {
                    cluster: "lab".into(),
                    branch: branch.into(),
                    commit: CommitId::from_bytes([commit; 20]),
                    pins: Pins::new(),
                    libraries: Libraries::new(),
                };
                let (tree, environment) = (tree(&files), environment(path, values));
                let alone = render(&tree, &environment, &facts, None);
                assert_eq!(render(&tree, &environment, &facts, Some(&mut cache)), alone, "{template} {partial}");
                kept.push(alone);
            }
        }
    }
    assert!(kept.iter().filter(|one| one.is_ok()).count() > 60, "{kept:?}");
}

#[test]
fn a_cache_may_go_to_another_thread() {
    fn check<T: Send>() {}
    check::<RenderCache>();
    check::<Rendered>();
}

/// Prints what rendering costs: `cargo test --release -p towpath-core -- --ignored what_a_thousand`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr)]
fn what_a_thousand_objects_cost() {
    let (tree, environment) = large();
    for _ in 0..3 {
        let mut cache = RenderCache::with_limit(64 << 20);
        let mut took = Vec::new();
        for replicas in [1, 1, 2] {
            let environment = Environment {
                values: json!({ "replicas": replicas }).as_object().unwrap().clone(),
                ..environment.clone()
            };
            let start = std::time::Instant::now();
            render(&tree, &environment, &facts(), Some(&mut cache)).unwrap();
            took.push(start.elapsed());
        }
        eprintln!("cold {:?}, again {:?}, other values {:?}", took[0], took[1], took[2]);
    }
}

#[test]
fn a_hostile_gitmodules_is_refused_although_nothing_is_fetched_by_it() {
    let render = |modules: &str| {
        let files = [
            ("towpath.yaml", ""),
            (".gitmodules", modules),
            ("environments/test/a.yaml", "apiVersion: v1\nkind: A\nmetadata: {name: a}\n"),
        ];
        render(&tree(&files), &environment("environments/test", json!({})), &facts(), None)
    };
    let with = |url: &str| format!("[submodule \"web\"]\n\tpath = components/web\n\turl = {url}\n");
    assert!(render(&with("../web.git")).is_ok());
    for url in ["-oProxyCommand=touch", "ext::sh -c id", "file:///etc", "https://user:pass@host/x.git"] {
        assert!(render(&with(url)).is_err(), "{url}");
    }
}
