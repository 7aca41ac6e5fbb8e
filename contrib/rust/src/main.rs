//! The smallest service: says which commit it is. It does nothing about SIGTERM, and need not: bgd stops it when
//! its last request has been answered.

use std::{
    env,
    error::Error,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

fn main() -> Result<(), Box<dyn Error>> {
    let port: u16 = env::var("PORT")?.parse()?;
    for stream in TcpListener::bind(("127.0.0.1", port))?.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = answer(stream) {
                eprintln!("a request was not answered: {error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    // The head ends with an empty line; a probe that only opens the port sends nothing.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let body = env::var("BGD_COMMIT").unwrap_or_else(|_| "unknown".to_owned()) + "\n";
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}
