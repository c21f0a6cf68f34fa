//! Wishes of other commands, which a supervisor hears through a socket beside its file in the profile's `pid` folder, for
//! this user alone. A wish is a line of JSON; what follows are lines as those of [`background`](super::background), to the
//! last one, which says how it went.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedSender;

use super::background::Told;
use crate::os::local_socket::{LocalListener, connect};

/// What a supervisor is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// End all of its engines, and start others in their place.
    RestartEngines,
    /// End everything, and start again as it was started.
    RestartAll,
    /// Tell everything from now on, to the end, and how that went.
    Watch,
}

/// A wish, and who waits for what becomes of it.
#[derive(Debug)]
pub struct Wished {
    pub wish: Wish,
    pub by: UnixStream,
}

/// In which a line has to come, so that who says nothing holds nothing up.
const SAYING: Duration = Duration::from_secs(5);

/// A line has no more bytes.
const LONGEST: usize = 256;

/// Hears wishes as long as the listener lives. Must be called within a tokio runtime.
pub(super) fn listen(listener: &LocalListener, wishes: UnboundedSender<Wished>) -> io::Result<()> {
    let socket = listener.socket().try_clone()?;
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixListener::from_std(socket)?;
    tokio::spawn(async move {
        while !wishes.is_closed() {
            let Ok((stream, _)) = socket.accept().await else {
                return;
            };
            let wishes = wishes.clone();
            tokio::spawn(async move {
                if let Ok(Some(wished)) = tokio::time::timeout(SAYING, hear(stream)).await {
                    let _ = wishes.send(wished);
                }
            });
        }
    });
    Ok(())
}

async fn hear(mut by: UnixStream) -> Option<Wished> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < LONGEST {
        // Not a byte beyond the line: what follows belongs to whoever has the socket then.
        line.push(by.read_u8().await.ok()?);
    }
    match serde_json::from_slice(&line) {
        Ok(wish) => Some(Wished { wish, by }),
        Err(_) => {
            let told = Told::Failed {
                code: 1,
                message: Some("it is of another version, and does not know this wish".to_owned()),
            };
            let mut line = serde_json::to_string(&told).ok()?;
            line.push('\n');
            let _ = by.write_all(line.as_bytes()).await;
            None
        }
    }
}

/// Asks the supervisor that listens at `path`, and passes on what it says until it has said how it went. An error is that
/// of the connection.
pub fn ask(path: &Path, wish: Wish, mut tell: impl FnMut(Told)) -> io::Result<()> {
    let mut stream = connect(path)?;
    let mut line = serde_json::to_string(&wish)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        // What another version says may be unknown.
        let Ok(told) = serde_json::from_str::<Told>(&line?) else {
            continue;
        };
        let is_last = matches!(told, Told::Ready | Told::Failed { .. });
        tell(told);
        if is_last {
            return Ok(());
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}
