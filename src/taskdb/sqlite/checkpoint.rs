//! Carries what is in the write-ahead log over into the file, beside the writing: it waits for the disk, and recording does
//! not.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::{Sync, schema};

/// Bytes of changes after which the log is carried over. Pages of indexes that many records touch are carried over once
/// for all of them.
const ENOUGH: u64 = 16 << 20;

/// A thread with a connection of its own.
#[derive(Debug)]
pub(super) struct Checkpointer {
    /// [`None`] while it ends.
    ask: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Bytes of changes that were written since it was asked.
    written: u64,
}

impl Checkpointer {
    pub(super) fn start(path: &Path, sync: Sync) -> Result<Self, rusqlite::Error> {
        let db = Connection::open(path)?;
        schema::configure_connection(&db, sync)?;
        let (ask, asked) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("checkpoints".to_owned())
            .spawn(move || run(&db, &asked));
        Ok(Self {
            ask: Some(ask),
            // Where no thread can be had, SQLite does it in ours, now and then.
            thread: thread.ok(),
            written: 0,
        })
    }

    pub(super) fn on_written(&mut self, bytes: u64) {
        self.written += bytes;
        if self.written >= ENOUGH {
            self.carry_over();
        }
    }

    /// Whatever there is; called now and then, so that not much is lost with the machine.
    pub(super) fn carry_over(&mut self) {
        if self.written > 0
            && let Some(ask) = &self.ask
        {
            // One that has been asked and has not begun does this as well.
            let _ = ask.try_send(());
            self.written = 0;
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(db: &Connection, asked: &Receiver<()>) {
    while asked.recv().is_ok() {
        // What cannot be carried over stays in the log, where it is as safe; a fault of the disk shows when it is written to.
        let _ = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    }
}
