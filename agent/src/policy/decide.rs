//! The decision: every request of an action must be permitted; what forbids wins; what goes wrong denies.

use cedar_policy::{AuthorizationError, Decision, Entities, PolicySet, Request as CedarRequest};

use crate::model::{Action, Decide, Denial, Principal, Request, Resource, Verdict};

use super::{
    entities::{Facts, Known},
    load::Policies,
    rule::Rule,
    vocabulary::{Term, Vocabulary},
};

impl Decide for Policies {
    fn decide(&self, principal: &Principal, action: &Action, now: &jiff::Zoned) -> Verdict {
        let facts = action.facts.iter().map(|(name, fact)| (*name, fact)).collect();
        self.judge(principal, action.requests.iter(), &facts, now)
    }

    /// One set of policies never changes: [`super::Reloadable`] counts.
    fn epoch(&self) -> u64 {
        0
    }

    fn depends_on_time(&self) -> bool {
        self.depends_on_time
    }
}

/// What is decided about one request.
enum Ruling {
    /// By these policies.
    Permitted(Vec<String>),
    /// A policy says no, or something went wrong: final.
    Forbidden(Denial),
    /// No policy says yes.
    Unpermitted,
}

/// The policies that hold, sorted by id.
struct Answer<'a> {
    permits: Vec<&'a Rule>,
    forbids: Vec<&'a Rule>,
}

/// Who asks, and under which circumstances.
struct Question<'a> {
    subagent: &'a Known,
    facts: &'a Facts<'a>,
    now: &'a jiff::Zoned,
}

impl Policies {
    /// Decides on all requests of an operation.
    pub(super) fn judge<'a>(
        &self,
        principal: &Principal,
        requests: impl Iterator<Item = &'a Request>,
        facts: &Facts<'_>,
        now: &jiff::Zoned,
    ) -> Verdict {
        let subagent = match self.vocabulary.subagent(principal) {
            Ok(subagent) => subagent,
            Err(denial) => return Verdict::Deny(denial),
        };
        let question = Question { subagent: &subagent, facts, now };
        let mut rules = Vec::new();
        let mut unpermitted = None;
        let mut asked = false;
        for request in requests {
            asked = true;
            match self.rule_on(&question, request) {
                Ruling::Permitted(by) => rules.extend(by),
                Ruling::Forbidden(denial) => return Verdict::Deny(denial),
                Ruling::Unpermitted => unpermitted = unpermitted.or(Some(request)),
            }
        }
        match unpermitted {
            Some(request) => Verdict::Deny(nothing_permits(request, principal)),
            None if !asked => Verdict::Deny(Denial::closed("an operation that asks for nothing cannot be permitted")),
            None => {
                rules.sort_unstable();
                rules.dedup();
                Verdict::Permit { rules }
            }
        }
    }

    /// Decides on one request, also by the action that implies it.
    fn rule_on(&self, question: &Question<'_>, request: &Request) -> Ruling {
        let Some(term) = self.vocabulary.actions.get(&request.action) else {
            return Ruling::Forbidden(Denial::closed(format!("the policy schema knows no action {}", request.action)));
        };
        let ruling = self.ask(question, term, request).unwrap_or_else(Ruling::Forbidden);
        let (Ruling::Unpermitted, Some(implying)) = (&ruling, &term.implied_by) else {
            return ruling;
        };
        let Some((term, resource)) =
            self.vocabulary.actions.get(implying).and_then(|term| Some((term, nearest(&request.resource, term)?)))
        else {
            return ruling;
        };
        match self.ask(question, term, &Request::new(implying, resource)) {
            Ok(Ruling::Permitted(by)) => Ruling::Permitted(by),
            _ => ruling,
        }
    }

    /// Asks Cedar.
    fn ask(&self, question: &Question<'_>, term: &Term, request: &Request) -> Result<Ruling, Denial> {
        if !term.kinds.contains(request.resource.kind()) {
            return Err(Denial::closed(format!("{} does not apply to {}", request.action, request.resource)));
        }
        let Some(concerned) = self.concerned.get(&request.action) else {
            return Ok(Ruling::Unpermitted);
        };
        let resource = self.vocabulary.known(&request.resource, question.facts)?;
        let context = Vocabulary::context(term, question.facts, question.now)?;
        let asked = CedarRequest::new(
            question.subagent.uid.clone(),
            term.uid.clone(),
            resource.uid.clone(),
            context,
            Some(&self.vocabulary.schema),
        )
        .map_err(|error| Denial::closed(format!("the request does not fit the policy schema: {error}")))?;
        let entities = Entities::from_entities(
            [question.subagent.entity.clone(), resource.entity.clone(), term.entity.clone()],
            None,
        )
        .map_err(|error| Denial::closed(format!("the request does not fit the policy schema: {error}")))?;

        let parts = || {
            let by_principal = question.subagent.within.iter().filter_map(|principal| concerned.get(principal));
            by_principal.flat_map(|by_resource| resource.within.iter().filter_map(|named| by_resource.get(named)))
        };
        let answer = self.answer(&asked, &entities, parts().map(|part| &part.all))?;
        if let Some(rule) = answer.forbids.iter().find(|rule| rule.approval.is_none()) {
            return Ok(Ruling::Forbidden(forbidden(rule, request)));
        }
        if let Some(first) = answer.forbids.first() {
            // Only forbids that an approval would lift: whether that would be enough is the question.
            let approved = self.answer(&asked, &entities, parts().map(|part| &part.approved))?;
            return Ok(match approved.permits.as_slice() {
                [] => Ruling::Unpermitted,
                _ => Ruling::Forbidden(needs_approval(first, &answer.forbids, request)),
            });
        }
        Ok(match answer.permits.as_slice() {
            [] => Ruling::Unpermitted,
            permits => Ruling::Permitted(permits.iter().map(|rule| rule.id.clone()).collect()),
        })
    }

    /// Asks Cedar about each set. Any permit permits, unless any forbid forbids: so parts say together what the whole would.
    ///
    /// Cedar passes over a policy that it cannot evaluate, which for a forbid would open: so that denies.
    fn answer<'a>(
        &self,
        asked: &CedarRequest,
        entities: &Entities,
        sets: impl Iterator<Item = &'a PolicySet>,
    ) -> Result<Answer<'_>, Denial> {
        let mut answer = Answer { permits: Vec::new(), forbids: Vec::new() };
        for set in sets {
            let response = self.authorizer.is_authorized(asked, set, entities);
            if let Some(AuthorizationError::PolicyEvaluationError(error)) = response.diagnostics().errors().next() {
                let rule = self.rules.get(error.policy_id()).map(|rule| rule.id.clone());
                let said = format!("the policy cannot be evaluated: {}", error.inner());
                return Err(Denial { rule, ..Denial::closed(said) });
            }
            let by: Option<Vec<&Rule>> = response.diagnostics().reason().map(|id| self.rules.get(id)).collect();
            let by = by.ok_or_else(|| Denial::closed("a policy that is not known by its id decided"))?;
            match response.decision() {
                Decision::Allow => answer.permits.extend(by),
                Decision::Deny => answer.forbids.extend(by),
            }
        }
        answer.permits.sort_by(|a, b| a.id.cmp(&b.id));
        answer.forbids.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(answer)
    }
}

