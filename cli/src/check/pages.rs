//! The page of each check in `docs/checks`: its head is made from the catalog, the rest is written by people. Floor 3 of
//! `check`: imports `catalog`.

use super::catalog::{CHECKS, Check, Stage};

/// What a page says below its head, in this order.
pub const SECTIONS: [&str; 3] = ["What it means", "Why it matters", "How to mend"];

/// The head of a page; what follows its last line is kept.
#[must_use]
pub fn head(check: &Check) -> String {
    let run = if check.is_of(Stage::Before) && check.is_of(Stage::Installed) {
        "`meshctl check --pre`, `meshctl check` and `meshctl check --proxy`"
    } else if check.is_of(Stage::Before) {
        "`meshctl check --pre`"
    } else if check.is_of(Stage::Installed) {
        "`meshctl check` and `meshctl check --proxy`"
    } else {
        "`meshctl check --proxy`"
    };
    format!(
        "# {}\n\n{}.\n\nHeld by {run}, under \"{}\".\n",
        check.name,
        check.title.trim_end_matches('.'),
        check.category.title()
    )
}

/// A page with a fresh head: the old page's text below it, or empty sections where there is none yet.
#[must_use]
pub fn page(check: &Check, old: &str) -> String {
    let text = old.find("\n## ").map(|at| old.get(at..).unwrap_or_default().to_owned());
    let empty = || SECTIONS.map(|section| format!("\n## {section}\n")).concat();
    format!("{}{}", head(check), text.unwrap_or_else(empty))
}

/// The page that lists all others.
#[must_use]
pub fn index() -> String {
    let mut page = String::from(
        "# Checks\n\n\
         What `meshctl check` looks at. Each check has a page: what its words mean, why it matters, how to mend it.\n\n\
         <!-- Made from the program; `MESH_UPDATE_DOCS=1 cargo test -p meshctl --test checks` makes it anew. -->\n",
    );
    let mut heading = None;
    for check in CHECKS {
        if heading != Some(check.category) {
            heading = Some(check.category);
            page.push_str(&format!("\n## {}\n\n| check | holds that |\n|---|---|\n", check.category.title()));
        }
        page.push_str(&format!("| [{0}]({0}.md) | {1} |\n", check.name, lower(check.title)));
    }
    page
}

/// A sentence within a sentence; names keep their capital.
fn lower(sentence: &str) -> String {
    let name = ["Kubernetes", "API", "CNI", "Gateway"].iter().any(|name| sentence.starts_with(name));
    let mut chars = sentence.chars();
    match chars.next() {
        Some(first) if !name => first.to_lowercase().chain(chars).collect(),
        _ => sentence.to_owned(),
    }
}
