//! What the warden tells unasked: where else to listen, and which connections are older than interception.

use std::{collections::BTreeMap, net, sync::Arc};

use tokio::{net::TcpListener, sync::mpsc, task::AbortHandle};

use super::Proxy;
use crate::{model::Older, recording::Append as _, recording::Event, warden::Tidings};

/// Tasks that accept in one network namespace. Their listeners go with them.
#[derive(Default)]
struct Accepting(Vec<AbortHandle>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Proxy {
    /// Takes what the warden tells until the task is dropped; then nothing is accepted in other namespaces any more.
    pub(super) async fn follow(self: Arc<Self>, mut tidings: mpsc::Receiver<Tidings>) {
        let mut accepting: BTreeMap<u64, Accepting> = BTreeMap::new();
        while let Some(news) = tidings.recv().await {
            match news {
                Tidings::Entered { netns, listeners } => {
                    let tasks = accepting.entry(netns).or_default();
                    tasks.0.extend(listeners.into_iter().filter_map(|listener| self.listen(netns, listener)));
                }
                Tidings::Left { netns } => drop(accepting.remove(&netns)),
                Tidings::Older(older) => self.record_older(older),
            }
        }
    }

    fn listen(self: &Arc<Self>, netns: u64, listener: net::TcpListener) -> Option<AbortHandle> {
        match TcpListener::from_std(listener) {
            Ok(listener) => Some(tokio::spawn(Arc::clone(self).accept(listener)).abort_handle()),
            Err(error) => {
                tracing::warn!(netns, %error, "cannot listen in a network namespace");
                None
            }
        }
    }

    fn record_older(&self, older: Older) {
        let target = usize::try_from(older.target).ok().and_then(|index| self.targets.all().get(index));
        let target = target.map(|target| target.name.clone());
        if let Err(error) = self.log.append(&Event::OlderConnection { target, connection: Box::new(older) }) {
            tracing::error!(%error, "a connection older than interception could not be recorded");
        }
    }
}
