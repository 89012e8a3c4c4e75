//! Data sets as they are distributed: the same images and labels, whatever they come in.
#![cfg(feature = "images")]

use std::path::Path;

use crate::support::data::{Mat, Pickled, cifar_pickle, grey, gzip, idx, names_pickle, png, write};
use taskbasis::{Dataset, ErrorKind, Preprocess, Split};

/// The pixels of one split as they are, in [N, 3, S, S], of images with sides of `size`.
fn levels(split: &Split, size: usize) -> Vec<u8> {
    let preprocess = Preprocess::new(size).unwrap().with_mean_std([0.0; 3], [1.0 / 255.0; 3]).unwrap();
    let pixels = split.preprocess(&preprocess, 0..split.len(), 1).unwrap();
    pixels.iter().map(|value| value.round() as u8).collect()
}

/// `n` images of three planes of `side`² bytes, row by row: what [`levels`] gives back.
fn planes(n: usize, side: usize) -> Vec<u8> {
    (0..n * 3 * side * side).map(|i| (i * 37 % 251) as u8).collect()
}

/// The planes with each one's columns as rows.
fn turned(planes: &[u8], side: usize) -> Vec<u8> {
    let plane = |plane: &[u8]| -> Vec<u8> { (0..side * side).map(|i| plane[i % side * side + i / side]).collect() };
    planes.chunks(side * side).flat_map(plane).collect()
}

fn split(path: &Path, name: &str) -> Split {
    Dataset::of_task("T", path).and_then(|data| data.split("T", name)).unwrap()
}

#[track_caller]
fn refused(path: &Path, split: &str, kind: ErrorKind, parts: &[&str]) {
    let error = Dataset::of_task("T", path).and_then(|data| data.split("T", split)).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    parts.iter().for_each(|part| assert!(error.to_string().contains(part), "`{part}` is not in: {error}"));
}

#[test]
fn emnists_sets_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("EMNIST/raw");
    let sets = ["balanced", "byclass", "bymerge", "digits", "letters", "mnist"];
    for (i, set) in sets.iter().enumerate() {
        let file = |kind: &str| root.join(format!("emnist-{set}-test-{kind}-ubyte"));
        write(file("images-idx3"), idx(&[1, 2, 2], &[i as u8; 4]));
        write(file("labels-idx1"), idx(&[1], &[i as u8]));
    }
    // However far above: the folder, torchvision's root, or the root of that.
    for root in [root.as_path(), &folder.path().join("EMNIST"), folder.path()] {
        let error = Dataset::of_task("EMNIST", root).unwrap_err();
        let text = error.to_string();
        assert!(sets.iter().all(|set| text.contains(&format!("emnist-{set}"))), "{text}");
        assert!(text.contains(&format!("EMNIST={}:balanced", root.display())), "{text}");
        for (i, set) in sets.iter().enumerate() {
            for name in [(*set).to_owned(), set.to_uppercase(), format!("emnist-{set}")] {
                let data = Dataset::of_part("EMNIST", root, &name).unwrap();
                let split = data.split("EMNIST", "test").unwrap();
                assert_eq!((split.labels(), levels(&split, 2)[0]), (&[i][..], i as u8), "{name}");
            }
        }
        let error = Dataset::of_part("EMNIST", root, "numbers").unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("emnist-letters"), "{error}");
    }
}

