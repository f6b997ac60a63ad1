//! What `psql` sends by itself, for its own commands: it must need nothing beyond `sql:basics`, and be clear.

use std::{collections::BTreeSet, error::Error};

use agent::protocol::postgres::sql::{Answer, catalogue::Catalogue, classify};

use crate::{
    Tally,
    known::{Session, reading},
    proofs::masking,
    server::Server,
};

/// Commands that describe things. Not among them are those that show sizes (`\dt+`, `\l+`), which tell of masked
/// values, and those that show options and settings where passwords may be (`\deu`, `\drds`).
const COMMANDS: &[&str] = &[
    "\\d",
    "\\d public.orders",
    "\\d public.open_orders",
    "\\d public.events",
    "\\d public.staff",
    "\\d+ public.open_orders",
    "\\d public.numbers",
    "\\d public.orders_pkey",
    "\\da",
    "\\dA",
    "\\db",
    "\\dc",
    "\\dC",
    "\\dd",
    "\\dD",
    "\\ddp",
    "\\des",
    "\\det",
    "\\dew",
    "\\df",
    "\\df+ public.add_up",
    "\\dF",
    "\\dFd",
    "\\dFp",
    "\\dFt",
    "\\dg",
    "\\di",
    "\\dL",
    "\\dm",
    "\\dn",
    "\\dn+",
    "\\do",
    "\\dO",
    "\\dp",
    "\\dP",
    "\\dRp",
    "\\ds",
    "\\dt",
    "\\dt public.*",
    "\\dT",
    "\\dT+",
    "\\du",
    "\\dv",
    "\\dx",
    "\\dX",
    "\\dy",
    "\\l",
    "\\sf public.add_up",
    "\\sv public.open_orders",
    "\\z",
    "\\conninfo",
];

/// Starts every query that `psql -E` shows; the same line without a name ends it.
const QUERY: &str = "********* QUERY **********";
const END: &str = "**************************";

/// Classifies what psql shows that it sends. Returns how many texts there are.
pub fn run(tally: &mut Tally, server: &Server, catalogue: &Catalogue) -> Result<usize, Box<dyn Error>> {
    let masking = masking(catalogue)?;
    let session = Session::new("SELECT 1", catalogue, &masking);
    let mut texts = BTreeSet::new();
    for command in COMMANDS {
        let output = server.psql().args(["--echo-hidden", "--command", command]).output()?;
        let shown = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            tally.note(command, vec![String::from_utf8_lossy(&output.stderr).into_owned()]);
        }
        for part in shown.split(QUERY).skip(1) {
            let text = part.split(END).next().unwrap_or_default().trim();
            texts.insert((*command, text.to_owned()));
        }
    }
    for (command, text) in &texts {
        let statement = classify(text, &reading(None), catalogue, &masking, &session);
        let mut problems: Vec<String> = statement
            .action
            .requests
            .iter()
            .filter(|request| request.action != "sql:basics")
            .map(|request| format!("asks for {} on {}", request.action, request.resource))
            .collect();
        for part in statement.parts.iter().filter(|part| part.answer != Answer::Clear) {
            problems.push(format!("{:?}", part.answer));
        }
        if !problems.is_empty() {
            problems.push(text.clone());
        }
        tally.note(command, problems);
    }
    Ok(texts.len())
}
