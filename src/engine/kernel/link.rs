//! The link's framing: `u32 tag, u32 n, n × u64 lengths, frames`, little endian, over a non-blocking socket pair. A length
//! with its highest bit set is that of a frame which is not among them: it lies in memory whose descriptor comes along.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use crate::os::descriptors;
use crate::os::memory::room_for;
use crate::os::shared_memory::{SharedMemory, most_descriptors};
use crate::transport::Frame;

/// Read at once while frames are small.
const CHUNK: usize = 64 * 1024;

/// No message has more frames; a number beyond is not a message.
const MAX_FRAMES: u32 = 1_000_000;

/// Room for a frame that is made before its bytes are there: user code can reach the link, and claim any length.
const RESERVE: usize = 1 << 30;

/// Descriptors of a message that is still to come as a whole, and of the next one, whose first byte may be read with its last.
const UNCLAIMED: usize = 2 * descriptors::MOST;

/// Of a frame that lies in memory, in its length.
const IN_MEMORY: u64 = 1 << 63;

/// As many as may come with one message of each of `engines` kernels. The system drops those that do not fit under the
/// limit on open files.
pub(in crate::engine) fn descriptors_of_a_message(engines: u32) -> usize {
    let of_each = most_descriptors() / u64::from(engines.max(1));
    usize::try_from(of_each).map_or(descriptors::MOST, |most| most.min(descriptors::MOST))
}

/// Pieces that are handed to one `writev`.
const PIECES: usize = 64;

/// A message on the link.
#[derive(Debug)]
pub(in crate::engine) struct LinkMessage {
    pub(in crate::engine) tag: u32,
    pub(in crate::engine) frames: Vec<LinkFrame>,
}

/// A frame as it has come.
#[derive(Debug)]
pub(in crate::engine) enum LinkFrame {
    Bytes(Vec<u8>),
    Memory(SharedMemory),
}

impl LinkFrame {
    /// For what is read here: memory is copied.
    pub(in crate::engine) fn into_bytes(self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Memory(memory) => memory.as_ref().to_vec(),
        }
    }

    /// For what is passed on: nothing is copied as long as there are descriptors.
    pub(in crate::engine) fn into_frame(self) -> Frame {
        match self {
            Self::Bytes(bytes) => Frame::from(bytes),
            Self::Memory(memory) => Frame::received(memory),
        }
    }
}

impl AsRef<[u8]> for LinkFrame {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Memory(memory) => memory.as_ref(),
        }
    }
}

/// What reading has brought.
#[derive(Debug)]
pub(in crate::engine) enum Received {
    Message(LinkMessage),
    Nothing,
    /// The other side is gone.
    Closed,
}

/// This process's end of a link.
#[derive(Debug)]
pub(in crate::engine) struct Link {
    stream: UnixStream,
    decoder: Decoder,
    outgoing: VecDeque<Piece>,
    /// Bytes of the first piece that are written already.
    written: usize,
}

#[derive(Debug)]
enum Piece {
    Own(Vec<u8>),
    Shared(Frame),
    /// Descriptors go with the first byte.
    WithFds(Vec<u8>, Vec<OwnedFd>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) | Self::WithFds(bytes, _) => bytes,
            Self::Shared(frame) => frame,
        }
    }
}

/// Makes a link: this process's end, and the descriptor for the other.
pub(in crate::engine) fn pair() -> io::Result<(Link, OwnedFd)> {
    let (here, there) = streams()?;
    Ok((Link::new(here)?, there.into()))
}

/// Makes a link between two threads of this process.
pub(in crate::engine) fn pair_within() -> io::Result<(Link, Link)> {
    let (here, there) = streams()?;
    Ok((Link::new(here)?, Link::new(there)?))
}

fn streams() -> io::Result<(UnixStream, UnixStream)> {
    let (here, there) = UnixStream::pair()?;
    enlarge_buffers(&here);
    enlarge_buffers(&there);
    Ok((here, there))
}

/// Fewer, larger steps for large arrays. Small buffers are no error.
fn enlarge_buffers(stream: &UnixStream) {
    use nix::sys::socket::{setsockopt, sockopt};
    const SIZE: usize = 1 << 20;
    let _ = setsockopt(stream, sockopt::SndBuf, &SIZE);
    let _ = setsockopt(stream, sockopt::RcvBuf, &SIZE);
}

