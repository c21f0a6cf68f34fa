//! The terminal while it shows a screen of ours: as it was before when this is dropped.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

use super::line::Line;

pub(super) struct Terminal {
    /// As the terminal was; nothing where there are no keys to read.
    before: Option<Termios>,
    keys: Option<AsyncFd<std::os::fd::OwnedFd>>,
    colours: bool,
}

impl Terminal {
    /// Must be called within a tokio runtime.
    pub(super) fn enter() -> io::Result<Self> {
        let input = io::stdin();
        let before = tcgetattr(&input).ok();
        let mut keys = None;
        if let Some(before) = &before {
            let mut quiet = before.clone();
            // Keys come one by one, and are not shown; Ctrl-C stays a signal.
            quiet
                .local_flags
                .remove(LocalFlags::ICANON | LocalFlags::ECHO);
            tcsetattr(&input, SetArg::TCSANOW, &quiet)?;
            let own = input.as_fd().try_clone_to_owned()?;
            // SAFETY: the descriptor belongs to what waits for it, which closes it when it waits no more.
            keys = unsafe { AsyncFd::register(own) }.ok();
        }
        // Another screen, without a cursor, whose lines are cut where they end.
        print(b"\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Ok(Self {
            before,
            keys,
            colours: !no_colour,
        })
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = terminal_size::terminal_size();
        size.map_or((80, 24), |(width, height)| {
            (usize::from(width.0), usize::from(height.0))
        })
    }

    pub(super) fn show(&mut self, lines: &[Line]) -> io::Result<()> {
        let (width, _) = self.size();
        let mut screen = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                screen.push_str("\r\n");
            }
            screen.push_str(&line.styled(width, self.colours));
            screen.push_str("\x1b[K");
        }
        screen.push_str("\x1b[J");
        print(screen.as_bytes())
    }

    /// The next key; never without a keyboard.
    pub(super) async fn key(&mut self) -> io::Result<u8> {
        let Some(keys) = &self.keys else {
            return std::future::pending().await;
        };
        keys.readable().await?.clear_ready();
        let mut key = [0];
        // The keyboard's end is as good as a wish to end.
        match io::stdin().lock().read(&mut key)? {
            0 => Ok(b'q'),
            _ => Ok(key[0]),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = print(b"\x1b[?7h\x1b[?25h\x1b[?1049l");
        if let Some(before) = &self.before {
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
