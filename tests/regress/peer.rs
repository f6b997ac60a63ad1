//! A server, and psql that talks to it as `pg_regress` has it do.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use agent_tests::{Auth, Cmd, Outcome, Postgres, Target, TempDir, users};

/// Who runs psql.
pub const CLIENT: u32 = 61_020;

/// What the tests' database is called.
const DATABASE: &str = "regression";

/// How long a test may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What a test has printed.
#[derive(Debug)]
pub struct Printed {
    /// Name of the test.
    pub test: String,
    /// Standard output and standard error, in the order in which they were written.
    pub bytes: Vec<u8>,
    /// How long it took.
    pub took: Duration,
    /// Where this peer's files are.
    pub files: PathBuf,
    /// The server's port.
    pub port: u16,
}

/// A server with the tests' database.
#[derive(Debug)]
pub struct Peer {
    server: Postgres,
    source: PathBuf,
    files: PathBuf,
}

impl Peer {
    /// A new server, whose tests write their files below `world`.
    ///
    /// # Errors
    /// A step failed.
    pub fn new(world: &TempDir, name: &str, source: &Path) -> Outcome<Self> {
        let server = Postgres::builder()
            .auth(Auth::Trust)
            // As pg_regress sets it for its own server.
            .setting("max_prepared_transactions = 2")
            .start()?;
        server.sql("postgres", &format!("CREATE DATABASE {DATABASE} TEMPLATE template0"))?;
        // As pg_regress sets them.
        for setting in [
            "lc_messages = 'C'",
            "lc_monetary = 'C'",
            "lc_numeric = 'C'",
            "lc_time = 'C'",
            "bytea_output = 'hex'",
            "timezone_abbreviations = 'Default'",
        ] {
            server.sql("postgres", &format!("ALTER DATABASE {DATABASE} SET {}", setting.replace(" = ", " TO ")))?;
        }
        let files = world.join(name);
        let results = files.join("results");
        let postgres = users::find("postgres")?.ok_or("there is no system user postgres")?;
        // The server and psql both write here.
        for dir in [&files, &results] {
            fs::create_dir(dir)
                .and_then(|()| chown(dir, Some(CLIENT), Some(postgres.gid.as_raw())))
                .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o775)))
                .map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        Ok(Self { server, source: source.to_owned(), files })
    }

    /// The server as a target.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::postgres("regress", self.server.addresses()).credential("postgres", None)
    }

    /// Runs the tests, one after the other.
    ///
    /// # Errors
    /// psql cannot be started, or takes too long.
    pub fn run(&self, tests: &[String]) -> Outcome<Vec<Printed>> {
        tests.iter().map(|test| self.one(test)).collect()
    }

    /// How many statements of psql's the server has run; what the agent asks for itself has no simple queries.
    #[must_use]
    pub fn statements(&self) -> usize {
        self.server.log().lines().filter(|line| line.contains("LOG:  statement: ")).count()
    }

    fn one(&self, test: &str) -> Outcome<Printed> {
        let (input, output) =
            (self.source.join(format!("sql/{test}.sql")), self.files.join(format!("results/{test}.out")));
        let start = Instant::now();
        // A shell, so that psql writes both outputs to one file and their order stays.
        let script = format!(
            "exec /usr/lib/postgresql/15/bin/psql -X -a -q -d {DATABASE} -v HIDE_TABLEAM=on -v HIDE_TOAST_COMPRESSION=on \
             < '{}' > '{}' 2>&1",
            input.display(),
            output.display()
        );
        let finished = Cmd::new("sh")
            .args(["-c", &script])
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.server.port().to_string())
            .env("PGUSER", "postgres")
            .env("PGSSLMODE", "disable")
            .env("PGTZ", "PST8PDT")
            .env("PGDATESTYLE", "Postgres, MDY")
            .env("PGOPTIONS", "-c intervalstyle=postgres_verbose")
            .env("LC_MESSAGES", "C")
            .env("PG_ABS_SRCDIR", &self.source)
            .env("PG_ABS_BUILDDIR", &self.files)
            .env("PG_LIBDIR", self.source.join("lib"))
            .env("PG_DLSUFFIX", ".so")
            .user(CLIENT, CLIENT)
            .limit(LIMIT)
            .run();
        let mut bytes = fs::read(&output).map_err(|error| format!("{}: {error}", output.display()))?;
        match finished {
            Ok(finished) => bytes.extend_from_slice(format!("{finished}\n").as_bytes()),
            Err(error) => bytes.extend_from_slice(format!("{}\n", error.lines().next().unwrap_or_default()).as_bytes()),
        }
        let (files, port) = (self.files.clone(), self.server.port());
        Ok(Printed { test: test.to_owned(), bytes, took: start.elapsed(), files, port })
    }
}
