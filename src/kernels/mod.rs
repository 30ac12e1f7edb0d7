//! The arithmetic of the models that run in process: products of rounded activations with packed weights, attention, and what
//! stands between them.
//!
//! All `unsafe` code of the project is here: vector instructions and their loads, and the threads that share one output.
//! The instruction set is chosen when the program runs, and every choice gives the same bits (`isa.rs`).

mod activations;
mod attention;
mod dense;
pub mod encoder;
mod isa;
mod matmul;
mod pool;
pub mod rows;
pub mod self_attention;
mod weights;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

pub use activations::Activations;
pub use attention::{KeyValues, Query, attend};
pub use dense::multiply_rows;
pub use matmul::{Product, multiply};
pub use pool::{Pool, give_way};
pub use weights::{BLOCK, Format, PackError, Packed};

/// Most threads that the kernels use unless told otherwise: beyond, the steps of small models are too short to share.
const MOST_THREADS: usize = 8;
/// Variable that sets the number of threads, for machines that are shared.
const THREADS_VARIABLE: &str = "RESPONDO_THREADS";

/// The instructions that this processor offers to the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Vectors of 512 bits with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Vectors of 256 bits with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// What every processor has.
    Plain,
}

impl Level {
    /// The best level of this processor.
    pub fn here() -> Self {
        Self::all().first().copied().unwrap_or(Self::Plain)
    }

    /// All levels of this processor, the best one first.
    pub fn all() -> &'static [Self] {
        static LEVELS: OnceLock<Vec<Level>> = OnceLock::new();
        LEVELS.get_or_init(|| {
            let mut levels = Vec::new();
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c");
                if avx2
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
                {
                    levels.push(Self::Avx512);
                }
                if avx2 {
                    levels.push(Self::Avx2);
                }
            }
            levels.push(Self::Plain);
            levels
        })
    }
}

/// The threads that all models share.
pub fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let wanted = std::env::var(THREADS_VARIABLE).ok().and_then(|threads| threads.parse().ok());
        Pool::new(wanted.unwrap_or(cores).max(1))
    })
}

/// Defines functions that run their body compiled for the level that is passed first.
macro_rules! level_dispatch {
    ($($(#[$doc:meta])* pub fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? = $body:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(level: $crate::kernels::Level, $($argument: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
            fn avx512($($argument: $type),*) $(-> $result)? {
                $body($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($argument: $type),*) $(-> $result)? {
                $body($($argument),*)
            }
            match level {
                // SAFETY: a level exists only where the processor has its instructions.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Level::Avx512 => unsafe { avx512($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::kernels::Level::Avx2 => unsafe { avx2($($argument),*) },
                $crate::kernels::Level::Plain => $body($($argument),*),
            }
        }
    )*};
}
use level_dispatch;
