//! Says what is about to be worked on, before it is: whoever outlives the process knows what ended it.
//!
//! What was told as begun is told as over, also after a panic.

use std::sync::Arc;

/// What a thread is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work<'a> {
    /// Load and probe the model of this digest.
    Load {
        /// SHA-256 of the model file.
        sha256: &'a str,
    },
    /// Decode an image.
    Decode {
        /// Object key.
        key: &'a str,
    },
    /// Run a network on an image.
    Infer {
        /// Object key.
        key: &'a str,
        /// SHA-256 of the model file.
        sha256: &'a str,
    },
    /// Nothing any more.
    Nothing,
}

/// Who is told, on the thread that does the work; nobody by default.
#[derive(Clone, Default)]
pub struct Watch(Option<Arc<Tell>>);

type Tell = dyn Fn(Work<'_>) + Send + Sync;

impl Watch {
    /// Calls `tell` ahead of each piece of work.
    pub fn new(tell: impl Fn(Work<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Tells what this thread is about to do.
    pub fn notify(&self, work: Work<'_>) {
        if let Some(tell) = &self.0 {
            tell(work);
        }
    }

    /// Tells that this thread does nothing any more, when what is returned is dropped.
    pub fn until_dropped(&self) -> Watched {
        Watched(self.clone())
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

/// Work that is watched.
#[derive(Debug)]
pub struct Watched(Watch);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.notify(Work::Nothing);
    }
}
