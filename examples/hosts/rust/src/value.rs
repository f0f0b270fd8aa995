//! What a message holds: JSON, and what only a frame can say.

/// A value. A map keeps the order of its entries; one whose keys are all text is a dict.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits: two's complement, big-endian.
    BigInt(Vec<u8>),
    Float(f64),
    Complex(f64, f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Array(Array),
    Opaque(Opaque),
}

/// An array, or a torch tensor: its elements in C order, little-endian.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// numpy's name of the type, such as `float64`.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
    pub torch: bool,
}

/// What this host has no use for but to send it back: a pickle, an object of a codec or a library.
#[derive(Clone, Debug, PartialEq)]
pub struct Opaque {
    pub kind: i8,
    pub head: Vec<Value>,
    pub buffers: Vec<Vec<u8>>,
}

/// `map! { "cmd" => "PING", "id" => 1 }`
#[macro_export]
macro_rules! map {
    ($($key:expr => $value:expr),* $(,)?) => {
        $crate::Value::Map(vec![$(($key.into(), $value.into())),*])
    };
}

impl Value {
    /// The value of a dict under a key; Nil where there is none.
    pub fn get(&self, key: &str) -> &Value {
        match self {
            Value::Map(entries) => entries
                .iter()
                .find(|(found, _)| found.as_text() == Some(key))
                .map_or(&Value::Nil, |(_, value)| value),
            _ => &Value::Nil,
        }
    }

    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(number) => Some(*number),
            Value::Int(number) => Some(*number as f64),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&Array> {
        match self {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }
}

impl Array {
    pub fn from_f64(numbers: &[f64], shape: &[usize]) -> Array {
        let data = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Array { dtype: "float64".into(), shape: shape.to_vec(), data, torch: false }
    }

    /// The elements as floats; None of a type that holds no numbers.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        macro_rules! read {
            ($type:ty) => {
                self.data
                    .chunks_exact(size_of::<$type>())
                    .map(|bytes| <$type>::from_le_bytes(bytes.try_into().unwrap()) as f64)
                    .collect()
            };
        }
        Some(match self.dtype.as_str() {
            "float64" => read!(f64),
            "float32" => read!(f32),
            "int64" => read!(i64),
            "int32" => read!(i32),
            "int16" => read!(i16),
            "int8" => read!(i8),
            "uint64" => read!(u64),
            "uint32" => read!(u32),
            "uint16" => read!(u16),
            "uint8" | "bool" => read!(u8),
            _ => return None,
        })
    }

    /// Elements that lie in the order of other axes, put into C order.
    pub(crate) fn in_c_order(mut self, order: &[usize]) -> Array {
        let count: usize = self.shape.iter().product();
        if count == 0 || order.len() != self.shape.len() {
            return self;
        }
        let width = self.data.len() / count;
        let mut strides = vec![0; order.len()];
        let mut stride = width;
        for &axis in order.iter().rev() {
            strides[axis] = stride;
            stride *= self.shape[axis];
        }
        let mut moved = Vec::with_capacity(self.data.len());
        for flat in 0..count {
            let (mut left, mut from) = (flat, 0);
            for axis in (0..strides.len()).rev() {
                from += left % self.shape[axis] * strides[axis];
                left /= self.shape[axis];
            }
            moved.extend_from_slice(&self.data[from..from + width]);
        }
        self.data = moved;
        self
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Value {
        Value::Int(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Float(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::Text(value.into())
    }
}

impl From<Array> for Value {
    fn from(value: Array) -> Value {
        Value::Array(value)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

/// The numbers of `[dtype, bytes]`.
pub(crate) fn scalars(fields: &[Value]) -> Result<Vec<Value>, String> {
    let [dtype, Value::Bytes(data)] = fields else {
        return Err("a scalar has a dtype and bytes".into());
    };
    let dtype = dtype.as_text().unwrap_or("fields").to_owned();
    let array = Array { dtype, shape: vec![], data: data.clone(), torch: false };
    let numbers = array.to_f64().ok_or_else(|| format!("a scalar of {}", array.dtype))?;
    Ok(numbers
        .into_iter()
        .map(|number| match array.dtype.as_str() {
            "bool" => Value::Bool(number != 0.0),
            name if name.contains("int") => Value::Int(number as i64),
            _ => Value::Float(number),
        })
        .collect())
}
