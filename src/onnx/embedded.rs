//! A graph as a bundle carries it: a model whose weights are inputs, and the map that says what they are. It holds
//! nothing that the base holds too.

use std::collections::HashSet;
use std::sync::Arc;

use indexmap::IndexMap;

use super::bind::{self, Absent, GraphMap, Mapped};
use super::bound::{BoundGraph, GraphOrigin, as_input, check_values, given, tensor_spec};
use super::file::OnnxFile;
use super::rewrite::ConstantSource;
use crate::basis::Basis;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::mmap::Mapping;
use crate::weights::{Layout, Weights};

impl BoundGraph {
    /// The model with every parameter of the base as an input, those that the basis leaves alone too, and the map of
    /// these inputs. Constants that the map takes unchecked stay where the basis does not change them: the base has
    /// other values. Of a base whose encoder is not known the map also lists what the graph certainly lacks, which is
    /// told by values that an opened bundle does not look at.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where what is no weight takes 2 GiB and more.
    pub(crate) fn embedded(&self, base: &Checkpoint) -> Result<(Vec<u8>, GraphMap)> {
        let changed: HashSet<&str> = self.layout.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        let (mut tensors, mut entries) = (Vec::new(), IndexMap::new());
        for (name, mapped) in &self.map.tensors {
            // Where the constant was used is another place in the new graph, and what becomes an input has none.
            let sum = mapped.sum.clone();
            let entry = if mapped.unchecked && !changed.contains(name.as_str()) {
                Mapped { constant: mapped.constant.clone(), uses: Vec::new(), sum, unchecked: true }
            } else {
                tensors.push(tensor_spec(&self.file, name, mapped)?);
                Mapped { constant: None, uses: Vec::new(), sum, unchecked: false }
            };
            entries.insert(name.clone(), entry);
        }
        let model = self.rewritten_with(&tensors, |_| Ok(ConstantSource::Input))?.to_vec();
        let model =
            model.map_err(|e| e.at(self.file.path()).hint("What is no weight of the base stays in the graph"))?;
        let mut map = GraphMap { tensors: entries, ..self.map.clone() };
        for name in bind::outside(&self.file, &self.map, base)? {
            if !map.missing.iter().any(|known| known == name) {
                map.missing.push(name.to_owned());
            }
        }
        map.missing.sort_unstable();
        Ok((model, map))
    }

    /// The graph that [`BoundGraph::embedded`] made. What this basis changes are its inputs; what it leaves alone gets
    /// the base's values and is a constant again.
    ///
    /// # Errors
    /// As [`BoundGraph::of_embedded_shapes`]; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming it, for a
    /// constant that does not have the base's values; [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) where
    /// constants take 2 GiB and more; [`ErrorKind::OutOfMemory`](crate::ErrorKind::OutOfMemory).
    pub(crate) fn of_embedded(
        file: Arc<OnnxFile>,
        map: GraphMap,
        base: &Checkpoint,
        basis: Option<&Basis>,
    ) -> Result<Self> {
        let graph = Self::of_embedded_shapes(file, map, base, basis)?;
        let mut held = Vec::new();
        for (name, mapped) in &graph.map.tensors {
            if as_input(&graph.file, name, mapped).is_none() {
                check_values(&graph.file, name, mapped, base)?;
            } else if !graph.layout.tensors().iter().any(|tensor| tensor.name == *name) {
                held.push(tensor_spec(&graph.file, name, mapped)?);
            }
        }
        if held.is_empty() {
            return Ok(graph);
        }
        let layout = Layout::new(held, &[], base)?;
        let values = Weights::of_base_in(base, &layout)?;
        let model = graph
            .rewritten_with(layout.tensors(), |tensor| given(tensor, values.at(values.index_of(&tensor.name)?)?.2))?
            .to_vec()?;
        let file = Arc::new(OnnxFile::parse(Arc::new(Mapping::from_vec(model, graph.file.path())))?);
        Self::carried(file, graph.map, base, basis)
    }

    /// Everything that can be known without a value: the map names tensors of the graph and parameters of the base,
    /// their shapes agree, and nothing is missing.
    ///
    /// # Errors
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) for a graph that needs an input that no map gives;
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch), naming the tensor, for a map that fits neither graph nor
    /// base, or leaves out a parameter; [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) for a name that the graph
    /// lacks.
    pub(crate) fn of_embedded_shapes(
        file: Arc<OnnxFile>,
        map: GraphMap,
        base: &Checkpoint,
        basis: Option<&Basis>,
    ) -> Result<Self> {
        let named = |error: Error| error.at(file.path());
        let constants: HashSet<&str> = file.constants.iter().map(|constant| constant.name.as_str()).collect();
        let needed = file.needed(&map.output);
        if map.tensors.contains_key(&map.pixels) {
            return Err(named(Error::format("the input for images is mapped to weights").tensor(&map.pixels)));
        }
        let is_given = |name: &str| name == map.pixels || map.tensors.contains_key(name) || constants.contains(name);
        if let Some(port) = file.inputs.iter().find(|port| needed.reads(&port.name) && !is_given(&port.name)) {
            return Err(named(Error::format("an input that the map does not know").tensor(&port.name)));
        }
        match bind::is_known(base) {
            true => bind::check_complete(&file, &map, base).map_err(named)?,
            false => bind::check_listed(&map, base).map_err(named)?,
        }
        Self::carried(file, map, base, basis)
    }

    fn carried(file: Arc<OnnxFile>, map: GraphMap, base: &Checkpoint, basis: Option<&Basis>) -> Result<Self> {
        let absent = |file: &OnnxFile, map: &GraphMap| match bind::is_known(base) {
            true => Absent::of(file, map, base, basis),
            false => Ok(Absent::listed(map, base, basis)),
        };
        Self::lacking(file, map, base, basis, absent).map(|graph| Self { origin: GraphOrigin::Bundle, ..graph })
    }
}
