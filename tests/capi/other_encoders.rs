//! The C ABI, and through it C++, over a base that holds no tower that is known: a folder with a user's graph, and a
//! bundle that carries it.
#![allow(clippy::undocumented_unsafe_blocks)]

use std::path::Path;
use std::ptr::{null, null_mut};

use crate::support::capi::{basis_options, c, fails, ok, sized, text};
use crate::support::other::{IMAGE, OUT, Other, SIZE, WIDTH, prepared};
use crate::support::{Random, relative_l2, runtime};
use taskbasis::capi::*;
use taskbasis::save_arrays;

fn heads(other: &Other) -> String {
    let (path, mut random) = (other.path("heads.safetensors"), Random(21));
    let (weight, bias) = (random.many(3 * OUT), random.many(3));
    let arrays: [(&str, &[usize], &[f32]); 2] = [("A/weight", &[3, OUT], &weight), ("A/bias", &[3], &bias)];
    save_arrays(Path::new(&path), &arrays, &[], &[]).unwrap();
    path
}

#[test]
fn handles_over_another_encoder() {
    if !runtime() {
        return;
    }
    let other = Other::new(WIDTH);
    let heads = heads(&other);
    let bundle = c(other.pack("m.taskbasis", &["--format", "f32", "--base-format", "f32", "--heads", &heads]));
    let (folder, base, graph) =
        (c(other.path("basis")), c(other.path("model/base.safetensors")), c(other.path("model.onnx")));
    let pixels = Random(9).many(2 * IMAGE);
    let expected = other.features([0.3, 0.4], &pixels);
    let with_graph = tb_encoder_options { graph: graph.as_ptr(), ..sized() };
    for (path, options, how, source) in
        [(&bundle, sized(), sized(), TB_GRAPH_BUNDLE), (&folder, basis_options(&base), with_graph, TB_GRAPH_FILE)]
    {
        unsafe {
            let (mut basis, mut encoder, mut weights) = (null_mut(), null_mut(), null_mut());
            ok(|err| tb_basis_open(path.as_ptr(), &options, &mut basis, err));
            ok(|err| tb_basis_verify(basis, err));
            let mut about: tb_basis_properties = sized();
            ok(|err| tb_basis_info(basis, &mut about, err));
            assert_eq!((about.tasks, about.image_tower_parameters), (2, about.parameters));
            ok(|err| tb_encoder_create(basis, &how, &mut encoder, err));
            let mut info: tb_encoder_properties = sized();
            ok(|err| tb_encoder_info(encoder, &mut info, err));
            assert_eq!((info.graph, info.image_size, info.embedding), (source, SIZE, OUT));
            assert_eq!((info.width, info.layers, info.heads, info.mean), (0, 0, 0, [0.25, 0.5, 0.75]));
            assert!(info.assumed.is_null() && info.weight_bytes > 0);
            ok(|err| tb_weights_create(basis, c"A@0.3 + B@0.4".as_ptr(), &mut weights, err));
            let mut out = vec![0.0f32; 2 * OUT];
            ok(|err| tb_encoder_encode(encoder, weights, pixels.as_ptr(), 2, out.as_mut_ptr(), out.len(), err));
            assert!(relative_l2(&out, &expected) <= 2e-5, "{out:?} {expected:?}");
            ok(|err| tb_encoder_promote(encoder, weights, 1, err));
            ok(|err| tb_encoder_encode(encoder, weights, pixels.as_ptr(), 2, out.as_mut_ptr(), out.len(), err));
            assert!(relative_l2(&out, &expected) <= 2e-5);
            // An image is prepared as the configuration says.
            let image: Vec<u8> = (0..3 * SIZE * SIZE).map(|i| (i * 37 % 256) as u8).collect();
            let given = tb_image {
                data: image.as_ptr(),
                width: SIZE as _,
                height: SIZE as _,
                row_stride: 0,
                format: TB_PIXELS_RGB8,
            };
            ok(|err| tb_encoder_encode_images(encoder, weights, &given, 1, out.as_mut_ptr(), OUT, err));
            assert!(relative_l2(&out[..OUT], &other.features([0.3, 0.4], &prepared(&image))) <= 2e-5);

            let unsupported = tb_status::TB_ERR_UNSUPPORTED;
            let mut none = null_mut();
            let blockwise = tb_encoder_options { residency: TB_RESIDENCY_BLOCKWISE as usize, ..how };
            let message = fails(unsupported, |err| tb_encoder_create(basis, &blockwise, &mut none, err));
            assert!(message.contains("block by block"), "{message}");
            if source == TB_GRAPH_BUNDLE {
                let built = tb_encoder_options { built_graph: 1, ..how };
                let message = fails(unsupported, |err| tb_encoder_create(basis, &built, &mut none, err));
                assert!(message.contains("no built graph"), "{message}");
            } else {
                let message = fails(tb_status::TB_ERR_MISMATCH, |err| tb_encoder_create(basis, null(), &mut none, err));
                assert!(message.contains("holds no image encoder"), "{message}");
            }
            let mut int8 = null_mut();
            let lower = tb_encoder_options { precision: TB_PRECISION_INT8 as usize, ..how };
            ok(|err| tb_encoder_create(basis, &lower, &mut int8, err));
            ok(|err| tb_encoder_encode(int8, weights, pixels.as_ptr(), 2, out.as_mut_ptr(), out.len(), err));
            assert!((1e-6..0.1).contains(&relative_l2(&out, &expected)));
            for encoder in [int8, encoder] {
                tb_encoder_free(encoder);
            }
            tb_weights_free(weights);
            tb_basis_free(basis);
        }
    }
    unsafe {
        let mut head = null_mut();
        ok(|err| tb_head_open(bundle.as_ptr(), null(), null(), &mut head, err));
        let mut name = null();
        ok(|err| tb_head_class_name(head, 2, &mut name, err));
        assert_eq!(text(name), "2");
        tb_head_free(head);
    }
}