impl Link {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            outgoing: VecDeque::new(),
            written: 0,
        })
    }

    pub(in crate::engine) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Nothing more will be sent: the other side reads what was, and then the end. What cannot be told is no loss: it
    /// is gone.
    pub(in crate::engine) fn finish(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Another descriptor of the same socket, to wait with.
    pub(in crate::engine) fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.stream.try_clone()?.into())
    }

    /// Queues a message; [`Self::flush`] writes it.
    pub(in crate::engine) fn send(&mut self, tag: u32, frames: impl IntoIterator<Item = Frame>) {
        let frames: Vec<Frame> = frames.into_iter().collect();
        let head = head(tag, frames.iter().map(|frame| frame.len()));
        self.outgoing.push_back(Piece::Own(head));
        self.outgoing.extend(
            frames
                .into_iter()
                .filter(|frame| !frame.is_empty())
                .map(Piece::Shared),
        );
    }

    /// Queues a message together with descriptors, which are closed here once they are sent.
    pub(in crate::engine) fn send_with_fds(&mut self, tag: u32, frame: &[u8], fds: Vec<OwnedFd>) {
        let mut message = head(tag, [frame.len()]);
        message.extend_from_slice(frame);
        self.outgoing.push_back(Piece::WithFds(message, fds));
    }

    /// Writes what the other side takes now. `true` when nothing is left.
    pub(in crate::engine) fn flush(&mut self) -> io::Result<bool> {
        while let Some(first) = self.outgoing.front() {
            let written = match first {
                Piece::WithFds(bytes, fds) if self.written == 0 => {
                    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
                    descriptors::send(&self.stream, bytes, &fds)
                }
                _ => (&self.stream).write_vectored(&self.next_slices()),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody will read it; `receive` tells of the end, and how the process ended says why.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.outgoing.clear();
                    self.written = 0;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// What can be written at once: up to the next piece that descriptors go with.
    fn next_slices(&self) -> Vec<IoSlice<'_>> {
        let first = self.outgoing.front().map(|it| &it.bytes()[self.written..]);
        let others = self.outgoing.iter().skip(1);
        let others = others.take_while(|it| !matches!(it, Piece::WithFds(..)));
        let slices = first.into_iter().chain(others.map(Piece::bytes));
        slices.take(PIECES).map(IoSlice::new).collect()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.outgoing.front() {
            let left = piece.bytes().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.outgoing.pop_front();
        }
    }

    pub(in crate::engine) fn has_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// The next whole message, if it is there.
    pub(in crate::engine) fn receive(&mut self) -> io::Result<Received> {
        loop {
            if let Some(message) = self.decoder.next()? {
                return Ok(Received::Message(message));
            }
            match self.decoder.read_from(&mut self.stream) {
                Ok(0) => return Ok(Received::Closed),
                Ok(_) => {}
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(Received::Nothing),
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Ok(Received::Closed),
                    _ => return Err(error),
                },
            }
        }
    }
}

/// What comes before a message's frames.
fn head(
    tag: u32,
    lengths: impl IntoIterator<Item = usize, IntoIter: ExactSizeIterator>,
) -> Vec<u8> {
    let lengths = lengths.into_iter();
    let count = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
    let mut head = Vec::with_capacity(8 + 8 * lengths.len());
    head.extend_from_slice(&tag.to_le_bytes());
    head.extend_from_slice(&count.to_le_bytes());
    for length in lengths {
        head.extend_from_slice(&(length as u64).to_le_bytes());
    }
    head
}

/// Puts messages together from what is read.
#[derive(Debug, Default)]
struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are used up.
    start: usize,
    partial: Option<Partial>,
    /// That have come along and belong to frames which are still to come.
    fds: VecDeque<OwnedFd>,
}

/// The messages that bytes are, up to the first that is not one.
#[cfg(any(test, fuzzing))]
pub(in crate::engine) fn messages_of(bytes: &[u8]) -> Vec<LinkMessage> {
    let mut decoder = Decoder {
        buffer: bytes.to_vec(),
        ..Decoder::default()
    };
    std::iter::from_fn(|| decoder.next().ok().flatten()).collect()
}

#[derive(Debug)]
struct Partial {
    tag: u32,
    lengths: Vec<Length>,
    frames: Vec<LinkFrame>,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Follows(usize),
    InMemory(usize),
}

impl Length {
    fn read(bytes: [u8; 8]) -> io::Result<Self> {
        let number = u64::from_le_bytes(bytes);
        let length = usize::try_from(number & !IN_MEMORY)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        Ok(match number & IN_MEMORY {
            0 => Self::Follows(length),
            _ => Self::InMemory(length),
        })
    }
}

impl Partial {
    /// The frame under way, and how many bytes it still lacks.
    fn under_way(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let length = *self.lengths.get(self.frames.len().checked_sub(1)?)?;
        let (Length::Follows(length), LinkFrame::Bytes(frame)) = (length, self.frames.last_mut()?)
        else {
            return None;
        };
        let missing = length - frame.len();
        (missing > 0).then_some((frame, missing))
    }
}

