//! Reading the pickle of a PyTorch checkpoint without running it.
//!
//! A pickle is a program for a small stack machine, and the real machine calls whatever function the program names. This one knows the opcodes that
//! containers, numbers and strings need, and three functions as words that it recognises: the tensor, the parameter, the ordered dictionary. It calls
//! nothing. Any other opcode or name ends the reading, by its name.

use std::collections::HashMap;

use super::torch::storage_type;
use crate::model::DType;

/// Objects that a pickle may make. A state dictionary takes some twenty for a tensor.
const MOST_OBJECTS: usize = 2_000_000;

/// Values of the tree that is made of them: shared objects count each time, so that a few bytes cannot unfold without end.
const MOST_VALUES: usize = 1_000_000;

/// Containers inside each other.
const DEEPEST: usize = 64;

/// Marks that are open at once.
const MOST_MARKS: usize = 1_000;

/// A value, as far as a checkpoint needs them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Tensor(TensorRef),
}

/// A tensor: a view of a storage that lies beside the pickle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TensorRef {
    pub(super) storage: Storage,
    /// Elements before the first one.
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    /// Elements from one index of an axis to the next.
    pub(super) strides: Vec<u64>,
}

/// Raw numbers in a file of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Storage {
    /// Its name: digits.
    pub(super) key: String,
    pub(super) dtype: DType,
    /// Number of elements.
    pub(super) elements: u64,
}

/// The functions and types that are known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(DType),
}

impl Global {
    fn named(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", name) => storage_type(name).map(Self::Storage),
            _ => None,
        }
    }
}

type Id = usize;

/// An object while the pickle is read. Containers hold places, so that a container may be filled after others refer to it, and no cycle can hurt.
#[derive(Debug, Clone)]
enum Object {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(TensorRef),
}

