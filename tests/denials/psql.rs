//! Situations in psql, whose settings decide what becomes of a session after an error.

use agent_tests::Cmd;

/// A situation: arguments, and what is typed in. `{D}` is [`DENIED`](crate::raw::DENIED).
pub struct Psql {
    /// What is special about it.
    pub name: &'static str,
    /// Arguments beside the usual ones.
    pub args: &'static [&'static str],
    /// The input.
    pub input: &'static str,
    /// As that of [`Raw`](crate::raw::Raw).
    pub proof: &'static str,
}

/// All of them.
pub const SITUATIONS: &[Psql] = &[
    Psql {
        name: "psql: a script goes on",
        args: &[],
        input: "INSERT INTO work VALUES (10, 'before');\n{D};\n\\echo :ERROR :SQLSTATE :LAST_ERROR_SQLSTATE\nINSERT INTO work VALUES (11, 'after');\n",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: ON_ERROR_STOP within a transaction",
        args: &["-v", "ON_ERROR_STOP=1"],
        input: "BEGIN;\nINSERT INTO work VALUES (10, 'before');\n{D};\nCOMMIT;\n",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: ON_ERROR_ROLLBACK",
        args: &["-v", "ON_ERROR_ROLLBACK=on"],
        input: "BEGIN;\nINSERT INTO work VALUES (10, 'before');\n{D};\nINSERT INTO work VALUES (11, 'between');\n\
                INSERT INTO closed.vault VALUES (2, 'again');\nSAVEPOINT mine;\n{D};\nROLLBACK TO mine;\nCOMMIT;\n",
        proof: "vault|2|again",
    },
    Psql {
        name: "psql: ON_ERROR_ROLLBACK=interactive, which a script is not",
        args: &["-v", "ON_ERROR_ROLLBACK=interactive"],
        input: "BEGIN;\nINSERT INTO work VALUES (10, 'before');\n{D};\nSELECT 1;\nCOMMIT;\n",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: AUTOCOMMIT off",
        args: &["-v", "AUTOCOMMIT=off"],
        input: "INSERT INTO work VALUES (10, 'before');\n{D};\nINSERT INTO work VALUES (11, 'lost');\nROLLBACK;\n\
                INSERT INTO work VALUES (12, 'kept');\nCOMMIT;\n{D};\nCOMMIT;\n",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: --single-transaction",
        args: &["-1", "-f", "-"],
        input: "INSERT INTO work VALUES (10, 'before');\n{D};\nINSERT INTO work VALUES (11, 'after');\n",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: --single-transaction and ON_ERROR_STOP",
        args: &["-1", "-v", "ON_ERROR_STOP=1", "-f", "-"],
        input: "INSERT INTO work VALUES (10, 'before');\n{D};\nINSERT INTO work VALUES (11, 'after');\n",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: several -c, each of its own",
        args: &[
            "-c",
            "INSERT INTO work VALUES (10, 'before')",
            "-c",
            "{D}",
            "-c",
            "INSERT INTO work VALUES (11, 'after')",
        ],
        input: "",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: several -c in a single transaction",
        args: &["-1", "-c", "INSERT INTO work VALUES (10, 'before')", "-c", "{D}", "-c", "SELECT 1"],
        input: "",
        proof: "vault|1|in",
    },
    Psql {
        name: "psql: \\gexec, in the middle of what it makes",
        args: &[],
        input: "BEGIN;\nSAVEPOINT s;\nSELECT format('INSERT INTO %s VALUES (%s, ''made'')', t, n) FROM (VALUES (1, 'work', 10), (2, 'closed.vault', 9), \
                (3, 'work', 11)) v(o, t, n) ORDER BY o \\gexec\nROLLBACK TO s;\nCOMMIT;\nINSERT INTO closed.vault VALUES (9, 'made');\n",
        proof: "vault|9|made",
    },
    Psql {
        name: "psql: \\gset, whose variables stay unset",
        args: &[],
        input: "SELECT 'unset' AS note \\gset\nINSERT INTO closed.vault VALUES (3, 'set') RETURNING note \\gset\n\\echo :note\nINSERT INTO work VALUES (10, :'note');\n",
        proof: "work|10|set",
    },
    Psql {
        name: "psql: FETCH_COUNT, whose cursor is refused within a transaction of psql's own",
        args: &["-v", "FETCH_COUNT=2"],
        input: "INSERT INTO work VALUES (10, 'before');\nSELECT 'shown', count(*) FROM closed.vault;\nSELECT id FROM work ORDER BY id;\n",
        proof: "shown",
    },
    Psql {
        name: "psql: FETCH_COUNT in a transaction",
        args: &["-v", "FETCH_COUNT=2"],
        input: "BEGIN;\nSELECT id FROM work ORDER BY id;\nSELECT 'shown', count(*) FROM closed.vault;\nSELECT id FROM work;\nCOMMIT;\n",
        proof: "shown",
    },
    Psql {
        name: "psql: COPY with its data in the script, which is then read as commands",
        args: &[],
        input: "COPY closed.vault FROM STDIN;\n4\tcopied\n\\.\nINSERT INTO work VALUES (10, 'after');\n",
        proof: "vault|4|copied",
    },
    Psql {
        name: "psql: \\copy to a program",
        args: &[],
        input: "BEGIN;\nINSERT INTO work VALUES (10, 'before');\n\\copy (SELECT 'copied', count(*) FROM closed.vault) TO STDOUT\n\\copy work TO STDOUT\nCOMMIT;\n",
        proof: "copied",
    },
    Psql {
        name: "psql: \\gdesc, which only parses",
        args: &[],
        input: "BEGIN;\nINSERT INTO closed.vault VALUES (5, 'described') RETURNING note \\gdesc\nSELECT 1 AS one \\gdesc\nCOMMIT;\n",
        proof: "note|text",
    },
    Psql {
        name: "psql: \\if takes the other way",
        args: &[],
        input: "{D};\n\\if :ERROR\nINSERT INTO work VALUES (10, 'refused');\n\\else\nINSERT INTO work VALUES (10, 'done');\n\\endif\n",
        proof: "work|10|done",
    },
    Psql {
        name: "psql: \\; within ON_ERROR_ROLLBACK",
        args: &["-v", "ON_ERROR_ROLLBACK=on"],
        input: "BEGIN;\nINSERT INTO work VALUES (10, 'before');\n{D}\\; SELECT 1;\nINSERT INTO work VALUES (11, 'after');\nCOMMIT;\n",
        proof: "vault|1|in",
    },
];

/// psql as each situation has it: errors are shown by their SQLSTATE only.
pub fn command(situation: &Psql, denied: &str) -> Cmd {
    Cmd::new("/usr/lib/postgresql/15/bin/psql")
        .args(["-X", "-A", "-t", "-v", "VERBOSITY=sqlstate"])
        .args(situation.args.iter().map(|arg| arg.replace("{D}", denied)))
        .input(situation.input.replace("{D}", denied))
}
