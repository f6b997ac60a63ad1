//! `postern policy test`: a table of expected verdicts, `verdicts.toml`, beside the policies.
//!
//! A case gives as much of the world as it needs: a process that nothing is known of but its roles, facts that are false, 0
//! or empty, and a Wednesday noon, unless it says otherwise.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use jiff::{civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::model::{Executable, Fact, Flow, Fragment, Principal, Process, Request, Verdict};

use super::{
    fault::{Fault, LoadErrors},
    load::{Policies, text},
    vocabulary::Type,
};

/// Name of the table in a directory of policies.
const TABLE: &str = "verdicts.toml";

/// What a test found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// The directory.
    pub directory: PathBuf,
    /// The cases, in the order of the table; empty if there are faults.
    pub cases: Vec<Case>,
    /// Ids of policies that determined no case's verdict: nothing shows that they do what they are meant to.
    pub untested: Vec<String>,
    /// What kept the cases from being tried.
    pub faults: Vec<Fault>,
}

/// One case, tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// What the table calls it.
    pub name: String,
    /// Whether the verdict was the expected one.
    pub passed: bool,
    /// The verdict that the table expects.
    pub expected: String,
    /// The verdict that the policies gave.
    pub verdict: String,
}

impl Tested {
    /// Whether there were cases, and all of them got the verdict that they expect.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.faults.is_empty() && !self.cases.is_empty() && self.cases.iter().all(|case| case.passed)
    }
}

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    case: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    process: Facts,
    action: String,
    resource: String,
    #[serde(default)]
    facts: BTreeMap<String, Fact>,
    at: Option<toml_edit::Datetime>,
    expect: Expect,
    rule: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Permit,
    Deny,
}

/// What is known of the process.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Facts {
    uid: u32,
    user: Option<String>,
    gid: u32,
    groups: BTreeSet<String>,
    exe: Option<PathBuf>,
    exe_sha256: Option<String>,
    unit: Option<String>,
    user_unit: Option<String>,
    container: Option<String>,
    cgroup: String,
}

/// Tries the table of a directory on its policies.
#[must_use]
pub fn test(directory: &Path, fragments: &[Fragment]) -> Tested {
    let mut tested =
        Tested { directory: directory.to_owned(), cases: Vec::new(), untested: Vec::new(), faults: Vec::new() };
    let policies = match Policies::load(directory, fragments) {
        Ok(policies) => policies,
        Err(LoadErrors(faults)) => return Tested { faults, ..tested },
    };
    let rows = match read(&directory.join(TABLE)) {
        Ok(rows) => rows,
        Err(fault) => return Tested { faults: vec![fault], ..tested },
    };
    let mut untested: BTreeSet<&str> = policies.ids().collect();
    for row in &rows {
        match verdict(&policies, row) {
            Err(message) => {
                let message = format!("case \"{}\": {message}", row.name);
                tested.faults.push(Fault::whole(&directory.join(TABLE), message));
            }
            Ok(verdict) => {
                for rule in rules(&verdict) {
                    untested.remove(rule.as_str());
                }
                tested.cases.push(case(row, &verdict));
            }
        }
    }
    tested.untested = untested.into_iter().map(ToOwned::to_owned).collect();
    tested
}

/// The rows of a table.
fn read(table: &Path) -> Result<Vec<Row>, Fault> {
    let text = text(table).map_err(|message| {
        Fault::whole(table, message).hint("Each directory of policies is tested by the verdicts.toml in it.")
    })?;
    let rows = toml_edit::de::from_str::<Table>(&text).map(|table| table.case).map_err(|error| {
        let message = error.message().trim().replace('\n', ", ");
        match error.span() {
            Some(span) => Fault::at(table, &text, span.start, span.end, message),
            None => Fault::whole(table, message),
        }
    })?;
    if rows.is_empty() { Err(Fault::whole(table, "there is no [[case]] here")) } else { Ok(rows) }
}

