//! What is marked as not revertible stops a rollback; who may override it does so by name.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_stops_a_rollback_by_its_trailer_its_path_or_its_object() {
    let declared = "notRevertible:\n  - paths: [\"migrations/**\"]\n    reason: the database only goes forward\n";
    let mut shop = Shop::new("migrated").await;
    shop.world.repo.commit(
        "master",
        "Rules",
        &[
            ("towpath.yaml", declared),
            ("environments/prod/values.yaml", "{}\n"),
            ("environments/prod/web.yaml", &deployment("web", "web:1")),
        ],
    );
    let mut before = shop.world.repo.head("master");
    shop.begin(&[("migrated", json!({"path": "environments/prod"}))]).await;
    shop.ran("migrated", before).await;
    let marked = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "schema", "annotations": {"towpath.dev/notRevertible": "rows were written in the new form"}},
    })
    .to_string();
    let web = |image: &str| deployment("web", image);
    for (number, (message, files, wanted)) in [
        ("Drop a column\n\nNot-Revertible: the values are gone", vec![], "the values are gone"),
        ("Move on", vec![("migrations/1.sql", "drop table x;")], "the database only goes forward"),
        (
            "Write otherwise",
            vec![("environments/prod/schema.yaml", marked.as_str())],
            "rows were written in the new form",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let text = web(&format!("web:{}", number + 2));
        let files = [vec![("environments/prod/web.yaml", text.as_str())], files].concat();
        let bad = shop.world.repo.commit("master", message, &files);
        shop.ran("migrated", bad).await;
        let to = before.short();
        let why = shop.fails(&["rollback", "migrated", "--to", &to, "-y"]);
        assert!(why.contains(wanted) && why.contains("--override"), "{why}");
        assert_eq!(shop.world.repo.head("master"), bad);
        before = bad;
    }
    // The administrator has the right; a reason is a must.
    let (code, _, why) = shop.towpath(&["rollback", "migrated", "-y", "--override"]);
    assert!(code == 2 && why.contains("--reason"), "{why}");
    let said = shop.does(&["rollback", "migrated", "-y", "--override", "--reason", "the rows were copied"]);
    assert!(said.contains("overridden:") && said.contains("rows were written in the new form"), "{said}");
    shop.runs_image("web:3").await;
    let message = shop.git(&["log", "-1", "--format=%B", "master"]);
    assert!(message.contains("Overridden-By: ") && message.contains("Reason: the rows were copied"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_in_a_wave_that_is_there_already_stops_a_rollback_although_the_release_never_ran_as_a_whole() {
    let mut shop = Shop::new("half-there").await;
    let first = shop.world.repo.head("master");
    let rules = json!({"automatic": ["Degraded"]});
    shop.begin(&[("half-there", json!({"timeout": "10s", "rollback": rules}))]).await;
    shop.ran("half-there", first).await;
    let marked = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "schema", "annotations": {
            "towpath.dev/wave": "-2", "towpath.dev/notRevertible": "rows were written in the new form",
        }},
    });
    let mut early: Value = serde_saphyr::from_str(&deployment("early", "early:1-crash")).unwrap();
    early["metadata"]["annotations"] = json!({"towpath.dev/wave": "-1"});
    let web = deployment("web", "web:2");
    let files =
        [("prod/schema.yaml", marked.to_string()), ("prod/early.yaml", early.to_string()), ("prod/web.yaml", web)];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let bad = shop.world.repo.commit("master", "Hangs after a migration", &files);
    let is_told = |status: &EnvironmentStatus| status.prepared.is_some() || status.rollback.is_some();
    let status = shop.world.status_where("half-there", "told", is_told).await;
    assert_eq!(status.rollback, None, "nobody has overridden the mark");
    let told = status.prepared.unwrap();
    assert_eq!(told.phase, RollbackPhase::Refused);
    let says = |wanted: &str| told.lines.iter().any(|line| line.contains(wanted));
    assert!(says("it would delete ConfigMap half-there/schema") && says("rows were written"), "{:#?}", told.lines);
    assert_eq!(shop.world.repo.head("master"), bad);
    let why = shop.fails(&["rollback", "half-there", "-y"]);
    assert!(why.contains("rows were written in the new form") && why.contains("--override"), "{why}");
    shop.does(&["rollback", "half-there", "-y", "--override", "--reason", "the rows were copied"]);
    shop.world.runs("half-there", "master").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_the_right_neither_rolls_back_nor_overrides() {
    let mut shop = Shop::new("rollback-rights").await;
    let first = shop.world.repo.head("master");
    shop.begin(&[("rollback-rights", json!({}))]).await;
    shop.ran("rollback-rights", first).await;
    let bad = shop.commit("Bad\n\nNot-Revertible: no", "web:2");
    shop.ran("rollback-rights", bad).await;
    for (account, verbs) in [("tester", "get,patch"), ("owner", "get,patch,rollback")] {
        for arguments in [
            vec!["create", "serviceaccount", account],
            vec!["create", "role", account, &format!("--verb={verbs}"), "--resource=environments.towpath.dev"],
            vec![
                "create",
                "rolebinding",
                account,
                &format!("--role={account}"),
                &format!("--serviceaccount=rollback-rights:{account}"),
            ],
        ] {
            shop.world.plane.kubectl(&[&arguments[..], &["-n", "rollback-rights"]].concat()).unwrap();
        }
    }
    let towpath = async |account: &str, arguments: &[&str]| {
        let token = support::world::token(&shop.world.admin, "rollback-rights", account).await.unwrap();
        let kubeconfig = shop.world.plane.kubeconfig_for(&format!("rollback-rights-{account}"), &token).unwrap();
        let output = Command::new(agent::binary().unwrap())
            .args(arguments)
            .args(["-n", "rollback-rights"])
            .env("KUBECONFIG", kubeconfig)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, why) = towpath("tester", &["rollback", "rollback-rights", "-y"]).await;
    assert!(!done && why.contains("needs the verb rollback"), "{why}");
    let (done, why) = towpath("owner", &["rollback", "rollback-rights", "-y"]).await;
    assert!(!done && why.contains("not revertible"), "{why}");
    let (done, why) = towpath("owner", &["rollback", "rollback-rights", "-y", "--override", "--reason", "x"]).await;
    assert!(!done && why.contains("needs the verb override"), "{why}");
    // An override that somebody else was allowed stays with that request.
    let ask = |id: &str| json!({"id": id, "at": jiff::Timestamp::now(), "wish": {}}).to_string();
    let note = |id: &str| format!("towpath.dev/rollback={}", ask(id));
    let annotate = |account: &str, notes: &[String]| {
        let account = format!("--as=system:serviceaccount:rollback-rights:{account}");
        let mut arguments = vec!["annotate", "--overwrite", "environment", "rollback-rights", "-n", "rollback-rights"];
        arguments.extend(notes.iter().map(String::as_str));
        arguments.extend((account != "--as=system:serviceaccount:rollback-rights:").then_some(account.as_str()));
        shop.world.plane.kubectl(&arguments)
    };
    let owner = "towpath.dev/rollbackBy=system:serviceaccount:rollback-rights:owner".to_owned();
    annotate("", &[note("u-1"), "towpath.dev/override=u-1".into(), "towpath.dev/rollbackBy=admin".into()]).unwrap();
    annotate("owner", &[note("u-2"), owner.clone()]).unwrap();
    assert!(annotate("owner", &[note("u-1"), owner]).is_err());
    let tester = "towpath.dev/rollbackBy=system:serviceaccount:rollback-rights:tester".to_owned();
    assert!(annotate("tester", &[tester]).is_err(), "nobody else puts their name to it");
    assert_eq!(shop.world.repo.head("master"), bad);
}
