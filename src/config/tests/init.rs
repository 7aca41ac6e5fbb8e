//! The file that `bgd init` writes is true: it loads, shows every key, and its defaults are the defaults.

use super::*;
use crate::config::init::TEXT;

/// Lines that are settings commented out: their index, and their text without the `#`.
fn settings() -> Vec<(usize, &'static str)> {
    let setting = |line: &'static str| {
        line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    TEXT.lines().enumerate().filter_map(|(at, line)| setting(line).map(|rest| (at, rest))).collect()
}

/// The text with the lines at these indices taken in.
fn with_lines(indices: &[usize]) -> String {
    let pick = |(at, line): (usize, &'static str)| match indices.contains(&at) {
        true => line.trim_start_matches('#'),
        false => line,
    };
    TEXT.lines().enumerate().map(pick).collect::<Vec<_>>().join("\n")
}

/// The header above a line, if it is one of those commented out.
fn header(at: usize) -> Option<usize> {
    settings().iter().rev().find(|(header, text)| *header <= at && text.starts_with('[')).map(|(at, _)| *at)
}

#[test]
fn it_loads_as_it_is_with_the_one_warning_about_health() {
    let loaded = load(TEXT).unwrap();
    assert_eq!(loaded.warnings.len(), 1, "{:#?}", loaded.warnings);
}

/// Lines that another one needs beside it: its header, and keys that it makes no sense without.
fn companions(at: usize, line: &str) -> Vec<usize> {
    let section = header(at).map_or("", |header| TEXT.lines().nth(header).unwrap());
    let needed: &[&str] = match line.split(' ').next().unwrap() {
        _ if section.contains("rewrite") => &["file", "find", "with"],
        _ if section.contains("window") || section.contains("freeze") => &["from", "to"],
        _ if section.contains("gate") => &["command"],
        _ if section.contains(".cron.") => &["schedule", "run"],
        _ if section.contains("task") => &["name", "run", "when"],
        "range" => &["signers"],
        key if section.contains("worker") && key != "start" => &["start"],
        "fallback" | "url" | "keep" if section.contains("static") || section.contains("assets") => &["dir"],
        "host" | "status" | "body" | "script" if section.contains("health") => &["path"],
        key if section.contains("front") && key != "type" => &["type"],
        key if section.contains("warmup") && key != "paths" => &["paths"],
        "sticky" => &["steps"],
        "approvers" | "deadline" if section.contains("canary") => &["steps"],
        "cookie" if section.contains("canary") => &["steps", "sticky"],
        "header" | "cookie" => &["secret_file"],
        "min_requests" | "inconclusive" => &["max_error_rate"],
        _ => &[],
    };
    let is_needed = |(other, text): &(usize, &str)| {
        header(*other) == header(at) && needed.iter().any(|key| text.starts_with(&format!("{key} =")))
    };
    let own = settings().into_iter().filter(is_needed).map(|(at, _)| at).chain(header(at));
    // What a preview shows is the release of a canary.
    let steps = settings().into_iter().find(|(_, text)| text.starts_with("steps =")).map(|(at, _)| at);
    let canary =
        steps.filter(|_| section.contains("preview")).into_iter().flat_map(|at| [Some(at), header(at)]);
    own.chain(canary.flatten()).collect()
}

#[test]
fn every_line_of_it_loads_when_taken_in_and_is_a_default_unless_marked_as_an_example() {
    for (at, line) in settings().into_iter().filter(|(_, line)| !line.starts_with('[')) {
        let mut lines = companions(at, line);
        lines.retain(|other| *other != at);
        let ssh = line.starts_with("ssh_key") || line.starts_with("known_hosts");
        let fastcgi = "protocol = \"fastcgi\"\nfront.type = \"nginx\" ";
        let text = |lines: &[usize]| match ssh {
            _ if line.starts_with("cookie") => {
                with_lines(lines).replace("\nsticky = \"none\"", "\nsticky = \"cookie\"")
            }
            true => with_lines(lines).replace("https://git.example.com/acme", "git@git.example.com:acme"),
            // A static site is not started.
            false
                if header(at).is_some_and(|header| TEXT.lines().nth(header).unwrap().contains("static")) =>
            {
                with_lines(lines).replace("\nstart ", "\n#start ")
            }
            false if line.starts_with("script") => with_lines(lines).replace("#protocol = \"http\"", fastcgi),
            false => with_lines(lines),
        };
        let without = load(&text(&lines));
        lines.push(at);
        let with = load(&text(&lines)).unwrap_or_else(|problems| panic!("{line}: {problems}"));
        // Without one of its three keys, a rewrite or a task is an error.
        if let Ok(without) = without {
            assert_eq!(with.settings == without.settings, !line.contains("# example"), "{line}");
        }
    }
}
