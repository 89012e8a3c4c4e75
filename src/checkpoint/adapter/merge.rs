//! The tensors of a base that an adapter changes, and what they become.

use indexmap::IndexMap;

use super::super::Checkpoint;
use super::super::names::{Place, places_of, squeezed};
use super::super::unread_type::Stored;
use super::config::Config;
use super::keys::{AdaptedModule, AdapterTensors};
use crate::did_you_mean;
use crate::error::{Error, Result};
use crate::tensor::Tensor;

/// The most modules that may lie around the model that an adapter was made for.
const MAX_AROUND: usize = 8;
/// The prefixes that an adapter's names may lack where a tower alone was adapted: open_clip's `visual`, transformers'
/// towers.
const TOWERS: [&str; 3] = ["", "visual.", "vision_model."];

/// The tensors of `base` that the adapter changes, by canonical names, as f32; and what it holds besides.
///
/// # Errors
/// As [`super::tuned`].
pub(super) fn changed(
    mut keys: AdapterTensors,
    config: &Config,
    base: &Checkpoint,
) -> Result<IndexMap<String, Tensor>> {
    leave_text_out(&mut keys, base);
    let naming = NameMapping::of(&keys, base)?;
    let mut changes = Changes { base, tensors: IndexMap::new(), values: IndexMap::new() };
    for (name, stored) in keys.others {
        changes.put(&naming, &name, stored).map_err(|error| error.tensor(did_you_mean::clipped(&name)))?;
    }
    for (module, target) in &keys.targets {
        let change = changes.add(&naming, module, target, config);
        change.map_err(|error| error.tensor(did_you_mean::clipped(module)))?;
    }
    changes.finish()
}

/// Takes what an adapter of a whole model has for the text tower out of `keys`, where `base` is an image tower alone.
fn leave_text_out(keys: &mut AdapterTensors, base: &Checkpoint) {
    let is_image =
        |name: &str| ["visual.", "vision_model.", "visual_projection."].iter().any(|root| name.contains(root));
    let has_text = base.get("token_embedding.weight").is_some()
        || base.iter().any(|(name, _)| name.starts_with("text_model.") || name.starts_with("text."));
    if !has_text && keys.targets.keys().any(|module| is_image(&format!("{module}."))) {
        keys.targets.retain(|module, _| is_image(&format!("{module}.")));
        keys.others.retain(|(name, _)| is_image(name));
    }
}

/// The way from names of the adapter to names of the base: some modules around the model left out, the tower's
/// name put before.
struct NameMapping {
    around: usize,
    tower: &'static str,
}

impl NameMapping {
    /// The mapping under which every adapted module is in `base`, with as many elements as it has to have.
    fn of(keys: &AdapterTensors, base: &Checkpoint) -> Result<Self> {
        let mut fitting: Vec<Self> = Vec::new();
        for around in 0..=MAX_AROUND {
            let all = TOWERS.map(|tower| Self { around, tower });
            fitting = all.into_iter().filter(|naming| naming.fits(keys, base)).collect();
            if !fitting.is_empty() {
                break;
            }
        }
        let first = keys.targets.keys().chain(keys.others.iter().map(|(name, _)| name)).next();
        let first = first.map_or("", String::as_str);
        match <[Self; 1]>::try_from(fitting) {
            Ok([naming]) => Ok(naming),
            Err(fitting) if fitting.is_empty() => Err(Self::missing(keys, base, first)),
            Err(_) => Err(Error::mismatch("the adapter fits the image tower and the text tower")
                .tensor(did_you_mean::clipped(first))
                .hint("Save it from the whole model, so that its names say which tower is meant")),
        }
    }

    fn fits(&self, keys: &AdapterTensors, base: &Checkpoint) -> bool {
        let fits = |(module, target): (&String, &AdaptedModule)| {
            self.weight(module, base).is_some_and(|place| WeightView::of(&place, target, base).is_ok())
        };
        match keys.targets.is_empty() {
            true => keys.others.iter().any(|(name, _)| self.place(name, base).is_some()),
            false => keys.targets.iter().all(fits),
        }
    }

