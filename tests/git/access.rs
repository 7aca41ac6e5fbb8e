//! How a remote is reached: credentials, keys, certificates, ssh's configuration, proxies.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bgd::release::git::{CertificateFault, GitError, Reaction, WantedRevision};

use super::{
    certificates::{Certificate, FOR_LONG, Wish},
    repo::{self, Bench, as_error},
};
use crate::stage::{
    keys::keygen,
    servers::{Http, Ssh},
};

#[tokio::test]
async fn a6_a_token_goes_with_the_user_name_of_the_url() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    // Basic gitlab+deploy-token-42:gldt-abc
    let server = Http::start(bench.root(), Some("Basic Z2l0bGFiK2RlcGxveS10b2tlbi00MjpnbGR0LWFiYw=="));
    let mut source = bench.source();
    source.auth.token_file = Some(bench.dir("token"));
    for (user, token, good) in [
        ("gitlab+deploy-token-42@", "gldt-abc\r\n", true),
        ("gitlab%2Bdeploy-token-42@", "gldt-abc", true),
        ("somebody@", "gldt-abc\n", false),
        ("", "gldt-abc\n", false),
    ] {
        source.remote = server.url(user);
        fs::write(bench.dir("token"), token).unwrap();
        let worker = bench.worker_of(source.clone());
        if good {
            assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit, "{user}");
        } else {
            let refused = worker.head().await.unwrap_err();
            let hint = refused.hint().unwrap();
            assert!(hint.contains("https://USER@host") && !hint.contains("set `auth"), "{user}: {hint}");
        }
    }
}

#[tokio::test]
async fn a6_a_token_file_that_holds_no_token_is_called_by_its_name() {
    let bench = Bench::new();
    let mut source = bench.source();
    source.remote = "http://127.0.0.1:1/x.git".into();
    source.auth.token_file = Some(bench.dir("token"));
    for (text, what) in
        [("", "is empty"), ("a b", "holds more than a token"), ("https://me:hunter22@h", "holds a user name")]
    {
        fs::write(bench.dir("token"), text).unwrap();
        let err = bench.worker_of(source.clone()).head().await.unwrap_err();
        let said = as_error(&err);
        assert!(matches!(err, GitError::Credentials { .. }) && said.contains(what), "{said}");
        assert!(!said.contains("hunter22"));
    }
}

/// Made by the tools that people have; `None` when this one can't.
fn key_file(server: &Ssh, name: &str, args: &[&str]) -> Option<std::path::PathBuf> {
    let file = server.path(name);
    let made = Command::new("ssh-keygen").args(["-q", "-f"]).arg(&file).args(args).output().unwrap();
    if !made.status.success() {
        eprintln!("skipped: ssh-keygen {args:?}: {}", String::from_utf8_lossy(&made.stderr));
        return None;
    }
    let public = fs::read_to_string(server.path(&format!("{name}.pub"))).unwrap();
    let keys = server.path("authorized_keys");
    fs::write(&keys, fs::read_to_string(&keys).unwrap() + &public).unwrap();
    Some(file)
}

#[tokio::test]
async fn a6_keys_of_every_format_open_the_remote_whatever_their_line_ends_are() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let Some(server) = Ssh::start(bench.root()) else { return };
    let mut source = bench.source();
    source.remote = server.url(&bench.bare());
    source.auth.known_hosts = Some(server.known_hosts("known", "host"));
    for (name, args) in [
        ("ed25519", &["-t", "ed25519", "-N", ""][..]),
        ("rsa", &["-t", "rsa", "-b", "2048", "-N", ""]),
        ("rsa-pem", &["-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"]),
        ("rsa-pkcs8", &["-t", "rsa", "-b", "2048", "-N", "", "-m", "PKCS8"]),
        ("ecdsa", &["-t", "ecdsa", "-N", ""]),
        ("ecdsa-pem", &["-t", "ecdsa", "-N", "", "-m", "PEM"]),
    ] {
        let Some(file) = key_file(&server, name, args) else { continue };
        let text = fs::read_to_string(&file).unwrap();
        for text in [text.clone(), text.replace('\n', "\r\n"), text.trim_end().to_owned()] {
            fs::write(&file, text).unwrap();
            source.auth.ssh_key = Some(file.clone());
            let head = bench.worker_of(source.clone()).head().await;
            assert_eq!(head.unwrap_or_else(|err| panic!("{name}: {}", as_error(&err))).commit, commit);
        }
    }
}

