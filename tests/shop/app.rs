//! The sample app: this very test binary, started again by bgd as the one test `shop::app::serves_as_its_release_says`.
//! How it behaves is written in `app.conf` of its release. Threads and plain sockets; TERM ends it at once, in
//! the middle of whatever it does, as `php -S` would.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::exit,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind as bind_socket, listen, setsockopt,
    socket, sockopt,
};

/// Set in the app's environment: where the gates are. Without it the test is an empty one.
pub const GATES: &str = "SAMPLE_GATES";
/// Between two looks at a gate.
const LOOK: Duration = Duration::from_millis(20);
/// A closed gate opens by itself after this long, so that nothing is held for ever.
const GATE_LIMIT: Duration = Duration::from_secs(60);

/// Requests other than for `/up`, so that a part of them can fail.
static ASKED: AtomicU64 = AtomicU64::new(0);

/// The command line that starts the app.
pub fn command() -> Vec<String> {
    let exe = std::env::current_exe().expect("this binary").display().to_string();
    [&exe, "shop::app::serves_as_its_release_says", "--exact", "--nocapture", "--test-threads=1"]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn serves_as_its_release_says() {
    if std::env::var_os(GATES).is_none() {
        return;
    }
    App::read().run();
}

struct App {
    conf: BTreeMap<String, String>,
}

impl App {
    fn read() -> Self {
        let text = fs::read_to_string("app.conf").expect("app.conf in the release");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let conf = pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect();
        Self { conf }
    }

    fn get(&self, key: &str) -> &str {
        self.conf.get(key).map_or("", String::as_str)
    }

    fn run(self) -> ! {
        if self.get("term") == "ignored" {
            // SAFETY: ignoring a signal touches no memory of ours.
            unsafe {
                nix::sys::signal::signal(nix::sys::signal::SIGTERM, nix::sys::signal::SigHandler::SigIgn)
            }
            .expect("ignore TERM");
        }
        let rev = self.get("rev").to_owned();
        println!("rev {rev} begins as pid {}", std::process::id());
        if self.get("hides") == "yes" {
            // A grandchild in a session of its own, whose parent has gone.
            let hidden = "setsid sh -c 'trap \"\" TERM HUP; sleep 300; sleep 300' & exit 0";
            std::process::Command::new("sh").args(["-c", hidden]).status().expect("hide a child");
        }
        match self.get("start") {
            "exits" => leave(&format!("last words of {rev}: no database"), 3),
            "second_exits" if std::env::var("BGD_INSTANCE").is_ok_and(|own| own == "2") => {
                leave(&format!("last words of {rev}: too many connections"), 3);
            }
            "hangs" => {
                // The port is open, and nobody ever answers.
                let _open = bind(&port());
                println!("last words of {rev}: waiting for a lock");
                loop {
                    thread::park();
                }
            }
            "elsewhere" => self.leak().serve(bind("0")),
            "waits" => {
                while gate_is_closed("boot") {
                    thread::sleep(LOOK);
                }
            }
            "second_dies_when_told" if std::env::var("BGD_INSTANCE").is_ok_and(|own| own == "2") => {
                let told = format!("die-{rev}");
                if gate_is_closed(&told) {
                    leave(&format!("last words of {rev}: again"), 9);
                }
                thread::spawn(move || {
                    while !gate_is_closed(&told) {
                        thread::sleep(LOOK);
                    }
                    leave(&format!("last words of {rev}: out of memory"), 9);
                });
            }
            "dies_when_told" => {
                thread::spawn(move || {
                    while !gate_is_closed(&format!("die-{rev}")) {
                        thread::sleep(LOOK);
                    }
                    leave(&format!("last words of {rev}: out of memory"), 9);
                });
            }
            _ => {}
        }
        let addresses = self.get("listen").to_owned();
        let app = self.leak();
        if let Ok(path) = std::env::var("SOCKET") {
            app.serve_socket(&path);
        }
        if addresses.is_empty() {
            app.serve(bind(&port()));
        }
        let shared =
            addresses.split(',').map(|address| bind_shared(&address.trim().replace("$PORT", &port())));
        let mut listeners: Vec<TcpListener> = shared.collect();
        let last = listeners.pop().expect("an address");
        for listener in listeners {
            thread::spawn(move || app.serve(listener));
        }
        app.serve(last)
    }

    fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }

    fn serve(&'static self, listener: TcpListener) -> ! {
        println!("rev {} listens on {}", self.get("rev"), listener.local_addr().expect("address"));
        let app = self;
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            // A client that breaks off is its own affair.
            thread::spawn(move || app.converse(stream).ok());
        }
        leave("the listener is gone", 8)
    }

    /// On a unix socket; to what follows, its connections look like any other's.
    fn serve_socket(&'static self, path: &str) -> ! {
        let listener = UnixListener::bind(path).expect("bind");
        println!("rev {} listens on {path}", self.get("rev"));
        let app = self;
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let stream = TcpStream::from(OwnedFd::from(stream));
            // A client that breaks off is its own affair.
            thread::spawn(move || app.converse(stream).ok());
        }
        leave("the listener is gone", 8)
    }

    fn converse(&self, mut stream: TcpStream) -> io::Result<()> {
        // A unix socket has no such thing.
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(asked) = Asked::read(&mut reader)? {
            if asked.upgrade {
                return self.echo(stream, reader);
            }
            if asked.path == self.get("drops") {
                return Ok(());
            }
            let (status, body) = self.answer(&asked);
            write!(
                stream,
                "HTTP/1.1 {status} X\r\nX-Rev: {}\r\nX-Pid: {}\r\nContent-Length: {}\r\n\r\n{body}",
                self.get("rev"),
                std::process::id(),
                body.len()
            )?;
        }
        Ok(())
    }

    fn answer(&self, asked: &Asked) -> (u16, String) {
        if asked.path == "/up" {
            if self.get("tells") == "yes" {
                println!("rev {} is asked for /up", self.get("rev"));
            }
            if !self.get("up").is_empty() {
                let code = self.get("up").parse().expect("a status");
                println!("last words of {}: /up answers {code}", self.get("rev"));
                return (code, "no connection to the database".to_owned());
            }
            if gate_is_closed("up") || gate_is_closed(&format!("up-{}", self.get("rev"))) {
                return (503, "not now".to_owned());
            }
            return (200, "ok".to_owned());
        }
        if asked.path == "/cold" && gate_is_closed("cold") {
            return (503, "not warm yet".to_owned());
        }
        if let Ok(every) = self.get("fails_every").parse::<u64>()
            && ASKED.fetch_add(1, Ordering::Relaxed) % every == every - 1
        {
            return (500, "the query failed".to_owned());
        }
        if let Some(ms) = asked.path.strip_prefix("/slow?ms=") {
            thread::sleep(Duration::from_millis(ms.parse().unwrap_or(0)));
        }
        if asked.path == "/held" {
            let gates = std::env::var(GATES).expect("gates");
            fs::write(Path::new(&gates).join("held-arrived"), "").expect("a mark");
        }
        while asked.path == "/held" && gate_is_closed("held") {
            thread::sleep(LOOK);
        }
        (200, format!("{} {}", self.get("rev"), asked.body))
    }

    /// A tunnel that says everything back.
    fn echo(&self, mut stream: TcpStream, mut reader: BufReader<TcpStream>) -> io::Result<()> {
        let rev = self.get("rev");
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Rev: {rev}\r\n\r\n"
        )?;
        let mut bytes = [0; 1024];
        loop {
            match reader.read(&mut bytes)? {
                0 => return Ok(()),
                read => stream.write_all(&bytes[..read])?,
            }
        }
    }
}

