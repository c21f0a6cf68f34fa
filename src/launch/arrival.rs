//! A controller that has no way to tell its starter that it is ready (a job, a process under mpiexec) writes its connection
//! files all the same: these are waited for.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;

use super::sleep_until;
use crate::profile::ConnectionFiles;
use crate::profile::connection::ClientFile;
use crate::profile::settings::Traits;

/// ipyparallel's `ControllerLauncher.connection_info_timeout`.
const CONNECTION_INFO_TIMEOUT: Duration = Duration::from_secs(60);

/// In which a controller's files have to be there; nothing is for ever, as a negative number is in ipyparallel.
pub fn connection_info_timeout(traits: &Traits) -> Option<Duration> {
    match traits
        .get("connection_info_timeout")
        .and_then(Value::as_f64)
    {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        None => Some(CONNECTION_INFO_TIMEOUT),
    }
}

/// File systems that machines share tell nobody of what others write, so that the file is looked at: often when it is to be
/// expected, more seldom the longer it takes.
const SOON: Duration = Duration::from_millis(100);
const SELDOM: Duration = Duration::from_secs(3);

/// What a controller has to write before it counts as ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedFiles {
    pub files: ConnectionFiles,
    /// So long after the controller began to run; for ever without it.
    pub within: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct Arrival {
    file: Awaited,
    within: Option<Duration>,
    /// Whose settings say so.
    launcher: &'static str,
    late_at: Option<Instant>,
    pause: Duration,
    next: Instant,
    /// One that goes on. A file server that does not answer holds it up, and nothing else.
    look: Option<oneshot::Receiver<bool>>,
}

#[derive(Clone, Debug)]
struct Awaited {
    /// The one that is written last.
    path: PathBuf,
    /// What was there before: of a controller that has ended, whose files are to be used again or were left behind.
    before: Option<Stamp>,
}

/// Files are written anew, and put in the place of older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Arrival {
    /// To be called before the controller is started.
    pub(super) fn expect(awaited: &AwaitedFiles, launcher: &'static str) -> Self {
        Self {
            file: Awaited::new(awaited.files.client.clone()),
            within: awaited.within,
            launcher,
            late_at: None,
            pause: SOON,
            next: Instant::now(),
            look: None,
        }
    }

    /// The controller runs: its time begins.
    pub(super) fn on_runs(&mut self) {
        let now = Instant::now();
        self.late_at = self.within.and_then(|within| now.checked_add(within));
        self.pause = SOON;
        self.next = self.next.min(now + SOON);
    }

    /// The controller was stopped before it was seen to be ready, and will begin anew: what it has left behind does not count.
    pub(super) fn on_requeued(&mut self) {
        self.file = Awaited::new(self.file.path.clone());
        self.late_at = None;
        self.look = None;
    }

    /// Resolves when the file is there, or once with an error when it is late. A call that is given up loses nothing.
    pub(super) async fn wait(&mut self) -> Result<(), String> {
        let late_at = self.late_at;
        tokio::select! {
            () = self.file_is_there() => Ok(()),
            () = sleep_until(late_at) => {
                self.late_at = None;
                Err(self.late())
            }
        }
    }

    async fn file_is_there(&mut self) {
        loop {
            let look = match &mut self.look {
                Some(look) => look,
                None => {
                    sleep_until(Some(self.next)).await;
                    self.look.insert(self.file.look())
                }
            };
            let has_come = look.await.unwrap_or(false);
            self.look = None;
            if has_come {
                return;
            }
            self.next = Instant::now() + self.pause;
            self.pause = (self.pause * 3 / 2).min(SELDOM);
        }
    }

    fn late(&self) -> String {
        format!(
            "the controller runs, but its connection file {} is not there after {:.0} s: the profile's folder has to be on a \
             file system that the nodes share; {}.connection_info_timeout allows more time",
            self.file.path.display(),
            self.within.unwrap_or_default().as_secs_f64(),
            self.launcher
        )
    }
}

impl Awaited {
    fn new(path: PathBuf) -> Self {
        Self {
            before: read(&path).map(|(stamp, _)| stamp),
            path,
        }
    }

