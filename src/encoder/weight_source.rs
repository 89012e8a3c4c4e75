//! Where the weights of a run come from.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;

use crate::weights::{Layout, Weights};

/// Weights that an [`Encoder`](super::Encoder) can run with.
///
/// The slices have to stay as they are during a call, which their borrow ensures; between calls they may change, for
/// nothing of them is kept.
pub trait WeightSource {
    /// The values of the parameter of this canonical name (`visual.…`), contiguous and row-major.
    fn parameter(&self, name: &str) -> Option<&[f32]>;

    /// The parameter's shape, where the source knows it. Without it only the number of values can be checked.
    fn shape(&self, name: &str) -> Option<&[usize]> {
        let _ = name;
        None
    }

    /// The weights in the layout that a graph wants, where they are in that layout.
    fn in_layout(&self, layout: &Layout) -> Option<&Weights> {
        let _ = layout;
        None
    }
}

impl<W: WeightSource + ?Sized> WeightSource for &W {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        (**self).parameter(name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        (**self).shape(name)
    }

    fn in_layout(&self, layout: &Layout) -> Option<&Weights> {
        (**self).in_layout(layout)
    }
}

impl<W: WeightSource + ?Sized> WeightSource for Arc<W> {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        (**self).parameter(name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        (**self).shape(name)
    }

    fn in_layout(&self, layout: &Layout) -> Option<&Weights> {
        (**self).in_layout(layout)
    }
}

impl WeightSource for Weights {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.get(name)
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shape(name)
    }

    fn in_layout(&self, layout: &Layout) -> Option<&Weights> {
        self.is_in(layout).then_some(self)
    }
}

/// Parameters by name, without shapes.
impl<V: AsRef<[f32]>, S: BuildHasher> WeightSource for HashMap<String, V, S> {
    fn parameter(&self, name: &str) -> Option<&[f32]> {
        self.get(name).map(AsRef::as_ref)
    }
}
