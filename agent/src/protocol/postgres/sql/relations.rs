//! Catalogue relations that everyone may read: what drivers and `psql` look at by themselves.

/// Relations of `pg_catalog` that hold definitions, names and settings, and none of the data in tables.
///
/// Left out, so that they need `sql:select`: statistics, which hold samples of columns (`pg_statistic`, `pg_stats`, …);
/// texts and activity of other sessions (`pg_stat_activity`, …); large objects; secrets (`pg_authid`, `pg_shadow`,
/// `pg_user_mapping`, `pg_subscription`); files of the server (`pg_hba_file_rules`, `pg_file_settings`); the values of
/// sequences (`pg_sequences`).
const CATALOGUE: &[&str] = &[
    "pg_aggregate",
    "pg_am",
    "pg_amop",
    "pg_amproc",
    "pg_attrdef",
    "pg_attribute",
    "pg_auth_members",
    "pg_available_extension_versions",
    "pg_available_extensions",
    "pg_cast",
    "pg_class",
    "pg_collation",
    "pg_constraint",
    "pg_conversion",
    "pg_cursors",
    "pg_database",
    "pg_default_acl",
    "pg_depend",
    "pg_description",
    "pg_enum",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_foreign_table",
    "pg_group",
    "pg_index",
    "pg_indexes",
    "pg_inherits",
    "pg_init_privs",
    "pg_language",
    "pg_matviews",
    "pg_namespace",
    "pg_opclass",
    "pg_operator",
    "pg_opfamily",
    "pg_parameter_acl",
    "pg_partitioned_table",
    "pg_policies",
    "pg_policy",
    "pg_prepared_statements",
    "pg_proc",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_publication_tables",
    "pg_range",
    "pg_rewrite",
    "pg_roles",
    "pg_rules",
    "pg_seclabel",
    "pg_seclabels",
    "pg_sequence",
    "pg_settings",
    "pg_shdepend",
    "pg_shdescription",
    "pg_shseclabel",
    "pg_statistic_ext",
    "pg_tables",
    "pg_tablespace",
    "pg_timezone_abbrevs",
    "pg_timezone_names",
    "pg_transform",
    "pg_trigger",
    "pg_ts_config",
    "pg_ts_config_map",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
    "pg_type",
    "pg_user",
    "pg_views",
];

/// Views of `information_schema` that need more than `sql:basics`: they show options, where passwords may be.
const OPTIONS: &[&str] = &[
    "_pg_foreign_data_wrappers",
    "_pg_foreign_servers",
    "_pg_foreign_table_columns",
    "_pg_foreign_tables",
    "_pg_user_mappings",
    "column_options",
    "foreign_data_wrapper_options",
    "foreign_server_options",
    "foreign_table_options",
    "user_mapping_options",
];

/// Whether reading this relation needs no more than `sql:basics`, and shows nothing of any table's data.
///
/// `information_schema` is the standard's, owned by the server's superuser, and shows definitions only.
pub(super) fn is_listed(schema: &str, name: &str) -> bool {
    match schema {
        "pg_catalog" => CATALOGUE.contains(&name),
        "information_schema" => !OPTIONS.contains(&name),
        _ => false,
    }
}
