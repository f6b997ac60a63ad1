//! A policy's annotations: what Postern reads from them, and which of them make no sense.

use std::{ops::Range, path::Path};

use cedar_policy::{Effect, Policy};

use super::fault::Fault;

/// The annotations that policies may have.
const KNOWN: &str = "@id, @reason, @approval, @approvals, @timeout";
/// An id or a group is shown in errors, listings and the log.
const MAX_NAME: usize = 128;
/// A reason goes into an error message of the client's protocol.
const MAX_REASON: usize = 500;

/// A policy, as a verdict refers to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Its `@id`, unique in the set.
    pub(super) id: String,
    /// Its `@reason`.
    pub(super) reason: Option<String>,
    /// On a forbid: the group whose approval would lift it.
    pub(super) approval: Option<String>,
}

/// Where a policy stands.
pub(super) struct Place<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
    pub(super) span: &'a Range<usize>,
}

impl Place<'_> {
    /// A fault of the annotation `@name`, or of the policy if it has none.
    fn fault(&self, name: &str, message: String) -> Fault {
        let rest = self.text.get(self.span.clone()).unwrap_or_default();
        let sign = format!("@{name}");
        let offset = rest
            .match_indices(&sign)
            .find(|(at, _)| !rest[at + sign.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_'))
            .map(|(at, _)| at);
        let start = self.span.start + offset.unwrap_or(0);
        let length = if offset.is_some() { sign.len() } else { rest.find('\n').unwrap_or(rest.len()) };
        Fault::at(self.file, self.text, start, start + length, message)
    }
}

/// Reads the annotations of a policy. With any fault, the answer is only good for going on to find more.
pub(super) fn read(policy: &Policy, place: &Place<'_>, faults: &mut Vec<Fault>) -> Rule {
    let mut rule = Rule { id: String::new(), reason: None, approval: None };
    let mut dependent = Vec::new();
    // A template without a link cannot be here, and Cedar refuses a second annotation of the same name.
    let mut annotations: Vec<(&str, &str)> = policy.annotations().collect();
    annotations.sort_unstable();
    for (name, value) in annotations {
        let problem = match name {
            "id" => {
                value.clone_into(&mut rule.id);
                (!is_name(value)).then_some("an id is made of letters, digits, '.', '_' and '-'")
            }
            "reason" => {
                rule.reason = Some(value.to_owned());
                let shown = !value.trim().is_empty() && value.len() <= MAX_REASON && !value.contains(char::is_control);
                (!shown).then_some("a reason is one line of at most 500 bytes")
            }
            "approval" => {
                rule.approval = Some(value.to_owned());
                if policy.effect() == Effect::Permit {
                    faults.push(
                        place.fault(name, "@approval on a permit would be bypassed by any broader permit".into()).hint(
                            "Put it on a forbid: the forbid then holds until a member of that group has approved.",
                        ),
                    );
                }
                (!is_name(value)).then_some("an approval names a group, made of letters, digits, '.', '_' and '-'")
            }
            "approvals" => {
                dependent.push(name);
                (!value.parse::<u8>().is_ok_and(|count| count > 0)).then_some("this is a number from 1 to 255")
            }
            "timeout" => {
                dependent.push(name);
                (!is_duration(value)).then_some("this is a duration such as \"90s\", \"5m\" or \"1h\"")
            }
            "record" => {
                faults.push(
                    place
                        .fault(name, "@record is not available in this version".into())
                        .hint("Remove it: statements, verdicts and size-capped masked answers are recorded."),
                );
                None
            }
            _ => {
                faults.push(
                    place
                        .fault(name, format!("unknown annotation @{name}"))
                        .hint(format!("Postern knows {KNOWN}. A note to the reader can be a // comment.")),
                );
                None
            }
        };
        if let Some(problem) = problem {
            faults.push(place.fault(name, format!("@{name}({value:?}): {problem}")));
        }
    }
    if policy.annotation("id").is_none() {
        faults.push(
            place
                .fault("id", "this policy has no @id".into())
                .hint("Put @id(\"…\") above it: errors, listings and the log name policies by their id."),
        );
    }
    for name in dependent.into_iter().filter(|_| rule.approval.is_none()) {
        faults.push(place.fault(name, format!("@{name} says nothing without @approval")));
    }
    rule
}

/// What may stand in errors, listings and URLs without quotes.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text.chars().all(|each| each.is_ascii_alphanumeric() || matches!(each, '.' | '_' | '-'))
}

/// A number of seconds, minutes or hours.
fn is_duration(text: &str) -> bool {
    text.strip_suffix(['s', 'm', 'h'])
        .is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count > 0) && !count.starts_with('+'))
}
