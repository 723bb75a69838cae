//! `towpath render`: what would be applied, without a cluster.

use serde_json::{Value, json};
use towpath_core::policy::Desired;
use towpath_core::scope::Scopes;

use super::exit::{self, Code, Failure};
use super::local::Source;
use super::output::{self, Document};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  towpath render -e prod                        the folder environments/prod as it stands
  towpath render -e prod --revision master      as it is committed on master
  towpath render ../deploy -f environments.yaml -e prod

Secrets are printed as they are in the files.")]
pub(super) struct Args {
    #[command(flatten)]
    source: Source,
    /// The namespace of an Environment that names none.
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// How the manifests are printed.
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "yaml")]
    output: Document,
}

pub(super) fn run(args: &Args) -> Result<Code, Failure> {
    let checkout = args.source.checkout()?;
    let subject = args.source.subject(&checkout, args.namespace.as_deref())?;
    let cleared = args.source.clear(&checkout, &subject, &Scopes::offline())?;
    exit::warn(&mut anstream::stderr(), cleared.warnings())?;
    match args.output {
        Document::Yaml => output::data(&yaml(cleared.objects())?)?,
        Document::Json => {
            let items: Vec<Value> = cleared.objects().iter().map(body).collect();
            output::document(&json!({ "apiVersion": "v1", "kind": "List", "items": items }), Document::Json)?;
        }
    }
    Ok(Code::Done)
}

/// The objects as YAML documents, each below the file and line it comes from.
fn yaml(objects: &[Desired]) -> Result<String, Failure> {
    let mut text = String::new();
    for object in objects {
        text.push_str(&format!("---\n# Source: {}\n", object.source));
        text.push_str(&output::yaml(&body(object))?);
    }
    Ok(text)
}

/// An object as a tree.
pub(super) fn body(object: &Desired) -> Value {
    serde_json::from_str(&object.body).expect("the policy room writes JSON")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use towpath_core::fault::Place;
    use towpath_core::fingerprint;
    use towpath_core::manifest::ObjectKey;

    use super::*;

    #[test]
    fn each_document_says_where_it_comes_from() {
        let key = ObjectKey { group: String::new(), kind: "ConfigMap".into(), namespace: None, name: "a".into() };
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"on": "yes"}});
        let object = Desired {
            key,
            api_version: "v1".into(),
            body: body.to_string(),
            fingerprint: fingerprint::of_desired(body.as_object().unwrap()),
            source: Place::line("templates/a.yaml.hbs", 3),
            adopt: false,
            leave_alone: false,
        };
        expect![[r#"
            ---
            # Source: templates/a.yaml.hbs:3
            apiVersion: v1
            kind: ConfigMap
            metadata:
              name: a
            data:
              "on": "yes"
        "#]]
        .assert_eq(&yaml(&[object]).unwrap());
    }
}
