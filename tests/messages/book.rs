//! What was said, with all that varies from run to run taken out, and the comparison with `messages.txt`.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::shop::{Ran, Stage};

/// One failure.
pub struct Scene {
    pub title: String,
    pub said: String,
    pub is_deploy: bool,
}

#[derive(Default)]
pub struct Book {
    pub scenes: Vec<Scene>,
}

impl Book {
    /// Runs a command that fails.
    pub fn fails(&mut self, title: &str, stage: &Stage, words: &[&str]) {
        let ran = stage.bgd(words);
        self.note(title, stage, (words, &ran));
    }

    /// A command that was to fail, and what it printed.
    pub fn note(&mut self, title: &str, stage: &Stage, (words, ran): (&[&str], &Ran)) {
        assert_ne!(ran.code, 0, "{title}: {words:?} was to fail: {ran:?}");
        self.shows(title, stage, (words, ran));
    }

    /// A command that tells of a failure, whatever its exit code.
    pub fn shows(&mut self, title: &str, stage: &Stage, (words, ran): (&[&str], &Ran)) {
        let command = words.join(" ");
        let texts = [ran.stdout.as_str(), ran.stderr.as_str()];
        let said: Vec<&str> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        let text = format!("$ bgd {command}\n{}\nexit code {}", said.join("\n"), ran.code);
        let said = redacted(stage, &text);
        let is_deploy = words[0] == "deploy" && said.contains("deploy #");
        self.scenes.push(Scene { title: title.to_owned(), said, is_deploy });
    }
}

/// Scenes that can't be played on this machine (nginx, root) are not compared; bless where all of them can.
pub fn compare(scenes: &[Scene]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/messages.txt");
    let written = fs::read_to_string(&path).unwrap_or_default();
    let known = parse(&written);
    let told = |scene: &Scene| format!("# {}\n{}\n", scene.title, scene.said);
    if std::env::var_os("BGD_BLESS").is_some() {
        let all: Vec<String> = scenes.iter().map(told).collect();
        fs::write(&path, all.join("\n")).expect("write the messages");
        return;
    }
    let differ: Vec<String> = scenes
        .iter()
        .filter(|scene| known.get(&scene.title) != Some(&scene.said))
        .map(|scene| {
            let before = known.get(&scene.title).map_or("(nothing)", String::as_str);
            format!("{}\nthe file has:\n{before}\n", told(scene))
        })
        .collect();
    assert!(differ.is_empty(), "not as in {}; BGD_BLESS=1 writes it:\n{}", path.display(), differ.join("\n"));
    for title in known.keys().filter(|title| scenes.iter().all(|scene| scene.title != **title)) {
        eprintln!("skipped: {title}");
    }
}

fn parse(text: &str) -> BTreeMap<String, String> {
    let scenes = text.split("\n# ").map(|scene| scene.strip_prefix("# ").unwrap_or(scene));
    let scenes = scenes.filter_map(|scene| scene.split_once('\n'));
    scenes.map(|(title, said)| (title.to_owned(), said.trim_end().to_owned())).collect()
}

/// Paths, ports, commits, pids, times and numbers by name.
fn redacted(stage: &Stage, text: &str) -> String {
    let mut text = text.to_owned();
    for (value, name) in names(stage) {
        text = text.replace(&value, &name);
    }
    // Which tests were asked for is in its command line.
    while let Some((before, after)) = text.split_once("(STRANGER ") {
        let rest = after.split_once(')').map_or("", |(_, rest)| rest);
        text = format!("{before}(STRANGER){rest}");
    }
    // Whether anybody asked before the app ended depends on the machine.
    let text = without_days(&text).replace("; last probe: port GREEN is not open yet", "");
    let text = text.split_inclusive(SEPARATORS).map(word).collect::<String>();
    let text = numbered(&text);
    quiet(&text)
}

fn names(stage: &Stage) -> Vec<(String, String)> {
    let mut names =
        vec![(stage.path("").display().to_string().trim_end_matches('/').to_owned(), "DIR".to_owned())];
    let own = std::env::args().next().expect("the name that this binary was started by");
    names.push((own, "STRANGER".to_owned()));
    names.push((stage.public().port().to_string(), "PUBLIC".to_owned()));
    for color in ["blue", "green"] {
        names.push((stage.port(color).to_string(), color.to_uppercase()));
    }
    let commits = stage.git(&["log", "--all", "--reflog", "--format=%H %s"]);
    for line in commits.lines() {
        let (commit, subject) = line.split_once(' ').expect("a commit and its subject");
        let name = subject.strip_prefix("Make ").unwrap_or(subject).to_uppercase();
        names.push((commit.to_owned(), format!("<{name}>")));
        // Short ids also end the names of releases.
        names.push((commit[..7].to_owned(), format!("<{name}>")));
    }
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten().map(|user| user.name);
    if let Some(user) = user {
        names.extend(["by ", "uid "].map(|by| (format!("{by}{user}"), format!("{by}USER"))));
    }
    names
}

