//! `.gitattributes`: a checkout has the bytes that git would write, or is refused.

use std::{fs, path::Path};

use bgd::release::git::{AttributeFault, GitError, Reaction, WantedRevision};

use super::repo::{Bench, as_error};
use crate::stage::git;

fn all_files(dir: &Path, below: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        if entry.file_name() == ".git" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            all_files(dir, &path, found);
        } else {
            found.push((path.display().to_string(), fs::read(entry.path()).unwrap()));
        }
    }
    found.sort();
}

#[tokio::test]
async fn line_ends_ids_and_encodings_are_written_as_git_writes_them() {
    let bench = Bench::new();
    for (name, content) in [
        (
            ".gitattributes",
            "*.bat text eol=crlf\n*.auto text=auto eol=crlf\n*.bin -text eol=crlf\n*.old crlf\n*.only eol=crlf\n\
             *.c ident\n*.both ident eol=crlf\n*.u16 text working-tree-encoding=UTF-16LE-BOM\n\
             *.u16b working-tree-encoding=UTF-16BE\n*.u32 working-tree-encoding=UTF-32LE\n[attr]dos text eol=crlf\n*.macro dos\n\
             *.latin working-tree-encoding=ISO-8859-1\n*.u16crlf text eol=crlf working-tree-encoding=UTF-16\n\
             /export export-ignore\n*.sh text eol=lf\n",
        ),
        ("sub/.gitattributes", "*.bat -eol -text\n*.txt eol=crlf\n"),
        ("a.bat", "one\ntwo\n"),
        ("b.auto", "one\ntwo\n"),
        ("nul.auto", "one\0\ntwo\n"),
        ("c.bin", "one\ntwo\n"),
        ("d.old", "one\n"),
        ("e.only", "one\n"),
        ("f.c", "/* $Id$ */\n// $Id: x$ and $Id: a b c $ and $Idx$ and $Id\n$Id$"),
        ("g.both", "$Id$\n"),
        ("m.macro", "one\n"),
        ("n.sh", "one\n"),
        ("export", "kept\n"),
        ("sub/a.bat", "one\n"),
        ("sub/t.txt", "one\n"),
        ("sub/deep/t.txt", "one\n"),
    ] {
        bench.write(name, content);
    }
    for (name, text) in [
        ("u.u16", "gr\u{fc}n \u{1f600}\n"),
        ("v.u16b", "gr\u{fc}n\n"),
        ("w.u32", "x\u{1f600}\n"),
        ("y.u16crlf", "one\ntwo\n"),
    ] {
        // What git takes in is already encoded; the blob is UTF-8.
        let bytes: Vec<u8> = match name {
            "u.u16" => {
                [b"\xff\xfe".to_vec(), text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat()
            }
            "v.u16b" => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            "y.u16crlf" => {
                [b"\xff\xfe".to_vec(), text.encode_utf16().flat_map(u16::to_le_bytes).collect()].concat()
            }
            _ => text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
        };
        fs::write(bench.work().join(name), bytes).unwrap();
    }
    fs::write(bench.work().join("x.latin"), b"gr\xfcn\n").unwrap();
    let commit = bench.commit_and_push("x");
    let mut clone = git::command(bench.root());
    assert!(clone.args(["clone", "-q", "remote.git", "clone"]).status().unwrap().success());
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let out = bench.dir("out");
    let written = worker.checkout(&commit, &out).await.unwrap();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    all_files(&out, Path::new(""), &mut ours);
    all_files(&bench.dir("clone"), Path::new(""), &mut theirs);
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.0, theirs.0);
        assert_eq!(ours.1.escape_ascii().to_string(), theirs.1.escape_ascii().to_string(), "{}", ours.0);
    }
    assert_eq!(ours.len(), theirs.len());
    let bytes: usize = ours.iter().map(|(_, content)| content.len()).sum();
    assert_eq!((written.files, written.bytes), (ours.len() as u64, bytes as u64));
}

