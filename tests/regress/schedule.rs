//! Which tests there are, and in which order the server's developers run them.

use std::{collections::BTreeSet, fs, path::Path};

use agent_tests::Outcome;

/// Tests that are left out everyday: they define much, and after each definition the catalogue is read again. What they would
/// have made is missing on both sides alike.
const LONG: &[&str] = &[
    "aggregates",
    "alter_generic",
    "alter_table",
    "box",
    "brin",
    "brin_multi",
    "btree_index",
    "cluster",
    "collate",
    "collate.icu.utf8",
    "constraints",
    "create_aggregate",
    "create_am",
    "create_function_sql",
    "create_index",
    "create_index_spgist",
    "create_procedure",
    "create_role",
    "create_table",
    "create_table_like",
    "create_type",
    "create_view",
    "domain",
    "drop_if_exists",
    "enum",
    "errors",
    "event_trigger",
    "fast_default",
    "foreign_data",
    "foreign_key",
    "generated",
    "gin",
    "gist",
    "groupingsets",
    "hash_index",
    "identity",
    "incremental_sort",
    "index_including",
    "index_including_gist",
    "indexing",
    "inherit",
    "insert",
    "insert_conflict",
    "join",
    "join_hash",
    "jsonb",
    "largeobject",
    "matview",
    "memoize",
    "merge",
    "multirangetypes",
    "mvcc",
    "numeric",
    "partition_aggregate",
    "partition_join",
    "partition_prune",
    "plpgsql",
    "polymorphism",
    "privileges",
    "publication",
    "rangefuncs",
    "rangetypes",
    "roleattributes",
    "rowsecurity",
    "rules",
    "select",
    "select_distinct",
    "select_parallel",
    "sequence",
    "stats",
    "stats_ext",
    "subscription",
    "subselect",
    "tablespace",
    "triggers",
    "truncate",
    "tsearch",
    "updatable_views",
    "update",
    "vacuum",
    "with",
    "write_parallel",
];

/// The tests of `parallel_schedule`, one after the other: each may need what those before it have made.
///
/// # Errors
/// The schedule cannot be read, or names a test that has no file.
pub fn read(source: &Path, all: bool) -> Outcome<Vec<String>> {
    let file = source.join("parallel_schedule");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let groups = text.lines().filter_map(|line| line.strip_prefix("test:"));
    let tests: Vec<String> = groups.flat_map(str::split_whitespace).map(str::to_owned).collect();
    let distinct: BTreeSet<&String> = tests.iter().collect();
    if let Some(unknown) = LONG.iter().find(|name| !tests.iter().any(|test| test == *name)) {
        return Err(format!("{} does not name {unknown}", file.display()));
    }
    match tests.iter().find(|test| !source.join(format!("sql/{test}.sql")).is_file()) {
        Some(test) => Err(format!("{} names {test}, which has no file", file.display())),
        None if distinct.len() < tests.len() => Err(format!("{} names a test twice", file.display())),
        None => Ok(tests.into_iter().filter(|test| all || !LONG.contains(&test.as_str())).collect()),
    }
}
