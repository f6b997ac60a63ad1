//! What a client says before it is logged in.

use bytes::BytesMut;

use crate::protocol::postgres::startup::{self, Opening, Startup, StartupError};

/// The user that the agent logs in as.
const USER: &str = "agent";

/// Openings one after the other, as long as they are followed by more: any split of them gives the same, and the server is
/// told what was understood, and nothing else.
pub fn run(input: &[u8]) {
    let whole = openings(input, input.len().max(1));
    for size in [1, 7] {
        assert!(whole == openings(input, size), "what comes in pieces is understood otherwise");
    }
    for opening in whole {
        match opening {
            Ok(Opening::Startup(startup)) => upstream(startup),
            Ok(Opening::Cancel(key)) => {
                let again = startup::take(&mut BytesMut::from(&key.request()[..]));
                assert!(again == Ok(Some(Opening::Cancel(key))), "another cancel key is passed on");
            }
            Ok(Opening::Ssl | Opening::Gss) => {}
            Err(error) => drop(error.native().encode()),
        }
    }
}

fn openings(input: &[u8], size: usize) -> Vec<Result<Opening, StartupError>> {
    let mut found = Vec::new();
    let mut buffer = BytesMut::new();
    for piece in input.chunks(size) {
        buffer.extend_from_slice(piece);
        loop {
            match startup::take(&mut buffer) {
                Ok(None) => break,
                Ok(Some(opening)) => {
                    let last = matches!(opening, Opening::Startup(_) | Opening::Cancel(_));
                    found.push(Ok(opening));
                    if last {
                        return found;
                    }
                }
                Err(error) => {
                    found.push(Err(error));
                    return found;
                }
            }
        }
    }
    found
}

fn upstream(mut startup: Startup) {
    let own = startup.rename(startup::identity(Some(&"role".to_owned()), "session"));
    assert!(own.is_none_or(|name| !name.contains('\0')));
    let packet = startup.upstream(USER);
    if packet.len() > startup::STARTUP_LIMIT {
        // The server refuses it.
        return;
    }
    let wanted =
        Startup { minor: startup.upstream_minor(), protocol_options: Vec::new(), user: USER.to_owned(), ..startup };
    match startup::take(&mut BytesMut::from(&packet[..])) {
        Ok(Some(Opening::Startup(understood))) => assert_eq!(understood, wanted, "the server is told something else"),
        _ => panic!("the server is told nothing that it understands: {packet:?}"),
    }
}
