//! Decisions, one property at a time. Reports on faulty sets, and the examples with their verdict tables, are in the suite
//! `policy`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use jiff::{Zoned, civil::date, tz::TimeZone};
use proptest::{prelude::*, sample::select};
use tempfile::TempDir;

use super::*;
use crate::{
    model::{Action, Decide, Denial, Executable, Fact, Flow, Principal, Process, Request, Resource, Verdict},
    protocol::FRAGMENTS,
};

fn set(text: &str) -> (TempDir, Policies) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("test.cedar"), text).expect("a file");
    let policies = Policies::load(dir.path(), FRAGMENTS).unwrap_or_else(|errors| panic!("{errors}"));
    (dir, policies)
}

fn principal(roles: &[&str]) -> Principal {
    Principal {
        flow: Flow { tgid: 4711, uid: 1000, gid: 1000, ..Flow::imagined(([10, 20, 0, 5], 5432).into()) },
        process: Process {
            pid: 4711,
            started: 1,
            uid: 1000,
            user: Some("svc-orders".into()),
            gid: 1000,
            groups: ["svc-orders".to_owned(), "db".to_owned()].into(),
            exe: Executable {
                path: "/usr/bin/psql".into(),
                device: 1,
                inode: 2,
                sha256: Some("ab".repeat(32)),
                verified: true,
            },
            argv: vec!["psql".into()],
            directory: "/".into(),
            cgroup: "/system.slice/orders-agent.service".into(),
            unit: Some("orders-agent.service".into()),
            user_unit: None,
            container: Some("cd".repeat(32)),
        },
        roles: roles.iter().map(ToString::to_string).collect(),
    }
}

fn database() -> Resource {
    Resource::target("orders").child("Database", "shop")
}

fn table(name: &str) -> Resource {
    database().child("Schema", "public").child("Table", name)
}

fn facts() -> BTreeMap<&'static str, Fact> {
    BTreeMap::from([
        ("tables", Fact::Set(BTreeSet::new())),
        ("functions", Fact::Set(BTreeSet::new())),
        ("settings", Fact::Set(BTreeSet::new())),
        ("has_where", Fact::Bool(true)),
        ("statements", Fact::Long(1)),
    ])
}

fn action(requests: &[(&str, Resource)]) -> Action {
    Action {
        requests: requests.iter().map(|(action, resource)| Request::new(action, resource.clone())).collect(),
        facts: facts(),
    }
}

fn at(hour: i8) -> Zoned {
    date(2026, 1, 7).at(hour, 0, 0, 0).to_zoned(TimeZone::UTC).expect("a time")
}

fn decide(policies: &Policies, roles: &[&str], requests: &[(&str, Resource)]) -> Verdict {
    policies.decide(&principal(roles), &action(requests), &at(12))
}

fn permitted(rules: &[&str]) -> Verdict {
    Verdict::Permit { rules: rules.iter().map(ToString::to_string).collect() }
}

fn denied(verdict: Verdict) -> Denial {
    match verdict {
        Verdict::Deny(denial) => denial,
        Verdict::Permit { rules } => panic!("permitted by {rules:?}"),
    }
}

const READER: &str = r#"
@id("orders-reader-select")
permit (principal in Role::"orders-reader", action in [Action::"connect", Action::"sql:select"], resource in Target::"orders");

@id("no-unbounded-writes")
@reason("DELETE and UPDATE need a WHERE clause here.")
forbid (principal, action in [Action::"sql:delete", Action::"sql:update"], resource in Target::"orders") when { !context.has_where };
"#;

#[test]
fn all_requests_must_be_permitted() {
    let (_dir, policies) = set(READER);
    let both = [("sql:select", table("customers")), ("sql:select", table("orders"))];
    assert_eq!(decide(&policies, &["orders-reader"], &both), permitted(&["orders-reader-select"]));

    let one = [("sql:select", table("customers")), ("sql:insert", table("orders"))];
    let denial = denied(decide(&policies, &["orders-reader"], &one));
    assert_eq!(denial.rule, None);
    assert_eq!(denial.reason, "no policy permits sql:insert on Table orders.shop.public.orders");
    let hint = "This process has the role orders-reader: it lacks sql:insert on Table orders.shop.public.orders.";
    assert_eq!(denial.hint.as_deref(), Some(hint));
}

