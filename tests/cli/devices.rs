//! `rankine devices`, as any build has it.

use serde_json::Value;

use super::{folder, rankine};

#[test]
fn devices_lists_the_processor_and_what_the_build_lacks() {
    let place = folder(&[]);
    let run = rankine(place.path(), &["devices"]);
    run.ends(0);
    for words in ["cpu", "kernels in", "memory", "holds weights in f32", "`device: auto` is"] {
        assert!(run.stdout.contains(words), "`{words}` is not in:\n{}", run.stdout);
    }
    let run = rankine(place.path(), &["devices", "cpu", "--self-test", "--json"]);
    run.ends(0);
    let listed: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let devices = listed["devices"].as_array().expect("a list");
    assert_eq!(devices.len(), 1);
    let cpu = &devices[0];
    assert_eq!((&cpu["device"], &cpu["kind"]), (&"cpu".into(), &"cpu".into()));
    assert!(cpu["cores"].as_u64().is_some_and(|cores| cores > 0), "{cpu}");
    assert!(cpu["instruction_sets"].as_array().is_some_and(|sets| sets.contains(&"portable".into())), "{cpu}");
    assert!(cpu["self_test"].is_null(), "the CPU is what others are held against: {cpu}");
    let built = |name: &str| match name {
        "cuda" => cfg!(feature = "cuda"),
        "rocm" => cfg!(feature = "rocm"),
        "vulkan" => cfg!(feature = "vulkan"),
        "metal" => cfg!(feature = "metal"),
        _ => cfg!(feature = "wgpu"),
    };
    for name in ["cuda", "rocm", "vulkan", "metal", "wgpu"] {
        let missing = listed["not_in_this_build"].as_array().expect("a list").contains(&name.into());
        assert_eq!(missing, !built(name), "{name}");
        if missing {
            let run = rankine(place.path(), &["devices", name]);
            run.ends(2).says(&format!("this build has no {name} backend")).says(&format!("--features {name}"));
        }
    }
    rankine(place.path(), &["devices", "gpu"]).ends(2).says("`gpu` is no device");
}
