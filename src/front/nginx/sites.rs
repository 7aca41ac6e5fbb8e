//! The sites that pass requests to the app, as nginx's dump of its whole configuration has them: where nginx's rules of
//! inheritance keep the lines of bgd's file from reaching them. Pure; called by `inspect` and `cutover` with the
//! dump. It never fails: what it does not understand has no site.

use std::path::Path;

use super::{report::TAG, sides::Names, syntax, syntax::Token};
use crate::rules::ids::AppName;

/// nginx prints each file under this line.
const FILE_LINE: &str = "# configuration file ";
/// Files that include each other would be refused by nginx itself.
const DEEPEST: usize = 8;
/// What else may name an upstream.
const SCHEMES: [&str; 4] = ["http://", "https://", "grpc://", "grpcs://"];

/// What sites have to be given by hand, because a line of their own hides the one of bgd's file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hidden {
    /// Servers, by name, with an `add_header` of their own and without the canary's cookie.
    pub cookie: Vec<String>,
    /// Servers, by name, with an `access_log` of their own and without the one that tells bgd.
    pub traffic: Vec<String>,
    /// Whether nginx writes the log that it writes when its `http` block names none; bgd's line would end that, so it
    /// is left out.
    pub default_log: bool,
}

/// The paths of the files in a dump.
pub(super) fn files(dump: &str) -> impl Iterator<Item = &str> {
    dump.lines().filter_map(file)
}

fn file(line: &str) -> Option<&str> {
    line.strip_prefix(FILE_LINE)?.strip_suffix(':')
}

/// The files of a dump that define an upstream of this name.
pub(super) fn defining<'d>(dump: &'d str, upstream: &str) -> Vec<&'d str> {
    let mut found: Vec<&str> = cut(dump)
        .into_iter()
        .filter(|(_, text)| syntax::block(&syntax::tokens(text), "upstream", upstream).is_some())
        .map(|(path, _)| path)
        .collect();
    found.dedup();
    found
}

/// Whether anything beside its definition names the upstream, such as a site that passes requests to it.
pub(super) fn is_used(dump: &str, upstream: &str) -> bool {
    http(dump).iter().any(|directive| directive.names(upstream))
}

/// What stands behind the scheme of an address, up to its path.
fn host(address: &str) -> Option<&str> {
    let bare = SCHEMES.iter().find_map(|scheme| address.strip_prefix(scheme)).unwrap_or(address);
    bare.split('/').next()
}

/// One directive with its arguments and what is in its braces.
#[derive(Debug, PartialEq, Eq)]
struct Directive {
    words: Vec<String>,
    inside: Vec<Directive>,
}

impl Directive {
    fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word == name)
    }

    /// In an argument, whatever it is for: a `map` or a variable may lead to it.
    fn names(&self, upstream: &str) -> bool {
        let own = self.words.iter().skip(1).any(|word| host(word) == Some(upstream));
        !self.is("upstream") && (own || self.inside.iter().any(|inside| inside.names(upstream)))
    }
}

/// What `add_header` and `access_log` lead to at one level: each is taken over whole from the level above, unless there
/// is one at this level.
#[derive(Clone, Copy)]
struct Reach {
    cookie: bool,
    traffic: bool,
}

/// Which sites of the upstream do not get bgd's lines.
pub(super) fn hidden(dump: &str, app: &AppName, upstream: &str) -> Hidden {
    let names = Names::of(app);
    let search =
        Search { cookie: format!("${}", names.variable("cookie")), log: names.to_string(), upstream };
    let http = http(dump);
    let off = |directive: &Directive| directive.is("access_log") && directive.words[1..] == ["off"];
    // What bgd's own file has at this level is seen only while it is needed.
    let top = Reach { cookie: true, traffic: !http.iter().any(off) };
    let mut hidden = Hidden { default_log: !names_a_log(&http), ..Hidden::default() };
    for server in http.iter().filter(|directive| directive.is("server")) {
        let found = search.passing(&server.inside, top);
        if found.iter().any(|reach| !reach.cookie) {
            hidden.cookie.push(name(server));
        }
        if found.iter().any(|reach| !reach.traffic) {
            hidden.traffic.push(name(server));
        }
    }
    hidden
}