/// nginx writes its days as `2026/11/21`.
fn without_days(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(at) = rest.find(" [emerg]") {
        let (before, after) = rest.split_at(at);
        let day = before.len().saturating_sub("2026/11/21 07:51:12".len());
        let is_day = before.get(day..).is_some_and(|text| text.matches('/').count() == 2);
        kept.push_str(if is_day { &before[..day] } else { before });
        kept.push_str(" [emerg]");
        rest = &after[" [emerg]".len()..];
    }
    kept + rest
}

const SEPARATORS: [char; 13] = [' ', '\n', '(', ')', ',', ';', '"', '\'', '`', '=', '/', '|', ']'];

fn word(text: &str) -> String {
    let bare = text.trim_end_matches(SEPARATORS).trim_end_matches(['.', ':']);
    let name = if is_release(bare) {
        "RELEASE".to_owned()
    } else if is_moment(bare) {
        "TIME".to_owned()
    } else if bare.split('#').count() == 2 && bare.split('#').all(is_number) {
        // nginx: process and thread.
        "PID#TID".to_owned()
    } else if bare.starts_with("SHA256:") {
        "SHA256:FINGERPRINT".to_owned()
    } else if let Some(port) = bare.strip_prefix("127.0.0.1:").filter(|port| is_number(port)) {
        assert!(!port.is_empty());
        "127.0.0.1:PORT".to_owned()
    } else if bare.strip_prefix('#').is_some_and(is_number) {
        "#N".to_owned()
    } else {
        bare.to_owned()
    };
    name + &text[bare.len()..]
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `20261121T101112Z-1-<GOOD>`.
fn is_release(word: &str) -> bool {
    let word = word.trim_start_matches("build-");
    word.len() > 16 && is_number(&word[..8]) && word[8..].starts_with('T') && word[15..].starts_with("Z-")
}

/// `2026-11-21T07:50:54.034Z`, `2026-11-21` or `07:50:54Z`.
fn is_moment(word: &str) -> bool {
    let bare = word.trim_end_matches('Z');
    let parts = |mark| bare.split(mark).count() == 3;
    bare.len() >= 8
        && (parts(':') || parts('-'))
        && bare.chars().all(|c| c.is_ascii_digit() || "-:T.".contains(c))
}

/// Numbers that mean something by the word before or after them.
fn numbered(text: &str) -> String {
    let mut words: Vec<String> = text.split_inclusive([' ', '\n']).map(str::to_owned).collect();
    for at in 0..words.len() {
        let digits = words[at].chars().take_while(char::is_ascii_digit).count();
        let is_amount = digits > 0 && words[at].trim_end().chars().all(|c| c.is_ascii_digit() || c == '.');
        let unit = words.get(at + 1).map(|word| word.trim_end_matches([' ', '\n', ',', ';', ')', ':']));
        let measured = is_amount && matches!(unit, Some("ms" | "s" | "min" | "MiB" | "inodes"));
        let before = at.checked_sub(1).map(|before| words[before].trim().to_owned()).unwrap_or_default();
        if measured {
            words[at] = "N ".to_owned();
        } else if digits > 0 && (before.ends_with("pid") || before == "process") {
            words[at] = format!("PID{}", &words[at][digits..]);
        } else if digits > 0 && ["show", "deploy"].contains(&before.trim_start_matches('`')) {
            words[at] = format!("N{}", &words[at][digits..]);
        }
    }
    words.concat()
}

/// Of what an app printed, how often it said the same depends on the machine: the last line is enough. The name of
/// this test's binary varies too.
fn quiet(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_output = |line: Option<&&str>| line.is_some_and(|line| line.starts_with("  | "));
    let is_progress = |line: &str| line.starts_with("TIME ");
    let kept = lines
        .iter()
        .enumerate()
        .filter(|(at, line)| !is_progress(line) && (!is_output(Some(line)) || !is_output(lines.get(at + 1))));
    let kept: Vec<String> = kept.map(|(_, line)| without_binary(line)).collect();
    kept.join("\n").trim_end().to_owned()
}

fn without_binary(line: &str) -> String {
    match line.find("(messages-") {
        // What nginx writes last depends on when it is read.
        _ if line.starts_with("  | ") && line.contains("[emerg]") => "  | (nginx's own words)".to_owned(),
        Some(at) => {
            let end = line[at..].find(')').map_or(line.len(), |end| at + end);
            format!("{}(a test{}", &line[..at], &line[end..])
        }
        None => line.to_owned(),
    }
}
