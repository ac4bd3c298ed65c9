//! Which vector instructions the kernels use.

use std::cell::Cell;

/// A set of vector instructions that kernels were written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Plain Rust, whatever the compiler makes of it.
    Portable,
    /// 128-bit vectors with fused multiply-add (AArch64).
    Neon,
    /// 256-bit vectors with fused multiply-add (x86-64-v3).
    Avx2,
    /// 512-bit vectors (x86-64-v4).
    Avx512,
    /// 512-bit vectors with integer dot products.
    Avx512Vnni,
    /// These, and products of tiles of bf16 (Intel AMX), of which single precision is composed: `planes.rs`.
    Amx,
}

impl InstructionSet {
    /// Every set, the widest last.
    pub const ALL: [Self; 6] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512, Self::Avx512Vnni, Self::Amx];

    /// Those that this machine can run.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// What kernels started by this thread use: the widest available set, or the one of [`Self::scope`].
    pub fn current() -> Self {
        FORCED.get().unwrap_or_else(|| Self::available().last().unwrap_or(Self::Portable))
    }

    /// Runs `body` with the kernels that this thread starts held to one set: for tests and comparisons.
    ///
    /// # Panics
    /// If this machine cannot run the set.
    pub fn scope<R>(self, body: impl FnOnce() -> R) -> R {
        struct Restore(Option<InstructionSet>);
        impl Drop for Restore {
            fn drop(&mut self) {
                FORCED.set(self.0);
            }
        }
        assert!(self.is_available(), "this machine has no {self:?}");
        let _restore = Restore(FORCED.replace(Some(self)));
        body()
    }

    /// Whether this machine can run the set. Detection is cached, by the standard library for the most part.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && std::is_x86_feature_detected!("avx512f")
                    && std::is_x86_feature_detected!("avx512bw")
                    && std::is_x86_feature_detected!("avx512dq")
                    && std::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => Self::Avx512.is_available() && std::is_x86_feature_detected!("avx512vnni"),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512Vnni.is_available() && amx::is_available(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "the sets of other machines")]
            _ => false,
        }
    }
}

impl std::fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Amx => "amx",
        })
    }
}

impl std::str::FromStr for InstructionSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(|set| set.to_string()).join(", ");
        Self::ALL
            .into_iter()
            .find(|set| set.to_string() == text)
            .ok_or_else(|| format!("{text} is not an instruction set; expected one of {}", known()))
    }
}

thread_local! {
    static FORCED: Cell<Option<InstructionSet>> = const { Cell::new(None) };
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::x86_64::{__cpuid_count, _xgetbv};
    use std::sync::OnceLock;

    /// Whether the processor has tiles of bf16, and the system lets this process use them.
    ///
    /// The standard library does not detect them in a stable release. Linux wants to be asked first, once for all
    /// threads: their state is 8 KiB a thread
    /// ([kernel.org](https://docs.kernel.org/arch/x86/xstate.html)).
    pub(super) fn is_available() -> bool {
        static AVAILABLE: OnceLock<bool> = OnceLock::new();
        *AVAILABLE.get_or_init(|| in_processor() && saved_by_system() && permitted())
    }

    fn in_processor() -> bool {
        const AMX_BF16: u32 = 1 << 22;
        const AMX_TILE: u32 = 1 << 24;
        const AVX512_BF16: u32 = 1 << 5;
        let features = __cpuid_count(7, 0);
        features.edx & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
            && features.eax >= 1
            && __cpuid_count(7, 1).eax & AVX512_BF16 != 0
    }

    fn saved_by_system() -> bool {
        const TILES: u64 = 0b11 << 17;
        #[target_feature(enable = "xsave")]
        fn enabled() -> u64 {
            // SAFETY: the instruction is there, as this function's caller has seen.
            unsafe { _xgetbv(0) }
        }
        // SAFETY: only called where the feature is there.
        std::is_x86_feature_detected!("xsave") && unsafe { enabled() } & TILES == TILES
    }

    fn permitted() -> bool {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: a system call with two numbers, which touches no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
}
