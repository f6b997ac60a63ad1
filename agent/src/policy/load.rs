//! From a directory of `*.cedar` to [`Policies`], or to all that is wrong with them.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fs,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use cedar_policy::{
    ActionConstraint, Authorizer, EntityUid, Policy, PolicyId, PolicySet, PrincipalConstraint, ResourceConstraint,
};

use crate::model::Fragment;

use super::{
    fault::{Fault, LoadErrors},
    rule::{self, Place, Rule},
    validate,
    vocabulary::Vocabulary,
};

/// A policy file is written by hand; beyond this it is something else.
const MAX_FILE: u64 = 1 << 20;

/// Facts that change by themselves: a verdict that looks at them holds only for the moment.
const TIME: [&str; 2] = ["hour", "weekday"];

/// A set of policies that is valid against the schema.
pub struct Policies {
    pub(super) vocabulary: Vocabulary,
    pub(super) authorizer: Authorizer,
    /// By Cedar's id, which is only a number here.
    pub(super) rules: HashMap<PolicyId, Rule>,
    /// For each action, the policies that can concern it.
    pub(super) concerned: BTreeMap<String, Concerned>,
    pub(super) depends_on_time: bool,
    /// Files that they were read from, sorted.
    pub(super) files: Vec<PathBuf>,
    /// Entities that they name, by kind: roles and targets for a cross-check with the configuration.
    pub(super) named: BTreeMap<String, Vec<String>>,
}

/// Policies that can concern an action, by the principal and the resource that their scopes name. A scope is satisfied only by
/// an entity that is, or is in, the one that it names, so that a few of many policies are evaluated.
pub(super) type Concerned = HashMap<Option<EntityUid>, HashMap<Option<EntityUid>, Part>>;

/// Some of the policies that can concern an action.
#[derive(Default)]
pub(super) struct Part {
    pub(super) all: PolicySet,
    /// Without the forbids that an approval lifts.
    pub(super) approved: PolicySet,
}

/// A policy on its way in.
pub(super) struct Entry {
    pub(super) file: PathBuf,
    /// Where it stands in the file, in bytes.
    pub(super) span: Range<usize>,
    pub(super) policy: Policy,
    rule: Rule,
}

impl Policies {
    /// Reads and checks all `*.cedar` of a directory (not of those below it) against the schema of these fragments.
    ///
    /// # Errors
    /// All faults, in the order of files and lines. Nothing is kept of a set with a fault.
    pub fn load(directory: &Path, fragments: &[Fragment]) -> Result<Self, LoadErrors> {
        let vocabulary =
            Vocabulary::new(fragments).map_err(|message| LoadErrors(vec![Fault::whole(directory, message)]))?;
        let mut faults = Vec::new();
        let texts = texts(directory, &mut faults);
        let mut policies = Vec::new();
        for (file, text) in &texts {
            parse(file, text, &mut policies, &mut faults);
        }
        repeated(&policies, &texts, &mut faults);
        validate::strictly(&vocabulary, &policies, &texts, &mut faults);
        if !faults.is_empty() {
            faults
                .sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
            return Err(LoadErrors(faults));
        }
        Ok(Self::from_valid(vocabulary, texts, policies))
    }

    /// Ids of the policies, sorted.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let mut ids: Vec<&str> = self.rules.values().map(|rule| rule.id.as_str()).collect();
        ids.sort_unstable();
        ids.into_iter()
    }

    fn from_valid(vocabulary: Vocabulary, texts: BTreeMap<PathBuf, String>, policies: Vec<Entry>) -> Self {
        let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for entity in policies.iter().flat_map(|entry| entry.policy.entity_literals()) {
            named.entry(entity.type_name().to_string()).or_default().push(entity.id().unescaped().to_owned());
        }
        for names in named.values_mut() {
            names.sort_unstable();
            names.dedup();
        }
        let concerned =
            vocabulary.actions.iter().map(|(name, term)| (name.clone(), concerned(&term.names, &policies))).collect();
        Self {
            authorizer: Authorizer::new(),
            depends_on_time: policies.iter().any(|entry| depends_on_time(&entry.policy)),
            rules: policies.into_iter().map(|entry| (entry.policy.id().clone(), entry.rule)).collect(),
            concerned,
            files: texts.into_keys().collect(),
            named,
            vocabulary,
        }
    }
}

