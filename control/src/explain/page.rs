//! Text that is indented and wrapped, in colour on a terminal and plain ASCII elsewhere.

use std::fmt::Write as _;

/// Columns of a paragraph.
const WIDTH: usize = 100;

/// What a piece of text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Nothing special.
    Plain,
    /// What is to be read first.
    Strong,
    /// What can be left out.
    Faint,
    /// What fits, or is to be written.
    Good,
    /// What does not fit.
    Bad,
    /// What fits and should not be used.
    Doubtful,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Strong => "\x1b[1m",
            Self::Faint => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[1;31m",
            Self::Doubtful => "\x1b[33m",
        }
    }
}

/// What is being written.
#[derive(Debug)]
pub struct Page {
    text: String,
    indent: usize,
    terminal: bool,
}

impl Page {
    /// An empty page. On a terminal it has colours and drawn characters; elsewhere it is ASCII, as far as what it tells of is.
    pub fn new(terminal: bool) -> Self {
        Self { text: String::new(), indent: 0, terminal }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// A character for terminals, or another for files and pipes.
    pub fn pick(&self, terminal: &'static str, plain: &'static str) -> &'static str {
        if self.terminal { terminal } else { plain }
    }

    /// Writes what `write` writes further to the right.
    pub fn indented(&mut self, by: usize, write: impl FnOnce(&mut Self)) {
        self.indent += by;
        write(self);
        self.indent -= by;
    }

    /// An empty line, unless there is one.
    pub fn gap(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// One line.
    pub fn line(&mut self, pieces: &[(Style, &str)]) {
        let mut line = " ".repeat(self.indent);
        for (style, text) in pieces {
            // What a peer has sent may hold anything.
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            match style.code() {
                code if self.terminal && !code.is_empty() && !text.is_empty() => {
                    let _ = write!(line, "{code}{text}\x1b[0m");
                }
                _ => line.push_str(&text),
            }
        }
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// Text that is wrapped between words.
    pub fn paragraph(&mut self, style: Style, text: &str) {
        let width = WIDTH.saturating_sub(self.indent);
        let mut line = String::new();
        for word in text.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                self.line(&[(style, &line)]);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line(&[(style, &line)]);
    }
}