/// Whether a file of that name is there.
fn gate_is_closed(name: &str) -> bool {
    let gates = std::env::var(GATES).expect("gates");
    Path::new(&gates).join(name).exists()
}

/// Shell text that waits at a gate.
pub fn wait_at(gate: &str) -> String {
    let looks = GATE_LIMIT.as_millis() / 50;
    format!("n=0; while [ -e \"${GATES}/{gate}\" ] && [ $n -lt {looks} ]; do sleep 0.05; n=$((n+1)); done\n")
}

fn port() -> String {
    std::env::var("PORT").expect("PORT")
}

fn bind(port: &str) -> TcpListener {
    TcpListener::bind(format!("127.0.0.1:{port}")).expect("listen")
}

/// With SO_REUSEPORT, as servers with several processes listen: others that do the same may share the port.
fn bind_shared(address: &str) -> TcpListener {
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("SO_REUSEADDR");
    setsockopt(&socket, sockopt::ReusePort, &true).expect("SO_REUSEPORT");
    bind_socket(socket.as_raw_fd(), &SockaddrStorage::from(address)).expect("bind");
    listen(&socket, Backlog::MAXCONN).expect("listen");
    socket.into()
}

fn leave(words: &str, code: i32) -> ! {
    println!("{words}");
    exit(code)
}

struct Asked {
    path: String,
    body: String,
    upgrade: bool,
}

impl Asked {
    fn read(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let (mut length, mut upgrade) = (0, false);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
            upgrade |= line.starts_with("upgrade:");
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        Ok(Some(Self { path, body: String::from_utf8_lossy(&body).into_owned(), upgrade }))
    }
}
