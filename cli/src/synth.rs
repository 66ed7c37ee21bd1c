//! `strata synth`: a dump of a synthetic world, with its truth beside it.

use crate::args;
use crate::console::Console;
use crate::dump::{DumpSpec, DumpSummary, DumpWriter};
use crate::truth;
use anyhow::{Context, Result, bail};
use strata_core::Par;
use strata_core::synth::{World, WorldConfig};
use toml::Value;

/// Rows that one thread makes at a time.
const PIECE: usize = 256;
/// Such pieces that are made together.
const TOGETHER: usize = 64;

/// Writes the dump.
///
/// # Errors
/// One sentence for a constant that makes no world, a path that exists, or a full disk.
pub fn synth(args: &args::Synth, console: &mut Console<'_>) -> Result<DumpSummary> {
    if args.rows == 0 {
        bail!("--rows: expected at least 1, found 0");
    }
    let config = world_of(args)?;
    let mut writer = DumpWriter::create(&args.out, DumpSpec::new(config.d.max(1), args.dtype))?;
    let world = World::new(&config)?;
    let d = config.d;
    let bar = console.bar("drawing", args.rows, "rows");
    let starts: Vec<u64> = (0..args.rows).step_by(PIECE).collect();
    for some in starts.chunks(TOGETHER) {
        let pieces = Par::Rayon.map(some.len(), |i| {
            let n = (args.rows - some[i]).min(PIECE as u64) as usize;
            let mut x = vec![0.0; n * d];
            world.sample(some[i], n, &mut x, None);
            x
        });
        for piece in pieces {
            writer.append(&piece, None)?;
            bar.inc((piece.len() / d) as u64);
        }
    }
    truth::write(&mut writer, &world, args.rows)?;
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

/// The preset, with the seed and the constants that were given.
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