    /// The error for an adapter of which no mapping fits, with the first module that is the reason.
    fn missing(keys: &AdapterTensors, base: &Checkpoint, first: &str) -> Error {
        // Under the mapping that most of them fit.
        let known = |naming: &Self| keys.targets.keys().filter(|module| naming.weight(module, base).is_some()).count();
        let mut best = Self { around: 0, tower: TOWERS[0] };
        for naming in (0..=MAX_AROUND).flat_map(|around| TOWERS.map(|tower| Self { around, tower })) {
            if known(&naming) > known(&best) {
                best = naming;
            }
        }
        for (module, target) in &keys.targets {
            let reason = match best.weight(module, base) {
                Some(place) => WeightView::of(&place, target, base).err(),
                None => Some(
                    Error::mismatch(format!("the base {} has no such module", base.path().display()))
                        .hint("Is the adapter one of this model?"),
                ),
            };
            if let Some(reason) = reason {
                return reason.tensor(did_you_mean::clipped(module));
            }
        }
        Error::mismatch(format!("the base {} has nothing that the adapter changes", base.path().display()))
            .tensor(did_you_mean::clipped(first))
    }

    /// The place of the adapter's `name` in `base`.
    fn place(&self, name: &str, base: &Checkpoint) -> Option<Place> {
        let inner = name.splitn(self.around + 1, '.').nth(self.around)?;
        let name = format!("{}{inner}", self.tower);
        if base.get(&name).is_some() {
            return Some(Place::Whole(name));
        }
        places_of(&name).find(|place| base.get(place.name()).is_some())
    }

    /// The place of the weight of `module`: attention as one module has that of q, k and v.
    fn weight(&self, module: &str, base: &Checkpoint) -> Option<Place> {
        ["weight", "in_proj_weight"].iter().find_map(|name| self.place(&format!("{module}.{name}"), base))
    }
}

/// The places of a module's weight [out, in] within a tensor of the base.
struct WeightView {
    rows: usize,
    columns: usize,
    /// The index of the first element.
    first: usize,
    down: usize,
    across: usize,
    rank: usize,
}

impl WeightView {
    fn of(place: &Place, target: &AdaptedModule, base: &Checkpoint) -> Result<Self> {
        let incomplete = || Error::format("an adapter's module is incomplete").expected("lora_A and lora_B");
        let (Some(a), Some(b)) = (&target.a, &target.b) else { return Err(incomplete()) };
        let whole = base.require(place.name())?;
        let wrong = || {
            Error::mismatch("the adapter's matrices do not fit the base's")
                .expected(format_args!("{:?} of {}", whole.shape(), base.path().display()))
                .got(format_args!("A {:?} and B {:?}", a.shape(), b.shape()))
                .hint("Is the adapter one of this model?")
        };
        let (Some(&rank), Some(&rows)) = (a.shape().first(), b.shape().first()) else { return Err(wrong()) };
        if rank == 0 || rows == 0 || b.numel() != rows.saturating_mul(rank) {
            return Err(wrong());
        }
        let columns = a.numel() / rank;
        let shape = whole.shape();
        let [start, part, parts] = span(place);
        let is_flipped = matches!(place, Place::Transposed(_)) != target.is_embedding;
        let length = if is_flipped { columns } else { rows };
        let is_whole = shape.first().map(|rows| rows * part) == Some(length * parts);
        if !is_whole || Some(whole.numel() * part) != rows.checked_mul(columns * parts) {
            return Err(wrong());
        }
        let first = whole.numel() / parts * start;
        let (down, across) = if is_flipped { (1, rows) } else { (columns, 1) };
        Ok(Self { rows, columns, first, down, across, rank })
    }
}

/// The changes to the base's tensors.
struct Changes<'a> {
    base: &'a Checkpoint,
    /// The tensors that replace the base's.
    tensors: IndexMap<String, Tensor>,
    /// The elements of those that are computed.
    values: IndexMap<String, Vec<f32>>,
}

