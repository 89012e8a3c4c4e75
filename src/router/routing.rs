//! A router over a model: batches encoded by the tasks that their images belong to.

use super::{Choice, FeatureKind, Route, Router};
use crate::basis::TaskExpr;
use crate::encoder::{Encoder, Hidden};
use crate::error::{Error, Result};
use crate::open::OpenModel;
use crate::tensor::try_zeroed;
use crate::weights::TaskWeights;

/// A router, and the weights of a model that it sends images to. Shareable between threads.
#[derive(Debug)]
pub struct Routing {
    router: Router,
    features: TaskWeights,
    tasks: Vec<TaskWeights>,
    fallback: Option<TaskWeights>,
}

/// A batch of images, each encoded by what was chosen for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// f32 `[n, e]`, not normalised: by the image's task or the fallback; zeros where nothing answers.
    pub embeds: Vec<f32>,
    /// Per image its likeliest task.
    pub routes: Vec<Route>,
    /// Per image what became of it.
    pub choices: Vec<Choice>,
}

impl Routing {
    /// Puts the router over a model. Its tasks have to be the model's; nothing is reconstructed yet. The fingerprint of
    /// a base that is in no bundle is computed, for which all of the base is read once.
    ///
    /// # Errors
    /// As [`Router::check_base`]; as [`Model::weights`](crate::Model::weights) for a task, features or a fallback that
    /// the model does not have.
    pub fn new(router: Router, opened: &OpenModel) -> Result<Self> {
        router.check_base(opened.fingerprint()?)?;
        let of = |expr: &TaskExpr| opened.model().weights(expr).map_err(|e| router.located(e));
        let features = of(&router.features)?;
        let tasks = router.tasks.iter().map(|task| of(&TaskExpr::task(task))).collect::<Result<_>>()?;
        let fallback = router.fallback.as_ref().map(of).transpose()?;
        Ok(Self { router, features, tasks, fallback })
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The weights of a task of the router's.
    pub fn task(&self, index: usize) -> Option<&TaskWeights> {
        self.tasks.get(index)
    }

    /// The weights that give the features.
    pub fn features(&self) -> &TaskWeights {
        &self.features
    }

    /// The routes of `n` preprocessed images, f32 `[n, 3, S, S]`, and their embeddings by the features' weights,
    /// `[n, e]`: one run.
    ///
    /// # Errors
    /// As [`Router::check_encoder`] and [`Router::route`]; as [`Encoder::encode_task`], or [`Encoder::encode_hidden`]
    /// where the router takes hidden features.
    pub fn route(&self, encoder: &Encoder, pixels: &[f32], n: usize) -> Result<(Vec<Route>, Vec<f32>)> {
        self.router.check_encoder(encoder)?;
        let (features, embeds) = match self.router.kind() {
            FeatureKind::Embedding => (None, encoder.encode_task(&self.features, pixels, n)?),
            FeatureKind::Hidden => {
                let Hidden { features, embeds } = encoder.encode_hidden(&self.features, pixels, n)?;
                (Some(features), embeds)
            }
        };
        Ok((self.router.route(features.as_deref().unwrap_or(&embeds))?, embeds))
    }

    /// Embeds `n` preprocessed images, f32 `[n, 3, S, S]`, each with the weights of its likeliest task, or the
    /// fallback's below the threshold: one run for the features, and one per task that occurs.
    ///
    /// # Errors
    /// As [`Routing::route`] and [`Encoder::encode_task`].
    pub fn encode(&self, encoder: &Encoder, pixels: &[f32], n: usize) -> Result<Routed> {
        let (routes, own) = self.route(encoder, pixels, n)?;
        let choices: Vec<Choice> = routes.iter().map(|route| self.router.choice(route)).collect();
        let (image, embedding) = (encoder.arch().pixels(), encoder.arch().embed_dim);
        let mut embeds = try_zeroed(own.len())?;
        let mut batch = Vec::new();
        // The place behind the tasks is the fallback's.
        for group in 0..=self.tasks.len() {
            let belongs = |at: &usize| match choices[*at] {
                Choice::Task => routes[*at].task == group,
                Choice::Fallback => group == self.tasks.len(),
                Choice::None => false,
            };
            let members: Vec<usize> = (0..n).filter(belongs).collect();
            let Some(weights) = self.tasks.get(group).or(self.fallback.as_ref()).filter(|_| !members.is_empty()) else {
                continue;
            };
            let run;
            let encoded = if weights.name() == self.features.name() {
                &own
            } else if members.len() == n {
                run = encoder.encode_task(weights, pixels, n)?;
                &run
            } else {
                batch.clear();
                let room = members.len().saturating_mul(image);
                batch
                    .try_reserve_exact(room)
                    .map_err(|_| Error::out_of_memory(room.saturating_mul(size_of::<f32>())))?;
                members.iter().for_each(|&at| batch.extend_from_slice(&pixels[at * image..][..image]));
                run = encoder.encode_task(weights, &batch, members.len())?;
                &run
            };
            // Runs of all images have them at their own places, others one after the other.
            let is_whole = encoded.len() == own.len();
            for (row, &at) in members.iter().enumerate() {
                let from = if is_whole { at } else { row };
                embeds[at * embedding..][..embedding].copy_from_slice(&encoded[from * embedding..][..embedding]);
            }
        }
        Ok(Routed { embeds, routes, choices })
    }
}
