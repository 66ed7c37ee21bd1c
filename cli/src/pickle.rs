//! A restricted reader of the files of `torch.save`: a zip archive with a pickle of tensors, dictionaries, lists, texts
//! and numbers. Nothing is ever executed: a pickle is a program, and the two or three calls that make a tensor are
//! recognised by their names; any other name is refused in a sentence that says it.

use std::collections::BTreeMap;
use std::collections::HashMap;
use strata_core::format::array::{Array, Element};
use strata_core::format::arrays::{Arrays, Scalar};
use strata_core::format::zip::{self, Member};
use strata_core::model::SharedBytes;
use strata_core::{Error, Result};

/// Depth of nested dictionaries; a deeper one contains itself.
const DEEPEST: usize = 16;
/// Most values in all; no checkpoint of one model has as many.
const MOST_VALUES: usize = 1 << 20;

/// Returns the arrays and values of the archive `bytes` of the file `file`. Names of nested dictionaries are joined by
/// `.`.
///
/// # Errors
/// One sentence with the fault, or with the name of what is refused.
pub fn read(file: &str, bytes: &SharedBytes) -> Result<Arrays> {
    let all = (**bytes).as_ref();
    let wrong = |what: String| Error::format(0, format!("{file}: {what}"));
    if !zip::is_zip(all) {
        return Err(wrong("a pickle of PyTorch before 1.6: load it and save it again with torch.save".into()));
    }
    let members = zip::members(all).map_err(|e| wrong(said(e)))?;
    let pickle = members.iter().find(|m| m.name == "data.pkl" || m.name.ends_with("/data.pkl"));
    let pickle = pickle.ok_or_else(|| wrong("an archive without data.pkl, which torch.save writes".into()))?;
    let root = pickle.name.strip_suffix("data.pkl").unwrap_or_default();
    let by_name: HashMap<&str, &Member> =
        members.iter().filter_map(|m| Some((m.name.strip_prefix(root)?, m))).collect();
    if let Some(order) = by_name.get("byteorder") {
        let (bytes, range) = order.bytes(bytes)?;
        if (*bytes).as_ref()[range] != *b"little" {
            return Err(wrong("its numbers are big-endian, which is not read".into()));
        }
    }
    let (program, range) = pickle.bytes(bytes)?;
    let mut machine =
        Machine { at: 0, program: &(*program).as_ref()[range], nodes: vec![], stack: vec![], memo: HashMap::new() };
    let result = machine.run().map_err(|e| wrong(said(e)))?;
    let storage = |key: &str| -> Result<(SharedBytes, std::ops::Range<usize>)> {
        let member = by_name.get(format!("data/{key}").as_str());
        member.ok_or_else(|| wrong(format!("the numbers of data/{key} are missing")))?.bytes(bytes)
    };
    let mut arrays = Arrays { file: file.into(), ..Arrays::default() };
    let (inside, values) = (&mut arrays.arrays, &mut arrays.values);
    let mut flat = Flatten { machine: &machine, storage: &storage, arrays: inside, values, visits: 0 };
    flat.add(result, &mut String::new(), 0).map_err(|e| wrong(said(e)))?;
    // A wrapper that contains only the tensors is not part of their names.
    for prefix in ["state_dict.", "model_state_dict.", "module.", "_orig_mod."] {
        if arrays.arrays.keys().all(|name| name.starts_with(prefix))
            && let Some(inside) = arrays.below(prefix)
        {
            arrays = inside;
        }
    }
    Ok(arrays)
}

/// Returns the sentence of an error, without its position.
fn said(error: Error) -> String {
    match error {
        Error::Format { what, .. } => what,
        other => other.to_string(),
    }
}

/// A value of the program; those that contain others name them by their index.
#[derive(Clone, Debug)]
enum Node {
    None,
    Mark,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A tuple or a list.
    List(Vec<usize>),
    Dict(Vec<(usize, usize)>),
    /// `module.name`.
    Class(String),
    Storage {
        element: Element,
        key: String,
    },
    Tensor {
        element: Element,
        key: String,
        offset: usize,
        shape: Vec<usize>,
        strides: Vec<usize>,
    },
}

struct Machine<'a> {
    at: usize,
    program: &'a [u8],
    nodes: Vec<Node>,
    stack: Vec<usize>,
    memo: HashMap<u64, usize>,
}

fn damaged(what: &str) -> Error {
    Error::format(0, format!("its pickle is damaged: {what}"))
}

