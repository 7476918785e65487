//! strongSwan's settings, as swanctl.conf and strongswan.conf are written (strongswan.conf(5)): sections in braces,
//! `key = value`, `#` comments, quoted values, `include` with patterns, and sections that take over others
//! (`name : other.section { … }`).

use std::fmt;
use std::fs;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::CharIndices;
use std::sync::Arc;

use super::ImportError;

/// Files included in files included in files.
const MAX_INCLUDES: usize = 16;
/// Sections that take over sections that take over sections.
const MAX_REFERENCES: usize = 16;
/// Sections in sections: swanctl.conf has five.
const MAX_DEPTH: usize = 32;

/// Where something stands in the files that are imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// From 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) place: Place,
}

/// A section with everything that it holds, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) settings: Vec<Setting>,
    pub(super) sections: Vec<Section>,
    /// Sections that it takes over, by their full names, until [`read`] has put them in place.
    references: Vec<String>,
}

impl Section {
    pub(super) fn new(name: impl Into<String>, place: Place) -> Self {
        Self { name: name.into(), place, settings: Vec::new(), sections: Vec::new(), references: Vec::new() }
    }

    /// The value of a key; empty values unset it.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key && !setting.value.is_empty())
    }

    pub(super) fn section(&self, name: &str) -> Option<&Self> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Sets a key; what stands later in the files counts.
    pub(super) fn set(&mut self, setting: Setting) {
        match self.settings.iter_mut().find(|known| known.key == setting.key) {
            Some(known) => *known = setting,
            None => self.settings.push(setting),
        }
    }

    /// The subsection of that name, made if there is none.
    fn subsection(&mut self, name: &str, place: Place) -> &mut Self {
        let at = self.sections.iter().position(|section| section.name == name).unwrap_or_else(|| {
            self.sections.push(Self::new(name, place));
            self.sections.len() - 1
        });
        #[expect(clippy::indexing_slicing, reason = "found or made on the lines above")]
        &mut self.sections[at]
    }

    /// Adds what `other` has and this section has not.
    fn inherit(&mut self, other: &Self) {
        for setting in &other.settings {
            if !self.settings.iter().any(|own| own.key == setting.key) {
                self.settings.push(setting.clone());
            }
        }
        for section in &other.sections {
            self.subsection(&section.name, section.place.clone()).inherit(section);
        }
    }

    fn find(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |section, name| section.section(name))
    }
}

/// Reads a file with all that it includes and all references resolved. The section that comes back is the file.
pub(super) fn read(file: &Path) -> Result<Section, ImportError> {
    let place = Place { file: file.into(), line: 1 };
    let mut root = Section::new("", place);
    include(&mut root, file, 0)?;
    let whole = root.clone();
    resolve(&mut root, &whole, 0)?;
    Ok(root)
}

fn include(into: &mut Section, file: &Path, depth: usize) -> Result<(), ImportError> {
    let text = fs::read_to_string(file)
        .map_err(|error| ImportError::Unreadable { path: file.to_path_buf(), error })?;
    parse(&text, file, into, depth)
}

fn parse(text: &str, file: &Path, into: &mut Section, depth: usize) -> Result<(), ImportError> {
    let mut parser = Parser { lexer: Lexer::new(text, file.into()), dir: file.parent(), includes: depth };
    parser.body(into, 0)
}

fn resolve(section: &mut Section, root: &Section, depth: usize) -> Result<(), ImportError> {
    for reference in std::mem::take(&mut section.references) {
        let error = |problem: &str| ImportError::Syntax {
            place: section.place.clone(),
            problem: format!("section `{}` takes over `{reference}`, {problem}", section.name),
        };
        let other = root.find(&reference).ok_or_else(|| error("which is not there"))?;
        if depth >= MAX_REFERENCES {
            return Err(error("which takes over others without end"));
        }
        let mut other = other.clone();
        resolve(&mut other, root, depth + 1)?;
        section.inherit(&other);
    }
    section.sections.iter_mut().try_for_each(|each| resolve(each, root, depth))
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Open,
    Close,
    Equals,
    Colon,
    Comma,
    Newline,
    End,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Open => f.write_str("`{`"),
            Self::Close => f.write_str("`}`"),
            Self::Equals => f.write_str("`=`"),
            Self::Colon => f.write_str("`:`"),
            Self::Comma => f.write_str("`,`"),
            Self::Newline => f.write_str("the end of the line"),
            Self::End => f.write_str("the end of the file"),
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    chars: Peekable<CharIndices<'t>>,
    file: Arc<Path>,
    line: usize,
}

impl<'t> Lexer<'t> {
    fn new(text: &'t str, file: Arc<Path>) -> Self {
        Self { text, chars: text.char_indices().peekable(), file, line: 1 }
    }

    fn place(&self) -> Place {
        Place { file: Arc::clone(&self.file), line: self.line }
    }

