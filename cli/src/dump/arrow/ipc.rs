//! Reads the part of Arrow's stream format that tells where the numbers of nested lists lie: the schema, and the
//! buffers of each record batch. Total: any bytes give a file or an error.
//!
//! Messages are flatbuffers (Arrow's `Message.fbs` and `Schema.fbs`). A table begins with its distance to a list of its
//! fields; an entry of the list is the distance from the table to the field, or 0 if the field is absent.

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

/// Most fields of a schema, the children of columns included.
const MOST_FIELDS: usize = 1 << 12;

/// How the lengths of lists are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    /// In a buffer of offsets, `i64` if `wide`, otherwise `i32`.
    Offsets { wide: bool },
    /// All lists have this many elements.
    Fixed(usize),
}

/// The type of the numbers in the innermost lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Floats of this size in bytes.
    Float(usize),
    /// Integers of this size in bytes, and whether they have a sign.
    Integer(usize, bool),
    /// Anything else.
    Other,
}

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// The lists around the numbers, outermost first.
    pub(super) lists: Vec<List>,
    pub(super) leaf: Leaf,
    /// Index of its first node in a batch.
    first_node: usize,
    /// Index of its first buffer in a batch.
    first_buffer: usize,
}

/// A record batch.
pub(super) struct Batch {
    /// Length and number of missing values of each field, depth first.
    nodes: Vec<[i64; 2]>,
    /// Byte ranges in the file, depth first.
    buffers: Vec<Range<usize>>,
}

/// A file: its columns and its record batches in order.
pub(super) struct File {
    pub(super) columns: Vec<Column>,
    pub(super) batches: Vec<Batch>,
}

/// The values of a column in a batch.
pub(super) struct Values {
    /// The bounds of the lists of each level, outermost first.
    pub(super) bounds: Vec<Bounds>,
    /// The byte range of the numbers in the file; those of the innermost lists follow each other.
    pub(super) bytes: Range<usize>,
}

/// Where the lists of one level begin and end among the elements of the next level.
pub(super) enum Bounds {
    /// `lists` lists of `each` elements.
    Regular { lists: usize, each: usize },
    /// The first element of each list, from 0 on, then the end of the last list.
    Irregular(Vec<usize>),
}

/// A table of a flatbuffer.
#[derive(Clone, Copy)]
struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
}

const DAMAGED: &str = "damaged Arrow message";

/// Returns the `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let found = at.checked_add(N).and_then(|end| bytes.get(at..end)).context(DAMAGED)?;
    Ok(found.try_into().expect("as many bytes"))
}

/// Returns the position that the distance at `at` leads to.
fn offset(bytes: &[u8], at: usize) -> Result<usize> {
    let to = u32::from_le_bytes(number(bytes, at)?) as usize;
    at.checked_add(to).filter(|at| *at < bytes.len()).context(DAMAGED)
}

impl<'a> Table<'a> {
    fn root(bytes: &'a [u8]) -> Result<Self> {
        Ok(Self { bytes, at: offset(bytes, 0)? })
    }

    /// Returns the position of field `index`, if it is present.
    fn field(self, index: usize) -> Result<Option<usize>> {
        let back = i64::from(i32::from_le_bytes(number(self.bytes, self.at)?));
        let list = usize::try_from(self.at as i64 - back).ok().context(DAMAGED)?;
        let size = usize::from(u16::from_le_bytes(number(self.bytes, list)?));
        let slot = 4 + 2 * index;
        if slot + 2 > size {
            return Ok(None);
        }
        let distance = usize::from(u16::from_le_bytes(number(self.bytes, list + slot)?));
        Ok((distance > 0).then_some(self.at + distance))
    }

    fn byte(self, index: usize) -> Result<u8> {
        self.field(index)?.map_or(Ok(0), |at| Ok(number::<1>(self.bytes, at)?[0]))
    }

    fn short(self, index: usize) -> Result<i16> {
        self.field(index)?.map_or(Ok(0), |at| Ok(i16::from_le_bytes(number(self.bytes, at)?)))
    }

    fn int(self, index: usize) -> Result<i32> {
        self.field(index)?.map_or(Ok(0), |at| Ok(i32::from_le_bytes(number(self.bytes, at)?)))
    }

    fn long(self, index: usize) -> Result<i64> {
        self.field(index)?.map_or(Ok(0), |at| Ok(i64::from_le_bytes(number(self.bytes, at)?)))
    }

    fn table(self, index: usize) -> Result<Option<Self>> {
        self.field(index)?.map(|at| Ok(Self { bytes: self.bytes, at: offset(self.bytes, at)? })).transpose()
    }

    /// Returns the position of the first element of a vector, and the number of elements, of `element` bytes each.
    fn vector(self, index: usize, element: usize) -> Result<(usize, usize)> {
        let Some(at) = self.field(index)? else { return Ok((0, 0)) };
        let at = offset(self.bytes, at)?;
        let n = u32::from_le_bytes(number(self.bytes, at)?) as usize;
        let fits = n.checked_mul(element).is_some_and(|size| size <= self.bytes.len() - at);
        ensure!(fits, DAMAGED);
        Ok((at + 4, n))
    }

