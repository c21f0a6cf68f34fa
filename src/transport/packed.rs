//! Messages that have to wait.

use super::Frame;

/// Frames from this size on are kept as they are; smaller ones are copied together.
const KEEP_FROM: usize = 4 * 1024;

/// A multipart message in as little memory as it needs, and the id that is somewhere in it.
///
/// A received frame costs 40 bytes, and pins what its message lies in. What waits in a queue of a million tasks is therefore
/// copied into one allocation; only large frames stay where they are.
#[derive(Debug)]
pub struct Packed {
    /// Where the id is and how long it is, as `u32`; the number of frames and the length of each, as variable-length
    /// numbers; the bytes of the small frames; the id, if it is not among them.
    block: Box<[u8]>,
    large: Option<Box<Large>>,
}

/// Behind a pointer of one word, since most messages have none.
#[derive(Debug)]
struct Large(Vec<Frame>);

const ID_PLACE: usize = 2 * size_of::<u32>();

impl Packed {
    /// `header` is the number of the frame in which the id is to be looked for.
    pub fn new(frames: &[Frame], header: usize, id: &str) -> Self {
        let is_small = |frame: &&Frame| frame.len() < KEEP_FROM;
        let small: usize = frames.iter().filter(is_small).map(|f| f.len()).sum();
        // Lengths that take more than two bytes are those of frames that are not copied.
        let mut block = Vec::with_capacity(ID_PLACE + 5 + 2 * frames.len() + small);
        block.extend_from_slice(&[0; ID_PLACE]);
        put_number(&mut block, frames.len());
        for frame in frames {
            put_number(&mut block, frame.len());
        }
        let mut place = None;
        for (number, frame) in frames.iter().enumerate() {
            if !is_small(&frame) {
                continue;
            }
            if number == header {
                let offset = frame
                    .windows(id.len().max(1))
                    .position(|part| part == id.as_bytes());
                place = offset.map(|offset| block.len() + offset);
            }
            block.extend_from_slice(frame);
        }
        let place = place.unwrap_or_else(|| {
            block.extend_from_slice(id.as_bytes());
            block.len() - id.len()
        });
        let fits =
            |number: usize| u32::try_from(number).expect("a frame's copy is smaller than 4 GB");
        block[..4].copy_from_slice(&fits(place).to_le_bytes());
        block[4..ID_PLACE].copy_from_slice(&fits(id.len()).to_le_bytes());
        let large: Vec<_> = frames
            .iter()
            .filter(|frame| !is_small(frame))
            .cloned()
            .collect();
        Self {
            block: block.into_boxed_slice(),
            large: (!large.is_empty()).then(|| Box::new(Large(large))),
        }
    }

    pub fn id(&self) -> &str {
        let number = |at: usize| {
            let bytes = self.block[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(bytes) as usize
        };
        let (place, len) = (number(0), number(4));
        std::str::from_utf8(&self.block[place..place + len])
            .expect("it was text when it was put there")
    }

    /// The frames again, appended to `out`.
    pub fn unpack_into(&self, out: &mut Vec<Frame>) {
        let mut lengths = &self.block[ID_PLACE..];
        let count = take_number(&mut lengths);
        let mut small = lengths;
        (0..count).for_each(|_| {
            take_number(&mut small);
        });
        let mut large = self.large.iter().flat_map(|large| &large.0);
        for _ in 0..count {
            let length = take_number(&mut lengths);
            if length < KEEP_FROM {
                let (frame, rest) = small.split_at(length);
                small = rest;
                out.push(Frame::from(frame));
            } else {
                out.push(
                    large
                        .next()
                        .expect("as many large frames as large lengths")
                        .clone(),
                );
            }
        }
    }
}

/// Seven bits a byte, the lowest first; the eighth bit says that more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_number(bytes: &mut &[u8]) -> usize {
    let (mut number, mut shift) = (0, 0);
    while let Some((first, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= usize::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            break;
        }
        shift += 7;
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_in_order() {
        let sizes = [
            0,
            5,
            127,
            128,
            KEEP_FROM,
            1,
            KEEP_FROM - 1,
            10 * KEEP_FROM,
            1 << 21,
            0,
        ];
        let frames: Vec<Frame> = sizes
            .iter()
            .map(|size| Frame::from(&vec![*size as u8; *size][..]))
            .collect();
        let mut out = Vec::new();
        Packed::new(&frames, 0, "id").unpack_into(&mut out);
        assert_eq!(out.len(), frames.len());
        for (before, after) in frames.iter().zip(&out) {
            assert_eq!(before[..], after[..]);
        }
    }

    #[test]
    fn the_id_is_known_whether_or_not_it_is_in_the_header_as_it_is() {
        let header = |json: String| [Frame::from(&b"client"[..]), Frame::from(json.as_bytes())];
        let plain = header(r#"{"msg_id": "a_1"}"#.to_owned());
        let escaped = header(r#"{"msg_id": "a\u005f1"}"#.to_owned());
        let long = header(format!(
            r#"{{"msg_id": "a_1", "x": "{}"}}"#,
            "x".repeat(KEEP_FROM)
        ));
        for frames in [plain, escaped, long] {
            let packed = Packed::new(&frames, 1, "a_1");
            assert_eq!(packed.id(), "a_1");
            let mut out = Vec::new();
            packed.unpack_into(&mut out);
            assert_eq!(out[1][..], frames[1][..]);
        }
        assert_eq!(Packed::new(&[], 1, "").id(), "");
    }

    #[test]
    fn a_message_of_small_frames_is_one_allocation_with_little_around_them() {
        let sizes = [36, 9, 64, 240, 2, 95, 2, 100];
        let frames: Vec<Frame> = sizes
            .iter()
            .map(|size| Frame::from(&vec![b'x'; *size][..]))
            .collect();
        let packed = Packed::new(&frames, 3, "xxx");
        let contents: usize = sizes.iter().sum();
        assert!(size_of::<Packed>() + packed.block.len() - contents <= 24 + 20);
    }
}
