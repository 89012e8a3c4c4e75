//! Embeds an image with the weights of any task expression: `quickstart BASIS BASE EXPRESSION IMAGE.png`.

use taskbasis::{Arch, ArchHints, Basis, Checkpoint, Encoder, EncoderOptions, Model, ModelOptions, Preprocess, Result};

// [quickstart] README shows what stands between these marks.
fn embed(folder: &str, base: &str, expression: &str, image: &str) -> Result<Vec<f32>> {
    let base = Checkpoint::open(base)?;
    let encoder = Encoder::new(&Arch::of(&base, ArchHints::default())?, &EncoderOptions::default())?;
    let model = Model::new(base, Some(Basis::open(folder)?), &ModelOptions::default())?;

    let weights = model.weights(&expression.parse()?)?; // names them; nothing is computed yet
    let pixels = Preprocess::new(encoder.arch().image_size())?.files(&[image], 0)?;
    encoder.encode_task(&weights, &pixels, 1) // reconstructed now, or found in the cache
}
// [/quickstart]

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, base, expression, image] = arguments.as_slice() else {
        println!("usage: quickstart BASIS BASE EXPRESSION IMAGE.png");
        std::process::exit(2);
    };
    match embed(folder, base, expression, image) {
        Ok(embedding) => println!("{} values: {:?} …", embedding.len(), &embedding[..embedding.len().min(8)]),
        Err(error) => {
            println!("error: {error}");
            std::process::exit(1);
        }
    }
}