    fn text(self, index: usize) -> Result<String> {
        let (at, n) = self.vector(index, 1)?;
        Ok(String::from_utf8_lossy(self.bytes.get(at..at + n).context(DAMAGED)?).into_owned())
    }

    fn tables(self, index: usize) -> Result<Vec<Self>> {
        let (at, n) = self.vector(index, 4)?;
        ensure!(n <= MOST_FIELDS, DAMAGED);
        (0..n).map(|i| Ok(Self { bytes: self.bytes, at: offset(self.bytes, at + 4 * i)? })).collect()
    }
}

/// Counts the nodes and buffers of a schema, depth first, as record batches list them.
#[derive(Default)]
struct Walk {
    nodes: usize,
    buffers: usize,
}

impl Walk {
    /// Visits a field and its children. `column` gets the lists of the field, of its child, and so on, and the type of
    /// the numbers in the innermost ones.
    fn pass(&mut self, field: Table<'_>, depth: usize, column: &mut Option<Column>) -> Result<()> {
        ensure!(self.nodes < MOST_FIELDS && depth < 32, "the schema: expected at most {MOST_FIELDS} fields");
        ensure!(field.table(4)?.is_none(), "columns of dictionaries are not read");
        let (kind, about) = (field.byte(2)?, field.table(3)?);
        let about = |index: usize| about.map_or(Ok(0), |t| t.int(index));
        self.nodes += 1;
        let (buffers, list, leaf) = match kind {
            1 => (0, None, Leaf::Other),
            2 => {
                let bits = about(0)?;
                let signed = field.table(3)?.map_or(Ok(0), |t| t.byte(1))? != 0;
                (2, None, Leaf::Integer(usize::try_from(bits / 8).unwrap_or(0), signed))
            }
            3 => {
                let precision = field.table(3)?.map_or(Ok(0), |t| t.short(0))?;
                (2, None, Leaf::Float(2 << precision.clamp(0, 2)))
            }
            6..=11 | 15 | 18 => (2, None, Leaf::Other),
            4 | 5 | 19 | 20 => (3, None, Leaf::Other),
            12 => (2, Some(List::Offsets { wide: false }), Leaf::Other),
            21 => (2, Some(List::Offsets { wide: true }), Leaf::Other),
            16 => (1, Some(List::Fixed(usize::try_from(about(0)?).unwrap_or(0))), Leaf::Other),
            13 => (1, None, Leaf::Other),
            17 => (2, None, Leaf::Other),
            other => bail!("the schema: columns of type {other} of Arrow are not read"),
        };
        self.buffers += buffers;
        let children = field.tables(5)?;
        if let Some(column) = column {
            match list {
                Some(list) => column.lists.push(list),
                None => column.leaf = leaf,
            }
        }
        let mut none = None;
        let inside = if list.is_some() { column } else { &mut none };
        children.into_iter().try_for_each(|child| self.pass(child, depth + 1, inside))
    }
}

impl File {
    /// Reads the columns and batches of `file`, all bytes of a stream or of a file, which begins with a magic string.
    ///
    /// # Errors
    /// If the bytes are damaged or compressed, or have types that are not read.
    pub(super) fn parse(file: &[u8]) -> Result<Self> {
        let mut at = if file.starts_with(b"ARROW1\0\0") { 8 } else { 0 };
        let (mut columns, mut batches) = (None, Vec::new());
        while at < file.len() {
            let mut length = i32::from_le_bytes(number(file, at)?);
            at += 4;
            // Since 2019, -1 comes before the length.
            if length == -1 {
                length = i32::from_le_bytes(number(file, at)?);
                at += 4;
            }
            if length == 0 {
                break;
            }
            let end = usize::try_from(length).ok().and_then(|n| at.checked_add(n)).context(DAMAGED)?;
            let message =
                Table::root(file.get(at..end).context("the file ends within a message: was it written whole?")?)?;
            let body_size = usize::try_from(message.long(3)?).ok().context(DAMAGED)?;
            let body = end..end.checked_add(body_size).context(DAMAGED)?;
            ensure!(body.end <= file.len(), "the file ends within a record batch: was it written whole?");
            match (message.byte(1)?, message.table(2)?) {
                (1, Some(schema)) if columns.is_none() => columns = Some(read_schema(schema)?),
                (3, Some(batch)) if columns.is_some() => batches.push(read_batch(batch, &body)?),
                (2, _) => bail!("columns of dictionaries are not read"),
                _ => bail!(DAMAGED),
            }
            at = body.end;
        }
        Ok(Self { columns: columns.context("expected a schema, found none")?, batches })
    }
}