/// Whether nginx has a log for all sites, beside bgd's.
fn names_a_log(http: &[Directive]) -> bool {
    let mut logs = http.iter().filter(|directive| directive.is("access_log"));
    logs.any(|log| log.words.get(1).is_some_and(|to| !to.ends_with(TAG)))
}

/// What is looked for.
struct Search<'u> {
    cookie: String,
    log: String,
    upstream: &'u str,
}

impl Search<'_> {
    /// What reaches each place, from here inwards, that passes requests to the upstream.
    fn passing(&self, block: &[Directive], above: Reach) -> Vec<Reach> {
        let all = |name: &'static str| block.iter().filter(move |directive| directive.is(name));
        let said =
            |name: &'static str, what: &str| all(name).any(|it| it.words.iter().any(|word| word == what));
        let reach = Reach {
            cookie: if all("add_header").next().is_some() {
                said("add_header", &self.cookie)
            } else {
                above.cookie
            },
            traffic: if all("access_log").next().is_some() {
                said("access_log", &self.log)
            } else {
                above.traffic
            },
        };
        let here = block.iter().any(|directive| self.passes(directive)).then_some(reach);
        let inside = block.iter().flat_map(|directive| self.passing(&directive.inside, reach));
        here.into_iter().chain(inside).collect()
    }

    fn passes(&self, directive: &Directive) -> bool {
        let [name, to, ..] = directive.words.as_slice() else { return false };
        name.ends_with("_pass") && host(to) == Some(self.upstream)
    }
}

/// What people call a server.
fn name(server: &Directive) -> String {
    let by = |name| server.inside.iter().find(|directive| directive.is(name))?.words.get(1).cloned();
    by("server_name").or_else(|| by("listen")).unwrap_or_else(|| "without a name".to_owned())
}

/// What is in the `http` block, included files in their places.
fn http(dump: &str) -> Vec<Directive> {
    let files = cut(dump);
    let Some((main, _)) = files.first() else { return Vec::new() };
    let directory = Path::new(main).parent().unwrap_or(Path::new("/"));
    let whole = Whole { directory, files: &files }.read(main, 0);
    whole.into_iter().filter(|directive| directive.is("http")).flat_map(|http| http.inside).collect()
}

/// The files of a dump, each with its path. Where one is named twice, the text is the same.
fn cut(dump: &str) -> Vec<(&str, String)> {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in dump.lines() {
        match (file(line), files.last_mut()) {
            (Some(path), _) => files.push((path, String::new())),
            (None, Some((_, text))) => text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    files
}

struct Whole<'d> {
    /// Of the main file: where relative paths begin.
    directory: &'d Path,
    files: &'d [(&'d str, String)],
}

impl Whole<'_> {
    fn read(&self, path: &str, depth: usize) -> Vec<Directive> {
        let Some((_, text)) = self.files.iter().find(|(name, _)| *name == path) else { return Vec::new() };
        let tokens = syntax::tokens(text);
        self.filled(directives(&mut tokens.into_iter()), depth)
    }

    /// With the files in the place of each `include`.
    fn filled(&self, directives: Vec<Directive>, depth: usize) -> Vec<Directive> {
        directives.into_iter().flat_map(|directive| self.replaced(directive, depth)).collect()
    }

    fn replaced(&self, directive: Directive, depth: usize) -> Vec<Directive> {
        if !directive.is("include") {
            let inside = self.filled(directive.inside, depth);
            return vec![Directive { inside, ..directive }];
        }
        let pattern = directive.words.get(1).map(|pattern| self.directory.join(pattern));
        let Some(pattern) = pattern.filter(|_| depth < DEEPEST) else { return Vec::new() };
        let pattern = pattern.to_string_lossy();
        let mut paths: Vec<&str> = self.files.iter().map(|(path, _)| *path).collect();
        paths.sort_unstable();
        paths.dedup();
        let included = paths.into_iter().filter(|path| matches(pattern.as_bytes(), path.as_bytes()));
        included.flat_map(|path| self.read(path, depth + 1)).collect()
    }
}