    fn error(&self, problem: String) -> ImportError {
        ImportError::Syntax { place: self.place(), problem }
    }

    fn skip_blanks(&mut self) {
        // Whatever ends a word is skipped here, or a word without an end would be read for ever.
        while self.chars.next_if(|(_, c)| c.is_whitespace() && *c != '\n').is_some() {}
        if self.chars.peek().is_some_and(|(_, c)| *c == '#') {
            while self.chars.next_if(|(_, c)| *c != '\n').is_some() {}
        }
    }

    /// The characters up to the next one that `ends` a word.
    fn word(&mut self, ends: impl Fn(char) -> bool) -> &'t str {
        let start = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        while self.chars.next_if(|(_, c)| !ends(*c)).is_some() {}
        let end = self.chars.peek().map_or(self.text.len(), |(at, _)| *at);
        self.text.get(start..end).unwrap_or_default()
    }

    /// What stands between quotation marks; the first one is taken already.
    fn quoted(&mut self) -> Result<String, ImportError> {
        let unended = self.error("a quotation mark has no end".to_owned());
        let mut text = String::new();
        loop {
            let Some((_, c)) = self.chars.next() else { return Err(unended) };
            match c {
                '"' => return Ok(text),
                '\\' => match self.chars.next().map(|(_, escaped)| escaped) {
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('t') => text.push('\t'),
                    Some('\n') => self.line += 1,
                    Some(other) => text.push(other),
                    None => return Err(unended),
                },
                '\n' => {
                    self.line += 1;
                    text.push('\n');
                }
                other => text.push(other),
            }
        }
    }

    /// The next token outside of a value.
    fn next(&mut self) -> Result<Token, ImportError> {
        self.skip_blanks();
        let Some((_, c)) = self.chars.peek().copied() else { return Ok(Token::End) };
        let single = match c {
            '{' => Token::Open,
            '}' => Token::Close,
            '=' => Token::Equals,
            ':' => Token::Colon,
            ',' => Token::Comma,
            '\n' => {
                self.line += 1;
                Token::Newline
            }
            '"' => {
                self.chars.next();
                return Ok(Token::Word(self.quoted()?));
            }
            _ => {
                let word = self.word(|c| c.is_whitespace() || "{}=:,#\"".contains(c));
                return Ok(Token::Word(word.to_owned()));
            }
        };
        self.chars.next();
        Ok(single)
    }

    /// The next token that is not the end of a line.
    fn next_visible(&mut self) -> Result<Token, ImportError> {
        loop {
            match self.next()? {
                Token::Newline => {}
                token => return Ok(token),
            }
        }
    }

    /// The rest of the line, or what stands before `}`: parts in and outside of quotation marks, with a space between.
    fn value(&mut self) -> Result<String, ImportError> {
        let mut parts = Vec::new();
        loop {
            self.skip_blanks();
            match self.chars.peek().map(|(_, c)| *c) {
                None | Some('\n' | '}') => return Ok(parts.join(" ")),
                Some('"') => {
                    self.chars.next();
                    parts.push(self.quoted()?);
                }
                Some(_) => {
                    parts.push(self.word(|c| c.is_whitespace() || "#}\"".contains(c)).to_owned());
                }
            }
        }
    }
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    /// Where relative names of included files begin.
    dir: Option<&'t Path>,
    includes: usize,
}

impl Parser<'_> {
    /// What stands in a section, or, at depth 0, in a file.
    fn body(&mut self, section: &mut Section, depth: usize) -> Result<(), ImportError> {
        loop {
            let token = self.lexer.next_visible()?;
            let place = self.lexer.place();
            match token {
                Token::End if depth == 0 => return Ok(()),
                Token::Close if depth > 0 => return Ok(()),
                Token::Word(word) if word == "include" => self.include(section)?,
                Token::Word(name) => self.named(section, name, place, depth)?,
                other => {
                    let expected = if depth == 0 { "a name" } else { "a name or `}`" };
                    return Err(self.lexer.error(format!("{other} stands where {expected} is expected")));
                }
            }
        }
    }

    /// After a name: `= value`, or a section.
    fn named(
        &mut self,
        section: &mut Section,
        name: String,
        place: Place,
        depth: usize,
    ) -> Result<(), ImportError> {
        match self.lexer.next_visible()? {
            Token::Equals => {
                let value = self.lexer.value()?;
                section.set(Setting { key: name, value, place });
                Ok(())
            }
            Token::Open => self.section(section, &name, place, Vec::new(), depth),
            Token::Colon => {
                let references = self.references()?;
                self.section(section, &name, place, references, depth)
            }
            other => Err(self.lexer.error(format!("{other} follows `{name}` (expected `=`, `:` or `{{`)"))),
        }
    }

    fn section(
        &mut self,
        parent: &mut Section,
        name: &str,
        place: Place,
        references: Vec<String>,
        depth: usize,
    ) -> Result<(), ImportError> {
        if depth >= MAX_DEPTH {
            return Err(self.lexer.error(format!("more than {MAX_DEPTH} sections in each other")));
        }
        let section = parent.subsection(name, place);
        section.references.extend(references);
        self.body(section, depth + 1)
    }

    /// After a colon: names of sections with commas between, then `{`.
    fn references(&mut self) -> Result<Vec<String>, ImportError> {
        let mut references = Vec::new();
        loop {
            match self.lexer.next_visible()? {
                Token::Word(name) => references.push(name),
                Token::Comma => {}
                Token::Open => return Ok(references),
                other => {
                    return Err(self
                        .lexer
                        .error(format!("{other} stands where a section's name is expected")));
                }
            }
        }
    }

    fn include(&mut self, section: &mut Section) -> Result<(), ImportError> {
        let pattern = self.lexer.value()?;
        if self.includes >= MAX_INCLUDES {
            return Err(self.lexer.error(format!("files include each other more than {MAX_INCLUDES} deep")));
        }
        let pattern = self.dir.unwrap_or(Path::new("")).join(pattern);
        for file in matching(&pattern).map_err(|problem| self.lexer.error(problem))? {
            include(section, &file, self.includes + 1)?;
        }
        Ok(())
    }
}

