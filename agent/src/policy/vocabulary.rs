//! The vocabulary of policies: the schema that the fragments make up, and what it says about each action.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    str::FromStr,
};

use cedar_policy::{
    Entity, EntityId, EntityTypeName, EntityUid, Schema, SchemaFragment, schema_str_to_json_with_resolved_types,
};
use serde_json::Value;

use crate::model::{Fragment, Resource};

/// What all protocols build on.
const CORE: &str = include_str!("../../../policies/core.cedarschema");

/// Annotation of an action in the schema: it is permitted where the named one is, unless a policy forbids it.
const IMPLIED_BY: &str = "implied_by";

/// The schema, and what the decision needs to know of it.
pub(super) struct Vocabulary {
    pub(super) schema: Schema,
    pub(super) actions: BTreeMap<String, Term>,
    pub(super) kinds: HashMap<String, Kind>,
    pub(super) subagent: EntityTypeName,
    pub(super) role: EntityTypeName,
}

/// An action.
pub(super) struct Term {
    pub(super) uid: EntityUid,
    /// Itself and the groups that it is in.
    pub(super) names: HashSet<EntityUid>,
    /// The same as an entity.
    pub(super) entity: Entity,
    /// The context that it is declared with.
    pub(super) facts: Vec<(String, Type)>,
    /// Kinds of resources that it applies to.
    pub(super) kinds: BTreeSet<String>,
    /// The action that implies it.
    pub(super) implied_by: Option<String>,
}

/// Type of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Long,
    Text,
    Set,
}

/// A kind of resource.
pub(super) struct Kind {
    pub(super) name: EntityTypeName,
    /// The kind one level up.
    pub(super) parent: Option<String>,
    /// Attributes, which come as facts named `resource.NAME`.
    pub(super) attributes: Vec<(String, Type)>,
}

impl Vocabulary {
    /// Puts the fragments together.
    ///
    /// # Errors
    /// What Cedar, or this module, does not understand in them.
    pub(super) fn new(fragments: &[Fragment]) -> Result<Self, String> {
        let text = std::iter::once(CORE).chain(fragments.iter().map(|fragment| fragment.text)).collect::<Vec<_>>();
        let text = text.join("\n");
        let names = || fragments.iter().map(|fragment| fragment.name).collect::<Vec<_>>().join(", ");
        let said = |error: &dyn std::fmt::Display| format!("the schema (core, {}) is not valid: {error}", names());

        let (schema, _) = Schema::from_cedarschema_str(&text).map_err(|error| said(&error))?;
        let (fragment, _) = SchemaFragment::from_cedarschema_str(&text).map_err(|error| said(&error))?;
        let (json, _) = schema_str_to_json_with_resolved_types(&text).map_err(|error| said(&error))?;
        let declared = &json[""];

        let mut kinds = HashMap::new();
        for (name, declaration) in members(&declared["entityTypes"]) {
            kinds.insert(
                name.clone(),
                Kind {
                    name: EntityTypeName::from_str(name).map_err(|error| said(&error))?,
                    parent: declaration["memberOfTypes"][0].as_str().map(ToOwned::to_owned),
                    attributes: record(&declaration["shape"]),
                },
            );
        }

        let hierarchy = schema.action_entities().map_err(|error| said(&error))?;
        let mut actions = BTreeMap::new();
        for (name, declaration) in members(&declared["actions"]) {
            let applies = &declaration["appliesTo"];
            let kinds: BTreeSet<String> = strings(&applies["resourceTypes"]).collect();
            if kinds.is_empty() {
                // A group: it names its members in policies and is never asked for.
                continue;
            }
            let uid = schema
                .actions()
                .find(|uid| uid.id().unescaped() == name.as_str())
                .cloned()
                .ok_or_else(|| said(&format!("action {name} is lost")))?;
            let groups: HashSet<EntityUid> = hierarchy.ancestors(&uid).into_iter().flatten().cloned().collect();
            let implied_by = fragment.action_annotation(None, &EntityId::new(name), IMPLIED_BY).map(ToOwned::to_owned);
            actions.insert(
                name.clone(),
                Term {
                    names: groups.iter().cloned().chain([uid.clone()]).collect(),
                    entity: Entity::new_no_attrs(uid.clone(), groups),
                    uid,
                    facts: record(common(declared, &applies["context"])),
                    kinds,
                    implied_by,
                },
            );
        }
        Ok(Self {
            schema,
            actions,
            kinds,
            subagent: EntityTypeName::from_str("Subagent").map_err(|error| said(&error))?,
            role: EntityTypeName::from_str("Role").map_err(|error| said(&error))?,
        })
    }

    /// Reads a resource as [`Resource`] writes it: `Table orders.shop.public.customers`.
    pub(super) fn resource(&self, text: &str) -> Option<Resource> {
        let (kind, id) = text.split_once(' ')?;
        let mut kinds = Vec::new();
        let mut next = Some(kind.to_owned());
        // A schema's kinds form no circle, but this reads only what it was given.
        while let Some(kind) = next.take().filter(|_| kinds.len() <= self.kinds.len()) {
            next = self.kinds.get(&kind)?.parent.clone();
            kinds.push(kind);
        }
        let names = names(id)?;
        if kinds.last().map(String::as_str) != Some("Target") || kinds.len() != names.len() {
            return None;
        }
        let mut levels = kinds.iter().rev().zip(&names);
        let (_, target) = levels.next()?;
        Some(levels.fold(Resource::target(target), |resource, (kind, name)| resource.child(kind, name)))
    }
}

/// The names of an id: separated by dots, in double quotes where they hold one.
fn names(id: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = id;
    loop {
        let name;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = 0;
            loop {
                end += quoted[end..].find('"')?;
                if !quoted[end + 1..].starts_with('"') {
                    break;
                }
                end += 2;
            }
            name = quoted[..end].replace("\"\"", "\"");
            rest = &quoted[end + 1..];
        } else {
            let end = rest.find('.').unwrap_or(rest.len());
            name = rest[..end].to_owned();
            if name.is_empty() || name.contains('"') {
                return None;
            }
            rest = &rest[end..];
        }
        names.push(name);
        if rest.is_empty() {
            return Some(names);
        }
        rest = rest.strip_prefix('.')?;
    }
}

/// The members of a JSON object.
fn members(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flatten()
}

/// The texts of a JSON list.
fn strings(list: &Value) -> impl Iterator<Item = String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned)
}

/// The declaration that a type refers to, if it is the name of a common type.
fn common<'a>(declared: &'a Value, of: &'a Value) -> &'a Value {
    let named = of["type"].as_str().map(|name| &declared["commonTypes"][name]);
    named.filter(|declaration| !declaration.is_null()).unwrap_or(of)
}

/// The attributes of a record type that can be facts; others cannot be given, so they are missing when asked for.
fn record(declaration: &Value) -> Vec<(String, Type)> {
    members(&declaration["attributes"])
        .filter_map(|(name, declaration)| {
            let of = match declaration["type"].as_str()? {
                "Bool" | "Boolean" => Type::Bool,
                "Long" => Type::Long,
                "String" => Type::Text,
                "Set" if declaration["element"]["type"] == "String" => Type::Set,
                _ => return None,
            };
            Some((name.clone(), of))
        })
        .collect()
}