#[tokio::test]
async fn a6_a_key_that_a_daemon_cannot_use_is_called_by_its_name() {
    let bench = Bench::new();
    let mut source = bench.source();
    source.remote = "ssh://git@127.0.0.1:1/x.git".into();
    let file = |name: &str| bench.dir(name);
    for (name, kind, format) in
        [("openssh", "ed25519", "RFC4716"), ("pem", "rsa", "PEM"), ("pkcs8", "rsa", "PKCS8")]
    {
        keygen(&["-q", "-t", kind, "-N", "a phrase", "-m", format, "-f", file(name).to_str().unwrap()]);
    }
    fs::write(file("empty"), "").unwrap();
    fs::create_dir(file("directory")).unwrap();
    fs::write(file("ppk"), "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n").unwrap();
    for (name, what, hint) in [
        ("openssh", "a key with a passphrase", "ssh-keygen -p"),
        ("pem", "a key with a passphrase", "ssh-keygen -p"),
        ("pkcs8", "a key with a passphrase", "ssh-keygen -p"),
        ("openssh.pub", "a public key", "without .pub"),
        ("empty", "is empty", "into it"),
        ("directory", "is a directory", "name the file itself"),
        ("ppk", "PuTTY", "puttygen"),
        ("absent", "No such file", "create it"),
    ] {
        source.auth.ssh_key = Some(file(name));
        let err = bench.worker_of(source.clone()).head().await.unwrap_err();
        let said = as_error(&err);
        assert_eq!(err.kind(), Reaction::Auth, "{said}");
        assert!(said.contains(what) && said.contains(file(name).to_str().unwrap()), "{name}: {said}");
        assert!(err.hint().unwrap().contains(hint), "{name}: {:?}", err.hint());
    }
}

#[tokio::test]
async fn a8_an_authority_of_the_settings_is_trusted_and_any_other_fault_of_a_certificate_is_told() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let authority = Certificate::authority("Corp Root");
    let own = Wish { host: "127.0.0.1", until: FOR_LONG };
    let good = Certificate::server(Some(&authority), &own);
    let server = Http::start_tls(bench.root(), good.acceptor());
    let mut source = bench.source();
    source.remote = server.url("");
    let fault = |err: &GitError| match err {
        GitError::Certificate { fault, .. } => (**fault).clone(),
        other => panic!("{other:?}"),
    };
    let unknown = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!(fault(&unknown), CertificateFault::UnknownAuthority { issuer: "Corp Root".into() });
    assert!(unknown.hint().unwrap().contains("auth.ca_file"));

    source.auth.ca_file = Some(authority.write(&bench, "ca.pem"));
    let worker = bench.worker_of(source.clone());
    assert_eq!(worker.fetch(WantedRevision::Branch).await.unwrap().commit, commit);
    drop(worker);

    let other = Certificate::server(Some(&authority), &Wish { host: "git.other", until: FOR_LONG });
    let old = Certificate::server(Some(&authority), &Wish { host: "127.0.0.1", until: 1_600_000_000 });
    let lone = Certificate::server(None, &own);
    for (certificate, want) in
        [(&other, "for git.other, not for 127.0.0.1"), (&old, "expired on Sep 13"), (&lone, "by itself")]
    {
        let server = Http::start_tls(bench.root(), certificate.acceptor());
        source.remote = server.url("");
        let err = bench.worker_of(source.clone()).head().await.unwrap_err();
        assert!(as_error(&err).contains(want), "{want}: {}", as_error(&err));
        let advised = err.hint().unwrap().contains("set `auth.ca_file`");
        assert!(!advised, "it is set: {:?}", err.hint());
    }
    source.auth.ca_file = Some(lone.write(&bench, "lone.pem"));
    let server = Http::start_tls(bench.root(), lone.acceptor());
    source.remote = server.url("");
    assert_eq!(bench.worker_of(source.clone()).head().await.unwrap().commit, commit, "trusted by itself");

    fs::write(bench.dir("der"), lone.x509.to_der().unwrap()).unwrap();
    source.auth.ca_file = Some(bench.dir("der"));
    let err = bench.worker_of(source).head().await.unwrap_err();
    assert!(as_error(&err).contains("no certificate in PEM form"), "{}", as_error(&err));
}