fn read_schema(schema: Table<'_>) -> Result<Vec<Column>> {
    ensure!(schema.short(0)? == 0, "expected little-endian numbers, found big-endian ones");
    let (mut walk, mut columns) = (Walk::default(), Vec::new());
    for field in schema.tables(1)? {
        let mut column = Some(Column {
            name: field.text(0)?,
            lists: Vec::new(),
            leaf: Leaf::Other,
            first_node: walk.nodes,
            first_buffer: walk.buffers,
        });
        walk.pass(field, 0, &mut column)?;
        columns.extend(column);
    }
    Ok(columns)
}

fn read_batch(batch: Table<'_>, body: &Range<usize>) -> Result<Batch> {
    if let Some(compression) = batch.table(3)? {
        let codec = if compression.byte(0)? == 1 { "zstd" } else { "LZ4" };
        bail!("its record batches are compressed ({codec}), and only plain ones can be mapped");
    }
    let pairs = |index: usize| -> Result<Vec<[i64; 2]>> {
        let (at, n) = batch.vector(index, 16)?;
        let long = |at: usize| Ok::<_, anyhow::Error>(i64::from_le_bytes(number(batch.bytes, at)?));
        (0..n).map(|i| Ok([long(at + 16 * i)?, long(at + 16 * i + 8)?])).collect()
    };
    let range = |[offset, length]: [i64; 2]| {
        let start = body.start.checked_add(usize::try_from(offset).ok()?)?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= body.end).then_some(start..end)
    };
    let buffers = pairs(2)?.into_iter().map(|pair| range(pair).context(DAMAGED)).collect::<Result<_>>()?;
    Ok(Batch { nodes: pairs(1)?, buffers })
}

impl Column {
    /// Returns where the numbers of this column lie in a batch, and the bounds of its lists.
    ///
    /// # Errors
    /// If values are missing, or buffers do not fit.
    pub(super) fn values(&self, file: &[u8], batch: &Batch) -> Result<Values> {
        let name = &self.name;
        let size = match self.leaf {
            Leaf::Float(size) | Leaf::Integer(size, _) => size,
            Leaf::Other => bail!("column `{name}`: expected lists of numbers, found others"),
        };
        let node = |level: usize| -> Result<usize> {
            let [length, nulls] = *batch.nodes.get(self.first_node + level).context(DAMAGED)?;
            ensure!(nulls == 0, "column `{name}`: expected no missing values, found {nulls}");
            usize::try_from(length).ok().context(DAMAGED)
        };
        let buffer = |number: usize| batch.buffers.get(self.first_buffer + number).cloned().context(DAMAGED);
        let (mut first, mut count, mut next) = (0_usize, node(0)?, 0);
        let mut bounds = Vec::new();
        for (level, list) in self.lists.iter().enumerate() {
            node(level)?;
            match *list {
                List::Fixed(each) => {
                    next += 1;
                    bounds.push(Bounds::Regular { lists: count, each });
                    first = first.checked_mul(each).context(DAMAGED)?;
                    count = count.checked_mul(each).context(DAMAGED)?;
                }
                List::Offsets { wide } => {
                    let (bytes, width) = (buffer(next + 1)?, if wide { 8 } else { 4 });
                    next += 2;
                    let part = count.checked_add(1).and_then(|n| n.checked_mul(width)).and_then(|n| {
                        let start = bytes.start.checked_add(first.checked_mul(width)?)?;
                        file.get(start..start.checked_add(n)?).filter(|_| start + n <= bytes.end)
                    });
                    let read = |b: &[u8]| match wide {
                        true => i64::from_le_bytes(b.try_into().expect("8 bytes")),
                        false => i64::from(i32::from_le_bytes(b.try_into().expect("4 bytes"))),
                    };
                    // An empty batch may leave the buffer out.
                    let ends: Vec<i64> = match part {
                        Some(part) => part.chunks_exact(width).map(read).collect(),
                        None if count == 0 => vec![0],
                        None => bail!(DAMAGED),
                    };
                    ensure!(ends.windows(2).all(|w| w[0] <= w[1]) && ends[0] >= 0, DAMAGED);
                    let begin = ends[0] as usize;
                    let ends: Vec<usize> = ends.into_iter().map(|e| e as usize - begin).collect();
                    (first, count) = (begin, *ends.last().expect("one more than lists"));
                    bounds.push(regular(ends));
                }
            }
        }
        let bytes = buffer(next + 1)?;
        let start = first.checked_mul(size).and_then(|n| bytes.start.checked_add(n));
        let end = start.and_then(|s| s.checked_add(count.checked_mul(size)?));
        let (Some(start), Some(end)) = (start, end.filter(|e| *e <= bytes.end)) else { bail!(DAMAGED) };
        Ok(Values { bounds, bytes: start..end })
    }
}

/// Returns the bounds of lists that end at `ends`, in the shorter form if all have the same number of elements.
fn regular(ends: Vec<usize>) -> Bounds {
    let lists = ends.len() - 1;
    let each = if lists == 0 { 0 } else { ends[1] };
    match ends.windows(2).all(|w| w[1] - w[0] == each) {
        true => Bounds::Regular { lists, each },
        false => Bounds::Irregular(ends),
    }
}
