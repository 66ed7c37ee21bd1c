//! `strata synth`: a dump of a synthetic world, with its truth beside it; or the world alone, whose rows are drawn when
//! they are read.

use crate::args;
use crate::console::{Console, check_interrupt};
use crate::dump::{DumpSpec, DumpSummary, DumpWriter};
use crate::files::{PendingDirectory, expect_free, expect_space, write_atomic};
use crate::truth;
use anyhow::{Context, Result, bail};
use strata_core::synth::{World, WorldConfig};
use strata_core::{Dtype, Par};
use toml::Value;

/// Rows that one thread makes at a time.
const PIECE: usize = 256;
/// Pieces that are made together.
const TOGETHER: usize = 64;

/// Writes the dump.
///
/// # Errors
/// One sentence for a constant that does not define a world, a path that exists, or a full disk.
pub fn synth(args: &args::Synth, console: &mut Console<'_>) -> Result<DumpSummary> {
    if args.rows == 0 {
        bail!("--rows: expected at least 1, found 0");
    }
    let config = world_of(args)?;
    // Errors are found before the directions are drawn, which takes time; sizes are checked before anything of their
    // size is allocated.
    expect_free(&args.out)?;
    let world = World::new(&config)?;
    if args.streamed {
        return streamed(args, &world, console);
    }
    let bytes = u128::from(args.rows) * config.d as u128 * args.dtype.size_bytes() as u128;
    expect_space(&args.out, bytes, || format!("{} rows of {} numbers take", args.rows, config.d))?;
    let mut writer = DumpWriter::create(&args.out, DumpSpec::new(config.d, args.dtype))?;
    let d = config.d;
    let bar = console.bar("drawing", args.rows, "rows");
    for first in (0..args.rows).step_by(PIECE * TOGETHER) {
        check_interrupt()?;
        let pieces = (args.rows - first).div_ceil(PIECE as u64).min(TOGETHER as u64);
        let pieces = Par::Rayon.map(pieces as usize, |i| {
            let start = first + (i * PIECE) as u64;
            let n = (args.rows - start).min(PIECE as u64) as usize;
            let mut x = vec![0.0; n * d];
            world.sample(start, n, &mut x, None);
            x
        });
        for piece in pieces {
            writer.append(&piece, None)?;
            bar.inc((piece.len() / d) as u64);
        }
    }
    truth::write(&world, args.rows, |name, bytes| writer.attach(name, bytes))?;
    let summary = writer.finish()?;
    bar.finish_and_clear();
    console.note(format!(
        "drew {} rows of width {d} from a world of {} features, mean L0 {:.2}, into {}",
        summary.n_rows,
        world.n_features(),
        world.expected_l0(),
        args.out.display()
    ));
    Ok(summary)
}

/// Writes the world alone, whose rows are drawn when they are read.
fn streamed(args: &args::Synth, world: &World, console: &mut Console<'_>) -> Result<DumpSummary> {
    if args.dtype != Dtype::F32 {
        bail!("--streamed: rows that are drawn are f32, and --dtype asks for {}: leave one of them out", args.dtype);
    }
    let directory = PendingDirectory::create(&args.out)?;
    truth::write(world, args.rows, |name, bytes| write_atomic(&directory.hidden().join(name), bytes))?;
    directory.finish()?;
    console.note(format!(
        "{} is a world of {} features, mean L0 {:.2}, whose {} rows of width {} are drawn whenever they are read",
        args.out.display(),
        world.n_features(),
        world.expected_l0(),
        args.rows,
        world.config().d
    ));
    Ok(DumpSummary { path: args.out.clone(), n_rows: args.rows, n_shards: 0, n_bytes: 0, mean_norm: None })
}

/// Returns the preset with the seed and the constants that were given.
fn world_of(args: &args::Synth) -> Result<WorldConfig> {
    let preset = match args.world {
        args::WorldName::A => WorldConfig::a(),
        args::WorldName::B => WorldConfig::b(),
        args::WorldName::C => WorldConfig::c(),
        args::WorldName::SaeBench => WorldConfig::sae_bench(),
    };
    let mut table = Value::try_from(preset).context("the world as TOML")?;
    for set in &args.sets {
        let Some((key, text)) = set.split_once('=') else { bail!("--set {set}: expected key=value") };
        let mut at = Some(&mut table);
        for part in key.trim().split('.') {
            at = at.and_then(|v| v.get_mut(part));
        }
        let Some(old) = at.filter(|v| !v.is_table()) else {
            bail!("--set {set}: `{}` is no constant of this world; truth.json of a dump holds all of them", key.trim());
        };
        let value: Value = text.trim().parse().with_context(|| format!("--set {set}"))?;
        *old = match (&*old, value) {
            (Value::Float(_), Value::Integer(i)) => Value::Float(i as f64),
            (_, value) => value,
        };
    }
    let mut config: WorldConfig = table.try_into().context("--set")?;
    if let Some(seed) = args.seed {
        config.seed = seed;
    }
    Ok(config)
}