/// The resource itself or the nearest level above it that an action applies to.
fn nearest(resource: &Resource, term: &Term) -> Option<Resource> {
    let levels = resource.levels();
    let depth = (0..levels.len()).rev().find(|&depth| term.kinds.contains(&levels[depth].kind))?;
    let (first, below) = levels[..=depth].split_first()?;
    Some(below.iter().fold(Resource::target(&first.name), |above, level| above.child(&level.kind, &level.name)))
}

fn forbidden(rule: &Rule, request: &Request) -> Denial {
    let asked = format!("{} on {}", request.action, request.resource);
    Denial {
        limit: None,
        rule: Some(rule.id.clone()),
        reason: rule.reason.clone().unwrap_or_else(|| format!("{asked} is forbidden")),
        hint: Some(format!("Refused was {asked}.")),
    }
}

fn needs_approval(first: &Rule, all: &[&Rule], request: &Request) -> Denial {
    let mut groups: Vec<&str> = all.iter().filter_map(|rule| rule.approval.as_deref()).collect();
    groups.sort_unstable();
    groups.dedup();
    let needs = format!("{} on {} needs the approval of {}", request.action, request.resource, groups.join(" and of "));
    Denial {
        limit: None,
        rule: Some(first.id.clone()),
        reason: first.reason.as_ref().map_or_else(|| needs.clone(), |reason| format!("{reason} ({needs})")),
        hint: Some("Approvals cannot be asked for in this version of Postern, so it stays forbidden.".into()),
    }
}

fn nothing_permits(request: &Request, principal: &Principal) -> Denial {
    let asked = format!("{} on {}", request.action, request.resource);
    let denial = Denial::closed(format!("no policy permits {asked}"));
    if principal.roles.is_empty() {
        let process = &principal.process;
        let user = process.user.clone().unwrap_or_else(|| process.uid.to_string());
        denial.with_hint(format!(
            "This process has no role: no [[role]] of the configuration matches user {user}, unit {}, executable {}{}.",
            process.unit.as_deref().unwrap_or("none"),
            process.exe.path.display(),
            if process.exe.verified { "" } else { " (not verified)" },
        ))
    } else {
        denial.with_hint(format!("This process has the role {}: it lacks {asked}.", principal.roles.join(", ")))
    }
}
