use proptest::prelude::*;

use super::selector::LambdaByGroup;
use super::*;
use crate::basis::place::Kind;

fn parse(text: &str) -> Vec<(Target, f64)> {
    let terms = text.parse::<TaskExpr>().unwrap().terms;
    terms.into_iter().map(|(target, scale)| (target, scale.whole().unwrap())).collect()
}

fn task(name: &str) -> Target {
    Target::Task(name.into())
}

#[test]
fn the_grammar() {
    assert_eq!(parse("base"), []);
    assert_eq!(parse("MNIST"), [(task("MNIST"), 1.0)]);
    assert_eq!(parse(" MNIST @ 0.8 "), [(task("MNIST"), 0.8)]);
    assert_eq!(parse("-MNIST@0.5"), [(task("MNIST"), -0.5)]);
    assert_eq!(parse("MNIST@-0.5"), [(task("MNIST"), -0.5)]);
    assert_eq!(
        parse("MNIST@0.3+SVHN@3e-1 - Cars@.2"),
        [(task("MNIST"), 0.3), (task("SVHN"), 0.3), (task("Cars"), -0.2)]
    );
    assert_eq!(parse("merged@0.4 + all@2"), [(Target::Merged, 0.4), (Target::All, 2.0)]);
    assert_eq!(parse(r#""CIFAR-10 \"x\""@2 + "base""#), [(task("CIFAR-10 \"x\""), 2.0), (task("base"), 1.0)]);
    assert_eq!(parse("base + MNIST@0.3"), [(task("MNIST"), 0.3)]);
    assert_eq!(
        parse("#0@0.5 - #12 + #mean"),
        [(Target::Vector(0), 0.5), (Target::Vector(12), -1.0), (Target::Mean, 1.0)]
    );
}

#[test]
fn errors_say_where_and_why() {
    for (text, part) in [
        ("", "expected the name of a task"),
        ("MNIST +", "at its end: expected the name"),
        ("MNIST@", "expected a number after `@`"),
        ("MNIST@x", "got `x`"),
        ("MNIST@nan", "must be finite"),
        ("MNIST@1e999", "must be finite"),
        ("MNIST SVHN", "before `SVHN`: expected `+`, `-` or the end"),
        ("\"MNIST", "does not end"),
        ("\"\"", "a name is empty"),
        ("base@0.5", "takes neither"),
        ("-base", "takes neither"),
        ("MNIST@0.5@0.5", "expected `+`"),
        ("#x", "expected the number of a basis vector"),
        ("#", "expected the number of a basis vector"),
        ("A@{", "is no group"),
        ("A@{}", "is no group"),
        ("A@{attn}", "expected `:` and a number after the group `attn`"),
        ("A@{attn:}", "expected a number after `:`"),
        ("A@{attn: 1", "expected `,` or `}`"),
        ("A@{attn: 1 mlp: 2}", "expected `,` or `}`"),
        ("A@{attn: 1, attn: 2}", "the group `attn` stands there twice"),
        ("A@{attn: inf}", "must be finite"),
        ("A@{heads: 1}", "`heads` is no group: expected `*`, `blocks.0-5`, one of stem, attn, mlp, norm, proj, bias"),
        ("A@{attn.mlp: 1}", "is no group"),
        ("A@{blocks: 1}", "is no group"),
        ("A@{blocks.x: 1}", "is no group"),
        ("A@{blocks.3-1: 1}", "`blocks.3-1` ends before it begins"),
        ("A@{visual.proj: 1}", "a parameter's name in double quotes"),
        ("base@{*: 1}", "takes neither"),
    ] {
        let error = text.parse::<TaskExpr>().unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn numbers_are_short_and_read_back() {
    for (value, text) in [
        (0.3, "0.3"),
        (0.0, "0"),
        (1e-5, "0.00001"),
        (2.5e-7, "2.5e-7"),
        (1e-310, "1e-310"),
        (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        (1e15, "1000000000000000"),
        (1e300, "1e300"),
        (f64::MAX, "1.7976931348623157e308"),
    ] {
        assert_eq!((TaskExpr::task("A") * value).to_string(), format!("A@{text}"));
        assert_eq!(parse(&format!("A@{text} - A@{text}")), [(task("A"), value), (task("A"), -value)]);
    }
    assert_eq!((Number(f64::NAN).to_string(), Number(f64::INFINITY).to_string()), ("NaN".into(), "inf".into()));
}

proptest! {
    #[test]
    fn what_is_written_reads_back(terms in prop::collection::vec((".{1,8}", -1e3f64..1e3), 0..6)) {
        let expr = TaskExpr { terms: terms.into_iter().map(|(n, l)| (Target::Task(n), Scale::Whole(l))).collect() };
        prop_assert_eq!(expr.to_string().parse::<TaskExpr>().unwrap(), expr);
    }

    #[test]
    fn every_number_reads_back(value in proptest::num::f64::NORMAL | proptest::num::f64::SUBNORMAL) {
        let expr = TaskExpr::task("A") * value;
        prop_assert_eq!(expr.to_string().parse::<TaskExpr>().unwrap(), expr);
    }

    #[test]
    fn nothing_panics(text in ".{0,40}") {
        let _ = text.parse::<TaskExpr>();
    }
}

#[test]
fn groups_read_and_print() {
    for (text, printed) in [
        ("A@{attn: 0.4, mlp: .2, *: 3e-1}", "A@{attn: 0.4, mlp: 0.2, *: 0.3}"),
        ("- A @ { blocks.0-5 : 0.1 , blocks.6 : -0.5 }", "A@{blocks.0-5: -0.1, blocks.6: 0.5}"),
        (
            r#"A@{"visual.proj": 1, "visual.*.attn.*": 2, bias.attn.blocks.1-1: 3}"#,
            r#"A@{"visual.proj": 1, "visual.*.attn.*": 2, blocks.1.attn.bias: 3}"#,
        ),
        ("A@0.5 + merged@{*: 0} - B", "A@0.5 + merged@{*: 0} - B"),
        ("-all@{*: 0}", "all@{*: -0}"),
    ] {
        let expr: TaskExpr = text.parse().unwrap();
        assert_eq!(expr.to_string(), printed);
        assert_eq!(printed.parse::<TaskExpr>().unwrap(), expr);
    }
    let doubled = "A@{attn: 0.4, *: 0.25} + B@3".parse::<TaskExpr>().unwrap() * -2.0;
    assert_eq!(doubled.to_string(), "A@{attn: -0.8, *: -0.5} - B@6");
}

/// The selector that counts for each name, or the error.
fn chosen(groups: &str, names: &[&str]) -> Result<Vec<String>, String> {
    let expr: TaskExpr = format!("A@{{{groups}}}").parse().unwrap();
    let Scale::Groups(groups) = &expr.terms()[0].1 else { unreachable!() };
    let chosen = LambdaByGroup(groups).resolve(names).map_err(|error| error.to_string())?;
    Ok(chosen.into_iter().map(|i| groups[i].0.to_string()).collect())
}

const NAMES: [&str; 6] = [
    "visual.conv1.weight",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "visual.transformer.resblocks.0.attn.in_proj_bias",
    "visual.transformer.resblocks.1.mlp.c_fc.weight",
    "visual.transformer.resblocks.1.ln_1.bias",
    "visual.proj",
];

#[test]
fn the_more_specific_wins() {
    let all =
        r#"*: 0, attn: 1, blocks.0-1: 2, blocks.0.attn: 3, blocks.0.attn.bias: 4, "*.c_fc.*": 5, "visual.proj": 6"#;
    let want = ["*", "blocks.0.attn", "blocks.0.attn.bias", "\"*.c_fc.*\"", "blocks.0-1", "\"visual.proj\""];
    // The order that they are written in does not matter.
    let turned: Vec<&str> = all.split(", ").collect::<Vec<_>>().into_iter().rev().collect();
    for groups in [all.to_owned(), turned.join(", ")] {
        // `attn` is never the most specific here.
        assert_eq!(chosen(&groups, &NAMES).unwrap(), want, "{groups}");
    }
    let kinds = chosen("stem: 1, attn: 2, mlp: 3, norm: 4, proj: 5", &NAMES).unwrap();
    assert_eq!(kinds, ["stem", "attn", "attn", "mlp", "norm", "proj"]);
}

#[test]
fn what_groups_do_not_say_is_an_error() {
    for (groups, parts) in [
        ("attn: 1", &["no group has this parameter, nor do 3 others", "visual.conv1.weight", "`*: 0`"][..]),
        ("attn: 1, bias: 2, *: 0", &["`attn` and `bias` are equally specific", "attn.in_proj_bias", "1 and 2"]),
        ("blocks.0-1: 1, blocks.1: 2, *: 0", &["`blocks.0-1` and `blocks.1` are equally specific", "c_fc"]),
        ("blocks.2: 1, *: 0", &["`blocks.2` has no parameter", "blocks 0 to 1", "stem, attn, mlp, norm, proj"]),
        (r#""visual.prj": 1, *: 0"#, &["has no parameter", "Did you mean `\"visual.proj\"`?"]),
        (r#""text.*": 1, *: 0"#, &["`\"text.*\"` has no parameter", "visual.conv1.weight"]),
    ] {
        let error = chosen(groups, &NAMES).unwrap_err();
        for part in parts {
            assert!(error.contains(part), "{groups}: {error}");
        }
    }
    let error = chosen("attn: 1, *: 0", &["stages.0.conv.weight"]).unwrap_err();
    assert!(error.contains("No kinds or blocks are known"), "{error}");
    assert_eq!(chosen("\"stages.0.*\": 1", &["stages.0.conv.weight"]).unwrap().len(), 1);
}

#[test]
fn globs() {
    let fits = |pattern: &str, name| chosen(&format!("\"{pattern}\": 1, *: 0"), &[name]).is_ok_and(|all| all[0] != "*");
    for pattern in ["*", "a*", "*c", "a?c", "a*c", "??c", "***", "abc*", "*a*b*c*"] {
        assert!(fits(pattern, "abc"), "{pattern}");
    }
    for pattern in ["b*", "*b", "a?", "????", "*d*", "abcd*"] {
        assert!(!fits(pattern, "abc"), "{pattern}");
    }
    assert!(fits("*ab*ab", "abababab") && !fits("*aab", "aaba"));
}

fn selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        Just(Selector::rest()),
        proptest::sample::select(&Kind::ALL[..]).prop_map(Selector::kind),
        (0usize..20, 0usize..5).prop_map(|(first, more)| Selector::blocks(first..=first + more)),
        ".{1,6}".prop_map(Selector::of_names),
    ]
}

proptest! {
    #[test]
    fn groups_that_are_written_read_back(groups in prop::collection::vec((selector(), -1e3f64..1e3), 1..6)) {
        let mut unique: Vec<(Selector, f64)> = Vec::new();
        for (selector, lambda) in groups {
            if unique.iter().all(|(other, _)| *other != selector) {
                unique.push((selector, lambda));
            }
        }
        let expr = TaskExpr::grouped(task("A"), unique) - TaskExpr::task("B");
        prop_assert_eq!(expr.to_string().parse::<TaskExpr>().unwrap(), expr);
    }

    #[test]
    fn nothing_with_groups_panics(text in "A@\\{[a-z0-9.*\"?:, -]{0,30}\\}?") {
        let _ = text.parse::<TaskExpr>();
    }
}

#[test]
fn powers_of_elements_are_refused_with_the_reason() {
    for power in ["MNIST^2", "MNIST ** 2", "MNIST@0.5**3 + SVHN", "all^3", "\"A b\" ^ 0.5"] {
        let error = power.parse::<TaskExpr>().unwrap_err().to_string();
        assert!(error.contains("not linear in the basis vectors"), "{error}");
    }
    let error = "MNIST*2".parse::<TaskExpr>().unwrap_err().to_string();
    assert!(error.contains("`MNIST@0.5`") && !error.contains("linear"), "{error}");
}
