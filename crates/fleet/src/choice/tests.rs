use df_core::Digest;
use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn image(name: &str) -> ImageId {
    ImageId(Digest::of(name.as_bytes()))
}

fn mbit(rate: f64, round_trip: f64) -> Line {
    link(rate * 1e6 / 8.0, round_trip).into()
}

fn link(bytes_per_second: f64, round_trip: f64) -> Link {
    Link { bytes_per_second, round_trip, together: bytes_per_second }
}

fn speed() -> Speed {
    Speed::usual(2)
}

/// A program of so many MiB that was changed, and all there is.
fn program(len: u64) -> Work {
    Work { changed: len * MIB, largest: len * MIB, expected: len * MIB / 8, ..Work::default() }
}

fn cold(base: &str, len: u64) -> Vec<Offer> {
    let patch = |level| Offer::cold(Way::Patch(image(base)), level, &program(len), &speed());
    let whole = |level| Offer::cold(Way::Whole, level, &Work::whole(len * MIB, len * MIB), &speed());
    vec![patch(Level::Fast), patch(Level::Small), whole(Level::Fast), whole(Level::Small)]
}

/// How a program of 8 MiB gets over a line: the way, the level, and whether it was made before.
#[track_caller]
fn check(offers: &[Offer], line: Line, expected: &str) {
    let (offer, _) = choose(offers, &line, &Queue::default(), 0.0).expect("there are offers");
    let way = match offer.way {
        Way::Held => "held",
        Way::Patch(_) => "patch",
        Way::Rsync(_) => "rsync",
        Way::Whole => "whole",
    };
    assert_eq!(format!("{way} {:?}{}", offer.level, if offer.is_made { " made" } else { "" }), expected);
}

#[test]
fn the_delta_is_taken_until_a_line_brings_a_whole_image_that_is_made_in_less_time_than_the_delta_takes_to_make() {
    let whole = Offer::made(Way::Whole, Level::Fast, &Work::whole(8 * MIB, 8 * MIB), 3 * MIB, &speed());
    let offers = [&cold("v1", 8)[..], &[whole]].concat();
    // Making it takes as long as what it saves takes at some 60 Mbit/s.
    for rate in [1.0, 10.0, 40.0] {
        check(&offers, mbit(rate, 0.02), "patch Fast");
    }
    for rate in [100.0, 1_000.0, 10_000.0] {
        check(&offers, mbit(rate, 0.0002), "whole Fast made");
    }
    let made = [Offer::made(Way::Patch(image("v1")), Level::Fast, &program(8), 9_000, &speed())];
    check(&[&offers[..], &made[..]].concat(), mbit(300.0, 0.0002), "patch Fast made");
}

#[test]
fn squeezing_harder_pays_when_the_line_is_slower_than_the_squeezing() {
    let whole = |level| Offer::cold(Way::Whole, level, &Work::whole(100 * MIB, 2 * MIB), &speed());
    check(&[whole(Level::Fast), whole(Level::Small)], mbit(0.2, 0.02), "whole Small");
    check(&[whole(Level::Fast), whole(Level::Small)], mbit(10.0, 0.02), "whole Fast");
}

#[test]
fn a_small_delta_that_is_made_is_taken_where_the_line_is_slower_than_its_unpacking() {
    let made = |level, bytes| Offer::made(Way::Patch(image("v1")), level, &program(8), bytes, &speed());
    let offers = [made(Level::Fast, 140_000), made(Level::Small, 100_000)];
    check(&offers, mbit(0.3, 0.02), "patch Small made");
    for rate in [10.0, 100.0, 1_000.0] {
        check(&offers, mbit(rate, 0.02), "patch Fast made");
    }
}

#[test]
fn a_base_that_is_only_there_is_worth_its_signature_on_a_slow_line() {
    let offers = |line: Line| {
        let rsync = Offer::by_signature(image("v1"), Level::Fast, 80 * MIB, &line, &speed());
        [rsync, Offer::cold(Way::Whole, Level::Fast, &Work::whole(80 * MIB, MIB), &speed())]
    };
    check(&offers(mbit(10.0, 0.02)), mbit(10.0, 0.02), "rsync Fast");
    check(&offers(mbit(10_000.0, 0.02)), mbit(10_000.0, 0.02), "whole Fast");
}

#[test]
fn the_second_node_gets_for_nothing_what_was_made_for_the_first() {
    let (mut queue, line) = (Queue::default(), mbit(100.0, 0.02));
    let (first, second) = (cold("v1", 50), cold("v2", 40));
    let (offer, alone) = choose(&first, &line, &queue, 0.0).expect("an offer");
    assert_eq!(offer.way, Way::Patch(image("v1")));
    queue.take(offer, 0.0);
    // The other base is a little nearer, but its delta would have to be made.
    let both = [&second[..1], &first[..1]].concat();
    let (offer, seconds) = choose(&both, &line, &queue, 0.0).expect("an offer");
    assert_eq!(offer.way, Way::Patch(image("v1")));
    assert!(seconds <= alone);
    let later = queue.seconds(&first[0], &line, 100.0);
    assert!(later < 0.5, "it is long made: {later}");
}

