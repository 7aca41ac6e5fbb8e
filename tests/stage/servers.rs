//! Servers for the git tests, on loopback and free ports, gone with the test: `git daemon`, `git http-backend`
//! behind a few lines of HTTP, OpenSSH's sshd, and one that drips.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use openssl::ssl::SslAcceptor;

use super::{
    GENEROUS, LOOK, git,
    ports::{self, Port},
};

/// Where a remote is, and what serves it.
pub struct Server {
    url: String,
    child: Option<Child>,
    _port: Option<Port>,
}

impl Server {
    pub fn path(bare: &Path) -> Self {
        Self { url: bare.display().to_string(), child: None, _port: None }
    }

    /// `git daemon` over the repositories of `root`.
    pub fn git_daemon(root: &Path) -> Option<Self> {
        let reserved = ports::reserve();
        let port = reserved.number;
        let mut command = git::command(root);
        command.args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1"]);
        command.arg(format!("--port={port}")).arg(format!("--base-path={}", root.display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok();
        let url = format!("git://127.0.0.1:{port}/remote.git");
        let mut server = Self { url, child, _port: Some(reserved) };
        let began = Instant::now();
        while began.elapsed() < GENEROUS && server.runs() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            thread::sleep(LOOK);
        }
        eprintln!("skipped: git daemon does not start here");
        None
    }

    fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // `git daemon` runs under `git`, which passes TERM on; KILL would leave the daemon behind.
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            child.wait().unwrap();
        }
    }
}

/// An http server that begins an answer and then sends a byte every 200 ms for ever.
pub struct Drip {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Drip {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            for peer in listener.incoming() {
                let Ok(mut peer) = peer else { return };
                let mut request = [0; 4096];
                if peer.read(&mut request).is_err() {
                    continue;
                }
                if peer.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ").is_err() {
                    continue;
                }
                while !stopped.load(Ordering::Relaxed) && peer.write_all(b"x").is_ok() {
                    thread::sleep(Duration::from_millis(200));
                }
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Self { address, stop }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Drip {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread; if it is gone already there is nothing to wake.
        drop(TcpStream::connect(self.address).map(|mut peer| peer.write_all(b"x")));
    }
}

/// `git http-backend` for the repositories of a directory; with a password, anything else is a 401.
pub struct Http {
    scheme: &'static str,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Http {
    pub fn start(root: &Path, authorization: Option<&'static str>) -> Self {
        let root = root.to_owned();
        Self::serve("http", move |peer, refused| answer(BufReader::new(peer), &root, authorization, refused))
    }

    /// Over TLS.
    pub fn start_tls(root: &Path, acceptor: SslAcceptor) -> Self {
        let root = root.to_owned();
        Self::serve("https", move |peer, refused| {
            let peer = acceptor.accept(peer).map_err(std::io::Error::other)?;
            answer(BufReader::new(peer), &root, None, refused)
        })
    }

    /// Whatever is asked, these bytes are the answer.
    pub fn saying(reply: &'static str) -> Self {
        Self::serve("http", move |peer, _| {
            let mut input = BufReader::new(peer);
            let mut line = String::new();
            while input.read_line(&mut line)? > 2 {
                line.clear();
            }
            input.get_mut().write_all(reply.as_bytes())
        })
    }

    fn serve(
        scheme: &'static str,
        mut answer: impl FnMut(TcpStream, &AtomicUsize) -> std::io::Result<()> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let (stopped, refused) = (Arc::clone(&stop), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&refused);
        thread::spawn(move || {
            for peer in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                // A client that hangs up is that client's test to judge.
                if let Err(err) = peer.and_then(|peer| answer(peer, &count)) {
                    eprintln!("{scheme}: {err}");
                }
            }
        });
        Self { scheme, address, stop, refused }
    }

