//! A short run of every fuzz target, without a fuzzer: the kept corpus of `fuzz/corpus`, then inputs made from it by
//! small changes. The same run each time, so that it judges the product and not luck; `BGD_FUZZ_SEED` gives another
//! one, `BGD_FUZZ_RUNS` a longer one. Long runs that are guided by coverage: `fuzz/README.md`.

use std::{collections::BTreeSet, env, fs, path::PathBuf};

#[path = "simulator/rng.rs"]
#[expect(dead_code, reason = "the simulator uses more of it")]
mod rng;
#[path = "../fuzz/src/lib.rs"]
mod targets;

use rng::Rng;

/// No larger inputs are kept or made: every property shows in a small one.
const LONGEST: usize = 2048;
/// Bytes of the whole corpus.
const CORPUS: u64 = 300 << 10;

/// Where the kept inputs are.
fn corpus() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The kept inputs of a target, in the order of their names.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(corpus().join(target)).unwrap().map(|entry| entry.unwrap().path());
    let mut kept: Vec<_> = files
        .map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&file).unwrap()))
        .collect();
    kept.sort();
    assert!(!kept.is_empty(), "no kept input of {target}");
    kept
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number, not {text:?}")))
}

/// The kept inputs, then `runs` changed ones.
fn run(target: &str, check: fn(&[u8]), runs: u64) {
    let kept = kept(target);
    for (name, input) in &kept {
        let told = Told { what: format!("fuzz/corpus/{target}/{name}"), input };
        check(input);
        drop(told);
    }
    let seed = number("BGD_FUZZ_SEED").unwrap_or(1);
    let mut chance = Rng::new(seed);
    for at in 0..number("BGD_FUZZ_RUNS").unwrap_or(runs) {
        let input = changed(&kept, &mut chance);
        let told = Told { what: format!("{target}, BGD_FUZZ_SEED={seed}, run {at}"), input: &input };
        check(&input);
        drop(told);
    }
}

/// Tells which input it was when the check panics.
struct Told<'i> {
    what: String,
    input: &'i [u8],
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: b\"{}\"", self.what, self.input.escape_ascii());
        }
    }
}

/// A part of `bytes`, mostly short.
fn part<'b>(chance: &mut Rng, bytes: &'b [u8]) -> &'b [u8] {
    let from = chance.below(bytes.len() + 1);
    let longest = chance.pick(&[4, 16, LONGEST]).min(bytes.len() - from);
    &bytes[from..from + chance.below(longest + 1)]
}

/// What parsers stumble over.
const STUMBLING: [&[u8]; 24] = [
    b"\n",
    b"\r\n",
    b"\0",
    b"\"",
    b"'",
    b"\\",
    b"\\u0000",
    b"{",
    b"}",
    b"[",
    b"]",
    b"=",
    b";",
    b"#",
    b"://",
    b"@",
    b"..",
    b"-1",
    b"18446744073709551616",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xae",
    b"\xc2\x85",
    b"\xe3\x80\x80",
];

/// One of the kept inputs after one to four changes.
fn changed(kept: &[(String, Vec<u8>)], chance: &mut Rng) -> Vec<u8> {
    let mut bytes = kept[chance.below(kept.len())].1.clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len() + 1);
        match chance.below(6) {
            0 => insert(&mut bytes, at, chance.pick(&STUMBLING)),
            1 => {
                let (_, other) = &kept[chance.below(kept.len())];
                insert(&mut bytes, at, part(chance, other));
            }
            2 => {
                let own = part(chance, &bytes).to_vec();
                insert(&mut bytes, at, &own);
            }
            3 => {
                let until = at + part(chance, &bytes[at..]).len();
                bytes.drain(at..until);
            }
            4 if at < bytes.len() => bytes[at] ^= 1 << chance.below(8),
            _ if at < bytes.len() => bytes[at] = chance.below(256) as u8,
            _ => bytes.truncate(at / 2),
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    bytes.splice(at..at, what.iter().copied());
}

#[test]
fn any_configuration_is_settings_or_problems_with_a_place_and_a_hint() {
    run("config", targets::config, 3_000);
}

#[test]
fn a_control_request_is_the_same_in_any_pieces_and_what_is_understood_can_be_said_again() {
    run("control", targets::control, 20_000);
}

#[test]
fn a_shim_request_is_the_same_in_any_pieces_and_what_is_understood_can_be_said_again() {
    run("shim", targets::shim, 20_000);
}

#[test]
fn lines_of_the_builtin_front_come_back_and_bad_ones_are_told_on_one_line() {
    run("front_control", targets::front_control, 20_000);
}

#[test]
fn lines_of_the_git_worker_come_back() {
    run("git_wire", targets::git_wire, 20_000);
}

#[test]
fn f3_an_include_is_read_back_as_written_and_claims_no_color_that_it_does_not_name() {
    run("nginx_include", targets::nginx_include, 10_000);
}

#[test]
fn what_nginx_tells_of_a_request_comes_back_and_any_other_datagram_is_of_no_color_that_it_does_not_name() {
    run("nginx_report", targets::nginx_report, 20_000);
}

#[test]
fn a13_what_a_commit_says_is_one_clean_line_and_branches_are_named_as_git_names_them() {
    run("git_text", targets::git_text, 10_000);
}

#[test]
fn a_tip_read_from_the_files_of_a_repository_is_the_one_that_git_reads() {
    run("git_refs", targets::git_refs, 400);
}

#[test]
fn a8_host_keys_are_whole_lines_about_the_host_and_none_is_revoked() {
    run("known_hosts", targets::known_hosts, 20_000);
}

#[test]
fn an_environment_file_that_is_read_comes_back_and_a_wrong_line_is_one_of_it() {
    run("env_file", targets::env_file, 20_000);
}

#[test]
fn e6_an_answer_by_fastcgi_or_uwsgi_is_the_same_in_any_pieces_and_kept_only_so_far() {
    run("probe_answer", targets::probe_answer, 20_000);
}

#[test]
fn every_target_has_its_program_and_a_small_corpus() {
    let names = |dir: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let programs = names(corpus().with_file_name("fuzz_targets"));
    assert_eq!(programs, names(corpus()));
    let manifest = fs::read_to_string(corpus().with_file_name("Cargo.toml")).unwrap();
    let mut bytes = 0;
    for target in &programs {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        for (name, input) in kept(target) {
            assert!(input.len() <= LONGEST, "{target}/{name}: {} bytes", input.len());
            bytes += input.len() as u64;
        }
    }
    assert!(bytes <= CORPUS, "{bytes} bytes are kept");
}
