//! What is made on the host and brought to a device once.

use std::sync::{Arc, OnceLock};

use burn::tensor::Device;

/// A value on the device that asked for it first; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct OnDevice<T>(Arc<OnceLock<(Device, T)>>);

impl<T> Default for OnDevice<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> OnDevice<T> {
    /// What is held; another device than the first has its own made each time.
    pub(crate) fn get(&self, device: &Device, bring: impl Fn() -> T) -> T {
        let (held_on, held) = self.0.get_or_init(|| (device.clone(), bring()));
        if held_on == device { held.clone() } else { bring() }
    }
}
