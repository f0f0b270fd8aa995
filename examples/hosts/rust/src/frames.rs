//! Frames, layout 2: one MessagePack map, a table, and buffers.

use crate::value::{scalars, Array, Opaque, Value};

pub const PREAMBLE: usize = 28;
const START: [u8; 8] = [0x93, b'S', b'O', b'M', b'A', 2, 0, 0];
const ENTRY: usize = 24;

const ARRAY: i8 = 1;
const TENSOR: i8 = 2;
const TUPLE: i8 = 3;
const TUPLES: i8 = 4;
const SCALAR: i8 = 5;
const SCALARS: i8 = 6;
const INT: i8 = 7;
const COMPLEX: i8 = 8;
const MAP: i8 = 9;
const TEXT: i8 = 10;
const BYTES: i8 = 11;
const STDLIB: i8 = 12;
const CODEC: i8 = 13;
const PICKLE: i8 = 14;
const RAGGED: i8 = 15;
const RECORDS: i8 = 16;
const STDLIBS: i8 = 17;
const PICKLES: i8 = 18;

type Result<T> = std::result::Result<T, String>;

/// The bytes of a frame up to its buffers, and the buffers that follow.
pub fn write_frame(message: &Value) -> (Vec<u8>, Vec<&[u8]>) {
    let mut packer = Packer { out: Vec::new(), buffers: Vec::new() };
    packer.pack(message);
    let Packer { out: map, buffers } = packer;
    let size = map.len() + buffers.iter().map(|b| ENTRY + b.len()).sum::<usize>();
    let mut head = START.to_vec();
    head.extend((map.len() as u32).to_le_bytes());
    head.extend((buffers.len() as u32).to_le_bytes());
    head.extend((size as u64).to_le_bytes());
    head.extend(crc32(&head).to_le_bytes());
    head.extend(map);
    for buffer in &buffers {
        head.extend([0; 16]); // kind 0: the bytes follow in the frame
        head.extend((buffer.len() as u64).to_le_bytes());
    }
    (head, buffers)
}

/// How long the map and the table are that follow a preamble.
pub fn read_preamble(preamble: &[u8; PREAMBLE]) -> Result<(usize, usize)> {
    if preamble[..8] != START || crc32(&preamble[..24]) != u32_at(preamble, 24) {
        return Err("what came is no frame of layout 2".into());
    }
    Ok((u32_at(preamble, 8) as usize, u32_at(preamble, 12) as usize * ENTRY))
}

/// The sizes of the buffers that follow a table; shared memory is not offered to who does not ask.
pub fn read_table(table: &[u8]) -> Vec<usize> {
    let inline = table.chunks_exact(ENTRY).filter(|entry| u32_at(entry, 0) == 0);
    inline.map(|entry| u64_at(entry, 16) as usize).collect()
}

/// The message of a map and its buffers, as in a golden vector.
pub fn read_map(map: &[u8], mut buffers: Vec<Vec<u8>>) -> Result<Value> {
    Unpacker { bytes: map, buffers: &mut buffers }.value()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| (c >> 1) ^ (0xEDB8_8320 & (c & 1).wrapping_neg()))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

struct Packer<'a> {
    out: Vec<u8>,
    buffers: Vec<&'a [u8]>,
}

