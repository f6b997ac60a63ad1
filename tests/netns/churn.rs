//! Namespaces that come and go leave nothing behind in the agent.

use std::time::Duration;

use agent_tests::{Agent, Cmd, Outcome, Suite, fds, rss_kib, wait_until};

use crate::world::{MASKED, QUERY, READER, World, ensure, status};

/// How many namespaces.
const ROUNDS: usize = 200;

/// How many before it counts: caches are full and threads started then.
const WARM_UP: usize = 20;

/// How much more memory a process may have afterwards.
const GROWTH_KIB: u64 = 8 * 1024;

/// How long the agent may take to see that namespaces have gone.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn cases<'a>(suite: Suite<'a>, world: &'a World) -> Suite<'a> {
    suite.case(format!("{ROUNDS} namespaces that come and go leave no descriptor and no memory behind"), || {
        let agent = world.builder().start()?;
        for _ in 0..WARM_UP {
            round(world)?;
        }
        let before = Size::settled(&agent, None)?;
        for _ in 0..ROUNDS {
            round(world)?;
        }
        let after = Size::settled(&agent, Some(&before))?;
        for (name, before, after) in [("warden", before.warden, after.warden), ("proxy", before.proxy, after.proxy)] {
            ensure(after <= before + GROWTH_KIB, || format!("the {name} has grown from {before} KiB to {after} KiB"))?;
        }
        Ok(())
    })
}

/// A namespace with a process that asks through the agent, and is gone with it. The first connect may come too early.
fn round(world: &World) -> Outcome {
    const ENTER: &str = r#"ip link set lo up && for try in {1..20}; do
        setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}" && exit; sleep 0.1; done; exit 1"#;
    let command = Cmd::new("unshare").args(["--net", "bash", "-c", ENTER, "enter", &READER.to_string()]);
    let seen = command.args(world.psql(world.link.host4)).args(["-c", QUERY]).run()?;
    ensure(seen.success() && seen.stdout.trim_end() == MASKED, || seen.to_string())
}

/// How large the agent is, without what it holds in namespaces that are still there: others than this suite's may be.
#[derive(Debug)]
struct Size {
    warden_fds: usize,
    proxy_fds: usize,
    warden: u64,
    proxy: u64,
}

impl Size {
    /// Once the descriptors are as many as before, or else stay the same for a while.
    fn settled(agent: &Agent, before: Option<&Self>) -> Outcome<Self> {
        let mut last = Self::of(agent)?;
        let mut same = 0;
        let wait = wait_until("the agent has as many descriptors as before", PATIENCE, || {
            let Ok(now) = Self::of(agent) else { return false };
            same = if now.descriptors() == last.descriptors() { same + 1 } else { 0 };
            last = now;
            before.map_or(same >= 3, |before| last.descriptors() == before.descriptors())
        });
        wait.map(|()| last).map_err(|error| format!("{error}: {before:?}"))
    }

    fn of(agent: &Agent) -> Outcome<Self> {
        let (warden, proxy) = (agent.warden().ok_or("no warden")?, agent.proxy().ok_or("no proxy")?);
        let listening = |status: &serde_json::Value| status["surroundings"]["listening"].as_u64().unwrap_or(0) as usize;
        let first = status(agent)?;
        let found = Self {
            warden_fds: fds(warden).ok_or("the warden has gone")?,
            proxy_fds: fds(proxy).ok_or("the proxy has gone")?.saturating_sub(2 * listening(&first)),
            warden: rss_kib(warden).ok_or("the warden has gone")?,
            proxy: rss_kib(proxy).ok_or("the proxy has gone")?,
        };
        match listening(&status(agent)?) == listening(&first) {
            true => Ok(found),
            false => Err("namespaces are coming and going".into()),
        }
    }

    fn descriptors(&self) -> (usize, usize) {
        (self.warden_fds, self.proxy_fds)
    }
}