#[test]
fn idx_files_below_compressed_and_with_qmnists_labels() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let pixels: Vec<u8> = (0..12).map(|i| i * 20).collect();
    let (images, labels) = (idx(&[3, 2, 2], &pixels), idx(&[3], &[7, 8, 9]));
    let check = |split: &Split| {
        assert_eq!(split.labels(), [7, 8, 9]);
        let expected: Vec<u8> = pixels.chunks(4).flat_map(|image| image.repeat(3)).collect();
        assert_eq!(levels(split, 2), expected);
    };
    write(root.join("tv/MNIST/raw/t10k-images-idx3-ubyte"), &images);
    write(root.join("tv/MNIST/raw/t10k-images-idx3-ubyte.gz"), b"left over");
    write(root.join("tv/MNIST/raw/t10k-labels-idx1-ubyte"), &labels);
    check(&split(&root.join("tv"), "test"));
    // Two data sets: the one that is called like the task.
    write(root.join("tv/KMNIST/raw/t10k-images-idx3-ubyte"), idx(&[1, 2, 2], &[0; 4]));
    write(root.join("tv/KMNIST/raw/t10k-labels-idx1-ubyte"), idx(&[1], &[0]));
    refused(&root.join("tv"), "test", ErrorKind::InvalidArgument, &["KMNIST/raw", "MNIST/raw"]);
    check(&Dataset::of_task("mnist", root.join("tv")).unwrap().split("mnist", "test").unwrap());
    check(&Dataset::of_part("T", root.join("tv"), "MNIST").unwrap().split("T", "test").unwrap());

    write(root.join("gz/train-images.idx3-ubyte.gz"), gzip(&images));
    write(root.join("gz/train-labels.idx1-ubyte.gz"), gzip(&labels));
    check(&split(&root.join("gz"), "train"));
    let cut = gzip(&images);
    write(root.join("cut/train-images-idx3-ubyte.gz"), &cut[..cut.len() / 2]);
    refused(&root.join("cut"), "train", ErrorKind::Format, &["train-images-idx3-ubyte.gz", "damaged or cut off"]);

    let mut rows = vec![0, 0, 12, 2, 0, 0, 0, 3, 0, 0, 0, 8];
    for label in 7..10u32 {
        (0..8).for_each(|column| rows.extend(if column == 0 { label } else { 1000 }.to_be_bytes()));
    }
    write(root.join("qmnist/qmnist-test-images-idx3-ubyte"), &images);
    write(root.join("qmnist/qmnist-test-labels-idx2-int"), &rows);
    check(&split(&root.join("qmnist"), "test"));

    write(root.join("two/t10k-images-idx3-ubyte"), &images);
    write(root.join("two/t10k-images.idx3-ubyte"), &images);
    refused(&root.join("two"), "test", ErrorKind::Format, &["t10k-images-idx3-ubyte and t10k-images.idx3-ubyte"]);
}

#[test]
fn cifars_python_archives() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let data = planes(3, 32);
    // Pixels that are text, as a dark image is, are pixels all the same.
    let dark: Vec<u8> = data.iter().map(|value| value % 128).collect();
    for how in [Pickled::Python2, Pickled::Encoded, Pickled::Bytes] {
        for (i, data) in [&data, &dark].into_iter().enumerate() {
            let ten = root.join(format!("{how:?}{i}/cifar-10-batches-py"));
            write(ten.join("test_batch"), cifar_pickle(how, "labels", &[3, 0, 9], data));
            let names: Vec<String> = (0..10).map(|i| format!("class {i}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            write(ten.join("batches.meta"), names_pickle(how, "label_names", &names));
            let split = split(ten.parent().unwrap(), "test");
            assert_eq!((split.labels(), split.classes().len()), (&[3, 0, 9][..], 10), "{how:?}");
            assert!(levels(&split, 32) == **data, "{how:?}");
        }
    }
    let hundred = root.join("cifar-100-python");
    write(hundred.join("train"), cifar_pickle(Pickled::Python2, "fine_labels", &[99, 1, 2], &data));
    write(hundred.join("meta"), names_pickle(Pickled::Python2, "fine_label_names", &["apple"]));
    assert_eq!(split(&hundred, "train").labels(), [99, 1, 2]);

    let broken = root.join("broken");
    for batch in 1..=5 {
        write(broken.join(format!("data_batch_{batch}")), cifar_pickle(Pickled::Bytes, "labels", &[1, 2], &data));
    }
    refused(&broken, "train", ErrorKind::Format, &["data_batch_1", "u8 [2, 3072]", "9216 bytes"]);
    std::fs::remove_file(broken.join("data_batch_4")).unwrap();
    refused(&broken, "train", ErrorKind::NotFound, &["data_batch_4", "missing"]);
    write(root.join("other/test_batch"), cifar_pickle(Pickled::Bytes, "fine_labels", &[1, 2, 3], &data));
    refused(&root.join("other"), "test", ErrorKind::Format, &["test_batch", "no `labels`"]);
    write(root.join("text/test_batch"), "no pickle");
    refused(&root.join("text"), "test", ErrorKind::Format, &["test_batch"]);
}

#[test]
fn svhns_matrices() {
    let folder = tempfile::tempdir().unwrap();
    let (n, side) = (3, 4);
    let data = planes(n, side);
    // MATLAB's order is by column; of labels, 10 is the digit 0.
    let values = turned(&data, side);
    let (size, count) = (side as u32, n as u32);
    for (i, (big_endian, compressed)) in
        [(false, true), (false, false), (true, true), (true, false)].into_iter().enumerate()
    {
        let mat = Mat { big_endian, compressed };
        let doubles: Vec<u8> = [10.0f64, 1.0, 9.0]
            .iter()
            .flat_map(|v| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() })
            .collect();
        let labels = match i % 2 {
            0 => mat.matrix("y", 9, &[count, 1], 2, &[10, 1, 9]),
            // A matrix of doubles; its values may be stored as bytes too.
            _ => mat.matrix("y", 6, &[count, 1], 9, &doubles),
        };
        let images = mat.matrix("X", 9, &[size, size, 3, count], 2, &values);
        let path = folder.path().join(i.to_string());
        write(path.join("test_32x32.mat"), mat.file(&[labels, images]));
        let split = split(&path, "test");
        assert_eq!(split.labels(), [0, 1, 9], "{big_endian} {compressed}");
        assert!(levels(&split, side) == data, "{big_endian} {compressed}");
    }

    let mat = Mat { big_endian: false, compressed: true };
    let bad = |name: &str, matrices: &[Vec<u8>], kind: ErrorKind, parts: &[&str]| {
        let path = folder.path().join(name);
        write(path.join("train_32x32.mat"), mat.file(matrices));
        refused(&path, "train", kind, parts);
    };
    let images = || mat.matrix("X", 9, &[size, size, 3, count], 2, &values);
    let labels = |values: &[u8]| mat.matrix("y", 9, &[values.len() as u32, 1], 2, values);
    bad("lacks", &[images()], ErrorKind::NotFound, &["train_32x32.mat", "no matrix `y`", "known: X"]);
    bad("eleven", &[images(), labels(&[1, 2, 11])], ErrorKind::Format, &["`y`", "1 to 10", "11"]);
    bad("few", &[images(), labels(&[1, 2])], ErrorKind::Format, &["`y`", "3 labels", "got 2"]);
    let short = mat.matrix("X", 9, &[size, size, 3, 99], 2, &values);
    bad("short", &[short, labels(&[1])], ErrorKind::Format, &["`X`", "disagree"]);
    let floats = mat.matrix("X", 7, &[1, 1, 3, 1], 7, &[0; 12]);
    bad("floats", &[floats, labels(&[1])], ErrorKind::Format, &["`X`", "u8 [32, 32, 3, N]"]);
    let whole = mat.file(&[images(), labels(&[1, 2, 3])]);
    for length in [0, 100, 128, 130, 140, 200, whole.len() - 3] {
        write(folder.path().join("cut/train_32x32.mat"), &whole[..length]);
        let error = Dataset::of_task("T", folder.path().join("cut")).unwrap().split("T", "train").unwrap_err();
        assert!(error.to_string().contains("train_32x32.mat"), "{length}: {error}");
    }
    write(folder.path().join("hdf/train_32x32.mat"), format!("{:<128}", "MATLAB 7.3 MAT-file"));
    refused(&folder.path().join("hdf"), "train", ErrorKind::Unsupported, &["7.3", "-v7"]);
}

