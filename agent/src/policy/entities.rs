//! From Postern's nouns to Cedar's entities and context.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cedar_policy::{Context, Entity, EntityId, EntityUid, RestrictedExpression};

use crate::model::{Denial, Fact, Principal, Resource};

use super::vocabulary::{Term, Type, Vocabulary};

/// Facts about an operation, by name.
pub(super) type Facts<'a> = BTreeMap<&'a str, &'a Fact>;

/// An entity, and what scopes can name to mean it.
pub(super) struct Known {
    pub(super) uid: EntityUid,
    pub(super) entity: Entity,
    /// `None` for scopes that name nothing, itself, and all that it is in.
    pub(super) within: Vec<Option<EntityUid>>,
}

impl Vocabulary {
    /// The principal, with its roles as parents.
    pub(super) fn subagent(&self, principal: &Principal) -> Result<Known, Denial> {
        let process = &principal.process;
        let mut attributes = HashMap::from([
            ("uid".to_owned(), RestrictedExpression::new_long(process.uid.into())),
            ("gid".to_owned(), RestrictedExpression::new_long(process.gid.into())),
            ("groups".to_owned(), set(&process.groups)),
            ("exe_verified".to_owned(), RestrictedExpression::new_bool(process.exe.verified)),
            ("cgroup".to_owned(), RestrictedExpression::new_string(process.cgroup.clone())),
        ]);
        // A path that was not verified is the process's own claim, and a path that is not text is no path in a policy.
        let exe = process.exe.verified.then(|| process.exe.path.to_str()).flatten();
        let optional = [
            ("user", process.user.as_deref()),
            ("exe", exe),
            ("exe_sha256", process.exe.sha256.as_deref()),
            ("unit", process.unit.as_deref()),
            ("user_unit", process.user_unit.as_deref()),
            ("container", process.container.as_deref()),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                attributes.insert(name.to_owned(), RestrictedExpression::new_string(value.to_owned()));
            }
        }
        let role = |name: &String| EntityUid::from_type_name_and_id(self.role.clone(), EntityId::new(name));
        let uid = EntityUid::from_type_name_and_id(self.subagent.clone(), EntityId::new(process.pid.to_string()));
        known(uid, attributes, principal.roles.iter().map(role).collect())
    }

    /// The resource, with all levels above it as parents, and the attributes that facts named `resource.NAME` give it.
    pub(super) fn known(&self, resource: &Resource, facts: &Facts<'_>) -> Result<Known, Denial> {
        let mut uids = Vec::new();
        let mut attributes = HashMap::new();
        for (depth, level) in resource.levels().iter().enumerate() {
            let Some(kind) = self.kinds.get(&level.kind) else {
                return Err(Denial::closed(format!("the policy schema knows no resource of kind {}", level.kind)));
            };
            uids.push(EntityUid::from_type_name_and_id(kind.name.clone(), EntityId::new(resource.id(depth + 1))));
            if depth + 1 == resource.levels().len() {
                for (name, of) in &kind.attributes {
                    // A policy that looks at one that was not given cannot be evaluated, which denies.
                    if let Some(fact) = facts.get(format!("resource.{name}").as_str()) {
                        attributes.insert(name.clone(), expression(name, *of, fact)?);
                    }
                }
            }
        }
        let uid = uids.pop().ok_or_else(|| Denial::closed("a resource without a name"))?;
        known(uid, attributes, uids.into_iter().collect())
    }

    /// The context that an action is declared with. Facts that it is not declared with do not concern it.
    pub(super) fn context(term: &Term, facts: &Facts<'_>, now: &jiff::Zoned) -> Result<Context, Denial> {
        let mut pairs = Vec::with_capacity(term.facts.len());
        for (name, of) in &term.facts {
            let value = match name.as_str() {
                "hour" => RestrictedExpression::new_long(now.hour().into()),
                "weekday" => RestrictedExpression::new_string(now.strftime("%a").to_string()),
                _ => match facts.get(name.as_str()) {
                    Some(fact) => expression(name, *of, fact)?,
                    None => return Err(Denial::closed(format!("the operation is missing the fact \"{name}\""))),
                },
            };
            pairs.push((name.clone(), value));
        }
        Context::from_pairs(pairs).map_err(|error| Denial::closed(format!("its facts are not usable: {error}")))
    }
}

/// An entity, if its attributes are values that Cedar takes.
fn known(
    uid: EntityUid,
    attributes: HashMap<String, RestrictedExpression>,
    parents: HashSet<EntityUid>,
) -> Result<Known, Denial> {
    let within = parents.iter().chain([&uid]).cloned().map(Some).chain([None]).collect();
    let entity = Entity::new(uid.clone(), attributes, parents)
        .map_err(|error| Denial::closed(format!("its attributes are not usable: {error}")))?;
    Ok(Known { uid, entity, within })
}

/// A fact as a value of the type that it is declared with.
fn expression(name: &str, of: Type, fact: &Fact) -> Result<RestrictedExpression, Denial> {
    match (of, fact) {
        (Type::Bool, Fact::Bool(value)) => Ok(RestrictedExpression::new_bool(*value)),
        (Type::Long, Fact::Long(value)) => Ok(RestrictedExpression::new_long(*value)),
        (Type::Text, Fact::Text(value)) => Ok(RestrictedExpression::new_string(value.clone())),
        (Type::Set, Fact::Set(values)) => Ok(set(values)),
        _ => Err(Denial::closed(format!("the fact \"{name}\" is not of the type that the policy schema says"))),
    }
}

/// A set of texts.
fn set(values: &BTreeSet<String>) -> RestrictedExpression {
    RestrictedExpression::new_set(values.iter().cloned().map(RestrictedExpression::new_string))
}