/// The files that a pattern stands for, in order of name; as in strongSwan it may stand for none.
pub(super) fn matching(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let text = pattern.to_str().ok_or_else(|| format!("`{}` is not UTF-8", pattern.display()))?;
    let paths = glob::glob(text).map_err(|error| format!("`{text}` is no pattern for files: {error}"))?;
    Ok(paths.filter_map(Result::ok).filter(|path| path.is_file()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Section, ImportError> {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("swanctl.conf");
        fs::write(&file, text).expect("the file can be written");
        read(&file)
    }

    fn value(section: &Section, path: &str, key: &str) -> Option<String> {
        section.find(path)?.get(key).map(|setting| setting.value.clone())
    }

    #[test]
    fn values_end_at_the_line_a_comment_or_a_brace_and_quotes_keep_all_of_these() {
        let text =
            "a { one = x, y  # not this\n two = \"p } # q\\n\\\"r\" three\n  b { c = d } e=f}\ng\n{\n}\n";
        let root = parsed(text).unwrap();
        assert_eq!(value(&root, "a", "one").as_deref(), Some("x, y"));
        assert_eq!(value(&root, "a", "two").as_deref(), Some("p } # q\n\"r three"));
        assert_eq!(value(&root, "a.b", "c").as_deref(), Some("d"));
        assert_eq!(value(&root, "a", "e").as_deref(), Some("f"));
        assert!(root.find("g").is_some());
        assert_eq!(root.find("a").unwrap().get("two").unwrap().place.line, 2);
    }

    #[test]
    fn a_section_takes_over_others_and_its_own_values_count_first() {
        let text = "base { rekey_time = 1h\n proposals = x\n children { net { mode = tunnel } } }\n\
                    connections { a : base { proposals = y\n rekey_time =\n children { net { mode = transport } } } }";
        let root = parsed(text).unwrap();
        assert_eq!(value(&root, "connections.a", "proposals").as_deref(), Some("y"));
        assert_eq!(value(&root, "connections.a", "rekey_time"), None);
        assert_eq!(value(&root, "connections.a.children.net", "mode").as_deref(), Some("transport"));
    }

    #[test]
    fn included_files_count_in_order_and_need_not_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        write("conf.d/1.conf", "a { x = 1\n y = 1 }");
        write("conf.d/2.conf", "a { y = 2 }");
        write(
            "swanctl.conf",
            "include conf.d/*.conf\ninclude absent/*.conf\nb { include \"conf.d/1.conf\"\n }",
        );
        let root = read(&dir.path().join("swanctl.conf")).unwrap();
        assert_eq!(value(&root, "a", "y").as_deref(), Some("2"));
        assert_eq!(value(&root, "b.a", "x").as_deref(), Some("1"));
        assert!(root.find("a").unwrap().get("y").unwrap().place.file.ends_with("conf.d/2.conf"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, said) in [
            ("a {\n b = c\n", "swanctl.conf:3: the end of the file stands where a name or `}` is expected"),
            ("a {\n} }", "swanctl.conf:2: `}` stands where a name is expected"),
            ("a b", "swanctl.conf:1: `b` follows `a` (expected `=`, `:` or `{`)"),
            ("a = \"b\n\n", "swanctl.conf:1: a quotation mark has no end"),
            ("a : b { }", "section `a` takes over `b`, which is not there"),
            ("a : b { }\nb : a { }", "takes over others without end"),
            ("include swanctl.conf", "files include each other more than 16 deep"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
        assert!(parsed(&"a {".repeat(10_000)).is_err());
    }
}