    pub fn url(&self, user_info: &str) -> String {
        format!("{}://{user_info}{}/remote.git", self.scheme, self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Requests that bore a wrong password.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

fn answer<S: Read + Write>(
    mut input: BufReader<S>,
    root: &Path,
    wanted: Option<&str>,
    refused: &AtomicUsize,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        let found = head
            .iter()
            .find_map(|line| line.split_once(':').filter(|(key, _)| key.eq_ignore_ascii_case(name)));
        found.map(|(_, value)| value.trim().to_owned())
    };
    let mut body = vec![0; header("content-length").map_or(0, |text| text.parse().unwrap())];
    input.read_exact(&mut body)?;
    let given = header("authorization");
    let out = input.get_mut();
    if wanted.is_some() && given.as_deref() != wanted {
        refused.fetch_add(usize::from(given.is_some()), Ordering::Relaxed);
        return out.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\
              Connection: close\r\n\r\n",
        );
    }
    let mut request = head[0].split(' ');
    let (method, target) = (request.next().unwrap(), request.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut command = git::command(root);
    command.arg("http-backend").env("GIT_PROJECT_ROOT", root).env("GIT_HTTP_EXPORT_ALL", "1");
    command.env("PATH_INFO", path).env("QUERY_STRING", query).env("REQUEST_METHOD", method);
    command.env("CONTENT_TYPE", header("content-type").unwrap_or_default());
    command
        .env("REMOTE_ADDR", "127.0.0.1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    child.stdin.take().unwrap().write_all(&body)?;
    let reply = child.wait_with_output()?.stdout;
    let end = reply.windows(4).position(|part| part == b"\r\n\r\n").unwrap_or(0);
    let (headers, content) = (String::from_utf8_lossy(&reply[..end]).into_owned(), &reply[end + 4..]);
    let status = headers.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let length = content.len();
    write!(out, "HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    out.write_all(content)
}

/// An sshd of the test's own, with its own host key, that lets one key of its own in.
pub struct Ssh {
    dir: PathBuf,
    port: Port,
    child: Child,
}

impl Ssh {
    /// `None`, with the reason printed, where there is no sshd to be had.
    pub fn start(root: &Path) -> Option<Self> {
        let sshd = std::env::var_os("BGD_TEST_SSHD").map_or_else(|| "/usr/sbin/sshd".into(), PathBuf::from);
        if !sshd.is_file() {
            eprintln!("skipped: no sshd (BGD_TEST_SSHD or /usr/sbin/sshd)");
            return None;
        }
        let dir = root.join("ssh");
        fs::create_dir(&dir).unwrap();
        for name in ["host", "host2", "client", "stranger"] {
            keygen(&dir, &["-q", "-t", "ed25519", "-N", "", "-f", name]);
        }
        fs::copy(dir.join("client.pub"), dir.join("authorized_keys")).unwrap();
        let reserved = ports::reserve();
        let port = reserved.number;
        let shown = dir.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/authorized_keys\n\
             PidFile none\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxAuthTries 3\n"
        );
        fs::write(dir.join("config"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(sshd);
        command.args(["-D", "-e", "-f"]).arg(dir.join("config")).stdin(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap();
        let mut server = Self { dir, port: reserved, child };
        let began = Instant::now();
        while began.elapsed() < GENEROUS && matches!(server.child.try_wait(), Ok(None)) {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(server);
            }
            thread::sleep(LOOK);
        }
        eprintln!("skipped: sshd does not start: {}", server.log());
        None
    }

    pub fn url(&self, repository: &Path) -> String {
        format!("ssh://127.0.0.1:{}{}", self.port(), repository.display())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// A known_hosts file that names `key` for this server.
    pub fn known_hosts(&self, name: &str, key: &str) -> PathBuf {
        let key = fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        let file = self.path(name);
        fs::write(&file, format!("[127.0.0.1]:{} {key}", self.port())).unwrap();
        file
    }

    pub fn hashed(&self, file: &Path) {
        keygen(&self.dir, &["-q", "-H", "-f", file.to_str().unwrap()]);
    }

    pub fn fingerprint(&self) -> String {
        let line = keygen(&self.dir, &["-l", "-f", "host.pub"]);
        line.split(' ').nth(1).unwrap().to_owned()
    }
}

fn keygen(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("ssh-keygen").args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "ssh-keygen {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

impl Drop for Ssh {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
