//! What the warden tells unasked: where else to listen, and which connections are older than interception.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

use super::Proxy;
use crate::{
    model::Older,
    recording::{Append as _, Event},
    warden::{Listeners, Tidings},
};

/// Tasks that accept, by the network namespace. Their listeners go with them.
type Accepting = BTreeMap<u64, JoinSet<()>>;

impl Proxy {
    /// Accepts at these listeners and wherever the warden tells until the task is dropped.
    pub(super) async fn follow(self: Arc<Self>, listeners: Listeners, mut tidings: mpsc::Receiver<Tidings>) {
        let mut accepting = Accepting::new();
        self.listen(&mut accepting, listeners);
        while let Some(news) = tidings.recv().await {
            match news {
                Tidings::Entered(listeners) => self.listen(&mut accepting, listeners),
                Tidings::Left { netns } => drop(accepting.remove(&netns)),
                Tidings::Succeeded => self.let_go(std::mem::take(&mut accepting)).await,
                Tidings::Older(older) => self.record_older(older),
                Tidings::Overstepped { pid, asked } => {
                    if let Err(error) = self.log.append(&Event::ProxyOverstepped { pid, asked }) {
                        tracing::error!(%error, "what a process before this one has asked for could not be recorded");
                    }
                }
            }
        }
    }

    fn listen(self: &Arc<Self>, accepting: &mut Accepting, Listeners { netns, sockets }: Listeners) {
        for socket in sockets {
            match TcpListener::from_std(socket) {
                Ok(listener) => drop(accepting.entry(netns).or_default().spawn(Arc::clone(self).accept(listener))),
                Err(error) => tracing::warn!(netns, %error, "cannot listen in a network namespace"),
            }
        }
    }

    /// Another process listens: accepts what is on its way here, and closes the listeners.
    async fn let_go(&self, accepting: Accepting) {
        self.handover.note_succeeded();
        for tasks in accepting.into_values() {
            tasks.join_all().await;
        }
        if let Err(error) = self.warden.let_go().await {
            tracing::warn!(%error, "the warden cannot be told that the listeners are closed");
        }
        self.handover.note_let_go();
    }

    fn record_older(&self, older: Older) {
        let target = usize::try_from(older.target).ok().and_then(|index| self.targets.all().get(index));
        let target = target.map(|target| target.name.clone());
        if let Err(error) = self.log.append(&Event::OlderConnection { target, connection: Box::new(older) }) {
            tracing::error!(%error, "a connection older than interception could not be recorded");
        }
    }
}