    fn has_come(&self) -> bool {
        let Some((stamp, text)) = read(&self.path) else {
            return false;
        };
        Some(stamp) != self.before && ClientFile::from_text(&text).is_ok()
    }

    /// In a thread of its own: the runtime would wait for its threads at the end.
    fn look(&self) -> oneshot::Receiver<bool> {
        let (tell, answer) = oneshot::channel();
        let file = self.clone();
        let look = std::thread::Builder::new().name("file-look".to_owned());
        // Without a thread there is no answer, and another try later.
        let _ = look.spawn(move || {
            // Nobody hears it when it is given up.
            let _ = tell.send(file.has_come());
        });
        answer
    }
}

/// It is opened first: network file systems ask their server anew then.
fn read(path: &PathBuf) -> Option<(Stamp, String)> {
    let mut file = File::open(path).ok()?;
    let found = file.metadata().ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    let stamp = Stamp {
        inode: found.ino(),
        seconds: found.mtime(),
        nanoseconds: found.mtime_nsec(),
    };
    Some((stamp, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::ClusterId;

    const CLIENT: &str = r#"{"ssh":"","interface":"tcp://*","registration":1,"control":2,"mux":3,"task":4,"iopub":5,
        "notification":6,"key":"k","location":"a","pack":"json","unpack":"json","signature_scheme":"hmac-sha256"}"#;

    #[test]
    fn only_a_file_that_was_not_there_before_has_come() {
        let folder = tempfile::tempdir().unwrap();
        let files = ConnectionFiles::paths(folder.path(), &ClusterId::default());
        let write = |text: &str| {
            crate::os::files::write_private(&files.client, text.as_bytes()).unwrap();
        };
        let first = Awaited::new(files.client.clone());
        assert!(!first.has_come());
        write("{");
        assert!(!first.has_come(), "it is no whole file");
        write(CLIENT);
        assert!(first.has_come());
        let second = Awaited::new(files.client.clone());
        assert!(!second.has_come());
        // The same content, as with --reuse.
        write(CLIENT);
        assert!(second.has_come());
    }

    fn arrival(files: ConnectionFiles, within: Option<Duration>) -> Arrival {
        Arrival::expect(&AwaitedFiles { files, within }, "XLauncher")
    }

    #[tokio::test]
    async fn it_is_waited_for_though_others_are_heard_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let files = ConnectionFiles::paths(folder.path(), &ClusterId::default());
        let mut arrival = arrival(files.clone(), None);
        // Whoever opens it waits, as for a file server that does not answer.
        nix::unistd::mkfifo(&files.client, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for _ in 0..3 {
            let moment = tokio::time::sleep(2 * SOON);
            tokio::select! {
                _ = arrival.wait() => panic!("it is not there"),
                () = moment => {}
            }
        }
        // It answers that there is nothing.
        drop(File::options().write(true).open(&files.client).unwrap());
        crate::os::files::write_private(&files.client, CLIENT.as_bytes()).unwrap();
        arrival.on_runs();
        assert_eq!(arrival.wait().await, Ok(()));
    }

    #[tokio::test]
    async fn it_is_late_only_while_the_controller_runs() {
        let folder = tempfile::tempdir().unwrap();
        let files = ConnectionFiles::paths(folder.path(), &ClusterId::default());
        let mut arrival = arrival(files.clone(), Some(Duration::ZERO));
        arrival.on_runs();
        let late = arrival.wait().await.unwrap_err();
        assert!(late.contains("XLauncher.connection_info_timeout"), "{late}");
        arrival.on_runs();
        // What it wrote before it was stopped is that of a controller that is gone.
        crate::os::files::write_private(&files.client, CLIENT.as_bytes()).unwrap();
        arrival.on_requeued();
        tokio::select! {
            _ = arrival.wait() => panic!("it waits in the queue"),
            () = tokio::time::sleep(2 * SOON) => {}
        }
        crate::os::files::write_private(&files.client, CLIENT.as_bytes()).unwrap();
        assert_eq!(arrival.wait().await, Ok(()));
    }
}
