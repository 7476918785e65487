//! Links between the documentation's pages: that there is what they lead to, file and heading, and that README.md leads to
//! every page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis_lab::{LabError, Result};

use crate::prometheus::repository;

/// Every Markdown file of the repository, by its path.
fn pages(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(LabError::io(format!("list {}", dir.display())))?;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                pages(&path, found)?;
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
    Ok(())
}

/// The lines of a page that are no code, with their numbers.
fn prose(text: &str) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push((number + 1, line));
        }
    }
    lines
}

/// The targets of the inline links of a line, code left out.
fn targets(line: &str) -> Vec<&str> {
    let mut rest = line;
    let mut found = Vec::new();
    while let Some((_, behind)) = rest.split_once("](") {
        let Some((target, further)) = behind.split_once(')') else { break };
        found.push(target);
        rest = further;
    }
    found
}

/// The anchors of a page's headings, as GitHub makes them: lower case, spaces to hyphens, other punctuation left out, a
/// number behind what was there before.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
        let slug: String = heading.trim().to_lowercase().chars().filter(|c| kept(*c)).collect();
        let slug = slug.replace(' ', "-");
        let again = (1..).map(|number| format!("{slug}-{number}"));
        let free = std::iter::once(slug.clone()).chain(again).find(|slug| !anchors.contains(slug));
        anchors.extend(free);
    }
    anchors
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_there_are() -> Result<()> {
    let mut all = Vec::new();
    pages(&repository(), &mut all)?;
    assert!(all.len() > 20, "{all:?}");
    let (mut seen, mut broken) = (0, Vec::new());
    for page in &all {
        let read =
            |path: &Path| fs::read_to_string(path).map_err(LabError::io(format!("read {}", path.display())));
        let text = read(page)?;
        for (number, line) in prose(&text) {
            for target in targets(line).into_iter().filter(|target| !target.contains("://")) {
                seen += 1;
                let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
                let path = match file {
                    "" => page.clone(),
                    file => page.parent().unwrap_or(page).join(file),
                };
                let there = path.exists() && (anchor.is_empty() || anchors(&read(&path)?).contains(anchor));
                if !there {
                    broken.push(format!("{}:{number}: {target}", page.display()));
                }
            }
        }
    }
    assert!(seen > 100, "{seen} links");
    assert!(broken.is_empty(), "these lead nowhere: {broken:#?}");
    Ok(())
}

#[test]
fn the_readme_leads_to_every_page() -> Result<()> {
    let readme = crate::prometheus::read("README.md")?;
    let mut all = Vec::new();
    pages(&repository().join("docs"), &mut all)?;
    let missing: Vec<_> = all
        .iter()
        // The pages of reasons and runbooks have indexes of their own.
        .filter(|page| page.parent().is_some_and(|dir| dir.ends_with("docs")))
        .filter_map(|page| page.file_name()?.to_str())
        .filter(|name| !readme.contains(&format!("(docs/{name})")))
        .collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
    Ok(())
}

#[test]
fn headings_become_anchors_as_on_github() {
    let page = "# One `two`\n```\n# no heading\n```\n## `[pools.NAME]`\n#### A & b\n## One two\n";
    let expected = ["one-two", "poolsname", "a--b", "one-two-1"].map(str::to_owned);
    assert_eq!(anchors(page), BTreeSet::from(expected));
    assert_eq!(targets("see [a](b.md), [c](#d) and `x`"), ["b.md", "#d"]);
}
