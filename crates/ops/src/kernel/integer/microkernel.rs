//! The innermost loop of a product in block fixed point: one tile's integer sums in registers, a block at a time.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]

use std::mem::MaybeUninit;

use super::super::isa::InstructionSet;
use super::super::tile::Target;
use super::{BLOCK, IntegerLeft, IntegerPanel, blocks, lanes_of};

/// `c = [base +] sum over blocks of scale_a scale_b (a b)`, for one tile and a panel of `vectors` registers.
///
/// # Safety
/// The panel was packed over the left side's `k` and format, the target reaches as far as it says, and the machine runs
/// the left side's set.
pub(crate) unsafe fn multiply_tile(
    left: &IntegerLeft,
    tile: usize,
    vectors: usize,
    panel: IntegerPanel,
    target: Target,
) {
    let (row, height) = left.tiles.place(tile);
    let format = left.format;
    let count = left.k.div_ceil(BLOCK);
    // SAFETY: the tiles before hold `row` rows.
    let call = unsafe {
        Call {
            a: left.values.as_ptr().add(row * lanes_of(left.k, format.group)).cast(),
            a_scales: left.scales.as_ptr().add(row * count),
            panel,
            k: left.k,
            target,
        }
    };
    debug_assert_eq!(height, target.height, "the target is the tile's");
    // SAFETY: as the caller says.
    unsafe {
        match (left.set, format.group) {
            (InstructionSet::Portable, _) => portable(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx2, _) => x86::avx2(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512, _) => x86::avx512(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512Vnni, 2) => x86::vnni16(vectors, &call),
            #[cfg(target_arch = "x86_64")]
            (InstructionSet::Avx512Vnni, _) => x86::vnni8(vectors, &call),
            #[cfg(target_arch = "aarch64")]
            (InstructionSet::Neon, _) => arm::neon(vectors, &call),
            #[allow(unreachable_patterns, reason = "the sets of other machines")]
            _ => unreachable!("a set that this machine cannot run"),
        }
    }
}

/// One tile's work.
struct Call {
    a: *const i32,
    a_scales: *const f32,
    panel: IntegerPanel,
    k: usize,
    target: Target,
}

/// Vectors of 32-bit integers as the microkernel sees them.
trait IntegerSimd: Copy {
    type V: Copy;
    type F: Copy;
    const LANES: usize;
    /// Integers of one lane.
    const GROUP: usize;
    unsafe fn load(from: *const i32) -> Self::V;
    /// `sums + a . b`, where the group at `a` meets the group of each lane.
    unsafe fn dot(sums: Self::V, a: *const i32, b: Self::V) -> Self::V;
    unsafe fn load_f32(from: *const f32) -> Self::F;
    /// `sums * (scale * scales)`.
    unsafe fn scaled(sums: Self::V, scale: *const f32, scales: Self::F) -> Self::F;
    /// `total + sums * (scale * scales)`.
    unsafe fn scale(total: Self::F, sums: Self::V, scale: *const f32, scales: Self::F) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
}

