//! The report of a run: one HTML file that needs nothing else, and shows the task stream as the status page does. Pure.

use serde_json::Value;

const PAGE: &str = include_str!("page/report.html");
const STYLE: &str = include_str!("page/page.css");

/// In the order in which they need each other.
const SCRIPTS: [&str; 5] = [
    include_str!("page/words.js"),
    include_str!("page/charts.js"),
    include_str!("page/stream.js"),
    include_str!("page/functions.js"),
    include_str!("page/report.js"),
];

/// The file's content. `state`: what the page is told when it opens.
pub fn page(state: &Value) -> String {
    let script: String = SCRIPTS.into_iter().map(as_part).collect();
    // Nothing in it can end the element that it stands in.
    let data = state.to_string().replace('<', "\\u003c");
    PAGE.replace("/* style */", STYLE)
        .replace("/* script */", &script)
        .replace("/* data */", &data)
}

/// A module without what ties it to others: they are one here.
fn as_part(module: &str) -> String {
    module
        .lines()
        .filter(|line| !line.starts_with("import "))
        .map(|line| line.strip_prefix("export ").unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_report_is_whole_and_holds_no_markup_of_others() {
        let page = page(&json!({"stream": [[0, "</script><script>alert(1)</script>"]]}));
        assert!(!page.contains("alert(1)</script>"));
        assert!(page.contains("class TaskStream") && page.contains("--ground"));
        let code = page.split("<script type=\"module\">").nth(1).unwrap();
        for line in code.lines() {
            assert!(
                !line.starts_with("import ") && !line.starts_with("export "),
                "{line}"
            );
        }
        for outside in ["src=\"http", "href=\"http", "url(http", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
