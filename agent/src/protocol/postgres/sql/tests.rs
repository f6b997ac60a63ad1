mod replication;

use std::{collections::BTreeSet, sync::Arc};

use super::{
    catalogue::{Catalogue, CatalogueError, QUERIES, Row},
    masks::{Masking, MaskingError},
    *,
};
use crate::{
    config::ColumnRule,
    masking::Cover,
    model::{Fact, Style},
};

/// Rows of a small database: `public.users (id, ssn)`, its child `public.staff`, `public.orders (id, note)` and
/// `sales.orders (id)`, a view `public.v`, and a function `public.f`.
fn answers() -> Vec<Vec<Row>> {
    let rows = |rows: &[&[&str]]| -> Vec<Row> {
        rows.iter().map(|row| row.iter().map(|field| Some((*field).to_owned())).collect()).collect()
    };
    vec![
        rows(&[&["pg_catalog"], &["public"], &["sales"], &["pg_temp_3"]]),
        rows(&[
            &["10", "public", "users", "r", "p"],
            &["11", "public", "staff", "r", "p"],
            &["12", "public", "orders", "p", "p"],
            &["13", "sales", "orders", "r", "p"],
            &["14", "public", "v", "v", "p"],
            &["15", "pg_temp_3", "scratch", "r", "t"],
            &["1247", "pg_catalog", "pg_type", "r", "p"],
        ]),
        rows(&[
            &["10", "1", "id"],
            &["10", "3", "ssn"],
            &["11", "1", "id"],
            &["11", "2", "ssn"],
            &["12", "1", "id"],
            &["12", "2", "note"],
            &["13", "1", "id"],
            &["14", "1", "ssn"],
            &["15", "1", "id"],
            &["999", "1", "in_pg_toast"],
        ]),
        rows(&[&["11", "10"]]),
        rows(&[
            &["pg_catalog", "upper", "f", "871"],
            &["pg_catalog", "pg_sleep", "t", "2626"],
            &["public", "f", "t", "900 901"],
        ]),
        rows(&[&["===", "public", "f"]]),
        rows(&[&["pair", "public", "f"]]),
        rows(&[&["text"], &["pair"]]),
        rows(&[&["10", "u", "1", "0", ""], &["10", "c", "1 3", "0", ""], &["12", "f", "1", "10", "1"]]),
        rows(&[&["12", "2", "1"]]),
    ]
}

fn catalogue() -> Catalogue {
    Catalogue::build(answers()).expect("the rows are well formed")
}

fn rule(database: Option<&str>, table: &str, column: &str, style: Style) -> ColumnRule {
    ColumnRule {
        database: database.map(str::to_owned),
        schema: "public".into(),
        table: table.into(),
        column: column.into(),
        class: "pii".into(),
        style,
        line: 7,
    }
}

fn masking(catalogue: &Catalogue) -> Masking {
    Masking::new(&[rule(None, "users", "ssn", Style::Last4)], "shop", catalogue).expect("the column exists")
}

fn reading() -> Reading {
    Reading { target: "t".into(), database: "shop".into(), search_path: None, replication: None }
}

struct Nobody;

impl Names for Nobody {
    fn prepared(&self, _: &str) -> Vec<Arc<Statement>> {
        Vec::new()
    }

    fn cursor(&self, _: &str) -> Vec<Arc<Statement>> {
        Vec::new()
    }
}

/// Classifies with `public.users.ssn` masked.
fn masked(text: &str) -> Statement {
    let catalogue = catalogue();
    classify(text, &reading(), &catalogue, &masking(&catalogue), &Nobody)
}

/// Classifies with nothing masked.
fn plain(text: &str) -> Statement {
    classify(text, &reading(), &catalogue(), &Masking::default(), &Nobody)
}

fn requests(statement: &Statement) -> BTreeSet<String> {
    statement.action.requests.iter().map(|request| format!("{} {}", request.action, request.resource)).collect()
}

