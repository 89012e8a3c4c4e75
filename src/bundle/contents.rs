//! What a packed bundle is made of, and the bytes that it will have.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::alignment::PAGE;
use super::choose::Formats;
use super::fingerprint::Fingerprint;
use super::format::{BaseRecord, BasisRecord, Metadata, PreprocessRecord, Role};
use super::items::{head_items, recovery_item, vector_item};
use super::measure::{Sums, encode};
use super::pack::Packer;
use super::quantise::StoredFormat;
use super::stored_base::{BaseFormat, Rounding, convert};
use super::writer::{self, Item};
use crate::error::{Error, Result};
use crate::tensor::DType;

impl Packer<'_> {
    /// What the bundle is made of, but for what is added to the written file.
    pub(super) fn contents<'s>(
        &'s self,
        formats: &Formats,
        sums: &'s RefCell<Sums>,
        rounding: &'s Cell<Rounding>,
        progress: &'s dyn Fn(u64),
    ) -> Result<(Metadata, Vec<Item<'s>>)> {
        let table: Vec<f64> = self.basis.recovery().iter().map(|value| value.unwrap_or(f64::NAN)).collect();
        let shape = [self.basis.vectors(), self.basis.tasks().len()];
        let mut metadata = self.metadata()?;
        let mut items = self.base_items(rounding)?;
        self.add_vectors(formats, &mut metadata, sums, progress, &mut items)?;
        items.extend(head_items(self.heads.iter().map(|(task, head)| (task.as_str(), head))));
        items.push(recovery_item(table, &shape));
        if let Some((graph, _)) = &self.graph {
            items.push(Item::new(Role::Graph, DType::U8, &[graph.len()], |sink| sink.write(graph)));
        }
        Ok((metadata, items))
    }

    /// The bytes of the bundle in these formats, with the golden embedding, without residuals and merges.
    pub(super) fn planned_bytes(&self, formats: &Formats) -> Result<u64> {
        let (sums, rounding) = (RefCell::new(Sums::new(self.basis)), Cell::new(Rounding::default()));
        let (metadata, items) = self.contents(formats, &sums, &rounding, &|_| ())?;
        // A section of its own, an entry in the header, which may begin another page, and a checksum.
        let golden = size_of::<f32>() * self.arch().embed_dim;
        Ok(writer::planned_bytes(&metadata, items)? + (golden.next_multiple_of(PAGE) + 2 * PAGE) as u64)
    }

    fn metadata(&self) -> Result<Metadata> {
        let basis = self.basis;
        if let Some(lambda) = self.lambdas.suggested().find(|lambda| !lambda.is_finite()) {
            return Err(Error::invalid("a suggested scaling coefficient must be finite").got(lambda));
        }
        self.check_graph()?;
        self.encoder.check()?;
        let mut metadata = Metadata {
            encoder: self.encoder.clone(),
            base: BaseRecord {
                stored: self.base_format != BaseFormat::LeftOut,
                fingerprint: self.fingerprint()?.to_string(),
            },
            basis: BasisRecord {
                method: basis.method().name().to_owned(),
                tasks: basis.tasks().to_vec(),
                vectors: basis.vectors(),
                mean: basis.has_mean(),
                residuals: Vec::new(),
            },
            blocks: HashMap::new(),
            classes: HashMap::new(),
            graph: self.graph.as_ref().map(|(_, map)| map.clone()),
            merges: BTreeMap::new(),
            names: BTreeMap::new(),
            lambda: self.lambdas,
            preprocess: PreprocessRecord::of(&self.preprocess),
            precision: None,
            heads: Default::default(),
            writer: concat!("taskbasis ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        self.heads.iter().for_each(|(task, head)| metadata.add_head(task, head));
        Ok(metadata)
    }

    fn fingerprint(&self) -> Result<Fingerprint> {
        match self.fingerprint.get() {
            Some(known) => Ok(*known),
            None => {
                let found = Fingerprint::of(self.base, self.threads)?;
                Ok(*self.fingerprint.get_or_init(|| found))
            }
        }
    }

    fn base_items<'s>(&'s self, rounding: &'s Cell<Rounding>) -> Result<Vec<Item<'s>>> {
        let Some(format) = self.base_format.stored() else { return Ok(Vec::new()) };
        let items = self.parameters.iter().map(|(parameter, shape)| {
            let tensor = self.base.require(parameter)?;
            Ok(Item::new(Role::Base(parameter), StoredFormat::from(format).dtype(), shape, move |sink| {
                convert(tensor, format, rounding, |bytes| sink.write(bytes)).map_err(|e| e.at(self.base.path()))
            }))
        });
        items.collect()
    }

    fn add_vectors<'s>(
        &'s self,
        formats: &Formats,
        metadata: &mut Metadata,
        sums: &'s RefCell<Sums>,
        progress: &'s dyn Fn(u64),
        items: &mut Vec<Item<'s>>,
    ) -> Result<()> {
        let count = self.basis.vectors();
        for &(name, parameter) in &self.changed {
            let format = formats.get(name).ok_or_else(|| Error::invalid("no format was chosen for it").tensor(name))?;
            let shape = parameter.shape();
            let sources = parameter.sources();
            let blocks = &mut metadata.blocks;
            // The mean is encoded with the vectors, whose sums it shares, and written after them.
            let mean = Rc::new(RefCell::new(Vec::new()));
            let mean_row = Rc::clone(&mean);
            items.push(vector_item(Role::Vectors(name), format, shape, Some(count), blocks, move |sink| {
                let mut encoded = encode(sources, format, self.threads)?;
                sums.borrow_mut().vectors.add(&encoded.vectors);
                sums.borrow_mut().errors.add(&encoded.errors);
                if encoded.rows.len() > count {
                    mean_row.replace(encoded.rows.swap_remove(count));
                }
                encoded.rows.iter().try_for_each(|row| sink.write(row))?;
                progress(sources.iter().map(|source| source.nbytes() as u64).sum());
                Ok(())
            })?);
            if self.basis.has_mean() {
                items.push(vector_item(Role::Mean(name), format, shape, None, blocks, move |sink| {
                    sink.write(&mean.take())
                })?);
            }
        }
        Ok(())
    }
}