#[tokio::test]
async fn b7_a_file_behind_a_filter_that_bgd_does_not_run_is_refused_by_the_name_of_both() {
    for (attributes, path, fault) in [
        (
            "secrets.env filter=git-crypt diff=git-crypt\n",
            "secrets.env",
            AttributeFault::Filter("git-crypt".into()),
        ),
        ("deep/** filter=crypt\n", "deep/er/key", AttributeFault::Filter("crypt".into())),
        ("[attr]sealed filter=age\n*.key sealed\n", "a.key", AttributeFault::Filter("age".into())),
        ("a working-tree-encoding=SHIFT-JIS\n", "a", AttributeFault::Encoding("SHIFT-JIS".into())),
    ] {
        let bench = Bench::new();
        bench.write(path, "x");
        bench.commit("before");
        bench.write(".gitattributes", attributes);
        // By the lowest means, since git would run the filter, or convert.
        bench.git(&["add", ".gitattributes"]);
        bench.git(&["commit", "-qm", "x"]);
        bench.git(&["push", "-q", "origin", "HEAD:main"]);
        let worker = bench.worker();
        let commit = worker.fetch(WantedRevision::Branch).await.unwrap().commit;
        let err = worker.checkout(&commit, &bench.dir("out")).await.unwrap_err();
        assert_eq!(err, GitError::Attribute { path: path.into(), fault }, "{}", as_error(&err));
        assert_eq!(err.kind(), Reaction::Refused);
        assert!(err.hint().unwrap().contains("bgd deploy"));
    }
}

#[tokio::test]
async fn a_filter_without_files_and_one_that_only_cleans_are_no_obstacle() {
    let bench = Bench::new();
    bench.write("book.ipynb", "{}\n");
    bench.commit("before");
    bench.write(
        ".gitattributes",
        "*.none filter=git-crypt\n*.ipynb filter=nbstripout\n.gitattributes !filter\n",
    );
    bench.git(&["add", ".gitattributes"]);
    bench.git(&["commit", "-qm", "x"]);
    bench.git(&["push", "-q", "origin", "HEAD:main"]);
    let worker = bench.worker();
    let commit = worker.fetch(WantedRevision::Branch).await.unwrap().commit;
    let out = bench.dir("out");
    worker.checkout(&commit, &out).await.unwrap();
    assert_eq!(fs::read_to_string(out.join("book.ipynb")).unwrap(), "{}\n");
}

#[tokio::test]
async fn b6_a_repository_added_as_a_directory_is_refused_with_the_way_out() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let link = format!("160000,{commit},nested");
    bench.git(&["update-index", "--add", "--cacheinfo", &link]);
    bench.git(&["commit", "-qm", "oops"]);
    bench.git(&["push", "-q", "origin", "HEAD:main"]);
    let worker = bench.worker();
    let commit = worker.fetch(WantedRevision::Branch).await.unwrap().commit;
    let err = worker.checkout(&commit, &bench.dir("out")).await.unwrap_err();
    let hint = err.hint().unwrap();
    assert!(hint.contains("`git rm --cached nested`") && hint.contains("git submodule add"), "{hint}");
}

#[tokio::test]
async fn b3_a_commit_that_cannot_be_parsed_is_its_own_fault_and_not_the_mirrors() {
    let bench = Bench::new();
    let good = bench.commit_and_push("x");
    let worker = bench.worker();
    worker.fetch(WantedRevision::Branch).await.unwrap();
    let tree = bench.git(&["rev-parse", "HEAD^{tree}"]);
    let twice = format!(
        "tree {tree}\ntree {tree}\nparent {good}\nauthor a <a@x> 1 +0000\ncommitter a <a@x> 1 +0000\n\nx\n"
    );
    let odd = bench.raw_object("commit", twice.as_bytes());
    bench.git(&["push", "-q", "-f", "origin", &format!("{odd}:refs/heads/main")]);
    for _ in 0..2 {
        let err = worker.fetch(WantedRevision::Branch).await.unwrap_err();
        assert_eq!(err.kind(), Reaction::Refused, "{}", as_error(&err));
        assert!(as_error(&err).contains(odd.as_str()), "{}", as_error(&err));
    }
    assert_eq!(worker.describe(&good).await.unwrap().subject, "x", "the mirror is as it was");
}