fn shown(text: &str) -> String {
    masked(text).text.shown().clone()
}

#[test]
fn a_snapshot_wants_every_answer_in_its_shape() {
    let mut missing = answers();
    missing.pop();
    assert_eq!(Catalogue::build(missing).err(), Some(CatalogueError::Answers(QUERIES.len() - 1)));
    for query in 0..QUERIES.len() {
        let mut short = answers();
        short[query][0].pop();
        assert_eq!(Catalogue::build(short).err(), Some(CatalogueError::Field(query)));
        let mut null = answers();
        null[query][0][0] = None;
        assert_eq!(Catalogue::build(null).err(), Some(CatalogueError::Field(query)));
    }
    let mut kind = answers();
    kind[1][0][3] = Some("?".into());
    assert_eq!(Catalogue::build(kind).err(), Some(CatalogueError::Field(1)));
    assert_ne!(catalogue().serial(), catalogue().serial());
    let named = |oid| catalogue().function(oid).map(|function| function.name.clone());
    assert_eq!([871, 901, 902].map(named), [Some("upper".into()), Some("f".into()), None]);
}

#[test]
fn temporary_schemas_have_one_name() {
    let catalogue = catalogue();
    assert_eq!(catalogue.named("scratch").next().map(|relation| relation.schema.as_str()), Some("pg_temp"));
    assert_eq!(catalogue.schemas(), ["pg_catalog", "public", "sales"]);
}

#[test]
fn a_rule_without_a_column_is_named() {
    let catalogue = catalogue();
    for (table, column) in [("users", "nope"), ("nope", "ssn")] {
        let error = Masking::new(&[rule(None, table, column, Style::Null)], "shop", &catalogue).err();
        let column = format!("public.{table}.{column}");
        assert_eq!(error, Some(MaskingError { column, database: "shop".into(), line: 7 }));
    }
    let elsewhere = Masking::new(&[rule(Some("other"), "nope", "ssn", Style::Null)], "shop", &catalogue);
    assert!(elsewhere.is_ok_and(|masking| !masking.masks()));
}

#[test]
fn masking_follows_inheritance_both_ways() {
    let catalogue = catalogue();
    for table in ["users", "staff"] {
        let masking = Masking::new(&[rule(None, table, "ssn", Style::Hash)], "shop", &catalogue).expect("exists");
        let covered: Vec<_> = masking.columns().map(|column| (column.oid, column.attribute)).collect();
        assert_eq!(covered, [(10, 3), (11, 2)]);
    }
}

#[test]
fn the_rule_for_one_database_goes_before_the_one_for_all() {
    let catalogue = catalogue();
    let rules = [rule(None, "users", "ssn", Style::Null), rule(Some("shop"), "users", "ssn", Style::Last4)];
    let masking = Masking::new(&rules, "shop", &catalogue).expect("exists");
    assert_eq!(masking.cover(10, 3, &catalogue), Some(Cover::Style(Style::Last4)));
}

#[test]
fn origins_are_covered_or_unknown() {
    let catalogue = catalogue();
    let masking = masking(&catalogue);
    let cover = |oid, attribute| masking.cover(oid, attribute, &catalogue);
    assert_eq!(cover(10, 3), Some(Cover::Style(Style::Last4)));
    assert_eq!(cover(10, 1), Some(Cover::Clear));
    assert_eq!(cover(10, -1), Some(Cover::Clear), "a system column");
    assert_eq!(cover(0, 0), Some(Cover::Clear), "an expression");
    assert_eq!(cover(10, 0), None, "a whole row");
    assert_eq!(cover(12, 0), Some(Cover::Clear), "a whole row without masked columns");
    assert_eq!(cover(10, 2), None, "a column that the snapshot does not have");
    assert_eq!(cover(77, 1), None, "a table that the snapshot does not have");
    assert_eq!(cover(14, 1), None, "a view");
    let nothing = masking.without(&|_| true);
    assert_eq!(nothing.cover(77, 1, &catalogue), Some(Cover::Clear));
    assert_eq!(nothing.columns().count(), 2, "the log still masks what a principal may see");
}

