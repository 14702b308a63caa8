//! Reads as much of Thrift's compact protocol as is needed to check what a Parquet file states of itself, before the parquet
//! crate reserves memory for it.
//!
//! What holds: the crate reads a known field by the type that the format gives to it, whatever type the file states. Here
//! such a field is an error, as is all that the crate might read in another way, so that both read the same.

use anyhow::{Result, bail, ensure};

/// The types of fields, as they are encoded.
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// How deep values may be within each other in fields that are skipped; the crate has the same limit.
const SKIP_DEPTH: u32 = 64;

/// The type that the format gives to a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Flag,
    Byte,
    Int32,
    Int64,
    Bytes,
    /// A structure, or a union, with the shapes of its fields by their ids. Others are skipped.
    Fields(&'static [(i16, Shape)]),
}

impl Shape {
    fn fits(self, encoded: u8) -> bool {
        match self {
            Self::Flag => matches!(encoded, TRUE | FALSE),
            Self::Byte => encoded == BYTE,
            Self::Int32 => encoded == I32,
            Self::Int64 => encoded == I64,
            Self::Bytes => encoded == BINARY,
            Self::Fields(_) => encoded == STRUCT,
        }
    }
}

/// An integer of a structure: the ids of the fields that lead to it, and its value.
pub(super) type FieldValue<'a> = (&'a [i16], i64);

/// Reads from bytes.
pub(super) struct ThriftReader<'a> {
    rest: &'a [u8],
}

impl<'a> ThriftReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The number of bytes that are not read yet.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Reads the head of a field whose id must be this one, and whose shape this one.
    pub(super) fn expect_field(&mut self, last_id: i16, id: i16, shape: Shape) -> Result<()> {
        let is_expected = self.field(last_id)?.is_some_and(|(found, encoded)| found == id && shape.fits(encoded));
        ensure!(is_expected, "its metadata has no field {id} where it belongs");
        Ok(())
    }

    /// Reads the head of a list of structures that is the field `id`; returns its length.
    pub(super) fn expect_list(&mut self, last_id: i16, id: i16) -> Result<usize> {
        ensure!(self.field(last_id)? == Some((id, LIST)), "its metadata has no list {id} where it belongs");
        let (encoded, length) = self.list()?;
        ensure!(encoded == STRUCT, "its metadata has a list of another type than the format");
        Ok(length)
    }

    pub(super) fn integer(&mut self) -> Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// Reads a structure of this shape, and reports its integers, and those of the structures within it.
    pub(super) fn structure(
        &mut self,
        shapes: &'static [(i16, Shape)],
        path: &mut Vec<i16>,
        report: &mut dyn FnMut(FieldValue<'_>),
    ) -> Result<()> {
        let mut last_id = 0;
        while let Some((id, encoded)) = self.field(last_id)? {
            last_id = id;
            let Some((_, shape)) = shapes.iter().find(|(known, _)| *known == id) else {
                self.skip(encoded, SKIP_DEPTH)?;
                continue;
            };
            ensure!(shape.fits(encoded), "its metadata has a field of another type than the format");
            path.push(id);
            match shape {
                Shape::Flag => {}
                Shape::Byte => drop(self.take(1)?),
                Shape::Int32 | Shape::Int64 => report((path, self.integer()?)),
                Shape::Bytes => self.skip(BINARY, 1)?,
                Shape::Fields(inner) => self.structure(inner, path, report)?,
            }
            path.pop();
        }
        Ok(())
    }

    /// Reads the head of a field: its id and its type; `None` at the end of the structure.
    fn field(&mut self, last_id: i16) -> Result<Option<(i16, u8)>> {
        let head = self.byte()?;
        let (delta, encoded) = (head >> 4, head & 0xf);
        if encoded == 0 {
            return Ok(None);
        }
        let id = match delta {
            0 => i16::try_from(self.integer()?).ok(),
            delta => last_id.checked_add(delta.into()),
        };
        match id {
            Some(id) if encoded <= UUID => Ok(Some((id, encoded))),
            _ => bail!("its metadata has a field that does not exist"),
        }
    }

    /// Reads the head of a list: the type of its elements, and their number.
    fn list(&mut self) -> Result<(u8, usize)> {
        let head = self.byte()?;
        let (length, encoded) = (head >> 4, head & 0xf);
        let length = if length == 15 { self.length()? } else { length.into() };
        Ok((encoded, length))
    }

    fn skip(&mut self, encoded: u8, depth: u32) -> Result<()> {
        ensure!(depth > 0, "its metadata is nested too deeply");
        match encoded {
            TRUE | FALSE => {}
            BYTE => drop(self.take(1)?),
            I16 | I32 | I64 => drop(self.unsigned()?),
            DOUBLE => drop(self.take(8)?),
            UUID => drop(self.take(16)?),
            BINARY => {
                let length = self.length()?;
                self.take(length)?;
            }
            LIST | SET => {
                let (element, length) = self.list()?;
                // Readers do not agree on how long a flag in a list is.
                ensure!(length == 0 || !matches!(element, TRUE | FALSE), "its metadata has a list of flags");
                for _ in 0..length {
                    self.skip(element, depth - 1)?;
                }
            }
            MAP => ensure!(self.length()? == 0, "its metadata has a map, which the format does not have"),
            STRUCT => {
                // The ids do not matter here.
                while let Some((_, inner)) = self.field(0)? {
                    self.skip(inner, depth - 1)?;
                }
            }
            _ => bail!("its metadata has a value of a type that does not exist"),
        }
        Ok(())
    }

    fn length(&mut self) -> Result<usize> {
        let length = usize::try_from(self.unsigned()?)?;
        // Each element takes a byte at least.
        ensure!(length <= self.rest.len(), "its metadata is cut off");
        Ok(length)
    }

    fn unsigned(&mut self) -> Result<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bail!("its metadata has a number that is too long")
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        ensure!(length <= self.rest.len(), "its metadata is cut off");
        let (taken, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(taken)
    }
}