#[tokio::test]
async fn what_is_not_git_is_told_from_a_remote_that_cannot_be_reached() {
    let bench = Bench::new();
    let mut source = bench.source();
    for (reply, what) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<a/>",
            "is not git",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", "is not git"),
        (
            "HTTP/1.1 302 Found\r\nLocation: /users/sign_in\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "is not git",
        ),
        (
            "HTTP/1.1 301 Moved\r\nLocation: ftp://git.other/x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "has moved",
        ),
    ] {
        let server = Http::saying(reply);
        source.remote = server.url("");
        let err = bench.worker_of(source.clone()).head().await.unwrap_err();
        assert!(err.to_string().contains(what), "{}", as_error(&err));
        assert!(err.hint().unwrap().contains("bgd doctor"));
    }
}

/// A proxy for http that counts what it passes on.
fn proxy(to: u16) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let passed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&passed);
    thread::spawn(move || {
        for peer in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            thread::spawn(move || {
                count.fetch_add(1, Ordering::Relaxed);
                // Whoever hangs up has its own test.
                drop(pass(peer, to));
            });
        }
    });
    (port, passed)
}

fn pass(peer: TcpStream, to: u16) -> std::io::Result<()> {
    let mut from = BufReader::new(peer.try_clone()?);
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut server = TcpStream::connect(("127.0.0.1", to))?;
    let path = line.split(' ').nth(1).and_then(|url| url.splitn(4, '/').nth(3)).unwrap_or_default();
    let method = line.split(' ').next().unwrap_or_default();
    if method == "CONNECT" {
        while line.trim() != "" {
            line.clear();
            from.read_line(&mut line)?;
        }
        peer.try_clone()?.write_all(b"HTTP/1.1 200 ok\r\n\r\n")?;
    } else {
        server.write_all(format!("{method} /{path} HTTP/1.1\r\n").as_bytes())?;
    }
    let (mut back, mut client) = (server.try_clone()?, peer);
    let returning = thread::spawn(move || {
        // The end of either side ends the other.
        drop(std::io::copy(&mut back, &mut client));
        drop(client.shutdown(std::net::Shutdown::Both));
    });
    std::io::copy(&mut from, &mut server)?;
    drop(server.shutdown(std::net::Shutdown::Write));
    returning.join().map_err(|_| std::io::Error::other("the way back"))
}

#[tokio::test]
async fn a6_the_proxy_of_the_settings_is_the_way_out() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let certificate = Certificate::server(None, &Wish { host: "git.corp.invalid", until: FOR_LONG });
    // Basic x-access-token:right-token
    let plain = Http::start(bench.root(), Some("Basic eC1hY2Nlc3MtdG9rZW46cmlnaHQtdG9rZW4="));
    let tls = Http::start_tls(bench.root(), certificate.acceptor());
    fs::write(bench.dir("token"), "right-token\n").unwrap();
    let mut source = bench.source();
    for (server, scheme) in [(&plain, "http"), (&tls, "https")] {
        let (port, passed) = proxy(server.port());
        source.remote = format!("{scheme}://git.corp.invalid/remote.git");
        source.auth.proxy = Some(format!("http://127.0.0.1:{port}"));
        source.auth.token_file = Some(bench.dir("token"));
        source.auth.ca_file = (scheme == "https").then(|| certificate.write(&bench, "ca.pem"));
        let worker = bench.worker_of(source.clone());
        let fetched = worker
            .fetch(WantedRevision::Branch)
            .await
            .unwrap_or_else(|err| panic!("{scheme}: {}", as_error(&err)));
        assert_eq!(fetched.commit, commit);
        let out = bench.dir(scheme);
        worker.checkout(&commit, &out).await.unwrap();
        assert!(out.join("a").is_file());
        assert!(passed.load(Ordering::Relaxed) > 0, "{scheme} went past the proxy");
    }
    let (port, _) = proxy(plain.port());
    source.remote = "http://git.corp.invalid/remote.git".into();
    source.auth.proxy = Some(format!("http://127.0.0.1:{port}"));
    source.auth.ca_file = None;
    fs::write(bench.dir("token"), "wrong-token\n").unwrap();
    let err = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert_eq!(err.kind(), Reaction::Auth, "{}", as_error(&err));
    fs::write(bench.dir("token"), "right-token\n").unwrap();
    source.remote = "http://git.corp.invalid/absent.git".into();
    let err = bench.worker_of(source.clone()).head().await.unwrap_err();
    assert!(matches!(err, GitError::NoRepository { .. }), "{}", as_error(&err));
    source.auth.proxy = Some("http://127.0.0.1:1".into());
    let err = bench.worker_of(source).head().await.unwrap_err();
    assert!(matches!(err, GitError::Proxy { .. }), "{err:?}");
    assert!(err.hint().unwrap().contains("auth.proxy"));
}

