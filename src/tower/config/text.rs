//! The text tower's part of what configurations say.

use std::path::Path;

use super::files::{self, ConfigSource};
use super::stated::{Extent, contradiction};
use crate::error::Result;
use crate::tower::arch::ArchHints;
use crate::tower::published;
use crate::tower::text::arch::{TextArch, TextForm};

/// The values that `asked` leaves open of the text tower in `weights`, as the configurations beside it say; and notes
/// for the user. `shape` is the tower as its shapes tell it.
///
/// # Errors
/// As [`TowerConfig::read`](super::TowerConfig::read).
pub(crate) fn text_hints(weights: &Path, asked: ArchHints, shape: &TextArch) -> Result<(ArchHints, Vec<String>)> {
    let mut known = asked;
    let mut notes = Vec::new();
    for stated in files::read(weights, &ConfigSource::Beside)? {
        let Some(says) = stated.text else { continue };
        let extent = |extent| match extent {
            Extent::Width => Some(shape.width),
            Extent::Layers => Some(shape.layers),
            Extent::MlpWidth => Some(shape.mlp_width),
            Extent::Embedding => Some(shape.embed_dim),
            Extent::Patch | Extent::ImageSize => None,
        };
        says.check(&stated.path, extent, shape.width).map_err(|e| e.at(weights))?;
        let form = |is_siglip| if is_siglip { "a text tower of SigLIP's form" } else { "one of CLIP's form" };
        let has = shape.form == TextForm::Siglip;
        if let Some(told) = says.siglip_text.filter(|told| *told != has) {
            let error = contradiction(&stated.path, "a text tower that the weights are not").at(weights);
            return Err(error.expected(form(told)).got(form(has)));
        }
        for (what, asked, told) in [
            ("heads", asked.heads.map(|of| of.to_string()), says.hints.heads.map(|of| of.to_string())),
            ("activation", asked.activation.map(|of| of.to_string()), says.hints.activation.map(|of| of.to_string())),
        ] {
            if let (Some(asked), Some(told)) = (&asked, &told)
                && asked != told
            {
                notes.push(format!("{} says {what} {told}; {asked} is used: it was asked for", stated.path.display()));
            }
        }
        known = known.or(says.hints);
    }
    let (usual, mut open) = (shape.form.usual(shape.width), Vec::new());
    if known.activation.is_none() {
        open.push(format!("activation {} (--activation)", usual.activation.unwrap_or_default()));
    }
    if known.heads.is_none() && !published::is_published_text(shape.width) {
        open.push(format!("heads {} (--heads-count)", usual.heads.unwrap_or(1)));
    }
    if !open.is_empty() {
        let open = open.join(", ");
        notes.push(format!("no configuration beside the weights says what their shapes do not; assumed: {open}"));
    }
    Ok((known, notes))
}
