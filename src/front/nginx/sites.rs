//! Finds, in nginx's dump of its whole configuration, the sites that pass requests to the app, and those to which the
//! lines of bgd's file do not apply by nginx's rules of inheritance. Pure; called by `inspect` and `cutover` with the
//! dump. It never fails: it skips directives that it does not understand.

use std::path::Path;

use super::{report::TAG, sides::Names, syntax, syntax::Token};
use crate::rules::ids::AppName;

/// nginx prints each file under this line.
const FILE_LINE: &str = "# configuration file ";
/// Deepest nesting of includes. It only ends a loop: nginx itself refuses files that include each other.
const DEEPEST: usize = 8;
/// Schemes before the name of an upstream in an address.
const SCHEMES: [&str; 4] = ["http://", "https://", "grpc://", "grpcs://"];

/// Sites to which the operator must add a line of bgd's file, because a line of their own hides it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hidden {
    /// Servers, by name, with an `add_header` of their own and without the canary's cookie.
    pub cookie: Vec<String>,
    /// Servers, by name, with an `access_log` of their own and without the one that reports to bgd.
    pub traffic: Vec<String>,
    /// Whether nginx writes its default log, because its `http` block names none. bgd's line would end that log, so it
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

/// Whether any directive other than its definition names the upstream, such as a site that passes requests to it.
pub(super) fn is_used(dump: &str, upstream: &str) -> bool {
    http(dump).iter().any(|directive| directive.names(upstream))
}

/// The host of an address: the part after its scheme, up to its path.
fn host(address: &str) -> Option<&str> {
    let bare = SCHEMES.iter().find_map(|scheme| address.strip_prefix(scheme)).unwrap_or(address);
    bare.split('/').next()
}

/// One directive with its arguments, and the directives in its braces.
#[derive(Debug, PartialEq, Eq)]
struct Directive {
    words: Vec<String>,
    inside: Vec<Directive>,
}

impl Directive {
    fn is(&self, name: &str) -> bool {
        self.words.first().is_some_and(|word| word == name)
    }

    /// Whether an argument of the directive names the upstream. Any directive counts, because the upstream's name may
    /// come from a `map` or a variable.
    fn names(&self, upstream: &str) -> bool {
        let own = self.words.iter().skip(1).any(|word| host(word) == Some(upstream));
        !self.is("upstream") && (own || self.inside.iter().any(|inside| inside.names(upstream)))
    }
}

/// Which of bgd's lines apply at one level. All `add_header` lines, and all `access_log` lines, are inherited from the
/// level above unless this level has one.
#[derive(Clone, Copy)]
struct Reach {
    cookie: bool,
    traffic: bool,
}

/// Finds the sites of the upstream to which bgd's lines do not apply.
pub(super) fn hidden(dump: &str, app: &AppName, upstream: &str) -> Hidden {
    let names = Names::of(app);
    let search =
        Search { cookie: format!("${}", names.variable("cookie")), log: names.to_string(), upstream };
    let http = http(dump);
    let off = |directive: &Directive| directive.is("access_log") && directive.words[1..] == ["off"];
    // Assumed, because bgd's file has its lines only while they are needed.
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

/// Whether the `http` block has a log for all sites, other than bgd's.
fn names_a_log(http: &[Directive]) -> bool {
    let mut logs = http.iter().filter(|directive| directive.is("access_log"));
    logs.any(|log| log.words.get(1).is_some_and(|to| !to.ends_with(TAG)))
}

/// The names to search for.
struct Search<'u> {
    cookie: String,
    log: String,
    upstream: &'u str,
}

impl Search<'_> {
    /// For each block, this one or inside it, that passes requests to the upstream: which of bgd's lines apply there.
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

/// A name of a server for messages: its `server_name`, or else its `listen`.
fn name(server: &Directive) -> String {
    let by = |name| server.inside.iter().find(|directive| directive.is(name))?.words.get(1).cloned();
    by("server_name").or_else(|| by("listen")).unwrap_or_else(|| "without a name".to_owned())
}

/// The directives of the `http` block, with each `include` replaced by its files.
fn http(dump: &str) -> Vec<Directive> {
    let files = cut(dump);
    let Some((main, _)) = files.first() else { return Vec::new() };
    let directory = Path::new(main).parent().unwrap_or(Path::new("/"));
    let whole = Whole { directory, files: &files }.read(main, 0);
    whole.into_iter().filter(|directive| directive.is("http")).flat_map(|http| http.inside).collect()
}

/// The files of a dump, each with its path. A file may be there twice, with the same text.
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
    /// The directory of the main file, to which paths are relative.
    directory: &'d Path,
    files: &'d [(&'d str, String)],
}

impl Whole<'_> {
    fn read(&self, path: &str, depth: usize) -> Vec<Directive> {
        let Some((_, text)) = self.files.iter().find(|(name, _)| *name == path) else { return Vec::new() };
        let tokens = syntax::tokens(text);
        self.filled(directives(&mut tokens.into_iter()), depth)
    }

    /// Replaces each `include` by the directives of its files.
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

/// Matches the rest of a name: unlike in `matches`, a dot at the beginning is not special.
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