#[test]
fn lists_leave_out_what_shows_data() {
    assert!(relations::is_listed("pg_catalog", "pg_aggregate") && relations::is_listed("pg_catalog", "pg_views"));
    for name in
        ["pg_statistic", "pg_stats", "pg_authid", "pg_shadow", "pg_largeobject", "pg_stat_activity", "pg_user_mapping"]
    {
        assert!(!relations::is_listed("pg_catalog", name), "{name}");
        assert!(!relations::is_listed("public", "pg_type"));
    }
    for name in
        ["query_to_xml", "ts_stat", "ts_rewrite", "lo_get", "pg_read_file", "set_config", "nextval", "pg_relation_size"]
    {
        assert!(!functions::is_listed(name), "{name}");
    }
}

#[test]
fn texts_are_shown_whole_only_if_they_touch_nothing_masked() {
    let clear = "SELECT note /* why */ FROM public.orders WHERE id = 5";
    assert_eq!(shown(clear), clear);
    assert!(masked(clear).parameters_clear);
    let touching = masked("SELECT id FROM users WHERE id = 5 /* 078-05-1120 */");
    assert!(!touching.parameters_clear);
    assert_eq!(touching.text.shown(), "SELECT id FROM users WHERE id = ?  ");
}

#[test]
fn every_kind_of_literal_is_replaced() {
    let text = "INSERT INTO users VALUES (1, 'a', E'b\\'c', $$d$$, $x$e$x$, U&'\\0061' UESCAPE '!', B'01', X'1F', 1.5e3, \
                0x1F, -7, N'f', 'g'\n'h') -- i\n";
    let shown = shown(text);
    assert!(!shown.chars().any(|c| c.is_ascii_digit() || c == '\''), "{shown}");
    assert!(!shown.contains(" i"), "{shown}");
}

#[test]
fn what_the_principal_may_see_is_still_masked_in_the_log() {
    let catalogue = catalogue();
    let unmasked = masking(&catalogue).without(&|_| true);
    let statement = classify("SELECT id FROM users WHERE ssn = '078'", &reading(), &catalogue, &unmasked, &Nobody);
    assert_eq!(statement.parts[0].answer, Answer::Clear);
    assert_eq!(statement.text.shown(), "SELECT id FROM users WHERE ssn = ?");
}

#[test]
fn texts_that_do_not_parse_are_not_shown() {
    assert_eq!(shown("SELEKT '078'"), "<12 bytes that do not parse>");
    assert_eq!(plain("ALTER ROLE x PASSWORD 'p' nonsense").text.shown(), "ALTER ROLE x PASSWORD ? nonsense");
    assert_eq!(plain("SELECT 'open").text.shown(), "<12 bytes that do not parse>");
}

#[test]
fn why_a_text_could_not_be_read_is_told() {
    let unread = |text: &str| plain(text).unread.unwrap_or_default();
    assert_eq!(unread("SELEKT 1"), "it does not parse: syntax error at or near \"SELEKT\"");
    assert_eq!(unread("SELECT 1"), "");
    assert!(unread(&format!("SELECT '{}", "x".repeat(5000))).len() < 300);
    assert_eq!(unread(&format!("SELECT {}1", "1+".repeat(200))), "it is nested too deeply");
}

#[test]
fn texts_that_the_scanner_is_slow_with_are_neither_parsed_nor_scanned() {
    for text in
        [format!("SELECT 1{}1", "+".repeat(100_000)), "/*".repeat(50_000), "+-*/ ".repeat(50_000) + &"=".repeat(5_000)]
    {
        let statement = plain(&text);
        assert_eq!(statement.unread.as_deref(), Some("it has too long runs of operator characters"));
        assert_eq!(statement.text.shown(), &format!("<{} bytes that do not parse>", text.len()));
    }
    let drawn = format!("INSERT INTO orders VALUES (1, '{}')", "-".repeat(2_000));
    assert_eq!(plain(&drawn).unread, None);
    // What is too long to be parsed is too long to be scanned.
    let long = format!("SELECT {}1", "a,".repeat(200_000));
    assert_eq!(plain(&long).text.shown(), &format!("<{} bytes that do not parse>", long.len()));
}

