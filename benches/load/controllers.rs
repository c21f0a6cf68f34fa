//! The three things that load is put on: this controller, the stock one, and a bare relay.

use std::error::Error;
use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipcluster::profile::connection::{ClientFile, Common, EngineFile};
use ipcluster::protocol::ClusterId;
use ipcluster::transport::{Context, KeyPair, Security, ServerKey};
use ipcluster::web::AddressFile;

use crate::measure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Stock,
    Relay,
    Ours,
}

/// How a controller is set up for a scenario.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) scheme: &'static str,
    pub(crate) hwm: u32,
    /// As it is called on the command line: nodb, dictdb, sqlitedb.
    pub(crate) database: &'static str,
    pub(crate) dashboard: Dashboard,
}

/// Whether a controller serves a status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dashboard {
    Off,
    /// And nobody looks at it.
    Served,
    /// And one page is open.
    Open,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            scheme: "leastload",
            hwm: 1,
            database: "nodb",
            dashboard: Dashboard::Off,
        }
    }
}

/// Programs to be started.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) ours: PathBuf,
    /// A Python that has ipyparallel.
    pub(crate) python: PathBuf,
    /// Encrypt all connections.
    pub(crate) curve: bool,
}

/// What a relay with CURVE can do.
pub(crate) const ENCRYPTED_RELAY: &str = "tasks-hwm0";

/// For connections to the controller that wrote this part of a file.
pub(crate) fn context(file: &Common) -> Result<Context, Box<dyn Error>> {
    let Some(key) = &file.curve_serverkey else {
        return Ok(Context::new());
    };
    Ok(Context::secured(Security::Client {
        server: ServerKey::parse(key).ok_or("the controller's key is none")?,
        keys: Arc::new(KeyPair::generate()),
    }))
}

pub(crate) struct Server {
    pub(crate) side: Side,
    pub(crate) client: ClientFile,
    pub(crate) engine: EngineFile,
    child: Child,
    _dir: tempfile::TempDir,
}

/// Stock controllers need seconds to start on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);

impl Server {
    pub(crate) fn start(
        side: Side,
        setup: Setup,
        programs: &Programs,
    ) -> Result<Self, Box<dyn Error>> {
        let dir = tempfile::tempdir()?;
        let mut command = match side {
            Side::Ours => {
                let mut command = Command::new(&programs.ours);
                command.args(["controller", "--log-level=error"]);
                command.arg(format!("--hwm={}", setup.hwm));
                if setup.dashboard != Dashboard::Off {
                    command.arg("--dashboard");
                }
                command
            }
            Side::Stock => {
                let mut command = Command::new(&programs.python);
                command.args(["-m", "ipyparallel.controller", "--log-level=50"]);
                command.arg(format!("--TaskScheduler.hwm={}", setup.hwm));
                command
            }
            Side::Relay if programs.curve => {
                let mut command = Command::new(&programs.python);
                command.args(["-c", include_str!("curve_relay.py")]);
                command.arg(dir.path());
                command
            }
            Side::Relay => {
                let mut command = Command::new(std::env::current_exe()?);
                command.arg("--relay").arg(dir.path());
                command.arg(format!("--hwm={}", setup.hwm));
                command
            }
        };
        if side != Side::Relay {
            command
                .arg(format!("--profile-dir={}", dir.path().display()))
                .arg(format!("--scheme={}", setup.scheme))
                .arg(format!("--{}", setup.database));
        }
        command.env("IPYTHONDIR", dir.path());
        command.env("IPP_ENABLE_CURVE", if programs.curve { "1" } else { "0" });
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let log = fs::File::create(dir.path().join("stderr"))?;
        let mut child = command.stderr(log).spawn()?;
        let files = wait_for_files(dir.path(), &mut child);
        if files.is_err() {
            let _ = child.kill();
        }
        let (client, engine) = files?;
        if setup.dashboard == Dashboard::Open {
            open_page(dir.path())?;
        }
        Ok(Self {
            side,
            client,
            engine,
            child,
            _dir: dir,
        })
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        measure::family(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let family = self.pids();
        signal(self.child.id(), nix::sys::signal::Signal::SIGTERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // Nobody may be left who takes time from the next one.
        for pid in family {
            if Path::new(&format!("/proc/{pid}")).exists() {
                signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
        let _ = self.child.wait();
    }
}

/// Reads what a page is sent, until the controller ends.
fn open_page(dir: &Path) -> Result<(), Box<dyn Error>> {
    let address = AddressFile::read(&AddressFile::path(
        &dir.join("security"),
        &ClusterId::default(),
    ))?;
    let address = address.ok_or("the controller has left no address of its dashboard")?;
    let mut stream = TcpStream::connect(address.authority())?;
    let (authority, token) = (address.authority(), &address.token);
    write!(
        stream,
        "GET /events HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if &status != b"HTTP/1.1 200" {
        return Err(String::from_utf8_lossy(&status).into());
    }
    std::thread::spawn(move || io::copy(&mut stream, &mut io::sink()));
    Ok(())
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

fn wait_for_files(
    dir: &Path,
    child: &mut Child,
) -> Result<(ClientFile, EngineFile), Box<dyn Error>> {
    let path = |which: &str| dir.join(format!("security/ipcontroller-{which}.json"));
    let deadline = Instant::now() + START_LIMIT;
    loop {
        // Stock controllers do not write their files in one step.
        if let (Ok(client), Ok(engine)) = (
            ClientFile::read(&path("client")),
            EngineFile::read(&path("engine")),
        ) {
            return Ok((client, engine));
        }
        if let Some(status) = child.try_wait()? {
            let why = fs::read_to_string(dir.join("stderr")).unwrap_or_default();
            return Err(format!("the controller ended: {status}: {}", why.trim()).into());
        }
        if Instant::now() > deadline {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