impl Changes<'_> {
    /// Puts a tensor in the place of the base's. One that the base has no place for is kept under its own name.
    fn put(&mut self, naming: &NameMapping, name: &str, stored: Stored) -> Result<()> {
        let tensor = stored.map_err(|unread| unread.error())?;
        let Some(place) = naming.place(name, self.base) else {
            self.tensors.insert(name.to_owned(), tensor);
            return Ok(());
        };
        let tensor = match place {
            Place::Transposed(_) => tensor.transposed()?,
            Place::Squeezed(_, left) => squeezed(&tensor, left)?,
            Place::Whole(_) | Place::Part(..) => tensor,
        };
        let whole = self.base.require(place.name())?;
        let mut shape = whole.shape().to_vec();
        let [start, part, parts] = span(&place);
        shape.iter_mut().take(1).for_each(|rows| *rows = *rows / parts * part);
        if tensor.shape() != shape {
            return Err(Error::mismatch("it is not what it is in the base")
                .expected(format_args!("{shape:?}"))
                .got(format_args!("{:?}", tensor.shape())));
        }
        match place {
            Place::Whole(name) | Place::Transposed(name) | Place::Squeezed(name, _) => {
                drop(self.tensors.insert(name, tensor));
            }
            Place::Part(name, _) => {
                let elements = tensor.to_f32()?;
                let values = self.values(&name)?;
                let first = values.len() / parts * start;
                values[first..][..elements.len()].copy_from_slice(&elements);
            }
        }
        Ok(())
    }

    /// The elements of the tensor of this name, as they are by now.
    fn values(&mut self, name: &str) -> Result<&mut Vec<f32>> {
        if !self.values.contains_key(name) {
            let tensor = match self.tensors.shift_remove(name) {
                Some(replaced) => replaced,
                None => self.base.require(name)?.clone(),
            };
            self.values.insert(name.to_owned(), tensor.to_f32()?.into_owned());
        }
        self.values.get_mut(name).ok_or_else(|| Error::new(crate::ErrorKind::Internal, "a tensor was lost"))
    }

    /// Adds what an adapter has for `module`.
    fn add(&mut self, naming: &NameMapping, module: &str, target: &AdaptedModule, config: &Config) -> Result<()> {
        let lost = || Error::new(crate::ErrorKind::Internal, "a module was lost");
        let place = naming.weight(module, self.base).ok_or_else(lost)?;
        let view = WeightView::of(&place, target, self.base)?;
        let (Some(a), Some(b)) = (&target.a, &target.b) else { return Err(lost()) };
        let scale = config.scale(module, view.rank)?;
        let lengths = target.magnitude.as_ref().map(Tensor::to_f32).transpose()?;
        match &lengths {
            Some(lengths) if lengths.len() != view.rows => {
                return Err(Error::mismatch("DoRA's magnitudes do not fit").expected(view.rows).got(lengths.len()));
            }
            None if config.is_dora => return Err(Error::format("a module without its `lora_magnitude_vector` (DoRA)")),
            Some(_) if !config.is_dora => {
                return Err(Error::format("a `lora_magnitude_vector`, and a configuration without `use_dora`"));
            }
            _ => {}
        }
        let weight_scale = if target.is_twice { 2.0 * scale } else { scale };
        let (a, b) = (a.to_f32()?, b.to_f32()?);
        add_product(self.values(place.name())?, &view, &a, &b, weight_scale, lengths.as_deref());
        match &target.bias {
            Some(bias) => self.add_bias(naming, module, bias, scale),
            None => Ok(()),
        }
    }

    /// Adds `scale` times `bias` to that of `module`.
    fn add_bias(&mut self, naming: &NameMapping, module: &str, bias: &Tensor, scale: f32) -> Result<()> {
        let place = naming.place(&format!("{module}.bias"), self.base);
        let place = place.ok_or_else(|| Error::mismatch("a bias for a module that has none"))?;
        let bias = bias.to_f32()?;
        let values = self.values(place.name())?;
        let [start, part, parts] = span(&place);
        let length = values.len() / parts * part;
        if length != bias.len() {
            return Err(Error::mismatch("the bias does not fit").expected(length).got(bias.len()));
        }
        let first = values.len() / parts * start;
        values[first..].iter_mut().zip(bias.iter()).for_each(|(value, bias)| *value += scale * bias);
        Ok(())
    }

    fn finish(self) -> Result<IndexMap<String, Tensor>> {
        let mut tensors = self.tensors;
        for (name, values) in self.values {
            let whole = self.base.require(&name)?;
            let file = self.base.path().to_string_lossy();
            tensors.insert(name, Tensor::from_f32(&values, whole.shape(), &file)?);
        }
        Ok(tensors)
    }
}

/// The rows of a whole tensor that a place is: where they begin, how many they are, and how many there are, in equal
/// shares.
fn span(place: &Place) -> [usize; 3] {
    match place {
        Place::Part(_, part) => part.span(),
        _ => [0, 1, 1],
    }
}

/// Adds `scale`·B·A to the weight within `values`; with `lengths` (DoRA) every row of the sum is given its length.
fn add_product(values: &mut [f32], view: &WeightView, a: &[f32], b: &[f32], scale: f32, lengths: Option<&[f32]>) {
    let mut product = vec![0.0f32; view.columns];
    for row in 0..view.rows {
        product.fill(0.0);
        for (factor, a) in b[row * view.rank..][..view.rank].iter().zip(a.chunks_exact(view.columns)) {
            product.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
        }
        let place = |column: usize| view.first + row * view.down + column * view.across;
        product.iter_mut().enumerate().for_each(|(column, sum)| *sum = values[place(column)] + scale * *sum);
        let factor = lengths.map_or(1.0, |lengths| {
            let square: f64 = product.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
            lengths[row] / square.sqrt() as f32
        });
        product.iter().enumerate().for_each(|(column, sum)| values[place(column)] = factor * sum);
    }
}