#[test]
fn passwords_are_not_shown() {
    for text in [
        "CREATE ROLE a PASSWORD 'secret'",
        "ALTER USER a WITH ENCRYPTED PASSWORD 'secret'",
        "CREATE SUBSCRIPTION s CONNECTION 'password=secret' PUBLICATION p",
        "CREATE USER MAPPING FOR a SERVER s OPTIONS (password 'secret')",
        "CREATE SERVER s FOREIGN DATA WRAPPER w OPTIONS (password 'secret')",
        "ALTER SYSTEM SET primary_conninfo = 'password=secret'",
        "SELECT * FROM dblink('password=secret', 'SELECT 1') AS t(a int)",
        "COPY orders TO PROGRAM 'curl -u secret'",
        "EXPLAIN SELECT dblink_connect('secret')",
        "SET app.token = 'secret'",
        "SELECT set_config('app.token', 'secret', true)",
    ] {
        let statement = plain(text);
        assert!(!statement.text.shown().contains("secret"), "{}", statement.text.shown());
        assert!(!statement.parameters_clear, "{text}");
    }
}

#[test]
fn a_text_beyond_the_parser_is_opaque() {
    for text in [
        format!("SELECT '{}'", "x".repeat(parse::LONGEST_PARSED)),
        format!("SELECT {}1", "1+".repeat(5000)),
        "\0".into(),
    ] {
        let statement = masked(&text);
        assert_eq!(requests(&statement), ["sql:opaque Database t.shop".to_owned()].into());
        assert!(matches!(statement.parts[0].answer, Answer::Unproven(_)));
        assert_eq!(statement.action.facts.get("has_where"), Some(&Fact::Bool(false)));
    }
}

#[test]
fn unqualified_names_mean_all_of_that_name() {
    assert_eq!(
        requests(&plain("SELECT 1 FROM orders")),
        ["sql:select Table t.shop.public.orders".to_owned(), "sql:select Table t.shop.sales.orders".to_owned()].into()
    );
    let proven = Reading { search_path: Some(vec!["sales".into()]), ..reading() };
    let statement = classify("SELECT 1 FROM orders", &proven, &catalogue(), &Masking::default(), &Nobody);
    assert_eq!(requests(&statement), ["sql:select Table t.shop.sales.orders".to_owned()].into());
}

#[test]
fn names_that_are_nowhere_are_told() {
    let statement = plain("SELECT 1 FROM nowhere");
    assert!(statement.unknown_names);
    assert_eq!(requests(&statement), ["sql:select Table t.shop.?.nowhere".to_owned()].into());
    assert!(!plain("SELECT 1 FROM orders").unknown_names);
    assert!(matches!(masked("SELECT 1 FROM nowhere").parts[0].answer, Answer::Unproven(_)));
}

