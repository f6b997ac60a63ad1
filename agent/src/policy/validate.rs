//! Strict validation against the schema, and Cedar's diagnostics as faults.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use cedar_policy::{PolicyId, PolicySet, ValidationMode, ValidationWarning, Validator};
use miette::Diagnostic;

use super::{fault::Fault, load::Entry, vocabulary::Vocabulary};

/// Actions that one fault lists; a policy without an action in its scope is about all of them.
const LISTED: usize = 5;

/// Validates. What Cedar only warns of is a fault too: a policy that can never apply protects nothing, and a name that only
/// looks like another deceives the reader.
pub(super) fn strictly(
    vocabulary: &Vocabulary,
    policies: &[Entry],
    texts: &BTreeMap<PathBuf, String>,
    faults: &mut Vec<Fault>,
) {
    let set = match PolicySet::from_policies(policies.iter().map(|entry| entry.policy.clone())) {
        Ok(set) => set,
        Err(error) => {
            faults.extend(policies.first().map(|entry| Fault::whole(&entry.file, error.to_string())));
            return;
        }
    };
    let result = Validator::new(vocabulary.schema.clone()).validate(&set, ValidationMode::Strict);
    let errors: Vec<(&PolicyId, &dyn Diagnostic)> =
        result.validation_errors().map(|error| (error.policy_id(), error as &dyn Diagnostic)).collect();
    // A warning about a policy that has an error or another warning says the same again, less clearly.
    let mut warnings: HashMap<&PolicyId, &dyn Diagnostic> = HashMap::new();
    for warning in result.validation_warnings() {
        let id = warning.policy_id();
        if errors.iter().all(|(wrong, _)| *wrong != id)
            && (!matches!(warning, ValidationWarning::ImpossiblePolicy(_)) || !warnings.contains_key(id))
        {
            warnings.insert(id, warning);
        }
    }
    let mut found = Vec::new();
    for (id, diagnostic) in errors.into_iter().chain(warnings) {
        if let Some(entry) = policies.iter().find(|entry| entry.policy.id() == id) {
            found.push(fault(&entry.file, &texts[&entry.file], &entry.span, diagnostic));
        }
    }
    faults.extend(merged(found, vocabulary));
}

/// A fault from what Cedar says; at `span` if it does not say where.
pub(super) fn fault(file: &Path, text: &str, span: &Range<usize>, diagnostic: &dyn Diagnostic) -> Fault {
    let label = diagnostic.labels().and_then(|mut labels| labels.next());
    let span = label.as_ref().map_or_else(|| span.clone(), |label| label.offset()..label.offset() + label.len());
    let fault = Fault::at(file, text, span.start, span.end, plain(&diagnostic.to_string()));
    let help = diagnostic.help().map(|help| help.to_string());
    match help.or_else(|| label.and_then(|label| label.label().map(ToOwned::to_owned))) {
        Some(hint) => fault.hint(plain(&hint)),
        None if fault.message.contains("applicable action") || fault.message.contains("impossible") => fault.hint(
            "It can never apply: see whether its actions act on such resources, and what its conditions rule out.",
        ),
        None => fault,
    }
}

/// Without the policy's number, which is not the operator's.
fn plain(said: &str) -> String {
    match said.strip_prefix("for policy `").and_then(|rest| rest.split_once("`, ")) {
        Some((_, rest)) => rest.to_owned(),
        None => said.to_owned(),
    }
}

/// Cedar reports a missing fact once for each action that a policy is about: here that is one fault.
fn merged(found: Vec<Fault>, vocabulary: &Vocabulary) -> Vec<Fault> {
    let known: BTreeSet<&str> =
        vocabulary.actions.values().flat_map(|term| &term.facts).map(|(name, _)| name.as_str()).collect();
    let mut faults: Vec<Fault> = Vec::new();
    let mut missing: Vec<(Fault, String, Vec<String>)> = Vec::new();
    for fault in found {
        let Some((fact, action)) = missing_fact(&fault.message) else {
            if !faults.contains(&fault) {
                faults.push(fault);
            }
            continue;
        };
        let same = |(other, of, _): &&mut (Fault, String, Vec<String>)| {
            of == fact && (&other.file, other.line, other.column) == (&fault.file, fault.line, fault.column)
        };
        match missing.iter_mut().find(same) {
            Some((_, _, actions)) => actions.push(action.to_owned()),
            None => missing.push((fault.clone(), fact.to_owned(), vec![action.to_owned()])),
        }
    }
    for (fault, fact, mut actions) in missing {
        if actions.len() < 2 {
            faults.push(fault);
            continue;
        }
        actions.sort_unstable();
        let more = actions.len().saturating_sub(LISTED);
        let mut list = actions.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        if more > 0 {
            list.push_str(&format!(" and {more} more"));
        }
        let hint = if known.contains(fact.as_str()) {
            format!("Name in the scope only actions that have it, or test for it first: context has {fact} && …")
        } else {
            format!("No action has such a fact: known are {}.", known.iter().copied().collect::<Vec<_>>().join(", "))
        };
        faults.push(Fault { message: format!("there is no context.{fact} in {list}"), ..fault }.hint(hint));
    }
    faults
}

/// The fact and the action that Cedar's message is about.
fn missing_fact(message: &str) -> Option<(&str, &str)> {
    let (fact, rest) = message.strip_prefix("attribute `")?.split_once("` in context for Action::\"")?;
    Some((fact, rest.strip_suffix("\" not found")?))
}
