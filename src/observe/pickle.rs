//! Names in pickled functions, without unpickling: instructions are walked through, none is carried out.

use hashbrown::HashMap;

/// Texts that a pickle may remember, beyond which it is none that names a function.
const TEXTS: usize = 4_096;

/// The function that a pickle is of: the last value of `__name__` in the state of an object, as ipyparallel's
/// `CannedFunction` (`canning.py`) and cloudpickle have it, or what a mere reference to a module's function names.
pub(super) fn function_name(pickle: &[u8]) -> Option<&str> {
    let mut rest = pickle;
    let mut memo: HashMap<u32, &str> = HashMap::new();
    let mut memorized = 0;
    let mut last: Option<&str> = None;
    let mut name = None;
    let mut is_reference = false;
    let mut remembered_last = None;
    while let Some((instruction, behind)) = rest.split_first() {
        rest = behind;
        let mut text = None;
        match instruction {
            b'.' => break,
            // MEMOIZE: what stands on top of the stack, if it is a text.
            0x94 => {
                if let (Some(text), true) = (remembered_last.take(), memo.len() < TEXTS) {
                    memo.insert(memorized, text);
                }
                memorized += 1;
                continue;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => text = Some(take(&mut rest, 1)?),
            b'X' => text = Some(take(&mut rest, 4)?),
            0x8d => text = Some(take(&mut rest, 8)?),
            // BINGET, LONG_BINGET
            b'h' | b'j' => {
                let index = number(&mut rest, if *instruction == b'h' { 1 } else { 4 })?;
                let known = memo.get(&u32::try_from(index).ok()?).copied();
                if let Some(known) = known {
                    (name, last) = after(last, known, name);
                } else {
                    last = None;
                }
                is_reference = false;
                continue;
            }
            _ => skip(*instruction, &mut rest)?,
        }
        // STACK_GLOBAL: two texts before it, the second the name.
        is_reference = *instruction == 0x93;
        if let Some(text) = text {
            let text = std::str::from_utf8(text).ok()?;
            remembered_last = Some(text);
            (name, last) = after(last, text, name);
        } else if !is_reference {
            (last, remembered_last) = (None, None);
        } else {
            remembered_last = None;
        }
    }
    let name = if is_reference { name.or(last) } else { name };
    name.filter(|name| !name.is_empty())
}

/// The name that is known now, and the text that came last.
fn after<'a>(
    last: Option<&'a str>,
    text: &'a str,
    name: Option<&'a str>,
) -> (Option<&'a str>, Option<&'a str>) {
    match last {
        Some("__name__") => (Some(text), Some(text)),
        _ => (name, Some(text)),
    }
}

/// Jumps over the argument of an instruction; fails at one that is not known (Python `pickletools.opcodes`).
fn skip(instruction: u8, rest: &mut &[u8]) -> Option<()> {
    match instruction {
        // PROTO, BININT1, BINPUT, EXT1
        0x80 | b'K' | b'q' | 0x82 => number(rest, 1).map(drop),
        // BININT2
        b'M' => number(rest, 2).map(drop),
        // BININT, LONG_BINPUT
        b'J' | b'r' => number(rest, 4).map(drop),
        // BINFLOAT, FRAME
        b'G' | 0x95 => number(rest, 8).map(drop),
        // SHORT_BINBYTES, SHORT_BINSTRING, LONG1
        b'C' | b'U' | 0x8a => take(rest, 1).map(drop),
        // BINBYTES, BINSTRING, LONG4
        b'B' | b'T' | 0x8b => take(rest, 4).map(drop),
        // BINBYTES8, BYTEARRAY8
        0x8e | 0x96 => take(rest, 8).map(drop),
        // Lines of text, of protocols that nobody writes any more.
        b'c' | b'i' | b'I' | b'L' | b'F' | b'S' | b'V' | b'P' | b'g' | b'p' => None,
        _ => Some(()),
    }
}

/// A number of so many bytes, the lowest first.
fn number(rest: &mut &[u8], bytes: usize) -> Option<u64> {
    let (head, behind) = rest.split_at_checked(bytes)?;
    *rest = behind;
    Some(
        head.iter()
            .rev()
            .fold(0, |number, byte| (number << 8) | u64::from(*byte)),
    )
}

/// What stands behind its length, which has so many bytes.
fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest, length)?).ok()?;
    let (head, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `def work(x): return x`, canned by ipyparallel 9.2 under Python 3.11.
    const CANNED: &[u8] = b"\x80\x04\x95\x23\x01\0\0\0\0\0\0\x8c\x1dipyparallel.serialize.canning\x94\x8c\x0eCannedFunction\x94\x93\x94)\x81\x94}\x94(\x8c\x04code\x94\x8c\x1eipyparallel.serialize.codeutil\x94\x8c\tcode_ctor\x94\x93\x94(K\x01K\0K\0K\x01K\x01K\x03C\x06\x97\0|\0S\0\x94N\x85\x94)\x8c\x01x\x94\x85\x94\x8c\x10/tmp/webtry/p.py\x94\x8c\x04work\x94h\x0eK\x04C\x06\x80\0\x90A\x88X\x94C\0\x94))t\x94R\x94\x8c\x08defaults\x94N\x8c\nkwdefaults\x94N\x8c\x0bannotations\x94N\x8c\x07closure\x94N\x8c\x06module\x94\x8c\x08__main__\x94\x8c\x08__name__\x94h\x0e\x8c\x07buffers\x94]\x94ub.";

    #[test]
    fn a_function_is_named() {
        assert_eq!(function_name(CANNED), Some("work"));
        assert_eq!(
            function_name(
                b"\x80\x04\x95\x11\0\0\0\0\0\0\0\x8c\x04math\x94\x8c\x04sqrt\x94\x93\x94."
            ),
            Some("sqrt")
        );
        for nameless in [
            &b""[..],
            b"\x80\x04]\x94K\x01a.",
            b"\x80\x04\x8c\x05hello\x94.",
            b"\x8c\xff",
            b"cmath\nsqrt\n.",
            &CANNED[..100],
        ] {
            assert_eq!(function_name(nameless), None, "{nameless:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_from_outside_does_harm(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..CANNED.len()) {
            function_name(&bytes);
            let mut changed = CANNED.to_vec();
            changed.splice(at..at, bytes.into_iter().take(3));
            function_name(&changed);
        }
    }
}
