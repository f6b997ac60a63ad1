//! A toy database: a language of a few words, and its classifier.

use std::sync::Arc;

use crate::{
    masking::{Cover, without_values},
    model::{Action, Denial, Request, Resource, Style},
    protocol::postgres::{
        sql::{Answer, Effect, Names, Part, Statement},
        view::View,
    },
};

/// Rows of `secret` come from this table and column, which is masked.
pub const SECRET: (u32, i16) = (7, 3);
/// What its functions do, by their OIDs, of which none is 0.
pub const FUNCTIONS: [&str; 5] = ["", "select 9", "forbidden", "unproven", "fail"];
/// Rows of `strange` come from this table, which the view does not know.
pub const STRANGE: u32 = 9;

/// The view of the toy database; `masks`: it has a masked column.
pub struct Toy {
    pub masks: bool,
}

impl View for Toy {
    fn classify(&self, text: &str, names: &dyn Names) -> Arc<Statement> {
        let mut statement = Statement {
            action: Arc::new(Action { requests: [].into(), facts: [].into() }),
            text: Arc::new(without_values(text.to_owned())),
            parameters_clear: !self.masks,
            parts: Vec::new(),
            unknown_names: false,
            looks_up_names: false,
            unread: None,
        };
        for text in text.split(';').map(str::trim) {
            self.part(text, names, &mut statement);
        }
        Arc::new(statement)
    }

    fn call(&self, function: u32, _: usize) -> Option<String> {
        FUNCTIONS.get(function as usize).filter(|text| !text.is_empty()).map(ToString::to_string)
    }

    fn cover(&self, table: u32, attribute: i16) -> Option<Cover> {
        match (table, attribute) {
            SECRET => Some(Cover::Style(Style::Last4)),
            (STRANGE, _) => None,
            _ => Some(Cover::Clear),
        }
    }

    fn cover_in_log(&self, table: u32, attribute: i16) -> Option<Cover> {
        self.cover(table, attribute)
    }

    fn hides(&self) -> bool {
        self.masks
    }

    fn masks(&self) -> bool {
        self.masks
    }
}

impl Toy {
    fn part(&self, text: &str, names: &dyn Names, statement: &mut Statement) {
        let words: Vec<&str> = text.split(' ').collect();
        let mut ask = |action: &str| {
            Arc::make_mut(&mut statement.action).requests.insert(Request::new(action, Resource::target("toy")));
        };
        let (answer, effect) = match words.as_slice() {
            ["secret" | "strange"] => {
                ask("secret");
                (Answer::ByOrigin, Effect::None)
            }
            // An expression over the masked column.
            ["derived"] => {
                ask("derived");
                let answer = if self.masks { Answer::Unproven(Denial::closed("not proven")) } else { Answer::Clear };
                (answer, Effect::None)
            }
            // As a FETCH: what the cursor's statement asks for and is proven.
            ["fetch", name] => {
                statement.looks_up_names = true;
                let found = names.cursor(name);
                found.iter().flat_map(|it| &it.action.requests).for_each(|request| ask(&request.action));
                let part = found.first().and_then(|it| it.parts.first());
                (part.map_or(Answer::Clear, |part| part.answer.clone()), Effect::None)
            }
            ["unproven"] => {
                ask("unproven");
                (Answer::Unproven(Denial::closed("not proven")), Effect::None)
            }
            ["create"] => {
                ask("create");
                (Answer::Clear, Effect::ChangesCatalogue)
            }
            ["copyin"] => {
                ask("copyin");
                (Answer::ByOrigin, Effect::CopyIn)
            }
            ["replicate"] => {
                ask("replicate");
                (Answer::Clear, Effect::Replicates)
            }
            ["copyout"] => {
                ask("copyout");
                (Answer::Clear, Effect::CopyOut)
            }
            ["prepare", name, rest @ ..] => {
                let inner = self.classify(&rest.join(" "), names);
                inner.action.requests.iter().for_each(|request| ask(&request.action));
                (Answer::Clear, Effect::Prepare { name: (*name).into(), statement: inner })
            }
            ["declare", name, rest @ ..] => {
                let inner = self.classify(&rest.join(" "), names);
                inner.action.requests.iter().for_each(|request| ask(&request.action));
                (Answer::Clear, Effect::Declare { name: (*name).into(), statement: inner })
            }
            ["execute", name] => {
                statement.looks_up_names = true;
                let found = names.prepared(name);
                if found.is_empty() {
                    ask("sql:opaque");
                }
                found.iter().flat_map(|it| &it.action.requests).for_each(|request| ask(&request.action));
                (Answer::ByOrigin, Effect::None)
            }
            ["deallocate", name] => {
                ask("deallocate");
                (Answer::Clear, Effect::Deallocate(Some((*name).into())))
            }
            ["commit" | "rollback"] => {
                ask(words[0]);
                (Answer::Clear, Effect::EndsTransaction)
            }
            ["select", ..] => {
                ask("sql:select");
                (Answer::Clear, Effect::None)
            }
            [word, ..] if known(word) => {
                ask(word);
                (Answer::Clear, Effect::None)
            }
            _ => {
                ask("sql:opaque");
                (Answer::Unproven(Denial::closed("not understood")), Effect::ChangesCatalogue)
            }
        };
        statement.parts.push(Part { answer, effect });
    }
}

/// Whether a prepared text runs another, which this server does not go along with.
pub fn nested(text: &str) -> bool {
    text.starts_with("execute")
}

/// Whether it is a word of the language.
pub fn known(word: &str) -> bool {
    matches!(
        word,
        "select"
            | "secret"
            | "strange"
            | "forbidden"
            | "fail"
            | "begin"
            | "commit"
            | "rollback"
            | "create"
            | "copyin"
            | "copyout"
            | "replicate"
            | "declare"
            | "derived"
            | "fetch"
            | "prepare"
            | "execute"
            | "deallocate"
            | "unproven"
    )
}