fn directives(tokens: &mut impl Iterator<Item = Token>) -> Vec<Directive> {
    let mut all = Vec::new();
    let mut words = Vec::new();
    while let Some(token) = tokens.next() {
        match token {
            Token::Word(word) => words.push(word),
            Token::End => all.push(Directive { words: std::mem::take(&mut words), inside: Vec::new() }),
            Token::Open => {
                let inside = directives(tokens);
                all.push(Directive { words: std::mem::take(&mut words), inside });
            }
            Token::Close => break,
        }
    }
    all
}

/// Whether a path fits a pattern with `*` and `?`, as the shell understands them: neither stands for a `/`, nor for a
/// dot at the beginning of a name.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    let hidden = path.first() == Some(&b'.');
    match (pattern, path) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            let longest = path.iter().position(|c| *c == b'/').unwrap_or(path.len());
            (0..=longest).any(|taken| matches_on(rest, &path[taken..])) && !hidden
        }
        ([b'?', ..], _) if hidden => false,
        _ => matches_on(pattern, path),
    }
}

/// The same, not at the beginning of a name.
fn matches_on(pattern: &[u8], path: &[u8]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            let longest = path.iter().position(|c| *c == b'/').unwrap_or(path.len());
            (0..=longest).any(|taken| matches_on(rest, &path[taken..]))
        }
        ([b'?', pattern @ ..], [c, path @ ..]) => *c != b'/' && matches_on(pattern, path),
        ([b'/', pattern @ ..], [b'/', path @ ..]) => matches(pattern, path),
        ([one, pattern @ ..], [other, path @ ..]) => one == other && matches_on(pattern, path),
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: &str = "# configuration file /etc/nginx/nginx.conf:\nevents {}\nhttp {\n  access_log a.log;\n  \
                        include conf.d/*.conf;\n}\n";

    fn dump(site: &str) -> String {
        format!(
            "{MAIN}# configuration file /etc/nginx/conf.d/a.conf:\n{site}\n\
             # configuration file /etc/nginx/snippets/headers.conf:\nadd_header X-Frame-Options DENY;\n"
        )
    }

    fn found(site: &str) -> (Vec<String>, Vec<String>) {
        let hidden = hidden(&dump(site), &"shop".parse().unwrap(), "shop");
        (hidden.cookie, hidden.traffic)
    }

    fn none() -> Vec<String> {
        Vec::new()
    }

    #[test]
    fn a_site_without_lines_of_its_own_needs_none() {
        assert_eq!(found("server { location / { proxy_pass http://shop; } }"), (none(), none()));
        assert_eq!(found("server { add_header A b; access_log c; return 200; }"), (none(), none()));
        assert_eq!(
            found("server { add_header A b; location / { proxy_pass http://shopping; } }"),
            (none(), none())
        );
    }

    #[test]
    fn a_line_hides_bgd_s_at_its_level_and_inside_of_it() {
        let server = "server { server_name a.example.com b; add_header A b; location / { proxy_pass http://shop/x; } }";
        assert_eq!(found(server), (vec!["a.example.com".to_owned()], none()));
        let location = "server { listen 80; location / { access_log off; location /x { grpc_pass shop; } } }";
        assert_eq!(found(location), (none(), vec!["80".to_owned()]));
        let included =
            "server { listen 80; include snippets/headers.conf; location / { proxy_pass http://shop; } }";
        assert_eq!(found(included), (vec!["80".to_owned()], none()));
        let aside = "server { location /a { add_header A b; } location / { proxy_pass https://shop; } }";
        assert_eq!(found(aside), (none(), none()));
    }

    #[test]
    fn a_site_that_has_been_given_the_lines_needs_nothing() {
        let site = "server { add_header A b; add_header Set-Cookie $bgd_shop_cookie always; access_log a; \
                    access_log syslog:server=unix:/s,nohostname,tag=bgd bgd_shop if=$bgd_shop_told; \
                    location / { proxy_pass http://shop; } }";
        assert_eq!(found(site), (none(), none()));
    }

    #[test]
    fn a_log_that_is_off_for_all_is_off_for_bgd_too() {
        let site = dump("server { listen 80; location / { proxy_pass http://shop; } }");
        let off = site.replace("access_log a.log;", "access_log off;");
        assert_eq!(hidden(&off, &"shop".parse().unwrap(), "shop").traffic, ["80"]);
    }

    #[test]
    fn a_default_log_is_told_from_one_that_is_written_down() {
        let site = dump("access_log syslog:server=unix:/s,nohostname,tag=bgd bgd_shop if=$bgd_shop_told;");
        let default_log = |dump: &str| hidden(dump, &"shop".parse().unwrap(), "shop").default_log;
        assert!(!default_log(&site));
        assert!(default_log(&site.replace("access_log a.log;", "")));
    }

    #[test]
    fn patterns_are_the_shell_s() {
        for (pattern, path, fits) in [
            ("/etc/*.conf", "/etc/a.conf", true),
            ("/etc/*.conf", "/etc/.a.conf", false),
            ("/etc/*.conf", "/etc/x/a.conf", false),
            ("/etc/*/a?.conf", "/etc/x/ab.conf", true),
            ("/etc/?a", "/etc/.a", false),
            ("/etc/a*", "/etc/a", true),
            ("/etc/a", "/etc/ab", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), path.as_bytes()), fits, "{pattern} {path}");
        }
    }

    #[test]
    fn the_files_of_a_dump_are_listed() {
        let dump =
            "# configuration file /etc/nginx/nginx.conf:\nuser a;\n\n# configuration file /a b.conf:\n";
        assert_eq!(files(dump).collect::<Vec<_>>(), ["/etc/nginx/nginx.conf", "/a b.conf"]);
    }

    #[test]
    fn the_files_that_define_an_upstream_are_named() {
        let dump =
            dump("upstream shop { server 127.0.0.1:1; }\nserver { location / { proxy_pass http://shop; } }");
        assert_eq!(defining(&dump, "shop"), ["/etc/nginx/conf.d/a.conf"]);
        assert!(defining(&dump, "sho").is_empty());
    }

    #[test]
    fn an_upstream_that_no_site_names_is_told_from_one_that_a_site_or_a_map_names() {
        let own = "upstream shop { server 127.0.0.1:1; }\n";
        let used = |site: &str| is_used(&dump(&format!("{own}{site}")), "shop");
        assert!(!used("server { location / { proxy_pass http://shopping; } }"));
        assert!(used("server { location / { proxy_pass http://shop/x; } }"));
        assert!(used("server { location / { fastcgi_pass shop; } }"));
        assert!(used("map $host $to { default shop; }\nserver { location / { proxy_pass http://$to; } }"));
    }

    #[test]
    fn files_that_include_each_other_end() {
        let text = "# configuration file /a:\nhttp { include /a; server { include /*; } }\n";
        assert_eq!(hidden(text, &"shop".parse().unwrap(), "shop").cookie, none());
    }

    proptest::proptest! {
        #[test]
        fn any_dump_is_looked_through(text in "(server|location|include|add_header| |\\{|\\}|;|/a|\\*|\n){0,60}") {
            let _ = hidden(&dump(&text), &"shop".parse().unwrap(), "shop");
        }
    }
}
