//! `updown` of a child: what is run when its CHILD SA comes up and goes down. No shell has a part in it unless one is named.

use super::reader::Section;

/// What only a shell understands.
const SHELL: &[char] = &[
    '|', '&', ';', '<', '>', '(', ')', '$', '`', '\\', '"', '\'', '*', '?', '[', ']', '#', '~', '{', '}', '!',
];

const EXPECTED: &str = "a program's absolute path and its arguments, e.g. \"/etc/portcullis/updown\" or [\"/bin/sh\", \"-c\", \"…\"]";

/// A program and its arguments, never empty.
pub(super) fn of_child(section: &Section<'_>) -> Option<Vec<String>> {
    let words = section.words("updown", EXPECTED)?;
    let span = words.span;
    let error =
        |message: String| section.error(span.clone(), "updown", format!("{message} (expected {EXPECTED})"));
    let (text, words) = words.value;
    if let Some(found) = text.and_then(|text| text.chars().find(|c| SHELL.contains(c))) {
        error(format!("has `{found}`, which only a shell understands"));
        return None;
    }
    match words.first() {
        Some(program) if program.starts_with('/') => {}
        Some(program) => {
            error(format!("begins with `{program}`, which is no absolute path"));
            return None;
        }
        None => {
            error("is empty".to_owned());
            return None;
        }
    }
    if words.iter().any(|word| word.contains('\0')) {
        error("has a character that no argument can have".to_owned());
        return None;
    }
    Some(words)
}
