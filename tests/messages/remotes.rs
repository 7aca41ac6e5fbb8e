//! The remote: unreachable, empty, private, rewound.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener},
    thread,
};

use super::book::Book;
use crate::shop::{Kind, Plan, Stage};

pub fn the_remote_is_to_blame(book: &mut Book) {
    let Some(stage) = Stage::set(Plan::of(Kind::Builtin)) else { return };
    book.fails("the remote is empty", &stage, &["deploy"]);
    let ran = stage.bgd(&["why"]);
    book.shows("why nothing is deployed from an empty remote", &stage, (&["why"], &ran));
    stage.push_live("good");
    book.fails("the revision does not exist", &stage, &["deploy", "--rev", "no-such-rev"]);
    let remote = format!("remote = \"{}\"", stage.path("remote.git").display());
    rewound(book, &stage, &remote);
    let deploy = |book: &mut Book, title: &str, (from, to): (&str, &str)| {
        stage.with(from, to, || {
            book.fails(title, &stage, &["deploy"]);
            stage.until_at_rest();
        });
    };
    deploy(book, "the branch does not exist", (&remote, &format!("{remote}\nbranch = \"trunk\"")));
    let closed = crate::stage::ports::reserve();
    let nobody = format!("remote = \"http://127.0.0.1:{}/shop.git\"", closed.number);
    deploy(book, "nobody answers at the remote", (&remote, &nobody));
    deploy(book, "there is no repository at the path", (&remote, "remote = \"/no/such/shop.git\""));
    let private = demands_a_password();
    let private = format!("remote = \"http://{private}/shop.git\"");
    deploy(book, "the remote wants credentials", (&remote, &private));
}

fn rewound(book: &mut Book, stage: &Stage, remote: &str) {
    stage.with(remote, &format!("{remote}\nfast_forward_only = true"), || {
        // The first one under this rule, by which the next is judged.
        stage.push_live("forward");
        stage.git(&["commit", "-q", "--amend", "-m", "Make forced"]);
        stage.git(&["push", "-q", "-f", "origin", "HEAD:main"]);
        let forced = stage.git(&["rev-parse", "HEAD"]);
        stage.until("the forced push is refused", |status| status["last"]["commit"] == *forced);
        book.fails("the branch was rewound and only fast forwards are allowed", stage, &["deploy"]);
        let ran = stage.bgd(&["why"]);
        book.shows("why a rewound branch is not deployed", stage, (&["why"], &ran));
    });
}

/// A server that answers 401 to whatever is asked; ends with the test.
fn demands_a_password() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for mut peer in listener.incoming().flatten() {
            let mut line = String::new();
            let mut reader = BufReader::new(peer.try_clone().expect("share the connection"));
            while reader.read_line(&mut line).is_ok_and(|read| read > 0) && !line.ends_with("\r\n\r\n") {}
            let refusal = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n\
                           Content-Length: 0\r\nConnection: close\r\n\r\n";
            // Who asks may have left already.
            let _ = peer.write_all(refusal.as_bytes());
        }
    });
    address
}
