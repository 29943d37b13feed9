//! What an operator reads with `df cache`: versions taken out, by name or as the newest, under trust or without; the bucket verified, and collected.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use df_core::attestation::{Statement, Subject};
use df_core::{Digest, Timestamp};
use df_testkit::s3::{Act, Server};

use super::desk::{ATTESTATIONS, CHANNEL, Desk, OTHER, PREFIX, Reads, Stage, put_document};
use super::forge::{Keeping, Slot, seal, show_head, zeros};

/// How many behaviours are tried at a time.
const AT_ONCE: usize = 3;
/// What is done to a reader, how the command ends and what it says.
pub struct Behaviour {
    pub name: &'static str,
    reads: Reads,
    exit: i32,
    said: &'static str,
    act: fn(&Desk<'_>),
}

/// A behaviour of the connection, or of the objects behind it.
const fn version(name: &'static str, said: &'static str, act: fn(&Desk<'_>)) -> Behaviour {
    Behaviour { name, reads: Reads::Version, exit: 1, said, act }
}

/// What is not believed.
const fn distrusted(reads: Reads, name: &'static str, said: &'static str, act: fn(&Desk<'_>)) -> Behaviour {
    Behaviour { name, reads, exit: 10, said, act }
}

pub const BEHAVIOURS: &[Behaviour] = &[
    version("a flipped byte", "damaged", |it| it.packs(Act::Flip { at: 10 })),
    version("an object cut short, well formed", "damaged", |it| it.packs(Act::Truncate { to: 10 })),
    version("a length beyond what comes", "damaged", |it| it.packs(Act::LongLength { by: 10 })),
    version("a body without an end", "head", |it| it.head(Act::Endless)),
    version("one byte now and then", "in time", |it| it.packs(Act::Drip { every: Duration::from_millis(5) })).exit(9),
    version("silence", "in time", |it| it.head(Act::Hold)).exit(9),
    version("a reset in the middle, each time", "app", |it| it.packs(Act::CutAnswer { after: 10 })).exit(9),
    version("no answer but the end", "head", |it| it.head(Act::Drop)).exit(9),
    version("too busy for ever", "SlowDown", |it| it.head(Act::SlowDown)).exit(9),
    version("a redirect to where a cloud keeps secrets", "never followed", |it| {
        it.head(Act::Redirect { to: "http://169.254.169.254/latest/meta-data".into() });
    }),
    version("a redirect to a service of this machine", "never followed", |it| it.head(Act::Redirect { to: it.stage.trap() })),
    version("an error's text in the place of an answer", "head", |it| it.head(Act::ErrorWith200)),
    version("nothing there, not in the words of a bucket", "nonsense", |it| it.head(refusal(404, "NotFound"))),
    version("nothing there", "head of the cache is gone", |it| it.head(refusal(404, "NoSuchKey"))),
    version("access denied", "refused access", |it| it.packs(refusal(403, "AccessDenied"))),
    version("the whole instead of a part", "damaged", |it| it.packs(Act::IgnoreRange)),
    version("another part, by its name", "damaged", |it| it.packs(Act::WrongRange { by: 7 })),
    version("another part, under the name of this one", "damaged", |it| it.packs(Act::WrongBytes { by: 7 })),
    version("no such range", "damaged", |it| it.packs(refusal(416, "InvalidRange"))),
    version("a state of kilobytes", "ETag", |it| it.head(Act::Etag("x".repeat(5000)))),
    version("a header without an end", "head", |it| it.head(raw("HTTP/1.1 200 OK\r\nX: ", b"aaaa"))).exit(9),
    version("headers without an end", "head", |it| it.head(raw("HTTP/1.1 200 OK\r\n", b"X: y\r\n"))).exit(9),
    version("interim answers without an end", "head", |it| it.head(raw("", b"HTTP/1.1 100 Continue\r\n\r\n"))).exit(9),
    version("a body in chunks of nonsense", "head", |it| {
        it.head(raw("HTTP/1.1 200 OK\r\nETag: \"x\"\r\nTransfer-Encoding: chunked\r\n\r\n", b"ffffffffffffffff\r\nx\r\n-1\r\n"));
    }),
    version("another protocol", "head", |it| it.head(raw("SSH-2.0-OpenSSH_9.6\r\n\r\n", b""))).exit(9),
    version("the objects of other images", "damaged", |it| {
        let packs = it.keys("p/");
        packs.iter().zip(packs.iter().rev()).for_each(|(key, with)| it.fault(key, Act::Swap { with: with.clone() }));
    }),
    // It brings its own tables along: they name nothing of this one's.
    version("the head of another cache", "no version", |it| {
        show_head(&it.server, PREFIX, it.server.read(&format!("{OTHER}/head")).expect("another head"));
    })
    .exit(2),
    version("a head that says that it keeps billions", "ends too early", |it| it.keep(|head| head.n_kept = u32::MAX)),
    version("a head with a table that does not end", "ends too early", |it| it.keep(|head| head.kept[0].0 = u32::MAX)),
    version("a head with another table than it names", "does not name once", |it| it.keep(|head| head.kept[0].1[20] ^= 1)),
    version("a head with a shorter table than it names", "does not name once", |it| it.keep(Keeping::lengthen)),
    version("a head that names over and over what it keeps", "does not name once", |it| {
        it.keep(|head| head.references[1] = vec![head.references[1][0].clone(); 400]);
    }),
    version("a head that keeps more than it may", "keeps too much", |it| {
        it.keep(|head| (1..4).for_each(|n| head.keep(vec![n; 9 << 10])));
    }),
    version("a head with a table of kilobytes that unpacks to gigabytes", "more than", |it| {
        it.keep_forged(|forged| forged.put_table_bytes(&seal(b"dft\x01", 1, 1 << 30, &zeros(2500))), |_| {});
    }),
    version("an index that leads beyond its packs", "not in order", |it| it.index(|slot| slot.offset += 1 << 30)),
    version("an index whose places overlap", "damaged", |it| it.index(|slot| slot.offset = 4)),
    version("an index that counts billions", "ends too early", |it| {
        it.forge(|forged| forged.put_index_bytes(&seal(b"dfi\x02", 0, 4, &u32::MAX.to_le_bytes())));
    }),
    version("an index of kilobytes that unpacks to gigabytes", "more than", |it| {
        it.forge(|forged| forged.put_index_bytes(&seal(b"dfi\x02", 1, 1 << 30, &zeros(8192))));
    }),
    version("a table with manifests of terabytes", "too long", |it| {
        it.forge(|forged| {
            let mut table = forged.table();
            table.images.iter_mut().for_each(|row| row[40..48].copy_from_slice(&(1_u64 << 40).to_le_bytes()));
            forged.put_table(&table);
        });
    }),
    version("a table that names things twice", "not in order", |it| {
        it.forge(|forged| {
            let mut table = forged.table();
            table.images = table.images.iter().flat_map(|row| [row.clone(), row.clone()]).collect();
            forged.put_table(&table);
        });
    }),
    version("the manifest of another image", "damaged", |it| {
        let [old, new] = &it.stage.releases;
        it.forge(|forged| {
            let (packs, mut slots) = forged.index();
            let other = slots.iter().find(|slot| slot.digest == old.image.0).expect("its manifest").clone();
            let own = slots.iter_mut().find(|slot| slot.digest == new.image.0).expect("its manifest");
            *own = Slot { digest: own.digest, ..other };
            forged.put_index(&packs, &slots);
        });
    }),
    version("an image with a path that leads out", "damaged", |it| it.image(&[b"../../out"])),
    version("an image with a path from the root", "damaged", |it| it.image(&[b"/tmp/out"])),
    version("an image with a path that is there twice", "damaged", |it| it.image(&[b"a", b"a"])),
    version("kilobytes that unpack to gigabytes", "damaged", |it| {
        it.forge(|forged| {
            let frame = zeros(8192);
            let pack = forged.put('p', &[b"dfp\x02", &frame[..]].concat());
            let (mut packs, mut slots) = forged.index();
            let big = slots.iter_mut().filter(|slot| slot.len > 100_000);
            big.for_each(|slot| {
                (slot.pack, slot.offset, slot.stored, slot.codec) = (packs.len() as u32, 4, frame.len() as u32, 1)
            });
            packs.push(pack);
            forged.put_index(&packs, &slots);
        });
    }),
    version("files that are changes of each other", "damaged", |it| {
        it.forge(|forged| {
            let (packs, mut slots) = forged.index();
            let mut big: Vec<&mut Slot> = slots.iter_mut().filter(|slot| slot.len > 100_000).collect();
            let digests: Vec<Digest> = big.iter().map(|slot| slot.digest).collect();
            for (slot, other) in big.iter_mut().zip(digests.iter().rev()) {
                (slot.codec, slot.stored, slot.prefix) = (2, 1000, Some(*other));
            }
            forged.put_index(&packs, &slots);
        });
    }),
    distrusted(Reads::Attested, "a release without its attestations", "has none", |it| {
        it.documents(|forged, new| {
            let mut table = forged.table();
            table.row(new).documents.clear();
            forged.put_table(&table);
        });
    }),
    distrusted(Reads::Attested, "a release attested by a stranger", "is not trusted", |it| {
        it.documents(|forged, new| {
            let bundle = it.stage.vouch(&Statement::release(&Subject::of(new)), "stranger");
            put_document(forged, new, ATTESTATIONS, &bundle.encode());
        });
    }),
    distrusted(Reads::Attested, "the attestations of another release", "about something else", |it| {
        it.documents(|forged, new| {
            let bundle = it.stage.vouch(&Statement::release(&Subject::of(&it.stage.releases[0])), "key");
            put_document(forged, new, ATTESTATIONS, &bundle.encode());
        });
    }),
    distrusted(Reads::Attested, "attestations that are none", "has none", |it| {
        it.documents(|forged, new| put_document(forged, new, ATTESTATIONS, &b"[".repeat(100_000)));
    }),
    distrusted(Reads::Attested, "a release that runs another program", "about something else", |it| {
        it.release(|release| release.run.as_mut().expect("it runs").args = vec!["--harm".into()]);
    }),
    distrusted(Reads::Attested, "a release of another image", "about something else", |it| {
        let image = it.stage.releases[0].image;
        it.release(|release| release.image = image);
    }),
    distrusted(Reads::Newest, "the cache as it was before", "somebody shows an old one", |it| {
        show_head(&it.server, PREFIX, it.stage.old_head.clone());
    }),
    distrusted(Reads::Newest, "a pointer to the newest that has expired", "it was good until", |it| {
        it.pointer(|channel| channel.expires = Timestamp(1), "key");
    }),
    distrusted(Reads::Newest, "a pointer to the newest by a stranger", "is not attested", |it| {
        it.pointer(|channel| channel.sequence = u64::MAX, "stranger");
    }),
    distrusted(Reads::Newest, "a pointer to another release", "about another release", |it| {
        let other = it.stage.releases[0].id();
        it.pointer(|channel| channel.release = other, "key");
    }),
    distrusted(Reads::Newest, "no pointer to the newest", "nobody says so", |it| {
        it.documents(|forged, new| {
            let mut table = forged.table();
            table.row(new).documents.retain(|document| document[0] != CHANNEL);
            forged.put_table(&table);
        });
    }),
    Behaviour {
        name: "packs that end otherwise",
        reads: Reads::Verify,
        exit: 8,
        said: "pack",
        act: |it| {
            for key in it.keys("p/") {
                let mut pack = it.server.read(&key).expect("a pack");
                let at = pack.len() - 48;
                pack[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
                it.fault(&key, Act::Holds(pack));
            }
        },
    },
    Behaviour {
        name: "a gap in the log",
        reads: Reads::Verify,
        exit: 8,
        said: "it is gone",
        act: |it| it.fault(it.keys("log/0").last().expect("a record"), refusal(404, "NoSuchKey")),
    },
    Behaviour {
        name: "the record of another commit",
        reads: Reads::Verify,
        exit: 8,
        said: "of another commit",
        act: |it| {
            let records = it.keys("log/0");
            let first = it.server.read(&records[0]).expect("a record");
            it.fault(records.last().expect("a record"), Act::Holds(first));
        },
    },
    Behaviour {
        name: "a list without an end",
        reads: Reads::Collect,
        exit: 1,
        said: "nonsense",
        act: |it| it.lists(Act::EndlessList),
    },
    Behaviour {
        name: "a list that names everything twice",
        reads: Reads::Collect,
        exit: 1,
        said: "not in order",
        act: |it| it.lists(Act::DoubleList),
    },
    Behaviour {
        name: "a list with names of others, which are left alone",
        reads: Reads::Collect,
        exit: 0,
        said: "",
        act: |it| {
            it.lists(Act::AddToList { keys: ["app/~/../../etc/passwd", "other/canary"].map(str::to_owned).into() });
        },
    },
];

impl Behaviour {
    const fn exit(mut self, exit: i32) -> Self {
        self.exit = exit;
        self
    }
}

#[test]
fn an_operator_takes_nothing_from_a_malicious_bucket() {
    let stage = Stage::new();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let mut desk = Desk { stage: &stage, server: Server::start(), dir: PathBuf::new() };
                desk.server.restore(&stage.objects);
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(behaviour) = BEHAVIOURS.get(n) else { return };
                    desk.dir = stage.world.path(&format!("case-{n}"));
                    check(&desk, behaviour);
                }
            });
        }
    });
    assert!(stage.trap.accept().is_err(), "somebody was sent there");
}

