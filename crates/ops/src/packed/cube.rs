//! Packed weights widened on a GPU: one kernel, a word a thread.

use burn::backend::Cube;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, Shape};
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;

use super::{Packed, PackedOps};

impl PackedOps for Cube {
    fn packed_dense(Packed { words, levels, scales, spec }: Packed<Self>) -> FloatTensor<Self> {
        let [words, levels, scales] = [words, levels, scales].map(into_contiguous);
        let (client, device) = (words.client.clone(), words.device.clone());
        let values = empty_device_contiguous_dtype(client.clone(), device, Shape::new(spec.shape), DType::F32);
        let count = words.meta.num_elements();
        let dim = CubeDim::new(&client, count);
        // SAFETY: a thread reads the word of its own number and the scales of its codes, where these are within the
        // matrix, which the kernel asks; a code is one of as many levels as it has values.
        unsafe {
            widen::launch_unchecked(
                &client,
                calculate_cube_count_elemwise(&client, count, dim),
                dim,
                words.into_buffer_arg(),
                levels.into_buffer_arg(),
                scales.into_buffer_arg(),
                values.clone().into_buffer_arg(),
                spec.block,
                spec.bits,
            );
        }
        values
    }
}

/// `values[i] = levels[code i] scales[i / block]`.
#[cube(launch_unchecked)]
fn widen(
    words: &[i32],
    levels: &[f32],
    scales: &[f32],
    values: &mut [f32],
    #[comptime] block: usize,
    #[comptime] bits: usize,
) {
    let each = comptime!(32 / bits);
    let mask = comptime!((1_i32 << bits) - 1);
    // The first of two codes of 4 bits is in the upper half of its byte.
    let turned = comptime!(usize::from(bits == 4));
    if ABSOLUTE_POS < words.len() {
        let word = words[ABSOLUTE_POS];
        #[unroll]
        for code in 0..each {
            let place = ABSOLUTE_POS * each + code;
            if place < values.len() {
                let shift = i32::cast_from((code ^ turned) * bits);
                // What the sign brings in is above the mask.
                let level = (word >> shift) & mask;
                values[place] = levels[usize::cast_from(level)] * scales[place / block];
            }
        }
    }
}