#[test]
fn stl10_by_column_and_from_one() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("stl10_binary");
    let data = planes(2, 96);
    write(root.join("test_X.bin"), turned(&data, 96));
    write(root.join("test_y.bin"), [1, 10]);
    write(root.join("class_names.txt"), "airplane\nbird\n");
    let of_root = split(folder.path(), "test");
    assert_eq!((of_root.labels(), of_root.classes()), (&[0, 9][..], &["airplane".to_owned(), "bird".into()][..]));
    assert!(levels(&of_root, 96) == data);
    write(root.join("test_y.bin"), [1, 0]);
    refused(&root, "test", ErrorKind::Format, &["test_y.bin", "image 1", "1 to 10", "got 0"]);
    write(root.join("test_X.bin"), [0; 5]);
    refused(&root, "test", ErrorKind::Format, &["test_X.bin", "multiple of 27648"]);
}

#[test]
fn gtsrb_as_its_archives_torchvision_and_kaggle_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let table = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n00000.png;2;2;0;0;1;1;16\n\
                 00001.png;2;2;0;0;1;1;1\n";
    let layouts = [
        (
            "official",
            "GTSRB/Final_Training/Images",
            "GTSRB/Final_Test/Images",
            "GTSRB/Final_Test/Images/GT-final_test.csv",
        ),
        ("tv", "gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv"),
        ("kaggle", "Train", "Test", "Test.csv"),
    ];
    for (name, training, test, csv) in layouts {
        let root = root.join(name);
        for class in ["00000", "00001", "00016"] {
            grey(root.join(training).join(class).join("00000_00000.png"), 9);
        }
        grey(root.join(test).join("00000.png"), 100);
        grey(root.join(test).join("00001.png"), 200);
        match name {
            "kaggle" => write(root.join(csv), "Width,ClassId,Path\r\n2,16,Test/00000.png\r\n2,1,Test/00001.png\r\n"),
            _ => write(root.join(csv), table),
        }
        let test = split(&root, "test");
        assert_eq!((test.labels(), test.classes().len()), (&[16, 1][..], 0), "{name}");
        assert_eq!(levels(&test, 2), [[100; 12], [200; 12]].concat(), "{name}");
        assert_eq!(split(&root, "train").classes().last().unwrap(), "00016", "{name}");
    }
    let csv = root.join("official/GTSRB/Final_Test/Images/GT-final_test.csv");
    write(&csv, "Filename;Width\n00000.png;2\n");
    refused(&root.join("official"), "test", ErrorKind::Format, &["GT-final_test.csv", "ClassId", "Filename;Width"]);
    write(&csv, "Filename;ClassId\n00000.png;stop\n");
    refused(&root.join("official"), "test", ErrorKind::Format, &["GT-final_test.csv", "line 2", "stop"]);
    std::fs::remove_file(csv).unwrap();
    refused(&root.join("official"), "test", ErrorKind::NotFound, &["Final_Test/Images", "GTSRB_Final_Test_GT.zip"]);
}

