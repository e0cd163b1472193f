//! As much of an HTTP/1.1 client as the loads need, blocking and cheap: the load
//! tool shares two cores with the server that it measures.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One keep-alive connection.
pub(crate) struct Client {
    host: String,
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    request: Vec<u8>,
}

pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.head.status)
    }

    /// What a failure's message quotes.
    pub(crate) fn shown(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        format!("status {}: {}", self.head.status, text)
    }
}

#[derive(Default)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) event_position: Option<u64>,
    pub(crate) length: Option<usize>,
    pub(crate) chunked: bool,
}

impl Client {
    /// Connects to `http://host:port`.
    pub(crate) fn connect(url: &str) -> io::Result<Self> {
        let host = url
            .strip_prefix("http://")
            .map(|rest| rest.trim_end_matches('/'))
            .ok_or_else(|| invalid(format!("not an http:// address: {url}")))?;
        let writer = TcpStream::connect(host)?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self {
            host: host.to_owned(),
            reader: BufReader::with_capacity(256 * 1024, writer.try_clone()?),
            writer,
            request: Vec::new(),
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The two halves, for a body that is sent while the answer is read.
    pub(crate) fn split(self) -> (TcpStream, BufReader<TcpStream>) {
        (self.writer, self.reader)
    }

    pub(crate) fn get(&mut self, path: &str, headers: &str) -> io::Result<Response> {
        self.call("GET", path, headers, b"")
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.post_with(path, "Content-Type: application/json\r\n", body)
    }

    pub(crate) fn post_with(&mut self, path: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
        self.call("POST", path, headers, body)
    }

    pub(crate) fn put(&mut self, path: &str, body: &[u8]) -> io::Result<Response> {
        self.call("PUT", path, "Content-Type: application/json\r\n", body)
    }

    /// `headers` are whole lines, each with its line end.
    fn call(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
        self.request.clear();
        write!(self.request, "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}", self.host)?;
        if method != "GET" {
            write!(self.request, "Content-Length: {}\r\n", body.len())?;
        }
        self.request.extend_from_slice(b"\r\n");
        self.request.extend_from_slice(body);
        self.writer.write_all(&self.request)?;
        let head = read_head(&mut self.reader)?;
        let mut body = Vec::new();
        if head.chunked {
            while let Some(left) = read_chunk_size(&mut self.reader)? {
                (&mut self.reader).take(left as u64).read_to_end(&mut body)?;
                skip_line_end(&mut self.reader)?;
            }
        } else if let Some(length) = head.length {
            body.resize(length, 0);
            self.reader.read_exact(&mut body)?;
        }
        Ok(Response { head, body })
    }
}

pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<Head> {
    let mut line = Vec::with_capacity(128);
    read_line(reader, &mut line)?;
    let mut head = Head {
        status: std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.split(' ').nth(1)?.parse().ok())
            .ok_or_else(|| invalid("no status line".to_owned()))?,
        ..Head::default()
    };
    loop {
        read_line(reader, &mut line)?;
        if line.is_empty() {
            return Ok(head);
        }
        let Some(colon) = memchr::memchr(b':', &line) else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            head.length = number(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"event-position") {
            head.event_position = number(value);
        }
    }
}

/// The size of the next chunk; `None` after the last, whose trailers are read too.
pub(crate) fn read_chunk_size(reader: &mut impl BufRead) -> io::Result<Option<usize>> {
    let mut line = Vec::with_capacity(16);
    read_line(reader, &mut line)?;
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let size = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| usize::from_str_radix(text.trim(), 16).ok())
        .ok_or_else(|| invalid("a chunk without a size".to_owned()))?;
    if size > 0 {
        return Ok(Some(size));
    }
    while !line.is_empty() {
        read_line(reader, &mut line)?;
    }
    Ok(None)
}

pub(crate) fn skip_line_end(reader: &mut impl BufRead) -> io::Result<()> {
    let mut end = [0; 2];
    reader.read_exact(&mut end)
}

fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<()> {
    line.clear();
    if reader.read_until(b'\n', line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
    }
    line.truncate(line.trim_ascii_end().len());
    Ok(())
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

pub(crate) fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_head_and_chunks() {
        let mut text: &[u8] = b"HTTP/1.1 201 Created\r\nEvent-Position: 17\r\n\
            Transfer-Encoding: chunked\r\n\r\n1f;x=y\r\n";
        let head = read_head(&mut text).expect("a head");
        assert_eq!((head.status, head.event_position), (201, Some(17)));
        assert!(head.chunked && head.length.is_none());
        assert_eq!(read_chunk_size(&mut text).expect("a size"), Some(31));
        let mut end: &[u8] = b"0\r\n\r\n";
        assert_eq!(read_chunk_size(&mut end).expect("an end"), None);
        assert!(end.is_empty());
    }
}
