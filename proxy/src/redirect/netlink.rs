//! Netlink's own form: messages and attributes, written and read. Floor 0 of the module: imports nothing of it.
//!
//! Headers are in the machine's byte order, padded to four bytes (`linux/netlink.h`); numbers in netfilter's attributes are
//! big-endian (`linux/netfilter/nfnetlink.h`).

/// The message is a request.
pub const REQUEST: u16 = 0x1;
/// It is answered, by 0 or an error.
pub const ACK: u16 = 0x4;
/// All objects are asked for.
pub const DUMP: u16 = 0x300;
/// What is not there is made.
pub const CREATE: u16 = 0x400;
/// Comes after what is there.
pub const APPEND: u16 = 0x800;
/// In an answer: what was listed changed meanwhile.
pub const INTERRUPTED: u16 = 0x10;

/// Kind of a message: an error, or an acknowledgement where the error is 0.
pub const ERROR: u16 = 2;
/// Kind of a message: the last of several.
pub const DONE: u16 = 3;

/// In an error: only the header of the refused message follows it.
const CAPPED: u16 = 0x100;
/// In an error: attributes tell more.
const HAS_ATTRIBUTES: u16 = 0x200;
/// Of those attributes: a sentence.
const SAID: u16 = 1;

/// Bytes of a message's header.
const HEADER: usize = 16;
/// Bytes of netfilter's own header after it.
const FAMILY_HEADER: usize = 4;
/// An attribute has attributes in it.
const NESTED: u16 = 0x8000;
/// What in an attribute's kind is not the kind.
const KIND_FLAGS: u16 = 0xC000;

/// Netfilter's header of a message, and the kind of it.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Subsystem and kind.
    pub kind: u16,
    /// Flags beside [`REQUEST`].
    pub flags: u16,
    /// By what the answer is known.
    pub sequence: u32,
    /// Protocol family.
    pub family: u8,
    /// Subsystem that a batch is for; 0 elsewhere.
    pub resource: u16,
}

/// Writes a message to the end of `out`.
pub fn message(out: &mut Vec<u8>, head: Head, write: impl FnOnce(&mut Attributes<'_>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&head.kind.to_ne_bytes());
    out.extend_from_slice(&(head.flags | REQUEST).to_ne_bytes());
    out.extend_from_slice(&head.sequence.to_ne_bytes());
    // The port of the sender: the kernel knows it.
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[head.family, 0]);
    out.extend_from_slice(&head.resource.to_be_bytes());
    write(&mut Attributes(out));
    let length = u32::try_from(out.len() - start).unwrap_or(u32::MAX).to_ne_bytes();
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length);
    }
}

/// Writes attributes.
#[derive(Debug)]
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// One with bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.with(kind, |out| out.extend_from_slice(value));
    }

    /// One with a number.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// One with a text.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.with(kind, |out| {
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        });
    }

    /// One with attributes.
    pub fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Attributes<'_>)) {
        self.with(kind | NESTED, |out| write(&mut Attributes(out)));
    }

    fn with(&mut self, kind: u16, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        write(self.0);
        // One that is too long for its length field is refused by the kernel: nothing here writes one.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX).to_ne_bytes();
        if let Some(field) = self.0.get_mut(start..start + 2) {
            field.copy_from_slice(&length);
        }
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A message that came.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Subsystem and kind, or [`ERROR`], [`DONE`].
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// That of the request.
    pub sequence: u32,
    body: &'a [u8],
}

/// The messages in what came. What cannot be read ends it.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
        let kind = u16::from_ne_bytes(array(bytes, 4)?);
        let flags = u16::from_ne_bytes(array(bytes, 6)?);
        let sequence = u32::from_ne_bytes(array(bytes, 8)?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Received { kind, flags, sequence, body })
    })
}