impl<'a> Packer<'a> {
    fn pack(&mut self, value: &'a Value) {
        match value {
            Value::Nil => self.out.push(0xC0),
            Value::Bool(truth) => self.out.push(0xC2 + u8::from(*truth)),
            Value::Int(number) => self.int(*number),
            Value::BigInt(bytes) => self.ext(INT, bytes),
            Value::Float(number) => {
                self.out.push(0xCB);
                self.out.extend(number.to_be_bytes());
            }
            Value::Complex(re, im) => self.ext(COMPLEX, &[re.to_be_bytes(), im.to_be_bytes()].concat()),
            Value::Text(text) => {
                self.sized(text.len(), 0xA0, 32, [0xD9, 0xDA, 0xDB]);
                self.out.extend(text.as_bytes());
            }
            Value::Bytes(bytes) => {
                self.sized(bytes.len(), 0, 0, [0xC4, 0xC5, 0xC6]);
                self.out.extend(bytes);
            }
            Value::List(items) => self.list(items),
            Value::Map(entries) if entries.iter().all(|(key, _)| key.as_text().is_some()) => {
                self.sized(entries.len(), 0x80, 16, [0, 0xDE, 0xDF]);
                entries.iter().for_each(|(key, value)| {
                    self.pack(key);
                    self.pack(value);
                });
            }
            Value::Map(entries) => self.nested(MAP, |inner| {
                inner.out.push(0x92);
                inner.sized(entries.len(), 0x90, 16, [0, 0xDC, 0xDD]);
                entries.iter().for_each(|(key, _)| inner.pack(key));
                inner.sized(entries.len(), 0x90, 16, [0, 0xDC, 0xDD]);
                entries.iter().for_each(|(_, value)| inner.pack(value));
            }),
            Value::Array(array) => self.array(array),
            Value::Opaque(opaque) => self.opaque(opaque),
        }
    }

    fn list(&mut self, items: &'a [Value]) {
        self.sized(items.len(), 0x90, 16, [0, 0xDC, 0xDD]);
        items.iter().for_each(|item| self.pack(item));
    }

    fn array(&mut self, array: &'a Array) {
        self.nested(if array.torch { TENSOR } else { ARRAY }, |inner| {
            inner.out.push(0x93);
            inner.put_aside(&array.data);
            inner.text(&array.dtype);
            inner.sized(array.shape.len(), 0x90, 16, [0, 0xDC, 0xDD]);
            array.shape.iter().for_each(|&length| inner.int(length as i64));
        });
    }

    fn opaque(&mut self, opaque: &'a Opaque) {
        let Opaque { kind, head, buffers } = opaque;
        self.nested(*kind, |inner| {
            let listed = usize::from([PICKLE, PICKLES].contains(kind));
            let length = head.len() + listed + usize::from(*kind != STDLIB);
            inner.out.push(0x90 + length as u8);
            head.iter().for_each(|item| inner.pack(item));
            buffers[..listed].iter().for_each(|buffer| inner.put_aside(buffer));
            if *kind != STDLIB {
                inner.sized(buffers.len() - listed, 0x90, 16, [0, 0xDC, 0xDD]);
                buffers[listed..].iter().for_each(|buffer| inner.put_aside(buffer));
            }
        });
    }

    fn put_aside(&mut self, buffer: &'a [u8]) {
        self.int(self.buffers.len() as i64);
        self.buffers.push(buffer);
    }

