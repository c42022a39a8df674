//! Converts a model's vectors to those that are sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::wire::Vector;

/// How a vector's numbers are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum VectorEncoding {
    Float,
    Base64,
}

impl VectorEncoding {
    pub(super) fn write(self, vector: Vec<f32>) -> Vector {
        match self {
            Self::Float => Vector::Float(vector),
            Self::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

/// Returns the first `dimensions` numbers, scaled to length 1. Returns `None` if the vector is zero or not
/// finite.
pub(super) fn unit(mut vector: Vec<f32>, dimensions: usize) -> Option<Vec<f32>> {
    vector.truncate(dimensions);
    let squares: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let length = squares.sqrt();
    if !length.is_finite() || length == 0.0 {
        return None;
    }
    for x in &mut vector {
        #[allow(clippy::cast_possible_truncation)] // between -1 and 1
        let scaled = (f64::from(*x) / length) as f32;
        *x = scaled;
    }
    Some(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_cut_and_then_scaled_to_length_one() {
        assert_eq!(unit(vec![3.0, 4.0], 2), Some(vec![0.6, 0.8]));
        assert_eq!(unit(vec![3.0, 4.0, 12.0], 2), Some(vec![0.6, 0.8]));
        assert_eq!(unit(vec![-7.0, 4.0], 1), Some(vec![-1.0]));
        // Squares beyond f32.
        let large = 2_f32.powi(100);
        assert_eq!(
            unit(vec![3.0 * large, 4.0 * large], 2),
            Some(vec![0.6, 0.8])
        );
    }

    #[test]
    fn what_has_no_direction_is_no_vector() {
        for wrong in [
            vec![0.0, 0.0],
            vec![f32::NAN, 1.0],
            vec![f32::INFINITY, 1.0],
        ] {
            assert_eq!(unit(wrong, 2), None);
        }
    }

    #[test]
    fn base64_holds_little_endian_floats() {
        let written = VectorEncoding::Base64.write(vec![1.0, -2.0]);
        assert!(matches!(written, Vector::Base64(text) if text == "AACAPwAAAMA="));
    }
}
