//! Configurations: the contract is read as it is meant, and each wrong one gets the report that is kept beside it.
//!
//! A case is a file `NN-name.toml` with its report in `NN-name.expected`; `@DIR@` in both stands for the directory with the
//! files that configurations name. `POSTERN_TEST_BLESS=1` writes the reports anew, to be read before they are committed.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::ExitCode,
};

use agent::{
    config::{
        Address, ApplicationName, Certificate, ChannelBinding, Config, ConfigErrors, CredentialSource, Durability,
        Existing, Files, Placeholder, PlaceholderPassword, Reach, TlsMode, TlsNegotiation,
    },
    model::{Mode, Style},
};
use agent_tests::{Outcome, TempDir, suite};

/// Stands for the directory with the files that configurations name.
const DIR: &str = "@DIR@";
/// Where the configuration is said to be.
const FILE: &str = "/etc/postern/postern.toml";
/// A user that is neither root nor the agent's.
const SOMEONE: u32 = 64_322;
const PROTOCOLS: &[&str] = &["postgres"];

fn main() -> ExitCode {
    match prepare() {
        Ok((world, cases)) => run(&world, cases),
        Err(reason) => {
            println!("config: preparation ... FAILED\n    {reason}\n0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}

fn run(world: &World, cases: Vec<PathBuf>) -> ExitCode {
    let mut suite = suite("config")
        .case("the contract is read as it is meant", || contract(world))
        .case("without looking at files, the proxy reads what names them", || unlooked(world))
        .case("a file that is not there is said to be so", absent);
    for case in cases {
        let name = case.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        suite = suite.case(name, move || wrong(world, &case));
    }
    suite.run()
}

/// The files that configurations name.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Outcome<Self> {
        let dir = TempDir::new().map_err(|error| error.to_string())?;
        let certificate = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
        for (name, text, mode) in [
            ("ca.pem", certificate, 0o644),
            ("orders.crt", certificate, 0o644),
            ("orders.key", key, 0o600),
            ("group.key", key, 0o640),
            ("orders.password", "correct horse\n", 0o600),
            ("open.password", "correct horse\n", 0o644),
            ("empty.password", "", 0o600),
        ] {
            let path = dir.join(name);
            fs::write(&path, text).map_err(|error| error.to_string())?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(|error| error.to_string())?;
        }
        let other = dir.join("other.password");
        fs::write(&other, "correct horse\n").map_err(|error| error.to_string())?;
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).map_err(|error| error.to_string())?;
        chown(&other, Some(SOMEONE), Some(SOMEONE)).map_err(|error| format!("this suite needs root: {error}"))?;
        fs::create_dir(dir.join("policies")).map_err(|error| error.to_string())?;
        Ok(Self { dir })
    }

    /// A configuration of the suite, written into the directory.
    fn config(&self, source: &Path) -> Outcome<PathBuf> {
        let text = fs::read_to_string(source).map_err(|error| format!("{}: {error}", source.display()))?;
        let path = self.dir.join("postern.toml");
        fs::write(&path, text.replace(DIR, &self.shown())).map_err(|error| error.to_string())?;
        Ok(path)
    }

    fn shown(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// A report as it is kept.
    fn kept(&self, errors: &ConfigErrors, path: &Path) -> String {
        format!("{errors}\n").replace(&path.display().to_string(), FILE).replace(&self.shown(), DIR)
    }
}

fn prepare() -> Outcome<(World, Vec<PathBuf>)> {
    let folder = here().join("cases");
    let entries = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut cases: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    cases.sort();
    Ok((World::new()?, cases))
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config")
}

fn wrong(world: &World, case: &Path) -> Outcome {
    let path = world.config(case)?;
    let Err(errors) = Config::load(&path, PROTOCOLS, Files::Check) else {
        return Err("this configuration was accepted".into());
    };
    let report = world.kept(&errors, &path);
    let expected = case.with_extension("expected");
    if std::env::var_os("POSTERN_TEST_BLESS").is_some_and(|value| value == "1") {
        return fs::write(&expected, report).map_err(|error| error.to_string());
    }
    let kept = fs::read_to_string(&expected).map_err(|error| format!("{}: {error}", expected.display()))?;
    if kept == report { Ok(()) } else { Err(format!("the report is\n{report}\nand the one that is kept\n{kept}")) }
}

fn contract(world: &World) -> Outcome {
    let path = world.config(&here().join("contract.toml"))?;
    let config = Config::load(&path, PROTOCOLS, Files::Check).map_err(|errors| errors.to_string())?;
    assert_eq!(config.agent.policies, world.dir.join("policies"));
    assert_eq!(config.agent.pin_dir, Path::new("/sys/fs/bpf/postern"));
    assert_eq!(config.agent.user, "postern");
    assert_eq!((config.intercept.namespaces, config.intercept.existing), (Reach::Host, Existing::Leave));
    let [orders, ledger, stock] = config.targets.as_slice() else {
        return Err(format!("{} targets", config.targets.len()));
    };

    assert_eq!((orders.name.as_str(), orders.protocol.as_str()), ("orders", "postgres"));
    assert_eq!((orders.mode, orders.durability), (Mode::Enforce, Durability::Batched));
    assert_eq!(
        orders.addresses,
        [
            Address::Name { host: "orders.db.internal".into(), ports: 5432.into() },
            SocketAddr::from(([10, 20, 0, 5], 5432)).into(),
        ]
    );
    assert_eq!(orders.sockets, [Path::new("/run/postgresql/.s.PGSQL.5432")]);
    assert_eq!(orders.tls.mode, TlsMode::VerifyFull);
    assert_eq!(orders.tls.ca, Some(world.dir.join("ca.pem")));
    assert_eq!(orders.serve.certificate.as_ref().map(|serve| serve.key.clone()), Some(world.dir.join("orders.key")));
    let CredentialSource::Agent(credentials) = &orders.credential else {
        return Err("the credential is the client's".into());
    };
    assert_eq!(credentials.len(), 1);
    assert_eq!(credentials[0].user, "orders_app");
    assert_eq!(credentials[0].password_file, Some(world.dir.join("orders.password")));
    let columns: Vec<_> = orders.columns.iter().map(|rule| (rule.column.as_str(), rule.style, rule.line)).collect();
    assert_eq!(orders.application_name, ApplicationName::Identity);
    assert_eq!(orders.serve.password, None);
    assert_eq!((orders.tls.negotiation, orders.tls.channel_binding), (TlsNegotiation::Request, ChannelBinding::Prefer));
    assert_eq!(columns, [("ssn", Style::Last4, 17), ("email", Style::Email, 18)]);
    assert!(orders.columns.iter().all(|rule| rule.database.is_none() && rule.schema == "public"));

    assert_eq!((ledger.mode, ledger.durability), (Mode::Observe, Durability::Strict));
    assert!(matches!(ledger.credential, CredentialSource::Client));
    assert_eq!(ledger.addresses[0], SocketAddr::from(([10, 20, 0, 6], 5432)).into());
    assert_eq!(ledger.application_name, ApplicationName::Client);
    assert_eq!(ledger.columns[0].database.as_deref(), Some("shop"));
    assert_eq!(ledger.columns[0].table, "odd.name");

    let CredentialSource::Agent(credentials) = &stock.credential else {
        return Err("the credential is the client's".into());
    };
    assert_eq!(credentials[0].role.as_deref(), Some("orders-reader"));
    assert_eq!((credentials[1].role.as_deref(), credentials[1].password_file.as_deref()), (None, None));

    let pair = Certificate { cert: world.dir.join("orders.crt"), key: world.dir.join("orders.key") };
    assert_eq!((&credentials[0].certificate, &credentials[1].certificate), (&None, &Some(pair)));
    assert_eq!(stock.application_name, ApplicationName::Client);
    assert_eq!((stock.tls.negotiation, stock.tls.channel_binding), (TlsNegotiation::Direct, ChannelBinding::Require));
    let password = PlaceholderPassword::File(world.dir.join("orders.password"));
    assert_eq!(stock.serve.password, Some(Placeholder { user: Some("app".into()), password }));
    assert_eq!(stock.serve.certificate, None);

    let [reader] = config.roles.as_slice() else {
        return Err(format!("{} roles", config.roles.len()));
    };
    assert_eq!(reader.matches[0].unit.as_deref(), Some("orders-agent.service"));
    assert_eq!(reader.matches[1].exe.as_deref(), Some(Path::new("/usr/bin/psql")));
    assert_eq!(reader.matches[2].container.as_deref(), Some("0123456789ab"));
    let limits = reader.limits.given().collect::<Vec<_>>();
    let others = [("sessions", 8), ("statements_per_minute", 600)];
    assert_eq!(limits, [&[("rows", 10_000), ("bytes", 50_000_000), ("statement_time", 30)][..], &others].concat());
    Ok(())
}

fn unlooked(world: &World) -> Outcome {
    let path = world.config(&here().join("cases/06-password-open-to-others.toml"))?;
    Config::load(&path, PROTOCOLS, Files::Skip).map(drop).map_err(|errors| errors.to_string())
}

fn absent() -> Outcome {
    match Config::load(Path::new("/no/such/postern.toml"), PROTOCOLS, Files::Check) {
        Ok(_) => Err("a file that is not there was read".into()),
        Err(errors) if errors.to_string().starts_with("/no/such/postern.toml: the configuration cannot be read:") => {
            Ok(())
        }
        Err(errors) => Err(errors.to_string()),
    }
}