#[test]
fn what_is_known_and_not_read_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, part) in [
        ("train.tar.gz", "Unpack"),
        ("test-00000-of-00001.parquet", "Parquet"),
        ("a.tfrecord-00000-of-00001", "TFRecord"),
        ("camelyonpatch_level_2_split_test_x.h5", "HDF5"),
        ("bloodmnist.npz", "NumPy"),
        ("photo.png", "no class folder"),
    ] {
        let path = folder.path().join(part);
        write(path.join(name), "");
        refused(&path, "test", ErrorKind::Format, &[&format!("got {name}"), part]);
    }
    for (mark, part) in [
        ("cars_train/00001.jpg", "Stanford Cars"),
        ("imagelabels.mat", "Flowers-102"),
        ("annotations/list.txt", "Oxford-IIIT Pet"),
    ] {
        write(folder.path().join(part).join(mark), "");
        refused(&folder.path().join(part), "test", ErrorKind::Unsupported, &[part, "SPLIT/CLASS/"]);
    }
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    refused(&folder.path().join("empty"), "test", ErrorKind::Format, &["an empty folder"]);
    png(folder.path().join("photo.png"), 2, 2, &[0; 4]);
    refused(&folder.path().join("photo.png"), "test", ErrorKind::Io, &["the folder of one task", "got a file"]);
}

#[cfg(feature = "build")]
#[test]
fn the_references_validation_images() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, files) = (folder.path().join("idx"), folder.path().join("classes"));
    let pixels: Vec<u8> = (0..43).flat_map(|i| [i * 5; 4]).collect();
    write(packed.join("train-images-idx3-ubyte"), idx(&[43, 2, 2], &pixels));
    write(packed.join("train-labels-idx1-ubyte"), idx(&[43], &(0..43).collect::<Vec<u8>>()));
    for i in 0..43u8 {
        grey(files.join(format!("train/c{}/{i:02}.png", i / 10)), i * 5);
    }
    // torch.utils.data.random_split(range(43), [39, 4], torch.Generator().manual_seed(0))[1].indices
    let validation = [21u8, 15, 16, 41];
    // random.seed(42); random.sample(range(43), int(1 / 4 * 43))
    let sample = [40u8, 7, 1, 17, 15, 14, 8, 6, 34, 5];
    let firsts = |split: &Split| -> Vec<u8> { levels(split, 2).chunks(12).map(|image| image[0]).collect() };
    for path in [&packed, &files] {
        let all = || split(path, "train");
        let val = all().reference_validation().unwrap();
        assert_eq!(firsts(&val), validation.map(|i| i * 5), "{}", path.display());
        let label = |i: u8| if path == &packed { usize::from(i) } else { usize::from(i / 10) };
        assert_eq!(val.labels(), validation.map(label));
        let drawn = all().reference_sample(1, 4, 42).unwrap();
        assert_eq!((firsts(&drawn), drawn.labels()), (sample.map(|i| i * 5).to_vec(), &sample.map(label)[..]));
        // A part of a part; none of nothing.
        let part = drawn.chosen(&[9, 0]).unwrap();
        assert_eq!(firsts(&part), [25, 200]);
        assert_eq!(part.images().len(), if path == &packed { 2 } else { 0 });
        assert!(all().chosen(&[43]).is_err() && all().reference_sample(2, 1, 0).is_err());
        let few = all().chosen(&[0, 1, 2]).unwrap().reference_validation().unwrap_err();
        assert!(few.kind() == ErrorKind::InvalidArgument && few.to_string().contains("at least 10 images"), "{few}");
    }
}