#[test]
fn ten_segments_leave_at_once_and_a_long_line_needs_rounds() {
    let line = mbit(1_000.0, 0.1);
    assert!(line.seconds(1_000) < 0.11);
    let tenth = line.seconds(1_000_000);
    assert!((0.4..1.0).contains(&tenth), "{tenth}");
}

#[test]
fn a_line_is_measured_when_enough_went_over_it_to_tell() {
    let shown = |bytes: u64, seconds: f64| {
        let mut meter = Meter::default();
        meter.add(64 << 10, Duration::ZERO);
        meter.add(bytes, Duration::from_secs_f64(seconds));
        meter.link(Some(Duration::from_millis(7)), &Link::UNMEASURED)
    };
    assert_eq!(Meter::default().link(None, &Link::UNMEASURED), None);
    assert_eq!(shown(MIB, 0.01), None, "it lies in a buffer");
    assert_eq!(shown(MIB, 8.0), Some(link(65_536.0, 0.007)), "half of it may lie in a buffer");
    assert_eq!(shown(104 * MIB, 1.0).map(|link| link.bytes_per_second), Some((100 * MIB) as f64));
}

#[test]
fn two_hundred_nodes_of_one_base_take_its_delta_where_one_alone_takes_the_whole_image() {
    let whole = Offer::made(Way::Whole, Level::Fast, &Work::whole(8 * MIB, 8 * MIB), 3 * MIB, &speed());
    let offers = [&cold("v1", 8)[..], &[whole]].concat();
    let uplink = 125e6;
    let beside = |n: usize| Line::beside(link(uplink, 0.0002), &vec![uplink; n - 1], uplink);
    check(&offers, beside(1), "whole Fast made");
    check(&offers, beside(200), "patch Fast");
    // Those whose own lines are slow leave the uplink to the others.
    check(&offers, Line::beside(link(uplink, 0.0002), &[1e4; 199], uplink), "whole Fast made");
}

#[test]
fn a_crowd_is_those_that_hold_one_base_and_are_served_at_once() {
    let node = |n: usize| format!("web{n}").parse::<crate::Address>().expect("an address");
    let line = link(1e6, 0.02);
    let mut crowd = Crowd::new(1e6, 3);
    let rate = |crowd: &Crowd| crowd.line(&node(1), line).bytes_per_second().round();
    assert_eq!(rate(&crowd), 1e6, "nobody knows it yet");
    (1..=2).for_each(|n| crowd.join(&node(n), &[image("v1"), image("v0")], line));
    assert_eq!(rate(&crowd), 5e5);
    crowd.join(&node(3), &[image("another")], line);
    assert_eq!(rate(&crowd), 5e5, "it shares nothing with them");
    (4..=9).for_each(|n| crowd.join(&node(n), &[image("v1")], line));
    assert_eq!(rate(&crowd), 333_333.0, "no more are served at once");
    (4..=9).for_each(|n| crowd.leave(&node(n)));
    crowd.join(&node(2), &[image("another")], line);
    assert_eq!(rate(&crowd), 1e6, "it holds something else than was thought");
}