/// What `bgd doctor` says of an app with this remote, for a user with this home.
fn doctor(bench: &Bench, remote: &str, home: &Path, env: &[(&str, &str)]) -> String {
    let file = bench.dir("bgd.toml");
    let text = format!(
        "[app.shop]\nremote = \"{remote}\"\nstart = \"true\"\n[app.shop.front]\ntype = \"builtin\"\nlisten = \"127.0.0.1:1\"\n"
    );
    fs::write(&file, text).unwrap();
    let mut command = Command::new(repo::exe());
    command.arg("--config").arg(&file).args(["doctor", "shop"]).env("HOME", home).envs(env.iter().copied());
    let output = command.env("XDG_STATE_HOME", bench.dir("state")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = said
        .lines()
        .find(|line| line.contains("127.0.0.1") && line.contains("remote") || line.contains("answers, main"));
    line.unwrap_or(&said).to_owned()
}

#[tokio::test]
async fn a6_what_ssh_config_says_about_a_host_is_obeyed() {
    let bench = Bench::new();
    let commit = bench.commit_and_push("x");
    let Some(server) = Ssh::start(bench.root()) else { return };
    let known = server.known_hosts("known", "host");
    let home = bench.dir("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    let config = |extra: &str| {
        let text = format!(
            "Host shop-host\n  HostName 127.0.0.1\n  Port {}\n  IdentityFile {}\n  UserKnownHostsFile {}\n{extra}\n",
            server.port(),
            server.path("client").display(),
            known.display(),
        );
        fs::write(home.join(".ssh/config"), text).unwrap();
        fs::set_permissions(home.join(".ssh/config"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    let remote = format!("shop-host:{}", bench.bare().display());
    let at = format!("answers, main is at {}", &commit.as_str()[..7]);
    config("");
    let said = doctor(&bench, &remote, &home, &[]);
    assert!(said.contains(&at), "{said}");
    // The way over another host, by whatever command.
    config(&format!(
        "  ProxyCommand sh -c 'echo x >> {}; exec nc 127.0.0.1 {}'",
        bench.dir("jumped").display(),
        server.port()
    ));
    if Command::new("nc").arg("-h").output().is_ok() {
        let said = doctor(&bench, &remote, &home, &[]);
        assert!(said.contains(&at) && bench.dir("jumped").exists(), "{said}");
    }
    config("");
    fs::write(&known, "").unwrap();
    let said = doctor(&bench, &remote, &home, &[]);
    assert!(said.contains("host key of") && said.contains("unknown"), "{said}");
    server.known_hosts("known", "host2");
    let said = doctor(&bench, &remote, &home, &[]);
    assert!(
        said.contains("host key of") && said.contains("has changed") && said.contains("SHA256:"),
        "{said}"
    );
    server.known_hosts("known", "host");
    let locked = server.path("stranger");
    keygen(&["-q", "-p", "-P", "", "-N", "a phrase", "-f", locked.to_str().unwrap()]);
    let text = fs::read_to_string(home.join(".ssh/config")).unwrap();
    fs::write(home.join(".ssh/config"), text.replace("/client", "/stranger")).unwrap();
    let said = doctor(&bench, &remote, &home, &[]);
    assert!(said.contains("is a key with a passphrase") && said.contains("BatchMode"), "{said}");
    fs::write(home.join(".ssh/config"), "").unwrap();
    let said = doctor(&bench, &remote, &home, &[]);
    assert!(said.contains("no Host shop-host is in"), "{said}");
}

#[tokio::test]
async fn a6_a_proxy_of_the_environment_is_not_used_and_named_where_nothing_is_reached() {
    let bench = Bench::new();
    let variable = [("https_proxy", "http://127.0.0.1:1")];
    let said = doctor(&bench, "https://127.0.0.1:1/x.git", bench.root(), &variable);
    assert!(said.contains("proxy of https_proxy is not used") && said.contains("auth.proxy"), "{said}");
}
