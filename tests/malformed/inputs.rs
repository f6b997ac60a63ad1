//! The inputs: every field of every message wrong in every way that its shape allows, cuts, and random bytes from fixed seeds.

/// Bytes and what is wrong with them.
pub struct Input {
    pub name: String,
    pub bytes: Vec<u8>,
}

/// A generator whose numbers are the same in every run (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

fn input(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Input {
    Input { name: name.into(), bytes: bytes.into() }
}

/// A message with its type and its right length.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A message with a length that the caller chooses.
fn lying(kind: u8, length: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// A packet without a type, as the first of a connection.
fn packet(code: i32, body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as i32 + 8).to_be_bytes().to_vec();
    bytes.extend_from_slice(&code.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

const V3: i32 = 196_608;
const SSL: i32 = 80_877_103;
const GSS: i32 = 80_877_104;
const CANCEL: i32 = 80_877_102;

/// A right StartupMessage.
pub fn startup(user: &str, database: &str) -> Vec<u8> {
    packet(V3, format!("user\0{user}\0database\0{database}\0\0").as_bytes())
}

/// Inputs for a connection that has been asked for a password.
pub fn asked() -> Vec<Input> {
    let first = |mechanism: &str, length: i32, text: &str| {
        message(b'p', &[mechanism.as_bytes(), b"\0", &length.to_be_bytes(), text.as_bytes()].concat())
    };
    let plain = |text: &str| first("SCRAM-SHA-256", text.len() as i32, text);
    let good = plain("n,,n=,r=abc");
    let proof = "A".repeat(43) + "=";
    let mut all = vec![
        input("nothing", []),
        input("a plain password", message(b'p', b"placeholder\0")),
        input("an empty answer", message(b'p', b"")),
        input("an answer of 65,535 bytes", message(b'p', &[b'a'; 65_531])),
        input("an answer longer than any", lying(b'p', 65_536, b"")),
        input("a query instead", message(b'Q', b"SELECT 1\0")),
        input("Terminate instead", message(b'X', b"")),
        input("a mechanism that was not offered", first("SCRAM-SHA-256-PLUS", 11, "n,,n=,r=abc")),
        input("a mechanism that is none", first("PLAIN", 4, "\0a\0b")),
        input("no first message", first("SCRAM-SHA-256", -1, "")),
        input("a first message shorter than it says", first("SCRAM-SHA-256", 400, "n,,n=,r=abc")),
        input("a first message longer than it says", first("SCRAM-SHA-256", 5, "n,,n=,r=abc")),
        input("a first message of a negative length", first("SCRAM-SHA-256", i32::MIN, "n,,n=,r=abc")),
        input("binding to a connection without TLS", plain("p=tls-server-end-point,,n=,r=abc")),
        input("another identity", plain("n,a=postgres,n=,r=abc")),
        input("no nonce", plain("n,,n=,r=")),
        input("a nonce of 2,000 characters", plain(&format!("n,,n=,r={}", "a".repeat(2_000)))),
        input("a first message that is not UTF-8", message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=\xff\xfe\xfd")),
        input("only commas", plain(",,,,,,")),
    ];
    for (name, last) in [
        ("no proof", "c=biws,r=abc".to_owned()),
        ("a proof for another nonce", format!("c=biws,r=abcd,p={proof}")),
        ("a proof that is not base64", "c=biws,r=abc,p=*".to_owned()),
        ("a proof of 3 bytes", "c=biws,r=abc,p=AAAA".to_owned()),
        ("other flags", format!("c=eSws,r=abc,p={proof}")),
        ("an empty last message", String::new()),
        ("a last message of 2,000 bytes", "p".repeat(2_000)),
    ] {
        all.push(input(name, [good.clone(), message(b'p', last.as_bytes())].concat()));
    }
    for cut in 1..good.len() {
        all.push(input(format!("a first message cut after {cut} bytes"), &good[..cut]));
    }
    all
}

/// Inputs for a connection that has sent nothing yet.
pub fn before_ready() -> Vec<Input> {
    let good = startup("x", "postgres");
    let mut all = vec![input("nothing at all", [])];
    for cut in 1..good.len() {
        all.push(input(format!("StartupMessage cut after {cut} bytes"), &good[..cut]));
    }
    for (name, length) in
        [("0", 0), ("3", 3), ("7", 7), ("-1", -1), ("10001", 10_001), ("2^31-1", i32::MAX), ("-2^31", i32::MIN)]
    {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&good[4..]);
        all.push(input(format!("StartupMessage of length {name}"), bytes));
    }
    for (name, code) in [
        ("2.0", 131_072),
        ("4.0", 262_144),
        ("0", 0),
        ("-1", -1),
        ("3.9999", V3 + 9_999),
        ("1234.5680", 80_877_104 + 1),
    ] {
        all.push(input(format!("protocol version {name}"), packet(code, b"user\0x\0\0")));
    }
    for (name, body) in [
        ("no terminator", &b"user\0x\0database\0postgres\0"[..]),
        ("no user", b"database\0postgres\0\0"),
        ("an empty user", b"user\0\0\0"),
        ("a key without a value", b"user\0x\0database\0"),
        ("no parameters and no terminator", b""),
        ("bytes after the terminator", b"user\0x\0\0\0garbage\0"),
        ("a name that is not UTF-8", b"user\0\xff\xfe\0\0"),
        ("the same parameter twice", b"user\0x\0user\0y\0database\0postgres\0\0"),
        ("an unknown parameter", b"user\0x\0database\0postgres\0no_such_setting\0on\0\0"),
        ("options with an unknown setting", b"user\0x\0database\0postgres\0options\0-c no_such=1\0\0"),
        ("options with a dangling -c", b"user\0x\0database\0postgres\0options\0-c\0\0"),
        ("options with a lone backslash", b"user\0x\0database\0postgres\0options\0\\\0\0"),
        ("replication", b"user\0x\0database\0postgres\0replication\0database\0\0"),
        ("an unsafe client_encoding", b"user\0x\0database\0postgres\0client_encoding\0SJIS\0\0"),
        ("a database with a quote", b"user\0x\0database\0po\"st'gres\0\0"),
    ] {
        all.push(input(format!("StartupMessage with {name}"), packet(V3, body)));
    }
    let many: Vec<u8> = (0..400).flat_map(|n| format!("_pq_.option{n}\0value\0").into_bytes()).collect();
    all.push(input(
        "StartupMessage with 400 protocol options",
        packet(V3, &[b"user\0x\0".as_slice(), &many, b"\0"].concat()),
    ));
    all.push(input(
        "StartupMessage with a value of 9,900 bytes",
        packet(V3, &[b"user\0".as_slice(), &[b'u'; 9_900], b"\0\0"].concat()),
    ));
    all.push(input("SSLRequest twice", [packet(SSL, b""), packet(SSL, b"")].concat()));
    all.push(input("SSLRequest with a body", packet(SSL, b"body")));
    all.push(input("SSLRequest, then plain bytes in the same segment", [packet(SSL, b""), good.clone()].concat()));
    all.push(input("SSLRequest, then bytes that are no TLS", [packet(SSL, b""), vec![0x42; 64]].concat()));
    all.push(input(
        "SSLRequest, then a TLS record of 2^16 bytes that does not come",
        [packet(SSL, b""), vec![0x16, 3, 1, 0xff, 0xff, 1]].concat(),
    ));
    all.push(input("GSSENCRequest three times", [packet(GSS, b""), packet(GSS, b""), packet(GSS, b"")].concat()));
    all.push(input("GSSENCRequest with a body", packet(GSS, b"body")));
    all.push(input("GSSENCRequest, then a query", [packet(GSS, b""), message(b'Q', b"SELECT 1\0")].concat()));
    all.push(input("CancelRequest for a session that is not", packet(CANCEL, &[0, 0, 0, 1, 0, 0, 0, 2])));
    all.push(input("CancelRequest cut short", packet(CANCEL, &[0, 0, 0])));
    all.push(input("CancelRequest with a key of 32 bytes for a session that is not", packet(CANCEL, &[7; 36])));
    all.push(input("CancelRequest with a key of 3 bytes", packet(CANCEL, &[7; 7])));
    all.push(input("CancelRequest without a key", packet(CANCEL, &[0, 0, 0, 1])));
    all.push(input("direct TLS: its first byte alone", [0x16]));
    all.push(input("direct TLS: a record that does not come", [0x16, 3, 1, 0xff, 0xff, 1]));
    all.push(input("direct TLS: a record that holds no handshake", [&[0x16, 3, 1, 0, 64][..], &[0x42; 64]].concat()));
    all.push(input("direct TLS: a ClientHello that is cut", [0x16, 3, 1, 0, 40, 1, 0, 0, 200, 3, 3, 7, 7, 7]));
    all.push(input("direct TLS: an alert first", [0x15, 3, 1, 0, 2, 2, 40]));
    all.push(input("CancelRequest with a key of 300 bytes", packet(CANCEL, &[7; 304])));
    all.push(input("direct TLS without ALPN", [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]));
    all.push(input("an HTTP request", *b"GET / HTTP/1.1\r\nHost: db\r\n\r\n"));
    all.push(input("an SSH banner", *b"SSH-2.0-OpenSSH_9.2\r\n"));
    all.push(input("a query before startup", message(b'Q', b"SELECT 1\0")));
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for n in 0..40 {
        let count = 1 + (random.next() % 600) as usize;
        all.push(input(format!("random bytes #{n}"), random.bytes(count)));
    }
    for n in 0..20 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            let at = (random.next() as usize) % bytes.len();
            bytes[at] = random.next() as u8;
        }
        // The lengths stay as they are, so that the damage is inside.
        bytes[..4].copy_from_slice(&good[..4]);
        all.push(input(format!("StartupMessage with flipped bytes #{n}"), bytes));
    }
    all
}

/// Inputs for a session that is ready for a query.
pub fn after_ready() -> Vec<Input> {
    let mut all = Vec::new();
    let sync = message(b'S', b"");
    // Every type that the protocol does not give to a client.
    for kind in (0..=255_u8).filter(|kind| !b"QPBDECSHXFpdcf".contains(kind)).step_by(9) {
        all.push(input(format!("a message of type {kind:#04x}"), message(kind, b"body")));
    }
    for kind in *b"QPBDECSHXFpdcf" {
        let shown = kind as char;
        for (name, length) in [("0", 0), ("3", 3), ("-1", -1), ("2^31-1", i32::MAX)] {
            all.push(input(format!("{shown} of length {name}"), lying(kind, length, b"SELECT 1\0")));
        }
        all.push(input(format!("{shown} cut after its type"), [kind]));
        all.push(input(format!("{shown} with an empty body"), [message(kind, b""), sync.clone()].concat()));
        all.push(input(format!("{shown} with a body of 0xff"), [message(kind, &[0xff; 33]), sync.clone()].concat()));
    }
    let bind = |body: &[u8]| [parse("", "SELECT $1::text"), message(b'B', body), sync.clone()].concat();
    for (name, body) in [
        ("more parameter values than there are bytes", &b"\0\0\0\0\x7f\xff"[..]),
        ("a negative count of formats", b"\0\0\xff\xff"),
        ("a parameter of length -2", b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        ("a parameter of length 2^31-1", b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0"),
        ("three formats for one parameter", b"\0\0\0\x03\0\0\0\0\0\0\0\x01\0\0\0\x01a\0\0"),
        ("an unknown format", b"\0\0\0\x01\0\x07\0\x01\0\0\0\x01a\0\0"),
        ("bytes after its end", b"\0\0\0\0\0\x01\0\0\0\x01a\0\0garbage"),
        ("no parameter where one is needed", b"\0\0\0\0\0\0\0\0"),
        ("five result formats for one column", b"\0\0\0\0\0\x01\0\0\0\x01a\0\x05\0\0\0\0\0\0\0\0\0\0"),
        ("a parameter that is not UTF-8", b"\0\0\0\0\0\x01\0\0\0\x02\xff\xfe\0\0"),
    ] {
        all.push(input(format!("Bind with {name}"), bind(body)));
    }
    let text = |name: &str, sql: &[u8]| input(format!("Query {name}"), message(b'Q', &[sql, b"\0"].concat()));
    all.extend([
        text("that is empty", b""),
        text("of white space", b" \n\t ;;; "),
        text("that is not UTF-8", b"SELECT '\xff\xfe'"),
        text("with a NUL inside", b"SELECT 1\0; SELECT 2"),
        text("with an open quote", b"SELECT 'abc"),
        text("with an open comment", b"SELECT 1 /* abc"),
        text("with an open dollar quote", b"SELECT $a$ abc"),
        text("of 1 MiB of parentheses", &[b'('; 1 << 20]),
        text("nested 5,000 deep", &[b"SELECT ".as_slice(), &b"(".repeat(5_000), b"1", &b")".repeat(5_000)].concat()),
        text("of 20,000 additions", &[b"SELECT 1".as_slice(), &b"+1".repeat(20_000)].concat()),
        text("of 3,000 statements", &b"SELECT 1;".repeat(3_000)),
        text(
            "of 2,000 nested sub-selects",
            &[b"SELECT ".as_slice(), &b"(SELECT ".repeat(2_000), b"1", &b")".repeat(2_000)].concat(),
        ),
        text("with a name of 100,000 letters", &[b"SELECT * FROM ".as_slice(), &[b'n'; 100_000]].concat()),
        text("of 40,000 columns", &[b"SELECT 1".as_slice(), &b",1".repeat(40_000)].concat()),
        text("with 70,000 parameters", &[b"SELECT $70000".as_slice()].concat()),
        input("Query without a terminator", message(b'Q', b"SELECT 1")),
        input("Parse with a negative count of types", [message(b'P', b"\0SELECT 1\0\xff\xff"), sync.clone()].concat()),
        input("Parse with more types than bytes", [message(b'P', b"\0SELECT 1\0\x7f\xff"), sync.clone()].concat()),
        input("Parse without a text", [message(b'P', b"name\0"), sync.clone()].concat()),
        input("Parse with a name of 70,000 letters", [parse(&"n".repeat(70_000), "SELECT 1"), sync.clone()].concat()),
        input("Parse of two statements", [parse("", "SELECT 1; SELECT 2"), sync.clone()].concat()),
        input("Parse of the same name twice", [parse("a", "SELECT 1"), parse("a", "SELECT 2"), sync.clone()].concat()),
        input("Bind of an unknown statement", [message(b'B', b"\0nothing\0\0\0\0\0\0\0"), sync.clone()].concat()),
        input("Execute of an unknown portal", [message(b'E', b"nothing\0\0\0\0\0"), sync.clone()].concat()),
        input("Execute with a negative limit", [message(b'E', b"\0\xff\xff\xff\xff"), sync.clone()].concat()),
        input("Describe of a kind that is not", [message(b'D', b"Xname\0"), sync.clone()].concat()),
        input("Close of a kind that is not", [message(b'C', b"Xname\0"), sync.clone()].concat()),
        input("Describe of an unknown statement", [message(b'D', b"Snothing\0"), sync.clone()].concat()),
        input("a second StartupMessage", startup("x", "postgres")),
        input("an SSLRequest inside the session", packet(SSL, b"")),
        input("CopyData without a COPY", [message(b'd', b"1\t2\n"), message(b'c', b""), sync.clone()].concat()),
        input("CopyFail without a COPY", [message(b'f', b"no\0"), sync.clone()].concat()),
        input("a PasswordMessage that nobody asked for", [message(b'p', b"secret\0"), sync.clone()].concat()),
        input("a FunctionCall", [message(b'F', b"\0\0\x04\xd2\0\0\0\0\0\0"), sync.clone()].concat()),
        input("10,000 Syncs", sync.repeat(10_000)),
        input("10,000 Flushes", message(b'H', b"").repeat(10_000)),
        input("Parse without a Sync, then the end", parse("", "SELECT 1")),
        input(
            "5,000 prepared names",
            (0..5_000).flat_map(|n| parse(&format!("n{n}"), "SELECT 1")).chain(sync.clone()).collect::<Vec<u8>>(),
        ),
    ]);
    all.extend(copies());
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    for n in 0..60 {
        let count = 1 + (random.next() % 800) as usize;
        all.push(input(format!("random bytes #{n}"), random.bytes(count)));
    }
    let good = [
        parse("s", "SELECT id FROM t WHERE id = $1"),
        message(b'B', b"\0s\0\0\0\0\x01\0\0\0\x01a\0\0"),
        message(b'E', b"\0\0\0\0\0"),
        sync,
    ]
    .concat();
    for n in 0..40 {
        let mut bytes = good.clone();
        for _ in 0..2 {
            let at = (random.next() as usize) % bytes.len();
            bytes[at] = random.next() as u8;
        }
        all.push(input(format!("a pipeline with flipped bytes #{n}"), bytes));
    }
    for cut in (1..good.len()).step_by(4) {
        all.push(input(format!("a pipeline cut after {cut} bytes"), &good[..cut]));
    }
    all
}

/// What can be wrong where the server takes data.
fn copies() -> Vec<Input> {
    let (data, done, sync) = (message(b'd', b"1\n"), message(b'c', b""), message(b'S', b""));
    let copy = |name: &str, bytes: Vec<u8>| {
        let begin = message(b'Q', b"COPY t (id) FROM STDIN\0");
        input(format!("COPY in, then {name}"), [begin, bytes].concat())
    };
    vec![
        copy("nothing", Vec::new()),
        copy("half of a header", b"d\0\0".to_vec()),
        copy("CopyData of length 3", lying(b'd', 3, b"1\n")),
        copy("CopyData of a negative length", lying(b'd', -1, b"1\n")),
        copy("CopyData of more than 1 GiB", lying(b'd', 0x3fff_ffff, b"1\n")),
        copy("CopyData of 1 GiB of which 2 bytes come", lying(b'd', 0x3fff_fffe, b"1\n")),
        copy(
            "CopyData in the middle of which Terminate comes",
            [lying(b'd', 100, b"1\n"), message(b'X', b"")].concat(),
        ),
        copy("a Query", [data.clone(), message(b'Q', b"SELECT 1\0")].concat()),
        copy("a Parse", [data.clone(), parse("", "SELECT 1"), sync.clone()].concat()),
        copy("a message of an unknown type", message(b'!', b"")),
        copy("CopyDone of 20,000 bytes", message(b'c', &[0; 20_000])),
        copy("CopyFail without a terminator", message(b'f', b"no")),
        copy("10,000 Syncs and the end", [sync.repeat(10_000), done.clone()].concat()),
        copy("100,000 empty CopyDatas", [message(b'd', b"").repeat(100_000), done.clone()].concat()),
        copy(
            "data that is none, and more of it",
            [message(b'd', b"none\n"), data.repeat(50_000), done.clone()].concat(),
        ),
        copy("its end, twice, with data between", [done.clone(), data.clone(), done.clone()].concat()),
        copy("a line of 4 MiB", [message(b'd', &[b'1'; 4 << 20]), done.clone()].concat()),
        input(
            "COPY in that is refused, then data, then another one",
            [
                message(b'Q', b"COPY t FROM PROGRAM 'id'\0"),
                data.repeat(100),
                done,
                message(b'Q', b"COPY t (id) FROM STDIN\0"),
                data,
            ]
            .concat(),
        ),
    ]
}
