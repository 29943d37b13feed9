//! A server of files on the loopback address, which counts who asks.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What is answered to a GET.
#[derive(Clone)]
pub enum Answer {
    Bytes(Vec<u8>),
    Redirect(String),
    Status(&'static str),
    /// Bytes without an announced length and without an end.
    Endless,
}

#[derive(Clone)]
pub struct Server {
    pub url: String,
    pub answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let server = Self { url, answers: Arc::default(), asked: Arc::default() };
        let own = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let own = own.clone();
                std::thread::spawn(move || own.serve(stream));
            }
        });
        server
    }

    pub fn put(&self, path: &str, answer: Answer) {
        self.answers.lock().expect("no panic").insert(path.to_owned(), answer);
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).ok()?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1)?.to_owned();
        self.asked.lock().expect("no panic").push(path.clone());
        let answer = self.answers.lock().expect("no panic").get(&path).cloned();
        let mut answered = |status: &str, more: &str, body: &[u8]| {
            let head = format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(&[head.as_bytes(), body].concat()).ok()
        };
        match answer {
            None => answered("404 Not Found", "", b"none"),
            Some(Answer::Bytes(bytes)) => answered("200 OK", "", &bytes),
            Some(Answer::Redirect(to)) => answered("302 Found", &format!("Location: {to}\r\n"), b""),
            Some(Answer::Status(status)) => answered(status, "", b"no"),
            Some(Answer::Endless) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").ok()?;
                while stream.write_all(&[0; 64 << 10]).is_ok() {}
                None
            }
        }
    }
}
