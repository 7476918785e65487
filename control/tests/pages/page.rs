//! A page of the documentation as a list of steps: its blocks of commands, each with the machine that they are for and what
//! they are said to print.
//!
//! In the page a block of commands is fenced with `sh`, the machine, and, where it applies, a word more:
//!
//! ```text
//! sh gateway            runs there, and succeeds
//! sh gateway fails      runs there, and fails
//! sh gateway install    is not run: what it installs is there already
//! ```
//!
//! What only brings a symptom about stands in HTML comments, which are read as the rest is.
//!
//! The block `text` that follows is what is printed, whole; `…` stands for any part of a line, and for any number of
//! lines where it is alone. Without such a block nothing may be printed.

use portcullis_lab::Result;

use crate::prometheus::read;

/// A block of commands.
#[derive(Debug)]
pub(crate) struct Step {
    /// Where in the page, for error messages: the line of its fence.
    pub(crate) line: usize,
    /// The heading that it stands below.
    pub(crate) heading: String,
    /// The machine.
    pub(crate) machine: String,
    /// What becomes of it.
    pub(crate) kind: Kind,
    /// The commands.
    pub(crate) commands: String,
    /// What they print, as the page has it.
    pub(crate) printed: String,
}

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Succeeds,
    Fails,
    Install,
}

/// The steps of a page of the repository.
pub(crate) fn steps(path: &str) -> Result<Vec<Step>> {
    Ok(parse(&read(path)?))
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut heading = "";
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        if line.starts_with('#') {
            heading = line.trim_start_matches(['#', ' ']);
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| *line != "```")
            .flat_map(|line| [line, "\n"])
            .collect();
        match info.split_whitespace().collect::<Vec<_>>()[..] {
            ["sh", machine, ref more @ ..] => {
                let kind = match more {
                    [] => Kind::Succeeds,
                    ["fails"] => Kind::Fails,
                    ["install"] => Kind::Install,
                    other => panic!("line {}: {other:?} is no kind of step", number + 1),
                };
                let (heading, machine, printed) = (heading.to_owned(), machine.to_owned(), String::new());
                steps.push(Step { line: number + 1, heading, machine, kind, commands: body, printed });
            }
            ["text"] => {
                let step = steps.last_mut().filter(|step| step.printed.is_empty());
                step.unwrap_or_else(|| panic!("line {}: of which commands?", number + 1)).printed = body;
            }
            _ => {}
        }
    }
    steps
}

/// Whether a page's text stands for what was printed.
pub(crate) fn matches(page: &str, printed: &str) -> bool {
    let lines = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    lines_match(&lines(page), &lines(printed))
}

fn lines_match(page: &[String], printed: &[String]) -> bool {
    match page.split_first() {
        None => printed.is_empty(),
        Some((any, rest)) if any == "…" => {
            (0..=printed.len()).any(|skipped| lines_match(rest, printed.get(skipped..).unwrap_or_default()))
        }
        Some((line, rest)) => printed
            .split_first()
            .is_some_and(|(seen, further)| line_matches(line, seen) && lines_match(rest, further)),
    }
}

fn line_matches(page: &str, printed: &str) -> bool {
    let Some((start, parts)) = page.split_once('…') else { return page == printed };
    let Some(mut left) = printed.strip_prefix(start) else { return false };
    let parts: Vec<&str> = parts.split('…').collect();
    let Some((end, middle)) = parts.split_last() else { return true };
    for part in middle {
        let Some((_, behind)) = left.split_once(part) else { return false };
        left = behind;
    }
    left.ends_with(end)
}

#[test]
fn an_ellipsis_stands_for_parts_of_a_line_and_for_lines() {
    assert!(matches("a … c\n", "a b c\n"));
    assert!(matches("a…b…d", "aXbYd"));
    assert!(!matches("a … c\n", "a b d\n"));
    assert!(!matches("a\n", "a\nb\n"));
    assert!(!matches("a\nb\n", "a\n"));
    assert!(matches("…\nlast\n", "one\ntwo\nlast\n"));
    assert!(matches("…\nlast\n", "last\n"));
    assert!(!matches("…\nlast\n", "last\nmore\n"));
    assert!(!matches("", "something\n"));
}

#[test]
fn a_page_is_read_as_steps_with_what_they_print() {
    let page = "# A\n```sh gw\nx\n```\nfoo\n```text\ny\n```\n```toml\nz\n```\n```sh gw fails\nx\n```\n";
    let steps = parse(page);
    let [first, second] = &steps[..] else { panic!("{steps:?}") };
    assert_eq!((first.line, first.commands.as_str(), first.printed.as_str()), (2, "x\n", "y\n"));
    assert_eq!((second.kind, second.printed.as_str()), (Kind::Fails, ""));
}
