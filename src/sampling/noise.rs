//! Chance that can be had again: numbers that depend on a seed, a place in the answer and a token.

/// The noise of one draw.
#[derive(Debug, Clone, Copy)]
pub(super) struct Noise {
    add: u32,
    flip: u32,
}

impl Noise {
    /// For the `index`-th token of an answer with this seed.
    pub(super) fn new(seed: u64, index: u32) -> Self {
        // SplitMix64 (Steele, Lea, Flood, 2014) at place `index` of the seed's sequence.
        let mut state =
            mix(seed).wrapping_add(u64::from(index).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        state = mix(state);
        let half = |shift: u32| u32::try_from(state >> shift & 0xFFFF_FFFF).unwrap_or(0);
        Self {
            add: half(0),
            flip: half(32),
        }
    }

    /// A number above 0 of the exponential distribution with mean 1. Without a branch, a table or a
    /// call, so that loops over it become vector code.
    pub(super) fn exponential(self, token: u32) -> f32 {
        // The hash of Wellons' "lowbias32", with half of the seed on either side of its first step.
        let mut bits = token.wrapping_mul(0x9E37_79B1).wrapping_add(self.add);
        bits ^= bits >> 16;
        bits = bits.wrapping_mul(0x7FEB_352D) ^ self.flip;
        bits ^= bits >> 15;
        bits = bits.wrapping_mul(0x846C_A68B);
        bits ^= bits >> 16;
        // The signed conversion is a vector instruction everywhere; 31 bits are enough.
        #[allow(clippy::cast_precision_loss)] // a float keeps the highest 24 of them
        let uniform = ((bits >> 1).cast_signed() as f32 + 0.5) * (1.0 / 2_147_483_648.0);
        // -ln(1 - u), which for small u is a series, because 1 - u would lose its digits.
        let small = uniform * (1.0 + uniform * (0.5 + uniform * (1.0 / 3.0)));
        let large = -ln((1.0 - uniform).max(1e-7));
        if uniform < 0.01 { small } else { large }
    }
}

fn mix(mut state: u64) -> u64 {
    state ^= state >> 30;
    state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state ^= state >> 27;
    state = state.wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ state >> 31
}

/// The natural logarithm of `x`, positive and normal, to 10⁻⁵: the exponent's bits, and the series of
/// the area tangent for what is left between 0.7 and 1.4.
fn ln(x: f32) -> f32 {
    // The bits of √½, so that the rest is around 1.
    const ROOT: u32 = 0x3F35_04F3;
    let bits = x.to_bits().wrapping_sub(ROOT);
    #[allow(clippy::cast_precision_loss)] // an exponent has 8 bits
    let exponent = (bits.cast_signed() >> 23) as f32;
    let rest = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(ROOT));
    let t = (rest - 1.0) / (rest + 1.0);
    let square = t * t;
    let series = 2.0 * t * (1.0 + square * (1.0 / 3.0 + square * (0.2 + square * (1.0 / 7.0))));
    exponent * std::f32::consts::LN_2 + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_exact_enough() {
        for step in 1..60_000_u16 {
            let x = f32::from(step) / 60_000.0;
            assert!((ln(x) - x.ln()).abs() < 1e-5, "{x}");
        }
    }

    #[test]
    fn numbers_have_the_mean_and_the_spread_of_their_distribution() {
        for (seed, index) in [(0, 0), (0, 1), (1, 0), (u64::MAX, 7)] {
            let noise = Noise::new(seed, index);
            let numbers: Vec<f64> = (0..100_000)
                .map(|token| f64::from(noise.exponential(token)))
                .collect();
            let mean = numbers.iter().sum::<f64>() / 1e5;
            let spread = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
            assert!((mean - 1.0).abs() < 0.02 && (spread - 1.0).abs() < 0.04);
            assert!(numbers.iter().all(|x| *x > 0.0 && x.is_finite()));
        }
    }

    #[test]
    fn neighbouring_draws_have_nothing_in_common() {
        let (one, two) = (Noise::new(3, 10), Noise::new(3, 11));
        let product: f64 = (0..10_000)
            .map(|token| f64::from((one.exponential(token) - 1.0) * (two.exponential(token) - 1.0)))
            .sum();
        assert!((product / 1e4).abs() < 0.05);
    }
}