/// The texts of all policy files, by path.
fn texts(directory: &Path, faults: &mut Vec<Fault>) -> BTreeMap<PathBuf, String> {
    let mut texts = BTreeMap::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            faults.push(Fault::whole(directory, format!("the directory of policies cannot be read: {error}")));
            return texts;
        }
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                faults.push(Fault::whole(directory, format!("the directory of policies cannot be read: {error}")));
                continue;
            }
        };
        if path.extension().is_none_or(|extension| extension != "cedar") {
            continue;
        }
        match text(&path) {
            Ok(text) => {
                texts.insert(path, text);
            }
            Err(message) => faults.push(Fault::whole(&path, message)),
        }
    }
    texts
}

/// The text of a file of bounded size.
pub(super) fn text(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("this file cannot be read: {error}")),
        Ok(size) if size as u64 > MAX_FILE => Err("this file is larger than 1 MiB".into()),
        Ok(_) => Ok(text),
    }
}

/// Parses one file and reads its policies' annotations.
fn parse(file: &Path, text: &str, policies: &mut Vec<Entry>, faults: &mut Vec<Fault>) {
    let set: PolicySet = match text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            faults.extend(errors.iter().map(|error| validate::fault(file, text, &(0..0), error)));
            return;
        }
    };
    for template in set.templates() {
        let span = template.as_ref().loc().map_or(0..0, |place| place.start()..place.end());
        faults.push(
            Fault::at(file, text, span.start, span.start, "this policy has a slot (?principal or ?resource)")
                .hint("Name the role or the resource itself: nothing fills in slots here."),
        );
    }
    let mut here: Vec<(Range<usize>, &Policy)> = set
        .policies()
        .map(|policy| (policy.as_ref().loc().map_or(0..0, |place| place.start()..place.end()), policy))
        .collect();
    here.sort_by_key(|(span, _)| span.start);
    for (span, policy) in here {
        let rule = rule::read(policy, &Place { file, text, span: &span }, faults);
        let policy = policy.new_id(PolicyId::new(policies.len().to_string()));
        policies.push(Entry { file: file.to_owned(), span, policy, rule });
    }
}

/// Ids that stand more than once.
fn repeated(policies: &[Entry], texts: &BTreeMap<PathBuf, String>, faults: &mut Vec<Fault>) {
    let mut first: HashMap<&str, &Entry> = HashMap::new();
    for entry in policies.iter().filter(|entry| !entry.rule.id.is_empty()) {
        if let Some(earlier) = first.get(entry.rule.id.as_str()) {
            let line = texts[&earlier.file][..earlier.span.start].matches('\n').count() + 1;
            let message = format!("id \"{}\" is taken by {}:{line}", entry.rule.id, earlier.file.display());
            let text = &texts[&entry.file];
            faults.push(
                Fault::at(&entry.file, text, entry.span.start, entry.span.start, message)
                    .hint("Give this policy an id of its own."),
            );
        } else {
            first.insert(&entry.rule.id, entry);
        }
    }
}

/// The policies whose scope names the action, a group that it is in, or no action at all.
fn concerned(names: &HashSet<EntityUid>, policies: &[Entry]) -> Concerned {
    let concerned = policies.iter().filter(|entry| match entry.policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(action) => names.contains(&action),
        ActionConstraint::In(actions) => actions.iter().any(|action| names.contains(action)),
    });
    let mut parts = Concerned::new();
    for entry in concerned {
        let principal = match entry.policy.principal_constraint() {
            PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
            PrincipalConstraint::In(named) | PrincipalConstraint::Eq(named) | PrincipalConstraint::IsIn(_, named) => {
                Some(named)
            }
        };
        let resource = match entry.policy.resource_constraint() {
            ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
            ResourceConstraint::In(named) | ResourceConstraint::Eq(named) | ResourceConstraint::IsIn(_, named) => {
                Some(named)
            }
        };
        let part = parts.entry(principal).or_default().entry(resource).or_default();
        // Ids are numbers given here, so that neither set can have one twice.
        let _ = part.all.add(entry.policy.clone());
        if entry.rule.approval.is_none() {
            let _ = part.approved.add(entry.policy.clone());
        }
    }
    parts
}

/// Whether a policy could look at the time. Its parsed form is searched for the names, wherever they stand: rather a
/// policy too many than one that is missed.
fn depends_on_time(policy: &Policy) -> bool {
    policy.to_json().map_or(true, |json| {
        let text = json["conditions"].to_string();
        TIME.iter().any(|name| text.contains(name))
    })
}
