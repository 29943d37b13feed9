//! The model beside what was measured.

use df_core::{Digest, ImageId};

use super::*;
use crate::choice::{Line, Link, Offer, Queue, choose};

/// A pair of versions: its name; bytes that changed, in large programs, in others, in long data; the image's bytes and those of it whole at the fast level;
/// seconds that packing it whole took; bytes of the delta at the levels fast and small; seconds that making it took, and applying it.
type Row = (&'static str, [u64; 4], [u64; 2], f64, [u64; 2], [f64; 2], [f64; 2]);

/// `benches/results/delta.json` of 22 November 2026, one core of a busy machine; the kinds are those of the pairs' files.
#[rustfmt::skip]
const ROWS: [Row; 20] = [
    ("clang-format", [3749117, 0, 3742888, 0], [3793146, 1570092], 0.282, [522, 501], [0.0820, 0.485], [0.0287, 0.061]),
    ("cryptography", [10494124, 0, 10478000, 0], [10966684, 3412800], 0.734, [40723, 28349], [0.2871, 4.181], [0.0680, 0.817]),
    ("django", [3493137, 0, 0, 0], [22916473, 3530938], 1.214, [61633, 48996], [0.1542, 6.546], [0.0254, 0.916]),
    ("esbuild", [9709256, 0, 9707520, 0], [9709397, 3775939], 0.876, [63221, 36110], [0.2440, 3.460], [0.0561, 0.774]),
    ("eslint", [506887, 0, 0, 0], [10718307, 1500658], 0.404, [3782, 3204], [0.0381, 1.083], [0.0083, 0.229]),
    ("hexyl-line-stripped", [909040, 0, 909040, 0], [909040, 392929], 0.027, [976, 872], [0.0231, 0.146], [0.0098, 0.036]),
    ("hexyl-line-unstripped", [1077640, 0, 1077640, 0], [1077640, 425813], 0.033, [1435, 1363], [0.0289, 0.190], [0.0104, 0.043]),
    ("hexyl-rel-stripped", [908816, 0, 908816, 0], [908816, 392623], 0.025, [16117, 11541], [0.0437, 0.939], [0.0110, 0.309]),
    ("hexyl-rel-unstripped", [1077280, 0, 1077280, 0], [1077280, 425363], 0.036, [22720, 16264], [0.0539, 1.169], [0.0119, 0.356]),
    ("lxml", [9498523, 0, 8390544, 0], [11287552, 3438527], 0.565, [142041, 84259], [0.3456, 7.233], [0.0838, 1.677]),
    ("numpy", [11251149, 0, 9191241, 0], [64655153, 11443121], 3.738, [9256, 8933], [0.2297, 1.911], [0.0868, 0.303]),
    ("orjson", [313270, 0, 0, 0], [326623, 134748], 0.023, [24694, 18832], [0.0400, 3.461], [0.0065, 0.313]),
    ("pillow", [12404610, 0, 10212398, 0], [14400661, 3977411], 0.766, [138920, 100999], [0.4329, 7.359], [0.0949, 1.582]),
    ("prettier", [7688543, 0, 0, 0], [7704609, 971817], 0.287, [152025, 93563], [0.3995, 14.025], [0.0204, 1.839]),
    ("rg-line-stripped", [4835144, 0, 4835144, 0], [4835144, 1574033], 0.296, [11077, 9076], [0.1362, 1.223], [0.0342, 0.188]),
    ("rg-line-unstripped", [27305344, 27305344, 0, 0], [27305344, 5963573], 1.695, [53278, 40011], [1.2835, 7.070], [0.3554, 1.272]),
    ("rg-rel-stripped", [4836008, 0, 4836008, 0], [4836008, 1572285], 0.230, [134104, 99114], [0.2342, 4.339], [0.0444, 1.015]),
    ("rg-rel-unstripped", [27304528, 27304528, 0, 0], [27304528, 5959466], 1.477, [1254642, 1052672], [3.5082, 29.847], [0.4161, 2.712]),
    ("ruff", [28553768, 28528088, 0, 0], [28623758, 7931581], 2.359, [1440110, 1179577], [1.6414, 35.116], [0.1878, 2.802]),
    ("typescript", [14949813, 0, 0, 14905311], [21871598, 2170340], 0.975, [2906, 2021], [0.2233, 3.040], [0.0293, 0.286]),
];

fn work(row: &Row) -> Work {
    let [changed, large_programs, programs, data] = row.1;
    Work { changed, large_programs, programs, data, fresh: 0, largest: changed, expected: changed / 8 }
}

const BASE: Way = Way::Patch(ImageId(Digest::from_bytes([1; 32])));

/// How many times as long as the model says something took, and how many times shorter, at most.
#[track_caller]
fn check(is: &str, of_row: impl Fn(&Row) -> (f64, f64), longer: f64, shorter: f64) {
    for row in &ROWS {
        let (model, measured) = of_row(row);
        let off = measured / model;
        assert!(off <= longer && off >= 1.0 / shorter, "{is} of {}: {model:.3} s by the model, {measured:.3} s measured", row.0);
    }
}

#[test]
fn every_measured_pair_is_within_a_stated_factor_of_the_model() {
    let speed = Speed::usual(1);
    let encode = |level: Level| move |row: &Row| (speed.encode(&work(row), level), row.5[index(level)]);
    let apply = |level: Level| move |row: &Row| (speed.apply(BASE, level, &work(row), row.4[index(level)]), row.6[index(level)]);
    let whole = |row: &Row| (speed.encode(&Work::whole(row.2[0], row.2[0]), Level::Fast), row.3);
    // Which of two programs of one length changed in a line and which everywhere cannot be known.
    check("making the fast delta", encode(Level::Fast), 1.6, 2.4);
    check("applying the fast delta", apply(Level::Fast), 1.6, 2.2);
    check("packing the whole image", whole, 2.0, 2.0);
    check("making the small delta", encode(Level::Small), 5.0, 10.0);
    check("applying the small delta", apply(Level::Small), 2.6, 4.0);
}

#[test]
fn no_measured_pair_would_have_been_there_sooner_whole_at_any_rate() {
    let speed = Speed::usual(1);
    for row in &ROWS {
        let fast = Offer::cold(BASE, Level::Fast, &work(row), &speed);
        let whole = Offer::cold(Way::Whole, Level::Fast, &Work::whole(row.2[0], row.2[0]), &speed);
        for mbit in [1.0, 10.0, 100.0, 300.0, 1_000.0, 10_000.0] {
            let line = Line::from(Link { bytes_per_second: mbit * 125e3, ..Link::UNMEASURED });
            let took = |offer: &Offer| match offer.way {
                Way::Whole => row.3 + line.seconds(row.2[1]).max(row.2[0] as f64 / 250e6),
                _ => row.5[0] + line.seconds(row.4[0]).max(row.6[0]),
            };
            let offers = [fast, whole];
            let (chosen, _) = choose(&offers, &line, &Queue::default(), 0.0).expect("two offers");
            let (took, took_whole) = (took(chosen), took(&whole));
            let said = format!("{} at {mbit} Mbit/s: {took:.2} s by {:?}, {took_whole:.2} s whole", row.0, chosen.way.codec());
            assert!(took <= took_whole * 1.2 + 0.02, "{said}");
        }
    }
}
