//! Options that take one of a few values of the library's, by name.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// The name of a value, for [`choice`].
pub fn value(name: &'static str) -> PossibleValue {
    PossibleValue::new(name)
}

/// A parser of these values by their names.
pub fn choice<T: Copy + Send + Sync + 'static, const N: usize>(
    values: [(PossibleValue, T); N],
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(values.clone().map(|(name, _)| name));
    names.map(move |given| {
        let found = values.iter().find(|(name, _)| name.matches(&given, false));
        found.expect("a value that clap has let pass").1
    })
}