impl<'a> Machine<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.program.len());
        let end = end.ok_or_else(|| damaged("it ends in the middle of a value"))?;
        let bytes = &self.program[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    /// Reads a little-endian number of `n` bytes, at most 8.
    fn number(&mut self, n: usize) -> Result<u64> {
        Ok(self.take(n)?.iter().rev().fold(0, |value, b| value << 8 | u64::from(*b)))
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.program[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("a name has no end"))?;
        let line = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn text(&mut self, size: usize) -> Result<Node> {
        let n = self.number(size)? as usize;
        Ok(Node::Text(String::from_utf8_lossy(self.take(n)?).into_owned()))
    }

    fn push(&mut self, node: Node) {
        self.stack.push(self.nodes.len());
        self.nodes.push(node);
    }

    fn pop(&mut self) -> Result<usize> {
        self.stack.pop().ok_or_else(|| damaged("a value is missing"))
    }

    /// Pops the values since the last mark.
    fn since_mark(&mut self) -> Result<Vec<usize>> {
        let mark = self.stack.iter().rposition(|at| matches!(self.nodes[*at], Node::Mark));
        let mark = mark.ok_or_else(|| damaged("a mark is missing"))?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, n: usize) -> Result<()> {
        let first = self.stack.len().checked_sub(n).ok_or_else(|| damaged("a value is missing"))?;
        let items = self.stack.split_off(first);
        self.push(Node::List(items));
        Ok(())
    }

    fn top(&mut self) -> Result<&mut Node> {
        let at = *self.stack.last().ok_or_else(|| damaged("a value is missing"))?;
        Ok(&mut self.nodes[at])
    }

    fn append(&mut self, items: &[usize]) -> Result<()> {
        match self.top()? {
            Node::List(list) => list.extend_from_slice(items),
            _ => return Err(damaged("what is appended to is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[usize]) -> Result<()> {
        match self.top()? {
            Node::Dict(entries) => entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(damaged("what is set in is no dictionary")),
        }
        Ok(())
    }

    /// Runs the program; returns the index of its result.
    fn run(&mut self) -> Result<usize> {
        loop {
            let op = self.take(1)?[0];
            match op {
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(),
                b'(' => self.push(Node::Mark),
                b'0' => drop(self.pop()?),
                b'2' => {
                    let at = *self.stack.last().ok_or_else(|| damaged("a value is missing"))?;
                    self.stack.push(at);
                }
                b'N' => self.push(Node::None),
                0x88 => self.push(Node::Bool(true)),
                0x89 => self.push(Node::Bool(false)),
                b'K' => {
                    let n = self.number(1)?;
                    self.push(Node::Int(n as i64));
                }
                b'M' => {
                    let n = self.number(2)?;
                    self.push(Node::Int(n as i64));
                }
                b'J' => {
                    let n = self.number(4)?;
                    self.push(Node::Int(i64::from(n as u32 as i32)));
                }
                0x8a => {
                    let size = self.number(1)? as usize;
                    if size > 8 {
                        return Err(damaged("a whole number has more than 8 bytes"));
                    }
                    let n = self.number(size)?;
                    let unused = 64 - 8 * size as u32;
                    self.push(Node::Int(if size == 0 { 0 } else { ((n << unused) as i64) >> unused }));
                }
                b'G' => {
                    let bytes = self.take(8)?;
                    self.push(Node::Float(bytes.first_chunk().map_or(0.0, |b| f64::from_be_bytes(*b))));
                }
                b'X' => {
                    let text = self.text(4)?;
                    self.push(text);
                }
                0x8c => {
                    let text = self.text(1)?;
                    self.push(text);
                }
                0x8d => {
                    let text = self.text(8)?;
                    self.push(text);
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push(Node::Class(format!("{module}.{name}")));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    match (&self.nodes[module], &self.nodes[name]) {
                        (Node::Text(module), Node::Text(name)) => {
                            let class = Node::Class(format!("{module}.{name}"));
                            self.push(class);
                        }
                        _ => return Err(damaged("a name is no text")),
                    }
                }
                b')' | b']' => self.push(Node::List(Vec::new())),
                b'}' => self.push(Node::Dict(Vec::new())),
                0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
                b't' | b'l' => {
                    let items = self.since_mark()?;
                    self.push(Node::List(items));
                }
                b'd' => {
                    let items = self.since_mark()?;
                    self.push(Node::Dict(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()));
                }
                b'a' => {
                    let item = self.pop()?;
                    self.append(&[item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(&items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.since_mark()?;
                    self.set(&items)?;
                }
                b'q' | b'r' => {
                    let slot = self.number(if op == b'q' { 1 } else { 4 })?;
                    self.remember(slot)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' | b'j' => {
                    let slot = self.number(if op == b'h' { 1 } else { 4 })?;
                    let at = *self.memo.get(&slot).ok_or_else(|| damaged("a value is missing"))?;
                    self.stack.push(at);
                }
                b'Q' => {
                    let id = self.pop()?;
                    let storage = self.storage(id)?;
                    self.push(storage);
                }
                b'R' => {
                    let (arguments, callable) = (self.pop()?, self.pop()?);
                    let made = self.call(callable, arguments)?;
                    self.stack.push(made);
                }
                b'b' => {
                    // Attributes of a dictionary, such as the versions of a module, are not weights.
                    let _state = self.pop()?;
                    if !matches!(self.top()?, Node::Dict(_)) {
                        return Err(damaged("attributes of what is no dictionary"));
                    }
                }
                _ => {
                    return Err(Error::format(
                        0,
                        format!("its pickle has the operation 0x{op:02x}, which is not read"),
                    ));
                }
            }
        }
    }

    fn remember(&mut self, slot: u64) -> Result<()> {
        let at = *self.stack.last().ok_or_else(|| damaged("a value is missing"))?;
        self.memo.insert(slot, at);
        Ok(())
    }

    fn list(&self, at: usize) -> Result<&[usize]> {
        match &self.nodes[at] {
            Node::List(items) => Ok(items),
            _ => Err(damaged("arguments are no tuple")),
        }
    }

    /// Returns the numbers that `("storage", class, key, place, length)` names.
    fn storage(&self, id: usize) -> Result<Node> {
        let items = self.list(id)?;
        let (Some(class), Some(key)) = (items.get(1), items.get(2)) else {
            return Err(damaged("a storage has no name"));
        };
        match (&self.nodes[*class], &self.nodes[*key]) {
            (Node::Class(class), Node::Text(key)) => {
                let element = match class.strip_prefix("torch.").unwrap_or_default() {
                    "DoubleStorage" => Element::F64,
                    "FloatStorage" => Element::F32,
                    "HalfStorage" => Element::F16,
                    "BFloat16Storage" => Element::Bf16,
                    "LongStorage" => Element::I64,
                    "IntStorage" => Element::I32,
                    "ShortStorage" => Element::I16,
                    "CharStorage" => Element::I8,
                    "ByteStorage" => Element::U8,
                    "BoolStorage" => Element::Bool,
                    _ => return Err(refused(class)),
                };
                Ok(Node::Storage { element, key: key.clone() })
            }
            _ => Err(damaged("a storage has no name")),
        }
    }

    fn sizes(&self, at: usize) -> Result<Vec<usize>> {
        let size = |at: &usize| match self.nodes[*at] {
            Node::Int(n) => usize::try_from(n).map_err(|_| damaged("a size is below 0")),
            _ => Err(damaged("a size is no whole number")),
        };
        self.list(at)?.iter().map(size).collect()
    }

    /// Evaluates `callable(*arguments)` for the calls that make tensors and dictionaries.
    fn call(&mut self, callable: usize, arguments: usize) -> Result<usize> {
        let Node::Class(class) = &self.nodes[callable] else {
            return Err(damaged("what is called is no name"));
        };
        let class = class.clone();
        let items = self.list(arguments)?.to_vec();
        let item = |i: usize| items.get(i).copied().ok_or_else(|| damaged("an argument is missing"));
        match class.as_str() {
            "collections.OrderedDict" => {
                let mut entries = Vec::new();
                for pair in items.first().map_or(Ok(&[][..]), |at| self.list(*at))? {
                    match self.list(*pair)? {
                        [key, value] => entries.push((*key, *value)),
                        _ => return Err(damaged("an entry is no pair")),
                    }
                }
                self.nodes.push(Node::Dict(entries));
            }
            "torch.Size" => return item(0),
            "torch._utils._rebuild_parameter" => return item(0),
            "torch._tensor._rebuild_from_type_v2" => {
                let inner = item(0)?;
                // A call that contains itself would never end.
                return match &self.nodes[inner] {
                    Node::Class(inside) if *inside != class => self.call(inner, item(2)?),
                    _ => Err(damaged("what is called is no name")),
                };
            }
            "torch._utils._rebuild_tensor_v2" => {
                let Node::Storage { element, key } = self.nodes[item(0)?].clone() else {
                    return Err(damaged("a tensor has no storage"));
                };
                let Node::Int(offset) = self.nodes[item(1)?] else {
                    return Err(damaged("the offset of a tensor is no number"));
                };
                let offset = usize::try_from(offset).map_err(|_| damaged("the offset of a tensor is below 0"))?;
                let (shape, strides) = (self.sizes(item(2)?)?, self.sizes(item(3)?)?);
                self.nodes.push(Node::Tensor { element, key, offset, shape, strides });
            }
            _ => return Err(refused(&class)),
        }
        Ok(self.nodes.len() - 1)
    }
}

/// Returns whether `class` is a type of numbers, as settings beside tensors may have it.
fn is_dtype(class: &str) -> bool {
    let name = class.strip_prefix("torch.").unwrap_or_default();
    matches!(name, "bfloat16" | "half" | "float" | "double" | "bool" | "int" | "long" | "short")
        || ["float", "int", "uint"]
            .iter()
            .any(|kind| name.strip_prefix(kind).is_some_and(|bits| matches!(bits, "8" | "16" | "32" | "64")))
}

#[cold]
fn refused(class: &str) -> Error {
    let why = "which is neither a tensor, a dictionary, a text nor a number, and nothing in a pickle is executed: save the \
               state_dict() alone";
    Error::format(0, format!("its pickle holds `{class}`, {why}"))
}

/// Returns the file of the numbers of a storage.
type Storage<'a> = dyn Fn(&str) -> Result<(SharedBytes, std::ops::Range<usize>)> + 'a;

/// Names all values inside a result.
struct Flatten<'a> {
    machine: &'a Machine<'a>,
    storage: &'a Storage<'a>,
    arrays: &'a mut BTreeMap<String, Array>,
    values: &'a mut BTreeMap<String, Scalar>,
    /// Number of values visited: one that occurs many times may contain another many times.
    visits: usize,
}

impl Flatten<'_> {
    fn add(&mut self, at: usize, name: &mut String, depth: usize) -> Result<()> {
        self.visits += 1;
        if depth > DEEPEST || self.visits > MOST_VALUES {
            return Err(damaged("it nests too deeply, or holds too many values"));
        }
        match &self.machine.nodes[at] {
            Node::None | Node::Mark | Node::Storage { .. } => {}
            // A type of numbers is a name without a call; any other name stands for code.
            Node::Class(class) if is_dtype(class) => {}
            Node::Class(class) => return Err(refused(class)),
            Node::Bool(value) => drop(self.values.insert(name.clone(), Scalar::Bool(*value))),
            Node::Int(value) => drop(self.values.insert(name.clone(), Scalar::Int(*value))),
            Node::Float(value) => drop(self.values.insert(name.clone(), Scalar::Float(*value))),
            Node::Text(value) => drop(self.values.insert(name.clone(), Scalar::Text(value.clone()))),
            Node::List(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.below(*item, name, &i.to_string(), depth)?;
                }
            }
            Node::Dict(entries) => {
                for (key, value) in entries {
                    match &self.machine.nodes[*key] {
                        Node::Text(key) => self.below(*value, name, key, depth)?,
                        Node::Int(key) => self.below(*value, name, &key.to_string(), depth)?,
                        _ => {
                            let why =
                                "its pickle holds a dictionary with a key that is neither a text nor a whole number";
                            return Err(Error::format(0, why));
                        }
                    }
                }
            }
            Node::Tensor { element, key, offset, shape, strides } => {
                let (bytes, range) = (self.storage)(key)?;
                let start = offset.checked_mul(element.size_bytes()).and_then(|n| n.checked_add(range.start));
                let start = start.ok_or_else(|| damaged("a tensor lies outside of its storage"))?;
                let array = Array::new(bytes, start, *element, shape.clone(), strides.clone())
                    .map_err(|e| Error::format(0, format!("tensor `{name}`: {}", said(e))))?;
                self.arrays.insert(name.clone(), array);
            }
        }
        Ok(())
    }

    fn below(&mut self, at: usize, name: &mut String, key: &str, depth: usize) -> Result<()> {
        let length = name.len();
        if length > 0 {
            name.push('.');
        }
        name.push_str(key);
        let added = self.add(at, name, depth + 1);
        name.truncate(length);
        added
    }
}