impl Decoder {
    /// Reads once. Large frames are read to where they stay.
    fn read_from(&mut self, stream: &mut UnixStream) -> io::Result<usize> {
        if self.start == self.buffer.len()
            && let Some(partial) = &mut self.partial
            && let Some((frame, missing)) = partial.under_way()
            && missing >= CHUNK
        {
            let before = frame.len();
            // Reads into spare capacity, which need not be zeroed first; a partial read ends in WouldBlock.
            let result = stream.take(missing as u64).read_to_end(frame);
            let count = frame.len() - before;
            return match result {
                Err(error) if count == 0 => Err(error),
                _ => Ok(count),
            };
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + CHUNK, 0);
        let result = descriptors::receive(&*stream, &mut self.buffer[filled..], &mut self.fds);
        self.buffer
            .truncate(filled + *result.as_ref().unwrap_or(&0));
        if self.fds.len() > UNCLAIMED {
            return Err(io::Error::other("more comes along than is spoken of"));
        }
        result
    }

    fn next(&mut self) -> io::Result<Option<LinkMessage>> {
        if self.partial.is_none() && !self.begin()? {
            return Ok(None);
        }
        let Some(partial) = &mut self.partial else {
            return Ok(None);
        };
        loop {
            if let Some((frame, missing)) = partial.under_way() {
                let available = &self.buffer[self.start..];
                let taken = missing.min(available.len());
                frame.extend_from_slice(&available[..taken]);
                self.start += taken;
                if taken < missing {
                    return Ok(None);
                }
            }
            match partial.lengths.get(partial.frames.len()) {
                Some(Length::Follows(length)) => {
                    let room = room_for((*length).min(RESERVE));
                    partial.frames.push(LinkFrame::Bytes(room));
                }
                Some(Length::InMemory(length)) => {
                    let none = || io::Error::other("a frame's memory did not come along");
                    let file = self.fds.pop_front().ok_or_else(none)?;
                    let memory = SharedMemory::received(file, *length)?;
                    partial.frames.push(LinkFrame::Memory(memory));
                }
                None => break,
            }
        }
        Ok(self.partial.take().map(|partial| LinkMessage {
            tag: partial.tag,
            frames: partial.frames,
        }))
    }