#[inline(always)]
unsafe fn tile<S: IntegerSimd, const ROWS: usize, const VECTORS: usize>(call: &Call) {
    unsafe {
        let width = VECTORS * S::LANES;
        // The totals of a tile between blocks: in the first-level cache, since the registers hold the block's sums.
        let mut totals = MaybeUninit::<[[f32; 32]; 14]>::uninit();
        // Opaque: kept in an array of its own, the compiler would give it registers that the sums need.
        let totals: *mut f32 = std::hint::black_box(totals.as_mut_ptr().cast());
        let (mut a, mut a_scales) = (call.a, call.a_scales);
        let IntegerPanel { mut values, mut scales, mut starts } = call.panel;
        for (block, lanes) in blocks(call.k, S::GROUP) {
            let mut first = [S::load(starts); 14];
            let mut second = [S::load(starts.add(width - S::LANES)); 14];
            for _ in 0..lanes {
                let column = S::load(values.cast());
                if VECTORS == 2 {
                    let column_2 = S::load(values.add(S::LANES).cast());
                    super::super::tile::rows!(ROWS, ROW, {
                        first[ROW] = S::dot(first[ROW], a.add(ROW), column);
                        second[ROW] = S::dot(second[ROW], a.add(ROW), column_2);
                    });
                } else {
                    super::super::tile::rows!(ROWS, ROW, {
                        first[ROW] = S::dot(first[ROW], a.add(ROW), column);
                    });
                }
                a = a.add(ROWS);
                values = values.add(width);
            }
            let column = S::load_f32(scales);
            let column_2 = S::load_f32(scales.add(width - S::LANES));
            if block.start == 0 {
                super::super::tile::rows!(ROWS, ROW, {
                    let total = totals.add(ROW * 32);
                    S::store(total, S::scaled(first[ROW], a_scales.add(ROW), column));
                    if VECTORS == 2 {
                        S::store(total.add(S::LANES), S::scaled(second[ROW], a_scales.add(ROW), column_2));
                    }
                });
            } else {
                super::super::tile::rows!(ROWS, ROW, {
                    let total = totals.add(ROW * 32);
                    S::store(total, S::scale(S::load_f32(total), first[ROW], a_scales.add(ROW), column));
                    if VECTORS == 2 {
                        let total = total.add(S::LANES);
                        S::store(total, S::scale(S::load_f32(total), second[ROW], a_scales.add(ROW), column_2));
                    }
                });
            }
            a_scales = a_scales.add(ROWS);
            scales = scales.add(width);
            starts = starts.add(width);
        }
        let whole = call.target.columns == width && call.target.base.is_null();
        for row in 0..ROWS {
            let totals = totals.add(row * 32).cast_const();
            let place = row * call.target.stride;
            let line = call.target.c.add(place);
            if whole {
                for vector in 0..VECTORS {
                    S::store(line.add(vector * S::LANES), S::load_f32(totals.add(vector * S::LANES)));
                }
                continue;
            }
            for column in 0..call.target.columns {
                let base = if call.target.base.is_null() { 0.0 } else { *call.target.base.add(place + column) };
                *line.add(column) = base + *totals.add(column);
            }
        }
    }
}

/// Arrays of 8 lanes of two 16-bit integers.
#[derive(Clone, Copy)]
struct Portable16;

impl IntegerSimd for Portable16 {
    type V = [i32; 8];
    type F = [f32; 8];
    const LANES: usize = 8;
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn load(from: *const i32) -> [i32; 8] {
        unsafe { from.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot(sums: [i32; 8], a: *const i32, b: [i32; 8]) -> [i32; 8] {
        let a = unsafe { *a };
        let low = |pair: i32| i32::from(pair as i16);
        std::array::from_fn(|lane| sums[lane] + low(a) * low(b[lane]) + (a >> 16) * (b[lane] >> 16))
    }
    #[inline(always)]
    unsafe fn load_f32(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn scaled(sums: [i32; 8], scale: *const f32, scales: [f32; 8]) -> [f32; 8] {
        let scale = unsafe { *scale };
        std::array::from_fn(|lane| sums[lane] as f32 * (scale * scales[lane]))
    }
    #[inline(always)]
    unsafe fn scale(total: [f32; 8], sums: [i32; 8], scale: *const f32, scales: [f32; 8]) -> [f32; 8] {
        let scale = unsafe { *scale };
        std::array::from_fn(|lane| total[lane] + sums[lane] as f32 * (scale * scales[lane]))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
}

macro_rules! by_height {
    ($simd:ty, $vectors:expr, $call:expr, [$($height:literal)*]) => {
        match ($vectors, $call.target.height) {
            $((1, $height) => tile::<$simd, $height, 1>($call),)*
            $((_, $height) => tile::<$simd, $height, 2>($call),)*
            _ => unreachable!("a tile higher than the registers hold"),
        }
    };
}

unsafe fn portable(vectors: usize, call: &Call) {
    unsafe { by_height!(Portable16, vectors, call, [1 2 3 4]) }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Call, IntegerSimd, tile};

    macro_rules! avx512_simd {
        ($name:ident, $group:literal, |$sums:ident, $a:ident, $b:ident| $dot:expr) => {
            #[derive(Clone, Copy)]
            struct $name;

            impl IntegerSimd for $name {
                type V = __m512i;
                type F = __m512;
                const LANES: usize = 16;
                const GROUP: usize = $group;

                #[inline(always)]
                unsafe fn load(from: *const i32) -> __m512i {
                    unsafe { _mm512_loadu_si512(from.cast()) }
                }
                #[inline(always)]
                unsafe fn dot($sums: __m512i, $a: *const i32, $b: __m512i) -> __m512i {
                    unsafe { $dot }
                }
                #[inline(always)]
                unsafe fn load_f32(from: *const f32) -> __m512 {
                    unsafe { _mm512_loadu_ps(from) }
                }
                #[inline(always)]
                unsafe fn scaled(sums: __m512i, scale: *const f32, scales: __m512) -> __m512 {
                    unsafe {
                        let factor = _mm512_mul_ps(_mm512_set1_ps(*scale), scales);
                        _mm512_mul_ps(_mm512_cvtepi32_ps(sums), factor)
                    }
                }
                #[inline(always)]
                unsafe fn scale(total: __m512, sums: __m512i, scale: *const f32, scales: __m512) -> __m512 {
                    unsafe {
                        let factor = _mm512_mul_ps(_mm512_set1_ps(*scale), scales);
                        _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums), factor, total)
                    }
                }
                #[inline(always)]
                unsafe fn store(to: *mut f32, v: __m512) {
                    unsafe { _mm512_storeu_ps(to, v) }
                }
            }
        };
    }

    avx512_simd!(Vnni16, 2, |sums, a, b| _mm512_dpwssd_epi32(sums, _mm512_set1_epi32(*a), b));
    avx512_simd!(Vnni8, 4, |sums, a, b| _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(*a), b));
    avx512_simd!(Avx512, 2, |sums, a, b| _mm512_add_epi32(sums, _mm512_madd_epi16(_mm512_set1_epi32(*a), b)));