/// What the policies say to a row.
fn verdict(policies: &Policies, row: &Row) -> Result<Verdict, String> {
    let vocabulary = &policies.vocabulary;
    let term = vocabulary.actions.get(&row.action).ok_or_else(|| format!("no action is named {}", row.action))?;
    let resource = vocabulary.resource(&row.resource).ok_or_else(|| {
        format!("{:?} is not a resource, which is written as in \"Table orders.shop.public.customers\"", row.resource)
    })?;
    let attributes = vocabulary.kinds.get(resource.kind()).map(|kind| kind.attributes.as_slice()).unwrap_or_default();
    let mut facts: BTreeMap<String, Fact> = term.facts.iter().map(|(name, of)| (name.clone(), neutral(*of))).collect();
    facts.extend(attributes.iter().map(|(name, of)| (format!("resource.{name}"), neutral(*of))));
    for (name, fact) in &row.facts {
        match facts.get_mut(name) {
            Some(known) => known.clone_from(fact),
            None => return Err(format!("{} on {} has no fact named {name}", row.action, resource.kind())),
        }
    }
    let noon = jiff::civil::date(2026, 1, 7).at(12, 0, 0, 0);
    let at = row.at.map_or(Ok(noon), |at| at.to_string().parse::<DateTime>()).map_err(|error| error.to_string())?;
    let now = at.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
    let facts = facts.iter().map(|(name, fact)| (name.as_str(), fact)).collect();
    let request = Request::new(&row.action, resource);
    Ok(policies.judge(&principal(row), [&request].into_iter(), &facts, &now))
}

fn neutral(of: Type) -> Fact {
    match of {
        Type::Bool => Fact::Bool(false),
        Type::Long => Fact::Long(0),
        Type::Text => Fact::Text(String::new()),
        Type::Set => Fact::Set(BTreeSet::new()),
    }
}

/// The principal of a row. Its flow says nothing, and no policy sees it.
fn principal(row: &Row) -> Principal {
    let facts = &row.process;
    Principal {
        flow: Flow { uid: facts.uid, gid: facts.gid, ..Flow::imagined(([0, 0, 0, 0], 0).into()) },
        process: Process {
            pid: 1,
            started: 0,
            uid: facts.uid,
            user: facts.user.clone(),
            gid: facts.gid,
            groups: facts.groups.clone(),
            exe: Executable {
                path: facts.exe.clone().unwrap_or_default(),
                device: 0,
                inode: 0,
                sha256: facts.exe_sha256.clone(),
                verified: facts.exe.is_some(),
            },
            argv: Vec::new(),
            directory: PathBuf::new(),
            cgroup: facts.cgroup.clone(),
            unit: facts.unit.clone(),
            user_unit: facts.user_unit.clone(),
            container: facts.container.clone(),
        },
        roles: row.roles.clone(),
    }
}

/// The policies that a verdict rests on.
fn rules(verdict: &Verdict) -> Vec<String> {
    match verdict {
        Verdict::Permit { rules } => rules.clone(),
        Verdict::Deny(denial) => denial.rule.clone().into_iter().collect(),
    }
}

fn case(row: &Row, verdict: &Verdict) -> Case {
    let same =
        matches!((row.expect, verdict), (Expect::Permit, Verdict::Permit { .. }) | (Expect::Deny, Verdict::Deny(_)));
    let word = if row.expect == Expect::Permit { "permit" } else { "deny" };
    Case {
        name: row.name.clone(),
        passed: same && row.rule.as_ref().is_none_or(|rule| rules(verdict).contains(rule)),
        expected: row.rule.as_ref().map_or_else(|| word.to_owned(), |rule| format!("{word} by {rule}")),
        verdict: match verdict {
            Verdict::Permit { rules } => format!("permit by {}", rules.join(", ")),
            Verdict::Deny(denial) => match &denial.rule {
                Some(rule) => format!("deny by {rule}: {}", denial.reason),
                None => format!("deny: {}", denial.reason),
            },
        },
    }
}

impl fmt::Display for Tested {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.faults {
            writeln!(f, "{fault}\n")?;
        }
        for case in &self.cases {
            if case.passed {
                writeln!(f, "ok    {}", case.name)?;
            } else {
                writeln!(f, "WRONG {}\n      expected {}\n      verdict  {}", case.name, case.expected, case.verdict)?;
            }
        }
        if !self.untested.is_empty() {
            writeln!(f, "note: no case shows what these policies do: {}", self.untested.join(", "))?;
        }
        if self.cases.is_empty() && !self.faults.is_empty() {
            return write!(f, "no case was tried");
        }
        let wrong = self.cases.iter().filter(|case| !case.passed).count();
        write!(f, "{} right, {wrong} wrong", self.cases.len() - wrong)
    }
}
