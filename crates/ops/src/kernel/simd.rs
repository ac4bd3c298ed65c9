//! Vectors of f32 as the microkernels see them, one type for each width.

#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "bodies of unsafe functions, which need what their callers promise and nothing more"
)]

/// A vector of [`Self::LANES`] values in registers.
pub(crate) trait Simd: Copy {
    /// The register.
    type V: Copy;
    /// Values in a register.
    const LANES: usize;

    /// All zero.
    ///
    /// # Safety
    /// Here and below: the machine runs the instructions of this type, and pointers reach as far as is said.
    unsafe fn zero() -> Self::V;
    /// `LANES` values from `from`.
    unsafe fn load(from: *const f32) -> Self::V;
    /// `count <= LANES` values from `from`, the rest zero; no more is read.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::V;
    /// One value in every lane.
    unsafe fn splat(from: *const f32) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `LANES` values to `to`.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `count <= LANES` values to `to`; no more is written.
    unsafe fn store_part(to: *mut f32, v: Self::V, count: usize);
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// 512 bits.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> __m512 {
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> __m512 {
            unsafe { _mm512_maskz_loadu_ps(mask(count), from) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m512 {
            unsafe { _mm512_set1_ps(*from) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn store_part(to: *mut f32, v: __m512, count: usize) {
            unsafe { _mm512_mask_storeu_ps(to, mask(count), v) }
        }
    }

    /// The first `count` of 16 lanes.
    #[inline(always)]
    fn mask(count: usize) -> u16 {
        ((1_u32 << count) - 1) as u16
    }

    /// 256 bits.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> __m256 {
            unsafe { _mm256_setzero_ps() }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> __m256 {
            unsafe { _mm256_maskload_ps(from, lanes(count)) }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> __m256 {
            unsafe { _mm256_broadcast_ss(&*from) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn store_part(to: *mut f32, v: __m256, count: usize) {
            unsafe { _mm256_maskstore_ps(to, lanes(count), v) }
        }
    }

    /// The first `count` of 8 lanes.
    #[inline(always)]
    unsafe fn lanes(count: usize) -> __m256i {
        unsafe { _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)) }
    }
}

#[cfg(target_arch = "aarch64")]
pub(crate) use arm::Neon;

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::*;

    use super::Simd;

    /// 128 bits.
    #[derive(Clone, Copy)]
    pub(crate) struct Neon;

    impl Simd for Neon {
        type V = float32x4_t;
        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn zero() -> float32x4_t {
            unsafe { vdupq_n_f32(0.0) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> float32x4_t {
            unsafe { vld1q_f32(from) }
        }
        #[inline(always)]
        unsafe fn load_part(from: *const f32, count: usize) -> float32x4_t {
            let mut values = [0.0_f32; 4];
            unsafe {
                std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count);
                vld1q_f32(values.as_ptr())
            }
        }
        #[inline(always)]
        unsafe fn splat(from: *const f32) -> float32x4_t {
            unsafe { vld1q_dup_f32(from) }
        }
        #[inline(always)]
        unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: float32x4_t) {
            unsafe { vst1q_f32(to, v) }
        }
        #[inline(always)]
        unsafe fn store_part(to: *mut f32, v: float32x4_t, count: usize) {
            let mut values = [0.0_f32; 4];
            unsafe {
                vst1q_f32(values.as_mut_ptr(), v);
                std::ptr::copy_nonoverlapping(values.as_ptr(), to, count);
            }
        }
    }
}

/// Arrays of 8, for the compiler to do with as it can.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> [f32; 8] {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 8] {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> [f32; 8] {
        let mut values = [0.0; 8];
        unsafe { std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), count) };
        values
    }
    #[inline(always)]
    unsafe fn splat(from: *const f32) -> [f32; 8] {
        [unsafe { *from }; 8]
    }
    /// Rounded twice: a fused operation would be a call without the instruction.
    #[inline(always)]
    unsafe fn fma(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] * b[lane] + c[lane])
    }
    #[inline(always)]
    unsafe fn add(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: [f32; 8]) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, v: [f32; 8], count: usize) {
        unsafe { std::ptr::copy_nonoverlapping(v.as_ptr(), to, count) }
    }
}
