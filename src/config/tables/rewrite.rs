//! `[[app.NAME.rewrite]]`: literal replacements in files of the release, for apps that keep their port in one.

use std::path::PathBuf;

use crate::config::{
    judge::Judge,
    read::{Given, Written},
};

table! {
    /// `[[app.NAME.rewrite]]`.
    RawRewrite { file: String, find: String, with: String }
}

/// One literal replacement in a file of the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// Relative to the release.
    pub file: PathBuf,
    /// Literal text; not found is an error.
    pub find: String,
    /// The replacement, before placeholders are replaced.
    pub with: String,
}

impl Judge<'_> {
    /// Judges the replacements of an app with these shared paths.
    pub(super) fn rewrites(
        &mut self,
        given: &Given<Vec<Written<RawRewrite>>>,
        shared: &[Written<PathBuf>],
    ) -> Vec<Rewrite> {
        let all = given.value().map_or(&[][..], |written| &written.value);
        all.iter().filter_map(|one| self.rewrite(&one.value, shared)).collect()
    }

    fn rewrite(&mut self, raw: &RawRewrite, shared: &[Written<PathBuf>]) -> Option<Rewrite> {
        for (name, place) in [("file", raw.file.span()), ("find", raw.find.span()), ("with", raw.with.span())]
        {
            if place.is_none() {
                self.notes.error(&raw.at.absent(name), "is required", "a rewrite needs file, find and with");
            }
        }
        let find = raw.find.value();
        if let Some(find) = find.filter(|find| find.value.is_empty()) {
            self.notes.error(&find.at, "is empty", "write the text to replace");
        }
        let file = raw.file.value()?;
        let path = self.release_file(file)?;
        if let Some(holder) = shared.iter().find(|shared| path.starts_with(&shared.value)) {
            let what = format!("{path:?} is the same file in both colors: it lies in {}", holder.at);
            self.notes.error(&file.at, what, "rewrite a file of the repository, or take it out of `shared`");
        }
        Some(Rewrite { file: path, find: find?.value.clone(), with: raw.with.value()?.value.clone() })
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::*;

    const WRONG: &[Wrong] = &[
        ("[app.shop.rewrite]\nfile = \"a\"", "4 app.shop.rewrite", "expected a list, found a table"),
        ("[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"x\"", "4 app.shop.rewrite[0].with", "is required"),
        (
            "[[app.shop.rewrite]]\nfile = \"/a\"\nfind = \"x\"\nwith = \"\"",
            "5 app.shop.rewrite[0].file",
            "is absolute",
        ),
        (
            "[[app.shop.rewrite]]\nfile = \"a/\"\nfind = \"x\"\nwith = \"\"",
            "5 app.shop.rewrite[0].file",
            "directory",
        ),
        (
            "[[app.shop.rewrite]]\nfile = \"a\"\nfind = \"\"\nwith = \"\"",
            "6 app.shop.rewrite[0].find",
            "is empty",
        ),
        (
            "shared = [\"etc\"]\n[[app.shop.rewrite]]\nfile = \"etc/x\"\nfind = \"1\"\nwith = \"\"",
            "6 app.shop.rewrite[0].file",
            "is the same file in both colors: it lies in app.shop.shared[0]",
        ),
    ];

    #[test]
    fn each_wrong_value_is_one_error_at_its_key_and_line() {
        each_is_one_error_at_its_place(WRONG);
    }
}