#[test]
fn nothing_asked_for_is_nothing_permitted() {
    let (_dir, policies) = set(r#"@id("all") permit (principal, action, resource);"#);
    denied(decide(&policies, &["orders-reader"], &[]));
}

#[test]
fn an_empty_set_denies() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let policies = Policies::load(dir.path(), FRAGMENTS).expect("an empty set");
    let denial = denied(decide(&policies, &[], &[("connect", Resource::target("orders"))]));
    assert!(denial.hint.is_some_and(|hint| hint.contains("user svc-orders, unit orders-agent.service")));
}

#[test]
fn a_forbid_wins_and_says_why() {
    let (_dir, policies) = set(&format!(r#"{READER} @id("all") permit (principal, action, resource);"#));
    let mut delete = action(&[("sql:delete", table("orders"))]);
    assert_eq!(policies.decide(&principal(&[]), &delete, &at(12)), permitted(&["all"]));
    delete.facts.insert("has_where", Fact::Bool(false));
    let denial = denied(policies.decide(&principal(&[]), &delete, &at(12)));
    assert_eq!(denial.rule.as_deref(), Some("no-unbounded-writes"));
    assert_eq!(denial.reason, "DELETE and UPDATE need a WHERE clause here.");
    assert_eq!(denial.hint.as_deref(), Some("Refused was sql:delete on Table orders.shop.public.orders."));
}

#[test]
fn a_forbid_is_told_before_a_missing_permit() {
    let (_dir, policies) = set(READER);
    let mut asked = action(&[("sql:alter", table("a")), ("sql:delete", table("b"))]);
    asked.facts.insert("has_where", Fact::Bool(false));
    let denial = denied(policies.decide(&principal(&[]), &asked, &at(12)));
    assert_eq!(denial.rule.as_deref(), Some("no-unbounded-writes"));
}

#[test]
fn connect_implies_what_drivers_send() {
    let (_dir, policies) = set(READER);
    let basics = [("sql:basics", database())];
    assert_eq!(decide(&policies, &["orders-reader"], &basics), permitted(&["orders-reader-select"]));
    let denial = denied(decide(&policies, &[], &basics));
    assert_eq!(denial.reason, "no policy permits sql:basics on Database orders.shop");
    denied(decide(&policies, &["orders-reader"], &[("sql:set", database())]));

    let (_dir, policies) =
        set(&format!(r#"{READER} @id("no-basics") forbid (principal, action == Action::"sql:basics", resource);"#));
    assert_eq!(denied(decide(&policies, &["orders-reader"], &basics)).rule.as_deref(), Some("no-basics"));

    let (_dir, policies) =
        set(&format!(r#"{READER} @id("closed") forbid (principal, action == Action::"connect", resource);"#));
    denied(decide(&policies, &["orders-reader"], &basics));
}

#[test]
fn a_role_is_not_another_and_a_target_is_not_another() {
    let (_dir, policies) = set(READER);
    let connect = |target: &str| [("connect", Resource::target(target))];
    assert_eq!(decide(&policies, &["x", "orders-reader"], &connect("orders")), permitted(&["orders-reader-select"]));
    denied(decide(&policies, &["orders-readers"], &connect("orders")));
    denied(decide(&policies, &["orders-reader"], &connect("orders2")));
}

#[test]
fn names_with_dots_do_not_lead_elsewhere() {
    let (_dir, policies) = set(
        r#"@id("one") permit (principal, action == Action::"sql:select", resource == Table::"orders.shop.public.a");"#,
    );
    assert_eq!(decide(&policies, &[], &[("sql:select", table("a"))]), permitted(&["one"]));
    let tricks = [
        Resource::target("orders").child("Database", "shop.public").child("Schema", "x").child("Table", "a"),
        database().child("Schema", "public.a").child("Table", ""),
        database().child("Schema", "").child("Table", "public.a"),
        table("\"a\""),
        table("A"),
    ];
    for trick in tricks {
        denied(decide(&policies, &[], &[("sql:select", trick)]));
    }
}

#[test]
fn an_unverified_executable_has_no_path() {
    let (_dir, policies) = set(
        r#"@id("psql") permit (principal, action == Action::"connect", resource) when { principal has exe && principal.exe == "/usr/bin/psql" };"#,
    );
    let connect = action(&[("connect", Resource::target("orders"))]);
    let mut process = principal(&[]);
    assert_eq!(policies.decide(&process, &connect, &at(12)), permitted(&["psql"]));
    process.process.exe.verified = false;
    denied(policies.decide(&process, &connect, &at(12)));
}

#[test]
fn all_facts_of_a_process_can_be_asked_for() {
    let (_dir, policies) = set(r#"
        @id("all")
        permit (principal, action == Action::"connect", resource) when {
          principal.uid == 1000 && principal.gid == 1000 && principal.groups.contains("db") &&
          principal has user && principal.user == "svc-orders" && principal.exe_verified &&
          principal has exe_sha256 && principal.exe_sha256 like "abab*" &&
          principal has unit && principal.unit == "orders-agent.service" && !(principal has user_unit) &&
          principal.cgroup like "/system.slice/*" && principal has container && principal.container like "cdcd*"
        };"#);
    let connect = [("connect", Resource::target("orders"))];
    assert_eq!(decide(&policies, &[], &connect), permitted(&["all"]));
}

#[test]
fn a_missing_or_mistyped_fact_denies() {
    let (_dir, policies) = set(r#"@id("all") permit (principal, action, resource);"#);
    let mut select = action(&[("sql:select", table("a"))]);
    select.facts.remove("functions");
    let denial = denied(policies.decide(&principal(&[]), &select, &at(12)));
    assert_eq!(denial.reason, "the operation is missing the fact \"functions\"");
    select.facts.insert("functions", Fact::Bool(true));
    denied(policies.decide(&principal(&[]), &select, &at(12)));
}

#[test]
fn what_the_schema_does_not_know_is_denied() {
    let (_dir, policies) = set(r#"@id("all") permit (principal, action, resource);"#);
    for (name, resource) in [
        ("sql:explode", table("a")),
        ("sql:ddl", table("a")),
        ("sql:call", table("a")),
        ("connect", table("a")),
        ("sql:select", Resource::target("orders").child("Bucket", "b")),
        ("sql:select", database().child("Role", "r")),
        ("sql:select", database().child("Subagent", "4711")),
    ] {
        let denial = denied(decide(&policies, &[], &[(name, resource)]));
        assert_eq!(denial.rule, None, "{name}");
    }
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    let (_dir, policies) = set(r#"
        @id("all") permit (principal, action, resource);
        @id("broken") forbid (principal, action == Action::"sql:select", resource)
        when { context.statements * 9223372036854775807 > 3 };"#);
    let mut select = action(&[("sql:select", table("a"))]);
    select.facts.insert("statements", Fact::Long(2));
    let denial = denied(policies.decide(&principal(&[]), &select, &at(12)));
    assert_eq!(denial.rule.as_deref(), Some("broken"));
    assert!(denial.reason.starts_with("the policy cannot be evaluated"), "{}", denial.reason);
}

#[test]
fn columns_have_the_class_that_the_facts_say() {
    let (_dir, policies) =
        set(r#"@id("pii") permit (principal, action == Action::"unmask", resource) when { resource.class == "pii" };"#);
    let mut unmask = action(&[("unmask", table("customers").child("Column", "email"))]);
    unmask.facts.insert("resource.class", Fact::Text("pii".into()));
    assert_eq!(policies.decide(&principal(&[]), &unmask, &at(12)), permitted(&["pii"]));
    unmask.facts.insert("resource.class", Fact::Text("secret".into()));
    denied(policies.decide(&principal(&[]), &unmask, &at(12)));
    unmask.facts.clear();
    denied(policies.decide(&principal(&[]), &unmask, &at(12)));
}

#[test]
fn an_approvable_forbid_denies_and_names_the_group() {
    let (_dir, policies) = set(r#"
        @id("admin") permit (principal in Role::"admin", action in Action::"sql:ddl", resource);
        @id("drops") @approval("dba") @approvals("2") @timeout("5m") @reason("Dropping is for two.")
        forbid (principal, action == Action::"sql:drop", resource);
        @id("audit") @approval("auditors") forbid (principal, action == Action::"sql:drop", resource == Table::"orders.shop.public.log");
        @id("never") forbid (principal, action == Action::"sql:drop", resource == Table::"orders.shop.public.keep");"#);
    let drop = |roles: &[&str], name: &str| denied(decide(&policies, roles, &[("sql:drop", table(name))]));

    let denial = drop(&["admin"], "a");
    assert_eq!(denial.rule.as_deref(), Some("drops"));
    let needs = "Dropping is for two. (sql:drop on Table orders.shop.public.a needs the approval of dba)";
    assert_eq!(denial.reason, needs);
    let denial = drop(&["admin"], "log");
    assert_eq!(denial.rule.as_deref(), Some("audit"));
    assert!(denial.reason.ends_with("needs the approval of auditors and of dba"), "{}", denial.reason);
    assert_eq!(drop(&["admin"], "keep").rule.as_deref(), Some("never"));
    // Without a permit, an approval would not help.
    assert_eq!(drop(&[], "a").rule, None);
}

#[test]
fn only_conditions_on_the_time_depend_on_it() {
    assert!(!set(READER).1.depends_on_time());
    for condition in
        ["context.hour > 8", r#"context["weekday"] == "Mon""#, r#"context["h\u{6f}ur"] > 8"#, "{c: context}.c.hour > 8"]
    {
        let text =
            format!(r#"@id("x") permit (principal, action == Action::"connect", resource) when {{ {condition} }};"#);
        assert!(set(&text).1.depends_on_time(), "{condition}");
    }
    // A role or a table of that name is not the time.
    assert!(!set(r#"@id("x") permit (principal in Role::"hour", action, resource);"#).1.depends_on_time());
}

#[test]
fn time_is_the_time_that_was_given() {
    let (_dir, policies) = set(
        r#"@id("day") permit (principal, action == Action::"connect", resource) when { context.hour == 23 && context.weekday == "Wed" };"#,
    );
    let connect = action(&[("connect", Resource::target("orders"))]);
    assert_eq!(policies.decide(&principal(&[]), &connect, &at(23)), permitted(&["day"]));
    denied(policies.decide(&principal(&[]), &connect, &at(22)));
}

#[test]
fn a_faulty_set_leaves_the_old_one_in_force() {
    let (dir, _) = set(READER);
    let policies = Reloadable::load(dir.path(), FRAGMENTS).expect("a valid set");
    let select = action(&[("sql:select", table("a"))]);
    let verdict = |policies: &Reloadable| policies.decide(&principal(&["orders-reader"]), &select, &at(12));
    assert_eq!((policies.epoch(), verdict(&policies)), (1, permitted(&["orders-reader-select"])));

    fs::write(dir.path().join("more.cedar"), "permit (principal, action, resource);").expect("a file");
    assert!(policies.reload().is_err());
    assert_eq!((policies.epoch(), verdict(&policies)), (1, permitted(&["orders-reader-select"])));

    let forbid = r#"@id("closed") forbid (principal, action, resource) when { context.hour == 12 };"#;
    fs::write(dir.path().join("more.cedar"), forbid).expect("a file");
    assert_eq!(policies.reload().ok(), Some(3));
    assert_eq!(policies.epoch(), 2);
    assert!(policies.depends_on_time());
    assert_eq!(denied(verdict(&policies)).rule.as_deref(), Some("closed"));
}

#[test]
fn resources_are_read_as_they_are_written() {
    let (_dir, policies) = set(READER);
    for resource in [
        Resource::target("orders"),
        table("customers").child("Column", "email"),
        table("a.b"),
        table("a\"b.\"\"c\""),
        table(""),
        database().child("Schema", "pg_catalog").child("Function", "now"),
    ] {
        assert_eq!(policies.vocabulary.resource(&resource.to_string()).as_ref(), Some(&resource));
    }
    for text in
        ["", "Table", "Table a.b.c", "Table a.b.c.d.e", "Tabel a.b.c.d", "Table a.b.c.\"d", "Table a..c.d", "Role x"]
    {
        assert_eq!(policies.vocabulary.resource(text), None, "{text}");
    }
}

#[test]
fn a_check_names_what_the_policies_name() {
    let checked = check(&examples().join("orders"), FRAGMENTS);
    assert!(checked.passed());
    assert_eq!(checked.named["Target"], ["orders"]);
    assert_eq!(checked.named["Role"], ["orders-admin", "orders-analyst", "orders-reader", "orders-writer"]);
}

/// A scope as a policy writes it, and whether it is satisfied by the reader and the table of [`scopes_mean_what_they_say`].
type Scope = (&'static str, bool);

const PRINCIPALS: &[Scope] = &[
    ("principal", true),
    ("principal is Subagent", true),
    (r#"principal in Role::"reader""#, true),
    (r#"principal is Subagent in Role::"reader""#, true),
    (r#"principal == Subagent::"4711""#, true),
    (r#"principal == Subagent::"4712""#, false),
    (r#"principal in Role::"writer""#, false),
    (r#"principal is Subagent in Role::"writer""#, false),
];

const ACTIONS: &[Scope] = &[
    ("action", true),
    (r#"action == Action::"sql:select""#, true),
    (r#"action in Action::"sql:read""#, true),
    (r#"action in [Action::"sql:insert", Action::"sql:select"]"#, true),
    (r#"action in Action::"sql:write""#, false),
    (r#"action == Action::"sql:update""#, false),
];

const RESOURCES: &[Scope] = &[
    ("resource", true),
    ("resource is Table", true),
    (r#"resource in Target::"orders""#, true),
    (r#"resource in Schema::"orders.shop.public""#, true),
    (r#"resource is Table in Database::"orders.shop""#, true),
    (r#"resource == Table::"orders.shop.public.a""#, true),
    ("resource is Column", false),
    (r#"resource == Schema::"orders.shop.public""#, false),
    (r#"resource in Table::"orders.shop.public.b""#, false),
    (r#"resource in Target::"ledger""#, false),
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Which policies are evaluated is chosen by their scopes: the verdict must be the one of all of them together.
    #[test]
    fn scopes_mean_what_they_say(
        set_of in prop::collection::vec((any::<bool>(), select(PRINCIPALS), select(ACTIONS), select(RESOURCES)), 0..12),
    ) {
        let mut text = String::new();
        let (mut permits, mut forbids) = (Vec::new(), Vec::new());
        for (number, (permit, principal, action, resource)) in set_of.iter().enumerate() {
            let effect = if *permit { "permit" } else { "forbid" };
            text += &format!("@id(\"p{number:02}\") {effect} ({}, {}, {});\n", principal.0, action.0, resource.0);
            if principal.1 && action.1 && resource.1 {
                if *permit { &mut permits } else { &mut forbids }.push(format!("p{number:02}"));
            }
        }
        let (_dir, policies) = set(&text);
        let verdict = decide(&policies, &["reader", "reader"], &[("sql:select", table("a"))]);
        match (forbids.first(), permits.is_empty()) {
            (Some(first), _) => prop_assert_eq!(denied(verdict).rule, Some(first.clone())),
            (None, true) => prop_assert_eq!(denied(verdict).rule, None),
            (None, false) => prop_assert_eq!(verdict, Verdict::Permit { rules: permits }),
        }
    }
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}
