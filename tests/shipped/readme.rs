//! The README, kept honest: its configurations load, it names every command and every exit code that exists, and
//! its test command is the one that `.ci/run` uses.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The fenced blocks of a language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let begun = text.split(&fence).skip(1);
    begun.map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_bgd")).args(arguments).output().unwrap();
    assert!(output.status.success(), "bgd {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_configuration_of_the_readme_loads() {
    let smallest = "[app.shop]\nremote = \"git@git.example.com:acme/shop.git\"\nstart = \"true\"\n";
    let blocks = blocks(&file("README.md"), "toml");
    assert_eq!(blocks.len(), 11);
    for block in blocks {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bgd.toml");
        // One block is only a part of an app.
        let text = if block.contains("[app.shop]\n") { block } else { smallest.to_owned() + &block };
        fs::write(&path, &text).unwrap();
        if let Err(problems) = bgd::config::load(&path) {
            panic!("{text}\n{problems}");
        }
    }
}

#[test]
fn the_configuration_for_an_existing_nginx_has_ten_lines() {
    let nginx = blocks(&file("README.md"), "toml").into_iter().find(|block| block.contains("nginx")).unwrap();
    assert_eq!(nginx.lines().count(), 10, "{nginx}");
}

#[test]
fn the_readme_names_every_command_and_none_that_does_not_exist() {
    let help = help(&["--help"]);
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let exist: BTreeSet<&str> = commands.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(exist.len() > 15, "{help}");
    let readme = file("README.md");
    let table = readme.split("\n## Commands\n").nth(1).unwrap().split("\nExit codes:").next().unwrap();
    let named: BTreeSet<&str> = table
        .lines()
        .filter(|line| line.starts_with("| `bgd "))
        .flat_map(|line| line.split('|').nth(1).unwrap().split("`bgd ").skip(1))
        .map(|rest| rest.split([' ', '`']).next().unwrap())
        .collect();
    assert_eq!(named, exist);
}

#[test]
fn the_readme_and_the_help_agree_on_the_exit_codes() {
    let help = help(&["--help"]);
    let listed = help.split("Exit codes:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let codes: Vec<String> = listed
        .lines()
        .map(|line| {
            let (code, means) = line.trim().split_once("  ").unwrap();
            format!("| {code} | {} |", means.trim().replace("(status only)", "(`status` only)"))
        })
        .collect();
    assert_eq!(codes.len(), 10);
    let readme = file("README.md");
    for row in codes {
        assert!(readme.lines().any(|line| line == row), "{row}");
    }
}

#[test]
fn every_file_that_the_readme_points_to_exists() {
    let readme = file("README.md");
    let links = readme.split("](").skip(1).map(|rest| rest.split(')').next().unwrap());
    // As GitHub makes them of headings.
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        words.replace(|c: char| !c.is_alphanumeric() && c != '-' && c != '_', "")
    };
    let anchors: Vec<String> = readme.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let (inside, files): (Vec<&str>, Vec<&str>) = links.partition(|link| link.starts_with('#'));
    for link in inside {
        assert!(anchors.iter().any(|anchor| anchor == &link[1..]), "{link}");
    }
    for link in files.into_iter().filter(|link| !link.starts_with("http")) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(link).is_file(), "{link}");
    }
}

#[test]
fn the_readme_and_the_ci_test_with_the_same_command() {
    let readme = file("README.md");
    let command = ".ci/apt test && cargo test";
    assert!(blocks(&readme, "sh").iter().any(|block| block.trim() == command));
    assert!(file(".ci/run").lines().any(|line| line == command));
}