impl<'a> Received<'a> {
    /// The attributes of an object of netfilter's.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.body.get(FAMILY_HEADER..).unwrap_or_default())
    }

    /// The protocol family of an object of netfilter's.
    #[must_use]
    pub fn family(&self) -> Option<u8> {
        self.body.first().copied()
    }

    /// The number of an [`ERROR`], 0 for none, and the sentence that the kernel says about it. `None`: it cannot be read.
    #[must_use]
    pub fn error(&self) -> Option<(i32, Option<String>)> {
        let number = i32::from_ne_bytes(array(self.body, 0)?).checked_neg()?;
        let refused = usize::try_from(u32::from_ne_bytes(array(self.body, 4)?)).ok()?;
        let echo = if self.flags & CAPPED != 0 { HEADER } else { refused.next_multiple_of(4) };
        let more = self.body.get(4 + echo..).filter(|_| self.flags & HAS_ATTRIBUTES != 0).unwrap_or_default();
        let said = attributes(more).find(|attribute| attribute.kind == SAID).and_then(Attribute::text);
        Some((number, said.map(str::to_owned)))
    }
}

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attribute<'a> {
    /// What it is, in the list that it stands in.
    pub kind: u16,
    /// What it says.
    pub value: &'a [u8],
}

/// The attributes in `bytes`. What cannot be read ends it.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let kind = u16::from_ne_bytes(array(bytes, 2)?) & !KIND_FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    })
}

impl<'a> Attribute<'a> {
    /// As a number.
    #[must_use]
    pub fn number(self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_be_bytes)
    }

    /// As a text.
    #[must_use]
    pub fn text(self) -> Option<&'a str> {
        std::str::from_utf8(self.value).ok().map(|text| text.trim_end_matches('\0'))
    }

    /// As attributes.
    pub fn nested(self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        attributes(self.value)
    }
}

/// The first of a kind.
pub fn find<'a>(mut list: impl Iterator<Item = Attribute<'a>>, kind: u16) -> Option<Attribute<'a>> {
    list.find(|attribute| attribute.kind == kind)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = vec![0xEE; 4];
        let head = Head { kind: 0xA06, flags: ACK, sequence: 7, family: 1, resource: 10 };
        message(&mut bytes, head, |list| {
            list.text(1, "mesh");
            list.nest(2, |list| list.number(1, 0xFFFF_FF9C));
            list.bytes(3, &[1, 2, 3]);
        });
        message(&mut bytes, Head { kind: 17, ..head }, |_| ());
        let read: Vec<Received<'_>> = messages(&bytes[4..]).collect();
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].kind, read[0].flags, read[0].sequence), (0xA06, ACK | REQUEST, 7));
        assert_eq!((read[0].family(), read[1].kind), (Some(1), 17));
        assert_eq!(find(read[0].attributes(), 1).unwrap().text(), Some("mesh"));
        let inner = find(read[0].attributes(), 2).unwrap();
        assert_eq!(find(inner.nested(), 1).unwrap().number(), Some(0xFFFF_FF9C));
        assert_eq!(find(read[0].attributes(), 3).unwrap().value, [1, 2, 3]);
        assert!(find(read[1].attributes(), 1).is_none());
    }

    #[test]
    fn an_error_tells_what_the_kernel_said() {
        let mut body = (-95_i32).to_ne_bytes().to_vec();
        body.extend(20_u32.to_ne_bytes());
        body.extend([0; 12]);
        let capped = body.clone();
        body.extend([0; 4]);
        let mut said = Vec::new();
        Attributes(&mut said).text(SAID, "no such thing");
        let error = |flags, head: &[u8]| {
            let body = [head, &said].concat();
            Received { kind: ERROR, flags, sequence: 1, body: &body }.error()
        };
        assert_eq!(error(HAS_ATTRIBUTES, &body), Some((95, Some("no such thing".into()))));
        assert_eq!(error(HAS_ATTRIBUTES | CAPPED, &capped), Some((95, Some("no such thing".into()))));
        assert_eq!(error(0, &body), Some((95, None)));
        assert_eq!(Received { kind: ERROR, flags: 0, sequence: 1, body: &[0; 3] }.error(), None);
    }

    proptest::proptest! {
        /// Nothing that comes breaks the reader, or keeps it for ever.
        #[test]
        fn anything_can_be_read(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..256)) {
            for message in messages(&bytes) {
                let _ = (message.error(), message.family());
                proptest::prop_assert!(message.attributes().count() <= bytes.len());
            }
        }
    }
}