/// The value that a pickle describes.
///
/// # Errors
/// A sentence: an opcode or a name that is not known, a bound that is passed, an end that comes too early.
pub(super) fn read(bytes: &[u8]) -> Result<Value, String> {
    let mut machine =
        Machine { rest: bytes, objects: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
    let root = machine.run()?;
    let mut budget = MOST_VALUES;
    machine.value(root, DEEPEST, &mut budget)
}

struct Machine<'b> {
    rest: &'b [u8],
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl Machine<'_> {
    fn run(&mut self) -> Result<Id, String> {
        loop {
            let [opcode] = self.take::<1>()?;
            match opcode {
                // What a stream of protocol 2 to 5 is framed by.
                0x80 => {
                    let [protocol] = self.take()?;
                    if !(2..=5).contains(&protocol) {
                        return Err(format!("its pickle is of protocol {protocol}, which torch.save does not write"));
                    }
                }
                0x95 => {
                    self.take::<8>()?;
                }
                b'.' => return self.pop(),
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                b'b' => self.build()?,
                _ if self.plain(opcode)? || self.container(opcode)? || self.reference(opcode)? => {}
                other => {
                    return Err(match name_of(other) {
                        Some(name) => format!("its pickle uses the opcode {name}, which tensors do not need. {REMEDY}"),
                        None => format!(
                            "its pickle holds the byte 0x{other:02x} where an opcode belongs. It is damaged; save it again"
                        ),
                    });
                }
            }
        }
    }

    /// Nothing, truth values, numbers and texts. Whether it was one.
    fn plain(&mut self, opcode: u8) -> Result<bool, String> {
        let value = match opcode {
            b'N' => Object::None,
            0x88 => Object::Bool(true),
            0x89 => Object::Bool(false),
            b'J' => Object::Int(i32::from_le_bytes(self.take()?).into()),
            b'K' => Object::Int(u8::from_le_bytes(self.take()?).into()),
            b'M' => Object::Int(u16::from_le_bytes(self.take()?).into()),
            0x8a => {
                let length = u8::from_le_bytes(self.take()?);
                Object::Int(integer(self.bytes(length.into())?)?)
            }
            b'G' => Object::Float(f64::from_be_bytes(self.take()?)),
            0x8c => {
                let length = u8::from_le_bytes(self.take()?);
                self.text(length.into())?
            }
            b'X' => {
                let length = u32::from_le_bytes(self.take()?);
                self.text(length.into())?
            }
            0x8d => {
                let length = u64::from_le_bytes(self.take()?);
                self.text(length)?
            }
            _ => return Ok(false),
        };
        self.push(value)?;
        Ok(true)
    }

    /// Tuples, lists and dictionaries, and what goes into them. Whether it was one.
    fn container(&mut self, opcode: u8) -> Result<bool, String> {
        match opcode {
            b'(' => {
                if self.marks.len() == MOST_MARKS {
                    return Err(format!("its pickle opens more than {MOST_MARKS} containers inside each other"));
                }
                self.marks.push(self.stack.len());
            }
            b')' => self.push(Object::Tuple(Vec::new()))?,
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(opcode - 0x84))?;
                self.push(Object::Tuple(items))?;
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Object::Tuple(items))?;
            }
            b']' => self.push(Object::List(Vec::new()))?,
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push(Object::Dict(Vec::new()))?,
            b's' => {
                let items = self.pop_many(2)?;
                self.set(&items)?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(&items)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What was there before, and what has a name. Whether it was one.
    fn reference(&mut self, opcode: u8) -> Result<bool, String> {
        match opcode {
            b'q' => {
                let at = u8::from_le_bytes(self.take()?);
                self.memorise(at.into())?;
            }
            b'r' => {
                let at = u32::from_le_bytes(self.take()?);
                self.memorise(at)?;
            }
            0x94 => self.memorise(self.memo.len() as u32)?,
            b'h' => {
                let at = u8::from_le_bytes(self.take()?);
                self.recall(at.into())?;
            }
            b'j' => {
                let at = u32::from_le_bytes(self.take()?);
                self.recall(at)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(&module, &name)?;
            }
            0x93 => {
                let names = self.pop_many(2)?;
                let [Object::Text(module), Object::Text(name)] =
                    [names[0], names[1]].map(|id| self.objects[id].clone())
                else {
                    return Err("its pickle asks for something by a name that is no text".to_owned());
                };
                self.global(&module, &name)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or("its pickle ends too early. It is truncated; save it again")?;
        self.rest = rest;
        Ok(*head)
    }

    fn bytes(&mut self, length: u64) -> Result<&[u8], String> {
        let length = usize::try_from(length).ok().filter(|&length| length <= self.rest.len());
        let (head, rest) =
            self.rest.split_at(length.ok_or("its pickle ends too early. It is truncated; save it again")?);
        self.rest = rest;
        Ok(head)
    }

    fn text(&mut self, length: u64) -> Result<Object, String> {
        let text = std::str::from_utf8(self.bytes(length)?).map_err(|_| "its pickle holds a text that is not UTF-8")?;
        Ok(Object::Text(text.to_owned()))
    }

    fn line(&mut self) -> Result<String, String> {
        let end = self
            .rest
            .iter()
            .position(|&b| b == b'\n')
            .ok_or("its pickle ends inside a name. It is truncated; save it again")?;
        let line = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest = &self.rest[end + 1..];
        Ok(line)
    }

    fn push(&mut self, object: Object) -> Result<(), String> {
        if self.objects.len() == MOST_OBJECTS {
            return Err(format!("its pickle makes more than {MOST_OBJECTS} objects, which no checkpoint needs"));
        }
        self.stack.push(self.objects.len());
        self.objects.push(object);
        Ok(())
    }

    /// The stack that may be taken from: what lies above the last mark.
    fn above_mark(&self) -> usize {
        self.stack.len() - self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        if self.above_mark() == 0 {
            return Err(BROKEN.to_owned());
        }
        self.stack.pop().ok_or_else(|| BROKEN.to_owned())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, String> {
        if self.above_mark() < count {
            return Err(BROKEN.to_owned());
        }
        Ok(self.stack.split_off(self.stack.len() - count))
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or(BROKEN)?;
        Ok(self.stack.split_off(mark))
    }

    fn top(&mut self) -> Result<&mut Object, String> {
        if self.above_mark() == 0 {
            return Err(BROKEN.to_owned());
        }
        let id = self.stack.last().copied().ok_or(BROKEN)?;
        Ok(&mut self.objects[id])
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), String> {
        let Object::List(list) = self.top()? else { return Err(BROKEN.to_owned()) };
        list.extend(items);
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), String> {
        let (pairs, rest) = items.as_chunks::<2>();
        let Object::Dict(dict) = self.top()? else { return Err(BROKEN.to_owned()) };
        if !rest.is_empty() {
            return Err(BROKEN.to_owned());
        }
        dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn memorise(&mut self, at: u32) -> Result<(), String> {
        self.top()?;
        let id = *self.stack.last().ok_or(BROKEN)?;
        if self.memo.len() == MOST_OBJECTS {
            return Err(format!(
                "its pickle keeps more than {MOST_OBJECTS} objects in mind, which no checkpoint needs"
            ));
        }
        self.memo.insert(at, id);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Result<(), String> {
        let id = *self.memo.get(&at).ok_or(BROKEN)?;
        // Recalling makes no object, but the stack must not grow without bound either.
        if self.stack.len() == MOST_OBJECTS {
            return Err(format!("its pickle stacks more than {MOST_OBJECTS} objects, which no checkpoint needs"));
        }
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        if let Some(global) = Global::named(module, name) {
            return self.push(Object::Global(global));
        }
        let asked: String = format!("{module}.{name}").chars().filter(|c| !c.is_control()).take(120).collect();
        Err(format!("its pickle asks for '{asked}', which tensors do not need. {REMEDY}"))
    }

    /// A persistent id: what stands for a storage.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let no_storage = || "its pickle refers to something outside that is no storage of a tensor".to_owned();
        let Object::Tuple(parts) = &self.objects[id] else { return Err(no_storage()) };
        let parts: Vec<&Object> = parts.iter().map(|id| &self.objects[*id]).collect();
        let [
            Object::Text(kind),
            Object::Global(Global::Storage(dtype)),
            Object::Text(key),
            Object::Text(_),
            Object::Int(elements),
        ] = parts[..]
        else {
            return Err(no_storage());
        };
        let elements = u64::try_from(*elements).map_err(|_| no_storage())?;
        // The key becomes part of a name in the archive.
        if kind != "storage" || key.is_empty() || key.len() > 20 || !key.bytes().all(|b| b.is_ascii_digit()) {
            return Err(no_storage());
        }
        let storage = Storage { key: key.clone(), dtype: *dtype, elements };
        self.push(Object::Storage(storage))
    }

    /// A call, of the three that are known.
    fn reduce(&mut self) -> Result<(), String> {
        let parts = self.pop_many(2)?;
        let (Object::Global(function), Object::Tuple(arguments)) = (&self.objects[parts[0]], &self.objects[parts[1]])
        else {
            return Err(format!("its pickle calls something that is no known function (REDUCE). {REMEDY}"));
        };
        let function = *function;
        let arguments: Vec<&Object> = arguments.iter().map(|id| &self.objects[*id]).collect();
        let made = match (function, &arguments[..]) {
            (Global::OrderedDict, []) => Object::Dict(Vec::new()),
            (Global::RebuildParameter, [Object::Tensor(tensor), ..]) => Object::Tensor(tensor.clone()),
            (
                Global::RebuildTensor,
                [Object::Storage(storage), Object::Int(offset), Object::Tuple(shape), Object::Tuple(strides), ..],
            ) => {
                let numbers = |ids: &[Id]| {
                    let number = |id: &Id| match self.objects[*id] {
                        Object::Int(value) => u64::try_from(value).ok(),
                        _ => None,
                    };
                    ids.iter().map(number).collect::<Option<Vec<u64>>>()
                };
                let tensor = u64::try_from(*offset).ok().zip(numbers(shape)).zip(numbers(strides));
                let Some(((offset, shape), strides)) =
                    tensor.filter(|((_, shape), strides)| shape.len() == strides.len())
                else {
                    return Err(
                        "its pickle describes a tensor whose offset, shape or strides are no numbers of elements"
                            .to_owned(),
                    );
                };
                Object::Tensor(TensorRef { storage: storage.clone(), offset, shape, strides })
            }
            _ => {
                return Err(format!(
                    "its pickle calls {function:?} with other arguments than torch.save writes (REDUCE). {REMEDY}"
                ));
            }
        };
        self.push(made)
    }

    /// Attributes of an object. An ordered dictionary has some (versions of its modules), which say nothing about its tensors.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let is_dict = matches!(self.objects[state], Object::Dict(_));
        match self.top()? {
            Object::Dict(_) if is_dict => Ok(()),
            _ => Err(format!("its pickle sets the state of an object that is no dictionary (BUILD). {REMEDY}")),
        }
    }

    /// The tree below an object.
    fn value(&self, id: Id, depth: usize, budget: &mut usize) -> Result<Value, String> {
        if depth == 0 {
            return Err(format!("its pickle nests containers more than {DEEPEST} deep, or in a circle"));
        }
        *budget = budget.checked_sub(1).ok_or_else(|| {
            format!("its pickle unfolds to more than {MOST_VALUES} values, which no checkpoint needs")
        })?;
        let mut each =
            |ids: &[Id]| ids.iter().map(|id| self.value(*id, depth - 1, budget)).collect::<Result<Vec<_>, _>>();
        Ok(match &self.objects[id] {
            Object::None => Value::None,
            Object::Bool(value) => Value::Bool(*value),
            Object::Int(value) => Value::Int(*value),
            Object::Float(value) => Value::Float(*value),
            Object::Text(text) => Value::Text(text.clone()),
            Object::Tuple(items) | Object::List(items) => Value::List(each(items)?),
            Object::Dict(pairs) => {
                let mut dict = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    dict.push((self.value(*key, depth - 1, budget)?, self.value(*value, depth - 1, budget)?));
                }
                Value::Dict(dict)
            }
            Object::Tensor(tensor) => Value::Tensor(tensor.clone()),
            Object::Global(_) | Object::Storage(_) => {
                return Err(format!("its pickle holds a function or a bare storage as a value. {REMEDY}"));
            }
        })
    }
}

const REMEDY: &str = "Nothing of it was run. Save the state_dict and plain numbers, texts, lists and dictionaries only, or the weights as .safetensors";

const BROKEN: &str = "its pickle takes what is not there. It is damaged; save it again";

/// A two's complement number of any length that fits.
fn integer(bytes: &[u8]) -> Result<i128, String> {
    let Some(last) = bytes.last() else { return Ok(0) };
    let mut whole = [if last & 0x80 == 0 { 0 } else { 0xff }; 16];
    let part = whole.get_mut(..bytes.len()).ok_or("its pickle holds an integer of more than 128 bits")?;
    part.copy_from_slice(bytes);
    Ok(i128::from_le_bytes(whole))
}

/// Names of the opcodes that are refused, as Python's `pickletools` calls them.
fn name_of(opcode: u8) -> Option<&'static str> {
    Some(match opcode {
        b'0' => "POP",
        b'1' => "POP_MARK",
        b'2' => "DUP",
        b'B' => "BINBYTES",
        b'C' => "SHORT_BINBYTES",
        b'F' => "FLOAT",
        b'I' => "INT",
        b'L' => "LONG",
        b'P' => "PERSID",
        b'S' => "STRING",
        b'T' => "BINSTRING",
        b'U' => "SHORT_BINSTRING",
        b'V' => "UNICODE",
        b'd' => "DICT",
        b'g' => "GET",
        b'i' => "INST",
        b'l' => "LIST",
        b'o' => "OBJ",
        b'p' => "PUT",
        0x81 => "NEWOBJ",
        0x82 => "EXT1",
        0x83 => "EXT2",
        0x84 => "EXT4",
        0x8b => "LONG4",
        0x8e => "BINBYTES8",
        0x8f => "EMPTY_SET",
        0x90 => "ADDITEMS",
        0x91 => "FROZENSET",
        0x92 => "NEWOBJ_EX",
        0x96 => "BYTEARRAY8",
        0x97 => "NEXT_BUFFER",
        0x98 => "READONLY_BUFFER",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pickle(body: &[&[u8]]) -> Vec<u8> {
        [b"\x80\x02".as_slice(), &body.concat(), b"."].concat()
    }

    fn text(text: &str) -> Vec<u8> {
        [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    }

    fn said(body: &[&[u8]]) -> String {
        read(&pickle(body)).unwrap_err()
    }

    /// `torch.FloatStorage` number 3 of six elements.
    fn storage() -> Vec<u8> {
        [b"(".as_slice(), &text("storage"), b"ctorch\nFloatStorage\n", &text("3"), &text("cpu"), b"K\x06tQ"].concat()
    }

    #[test]
    fn containers_numbers_and_texts_are_read() {
        let body: &[&[u8]] = &[
            b"}q\x00(",
            &text("lr"),
            b"G\x3f\xb9\x99\x99\x99\x99\x99\x9a",
            &text("seed"),
            b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x00",
            &text("shape"),
            b"(K\x01M\x00\x02J\xfe\xff\xff\xfft",
            &text("flags"),
            b"](\x88\x89Ne",
            b"u",
        ];
        let key = |name: &str| Value::Text(name.to_owned());
        let expected = Value::Dict(vec![
            (key("lr"), Value::Float(0.1)),
            (key("seed"), Value::Int(u64::MAX.into())),
            (key("shape"), Value::List(vec![Value::Int(1), Value::Int(512), Value::Int(-2)])),
            (key("flags"), Value::List(vec![Value::Bool(true), Value::Bool(false), Value::None])),
        ]);
        assert_eq!(read(&pickle(body)).unwrap(), expected);
        // The same in the opcodes of protocol 4.
        let framed = b"\x80\x04\x95\x0a\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x05s.";
        assert_eq!(read(framed).unwrap(), Value::Dict(vec![(key("a"), Value::Int(5))]));
    }

    #[test]
    fn a_tensor_is_a_view_of_a_storage_and_a_parameter_is_its_tensor() {
        let tensor = [
            b"ctorch._utils\n_rebuild_tensor_v2\n(".as_slice(),
            &storage(),
            b"K\x00K\x02K\x03\x86K\x03K\x01\x86\x89ccollections\nOrderedDict\n)Rt\x52",
        ]
        .concat();
        let expected = TensorRef {
            storage: Storage { key: "3".into(), dtype: DType::F32, elements: 6 },
            offset: 0,
            shape: vec![2, 3],
            strides: vec![3, 1],
        };
        assert_eq!(read(&pickle(&[&tensor])).unwrap(), Value::Tensor(expected.clone()));
        let parameter =
            [b"ctorch._utils\n_rebuild_parameter\n(".as_slice(), &tensor, b"\x88ccollections\nOrderedDict\n)Rt\x52"]
                .concat();
        assert_eq!(read(&pickle(&[&parameter])).unwrap(), Value::Tensor(expected));
    }

    #[test]
    fn an_ordered_dictionary_may_have_attributes_and_nothing_else_may() {
        let body: &[&[u8]] = &[b"ccollections\nOrderedDict\n)R(", &text("a"), b"K\x01u}", &text("_metadata"), b"}sb"];
        assert_eq!(read(&pickle(body)).unwrap(), Value::Dict(vec![(Value::Text("a".into()), Value::Int(1))]));
        assert!(said(&[b"]}b"]).contains("BUILD"));
    }

    #[test]
    fn every_other_name_is_refused_by_that_name_and_nothing_is_called() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("torch", "load"),
            ("__main__", "Config"),
            ("numpy.core.multiarray", "scalar"),
        ] {
            let asked = format!("c{module}\n{name}\n");
            let message = said(&[asked.as_bytes(), &text("touch /tmp/ran"), b"\x85R"]);
            assert!(
                message.contains(&format!("'{module}.{name}'")) && message.contains("Nothing of it was run"),
                "{message}"
            );
            let stacked = said(&[&text(module), &text(name), b"\x93"]);
            assert!(stacked.contains(&format!("'{module}.{name}'")), "{stacked}");
        }
    }

    #[test]
    fn every_other_opcode_is_refused_by_its_name() {
        for (opcode, name) in [
            (b'i', "INST"),
            (b'o', "OBJ"),
            (0x81, "NEWOBJ"),
            (0x92, "NEWOBJ_EX"),
            (b'P', "PERSID"),
            (0x82, "EXT1"),
            (b'B', "BINBYTES"),
            (0x8f, "EMPTY_SET"),
        ] {
            assert!(said(&[&[opcode]]).contains(&format!("opcode {name},")), "{name}");
        }
        assert!(said(&[b"\x01"]).contains("byte 0x01"));
        assert!(read(b"\x80\x00.").unwrap_err().contains("protocol 0"));
    }

    #[test]
    fn a_call_of_a_known_function_takes_only_what_torch_writes() {
        for body in [
            b"ccollections\nOrderedDict\n]\x85R".as_slice(),
            b"ctorch._utils\n_rebuild_tensor_v2\n)R",
            b"ctorch\nFloatStorage\n)R",
            b"K\x01)R",
            b"ccollections\nOrderedDict\nK\x01R",
        ] {
            assert!(said(&[body]).contains("REDUCE"), "{body:?}");
        }
        assert!(said(&[b"ctorch\nFloatStorage\n"]).contains("function or a bare storage"));
        let evil =
            [b"(".as_slice(), &text("storage"), b"ctorch\nFloatStorage\n", &text("../../x"), &text("cpu"), b"K\x06tQ"]
                .concat();
        assert!(said(&[&evil]).contains("no storage"));
    }

    #[test]
    fn what_is_damaged_ends_in_a_sentence() {
        for body in [
            &b"s"[..],
            b"K\x01s",
            b"a",
            b"u",
            b"t",
            b"\x85",
            b"h\x07",
            b"q\x00",
            b"R",
            b"b",
            b"Q",
            b"(K\x01(s",
            b"}(K\x01u",
            b"}(a",
        ] {
            assert!(read(&pickle(&[body])).is_err(), "{body:?}");
        }
        let whole = pickle(&[b"}q\x00(", &text("a"), b"K\x01u"]);
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{end}");
        }
        assert!(read(&pickle(&[b"X\xff\xff\xff\xff"])).is_err());
        assert!(read(&pickle(&[b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"])).is_err());
    }

    #[test]
    fn circles_depth_and_unfolding_are_bounded() {
        assert!(said(&[b"]q\x00h\x00a"]).contains("in a circle"));
        let nested = [b"]".repeat(100), b"a".repeat(99)].concat();
        assert!(said(&[&nested]).contains("more than 64 deep"));
        assert!(said(&[&b"(".repeat(1001)]).contains("more than 1000"));
        // Each list holds the last one ten times.
        let mut bomb = b"]q\x00".to_vec();
        for level in 1..20_u8 {
            bomb.extend([b"](".as_slice(), &[b'h', level - 1].repeat(10), b"eq", &[level]].concat());
        }
        assert!(said(&[&bomb]).contains("unfolds"));
        assert!(said(&[&b"N".repeat(MOST_OBJECTS + 1)]).contains("objects"));
    }
}
