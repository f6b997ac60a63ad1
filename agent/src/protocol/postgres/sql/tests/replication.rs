//! Commands of replication connections.

use super::*;

#[test]
fn a_replication_connection_has_commands_of_its_own() {
    let of = |replication, text: &str| {
        let reading = Reading { replication: Some(replication), ..reading() };
        requests(&classify(text, &reading, &catalogue(), &Masking::default(), &Nobody))
    };
    let database = "sql:replication Database t.shop".to_owned();
    for text in ["IDENTIFY_SYSTEM", " start_replication SLOT s LOGICAL 0/0;", "BASE_BACKUP"] {
        assert_eq!(of(Replication::Logical, text), [database.clone()].into(), "{text}");
        assert_eq!(of(Replication::Physical, text), ["sql:replication Target t".to_owned()].into(), "{text}");
        assert!(requests(&plain(text)).contains("sql:opaque Database t.shop"), "{text}");
    }
    let select = of(Replication::Logical, "SELECT id FROM users");
    assert_eq!(select, [database.clone(), "sql:select Table t.shop.public.users".to_owned()].into());
    for text in ["-- a comment\nIDENTIFY_SYSTEM", "BASE_BACKUPS", "nonsense"] {
        assert!(of(Replication::Logical, text).contains("sql:opaque Database t.shop"), "{text}");
    }
    let named = ["on", "T", "database", "off", "0", "no", "o", "maybe"].map(Replication::named);
    let (physical, logical) = (Some(Some(Replication::Physical)), Some(Some(Replication::Logical)));
    assert_eq!(named, [physical, physical, logical, Some(None), Some(None), Some(None), None, None]);
}
