//! Rotations of `config.json`: the base frequency and the ways to stretch it to longer contexts.

use std::f64::consts::PI;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::config::Rope;
use super::fields::{positive, shown, switch};

/// Returns the rotation that `config.json` describes, of `dims` numbers of a head. Newer files have
/// `"rope_parameters"`, older ones `"rope_theta"` and `"rope_scaling"`.
///
/// # Errors
/// One sentence with the key, what was expected and what was found.
pub fn rope(v: &Value, dims: usize, default_theta: f64) -> Result<Rope> {
    let parameters = &v["rope_parameters"];
    let merged = if parameters.is_object() {
        parameters.clone()
    } else {
        let mut scaling = match &v["rope_scaling"] {
            Value::Null => json!({}),
            scaling if scaling.is_object() => scaling.clone(),
            other => bail!("\"rope_scaling\" must be an object, found {}", shown(other)),
        };
        scaling["rope_theta"] = v["rope_theta"].clone();
        scaling
    };
    let mut rope = of_parameters(&merged, v, dims, default_theta)?;
    rope.interleaved = switch(v, "rope_interleaved", false)?;
    // GGUF files store the stretch of each frequency as a tensor.
    if let Some(factors) = v["rope_factors"].as_array() {
        for (f, factor) in rope.frequencies.iter_mut().zip(factors) {
            *f /= factor.as_f64().unwrap_or(1.0) as f32;
        }
    }
    Ok(rope)
}

/// Returns the rotation of one set of parameters.
pub fn of_parameters(p: &Value, config: &Value, dims: usize, default_theta: f64) -> Result<Rope> {
    let theta = positive(p, "rope_theta")?.unwrap_or(default_theta);
    let mut rope = Rope::new(dims, theta);
    let kind = if p["rope_type"].is_null() { &p["type"] } else { &p["rope_type"] };
    let need = |key: &str| match positive(p, key)? {
        Some(x) => Ok(x),
        None => bail!("\"rope_scaling\" of type {} must have {key:?}", shown(kind)),
    };
    // The longest context before it was stretched.
    let original = || match positive(p, "original_max_position_embeddings")? {
        Some(x) => Ok(x),
        None => match positive(config, "max_position_embeddings")? {
            Some(x) => Ok(x),
            None => bail!("\"max_position_embeddings\" must be given"),
        },
    };
    match kind.as_str() {
        // A dynamic one stretches nothing within the context that the model states.
        None | Some("default" | "dynamic") => {}
        Some("linear") => {
            let factor = need("factor")? as f32;
            rope.frequencies.iter_mut().for_each(|f| *f /= factor);
        }
        Some("llama3") => {
            let (factor, low, high) = (need("factor")?, need("low_freq_factor")?, need("high_freq_factor")?);
            let original = original()?;
            for f in &mut rope.frequencies {
                let wavelength = 2.0 * PI / f64::from(*f);
                let share = (original / wavelength - low) / (high - low);
                let kept = share.clamp(0.0, 1.0);
                *f = (f64::from(*f) * ((1.0 - kept) / factor + kept)) as f32;
            }
        }
        Some("yarn") => {
            let (factor, original) = (need("factor")?, original()?);
            let beta = |key: &str, default: f64| Ok::<_, anyhow::Error>(positive(p, key)?.unwrap_or(default));
            let turns_at = |beta: f64| dims as f64 * (original / (beta * 2.0 * PI)).ln() / (2.0 * theta.ln());
            let low = turns_at(beta("beta_fast", 32.0)?).floor().max(0.0);
            let high = turns_at(beta("beta_slow", 1.0)?).ceil().min(dims as f64 - 1.0);
            let high = if high == low { low + 1e-3 } else { high };
            for (i, f) in rope.frequencies.iter_mut().enumerate() {
                let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                *f = (f64::from(*f) * (stretched / factor + 1.0 - stretched)) as f32;
            }
            let default = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            rope.magnitude = positive(p, "attention_factor")?.unwrap_or(default) as f32;
        }
        _ => bail!("\"rope_type\" must be default, linear, dynamic, llama3 or yarn, found {}", shown(kind)),
    }
    Ok(rope)
}
