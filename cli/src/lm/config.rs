//! What a language model computes: its sizes, and the choices in which the families differ.

/// The nonlinearity of the feed-forward layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / 2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 * x^3)))`
    GeluNew,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    Gelu,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + exp(-x))`
    Silu,
}

impl Activation {
    /// Returns the activation with a name of `transformers`.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Self::GeluNew,
            "gelu" => Self::Gelu,
            "relu" => Self::Relu,
            "silu" | "swish" => Self::Silu,
            _ => return None,
        })
    }
}

/// A rotation of queries and keys by their position: pair `i` of a head turns by `position * frequencies[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The frequency of each pair; twice as many numbers of a head are rotated, and those after them stay.
    pub frequencies: Vec<f32>,
    /// Factor of the rotated numbers.
    pub magnitude: f32,
    /// A pair is two neighbours; otherwise a number of the first half with that of the second half.
    pub interleaved: bool,
}

impl Rope {
    /// Returns the rotation of the first `dims` numbers of a head with frequencies `theta^(-2 i / dims)`.
    pub fn new(dims: usize, theta: f64) -> Self {
        // As others do, in f32: an angle of a late position differs visibly with another rounding of its frequency.
        let power = |i: usize| (theta as f32).powf(2.0 * i as f32 / dims as f32);
        Self { frequencies: (0..dims / 2).map(|i| 1.0 / power(i)).collect(), magnitude: 1.0, interleaved: false }
    }

    /// Returns the cosines and sines of the angles at positions `0..t`, each `(t, pairs)`.
    pub fn tables(&self, t: usize) -> (Vec<f32>, Vec<f32>) {
        let angles = (0..t).flat_map(|p| self.frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        let magnitude = f64::from(self.magnitude);
        angles.map(|a| ((a.cos() * magnitude) as f32, (a.sin() * magnitude) as f32)).unzip()
    }
}

/// What the attention of one block does.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Scores are multiplied by this.
    pub scale: f64,
    /// A token attends to itself and at most this many minus one before it.
    pub window: Option<usize>,
    /// Index in [`Config::ropes`].
    pub rope: Option<usize>,
}

/// What a language model computes.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of the residual stream.
    pub d: usize,
    /// Heads of the attention.
    pub n_head: usize,
    /// Heads of keys and values; each serves `n_head / n_kv` heads that follow each other.
    pub n_kv: usize,
    /// Numbers per head.
    pub head_dim: usize,
    /// Width of the feed-forward layers.
    pub d_mlp: usize,
    /// Longest sequence.
    pub n_positions: usize,
    /// Number of token ids.
    pub vocab_size: usize,
    /// The attention of each block.
    pub attention: Vec<Attention>,
    /// The rotations that occur.
    pub ropes: Vec<Rope>,
    /// Scores become `cap * tanh(score / cap)`.
    pub attention_cap: Option<f64>,
    /// The nonlinearity of the feed-forward layers.
    pub activation: Activation,
    /// Attention and feed-forward layer both read the stream before the block.
    pub is_parallel: bool,
    /// Token embeddings are multiplied by this.
    pub embedding_scale: Option<f64>,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_cap: Option<f64>,
    /// Constant that every norm adds to the variance.
    pub epsilon: f64,
    /// The token that begins a text.
    pub bos_token_id: Option<u32>,
    /// The output matrix is the token embedding.
    pub tie_word_embeddings: bool,
}

impl Config {
    /// Returns the number of blocks.
    pub fn n_layer(&self) -> usize {
        self.attention.len()
    }

    /// Returns about how many bytes the weights of all blocks take in f32.
    pub fn block_bytes(&self) -> u64 {
        let attention = 2 * self.d * self.head_dim * (self.n_head + self.n_kv);
        4 * (self.n_layer() * (attention + 3 * self.d * self.d_mlp)) as u64
    }
}