proptest! {
    /// What the model promises: nobody waits longer than if all nodes had been sent the whole image.
    #[test]
    fn no_node_is_served_later_than_by_the_whole_image(
        len in 1u64..2_000_000_000,
        changed in 0.0f64..1.0,
        largest in 0.0f64..1.0,
        cores in 1usize..64,
        whole_is_made in any::<bool>(),
        nodes in proptest::collection::vec((6.0f64..10.0, 0.0f64..0.3, 0usize..4, any::<bool>(), 0.0f64..1.2), 1..40),
    ) {
        let speed = Speed::usual(cores);
        let largest = (len as f64 * largest) as u64;
        let whole_work = Work::whole(len, largest);
        let whole = if whole_is_made {
            Offer::made(Way::Whole, Level::Fast, &whole_work, len / 3, &speed)
        } else {
            Offer::cold(Way::Whole, Level::Fast, &whole_work, &speed)
        };
        let (mut queue, none) = (Queue::default(), Queue::default());
        for (rate, round_trip, base, is_made, ratio) in nodes {
            let line = link(10f64.powf(rate) / 8.0, round_trip).into();
            let changed = (len as f64 * changed) as u64;
            let work = Work { changed, fresh: (len - changed) / 2, largest: largest.min(changed), expected: len - changed, ..Work::default() };
            let way = Way::Patch(image(&base.to_string()));
            let mut offers = vec![whole, Offer::by_signature(image("r"), Level::Fast, len, &line, &speed)];
            offers.push(match is_made {
                true => Offer::made(way, Level::Small, &work, (len as f64 * ratio) as u64, &speed),
                false => Offer::cold(way, Level::Fast, &work, &speed),
            });
            let (offer, seconds) = choose(&offers, &line, &queue, 0.0).expect("an offer");
            queue.take(offer, 0.0);
            prop_assert!(seconds <= none.seconds(&whole, &line, 0.0) + ALIKE, "{seconds} s for {offer:?}");
        }
    }

    /// More nodes on one uplink make a delta that is no longer than the image no less likely, once the line is what a whole copy waits for.
    #[test]
    fn a_delta_is_no_less_likely_for_more_nodes_on_one_uplink(
        len in 1u64..2_000_000_000,
        changed in 0.0f64..1.0,
        made in (any::<bool>(), any::<bool>(), 0.0f64..1.0),
        rate in (4.0f64..9.5, 4.0f64..9.5, 0.0f64..0.3),
        others in proptest::collection::vec(4.0f64..9.5, 0..40),
        more in proptest::collection::vec(4.0f64..9.5, 1..40),
    ) {
        let (speed, changed) = (Speed::usual(2), (len as f64 * changed) as u64);
        let work = Work { changed, large_programs: changed / 2, largest: changed, expected: changed / 8, ..Work::default() };
        let whole_work = Work::whole(len, len);
        let whole = match made.0 {
            true => Offer::made(Way::Whole, Level::Fast, &whole_work, len / 3, &speed),
            false => Offer::cold(Way::Whole, Level::Fast, &whole_work, &speed),
        };
        let patch = match made.1 {
            true => Offer::made(Way::Patch(image("v1")), Level::Fast, &work, (whole.bytes as f64 * made.2) as u64, &speed),
            false => Offer::cold(Way::Patch(image("v1")), Level::Fast, &work, &speed),
        };
        let patch = Offer { bytes: patch.bytes.min(whole.bytes), ..patch };
        let (link, uplink) = (link(10f64.powf(rate.0), rate.2), 10f64.powf(rate.1));
        let rates = |all: &[f64]| all.iter().map(|rate| 10f64.powf(*rate)).collect::<Vec<_>>();
        let few = Line::beside(link, &rates(&others), uplink);
        let many = Line::beside(link, &rates(&[&others[..], &more[..]].concat()), uplink);
        prop_assert!(many.bytes_per_second() <= few.bytes_per_second());
        let (offers, queue) = ([whole, patch], Queue::default());
        let way = |line: &Line| choose(&offers, line, &queue, 0.0).expect("two offers").0.way;
        if few.seconds(whole.bytes) >= whole.apply && way(&few) == patch.way {
            prop_assert_eq!(way(&many), patch.way);
        }
    }

    /// What the model promises where an uplink is shared: the slowest of those who are served at once is served no later than if all had been sent the
    /// whole image.
    #[test]
    fn the_slowest_node_of_a_shared_uplink_is_served_no_later_than_by_the_whole_image(
        len in 1u64..2_000_000_000,
        uplink in 5.0f64..9.5,
        cores in 1usize..64,
        nodes in proptest::collection::vec((4.0f64..9.5, 0.0f64..0.3, 0usize..3), 1..60),
    ) {
        let (speed, uplink) = (Speed::usual(cores), 10f64.powf(uplink));
        let work = Work { changed: len, large_programs: len / 2, largest: len / 2, expected: len / 8, ..Work::default() };
        let whole = Offer::cold(Way::Whole, Level::Fast, &Work::whole(len, len / 2), &speed);
        let mut crowd = Crowd::new(uplink, nodes.len());
        let name = |n: usize| format!("web{n}").parse::<crate::Address>().expect("an address");
        let base = |n: usize| image(&n.to_string());
        let link_of = |(rate, round_trip, _): &(f64, f64, usize)| link(10f64.powf(*rate), *round_trip);
        nodes.iter().enumerate().for_each(|(n, node)| crowd.join(&name(n), &[base(node.2)], link_of(node)));
        let (mut queue, none) = (Queue::default(), Queue::default());
        let (mut slowest, mut slowest_whole) = (0.0f64, 0.0f64);
        for (n, node) in nodes.iter().enumerate() {
            let line = crowd.line(&name(n), link_of(node));
            let offers = [whole, Offer::cold(Way::Patch(base(node.2)), Level::Fast, &work, &speed)];
            let (offer, seconds) = choose(&offers, &line, &queue, 0.0).expect("two offers");
            queue.take(offer, 0.0);
            (slowest, slowest_whole) = (slowest.max(seconds), slowest_whole.max(none.seconds(&whole, &line, 0.0)));
        }
        prop_assert!(slowest <= slowest_whole + ALIKE, "{slowest} s, whole {slowest_whole} s");
    }
}
