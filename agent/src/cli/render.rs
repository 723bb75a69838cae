//! `towpath render`: what would be applied, without a cluster.

use serde_json::{Value, json};
use towpath_core::fault::Place;
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
    let objects = cleared.objects().iter().map(|object| (&object.source, Value::Object(object.body())));
    // A hook as git has it: each of its runs is a Job with a name of its own.
    let objects = objects.chain(cleared.hooks().iter().map(|hook| (&hook.source, Value::Object(hook.body.clone()))));
    match args.output {
        Document::Yaml => output::data(&yaml(objects)?)?,
        Document::Json => {
            let items: Vec<Value> = objects.map(|(_, body)| body).collect();
            output::document(&json!({ "apiVersion": "v1", "kind": "List", "items": items }), Document::Json)?;
        }
    }
    Ok(Code::Done)
}

/// The objects as YAML documents, each below the file and line it comes from.
fn yaml<'a>(objects: impl IntoIterator<Item = (&'a Place, Value)>) -> Result<String, Failure> {
    let mut text = String::new();
    for (source, body) in objects {
        text.push_str(&format!("---\n# Source: {source}\n"));
        text.push_str(&output::yaml(&body)?);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_document_says_where_it_comes_from() {
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"on": "yes"}});
        let source = Place::line("templates/a.yaml.hbs", 3);
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
        .assert_eq(&yaml([(&source, body)]).unwrap());
    }
}
