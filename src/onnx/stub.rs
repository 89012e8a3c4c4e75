//! A graph whose parameters are inputs, turned into one whose parameters are constants that somebody else will supply.

use std::collections::HashSet;

use prost::Message;

use super::proto::{
    DataLocation, Dimension, ModelProto, StringStringEntryProto, TensorProto, ValueInfoProto, dimension,
};
use crate::error::{Error, ErrorKind, Result};

/// The file that the constants claim to be in. It is never opened: whoever makes a session supplies the values.
const LOCATION: &str = "taskbasis.weights";

/// The model with those inputs that `parameters` names as constants of the same name, type and shape, and no values:
/// each is marked as data in a file of its own range.
///
/// # Errors
/// [`ErrorKind::Internal`] when `model` cannot be decoded, or a parameter is no input of fixed shape.
pub(crate) fn with_external_parameters<'a>(model: &[u8], parameters: impl Iterator<Item = &'a str>) -> Result<Vec<u8>> {
    let defect = |what: &str| Error::new(ErrorKind::Internal, what.to_owned());
    let mut model = ModelProto::decode(model).map_err(|e| defect("a graph cannot be decoded").because(e))?;
    let graph = model.graph.as_mut().ok_or_else(|| defect("a model has no graph"))?;
    let parameters: HashSet<&str> = parameters.collect();
    let (frozen, inputs): (Vec<_>, Vec<_>) =
        std::mem::take(&mut graph.input).into_iter().partition(|input| parameters.contains(input.name()));
    graph.input = inputs;
    if frozen.len() != parameters.len() {
        return Err(defect("a parameter is no input of the graph").expected(parameters.len()).got(frozen.len()));
    }
    let mut offset = 0;
    for input in frozen {
        let tensor = external(&input, &mut offset)
            .ok_or_else(|| defect("a parameter has no fixed type and shape").tensor(input.name()))?;
        graph.initializer.push(tensor);
    }
    Ok(model.encode_to_vec())
}

/// The constant in the place of an input, its data after those before it.
pub(super) fn external(input: &ValueInfoProto, offset: &mut u64) -> Option<TensorProto> {
    let tensor_type = input.r#type.as_ref()?.tensor_type.as_ref()?;
    let dims = tensor_type.shape.as_ref()?.dim.iter().map(extent).collect::<Option<Vec<i64>>>()?;
    let numel = dims.iter().try_fold(1u64, |n, &extent| n.checked_mul(u64::try_from(extent).ok()?))?;
    let data_type = tensor_type.elem_type?;
    let length = numel.checked_mul(super::proto::TensorType::try_from(data_type).ok()?.size()?)?;
    let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    let external_data = vec![
        entry("location", LOCATION.into()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
    *offset = offset.checked_add(length)?;
    Some(TensorProto {
        name: input.name.clone(),
        dims,
        data_type: Some(data_type),
        data_location: Some(DataLocation::External as i32),
        external_data,
        ..TensorProto::default()
    })
}

fn extent(dim: &Dimension) -> Option<i64> {
    match dim.value.as_ref()? {
        dimension::Value::DimValue(extent) => Some(*extent),
        dimension::Value::DimParam(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tower::graph;
    use crate::tower::{Activation, Arch};

    #[test]
    fn inputs_become_constants_without_values() {
        let (width, heads) = (8, 1);
        let arch = Arch {
            width,
            layers: 1,
            heads,
            mlp_width: 8,
            patch: 2,
            grid: 1,
            embed_dim: 4,
            activation: Activation::QuickGelu,
            variant: crate::tower::Variant::default(),
        };
        let model = graph::build(&arch).unwrap();
        let parameters = arch.parameters();
        let names = || parameters.iter().map(|(name, _)| name.as_str());
        let stub = ModelProto::decode(&*with_external_parameters(&model, names()).unwrap()).unwrap();
        let graph = stub.graph.unwrap();
        assert_eq!(graph.input.iter().map(ValueInfoProto::name).collect::<Vec<_>>(), [graph::PIXELS]);
        let mut end = 0;
        for (name, shape) in &parameters {
            let constant = graph.initializer.iter().find(|tensor| tensor.name() == name).unwrap();
            assert!(constant.dims.iter().map(|&extent| extent as usize).eq(shape.iter().copied()));
            let value = |key| {
                let entry = constant.external_data.iter().find(|entry| entry.key() == key).unwrap();
                entry.value().parse::<usize>().unwrap()
            };
            assert_eq!(value("offset"), end, "{name} begins where the one before it ends");
            assert_eq!(value("length"), 4 * shape.iter().product::<usize>());
            end += value("length");
        }

        assert!(with_external_parameters(&model, ["stranger"].into_iter()).is_err());
        assert!(
            with_external_parameters(&model, [graph::PIXELS].into_iter()).is_err(),
            "its batch has no fixed extent"
        );
        assert!(with_external_parameters(b"no model", std::iter::empty()).is_err());
    }
}