    /// Reads a message's head, if it is there as a whole.
    fn begin(&mut self) -> io::Result<bool> {
        let available = &self.buffer[self.start..];
        let Some((head, rest)) = available.split_first_chunk::<8>() else {
            return Ok(false);
        };
        let (tag, count) = head.split_at(4);
        let tag = u32::from_le_bytes(tag.try_into().expect("four of eight bytes"));
        let count = u32::from_le_bytes(count.try_into().expect("four of eight bytes"));
        if count > MAX_FRAMES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a message of {count} frames"),
            ));
        }
        let Some(lengths) = rest.get(..8 * count as usize) else {
            return Ok(false);
        };
        let lengths = lengths
            .chunks_exact(8)
            .map(|length| Length::read(length.try_into().expect("chunks of eight")))
            .collect::<io::Result<Vec<Length>>>()?;
        self.start += 8 + 8 * count as usize;
        self.partial = Some(Partial {
            tag,
            lengths,
            frames: Vec::with_capacity(count as usize),
        });
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(link: &mut Link) -> LinkMessage {
        loop {
            match link.receive().unwrap() {
                Received::Message(message) => return message,
                Received::Nothing => std::thread::yield_now(),
                Received::Closed => panic!("closed"),
            }
        }
    }

    fn bytes_of(message: &LinkMessage) -> Vec<&[u8]> {
        message.frames.iter().map(AsRef::as_ref).collect()
    }

    fn linked() -> (Link, Link) {
        let (one, fd) = pair().unwrap();
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(true).unwrap();
        (
            one,
            Link {
                stream,
                decoder: Decoder::default(),
                outgoing: VecDeque::new(),
                written: 0,
            },
        )
    }

    #[test]
    fn messages_of_any_shape_arrive_whole_and_in_order() {
        let (mut one, mut two) = linked();
        let sizes: [&[usize]; 6] = [
            &[],
            &[0],
            &[1, 0, 5],
            &[CHUNK + 1, 3],
            &[5 << 20],
            &[7; 200],
        ];
        let writer = std::thread::spawn(move || {
            for (tag, sizes) in sizes.iter().enumerate() {
                one.send(
                    tag as u32,
                    sizes.iter().map(|size| Frame::from(vec![tag as u8; *size])),
                );
            }
            while !one.flush().unwrap() {
                std::thread::yield_now();
            }
            assert!(!one.has_unsent());
        });
        for (tag, sizes) in sizes.iter().enumerate() {
            let got = message(&mut two);
            assert_eq!(got.tag, tag as u32);
            assert_eq!(
                bytes_of(&got)
                    .iter()
                    .map(|frame| frame.len())
                    .collect::<Vec<_>>(),
                *sizes
            );
            assert!(
                bytes_of(&got)
                    .iter()
                    .copied()
                    .flatten()
                    .all(|byte| *byte == tag as u8)
            );
        }
        writer.join().unwrap();
        assert!(matches!(two.receive().unwrap(), Received::Closed));
    }

    #[test]
    fn nonsense_is_an_error_and_not_an_allocation() {
        let (mut one, mut two) = linked();
        one.outgoing.push_back(Piece::Own(vec![0xff; 64]));
        one.flush().unwrap();
        assert!(two.receive().is_err());
    }

    /// Reads everything that is there, with the descriptors that come along.
    fn read_all(stream: &UnixStream, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = descriptors::receive(stream, &mut buffer, fds) {
            bytes.extend_from_slice(&buffer[..count]);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn frames_in_memory_come_in_their_places_and_what_is_no_memory_is_an_error() {
        let memory = SharedMemory::holding(&[7; 3_000_000]).unwrap();
        let fd = || memory.fd().try_clone_to_owned().unwrap();
        let message = |lengths: &[u64], rest: &[u8]| {
            let mut bytes = 103u32.to_le_bytes().to_vec();
            bytes.extend_from_slice(&(lengths.len() as u32).to_le_bytes());
            bytes.extend(lengths.iter().flat_map(|length| length.to_le_bytes()));
            bytes.extend_from_slice(rest);
            bytes
        };
        let send = |bytes: Vec<u8>, fds: Vec<OwnedFd>| {
            let (mut one, mut two) = linked();
            one.outgoing.push_back(Piece::WithFds(bytes, fds));
            assert!(one.flush().unwrap());
            two.receive()
        };
        let lengths = [2, IN_MEMORY | 3_000_000, 1, IN_MEMORY | 5];
        let got = send(message(&lengths, b"abc"), vec![fd(), fd()]).unwrap();
        let Received::Message(got) = got else {
            panic!("{got:?}");
        };
        assert_eq!(bytes_of(&got), [&b"ab"[..], &[7; 3_000_000], b"c", &[7; 5]]);
        assert!(send(message(&[IN_MEMORY | 5], b""), Vec::new()).is_err());
        assert!(send(message(&[IN_MEMORY | 3_000_001], b""), vec![fd()]).is_err());
        let (socket, _) = UnixStream::pair().unwrap();
        assert!(send(message(&[IN_MEMORY | 5], b""), vec![socket.into()]).is_err());
    }

    #[test]
    fn descriptors_that_nobody_speaks_of_are_an_error_before_they_are_many() {
        let (mut one, mut two) = linked();
        let (end, _other) = UnixStream::pair().unwrap();
        for _ in 0..4 {
            let fds = (0..descriptors::MOST).map(|_| end.try_clone().unwrap().into());
            one.outgoing
                .push_back(Piece::WithFds(vec![0], fds.collect()));
        }
        one.flush().unwrap();
        assert!(two.receive().is_err());
        assert!(two.decoder.fds.len() <= 3 * descriptors::MOST);
    }

    #[test]
    fn messages_with_descriptors_wait_until_there_is_room_and_come_in_order() {
        let (mut one, two) = linked();
        let large = vec![1; 5 << 20];
        one.send(1, [Frame::from(large.clone())]);
        assert!(!one.flush().unwrap(), "more than a socket takes");
        let (end, _other) = UnixStream::pair().unwrap();
        for tag in 2..5 {
            one.send_with_fds(tag, b"fork", vec![end.try_clone().unwrap().into()]);
            one.flush().unwrap();
            one.send(tag, [Frame::from(&b"then"[..])]);
        }
        let (mut bytes, mut fds) = (Vec::new(), VecDeque::new());
        while !one.flush().unwrap() {
            read_all(&two.stream, &mut bytes, &mut fds);
        }
        read_all(&two.stream, &mut bytes, &mut fds);
        assert_eq!(fds.len(), 3);
        let mut decoder = Decoder {
            buffer: bytes,
            ..Decoder::default()
        };
        let got: Vec<LinkMessage> = std::iter::from_fn(|| decoder.next().unwrap()).collect();
        let tags: Vec<u32> = got.iter().map(|message| message.tag).collect();
        assert_eq!(tags, [1, 2, 2, 3, 3, 4, 4]);
        assert_eq!(bytes_of(&got[0]), [large]);
        for pair in got[1..].chunks(2) {
            assert_eq!(bytes_of(&pair[0]), [b"fork"]);
            assert_eq!(bytes_of(&pair[1]), [b"then"]);
        }
    }
}