    fn nested(&mut self, kind: i8, write: impl FnOnce(&mut Packer<'a>)) {
        let mut inner = Packer { out: Vec::new(), buffers: std::mem::take(&mut self.buffers) };
        write(&mut inner);
        self.buffers = inner.buffers;
        self.ext(kind, &inner.out);
    }

    fn ext(&mut self, kind: i8, data: &[u8]) {
        self.sized(data.len(), 0, 0, [0xC7, 0xC8, 0xC9]);
        self.out.push(kind as u8);
        self.out.extend(data);
    }

    fn text(&mut self, text: &str) {
        self.sized(text.len(), 0xA0, 32, [0xD9, 0xDA, 0xDB]);
        self.out.extend(text.as_bytes());
    }

    fn int(&mut self, number: i64) {
        if (-32..128).contains(&number) {
            self.out.push(number as u8);
        } else {
            self.out.push(0xD3);
            self.out.extend(number.to_be_bytes());
        }
    }

    /// The start of what has a length: in one byte if it is below `few`, else in 1, 2 or 4.
    fn sized(&mut self, length: usize, base: u8, few: usize, kinds: [u8; 3]) {
        if length < few {
            self.out.push(base + length as u8);
        } else if length < 1 << 8 && kinds[0] != 0 {
            self.out.extend([kinds[0], length as u8]);
        } else if length < 1 << 16 {
            self.out.push(kinds[1]);
            self.out.extend((length as u16).to_be_bytes());
        } else {
            self.out.push(kinds[2]);
            self.out.extend((length as u32).to_be_bytes());
        }
    }
}

struct Unpacker<'a, 'b> {
    bytes: &'a [u8],
    buffers: &'b mut [Vec<u8>],
}

impl<'a> Unpacker<'a, '_> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or("MessagePack is cut off")?;
        self.bytes = rest;
        Ok(taken)
    }

    fn number(&mut self, size: usize) -> Result<u64> {
        Ok(self.take(size)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn length(&mut self, size: usize) -> Result<usize> {
        Ok(self.number(size)? as usize)
    }

    fn value(&mut self) -> Result<Value> {
        let kind = self.take(1)?[0];
        Ok(match kind {
            0x00..=0x7F => Value::Int(i64::from(kind)),
            0x80..=0x8F => self.map(usize::from(kind & 15))?,
            0x90..=0x9F => self.list(usize::from(kind & 15))?,
            0xA0..=0xBF => self.text(usize::from(kind & 31))?,
            0xC0 => Value::Nil,
            0xC2 | 0xC3 => Value::Bool(kind == 0xC3),
            0xC4..=0xC6 => {
                let length = self.length(1 << (kind - 0xC4))?;
                Value::Bytes(self.take(length)?.to_vec())
            }
            0xC7..=0xC9 => {
                let length = self.length(1 << (kind - 0xC7))?;
                self.ext(length)?
            }
            0xCA => Value::Float(f64::from(f32::from_bits(self.number(4)? as u32))),
            0xCB => Value::Float(f64::from_bits(self.number(8)?)),
            0xCC..=0xCF => unsigned(self.number(1 << (kind - 0xCC))?),
            0xD0 => Value::Int(i64::from(self.number(1)? as i8)),
            0xD1 => Value::Int(i64::from(self.number(2)? as i16)),
            0xD2 => Value::Int(i64::from(self.number(4)? as i32)),
            0xD3 => Value::Int(self.number(8)? as i64),
            0xD4..=0xD8 => self.ext(1 << (kind - 0xD4))?,
            0xD9..=0xDB => {
                let length = self.length(1 << (kind - 0xD9))?;
                self.text(length)?
            }
            0xDC | 0xDD => {
                let length = self.length(2 << (kind - 0xDC))?;
                self.list(length)?
            }
            0xDE | 0xDF => {
                let length = self.length(2 << (kind - 0xDE))?;
                self.map(length)?
            }
            _ => Value::Int(i64::from(kind as i8)),
        })
    }

    fn list(&mut self, length: usize) -> Result<Value> {
        (0..length).map(|_| self.value()).collect::<Result<_>>().map(Value::List)
    }

    fn map(&mut self, length: usize) -> Result<Value> {
        let entries = (0..length).map(|_| Ok((self.value()?, self.value()?)));
        entries.collect::<Result<_>>().map(Value::Map)
    }

    fn text(&mut self, length: usize) -> Result<Value> {
        Ok(Value::Text(String::from_utf8_lossy(self.take(length)?).into_owned()))
    }

    /// A buffer, which is named once.
    fn buffer(&mut self, index: &Value) -> Result<Vec<u8>> {
        match index {
            Value::Int(index) => self.buffers.get_mut(*index as usize).map(std::mem::take),
            _ => None,
        }
        .ok_or_else(|| format!("there is no buffer {index:?}"))
    }

    fn ext(&mut self, length: usize) -> Result<Value> {
        let kind = self.take(1)?[0] as i8;
        let data = self.take(length)?;
        let mut inner = Unpacker { bytes: data, buffers: self.buffers };
        Ok(match kind {
            ARRAY | TENSOR => {
                let fields = inner.items()?;
                Value::Array(inner.array(fields, kind == TENSOR)?)
            }
            TUPLE => inner.value()?,
            TUPLES => Value::List(rows(inner.items()?)?),
            SCALAR => scalars(&inner.items()?)?.swap_remove(0),
            SCALARS => Value::List(scalars(&inner.items()?)?),
            INT => Value::BigInt(data.to_vec()),
            COMPLEX => Value::Complex(f64::from_bits(inner.number(8)?), f64::from_bits(inner.number(8)?)),
            MAP => Value::Map(rows(inner.items()?)?.into_iter().map(pair).collect::<Result<_>>()?),
            TEXT => inner.text(length)?,
            BYTES => {
                let index = inner.value()?;
                Value::Bytes(inner.buffer(list(index)?.first().unwrap_or(&Value::Nil))?)
            }
            STDLIB => Value::Opaque(Opaque { kind, head: inner.items()?, buffers: vec![] }),
            CODEC | PICKLE | PICKLES => {
                let mut head = inner.items()?;
                let mut indexes = list(head.pop().unwrap_or(Value::Nil))?;
                if kind != CODEC {
                    indexes.splice(0..0, head.pop());
                }
                let buffers = indexes.iter().map(|index| inner.buffer(index));
                Value::Opaque(Opaque { kind, head, buffers: buffers.collect::<Result<_>>()? })
            }
            RAGGED => Value::List(ragged(inner.items()?)?),
            RECORDS => {
                let mut columns = inner.items()?;
                let keys = list(columns.drain(..1).next().unwrap_or(Value::Nil))?;
                let record = |row| Ok(Value::Map(keys.iter().cloned().zip(list(row)?).collect()));
                Value::List(rows(columns)?.into_iter().map(record).collect::<Result<_>>()?)
            }
            STDLIBS => {
                let (name, contents) = pair(Value::List(inner.items()?))?;
                let head = |content| vec![name.clone(), content];
                let one = |item| Opaque { kind: STDLIB, head: head(item), buffers: vec![] };
                Value::List(list(contents)?.into_iter().map(one).map(Value::Opaque).collect())
            }
            _ => return Err(format!("there is no extension type {kind}")),
        })
    }

    fn items(&mut self) -> Result<Vec<Value>> {
        list(self.value()?)
    }

    fn array(&mut self, fields: Vec<Value>, torch: bool) -> Result<Array> {
        let [index, dtype, shape, more @ ..] = fields.as_slice() else {
            return Err("an array has a buffer, a dtype and a shape".into());
        };
        let dtype = dtype.as_text().unwrap_or("fields").to_owned();
        let array = Array { dtype, shape: lengths(shape)?, data: self.buffer(index)?, torch };
        Ok(match more {
            [Value::List(_)] => array.in_c_order(&lengths(&more[0])?),
            [options] if options.get("order") != &Value::Nil => {
                array.in_c_order(&lengths(options.get("order"))?)
            }
            _ => array,
        })
    }
}

fn unsigned(number: u64) -> Value {
    i64::try_from(number)
        .map_or_else(|_| Value::BigInt([&[0], &number.to_be_bytes()[..]].concat()), Value::Int)
}

fn list(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::List(items) => Ok(items),
        other => Err(format!("an array is expected, got {other:?}")),
    }
}

/// The tuples of a list that came by columns.
fn rows(columns: Vec<Value>) -> Result<Vec<Value>> {
    let mut columns =
        columns.into_iter().map(|column| Ok(list(column)?.into_iter())).collect::<Result<Vec<_>>>()?;
    let count = columns.first().map_or(0, |column| column.len());
    Ok((0..count).map(|_| Value::List(columns.iter_mut().filter_map(Iterator::next).collect())).collect())
}

/// The tuples of a list that have several lengths: the items of all came one after the other.
fn ragged(columns: Vec<Value>) -> Result<Vec<Value>> {
    let (counts, items) = pair(Value::List(columns))?;
    let mut items = list(items)?.into_iter();
    Ok(lengths(&counts)?.into_iter().map(|n| Value::List(items.by_ref().take(n).collect())).collect())
}

fn pair(item: Value) -> Result<(Value, Value)> {
    <[Value; 2]>::try_from(list(item)?)
        .map(|[key, value]| (key, value))
        .map_err(|_| "a pair is expected".into())
}

fn lengths(shape: &Value) -> Result<Vec<usize>> {
    list(shape.clone())?
        .iter()
        .map(|length| length.as_f64().map(|f| f as usize).ok_or("a length is a number".into()))
        .collect()
}
