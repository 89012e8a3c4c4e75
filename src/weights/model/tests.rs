//! Prefetching as the holders of weights see it.

use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::*;
use crate::checkpoint::Format;
use crate::tensor::{DType, Tensor};
use crate::weights::{TensorSpec, View};

const PATIENCE: Duration = Duration::from_secs(60);

/// Keeps the thread of a cache busy until it is told to go on.
#[derive(Debug)]
struct Jam(Sender<()>, Receiver<()>);

impl PrefetchJob<Weights> for Jam {
    fn hold(&mut self) -> Option<usize> {
        Some(0)
    }

    fn build(&self, _: &Arc<BufferPool>, _: &AtomicBool) -> Result<Weights> {
        self.0.send(()).unwrap();
        let _ = self.1.recv_timeout(PATIENCE);
        Err(Error::invalid("nothing was to be reconstructed"))
    }
}

/// The thread of the cache is busy from now on, until what is returned is dropped.
fn jam(cache: &Arc<WeightsCache>) -> Sender<()> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed) as u32;
    let key = Key { files: Arc::new([]), factors: Arc::new([n]), layout: 0 };
    let ((tell, told), (began, begins)) = (channel(), channel());
    cache.prefetch(&key, Owner::new(), Box::new(Jam(began, told))).unwrap();
    begins.recv_timeout(PATIENCE).unwrap();
    tell
}

/// A model whose weights take 256 bytes of their own: a base that is not f32 has to be converted.
fn model(cache: &Arc<WeightsCache>) -> Arc<Model> {
    let bytes = Arc::new(crate::Mapping::from_vec(vec![0; 128], "test"));
    let tensor = Tensor::contiguous(&bytes, 0..128, DType::F16, &[64]).unwrap();
    let base = Checkpoint::from_tensors("test", Format::Safetensors, vec![("visual.a".into(), tensor)]).unwrap();
    let options = ModelOptions { cache: Some(Arc::clone(cache)), ..ModelOptions::default() };
    Model::new(base, None, &options).unwrap()
}

fn weights(model: &Arc<Model>) -> TaskWeights {
    model.weights(&"base".parse().unwrap()).unwrap()
}

fn layout(model: &Arc<Model>) -> Arc<Layout> {
    let parts = vec![View::whole("visual.a")];
    let tensor = TensorSpec { name: "a".into(), shape: vec![64], dtype: DType::F32, parts, packed: None };
    Layout::new(vec![tensor], &[], model.base()).unwrap()
}

/// Until the thread has gone through everything, shown by `last`, which was wanted last.
fn wait_for(last: &TaskWeights) {
    let began = Instant::now();
    while !last.is_ready() {
        assert!(began.elapsed() < PATIENCE, "prefetching never ends");
        std::thread::yield_now();
    }
}

#[test]
fn a_handle_takes_back_all_that_it_asked_for() {
    let cache = Arc::new(WeightsCache::new(usize::MAX));
    let [first, last] = [(); 2].map(|()| model(&cache));
    let (mine, last) = (weights(&first), weights(&last));
    for prefetches in 1..4 {
        let jam = jam(&cache);
        (0..prefetches).for_each(|_| mine.prefetch().unwrap());
        assert!(!mine.clone().cancel_prefetch(), "another handle, which asked for nothing");
        assert!(mine.cancel_prefetch(), "after {prefetches}");
        assert!(!mine.cancel_prefetch(), "there is nothing left to stop");
        last.prefetch().unwrap();
        drop(jam);
        wait_for(&last);
        assert!(!mine.is_ready());
        cache.trim(0);
    }
}

#[test]
fn a_handle_takes_back_only_what_it_asked_for() {
    let cache = Arc::new(WeightsCache::new(usize::MAX));
    let model = model(&cache);
    let (mine, other) = (weights(&model), weights(&model));
    let jam = jam(&cache);
    mine.prefetch().unwrap();
    other.prefetch().unwrap();
    drop(other);
    assert!(!mine.cancel_prefetch(), "dropping a handle takes nothing back");
    drop(jam);
    wait_for(&mine);
}

#[test]
fn models_that_share_a_cache_share_its_thread() {
    let cache = Arc::new(WeightsCache::new(usize::MAX));
    let models = [(); 3].map(|()| model(&cache));
    let [one, two, three] = models.each_ref().map(weights);
    let jam = jam(&cache);
    for handle in [&one, &two, &three] {
        handle.prefetch().unwrap();
    }
    // A caller that needs one now does not wait for the thread.
    two.get().unwrap();
    assert!(three.cancel_prefetch() && !two.cancel_prefetch());
    assert!(!one.is_ready() && !three.is_ready());
    drop(jam);
    wait_for(&one);
    assert!(!three.is_ready());
}

#[test]
fn what_is_wanted_keeps_nothing_alive() {
    let cache = Arc::new(WeightsCache::new(usize::MAX));
    let [gone, left] = [(); 2].map(|()| model(&cache));
    let (jam, last) = (jam(&cache), weights(&left));
    weights(&gone).prefetch().unwrap();
    let of_layout = layout(&left);
    weights(&left).in_layout(&of_layout).prefetch().unwrap();
    let kept = layout(&left);
    weights(&left).in_layout(&kept).prefetch().unwrap();
    last.prefetch().unwrap();
    let ends = [Arc::downgrade(&gone).strong_count(), Arc::downgrade(&of_layout).strong_count()];
    assert_eq!(ends, [1, 1], "the queue holds neither");
    drop((gone, of_layout));
    drop(jam);
    wait_for(&last);
    assert!(last.in_layout(&kept).is_ready());
    assert_eq!(cache.stats().entries, 2);
    drop(kept);
    assert_eq!(cache.stats().entries, 1, "gone with its layout");
}