#[test]
fn effects_are_told() {
    type Check = fn(&Effect) -> bool;
    let cases: [(&str, Check); 18] = [
        ("SELECT 1", |effect| matches!(effect, Effect::None)),
        ("PREPARE a AS SELECT 1", |effect| matches!(effect, Effect::Prepare { name, .. } if name == "a")),
        ("DECLARE c CURSOR FOR SELECT 1", |effect| matches!(effect, Effect::Declare { name, .. } if name == "c")),
        ("DEALLOCATE a", |effect| matches!(effect, Effect::Deallocate(Some(name)) if name == "a")),
        ("DEALLOCATE ALL", |effect| matches!(effect, Effect::Deallocate(None))),
        ("CLOSE c", |effect| matches!(effect, Effect::Close(Some(name)) if name == "c")),
        ("CLOSE ALL", |effect| matches!(effect, Effect::Close(None))),
        ("DISCARD ALL", |effect| matches!(effect, Effect::Discard)),
        ("DISCARD TEMP", |effect| matches!(effect, Effect::ChangesCatalogue)),
        ("DROP TABLE orders", |effect| matches!(effect, Effect::ChangesCatalogue)),
        ("SELECT 1 INTO x", |effect| matches!(effect, Effect::ChangesCatalogue)),
        ("SELECT f()", |effect| matches!(effect, Effect::ChangesCatalogue)),
        ("SELECT pg_sleep(1)", |effect| matches!(effect, Effect::None)),
        ("DO ''", |effect| matches!(effect, Effect::ChangesCatalogue)),
        ("COPY orders FROM STDIN", |effect| matches!(effect, Effect::CopyIn)),
        ("COPY orders TO STDOUT", |effect| matches!(effect, Effect::CopyOut)),
        ("COPY orders FROM '/tmp/x'", |effect| matches!(effect, Effect::ChangesCatalogue)),
        ("COPY orders TO PROGRAM 'x'", |effect| matches!(effect, Effect::ChangesCatalogue)),
    ];
    for (text, is_right) in cases {
        assert!(is_right(&plain(text).parts[0].effect), "{text}: {:?}", plain(text).parts[0].effect);
    }
}

#[test]
fn a_prepared_statement_carries_everything() {
    let statement = masked("PREPARE a AS DELETE FROM users");
    let Effect::Prepare { statement: inner, .. } = &statement.parts[0].effect else { panic!("{statement:?}") };
    assert_eq!(requests(inner), requests(&statement));
    assert_eq!(inner.text, statement.text);
    let executed = masked("PREPARE a AS DELETE FROM users; EXECUTE a; EXECUTE b");
    assert!(requests(&executed).contains("sql:opaque Database t.shop"), "b is not known");
    assert_eq!(executed.action.facts.get("has_where"), Some(&Fact::Bool(false)));
}

#[test]
fn a_name_that_may_be_two_statements_is_both() {
    struct Two(Vec<Arc<Statement>>);
    impl Names for Two {
        fn prepared(&self, _: &str) -> Vec<Arc<Statement>> {
            self.0.clone()
        }
        fn cursor(&self, _: &str) -> Vec<Arc<Statement>> {
            Vec::new()
        }
    }
    let catalogue = catalogue();
    let both =
        Two(vec![Arc::new(masked("SELECT note FROM public.orders")), Arc::new(masked("SELECT upper(ssn) FROM users"))]);
    let statement = classify("EXECUTE a", &reading(), &catalogue, &masking(&catalogue), &both);
    assert_eq!(
        requests(&statement),
        ["sql:select Table t.shop.public.orders".to_owned(), "sql:select Table t.shop.public.users".to_owned()].into()
    );
    assert!(matches!(statement.parts[0].answer, Answer::Unproven(_)));
    assert!(!statement.parameters_clear);
}

#[test]
fn each_statement_of_a_text_has_its_own_answer() {
    let statement = masked("SELECT 1; SELECT ssn FROM users; SELECT upper(ssn) FROM users");
    let answers: Vec<_> = statement.parts.iter().map(|part| &part.answer).collect();
    assert!(matches!(answers[..], [Answer::Clear, Answer::ByOrigin, Answer::Unproven(_)]), "{answers:?}");
}

