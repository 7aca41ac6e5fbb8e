//! The abilities of the output streams: colour, width, refreshing in place. Read once at the start and handed down,
//! so that rendering stays pure. Colour only on a terminal, without `NO_COLOR`, and not with `TERM=dumb`.

use std::io::{self, IsTerminal, Write as _};

use crate::os::printable::colored_line;
pub use crate::os::printable::one_line;

/// The abilities of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStyle {
    /// Colours and cursor movement.
    pub ansi: bool,
    /// Columns, when it is a terminal.
    pub width: Option<u16>,
}

/// The meaning of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Under way, or wants a look.
    Notice,
    /// Wrong.
    Bad,
    /// Labels and asides.
    Quiet,
    /// The name of something.
    Strong,
}

impl StreamStyle {
    /// A pipe or a file.
    pub const PLAIN: Self = Self { ansi: false, width: None };

    pub fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    pub fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    fn of(stream: &(impl IsTerminal + std::os::fd::AsRawFd)) -> Self {
        if !stream.is_terminal() {
            return Self::PLAIN;
        }
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        Self { ansi: !dumb && set("NO_COLOR").is_none(), width: width(stream.as_raw_fd()) }
    }

    /// The text in that tone, or as it is.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        if !self.ansi {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Notice => "33",
            Tone::Bad => "31;1",
            Tone::Quiet => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

nix::ioctl_read_bad!(window_size, libc::TIOCGWINSZ, libc::winsize);

fn width(fd: std::os::fd::RawFd) -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is one of our standard streams, and the kernel fills exactly this struct.
    unsafe { window_size(fd, &raw mut size) }.ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}

/// Data, to stdout, with a line end. A closed pipe is an error here and silence in `main`.
pub fn data(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end_matches('\n'))?;
    out.flush()
}

/// Writes chatter to stderr, with a line end. A closed stderr does not stop a command.
pub fn chatter(text: &str) {
    drop(writeln!(io::stderr().lock(), "{}", text.trim_end_matches('\n')));
}

/// Prints a line of an app's output: raw in a pipe; on a terminal, control sequences other than colours are removed.
pub fn output(look: StreamStyle, line: &str) -> io::Result<()> {
    match (io::stdout().is_terminal(), look.ansi) {
        (false, _) => data(line),
        (true, true) => data(&colored_line(line)),
        (true, false) => data(&one_line(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_has_no_escape_codes() {
        assert_eq!(StreamStyle::PLAIN.paint(Tone::Bad, "x"), "x");
        assert_eq!(StreamStyle { ansi: true, width: None }.paint(Tone::Good, "x"), "\x1b[32mx\x1b[0m");
    }
}
