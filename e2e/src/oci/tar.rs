//! A writer of tar archives in the ustar format (POSIX.1-1988), without times and names of users: the same entries make the
//! same bytes. Part of `oci`.

use std::io::{Read, Write};

use anyhow::{Context, Result, bail, ensure};

const BLOCK: usize = 512;

/// An archive that is being written.
pub(super) struct Tar<W> {
    out: W,
}

impl<W: Write> Tar<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out }
    }

    pub(super) fn directory(&mut self, path: &str, mode: u32, owner: (u32, u32)) -> Result<()> {
        self.header(&format!("{path}/"), mode, owner, 0, b'5', "")
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.header(path, 0o777, (0, 0), 0, b'2', target)
    }

    pub(super) fn bytes(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.file(path, mode, content.len() as u64, &mut &*content)
    }

    /// `size` bytes of `content` as a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, size: u64, content: &mut dyn Read) -> Result<()> {
        self.header(path, mode, (0, 0), size, b'0', "")?;
        let copied = std::io::copy(&mut content.take(size), &mut self.out)?;
        ensure!(copied == size, "{path} became shorter while it was read");
        let rest = usize::try_from(size % BLOCK as u64)?;
        if rest > 0 {
            self.out.write_all(&vec![0; BLOCK - rest])?;
        }
        Ok(())
    }

    /// Writes the end of the archive; gives what it was written to.
    pub(super) fn finish(mut self) -> Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn header(&mut self, path: &str, mode: u32, owner: (u32, u32), size: u64, kind: u8, link: &str) -> Result<()> {
        let (prefix, name) = split(path)?;
        ensure!(link.len() <= 100, "the target of a link is too long: {link}");
        let mut block = Vec::with_capacity(BLOCK);
        field(&mut block, name.as_bytes(), 100);
        field(&mut block, octal(u64::from(mode), 7)?.as_bytes(), 8);
        field(&mut block, octal(u64::from(owner.0), 7)?.as_bytes(), 8);
        field(&mut block, octal(u64::from(owner.1), 7)?.as_bytes(), 8);
        field(&mut block, octal(size, 11)?.as_bytes(), 12);
        field(&mut block, octal(0, 11)?.as_bytes(), 12);
        // The sum is taken with blanks in its own place.
        field(&mut block, b"        ", 8);
        field(&mut block, &[kind], 1);
        field(&mut block, link.as_bytes(), 100);
        field(&mut block, b"ustar\x0000", 8);
        field(&mut block, b"", 64);
        field(&mut block, octal(0, 7)?.as_bytes(), 8);
        field(&mut block, octal(0, 7)?.as_bytes(), 8);
        field(&mut block, prefix.as_bytes(), 155);
        block.resize(BLOCK, 0);
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        let place = block.get_mut(148..155).context("a header has its sum at 148")?;
        place.copy_from_slice(format!("{}\0", octal(sum, 6)?).as_bytes());
        self.out.write_all(&block)?;
        Ok(())
    }
}

/// Adds a field of `width` bytes, filled up with zeros.
fn field(block: &mut Vec<u8>, value: &[u8], width: usize) {
    let end = block.len() + width;
    block.extend(value.iter().take(width));
    block.resize(end, 0);
}

fn octal(value: u64, digits: usize) -> Result<String> {
    let text = format!("{value:0digits$o}");
    ensure!(text.len() <= digits, "{value} is too big for a tar archive");
    Ok(text)
}

/// A path as prefix and name, as ustar wants it.
fn split(path: &str) -> Result<(&str, &str)> {
    if path.len() <= 100 {
        return Ok(("", path));
    }
    for (at, _) in path.match_indices('/') {
        let (prefix, name) = (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default());
        if prefix.len() <= 155 && !name.is_empty() && name.len() <= 100 {
            return Ok((prefix, name));
        }
    }
    bail!("a path is too long for a tar archive: {path}")
}