    #[derive(Clone, Copy)]
    struct Avx2;

    impl IntegerSimd for Avx2 {
        type V = __m256i;
        type F = __m256;
        const LANES: usize = 8;
        const GROUP: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const i32) -> __m256i {
            unsafe { _mm256_loadu_si256(from.cast()) }
        }
        #[inline(always)]
        unsafe fn dot(sums: __m256i, a: *const i32, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_set1_epi32(*a), b)) }
        }
        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn scaled(sums: __m256i, scale: *const f32, scales: __m256) -> __m256 {
            unsafe {
                let factor = _mm256_mul_ps(_mm256_set1_ps(*scale), scales);
                _mm256_mul_ps(_mm256_cvtepi32_ps(sums), factor)
            }
        }
        #[inline(always)]
        unsafe fn scale(total: __m256, sums: __m256i, scale: *const f32, scales: __m256) -> __m256 {
            unsafe {
                let factor = _mm256_mul_ps(_mm256_set1_ps(*scale), scales);
                _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), factor, total)
            }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) unsafe fn vnni16(vectors: usize, call: &Call) {
        unsafe { by_height!(Vnni16, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    pub(super) unsafe fn vnni8(vectors: usize, call: &Call) {
        unsafe { by_height!(Vnni8, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn avx512(vectors: usize, call: &Call) {
        unsafe { by_height!(Avx512, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]) }
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn avx2(vectors: usize, call: &Call) {
        unsafe { by_height!(Avx2, vectors, call, [1 2 3 4 5 6]) }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::{Call, IntegerSimd, tile};

    #[derive(Clone, Copy)]
    struct Neon;

    impl IntegerSimd for Neon {
        type V = int32x4_t;
        type F = float32x4_t;
        const LANES: usize = 4;
        const GROUP: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const i32) -> int32x4_t {
            unsafe { vld1q_s32(from) }
        }
        #[inline(always)]
        unsafe fn dot(sums: int32x4_t, a: *const i32, b: int32x4_t) -> int32x4_t {
            unsafe {
                let a = vreinterpret_s16_s32(vld1_dup_s32(a));
                // The halves of the columns' pairs do not depend on the row: parted once for a whole tile.
                let sums = vmlal_lane_s16::<0>(sums, vmovn_s32(b), a);
                vmlal_lane_s16::<1>(sums, vshrn_n_s32::<16>(b), a)
            }
        }
        #[inline(always)]
        unsafe fn load_f32(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn scaled(sums: int32x4_t, scale: *const f32, scales: float32x4_t) -> float32x4_t {
            unsafe { vmulq_f32(vcvtq_f32_s32(sums), vmulq_f32(vld1q_dup_f32(scale), scales)) }
        }
        #[inline(always)]
        unsafe fn scale(total: float32x4_t, sums: int32x4_t, scale: *const f32, scales: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(total, vcvtq_f32_s32(sums), vmulq_f32(vld1q_dup_f32(scale), scales)) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(to, v) }
        }
    }

    #[target_feature(enable = "neon")]
    pub(super) unsafe fn neon(vectors: usize, call: &Call) {
        unsafe { by_height!(Neon, vectors, call, [1 2 3 4 5 6 7 8 9 10 11 12]) }
    }
}
