mod prefetch;

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::checkpoint::{Checkpoint, Format};
use crate::error::Error;
use crate::tensor::{DType, Tensor};
use crate::weights::{ReconstructOptions, Scope, plan};

/// Weights of 256 bytes of their own (a base that is not f32 has to be converted).
fn build(spares: &Arc<BufferPool>) -> Result<Weights> {
    let bytes = Arc::new(crate::Mapping::from_vec(vec![0; 128], "test"));
    let tensor = Tensor::contiguous(&bytes, 0..128, DType::F16, &[64]).unwrap();
    let base = Checkpoint::from_tensors("test", Format::Safetensors, vec![("visual.a".into(), tensor)]).unwrap();
    let plan = plan::base_alone(&base, Scope::ImageTower);
    let layout = plan.canonical();
    plan.run(&layout, &ReconstructOptions::default(), Some(spares))
}

fn key(n: u32) -> Key {
    Key { files: Arc::new([]), factors: Arc::new([n]), layout: 0 }
}

fn get(cache: &WeightsCache, n: u32) -> Arc<Weights> {
    cache.get_or_build(&key(n), 256, build).unwrap()
}

#[test]
fn the_least_recently_used_goes_first() {
    let cache = WeightsCache::new(512);
    for n in [1, 2, 1, 3] {
        get(&cache, n);
    }
    assert!(cache.contains(&key(1)) && !cache.contains(&key(2)) && cache.contains(&key(3)));
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.evictions, stats.entries, stats.bytes), (1, 3, 1, 2, 512));
    cache.trim(256);
    assert!(!cache.contains(&key(1)) && cache.contains(&key(3)));
    cache.set_budget(0);
    assert_eq!((cache.stats().entries, cache.stats().bytes, cache.stats().spare_bytes), (0, 0, 0));
}

#[test]
fn a_budget_smaller_than_one_task_still_works() {
    let cache = WeightsCache::new(1);
    let first = get(&cache, 1);
    assert_eq!(cache.stats().bytes, 0);
    let again = cache.get_or_build(&key(1), 256, |_| unreachable!("it is alive: `first` holds it"));
    assert!(Arc::ptr_eq(&first, &again.unwrap()));
    drop(first);
    get(&cache, 1);
    assert_eq!((cache.stats().misses, cache.stats().spare_bytes), (2, 0));
}

#[test]
fn memory_goes_from_the_evicted_to_the_next() {
    let cache = WeightsCache::new(512);
    let address = |n| get(&cache, n).get("visual.a").unwrap().as_ptr();
    let (first, _) = (address(1), address(2));
    // Room is made before the third is built: it takes the first one's memory, and there are never three.
    assert_eq!(address(3), first);
    assert_eq!((cache.stats().bytes, cache.stats().spare_bytes, cache.stats().evictions), (512, 0, 1));

    let held = get(&cache, 2);
    cache.set_budget(256);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.spare_bytes), (1, 0), "{stats:?}");
    cache.trim(0);
    assert_eq!(cache.stats().spare_bytes, 0, "in use");
    drop(held);
    assert_eq!(cache.stats().spare_bytes, 256, "within the budget, for the next");
    cache.trim(0);
    assert_eq!(cache.stats().spare_bytes, 0);
}

#[test]
fn one_reconstructs_and_the_others_wait() {
    let (cache, built) = (WeightsCache::new(usize::MAX), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                cache.get_or_build(&key(7), 256, |spares| {
                    built.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(30));
                    build(spares)
                })
            });
        }
    });
    assert_eq!(built.into_inner(), 1);
    assert_eq!((cache.stats().hits, cache.stats().misses), (7, 1));
}

#[test]
fn a_failure_or_a_panic_leaves_no_trace() {
    let cache = WeightsCache::new(usize::MAX);
    let fails = || cache.get_or_build(&key(1), 256, |_| Err(Error::invalid("no")));
    assert!(fails().is_err());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = cache.get_or_build(&key(1), 256, |_| panic!("no"));
    }));
    assert!(panicked.is_err());
    get(&cache, 1);
    assert_eq!(cache.stats().entries, 1);
}

#[test]
fn what_is_derived_shares_the_budget() {
    let cache = Arc::new(WeightsCache::new(600));
    let (one, other) = (Owner::new(), Owner::new());
    let derived = || -> Derived { Arc::new(()) };
    assert!(!cache.keep_derived(one, &key(1), derived(), 601), "more than all there is");

    get(&cache, 1);
    assert!(cache.keep_derived(one, &key(1), derived(), 300));
    assert_eq!((cache.stats().bytes, cache.stats().promoted, cache.stats().promoted_bytes), (556, 1, 300));
    get(&cache, 2);
    assert!(!cache.contains(&key(1)), "the weights were used before the session");
    assert!(cache.find_derived(one, &key(1)).is_some() && cache.find_derived(other, &key(1)).is_none());
    get(&cache, 3);
    assert!(!cache.contains(&key(2)) && cache.contains_derived(one, &key(1)));
    // Not used meanwhile, so it goes.
    get(&cache, 3);
    get(&cache, 4);
    get(&cache, 5);
    assert!(!cache.contains_derived(one, &key(1)));
    assert_eq!((cache.stats().promoted, cache.stats().promoted_bytes), (0, 0));

    cache.keep_derived(one, &key(1), derived(), 10);
    cache.keep_derived(other, &key(1), derived(), 10);
    let lease = CacheLease::new(Holder::Encoder(one));
    lease.register_cache(&cache);
    drop(lease);
    assert!(!cache.drop_derived(one, &key(1)) && cache.drop_derived(other, &key(1)));
}
