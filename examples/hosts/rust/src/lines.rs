//! Lines: one JSON object for each message. What JSON has no form for is a tag.

use crate::map;
use crate::value::{Array, Value};
use std::fmt::Write;

type Result<T> = std::result::Result<T, String>;

/// A message as one line, without its end.
pub fn write_line(message: &Value) -> String {
    let mut out = String::new();
    write(message, &mut out);
    out
}

/// The message in a line.
pub fn read_line(line: &str) -> Result<Value> {
    let mut reader = Reader { rest: line.trim() };
    let value = reader.value()?;
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(format!("JSON ends before {:.40}", reader.rest))
    }
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Nil => out.push_str("null"),
        Value::Bool(truth) => _ = write!(out, "{truth}"),
        Value::Int(number) => _ = write!(out, "{number}"),
        Value::Float(number) if number.is_finite() => _ = write!(out, "{number:?}"),
        Value::Float(number) => {
            let name = format!("{number}").to_lowercase();
            write(&map! { "$soma" => "float", "value" => name.as_str() }, out);
        }
        Value::BigInt(bytes) => {
            let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
            write(&map! { "$soma" => "int", "value" => hex(bytes, negative).as_str() }, out);
        }
        Value::Text(text) => quote(text, out),
        Value::Bytes(bytes) => {
            write(&map! { "type" => "Bytes", "data" => map! { "b64" => base64(bytes).as_str() } }, out);
        }
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (index, (key, item)) in entries.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                quote(key.as_text().expect("the keys of JSON are text: use frames"), out);
                out.push(':');
                write(item, out);
            }
            out.push('}');
        }
        Value::Array(array) => {
            let shape: Vec<i64> = array.shape.iter().map(|&length| length as i64).collect();
            let container = if array.torch { "torch".into() } else { Value::Nil };
            let data = map! {
                "dtype" => array.dtype.as_str(), "shape" => shape, "container" => container,
                "b64" => base64(&array.data).as_str(),
            };
            write(&map! { "type" => "Tensor", "data" => data }, out);
        }
        Value::Complex(..) | Value::Opaque(_) => panic!("{value:?} has no form in a line: use frames"),
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\0'..='\x1f' => _ = write!(out, "\\u{:04x}", character as u32),
            _ => out.push(character),
        }
    }
    out.push('"');
}

/// Python's `hex` of two's complement, big-endian.
fn hex(bytes: &[u8], negative: bool) -> String {
    let mut carry = negative;
    let mut digits: Vec<String> = bytes
        .iter()
        .rev()
        .map(|&byte| {
            let (byte, over) = (if negative { !byte } else { byte }).overflowing_add(u8::from(carry));
            carry = over;
            format!("{byte:02x}")
        })
        .collect();
    digits.reverse();
    format!("{}0x{}", if negative { "-" } else { "" }, digits.concat())
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub fn base64(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char;
            out.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    out
}

pub fn from_base64(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = DIGITS.iter().position(|&digit| digit == byte).ok_or("this is no base64")?;
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    Ok(out)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        let found = self.rest.strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.skip(token) {
            Ok(())
        } else {
            Err(format!("{token} is expected before {:.40}", self.rest))
        }
    }

    fn value(&mut self) -> Result<Value> {
        for (word, value) in [("null", Value::Nil), ("true", true.into()), ("false", false.into())] {
            if self.skip(word) {
                return Ok(value);
            }
        }
        if self.skip("[") {
            let mut items = Vec::new();
            while !self.skip("]") {
                if !items.is_empty() {
                    self.expect(",")?;
                }
                items.push(self.value()?);
            }
            return Ok(Value::List(items));
        }
        if self.skip("{") {
            let mut entries = Vec::new();
            while !self.skip("}") {
                if !entries.is_empty() {
                    self.expect(",")?;
                }
                let key = self.value()?;
                self.expect(":")?;
                entries.push((key, self.value()?));
            }
            return untagged(Value::Map(entries));
        }
        if self.skip("\"") {
            self.text().map(Value::Text)
        } else {
            self.number()
        }
    }

    fn number(&mut self) -> Result<Value> {
        let end = self.rest.find([',', ']', '}', ' ', ':']).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        let float = || token.parse().map(Value::Float).map_err(|_| format!("{token} is no JSON"));
        token.parse().map(Value::Int).or_else(|_| float())
    }

    /// A text after its first quote.
    fn text(&mut self) -> Result<String> {
        let mut out = Vec::new();
        loop {
            let end = self.rest.find(['"', '\\']).ok_or("a text does not end")?;
            out.extend(self.rest[..end].encode_utf16());
            let ends = self.rest.as_bytes()[end] == b'"';
            self.rest = &self.rest[end + 1..];
            if ends {
                return Ok(String::from_utf16_lossy(&out));
            }
            let escape = self.rest.chars().next().ok_or("a text does not end")?;
            self.rest = &self.rest[escape.len_utf8()..];
            out.push(match escape {
                'n' => 10,
                't' => 9,
                'r' => 13,
                'b' => 8,
                'f' => 12,
                'u' => {
                    let (digits, rest) = self.rest.split_at_checked(4).ok_or("a text does not end")?;
                    self.rest = rest;
                    u16::from_str_radix(digits, 16).map_err(|error| error.to_string())?
                }
                other => other as u16,
            });
        }
    }
}

/// What a tag is the form of; what is no tag, and tags of Python objects, stay as they are.
fn untagged(value: Value) -> Result<Value> {
    let data = value.get("data");
    if value.get("$soma").as_text() == Some("float") {
        let number = value.get("value").as_text().unwrap_or_default();
        return number.parse().map(Value::Float).map_err(|_| format!("{number} is no float"));
    }
    Ok(match value.get("type").as_text() {
        Some("Text" | "Json") => data.clone(),
        Some("Empty") => Value::Nil,
        Some("Tensor") => tensor(data).map_or(value, Value::Array),
        _ => value,
    })
}

fn tensor(data: &Value) -> Result<Array> {
    let floats = |value: &Value| match value {
        Value::List(items) => {
            Some(items.iter().map(|item| item.as_f64().unwrap_or(f64::NAN)).collect::<Vec<_>>())
        }
        _ => None,
    };
    let shape: Vec<_> =
        floats(data.get("shape")).ok_or("a Tensor has a shape")?.iter().map(|&l| l as usize).collect();
    let torch = data.get("container").as_text() == Some("torch");
    if let (Some(text), Some(dtype)) = (data.get("b64").as_text(), data.get("dtype").as_text()) {
        return Ok(Array { dtype: dtype.into(), shape, data: from_base64(text)?, torch });
    }
    let numbers = floats(data.get("values")).ok_or("a Tensor has values or b64")?;
    Ok(Array { torch, ..Array::from_f64(&numbers, &shape) })
}
