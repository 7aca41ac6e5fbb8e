//! Many clients, each known by its address, its cookie or a secret, and what they are answered.

use std::net::SocketAddr;

use bgd::rules::ids::Color;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

/// So many ask at once.
const AT_ONCE: usize = 8;

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub color: Color,
    head: String,
}

impl Answer {
    /// `name=value` of the cookie that was set.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.strip_prefix("Set-Cookie: "));
        lines.find(|line| line.starts_with(&format!("{name}="))).map(|line| {
            let (cookie, _) = line.split_once(';').expect("attributes");
            cookie.to_owned()
        })
    }

    pub fn sets_a_cookie(&self) -> bool {
        self.head.contains("\r\nSet-Cookie: ")
    }
}

/// Each header of a client asks once, on a connection of its own, also when it is empty; the answers in that order.
/// Fails at the first that is not answered by a color.
pub async fn ask(to: SocketAddr, method: &'static str, headers: Vec<String>) -> Vec<Answer> {
    let mut asking = JoinSet::new();
    let all = headers.len();
    let headers = std::sync::Arc::new(headers);
    for first in 0..AT_ONCE {
        let headers = headers.clone();
        asking.spawn(async move {
            let mut answers = Vec::new();
            for (at, header) in headers.iter().enumerate().skip(first).step_by(AT_ONCE) {
                answers.push((at, one(to, method, header).await));
            }
            answers
        });
    }
    let mut answers: Vec<_> = asking.join_all().await.into_iter().flatten().collect();
    answers.sort_by_key(|(at, _)| *at);
    assert_eq!(answers.len(), all);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// How many of the answers are the canary's.
pub fn by(color: Color, answers: &[Answer]) -> usize {
    answers.iter().filter(|answer| answer.color == color).count()
}

async fn one(to: SocketAddr, method: &str, header: &str) -> Answer {
    let line = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
    let length = if method == "POST" { "Content-Length: 2\r\n" } else { "" };
    let body = if method == "POST" { "hi" } else { "" };
    let request =
        format!("{method} / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{line}{length}\r\n{body}");
    let exchange = async {
        let mut stream = TcpStream::connect(to).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text =
        timeout(super::stage::GENEROUS, exchange).await.expect("an answer in time").expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    Answer { color: body.parse().expect("a color"), head: head.to_owned() }
}
