//! As much of MongoDB's protocol as starting a server needs.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const CONNECT: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(10);
/// The kind of message that carries a command.
const OP_MSG: i32 = 2013;
const LARGEST: usize = 1024 * 1024;

/// A document under construction.
#[derive(Default)]
struct Document(Vec<u8>);

impl Document {
    fn element(mut self, kind: u8, name: &str, value: &[u8]) -> Self {
        self.0.push(kind);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(0);
        self.0.extend_from_slice(value);
        self
    }

    fn number(self, name: &str, value: i32) -> Self {
        self.element(0x10, name, &value.to_le_bytes())
    }

    fn text(self, name: &str, value: &str) -> Self {
        let mut bytes = (value.len() as i32 + 1).to_le_bytes().to_vec();
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.element(0x02, name, &bytes)
    }

    fn array(self, name: &str, only: &Self) -> Self {
        let array = Self::default().element(0x03, "0", &only.bytes());
        self.element(0x04, name, &array.bytes())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.0.len() as i32 + 5).to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.0);
        bytes.push(0);
        bytes
    }
}

/// Whether a server answers, be it with an error.
pub(super) fn answers(address: SocketAddr) -> bool {
    command(address, &Document::default().number("ping", 1).text("$db", "admin")).is_ok()
}

/// Makes a user who may do everything.
pub(super) fn create_user(address: SocketAddr, user: &str, password: &str) -> io::Result<()> {
    let role = Document::default().text("role", "root").text("db", "admin");
    let request =
        Document::default().text("createUser", user).text("pwd", password).array("roles", &role).text("$db", "admin");
    let reply = command(address, &request)?;
    let ok = [b"\x01ok\0".as_slice(), &1f64.to_le_bytes()].concat();
    if reply.windows(ok.len()).any(|part| part == ok) {
        return Ok(());
    }
    Err(io::Error::other(format!("the user was refused: {}", String::from_utf8_lossy(&reply))))
}

fn command(address: SocketAddr, request: &Document) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, CONNECT)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let document = request.bytes();
    let mut message = Vec::new();
    // Length, request id, id answered, kind; flags; one section of one document.
    for number in [21 + document.len() as i32, 1, 0, OP_MSG, 0] {
        message.extend_from_slice(&number.to_le_bytes());
    }
    message.push(0);
    message.extend_from_slice(&document);
    stream.write_all(&message)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if !(21..LARGEST).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut reply = vec![0; length - 4];
    stream.read_exact(&mut reply)?;
    Ok(reply)
}