fn check(desk: &Desk<'_>, behaviour: &Behaviour) {
    let Behaviour { name, reads, exit, said, act } = *behaviour;
    fs::create_dir(&desk.dir).expect("made");
    let is_got = |run: &str| desk.dir.join(format!("out-{run}")).join("run").is_file();
    let control = desk.read(reads, "good", "60s").expect_code(0);
    assert!(!matches!(reads, Reads::Version | Reads::Attested | Reads::Newest) || is_got("good"), "{name}: {control}");

    desk.server.restore(&desk.stage.objects);
    act(desk);
    let (before, deleted) = (desk.server.struck(), desk.server.counts().delete);
    let refused = desk.read(reads, "bad", "10s");
    assert!(desk.server.struck() > before, "{name}: it struck");
    assert!(refused.code == Some(exit) && format!("{}{}", refused.stdout, refused.stderr).contains(said), "{name}: {refused}");
    assert!(exit == 0 || desk.server.counts().delete == deleted, "{name}: something was removed");
    assert_eq!(desk.server.read("other/canary").as_deref(), Some(&b"somebody's"[..]), "{name}");
    let left: Vec<String> =
        fs::read_dir(&desk.dir).expect("listed").map(|entry| entry.expect("read").file_name().to_string_lossy().into()).collect();
    assert!(!left.iter().any(|it| it.contains("out-bad")), "{name}: {left:?}");
    assert!(!desk.stage.world.path("ran").exists(), "{name}: it ran");
    desk.server.clear_faults();
    desk.server.restore(&desk.stage.objects);
    desk.server.forget();
}

fn refusal(status: u16, code: &'static str) -> Act {
    Act::Refuse { status, code }
}

fn raw(first: &str, then: &[u8]) -> Act {
    Act::Raw { first: first.as_bytes().to_vec(), then: then.to_vec() }
}
