//! The reference page of the command line, made from the very definitions that parse it. Floor 6: imports `app`.

use clap::Command;

use crate::app;

/// Width of the page's help texts, in columns.
const WIDTH: usize = 100;

/// The page, as Markdown.
#[must_use]
pub fn page() -> String {
    let root = app::command_line().term_width(WIDTH);
    let mut page = String::from(
        "# meshctl\n\n\
         <!-- Made from the program; `MESH_UPDATE_DOCS=1 cargo test -p meshctl --test reference` makes it anew. -->\n\n\
         Exit codes: 0 done, 1 failed, 2 wrong usage; `meshctl run` ends with the code of its program.\n\
         Colours are for terminals only, and not where `NO_COLOR` is set.\n",
    );
    section(&mut page, root.clone(), "meshctl");
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        let name = format!("meshctl {}", command.get_name());
        page.push_str(&format!("\n## {name}\n"));
        section(&mut page, command.clone().term_width(WIDTH).bin_name(&name), &name);
    }
    page
}

fn section(page: &mut String, mut command: Command, name: &str) {
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    page.push_str(&format!("\n```console\n$ {name} --help\n{}\n```\n", lines.join("\n").trim_end()));
}