#[test]
fn the_cache_keeps_what_depends_on_the_text_only() {
    let cache = Cache::default();
    let catalogue = catalogue();
    let hiding = masking(&catalogue);
    let ask = |text: &str, masking: &Masking| cache.classify(text, &reading(), &catalogue, masking, &Nobody);
    let first = ask("SELECT ssn FROM users", &hiding);
    assert!(Arc::ptr_eq(&first, &ask("SELECT ssn FROM users", &hiding)));
    assert!(
        Arc::ptr_eq(&first, &ask("SELECT ssn FROM users", &hiding.without(&|_| false))),
        "the same columns are hidden"
    );
    let unmasked = ask("SELECT ssn FROM users", &hiding.without(&|_| true));
    assert_eq!(unmasked.parts[0].answer, Answer::Clear);
    let named = ask("EXECUTE a", &hiding);
    assert!(!Arc::ptr_eq(&named, &ask("EXECUTE a", &hiding)));
}

#[test]
fn the_cache_is_bounded() {
    let cache = Cache::default();
    let catalogue = catalogue();
    let masking = Masking::default();
    let ask = |text: &str| cache.classify(text, &reading(), &catalogue, &masking, &Nobody);
    let first = ask("SELECT 0");
    for number in 1..1600 {
        ask(&format!("SELECT {number}"));
    }
    assert!(!Arc::ptr_eq(&first, &ask("SELECT 0")), "what is not asked for leaves");
    let long = format!("SELECT '{}'", "x".repeat(20 << 10));
    assert!(!Arc::ptr_eq(&ask(&long), &ask(&long)));
}

#[test]
fn startup_parameters_are_settings() {
    let action = |name: &str, value: &str| {
        let action = setting(name, Some(value), &reading());
        assert_eq!(action.facts.get("settings"), Some(&Fact::Set([name.to_ascii_lowercase()].into())));
        action.requests.first().map(|request| request.action.clone()).unwrap_or_default()
    };
    assert_eq!(action("Application_Name", "psql"), "sql:basics");
    assert_eq!(action("client_encoding", "UTF8"), "sql:basics");
    assert_eq!(action("client_encoding", "euc_jp"), "sql:set");
    assert_eq!(action("client_encoding", "Shift_JIS_2004"), "sql:opaque");
    for on in ["on", "TRUE", "t", "yes", "y", "1"] {
        assert_eq!(action("standard_conforming_strings", on), "sql:basics", "{on}");
    }
    for off in ["off", "0", "false", "no", "", "of", "o", "nonsense"] {
        assert_eq!(action("standard_conforming_strings", off), "sql:opaque", "{off}");
    }
    assert_eq!(action("ROLE", "postgres"), "sql:grant");
    assert_eq!(action("session_preload_libraries", "x"), "sql:set");
}

#[test]
fn names_in_values_are_read_as_the_server_reads_them() {
    let name = |schema: Option<&str>, name: &str| Some((schema.map(str::to_owned), name.to_owned()));
    assert_eq!(names::parse_name("Seq"), name(None, "seq"));
    assert_eq!(names::parse_name(" public . \"My \"\"Seq\" "), name(Some("public"), "My \"Seq"));
    assert_eq!(names::parse_name("\"a.b\".c"), name(Some("a.b"), "c"));
    for wrong in ["", "a.", ".a", "a b", "\"a", "a.b.c", "\"a\"b", "a\"b\""] {
        assert_eq!(names::parse_name(wrong), None, "{wrong}");
    }
}

#[test]
fn random_texts_do_not_panic() {
    use proptest::prelude::*;
    let words = prop::sample::select(vec![
        "SELECT",
        "FROM",
        "users",
        "ssn",
        "*",
        ",",
        "(",
        ")",
        "WHERE",
        "=",
        "'a'",
        "1",
        "WITH",
        "AS",
        "UPDATE",
        "SET",
        ".",
        "u",
        "ORDER BY",
        "UNION",
        "INSERT INTO",
        "VALUES",
        "RETURNING",
        ";",
        "EXECUTE",
        "a",
        "JOIN",
        "ON",
        "::",
        "text",
        "[",
        "]",
    ]);
    proptest!(|(words in prop::collection::vec(words, 0..24), noise in ".{0,40}")| {
        masked(&words.join(" "));
        let statement = masked(&noise);
        prop_assert!(!statement.action.requests.is_empty());
    });
}
