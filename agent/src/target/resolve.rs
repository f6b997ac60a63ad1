//! Asking for a name in both ways that programs of this host do: through the C library (`/etc/nsswitch.conf`: files, DNS and
//! what else the host has), and at the name servers of `/etc/resolv.conf`, which alone say how long their answer holds.
//!
//! What either says counts. The C library knows what is in `/etc/hosts`; the name servers may give each asker another part of
//! what the name stands for.

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    net::IpAddr,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ResolveHosts, ServerOrderingStrategy},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{RData, RecordType},
    system_conf::parse_resolv_conf,
};
use tokio::time::timeout;

use super::known::Answer;

/// Where the name servers are.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The longest file of name servers that is read: the C library reads three of them, and six domains to search.
const LONGEST_CONF: u64 = 64 << 10;

/// How long the name servers may take with all their retries; as long as the C library takes with two of them.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for names.
#[derive(Default)]
pub(super) struct Resolver {
    /// What the file said, and the client that was made of it; `None` if it names no servers.
    servers: Mutex<Option<(Vec<u8>, Option<TokioResolver>)>>,
}

/// What the name servers said about one kind of address.
type Asked = Result<(BTreeSet<IpAddr>, Option<Duration>), NetError>;

impl Resolver {
    /// Everything that the name stands for.
    pub(super) async fn ask(&self, host: &str) -> Answer {
        let system = tokio::net::lookup_host((host, 0));
        let (system, servers) = tokio::join!(system, self.ask_servers(host));
        let mut answer = Answer { all_v4: true, all_v6: true, ..Answer::default() };
        match system {
            Ok(found) => answer.addresses.extend(found.map(|socket| socket.ip().to_canonical())),
            Err(error) => answer.reason = error.to_string(),
        }
        if let Some([v4, v6]) = servers {
            for (asked, all) in [(v4, &mut answer.all_v4), (v6, &mut answer.all_v6)] {
                match asked {
                    Ok((addresses, ttl)) => {
                        answer.addresses.extend(addresses);
                        answer.ttl = answer.ttl.into_iter().chain(ttl).min();
                    }
                    // There is none of this kind, and that is an answer.
                    Err(error) if error.is_no_records_found() => {}
                    Err(_) => *all = false,
                }
            }
        }
        // Nobody connects to these: a server that answers so means that there is nothing.
        answer.addresses.retain(|address| !address.is_unspecified() && !address.is_multicast());
        answer
    }

    /// Asks the name servers for both kinds of address; `None` if there are no servers.
    async fn ask_servers(&self, host: &str) -> Option<[Asked; 2]> {
        let client = self.client()?;
        let (v4, v6) = tokio::join!(one(&client, host, RecordType::A), one(&client, host, RecordType::AAAA));
        Some([v4, v6])
    }

    /// A client of the servers that the file names now.
    fn client(&self) -> Option<TokioResolver> {
        let text = read(RESOLV_CONF.as_ref());
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        match &*servers {
            Some((before, client)) if *before == text => client.clone(),
            _ => {
                let client = client_of(&text);
                *servers = Some((text, client.clone()));
                client
            }
        }
    }
}

fn read(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(LONGEST_CONF).read_to_end(&mut text)) {
        Ok(_) => text,
        // The C library says the same of a file that is not there as of an empty one.
        Err(_) => Vec::new(),
    }
}

/// `None` if the text names no servers, or makes no sense: the C library may make more of it.
fn client_of(text: &[u8]) -> Option<TokioResolver> {
    let (config, mut options) = parse_resolv_conf(text).ok()?;
    // When to ask again is decided here, by what the servers say.
    options.cache_size = 0;
    // The C library reads it.
    options.use_hosts_file = ResolveHosts::Never;
    // One after the other, as the file lists them: another one may answer for another network.
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build().ok()
}

async fn one(client: &TokioResolver, host: &str, kind: RecordType) -> Asked {
    let lookup = timeout(PATIENCE, client.lookup(host, kind)).await.map_err(|_| NetError::Timeout)??;
    let addresses = lookup.answers().iter().filter_map(|record| match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0).to_canonical()),
        _ => None,
    });
    // Of aliases on the way too: the first that ends makes the whole answer old.
    let ttl = lookup.answers().iter().map(|record| Duration::from_secs(record.ttl.into())).min();
    Ok((addresses.collect(), ttl))
}
